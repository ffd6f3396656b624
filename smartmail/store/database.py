"""The database as the command line, the migrations and the console reach it: SQLAlchemy Core, one engine.

The relay process never imports this module; its threads use `store.sqlite`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from smartmail.store import migrations
from smartmail.store.errors import Conflict, StoreUnavailable
from smartmail.store.sqlite import PRAGMAS, hide_password, path_of

_BEGIN = "smartmail_begin"


class Database:
    """One engine over one URL; `read()` and `write()` give transactions."""

    def __init__(self, url: str) -> None:
        """url: an SQLAlchemy URL, as "sqlite:////var/lib/smartmail/smartmail.db". Nothing is opened yet.

        Raises StoreUnavailable for a URL that no driver understands.
        """
        self.url = url
        try:
            self._engine = create_engine(make_url(url))
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise StoreUnavailable(
                f"the store URL {hide_password(url)!r} cannot be used: {error}",
                'use "sqlite:////absolute/path/smartmail.db"',
            ) from error
        self.sqlite = self._engine.dialect.name == "sqlite"
        if self.sqlite:
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back every connection. The object may be used again."""
        self._engine.dispose()

    def upgrade(self) -> bool:
        """Bring the schema to the newest version, making the file and its folder if need be.

        Returns True when something was done. Safe when several processes do it at once. Raises
        StoreUnavailable.
        """
        if self.sqlite:
            try:
                path_of(self.url).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreUnavailable(f"the folder of the database cannot be made: {error}") from error
        with self._transaction("IMMEDIATE") as connection:
            return migrations.upgrade_connection(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database throughout. Raises StoreUnavailable."""
        with self._transaction("DEFERRED") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start: what it reads cannot change under it.

        Committed at the end of the block, rolled back on any exception. Raises StoreUnavailable, and
        Conflict for a constraint that was broken.
        """
        with self._transaction("IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(**{_BEGIN: kind}) as connection, connection.begin():
                yield connection
        except IntegrityError as error:
            raise Conflict(f"the database refuses it: {error.orig}") from error
        except DBAPIError as error:
            raise StoreUnavailable(
                f"the database at {hide_password(self.url)} cannot be used: {error.orig}",
                "check that its folder exists, is writable by this user and is not full",
            ) from error


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Transactions are begun by `_begin_sqlite` alone: the driver's own way would begin them late and
    deferred."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get(_BEGIN, 'DEFERRED')}")
