"""Retention of one repository in its two steps: a plan with the judgement of the guards, then just what it says.

What is to go is written down before anything goes, so that a run that is killed half-way does not look, to the next
one, like somebody who removed snapshots. What went is proved by listing again, and not by what restic says.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from smartmail.backup.doubts import jump, lateness
from smartmail.backup.journal import Entry, JournalError, read_journal, unsettled, write_journal
from smartmail.backup.probe import OtherClock, other_clock
from smartmail.backup.process import Patience
from smartmail.backup.restic import Listener, Run
from smartmail.backup.vault import Vault, VaultError
from smartmail.core import restic as ask
from smartmail.core.backup_due import RunState
from smartmail.core.backup_plan import BackupPlan
from smartmail.core.backup_record import Activity, End, Reason, Record, reason_of
from smartmail.core.points import JOB, RUN, Snapshot, shown
from smartmail.core.restic_messages import ExitError, ItemError, Message, Plain
from smartmail.core.restic_output import PruneReport, parse_prune
from smartmail.core.restic_version import Outcome, sign_of
from smartmail.core.retention import (
    Approval,
    Facts,
    Group,
    Holds,
    Objection,
    Plan,
    Refusal,
    group_of,
    guard,
    recheck,
)
from smartmail.core.retention import plan as decide

FORGETTING: Final = Patience(limit_s=1800, interrupt_s=30, terminate_s=10)
_APPEND_ONLY: Final = "only somebody at the server itself can remove anything: run retention there, with its own rights"
_LOOK: Final = "look at smartmail backup prune --plan; what a person has looked at can be taken as it is"


@dataclass(frozen=True, slots=True)
class Planned:
    """What retention would do in a repository, and whether it may. at_ms: by our clock. digest: of this plan alone.
    notes: what was not as it should be, but is no objection. pending: removals begun before, of which the catalogue
    does not know the end."""

    repository: str
    at_ms: int
    plan: Plan
    verdict: Approval | Refusal
    notes: tuple[str, ...] = ()
    pending: tuple[Entry, ...] = ()

    @property
    def digest(self) -> str:
        """The same for the same plan made at the same time."""
        words = (self.repository, str(self.at_ms), *(one.id for one in self.plan.removed))
        return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]

    @property
    def objections(self) -> tuple[Objection, ...]:
        """Empty if it is approved of."""
        return self.verdict.objections if isinstance(self.verdict, Refusal) else ()

    @property
    def facts(self) -> dict[str, object]:
        """For the catalogue: JSON values."""
        return {
            "plan": self.digest,
            "keep": [str(one) for one in self.plan.rules],
            "kept": len(self.plan.kept),
            "planned": [one.id for one in self.plan.removed],
            **_grounds(self.objections),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a plan as a table. id: eight digits. why: every reason, or what each rule has against it."""

    kept: bool
    id: str
    when: str
    job: str
    host: str
    run: str
    partial: bool
    why: str


