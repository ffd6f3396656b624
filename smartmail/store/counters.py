"""The counters in memory, and their snapshot: bytes that outlive a restart. Who keeps the bytes is not
said here."""

import json
from typing import Final

from smartmail.core.known import KnownRecipients
from smartmail.core.limits import Counters
from smartmail.core.meter import Row, RowError

SNAPSHOT_VERSION: Final = 1


class SnapshotError(ValueError):
    """These bytes are no snapshot of counters, or one of another version."""


class MemoryCounters:
    """Counters and known recipients of one process.

    `counters` and `known` are the same objects for life: a session may keep them across a restore.
    """

    __slots__ = ("commit", "counters", "extend", "known", "release", "reserve", "usage")

    def __init__(self, counters: Counters | None = None, known: KnownRecipients | None = None) -> None:
        self.counters = Counters() if counters is None else counters
        self.known = KnownRecipients() if known is None else known
        # Bound once: a call through this object costs no more than one to the core.
        self.reserve = self.counters.reserve
        self.extend = self.counters.extend
        self.commit = self.counters.commit
        self.release = self.counters.release
        self.usage = self.counters.usage

    def expire(self, now_ns: int) -> int:
        """Regular work, each second or so: end old reservations (returns how many), forget what is idle."""
        self.known.expire(now_ns)
        return self.counters.expire(now_ns)

    def rows(self) -> dict[str, list[Row]]:
        """A consistent copy as plain rows: to be taken on the loop; `encode` may then run in another
        thread."""
        return {"counters": self.counters.dump(), "known": self.known.dump()}

    def snapshot(self) -> bytes:
        """All of it as compact JSON. Reservations in flight are in it as used."""
        return encode(self.rows())

    def restore(self, data: bytes, now_ns: int) -> None:
        """Replace everything by a snapshot. Raises SnapshotError, and changes nothing, if it is none."""
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SnapshotError("the snapshot of the counters is not JSON") from error
        if not isinstance(content, dict) or content.get("version") != SNAPSHOT_VERSION:
            raise SnapshotError("the snapshot of the counters is of another version")
        counters, known = _rows(content.get("counters")), _rows(content.get("known"))
        try:
            # Tried on a fresh object first: of the two, either both are replaced or neither.
            Counters().load(counters, now_ns)
            self.known.load(known, now_ns)
        except RowError as error:
            raise SnapshotError(f"the snapshot of the counters is damaged: {error}") from error
        self.counters.load(counters, now_ns)


def encode(rows: dict[str, list[Row]]) -> bytes:
    """What `MemoryCounters.rows` gave -> the bytes of a snapshot."""
    return json.dumps({"version": SNAPSHOT_VERSION, **rows}, separators=(",", ":")).encode()


def _rows(part: object) -> list[list[int | str]]:
    """JSON -> rows of integers and strings; what the numbers mean is checked by who loads them."""
    if not isinstance(part, list) or not all(isinstance(row, list) for row in part):
        raise SnapshotError("the snapshot of the counters is damaged: not a list of rows")
    if not all(type(value) in (int, str) for row in part for value in row):
        raise SnapshotError("the snapshot of the counters is damaged: neither a number nor a name")
    return part
