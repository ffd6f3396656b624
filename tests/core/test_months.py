"""Months as spans of minutes, in zones whose clocks jump, go back, skip a midnight or show it twice."""

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmail.core.months import (
    EPOCH,
    FIRST_YEAR,
    LAST_YEAR,
    MINUTE,
    Month,
    MonthError,
    Span,
    days_of,
    first_minute,
    local_minute,
    minute_of,
    month_of,
    span_of,
)

UNHURRIED = settings(deadline=None)
ZONES = (
    "UTC",
    "Europe/London",
    "America/New_York",
    "America/St_Johns",
    "America/Havana",
    "America/Asuncion",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Pacific/Kwajalein",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "America/Nuuk",
    "Antarctica/Troll",
)
months = st.builds(Month, st.integers(1972, 2040), st.integers(1, 12))
zones = st.sampled_from([ZoneInfo(name) for name in ZONES])


def wall(minute: int, zone: tzinfo) -> str:
    """What the clock shows: "2026-11-01T00:00". Texts of this form are in order of time."""
    return (EPOCH + minute * MINUTE).astimezone(zone).replace(tzinfo=None).isoformat(timespec="minutes")


def first_by_looking(day: date, zone: tzinfo) -> int:
    """The definition, minute by minute: the first minute at which the clock shows the day's midnight or later."""
    midnight = f"{day}T00:00"
    minute = (datetime(day.year, day.month, day.day, tzinfo=UTC) - EPOCH) // MINUTE - 27 * 60
    while wall(minute, zone) < midnight:
        minute += 1
    return minute


@pytest.mark.parametrize(
    ("zone", "text", "minutes"),
    [
        ("UTC", "2026-02", 40_320),
        ("UTC", "2028-02", 41_760),
        ("UTC", "2000-02", 41_760),
        ("UTC", "2026-04", 43_200),
        ("UTC", "2026-01", 44_640),
        ("Asia/Kathmandu", "2026-02", 40_320),
    ],
)
def test_case_01_months_have_28_to_31_days(zone: str, text: str, minutes: int) -> None:
    assert span_of(Month.parse(text), ZoneInfo(zone)).minutes == minutes


@pytest.mark.parametrize(
    ("zone", "text", "minutes", "odd_days"),
    [
        ("Europe/London", "2026-03", 44_580, [(29, 1380)]),
        ("Europe/London", "2026-10", 44_700, [(25, 1500)]),
        ("America/New_York", "2026-03", 44_580, [(8, 1380)]),
        ("America/New_York", "2026-11", 43_260, [(1, 1500)]),
        ("Australia/Lord_Howe", "2026-04", 43_230, [(5, 1470)]),
        ("Australia/Lord_Howe", "2026-10", 44_610, [(4, 1410)]),
        ("Africa/Casablanca", "2026-02", 40_380, [(15, 1500)]),
        ("Africa/Casablanca", "2026-03", 44_580, [(22, 1380)]),
        ("Asia/Pyongyang", "2018-05", 44_610, [(4, 1410)]),
        ("America/Asuncion", "2023-10", 44_580, [(1, 1380)]),
        ("America/Havana", "2026-11", 43_260, [(1, 1500)]),
        ("America/St_Johns", "2009-11", 43_260, [(1, 1500)]),
    ],
)
def test_case_02_days_of_23_and_25_and_half_hours(
    zone: str, text: str, minutes: int, odd_days: list[tuple[int, int]]
) -> None:
    month = Month.parse(text)
    days = days_of(month, ZoneInfo(zone))
    assert span_of(month, ZoneInfo(zone)).minutes == minutes
    assert [(day.day, span.minutes) for day, span in days if span.minutes != 1440] == odd_days


@pytest.mark.parametrize(
    ("zone", "text", "gone"), [("Pacific/Apia", "2011-12", 30), ("Pacific/Kwajalein", "1993-08", 21)]
)
def test_case_02_a_day_that_a_zone_skips_is_not_in_its_month(zone: str, text: str, gone: int) -> None:
    month = Month.parse(text)
    days = days_of(month, ZoneInfo(zone))
    assert span_of(month, ZoneInfo(zone)).minutes == 43_200
    assert [day.day for day, _ in days] == [number for number in range(1, 32) if number != gone]


