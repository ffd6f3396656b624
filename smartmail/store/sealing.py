"""From the journal into segments, and from segments into summaries: each step one transaction, ended at any point
without loss and without doubling anything.

The work is done before the write lock is taken; under it there is only a look whether it still holds.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from smartmail.core.columns import (
    DAY_MINUTES,
    DAY_SECONDS,
    Draft,
    decode_column,
    encode_column,
    encode_summary,
    summarise,
)
from smartmail.store.segments import (
    JournalRow,
    Known,
    StreamDay,
    journal,
    newest_batch,
    opened,
    stored_columns,
    transaction,
)

SEAL_BATCHES = 500
SEAL_SAMPLES = 200_000
"""Rows of the journal in one transaction, and samples in them (but one row at least)."""

_UPSERT = """
INSERT INTO sample_segment (location, check_name, day, samples, octets) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (day, location, check_name) DO UPDATE SET samples = excluded.samples, octets = excluded.octets
"""
_INTO_SUMMARY = "INSERT INTO sample_summary (location, check_name, day, samples, octets) VALUES (?, ?, ?, ?, ?)"
_SEGMENTS = "SELECT check_name, samples, octets FROM sample_segment WHERE day = ? AND location = ? ORDER BY check_name"

_SegmentRow = tuple[str, str, int, int, bytes]


@dataclass(slots=True)
class Sealed:
    """What was done. batches: rows taken out of the journal; segments: written; contested: times another was first."""

    batches: int = 0
    segments: int = 0
    contested: int = 0


def seal(url: str) -> Sealed:
    """Move everything that stands in the journal now into segments. Any thread or process may do it at any time.

    Raises StoreUnavailable; what was sealed until then stays so, the rest stays in the journal.
    """
    done = Sealed()
    with opened(url) as connection:
        until = newest_batch(connection)
        while True:
            with transaction(connection, write=False):
                rows = _oldest(connection, until)
                if not rows:
                    return done
                segments = _segments(connection, rows)
            if _replace(connection, rows, segments):
                done.batches += len(rows)
                done.segments += len(segments)
            else:
                done.contested += 1


def _oldest(connection: sqlite3.Connection, until: int) -> list[JournalRow]:
    sizes = connection.execute(
        "SELECT samples FROM sample_batch WHERE id <= ? ORDER BY id LIMIT ?", (until, SEAL_BATCHES)
    ).fetchall()
    totals = accumulate(samples for (samples,) in sizes)
    fitting = sum(total <= SEAL_SAMPLES for total in totals)
    return journal(connection, limit=min(len(sizes), max(1, fitting)))


def _segments(connection: sqlite3.Connection, rows: Sequence[JournalRow]) -> list[_SegmentRow]:
    known = Known()
    known.take_rows(connection, rows)
    segments = []
    for key in known.touched:
        draft = known.drafts[key]
        if isinstance(draft, Draft):
            column = draft.freeze()
            segments.append((*key, column.samples, encode_column(column)))
    return segments


def _replace(connection: sqlite3.Connection, rows: Sequence[JournalRow], segments: Sequence[_SegmentRow]) -> bool:
    with transaction(connection, write=True):
        # Who seals begins with the oldest row: while it is there, nobody has sealed since the segments were read.
        if connection.execute("SELECT min(id) FROM sample_batch").fetchone() != (rows[0].id,):
            return False
        connection.executemany(_UPSERT, segments)
        connection.execute("DELETE FROM sample_batch WHERE id <= ?", (rows[-1].id,))
    return True


def prune(url: str, closed_until_minute: int) -> int:
    """Let go of the samples of days that end before `closed_until_minute`: the caller says that every month with a
    minute before it is closed. Each minute's outcome, the failures' details and the latencies by hour stay.

    Returns how many segments became summaries. Days with samples still in the journal are left for the next time.
    Raises StoreUnavailable.
    """
    seal(url)
    pruned = 0
    with opened(url) as connection:
        days = connection.execute(
            "SELECT DISTINCT day, location FROM sample_segment WHERE day < ? ORDER BY day, location",
            (closed_until_minute // DAY_MINUTES,),
        ).fetchall()
        for day, location in days:
            pruned += _prune_day(connection, day, location)
    return pruned


def _prune_day(connection: sqlite3.Connection, day: int, location: str) -> int:
    rows = connection.execute(_SEGMENTS, (day, location)).fetchall()
    summaries = []
    for check, samples, octets in rows:
        with stored_columns(StreamDay(location, check, day)):
            summaries.append((location, check, day, samples, encode_summary(summarise(decode_column(octets)))))
    with transaction(connection, write=True):
        if connection.execute(_SEGMENTS, (day, location)).fetchall() != rows or _in_journal(connection, day, location):
            return 0
        connection.executemany(_INTO_SUMMARY, summaries)
        connection.execute("DELETE FROM sample_segment WHERE day = ? AND location = ?", (day, location))
    return len(summaries)


def _in_journal(connection: sqlite3.Connection, day: int, location: str) -> bool:
    """Is a sample of that day waiting to be sealed? It was acknowledged: it must find its segment."""
    first_ms, end_ms = day * DAY_SECONDS * 1000, (day + 1) * DAY_SECONDS * 1000
    batches = (row.batch() for row in journal(connection))
    return any(
        first_ms <= sample.started_ms < end_ms
        for batch in batches
        if batch.location == location
        for sample in batch.samples
    )
