"""Which checks a location begins at which instant: fixed slots in each minute, the same for ever.

A slot is a place in the minute, in milliseconds. Nothing is caught up: a slot that went by while the agent slept is
silence, never a sample made up later.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from smartmail.core.roster import CheckSpec, Roster, slot_second

MINUTE_MS: Final = 60_000
GRACE_MS: Final = 2_000
"""A slot is begun at most this long after its instant; later it is missed."""
ON_TIME_MS: Final = 1_000
"""A probe that began later than this after its slot is marked as late."""
_PARTS, _PART_MS = 5, 100
"""The checks of one second begin in this many groups this far apart, all of them in the first half of it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One instant (epoch milliseconds) and what begins then."""

    at_ms: int
    checks: tuple[CheckSpec, ...]


def slot_ms(check: str, location: str) -> int:
    """The place of a check in the minute of a location: `slot_second`, and a part of that second."""
    digest = hashlib.sha256(f"{check}\n{location}".encode()).digest()
    return slot_second(check, location) * 1000 + digest[4] % _PARTS * _PART_MS


class Timetable:
    """The slots of one location under one roster. Made once for a roster; asking it costs a binary search."""

    __slots__ = ("_checks", "_places")

    def __init__(self, checks: Iterable[CheckSpec], location: str) -> None:
        """checks: those that the location does."""
        groups: dict[int, list[CheckSpec]] = {}
        for check in checks:
            groups.setdefault(slot_ms(check.name, location), []).append(check)
        self._places = tuple(sorted(groups))
        self._checks = tuple(tuple(groups[place]) for place in self._places)

    def after(self, at_ms: int) -> int | None:
        """The first instant strictly after `at_ms` at which something begins; None for a location without checks."""
        if not self._places:
            return None
        minute, place = divmod(at_ms, MINUTE_MS)
        index = bisect_right(self._places, place)
        if index == len(self._places):
            return (minute + 1) * MINUTE_MS + self._places[0]
        return minute * MINUTE_MS + self._places[index]

    def between(self, after_ms: int, until_ms: int) -> list[Slot]:
        """Every slot in (after_ms, until_ms], in order."""
        found: list[Slot] = []
        for minute in range(after_ms // MINUTE_MS, until_ms // MINUTE_MS + 1):
            start = minute * MINUTE_MS
            low = bisect_right(self._places, after_ms - start)
            high = bisect_right(self._places, until_ms - start)
            found += [Slot(start + self._places[i], self._checks[i]) for i in range(low, high)]
        return found


class RosterBook:
    """The roster in force and those to come, as one location works by them."""

    __slots__ = ("_rosters", "_tables", "location")

    def __init__(self, rosters: Sequence[Roster], location: str) -> None:
        """rosters: in any order; from one minute on the last version of those that name the same minute counts."""
        self.location = location
        self._rosters = tuple(sorted(rosters, key=lambda one: (one.from_minute, one.version)))
        self._tables = tuple(Timetable(one.of_location(location), location) for one in self._rosters)

    @property
    def rosters(self) -> tuple[Roster, ...]:
        """All of them, oldest first."""
        return self._rosters

    def at(self, minute: int) -> Roster | None:
        """The roster in force in a minute; None before the first."""
        index = self._index(minute)
        return self._rosters[index] if index >= 0 else None

    def after(self, at_ms: int) -> int | None:
        """The first instant strictly after `at_ms` at which something begins, or at which another roster comes into
        force. None: never."""
        index = self._index(at_ms // MINUTE_MS)
        change = self._rosters[index + 1].from_minute * MINUTE_MS if index + 1 < len(self._rosters) else None
        found = self._tables[index].after(at_ms) if index >= 0 else None
        if change is not None and (found is None or found >= change):
            return change
        return found

    def between(self, after_ms: int, until_ms: int) -> list[Slot]:
        """Every slot in (after_ms, until_ms], each by the roster in force in its minute.

        Costs as much as the span is long: call it with `due_from` before it.
        """
        found: list[Slot] = []
        for minute in range(after_ms // MINUTE_MS, until_ms // MINUTE_MS + 1):
            index = self._index(minute)
            if index >= 0:
                start = minute * MINUTE_MS
                low, high = max(after_ms, start - 1), min(until_ms, start + MINUTE_MS - 1)
                found += self._tables[index].between(low, high)
        return found

    def _index(self, minute: int) -> int:
        return bisect_right(self._rosters, minute, key=lambda one: one.from_minute) - 1


def due_from(last_ms: int, now_ms: int) -> int:
    """Slots after this instant are still to be begun now: none twice, none later than the grace.

    last_ms: up to where slots were begun. A clock that was set back by more than a minute starts afresh, so that a
    wrong time that was put right does not silence the agent until it is reached again.
    """
    if last_ms > now_ms + MINUTE_MS:
        return now_ms - 1
    return max(last_ms, now_ms - GRACE_MS - 1)
