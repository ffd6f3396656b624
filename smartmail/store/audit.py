"""The tables against the ledger: what an entry says of a row must be what the row says, and no row goes without one.

The chain shows what was done to entries. What was done to the rows beside them only this shows: a date of payment set
by hand, a month's record put in another's place, a line of maintenance that nobody announced, and an end of the ledger
that was cut off with the rows still there.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from smartmail.core.canonical import JsonError, canonical, digest_of
from smartmail.core.ledger import Entry, Kind
from smartmail.store import schema
from smartmail.store.schema_monitor import maintenance_entry, sla_revision, terms_version

CREDITS = (Kind.CREDIT_GRANTED, Kind.CREDIT_REVERSED, Kind.CREDIT_RESTORED)
CLOSINGS = (Kind.MONTH_CLOSED, Kind.MONTH_RESTATED)


@dataclass(slots=True)
class _Said:
    """What the entries say. sealed: key -> body; paid: subscription -> date; closed: subscription -> why."""

    sealed: dict[str, str] = field(default_factory=dict)
    paid: dict[int, str | None] = field(default_factory=dict)
    closed: dict[int, str] = field(default_factory=dict)


def audit_tables(connection: Connection, entries: Iterable[Entry]) -> list[str]:
    """Where the tables and a ledger whose chain holds differ, a line for each. entries: the whole ledger."""
    said = _said(entries)
    rows = {**_months(connection), **_maintenance(connection), **_terms(connection)}
    found = [f"{key}: the ledger has it, and no table does" for key in said.sealed if key not in rows]
    for key, body in rows.items():
        if key not in said.sealed:
            found.append(f"{key}: it is in no entry of the ledger")
        elif body != said.sealed[key]:
            found.append(f"{key}: it is not what the ledger has of it")
    return found + _subscriptions(connection, said)


def _said(entries: Iterable[Entry]) -> _Said:
    said = _Said()
    for entry in entries:
        body = json.loads(entry.body)
        if entry.kind in CLOSINGS:
            kept = {name: body.get(name) for name in ("service", "month", "revision", "record", "result", "credited")}
            said.sealed[entry.key] = canonical(kept).decode()
        elif entry.kind in (Kind.MAINTENANCE_RECORDED, Kind.TERMS_RECORDED):
            said.sealed[entry.key] = entry.body
        elif entry.kind in CREDITS:
            said.paid[body["subscription"]] = body["paid_to"]
        elif "closed_for" in body:
            said.closed[body["subscription"]] = body["closed_for"]
        elif "paid_through" in body.get("now", ()):
            said.paid[body["subscription"]] = body["now"]["paid_through"]
    return said


def _months(connection: Connection) -> Mapping[str, str]:
    rows = {}
    for row in connection.execute(select(sla_revision)):
        try:
            record = digest_of(json.loads(row.record))
        except (JsonError, ValueError):
            record = "unreadable"
        if record != row.record_digest:
            record = f"{record}, and not {row.record_digest}"
        rows[f"month:{row.service}:{row.month}:{row.number}"] = canonical(
            {
                "service": row.service,
                "month": row.month,
                "revision": row.number,
                "record": record,
                "result": row.result,
                "credited": bool(row.credited),
            }
        ).decode()
    return rows


def _maintenance(connection: Connection) -> Mapping[str, str]:
    names = ("window", "action", "service", "from_minute", "until_minute", "recorded_ms", "actor", "text")
    return {
        f"maintenance:{row.id}": canonical({name: getattr(row, name) for name in names}).decode()
        for row in connection.execute(select(maintenance_entry))
    }


def _terms(connection: Connection) -> Mapping[str, str]:
    return {f"terms:{row.version}": row.body for row in connection.execute(select(terms_version))}


def _subscriptions(connection: Connection, said: _Said) -> list[str]:
    table = schema.subscription
    found = []
    for row in connection.execute(select(table.c.id, table.c.paid_through, table.c.closed_for).order_by(table.c.id)):
        paid = None if row.paid_through is None else row.paid_through.isoformat()
        wanted = said.paid.get(row.id)
        if paid != wanted:
            ledger = f"{wanted} by the ledger" if row.id in said.paid else "the ledger knows of no payment"
            found.append(f"subscription {row.id}: paid through {paid or 'no day'}, {ledger}")
        if row.closed_for != said.closed.get(row.id, ""):
            closed = said.closed.get(row.id) or "not closed"
            found.append(f"subscription {row.id}: closed for {row.closed_for or 'nothing'}, by the ledger {closed}")
    return found
