"""Which minutes announced maintenance takes out of a month, and which it does not."""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmail.core.maintenance import (
    EVERY_SERVICE,
    MAX_TIMES,
    Action,
    Announcement,
    Effect,
    Every,
    MaintenanceRefused,
    Recurrence,
    about,
    announcement_from_json,
    calendar_text,
    check,
    excluded_plane,
    excluded_spans,
    occurrences,
    whole_minutes,
    windows,
)
from smartmail.core.minutes import ServiceMinutes
from smartmail.core.months import Month, Span, local_minute, span_of
from smartmail.core.planes import between, ones
from smartmail.core.sla import Result, Terms, assess

NOTICE = 2880
START = 10_000
"""The first minute of most windows here; they last an hour."""
END = START + 60
SPAN = Span(0, 44_640)
LONDON = ZoneInfo("Europe/London")


def terms(cap: int | None = None, notice: int = NOTICE) -> Terms:
    return Terms("1", date(2020, 1, 1), "Europe/London", notice_minutes=notice, cap_minutes=cap)


def line(action: Action, recorded: int, until: int = END, **other: object) -> Announcement:
    """A line about the window w. recorded: a minute."""
    values = {"window": "w", "service": "mail", "from_minute": START, "actor": "anna", "text": ""} | other
    return Announcement(action=action, until_minute=until, recorded_ms=recorded * 60_000, **values)  # type: ignore[arg-type]


def announced(recorded: int = START - NOTICE, until: int = END, **other: object) -> Announcement:
    return line(Action.ANNOUNCE, recorded, until, **other)


def spans(*log: Announcement, cap: int | None = None, span: Span = SPAN) -> tuple[tuple[int, int], ...]:
    return excluded_spans(log, span, terms(cap))


# what counts


@pytest.mark.parametrize(
    ("outage", "down"),
    [
        pytest.param((START - 10, START + 10), 10, id="case_16 begins before, ends inside"),
        pytest.param((END - 10, END + 7), 7, id="case_16 begins inside, ends after"),
        pytest.param((START + 5, END - 5), 0, id="case_16 all inside"),
        pytest.param((START - 3, END + 4), 7, id="case_16 covers it"),
        pytest.param((END, END + 4), 4, id="case_16 begins as it ends"),
    ],
)
def test_only_the_minutes_of_an_outage_outside_the_window_cost(outage: tuple[int, int], down: int) -> None:
    failing = between(*outage)
    service = ServiceMinutes(ones(SPAN.minutes) & ~failing, failing, 0)
    judged = assess(service, excluded_plane([announced()], SPAN, terms()), terms(), SPAN)
    assert (judged.down_minutes, judged.maintenance_minutes, judged.eligible) == (down, 60, 44_580)


def test_overlapping_windows_are_united_and_cut_to_the_month_case_17() -> None:
    first = announced(window="a", until=START + 30, from_minute=START, recorded=0)
    second = announced(window="b", until=START + 90, from_minute=START + 20, recorded=0)
    touching = announced(window="c", until=START + 95, from_minute=START + 90, recorded=0)
    assert spans(first, second, touching) == ((START, START + 95),)
    assert spans(first, second, touching, span=Span(START + 25, START + 40)) == ((START + 25, START + 40),)
    assert spans(first, span=Span(START + 30, START + 40)) == ()


@pytest.mark.parametrize(
    ("seconds", "minutes"),
    [
        ((600, 660), (10, 11)),
        ((601, 719), (11, 11)),
        ((601, 720), (11, 12)),
        ((659, 661), (11, 11)),
    ],
)
def test_only_whole_minutes_inside_are_excluded_case_17(seconds: tuple[int, int], minutes: tuple[int, int]) -> None:
    assert whole_minutes(*seconds) == minutes


