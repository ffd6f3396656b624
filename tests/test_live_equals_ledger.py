"""The live figures are the ledger's: at any instant of a simulated month, what is shown of its minutes is what the
closed month says of the same minutes, by value and by metric."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parent / "simulator"))

from simcollector import collect
from simmonth import FIVE_MINUTES, HOUR_MS, MINUTE_MS, SERVICE, Place, Plan, check, deliveries, minutes, roster
from simtrouble import PLACES, announcement, clocks
from simworld import TERMS, World, empty_database, month_span, world

from smartmail.core.burn import EVEN, PAIRS, WINDOWS
from smartmail.core.live import LiveMonth
from smartmail.core.maintenance import Action
from smartmail.core.minutes import Verdict
from smartmail.core.month_record import MonthRecord, digest
from smartmail.core.months import Month, Span
from smartmail.core.planes import ones
from smartmail.core.sla import Result
from smartmail.metrics import MonitorMetrics
from smartmail.monitor.live import SETTLE_MINUTES, look
from smartmail.monitor.months import read_record

OCTOBER = Month(2026, 10)
END = month_span(OCTOBER).end
SPAN = Span(END - 5_000, END + 600)
"""The service lives from four days before the end of October to ten hours into November."""
THREE = PLACES[:3]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return empty_database(tmp_path_factory.mktemp("empty"))


def ours() -> Plan:
    """Outages of 1 to 40 minutes, the last of them over the end of October; a window that covers half an outage; a
    location that fails alone on the last evening, and nights in which two are dead."""
    chance = Random(21)
    history = (
        roster(1, SPAN.first, [check("imaps", THREE), check("mx", THREE), check("webmail", THREE, sla=False)]),
        roster(2, SPAN.end, ()),
    )
    outages = {
        "mx": (
            minutes(SPAN.first + 300, SPAN.first + 301),
            minutes(SPAN.first + 1_990, SPAN.first + 2_010),
            minutes(END - 20, END + 12),
        ),
        "imaps": (minutes(SPAN.first + 305, SPAN.first + 306), minutes(SPAN.first + 2_005, SPAN.first + 2_045)),
        "webmail": (minutes(SPAN.first + 1_000, SPAN.first + 1_400),),
    }
    alone = (((END - 200) * MINUTE_MS - 1_000, (END - 100) * MINUTE_MS - 1_000),)
    dead = (((SPAN.first + 2_500) * MINUTE_MS, (SPAN.first + 2_620) * MINUTE_MS),)
    places = {name: clocks(chance, SPAN) for name in THREE}
    places["dublin"] = replace(places["dublin"], faulty=alone, dead=dead)
    places["frankfurt"] = replace(places["frankfurt"], dead=dead)
    first = SPAN.first + 2_000
    windows = (announcement("w", Action.ANNOUNCE, first, first + 30, first - 4_000),)
    return Plan(21, SPAN, history, places, outages, windows)


@pytest.fixture(scope="module")
def lived(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The plan with all its samples stored, and nothing closed."""
    plan = ours()
    with world(empty, tmp_path_factory.mktemp("lived"), plan, OCTOBER) as one:
        collect(one.url, deliveries(plan))
        yield one


@pytest.fixture(scope="module")
def october(lived: World) -> MonthRecord:
    return read_record(lived.months.close(SERVICE, OCTOBER, lived.act()))


@pytest.fixture(scope="module")
def november(lived: World) -> MonthRecord:
    return lived.months.judge(SERVICE, Month(2026, 11), lived.over_ms + 40 * 24 * HOUR_MS)


def live_at(one: World, minute: int) -> LiveMonth:
    """What is shown at an instant at which the minutes up to, not including, `minute` have settled."""
    (found,) = look(one.months, (minute + SETTLE_MINUTES) * MINUTE_MS + 17_000)
    assert found.until == minute
    return found


def instants(first: int, end: int, count: int) -> list[int]:
    """Some minutes, by chance, and those around which something changes."""
    chance = Random(22)
    edges = [SPAN.first + at + near for at in (300, 1_990, 2_010, 2_030, 2_045, 2_620) for near in (0, 1)]
    return sorted({*edges, *(chance.randrange(first, end) for _ in range(count))})


Families = Mapping[str, Mapping[tuple[str, ...], float]]


def exposed(*live: LiveMonth) -> Families:
    """What a scrape would give: name -> label values, in the order of the labels' names -> value."""
    metrics = MonitorMetrics(CollectorRegistry())
    metrics.live = live
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in metrics.collect():
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def counts(record: MonthRecord, before: int) -> dict[Verdict, int]:
    """What a record says of its minutes before `before`."""
    judged = record.assessment
    so_far = ones(max(0, before - judged.span.first))
    planes = {
        Verdict.UP: judged.up,
        Verdict.DOWN: judged.down,
        Verdict.UNKNOWN: judged.unknown,
        Verdict.MAINTENANCE: judged.maintenance,
    }
    return {verdict: (found & so_far).bit_count() for verdict, found in planes.items()}


