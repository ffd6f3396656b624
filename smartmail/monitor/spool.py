"""The samples that no collector has taken yet, on disk: what was acknowledged here survives a kill and a power cut.

One SQLite file. Each entry is a group of samples in the form of the wire; entries leave when a collector has taken
them, or are set aside when none ever will. All calls block: they belong in one thread beside the loop.
"""

import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from smartmail.core.sample import Batch, Sample, SampleError, decode_batch, encode_batch

FILE: Final = "spool.db"
KEPT_MS: Final = 30 * 86_400_000
"""What no collector took for this long is dropped: the month it belongs to is closed by then."""
MAX_OCTETS: Final = 4 << 30
"""Of encoded samples; beyond that the oldest are dropped. 10,000 checks a minute make about half of it in 30 days."""
ENTRY_SAMPLES: Final = 20_000
ENTRY_OCTETS: Final = 4 << 20
"""The largest entry."""

_PRAGMAS: Final = (
    "PRAGMA auto_vacuum=INCREMENTAL",
    "PRAGMA journal_mode=WAL",
    # FULL: each commit is on the disk before it is acknowledged, at power loss too.
    "PRAGMA synchronous=FULL",
    "PRAGMA busy_timeout=5000",
)
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY AUTOINCREMENT, made_ms INTEGER NOT NULL,"
    " run TEXT NOT NULL, offset_ms INTEGER, shift_ms INTEGER NOT NULL DEFAULT 0, samples INTEGER NOT NULL,"
    " check_sum INTEGER NOT NULL, octets BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS aside (id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, reason TEXT NOT NULL,"
    " samples INTEGER NOT NULL, octets BLOB NOT NULL)",
)
_GOING: Final = "id <= ? OR (offset_ms IS NOT NULL AND made_ms + shift_ms < ?)"
_LAST: Final = 2**63 - 1
"""The largest number an entry can have."""
_FREED_PAGES: Final = 500
"""Given back to the file system after each removal: a long backlog's room is not kept for ever."""


class SpoolError(Exception):
    """The spool cannot be used: the message says why, for an operator."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The oldest samples, as one batch, and the entries that they are from."""

    first: int
    last: int
    batch: Batch

    @property
    def single(self) -> bool:
        """Nothing smaller can be taken."""
        return self.first == self.last


@dataclass(frozen=True, slots=True)
class Waiting:
    """What lies in the spool. oldest_ms: when the oldest entry was made; None when there is none."""

    entries: int
    samples: int
    oldest_ms: int | None
    aside: int


