"""From onsite to offsite: the snapshots of runs, by explicit id, each proved by its tree id. The source of the mail is
never read (DESIGN section 5)."""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from smartmail.backup.restic import Listener
from smartmail.backup.vault import Vault
from smartmail.core import restic as ask
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity, End, Reason, Record, reason_of
from smartmail.core.points import RUN, Snapshot
from smartmail.core.restic_output import parse_copy

REMEMBERED: Final = 50
"""Origins of a copy that are written down."""
LOOKED_BACK_MS: Final = 31 * 86_400_000
"""A run that could not be copied for so long has newer ones."""


def pending(records: Iterable[Record], jobs: Collection[str], target: str, now_ms: int) -> tuple[str, ...]:
    """Which runs still have to be copied to `target`, oldest first: those of the jobs that made snapshots, without
    those that a copy has proved. records: of BACKUP and COPY, in any order."""
    made: dict[str, int] = {}
    proved: dict[str, int] = {}
    for one in records:
        if one.activity is Activity.BACKUP and one.job in jobs and one.state in (RunState.OK, RunState.PARTIAL):
            if one.started_ms > now_ms - LOOKED_BACK_MS:
                made[one.run] = max(made.get(one.run, 0), one.ended_ms or one.started_ms)
        elif one.activity is Activity.COPY and one.repository == target and one.state is RunState.OK:
            for run in _runs(one):
                proved[run] = max(proved.get(run, 0), one.started_ms)
    # A job that was taken up again after the copy has made one more snapshot.
    waiting = [run for run, ended in made.items() if ended > proved.get(run, -1)]
    return tuple(sorted(waiting, key=lambda run: (made[run], run)))


@dataclass(frozen=True, slots=True)
class Known:
    """What the last proved copy to a repository showed, or nothing. origins: what was in both then, as far as it was
    written down: as long as both repositories still have some of it, they are the ones whose chunker parameters were
    compared."""

    origins: frozenset[str] = frozenset()


def known_of(records: Iterable[Record], target: str) -> Known:
    """records: of COPY, newest first."""
    for one in records:
        origins = one.facts.get("origins")
        if one.repository == target and one.state is RunState.OK and isinstance(origins, (list, tuple)):
            return Known(frozenset(map(str, origins)))
    return Known()


async def copy_runs(
    source: Vault, target: Vault, host: str, runs: Collection[str], known: Known, listener: Listener | None = None
) -> End:
    """Copy all snapshots of the runs, and prove that the target has every one of them. Each restic opens its repository
    for a second, so none is started that the last copy makes needless. Raises VaultError when a repository cannot be
    read."""
    mine = await source.snapshots(host)
    wanted = [one for one in mine if one.tag(RUN) in runs]
    facts: dict[str, object] = {"runs": sorted({one.tag(RUN) for one in wanted}), "copied": 0, "proved": 0}
    if not wanted:
        return End(RunState.FAILED, Reason.NOTHING_TO_COPY, facts, f"{source.name} has no snapshot of these runs")
    if not known.origins & {one.origin for one in mine}:
        fault = await _stranger(source, target)
        if fault is not None:
            return fault
    run = await target.run(ask.copy(target.known, source.at, target.at, [one.id for one in wanted]), listener=listener)
    facts["restic_ms"] = run.elapsed_ms
    if not run.ok:
        return End(RunState.FAILED, reason_of(run.outcome), {**facts, "runs": []}, str(target.failure(run)))
    there = await target.snapshots(host)
    if known.origins and not known.origins & {one.origin for one in there}:
        # Nothing of the last copy is left there: it may be another repository at the same address.
        fault = await _stranger(source, target)
        if fault is not None:
            return fault
    lacking = unproved(wanted, there)
    copied = len(wanted) - len(parse_copy(run.stdout).skipped)
    both = sorted({one.origin for one in there} & {one.origin for one in mine})
    facts |= {"copied": copied, "proved": len(wanted) - len(lacking), "origins": both[-REMEMBERED:]}
    if lacking:
        ids = ", ".join(one.id[:8] for one in lacking[:10])
        words = f"{target.name} has no copy with the same tree of {ids}"
        return End(RunState.FAILED, Reason.TREE_DIFFERS, {**facts, "runs": []}, words)
    return End(RunState.OK, facts=facts)


def unproved(wanted: Iterable[Snapshot], there: Iterable[Snapshot]) -> list[Snapshot]:
    """Which have no copy of the same origin and tree."""
    held = {(one.origin, one.tree) for one in there}
    return [one for one in wanted if (one.origin, one.tree) not in held]


async def _stranger(source: Vault, target: Vault) -> End | None:
    """Why the two must not be copied between; None if they may."""
    ours, theirs = await asyncio.gather(source.config(), target.config())
    if ours.chunker_polynomial == theirs.chunker_polynomial:
        return None
    words = f"{target.name} was not made with the chunker parameters of {source.name}: make it anew by backup init"
    return End(RunState.FAILED, Reason.CHUNKER_DIFFERS, words=words)


def _runs(record: Record) -> tuple[str, ...]:
    runs = record.facts.get("runs")
    return tuple(one for one in runs if isinstance(one, str)) if isinstance(runs, (list, tuple)) else ()
