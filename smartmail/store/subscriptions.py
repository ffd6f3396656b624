"""Subscriptions: how far they are paid, where they live, why they ended. In the caller's transaction.

What is changed here goes into the ledger with who did it and why. A credit run reads its subscribers here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from smartmail.core.credits import ENDED, FOR_ABUSE, Subscriber, balance, subject_of
from smartmail.core.ledger import Draft, Kind, body_of
from smartmail.core.roster import NAME
from smartmail.store import schema
from smartmail.store.errors import Conflict, Invalid, NotFound
from smartmail.store.ledger import LedgerQuery, append, find_entries, head, lock
from smartmail.store.plans import get_plan
from smartmail.store.records import Act
from smartmail.store.schema_monitor import residence

MINUTE_NS = 60 * 10**9


class ClosedFor(StrEnum):
    """Why a subscription is closed."""

    ENDED = ENDED
    ABUSE = FOR_ABUSE


@dataclass(frozen=True, slots=True)
class Residence:
    """On which service a subscription lived: half-open minutes, until_minute None for until now."""

    service: str
    from_minute: int
    until_minute: int | None


@dataclass(frozen=True, slots=True)
class SubscriptionRecord:
    """A subscription as stored. closed_for: "" while it is open."""

    id: int
    customer: int
    customer_name: str
    plan: str
    anchor_day: int
    paid_through: date | None
    trial_until: date | None
    created_ns: int
    closed_ns: int | None
    closed_for: str
    residences: tuple[Residence, ...]


def list_subscriptions(connection: Connection, *, customer: int | None = None) -> list[SubscriptionRecord]:
    """Every subscription, or a customer's, by id."""
    return _records(connection, *(() if customer is None else (schema.subscription.c.customer == customer,)))


def get_subscription(connection: Connection, subscription: int) -> SubscriptionRecord:
    """Raises NotFound."""
    found = _records(connection, schema.subscription.c.id == subscription)
    if not found:
        raise NotFound(f"there is no subscription {subscription}", 'see "smartmail subscription list"')
    return found[0]


@dataclass(frozen=True, slots=True)
class Change:
    """What to set; None leaves as it is. service: lives there from service_from (POSIX minute) on."""

    plan: str | None = None
    anchor_day: int | None = None
    paid_through: date | None = None
    trial_until: date | None = None
    service: str | None = None
    service_from: int = 0


def change_subscription(connection: Connection, subscription: int, change: Change, act: Act) -> list[str]:
    """Set what `change` names, and write it into the ledger. Returns a line for each thing that is different now, none
    if nothing is. Raises NotFound, Invalid, and Conflict for a closed one."""
    lock(connection)
    found = get_subscription(connection, subscription)
    values = _new_values(connection, found, change)
    moved = _moves(found, change)
    was = {name: _text(getattr(found, name)) for name in values}
    now = {name: _text(value) for name, value in values.items()}
    if moved:
        was["service"] = found.residences[-1].service if found.residences else ""
        now |= {"service": change.service or "", "service_from_minute": change.service_from}
    if not now:
        return []
    if values:
        table = schema.subscription
        connection.execute(update(table).where(table.c.id == subscription).values(values))
    if moved:
        _move(connection, found, change)
    body = body_of(subscription=subscription, was=was, now=now, reason=act.reason)
    _enter(connection, subscription, Kind.SUBSCRIPTION_CHANGED, body, act)
    since = f" from {datetime.fromtimestamp(change.service_from * 60, UTC):%Y-%m-%d %H:%MZ} on" if moved else ""
    return [
        f"{name.replace('_', ' ')}: {was.get(name) or 'none'} -> {value}{since if name == 'service' else ''}"
        for name, value in now.items()
        if name != "service_from_minute"
    ]


