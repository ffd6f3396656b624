"""Reservations: what a table can say, the holes known from other counters by name, and racers."""

from collections.abc import Callable, Iterable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmail.core.limits import (
    Charge,
    Counters,
    Limit,
    Mode,
    Refusal,
    Reservation,
    ReservationEnded,
    Scope,
    Unit,
    Usage,
)
from smartmail.core.meter import NS

T0 = 1_800_000_000 * NS
TTL = 900 * NS
A = "a:17"

relaxed = settings(deadline=None)


def quota(
    amount: int,
    period: int = 60,
    *,
    name: str = "quota",
    unit: Unit = Unit.MESSAGES,
    mode: Mode = Mode.ENFORCE,
) -> Limit:
    return Limit(name, Scope.ACCOUNT, unit, amount, period, 0, mode)


def rate(amount: int, burst: int, period: int = 60, *, unit: Unit = Unit.MESSAGES, mode: Mode = Mode.ENFORCE) -> Limit:
    return Limit("rate", Scope.ACCOUNT, unit, amount, period, burst, mode)


def take(counters: Counters, limit: Limit, now: int, amount: int = 1, key: str = A) -> bool:
    """Reserve and commit at once; False when refused."""
    taken = counters.reserve([Charge(limit, key, amount)], now, TTL)
    if isinstance(taken, Refusal):
        return False
    counters.commit(taken.id, now)
    return True


def reserved(counters: Counters, charges: Iterable[Charge], now: int, ttl: int = TTL) -> Reservation:
    taken = counters.reserve(list(charges), now, ttl)
    assert isinstance(taken, Reservation)
    return taken


def refused(counters: Counters, charges: Iterable[Charge], now: int) -> Refusal:
    taken = counters.reserve(list(charges), now, TTL)
    assert isinstance(taken, Refusal)
    return taken


def roundtrip(counters: Counters, now: int) -> Counters:
    again = Counters()
    again.load(counters.dump(), now)
    return again


# ---- rules by table


@pytest.mark.parametrize(
    ("limit", "events", "expected"),
    [
        (quota(2), [(0, 1), (0, 1), (0, 1)], "yyn"),
        (quota(2), [(0, 2), (59, 1), (60, 2)], "yny"),
        (quota(2), [(0, 1), (30, 1), (60, 1), (60, 1), (90, 1)], "yyyny"),
        (quota(2), [(0, 3)], "n"),
        (quota(0), [(0, 1)], "n"),
        (rate(60, 1), [(0, 1), (0, 1), (1, 1), (1, 1)], "ynyn"),
        (rate(60, 5), [(0, 5), (0, 1), (3, 3), (3, 1), (9, 5)], "ynyny"),
        (rate(60, 5), [(0, 6), (0, 5)], "ny"),
        (rate(1, 1, 86400), [(0, 1), (86399, 1), (86400, 1)], "yny"),
        (rate(7, 3), [(0, 3), (8, 1), (9, 1), (17, 1), (18, 1)], "ynyny"),
        (rate(0, 5), [(0, 1)], "n"),
    ],
)
def test_what_passes_when(limit: Limit, events: list[tuple[int, int]], expected: str) -> None:
    counters = Counters()
    got = "".join("y" if take(counters, limit, T0 + at * NS, amount) else "n" for at, amount in events)
    assert got == expected


@pytest.mark.parametrize(
    ("limit", "before", "asked", "retry_after"),
    [
        (quota(5), 5, 1, 60),
        (quota(5), 5, 6, 0),
        (quota(0), 0, 1, 0),
        (rate(60, 5), 5, 1, 1),
        (rate(60, 5), 5, 5, 5),
        (rate(60, 5), 0, 6, 0),
        (rate(7, 3), 3, 1, 9),
        (rate(0, 3), 0, 1, 0),
    ],
)
def test_a_refusal_says_how_long_to_wait(limit: Limit, before: int, asked: int, retry_after: int) -> None:
    counters = Counters()
    if before:
        assert take(counters, limit, T0, before)
    charge = Charge(limit, A, asked)
    assert refused(counters, [charge], T0) == Refusal(charge, retry_after)


