"""Samples as they lie in the database: a journal of batches, a segment for each stream's day; and what of it is known.

A sample is in the database when its batch is in the journal or when it is in its segment. Which of a batch's samples
count is decided by `Known.sort_in` alone, from what was there before and from when the batch came: so folding the
journal over the segments, as often as one likes, gives the same samples that were acknowledged.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from smartmail.core.columns import DAY_SECONDS, Added, ColumnError, Draft, Held, decode_column, decode_outcomes
from smartmail.core.sample import MAX_OCTETS, MAX_SAMPLES, Batch, Sample, SampleError, decode_batch
from smartmail.store.errors import StoreUnavailable
from smartmail.store.sqlite import connect

FUTURE_TOLERANCE_MS = 120_000
"""How far a sample may lie after the moment at which its batch came."""
PAST_TOLERANCE_MS = 100 * 86_400_000
"""How far it may lie before: agents keep samples for 30 days, and each further day is another piece of memory."""
MAX_DRAFTS = 8192
"""Days of streams kept unpacked, about 6 KB each. Those with samples in the journal are kept beyond it."""


class StreamDay(NamedTuple):
    """What a segment holds. day: days since the epoch."""

    location: str
    check: str
    day: int


class Quarantined(StrEnum):
    """Why a sample is put aside: a closed list."""

    FUTURE = "future"
    """It says that it began after it came."""
    PAST = "past"
    """It says that it began so long ago that no agent can have kept it."""
    PRUNED = "pruned"
    """Its day's samples were let go after the month was closed."""


@dataclass(slots=True)
class SortedIn:
    """What became of a batch's samples."""

    accepted: int = 0
    duplicates: int = 0
    quarantined: list[tuple[Sample, Quarantined]] = field(default_factory=list)
    conflicts: list[tuple[Sample, Held]] = field(default_factory=list)
    """The sample that is refused, and what stands in its place."""
    touched: set[StreamDay] = field(default_factory=set)
    """Where samples were accepted."""


class JournalRow(NamedTuple):
    """A batch in the journal."""

    id: int
    received_ms: int
    octets: bytes

    def batch(self) -> Batch:
        """Raises StoreUnavailable when the stored octets are damaged."""
        try:
            return decode_batch(self.octets, max_samples=MAX_SAMPLES * 100, max_octets=MAX_OCTETS * 10)
        except SampleError as error:
            raise StoreUnavailable(f"batch {self.id} of the journal is damaged: {error}") from error


