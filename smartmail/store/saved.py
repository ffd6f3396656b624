"""What a relay reads of its own last run: the snapshot of its counters."""

import sqlite3
from contextlib import closing

from smartmail.store.errors import StoreUnavailable
from smartmail.store.sqlite import connect


def stored_counters(url: str) -> bytes | None:
    """The snapshot that the last run left, or None. Raises StoreUnavailable."""
    try:
        with closing(connect(url, read_only=True)) as connection:
            row = connection.execute("SELECT data FROM counters_snapshot WHERE id = 1").fetchone()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the counters cannot be read: {error}") from error
    return None if row is None else bytes(row[0])
