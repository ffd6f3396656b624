"""The chain shows every change, and months are counted from the anchor day."""

import hashlib
import json
from calendar import monthrange
from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmail.core.canonical import JsonError, canonical
from smartmail.core.ledger import (
    NO_HASH,
    Draft,
    Entry,
    Flaw,
    Head,
    Kind,
    add_months,
    body_of,
    chain,
    first_anchor,
    head_of,
    seal,
    shift_paid,
    verify,
)


def draft(number: int) -> Draft:
    body = body_of(subscription=number, months=1, note="é\n\"'")
    return Draft(Kind.CREDIT_GRANTED, f"credit:{number}", "anna", f"subscription:{number}", body, 1000 + number)


LEDGER = chain(Head(), [draft(number) for number in range(1, 9)])


def flaws(entries: list[Entry], kept: Head | None = None) -> list[tuple[int, Flaw]]:
    return [(one.seq, one.flaw) for one in verify(entries, kept)]


# the chain


def test_a_whole_ledger_has_no_flaw_and_an_empty_one_neither() -> None:
    assert verify(LEDGER) == []
    assert verify([]) == []
    assert verify(LEDGER, Head()) == []


def test_the_hash_is_of_canonical_json_that_anybody_can_write_case_38() -> None:
    """Computed here without the module's help, from what `ledger list --json` shows."""
    entry = LEDGER[1]
    shown = {
        "seq": 2,
        "at_ms": 1002,
        "kind": "credit_granted",
        "key": "credit:2",
        "actor": "anna",
        "subject": "subscription:2",
        "body": json.loads(entry.body),
        "prev": LEDGER[0].hash,
    }
    text = json.dumps(shown, sort_keys=True, separators=(",", ":"))
    assert entry.hash == hashlib.sha256(text.encode()).hexdigest()
    assert LEDGER[0].prev == NO_HASH


def test_a_ledger_goes_on_where_it_ended() -> None:
    more = chain(head_of(LEDGER), [draft(9)])
    assert (more[0].seq, more[0].prev) == (9, LEDGER[-1].hash)
    assert verify([*LEDGER, *more]) == []
    assert chain(Head(), []) == [] and head_of([]) == Head()


@pytest.mark.parametrize("field", ["at_ms", "kind", "key", "actor", "subject", "body", "hash", "prev", "seq"])
def test_a_changed_entry_is_found_whatever_was_changed(field: str) -> None:
    value = getattr(LEDGER[3], field)
    other = value + 1 if isinstance(value, int) else value.replace(value[-2], "x" if value[-2] != "x" else "y", 1)
    found = flaws([*LEDGER[:3], replace(LEDGER[3], **{field: other}), *LEDGER[4:]])
    assert (other if field == "seq" else 4, Flaw.CHANGED) in found


def test_an_entry_sealed_anew_no_longer_carries_the_next_one() -> None:
    forged = replace(LEDGER[3], body=body_of(subscription=4, months=12))
    forged = replace(forged, hash=seal(forged))
    assert flaws([*LEDGER[:3], forged, *LEDGER[4:]]) == [(5, Flaw.BROKEN)]


def test_a_body_written_in_another_way_is_a_change() -> None:
    body = LEDGER[3].body.replace(":", ": ")
    forged = replace(LEDGER[3], body=body)
    assert (4, Flaw.CHANGED) in flaws([*LEDGER[:3], replace(forged, hash=seal(forged))])


@pytest.mark.parametrize("body", ["", "{", "[]", "1", "null", '{"a":1.5}', '{"b":1,"a":2}', "[" * 100_000])
def test_a_body_that_is_no_object_is_a_flaw_and_no_crash(body: str) -> None:
    forged = replace(LEDGER[0], body=body)
    assert flaws([replace(forged, hash=seal(forged))]) == [(1, Flaw.CHANGED)]


def test_dropped_put_in_and_moved_entries_are_found() -> None:
    assert flaws([*LEDGER[:3], *LEDGER[4:]]) == [(5, Flaw.BROKEN), (5, Flaw.NUMBER)]
    assert flaws([*LEDGER[:4], LEDGER[3], *LEDGER[4:]])[:1] == [(4, Flaw.BROKEN)]
    assert (4, Flaw.TWICE) in flaws([*LEDGER[:4], LEDGER[3]])
    assert flaws([LEDGER[1], LEDGER[0], *LEDGER[2:]])[:1] == [(2, Flaw.BROKEN)]
    assert flaws(LEDGER[1:])[:1] == [(2, Flaw.BROKEN)]


