"""Customers, their subscriptions and domains, in the caller's transaction."""

from collections.abc import Sequence
from datetime import date

from sqlalchemy import Connection, Row, insert, select, update

from smartmail.core.address import AddressError, normalise_domain
from smartmail.core.standing import Billing
from smartmail.store import schema
from smartmail.store.changes import ChangeKind, bump
from smartmail.store.errors import Conflict, Invalid, NotFound
from smartmail.store.plans import get_plan
from smartmail.store.records import Act, CustomerRecord, DomainRecord, Subscription


def add_customer(connection: Connection, name: str, contact: str, act: Act) -> int:
    """Returns the new customer's id. Raises Conflict when the name is taken, Invalid for none."""
    name = name.strip()
    if not name or name.isdecimal():
        raise Invalid(f"{name!r} cannot be a customer's name", "a name has at least one character that is no digit")
    table = schema.customer
    if connection.execute(select(table.c.id).where(table.c.name == name)).first():
        raise Conflict(f'there is a customer "{name}" already', f'see "smartmail customer show {name!r}"')
    inserted = connection.execute(insert(table).values(name=name, contact=contact, created_ns=act.at_ns))
    return _new_id(inserted.inserted_primary_key)


def get_customer(connection: Connection, ref: str | int) -> CustomerRecord:
    """By id or by name. Raises NotFound."""
    table = schema.customer
    by_id = isinstance(ref, int) or ref.isdecimal()
    row = connection.execute(
        select(table).where(table.c.id == int(ref) if by_id else table.c.name == ref)
    ).one_or_none()
    if row is None:
        raise NotFound(f'there is no customer "{ref}"', 'see "smartmail customer list"')
    return _customer(row)


def list_customers(connection: Connection) -> list[CustomerRecord]:
    """Every customer, by name."""
    return [_customer(row) for row in connection.execute(select(schema.customer).order_by(schema.customer.c.name))]


def set_contact(connection: Connection, customer: int, contact: str) -> None:
    """Change how to reach a customer."""
    connection.execute(update(schema.customer).where(schema.customer.c.id == customer).values(contact=contact))


def add_subscription(connection: Connection, customer: int, plan: str, anchor_day: int, act: Act) -> int:
    """Returns the new subscription's id. Raises NotFound for the plan, Invalid for a day that no month
    has."""
    get_plan(connection, plan)
    if not 1 <= anchor_day <= 31:
        raise Invalid(f"no month has a day {anchor_day}", "the anchor day is 1 to 31")
    inserted = connection.execute(
        insert(schema.subscription).values(customer=customer, plan=plan, anchor_day=anchor_day, created_ns=act.at_ns)
    )
    return _new_id(inserted.inserted_primary_key)


def list_subscriptions(connection: Connection, customer: int) -> list[Subscription]:
    """A customer's subscriptions, oldest first."""
    table = schema.subscription
    rows = connection.execute(select(table).where(table.c.customer == customer).order_by(table.c.id))
    return [Subscription(row.id, row.plan, row.anchor_day, row.paid_through, row.closed_ns) for row in rows]


def set_paid_through(connection: Connection, customer: int, subscription: int, day: date) -> None:
    """Record how far a subscription is paid. Raises NotFound when it is not this customer's."""
    table = schema.subscription
    done = connection.execute(
        update(table).where(table.c.id == subscription, table.c.customer == customer).values(paid_through=day)
    )
    if done.rowcount != 1:
        raise NotFound(f"customer {customer} has no subscription {subscription}", 'see "smartmail customer show"')


def add_domain(connection: Connection, name: str, customer: int, act: Act) -> str:
    """Returns the domain in normal form. Raises Invalid, Conflict, NotFound."""
    name = domain_name(name)
    get_customer(connection, customer)
    table = schema.domain
    if connection.execute(select(table.c.name).where(table.c.name == name)).first():
        raise Conflict(f'there is a domain "{name}" already', f'see "smartmail domain show {name}"')
    connection.execute(insert(table).values(name=name, customer=customer, created_ns=act.at_ns))
    bump(connection, ChangeKind.DOMAIN, name)
    return name


def get_domain(connection: Connection, name: str) -> DomainRecord:
    """Raises NotFound, Invalid."""
    name = domain_name(name)
    row = connection.execute(select(schema.domain).where(schema.domain.c.name == name)).one_or_none()
    if row is None:
        raise NotFound(f'there is no domain "{name}"', f'add it with "smartmail domain add {name} --customer CUSTOMER"')
    return DomainRecord(row.name, row.customer, row.created_ns, row.closed_ns)


def list_domains(connection: Connection, customer: int | None = None) -> list[DomainRecord]:
    """Every domain, or a customer's, by name."""
    query = select(schema.domain).order_by(schema.domain.c.name)
    if customer is not None:
        query = query.where(schema.domain.c.customer == customer)
    return [DomainRecord(row.name, row.customer, row.created_ns, row.closed_ns) for row in connection.execute(query)]


def domain_name(text: str) -> str:
    """An operator's spelling to normal form. Raises Invalid."""
    try:
        return normalise_domain(text)
    except AddressError as error:
        raise Invalid(f"{text!r} is no domain: {error.reply.text}") from error


def _customer(row: Row[tuple[object, ...]]) -> CustomerRecord:
    return CustomerRecord(row.id, row.name, row.contact, Billing(row.billing), row.created_ns, row.closed_ns)


def _new_id(key: Sequence[object] | None) -> int:
    if key is None or not isinstance(key[0], int):
        raise Conflict("the database gave no id to a new row")
    return key[0]
