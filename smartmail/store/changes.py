"""The `change` table: what every mutation must bump so that running relays hear of it."""

from enum import StrEnum

from sqlalchemy import Connection, delete, insert

from smartmail.store import schema

KEPT_CHANGES = 10_000
"""Rows kept. A watch that is further behind than this notices the gap and loads everything."""


class ChangeKind(StrEnum):
    """What `ref` names: an account's or a customer's id, a domain's or a plan's name."""

    ACCOUNT = "account"
    CUSTOMER = "customer"
    DOMAIN = "domain"
    PLAN = "plan"


def bump(connection: Connection, kind: ChangeKind, ref: int | str) -> None:
    """Record, in the caller's transaction, that `ref` has changed."""
    inserted = connection.execute(insert(schema.change).values(kind=kind.value, ref=str(ref)))
    newest = inserted.inserted_primary_key
    if newest is not None:
        connection.execute(delete(schema.change).where(schema.change.c.id <= newest[0] - KEPT_CHANGES))
