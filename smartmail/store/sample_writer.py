"""The sample writer: one thread that puts batches into the journal, with group commit.

A batch is acknowledged when it would survive the loss of power: every commit is synced to the disk, and while one is
being synced the next batches gather. A batch that cannot be written is refused, and its agent keeps it.
"""

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import NamedTuple

from smartmail.core.outcome import Outcome
from smartmail.core.sample import Batch, Sample
from smartmail.store.errors import StoreUnavailable
from smartmail.store.segments import Known, SortedIn, transaction
from smartmail.store.sqlite import connect

GROUP_BATCHES = 256
GROUP_OCTETS = 16 * 1024 * 1024
"""The most in one commit (but one batch at least)."""
MAX_WAITING_OCTETS = 64 * 1024 * 1024
"""Batches that wait for their commit; beyond it new ones are refused."""
PUT_ASIDE_A_DAY = 10_000
"""Rows of what is put aside that one agent may leave in a day: they are for ever. Beyond it they are only counted."""
_DAY_MS = 86_400_000

_BATCH = """
INSERT INTO sample_batch (agent, location, sequence, received_ms, samples, octets) VALUES (?, ?, ?, ?, ?, ?)
"""
# What is put aside is put aside once, however often it is handed in.
_QUARANTINE = """
INSERT INTO sample_quarantine
    (agent, location, check_name, started_ms, received_ms, reason, outcome, latency_ms)
SELECT :agent, :location, :check, :started_ms, :received_ms, :reason, :outcome, :latency_ms
WHERE NOT EXISTS (
    SELECT 1 FROM sample_quarantine
    WHERE check_name = :check AND started_ms = :started_ms AND agent = :agent AND location = :location
        AND reason = :reason AND outcome = :outcome AND latency_ms = :latency_ms
)
"""
_CONFLICT = """
INSERT INTO sample_conflict (agent, location, check_name, started_ms, received_ms, kept, refused)
SELECT :agent, :location, :check, :started_ms, :received_ms, :kept, :refused
WHERE NOT EXISTS (
    SELECT 1 FROM sample_conflict
    WHERE check_name = :check AND started_ms = :started_ms AND agent = :agent AND location = :location
        AND refused = :refused
)
"""


class Taken(NamedTuple):
    """What became of a batch; the four counts make up its samples."""

    accepted: int
    duplicates: int
    quarantined: int
    conflicts: int
    batch_id: int | None
    """Its place in the journal; None: nothing in it was new."""


class _Item(NamedTuple):
    octets: bytes
    batch: Batch
    received_ms: int
    future: "Future[Taken]"