def test_of_several_limits_the_one_that_waits_longest_is_named() -> None:
    counters = Counters()
    minute, hour = quota(1, 60, name="minute"), quota(1, 3600, name="hour")
    both = [Charge(minute, A, 1), Charge(hour, A, 1)]
    counters.commit(reserved(counters, both, T0).id, T0)
    assert refused(counters, both, T0 + NS) == Refusal(both[1], 3599)


def test_a_charge_that_never_fits_is_named_before_one_that_must_wait() -> None:
    counters = Counters()
    full, small = quota(1, name="full"), quota(1, name="small")
    assert take(counters, full, T0)
    assert refused(counters, [Charge(full, A, 1), Charge(small, A, 2)], T0).retry_after == 0


def test_charges_of_one_key_in_one_call_add_up() -> None:
    counters = Counters()
    limit = quota(3)
    assert refused(counters, [Charge(limit, A, 2), Charge(limit, A, 2)], T0).retry_after == 0
    taken = reserved(counters, [Charge(limit, A, 1), Charge(limit, A, 2)], T0)
    assert counters.usage(limit, A, T0) == Usage(0, 3, 0, T0 + 60 * NS)
    counters.commit(taken.id, T0)
    assert counters.usage(limit, A, T0) == Usage(3, 0, 0, T0 + 60 * NS)


def test_keys_do_not_share() -> None:
    counters = Counters()
    assert all(take(counters, quota(1), T0, key=key) for key in ("a:1", "a:2", "c:1", "r:example.com"))


def test_limits_of_one_name_but_another_unit_period_or_kind_do_not_share() -> None:
    counters = Counters()
    alike = [
        quota(1),
        quota(1, unit=Unit.RECIPIENTS),
        quota(1, 3600),
        Limit("quota", Scope.ACCOUNT, Unit.MESSAGES, 1, 60, 1),
    ]
    assert all(take(counters, limit, T0) for limit in alike)
    assert not any(take(counters, limit, T0) for limit in alike)


@pytest.mark.parametrize("limit", [quota(5), rate(5, 5)], ids=["quota", "rate"])
def test_a_reservation_grows_all_or_none(limit: Limit) -> None:
    counters = Counters()
    other = quota(1, name="other")
    taken = reserved(counters, [Charge(limit, A, 3)], T0)
    more = counters.extend(taken.id, [Charge(limit, A, 1), Charge(other, A, 2)], T0)
    assert isinstance(more, Refusal)
    assert counters.usage(limit, A, T0).reserved == 3
    more = counters.extend(taken.id, [Charge(limit, A, 1), Charge(other, A, 1)], T0)
    assert isinstance(more, Reservation)
    assert more.id == taken.id
    counters.release(taken.id, T0)
    assert counters.usage(limit, A, T0) == Usage(0, 0, 5, T0)
    assert counters.usage(other, A, T0) == Usage(0, 0, 1, T0)


def test_growing_renews_the_time_to_live() -> None:
    counters = Counters()
    taken = reserved(counters, [Charge(quota(9), A, 1)], T0, ttl=10 * NS)
    counters.extend(taken.id, [Charge(quota(9), A, 1)], T0 + 9 * NS)
    assert counters.expire(T0 + 18 * NS) == 0
    assert counters.expire(T0 + 19 * NS) == 1


def test_a_reservation_that_has_ended_cannot_grow() -> None:
    counters = Counters()
    taken = reserved(counters, [Charge(quota(9), A, 1)], T0)
    counters.commit(taken.id, T0)
    with pytest.raises(ReservationEnded):
        counters.extend(taken.id, [Charge(quota(9), A, 1)], T0)


ENDINGS: dict[str, Callable[[Counters, int], object]] = {
    "commit": lambda counters, number: counters.commit(number, T0 + TTL),
    "release": lambda counters, number: counters.release(number, T0 + TTL),
    "expire": lambda counters, number: counters.expire(T0 + TTL),
}


