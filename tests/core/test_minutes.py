"""Votes -> verdicts of a minute, case by case, and against a count of every minute one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.minutes import CheckMinutes, LocationVotes, check_minutes, counted_votes, service_minutes
from smartmail.core.months import Span, minute_of
from smartmail.core.outcome import Outcome, Vote, vote_of
from smartmail.core.planes import between, ones
from smartmail.core.roster import CheckKind, CheckSpec, Roster, roster_planes, sla_planes


def verdict(votes: str, minimum: int = 2, roster: int | None = None) -> str:
    """The verdict of one minute: a letter for each location: u(p), d(own), - silent, a(bstaining)."""
    names = [f"place-{i}" for i in range(len(votes))]
    said = {n: LocationVotes(int(v == "u"), int(v == "d")) for n, v in zip(names, votes, strict=True) if v != "-"}
    silenced = {n: 1 for n, v in zip(names, votes, strict=True) if v == "a"}
    found = check_minutes(said, dict.fromkeys(names[:roster], 1), silenced, minimum, 1)
    assert found.up + found.down + found.unknown == 1
    words = [word for word in ("up", "down", "unknown") if getattr(found, word)]
    return words[0] + (" advisory" if found.advisory else "")


def minutes_of_probes(*probes: tuple[int, Outcome]) -> tuple[LocationVotes, int]:
    """What a location's probes, at seconds, come to minute by minute, by the order of `Vote`; and when it abstained."""
    said: dict[int, Vote] = {}
    for second, outcome in probes:
        minute = minute_of(second * 1000)
        said[minute] = max(said.get(minute, Vote.SILENT), vote_of(outcome))
    planes = {vote: sum(1 << minute for minute, one in said.items() if one is vote) for vote in Vote}
    return LocationVotes(planes[Vote.UP], planes[Vote.DOWN]), planes[Vote.ABSTAIN]


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ("ddu", "down"),
        ("duu", "up advisory"),
        ("d--", "unknown"),
        ("---", "unknown"),
        ("uuu", "up"),
        ("uu-", "up"),
        ("u--", "unknown"),
        ("du-", "unknown"),
        ("dd-", "down"),
        ("ddd", "down"),
    ],
)
def test_case_06_three_locations(votes: str, expected: str) -> None:
    assert verdict(votes) == expected


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ("du", "unknown"),
        ("dd", "down"),
        ("d-", "unknown"),
        ("u-", "unknown"),
        ("uu", "up"),
        ("dduu", "up advisory"),
        ("ddu-", "unknown"),
        ("dd--", "unknown"),
        ("ddd-", "down"),
        ("uu--", "up"),
        ("duu-", "up advisory"),
        ("dddduu", "down"),
        ("ddduuu", "up advisory"),
        ("ddduu-", "up advisory"),
        ("ddd---", "unknown"),
    ],
)
def test_case_06_a_tie_is_not_down(votes: str, expected: str) -> None:
    assert verdict(votes) == expected


@pytest.mark.parametrize(("votes", "expected"), [("u", "up"), ("d", "down"), ("-", "unknown"), ("a", "unknown")])
def test_case_07_a_roster_of_one_is_a_majority_of_itself(votes: str, expected: str) -> None:
    assert verdict(votes) == expected


@pytest.mark.parametrize(
    ("votes", "minimum", "expected"),
    [
        ("d----", 2, "unknown"),
        ("dd---", 2, "unknown"),
        ("ddd--", 2, "down"),
        ("dddd-", 2, "down"),
        ("u----", 2, "unknown"),
        ("uu---", 2, "up"),
        ("u----", 1, "up"),
        ("uu---", 3, "unknown"),
        ("uuu--", 3, "up"),
        ("uu---", 5, "unknown"),
        ("uuu--", 5, "up"),
        ("uuu--", 99, "up"),
        ("dddu-", 1, "down"),
        ("ddduu", 2, "down"),
        ("ddu--", 1, "up advisory"),
    ],
)
def test_case_07_the_quorum_is_of_those_configured_not_of_those_that_report(
    votes: str, minimum: int, expected: str
) -> None:
    assert verdict(votes, minimum) == expected


