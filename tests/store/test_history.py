"""Events are found by what an operator knows of a mail."""

import pytest

from smartmail.store.database import Database
from smartmail.store.events import EventRow
from smartmail.store.history import EventQuery, find_events
from smartmail.store.writer import EventWriter

ROWS = (
    EventRow(
        100, "0", "submission", "192.0.2.1", login="ann@example.com", account_id=1, verdict="accepted", reason="ok",
        recipients=[("Bob@Example.net", 250, "ok"), ("carl@example.org", 250, "ok")], queue_id="4ABC",
    ),
    EventRow(
        200, "1", "submission", "192.0.2.2", login="ann@example.com", account_id=1, verdict="deferred",
        reason="limit_reached", recipients=[("a_b@example.net", 450, "limit_reached")],
    ),
    EventRow(300, "2", "submission", "2001:db8::1", "2001:db8::/64", login="ann@example.com", reason="auth_failed"),
    EventRow(400, "3", "relay", "192.0.2.1", verdict="rejected", recipients=[("jos\u00e9@example.com", 550, "x")]),
)  # fmt: skip


@pytest.fixture
def filled(database: Database) -> Database:
    writer = EventWriter(database.url)
    for row in ROWS:
        writer.put(row)
    assert writer.step()
    return database


@pytest.mark.parametrize(
    ("query", "sessions"),
    [
        (EventQuery(), "0123"),
        (EventQuery(limit=2), "23"),
        (EventQuery(account_id=1), "01"),
        (EventQuery(login="ann@example.com"), "012"),
        (EventQuery(login="nobody@example.com"), ""),
        (EventQuery(since_ns=300), "23"),
        (EventQuery(verdict="deferred"), "1"),
        (EventQuery(reason="auth_failed"), "2"),
        (EventQuery(client="192.0.2.1"), "03"),
        (EventQuery(client="2001:db8::/64"), "2"),
        (EventQuery(queue_id="4ABC"), "0"),
        (EventQuery(after_id=3), "3"),
        (EventQuery(recipient="bob@example.net"), "0"),
        (EventQuery(recipient="ob@example.net"), ""),
        (EventQuery(recipient="@example.net"), "01"),
        (EventQuery(recipient="a_b@example.net"), "1"),
        (EventQuery(recipient="axb@example.net"), ""),
        (EventQuery(recipient="%@example.net"), ""),
        (EventQuery(recipient="jos\u00e9@example.com"), "3"),
        (EventQuery(verdict="accepted", client="192.0.2.2"), ""),
    ],
)
def test_events_are_found(filled: Database, query: EventQuery, sessions: str) -> None:
    with filled.read() as connection:
        assert "".join(one.row.session for one in find_events(connection, query)) == sessions


def test_an_event_comes_back_as_it_was_put(filled: Database) -> None:
    with filled.read() as connection:
        found = [one.row for one in find_events(connection, EventQuery())]
    assert found == [row._replace(recipients=list(row.recipients)) for row in ROWS]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (EventQuery(account_id=1, since_ns=5), "ix_transaction_event_account_id_at_ns"),
        (EventQuery(client="192.0.2.1"), "ix_transaction_event_client_address_at_ns"),
        (EventQuery(queue_id="4ABC"), "ix_transaction_event_queue_id"),
        (EventQuery(reason="limit_reached"), "ix_transaction_event_reason_at_ns"),
        (EventQuery(since_ns=5), "ix_transaction_event_at_ns"),
        (EventQuery(verdict="rejected"), "ix_transaction_event_verdict_at_ns"),
    ],
)
def test_a_search_uses_its_index(filled: Database, query: EventQuery, index: str) -> None:
    with filled.read() as connection:
        assert index in explain(connection, query)


def explain(connection: object, query: EventQuery) -> str:
    from smartmail.store import history

    statement = history.statement_of(query).compile(
        dialect=connection.dialect,
        compile_kwargs={"literal_binds": True},  # type: ignore[attr-defined]
    )
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")  # type: ignore[attr-defined]
    return " ".join(str(row[3]) for row in rows)