@pytest.mark.parametrize("second", ENDINGS)
@pytest.mark.parametrize("first", ENDINGS)
@pytest.mark.parametrize("limit", [quota(5, 86400), rate(5, 5, 86400)], ids=["quota", "rate"])
def test_a_reservation_ends_once_by_whichever_comes_first(limit: Limit, first: str, second: str) -> None:
    counters = Counters()
    taken = reserved(counters, [Charge(limit, A, 3)], T0)
    ENDINGS[first](counters, taken.id)
    after_first = counters.usage(limit, A, T0 + TTL)
    ENDINGS[second](counters, taken.id)
    assert counters.usage(limit, A, T0 + TTL) == after_first
    assert after_first.used == (0 if first == "release" else 3)
    assert after_first.reserved == counters.open == 0


def test_what_expired_counts_as_committed_since_nobody_knows_how_it_ended() -> None:
    counters = Counters()
    taken = reserved(counters, [Charge(quota(2), A, 2)], T0, ttl=10 * NS)
    assert counters.expire(T0 + 10 * NS - 1) == 0
    assert counters.expire(T0 + 10 * NS) == 1
    counters.release(taken.id, T0 + 10 * NS)
    assert not take(counters, quota(2), T0 + 69 * NS)
    assert take(counters, quota(2), T0 + 70 * NS)


def test_reservations_expire_each_at_its_own_time() -> None:
    counters = Counters()
    for seconds in (30, 10, 20):
        reserved(counters, [Charge(quota(9), A, 1)], T0, ttl=seconds * NS)
    assert [counters.expire(T0 + seconds * NS) for seconds in (9, 10, 19, 20, 29, 30, 31)] == [
        0,
        1,
        0,
        1,
        0,
        1,
        0,
    ]


def test_an_empty_reservation_is_one() -> None:
    counters = Counters()
    taken = reserved(counters, [], T0)
    more = counters.extend(taken.id, [Charge(quota(1), A, 1)], T0)
    assert isinstance(more, Reservation)
    counters.commit(taken.id, T0)
    assert not take(counters, quota(1), T0)


# ---- release


def test_release_of_a_rate_gives_back_what_was_reserved_and_not_what_drained_meanwhile() -> None:
    """Taking the units off the level would give back a burst that time has given back already."""
    counters = Counters()
    limit = rate(60, 10)
    first = reserved(counters, [Charge(limit, A, 5)], T0)
    later = T0 + 5 * NS
    assert take(counters, limit, later, 5)
    counters.release(first.id, later)
    assert counters.usage(limit, A, later) == Usage(5, 0, 5, later)
    assert not take(counters, limit, later, 6)
    assert take(counters, limit, later, 5)


@given(
    limit=st.sampled_from([quota(10), rate(10, 10), rate(7, 10), rate(600, 10)]),
    before=st.integers(0, 5),
    amount=st.integers(1, 5),
    wait=st.integers(0, 100 * NS),
    then=st.integers(0, 100 * NS),
)
@relaxed
def test_after_a_release_all_is_as_if_the_reservation_had_never_been(
    limit: Limit, before: int, amount: int, wait: int, then: int
) -> None:
    with_it, without = Counters(), Counters()
    for counters in (with_it, without):
        if before:
            assert take(counters, limit, T0, before)
    taken = reserved(with_it, [Charge(limit, A, amount)], T0)
    with_it.release(taken.id, T0 + wait)
    now = T0 + wait + then
    assert with_it.usage(limit, A, now) == without.usage(limit, A, now)


# ---- bytes


@pytest.mark.parametrize("make", [quota, lambda amount, unit: rate(amount, amount, unit=unit)], ids=["quota", "rate"])
def test_bytes_are_corrected_to_what_passed(make: Callable[..., Limit]) -> None:
    counters = Counters()
    limit = make(1000, unit=Unit.BYTES)
    messages = quota(10, name="messages")
    taken = reserved(counters, [Charge(limit, A, 400), Charge(limit, "c:1", 400), Charge(messages, A, 1)], T0)
    counters.commit(taken.id, T0, {Unit.BYTES: 150})
    assert counters.usage(limit, A, T0).used == 150
    assert counters.usage(limit, "c:1", T0).used == 150
    assert counters.usage(messages, A, T0).used == 1


