"""The minutes that are left, and how fast they go: integers that a person can check."""

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.burn import EVEN, PAIRS, WINDOWS, Budget, Burn, alerts, breach_in, budget, burn, burns
from smartmail.core.minutes import ServiceMinutes
from smartmail.core.months import Span
from smartmail.core.planes import between, ones
from smartmail.core.sla import Assessment, Result, Terms, assess

TERMS = Terms("2026-1", date(2026, 1, 1), "Europe/London")
MONTH = Span(1_000_000, 1_043_200)
NOW = MONTH.first + 10_000


def recent(down: int = 0, unknown: int = 0, maintenance: int = 0, n: int = 10_000) -> Assessment:
    """The n minutes up to NOW. Planes over them."""
    minutes = ServiceMinutes(ones(n) ^ (down | unknown), down, unknown)
    return assess(minutes, maintenance, TERMS, Span(NOW - n, NOW))


def last(minutes: int, n: int = 10_000) -> int:
    return between(n - minutes, n)


def test_a_new_month_has_all_of_it_left() -> None:
    so_far = assess(ServiceMinutes(0, 0, 0), 0, TERMS, Span(MONTH.first, MONTH.first))
    assert budget(so_far, 43_200, TERMS) == Budget(43_200, 43, 0, 0, 43, 43, 43_200)


def test_down_minutes_are_spent_and_unknown_ones_may_be() -> None:
    found = budget(recent(down=between(0, 10), unknown=between(50, 55)), 33_200, TERMS)
    assert found == Budget(43_200, 43, 10, 5, 33, 28, 33_200)


def test_announced_maintenance_makes_the_budget_smaller() -> None:
    found = budget(recent(maintenance=between(0, 500)), 33_200 - 1000, TERMS)
    assert (found.eligible, found.allowed) == (41_700, 41)


def test_a_breach_leaves_less_than_nothing() -> None:
    found = budget(recent(down=between(0, 50)), 33_200, TERMS)
    assert found.left == -7
    assert breach_in(found, burn(recent(), NOW, 60, TERMS)) == 0


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 2000))
def test_at_the_end_of_the_month_the_budget_says_what_the_verdict_says(down: int, unknown: int, excluded: int) -> None:
    n = MONTH.minutes
    bad, open_ = between(0, down), between(down, down + unknown)
    whole = assess(ServiceMinutes(ones(n) ^ (bad | open_), bad, open_), between(n - excluded, n), TERMS, MONTH)
    found = budget(whole, 0, TERMS)
    assert (found.left < 0) == (whole.result is Result.BREACHED)
    assert (found.left_if_unknown_down >= 0) == (whole.result is Result.MET)


@pytest.mark.parametrize(
    ("down", "window", "expected"),
    [
        (last(0), 60, Burn(60, 60, 0, 0)),
        (last(1), 60, Burn(60, 60, 1, 16_666)),
        (last(60), 60, Burn(60, 60, 60, 1_000_000)),
        (last(5), 5, Burn(5, 5, 5, 1_000_000)),
        (last(6), 5, Burn(5, 5, 5, 1_000_000)),
        (between(9_000, 9_001), 5, Burn(5, 5, 0, 0)),
        (last(3), 4320, Burn(4320, 4320, 3, 694)),
    ],
)
def test_the_rate_of_a_window(down: int, window: int, expected: Burn) -> None:
    assert burn(recent(down), NOW, window, TERMS) == expected


def test_one_minute_in_a_thousand_is_an_even_rate() -> None:
    assert burn(recent(last(1)), NOW, 1000, TERMS).rate == EVEN


def test_maintenance_in_a_window_counts_on_neither_side() -> None:
    found = burn(recent(down=last(5), maintenance=last(10)), NOW, 30, TERMS)
    assert found == Burn(30, 20, 0, 0)
    assert burn(recent(maintenance=last(100)), NOW, 60, TERMS) == Burn(60, 0, 0, 0)


def test_a_window_that_goes_back_further_than_the_minutes_known() -> None:
    found = burn(recent(down=0b1, n=100), NOW, 360, TERMS)
    assert found == Burn(360, 100, 1, 10_000)


def test_a_promise_of_all_minutes_still_has_rates() -> None:
    assert burn(recent(last(1)), NOW, 1000, replace(TERMS, numerator=1, denominator=1)).rate == 1


def test_the_windows_are_those_of_the_pairs() -> None:
    assert WINDOWS == (5, 30, 60, 120, 360, 1440, 4320)
    assert [one.window for one in burns(recent(), NOW, TERMS)] == list(WINDOWS)


def test_the_thresholds_of_a_month_of_30_days() -> None:
    found = alerts(burns(recent(), NOW, TERMS), MONTH)
    assert [one.threshold for one in found] == [14_400, 6_000, 3_000, 1_000]
    assert not any(one.firing for one in found)


def test_the_thresholds_go_with_the_month_s_length() -> None:
    found = alerts(burns(recent(), NOW, TERMS), Span(0, 40_320))
    assert [one.threshold for one in found] == [13_440, 5_600, 2_800, 933]


@pytest.mark.parametrize(
    ("down", "firing"),
    [
        (last(0), [False, False, False, False]),
        (last(1), [True, False, False, False]),
        (last(3), [True, True, False, False]),
        (last(5), [True, True, True, True]),
        (between(10_000 - 40, 10_000 - 20), [False, True, True, True]),
        (between(10_000 - 100, 10_000 - 60), [False, False, True, True]),
    ],
    ids=["none", "a minute", "three", "five", "twenty, over for twenty", "forty, over for an hour"],
)
def test_both_windows_of_a_pair_must_burn(down: int, firing: list[bool]) -> None:
    found = alerts(burns(recent(down), NOW, TERMS), MONTH)
    assert [one.firing for one in found] == firing
    assert [one.pair for one in found] == list(PAIRS)


def left(minutes: int, ahead: int = 30_000) -> Budget:
    return Budget(43_200, 43, 43 - minutes, 0, minutes, minutes, ahead)


@pytest.mark.parametrize(
    ("minutes", "rate", "expected"),
    [
        (33, Burn(5, 5, 5, 0), 34),
        (0, Burn(5, 5, 5, 0), 1),
        (33, Burn(60, 60, 6, 0), 340),
        (33, Burn(60, 60, 7, 0), 292),
        (33, Burn(60, 60, 0, 0), None),
        (33, Burn(4320, 4320, 1, 0), None),
        (-1, Burn(60, 60, 0, 0), 0),
    ],
)
def test_when_the_breach_comes_at_that_rate(minutes: int, rate: Burn, expected: int | None) -> None:
    assert breach_in(left(minutes), rate) == expected


def test_a_breach_that_would_come_after_the_month_does_not_come() -> None:
    assert breach_in(left(33, ahead=34), Burn(5, 5, 5, 0)) == 34
    assert breach_in(left(33, ahead=33), Burn(5, 5, 5, 0)) is None