class Spool:
    """One agent's spool. Only one process has it open at a time."""

    def __init__(self, folder: Path, *, kept_ms: int = KEPT_MS, max_octets: int = MAX_OCTETS) -> None:
        """folder: exists and is the agent's own. Nothing is opened yet."""
        self._file = folder / FILE
        self._kept_ms = kept_ms
        self._max_octets = max_octets
        self._connection: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._octets = 0
        self.samples = 0
        """How many wait here. Counted along, so that asking costs nothing."""
        self.broken: Path | None = None
        """Where a file that could not be read was moved to by `open`."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Open or make the file. A file that SQLite cannot read is moved away, so that the agent goes on.

        Raises SpoolError when another process has it, or the folder cannot be written.
        """
        self._take_lock()
        try:
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._move_away()
                self._connect()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise SpoolError(f"{self._file} cannot be used: {error}") from error

    def close(self) -> None:
        """Let go of the file. It may be opened again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def add(self, batch: Batch, run: str) -> int:
        """Keep samples; they are on the disk when this returns. Returns the entry's number.

        run: names this life of the process; the times of samples whose batch has no offset may be put right as long
        as it lives. Raises SpoolError when the disk does not take them: nothing is kept then.
        """
        octets = encode_batch(batch)
        with self._write() as connection:
            cursor = connection.execute(
                "INSERT INTO entry (made_ms, run, offset_ms, samples, check_sum, octets) VALUES (?, ?, ?, ?, ?, ?)",
                (batch.made_ms, run, batch.offset_ms, len(batch.samples), zlib.crc32(octets), octets),
            )
        self._weigh(len(octets), len(batch.samples))
        return cursor.lastrowid or 0

    def restamp(self, run: str, shift_ms: int, offset_ms: int) -> int:
        """The clock of this run was `shift_ms` behind: put its samples right. Returns how many entries that were."""
        with self._write() as connection:
            done = connection.execute(
                "UPDATE entry SET shift_ms = ?, offset_ms = ? WHERE run = ? AND offset_ms IS NULL",
                (shift_ms, offset_ms, run),
            )
        return done.rowcount

    def unstamped(self) -> list[str]:
        """The runs of which there are samples whose clock was never compared."""
        with self._write() as connection:
            rows = connection.execute("SELECT DISTINCT run FROM entry WHERE offset_ms IS NULL").fetchall()
        return [run for (run,) in rows]

    def take(self, max_samples: int) -> Taken | None:
        """The oldest samples as one batch: at least one entry, no more than `max_samples` if it is several. None when
        there is nothing.

        They stay until `done` or `set_aside`. An entry that the disk has spoilt is set aside on the way. A batch
        never mixes samples of a corrected and an uncorrected clock, or of two locations.
        """
        while True:
            rows, spoilt = self._oldest(max_samples)
            if spoilt is None:
                return _merged(rows) if rows else None
            self.set_aside(spoilt, spoilt, "spoilt on disk", at_ms=0)

    def done(self, first: int, last: int) -> None:
        """A collector has these entries: remove them."""
        with self._write() as connection:
            octets, samples = _weight(connection, first, last)
            connection.execute("DELETE FROM entry WHERE id BETWEEN ? AND ?", (first, last))
        self._weigh(-octets, -samples)
        self._shrink()

    def set_aside(self, first: int, last: int, reason: str, *, at_ms: int) -> None:
        """No collector will ever take these entries: keep them apart, so that the others go on."""
        with self._write() as connection:
            octets, samples = _weight(connection, first, last)
            connection.execute(
                "INSERT OR REPLACE INTO aside (id, at_ms, reason, samples, octets)"
                " SELECT id, ?, ?, samples, octets FROM entry WHERE id BETWEEN ? AND ?",
                (at_ms, reason, first, last),
            )
            connection.execute("DELETE FROM entry WHERE id BETWEEN ? AND ?", (first, last))
        self._weigh(-octets, -samples)

    def prune(self, now_ms: int) -> int:
        """Drop what is older than the time kept, and the oldest beyond the room there is. Returns how many samples
        that lost.

        Each entry goes by its own time, and one whose clock was never compared has none that could be gone by: a
        clock that stood in 1970 after a power cut must not take a backlog along.
        """
        limit = now_ms - self._kept_ms
        with self._write() as connection:
            going = (self._last_beyond_room(connection), limit)
            octets, lost = connection.execute(
                f"SELECT coalesce(sum(length(octets)), 0), coalesce(sum(samples), 0) FROM entry WHERE {_GOING}",  # noqa: S608
                going,
            ).fetchone()
            connection.execute(f"DELETE FROM entry WHERE {_GOING}", going)  # noqa: S608
            connection.execute("DELETE FROM aside WHERE at_ms < ? AND at_ms > 0", (limit,))
        self._weigh(-octets, -lost)
        if lost:
            self._shrink()
        return int(lost)

    def waiting(self) -> Waiting:
        """How much there is to be sent."""
        with self._write() as connection:
            row = connection.execute("SELECT count(*), coalesce(sum(samples), 0) FROM entry").fetchone()
            # `made_ms` of the first one: entries are in the order of their making.
            oldest = connection.execute("SELECT made_ms + shift_ms FROM entry ORDER BY id LIMIT 1").fetchone()
            aside = connection.execute("SELECT coalesce(sum(samples), 0) FROM aside").fetchone()
        return Waiting(row[0], row[1], oldest[0] if oldest else None, aside[0])

    def _oldest(self, max_samples: int) -> tuple[list[tuple[int, int | None, Batch]], int | None]:
        rows: list[tuple[int, int | None, Batch]] = []
        count = 0
        with self._write() as connection:
            cursor = connection.execute(
                "SELECT id, offset_ms, shift_ms, samples, check_sum, octets FROM entry ORDER BY id"
            )
            for number, offset_ms, shift_ms, samples, check_sum, octets in cursor:
                if rows and (count + samples > max_samples):
                    break
                batch = _read(octets, check_sum, shift_ms)
                if batch is None:
                    return rows, number
                if rows and not _together(rows[0], offset_ms, batch):
                    break
                rows.append((number, offset_ms, batch))
                count += samples
            cursor.close()
        return rows, None

    def _last_beyond_room(self, connection: sqlite3.Connection) -> int:
        """The last of the oldest entries that must go to keep the room; 0 for none."""
        over = self._octets - self._max_octets
        if over <= 0:
            return 0
        last = 0
        for number, size in connection.execute("SELECT id, length(octets) FROM entry ORDER BY id"):
            if over <= 0:
                break
            last, over = number, over - size
        return last

    def _weigh(self, octets: int, samples: int) -> None:
        self._octets += octets
        self.samples += samples

    def _shrink(self) -> None:
        with suppress(sqlite3.Error):  # only room is at stake, and the next removal tries again
            self._opened().execute(f"PRAGMA incremental_vacuum({_FREED_PAGES})").fetchall()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        connection = self._opened()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise SpoolError(f"{self._file} cannot be used: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise SpoolError(f"{self._file} is not open")
        return self._connection

    def _connect(self) -> None:
        # The file is made by us first: what it holds is for its owner only.
        os.close(os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        try:
            for statement in (*_PRAGMAS, *_TABLES):
                connection.execute(statement).fetchall()
            self._octets, self.samples = _weight(connection, 0, _LAST)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _move_away(self) -> None:
        number = 1
        while (away := self._file.with_name(f"{FILE}.broken-{number}")).exists():
            number += 1
        for suffix in ("", "-wal", "-shm"):
            source = self._file.with_name(self._file.name + suffix)
            if source.exists():
                source.rename(away.with_name(away.name + suffix))
        self.broken = away

    def _take_lock(self) -> None:
        try:
            self._lock = os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise SpoolError(f"{self._file.parent}: another agent runs in this folder") from None
        except OSError as error:
            self.close()
            raise SpoolError(f"{self._file.parent} cannot be used: {error.strerror}") from error


def _weight(connection: sqlite3.Connection, first: int, last: int) -> tuple[int, int]:
    """Octets and samples of these entries."""
    octets, samples = connection.execute(
        "SELECT coalesce(sum(length(octets)), 0), coalesce(sum(samples), 0) FROM entry WHERE id BETWEEN ? AND ?",
        (first, last),
    ).fetchone()
    return int(octets), int(samples)


def _read(octets: bytes, check_sum: int, shift_ms: int) -> Batch | None:
    """The samples of an entry, put right; None for one that is not what was written."""
    if zlib.crc32(octets) != check_sum:
        return None
    try:
        batch = decode_batch(octets, max_samples=ENTRY_SAMPLES, max_octets=ENTRY_OCTETS)
    except SampleError:
        return None
    if not shift_ms:
        return batch
    moved = tuple(one._replace(started_ms=one.started_ms + shift_ms) for one in batch.samples)
    return batch._replace(made_ms=batch.made_ms + shift_ms, samples=moved)


def _together(first: tuple[int, int | None, Batch], offset_ms: int | None, batch: Batch) -> bool:
    same_clock = (first[1] is None) == (offset_ms is None)
    near = abs(first[2].made_ms - batch.made_ms) < KEPT_MS  # the wire form holds 49 days
    return same_clock and near and (first[2].agent, first[2].location) == (batch.agent, batch.location)


def _merged(rows: Sequence[tuple[int, int | None, Batch]]) -> Taken:
    first, (last, offset_ms, newest) = rows[0][0], rows[-1]
    samples: list[Sample] = [one for _, _, batch in rows for one in batch.samples]
    batch = newest._replace(sequence=last, offset_ms=offset_ms, samples=tuple(samples))
    return Taken(first, last, batch)