def test_the_month_has_something_of_everything(october: MonthRecord, november: MonthRecord) -> None:
    judged = october.assessment
    assert (judged.span.end, judged.span.minutes) == (END, 5_000)
    assert (judged.down_minutes, judged.unknown_minutes, judged.maintenance_minutes) == (1 + 1 + 10 + 15 + 20, 120, 30)
    assert judged.result is Result.BREACHED
    assert november.assessment.down_minutes == 12


def test_at_any_instant_the_live_figures_are_what_the_closed_month_says(lived: World, october: MonthRecord) -> None:
    judged = october.assessment
    for minute in instants(SPAN.first + 1, END, 6):
        live = live_at(lived, minute)
        so_far = counts(october, minute)
        assert digest(live.record) == digest(lived.judged(minute * MINUTE_MS)), "the same reckoning"
        assert counts(live.record, END) == so_far
        assert live.verdict is judged.verdict_at(minute - 1)
        left = live.budget
        assert (left.eligible, left.allowed) == (judged.eligible, judged.allowed_down)
        assert (left.spent, left.unknown) == (so_far[Verdict.DOWN], so_far[Verdict.UNKNOWN])
        assert left.left == left.allowed - left.spent
        assert left.left_if_unknown_down == left.left - left.unknown
        failing = (lived.plan.down("mx", SPAN) | lived.plan.down("imaps", SPAN)) >> (minute - 1 - SPAN.first) & 1
        assert (live.incident is not None) == bool(failing)
        if live.incident is not None:
            known = [one for one in october.findings.incidents if one.down_from < minute <= (one.end or END)]
            assert [(one.start, one.down_from) for one in known] == [(live.incident.start, live.incident.down_from)]
            assert live.incident.end is None


def test_while_samples_come_in_a_minute_that_has_settled_stays_as_it_was(empty: Path, tmp_path: Path) -> None:
    """Agents that hand in each minute: what is shown two minutes later is what the closed month says."""
    span = Span(END - 240, END)
    history = (roster(1, span.first, [check("mx", THREE)]), roster(2, span.end, ()))
    places = {name: Place(skew_ms=skew) for name, skew in zip(THREE, (FIVE_MINUTES, -FIVE_MINUTES, 0), strict=True)}
    plan = Plan(3, span, history, places, {"mx": (minutes(END - 100, END - 77), minutes(END - 3, END))}, chunk=1)
    waiting = deliveries(plan)
    shown: dict[int, tuple[dict[Verdict, int], Verdict | None]] = {}
    with world(empty, tmp_path, plan, OCTOBER) as one:
        for minute in range(span.first + 5, END + 1, 6):
            now_ms = (minute + SETTLE_MINUTES) * MINUTE_MS
            come = [delivery for delivery in waiting if delivery.received_ms <= now_ms]
            waiting = waiting[len(come) :]
            collect(one.url, come, seals=1)
            (live,) = look(one.months, now_ms)
            shown[minute] = counts(live.record, END), live.verdict
        collect(one.url, waiting)
        closed = read_record(one.months.close(SERVICE, OCTOBER, one.act()))
    assert closed.assessment.down_minutes == 26
    assert shown == {minute: (counts(closed, minute), closed.assessment.verdict_at(minute - 1)) for minute in shown}


def test_the_metrics_are_the_integers_of_the_record(lived: World, october: MonthRecord) -> None:
    """At the month's end: each minute, check and location as in the closed revision."""
    live = live_at(lived, END)
    assert digest(live.record) == digest(october)
    found, judged = exposed(live), october.assessment
    assert found["smartmail_sla_minutes"] == {
        (SERVICE, verdict.value): count for verdict, count in counts(october, END).items()
    }
    for name, value in {
        "smartmail_sla_eligible_minutes": judged.eligible,
        "smartmail_sla_allowed_minutes": judged.allowed_down,
        "smartmail_sla_left_minutes": judged.allowed_down - judged.down_minutes,
        "smartmail_sla_judged_until_timestamp_seconds": END * 60,
        "smartmail_incident_start_timestamp_seconds": (END - 20) * 60,
        "smartmail_sla_breach_in_minutes": 0,
    }.items():
        assert found[name] == {(SERVICE,): value}, name
    assert found["smartmail_service_state"] == {
        (SERVICE, verdict.value): float(verdict is Verdict.DOWN) for verdict in Verdict
    }
    assert found["smartmail_check_minutes"] == {
        (view.check, SERVICE, state): getattr(view, state)
        for view in october.findings.checks
        for state in ("up", "down", "unknown")
    }
    assert found["smartmail_location_minutes"] == {
        (view.check, view.location, SERVICE, state): getattr(view, state)
        for view in october.findings.locations
        for state in ("up", "down", "silent", "silenced")
    }
    assert sum(found["smartmail_sla_minutes"].values()) == judged.span.minutes


