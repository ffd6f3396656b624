"""Evidence read back: transaction events by what an operator asks for, and the last snapshot of the
counters."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select, text
from sqlalchemy.sql.elements import ColumnElement, TextClause

from smartmail.core.policy import Reason, Verdict
from smartmail.store import schema
from smartmail.store.events import COLUMNS, EventRow, clean_text

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
            {"address": address, "code": code, "reason": reason} for address, code, reason in self.row.recipients
        ]
        return {"id": self.id, **self.row._asdict(), "recipients": recipients}


def find_events(connection: Connection, query: EventQuery) -> list[StoredEvent]:
    """The newest `query.limit` events that match, oldest first."""
    return [_event(row) for row in reversed(connection.execute(statement_of(query)).all())]


def statement_of(query: EventQuery) -> Select[Any]:
    """The statement of `find_events`: newest first."""
    table = schema.transaction_event
    most = max(0, min(query.limit, MAX_EVENTS))
    return select(table).where(*_conditions(query)).order_by(table.c.at_ns.desc(), table.c.id.desc()).limit(most)


def counters_snapshot(connection: Connection) -> tuple[int, bytes] | None:
    """When the relay last stored its counters (nanoseconds), and the blob; None before the first time."""
    table = schema.counters_snapshot
    row = connection.execute(select(table.c.at_ns, table.c.data)).one_or_none()
    return None if row is None else (row.at_ns, bytes(row.data))


def _conditions(query: EventQuery) -> Iterator[ColumnElement[bool] | TextClause]:
    column = schema.transaction_event.c
    if query.account_id is not None:
        yield column.account_id == query.account_id
    if query.login:
        yield column.login == query.login
    if query.client:
        yield (column.client_network if "/" in query.client else column.client_address) == query.client
    if query.recipient:
        yield _has_recipient(query.recipient)
    if query.verdict:
        yield column.verdict == query.verdict
        if query.verdict != Verdict.ACCEPTED:
            yield text(schema.NOT_ACCEPTED)
    if query.reason:
        yield column.reason == query.reason
        if query.reason != Reason.OK:
            yield text(schema.NOT_OK)
    if query.queue_id:
        yield column.queue_id == query.queue_id
        yield text(schema.QUEUED)
    if query.since_ns:
        yield column.at_ns >= query.since_ns
    if query.after_id:
        yield column.id > query.after_id


def _has_recipient(address: str) -> ColumnElement[bool]:
    """Recipients are kept as they were sent, in JSON: compare what JSON makes of the address, in lower
    case."""
    needle = json.dumps(address.lower())[1:-1]
    escaped = needle.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    start = "" if address.startswith("@") else '["'
    return func.lower(schema.transaction_event.c.recipients).like(f'%{start}{escaped}",%', escape="!")


def _event(row: Row[Any]) -> StoredEvent:
    values: dict[str, Any] = dict(zip(COLUMNS, row[1:], strict=True))
    recipients = [
        (clean_text(address), int(code), str(why)) for address, code, why in json.loads(values.pop("recipients"))
    ]
    return StoredEvent(row[0], EventRow(**values | {"recipients": recipients, "timings": json.loads(row.timings)}))
