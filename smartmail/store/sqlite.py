"""Plain sqlite3 connections for the threads beside the loop: they must not bring SQLAlchemy into the relay
process."""

import sqlite3
from pathlib import Path

from smartmail.store.errors import StoreUnavailable

BUSY_TIMEOUT_MS = 5000
"""How long a statement waits for another process's write transaction."""

PRAGMAS = (
    f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    "PRAGMA foreign_keys=ON",
)
"""Set on every connection. WAL with NORMAL may lose the last commits at power loss, and never corrupts."""


def path_of(url: str) -> Path:
    """The file of a "sqlite:///path" URL. Raises StoreUnavailable for any other URL."""
    scheme, found, rest = url.partition(":///")
    if not found or scheme.partition("+")[0] != "sqlite" or not rest or rest.startswith(":memory:"):
        raise StoreUnavailable(
            f"the store URL {hide_password(url)!r} names no SQLite file",
            'use "sqlite:////absolute/path/smartmail.db"',
        )
    return Path(rest.partition("?")[0])


def hide_password(url: str) -> str:
    """The URL as it may be shown: the password, if any, replaced by "***"."""
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    if not at or ":" not in credentials:
        return url
    return f"{scheme}{separator}{credentials.partition(':')[0]}:***@{host}"


def connect(url: str, *, read_only: bool = False) -> sqlite3.Connection:
    """Open the existing database file in autocommit mode, with PRAGMAS set; usable from any one thread at
    a time.

    Raises StoreUnavailable when the file is missing, sqlite3.Error when it cannot be used.
    """
    path = path_of(url)
    if not path.exists():
        raise StoreUnavailable(f"no database at {path}", 'make one with "smartmail serve" or "smartmail plan list"')
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        for pragma in PRAGMAS:
            connection.execute(pragma)
        if read_only:
            connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection
