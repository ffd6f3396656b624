"""A fresh database for each test, and one with a customer, a domain and two accounts."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smartmail.store import accounts, customers
from smartmail.store.database import Database
from smartmail.store.events import EventRow
from smartmail.store.records import Act

HASH = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA"


@pytest.fixture
def act() -> Act:
    return Act("anna", "invoice 12", 1_700_000_000 * 10**9)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a database brought to the newest schema."""
    url = f"sqlite:///{tmp_path / 'store' / 'smartmail.db'}"
    with Database(url) as database:
        database.upgrade()
    return url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with Database(url) as database:
        yield database


@pytest.fixture
def hosted(database: Database, act: Act) -> Database:
    """Acme with example.com and the accounts ann@ and bob@."""
    with database.write() as connection:
        customer = customers.add_customer(connection, "Acme", "office@acme.example", act)
        customers.add_subscription(connection, customer, "standard", 31, act)
        customers.add_domain(connection, "example.com", customer, act)
        for name in ("ann", "bob"):
            accounts.add_account(connection, f"{name}@example.com", HASH, act)
    return database


@pytest.fixture
def event() -> Callable[..., EventRow]:
    """Makes an event row with the fields that matter to a test."""

    def make(**fields: object) -> EventRow:
        base = {"at_ns": 1, "session": "s", "listener": "submission", "client_address": "192.0.2.1"}
        return EventRow(**base | fields)  # type: ignore[arg-type]

    return make
