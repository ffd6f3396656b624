"""The agent's clock: what the collector says counts, the wall clock only says where to begin."""

from agentworld import NOW_MS, FakeTime
from hypothesis import given
from hypothesis import strategies as st

from smartmail.monitor.clock import WORST_ROUND_TRIP_MS, CorrectedClock, SystemTime


def learn(clock: CorrectedClock, time: FakeTime, *, trip_ms: int = 0, there_ms: int | None = None) -> bool:
    """A collector with the true time answers; the request takes half of the trip unless `there_ms` says else."""
    sent = time.steady_ms()
    time.true_ms += trip_ms // 2 if there_ms is None else there_ms
    server = time.true_ms
    time.true_ms = NOW_MS + (sent - 5_000) + trip_ms
    return clock.learn(sent, server, time.steady_ms()) is not None


def test_until_the_first_answer_it_is_the_wall_clock_of_the_start() -> None:
    time = FakeTime(wall_off_ms=300_000)
    clock = CorrectedClock(time)
    assert clock.now_ms() == NOW_MS + 300_000
    assert clock.offset_ms is None


def test_case_27_an_agent_five_minutes_off_goes_by_the_collectors_time() -> None:
    for off in (300_000, -300_000):
        time = FakeTime(wall_off_ms=off)
        clock = CorrectedClock(time)
        assert learn(clock, time)
        assert clock.now_ms() == time.true_ms
        assert clock.offset_ms == -off


def test_a_step_of_the_wall_clock_does_not_matter() -> None:
    time = FakeTime()
    clock = CorrectedClock(time)
    time.wall_off_ms = -7_200_000
    assert clock.now_ms() == time.true_ms
    learn(clock, time)
    time.wall_off_ms = 3_600_000
    time.true_ms += 60_000
    assert clock.now_ms() == time.true_ms


@given(st.integers(-(10**9), 10**9), st.integers(0, WORST_ROUND_TRIP_MS), st.data())
def test_the_error_is_at_most_half_the_round_trip(off: int, trip: int, data: st.DataObject) -> None:
    time = FakeTime(wall_off_ms=off)
    clock = CorrectedClock(time)
    learn(clock, time, trip_ms=trip, there_ms=data.draw(st.integers(0, trip)))
    assert abs(clock.now_ms() - time.true_ms) <= trip // 2 + 1


def test_an_answer_that_says_no_more_than_is_known_moves_nothing() -> None:
    time = FakeTime()
    clock = CorrectedClock(time)
    learn(clock, time)
    assert not learn(clock, time, trip_ms=400, there_ms=0)
    assert clock.now_ms() == time.true_ms
    assert not learn(clock, time, trip_ms=400, there_ms=400)


def test_a_better_answer_takes_the_place_of_a_worse_one() -> None:
    time = FakeTime()
    clock = CorrectedClock(time)
    learn(clock, time, trip_ms=4_000, there_ms=0)
    assert clock.now_ms() == time.true_ms - 2_000
    assert learn(clock, time, trip_ms=20)
    assert clock.now_ms() == time.true_ms


def test_an_answer_that_took_too_long_teaches_nothing() -> None:
    time = FakeTime(wall_off_ms=50_000)
    clock = CorrectedClock(time)
    assert not learn(clock, time, trip_ms=WORST_ROUND_TRIP_MS + 1)
    assert clock.offset_ms is None


def test_an_instant_of_the_steady_clock_is_told_by_what_is_known_later() -> None:
    time = FakeTime(wall_off_ms=300_000)
    clock = CorrectedClock(time)
    began = clock.steady_ms()
    time.true_ms += 5_000
    learn(clock, time)
    assert clock.at(began) == NOW_MS


async def test_the_machines_own_time_goes_on() -> None:
    time = SystemTime()
    before, wall = time.steady_ms(), time.wall_ms()
    await time.sleep_ms(2)
    assert time.steady_ms() > before
    assert time.wall_ms() >= wall
    await time.sleep_ms(-5)


async def test_a_timer_that_is_early_does_not_begin_the_next_minute_in_the_one_before() -> None:
    class Early(FakeTime):
        async def sleep_ms(self, milliseconds: int) -> None:
            self.true_ms += max(milliseconds - 1, 1)

    time = Early(NOW_MS + 7)
    clock = CorrectedClock(time)
    await clock.sleep_until(NOW_MS + 60_000)
    assert clock.now_ms() == NOW_MS + 60_000
