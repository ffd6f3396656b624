"""Calendar months in a named zone as spans of minutes. The zone is an argument: nothing here loads or knows one.

A minute is POSIX seconds // 60, so a leap second is in no span and its minute gives one verdict. A month runs from the
first local midnight of its 1st to that of the next (DESIGN section 4), whatever the clock does in between.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final, Self

from smartmail.core.planes import between

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE: Final = timedelta(minutes=1)
DAY: Final = timedelta(days=1)
MS_PER_MINUTE: Final = 60_000
MOST_MINUTES: Final = 33 * 1440
"""No month is longer: 31 days, and a day that comes twice or a contract that changes from the one end of the world's
zones to the other."""

FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 9998
"""The year after must exist, for the end of December."""

_TEXT: Final = re.compile(r"([0-9]{4})-([0-9]{2})\Z")


class MonthError(ValueError):
    """There is no such month, or the text is none; the message says which."""


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month, of no zone yet. Raises MonthError outside 1970-01 to 9998-12."""

    year: int
    month: int

    def __post_init__(self) -> None:
        if not (FIRST_YEAR <= self.year <= LAST_YEAR and 1 <= self.month <= 12):
            raise MonthError(f"there is no month {self.month} in a year {self.year} here")

    def __str__(self) -> str:
        return f"{self.year:04}-{self.month:02}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "2026-10", and nothing else. Raises MonthError."""
        found = _TEXT.match(text)
        if not found or not found.group().isascii():
            raise MonthError(f"{text!r} is no month: it is written 2026-10")
        return cls(int(found[1]), int(found[2]))

    @property
    def first_day(self) -> date:
        """The 1st."""
        return date(self.year, self.month, 1)

    @property
    def end_day(self) -> date:
        """The 1st of the month after."""
        return date(self.year + self.month // 12, self.month % 12 + 1, 1)

    def next(self) -> "Month":
        """The month after."""
        return Month(self.year + 1, 1) if self.month == 12 else Month(self.year, self.month + 1)

    def previous(self) -> "Month":
        """The month before."""
        return Month(self.year - 1, 12) if self.month == 1 else Month(self.year, self.month - 1)


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The minutes from `first` up to, not including, `end`. Raises ValueError if it ends before it begins."""

    first: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.first:
            raise ValueError(f"a span cannot end ({self.end}) before it begins ({self.first})")

    @property
    def minutes(self) -> int:
        """How many."""
        return self.end - self.first

    def __contains__(self, minute: int) -> bool:
        return self.first <= minute < self.end

    def cut(self, first: int, end: int) -> "Span":
        """What of this span lies in the minutes [first, end); empty if nothing does."""
        start = min(max(self.first, first), self.end)
        return Span(start, max(start, min(self.end, end)))

    def mask(self, first: int, end: int) -> int:
        """The minutes [first, end) as a plane over this span; what lies outside is left out."""
        part = self.cut(first, end)
        return between(part.first - self.first, part.end - self.first)


def minute_of(epoch_ms: int) -> int:
    """The minute of an instant in milliseconds: a sample on the boundary belongs to the later one."""
    return epoch_ms // MS_PER_MINUTE


def local_minute(moment: datetime, zone: tzinfo) -> int:
    """The first minute at which the local clock shows `moment` (given without a zone) or later: the earlier one where
    it shows it twice, the first instant after the jump where it never does."""
    aware = moment.replace(tzinfo=zone, fold=0)
    minute = _minute_at_or_after(aware)
    if _local(minute, zone) == moment:
        return minute
    # It is in a jump. Read with the offset after the jump it lies before the jump, and the other way round.
    before = _minute_at_or_after(aware.replace(fold=1))
    candidates = range(min(before, minute), minute + 1)
    return candidates.start + bisect_left(candidates, True, key=lambda one: _local(one, zone) >= moment)


def first_minute(day: date, zone: tzinfo) -> int:
    """The first minute of a day. A day that is skipped as a whole begins, and ends, where the next one begins."""
    return local_minute(datetime.combine(day, time.min), zone)


def span_of(month: Month, zone: tzinfo) -> Span:
    """The minutes of a month in a zone."""
    return Span(first_minute(month.first_day, zone), first_minute(month.end_day, zone))


def month_of(minute: int, zone: tzinfo) -> Month:
    """The month whose span holds the minute. By spans and not by the local date, which goes back to the 31st for a
    while where the clock is set back over a midnight of the 1st."""
    local = _local(minute, zone)
    month = Month(local.year, local.month)
    if minute < first_minute(month.first_day, zone):
        return month.previous()
    return month.next() if minute >= first_minute(month.end_day, zone) else month


def days_of(month: Month, zone: tzinfo, before: tzinfo | None = None) -> tuple[tuple[date, Span], ...]:
    """The days of a month, which make up its span without gap or overlap. A day that the zone skipped is not there.

    before: the zone of the month before, where it was another: this one begins where that one ended, so that every
    minute is in one month and no minute in two.
    """
    days = []
    day, start, last = month.first_day, first_minute(month.first_day, before or zone), month.end_day
    while day < last:
        end = first_minute(day + DAY, zone)
        if start < end:
            days.append((day, Span(start, end)))
        day, start = day + DAY, max(start, end)
    return tuple(days)


def _local(minute: int, zone: tzinfo) -> datetime:
    """What the local clock shows at the start of a minute, without its zone."""
    return (EPOCH + minute * MINUTE).astimezone(zone).replace(tzinfo=None, fold=0)


def _minute_at_or_after(instant: datetime) -> int:
    return -((EPOCH - instant.astimezone(UTC)) // MINUTE)
