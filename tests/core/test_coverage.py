"""Which part of a repository's data is read next, and since when all of it has been."""

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity, Reason, Record
from smartmail.core.coverage import Coverage, Reading, coverage, part_of, readings_of

HOUR = 3_600_000
NOW = 1_800_000_000_000


def test_nothing_was_read_yet() -> None:
    found = coverage((), 4, NOW)
    assert found == Coverage(4, (None, None, None, None), 1, None)
    assert found.unread == (1, 2, 3, 4)
    assert not found.within(1 << 60, NOW)


@given(st.lists(st.tuples(st.integers(1, 7), st.booleans()), max_size=40), st.randoms(use_true_random=False))
def test_the_next_part_is_the_one_longest_unread(turns: list[tuple[int, bool]], random: Random) -> None:
    """Whatever the order of the readings that came to their end, and in whatever order they are told. What failed on
    its way is no reading at all (see below), so it moves nothing."""
    readings = [Reading(part, 7, NOW - HOUR * (100 - at)) for at, (part, done) in enumerate(turns) if done]
    newest = {one.part: one.at_ms for one in readings}
    random.shuffle(readings)
    found = coverage(readings, 7, NOW)
    assert found.next == min(range(1, 8), key=lambda part: (newest.get(part, 0), part))
    assert found.last_ms == tuple(newest.get(part) for part in range(1, 8))
    assert found.covered_since_ms == (min(newest.values()) if len(newest) == 7 else None)
    assert found.damaged == ()


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([1, 2, 3, 7, 16, 30, 64, 100]), st.integers(0, 120))
def test_as_many_checks_as_there_are_parts_read_everything(parts: int, before: int) -> None:
    readings = [Reading(number % parts + 1, parts, NOW - 600 * HOUR + number) for number in range(before)]
    for number in range(parts):
        readings.append(Reading(coverage(readings, parts, NOW).next, parts, NOW - 300 * HOUR + number * HOUR))
    found = coverage(readings, parts, NOW)
    assert found.covered_since_ms == NOW - 300 * HOUR
    assert found.within(300 * HOUR, NOW)
    assert not found.within(300 * HOUR - 1, NOW)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 256), st.integers(0, 255), st.booleans()), max_size=12), st.integers(1, 256))
def test_packs_are_covered_whatever_the_parts_were(told: list[tuple[int, int, bool]], parts: int) -> None:
    """Against a model of 256 packs, one for each first octet: the number of parts may be changed at any time."""
    readings = [
        Reading(number % count + 1, count, NOW - HOUR * (50 - at), whole)
        for at, (count, number, whole) in enumerate(told)
    ]
    proved: dict[str, int] = {}
    for one in readings:
        for pack in (f"{octet:02x}" * 32 for octet in range(256)):
            if one.whole and part_of(pack, one.parts) == one.part:
                proved[pack] = one.at_ms
    found = coverage(readings, parts, NOW)
    for part in range(1, parts + 1):
        packs = [pack for pack in (f"{octet:02x}" * 32 for octet in range(256)) if part_of(pack, parts) == part]
        oldest = min((proved.get(pack, -1) for pack in packs), default=-1)
        assert found.last_ms[part - 1] == (None if oldest < 0 else oldest)


def test_a_part_that_stays_damaged_proves_nothing_and_holds_no_other_up() -> None:
    readings: list[Reading] = []
    order = []
    for at in range(6):
        part = coverage(readings, 3, NOW).next
        order.append(part)
        readings.append(Reading(part, 3, NOW - HOUR * (10 - at), part != 2))
    found = coverage(readings, 3, NOW)
    assert order == [1, 2, 3, 1, 2, 3]
    assert found.covered_since_ms is None
    assert found.unread == (2,)
    assert found.damaged == (2,)


def test_what_was_found_whole_and_then_damaged_is_green_only_when_read_again() -> None:
    readings = [Reading(part, 2, NOW - HOUR * (9 - part)) for part in (1, 2)]
    assert coverage(readings, 2, NOW).within(10 * HOUR, NOW)
    readings.append(Reading(1, 2, NOW - 3 * HOUR, whole=False))
    readings.append(Reading(2, 2, NOW - 2 * HOUR))
    found = coverage(readings, 2, NOW)
    assert found.damaged == (1,)
    assert found.covered_since_ms == NOW - 8 * HOUR
    assert not found.within(10 * HOUR, NOW)
    readings.append(Reading(1, 2, NOW - HOUR))
    assert coverage(readings, 2, NOW).within(10 * HOUR, NOW)


def test_of_two_at_one_time_the_damage_counts() -> None:
    for whole in (True, False):
        found = coverage([Reading(1, 1, NOW, whole), Reading(1, 1, NOW, not whole)], 1, NOW)
        assert found.damaged == (1,)


def test_a_reading_from_the_future_proves_nothing() -> None:
    assert coverage([Reading(1, 1, NOW + 10 * 365 * 24 * HOUR)], 1, NOW).covered_since_ms is None
    assert coverage([Reading(1, 1, NOW + 60_000)], 1, NOW).covered_since_ms is not None


@pytest.mark.parametrize("reading", [Reading(0, 4, NOW), Reading(5, 4, NOW), Reading(1, 257, NOW), Reading(1, 0, NOW)])
def test_a_reading_of_no_part_is_passed_over(reading: Reading) -> None:
    assert coverage([reading], 4, NOW) == coverage((), 4, NOW)


@pytest.mark.parametrize("parts", [0, -1, 257])
def test_a_number_of_parts_that_cannot_be(parts: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 256"):
        coverage((), parts, NOW)


@dataclass
class Told:
    """A record of a check of "offsite", and what is different about it."""

    activity: Activity = Activity.CHECK
    repository: str = "offsite"
    state: RunState = RunState.OK
    reason: Reason = Reason.NONE
    facts: dict[str, object] = field(default_factory=lambda: {"part": 2, "parts": 4, "read": True})


@pytest.mark.parametrize(
    ("told", "whole"),
    [
        (Told(), True),
        (Told(state=RunState.FAILED, reason=Reason.DAMAGED), False),
        (Told(state=RunState.FAILED, reason=Reason.UNREACHABLE), None),
        (Told(state=RunState.FAILED, reason=Reason.KILLED), None),
        (Told(state=RunState.FAILED, reason=Reason.CUT_OFF, facts={}), None),
        (Told(state=RunState.STARTED, facts={}), None),
        (Told(state=RunState.FAILED, reason=Reason.DAMAGED, facts={"part": 2, "parts": 4, "read": False}), None),
        (Told(facts={"part": 2, "parts": 4}), None),
        (Told(facts={"part": "2", "parts": 4, "read": True}), None),
        (Told(facts={"part": 2, "parts": None, "read": True}), None),
        (Told(repository="onsite"), None),
        (Told(activity=Activity.DRILL), None),
    ],
)
def test_failures_on_the_way_do_not_count(told: Told, whole: bool | None) -> None:
    record = Record(1, told.activity, "", told.repository, "", NOW - HOUR, NOW, told.state, told.reason, told.facts)
    expected = () if whole is None else (Reading(2, 4, NOW - HOUR, whole),)
    assert readings_of([record], "offsite") == expected
