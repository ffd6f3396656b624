"""One job of one night: prepare, back up, reconcile, write the manifest, judge the figures.

A walk of a live Maildir misses messages that are renamed meanwhile, and newer versions of restic say nothing of it. So
each folder in which names changed since the walk began is compared with the snapshot, and what lacks one is run again
into a snapshot of its own, until nothing is missing or ROUNDS are over (DESIGN section 5).
"""

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from smartmail.backup import walk
from smartmail.backup.restic import Listener
from smartmail.backup.sources import Prepared, prepare, release
from smartmail.backup.vault import Vault
from smartmail.core import restic as ask
from smartmail.core.anomaly import Figures, anomalies
from smartmail.core.backup_due import RunState
from smartmail.core.backup_plan import BackupPlan, JobKind, JobPlan
from smartmail.core.backup_record import End, Reason, reason_of
from smartmail.core.mailbox_place import Layout
from smartmail.core.maildir import Reconciliation, base_of, by_folder, merged, message_place, reconcile
from smartmail.core.manifest import Manifest
from smartmail.core.points import JOB, RUN
from smartmail.core.restic_json import Unreadable
from smartmail.core.restic_messages import BackupSummary, Node, Progress
from smartmail.core.restic_output import parse_backup
from smartmail.core.restic_version import Outcome

ROUNDS: Final = 4
"""How often folders are run again."""
STAGED: Final = frozenset((JobKind.SQLITE, JobKind.POSTGRESQL, JobKind.DOVECOT))
"""What is backed up of them we have just written ourselves, and nobody changes it during the walk."""
NAMED: Final = 100
"""Items and messages that are named in the catalogue; the others are counted."""
_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Task:
    """What a job needs. history: of its last runs, newest first. tell: each step of progress, with the step's name."""

    plan: BackupPlan
    job: JobPlan
    vault: Vault
    run: str
    history: Sequence[Figures] = ()
    tell: Callable[[str, Progress], None] | None = None
    log: Callable[[str], None] = lambda _: None

    @property
    def tags(self) -> tuple[str, ...]:
        """What its snapshots carry."""
        return (f"{JOB}={self.job.name}", f"{RUN}={self.run}")

    def listener(self, step: str) -> Listener:
        """Of one command of restic."""
        tell = self.tell
        return Listener() if tell is None else Listener(progress=lambda progress: tell(step, progress))


@dataclass(slots=True)
class _Made:
    """What has been made so far."""

    snapshots: list[str] = field(default_factory=list)
    summary: BackupSummary | None = None
    items: int = 0
    named: list[str] = field(default_factory=list)
    restic_ms: int = 0
    failed: End | None = None


@dataclass(frozen=True, slots=True)
class _Began:
    """A walk's beginning: by our clock, and what each folder's time of change was then."""

    at_ns: int
    marks: Mapping[str, tuple[int, ...]]


async def back_up(task: Task) -> End:
    """Do the job. Raises SourceError, VaultError and ResticError for what stopped it."""
    prepared = await prepare(task.job, task.plan, task.log)
    try:
        return await _backed_up(task, prepared)
    finally:
        for fault in await release(prepared):
            task.log(fault)


