"""Credits in the caller's transaction: each is one entry in the ledger and one moved date, together or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, bindparam, update

from smartmail.core.credits import (
    CreditRefused,
    Decision,
    Grounds,
    Reason,
    Undoing,
    credit_draft,
    credit_key,
    decide,
    reversal_key,
    reverse,
)
from smartmail.core.ledger import Draft, Entry, Kind
from smartmail.store import schema
from smartmail.store.errors import Conflict
from smartmail.store.ledger import append, get_entry, held_keys, lock
from smartmail.store.subscriptions import get_subscriber, subscribers


@dataclass(frozen=True, slots=True)
class CreditOrder:
    """A credit run. grounds: of one month. home: the service of a subscription that no residence is known of; "": such
    a one lives nowhere. size: subscriptions in one transaction."""

    grounds: tuple[Grounds, ...]
    actor: str
    at_ms: int
    home: str = ""
    size: int = 2000


def decide_batch(connection: Connection, order: CreditOrder, after: int, *, for_update: bool = False) -> list[Decision]:
    """Decide on the next subscriptions in order of their ids, those past `after`; [] when there are no more, or no
    grounds. for_update: as `subscribers` has it."""
    if not order.grounds:
        return []
    found = subscribers(connection, after=after, limit=order.size, home=order.home, for_update=for_update)
    held = _held(connection, [credit_key(one.subscription, order.grounds[0].month) for one in found])
    return [decide(one, order.grounds, held) for one in found]


def credit_batch(connection: Connection, order: CreditOrder, after: int) -> list[Decision]:
    """The same, done: within `Database.write()` each granted one gets its entry and its date, both or neither."""
    lock(connection)
    decisions = decide_batch(connection, order, after, for_update=True)
    granted = [one for one in decisions if one.reason is Reason.GRANTED]
    append(connection, [credit_draft(one, order.actor, order.at_ms) for one in granted])
    if granted:
        table = schema.subscription
        connection.execute(
            update(table).where(table.c.id == bindparam("which")).values(paid_through=bindparam("day")),
            [{"which": one.subscriber.subscription, "day": one.paid_to} for one in granted],
        )
    return decisions


def reverse_entry(connection: Connection, key: str, undoing: Undoing) -> Entry:
    """Undo a credit, or the undoing of one, within `Database.write()`: one entry and the date moved back. Raises
    NotFound, and Conflict where it cannot be."""
    lock(connection)
    draft, subscription, paid_to = plan_reversal(connection, key, undoing)
    (entry,) = append(connection, [draft])
    table = schema.subscription
    connection.execute(update(table).where(table.c.id == subscription).values(paid_through=paid_to))
    return entry


def plan_reversal(connection: Connection, key: str, undoing: Undoing) -> tuple[Draft, int, date | None]:
    """What `reverse_entry` would write: the entry, the subscription and its new date. Raises as it does."""
    entry = get_entry(connection, key)
    undone = reversal_key(key)
    if held_keys(connection, [undone]):
        raise Conflict(f'"{key}" is reversed already', f"to bring it back, reverse {undone}")
    if entry.kind not in (Kind.CREDIT_GRANTED, Kind.CREDIT_REVERSED, Kind.CREDIT_RESTORED):
        raise Conflict(f'"{key}" is no credit', "only credits and their reversals can be reversed")
    subscription = int(entry.subject.rpartition(":")[2])
    try:
        draft, paid_to = reverse(entry, get_subscriber(connection, subscription), undoing)
    except CreditRefused as error:
        raise Conflict(error.message, error.hint) from error
    return draft, subscription, paid_to


def _held(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Those of the keys that the ledger has, and the reversals of these, and of those again."""
    held: set[str] = set()
    while keys:
        found = held_keys(connection, keys)
        held |= found
        keys = [reversal_key(key) for key in found]
    return held
