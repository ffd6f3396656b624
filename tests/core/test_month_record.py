"""A month's record: it says all that it is computed from, and whoever changes a figure in it is found out."""

import json
from dataclasses import replace
from datetime import UTC, date
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from smartmail.core.canonical import JsonError, canonical
from smartmail.core.evidence import Evidence, EvidenceError
from smartmail.core.maintenance import Action, Announcement
from smartmail.core.minutes import LocationVotes, Verdict
from smartmail.core.month_record import (
    MinuteChange,
    MonthRecord,
    RecordError,
    build,
    difference,
    digest,
    from_json,
    octets_of,
    recompute,
    to_json,
    verify,
)
from smartmail.core.months import Month, Span, days_of, span_of
from smartmail.core.planes import between, ones
from smartmail.core.roster import CheckKind, CheckSpec, Roster
from smartmail.core.sla import Result, Terms

LONDON = ZoneInfo("Europe/London")
OCTOBER = Month(2026, 10)
SPAN = span_of(OCTOBER, LONDON)
N = SPAN.minutes
PLACES = ("berlin", "dublin", "oslo")
TERMS = Terms("2026-1", date(2026, 1, 1), "Europe/London")
UP = LocationVotes(ones(N), 0)


def check(name: str, service: str, *places: str) -> CheckSpec:
    return CheckSpec(name, service, CheckKind.IMAPS, f"{name}.example", 993, places, True, {"password": "imap-probe"})


ROSTER = Roster(1, SPAN.first - 9999, PLACES, (check("imap", "mail-1", *PLACES), check("smtp", "mail-1", *PLACES)))


def seen(start: int, end: int) -> LocationVotes:
    """Up but for a failure in these minutes of the month."""
    down = between(start, end)
    return LocationVotes(ones(N) ^ down, down)


def evidence(**changes: Any) -> Evidence:
    """October 2026 in London: nothing happened, but for what is told otherwise."""
    base = Evidence(
        service="mail-1",
        month=OCTOBER,
        zone="Europe/London",
        tz_version="2026f",
        days=days_of(OCTOBER, LONDON),
        until=SPAN.end,
        terms=TERMS,
        history=(ROSTER,),
        streams={"imap": dict.fromkeys(PLACES, UP), "smtp": dict.fromkeys(PLACES, UP)},
        silenced={},
        announcements=(),
        sample_digest="00" * 32,
    )
    return replace(base, **changes)


def with_outage(minutes: int) -> Evidence:
    bad = seen(1000, 1000 + minutes)
    return evidence(streams={"imap": {"berlin": bad, "dublin": bad, "oslo": UP}, "smtp": dict.fromkeys(PLACES, UP)})


def test_a_quiet_month() -> None:
    found = build(evidence()).assessment
    assert (found.up_minutes, found.down_minutes, found.unknown_minutes, found.eligible) == (44_700, 0, 0, 44_700)
    assert (found.result, found.credit, found.availability_low) == (Result.MET, False, "100.000")


@pytest.mark.parametrize(("minutes", "result"), [(44, Result.MET), (45, Result.BREACHED)])
def test_an_outage_that_two_of_three_saw(minutes: int, result: Result) -> None:
    record = build(with_outage(minutes))
    assert (record.assessment.down_minutes, record.assessment.result) == (minutes, result)
    (incident,) = record.findings.incidents
    assert (incident.start, incident.end) == (SPAN.first + 1000, SPAN.first + 1000 + minutes)
    assert (incident.checks, incident.locations) == (("imap",), ("berlin", "dublin"))


def test_what_each_location_saw() -> None:
    streams = {
        "imap": {"berlin": seen(10, 30), "dublin": seen(20, 30), "oslo": LocationVotes(between(0, 100), 0)},
        "smtp": dict.fromkeys(PLACES, UP),
    }
    record = build(evidence(streams=streams, silenced={"oslo": between(90, 200)}))
    imap = next(one for one in record.findings.checks if one.check == "imap")
    assert (imap.in_force, imap.bearing, imap.up, imap.down, imap.advisory) == (N, N, N - 10, 10, 10)
    oslo = next(one for one in record.findings.locations if (one.check, one.location) == ("imap", "oslo"))
    assert (oslo.expected, oslo.up, oslo.down, oslo.silenced, oslo.silent) == (N, 90, 0, 110, N - 200)
    berlin = next(one for one in record.findings.locations if (one.check, one.location) == ("imap", "berlin"))
    assert (berlin.down, berlin.alone) == (20, 10)


def test_why_a_minute_is_unknown() -> None:
    silent = LocationVotes(0, 0)
    streams = {
        "imap": {"berlin": seen(0, 5), "dublin": silent, "oslo": silent},
        "smtp": {"berlin": UP, "dublin": silent, "oslo": UP},
    }
    record = build(evidence(streams=streams, silenced={"oslo": between(3, 20)}))
    imap, smtp = record.findings.checks
    assert (imap.unknown, imap.divided, imap.cut_off, imap.silent) == (N, 5, 15, N - 20)
    assert (smtp.unknown, smtp.divided, smtp.cut_off, smtp.silent) == (17, 0, 17, 0)


