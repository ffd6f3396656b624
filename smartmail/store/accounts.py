"""Accounts and their aliases, in the caller's transaction. Addresses are stored in normal form
(`core.address`)."""

from collections.abc import Iterable

from argon2 import PasswordHasher
from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from smartmail.core.address import AddressError, normalise
from smartmail.core.sasl import HASH_COST, prepare_password
from smartmail.core.standing import Billing, Conduct
from smartmail.store import schema
from smartmail.store.changes import ChangeKind, bump
from smartmail.store.customers import domain_name, get_domain
from smartmail.store.errors import Conflict, Invalid, NotFound
from smartmail.store.plans import STANDARD, get_plan
from smartmail.store.records import AccountRecord, Act, DomainRecord

MIN_PASSWORD = 8
"""Characters (NIST SP 800-63B 5.1.1.2)."""
MAX_PASSWORD = 1024
"""Octets: what an AUTH line can carry, and a bound on what hashing may cost."""


def hash_password(password: str) -> str:
    """Argon2id in PHC form, at the cost that the relay checks at. Takes tens of milliseconds. Raises Invalid for a
    password that is too short, too long, or no AUTH exchange could carry."""
    if len(password) < MIN_PASSWORD:
        raise Invalid(f"the password has under {MIN_PASSWORD} characters", "choose a longer one, or use --generate")
    try:
        octets = password.encode()
    except UnicodeEncodeError:
        raise Invalid("the password is not valid UTF-8") from None
    if len(octets) > MAX_PASSWORD:
        raise Invalid(f"the password has over {MAX_PASSWORD} octets")
    if b"\0" in octets or b"\n" in octets or b"\r" in octets:
        raise Invalid("the password holds a NUL or a line break, which AUTH cannot carry (RFC 4616)")
    return PasswordHasher(HASH_COST.passes, HASH_COST.memory_kib, HASH_COST.lanes).hash(prepare_password(password))


def add_account(
    connection: Connection, address: str, password_hash: str, act: Act, plan: str = STANDARD
) -> AccountRecord:
    """Add an account; its customer is that of its domain. password_hash: from `hash_password`, made before
    the transaction, for it takes long.

    Raises Invalid, Conflict when the address is taken, NotFound for the domain or plan.
    """
    address, domain = check_new_account(connection, address, plan)
    inserted = connection.execute(
        insert(schema.account).values(
            address=address,
            customer=domain.customer,
            domain=domain.name,
            password_hash=password_hash,
            plan=plan,
            created_ns=act.at_ns,
        )
    )
    key = inserted.inserted_primary_key
    bump(connection, ChangeKind.ACCOUNT, key[0] if key is not None else 0)
    return get_account(connection, address)


def check_new_account(connection: Connection, address: str, plan: str = STANDARD) -> tuple[str, DomainRecord]:
    """Could it be added? Returns the address in normal form, and its domain. Raises as `add_account`."""
    address = account_address(address)
    domain = get_domain(connection, address.rpartition("@")[2])
    get_plan(connection, plan)
    _free(connection, address)
    return address, domain


def get_account(connection: Connection, address: str) -> AccountRecord:
    """By its own address or an alias (not of the form "@domain"). Raises NotFound, Invalid."""
    address = account_address(address)
    found = _accounts(connection, schema.account.c.address == address)
    if not found:
        owner = select(schema.alias.c.account).where(schema.alias.c.address == address)
        found = _accounts(connection, schema.account.c.id.in_(owner))
    if not found:
        raise NotFound(f'there is no account "{address}"', 'see "smartmail account list"')
    return found[0]


def list_accounts(
    connection: Connection, *, domain: str | None = None, customer: int | None = None
) -> list[AccountRecord]:
    """Every account, or a domain's, or a customer's, by address."""
    wanted: list[ColumnElement[bool]] = []
    if domain is not None:
        wanted.append(schema.account.c.domain == domain_name(domain))
    if customer is not None:
        wanted.append(schema.account.c.customer == customer)
    return _accounts(connection, *wanted)


