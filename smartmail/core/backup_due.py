"""Which backup jobs are due, from the catalogue of their runs alone; and who may take a lease that another holds.

A timer only asks often. What is due follows from the schedule and from the runs that were recorded, so that a night
that was slept through is caught up, once, and a killed run is taken up again. A run that the catalogue dates in the
future was recorded by a clock that was wrong: it proves nothing, and nobody waits for it.

Times are milliseconds since the epoch; the wall clock is that of a zone that is an argument. A time that the clock
skips is at the first minute after the jump, one that it shows twice is at the first.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import Final

from smartmail.core.months import MS_PER_MINUTE, local_minute

TOLERANCE_MS: Final = 60_000
"""A run this far in the future is one that has just begun."""
MOST_MISSED: Final = 1_000
"""More than this are not counted."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EVERY_DAY: Final = frozenset(range(7))


class ScheduleError(ValueError):
    """There is no such schedule; the message says why."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """By the wall clock: `times` of the days in `weekdays` (0: Monday). Or, with every_minutes, at all multiples of it
    since the epoch. retries: how often a failed run is tried again before the next time comes, each after
    retry_minutes more than the one before. Raises ScheduleError."""

    times: tuple[time, ...] = ()
    weekdays: frozenset[int] = _EVERY_DAY
    every_minutes: int = 0
    retries: int = 3
    retry_minutes: int = 15

    def __post_init__(self) -> None:
        if bool(self.times) == bool(self.every_minutes) or self.every_minutes < 0:
            raise ScheduleError("a schedule has either times of the day or a number of minutes from 1")
        if self.times and (not self.weekdays or not self.weekdays <= _EVERY_DAY):
            raise ScheduleError("a schedule has at least one day of the week, 0 (Monday) to 6")
        if any(one.second or one.microsecond or one.tzinfo for one in self.times):
            raise ScheduleError("a schedule names whole minutes, and no zone")
        if self.retries < 0 or self.retry_minutes < 1:
            raise ScheduleError("a number of retries is not negative, and they are a minute apart at least")


class RunState(StrEnum):
    """How far a run came. The last four are DESIGN's outcomes; stale: it ended, but what it was to copy was too old."""

    STARTED = "started"
    OK = "ok"
    PARTIAL = "partial"
    FAILED = "failed"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Run:
    """One line of the catalogue. ended_ms: None as long as it has not said that it ended."""

    name: str
    started_ms: int
    ended_ms: int | None
    state: RunState


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the schedule sees it. order: jobs with a smaller one go first (accounts before mail)."""

    name: str
    schedule: Schedule
    order: int = 0


class Cause(StrEnum):
    """Why a job is due, or why it is not."""

    NEVER_RUN = "never run"
    TIME_CAME = "its time came"
    CAUGHT_UP = "times were missed"
    RESUMED = "the last run was cut off"
    RETRIED = "the last run failed"
    RUNNING = "it is running"
    NOT_YET = "its time has not come"
    WAITS_TO_RETRY = "the last run failed a short while ago"
    GIVEN_UP = "it failed as often as it may before its next time"


DUE: Final = frozenset((Cause.NEVER_RUN, Cause.TIME_CAME, Cause.CAUGHT_UP, Cause.RESUMED, Cause.RETRIED))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one job. slot_ms: the newest time of its schedule that has come; next_ms: when it is due by itself the next
    time, or is tried again. missed: times of the schedule that came and went without a run, without the newest.
    resumes: the run to take up again, "" for a new one. distrusted: runs that are dated in the future."""

    job: str
    cause: Cause
    slot_ms: int
    next_ms: int
    missed: int = 0
    resumes: str = ""
    distrusted: tuple[str, ...] = ()

    @property
    def due(self) -> bool:
        """Is it to be run now?"""
        return self.cause in DUE


def judge(job: Job, runs: Iterable[Run], zone: tzinfo, now_ms: int, *, leased: bool = False) -> Verdict:
    """Is the job due? runs: of this job, in any order. leased: somebody holds the job's lease and renews it, so a run
    without an end is running and not cut off."""
    known = list(runs)
    distrusted = tuple(sorted(one.name for one in known if one.started_ms > now_ms + TOLERANCE_MS))
    past = sorted((one for one in known if one.started_ms <= now_ms + TOLERANCE_MS), key=lambda one: one.started_ms)
    slot, after = _around(job.schedule, zone, now_ms)
    if leased:
        return Verdict(job.name, Cause.RUNNING, slot, after, 0, "", distrusted)
    if not past:
        return Verdict(job.name, Cause.NEVER_RUN, slot, now_ms, 0, "", distrusted)
    last = past[-1]
    if last.state is RunState.STARTED or last.ended_ms is None:
        return Verdict(job.name, Cause.RESUMED, slot, now_ms, 0, last.name, distrusted)
    if last.started_ms < slot:
        missed = _missed(job.schedule, zone, last.started_ms, slot)
        return Verdict(job.name, Cause.CAUGHT_UP if missed else Cause.TIME_CAME, slot, now_ms, missed, "", distrusted)
    if last.state is RunState.FAILED:
        cause, at = _retry(job.schedule, past, slot, now_ms)
        return Verdict(job.name, cause, slot, at if at else after, 0, "", distrusted)
    return Verdict(job.name, Cause.NOT_YET, slot, after, 0, "", distrusted)


