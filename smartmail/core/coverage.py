"""Which of a repository's data was read when, from the records of checks alone: the part to read next, and since when
all of it has been read.

Part n of t is every pack whose first octet leaves n - 1 when divided by t: restic's own rule, so a part that was read
counts for what it holds even after the number of parts was changed. Only a reading that came to its end and found no
fault proves anything. One that found damage proves nothing, but has had its turn: else a part that stays damaged would
keep all others from ever being read. Times are milliseconds since the epoch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity, Reason, Record

MOST_PARTS: Final = 256
"""restic looks at one octet."""
TOLERANCE_MS: Final = 300_000
"""A reading that is dated further in the future proves nothing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One part that was read to its end, begun at `at_ms`. whole: no fault was found."""

    part: int
    parts: int
    at_ms: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Coverage:
    """last_ms: of each part, when the oldest of what it holds was read last; None: some of it never. next: the part to
    read now, longest unread. covered_since_ms: all data that was there then has been read since, and is whole; None
    as long as it is not so. damaged: parts whose newest reading found a fault."""

    parts: int
    last_ms: tuple[int | None, ...]
    next: int
    covered_since_ms: int | None
    damaged: tuple[int, ...] = ()

    @property
    def unread(self) -> tuple[int, ...]:
        """Parts of which something was never read."""
        return tuple(number for number, at_ms in enumerate(self.last_ms, 1) if at_ms is None)

    def within(self, window_ms: int, now_ms: int) -> bool:
        """Has all of it been read, and found whole, in the last `window_ms`?"""
        since = self.covered_since_ms
        return since is not None and not self.damaged and now_ms - since <= window_ms


def coverage(readings: Iterable[Reading], parts: int, now_ms: int) -> Coverage:
    """What the readings (in any order) say of a repository in `parts` parts. Raises ValueError for a number of parts
    that is not 1 to 256."""
    if not 1 <= parts <= MOST_PARTS:
        raise ValueError(f"{parts} parts: from 1 to {MOST_PARTS} are possible")
    proved: list[int | None] = [None] * MOST_PARTS
    turn: list[int | None] = [None] * MOST_PARTS
    faulty = [False] * MOST_PARTS
    past = [one for one in readings if one.at_ms <= now_ms + TOLERANCE_MS and 1 <= one.part <= one.parts <= MOST_PARTS]
    # Of two at one time the one that found damage counts as the newer.
    for one in sorted(past, key=lambda one: (one.at_ms, not one.whole)):
        for octet in range(one.part - 1, MOST_PARTS, one.parts):
            turn[octet] = one.at_ms
            faulty[octet] = not one.whole
            if one.whole:
                proved[octet] = one.at_ms
    numbers = range(1, parts + 1)
    last = tuple(_oldest(proved[number - 1 :: parts]) for number in numbers)
    turns = [_oldest(turn[number - 1 :: parts]) for number in numbers]
    return Coverage(
        parts,
        last,
        min(numbers, key=lambda number: (_place(turns[number - 1]), _place(last[number - 1]), number)),
        _oldest(last),
        tuple(number for number in numbers if any(faulty[number - 1 :: parts])),
    )


def readings_of(records: Iterable[Record], repository: str) -> tuple[Reading, ...]:
    """The readings among the catalogue's records: checks of the repository whose facts say that a part was read."""
    found = []
    for one in records:
        part, parts = one.facts.get("part"), one.facts.get("parts")
        if one.activity is not Activity.CHECK or one.repository != repository or one.facts.get("read") is not True:
            continue
        if not isinstance(part, int) or not isinstance(parts, int):
            continue
        if one.state is RunState.OK or (one.state is RunState.FAILED and one.reason is Reason.DAMAGED):
            found.append(Reading(part, parts, one.started_ms, one.state is RunState.OK))
    return tuple(found)


def part_of(pack: str, parts: int) -> int:
    """The part that a pack is read in. pack: its id, in hexadecimal digits."""
    return int(pack[:2], 16) % parts + 1


def _oldest(times: Iterable[int | None]) -> int | None:
    """None if one of them is."""
    found = list(times)
    known = [one for one in found if one is not None]
    return min(known) if len(known) == len(found) else None


def _place(at_ms: int | None) -> tuple[bool, int]:
    """Sorts what never was first."""
    return at_ms is not None, at_ms or 0