async def _backed_up(task: Task, prepared: Prepared) -> End:
    made = _Made(items=len(prepared.unread), named=list(prepared.unread))
    layout = task.job.layout if task.job.kind is JobKind.MAILDIR else None
    marks = await asyncio.to_thread(walk.marks, layout) if layout else {}
    began = _Began(time.time_ns(), marks)
    sampling = asyncio.create_task(asyncio.to_thread(_sampled, task, prepared, began.at_ns))
    try:
        await _snapshot(task, _wish(task, prepared.excludes, paths=prepared.paths), made, "backup")
    finally:
        # A thread cannot be stopped; what it raises is raised below, unless restic was stopped.
        await asyncio.wait({sampling})
    if made.failed is not None:
        return made.failed
    sample = sampling.result()
    walked_ms = time.time_ns()
    found, held = await _reconciled(task, prepared, made, layout, began)
    manifest = await asyncio.to_thread(walk.still_there, sample.manifest, layout)
    if layout:
        manifest = _provable(manifest, held)
    elif task.job.kind not in STAGED:
        manifest = await asyncio.to_thread(walk.unchanged, manifest, began.at_ns)
    digest = await asyncio.to_thread(_keep, Path(task.plan.folder), manifest)
    facts: dict[str, object] = {
        "snapshots": made.snapshots,
        "unreadable": made.items,
        "named": made.named[:NAMED],
        "missed": len(found.missed) if found else 0,
        "rounds": len(made.snapshots) - 1,
        "manifest": digest,
        "restic_ms": made.restic_ms,
        "reconcile_ms": (time.time_ns() - walked_ms) // _MS,
    }
    figures = _figures(made, sample.entropy_permille)
    # How much is in a queue says nothing: it is full on a bad day and empty on a good one.
    strange = () if task.job.kind is JobKind.QUEUE else anomalies(figures, task.history, task.job.usual)
    facts |= {
        "files": figures.files,
        "octets": figures.octets,
        "added": figures.added,
        "new": figures.new,
        "entropy_permille": figures.entropy_permille,
        "anomalies": [one.text for one in strange],
    }
    return _end(task.job, made, found, facts)


def _end(job: JobPlan, made: _Made, found: Reconciliation | None, facts: dict[str, object]) -> End:
    if made.items > job.most_partial:
        words = f"{made.items} items could not be read, where {job.most_partial} may"
        return End(RunState.FAILED, Reason.ITEMS_UNREADABLE, facts, words)
    if found is not None and not found.complete:
        words = f"{len(found.missed)} messages are in no snapshot of this run"
        return End(RunState.PARTIAL, Reason.MESSAGES_MISSED, facts, words)
    if made.items:
        return End(RunState.PARTIAL, Reason.ITEMS_UNREADABLE, facts, f"{made.items} items could not be read")
    return End(RunState.OK, facts=facts)


def _wish(task: Task, excludes: Sequence[str], *, paths: tuple[str, ...] = (), paths_file: str = "") -> ask.Backup:
    """excludes go by a file: there may be more than an argv holds."""
    folder = Path(task.plan.folder) / "excludes"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    listed = folder / task.job.name
    # restic puts variables of its environment in place of $NAME there.
    lines = "".join(f"{pattern.replace('$', '$$')}\n" for pattern in excludes)
    listed.write_text(lines, "utf-8", "surrogateescape")
    return ask.Backup(
        task.plan.host,
        task.tags,
        paths,
        paths_file,
        exclude_files=(str(listed),) if excludes else (),
    )


async def _snapshot(task: Task, wish: ask.Backup, made: _Made, step: str) -> None:
    """Make one snapshot, and take down what it says of itself."""
    run = await task.vault.run(ask.backup(task.vault.known, task.vault.at, wish), listener=task.listener(step))
    made.restic_ms += run.elapsed_ms
    if run.outcome not in (Outcome.OK, Outcome.PARTIAL):
        made.failed = End(RunState.FAILED, reason_of(run.outcome), words=str(task.vault.failure(run)))
        return
    summary = parse_backup(run.stdout)
    if isinstance(summary, Unreadable) or not summary.snapshot_id:
        made.failed = End(RunState.FAILED, Reason.FAILED, words=f"restic told of no snapshot: {run.reason}")
        return
    made.snapshots.append(summary.snapshot_id)
    made.summary = made.summary or summary
    lost = [one for one in run.errors if one.counts]
    # An outcome that names no item (a path that was not there) is one all the same.
    made.items += max(run.error_count - (len(run.errors) - len(lost)), int(run.outcome is Outcome.PARTIAL))
    made.named += [one.item for one in lost]


# reconciliation