def test_case_02_a_midnight_that_does_not_exist_is_the_first_instant_after_it() -> None:
    zone = ZoneInfo("America/Asuncion")
    first = span_of(Month(2023, 10), zone).first
    assert wall(first, zone) == "2023-10-01T01:00"
    assert wall(first - 1, zone) == "2023-09-30T23:59"


@pytest.mark.parametrize(
    ("zone", "text", "minutes_until_the_second"),
    [("America/Havana", "2026-11", 60), ("America/St_Johns", "2009-11", 60), ("America/Managua", "2006-10", 60)],
)
def test_case_02_of_two_midnights_the_earlier_begins_the_month(
    zone: str, text: str, minutes_until_the_second: int
) -> None:
    where, month = ZoneInfo(zone), Month.parse(text)
    first = span_of(month, where).first
    midnight = f"{month}-01T00:00"
    assert wall(first, where) == wall(first + minutes_until_the_second, where) == midnight
    assert midnight not in {wall(first - back, where) for back in range(1, 180)}


def test_case_02_the_clock_going_back_over_midnight_does_not_bring_the_old_month_back() -> None:
    zone = ZoneInfo("America/St_Johns")
    first = span_of(Month(2009, 11), zone).first
    assert wall(first + 1, zone) == "2009-10-31T23:01"
    assert month_of(first + 1, zone) == Month(2009, 11)
    assert month_of(first - 1, zone) == Month(2009, 10)


def test_case_03_a_leap_second_is_in_no_minute_and_makes_none_longer() -> None:
    assert span_of(Month(2016, 12), UTC).minutes == 44_640
    last = 1_483_228_799
    assert minute_of(last * 1000 + 999) + 1 == minute_of((last + 1) * 1000) == span_of(Month(2017, 1), UTC).first


def test_case_05_the_boundary_second_belongs_to_the_later_month() -> None:
    boundary = datetime(2026, 11, 1, tzinfo=ZoneInfo("Europe/London"))
    epoch_ms = (boundary - EPOCH) // timedelta(milliseconds=1)
    october, november = (span_of(Month(2026, number), ZoneInfo("Europe/London")) for number in (10, 11))
    assert minute_of(epoch_ms) in november and minute_of(epoch_ms) not in october
    assert minute_of(epoch_ms - 1) in october and minute_of(epoch_ms - 1) not in november


@UNHURRIED
@given(months, zones)
def test_months_follow_each_other_without_gap_or_overlap(month: Month, zone: tzinfo) -> None:
    assert span_of(month, zone).end == span_of(month.next(), zone).first
    assert month.next().previous() == month


@UNHURRIED
@given(months, zones)
def test_days_make_up_the_month(month: Month, zone: tzinfo) -> None:
    span, days = span_of(month, zone), days_of(month, zone)
    assert days[0][1].first == span.first and days[-1][1].end == span.end
    assert all(one.end == other.first for (_, one), (_, other) in pairwise(days))
    assert all(part.minutes > 0 for _, part in days)


@UNHURRIED
@given(months, zones, st.integers(1, 28))
def test_a_day_begins_where_looking_at_every_minute_finds_it(month: Month, zone: tzinfo, number: int) -> None:
    day = date(month.year, month.month, number)
    assert first_minute(day, zone) == first_by_looking(day, zone)


