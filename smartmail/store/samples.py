"""The monitor's samples: put in by collectors, sealed into segments, read as planes, digests and latencies.

Whatever is read is folded from segments and journal in one transaction: sealed or not, the answer is the same.
"""

import hashlib
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import NamedTuple

from smartmail.core.columns import (
    DAY_MINUTES,
    NO_CLOCK,
    Column,
    Draft,
    StreamPlanes,
    Stretch,
    Summary,
    counted_details,
    cut_days,
    decode_column,
    decode_outcomes,
    decode_summary,
    faults_in,
    join_days,
    latency_hours,
    planes_of,
    stretch_digest,
)
from smartmail.core.months import Span
from smartmail.core.sample import Batch
from smartmail.store import sealing
from smartmail.store.errors import NotFound
from smartmail.store.sample_writer import SampleWriter, Taken
from smartmail.store.segments import Known, StreamDay, journal, newest_batch, opened, stored_columns, transaction

Stream = tuple[str, str]
"""Check, location."""

_SILENT = bytes(DAY_MINUTES)


class Failure(NamedTuple):
    """A minute of a stream in which something else than up counted."""

    check: str
    location: str
    minute: int
    outcome: int
    detail: str


class Change(NamedTuple):
    """What counts now in a minute of a stream that got a sample. outcome: 0 if the sample was put aside."""

    check: str
    location: str
    minute: int
    outcome: int


class Recent(NamedTuple):
    """What came after a batch. batch_id: to ask with the next time. complete: False when some of it was sealed
    already: what is kept of that time must be read anew by `read_planes`."""

    batch_id: int
    complete: bool
    changes: tuple[Change, ...]


class StoredSamples(NamedTuple):
    """A span of time, by stream. digest: hex SHA-256 over every sample."""

    planes: dict[Stream, StreamPlanes]
    digest: str
    samples: int


