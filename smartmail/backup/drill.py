"""The restore drill: bring back from the drill's repository what the manifests name, and prove it.

A drill goes as a disaster would: nothing but the repository and its key is used, so restic gets an empty cache. What
the manifests name is restored, and some whole mailboxes; files are proved by their hashes, mailboxes are opened and
counted, dumps are loaded. Everything lies in `scratch` of the state folder (0700) and is removed afterwards, whatever
happened; what a killed drill left is removed by the next one before anything else.
"""

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from smartmail.backup import drill_files
from smartmail.backup.drill_files import Restored, Scratch
from smartmail.backup.process import Patience, unhurried
from smartmail.backup.restic import Listener
from smartmail.backup.scratch_postgres import load_postgresql
from smartmail.backup.vault import Vault
from smartmail.core import restic as ask
from smartmail.core.backup_due import RunState
from smartmail.core.backup_dumps import GLOBALS_FILE, staging_folder, staging_layout
from smartmail.core.backup_plan import BackupPlan, JobKind, JobPlan
from smartmail.core.backup_record import End, Reason
from smartmail.core.drill_plan import batches, chosen_mailboxes, includes
from smartmail.core.drill_report import (
    DrillReport,
    DumpProof,
    Fault,
    Finding,
    JobProof,
    MailboxProof,
    cut,
    of_manifest,
)
from smartmail.core.mailbox_place import Layout, LayoutError
from smartmail.core.maildir import message_place
from smartmail.core.manifest import Entry, Listed, Manifest, Total, compare, totals_of
from smartmail.core.points import RestorePoint
from smartmail.core.restic_messages import Message, Plain
from smartmail.core.restic_version import Outcome

_STOPS: Final = frozenset(
    (
        Outcome.NO_REPOSITORY,
        Outcome.WRONG_PASSWORD,
        Outcome.UNREACHABLE,
        Outcome.UNTRUSTED,
        Outcome.REFUSED,
        Outcome.LOCKED,
        Outcome.NO_SPACE,
        Outcome.INTERRUPTED,
        Outcome.KILLED,
        Outcome.STALLED,
        Outcome.TIMED_OUT,
        Outcome.UNSUPPORTED,
    )
)
"""Ends of a restore that say nothing of the data: there is no drill then. All others are findings."""
LIMITS: Final = Patience(silence_s=1800, limit_s=86_400)


_ABSENT: Final = re.compile(
    r"Load\(<data/([0-9a-f]{8,64})>.* returned error, retrying.*"
    r"(?:no such file|not exist|not found|404|NoSuchKey|no such key)",
    re.IGNORECASE,
)
_ASKED: Final = 4
"""How often restic may ask for a pack that is not there: a storage may show a new one late."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What a drill is of. manifests: by job, those of `point`; broken: what could not be read of them (see
    `read_manifests`). seed: chooses the whole mailboxes; "" for one at random."""

    point: RestorePoint
    manifests: Sequence[Manifest]
    broken: Sequence[Finding] = ()
    seed: str = ""


@dataclass(slots=True)
class _Drill:
    """One drill, as far as it has come."""

    vault: Vault
    plan: BackupPlan
    brought: Brought
    scratch: Scratch
    seed: str
    jobs: list[JobProof] = field(default_factory=list)
    mailboxes: list[MailboxProof] = field(default_factory=list)
    dumps: list[DumpProof] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    octets: int = 0

    def find(self, fault: Fault, job: str, where: str, text: str) -> None:
        self.findings.append(Finding(fault, job, where, text))


class PackGone(Exception):
    """The repository lacks a pack. pack: its id, as far as it is told."""

    def __init__(self, pack: str) -> None:
        super().__init__(f"pack {pack} is not in the repository")
        self.pack = pack