@pytest.mark.parametrize(
    ("recorded_ms", "effect"),
    [
        pytest.param((START - NOTICE) * 60_000, Effect.COUNTS, id="case_18 the notice to the millisecond"),
        pytest.param((START - NOTICE) * 60_000 + 1, Effect.SHORT_NOTICE, id="case_18 a millisecond late"),
        pytest.param(0, Effect.COUNTS, id="case_18 long before"),
        pytest.param(START * 60_000, Effect.SHORT_NOTICE, id="case_18 as it begins"),
    ],
)
def test_a_window_counts_only_if_recorded_the_notice_before_its_start(recorded_ms: int, effect: Effect) -> None:
    new = announcement_from_json(announced().to_json() | {"recorded_ms": recorded_ms})
    check([], new)
    (window,) = windows([new], NOTICE)
    assert window.steps == ((new, effect),)
    assert spans(new) == (((START, END),) if effect is Effect.COUNTS else ())


def test_a_retroactive_window_is_refused_and_as_a_note_excludes_nothing_case_19() -> None:
    with pytest.raises(MaintenanceRefused, match="reaches back"):
        check([], announced(recorded=START + 1))
    note = line(Action.NOTE, START + 1)
    check([], note)
    assert spans(note) == ()
    assert spans(line(Action.NOTE, 0)) == (), "not even one written down in time"
    for action in (Action.EXTEND, Action.CANCEL, Action.SHORTEN):
        with pytest.raises(MaintenanceRefused, match="is a note"):
            check([note], line(action, START + 2, END + 9))


def test_a_retroactive_window_excludes_nothing_however_it_came_into_the_log_case_19() -> None:
    assert spans(announced(recorded=START + 5)) == ()
    assert spans(announced(recorded=END + 5), line(Action.EXTEND, END + 6, END + 60)) == ()


@pytest.mark.parametrize(
    ("lines", "excluded"),
    [
        pytest.param([(Action.EXTEND, START - NOTICE, END + 30)], (START, END + 30), id="case_20 extended with notice"),
        pytest.param([(Action.EXTEND, START - NOTICE + 1, END + 30)], (START, END), id="case_20 extended too late"),
        pytest.param([(Action.EXTEND, START + 5, END + 30)], (START, END), id="case_20 extended while it runs"),
        pytest.param([(Action.EXTEND, END + 5, END + 30)], (START, END), id="case_20 extended after its end"),
        pytest.param([(Action.CANCEL, START - 1, END)], None, id="case_20 cancelled before"),
        pytest.param([(Action.CANCEL, START, END)], None, id="case_20 cancelled as it begins"),
        pytest.param([(Action.CANCEL, START + 20, END)], (START, START + 20), id="case_20 cancelled while it runs"),
        pytest.param([(Action.CANCEL, END, END)], (START, END), id="case_20 cancelled when it is over"),
        pytest.param([(Action.SHORTEN, START - 1, START + 10)], (START, START + 10), id="case_20 shortened before"),
        pytest.param([(Action.SHORTEN, START + 20, START + 40)], (START, START + 40), id="case_20 shortened, running"),
        pytest.param(
            [(Action.SHORTEN, START + 20, START + 10)], (START, START + 20), id="case_20 shortened to what has passed"
        ),
        pytest.param([(Action.SHORTEN, END + 1, START + 10)], (START, END), id="case_20 shortened when it is over"),
        pytest.param(
            [(Action.EXTEND, START + 5, END + 30), (Action.CANCEL, END + 10, END)],
            (START, END),
            id="case_20 cancelled in its overrun",
        ),
        pytest.param(
            [(Action.CANCEL, START - 9, END), (Action.EXTEND, START - 8, END + 30)],
            None,
            id="case_20 extended when it was cancelled",
        ),
        pytest.param(
            [(Action.SHORTEN, 0, START + 10), (Action.EXTEND, 1, START + 20)],
            (START, START + 20),
            id="case_20 shortened and extended in time",
        ),
    ],
)
def test_what_is_recorded_later_never_reaches_back(
    lines: list[tuple[Action, int, int]], excluded: tuple[int, int] | None
) -> None:
    log = [announced(recorded=0), *(line(*one) for one in lines)]
    assert spans(*log) == (() if excluded is None else (excluded,))