@UNHURRIED
@given(months, zones, st.data())
def test_every_minute_is_in_the_month_that_it_is_said_to_be_in(month: Month, zone: tzinfo, data: st.DataObject) -> None:
    span = span_of(month, zone)
    edges = st.sampled_from([span.first, span.first + 1, span.first + 61, span.end - 1, span.end - 61])
    minute = data.draw(edges | st.integers(span.first, span.end - 1))
    assert month_of(minute, zone) == month


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        ("2026-03-29T00:59", "2026-03-29T00:59"),
        ("2026-03-29T01:00", "2026-03-29T02:00"),
        ("2026-03-29T01:30", "2026-03-29T02:00"),
        ("2026-03-29T02:00", "2026-03-29T02:00"),
        ("2026-10-25T01:30", "2026-10-25T01:30"),
    ],
)
def test_a_time_that_the_clock_skips_is_the_end_of_the_jump(moment: str, shown: str) -> None:
    zone = ZoneInfo("Europe/London")
    minute = local_minute(datetime.fromisoformat(moment), zone)
    assert wall(minute, zone) == shown
    assert wall(minute - 1, zone) < moment


def test_a_zone_of_seconds_begins_with_its_first_whole_minute() -> None:
    zone = timezone(timedelta(minutes=-44, seconds=-30))
    assert first_minute(date(1971, 1, 1), zone) == first_minute(date(1971, 1, 1), UTC) + 45


@pytest.mark.parametrize(
    "text",
    ["", "2026", "2026-1", "2026-13", "2026-00", "2026-10-01", " 2026-10", "2026-10\n", "\u0662\u0660\u0662\u0666-10"],
)
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(MonthError):
        Month.parse(text)


@pytest.mark.parametrize("year", [FIRST_YEAR - 1, LAST_YEAR + 1])
def test_months_without_an_end_that_can_be_reckoned_are_refused(year: int) -> None:
    with pytest.raises(MonthError):
        Month(year, 6)


def test_the_first_and_the_last_month_have_spans() -> None:
    assert span_of(Month(FIRST_YEAR, 1), UTC) == Span(0, 44_640)
    assert span_of(Month(LAST_YEAR, 12), UTC).minutes == 44_640


@UNHURRIED
@given(months)
def test_a_month_is_read_back_from_its_text_and_months_are_ordered(month: Month) -> None:
    assert Month.parse(str(month)) == month
    assert month < month.next()


def test_a_span_holds_its_first_minute_and_not_its_end() -> None:
    span = Span(10, 13)
    assert [minute in span for minute in (9, 10, 12, 13)] == [False, True, True, False]
    assert span.minutes == 3
    with pytest.raises(ValueError, match="before it begins"):
        Span(3, 2)


@pytest.mark.parametrize(
    ("first", "end", "part", "mask"),
    [
        (0, 100, Span(10, 14), 0b1111),
        (11, 13, Span(11, 13), 0b0110),
        (0, 11, Span(10, 11), 0b0001),
        (13, 99, Span(13, 14), 0b1000),
        (0, 10, Span(10, 10), 0),
        (14, 20, Span(14, 14), 0),
        (12, 11, Span(12, 12), 0),
    ],
)
def test_a_span_is_cut_to_what_lies_within(first: int, end: int, part: Span, mask: int) -> None:
    assert Span(10, 14).cut(first, end) == part
    assert Span(10, 14).mask(first, end) == mask


@pytest.mark.parametrize(("own", "before"), [("Asia/Tokyo", "UTC"), ("America/New_York", "UTC"), ("UTC", "Asia/Tokyo")])
def test_a_month_of_another_zone_begins_where_the_month_before_ended(own: str, before: str) -> None:
    month, zone, was = Month(2026, 11), ZoneInfo(own), ZoneInfo(before)
    days = days_of(month, zone, was)
    assert days[0][1].first == span_of(month.previous(), was).end
    assert days[-1][1].end == span_of(month, zone).end
    assert all(one.end == other.first for (_, one), (_, other) in pairwise(days))


def test_a_day_that_ended_before_the_month_did_is_not_in_a_month_of_another_zone() -> None:
    """From the last zone of the world to its first: on the 1st of the new one the old month runs for a while yet."""
    days = days_of(Month(2026, 11), ZoneInfo("Pacific/Kiritimati"), ZoneInfo("Etc/GMT+12"))
    assert [day.day for day, _ in days][:2] == [2, 3] and days[0][1].minutes == 1440 - 120