async def _reconciled(
    task: Task, prepared: Prepared, made: _Made, layout: Layout | None, began: _Began
) -> tuple[Reconciliation | None, Mapping[str, Collection[str]]]:
    """Compare and run again. None where nothing is a Maildir. made.items ends as what is still not there. Also what the
    snapshots have of each folder that was compared, by base name."""
    held: dict[str, Collection[str]] = {}
    if layout is None:
        return None, held
    began_s = began.at_ns // 10**9
    stored: list[dict[str, list[str]]] = []
    folders = await asyncio.to_thread(walk.changed_folders, layout, began.at_ns, began.marks)
    found = reconcile({}, {}, began_s)
    for _ in range(ROUNDS):
        if not folders:
            break
        stored.append(await _listed(task, made, sorted(folders)))
        there = merged(stored)
        held |= {folder: there.get(folder, {}) for folder in folders}
        found = reconcile(folders, {folder: list(there.get(folder, {}).values()) for folder in folders}, began_s)
        if found.complete or len(stored) == ROUNDS:
            break
        await _run_again(task, prepared, made, found.again)
        if made.failed is not None:
            task.log(f"folders could not be run again: {made.failed.words}")
            made.failed = None
            break
        folders = await asyncio.to_thread(walk.listing, found.again)
    made.items = await asyncio.to_thread(_still_unread, made, layout, held)
    return found, held


def _provable(manifest: Manifest, held: Mapping[str, Collection[str]]) -> Manifest:
    """Without what came while the walk was on and is in no snapshot: it was sampled meanwhile."""
    kept = []
    for entry in manifest.entries:
        place = message_place(entry.path)
        there = None if place is None else held.get(place[0])
        if place is None or there is None or base_of(place[1].partition("/")[2]) in there:
            kept.append(entry)
    return replace(manifest, entries=tuple(kept))


async def _listed(task: Task, made: _Made, folders: Sequence[str]) -> dict[str, list[str]]:
    """What the newest snapshot has of the folders."""
    paths: list[str] = []

    def take(node: Node) -> None:
        if node.type == "file":
            paths.append(node.path)

    started = time.monotonic_ns()
    await task.vault.nodes(made.snapshots[-1], take, [f"{one}/{kind}" for one in folders for kind in ("cur", "new")])
    made.restic_ms += (time.monotonic_ns() - started) // _MS
    return by_folder(paths)


async def _run_again(task: Task, prepared: Prepared, made: _Made, folders: Sequence[str]) -> None:
    """A snapshot of these folders alone."""
    listed = Path(task.plan.folder) / "excludes" / f"{task.job.name}.again"
    await asyncio.to_thread(listed.write_bytes, b"".join(os.fsencode(one) + b"\0" for one in folders))
    await _snapshot(task, _wish(task, prepared.excludes, paths_file=str(listed)), made, "again")


def _still_unread(made: _Made, layout: Layout, held: Mapping[str, Collection[str]]) -> int:
    """Messages of folders that were compared are judged by that alone: one that was renamed under restic's hands is an
    error to it, and in the snapshot under its other name. What is not there any more was nobody's."""

    def settled(path: str) -> bool:
        place = message_place(path)
        compared = place is not None and place[0] in held
        return compared or (bool(layout.address(path)) and not os.path.lexists(path))

    left = [one for one in made.named if not settled(one)]
    settled_count = len(made.named) - len(left)
    made.named = left
    return max(made.items - settled_count, len(left))


# the manifest and the figures


def _sampled(task: Task, prepared: Prepared, began_ns: int) -> walk.Sampled:
    seed = secrets.token_hex(16)
    if task.job.kind in (JobKind.MAILDIR, JobKind.DOVECOT):
        return walk.sampled(prepared.job, task.run, began_ns // _MS, seed, task.plan.drill.sample)
    return walk.sampled_files(task.job, task.run, began_ns // _MS, seed, task.plan.drill.sample, prepared.paths)


def manifest_file(folder: Path, run: str, job: str) -> Path:
    """Where a manifest is kept."""
    return folder / "manifests" / f"{run}.{job}.json"


def _keep(folder: Path, manifest: Manifest) -> str:
    """Write it, whole or not at all. Returns its digest."""
    file = manifest_file(folder, manifest.run, manifest.job)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    begun = file.with_suffix(".new")
    with begun.open("wb") as out:
        out.write(manifest.octets())
        out.flush()
        os.fsync(out.fileno())
    begun.replace(file)
    return manifest.digest()


def _figures(made: _Made, entropy_permille: int | None) -> Figures:
    summary = made.summary
    if summary is None:
        return Figures(0, 0, 0, 0, entropy_permille)
    return Figures(summary.files, summary.octets, summary.added, summary.files_new, entropy_permille)