@dataclass(frozen=True, slots=True)
class Retained:
    """What became of a plan. removed: ids that are gone; remaining: ids that were to go and are still there. words:
    what came of it, for a person; remedy: what to do next, "" if nothing."""

    state: RunState
    reason: Reason
    removed: tuple[str, ...]
    remaining: tuple[str, ...]
    facts: Mapping[str, object]
    words: str
    remedy: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def end(self) -> End:
        """For the catalogue."""
        return End(self.state, self.reason, self.facts, f"{self.words} ({self.remedy})" if self.remedy else self.words)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of a prune. freed, unused_left: octets, as restic says them; None where it does not."""

    state: RunState
    reason: Reason
    freed: int | None
    left: int | None
    elapsed_ms: int
    words: str
    remedy: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def end(self) -> End:
        """For the catalogue."""
        return End(self.state, self.reason, self.facts, f"{self.words} ({self.remedy})" if self.remedy else self.words)

    @property
    def facts(self) -> dict[str, object]:
        """For the catalogue: JSON values."""
        return {"freed": self.freed, "left": self.left, "elapsed_ms": self.elapsed_ms}


class _Refused(Exception):
    """The storage said no: restic would ask it again for 45 seconds, snapshot by snapshot."""


def rows(planned: Plan, zone: tzinfo) -> tuple[Row, ...]:
    """A plan as a table, newest first. zone: of the times."""
    return tuple(
        Row(
            one.kept,
            one.snapshot.id[:8],
            shown(one.snapshot.time_ms, zone),
            one.snapshot.tag(JOB),
            one.snapshot.host,
            one.snapshot.tag(RUN),
            one.snapshot.partial,
            "; ".join(map(str, one.reasons)),
        )
        for one in planned.decisions
    )


async def plan_retention(
    vault: Vault,
    plan: BackupPlan,
    holds: Holds,
    records: Sequence[Record],
    clock: Callable[[], int],
    *,
    anomalies: Sequence[str] = (),
    anew: bool = False,
) -> Planned:
    """What is to go from a repository, and may it? Nothing is changed. records: of this repository's retention, as the
    catalogue has them. clock: ours, ms. anomalies: what the newest runs look wrong by, in words. anew: a person has
    looked at the numbers of snapshots: they are taken as they are.

    Raises VaultError if it cannot be listed, ValueError if everything is kept there (`keep` is None), ResticError.
    """
    if vault.plan.keep is None:
        raise ValueError(f"repository {vault.name}: everything is kept, so there is nothing to plan")
    listing = await vault.snapshots()
    now_ms = clock()
    other = await other_clock(vault.plan, clock)
    guards, notes = vault.plan.guards, []
    if isinstance(other, OtherClock):
        reference: int | None = other.reference_ms + now_ms - other.now_ms
    else:
        reference = None
        guards = replace(guards, needs_reference=guards.needs_reference and other.needed)
        notes.append(f"the clock was not compared: {other.why}")
    pending: tuple[Entry, ...] = ()
    try:
        pending = unsettled(await read_journal(plan.folder, vault.name), _settled(records, vault.name))
    except JournalError as error:
        notes.append(str(error))
    left = {} if anew else counted(records, vault.name, pending, listing)
    decided = decide(listing, vault.plan.keep, ZoneInfo(plan.zone), now_ms, holds)
    verdict = guard(decided, guards, Facts(now_ms, reference, left, tuple(anomalies)))
    verdict = _with(verdict, lateness(vault.plan, plan, listing, now_ms))
    last = next(iter(_with_left(records, vault.name)), None)
    if reference is None and not anew:
        verdict = _with(verdict, jump(None if last is None else last.started_ms, now_ms))
    return Planned(vault.name, now_ms, decided, verdict, tuple(notes), pending)


async def carry_out(
    vault: Vault,
    planned: Planned,
    folder: str,
    *,
    patience: Patience = FORGETTING,
    listener: Listener | None = None,
) -> Retained:
    """Forget what an approved plan removes, by id. folder: the backup's own (`BackupPlan.folder`). The caller holds the
    repository's lease. How it ends is a result; raises ResticError if restic cannot be started."""
    if isinstance(planned.verdict, Refusal):
        return _guarded(planned, planned.verdict)
    if vault.plan.append_only:
        words = f"repository {vault.name} is append-only: nothing is removed from here"
        return _ended(planned, Reason.REFUSED, words, _APPEND_ONLY)
    if planned.repository != vault.name:
        raise ValueError(f"a plan of {planned.repository} is not one of {vault.name}")
    try:
        before = await vault.snapshots()
        refusal = recheck(planned.plan, before)
        if refusal is not None:
            return _guarded(planned, refusal)
        await write_journal(folder, vault.name, (*planned.pending, _entry(planned)))
    except VaultError as error:
        return _ended(planned, reason_of(error.outcome), str(error), error.remedy)
    except JournalError as error:
        return _ended(planned, Reason.INTERNAL, f"nothing was removed: {error}", "make room, or mend its rights")
    ids = planned.verdict.ids
    if not ids:
        return _proved(planned, before, before, None)
    run: Run | VaultError
    try:
        run = await vault.run(ask.forget(vault.known, vault.at, ids), patience, _watching(listener))
    except _Refused as error:
        run = VaultError(vault.name, "forget", Outcome.REFUSED, str(error))
    try:
        after = await vault.snapshots()
    except VaultError as error:
        words = f"what went is not known: {error}"
        return _ended(planned, reason_of(error.outcome), words, error.remedy)
    failure = run if isinstance(run, VaultError) else None if run.ok else vault.failure(run)
    return _proved(planned, before, after, failure)


async def prune(
    vault: Vault,
    wish: ask.Prune | None = None,
    *,
    patience: Patience | None = None,
    listener: Listener | None = None,
) -> Pruned:
    """Free what no snapshot uses; wish: else what the plan says. The caller holds the repository's lease. How it ends
    is a result; raises ResticError if restic cannot be started."""
    wish = wish or vault.plan.prune
    if vault.plan.append_only and not wish.dry_run:
        words = f"repository {vault.name} is append-only: nothing is freed from here"
        return Pruned(RunState.FAILED, Reason.REFUSED, None, None, 0, words, _APPEND_ONLY)
    try:
        run = await vault.run(ask.prune(vault.known, vault.at, wish), patience, _watching(listener))
    except _Refused as error:
        refused = VaultError(vault.name, "prune", Outcome.REFUSED, str(error))
        return Pruned(RunState.FAILED, Reason.REFUSED, None, None, 0, str(refused), _APPEND_ONLY)
    if not run.ok:
        fault = vault.failure(run)
        reason = reason_of(fault.outcome)
        return Pruned(RunState.FAILED, reason, None, None, run.elapsed_ms, str(fault), fault.remedy, run.warnings)
    said: PruneReport = parse_prune(run.stdout)
    words = f"repository {vault.name}: {'would free' if wish.dry_run else 'freed'} {said.removed or 0} octets"
    return Pruned(RunState.OK, Reason.NONE, said.removed, said.remaining, run.elapsed_ms, words, warnings=run.warnings)