@pytest.mark.parametrize("make", [quota, lambda amount, unit: rate(amount, amount, unit=unit)], ids=["quota", "rate"])
def test_an_overdraft_is_taken_and_the_next_is_refused_until_it_has_drained(
    make: Callable[..., Limit],
) -> None:
    counters = Counters()
    limit = make(1000, unit=Unit.BYTES)
    taken = reserved(counters, [Charge(limit, A, 1)], T0)
    counters.commit(taken.id, T0, {Unit.BYTES: 1500})
    assert counters.usage(limit, A, T0) == Usage(1500, 0, 0, counters.usage(limit, A, T0).free_at_ns)
    refusal = refused(counters, [Charge(limit, A, 1)], T0)
    assert refusal.retry_after == (60 if limit.burst == 0 else 31)
    assert not take(counters, limit, T0 + (refusal.retry_after - 1) * NS)
    assert take(counters, limit, T0 + refusal.retry_after * NS)


def test_a_message_of_unknown_size_needs_room_and_is_counted_in_the_end() -> None:
    counters = Counters()
    limit = quota(1000, unit=Unit.BYTES)
    taken = reserved(counters, [Charge(limit, A, 0)], T0)
    counters.commit(taken.id, T0, {Unit.BYTES: 1000})
    assert refused(counters, [Charge(limit, A, 0)], T0).retry_after == 60


def test_bytes_of_restored_counters_are_corrected_too() -> None:
    counters = Counters()
    limit = quota(1000, unit=Unit.BYTES)
    assert take(counters, limit, T0, 100)
    again = roundtrip(counters, T0)
    again.commit(reserved(again, [Charge(limit, A, 1)], T0).id, T0, {Unit.BYTES: 200})
    assert again.usage(limit, A, T0).used == 300


def test_less_than_nothing_cannot_pass() -> None:
    counters = Counters()
    taken = reserved(counters, [Charge(quota(5), A, 1)], T0)
    with pytest.raises(ValueError, match="less than nothing"):
        counters.commit(taken.id, T0, {Unit.BYTES: -1})
    assert counters.open == 1


# ---- modes


def test_an_off_limit_costs_nothing() -> None:
    counters = Counters()
    for _ in range(3):
        reserved(counters, [Charge(quota(0, mode=Mode.OFF), A, 5)], T0)
    assert counters.keys == 0


def test_a_shadow_limit_counts_and_reports_but_lets_pass() -> None:
    counters = Counters()
    shadow = Charge(quota(1, mode=Mode.SHADOW), A, 1)
    assert reserved(counters, [shadow], T0).shadowed == ()
    second = reserved(counters, [shadow], T0)
    assert second.shadowed == (shadow,)
    assert counters.usage(shadow.limit, A, T0).reserved == 1


def test_a_shadow_limit_that_is_over_does_not_keep_the_others_from_counting() -> None:
    counters = Counters()
    shadow, real = Charge(quota(0, name="s", mode=Mode.SHADOW), A, 1), Charge(quota(2), A, 1)
    assert reserved(counters, [shadow, real], T0).shadowed == (shadow,)
    assert reserved(counters, [shadow, real], T0).shadowed == (shadow,)
    assert refused(counters, [shadow, real], T0).charge == real


@given(
    limit=st.sampled_from([quota(5), rate(5, 5), rate(10, 3)]),
    steps=st.lists(st.tuples(st.integers(0, 40 * NS), st.integers(1, 4), st.booleans()), max_size=30),
)
@relaxed
def test_a_shadow_limit_reports_exactly_what_it_would_have_refused(
    limit: Limit, steps: list[tuple[int, int, bool]]
) -> None:
    shadow = Limit(limit.name, limit.scope, limit.unit, limit.quota, limit.period, limit.burst, Mode.SHADOW)
    real, shadowing, now = Counters(), Counters(), T0
    for wait, amount, accepted in steps:
        now += wait
        one = real.reserve([Charge(limit, A, amount)], now, TTL)
        two = reserved(shadowing, [Charge(shadow, A, amount)], now)
        assert isinstance(one, Refusal) == bool(two.shadowed)
        if isinstance(one, Reservation):
            (real.commit if accepted else real.release)(one.id, now)
        (shadowing.commit if accepted else shadowing.release)(two.id, now)


# ---- the holes of other counters, by name


