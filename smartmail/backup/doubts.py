"""What retention doubts beside its guards: snapshots that are late, and a clock that nothing can be compared with."""

from collections.abc import Sequence
from typing import Final

from smartmail.core.backup_plan import BackupPlan, RepositoryPlan
from smartmail.core.points import Expected, Freshness, Snapshot, ages
from smartmail.core.retention import Ground, Objection

JUMP_DAYS: Final = 30
"""Retention is due every day: after so many without one, the clock is doubted until a person has looked."""


def lateness(repository: RepositoryPlan, plan: BackupPlan, listing: Sequence[Snapshot], now_ms: int) -> list[Objection]:
    """The jobs whose newest snapshot is missing, or older than it may be: what is kept would soon be all there is."""
    expected = [Expected(one.name, repository.name, repository.rpo_ms) for one in plan.jobs_in(repository.name)]
    found = []
    for age in ages(expected, {repository.name: listing}, now_ms):
        if age.state is Freshness.NEVER:
            found.append(Objection(Ground.NEWEST_TOO_OLD, f"job {age.expected.job}: there is no snapshot of it"))
        elif age.state is Freshness.STALE and age.last_ms is not None:
            hours, most = (now_ms - age.last_ms) // 3_600_000, repository.rpo_ms // 3_600_000
            text = f"job {age.expected.job}: the newest is {hours} hours old, where {most} may be"
            found.append(Objection(Ground.NEWEST_TOO_OLD, text))
    return found


def jump(last_ms: int | None, now_ms: int) -> list[Objection]:
    """Where no other clock is at hand, there is one sign of ours being far ahead: that retention was judged well long
    ago. last_ms: when it last was, None for never."""
    days = 0 if last_ms is None else (now_ms - last_ms) // 86_400_000
    if days < JUMP_DAYS:
        return []
    text = f"the last retention was {days} days ago by this clock, and there is no other to compare it with"
    return [Objection(Ground.CLOCK_UNPROVED, text)]