def test_the_metrics_of_any_instant_are_what_is_shown_then(lived: World, october: MonthRecord) -> None:
    for minute in (SPAN.first + 1_500, SPAN.first + 2_008, SPAN.first + 2_060, END - 150):
        live = live_at(lived, minute)
        found = exposed(live)
        assert found["smartmail_sla_minutes"] == {
            (SERVICE, verdict.value): count for verdict, count in counts(october, minute).items()
        }
        assert found["smartmail_sla_left_minutes"] == {(SERVICE,): live.budget.left}
        assert ("smartmail_sla_breach_in_minutes" in found) == (live.breach_in is not None)
        assert ("smartmail_incident_start_timestamp_seconds" in found) == (live.incident is not None)
        assert sorted(found["smartmail_sla_burn_rate"].values()) == sorted(one.rate / EVEN for one in live.burns)


def test_nothing_is_exposed_before_anything_was_judged() -> None:
    assert all(not values for values in exposed().values())


def test_a_lone_failing_location_is_an_advisory_with_since_when(lived: World) -> None:
    """Dublin, on the last evening: all three checks fail there, and nowhere else."""
    live = live_at(lived, END - 150)
    assert (live.verdict, live.incident) == (Verdict.UP, None)
    assert [(one.check, one.location, END - one.since) for one in live.advisories] == [
        (name, "dublin", 200) for name in ("imaps", "mx", "webmail")
    ]
    assert exposed(live)["smartmail_location_failing_alone"] == {
        (name, place, SERVICE): float(place == "dublin") for name in ("imaps", "mx", "webmail") for place in THREE
    }
    assert live_at(lived, END - 200).advisories == live_at(lived, END - 99).advisories == ()


def test_a_check_that_costs_nothing_is_down_without_an_incident_or_an_advisory(lived: World) -> None:
    live = live_at(lived, SPAN.first + 1_200)
    assert (live.verdict, live.incident, live.advisories) == (Verdict.UP, None, ())
    assert exposed(live)["smartmail_check_minutes"]["webmail", SERVICE, "down"] == 200


def test_the_breach_is_foretold_and_comes(lived: World) -> None:
    """Four minutes of so short a life may be down. Two are gone, and then a total outage begins."""
    foretold = [live_at(lived, SPAN.first + at) for at in (1_990, 1_991, 1_992, 1_993, 1_994)]
    assert [one.budget.left for one in foretold] == [2, 1, 0, -1, -2]
    assert foretold[0].breach_in is None, "no failure in the last hour"
    assert [one.breach_in for one in foretold[1:]] == [2 * 60, 60 // 2, 0, 0], "at the rate of the last hour"
    certain = [one.record.assessment.down_minutes > one.budget.allowed for one in foretold]
    assert certain == [False, False, False, True, True]


def test_the_windows_reach_back_into_the_month_before(
    lived: World, october: MonthRecord, november: MonthRecord
) -> None:
    """Each rate is the down minutes of its window over the eligible ones, of both closed months, counted one by one."""
    for minute in (END + 1, END + 5, END + 12, END + 61, END + 400):
        live = live_at(lived, minute)
        assert live.record.month == Month(2026, 11)
        assert [one.window for one in live.burns] == list(WINDOWS)
        for one in live.burns:
            window = range(max(minute - one.window, SPAN.first), minute)
            verdicts = [october.assessment.verdict_at(at) or november.assessment.verdict_at(at) for at in window]
            down = verdicts.count(Verdict.DOWN)
            eligible = len(verdicts) - verdicts.count(Verdict.MAINTENANCE)
            assert (one.down, one.eligible) == (down, eligible)
            assert one.rate == EVEN * 1000 * down // eligible
        assert live.budget.spent == min(minute - END, 12)
    live = live_at(lived, END + 5)
    assert next(one for one in live.burns if one.window == 60).down == 25
    assert live.incident is not None and live.incident.start == END, "an incident of this month"
    assert [one.firing for one in live.alerts] == [True] * len(PAIRS)


def test_terms_and_services_are_as_the_ledger_s(lived: World) -> None:
    live = live_at(lived, SPAN.first + 100)
    assert live.record.evidence.terms == TERMS
    assert live.record.service == SERVICE
    assert look(lived.months, (SPAN.end + 30) * MINUTE_MS) == (), "the service is gone"
