"""Fixed slots: the same place of every minute, by the roster in force in it; nothing twice, nothing made up later."""

from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.roster import CheckKind, CheckSpec, Roster, slot_second
from smartmail.core.slots import GRACE_MS, MINUTE_MS, RosterBook, Slot, Timetable, due_from, slot_ms

MINUTE = 29_000_000
NOW = MINUTE * MINUTE_MS


def check(name: str, *locations: str) -> CheckSpec:
    return CheckSpec(name, "cluster-a", CheckKind.IMAPS, "mail.example.com", 993, locations or ("london",))


def roster(version: int, from_minute: int, *checks: CheckSpec) -> Roster:
    return Roster(version, from_minute, ("london", "paris"), checks)


def names(slots: list[Slot]) -> list[str]:
    return sorted(one.name for slot in slots for one in slot.checks)


CHECKS = tuple(check(f"check-{number}") for number in range(40))
BOOK = RosterBook([roster(1, MINUTE, *CHECKS)], "london")

moments = st.integers(NOW, NOW + 10 * MINUTE_MS)


def test_a_slot_is_in_the_second_of_the_roster_and_in_its_first_half() -> None:
    for one in CHECKS:
        second, part = divmod(slot_ms(one.name, "london"), 1000)
        assert second == slot_second(one.name, "london")
        assert part < 500


def test_locations_begin_the_same_check_at_different_places() -> None:
    places = {slot_ms("imap", f"location-{number}") for number in range(50)}
    assert len(places) > 30


def test_every_check_begins_once_in_every_minute() -> None:
    for minute in range(MINUTE, MINUTE + 3):
        start = minute * MINUTE_MS
        slots = BOOK.between(start - 1, start + MINUTE_MS - 1)
        assert names(slots) == sorted(one.name for one in CHECKS)
        assert {slot.at_ms // MINUTE_MS for slot in slots} == {minute}


def test_ten_thousand_checks_are_spread_over_the_minute() -> None:
    table = Timetable((check(f"check-{number}") for number in range(10_000)), "london")
    slots = table.between(NOW - 1, NOW + MINUTE_MS - 1)
    assert sum(len(slot.checks) for slot in slots) == 10_000
    assert len(slots) == 250
    assert max(len(slot.checks) for slot in slots) < 90


@given(moments, st.lists(st.integers(0, 90_000), max_size=12))
def test_however_the_time_is_cut_each_slot_comes_once(start: int, steps: list[int]) -> None:
    found: list[Slot] = []
    at = start
    for step in steps:
        found += BOOK.between(at, at + step)
        at += step
    assert found == BOOK.between(start, at)
    assert len({(slot.at_ms, one.name) for slot in found for one in slot.checks}) == len(names(found))


@given(moments)
def test_nothing_begins_between_now_and_the_next_instant(now: int) -> None:
    after = BOOK.after(now)
    assert after is not None
    assert after > now
    assert BOOK.between(now, after - 1) == []
    assert BOOK.between(now, after) != []


def test_a_location_without_checks_has_no_next_instant() -> None:
    book = RosterBook([roster(1, MINUTE, check("imap", "paris"))], "london")
    assert book.after(NOW) is None
    assert book.between(NOW, NOW + MINUTE_MS) == []
    assert RosterBook([], "london").after(NOW) is None


def test_before_the_first_roster_nothing_begins_but_its_coming_is_an_instant() -> None:
    assert BOOK.between(NOW - MINUTE_MS, NOW - 1) == []
    assert BOOK.after(NOW - MINUTE_MS) == NOW
    assert BOOK.at(MINUTE - 1) is None


def test_case_09_each_minute_goes_by_the_roster_in_force_in_it() -> None:
    book = RosterBook([roster(2, MINUTE + 1, check("new")), roster(1, MINUTE, check("old"))], "london")
    found = book.between(NOW - 1, NOW + 2 * MINUTE_MS - 1)
    assert [(slot.at_ms // MINUTE_MS - MINUTE, slot.checks[0].name) for slot in found] == [(0, "old"), (1, "new")]
    assert book.after(NOW + 59_999) == NOW + MINUTE_MS


def test_of_two_rosters_from_the_same_minute_the_later_version_counts() -> None:
    book = RosterBook([roster(3, MINUTE, check("third")), roster(2, MINUTE, check("second"))], "london")
    assert names(book.between(NOW - 1, NOW + MINUTE_MS - 1)) == ["third"]


def test_case_12_what_went_by_in_a_pause_is_not_caught_up() -> None:
    last, now = NOW, NOW + 3 * MINUTE_MS
    due = BOOK.between(due_from(last, now), now)
    assert all(now - slot.at_ms <= GRACE_MS for slot in due)


def test_a_slot_just_gone_by_is_still_begun() -> None:
    at = BOOK.after(NOW)
    assert at is not None
    now = at + GRACE_MS
    assert at in [slot.at_ms for slot in BOOK.between(due_from(NOW, now), now)]
    assert due_from(NOW, now + 1) >= at


@given(moments, st.integers(0, MINUTE_MS))
def test_case_27_a_clock_set_back_begins_no_slot_twice(last: int, back: int) -> None:
    assert due_from(last, last - back) == last


def test_a_clock_set_back_from_far_in_the_future_begins_afresh() -> None:
    assert due_from(NOW + 86_400_000, NOW) == NOW - 1
