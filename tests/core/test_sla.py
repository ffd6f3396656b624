"""What a month came to: exact to the minute, with the arithmetic that a customer would do by hand."""

import ast
import json
from dataclasses import replace
from datetime import date
from fractions import Fraction
from importlib import import_module
from inspect import getsource
from zoneinfo import ZoneInfo

import pytest

from smartmail.core.minutes import ServiceMinutes, Verdict
from smartmail.core.months import Month, Span, span_of
from smartmail.core.planes import between, ones
from smartmail.core.sla import (
    Assessment,
    Failing,
    Favour,
    Incident,
    Result,
    Terms,
    TermsError,
    assess,
    assessment_from_json,
    incident_from_json,
    incidents,
    shown_share,
    terms_from_json,
    terms_in_force,
)

TERMS = Terms("2026-1", date(2026, 1, 1), "Europe/London")
PROVIDER = replace(TERMS, indeterminate=Favour.PROVIDER)


def judged(n: int, down: int = 0, unknown: int = 0, maintenance: int = 0, terms: Terms = TERMS) -> Assessment:
    """A span of n minutes that begins with the down ones, goes on with the unknown ones, and ends in maintenance."""
    bad, open_ = between(0, down), between(down, down + unknown)
    minutes = ServiceMinutes(ones(n) ^ (bad | open_), bad, open_)
    return assess(minutes, between(n - maintenance, n), terms, Span(1000, 1000 + n))


@pytest.mark.parametrize(
    ("minutes", "most"),
    [
        (40_320, 40),
        (41_760, 41),
        (43_200, 43),
        (44_640, 44),
        (44_580, 44),
        (44_700, 44),
        (43_260, 43),
        (43_230, 43),
        (40_380, 40),
        (1000, 1),
        (999, 0),
        (1, 0),
    ],
)
def test_the_most_minutes_that_may_be_down(minutes: int, most: int) -> None:
    met, breached = judged(minutes, most), judged(minutes, most + 1)
    assert (met.allowed_down, met.result, met.credit) == (most, Result.MET, False)
    assert (breached.allowed_down, breached.result, breached.credit) == (most, Result.BREACHED, True)


@pytest.mark.parametrize(
    ("zone", "text", "most"),
    [
        ("Europe/London", "2026-03", 44),
        ("Europe/London", "2026-10", 44),
        ("America/New_York", "2026-11", 43),
        ("Australia/Lord_Howe", "2026-04", 43),
        ("Africa/Casablanca", "2026-02", 40),
        ("Pacific/Apia", "2011-12", 43),
        ("UTC", "2028-02", 41),
    ],
)
def test_case_01_and_case_02_the_month_in_its_zone_sets_what_may_be_down(zone: str, text: str, most: int) -> None:
    span = span_of(Month.parse(text), ZoneInfo(zone))
    assert TERMS.allowed_down(span.minutes) == most


EXACT = [(1000 * down, down) for down in range(1, 45)]


@pytest.mark.parametrize(("eligible", "down"), EXACT)
def test_exactly_the_target_is_met_and_one_minute_more_is_not(eligible: int, down: int) -> None:
    assert judged(eligible, down).result is Result.MET
    assert judged(eligible, down + 1).result is Result.BREACHED
    assert judged(eligible, down).availability_low == "99.900"


def test_the_same_44_months_come_out_wrong_in_floating_point() -> None:
    """Why there is none: the usual formula calls each of them a breach."""
    assert len(EXACT) == 44
    assert all((eligible - down) / eligible < 99.9 / 100 for eligible, down in EXACT)
    assert all(down > eligible * (100 - 99.9) / 100 for eligible, down in EXACT)


def test_exactly_the_target_after_maintenance() -> None:
    found = judged(43_200, down=43, maintenance=200)
    assert (found.eligible, found.allowed_down, found.result) == (43_000, 43, Result.MET)


MODULES = ("months", "planes", "minutes", "sla", "burn", "month_record", "evidence", "canonical")


@pytest.mark.parametrize("name", MODULES)
def test_there_is_no_float_and_no_division_that_makes_one(name: str) -> None:
    for node in ast.walk(ast.parse(getsource(import_module(f"smartmail.core.{name}")))):
        assert not isinstance(node, ast.Div)
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, (float, complex)))
        assert not (isinstance(node, ast.Name) and node.id in {"float", "round", "divmod", "Decimal", "Fraction"})
        assert not (isinstance(node, ast.Attribute) and node.attr in {"total_seconds", "timestamp"})


