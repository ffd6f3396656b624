"""The arithmetic of one counter against naive oracles, the clock, memory, dump and load."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmail.core.limits import Charge, Counters, Limit, Refusal, Reservation, Scope, Unit, Usage
from smartmail.core.meter import GRAINS, HOLD_NS, NS, RowError, SteadyClock

T0 = 1_800_000_000 * NS
TTL = 900 * NS
A = "a:17"

relaxed = settings(deadline=None)


def quota(amount: int, period: int = 60, *, name: str = "quota") -> Limit:
    return Limit(name, Scope.ACCOUNT, Unit.MESSAGES, amount, period)


def rate(amount: int, burst: int, period: int = 60) -> Limit:
    return Limit("rate", Scope.ACCOUNT, Unit.MESSAGES, amount, period, burst)


def take(counters: Counters, limit: Limit, now: int, amount: int = 1, key: str = A) -> bool:
    """Reserve and commit at once; False when refused."""
    taken = counters.reserve([Charge(limit, key, amount)], now, TTL)
    if isinstance(taken, Refusal):
        return False
    counters.commit(taken.id, now)
    return True


def reserved(counters: Counters, charges: list[Charge], now: int, ttl: int = TTL) -> Reservation:
    taken = counters.reserve(charges, now, ttl)
    assert isinstance(taken, Reservation)
    return taken


def refused(counters: Counters, charges: list[Charge], now: int) -> Refusal:
    taken = counters.reserve(charges, now, TTL)
    assert isinstance(taken, Refusal)
    return taken


def roundtrip(counters: Counters, now: int) -> Counters:
    again = Counters()
    again.load(counters.dump(), now)
    return again


# ---- properties against oracles

gaps = st.sampled_from([0, 1, NS // 2, NS - 1, NS, NS + 1, 29 * NS, 59 * NS]) | st.integers(0, 30 * NS)
events = st.lists(st.tuples(gaps, st.integers(1, 5)), max_size=60)


def most_in_any_window(log: list[tuple[int, int]], span: int) -> int:
    """The most units in any half-open window of `span`, wherever it begins."""
    return max((sum(n for at, n in log if start <= at < start + span) for start, _ in log), default=0)


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        ([0, 0, 60 * NS - 1, 60 * NS], "yyny"),
        ([0, NS - 1, 60 * NS, 61 * NS - 2, 61 * NS - 1, 61 * NS - 1], "yynnyy"),
        ([0, NS, 60 * NS, 61 * NS - 1, 61 * NS], "yyyny"),
        ([0, NS - 1, NS, 61 * NS - 2, 61 * NS - 1], "yynny"),
    ],
    ids=["half-open period", "one grain", "two grains", "a refused mail joins no grain"],
)
def test_a_sliding_quota_to_the_nanosecond(nanoseconds: list[int], expected: str) -> None:
    counters = Counters()
    assert "".join("y" if take(counters, quota(2), T0 + at) else "n" for at in nanoseconds) == expected


@given(amount=st.integers(1, 12), steps=events)
@relaxed
def test_a_sliding_quota_is_never_exceeded_and_at_most_a_sixtieth_too_strict(
    amount: int, steps: list[tuple[int, int]]
) -> None:
    counters, log, now = Counters(), [], T0
    limit = quota(amount)
    for wait, units in steps:
        now += wait
        passed = take(counters, limit, now, units)
        strict = sum(n for at, n in log if at > now - 61 * NS)
        assert passed or strict + units > amount, "refused although a window a sixtieth longer had room"
        if passed:
            log.append((now, units))
    assert most_in_any_window(log, 60 * NS) <= amount


@given(
    amount=st.integers(1, 12),
    steps=st.lists(st.tuples(st.integers(NS, 90 * NS), st.integers(1, 5)), max_size=60),
)
@relaxed
def test_a_sliding_quota_is_exact_when_mails_are_a_grain_apart(amount: int, steps: list[tuple[int, int]]) -> None:
    counters, log, now = Counters(), [], T0
    for wait, units in steps:
        now += wait
        fits = sum(n for at, n in log if at > now - 60 * NS) + units <= amount
        assert take(counters, quota(amount), now, units) == fits
        if fits:
            log.append((now, units))


@given(
    per_period=st.integers(1, 50),
    burst=st.integers(1, 12),
    period=st.sampled_from([1, 7, 60, 86400]),
    steps=st.lists(st.tuples(st.integers(0, 30 * NS), st.integers(1, 13)), max_size=60),
)
@relaxed
def test_a_rate_is_the_textbook_gcra(per_period: int, burst: int, period: int, steps: list[tuple[int, int]]) -> None:
    """Virtual scheduling with a theoretical arrival time, in exact fractions."""
    counters, now = Counters(), T0
    limit = rate(per_period, burst, period)
    interval = Fraction(period * NS, per_period)
    arrival = Fraction(0)
    for wait, units in steps:
        now += wait
        then = max(arrival, Fraction(now)) + units * interval
        fits = then - now <= burst * interval
        assert take(counters, limit, now, units) == fits
        if fits:
            arrival = then


limits = st.sampled_from([quota(5), quota(7, 3600), rate(5, 3), rate(7, 7, 13), rate(120, 9)])


@given(limit=limits, steps=events, held=st.integers(0, 3), asked=st.integers(1, 9))
@relaxed
def test_after_the_time_named_in_a_refusal_the_charge_fits_and_a_second_earlier_it_does_not(
    limit: Limit, steps: list[tuple[int, int]], held: int, asked: int
) -> None:
    counters, now = Counters(), T0
    for wait, units in steps:
        now += wait // 8
        take(counters, limit, now, units)
    flying = counters.reserve([Charge(limit, A, held)], now, TTL)
    answer = counters.reserve([Charge(limit, A, asked)], now, TTL)
    if isinstance(answer, Reservation) or answer.retry_after == 0:
        assert isinstance(answer, Reservation) or asked > (limit.burst or limit.quota)
        return
    if isinstance(flying, Reservation):
        counters.commit(flying.id, now)
    again = roundtrip(counters, now)
    assert take(counters, limit, now + answer.retry_after * NS, asked)
    if answer.retry_after > 1:
        assert not take(again, limit, now + (answer.retry_after - 1) * NS, asked)


@given(limit=limits, steps=events)
@relaxed
def test_the_time_at_which_a_unit_is_free_is_exact(limit: Limit, steps: list[tuple[int, int]]) -> None:
    counters, now = Counters(), T0
    for wait, units in steps:
        now += wait // 8
        take(counters, limit, now, units)
    usage = counters.usage(limit, A, now)
    if usage.free_at_ns > now:
        assert isinstance(roundtrip(counters, now).reserve([Charge(limit, A, 1)], usage.free_at_ns - 1, TTL), Refusal)
    assert isinstance(counters.reserve([Charge(limit, A, 1)], usage.free_at_ns, TTL), Reservation)


@pytest.mark.parametrize("limit", [quota(2), rate(2, 2)], ids=["quota", "rate"])
def test_what_is_in_flight_is_foreseen_as_used_now(limit: Limit) -> None:
    counters = Counters()
    assert take(counters, limit, T0)
    now = T0 + NS // 2
    flying = reserved(counters, [Charge(limit, A, 1)], now)
    foreseen = counters.usage(limit, A, now).free_at_ns
    counters.commit(flying.id, now)
    assert counters.usage(limit, A, now).free_at_ns == foreseen > now


# ---- memory


@pytest.mark.parametrize("limit", [quota(10**9, 60), rate(10**9, 10**9, 60)], ids=["quota", "rate"])
def test_a_busy_key_takes_bounded_memory(limit: Limit) -> None:
    counters = Counters()
    for step in range(2000):
        assert take(counters, limit, T0 + step * NS // 7)
    (_, row) = counters.dump()
    assert len(row) <= 6 + 2 * (GRAINS + 2)


@pytest.mark.parametrize("keys", [10, 5000, 40_000])
def test_drained_keys_are_forgotten(keys: int) -> None:
    counters = Counters()
    for number in range(keys):
        assert take(counters, quota(5) if number % 2 else rate(60, 5), T0, key=f"i:{number}")
    assert counters.keys == keys
    for _ in range(66):
        counters.expire(T0 + 61 * NS)
    assert counters.keys == 0


def test_a_key_that_still_counts_or_is_held_is_not_forgotten() -> None:
    counters = Counters()
    assert take(counters, quota(5, 3600), T0)
    taken = reserved(counters, [Charge(quota(5, name="held"), A, 1)], T0, ttl=10**6 * NS)
    for _ in range(100):
        counters.expire(T0 + 3599 * NS)
    assert counters.keys == 2
    counters.commit(taken.id, T0 + 3599 * NS)
    assert counters.usage(quota(5, name="held"), A, T0 + 3599 * NS).used == 1


def test_a_refused_newcomer_leaves_no_key() -> None:
    counters = Counters()
    for number in range(1000):
        refused(counters, [Charge(quota(5), f"r:{number}", 6)], T0)
    assert counters.keys == 0


# ---- the clock


def test_time_that_goes_on_is_read_as_it_is() -> None:
    clock = SteadyClock()
    assert [clock.read(now) for now in (5, 5, 7, 10**20)] == [5, 5, 7, 10**20]


def test_a_clock_set_back_twice_is_believed_as_soon() -> None:
    clock = SteadyClock()
    clock.read(5000 * NS)
    clock.read(4000 * NS)
    for step in range(4):
        clock.read(1000 * NS + step * NS)
    assert clock.read(1010 * NS) == 5007 * NS


def test_one_wrong_reading_moves_nothing() -> None:
    clock = SteadyClock()
    assert [clock.read(now) for now in (100 * NS, 40 * NS, 101 * NS)] == [100 * NS, 100 * NS, 101 * NS]
    assert clock.offset == 0


def test_a_clock_set_back_is_believed_once_it_runs_on() -> None:
    clock = SteadyClock()
    clock.read(5000 * NS)
    assert clock.read(1000 * NS) == 5000 * NS
    assert clock.read(1000 * NS + HOLD_NS) == 5000 * NS
    assert clock.read(1000 * NS + HOLD_NS + 1) == 5000 * NS
    assert clock.read(1000 * NS + HOLD_NS + 1 + 60 * NS) == 5060 * NS


@given(st.lists(st.integers(-200 * NS, 200 * NS), min_size=1, max_size=40))
@relaxed
def test_whatever_a_clock_does_time_never_runs_back_nor_faster_than_the_clock(steps: list[int]) -> None:
    clock, raw = SteadyClock(), T0
    last = first = clock.read(raw)
    forward = 0
    for step in steps:
        raw += step
        forward += max(0, step)
        now = clock.read(raw)
        assert now >= last
        last = now
    assert last - first <= forward


@pytest.mark.parametrize("limit", [quota(5), rate(5, 5)], ids=["quota", "rate"])
@pytest.mark.parametrize("back", [1, NS, 3600 * NS, 365 * 86400 * NS])
def test_a_clock_set_back_neither_loosens_nor_freezes(limit: Limit, back: int) -> None:
    counters = Counters()
    assert take(counters, limit, T0, 5)
    now = T0 - back
    assert not take(counters, limit, now)
    for _ in range(70):
        counters.expire(now := now + NS)
    assert take(counters, limit, now, 5)


def test_a_clock_set_back_and_forth_drains_nothing() -> None:
    counters = Counters()
    limit = rate(60, 5)
    assert take(counters, limit, T0, 5)
    for _ in range(100):
        assert not take(counters, limit, T0 - 10 * NS)
        assert not take(counters, limit, T0)


# ---- dump and load


@given(
    limit=limits,
    steps=events,
    gap=st.integers(0, 100 * NS),
    after=events,
)
@relaxed
def test_restored_counters_decide_as_the_old_ones_would_have(
    limit: Limit, steps: list[tuple[int, int]], gap: int, after: list[tuple[int, int]]
) -> None:
    old, now = Counters(), T0
    for wait, units in steps:
        now += wait // 8
        take(old, limit, now, units)
    new = roundtrip(old, now := now + gap)
    for wait, units in after:
        now += wait // 8
        assert take(new, limit, now, units) == take(old, limit, now, units)
        assert new.usage(limit, A, now) == old.usage(limit, A, now)


@pytest.mark.parametrize("limit", [quota(5), rate(5, 5)], ids=["quota", "rate"])
def test_what_is_in_flight_at_a_dump_is_restored_as_used(limit: Limit) -> None:
    counters = Counters()
    assert take(counters, limit, T0, 2)
    flying = reserved(counters, [Charge(limit, A, 2)], T0)
    again = roundtrip(counters, T0)
    assert again.usage(limit, A, T0) == Usage(4, 0, 1, T0)
    counters.release(flying.id, T0)
    assert counters.usage(limit, A, T0).used == 2


@pytest.mark.parametrize("limit", [quota(5), rate(5, 5)], ids=["quota", "rate"])
@pytest.mark.parametrize("ahead", [NS, 86400 * NS, 100 * 365 * 86400 * NS])
def test_a_dump_from_the_future_waits_no_longer_than_it_ever_had_to(limit: Limit, ahead: int) -> None:
    counters = Counters()
    assert take(counters, limit, T0 + ahead, 5)
    again = roundtrip(counters, T0)
    assert not take(again, limit, T0)
    assert take(again, limit, T0 + 60 * NS, 5)


@pytest.mark.parametrize("limit", [quota(5), rate(5, 5)], ids=["quota", "rate"])
def test_times_in_a_dump_that_lie_ahead_of_its_own_clock_are_cut(limit: Limit) -> None:
    counters = Counters()
    far = T0 + 10**9 * NS
    full = {
        "rate": ("rate", "rate", A, "messages", 60, 5, 5 * 60 * NS),
        "quota": ("window", "quota", A, "messages", 60, far, far, 5),
    }
    counters.load([("clock", 1, T0), full[limit.name]], T0)
    assert not take(counters, limit, T0)
    assert take(counters, limit, T0 + 60 * NS, 5)


def test_a_dump_taken_after_the_clock_was_set_back_is_in_its_time() -> None:
    counters = Counters()
    assert take(counters, quota(5), T0 + 3600 * NS, 5)
    now = T0
    for _ in range(30):
        counters.expire(now := now + NS)
    again = roundtrip(counters, now)
    assert again.usage(quota(5), A, now).free_at_ns == counters.usage(quota(5), A, now).free_at_ns


def test_old_counters_are_forgotten_by_loading_later() -> None:
    counters = Counters()
    assert take(counters, quota(5), T0, 5)
    assert take(roundtrip(counters, T0 + 60 * NS), quota(5), T0 + 60 * NS, 5)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("clock", 2, T0)],
        [("clock", 1, "now")],
        [("clock", 1, T0), ()],
        [("clock", 1, T0), ("bucket", "n", A, "messages", 60, 1, 1, T0)],
        [("clock", 1, T0), ("rate", "n", A, "messages", 60, 1, -1)],
        [("clock", 1, T0), ("rate", "n", A, "messages", 60, 1, 1, T0)],
        [("clock", 1, T0), ("rate", "n", 17, "messages", 60, 1, 1)],
        [("clock", 1, T0), ("rate", "n", A, "messages", 0, 1, 1)],
        [("clock", 1, T0), ("rate", "n", A, "messages", 60, 1, "1")],
        [("clock", 1, T0), ("window", "n", A, "messages", 60, T0, T0)],
        [("clock", 1, T0), ("window", "n", A, "messages", 60, T0, T0, -1)],
        [("clock", 1, T0), ("window", "n", A, "messages", 60, T0, T0, 1, T0 - 1, 1)],
    ],
)
def test_rows_that_dump_did_not_write_change_nothing(rows: list[tuple[int | str, ...]]) -> None:
    counters = Counters()
    assert take(counters, quota(5), T0, 5)
    with pytest.raises(RowError):
        counters.load(rows, T0)
    assert counters.usage(quota(5), A, T0).used == 5