class _Gone:
    """Hears when restic asks in vain for a pack: 0.14 goes on to do so for a quarter of an hour, for each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def hear(self, message: Message) -> None:
        """A line of restic. Raises PackGone, which stops it."""
        found = _ABSENT.match(message.text) if isinstance(message, Plain) else None
        if found:
            self._counts[found[1]] += 1
            if self._counts[found[1]] >= _ASKED:
                raise PackGone(found[1])


async def drill(
    vault: Vault, plan: BackupPlan, brought: Brought, clock: Callable[[], int], say: Callable[[str], None] | None = None
) -> DrillReport:
    """Restore and prove. vault: of the drill's repository. clock: epoch milliseconds. say: told of each step, in words.

    Raises VaultError and ResticError when the repository cannot be used at all, drill_files.DrillBusy when another
    drill is at work; whatever is wrong with the data is a finding of the report.
    """
    started = clock()
    seed = brought.seed or secrets.token_hex(8)
    scratch = await asyncio.to_thread(Scratch.open, Path(plan.folder))
    try:
        work = _Drill(vault, plan, brought, scratch, seed, findings=list(brought.broken))
        jobs = sorted(plan.jobs_in(vault.name), key=lambda one: (one.order, one.name))
        whole = _whole_mailboxes(work, jobs)
        for number, job in enumerate(jobs):
            if say is not None:
                say(f"restoring {job.name} from {vault.name}")
            await _job(work, job, number, whole.get(job.name, {}))
    finally:
        # Also when this task is cancelled: customers' mail must not stay in the clear.
        await unhurried(asyncio.to_thread(scratch.close))
    findings, more = cut(work.findings)
    return DrillReport(
        plan.host,
        vault.name,
        vault.plan.offsite,
        brought.point.run,
        brought.point.time_ms,
        started,
        clock(),
        f"restic {vault.restic.version}",
        seed,
        work.octets,
        tuple(work.jobs),
        tuple(work.mailboxes),
        tuple(work.dumps),
        findings,
        more,
    )


def end_of_drill(report: DrillReport) -> End:
    """What a drill was, for the catalogue."""
    if report.proved:
        return End(RunState.OK, facts=report.facts())
    count = len(report.findings) + report.more
    first = f": {report.findings[0].text}" if report.findings else ""
    words = f"the restore proved nothing: {count} findings{first}"
    return End(RunState.FAILED, Reason.NOT_PROVED, report.facts(), words)


async def read_manifests(
    folder: Path, run: str, digests: Mapping[str, str]
) -> tuple[tuple[Manifest, ...], tuple[Finding, ...]]:
    """The manifests of a run in the state folder, and what is wrong with them. digests: by job, what the catalogue
    wrote down when they were made; a job without one is not asked for."""
    return await asyncio.to_thread(drill_files.read_manifests, folder, run, digests)


def _whole_mailboxes(work: _Drill, jobs: Sequence[JobPlan]) -> dict[str, dict[str, str]]:
    """job -> address -> the Maildir's path, of the mailboxes to restore whole."""
    layouts = {job.name: one for job in jobs if (one := _layout(job, work.plan)) is not None}
    totals = {
        one.job: _totals(one, layouts[one.job])
        for one in work.brought.manifests
        if one.job in layouts and _fits(work, one)
    }
    found: dict[str, dict[str, str]] = {}
    for job, address in chosen_mailboxes(totals, work.plan.drill.mailboxes, work.seed, work.scratch.room()):
        try:
            found.setdefault(job, {})[address] = layouts[job].maildir(address)
        except LayoutError as error:
            work.find(Fault.WRONG_MANIFEST, job, address, str(error))
    if layouts and work.plan.drill.mailboxes and not found:
        text = "no mailbox could be opened: the manifests name none with a message in it that has room in scratch"
        work.find(Fault.NOTHING_TO_PROVE, sorted(layouts)[0], "", text)
    return found


def _totals(manifest: Manifest, layout: Layout) -> Mapping[str, Total]:
    """How much is in each mailbox, at least: by the sample, where the manifest does not tell of mailboxes."""
    told = {address: total for address, total in manifest.totals.items() if address}
    messages = [one for one in manifest.entries if message_place(one.path)]
    return told or totals_of(Listed(one.path, one.size, layout.address(one.path)) for one in messages)


def _layout(job: JobPlan, plan: BackupPlan) -> Layout | None:
    """Where the mailboxes are in the job's snapshots."""
    if job.kind is JobKind.DOVECOT:
        return staging_layout(staging_folder(plan.folder, job))
    return job.layout if job.kind is JobKind.MAILDIR else None


def _fits(work: _Drill, manifest: Manifest) -> bool:
    return manifest.run == work.brought.point.run


async def _job(work: _Drill, job: JobPlan, number: int, whole: Mapping[str, str]) -> None:
    """Restore and prove one job."""
    name = job.name
    ids = _snapshots(work, name)
    manifest = next((one for one in work.brought.manifests if one.job == name), None)
    if manifest is None:
        if not any(one.job == name for one in work.brought.broken):
            work.find(Fault.NO_MANIFEST, name, "", "nothing was written down of this job when it was backed up")
    elif not _fits(work, manifest):
        work.find(Fault.WRONG_MANIFEST, name, "", f"it is of run {manifest.run}, not of {work.brought.point.run}")
        manifest = None
    if manifest is None or not ids:
        work.jobs.append(JobProof(name, job.kind.value, ids, "", 0, 0, 0, 0, 0))
        return
    folder = work.scratch.folder / f"{number}"
    restored, elapsed_ms = await _restored(work, manifest, ids, folder, whole)
    work.octets += sum(one.octets for one in restored)
    entries = _over(restored)
    layout = _layout(job, work.plan)
    totals = _totals(manifest, layout) if layout else {}
    held = replace(manifest, totals={one: totals[one] for one in whole})
    counted = {one: await _mailbox(work, held, one, path, restored) for one, path in sorted(whole.items())}
    found = compare(entries, held, counted)
    work.findings += of_manifest(name, found.findings)
    work.jobs.append(
        JobProof(
            name,
            job.kind.value,
            ids,
            manifest.digest(),
            len(manifest.entries),
            found.files,
            found.octets,
            len(entries),
            elapsed_ms,
        )
    )
    if job.kind in (JobKind.SQLITE, JobKind.POSTGRESQL):
        await _dumps(work, job, restored)