class SampleWriter:
    """Takes batches from any thread; a Future tells when one is durable.

    Counts, plain integers that any thread may read: batches, samples (accepted), duplicates, quarantined,
    conflicts, commits, failed_groups.
    """

    def __init__(self, url: str) -> None:
        """url: "sqlite:///path" of an upgraded database. Nothing is opened yet."""
        self._url = url
        self._known = Known()
        self._items: deque[_Item] = deque()
        self._waiting_octets = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._connection: sqlite3.Connection | None = None
        self._aside: dict[str, tuple[int, int]] = {}
        self._thread = threading.Thread(target=self._run, name="sample-writer", daemon=True)
        self.batches = 0
        self.samples = 0
        self.duplicates = 0
        self.quarantined = 0
        self.conflicts = 0
        self.commits = 0
        self.failed_groups = 0

    def start(self) -> None:
        """Start the thread. Raises StoreUnavailable when the database cannot be opened now."""
        try:
            self._open()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the database cannot be used: {error}") from error
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, then end the thread. What is put afterwards is refused."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._fail(list(self._items), StoreUnavailable("the sample writer was stopped"))

    def put(self, octets: bytes, batch: Batch, received_ms: int) -> "Future[Taken]":
        """Hand over a batch. octets: `encode_batch(batch)`, as it came. received_ms: by the collector's clock.

        The Future ends when the batch is on the disk, or in StoreUnavailable: then nothing of it is stored. (A
        commit whose end is unknown may have stored it: handed in again, it is all duplicates.)
        """
        item = _Item(octets, batch, received_ms, Future())
        with self._changed:
            if self._stopping or self._waiting_octets > MAX_WAITING_OCTETS:
                reason = "is stopping" if self._stopping else "has too much waiting"
                item.future.set_exception(StoreUnavailable(f"the sample writer {reason}"))
            else:
                self._items.append(item)
                self._waiting_octets += len(octets)
                self._changed.notify()
        return item.future

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._items and not self._stopping:
                    self._changed.wait()
                group = self._next_group()
            if not group:
                self._close()
                return
            self._write(group)

    def _next_group(self) -> list[_Item]:
        group: list[_Item] = []
        size = 0
        while self._items and len(group) < GROUP_BATCHES:
            size += len(self._items[0].octets)
            if group and size > GROUP_OCTETS:
                break
            group.append(self._items.popleft())
        self._waiting_octets -= sum(len(item.octets) for item in group)
        return group

    def _write(self, group: Sequence[_Item]) -> None:
        wanted = [item for item in group if item.future.set_running_or_notify_cancel()]
        try:
            connection = self._open()
            with transaction(connection, write=True):
                self._known.follow(connection)
                taken = [self._take(connection, item) for item in wanted]
        except Exception as error:  # told to every agent that waits, and counted: the thread must go on
            self._known.clear()
            self._close()
            self.failed_groups += 1
            self._fail(wanted, error)
            return
        self.commits += 1
        for item, result in zip(wanted, taken, strict=True):
            self._count(result)
            item.future.set_result(result)

    def _fail(self, items: Sequence[_Item], error: Exception) -> None:
        for item in items:
            if not item.future.done():
                unavailable = StoreUnavailable(f"the samples cannot be stored: {error}")
                unavailable.__cause__ = error
                item.future.set_exception(unavailable)

    def _count(self, taken: Taken) -> None:
        self.batches += 1
        self.samples += taken.accepted
        self.duplicates += taken.duplicates
        self.quarantined += taken.quarantined
        self.conflicts += taken.conflicts

    def _take(self, connection: sqlite3.Connection, item: _Item) -> Taken:
        batch = item.batch
        found = self._known.sort_in(connection, batch, item.received_ms)
        batch_id = None
        if found.accepted:
            values = (batch.agent, batch.location, batch.sequence, item.received_ms, len(batch.samples), item.octets)
            batch_id = connection.execute(_BATCH, values).lastrowid or 0
            self._known.note(found, batch_id)
        if found.quarantined or found.conflicts:
            self._put_aside(connection, item, found)
        return Taken(found.accepted, found.duplicates, len(found.quarantined), len(found.conflicts), batch_id)

    def _put_aside(self, connection: sqlite3.Connection, item: _Item, found: SortedIn) -> None:
        today = item.received_ms // _DAY_MS
        day, rows = self._aside.get(item.batch.agent, (today, 0))
        left = PUT_ASIDE_A_DAY - (rows if day == today else 0)
        for statement, values in islice(_rows_aside(item, found), left):
            left -= connection.execute(statement, values).rowcount
        self._aside[item.batch.agent] = (today, PUT_ASIDE_A_DAY - left)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._known.clear()
            connection = connect(self._url)
            connection.execute("PRAGMA synchronous=FULL")
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _rows_aside(item: _Item, found: SortedIn) -> Iterator[tuple[str, dict[str, str | int]]]:
    for sample, reason in found.quarantined:
        said = {"outcome": int(sample.outcome), "latency_ms": sample.latency_ms}
        yield _QUARANTINE, _identity(item, sample) | said | {"reason": reason.value}
    for sample, held in found.conflicts:
        words = {"kept": _words(*held), "refused": _words(sample.outcome, sample.latency_ms, sample.detail)}
        yield _CONFLICT, {**_identity(item, sample), **words}


def _identity(item: _Item, sample: Sample) -> dict[str, str | int]:
    return {
        "agent": item.batch.agent,
        "location": item.batch.location,
        "check": sample.check,
        "started_ms": sample.started_ms,
        "received_ms": item.received_ms,
    }


def _words(outcome: int, latency_ms: int, detail: str) -> str:
    name = Outcome(outcome).name.lower() if outcome in Outcome._value2member_map_ else str(outcome)
    return f"{name} {latency_ms} ms {detail}".rstrip()