def test_a_dropped_end_is_found_by_a_head_kept_elsewhere() -> None:
    kept = head_of(LEDGER)
    assert flaws(LEDGER[:-1]) == []
    assert flaws(LEDGER[:-1], kept) == [(8, Flaw.MISSING)]
    assert flaws(LEDGER, head_of(LEDGER[:3])) == [], "an older head is in it still"
    other = chain(Head(), [replace(draft(number), actor="eve") for number in range(1, 9)])
    assert flaws(other) == [] and flaws(other, kept) == [(8, Flaw.MISSING)]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_tampering_is_found(data: st.DataObject) -> None:
    """Any sequence of the true entries that is not the ledger or a beginning of it has a flaw; with the head known,
    beginnings too."""
    forged = data.draw(st.lists(st.sampled_from(LEDGER), max_size=9))
    whole = forged == LEDGER
    assert (verify(forged, head_of(LEDGER)) == []) == whole
    assert (verify(forged) == []) == (forged == LEDGER[: len(forged)])


def test_no_float_gets_into_an_entry() -> None:
    with pytest.raises(JsonError):
        body_of(availability=99.9)


@given(
    st.dictionaries(st.text(min_size=1), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()))
)
def test_a_body_is_canonical_json(fields: dict[str, object]) -> None:
    assert body_of(**fields).encode() == canonical(fields)


# months


@pytest.mark.parametrize(
    ("day", "count", "anchor", "expected"),
    [
        pytest.param((2026, 1, 31), 1, 31, (2026, 2, 28), id="case_37 short February"),
        pytest.param((2028, 1, 31), 1, 31, (2028, 2, 29), id="case_37 leap February"),
        pytest.param((2026, 2, 28), 1, 31, (2026, 3, 31), id="case_37 back to the 31st"),
        pytest.param((2026, 3, 31), 1, 31, (2026, 4, 30), id="case_37 short April"),
        pytest.param((2024, 2, 29), 12, 29, (2025, 2, 28), id="case_37 a year from 29 Feb"),
        pytest.param((2025, 2, 28), 36, 29, (2028, 2, 29), id="case_37 three more to the next leap year"),
        pytest.param((2026, 12, 15), 1, 15, (2027, 1, 15), id="case_37 over the year"),
        pytest.param((2026, 3, 31), -1, 31, (2026, 2, 28), id="case_37 back"),
        pytest.param((2026, 1, 1), -1, 1, (2025, 12, 1), id="case_37 back over the year"),
    ],
)
def test_a_month_is_a_calendar_month_from_the_anchor_day(
    day: tuple[int, int, int], count: int, anchor: int, expected: tuple[int, int, int]
) -> None:
    assert add_months(date(*day), count, anchor) == date(*expected)
    assert shift_paid(date(*day), count, anchor) == date(*expected)


def naive_months(day: date, count: int, anchor: int) -> date:
    """Month by month, and then the last day there is up to the anchor."""
    year, month = day.year, day.month
    for _ in range(abs(count)):
        if count > 0:
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        else:
            year, month = (year, month - 1) if month > 1 else (year - 1, 12)
    tried = anchor
    while True:
        try:
            return date(year, month, tried)
        except ValueError:
            tried -= 1


days = st.dates(date(1990, 1, 1), date(2090, 12, 31))
anchors = st.integers(1, 31)
counts = st.integers(-60, 60)


@given(day=days, count=counts, anchor=anchors)
def test_months_agree_with_counting_them_one_by_one_case_37(day: date, count: int, anchor: int) -> None:
    assert add_months(day, count, anchor) == naive_months(day, count, anchor)


@given(day=days, one=counts, other=counts, anchor=anchors)
def test_two_credits_commute_and_nothing_drifts_case_37(day: date, one: int, other: int, anchor: int) -> None:
    start = add_months(day, 0, anchor)
    there = add_months(add_months(start, one, anchor), other, anchor)
    assert there == add_months(add_months(start, other, anchor), one, anchor) == add_months(start, one + other, anchor)
    assert shift_paid(shift_paid(start, one, anchor), other, anchor) == there
    assert shift_paid(shift_paid(start, one, anchor), -one, anchor) == start


@given(day=days, one=counts, other=counts, anchor=anchors)
def test_who_writes_the_last_day_paid_gets_the_same_months_case_37(
    day: date, one: int, other: int, anchor: int
) -> None:
    eve = timedelta(days=1)
    start = add_months(day, 0, anchor)
    assert shift_paid(start - eve, one, anchor) == shift_paid(start, one, anchor) - eve
    assert shift_paid(shift_paid(start - eve, one, anchor), other, anchor) == shift_paid(
        start - eve, one + other, anchor
    )


@given(day=days, anchor=anchors)
def test_a_credit_is_a_month_long_wherever_it_begins(day: date, anchor: int) -> None:
    gained = (shift_paid(day, 1, anchor) - day).days
    assert 27 <= gained <= 32
    if day.day <= 27 and anchor <= 27:
        assert gained == monthrange(day.year, day.month)[1]


@given(day=days, anchor=anchors)
def test_the_first_anchor_day_is_the_next_one_there_is(day: date, anchor: int) -> None:
    found = first_anchor(day, anchor)
    between = [day + timedelta(days=step) for step in range((found - day).days)]
    assert found.day == min(anchor, monthrange(found.year, found.month)[1])
    assert all(one.day != min(anchor, monthrange(one.year, one.month)[1]) for one in between)
