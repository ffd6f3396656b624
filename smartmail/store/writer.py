"""The event writer: one thread between the loop and the database, with group commit.

Rows are inserted by the hundred with one statement. Python's sqlite3 gives up the interpreter lock around
each statement, and under a busy loop it may take 5 ms to get it back: row by row, 600 rows a second is all
there is.
"""

import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic, time_ns

from smartmail.store.errors import StoreUnavailable
from smartmail.store.events import COLUMNS, EventRow, SqlValue, clean, encode
from smartmail.store.sqlite import connect

COMMIT_SECONDS = 0.2
"""A row waits at most about this long for its commit."""
COMMIT_ROWS = 500
"""That many rows waiting are committed at once; also the most in one commit."""
MAX_BACKLOG = 100_000
"""Rows kept while the database takes none, about 150 MB at worst; beyond that new rows are dropped and
counted."""
RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Waits after failed commits; the last one repeats."""

_CHUNKS = (128, 32, 8, 1)
"""Rows in one statement. Few sizes, so that each statement is compiled once."""
_ROW = f"({','.join('?' * len(COLUMNS))})"
_STATEMENTS = {
    rows: f"INSERT INTO transaction_event ({','.join(COLUMNS)}) VALUES {','.join([_ROW] * rows)}"  # noqa: S608
    for rows in _CHUNKS
}

_BAD_ROW = (
    ValueError,  # UnicodeEncodeError is one
    OverflowError,
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
)
"""The row's own fault: trying again would fail again, and hold up every row behind it."""


class EventWriter:
    """Takes rows from the loop without ever making it wait; writes them in groups; retries until they are in.

    Counts, plain integers that any thread may read: put, committed, dropped (backlog full), rejected (a
    row the database can never take), failed_batches.
    """

    def __init__(self, url: str, *, max_backlog: int = MAX_BACKLOG) -> None:
        """url: "sqlite:///path" of an upgraded database. Nothing is opened yet."""
        self._url = url
        self._max_backlog = max_backlog
        self._rows: deque[EventRow] = deque()
        self._batch: list[tuple[SqlValue, ...]] = []
        self._accepted = 0
        self._counters: bytes | None = None
        self._connection: sqlite3.Connection | None = None
        self._wake = threading.Event()
        self._progress = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="event-writer", daemon=True)
        self.committed = 0
        self.dropped = 0
        self.rejected = 0
        self.failed_batches = 0
        self.last_error = ""
        """Of the last failed commit; "" again after one that went well."""

    def start(self) -> None:
        """Start the thread. Raises StoreUnavailable when the database cannot be opened now."""
        try:
            self._open()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the database cannot be used: {error}") from error
        self._thread.start()

    @property
    def backlog(self) -> int:
        """Rows that are not yet committed."""
        return self._accepted - self._finished

    def put(self, row: EventRow) -> None:
        """Take one row; never waits. When the backlog is full the row is dropped and counted.

        Only one thread, the loop's, may call this.
        """
        rows = self._rows
        waiting = len(rows)
        if waiting >= self._max_backlog:
            self.dropped += 1
            return
        rows.append(row)
        self._accepted += 1
        if waiting + 1 == COMMIT_ROWS:
            self._wake.set()

    def store_counters(self, data: bytes) -> None:
        """Have the counters' snapshot written with the next commit; a later one replaces one still
        waiting."""
        self._counters = data

    def flush(self, timeout: float) -> bool:
        """Wait until everything handed over so far is committed, at most `timeout` seconds. True when it is.

        Blocks the caller: for the drain, or off the loop.
        """
        deadline = monotonic() + timeout
        target = self._accepted
        with self._progress:
            while self._finished < target or self._counters is not None:
                self._wake.set()
                left = deadline - monotonic()
                if left <= 0 or not self._thread.is_alive():
                    return False
                self._progress.wait(min(left, COMMIT_SECONDS))
        return True

    def stop(self, timeout: float) -> bool:
        """Flush, then end the thread. False when rows were left; `backlog` says how many."""
        done = self.flush(timeout)
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=max(1.0, timeout))
        return done

    @property
    def _finished(self) -> int:
        return self.committed + self.rejected

    def _run(self) -> None:
        failures = 0
        while True:
            if failures:
                self._pause(RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1])
            elif len(self._rows) < COMMIT_ROWS:
                self._pause(COMMIT_SECONDS)
            failures = 0 if self.step() else failures + 1
            with self._progress:
                self._progress.notify_all()
            if self._stopping and (failures or not self.backlog):
                self._close()
                return

    def _pause(self, seconds: float) -> None:
        if not self._stopping:
            self._wake.wait(seconds)
        self._wake.clear()

    def step(self) -> bool:
        """Commit one group, if there is anything to commit. False when that failed and is to be tried
        again."""
        self._fill()
        counters = self._counters
        if not self._batch and counters is None:
            return True
        try:
            self._commit(counters)
        except (sqlite3.Error, StoreUnavailable) as error:
            self.failed_batches += 1
            self.last_error = str(error)
            self._close()
            return False
        self.last_error = ""
        return True

    def _fill(self) -> None:
        """Move rows into the batch, JSON written. What a failed commit left there stays at its front."""
        while len(self._batch) < COMMIT_ROWS and self._rows:
            row = self._rows[0]
            try:
                self._batch.append(encode(row))
            except Exception as error:  # whatever is wrong with one row, the thread must go on
                self._reject(error)
            self._rows.popleft()

    def _commit(self, counters: bytes | None) -> None:
        connection = self._open()
        batch = self._batch
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                _insert(connection, batch)
            except _BAD_ROW:
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                batch = self._insert_singly(connection)
            if counters is not None:
                connection.execute(
                    "INSERT INTO counters_snapshot (id, at_ns, data) VALUES (1, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET at_ns = excluded.at_ns, data = excluded.data",
                    (time_ns(), counters),
                )
            connection.execute("COMMIT")
        except BaseException:
            _rollback(connection)
            raise
        self._batch = []
        self.committed += len(batch)
        if counters is not None and self._counters is counters:
            self._counters = None

    def _insert_singly(self, connection: sqlite3.Connection) -> list[tuple[SqlValue, ...]]:
        """One bad row must not stop the others: clean each, leave out what still cannot be taken."""
        taken = []
        for values in list(self._batch):
            cleaned = clean(values)
            try:
                connection.execute(_STATEMENTS[1], cleaned)
            except _BAD_ROW as error:
                self._batch.remove(values)
                self._reject(error)
            else:
                taken.append(cleaned)
        return taken

    def _reject(self, error: Exception) -> None:
        self.rejected += 1
        self.last_error = f"a row cannot be stored: {error}"

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._url)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _insert(connection: sqlite3.Connection, batch: Sequence[tuple[SqlValue, ...]]) -> None:
    start = 0
    for size in _CHUNKS:
        while len(batch) - start >= size:
            chunk = batch[start : start + size]
            connection.execute(_STATEMENTS[size], [value for row in chunk for value in row])
            start += size


def _rollback(connection: sqlite3.Connection) -> None:
    """SQLite has rolled back by itself after some errors; then there is nothing left to do."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        connection.close()