def test_hole_aligned_windows_let_twice_the_limit_pass_at_their_boundary() -> None:
    """Windows counted by `now // period`: all at the end of one, all again at the start of the next."""
    counters = Counters()
    limit = quota(100)
    boundary = (T0 // (60 * NS) + 1) * 60 * NS
    before = sum(take(counters, limit, boundary - NS) for _ in range(100))
    after = sum(take(counters, limit, boundary + NS) for _ in range(100))
    assert (before, after) == (100, 0)


@pytest.mark.parametrize("limit", [quota(20), rate(20, 20)], ids=["quota", "rate"])
def test_hole_the_first_message_on_a_new_bucket_always_passes(limit: Limit) -> None:
    assert refused(Counters(), [Charge(limit, A, 21)], T0).retry_after == 0


@pytest.mark.parametrize("limit", [quota(10), rate(10, 10)], ids=["quota", "rate"])
def test_hole_parallel_sessions_read_the_counter_first_and_charge_later(limit: Limit) -> None:
    counters = Counters()
    sessions = [counters.reserve([Charge(limit, A, 1)], T0, TTL) for _ in range(50)]
    through = [taken for taken in sessions if isinstance(taken, Reservation)]
    for taken in through:
        counters.commit(taken.id, T0 + NS)
    assert len(through) == 10
    assert not take(counters, limit, T0 + NS)


def test_hole_mail_that_was_refused_later_stays_charged() -> None:
    counters = Counters()
    for _ in range(100):
        counters.release(reserved(counters, [Charge(quota(1), A, 1)], T0).id, T0)
    assert take(counters, quota(1), T0)


def test_hole_a_refusal_by_one_limit_is_charged_to_the_others() -> None:
    counters = Counters()
    free, full = quota(5, name="free"), quota(0, name="full")
    for _ in range(10):
        refused(counters, [Charge(free, A, 1), Charge(full, A, 1), Charge(free, "c:1", 1)], T0)
    assert counters.usage(free, A, T0) == Usage(0, 0, 5, T0)
    assert counters.keys == 0


def test_hole_an_absolute_value_read_earlier_is_written_back() -> None:
    """Lost updates: two transactions that overlap must both be counted, in whichever order they end."""
    counters = Counters()
    one = reserved(counters, [Charge(quota(9), A, 2)], T0)
    two = reserved(counters, [Charge(quota(9), A, 3)], T0)
    counters.commit(two.id, T0)
    counters.commit(one.id, T0)
    assert counters.usage(quota(9), A, T0).used == 5


@pytest.mark.parametrize("key", ["r:postmaster", "r:mailer-daemon", "i:127.0.0.1", "i:::1", "a:0", "c:0"])
def test_hole_a_postmaster_recipient_or_localhost_is_exempt(key: str) -> None:
    counters = Counters()
    assert take(counters, quota(1), T0, key=key)
    assert not take(counters, quota(1), T0, key=key)


def test_hole_one_postmaster_among_the_recipients_exempts_the_message() -> None:
    counters = Counters()
    limit = quota(2, unit=Unit.RECIPIENTS)
    taken = reserved(counters, [Charge(limit, A, 1)], T0)
    recipients = [
        counters.extend(taken.id, [Charge(limit, A, 1)], T0) for _ in ("postmaster@example.com", "b@example.com")
    ]
    assert [isinstance(result, Reservation) for result in recipients] == [True, False]


def test_hole_recipients_are_counted_at_rcpt_and_again_at_the_end() -> None:
    counters = Counters()
    taken = reserved(counters, [Charge(quota(9), A, 3)], T0)
    counters.commit(taken.id, T0)
    counters.commit(taken.id, T0)
    assert counters.usage(quota(9), A, T0).used == 3


def test_hole_what_hangs_in_flight_never_clears() -> None:
    counters = Counters()
    reserved(counters, [Charge(rate(60, 1), A, 1)], T0)
    counters.expire(T0 + TTL)
    assert counters.usage(rate(60, 1), A, T0 + TTL).reserved == 0
    assert take(counters, rate(60, 1), T0 + TTL + NS)


def test_hole_a_limit_that_changes_forgets_what_was_sent() -> None:
    """Dynamic factors let 203 pass a limit of 20: each new figure began a new count."""
    counters = Counters()
    for amount in (20, 21, 40, 19, 20):
        while take(counters, quota(amount), T0):
            pass
    assert counters.usage(quota(20), A, T0).used == 40


def test_hole_a_raised_rate_is_paid_out_for_the_past() -> None:
    counters = Counters()
    assert take(counters, rate(1, 10, 3600), T0, 10)
    assert counters.usage(rate(1, 10, 3600), A, T0 + 3600 * NS).used == 9
    assert not take(counters, rate(3600, 10, 3600), T0 + 3600 * NS, 2)
    assert take(counters, rate(3600, 10, 3600), T0 + 3601 * NS, 2)


def test_asking_what_another_rate_would_say_changes_nothing() -> None:
    counters = Counters()
    assert take(counters, rate(1, 10, 3600), T0, 10)
    assert counters.usage(rate(3600, 10, 3600), A, T0).used == 10
    assert counters.usage(rate(1, 10, 3600), A, T0 + 60 * NS).used == 10


@pytest.mark.parametrize("limit", [quota(5), rate(5, 5), quota(5, mode=Mode.SHADOW)])
def test_hole_a_door_shares_one_empty_key_among_all(limit: Limit) -> None:
    counters = Counters()
    with pytest.raises(ValueError, match="key ''"):
        counters.reserve([Charge(limit, A, 1), Charge(limit, "", 1)], T0, TTL)
    assert counters.usage(limit, A, T0).reserved == 0
    assert counters.keys == 0


def test_a_negative_amount_gives_nothing_back() -> None:
    counters = Counters()
    with pytest.raises(ValueError, match="negative amount"):
        counters.reserve([Charge(quota(5), A, 1), Charge(quota(5), A, -3)], T0, TTL)
    assert counters.usage(quota(5), A, T0).reserved == 0


def test_a_period_below_a_second_is_no_limit() -> None:
    with pytest.raises(ValueError, match="period 0"):
        Counters().reserve([Charge(quota(5, 0), A, 1)], T0, TTL)


# ---- racers

limits = st.sampled_from([quota(5), quota(7, 3600), rate(5, 3), rate(7, 7, 13), rate(120, 9)])


def most_in_any_window(log: list[tuple[int, int]], span: int) -> int:
    """The most units in any half-open window of `span`, wherever it begins."""
    return max((sum(n for at, n in log if start <= at < start + span) for start, _ in log), default=0)


@given(
    limit=limits,
    racers=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=25),
    data=st.data(),
)
@relaxed
def test_racers_in_any_order_never_pass_one_unit_over_and_every_released_unit_comes_back(
    limit: Limit, racers: list[tuple[int, bool]], data: st.DataObject
) -> None:
    counters, now = Counters(), T0
    most = limit.burst or limit.quota
    waiting, flying = list(racers), []
    committed: list[tuple[int, int]] = []
    while waiting or flying:
        now += data.draw(st.sampled_from([0, 1, NS, 5 * NS]))
        if waiting and (not flying or data.draw(st.booleans())):
            amount, accepted = waiting.pop()
            taken = counters.reserve([Charge(limit, A, amount)], now, TTL)
            if isinstance(taken, Reservation):
                flying.append((taken.id, amount, accepted))
        else:
            number, amount, accepted = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
            if accepted:
                counters.commit(number, now)
                committed.append((now, amount))
            else:
                counters.release(number, now)
        in_flight = sum(amount for _, amount, _ in flying)
        usage = counters.usage(limit, A, now)
        assert usage.reserved == in_flight
        assert usage.used + usage.reserved <= most
        if not limit.burst:
            assert sum(n for at, n in committed if at > now - limit.period * NS) + in_flight <= limit.quota
    if not limit.burst:
        assert most_in_any_window(committed, limit.period * NS) <= limit.quota
    for first, (start, _) in enumerate(committed):
        for last in range(first, len(committed)):
            units = sum(n for _, n in committed[first : last + 1])
            allowed = (
                most
                if not limit.burst
                else most + Fraction((committed[last][0] - start) * limit.quota, limit.period * NS)
            )
            assert units <= allowed or committed[last][0] - start >= limit.period * NS