def due_jobs(verdicts: Iterable[tuple[Job, Verdict]]) -> tuple[tuple[Job, Verdict], ...]:
    """Those that are due, in the order to run them: by `order`, then the longest overdue, then by name."""
    due = [(job, verdict) for job, verdict in verdicts if verdict.due]
    return tuple(sorted(due, key=lambda one: (one[0].order, one[1].slot_ms, one[0].name)))


def _retry(schedule: Schedule, past: Sequence[Run], slot: int, now_ms: int) -> tuple[Cause, int]:
    """What becomes of a job whose newest run failed; and when it is tried again, 0 for not before its next time."""
    failures = 0
    for one in reversed(past):
        if one.state is not RunState.FAILED or one.started_ms < slot:
            break
        failures += 1
    if failures > schedule.retries:
        return Cause.GIVEN_UP, 0
    ended = past[-1].ended_ms or past[-1].started_ms
    # An end in the future is as little to be trusted as a beginning there.
    at = min(ended, now_ms) + failures * schedule.retry_minutes * MS_PER_MINUTE
    return (Cause.RETRIED, now_ms) if ended > now_ms + TOLERANCE_MS or at <= now_ms else (Cause.WAITS_TO_RETRY, at)


def _around(schedule: Schedule, zone: tzinfo, now_ms: int) -> tuple[int, int]:
    """The newest time that has come, and the first that has not."""
    if schedule.every_minutes:
        step = schedule.every_minutes * MS_PER_MINUTE
        slot = now_ms // step * step
        return slot, slot + step
    today = _day_of(now_ms, zone)
    # A week back and forth has every weekday in it; one more day each way for clocks that skip or repeat one.
    slots = list(_slots(schedule, zone, today - timedelta(days=9), today + timedelta(days=9)))
    return max(one for one in slots if one <= now_ms), min(one for one in slots if one > now_ms)


def _missed(schedule: Schedule, zone: tzinfo, after_ms: int, slot_ms: int) -> int:
    """How many times lie strictly between, MOST_MISSED at most."""
    if schedule.every_minutes:
        step = schedule.every_minutes * MS_PER_MINUTE
        return min(max((slot_ms - 1) // step - after_ms // step, 0), MOST_MISSED)
    last = _day_of(slot_ms, zone) + timedelta(days=1)
    first = max(_day_of(after_ms, zone) - timedelta(days=1), last - timedelta(days=MOST_MISSED * 7))
    return min(sum(after_ms < one < slot_ms for one in _slots(schedule, zone, first, last)), MOST_MISSED)


def _slots(schedule: Schedule, zone: tzinfo, first: date, last: date) -> Iterator[int]:
    """The times of the days from first to last, each once: two that a jump of the clock puts together are one."""
    found: set[int] = set()
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        if day.weekday() in schedule.weekdays:
            found.update(local_minute(datetime.combine(day, one), zone) * MS_PER_MINUTE for one in schedule.times)
    return iter(sorted(found))


def _day_of(at_ms: int, zone: tzinfo) -> date:
    return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone).date()


# leases


@dataclass(frozen=True, slots=True)
class Lease:
    """Who works on a repository. holder: its own name for itself, of no other process ever; term: raised by every
    change of holder, and carried by all it writes, so that a holder that was given up and wakes cannot write; beat:
    raised by every renewal. No clock is in it: the holder's may be wrong."""

    holder: str
    host: str
    term: int
    beat: int


@dataclass(frozen=True, slots=True)
class Look:
    """What somebody else saw of a lease, and when by the looker's own clock, which must not be one that can be set."""

    holder: str
    term: int
    beat: int
    at_ms: int


class Standing(StrEnum):
    """Of a lease, towards somebody who wants it."""

    FREE = "free"
    OURS = "ours"
    HELD = "held"
    DEAD = "dead"
    """It may be taken over, with the next term."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody who wants a lease. alive: whether the holder's process lives, if it is on this host and that can be
    told; None: it cannot."""

    holder: str
    host: str
    now_ms: int
    alive: bool | None = None


def judge_lease(lease: Lease | None, look: Look | None, claim: Claim, ttl_ms: int) -> tuple[Standing, Look | None]:
    """May the claimant work? And what to remember until it asks again.

    A holder is dead if its process is known not to live, or if nothing of the lease changed between two looks that are
    `ttl_ms` apart: never by what one look shows. A holder that is known to live is never given up.
    """
    if lease is None:
        return Standing.FREE, None
    if lease.holder == claim.holder:
        return Standing.OURS, None
    alive = claim.alive if lease.host == claim.host else None
    if alive is False:
        return Standing.DEAD, None
    same = look is not None and (look.holder, look.term, look.beat) == (lease.holder, lease.term, lease.beat)
    if look is None or not same or look.at_ms > claim.now_ms:
        return Standing.HELD, Look(lease.holder, lease.term, lease.beat, claim.now_ms)
    if alive is None and claim.now_ms - look.at_ms >= ttl_ms:
        return Standing.DEAD, look
    return Standing.HELD, look


def taken(lease: Lease | None, claim: Claim) -> Lease:
    """The lease as the claimant writes it, on the condition that what is stored is still `lease`."""
    return Lease(claim.holder, claim.host, 1 if lease is None else lease.term + 1, 0)


def renewed(lease: Lease) -> Lease:
    """The lease with its next beat, on the same condition."""
    return Lease(lease.holder, lease.host, lease.term, lease.beat + 1)