@pytest.mark.parametrize(
    ("down", "unknown", "result", "customer", "provider"),
    [
        (43, 0, Result.MET, False, False),
        (0, 43, Result.MET, False, False),
        (40, 3, Result.MET, False, False),
        (40, 4, Result.INDETERMINATE, True, False),
        (43, 1, Result.INDETERMINATE, True, False),
        (0, 43_200, Result.INDETERMINATE, True, False),
        (44, 0, Result.BREACHED, True, True),
        (44, 1000, Result.BREACHED, True, True),
    ],
)
def test_both_sides_are_certain_or_the_terms_decide(
    down: int, unknown: int, result: Result, customer: bool, provider: bool
) -> None:
    assert judged(43_200, down, unknown).result is result
    assert judged(43_200, down, unknown).credit is customer
    assert judged(43_200, down, unknown, terms=PROVIDER).credit is provider


@pytest.mark.parametrize(
    ("n", "down", "unknown", "low", "high"),
    [
        (44_640, 0, 0, "100.000", "100.000"),
        (44_640, 1, 0, "99.997", "99.997"),
        (44_640, 44, 0, "99.901", "99.901"),
        (44_640, 45, 0, "99.899", "99.899"),
        (44_640, 46, 0, "99.896", "99.896"),
        (44_640, 0, 100, "99.775", "100.000"),
        (43_200, 43_200, 0, "0.000", "0.000"),
        (43_200, 10, 43_190, "0.000", "99.976"),
        (1_000_000, 999_999, 0, "0.000", "0.000"),
        (100_000, 99_999, 0, "0.001", "0.001"),
    ],
)
def test_what_is_shown_is_cut_off_on_both_sides(n: int, down: int, unknown: int, low: str, high: str) -> None:
    found = judged(n, down, unknown)
    assert (found.availability_low, found.availability_high) == (low, high)


@pytest.mark.parametrize("n", [40_320, 41_760, 43_200, 44_640, 44_580, 44_700])
def test_what_is_shown_never_contradicts_the_verdict(n: int) -> None:
    for down in range(200):
        shown = shown_share(n - down, n)
        assert (Fraction(shown) < Fraction("99.9")) == (judged(n, down).result is Result.BREACHED)


def test_a_month_is_not_the_mean_of_its_days() -> None:
    """29 clean days, and one of 60 eligible minutes with two of them down: the mean of days would be a breach."""
    found = judged(30 * 1440, down=2, maintenance=1380)
    assert (found.result, found.availability_low) == (Result.MET, "99.995")
    assert Fraction(29 + Fraction(58, 60), 30) < Fraction(999, 1000)


def test_maintenance_leaves_both_sides_of_the_fraction() -> None:
    """Counted as up it would be 99.9005 %, and met."""
    found = judged(43_200, down=43, maintenance=1440)
    assert (found.eligible, found.result, found.availability_low) == (41_760, Result.BREACHED, "99.897")
    assert 1000 * 43 <= 43_200


@pytest.mark.parametrize(("numerator", "denominator", "most"), [(99, 100, 432), (9995, 10_000, 21), (1, 1, 0)])
def test_other_targets(numerator: int, denominator: int, most: int) -> None:
    terms = replace(TERMS, numerator=numerator, denominator=denominator)
    assert judged(43_200, most, terms=terms).result is Result.MET
    assert judged(43_200, most + 1, terms=terms).result is Result.BREACHED


def test_case_04_an_outage_across_the_1st_is_split_at_midnight() -> None:
    october, november = (span_of(Month(2026, month), ZoneInfo("Europe/London")) for month in (10, 11))
    first, end = october.end - 30, october.end + 20
    parts = []
    for span in (october, november):
        down = span.mask(first, end)
        parts.append(assess(ServiceMinutes(ones(span.minutes) ^ down, down, 0), 0, TERMS, span))
    assert [part.down_minutes for part in parts] == [30, 20]
    failing = {"imap": Failing(october.mask(first, end), {"a": october.mask(first, end)})}
    assert [(one.start, one.end) for one in incidents(failing, 0, october)] == [(first, None)]
    failing = {"imap": Failing(november.mask(first, end), {"a": november.mask(first, end)})}
    assert [(one.start, one.end) for one in incidents(failing, 0, november)] == [(november.first, end)]


OUTAGE = between(100, 160)