def test_a_minute_in_which_a_window_is_cancelled_counts_again_case_20() -> None:
    late_ms = (START + 20) * 60_000 + 59_999
    late = announcement_from_json(line(Action.CANCEL, START).to_json() | {"recorded_ms": late_ms})
    assert spans(announced(), late) == ((START, START + 20),)


def test_a_late_extension_of_a_window_without_notice_gives_it_none_case_20() -> None:
    assert spans(announced(recorded=START - 5), line(Action.EXTEND, START - 4, END + 30)) == ()


@pytest.mark.parametrize(
    ("cap", "excluded"),
    [
        (None, ((100, 160), (200, 260))),
        (120, ((100, 160), (200, 260))),
        (90, ((100, 160), (200, 230))),
        (60, ((100, 160),)),
        (1, ((100, 101),)),
        (0, ()),
    ],
)
def test_a_cap_keeps_the_months_first_minutes_case_21(cap: int | None, excluded: tuple[tuple[int, int], ...]) -> None:
    start = 5000
    later = announced(window="a", from_minute=start + 200, until=start + 260, recorded=0)
    sooner = announced(window="b", from_minute=start + 100, until=start + 160, recorded=1)
    moved = tuple((first + start, end + start) for first, end in excluded)
    assert spans(later, sooner, cap=cap) == moved
    plane = excluded_plane([later, sooner], SPAN, terms(cap))
    assert plane == sum(between(*one) for one in moved)


def test_the_cap_is_the_months_and_the_services_own_case_21() -> None:
    log = [
        announced(window="a", from_minute=5000, until=5060, recorded=0, service="mail"),
        announced(window="b", from_minute=5100, until=5160, recorded=0, service="web"),
        announced(window="c", from_minute=5200, until=5260, recorded=0, service=EVERY_SERVICE),
    ]
    assert excluded_spans(about(log, "mail"), SPAN, terms(70)) == ((5000, 5060), (5200, 5210))
    assert excluded_spans(about(log, "web"), SPAN, terms(70)) == ((5100, 5160), (5200, 5210))
    # Minutes before the month take nothing of its cap.
    assert excluded_spans(about(log, "mail"), Span(5050, 6000), terms(70)) == ((5050, 5060), (5200, 5260))


# the wall clock


@pytest.mark.parametrize(
    ("day", "start", "end", "zone", "expected"),
    [
        pytest.param((2026, 10, 24), (2, 0), (4, 0), "Europe/London", ("01:00", "03:00"), id="case_22 summer"),
        pytest.param((2026, 10, 26), (2, 0), (4, 0), "Europe/London", ("02:00", "04:00"), id="case_22 winter"),
        pytest.param((2026, 10, 25), (0, 30), (2, 30), "Europe/London", ("23:30", "02:30"), id="case_22 an hour twice"),
        pytest.param((2026, 10, 25), (1, 15), (1, 45), "Europe/London", ("00:15", "00:45"), id="case_22 first of two"),
        pytest.param((2026, 3, 29), (0, 30), (1, 30), "Europe/London", ("00:30", "01:00"), id="case_22 end skipped"),
        pytest.param((2026, 3, 29), (1, 30), (3, 0), "Europe/London", ("01:00", "02:00"), id="case_22 start skipped"),
        pytest.param((2026, 3, 29), (1, 10), (1, 50), "Europe/London", None, id="case_22 all skipped"),
        pytest.param((2026, 3, 28), (23, 0), (3, 0), "Europe/London", ("23:00", "02:00"), id="case_22 over midnight"),
        pytest.param((2026, 4, 5), (1, 40), (1, 50), "Australia/Lord_Howe", ("14:40", "14:50"), id="case_22 half hour"),
        pytest.param((2011, 12, 30), (1, 0), (2, 0), "Pacific/Apia", None, id="case_22 a day that never was"),
    ],
)
def test_a_recurring_window_keeps_the_wall_clock(
    day: tuple[int, int, int],
    start: tuple[int, int],
    end: tuple[int, int],
    zone: str,
    expected: tuple[str, str] | None,
) -> None:
    found = occurrences(Recurrence(date(*day), time(*start), time(*end)), ZoneInfo(zone))
    shown = [tuple(datetime.fromtimestamp(one * 60, UTC).strftime("%H:%M") for one in bounds) for _, *bounds in found]
    assert shown == ([] if expected is None else [expected])


