"""Which jobs are due, whatever the clock and the timer did; and when a lease may be taken from another."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.backup_due import (
    DUE,
    MOST_MISSED,
    Cause,
    Claim,
    Job,
    Lease,
    Look,
    Run,
    RunState,
    Schedule,
    ScheduleError,
    Standing,
    Verdict,
    due_jobs,
    judge,
    judge_lease,
    renewed,
    taken,
)

LONDON = ZoneInfo("Europe/London")
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


NIGHTLY = Job("mail", Schedule((time(2),)))
NOW = ms("2026-11-24T09:00")
"""A Tuesday; its slot was at two."""
SLOT = ms("2026-11-24T02:00")


def run(started: int | str, state: RunState = RunState.OK, name: str = "r", minutes: int = 10) -> Run:
    started_ms = ms(started) if isinstance(started, str) else started
    return Run(name, started_ms, None if state is RunState.STARTED else started_ms + minutes * MINUTE, state)


# the schedule


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        pytest.param([], Verdict("mail", Cause.NEVER_RUN, SLOT, NOW), id="never run"),
        pytest.param([run(SLOT)], Verdict("mail", Cause.NOT_YET, SLOT, SLOT + DAY), id="this night's was run"),
        pytest.param([run(SLOT + HOUR)], Verdict("mail", Cause.NOT_YET, SLOT, SLOT + DAY), id="run late"),
        pytest.param([run(SLOT - 1)], Verdict("mail", Cause.TIME_CAME, SLOT, NOW), id="begun just before"),
        pytest.param([run(SLOT - DAY)], Verdict("mail", Cause.TIME_CAME, SLOT, NOW), id="the night before"),
        pytest.param([run(SLOT - 4 * DAY)], Verdict("mail", Cause.CAUGHT_UP, SLOT, NOW, 3), id="three nights missed"),
        pytest.param(
            [run(SLOT), run(SLOT - 9 * DAY)], Verdict("mail", Cause.NOT_YET, SLOT, SLOT + DAY), id="caught up"
        ),
        pytest.param(
            [run(SLOT, RunState.PARTIAL)], Verdict("mail", Cause.NOT_YET, SLOT, SLOT + DAY), id="partial is a run"
        ),
        pytest.param([run(SLOT, RunState.STALE)], Verdict("mail", Cause.NOT_YET, SLOT, SLOT + DAY), id="stale is one"),
    ],
)
def test_a_nightly_job_is_due_from_its_time_until_it_was_begun(runs: list[Run], verdict: Verdict) -> None:
    assert judge(NIGHTLY, runs, UTC, NOW) == verdict
    assert judge(NIGHTLY, list(reversed(runs)), UTC, NOW) == verdict


def test_the_minute_of_the_schedule_is_due_and_the_millisecond_before_is_not() -> None:
    last = [run(SLOT - DAY)]
    assert judge(NIGHTLY, last, UTC, SLOT).cause is Cause.TIME_CAME
    early = judge(NIGHTLY, last, UTC, SLOT - 1)
    assert (early.cause, early.next_ms) == (Cause.NOT_YET, SLOT)


def test_a_weekly_job_waits_for_its_weekday() -> None:
    sundays = Job("drill", Schedule((time(4), time(16)), frozenset({6})))
    sunday = ms("2026-11-22T16:00")
    assert judge(sundays, [run(sunday)], UTC, NOW) == Verdict("drill", Cause.NOT_YET, sunday, ms("2026-11-29T04:00"))
    assert judge(sundays, [run(sunday - 7 * DAY)], UTC, NOW).missed == 1


def test_a_job_of_every_half_hour_is_due_at_the_half_hours() -> None:
    often = Job("accounts", Schedule(every_minutes=30))
    assert judge(often, [run(NOW - 31 * MINUTE)], UTC, NOW + MINUTE).missed == 1
    assert judge(often, [run(NOW - 29 * MINUTE)], UTC, NOW + MINUTE).cause is Cause.TIME_CAME
    assert judge(often, [run(NOW)], UTC, NOW + 29 * MINUTE) == Verdict(
        "accounts", Cause.NOT_YET, NOW, NOW + 30 * MINUTE
    )


def test_times_missed_for_years_are_counted_no_further_than_need_be() -> None:
    for schedule in (NIGHTLY.schedule, Schedule(every_minutes=1)):
        assert judge(Job("x", schedule), [run("1990-01-01")], UTC, NOW).missed == MOST_MISSED


@pytest.mark.parametrize(
    ("wall", "day", "slot"),
    [
        pytest.param(time(1, 30), "2026-03-29", "2026-03-29T01:00", id="skipped: just after the jump"),
        pytest.param(time(1, 30), "2026-10-25", "2026-10-25T00:30", id="shown twice: the first"),
        pytest.param(time(2, 0), "2026-10-25", "2026-10-25T02:00", id="after both"),
        pytest.param(time(2, 0), "2026-07-01", "2026-07-01T01:00", id="in summer"),
    ],
)
def test_times_are_of_the_wall_clock_over_changes_of_the_clock(wall: time, day: str, slot: str) -> None:
    job = Job("mail", Schedule((wall,)))
    at = ms(slot)
    assert judge(job, [run(at - DAY)], LONDON, at).slot_ms == at
    assert judge(job, [run(at - 20 * HOUR)], LONDON, at - 1).next_ms == at
    for later in range(at, at + 5 * HOUR, 10 * MINUTE):
        assert judge(job, [run(at)], LONDON, later).cause is Cause.NOT_YET


def test_two_times_that_a_jump_puts_together_are_one() -> None:
    job = Job("mail", Schedule((time(1, 10), time(1, 40))))
    jump = ms("2026-03-29T01:00")
    assert judge(job, [run(jump - 20 * HOUR)], LONDON, jump + HOUR).missed == 0
    assert judge(job, [run(jump)], LONDON, jump + HOUR).cause is Cause.NOT_YET


@pytest.mark.parametrize(
    "make",
    [
        lambda: Schedule(),
        lambda: Schedule((time(2),), every_minutes=5),
        lambda: Schedule(every_minutes=-5),
        lambda: Schedule((time(2),), frozenset()),
        lambda: Schedule((time(2),), frozenset({7})),
        lambda: Schedule((time(2, 0, 1),)),
        lambda: Schedule((time(2, tzinfo=UTC),)),
        lambda: Schedule((time(2),), retries=-1),
        lambda: Schedule((time(2),), retry_minutes=0),
    ],
)
def test_a_schedule_that_names_no_time_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ScheduleError):
        make()


# clocks and broken runs


def test_a_run_dated_in_the_future_is_not_believed_and_nobody_waits_for_it() -> None:
    ahead = run(NOW + 3650 * DAY, name="ahead")
    assert judge(NIGHTLY, [ahead], UTC, NOW) == Verdict("mail", Cause.NEVER_RUN, SLOT, NOW, distrusted=("ahead",))
    with_last = judge(NIGHTLY, [ahead, run(SLOT)], UTC, NOW)
    assert (with_last.cause, with_last.distrusted) == (Cause.NOT_YET, ("ahead",))


def test_a_clock_set_back_a_little_does_not_run_the_job_twice() -> None:
    assert judge(NIGHTLY, [run(SLOT + 30_000)], UTC, SLOT).cause is Cause.NOT_YET


def test_a_clock_ahead_by_ten_years_makes_one_run_and_the_right_clock_another() -> None:
    far = NOW + 3652 * DAY
    assert judge(NIGHTLY, [run(SLOT)], UTC, far).cause is Cause.CAUGHT_UP
    assert judge(NIGHTLY, [run(SLOT), run(far)], UTC, far).cause is Cause.NOT_YET
    assert judge(NIGHTLY, [run(SLOT), run(far)], UTC, NOW + DAY).cause is Cause.TIME_CAME


def test_a_run_that_was_cut_off_is_taken_up_again_and_one_that_runs_is_left_alone() -> None:
    cut = run(SLOT, RunState.STARTED, "cut")
    assert judge(NIGHTLY, [cut], UTC, NOW) == Verdict("mail", Cause.RESUMED, SLOT, NOW, resumes="cut")
    assert judge(NIGHTLY, [cut], UTC, NOW, leased=True).cause is Cause.RUNNING
    assert judge(NIGHTLY, [replace(cut, started_ms=SLOT - 3 * DAY)], UTC, NOW).resumes == "cut"


@pytest.mark.parametrize(
    ("failures", "minutes", "cause"),
    [
        pytest.param(1, 14, Cause.WAITS_TO_RETRY, id="too soon"),
        pytest.param(1, 15, Cause.RETRIED, id="first retry"),
        pytest.param(2, 29, Cause.WAITS_TO_RETRY, id="waits longer"),
        pytest.param(2, 30, Cause.RETRIED, id="second retry"),
        pytest.param(3, 45, Cause.RETRIED, id="third retry"),
        pytest.param(4, 300, Cause.GIVEN_UP, id="then no more"),
    ],
)
def test_a_failed_run_is_tried_again_ever_more_slowly_until_it_is_given_up(
    failures: int, minutes: int, cause: Cause
) -> None:
    runs = [run(SLOT + number * MINUTE, RunState.FAILED, minutes=0) for number in range(failures)]
    now = runs[-1].started_ms + minutes * MINUTE
    found = judge(NIGHTLY, runs, UTC, now)
    assert found.cause is cause
    expected = {Cause.WAITS_TO_RETRY: now + MINUTE, Cause.RETRIED: now, Cause.GIVEN_UP: SLOT + DAY}
    assert found.next_ms == expected[cause]


def test_what_failed_the_night_before_is_a_matter_of_that_night() -> None:
    before = [run(SLOT - DAY + number * HOUR, RunState.FAILED) for number in range(4)]
    assert judge(NIGHTLY, before, UTC, NOW).cause is Cause.TIME_CAME
    assert judge(NIGHTLY, [*before, run(SLOT, RunState.FAILED)], UTC, NOW).cause is Cause.RETRIED


def test_a_success_in_between_begins_the_retries_anew() -> None:
    states = [RunState.FAILED] * 3 + [RunState.OK, RunState.FAILED]
    runs = [run(SLOT + number * MINUTE, state) for number, state in enumerate(states)]
    assert judge(NIGHTLY, runs, UTC, NOW).cause is Cause.RETRIED


def test_an_end_in_the_future_holds_up_no_retry() -> None:
    odd = Run("odd", SLOT, NOW + 900 * DAY, RunState.FAILED)
    assert judge(NIGHTLY, [odd], UTC, NOW).cause is Cause.RETRIED


def test_due_jobs_go_in_their_order_then_the_longest_overdue() -> None:
    names = [("mail", 2, 5), ("accounts", 1, 9), ("keys", 1, 3), ("queue", 1, 3)]
    pairs = [
        (Job(name, NIGHTLY.schedule, order), Verdict(name, Cause.TIME_CAME, slot, 0)) for name, order, slot in names
    ]
    waiting = (Job("config", NIGHTLY.schedule), Verdict("config", Cause.NOT_YET, 0, 0))
    assert [job.name for job, _ in due_jobs([*pairs, waiting])] == ["keys", "queue", "accounts", "mail"]


# what always holds

schedules = st.one_of(
    st.builds(
        Schedule,
        st.lists(st.times().map(lambda one: one.replace(second=0, microsecond=0)), min_size=1, max_size=3).map(tuple),
        st.frozensets(st.integers(0, 6), min_size=1),
    ),
    st.builds(Schedule, every_minutes=st.integers(1, 3000)),
)
zones = st.sampled_from(
    [UTC, LONDON, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("America/St_Johns"), ZoneInfo("Pacific/Apia")]
)
moments = st.integers(ms("2009-01-01"), ms("2028-01-01"))


def slots_naively(schedule: Schedule, zone: ZoneInfo, first_ms: int, last_ms: int) -> list[int]:
    """Every minute is asked whether the wall clock reaches a time of the schedule in it for the first time."""
    found = []
    start = datetime.fromtimestamp(first_ms // MINUTE * 60, UTC)
    reached: set[datetime] = set()
    for number in range(-2 * 1440, (last_ms - first_ms) // MINUTE + 2):
        local = (start + timedelta(minutes=number)).astimezone(zone).replace(tzinfo=None, fold=0)
        before = (start + timedelta(minutes=number - 1)).astimezone(zone).replace(tzinfo=None, fold=0)
        days = {before.date() + timedelta(days=one) for one in range((local.date() - before.date()).days + 1)}
        wanted = {
            datetime.combine(day, one) for day in days | {local.date()} if day.weekday() in schedule.weekdays
            for one in schedule.times
        }  # fmt: skip
        new = {one for one in wanted if before < one <= local} - reached
        reached |= new
        if new and first_ms <= (at := int((start + timedelta(minutes=number)).timestamp()) * 1000) <= last_ms:
            found.append(at)
    return found


@given(
    st.lists(st.times().map(lambda one: one.replace(second=0, microsecond=0)), min_size=1, max_size=2).map(tuple),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.sampled_from(
        [
            (LONDON, "2026-03-28T12:00"),
            (LONDON, "2026-10-24T12:00"),
            (ZoneInfo("Australia/Lord_Howe"), "2026-04-04T00:00"),
            (ZoneInfo("Pacific/Apia"), "2011-12-29T12:00"),
            (ZoneInfo("America/Sao_Paulo"), "2018-11-03T12:00"),
        ]
    ),
    st.integers(0, 2 * 1440),
)
def test_the_slot_is_the_last_that_a_minute_by_minute_count_finds(
    times: tuple[time, ...], weekdays: frozenset[int], place: tuple[ZoneInfo, str], minutes: int
) -> None:
    zone, start = place
    now = ms(start) + minutes * MINUTE
    schedule = Schedule(times, weekdays)
    slots = slots_naively(schedule, zone, ms(start), now)
    found = judge(Job("x", schedule), [run(ms(start))], zone, now)
    if slots and slots[-1] > ms(start):
        assert found.due and found.slot_ms == slots[-1]
        assert found.missed == len([one for one in slots if one > ms(start)]) - 1
    else:
        assert not found.due


@given(schedules, zones, moments)
def test_now_lies_between_the_slot_and_the_next_and_a_run_now_is_enough(
    schedule: Schedule, zone: ZoneInfo, now: int
) -> None:
    found = judge(Job("x", schedule), [run(now)], zone, now)
    assert found.slot_ms <= now < found.next_ms and not found.due
    later = judge(Job("x", schedule), [run(now)], zone, found.next_ms)
    assert (later.cause, later.slot_ms) == (Cause.TIME_CAME, found.next_ms)


@given(schedules, zones, moments, st.lists(st.integers(0, 20 * 1440), min_size=1, max_size=30))
def test_however_seldom_the_timer_asks_each_slot_is_run_once_at_most(
    schedule: Schedule, zone: ZoneInfo, start: int, gaps: list[int]
) -> None:
    runs = [run(start)]
    now = start
    for gap in gaps:
        now += gap * MINUTE
        if judge(Job("x", schedule), runs, zone, now).due:
            runs.append(run(now, minutes=0))
            assert not judge(Job("x", schedule), runs, zone, now).due
    slots = [judge(Job("x", schedule), [one], zone, one.started_ms).slot_ms for one in runs]
    assert all(one < other for one, other in pairwise(slots))


@given(
    schedules,
    zones,
    moments,
    st.lists(st.tuples(st.integers(-9000, 9000), st.sampled_from(RunState), st.booleans()), max_size=6),
    st.randoms(),
)
def test_every_catalogue_gets_the_same_answer_in_whatever_order(
    schedule: Schedule, zone: ZoneInfo, now: int, drawn: list[tuple[int, RunState, bool]], chance: Random
) -> None:
    offsets = {offset: (state, ended) for offset, state, ended in drawn}
    runs = [
        Run(f"r{offset}", now + offset * MINUTE, now + offset * MINUTE if ended else None, state)
        for offset, (state, ended) in offsets.items()
    ]
    found = judge(Job("x", schedule), runs, zone, now)
    mixed = list(runs)
    chance.shuffle(mixed)
    assert judge(Job("x", schedule), mixed, zone, now) == found
    assert found.due is (found.cause in DUE)
    assert not found.due or found.next_ms == now
    assert found.due or found.next_ms > now


# leases

TTL = 10 * MINUTE
LEASE = Lease("them-1", "mx2", 4, 17)
SEEN = Look("them-1", 4, 17, 0)


@pytest.mark.parametrize(
    ("lease", "look", "claim", "found"),
    [
        pytest.param(None, SEEN, Claim("us", "mx1", 5), (Standing.FREE, None), id="nobody's"),
        pytest.param(replace(LEASE, holder="us"), None, Claim("us", "mx1", 5), (Standing.OURS, None), id="ours"),
        pytest.param(LEASE, None, Claim("us", "mx1", 5), (Standing.HELD, replace(SEEN, at_ms=5)), id="first look"),
        pytest.param(LEASE, SEEN, Claim("us", "mx1", TTL - 1), (Standing.HELD, SEEN), id="second look, too soon"),
        pytest.param(LEASE, SEEN, Claim("us", "mx1", TTL), (Standing.DEAD, SEEN), id="nothing moved for the time"),
        pytest.param(
            replace(LEASE, beat=18),
            SEEN,
            Claim("us", "mx1", TTL),
            (Standing.HELD, Look("them-1", 4, 18, TTL)),
            id="it was renewed",
        ),
        pytest.param(
            replace(LEASE, term=5, beat=17),
            SEEN,
            Claim("us", "mx1", TTL),
            (Standing.HELD, Look("them-1", 5, 17, TTL)),
            id="another term",
        ),
        pytest.param(
            replace(LEASE, holder="they"),
            SEEN,
            Claim("us", "mx1", TTL),
            (Standing.HELD, Look("they", 4, 17, TTL)),
            id="another holder",
        ),
        pytest.param(
            LEASE,
            replace(SEEN, at_ms=10**15),
            Claim("us", "mx1", TTL),
            (Standing.HELD, replace(SEEN, at_ms=TTL)),
            id="a look from the future is no look",
        ),
        pytest.param(LEASE, None, Claim("us", "mx2", 5, alive=False), (Standing.DEAD, None), id="its process is dead"),
        pytest.param(LEASE, SEEN, Claim("us", "mx2", 9 * TTL, alive=True), (Standing.HELD, SEEN), id="alive, and slow"),
        pytest.param(
            LEASE,
            None,
            Claim("us", "mx1", 5, alive=False),
            (Standing.HELD, replace(SEEN, at_ms=5)),
            id="a process of another host is not to be judged here",
        ),
    ],
)
def test_a_lease_is_taken_over_only_from_the_dead(
    lease: Lease | None, look: Look | None, claim: Claim, found: tuple[Standing, Look | None]
) -> None:
    assert judge_lease(lease, look, claim, TTL) == found


def test_a_lease_taken_over_has_the_next_term_and_a_renewed_one_the_next_beat() -> None:
    assert taken(None, Claim("us", "mx1", 0)) == Lease("us", "mx1", 1, 0)
    assert taken(LEASE, Claim("us", "mx1", 0)) == Lease("us", "mx1", 5, 0)
    assert renewed(LEASE) == replace(LEASE, beat=18)


@given(st.lists(st.tuples(st.integers(0, TTL), st.booleans()), max_size=40))
def test_a_holder_that_renews_within_the_time_is_never_given_up(steps: list[tuple[int, bool]]) -> None:
    lease, look, now, renewed_at = LEASE, None, 0, 0
    for gap, beats in steps:
        now += gap
        if beats or now - renewed_at >= TTL:
            lease, renewed_at = renewed(lease), now
        standing, look = judge_lease(lease, look, Claim("us", "mx1", now), TTL)
        assert standing is Standing.HELD


@given(st.integers(0, 10**9), st.lists(st.integers(1, TTL), min_size=1, max_size=30))
def test_a_holder_that_is_silent_is_given_up_after_the_time_and_never_before(start: int, gaps: list[int]) -> None:
    look, now = None, start
    for gap in (0, *gaps):
        now += gap
        standing, look = judge_lease(LEASE, look, Claim("us", "mx1", now), TTL)
        assert (standing is Standing.DEAD) is (now - start >= TTL)