@pytest.mark.parametrize(
    ("window", "down"),
    [
        ((120, 140), 40),
        ((90, 120), 40),
        ((140, 200), 40),
        ((100, 160), 0),
        ((50, 300), 0),
        ((160, 200), 60),
        ((60, 100), 60),
    ],
    ids=["inside", "covers its start", "covers its end", "the same", "covers it", "after", "before"],
)
def test_case_16_only_the_minutes_outside_maintenance_count(window: tuple[int, int], down: int) -> None:
    minutes = ServiceMinutes(ones(1440) ^ OUTAGE, OUTAGE, 0)
    found = assess(minutes, between(*window), TERMS, Span(0, 1440))
    assert found.down_minutes == down
    assert found.maintenance_minutes == window[1] - window[0]
    assert found.eligible == 1440 - (window[1] - window[0])
    failing = {"imap": Failing(OUTAGE, {"a": OUTAGE})}
    (incident,) = incidents(failing, between(*window), Span(0, 1440))
    assert (incident.down_minutes, incident.excluded_minutes) == (down, 60 - down)
    assert (incident.start, incident.end) == (100, 160)


def test_case_17_windows_are_one_plane_and_what_lies_beyond_the_month_is_cut_off() -> None:
    minutes = ServiceMinutes(ones(100), 0, 0)
    found = assess(minutes, between(10, 30) | between(20, 40) | between(90, 200), TERMS, Span(0, 100))
    assert found.maintenance_minutes == 40
    assert found.eligible == 60


def test_case_20_an_overrun_is_down() -> None:
    down = between(0, 90)
    found = assess(ServiceMinutes(ones(1440) ^ down, down, 0), between(0, 60), TERMS, Span(0, 1440))
    assert (found.maintenance_minutes, found.down_minutes, found.result) == (60, 30, Result.BREACHED)


def test_case_23_a_month_of_maintenance_has_no_commitment_to_measure() -> None:
    found = judged(43_200, down=500, maintenance=43_200)
    assert (found.eligible, found.result, found.credit) == (0, Result.NO_COMMITMENT, False)
    assert (found.availability_low, found.availability_high) == ("-", "-")
    assert judged(0).result is Result.NO_COMMITMENT


def test_case_24_probing_goes_on_so_the_outage_in_maintenance_is_known() -> None:
    down = between(10, 25)
    (incident,) = incidents({"imap": Failing(down, {"a": down})}, between(0, 60), Span(0, 100))
    assert (incident.down_minutes, incident.excluded_minutes, incident.end) == (0, 15, 25)


def test_case_31_the_service_decides_and_not_an_account_s_own_hour() -> None:
    """One bad minute in the last hour: of that hour it would be a breach, of the month it is not."""
    month = judged(43_200, down=1)
    assert month.result is Result.MET
    assert judged(60, down=1).result is Result.BREACHED


TERMS_2 = replace(TERMS, version="2026-2", effective=date(2026, 6, 15), numerator=9995, denominator=10_000)
TERMS_3 = replace(TERMS, version="2026-3", effective=date(2026, 9, 1))


@pytest.mark.parametrize(
    ("month", "version"),
    [
        ("2026-01", "2026-1"),
        ("2026-06", "2026-1"),
        ("2026-07", "2026-2"),
        ("2026-08", "2026-2"),
        ("2026-09", "2026-3"),
        ("2030-01", "2026-3"),
    ],
)
def test_case_39_a_month_is_judged_by_the_terms_in_force_on_its_1st(month: str, version: str) -> None:
    for order in ((TERMS, TERMS_2, TERMS_3), (TERMS_3, TERMS, TERMS_2)):
        assert terms_in_force(order, Month.parse(month)).version == version


def test_case_39_of_terms_with_one_date_the_last_count() -> None:
    again = replace(TERMS_2, version="2026-2b")
    assert terms_in_force((TERMS, TERMS_2, again), Month(2026, 7)) is again


def test_case_39_before_the_first_terms_there_is_no_promise() -> None:
    with pytest.raises(TermsError, match="2025-12-01"):
        terms_in_force((TERMS, TERMS_2), Month(2025, 12))


def test_terms_are_read_back() -> None:
    for terms in (TERMS, replace(TERMS_2, cap_minutes=0, trial_credited=True), replace(PROVIDER, cap_minutes=600)):
        assert terms_from_json(json.loads(json.dumps(terms.to_json()))) == terms


