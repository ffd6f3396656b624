"""When a copy is gone for certain: held against what retention does, day after day."""

from datetime import UTC

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmail.core.expiry import MS_PER_DAY, expires_ms
from smartmail.core.points import Snapshot
from smartmail.core.retention import Holds, KeepRule, parse_rules, plan

MADE_MS = 1_790_000_000_000


def nightly(number: int) -> Snapshot:
    """The snapshot of a night."""
    return Snapshot(f"{number:064x}", MADE_MS + number * MS_PER_DAY, "t", "mx1", ("job=mail", f"run={number}"))


def gone_after(rules: tuple[KeepRule, ...], days: int) -> bool:
    """Is the first night's snapshot gone, when each night's retention was done?"""
    kept: list[Snapshot] = []
    for number in range(days):
        kept = list(plan([*kept, nightly(number)], rules, UTC, MADE_MS + number * MS_PER_DAY, Holds()).kept)
        if nightly(0) not in kept:
            return True
    return False


@pytest.mark.parametrize("rules", [None, (KeepRule(tag="legal"),), parse_rules({"daily": 7, "monthly": "all"})])
def test_what_may_stay_for_ever_has_no_date(rules: tuple[KeepRule, ...] | None) -> None:
    assert expires_ms(rules, MADE_MS) is None


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "last": st.integers(1, 20),
            "daily": st.integers(1, 30),
            "weekly": st.integers(1, 8),
            "monthly": st.integers(1, 3),
            "within": st.sampled_from(["5d", "1m", "10d12h"]),
            "within_weekly": st.sampled_from(["20d", "2m"]),
        },
    ).filter(bool)
)
@settings(max_examples=40, deadline=None)
def test_retention_has_let_go_of_it_by_then(table: dict[str, object]) -> None:
    rules = parse_rules(table)
    until = expires_ms(rules, MADE_MS)
    assert until is not None
    assert gone_after(rules, (until - MADE_MS) // MS_PER_DAY + 1)