def test_case_07_two_of_three_locations_cut_off_leave_no_lone_judge() -> None:
    assert verdict("d--") == "unknown"
    assert verdict("d--", minimum=1) == "unknown"


def test_case_07_nobody_to_report_is_unknown() -> None:
    assert verdict("uuu", roster=0) == "unknown"


@pytest.mark.parametrize(
    ("votes", "expected"),
    [("add", "down"), ("aad", "unknown"), ("auu", "up"), ("aau", "unknown"), ("adu", "unknown"), ("aaa", "unknown")],
)
def test_case_08_a_silenced_location_votes_nothing_and_stays_in_the_roster(votes: str, expected: str) -> None:
    assert verdict(votes) == expected


def test_case_08_what_a_silenced_location_saw_counts_nothing_in_any_of_its_checks() -> None:
    saw = {"here": LocationVotes(up=0b01, down=0b10)}
    assert counted_votes(saw, {"here": 0b11}, {"here": 0b11}) == {"here": LocationVotes(0, 0)}
    assert counted_votes(saw, {"here": 0b11}, {"here": 0b10}) == {"here": LocationVotes(0b01, 0)}


def test_case_09_each_minute_is_judged_by_the_roster_in_force() -> None:
    def roster(version: int, first: int, *where: str) -> Roster:
        return Roster(version, first, where, (CheckSpec("imap", "mail", CheckKind.IMAPS, "mail.example", 993, where),))

    history = (roster(1, 0, "a", "b", "c"), roster(2, 10, "a", "b", "c", "d"), roster(3, 20, "a", "b", "d"))
    planes = roster_planes(history, 0, 30)["imap"]
    failing = {place: LocationVotes(0, ones(30)) for place in ("a", "c")}
    found = check_minutes(failing, planes, {}, 2, 30)
    # Two of three; two of four is a tie; one of three, for c's votes count no longer.
    assert (found.down, found.unknown) == (between(0, 10), between(10, 30))


def test_case_09_a_check_bears_from_the_minute_its_roster_says() -> None:
    def roster(first: int, *, sla: bool) -> Roster:
        return Roster(1, first, ("a",), (CheckSpec("web", "mail", CheckKind.HTTPS, "h", 443, ("a",), sla),))

    history = (roster(0, sla=False), roster(4, sla=True), roster(6, sla=False))
    bearing = sla_planes(history, "mail", 0, 10)
    down = CheckMinutes(0, ones(10), 0, 0)
    found = service_minutes({"web": down}, bearing, 10)
    assert (found.down, found.unknown) == (between(4, 6), ones(10) ^ between(4, 6))


@pytest.mark.parametrize(
    ("outcomes", "up", "down"),
    [
        ((Outcome.OK, Outcome.TIMEOUT), 0, 1),
        ((Outcome.TIMEOUT, Outcome.OK), 0, 1),
        ((Outcome.TIMEOUT, Outcome.TIMEOUT), 0, 1),
        ((Outcome.OK, Outcome.OK, Outcome.OK), 1, 0),
        ((Outcome.MONITOR_ERROR, Outcome.OK), 1, 0),
        ((Outcome.OK, Outcome.CONTROL_FAILED), 0, 0),
        ((Outcome.TIMEOUT, Outcome.CONTROL_FAILED), 0, 0),
    ],
)
def test_case_10_probes_of_one_minute_and_location_are_one_vote(
    outcomes: tuple[Outcome, ...], up: int, down: int
) -> None:
    probes = [(second, outcome) for second, outcome in enumerate(outcomes)]
    for order in (probes, probes[::-1]):
        assert minutes_of_probes(*order)[0] == LocationVotes(up, down)


def test_case_10_a_location_that_probes_more_often_has_no_more_votes() -> None:
    busy, _ = minutes_of_probes(*[(second, Outcome.REFUSED) for second in range(0, 60, 5)])
    fine = LocationVotes(up=1, down=0)
    found = check_minutes({"a": busy, "b": fine, "c": fine}, dict.fromkeys("abc", 1), {}, 2, 1)
    assert (found.up, found.down, found.advisory) == (1, 0, 1)