@pytest.mark.parametrize(
    "change",
    [
        {"numerator": 0},
        {"numerator": 1001},
        {"denominator": 0},
        {"minimum_reporters": 0},
        {"credit_months": 0},
        {"notice_minutes": -1},
        {"cap_minutes": -1},
        {"grace_minutes": -1},
        {"restate_days": -1},
        {"version": ""},
        {"zone": ""},
        {"effective": "2026-02-30"},
        {"indeterminate": "nobody"},
        {"numerator": "999"},
        {"numerator": True},
        {"trial_credited": 1},
        {"cap_minutes": "none"},
    ],
)
def test_terms_that_are_none_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(TermsError):
        terms_from_json(TERMS.to_json() | change)


@pytest.mark.parametrize("value", [None, [], "terms", {}, {"version": "1"}])
def test_what_is_not_even_the_shape_of_terms_is_refused(value: object) -> None:
    with pytest.raises(TermsError):
        terms_from_json(value)


def test_an_assessment_is_read_back_and_tells_of_each_minute() -> None:
    found = judged(10, down=2, unknown=3, maintenance=1)
    assert assessment_from_json(json.loads(json.dumps(found.to_json()))) == found
    words = [found.verdict_at(minute) for minute in range(999, 1011)]
    assert words == [
        None,
        *[Verdict.DOWN] * 2,
        *[Verdict.UNKNOWN] * 3,
        *[Verdict.UP] * 4,
        Verdict.MAINTENANCE,
        None,
    ]


@pytest.mark.parametrize("span", [[0], [0, 1, 2], [5, 2], ["0", "1"], [0, True], "0-10", [0, 10**12], None])
def test_a_span_that_is_none_is_refused(span: object) -> None:
    with pytest.raises(ValueError, match="span"):
        assessment_from_json(judged(10).to_json() | {"span": span})


def outages(down: int, *locations: int, maintenance: int = 0, n: int = 200) -> tuple[Incident, ...]:
    """The incidents of one check of which the locations saw those failures."""
    seen = {f"place-{i}": plane for i, plane in enumerate(locations)}
    return incidents({"imap": Failing(down, seen)}, maintenance, Span(1000, 1000 + n))


def test_an_incident_begins_with_the_first_failing_minute() -> None:
    down = between(50, 60)
    (found,) = outages(down, between(48, 60), between(50, 60))
    assert found == Incident(1048, 1050, 1060, 10, 0, ("imap",), ("place-0", "place-1"))
    assert incident_from_json(found.to_json()) == found


def test_a_location_that_had_failed_alone_for_long_is_not_the_beginning() -> None:
    down = between(50, 60)
    (found,) = outages(down, between(20, 60), down)
    assert found.start == found.down_from == 1050
    (found,) = outages(down, between(40, 60), down)
    assert found.start == 1040


def test_a_failure_before_a_good_minute_is_not_the_beginning() -> None:
    (found,) = outages(between(50, 60), between(45, 47) | between(50, 60))
    assert found.start == 1050


def test_outages_with_nothing_but_failures_between_are_one() -> None:
    down = between(50, 60) | between(63, 70)
    (found,) = outages(down, between(50, 70))
    assert (found.start, found.end, found.down_minutes) == (1050, 1070, 17)
    apart = outages(down, down)
    assert [(one.start, one.end) for one in apart] == [(1050, 1060), (1063, 1070)]


def test_an_outage_at_the_end_is_open() -> None:
    (found,) = outages(between(190, 200), between(190, 200))
    assert (found.start, found.end) == (1190, None)


def test_an_outage_at_the_beginning_begins_with_the_span() -> None:
    (found,) = outages(between(0, 5), between(0, 5))
    assert (found.start, found.end) == (1000, 1005)


def test_an_incident_names_the_checks_that_were_down_and_who_saw_them() -> None:
    imap, smtp, web = between(50, 60), between(55, 65), between(100, 101)
    checks = {
        "smtp": Failing(smtp, {"b": smtp, "c": smtp}),
        "imap": Failing(imap, {"a": imap, "b": imap}),
        "web": Failing(web, {"a": web}),
        "pop3": Failing(0, {"d": between(50, 60)}),
    }
    first, second = incidents(checks, 0, Span(0, 200))
    assert (first.start, first.end, first.checks, first.locations) == (50, 65, ("imap", "smtp"), ("a", "b", "c"))
    assert (second.checks, second.locations) == (("web",), ("a",))


def test_a_month_without_an_outage_has_no_incident() -> None:
    assert outages(0, between(5, 7)) == ()
