"""The ledger in the caller's transaction: append, look up, read through.

The chain has one end, so whoever appends holds the write lock from before reading the head to the commit:
`Database.write()` on SQLite, a lock on the table on PostgreSQL. The unique key is what makes "once" true even so.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, insert, select, text

from smartmail.core.ledger import Draft, Entry, Head, chain
from smartmail.store.errors import NotFound
from smartmail.store.schema_monitor import ledger_entry

READ_AT_ONCE = 5000
"""Entries fetched at a time where the whole ledger is read."""


@dataclass(frozen=True, slots=True)
class LedgerQuery:
    """What to look for; "" asks nothing. month: "2026-10". last: only the newest so many, 0: all."""

    kind: str = ""
    subject: str = ""
    month: str = ""
    last: int = 0


def head(connection: Connection) -> Head:
    """The newest entry; Head() of an empty ledger."""
    row = connection.execute(
        select(ledger_entry.c.id, ledger_entry.c.hash).order_by(ledger_entry.c.id.desc()).limit(1)
    ).one_or_none()
    return Head() if row is None else Head(row.id, row.hash)


def append(connection: Connection, drafts: Iterable[Draft]) -> list[Entry]:
    """Put entries at the end, within `Database.write()`. A key that is there already breaks the transaction: Conflict
    comes out of it, and nothing of it is kept."""
    lock(connection)
    entries = chain(head(connection), drafts)
    if entries:
        connection.execute(
            insert(ledger_entry),
            [
                {
                    "id": entry.seq,
                    "at_ms": entry.at_ms,
                    "kind": entry.kind,
                    "key": entry.key,
                    "actor": entry.actor,
                    "subject": entry.subject,
                    "body": entry.body,
                    "prev": entry.prev,
                    "hash": entry.hash,
                }
                for entry in entries
            ],
        )
    return entries


def lock(connection: Connection) -> None:
    """Wait until no other transaction appends. SQLite's write transactions exclude each other anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE ledger_entry IN EXCLUSIVE MODE"))


def entries(connection: Connection) -> Iterator[Entry]:
    """The whole ledger, oldest first, a few thousand entries in memory at a time."""
    after = 0
    while True:
        rows = connection.execute(
            select(ledger_entry).where(ledger_entry.c.id > after).order_by(ledger_entry.c.id).limit(READ_AT_ONCE)
        ).all()
        yield from map(_entry, rows)
        if len(rows) < READ_AT_ONCE:
            return
        after = rows[-1].id


def find_entries(connection: Connection, query: LedgerQuery) -> list[Entry]:
    """The entries that match, oldest first."""
    statement = select(ledger_entry).order_by(ledger_entry.c.id.desc())
    if query.kind:
        statement = statement.where(ledger_entry.c.kind == query.kind)
    if query.subject:
        statement = statement.where(ledger_entry.c.subject == query.subject)
    if query.month:
        # Every key that is about a month has it between colons.
        statement = statement.where(ledger_entry.c.key.contains(f":{query.month}:", autoescape=True))
    if query.last:
        statement = statement.limit(query.last)
    return [_entry(row) for row in reversed(connection.execute(statement).all())]


def get_entry(connection: Connection, key: str) -> Entry:
    """By its key. Raises NotFound."""
    row = connection.execute(select(ledger_entry).where(ledger_entry.c.key == key)).one_or_none()
    if row is None:
        raise NotFound(f'the ledger has no entry "{key}"', 'see "smartmail ledger list"')
    return _entry(row)


def held_keys(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Those of the keys that the ledger has."""
    return set(connection.execute(select(ledger_entry.c.key).where(ledger_entry.c.key.in_(keys))).scalars())


def _entry(row: Row[tuple[object, ...]]) -> Entry:
    return Entry(row.id, row.at_ms, row.kind, row.key, row.actor, row.subject, row.body, row.prev, row.hash)