def test_a_daily_window_over_the_change_of_the_clock_begins_at_the_same_time_of_day_case_22() -> None:
    found = occurrences(Recurrence(date(2026, 10, 23), time(23), time(1), Every.DAY, 5), LONDON)
    local = [datetime.fromtimestamp(first * 60, LONDON).strftime("%d %H:%M") for _, first, _ in found]
    assert local == [f"{day} 23:00" for day in range(23, 28)]
    assert [end - first for _, first, end in found] == [120, 120, 120, 120, 120]


def test_weeks_and_months_recur_by_weekday() -> None:
    weekly = occurrences(Recurrence(date(2026, 10, 4), time(2), time(3), Every.WEEK, 3), LONDON)
    assert [day for day, _, _ in weekly] == [date(2026, 10, 4), date(2026, 10, 11), date(2026, 10, 18)]
    first_sunday = occurrences(Recurrence(date(2026, 10, 4), time(2), time(3), Every.MONTH, 4), LONDON)
    assert [day for day, _, _ in first_sunday] == [
        date(2026, 10, 4),
        date(2026, 11, 1),
        date(2026, 12, 6),
        date(2027, 1, 3),
    ]
    fifth = occurrences(Recurrence(date(2026, 10, 31), time(2), time(3), Every.MONTH, 2), LONDON)
    assert [day for day, _, _ in fifth] == [date(2026, 10, 31), date(2027, 1, 30)], "months without a fifth are skipped"


@pytest.mark.parametrize("times", [0, MAX_TIMES + 1])
def test_a_recurrence_is_bounded(times: int) -> None:
    with pytest.raises(MaintenanceRefused, match="out of bounds"):
        occurrences(Recurrence(date(2026, 1, 1), time(1), time(2), Every.DAY, times), LONDON)