def counted(
    records: Sequence[Record], repository: str, pending: Sequence[Entry], listing: Sequence[Snapshot]
) -> dict[Group, int]:
    """How many snapshots each group had after the last retention that is known to have ended, less what went in those
    of which the end is not known. Empty if there was none."""
    newest = next(iter(_with_left(records, repository)), None)
    left: Counter[Group] = Counter()
    if newest is None:
        return {}
    listed = newest.facts["left"]
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and isinstance(one.get("count"), int) and isinstance(one.get("tags"), list):
            left[Group(str(one.get("host", "")), tuple(map(str, one["tags"])))] = one["count"]
    there = {one.id for one in listing}
    for name, group in {pair for entry in pending for pair in entry.ids}:
        if name not in there and group in left:
            left[group] -= 1
    return dict(left)


# the parts


def _settled(records: Sequence[Record], repository: str) -> frozenset[str]:
    """The digests of the plans of which the end is known."""
    return frozenset(str(one.facts.get("plan", "")) for one in _with_left(records, repository))


def _with_left(records: Sequence[Record], repository: str) -> list[Record]:
    """Newest first."""
    found = [
        one
        for one in records
        if one.activity is Activity.RETENTION and one.repository == repository and "left" in one.facts
    ]
    return sorted(found, key=lambda one: one.id, reverse=True)


def _entry(planned: Planned) -> Entry:
    return Entry(planned.digest, tuple((one.id, group_of(one)) for one in planned.plan.removed))


def _with(verdict: Approval | Refusal, more: Sequence[Objection]) -> Approval | Refusal:
    if not more:
        return verdict
    known = verdict.objections if isinstance(verdict, Refusal) else ()
    return Refusal(tuple(dict.fromkeys((*known, *more))))


def _watching(listener: Listener | None) -> Listener:
    """As the listener, and restic is stopped at the first refusal of the storage."""

    def hear(message: Message) -> None:
        if listener and listener.message:
            listener.message(message)
        match message:
            case Plain(text) | ItemError(_, _, text) | ExitError(_, text):
                if sign_of(text) is Outcome.REFUSED:
                    raise _Refused(text[:500])
            case _:
                pass

    return Listener(listener.progress if listener else None, hear, listener.line if listener else None)


def _proved(
    planned: Planned, before: Sequence[Snapshot], after: Sequence[Snapshot], failure: VaultError | None
) -> Retained:
    """What the two listings tell, which is more than what restic told."""
    there = {one.id for one in after}
    gone = {one.id for one in before} - there
    wanted = [one.id for one in reversed(planned.plan.removed)]
    removed = tuple(one for one in wanted if one in gone)
    remaining = tuple(one for one in wanted if one in there)
    others = sorted(gone.difference(wanted))
    facts: dict[str, object] = {**planned.facts, "removed": list(removed), "remaining": list(remaining)}
    if others:
        # Without `left`: the next plan has to ask who removed them.
        text = f"gone, though it was not planned: {', '.join(one[:8] for one in others[:10])}"
        facts["unplanned"] = others
        return Retained(RunState.FAILED, Reason.FAILED, removed, remaining, facts, text, _LOOK)
    counts = Counter(group_of(one) for one in after if one.tag(JOB))
    facts["left"] = [{"host": one.host, "tags": list(one.tags), "count": counts[one]} for one in sorted(counts)]
    text = f"{len(removed)} of {len(wanted)} snapshots were forgotten, {len(after)} are left"
    if remaining:
        reason = reason_of(failure.outcome) if failure else Reason.FAILED
        text = f"{text}; {failure}" if failure else text
        remedy = _APPEND_ONLY if reason is Reason.REFUSED else failure.remedy if failure else ""
        return Retained(RunState.FAILED, reason, removed, remaining, facts, text, remedy)
    warnings = (str(failure),) if failure else ()
    return Retained(RunState.OK, Reason.NONE, removed, (), facts, text, "", warnings)


def _guarded(planned: Planned, refusal: Refusal) -> Retained:
    text = "nothing was removed: " + "; ".join(one.text for one in refusal.objections)
    return _ended(planned, Reason.GUARDED, text, _LOOK, _grounds(refusal.objections))


def _ended(
    planned: Planned, reason: Reason, words: str, remedy: str, more: Mapping[str, object] | None = None
) -> Retained:
    facts = {**planned.facts, **(more or {}), "removed": []}
    remaining = tuple(one.id for one in reversed(planned.plan.removed))
    return Retained(RunState.FAILED, reason, (), remaining, facts, words, remedy)


def _grounds(objections: Sequence[Objection]) -> dict[str, object]:
    return {
        "grounds": sorted({one.ground.value for one in objections}),
        "objections": [f"{one.ground.value}: {one.text}" for one in objections],
    }