class Known:
    """The samples that a database holds, in memory as far as they were asked for.

    It is brought up to date by `follow`, inside the transaction that then uses it.
    """

    def __init__(self, max_drafts: int = MAX_DRAFTS, days: range | None = None) -> None:
        """days: samples of other days are passed over."""
        self.drafts: dict[StreamDay, Draft | bytes] = {}
        """Octets: the day's samples were let go, these are its outcomes."""
        self._max_drafts = max_drafts
        self._days = days
        self._touched: dict[StreamDay, int] = {}
        self._seen = -1
        self._summaries = -1

    @property
    def touched(self) -> Sequence[StreamDay]:
        """Where the rows that were taken brought new samples, in order."""
        return sorted(self._touched)

    def clear(self) -> None:
        """Forget everything: a transaction failed, or somebody else changed what cannot be followed."""
        self.drafts.clear()
        self._touched.clear()
        self._seen = -1

    def follow(self, connection: sqlite3.Connection) -> None:
        """Take in what others added to the journal. Raises sqlite3.Error, StoreUnavailable."""
        newest = newest_batch(connection)
        (summaries,) = connection.execute("SELECT coalesce(max(id), 0) FROM sample_summary").fetchone()
        rows = journal(connection, after=self._seen) if self._seen >= 0 else []
        if self._seen < 0 or newest - self._seen != len(rows) or summaries != self._summaries:
            # Rows came and were sealed between two looks, days were pruned, or the database is another one.
            self.clear()
            rows = journal(connection)
        try:
            self.take_rows(connection, rows)
        except BaseException:
            self.clear()
            raise
        self._seen, self._summaries = newest, summaries
        self._forget(connection)

    def take_rows(self, connection: sqlite3.Connection, rows: Sequence[JournalRow]) -> None:
        """Fold rows of the journal, in the order of their ids."""
        for row in rows:
            found = self.sort_in(connection, row.batch(), row.received_ms)
            self.note(found, row.id)

    def note(self, found: SortedIn, batch_id: int) -> None:
        """The batch that was sorted in stands in the journal under this id."""
        self._touched.update(dict.fromkeys(found.touched, batch_id))
        self._seen = max(self._seen, batch_id)

    def sort_in(self, connection: sqlite3.Connection, batch: Batch, received_ms: int) -> SortedIn:
        """Put a batch's samples in their places, and say what became of each. Raises sqlite3.Error,
        StoreUnavailable."""
        found = SortedIn()
        latest_ms = received_ms + FUTURE_TOLERANCE_MS
        earliest_ms = received_ms - PAST_TOLERANCE_MS
        nearby: dict[tuple[str, int], tuple[StreamDay, Draft | bytes]] = {}
        for sample in batch.samples:
            check, started_ms, outcome, latency_ms, detail = sample
            if started_ms > latest_ms:
                found.quarantined.append((sample, Quarantined.FUTURE))
                continue
            if started_ms < earliest_ms:
                found.quarantined.append((sample, Quarantined.PAST))
                continue
            day, second = divmod(started_ms // 1000, DAY_SECONDS)
            if self._days is not None and day not in self._days:
                continue
            place = nearby.get((check, day))
            if place is None:
                key = StreamDay(batch.location, check, day)
                place = nearby[check, day] = (key, self.draft(connection, key))
            draft = place[1]
            if isinstance(draft, bytes):
                # Which seconds there were is no longer known. What says the same as the minute changes nothing.
                if draft[second // 60] == outcome:
                    found.duplicates += 1
                else:
                    found.quarantined.append((sample, Quarantined.PRUNED))
                continue
            added = draft.add(second, outcome, latency_ms, detail)
            if added is Added.NEW:
                found.accepted += 1
                found.touched.add(place[0])
            elif added is Added.DUPLICATE:
                found.duplicates += 1
            else:
                found.conflicts.append((sample, draft.held(second)))
        if batch.offset_ms is not None:
            for key in found.touched:
                changed = self.drafts[key]
                if isinstance(changed, Draft):
                    changed.widen_clock(batch.offset_ms, batch.offset_ms)
        return found

    def draft(self, connection: sqlite3.Connection, key: StreamDay) -> Draft | bytes:
        """A stream's day as it is in segment and journal; where it was let go, its outcomes."""
        draft = self.drafts.get(key)
        if draft is None:
            draft = self.drafts[key] = load_draft(connection, key)
        return draft

    def _forget(self, connection: sqlite3.Connection) -> None:
        """What stands in a segment can be read again; what stands in the journal only cannot."""
        if len(self.drafts) <= self._max_drafts:
            return
        (oldest,) = connection.execute("SELECT min(id) FROM sample_batch").fetchone()
        needed = {key for key, id_ in self._touched.items() if oldest is not None and id_ >= oldest}
        self.drafts = {key: draft for key, draft in self.drafts.items() if key in needed}
        self._touched = {key: id_ for key, id_ in self._touched.items() if key in needed}


def load_draft(connection: sqlite3.Connection, key: StreamDay) -> Draft | bytes:
    """A stream's day as it is in its segment, empty where there is none; where it was let go, its outcomes."""
    where = "WHERE day = ? AND location = ? AND check_name = ?"
    place = (key.day, key.location, key.check)
    with stored_columns(key):
        row = connection.execute(f"SELECT octets FROM sample_segment {where}", place).fetchone()  # noqa: S608
        if row is not None:
            return Draft(decode_column(row[0]))
        row = connection.execute(f"SELECT octets FROM sample_summary {where}", place).fetchone()  # noqa: S608
        return Draft() if row is None else decode_outcomes(row[0])


@contextmanager
def stored_columns(key: StreamDay) -> Iterator[None]:
    """Turns the ColumnError of a stored column into StoreUnavailable."""
    try:
        yield
    except ColumnError as error:
        raise StoreUnavailable(f"{key.check} from {key.location}, day {key.day}: {error}") from error


def journal(connection: sqlite3.Connection, after: int = 0, limit: int = -1) -> list[JournalRow]:
    """Rows of the journal, oldest first."""
    query = "SELECT id, received_ms, octets FROM sample_batch WHERE id > ? ORDER BY id LIMIT ?"
    return [JournalRow(*row) for row in connection.execute(query, (after, limit))]


def newest_batch(connection: sqlite3.Connection) -> int:
    """The id of the newest batch that ever was in the journal; 0: none."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'sample_batch'").fetchone()
    return int(row[0]) if row else 0


@contextmanager
def transaction(connection: sqlite3.Connection, *, write: bool) -> Iterator[None]:
    """One transaction: one state of the database throughout; with `write` nobody else writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some errors.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def opened(url: str, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection for the block. Raises StoreUnavailable for whatever goes wrong with the database in it."""
    try:
        connection = connect(url, read_only=read_only)
        try:
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the samples cannot be reached: {error}") from error