def test_case_11_failures_of_different_checks_never_add_up() -> None:
    everywhere = dict.fromkeys("abc", 1)
    fine, bad = LocationVotes(1, 0), LocationVotes(0, 1)
    checks = {
        f"check-{i}": check_minutes({p: bad if p == place else fine for p in "abc"}, everywhere, {}, 2, 1)
        for i, place in enumerate("abc")
    }
    found = service_minutes(checks, dict.fromkeys(checks, 1), 1)
    assert (found.up, found.down) == (1, 0)


@pytest.mark.parametrize("outcomes", [(Outcome.MONITOR_ERROR,), (Outcome.CONTROL_FAILED,), ()])
def test_case_12_faults_of_the_monitor_are_unknown_never_down(outcomes: tuple[Outcome, ...]) -> None:
    saw, silenced = minutes_of_probes(*[(0, outcome) for outcome in outcomes])
    found = check_minutes(dict.fromkeys("abc", saw), dict.fromkeys("abc", 1), dict.fromkeys("abc", silenced), 2, 1)
    assert (found.up, found.down, found.unknown) == (0, 0, 1)


@pytest.mark.parametrize(
    ("imap", "smtp", "expected"),
    [
        ("up", "up", "up"),
        ("down", "up", "down"),
        ("down", "down", "down"),
        ("down", "unknown", "down"),
        ("unknown", "up", "unknown"),
        ("unknown", "unknown", "unknown"),
    ],
)
def test_case_13_a_service_is_down_if_any_bearing_check_is(imap: str, smtp: str, expected: str) -> None:
    def minutes(word: str) -> CheckMinutes:
        return CheckMinutes(int(word == "up"), int(word == "down"), int(word == "unknown"), 0)

    for one, other in ((imap, smtp), (smtp, imap)):
        found = service_minutes({"imap": minutes(one), "smtp": minutes(other)}, {"imap": 1, "smtp": 1}, 1)
        assert {word: getattr(found, word) for word in ("up", "down", "unknown") if getattr(found, word)} == {
            expected: 1
        }


def test_case_13_overlapping_outages_count_once() -> None:
    checks = {
        "imap": CheckMinutes(ones(30) ^ between(5, 15), between(5, 15), 0, 0),
        "smtp": CheckMinutes(ones(30) ^ between(10, 20), between(10, 20), 0, 0),
    }
    assert service_minutes(checks, dict.fromkeys(checks, ones(30)), 30).down == between(5, 20)


def test_case_13_a_check_that_bears_and_is_not_told_of_is_unknown() -> None:
    found = service_minutes({}, {"imap": 0b01}, 2)
    assert (found.up, found.down, found.unknown) == (0, 0, 0b11)


@pytest.mark.parametrize(
    ("outcome", "down"),
    [(Outcome.OK_EXPIRES_SOON, 0), (Outcome.OK_JUNK, 0), (Outcome.CERTIFICATE, 1), (Outcome.TLS, 1)],
)
def test_case_14_a_certificate_that_ends_soon_costs_nothing_one_that_has_ended_does(
    outcome: Outcome, down: int
) -> None:
    saw, _ = minutes_of_probes((0, outcome))
    found = check_minutes(dict.fromkeys("abc", saw), dict.fromkeys("abc", 1), {}, 2, 1)
    assert (found.down, found.up) == (down, 1 - down)


def test_case_14_a_check_that_bears_no_sla_costs_nothing() -> None:
    up, down = CheckMinutes(1, 0, 0, 0), CheckMinutes(0, 1, 0, 0)
    assert service_minutes({"imap": up, "dmarc": down}, {"imap": 1}, 1).up == 1
    assert service_minutes({"imap": up, "dmarc": down}, {"imap": 1, "dmarc": 0}, 1).up == 1


