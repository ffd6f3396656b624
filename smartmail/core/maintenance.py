"""Scheduled servicing: an append-only log of announcements -> the minutes that a month leaves out.

Rules (DESIGN section 4). A window counts if it was announced at least the notice before it starts. An extension counts
with the same notice before the window's start; without it, the overrun is as measured. Shortened or cancelled while it
runs, the part that has passed stays out and the rest counts. Nothing recorded later reaches back. Windows are united
first, then cut to the month; only whole minutes are left out, and a cap keeps the month's first ones. Probing never
stops.

Announcements name minutes, not wall-clock times: a later change of a time zone's rules moves none of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from smartmail.core.months import local_minute
from smartmail.core.roster import NAME

if TYPE_CHECKING:
    from smartmail.core.months import Span
    from smartmail.core.sla import Terms

MINUTE_MS: Final = 60_000
EVERY_SERVICE: Final = "*"
"""As the service of a window: it is about all of them."""
MAX_MINUTES: Final = 31 * 1440
"""The longest window."""
MAX_TIMES: Final = 400
"""The most windows of one recurrence."""


class MaintenanceRefused(ValueError):
    """This cannot be recorded. hint: what to do instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Action(StrEnum):
    """What an announcement does to its window."""

    ANNOUNCE = "announce"
    EXTEND = "extend"
    SHORTEN = "shorten"
    CANCEL = "cancel"
    NOTE = "note"
    """Written down after the fact, for people; it never excludes a minute."""


class Effect(StrEnum):
    """What an announcement did."""

    COUNTS = "counts"
    SHORT_NOTICE = "short notice"
    NOTE = "note"
    NOTHING = "nothing"
    """It came after the window's end, or changes nothing, or there is no such window."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """One line of the log. Minutes are half-open [from_minute, until_minute); recorded_ms is when the log took it.

    extend and shorten name the new end as until_minute; of cancel only the time of recording matters.
    """

    window: str
    action: Action
    service: str
    from_minute: int
    until_minute: int
    recorded_ms: int
    actor: str
    text: str

    def to_json(self) -> dict[str, str | int]:
        """As kept in a month's record."""
        return {
            "window": self.window,
            "action": self.action.value,
            "service": self.service,
            "from_minute": self.from_minute,
            "until_minute": self.until_minute,
            "recorded_ms": self.recorded_ms,
            "actor": self.actor,
            "text": self.text,
        }


def announcement_from_json(value: Mapping[str, object]) -> Announcement:
    """Read what `to_json` gives. Raises ValueError."""
    numbers = [value.get(key) for key in ("from_minute", "until_minute", "recorded_ms")]
    first, end, recorded = (one for one in numbers if isinstance(one, int) and not isinstance(one, bool))
    words = [value.get(key) for key in ("window", "action", "service", "actor", "text")]
    window, action, service, actor, text = (one for one in words if isinstance(one, str))
    return Announcement(window, Action(action), service, first, end, recorded, actor, text)


@dataclass(frozen=True, slots=True)
class Window:
    """What has become of a window. planned: as customers were told last; counted: what a month leaves out. Both are
    half-open minutes, and empty when the end is not after the start."""

    name: str
    service: str
    text: str
    planned: tuple[int, int]
    counted: tuple[int, int]
    cancelled: bool
    steps: tuple[tuple[Announcement, Effect], ...]

    @property
    def counts(self) -> bool:
        """Does it leave out any minute at all?"""
        return self.counted[0] < self.counted[1]


def about(entries: Iterable[Announcement], service: str) -> tuple[Announcement, ...]:
    """The lines of the log that concern a service, in their order."""
    return tuple(entry for entry in entries if entry.service in (service, EVERY_SERVICE))


def windows(entries: Iterable[Announcement], notice_minutes: int) -> tuple[Window, ...]:
    """Fold the log, oldest line first, into its windows in order of their first lines. Lines about a window that was
    never announced do nothing and are left out."""
    found: dict[str, Window] = {}
    for entry in entries:
        window = found.get(entry.window)
        if window is None:
            if entry.action in (Action.ANNOUNCE, Action.NOTE):
                found[entry.window] = _opened(entry, notice_minutes)
            continue
        found[entry.window] = _stepped(window, entry, notice_minutes)
    return tuple(found.values())


def excluded_spans(entries: Iterable[Announcement], span: "Span", terms: "Terms") -> tuple[tuple[int, int], ...]:
    """What a month leaves out, as ordered half-open minutes that do not touch: united, then cut to `span`, then
    capped to its first `terms.cap_minutes` minutes. entries: the lines about one service (`about`)."""
    counted = sorted(window.counted for window in windows(entries, terms.notice_minutes) if window.counts)
    united: list[tuple[int, int]] = []
    for first, end in counted:
        if united and first <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], end))
        else:
            united.append((first, end))
    left = span.end - span.first if terms.cap_minutes is None else terms.cap_minutes
    kept: list[tuple[int, int]] = []
    for first, end in united:
        first, end = max(first, span.first), min(end, span.end)
        end = min(end, first + left)
        if first < end:
            kept.append((first, end))
            left -= end - first
    return tuple(kept)