def close_subscription(connection: Connection, subscription: int, why: ClosedFor, act: Act) -> int:
    """Close it; for abuse it forfeits its credits. Returns the credited months that it forfeits. Raises NotFound, and
    Conflict when it is closed already (closed as ended, it may still be closed for abuse)."""
    lock(connection)
    found = get_subscription(connection, subscription)
    if found.closed_for == ClosedFor.ABUSE or found.closed_for == why or (found.closed_ns and why is ClosedFor.ENDED):
        raise Conflict(f"the subscription {subscription} is closed already")
    closed_ns = found.closed_ns or act.at_ns
    table = schema.subscription
    connection.execute(
        update(table).where(table.c.id == subscription).values(closed_ns=closed_ns, closed_for=why.value)
    )
    end = _minute_after(closed_ns)
    connection.execute(
        update(residence)
        .where(residence.c.subscription == subscription, residence.c.until_minute.is_(None))
        .where(residence.c.from_minute <= end)
        .values(until_minute=end)
    )
    months = forfeitable(connection, subscription) if why is ClosedFor.ABUSE else 0
    kind = Kind.SUBSCRIPTION_FORFEITED if why is ClosedFor.ABUSE else Kind.SUBSCRIPTION_CHANGED
    body = body_of(
        subscription=subscription,
        closed_for=why.value,
        reason=act.reason,
        paid_through=_text(found.paid_through),
        forfeited_months=months,
    )
    _enter(connection, subscription, kind, body, act)
    return months


def forfeitable(connection: Connection, subscription: int) -> int:
    """Credited months that closing for abuse takes away."""
    entries = find_entries(connection, LedgerQuery(subject=subject_of(subscription)))
    return balance(entries).get(subscription, 0)


def get_subscriber(connection: Connection, subscription: int) -> Subscriber:
    """One subscription as the credit rules see it. Raises NotFound."""
    found = subscribers(connection, after=subscription - 1, limit=1)
    if not found or found[0].subscription != subscription:
        raise NotFound(f"there is no subscription {subscription}", 'see "smartmail subscription list"')
    return found[0]


def subscribers(
    connection: Connection, *, after: int, limit: int, home: str = "", for_update: bool = False
) -> list[Subscriber]:
    """The next `limit` subscriptions past the id `after` as the credit rules see them, by id.

    home: where one lived until its first recorded residence, for ever without any; "": nowhere. for_update: nobody
    else changes them until the transaction ends, on a database that locks rows.
    """
    table = schema.subscription
    query = select(table).where(table.c.id > after).order_by(table.c.id).limit(limit)
    rows = connection.execute(query.with_for_update() if for_update else query).all()
    if not rows:
        return []
    stays = _stays(connection, residence.c.subscription.between(rows[0].id, rows[-1].id))
    return [_subscriber(row, _with_home(stays.get(row.id, ()), home)) for row in rows]


def homeless(connection: Connection, first: int, end: int) -> int:
    """How many subscriptions lived in the minutes [first, end), and no residence before `end` is known of them."""
    table = schema.subscription
    known = (residence.c.subscription == table.c.id) & (residence.c.from_minute < end)
    query = select(func.count()).where(
        table.c.created_ns < end * MINUTE_NS,
        table.c.closed_ns.is_(None) | (table.c.closed_ns > first * MINUTE_NS),
        ~select(residence.c.subscription).where(known).exists(),
    )
    return int(connection.execute(query).scalar_one())


def _with_home(stays: Sequence[Residence], home: str) -> Sequence[Residence]:
    if not home:
        return stays
    return (Residence(home, 0, stays[0].from_minute if stays else None), *stays)