class SampleStore:
    """The samples of one database. Any number of them, in any number of processes, may be on the same one.

    Only `put` needs `start`. Everything but `put` blocks, opens a connection of its own and may be called from any
    thread; everything raises StoreUnavailable when the database cannot be used or is damaged.
    """

    def __init__(self, url: str) -> None:
        """url: "sqlite:///path" of an upgraded database. Nothing is opened yet."""
        self.url = url
        self.writer = SampleWriter(url)
        self._recent = Known()
        self._recent_lock = threading.Lock()

    def start(self) -> None:
        """Start the writer's thread. Raises StoreUnavailable."""
        self.writer.start()

    def stop(self) -> None:
        """Write what waits, and end the thread."""
        self.writer.stop()

    def put(self, octets: bytes, batch: Batch, received_ms: int) -> "Future[Taken]":
        """See SampleWriter.put; in a coroutine: `await asyncio.wrap_future(store.put(...))`."""
        return self.writer.put(octets, batch, received_ms)

    def seal(self) -> sealing.Sealed:
        """Move the journal into segments: every few minutes, so that the journal stays short."""
        return sealing.seal(self.url)

    def prune(self, closed_until_minute: int) -> int:
        """Let go of samples, keep verdicts: see `sealing.prune`. Only for months that are closed."""
        return sealing.prune(self.url, closed_until_minute)

    def streams(self, span: Span, checks: Collection[str] | None = None) -> tuple[Stream, ...]:
        """Which streams have samples in these minutes, in order."""
        return tuple(self.read_planes(span, checks))

    def read_planes(self, span: Span, checks: Collection[str] | None = None) -> dict[Stream, StreamPlanes]:
        """Every stream's votes, bit i for minute span.first + i; a stream without a sample is left out.

        checks: only of these. Pruned days are as they were.
        """
        found: dict[Stream, dict[int, bytes]] = {}
        with self._reading() as connection:
            for key, outcomes in _Days(connection, span, checks).outcomes():
                found.setdefault((key.check, key.location), {})[key.day] = outcomes
        numbers = _numbers(span)
        planes = {}
        for stream in sorted(found):
            days = [found[stream].get(day, _SILENT) for day in numbers]
            outcomes = cut_days(days, span.first, span.end)
            if outcomes.count(0) < len(outcomes):
                planes[stream] = planes_of(outcomes)
        return planes

    def read_stretches(self, span: Span, checks: Collection[str] | None = None) -> dict[Stream, Stretch]:
        """Every sample in these minutes, by stream. Raises NotFound when some were let go."""
        found: dict[Stream, dict[int, Column]] = {}
        with self._reading() as connection:
            days = _Days(connection, span, checks)
            if key := days.first_summary():
                raise NotFound(f"the samples of {key.check} from {key.location}, day {key.day}, are no longer kept")
            for key, column in days.columns():
                found.setdefault((key.check, key.location), {})[key.day] = column
        stretches = ((stream, join_days(found[stream], span.first, span.end)) for stream in sorted(found))
        return {stream: stretch for stream, stretch in stretches if stretch.samples}

    def read(self, span: Span, checks: Collection[str] | None = None) -> StoredSamples:
        """Planes and digest of one state of the database. Raises NotFound when samples were let go."""
        stretches = self.read_stretches(span, checks)
        planes = {stream: planes_of(stretch.outcomes) for stream, stretch in stretches.items()}
        samples = sum(stretch.samples for stretch in stretches.values())
        return StoredSamples(planes, _digest(stretches), samples)

    def stream_digest(self, span: Span, checks: Collection[str] | None = None) -> str:
        """Hex SHA-256 over every sample in these minutes, the same whatever way they came: over the digests
        (`stretch_digest`) of all streams that have samples, by check and location. Raises NotFound as `read` does."""
        return _digest(self.read_stretches(span, checks))

    def failures(self, span: Span, checks: Collection[str] | None = None) -> tuple[Failure, ...]:
        """Every minute of a stream in which a failure, an abstention or an error of our own counts, by minute."""
        found = []
        with self._reading() as connection:
            days = _Days(connection, span, checks)
            columns = [(key, column.outcomes, counted_details(column)) for key, column in days.columns()]
            summaries = [(key, summary.outcomes, summary.details) for key, summary in days.summaries()]
        for key, outcomes, details in columns + summaries:
            texts = {second // 60: text for second, text in details}
            start = key.day * DAY_MINUTES
            found += [
                Failure(key.check, key.location, start + minute, outcomes[minute], texts.get(minute, ""))
                for minute in faults_in(outcomes)
                if start + minute in span
            ]
        return tuple(sorted(found, key=lambda failure: (failure.minute, failure.check, failure.location)))

    def latency_histogram(self, check: str, location: str, span: Span) -> dict[int, tuple[int, ...]]:
        """The latencies of what counted as up: hour since the epoch (those that begin in the span) -> how many in
        each bucket of LATENCY_BOUNDS_MS."""
        hours: dict[int, tuple[int, ...]] = {}
        with self._reading() as connection:
            days = _Days(connection, span, (check,), location)
            found = [(key.day, latency_hours(column)) for key, column in days.columns()]
            found += [(key.day, dict(summary.hours)) for key, summary in days.summaries()]
        for day, of_day in found:
            hours |= {day * 24 + hour: counts for hour, counts in of_day.items()}
        return {hour: hours[hour] for hour in sorted(hours) if hour * 60 in span}

    def clock_corrections(self, span: Span, checks: Collection[str] | None = None) -> dict[Stream, tuple[int, int]]:
        """The least and the greatest correction (ms) of the agents' clocks under which a stream's samples of these
        days came; streams whose agents never compared their clock are left out."""
        found: dict[Stream, tuple[int, int]] = {}
        with self._reading() as connection:
            for key, column in _Days(connection, span, checks).columns():
                low, high = found.get((key.check, key.location), NO_CLOCK)
                found[key.check, key.location] = (min(low, column.clock[0]), max(high, column.clock[1]))
        return {stream: clock for stream, clock in sorted(found.items()) if clock != NO_CLOCK}

    def recent(self, since: int) -> Recent:
        """What changed after the batch `since`: for a live view that began with `newest_batch` and `read_planes`, in
        this order. Cheap as long as the journal is sealed now and then."""
        with self._recent_lock, self._reading() as connection:
            self._recent.follow(connection)
            newest = newest_batch(connection)
            rows = journal(connection, after=since)
            minutes = {
                (batch.location, sample.check, sample.started_ms // 60_000)
                for batch in (row.batch() for row in rows)
                for sample in batch.samples
            }
            changes = []
            for location, check, minute in sorted(minutes):
                draft = self._recent.draft(connection, StreamDay(location, check, minute // DAY_MINUTES))
                outcomes = draft if isinstance(draft, bytes) else draft.outcomes
                outcome = outcomes[minute % DAY_MINUTES]
                changes.append(Change(check, location, minute, outcome))
        return Recent(newest, newest - since == len(rows), tuple(changes))

    def newest_batch(self) -> int:
        """The id of the newest batch that ever came; 0: none."""
        with self._reading() as connection:
            return newest_batch(connection)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with opened(self.url, read_only=True) as connection, transaction(connection, write=False):
            yield connection


class _Days:
    """The days of streams that have minutes in a span, in one transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        span: Span,
        checks: Collection[str] | None = None,
        location: str | None = None,
    ) -> None:
        self._connection = connection
        self._span = span
        self._checks = checks
        self._location = location

    def outcomes(self) -> Iterator[tuple[StreamDay, bytes]]:
        """The outcomes of every day, whatever is left of it."""
        unsealed = self._unsealed()
        for table in ("segment", "summary"):
            for key, octets in self._rows(table):
                if key not in unsealed:
                    with stored_columns(key):
                        yield key, decode_outcomes(octets)
        for key, draft in unsealed.items():
            yield key, bytes(draft.outcomes)

    def columns(self) -> Iterator[tuple[StreamDay, Column]]:
        """Days with all their samples."""
        unsealed = self._unsealed()
        for key, octets in self._rows("segment"):
            if key not in unsealed:
                with stored_columns(key):
                    yield key, decode_column(octets)
        for key, draft in unsealed.items():
            yield key, draft.freeze()

    def summaries(self) -> Iterator[tuple[StreamDay, Summary]]:
        """Days whose samples were let go."""
        for key, octets in self._rows("summary"):
            with stored_columns(key):
                yield key, decode_summary(octets)

    def first_summary(self) -> StreamDay | None:
        """A day whose samples were let go, if there is one."""
        return next((key for key, _ in self._rows("summary")), None)

    def _rows(self, table: str) -> Iterator[tuple[StreamDay, bytes]]:
        numbers = _numbers(self._span)
        query = f"SELECT location, check_name, day, octets FROM sample_{table} WHERE day >= ? AND day < ?"  # noqa: S608
        values: list[int | str] = [numbers.start, numbers.stop]
        if self._checks is not None:
            query += f" AND check_name IN ({','.join('?' * len(self._checks))})"
            values += self._checks
        if self._location is not None:
            query += " AND location = ?"
            values.append(self._location)
        for location, check, day, octets in self._connection.execute(query, values):
            yield StreamDay(location, check, day), octets

    def _unsealed(self) -> dict[StreamDay, Draft]:
        """The days with samples in the journal, what their segments hold included."""
        known = Known(days=_numbers(self._span))
        known.take_rows(self._connection, journal(self._connection))
        found = {}
        for key in known.touched:
            draft = known.drafts[key]
            wanted = self._checks is None or key.check in self._checks
            if isinstance(draft, Draft) and wanted and self._location in (None, key.location):
                found[key] = draft
        return found


def _numbers(span: Span) -> range:
    """The days that a span has minutes in."""
    return range(span.first // DAY_MINUTES, -(-span.end // DAY_MINUTES))


def _digest(stretches: Mapping[Stream, Stretch]) -> str:
    digest = hashlib.sha256()
    for (check, location), stretch in sorted(stretches.items()):
        digest.update(stretch_digest(check, location, stretch))
    return digest.hexdigest()