def excluded_plane(entries: Iterable[Announcement], span: "Span", terms: "Terms") -> int:
    """The same as bits: bit i is the minute span.first + i."""
    plane = 0
    for first, end in excluded_spans(entries, span, terms):
        plane |= ((1 << (end - first)) - 1) << (first - span.first)
    return plane


def check(entries: Sequence[Announcement], new: Announcement) -> None:
    """May `new` be the log's next line? Raises MaintenanceRefused, which says why and what to do.

    An announcement with too short a notice may: customers are told of it, and it leaves out nothing.
    """
    _check_shape(entries, new)
    now = new.recorded_ms // MINUTE_MS
    known = next(iter(windows([one for one in entries if one.window == new.window], 0)), None)
    if new.action in (Action.ANNOUNCE, Action.NOTE):
        if known is not None:
            raise MaintenanceRefused(f'there is a window "{new.window}" already', "choose another name")
        if new.action is Action.ANNOUNCE and new.recorded_ms > new.from_minute * MINUTE_MS:
            raise MaintenanceRefused(
                "it begins in the past: no announcement reaches back", "record it as a note; a note excludes nothing"
            )
        return
    if known is None:
        raise MaintenanceRefused(f'there is no window "{new.window}"', 'see "smartmail maintenance list"')
    first, end = known.planned
    if known.steps[0][0].action is Action.NOTE:
        raise MaintenanceRefused(f'"{new.window}" is a note', "a note stays as it is")
    if known.cancelled or now >= end:
        state = "was cancelled" if known.cancelled else "is over"
        raise MaintenanceRefused(f'the window "{new.window}" {state}', "announce a new one")
    if new.action is Action.EXTEND and new.until_minute <= end:
        raise MaintenanceRefused("that is no later end", "to end it earlier, shorten it")
    if new.action is Action.SHORTEN and not max(first, now) <= new.until_minute < end:
        raise MaintenanceRefused(
            "the new end must lie before the old one, and neither before the start nor in the past",
            "to end it now, cancel it; to end it later, extend it",
        )