def set_password(connection: Connection, account: int, password_hash: str) -> None:
    """password_hash: from `hash_password`. Cached logins with the old one end as the change is heard."""
    _set(connection, account, {"password_hash": password_hash})


def set_plan(connection: Connection, account: int, plan: str) -> None:
    """Raises NotFound for the plan."""
    get_plan(connection, plan)
    _set(connection, account, {"plan": plan})


def add_alias(connection: Connection, account: AccountRecord, address: str) -> str:
    """Give an account one more address to send from and receive at, or "@domain" for all that no other
    account has.

    Returns the alias in normal form. Raises Invalid, Conflict when it is taken, NotFound for a domain that
    is not the same customer's: an account may own no address of somebody else's.
    """
    address = alias_address(address)
    domain = address.rpartition("@")[2]
    if get_domain(connection, domain).customer != account.customer:
        raise NotFound(
            f'the domain "{domain}" is not of the customer that "{account.address}" belongs to',
            "an alias must be in a domain of the same customer",
        )
    _free(connection, address)
    connection.execute(insert(schema.alias).values(address=address, account=account.id))
    bump(connection, ChangeKind.ACCOUNT, account.id)
    return address


def remove_alias(connection: Connection, account: AccountRecord, address: str) -> None:
    """Raises NotFound when the account has no such alias."""
    address = alias_address(address)
    table = schema.alias
    done = connection.execute(delete(table).where(table.c.address == address, table.c.account == account.id))
    if done.rowcount != 1:
        raise NotFound(
            f'"{account.address}" has no alias "{address}"', f'see "smartmail account show {account.address}"'
        )
    bump(connection, ChangeKind.ACCOUNT, account.id)


def account_address(text: str) -> str:
    """An operator's spelling of an address to normal form. Raises Invalid."""
    try:
        address = normalise(text)
    except AddressError as error:
        raise Invalid(f"{text!r} is no address: {error.reply.text}") from error
    if "@" not in address or address.endswith("]"):
        raise Invalid(f"{text!r} is no address of a domain", "write it as name@example.com")
    return address


def alias_address(text: str) -> str:
    """As `account_address`, and "@domain" too. Raises Invalid."""
    text = text.strip()
    return f"@{domain_name(text[1:])}" if text.startswith("@") else account_address(text)


def _free(connection: Connection, address: str) -> None:
    """Raise Conflict if the address is an account's or an alias."""
    for taken in (
        select(schema.account.c.address).where(schema.account.c.address == address),
        select(schema.account.c.address)
        .join(schema.alias, schema.alias.c.account == schema.account.c.id)
        .where(schema.alias.c.address == address),
    ):
        owner = connection.execute(taken).scalar()
        if owner is not None:
            raise Conflict(f'"{address}" is taken by the account "{owner}"', f'see "smartmail account show {owner}"')


def _set(connection: Connection, account: int, values: dict[str, str]) -> None:
    done = connection.execute(update(schema.account).where(schema.account.c.id == account).values(values))
    if done.rowcount != 1:
        raise NotFound(f"there is no account with the id {account}")
    bump(connection, ChangeKind.ACCOUNT, account)


def _accounts(connection: Connection, *wanted: ColumnElement[bool]) -> list[AccountRecord]:
    """Accounts that satisfy all of `wanted`, by address, with their aliases."""
    rows = connection.execute(select(schema.account).where(*wanted).order_by(schema.account.c.address)).all()
    aliases: dict[int, list[str]] = {}
    query = select(schema.alias).join(schema.account, schema.account.c.id == schema.alias.c.account)
    for alias in connection.execute(query.where(*wanted).order_by(schema.alias.c.address)):
        aliases.setdefault(alias.account, []).append(alias.address)
    return [_record(row, aliases.get(row.id, ())) for row in rows]


def _record(row: Row[tuple[object, ...]], aliases: Iterable[str]) -> AccountRecord:
    return AccountRecord(
        id=row.id,
        address=row.address,
        customer=row.customer,
        domain=row.domain,
        plan=row.plan,
        billing=Billing(row.billing),
        conduct=Conduct(row.conduct),
        created_ns=row.created_ns,
        aliases=tuple(aliases),
    )