def _over(restored: Sequence[Restored]) -> list[Entry]:
    """All that came back, the newest first: a file goes over one of the same path, but a message never changes."""
    found: list[Entry] = []
    seen: set[str] = set()
    for one in restored:
        found += [entry for entry in one.entries if entry.path not in seen or message_place(entry.path)]
        seen.update(entry.path for entry in one.entries)
    return found


async def _mailbox(work: _Drill, manifest: Manifest, address: str, path: str, restored: Sequence[Restored]) -> Total:
    """Open a whole mailbox, and count it."""
    opened = await asyncio.to_thread(drill_files.open_mailbox, [(one.root, path) for one in restored])
    job, expected = manifest.job, manifest.totals[address].messages
    work.findings += [Finding(Fault.UNREADABLE, job, f"{address}: {where}", text) for where, text in opened.faults]
    work.mailboxes.append(
        MailboxProof(job, address, expected, opened.messages, opened.folders, opened.octets, "Python's mailbox")
    )
    return Total(opened.messages, opened.octets)


def _snapshots(work: _Drill, job: str) -> tuple[str, ...]:
    members = work.brought.point.of_job(job)
    ids = tuple(found for one in members if (found := one.id_in(work.vault.name)))
    lacking = len(members) - len(ids)
    if not members:
        work.find(Fault.NO_SNAPSHOT, job, "", f"run {work.brought.point.run} has no snapshot of this job")
    elif lacking:
        text = f"{lacking} of {len(members)} snapshots of run {work.brought.point.run} are not in {work.vault.name}"
        work.find(Fault.NO_SNAPSHOT, job, "", text)
    return ids


async def _restored(
    work: _Drill, manifest: Manifest, ids: Sequence[str], folder: Path, whole: Mapping[str, str]
) -> tuple[list[Restored], int]:
    """What came back of each snapshot, the newest first, and how long it took. A later snapshot goes over an earlier
    one, of which only what is still lacking is asked for."""
    found: list[Restored] = []
    wanted: dict[str, Entry] = {one.key: one for one in manifest.entries}
    elapsed_ms = 0
    for index, snapshot in enumerate(reversed(ids)):
        patterns = includes(wanted.values(), whole.values())
        if not patterns:
            break
        target = folder / f"{index}"
        await asyncio.to_thread(target.mkdir, mode=0o700, parents=True)
        for batch in batches(patterns):
            elapsed_ms += await _restore(work, manifest.job, snapshot, target, batch)
        came = await asyncio.to_thread(drill_files.hashed, target)
        work.findings += [Finding(Fault.UNREADABLE, manifest.job, where, text) for where, text in came.faults]
        found.append(came)
        for entry in came.entries:
            wanted.pop(entry.key, None)
    return found, elapsed_ms


async def _restore(work: _Drill, job: str, snapshot: str, target: Path, patterns: Sequence[str]) -> int:
    """One restore. Returns its milliseconds. Raises VaultError where it says nothing of the data."""
    vault = work.vault
    command = ask.restore(vault.known, vault.at, ask.Restore(snapshot, str(target), tuple(patterns)))
    fresh = {**command.environment, "RESTIC_CACHE_DIR": str(work.scratch.folder / "cache")}
    gone = _Gone()
    try:
        run = await vault.run(replace(command, environment=fresh), LIMITS, Listener(message=gone.hear))
    except PackGone as error:
        work.find(Fault.RESTORE_FAILED, job, error.pack, f"{error}: the restore was stopped")
        return 0
    if run.outcome in _STOPS:
        raise vault.failure(run)
    if not run.ok:
        told = [one.item for one in run.errors[:5]]
        why = next((one.message for one in run.errors if one.message), run.reason) or "restic says no more"
        text = f"{run.outcome.value.replace('_', ' ')}: {why}"
        work.find(Fault.RESTORE_FAILED, job, ", ".join(told), text)
    return run.elapsed_ms


async def _dumps(work: _Drill, job: JobPlan, restored: Sequence[Restored]) -> None:
    """Load each dump that came back."""
    files: dict[str, Path] = {}
    for one in reversed(restored):
        for path in await asyncio.to_thread(drill_files.files_below, one.root):
            files[str(path).removeprefix(str(one.root))] = path
    roles = next((path for path in files.values() if path.name == GLOBALS_FILE), None)
    databases = [path for path in files.values() if job.kind is JobKind.SQLITE or path != roles]
    for path in sorted(databases):
        if job.kind is JobKind.SQLITE:
            loaded = await asyncio.to_thread(drill_files.load_sqlite, path)
        else:
            loaded = await load_postgresql(path, roles, work.scratch)
        work.findings += [Finding(Fault.DUMP, job.name, path.name, text) for text in loaded.faults]
        work.dumps.append(DumpProof(job.name, path.name, loaded.tables, loaded.rows, loaded.how))
    if not databases:
        work.find(Fault.DUMP, job.name, "", "there is no database among what was restored")