def test_case_02_another_tz_database_does_not_move_a_closed_month() -> None:
    closed = build(with_outage(45))
    assert span_of(OCTOBER, UTC).minutes != closed.evidence.span.minutes
    again = from_json(json.loads(octets_of(closed)))
    assert again.evidence.span == SPAN and recompute(again) == []
    restated = build(replace(closed.evidence, tz_version="2027a"))
    assert restated.assessment == closed.assessment and difference(closed, restated) == ()


def test_case_09_a_service_of_half_a_month_is_measured_while_it_lived() -> None:
    begins, ends = SPAN.first + 20_000, SPAN.first + 30_000
    history = (
        replace(ROSTER, checks=()),
        replace(ROSTER, version=2, from_minute=begins),
        replace(ROSTER, version=3, from_minute=ends, checks=()),
    )
    found = build(evidence(history=history)).assessment
    assert (found.span, found.up_minutes, found.allowed_down) == (Span(begins, ends), 10_000, 10)


def test_taking_a_service_off_the_roster_for_a_while_hides_nothing() -> None:
    history = (
        ROSTER,
        replace(ROSTER, version=2, from_minute=SPAN.first + 100, checks=()),
        replace(ROSTER, version=3, from_minute=SPAN.first + 200),
    )
    found = build(evidence(history=history)).assessment
    assert (found.span, found.unknown_minutes, found.result) == (SPAN, 100, Result.INDETERMINATE)


def test_a_service_that_was_never_there_has_no_commitment() -> None:
    found = build(evidence(service="mail-9")).assessment
    assert (found.span.minutes, found.result, found.credit) == (0, Result.NO_COMMITMENT, False)


def test_a_running_month_is_measured_up_to_now() -> None:
    found = build(evidence(until=SPAN.first + 5000)).assessment
    assert (found.span, found.up_minutes, found.unknown_minutes) == (Span(SPAN.first, SPAN.first + 5000), 5000, 0)
    assert build(evidence(until=SPAN.first - 5)).assessment.span.minutes == 0


def announced(first: int, end: int, notice: int) -> Announcement:
    begin = SPAN.first + first
    recorded_ms = (begin - notice) * 60_000
    return Announcement("w1", Action.ANNOUNCE, "mail-1", begin, SPAN.first + end, recorded_ms, "ann", "new disks")


def test_case_16_and_case_20_announced_maintenance_and_its_overrun() -> None:
    record = build(replace(with_outage(60), announcements=(announced(990, 1040, 2880),)))
    found = record.assessment
    assert (found.maintenance_minutes, found.down_minutes, found.eligible) == (50, 20, 44_650)
    (incident,) = record.findings.incidents
    assert (incident.down_minutes, incident.excluded_minutes) == (20, 40)


def test_case_18_and_case_19_without_notice_nothing_is_left_out() -> None:
    for notice in (2879, 0, -100):
        found = build(replace(with_outage(60), announcements=(announced(990, 1060, notice),))).assessment
        assert (found.maintenance_minutes, found.down_minutes) == (0, 60)


def test_case_28_a_late_sample_is_told_minute_by_minute() -> None:
    closed = build(evidence(streams={"imap": {"oslo": UP, "berlin": seen(10, 50)}, "smtp": dict.fromkeys(PLACES, UP)}))
    late = build(
        evidence(
            streams={
                "imap": {"oslo": UP, "berlin": seen(10, 50), "dublin": seen(20, 40)},
                "smtp": dict.fromkeys(PLACES, UP),
            }
        )
    )
    first = SPAN.first
    assert difference(closed, late) == (
        MinuteChange(first + 10, first + 20, Verdict.UNKNOWN, Verdict.UP),
        MinuteChange(first + 20, first + 40, Verdict.UNKNOWN, Verdict.DOWN),
        MinuteChange(first + 40, first + 50, Verdict.UNKNOWN, Verdict.UP),
    )
    assert (closed.assessment.unknown_minutes, late.assessment.down_minutes) == (40, 20)
    assert digest(closed) != digest(late)
    assert recompute(closed) == recompute(late) == []


def test_case_31_and_case_40_only_the_service_that_failed_is_judged_by_its_failures() -> None:
    other = check("imap-2", "mail-2", *PLACES)
    streams = {**with_outage(60).streams, "imap-2": dict.fromkeys(PLACES, UP)}
    both = evidence(history=(replace(ROSTER, checks=(*ROSTER.checks, other)),), streams=streams)
    one, two = build(both), build(replace(both, service="mail-2"))
    assert (one.assessment.result, two.assessment.result) == (Result.BREACHED, Result.MET)
    assert "imap-2" not in octets_of(one).decode()
    assert [view.check for view in two.findings.checks] == ["imap-2"]


