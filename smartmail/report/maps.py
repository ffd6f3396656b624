"""The shapes of a report's pictures: runs of minutes as SVG paths. Numbers only; the template has words and colours.

One unit is one minute, so a day of 23 or 25 hours is shorter or longer than its neighbours. A run narrower than can be
seen is drawn wider: an outage of one minute must not vanish.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from smartmail.core.planes import runs
from smartmail.report.model import Day, LocationLine

HOUR: Final = 60
DAY: Final = 1440
ROW: Final = 27
"""Height of a row of runs."""
NAME: Final = 30
"""Height of a location's name above its row: it may have 40 letters."""
LABELS: Final = 120
"""Width of a day's name before its row."""
ASIDE: Final = 70
"""Room behind the rows."""
NARROWEST: Final = 6

SHAPES: Final = (
    ("up", "up", 8, 11),
    ("none", "none", 13, 2),
    ("maintenance", "maintenance", 5, 17),
    ("maintenance", "maintenance-bar", 12, 3),
    ("unknown", "unknown", 5, 17),
    ("unknown", "unknown-hatch", 5, 17),
    ("down", "down", 1, 25),
)
"""In the order of drawing: whose minutes, the shape's own name, its top within the row and its height. They differ in
more than colour; plain shapes, for printers draw seams into patterns."""
HATCH: Final = 9
"""From one stroke of a hatch to the next."""
STROKE: Final = 3


@dataclass(frozen=True, slots=True)
class Row:
    """A row: the base line of its label, what that is, what stands behind the row, and the path of each shape (of
    SHAPES) that it has."""

    base: int
    label: str
    note: str
    paths: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """Rows, and ticks as pairs of x and label; lines: with a line down from each."""

    width: int
    height: int
    rows: tuple[Row, ...]
    ticks: tuple[tuple[int, str], ...]
    lines: bool


def minute_map(days: Sequence[Day]) -> Picture:
    """One row for each day, every minute in it."""
    rows = []
    for index, day in enumerate(days):
        kinds: dict[str, list[tuple[int, int]]] = {}
        for stretch in day.stretches:
            kind = "none" if stretch.verdict is None else stretch.verdict.value
            kinds.setdefault(kind, []).append((stretch.offset, stretch.offset + stretch.minutes))
        if measured := _measured(day):
            # The rest is drawn over it: no gaps where neighbours are drawn wider.
            kinds["up"] = measured
        note = "" if day.span.minutes == DAY else _hours(day.span.minutes)
        paths = _paths(kinds, (LABELS, index * ROW), day.span.minutes)
        rows.append(Row(index * ROW + 20, day.label, note, paths))
    longest = max((day.span.minutes for day in days), default=DAY)
    ticks = tuple((LABELS + hour * HOUR, f"{hour:02}") for hour in range(0, longest // HOUR + 1, 3))
    return Picture(LABELS + longest + ASIDE, len(days) * ROW, tuple(rows), ticks, lines=True)


def location_strips(locations: Sequence[LocationLine], days: Sequence[Day], shift: int, measured: int) -> Picture:
    """One row for each location, its name above it, the month from left to right.

    shift: minutes of the month before its first measured one; measured: how many are.
    """
    total, width = max(1, sum(day.span.minutes for day in days)), LABELS + DAY + ASIDE
    rows = []
    for index, line in enumerate(locations):
        kinds = {
            "up": [(shift, shift + measured)] if measured else [],
            "unknown": [(shift + start, shift + end) for start, end in runs(line.mute)],
            "down": [(shift + start, shift + end) for start, end in runs(line.failed)],
        }
        scaled = {
            kind: [(a * width // total, -(-b * width // total)) for a, b in parts] for kind, parts in kinds.items()
        }
        y = index * (NAME + ROW)
        rows.append(Row(y + 24, line.name, "", _paths(scaled, (0, y + NAME), width)))
    first = days[0].span.first if days else 0
    ticks = tuple(((day.span.first - first) * width // total, str(int(day.date[-2:]))) for day in days)
    return Picture(width, len(locations) * (NAME + ROW), tuple(rows), ticks, lines=False)


def _measured(day: Day) -> list[tuple[int, int]]:
    parts = [(one.offset, one.offset + one.minutes) for one in day.stretches if one.verdict is not None]
    return [(parts[0][0], parts[-1][1])] if parts else []


def _paths(kinds: dict[str, list[tuple[int, int]]], corner: tuple[int, int], width: int) -> tuple[tuple[str, str], ...]:
    """The path of each shape, its parts within 0..width, drawn from the corner (x, y) on."""
    x, y = corner
    paths = []
    for kind, name, top, height in SHAPES:
        if parts := _seen(kinds.get(kind, ()), width):
            if name.endswith("hatch"):
                parts = [(at, at + STROKE) for start, end in parts for at in range(start, end - STROKE + 1, HATCH)]
            paths.append((name, _path(parts, x, (y + top, height))))
    return tuple(paths)


def _seen(parts: Iterable[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """Each part at least NARROWEST wide and within 0..limit; those that touch are one."""
    wide: list[tuple[int, int]] = []
    for start, end in sorted(parts):
        more = max(0, NARROWEST - (end - start))
        start = max(0, min(start - more // 2, limit - NARROWEST))
        end = min(limit, max(end, start + NARROWEST))
        if wide and start <= wide[-1][1]:
            wide[-1] = (wide[-1][0], max(wide[-1][1], end))
        else:
            wide.append((start, end))
    return wide


def _path(parts: Iterable[tuple[int, int]], x: int, band: tuple[int, int]) -> str:
    y, height = band
    return "".join(f"M{x + start} {y}h{end - start}v{height}h-{end - start}z" for start, end in parts)


def _hours(minutes: int) -> str:
    hours, rest = divmod(minutes, HOUR)
    return f"{hours}:{rest:02} h" if rest else f"{hours} h"
