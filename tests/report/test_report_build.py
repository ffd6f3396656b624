"""The report's model: what follows from a record, and who sees what of it."""

from dataclasses import replace

import pytest
from reportworld import (
    BREACHED,
    CLEAN,
    LONDON,
    MANY,
    RUNNING,
    YOUNG,
    Scene,
    at,
    report_on,
    window,
)

from smartmail.core.maintenance import Action, Announcement
from smartmail.core.month_record import difference
from smartmail.core.outcome import Outcome
from smartmail.report.build import MOST_WORDS, Reader, from_record
from smartmail.report.model import Audience, MonthReport, Revision, Seen


def test_the_days_add_up_to_the_month(any_scene: Scene) -> None:
    report = report_on(any_scene)
    assert sum(day.span.minutes for day in report.days) == report.month_minutes
    for verdict in ("up", "down", "unknown", "maintenance"):
        assert sum(getattr(day.counts, verdict) for day in report.days) == getattr(report.counts, verdict)


def test_each_minute_of_a_day_is_in_exactly_one_stretch(any_scene: Scene) -> None:
    for day in report_on(any_scene).days:
        offset = 0
        for stretch in day.stretches:
            assert stretch.offset == offset
            offset += stretch.minutes
        assert offset == day.span.minutes


def test_incidents_cost_the_minutes_that_are_down(any_scene: Scene) -> None:
    report = report_on(any_scene)
    assert sum(line.incident.down_minutes for line in report.incidents) == report.counts.down


def test_case_02_a_day_is_as_long_as_the_clock_makes_it() -> None:
    spring = {day.label: day.span.minutes for day in report_on(Scene("2026-03")).days}
    autumn = {day.label: day.span.minutes for day in report_on(Scene("2026-10")).days}
    assert (spring["Sun 29"], autumn["Sun 25"], autumn["Sat 24"]) == (1380, 1500, 1440)


def test_times_that_the_clock_shows_twice_have_their_offset() -> None:
    record = Scene(
        "2026-10", outages=((at(25, 0, 40), at(25, 1, 20), "mx"), (at(25, 2, 10), at(25, 2, 30), "mx"))
    ).record()
    report = report_on(record)
    first, second = (line.incident for line in report.incidents)
    clock = report.clock
    assert clock.moment(first.start) == "Sun 25 Oct, 00:40"
    assert clock.until(first.start, first.end or 0) == "01:20 (+01:00)"
    assert clock.moment(second.start) == "Sun 25 Oct, 01:10 (+00:00)"


def test_a_service_younger_than_its_month_is_not_measured_before() -> None:
    report = report_on(YOUNG)
    assert report.counts.measured == report.month_minutes - at(11, 9)
    assert [day.unmeasured for day in report.days[:12]] == [1440] * 10 + [540, 0]


def test_a_running_month_says_so() -> None:
    report = report_on(RUNNING)
    assert report.headline == "The month is not over; so far 99.9 % is kept."
    assert "judged after its end" in report.consequence


def test_case_40_a_location_sees_its_own_month() -> None:
    lines = {line.name: line for line in report_on(BREACHED).locations}
    eligible = 44_700 - 120
    assert (lines["london"].down, lines["amsterdam"].down, lines["frankfurt"].silenced) == (133, 173, 240)
    assert all(line.up + line.down + line.silenced + line.silent == eligible for line in lines.values())
    # 44,393 of 44,566 is 99.6118...: cut, not rounded.
    assert lines["amsterdam"].availability == "99.611"


def test_what_failed_is_told_most_frequent_first_and_only_failures() -> None:
    record = BREACHED.record()
    start = record.findings.incidents[0].start
    seen = [Seen(start, "submission", "london", Outcome.REFUSED)] * 2
    seen += [
        Seen(start, "submission", place, Outcome.TIMEOUT, "x" * 500) for place in ("london", "frankfurt", "amsterdam")
    ]
    seen += [Seen(start, "submission", "london", Outcome.CONTROL_FAILED), Seen(start - 1, "submission", "london", 18)]
    seen += [Seen(start, "imaps", "london", Outcome.TLS)]
    (line, *_) = from_record(record, LONDON, Revision(1, 0), Reader(Audience.CUSTOMER, seen=seen)).incidents
    assert line.what == (
        "submission: no answer in time, seen from amsterdam, frankfurt and london",
        "submission: connection refused, seen from london",
    )


def test_a_servers_own_words_are_for_the_operator_only() -> None:
    for audience in Audience:
        told = "".join(what for line in report_on(BREACHED, audience).incidents for what in line.what)
        assert ("421 not now" in told) is (audience is Audience.OPERATOR)


def test_ways_of_failing_are_cut_with_a_count() -> None:
    record = BREACHED.record()
    start = record.findings.incidents[0].start
    seen = [Seen(start, "submission", "london", code) for code in range(16, 29)]
    (line, *_) = from_record(record, LONDON, Revision(1, 0), Reader(seen=seen)).incidents
    assert len(line.what) == MOST_WORDS + 1
    assert line.what[-1] == "and 7 ways more of failing"


def test_the_order_of_what_was_seen_changes_nothing() -> None:
    record = BREACHED.record()
    seen = [
        Seen(one.start, check, place, 18, place)
        for one in record.findings.incidents
        for check in one.checks
        for place in one.locations
    ]
    forward = from_record(record, LONDON, Revision(), Reader(seen=seen))
    assert forward.incidents == from_record(record, LONDON, Revision(), Reader(seen=seen[::-1])).incidents


def test_everybody_sees_no_credits() -> None:
    report = report_on(BREACHED, Audience.EVERYBODY)
    assert report.credits == () and not report.credit_counts


def window_of(report: MonthReport) -> tuple[int, int, str]:
    (line,) = report.windows
    return line.excluded, line.down_over, line.steps[0].effect.value


def test_case_20_maintenance_that_overran_says_by_how_much() -> None:
    assert window_of(report_on(BREACHED)) == (120, 12, "counts")


def test_case_18_maintenance_on_short_notice_is_shown_and_not_left_out() -> None:
    assert window_of(report_on(window(CLEAN, 100, 160, notice=2879))) == (0, 0, "short notice")
    assert window_of(report_on(window(CLEAN, 100, 160, notice=2880))) == (60, 0, "counts")


def test_a_cancelled_window_is_shown() -> None:
    scene = window(CLEAN, at(5, 1), at(5, 3))
    first = scene.announcements[0]
    cancel = Announcement("kernel", Action.CANCEL, scene.service, 0, 0, first.recorded_ms + 60_000, "ops", "")
    (line,) = report_on(replace(scene, announcements=(first, cancel))).windows
    assert line.cancelled and line.excluded == 0 and [step.action for step in line.steps] == ["announce", "cancel"]


def test_case_28_a_restatement_names_the_minutes_that_changed() -> None:
    old = Scene("2026-10", silent=((100, 160),)).record()
    new = Scene("2026-10").record()
    report = from_record(new, LONDON, Revision(2, 0, difference(old, new)), Reader())
    (change,) = report.revision.changes
    assert (change.end - change.first, change.before, change.after) == (60, "unknown", "up")


def test_hundreds_of_incidents_are_all_in_the_model() -> None:
    assert len(report_on(MANY).incidents) == 440


@pytest.mark.parametrize("audience", list(Audience))
def test_the_same_in_gives_the_same_out(audience: Audience) -> None:
    assert report_on(BREACHED, audience) == report_on(BREACHED, audience)