ZONES = ("Europe/London", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia", "UTC")
TURNS = tuple(
    datetime.fromisoformat(text)
    for text in (
        "2026-03-29T01:00",
        "2026-10-25T01:00",
        "2026-03-08T02:00",
        "2026-11-01T01:00",
        "2026-04-05T02:00",
        "2026-10-04T02:00",
        "2026-02-15T03:00",
        "2011-12-30T00:00",
    )
)


def wall(minute: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(minute * 60, zone).replace(tzinfo=None)


@settings(max_examples=150, deadline=None)
@given(zone=st.sampled_from(ZONES), turn=st.sampled_from(TURNS), off=st.integers(-1500, 1500))
def test_a_local_time_is_the_first_minute_that_shows_it_or_later_case_22(zone: str, turn: datetime, off: int) -> None:
    moment, place = turn + timedelta(minutes=off), ZoneInfo(zone)
    around = int(moment.replace(tzinfo=UTC).timestamp()) // 60
    naive = next(one for one in range(around - 1500, around + 1500) if wall(one, place) >= moment)
    assert local_minute(moment, place) == naive


def test_a_window_of_a_whole_month_leaves_nothing_to_measure_case_23() -> None:
    span = span_of(Month(2026, 10), LONDON)
    whole = announced(recorded=0, from_minute=span.first, until=span.end)
    plane = excluded_plane([whole], span, terms())
    judged = assess(ServiceMinutes(0, ones(span.minutes), 0), plane, terms(), span)
    assert (judged.result, judged.eligible, judged.maintenance_minutes) == (Result.NO_COMMITMENT, 0, 44_700)


# what may be recorded


@pytest.mark.parametrize(
    ("log", "new", "words"),
    [
        ([], line(Action.CANCEL, 5), "no window"),
        ([], announced(window="No Name"), "no name of a window"),
        ([], announced(service="../x"), "no name of a service"),
        ([], announced(until=START), "whole minute"),
        ([], announced(until=START + 31 * 1440 + 1), "31 days"),
        ([announced()], announced(), "already"),
        ([announced(recorded=9)], line(Action.CANCEL, 8), "clock is behind"),
        ([announced()], line(Action.EXTEND, START, END), "no later end"),
        ([announced()], line(Action.SHORTEN, START, END), "new end"),
        ([announced()], line(Action.SHORTEN, START + 30, START + 10), "new end"),
        ([announced()], line(Action.CANCEL, END), "is over"),
        ([announced(), line(Action.CANCEL, START)], line(Action.EXTEND, START, END + 1), "was cancelled"),
    ],
)
def test_the_log_takes_no_line_that_makes_no_sense(log: list[Announcement], new: Announcement, words: str) -> None:
    with pytest.raises(MaintenanceRefused, match=words):
        check(log, new)


@pytest.mark.parametrize(
    "new",
    [
        line(Action.EXTEND, END - 1, END + 30),
        line(Action.SHORTEN, START + 10, START + 20),
        line(Action.CANCEL, END - 1),
        announced(recorded=START - 1, window="another"),
    ],
)
def test_the_log_takes_lines_about_what_is_not_over(new: Announcement) -> None:
    check([announced()], new)


def test_lines_about_a_window_that_was_never_announced_do_nothing() -> None:
    assert windows([line(Action.EXTEND, 5, END), line(Action.CANCEL, 6)], NOTICE) == ()


def test_an_announcement_reads_back_as_it_was() -> None:
    new = announced(text="änderung\n")
    assert announcement_from_json(new.to_json()) == new
    for key in new.to_json():
        with pytest.raises(ValueError):
            announcement_from_json({name: value for name, value in new.to_json().items() if name != key})
    with pytest.raises(ValueError):
        announcement_from_json(new.to_json() | {"from_minute": True})


# against an oracle that looks at one minute at a time


@st.composite
def logs(draw: st.DrawFn) -> list[Announcement]:
    """Lines about three windows within 400 minutes, in order of time, good and bad ones."""
    times = sorted(draw(st.lists(st.integers(0, 420 * 60_000), min_size=1, max_size=14)))
    made = []
    for at in times:
        first = draw(st.integers(100, 300))
        action = draw(st.sampled_from([Action.ANNOUNCE, Action.ANNOUNCE, *Action]))
        window = draw(st.sampled_from("abc"))
        made.append(Announcement(window, action, "mail", first, draw(st.integers(first, 400)), at, "", ""))
    return made


def excludes(log: list[Announcement], minute: int, notice: int) -> bool:
    """By what was on record before the end of the minute, and nothing later."""
    known = [one for one in log if one.recorded_ms < (minute + 1) * 60_000]
    for name in "abc":
        about_it = [one for one in known if one.window == name]
        opening = next((one for one in about_it if one.action in (Action.ANNOUNCE, Action.NOTE)), None)
        if opening is None or opening.action is Action.NOTE:
            continue
        first, told = opening.from_minute, opening.until_minute
        latest = (first - notice) * 60_000
        if opening.recorded_ms > latest:
            continue
        counted, cancelled = told, False
        for one in about_it[about_it.index(opening) + 1 :]:
            if one.action is Action.CANCEL and one.recorded_ms < told * 60_000:
                cancelled = True
            elif one.action is Action.EXTEND and one.until_minute > told and one.recorded_ms < told * 60_000:
                told = one.until_minute
                counted = told if one.recorded_ms <= latest and not cancelled else counted
            elif one.action is Action.SHORTEN and one.until_minute < told:
                told = max(first, one.until_minute, min(told, one.recorded_ms // 60_000))
                counted = min(counted, one.until_minute)
        if not cancelled and first <= minute < counted:
            return True
    return False


@settings(max_examples=400, deadline=None)
@given(log=logs(), notice=st.integers(0, 60), cap=st.none() | st.integers(0, 80), first=st.integers(80, 200))
def test_planes_agree_with_the_rules_minute_by_minute(
    log: list[Announcement], notice: int, cap: int | None, first: int
) -> None:
    span = Span(first, 410)
    naive = [minute for minute in range(span.first, span.end) if excludes(log, minute, notice)]
    naive = naive if cap is None else naive[:cap]
    plane = excluded_plane(log, span, terms(cap, notice))
    assert plane == sum(1 << (minute - span.first) for minute in naive)


@settings(max_examples=200, deadline=None)
@given(log=logs(), more=logs(), notice=st.integers(0, 60))
def test_nothing_that_is_appended_changes_a_minute_that_has_passed_case_20(
    log: list[Announcement], more: list[Announcement], notice: int
) -> None:
    later = [one for one in more if one.recorded_ms >= log[-1].recorded_ms]
    now = log[-1].recorded_ms if not later else later[0].recorded_ms
    past = ones(max(0, min(410, now // 60_000)))
    span, rules = Span(0, 410), terms(None, notice)
    assert excluded_plane([*log, *later], span, rules) & past == excluded_plane(log, span, rules) & past


# the feed


def unfolded(text: str) -> list[str]:
    return text.replace("\r\n ", "").split("\r\n")


def test_the_feed_names_each_window_and_what_became_of_it() -> None:
    log = [
        announced(recorded=0, window="a", text="Update; reboot, then \\test\nall"),
        announced(recorded=1, window="b", service=EVERY_SERVICE),
        line(Action.NOTE, 2, window="c"),
        line(Action.CANCEL, 3, window="b"),
    ]
    lines = unfolded(calendar_text(windows(log, NOTICE), "mail.example", "Maintenance"))
    assert lines[:3] == ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Smart Mail//maintenance//EN"]
    assert lines[-2:] == ["END:VCALENDAR", ""]
    assert [one for one in lines if one.startswith("UID")] == ["UID:a@mail.example", "UID:b@mail.example"]
    assert [one for one in lines if one.startswith("STATUS")] == ["STATUS:CONFIRMED", "STATUS:CANCELLED"]
    assert [one for one in lines if one.startswith("SEQUENCE")] == ["SEQUENCE:0", "SEQUENCE:1"]
    assert "DTSTART:19700107T224000Z" in lines and "DTEND:19700107T234000Z" in lines
    assert "DESCRIPTION:Update\\; reboot\\, then \\\\test\\nall" in lines
    assert lines.count("BEGIN:VEVENT") == lines.count("END:VEVENT") == 2


@given(text=st.text())
def test_a_line_of_the_feed_is_75_octets_at_most_and_says_what_was_said(text: str) -> None:
    (window,) = windows([announced(recorded=0, text=text)], NOTICE)
    feed = calendar_text([window], "mail.example", text)
    octets = feed.encode("utf-8", "replace")
    assert all(len(one) <= 75 for one in octets.split(b"\r\n"))
    assert b"\n" not in octets.replace(b"\r\n", b"") and b"\r" not in octets.replace(b"\r\n", b"")
    kept = "".join(char for char in text if char.isalnum())
    (said,) = [one for one in unfolded(feed) if one.startswith("DESCRIPTION:")]
    plain = said.removeprefix("DESCRIPTION:").replace("\\n", "")
    assert "".join(char for char in plain if char.isalnum()) == kept