def whole_minutes(from_second: int, until_second: int) -> tuple[int, int]:
    """The whole minutes inside [from_second, until_second) of POSIX seconds: a partial one counts as measured."""
    return -(-from_second // 60), until_second // 60


class Every(StrEnum):
    """How often a window comes again."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    """On the same weekday of its month as the first: each first Sunday. A fifth one that a month lacks is skipped."""


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A window by the wall clock. An `end` not after `start` is on the next day. times: how many, 1 to MAX_TIMES."""

    first: date
    start: time
    end: time
    every: Every = Every.DAY
    times: int = 1


def occurrences(recurrence: Recurrence, zone: tzinfo) -> tuple[tuple[date, int, int], ...]:
    """Each window as its day and half-open minutes. Wall times hold over changes of the clock; a window whose whole
    time the clock skips is left out. Raises MaintenanceRefused for a number of times out of bounds."""
    if not 1 <= recurrence.times <= MAX_TIMES:
        raise MaintenanceRefused(f"{recurrence.times} times is out of bounds", f"1 to {MAX_TIMES} times are possible")
    days_on = timedelta(days=int(recurrence.end <= recurrence.start))
    found = []
    for day in _days(recurrence):
        first = local_minute(datetime.combine(day, recurrence.start), zone)
        end = local_minute(datetime.combine(day + days_on, recurrence.end), zone)
        if first < end:
            found.append((day, first, end))
    return tuple(found)


def calendar_text(shown: Iterable[Window], domain: str, title: str) -> str:
    """Windows as an iCalendar feed (RFC 5545), CRLF and folded. Notes are left out; cancelled windows stay, so that
    calendars that know them strike them out. domain: makes the UIDs the world's own."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//Smart Mail//maintenance//EN", "METHOD:PUBLISH"]
    lines.append(f"X-WR-CALNAME:{_escaped(title)}")
    for window in shown:
        if window.steps[0][0].action is not Action.NOTE:
            lines.extend(_event(window, domain))
    lines.append("END:VCALENDAR")
    return "".join(f"{folded}\r\n" for line in lines for folded in _folded(line))


def _opened(entry: Announcement, notice_minutes: int) -> Window:
    told = (entry.from_minute, max(entry.from_minute, entry.until_minute))
    if entry.action is Action.NOTE:
        effect = Effect.NOTE
    elif _noticed(entry, entry.from_minute, notice_minutes):
        effect = Effect.COUNTS
    else:
        effect = Effect.SHORT_NOTICE
    counted = told if effect is Effect.COUNTS else (told[0], told[0])
    return Window(entry.window, entry.service, entry.text, told, counted, False, ((entry, effect),))


def _stepped(window: Window, entry: Announcement, notice_minutes: int) -> Window:
    """The window after one more line about it."""
    first, end = window.planned
    over = window.cancelled or window.steps[0][1] is Effect.NOTE or entry.recorded_ms >= end * MINUTE_MS
    counted = window.counted
    effect = Effect.NOTHING
    if not over and entry.action is Action.EXTEND and entry.until_minute > end:
        end = entry.until_minute
        effect = Effect.SHORT_NOTICE
        if window.steps[0][1] is Effect.COUNTS and _noticed(entry, first, notice_minutes):
            effect, counted = Effect.COUNTS, (first, end)
    elif not over and entry.action in (Action.SHORTEN, Action.CANCEL):
        wanted = first if entry.action is Action.CANCEL else entry.until_minute
        # The minute of the recording is not wholly past: it counts again.
        new_end = max(first, wanted, min(end, entry.recorded_ms // MINUTE_MS))
        if new_end < end or entry.action is Action.CANCEL:
            effect, end, counted = Effect.COUNTS, new_end, (first, min(counted[1], new_end))
    cancelled = window.cancelled or (effect is Effect.COUNTS and entry.action is Action.CANCEL)
    return replace(
        window,
        text=entry.text or window.text,
        planned=(first, end),
        counted=counted,
        cancelled=cancelled,
        steps=(*window.steps, (entry, effect)),
    )


def _noticed(entry: Announcement, start: int, notice_minutes: int) -> bool:
    return entry.recorded_ms <= (start - notice_minutes) * MINUTE_MS


def _check_shape(entries: Sequence[Announcement], new: Announcement) -> None:
    if not NAME.match(new.window):
        raise MaintenanceRefused(f"{new.window!r} is no name of a window", "small letters, digits and -, 40 at most")
    if new.service != EVERY_SERVICE and not NAME.match(new.service):
        raise MaintenanceRefused(f"{new.service!r} is no name of a service", "small letters, digits and -, 40 at most")
    if entries and new.recorded_ms < entries[-1].recorded_ms:
        raise MaintenanceRefused(
            "this clock is behind the log's last line: notice could not be proved", "set the clock right"
        )
    if new.action is Action.CANCEL:
        return
    if not 0 < new.until_minute - new.from_minute <= MAX_MINUTES:
        raise MaintenanceRefused("a window has at least one whole minute, and 31 days at most", "check both times")


def _days(recurrence: Recurrence) -> list[date]:
    first, times = recurrence.first, recurrence.times
    if recurrence.every is not Every.MONTH:
        step = timedelta(days=1 if recurrence.every is Every.DAY else 7)
        return [first + step * index for index in range(times)]
    place, month = (first.day - 1) // 7, first.replace(day=1)
    days: list[date] = []
    while len(days) < times:
        day = month + timedelta(days=(first.weekday() - month.weekday()) % 7 + 7 * place)
        if day.month == month.month:
            days.append(day)
        month = (month + timedelta(days=31)).replace(day=1)
    return days


def _event(window: Window, domain: str) -> list[str]:
    newest = window.steps[-1][0]
    first, end = window.steps[0][0].from_minute, window.planned[1]
    if window.cancelled and end <= first:
        end = window.steps[0][0].until_minute
    about_what = "all services" if window.service == EVERY_SERVICE else window.service
    return [
        "BEGIN:VEVENT",
        f"UID:{window.name}@{domain}",
        f"DTSTAMP:{_utc(newest.recorded_ms // 1000)}",
        f"DTSTART:{_utc(first * 60)}",
        f"DTEND:{_utc(end * 60)}",
        f"SEQUENCE:{len(window.steps) - 1}",
        f"STATUS:{'CANCELLED' if window.cancelled else 'CONFIRMED'}",
        f"SUMMARY:{_escaped(f'Maintenance of {about_what}')}",
        f"DESCRIPTION:{_escaped(window.text)}",
        "TRANSP:TRANSPARENT",
        "END:VEVENT",
    ]


def _utc(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%SZ")


def _escaped(text: str) -> str:
    """TEXT of RFC 5545 section 3.3.11; control characters have no place in it."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,").replace("\n", "\\n")
    return "".join(char for char in text if char.isprintable() or char == " ")


def _folded(line: str) -> list[str]:
    """RFC 5545 section 3.1: at most 75 octets a line, and no character torn in two."""
    parts, part, room = [], "", 75
    for char in line:
        octets = len(char.encode("utf-8", "replace"))
        if octets > room:
            parts.append(part)
            part, room = " ", 74
        part += char
        room -= octets
    return [*parts, part]
