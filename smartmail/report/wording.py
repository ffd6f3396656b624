"""How a report says numbers, lengths and times: one way for the terminal, the page and the tables."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final

from smartmail.core.sla import NOTHING_MEASURED, Result, Terms

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE_MS: Final = 60_000

MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Clock:
    """Minutes as a wall clock in the contract's zone shows them. English, whatever the machine's language."""

    zone: tzinfo

    def local(self, minute: int) -> datetime:
        """The start of a minute, in the zone."""
        return (EPOCH + timedelta(minutes=minute)).astimezone(self.zone)

    def time(self, minute: int) -> str:
        """ "14:02"; "01:30 (+01:00)" where the clock shows that time twice."""
        local = self.local(minute)
        return f"{local:%H:%M}{f' ({offset(local)})' if _twice(local) else ''}"

    def moment(self, minute: int) -> str:
        """ "Sat 3 Oct, 14:02", with the offset where it is needed."""
        local = self.local(minute)
        return f"{DAYS[local.weekday()]} {local.day} {MONTHS[local.month - 1][:3]}, {self.time(minute)}"

    def full(self, minute: int) -> str:
        """ "1 October 2026, 00:00 (+01:00)"."""
        local = self.local(minute)
        return f"{local.day} {MONTHS[local.month - 1]} {local.year}, {local:%H:%M} ({offset(local)})"

    def until(self, first: int, end: int) -> str:
        """The end of [first, end): the time alone where it is on the same day."""
        same = self.local(first).date() == self.local(end).date()
        return self.time(end) if same else self.moment(end)

    def day(self, iso: str | None) -> str:
        """A date of the ledger: "31 Mar 2027"; "-" for none."""
        if iso is None:
            return "-"
        day = date.fromisoformat(iso)
        return f"{day.day} {MONTHS[day.month - 1][:3]} {day.year}"

    def iso(self, minute: int) -> str:
        """For tables: "2026-10-03T14:02+01:00"."""
        return self.local(minute).isoformat(timespec="minutes")

    def instant(self, epoch_ms: int) -> str:
        """A time of recording in milliseconds, cut to its minute, in full."""
        return self.full(epoch_ms // MINUTE_MS)


def offset(local: datetime) -> str:
    """ "+01:00"."""
    return local.isoformat()[-6:] if local.utcoffset() is not None else ""


def number(value: int) -> str:
    """ "44,640"."""
    return f"{value:,}"


def minutes(count: int) -> str:
    """ "1 minute", "44,640 minutes"."""
    return f"{count:,} {'minute' if count == 1 else 'minutes'}"


def plural(count: int, one: str, many: str = "") -> str:
    """ "1 incident", "3 incidents"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def length(count: int) -> str:
    """ "45 min", "2 h", "1 d 3 h 5 min"."""
    days, rest = divmod(count, 1440)
    hours, left = divmod(rest, 60)
    parts = [f"{value} {unit}" for value, unit in ((days, "d"), (hours, "h"), (left, "min")) if value]
    return " ".join(parts) or "0 min"


def listed(words: tuple[str, ...]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else "none"


def percent(text: str) -> str:
    """ "99.897 %", or that nothing was measured."""
    return "nothing measured" if text == NOTHING_MEASURED else f"{text} %"


def target(terms: Terms) -> str:
    """The promise in per cent: "99.9 %" where it is one exactly, else as the fraction that it is."""
    scaled, rest = divmod(terms.numerator * 100_000, terms.denominator)
    if rest:
        return f"{terms.numerator}/{terms.denominator}"
    whole, places = divmod(scaled, 1000)
    shown = f"{whole}.{places:03}".rstrip("0").rstrip(".")
    return f"{shown} %"


def notice(terms: Terms) -> str:
    """How long before its start maintenance is announced: "48 hours"."""
    hours, rest = divmod(terms.notice_minutes, 60)
    return minutes(terms.notice_minutes) if rest else plural(hours, "hour")


def month_name(year: int, month: int) -> str:
    """ "October 2026"."""
    return f"{MONTHS[month - 1]} {year}"


def months(count: int) -> str:
    """ "a month", "2 months"."""
    return "a month" if count == 1 else f"{count:,} months"


def set_sum(text: str) -> str:
    """A sum as it is printed: with the signs that hands write, and figures that do not break."""
    return text.replace(" x ", " \u00d7 ").replace(" - ", " \u2212 ").replace(" / ", " \u00f7 ")


RESULT_WORDS: Final = {
    Result.MET: "Met",
    Result.BREACHED: "Not met",
    Result.INDETERMINATE: "Undecided",
    Result.NO_COMMITMENT: "Nothing to measure",
}
"""A result in a word or two."""


def _twice(local: datetime) -> bool:
    """Does the clock show this time twice? Not so for one that it skips: no minute has such a time."""
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
