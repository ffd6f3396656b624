"""Evidence read back: transaction events by what an operator asks for, and the last snapshot of the
counters."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, or_, select
from sqlalchemy.sql.elements import ColumnElement

from smartmail.store import schema
from smartmail.store.events import COLUMNS, EventRow

MAX_EVENTS = 10_000
"""Most events of one query."""


@dataclass(frozen=True, slots=True)
class EventQuery:
    """What to look for; "" and None ask nothing.

    account_id, login: either may match, so that an account's refused logins are found too. client: an
    address, or a network as the limits count it. recipient: an address, or "@domain". after_id: only rows
    newer than that one.
    """

    account_id: int | None = None
    login: str = ""
    since_ns: int = 0
    verdict: str = ""
    reason: str = ""
    client: str = ""
    recipient: str = ""
    queue_id: str = ""
    after_id: int = 0
    limit: int = 50


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row and its number."""

    id: int
    row: EventRow

    def as_dict(self) -> dict[str, object]:
        """For JSON: recipients as objects, the rest as stored."""
        recipients = [
            {"address": address, "code": code, "reason": reason}
            for address, code, reason in self.row.recipients
        ]
        return {"id": self.id, **self.row._asdict(), "recipients": recipients}


def find_events(connection: Connection, query: EventQuery) -> list[StoredEvent]:
    """The newest `query.limit` events that match, oldest first."""
    table = schema.transaction_event
    rows = connection.execute(
        select(table)
        .where(*_conditions(query))
        .order_by(table.c.id.desc())
        .limit(max(0, min(query.limit, MAX_EVENTS)))
    ).all()
    return [_event(row) for row in reversed(rows)]


def counters_snapshot(connection: Connection) -> tuple[int, bytes] | None:
    """When the relay last stored its counters (nanoseconds), and the blob; None before the first time."""
    table = schema.counters_snapshot
    row = connection.execute(select(table.c.at_ns, table.c.data)).one_or_none()
    return None if row is None else (row.at_ns, bytes(row.data))


def _conditions(query: EventQuery) -> Iterator[ColumnElement[bool]]:
    column = schema.transaction_event.c
    if query.account_id is not None and query.login:
        yield or_(column.account_id == query.account_id, column.login == query.login)
    elif query.account_id is not None:
        yield column.account_id == query.account_id
    elif query.login:
        yield column.login == query.login
    if query.client:
        yield or_(column.client_address == query.client, column.client_network == query.client)
    if query.recipient:
        yield _has_recipient(query.recipient)
    for name in ("verdict", "reason", "queue_id"):
        if value := getattr(query, name):
            yield column[name] == value
    if query.since_ns:
        yield column.at_ns >= query.since_ns
    if query.after_id:
        yield column.id > query.after_id


def _has_recipient(text: str) -> ColumnElement[bool]:
    """Recipients are kept as they were sent, in JSON: compare what JSON makes of the address, in lower
    case."""
    needle = json.dumps(text.lower())[1:-1]
    escaped = needle.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    start = "" if text.startswith("@") else '["'
    return func.lower(schema.transaction_event.c.recipients).like(f'%{start}{escaped}",%', escape="!")


def _event(row: Row[Any]) -> StoredEvent:
    values: dict[str, Any] = dict(zip(COLUMNS, row[1:], strict=True))
    recipients = [
        (str(address), int(code), str(why)) for address, code, why in json.loads(values.pop("recipients"))
    ]
    return StoredEvent(
        row[0], EventRow(**values | {"recipients": recipients, "timings": json.loads(row.timings)})
    )