def _subscriber(row: Row[tuple[object, ...]], stays: Sequence[Residence]) -> Subscriber:
    return Subscriber(
        subscription=row.id,
        customer=row.customer,
        anchor_day=row.anchor_day,
        paid_through=row.paid_through,
        created=datetime.fromtimestamp(row.created_ns // 10**9, UTC).date(),
        first_minute=row.created_ns // MINUTE_NS,
        end_minute=None if row.closed_ns is None else _minute_after(row.closed_ns),
        closed_for=row.closed_for,
        trial_until=row.trial_until,
        stays=tuple((one.service, one.from_minute, one.until_minute) for one in stays),
    )


def _records(connection: Connection, *wanted: ColumnElement[bool]) -> list[SubscriptionRecord]:
    table, customer = schema.subscription, schema.customer
    query = select(table, customer.c.name.label("customer_name")).join(customer, customer.c.id == table.c.customer)
    rows = connection.execute(query.where(*wanted).order_by(table.c.id)).all()
    stays = _stays(connection, residence.c.subscription.between(rows[0].id, rows[-1].id)) if rows else {}
    return [
        SubscriptionRecord(
            id=row.id,
            customer=row.customer,
            customer_name=row.customer_name,
            plan=row.plan,
            anchor_day=row.anchor_day,
            paid_through=row.paid_through,
            trial_until=row.trial_until,
            created_ns=row.created_ns,
            closed_ns=row.closed_ns,
            closed_for=row.closed_for,
            residences=tuple(stays.get(row.id, ())),
        )
        for row in rows
    ]


def _stays(connection: Connection, wanted: ColumnElement[bool]) -> Mapping[int, list[Residence]]:
    stays: dict[int, list[Residence]] = {}
    query = select(residence).where(wanted).order_by(residence.c.subscription, residence.c.from_minute, residence.c.id)
    for row in connection.execute(query):
        stays.setdefault(row.subscription, []).append(Residence(row.service, row.from_minute, row.until_minute))
    return stays


def _new_values(connection: Connection, found: SubscriptionRecord, change: Change) -> dict[str, str | int | date]:
    if found.closed_ns is not None:
        raise Conflict(f"the subscription {found.id} is closed", "what is closed stays as it was")
    if change.plan is not None:
        get_plan(connection, change.plan)
    if change.anchor_day is not None and not 1 <= change.anchor_day <= 31:
        raise Invalid(f"no month has a day {change.anchor_day}", "the anchor day is 1 to 31")
    wanted = {
        "plan": change.plan,
        "anchor_day": change.anchor_day,
        "paid_through": change.paid_through,
        "trial_until": change.trial_until,
    }
    return {name: value for name, value in wanted.items() if value is not None and value != getattr(found, name)}


def _moves(found: SubscriptionRecord, change: Change) -> bool:
    """Does the change move it to another service? Raises Invalid, Conflict."""
    if change.service is None:
        return False
    if not NAME.match(change.service):
        raise Invalid(f"{change.service!r} is no name of a service", "small letters, digits and -, 40 at most")
    if not found.residences:
        return True
    last = found.residences[-1]
    if last.service == change.service and last.until_minute is None:
        return False
    if change.service_from < (last.from_minute if last.until_minute is None else last.until_minute):
        raise Conflict(
            f"the subscription {found.id} lived on {last.service} at that time", "where it has lived is not rewritten"
        )
    return True


def _move(connection: Connection, found: SubscriptionRecord, change: Change) -> None:
    connection.execute(
        update(residence)
        .where(residence.c.subscription == found.id, residence.c.until_minute.is_(None))
        .values(until_minute=change.service_from)
    )
    connection.execute(
        insert(residence).values(subscription=found.id, service=change.service, from_minute=change.service_from)
    )


def _enter(connection: Connection, subscription: int, kind: Kind, body: str, act: Act) -> None:
    # The number it will have makes the key its own: such a change may come any number of times.
    key = f"change:{subscription}:{head(connection).seq + 1}"
    append(connection, [Draft(kind, key, act.who, subject_of(subscription), body, act.at_ns // 10**6)])


def _minute_after(at_ns: int) -> int:
    """The end of the minute in which something ended: that minute it still lived in."""
    return -(-at_ns // MINUTE_NS)


def _text(value: str | int | date | None) -> str | int | None:
    return value.isoformat() if isinstance(value, date) else value
