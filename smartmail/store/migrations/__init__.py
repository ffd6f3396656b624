"""Schema versions, run from code: there is no alembic.ini.

`ensure(url)` is for long-running processes: it looks with plain sqlite3, and has a child process do the
work when there is some, so that SQLAlchemy and Alembic (45 MB) never become part of them.
"""

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from smartmail.store.errors import StoreUnavailable
from smartmail.store.sqlite import hide_password, path_of

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

HEAD = "0003"
"""The newest version; a test holds it against the version files."""

UPGRADE_TIMEOUT = 300
"""Seconds that a child process may take."""


def ensure(url: str) -> bool:
    """Bring the database at `url` to HEAD. Returns True when something was done. Raises StoreUnavailable."""
    if url.startswith("sqlite") and _sqlite_version(path_of(url)) == HEAD:
        return False
    # The URL may hold a password, so it goes by standard input, not by the argument list.
    try:
        done = subprocess.run(
            [sys.executable, "-m", "smartmail.store.migrations"],
            input=url,
            capture_output=True,
            text=True,
            timeout=UPGRADE_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StoreUnavailable(f"the upgrade of {hide_password(url)} took over {UPGRADE_TIMEOUT} s") from error
    if done.returncode != 0:
        raise StoreUnavailable(done.stderr.strip() or f"the upgrade of {hide_password(url)} failed")
    return True


def upgrade(url: str) -> bool:
    """Bring the database at `url` to HEAD in this process. Returns True when something was done.

    Raises StoreUnavailable.
    """
    from smartmail.store.database import Database  # long to import, and database.py imports this package

    with Database(url) as database:
        return database.upgrade()


def upgrade_connection(connection: "Connection") -> bool:
    """Upgrade within the caller's transaction. Returns True when something was done.

    Raises StoreUnavailable for a database that a newer version of the product has made.
    """
    from alembic import command
    from alembic.runtime.migration import MigrationContext
    from alembic.util import CommandError

    current = MigrationContext.configure(connection).get_current_revision()
    if current == HEAD:
        return False
    try:
        command.upgrade(alembic_config(connection), "head")
    except CommandError as error:
        raise StoreUnavailable(
            f"the database has schema version {current}, unknown here: {error}",
            "install the version of smartmail that made it, or a newer one",
        ) from error
    return True


def alembic_config(connection: "Connection | None" = None) -> "Config":
    """The Alembic configuration of this package, working on `connection`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _sqlite_version(path: Path) -> str:
    """The version in the file; "" for a missing, empty or foreign one."""
    if not path.exists():
        return ""
    try:
        connection = sqlite3.connect(path)
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        finally:
            connection.close()
    except sqlite3.Error:
        return ""
    return str(row[0]) if row else ""