def test_case_15_a_round_trip_is_judged_for_the_minute_of_its_sending() -> None:
    """Sent at 23:59:30 on the last day, given up ten minutes later: the old month's minute is down."""
    end_of_month = 44_640
    saw, _ = minutes_of_probes((end_of_month * 60 - 30, Outcome.NOT_ARRIVED))
    assert saw.down == 1 << (end_of_month - 1)
    old, new = Span(0, end_of_month), Span(end_of_month, end_of_month + 1)
    assert [end_of_month - 1 in span for span in (old, new)] == [True, False]


@pytest.mark.parametrize(
    ("outcome", "vote"),
    [
        (Outcome.OK, Vote.UP),
        (Outcome.OK_GREYLISTED, Vote.UP),
        (Outcome.OK_LATE_START, Vote.UP),
        (Outcome.TRANSIENT, Vote.DOWN),
        (Outcome.NOT_ARRIVED, Vote.DOWN),
    ],
)
def test_case_15_greylisting_is_not_down(outcome: Outcome, vote: Vote) -> None:
    assert vote_of(outcome) is vote


def test_a_minute_that_a_location_saw_both_ways_is_a_failure() -> None:
    assert counted_votes({"a": LocationVotes(1, 1)}, {"a": 1}, {}) == {"a": LocationVotes(0, 1)}


def test_votes_of_a_location_that_is_not_in_the_roster_count_nothing() -> None:
    stranger = {"x": LocationVotes(0, 1), "y": LocationVotes(0, 1)}
    found = check_minutes(stranger, {"a": 1}, {}, 1, 1)
    assert (found.up, found.down, found.unknown) == (0, 0, 1)


def test_bits_past_the_end_are_not_minutes() -> None:
    wide = LocationVotes(0b1111, 0)
    found = check_minutes({"a": wide}, {"a": 0b1111}, {}, 1, 2)
    assert found == CheckMinutes(0b11, 0, 0, 0)
    assert service_minutes({"c": found}, {"c": 0b1111}, 2).up == 0b11


def test_up_needs_somebody_who_saw_it() -> None:
    with pytest.raises(ValueError, match="at least one"):
        check_minutes({}, {"a": 1}, {}, 0, 1)


def test_values_with_planes_of_a_month_can_be_shown() -> None:
    assert repr(LocationVotes(ones(44_640), 0)) == "LocationVotes()"
    assert "minutes" not in repr(check_minutes({}, {"a": ones(44_640)}, {}, 1, 44_640))


N = 24
planes = st.integers(0, ones(N)) | st.sampled_from([0, ones(N)])
LOCATIONS = tuple("abcdefg")
by_location = st.dictionaries(st.sampled_from(LOCATIONS), planes)
votes_by_location = st.dictionaries(st.sampled_from(LOCATIONS), st.builds(LocationVotes, planes, planes))


def counted_one_by_one(
    votes: dict[str, LocationVotes], roster: dict[str, int], silenced: dict[str, int], minimum: int, bit: int
) -> str:
    configured = failed = well = 0
    for location, expected in roster.items():
        if not expected >> bit & 1:
            continue
        configured += 1
        if silenced.get(location, 0) >> bit & 1 or location not in votes:
            continue
        if votes[location].down >> bit & 1:
            failed += 1
        elif votes[location].up >> bit & 1:
            well += 1
    if 2 * failed > configured:
        return "down"
    if configured and well >= min(minimum, configured // 2 + 1):
        return "up advisory" if failed else "up"
    return "unknown"


@given(votes_by_location, by_location, by_location, st.integers(1, 9))
def test_counting_all_minutes_at_once_is_counting_them_one_by_one(
    votes: dict[str, LocationVotes], roster: dict[str, int], silenced: dict[str, int], minimum: int
) -> None:
    found = check_minutes(votes, roster, silenced, minimum, N)
    for bit in range(N):
        words = [word for word in ("down", "up", "unknown") if getattr(found, word) >> bit & 1]
        assert len(words) == 1
        if found.advisory >> bit & 1:
            words[0] += " advisory"
        assert words == [counted_one_by_one(votes, roster, silenced, minimum, bit)]