def test_case_39_the_record_says_by_which_terms() -> None:
    loose = replace(TERMS, version="2026-0", numerator=99, denominator=100)
    assert build(with_outage(60)).assessment.result is Result.BREACHED
    record = build(replace(with_outage(60), terms=loose))
    assert record.assessment.result is Result.MET
    assert from_json(to_json(record)).evidence.terms == loose


def test_names_of_secrets_are_not_published() -> None:
    assert "imap-probe" not in octets_of(build(evidence())).decode()


def test_the_same_evidence_has_the_same_digest_for_ever() -> None:
    """Of octets, so of every rule and every letter of the form. If this changes, it is another FORMAT."""
    assert digest(build(with_outage(45))) == digest(build(with_outage(45)))
    assert digest(build(with_outage(45))) == "fd2e7a1fa3e170f628ec9388b48d6e8da182af882d22b16e235220f2326d2db1"


def test_a_quiet_month_of_six_streams_is_a_short_text() -> None:
    assert len(octets_of(build(evidence()))) < 6000


def published(record: MonthRecord | None = None) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(octets_of(record or build(with_outage(45))))
    return value


def test_a_published_record_holds() -> None:
    assert verify(published()) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (
            ("findings", "assessment", "minutes", "down"),
            44,
            "findings.assessment.minutes.down: published 44, computed 45",
        ),
        (("findings", "assessment", "result"), "met", "published 'met', computed 'breached'"),
        (("findings", "assessment", "credit"), False, "findings.assessment.credit"),
        (("findings", "assessment", "availability_low"), "99.901", "computed '99.899'"),
        (("findings", "assessment", "allowed_down"), 45, "computed 44"),
        (("findings", "assessment", "planes", "down"), "", "findings.assessment.planes.down"),
        (("findings", "incidents"), [], "findings.incidents"),
        (("findings", "checks", 0, "down"), 0, "findings.checks[0].down"),
        (("findings", "locations", 2, "silent"), 7, "findings.locations[2].silent"),
        (("streams", "imap", "berlin", "down"), "", "findings.assessment.minutes.down: published 45, computed 0"),
        (("terms", "numerator"), 99, "findings.assessment.allowed_down"),
        (("surprise",), 1, "surprise: does not belong there"),
        (("terms", "surprise"), 1, "terms.surprise: does not belong there"),
        (("rosters", 0, "checks", 0, "options"), {"a": "b"}, "rosters[0].checks[0].options.a: does not belong there"),
        (("silenced",), {"oslo": ""}, "silenced.oslo: does not belong there"),
    ],
)
def test_whoever_changes_a_figure_is_found_out(path: tuple[str | int, ...], value: object, told: str) -> None:
    record = published()
    inner: Any = record
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    assert any(told in line for line in verify(record)), verify(record)


@pytest.mark.parametrize(
    "spoilt",
    [
        None,
        [],
        {},
        {"format": 2},
        {"format": "1"},
        {"days": []},
        {"days": [["2026-10-01", 0]]},
        {"days": [["2026-10-01", 0, 10], ["2026-10-02", 11, 20]]},
        {"days": [["2026-10-01", 0, 10**12]]},
        {"month": "October"},
        {"until": "now"},
        {"terms": {}},
        {"rosters": [{}]},
        {"rosters": {}},
        {"streams": []},
        {"streams": {"imap": {"oslo": {"up": "0+1"}}}},
        {"streams": {"imap": {"oslo": {"up": "0+1", "down": "0+1"}}}},
        {"streams": {"imap": {"oslo": {"up": "0+99999999", "down": ""}}}},
        {"silenced": {"oslo": 7}},
        {"announcements": ["w1"]},
        {"announcements": [{"window": "w1"}]},
        {"findings": None},
        {"findings": {"assessment": {}, "incidents": [], "checks": [], "locations": []}},
    ],
)
def test_what_is_no_record_is_refused(spoilt: object) -> None:
    value = published() | spoilt if isinstance(spoilt, dict) and spoilt else spoilt
    with pytest.raises(RecordError):
        verify(value)


def test_evidence_of_a_month_with_a_hole_is_refused() -> None:
    days = days_of(OCTOBER, LONDON)
    for wrong in ((), days[:3] + days[4:], days[::-1]):
        with pytest.raises(EvidenceError):
            evidence(days=wrong)


@pytest.mark.parametrize("value", [0.5, {"a": [1.0]}, {1: "a"}, {"a": b"octets"}, float("nan"), {"a": {2}}])
def test_what_two_machines_may_write_differently_has_no_canonical_form(value: object) -> None:
    with pytest.raises(JsonError):
        canonical(value)


def test_the_canonical_form() -> None:
    assert canonical({"b": [1, True, None], "a": "ü"}) == b'{"a":"\\u00fc","b":[1,true,null]}'


def test_what_is_nested_without_end_has_no_canonical_form() -> None:
    value: list[object] = []
    for _ in range(100):
        value = [value]
    with pytest.raises(JsonError, match="deep"):
        canonical(value)
