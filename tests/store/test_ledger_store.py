"""The ledger in the database: appended and never rewritten; each credit once, with its date."""

import json
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, insert, text, update

from smartmail.core.credits import Grounds, Reason, Undoing, audit, credit_key, reversal_key
from smartmail.core.ledger import Draft, Flaw, Head, Kind, body_of, verify
from smartmail.core.months import Month, span_of
from smartmail.store import credits, customers, ledger, schema, subscriptions
from smartmail.store.database import Database
from smartmail.store.errors import Conflict, NotFound, StoreError
from smartmail.store.records import Act
from smartmail.store.schema_monitor import ledger_entry, residence

LONDON = ZoneInfo("Europe/London")
SPAN = span_of(Month(2026, 10), LONDON)
MAIL = Grounds("mail", "2026-10", SPAN, 1, "d" * 64, "v1", LONDON)
TODAY = date(2026, 11, 5)


def draft(key: str, kind: Kind = Kind.MONTH_CLOSED) -> Draft:
    return Draft(kind, key, "anna", "service:mail", body_of(key=key), 1)


def order(*grounds: Grounds, size: int = 2, home: str = "") -> credits.CreditOrder:
    return credits.CreditOrder(grounds or (MAIL,), "anna", 1000, home, size)


@pytest.fixture
def peopled(database: Database, act: Act) -> Database:
    """Seven subscriptions of one customer on the service mail, paid through 31 Dec 2026, renewing on the 31st."""
    with database.write() as connection:
        customer = customers.add_customer(connection, "Acme", "", act)
        for _ in range(7):
            number = customers.add_subscription(connection, customer, "standard", 31, act)
            customers.set_paid_through(connection, customer, number, date(2026, 12, 31))
            connection.execute(insert(residence).values(subscription=number, service="mail", from_minute=0))
    return database


def run(database: Database, wanted: credits.CreditOrder) -> list[Reason]:
    """A whole credit run, batch by batch; what was decided, in order."""
    after, reasons = 0, []
    while True:
        with database.write() as connection:
            decisions = credits.credit_batch(connection, wanted, after)
        if not decisions:
            return reasons
        after = decisions[-1].subscriber.subscription
        reasons += [one.reason for one in decisions]


def paid(database: Database) -> list[date | None]:
    with database.read() as connection:
        return [one.paid_through for one in subscriptions.list_subscriptions(connection)]


def whole(database: Database) -> list[str]:
    """What is wrong with the ledger."""
    with database.read() as connection:
        entries = list(ledger.entries(connection))
    return [str(one) for one in verify(entries)] + audit(entries)


# appending


def test_entries_are_chained_over_transactions(database: Database) -> None:
    for number in range(3):
        with database.write() as connection:
            ledger.append(connection, [draft(f"a{number}"), draft(f"b{number}")])
    with database.read() as connection:
        found = list(ledger.entries(connection))
        assert [one.key for one in found] == ["a0", "b0", "a1", "b1", "a2", "b2"]
        assert ledger.head(connection) == Head(6, found[-1].hash)
    assert verify(found) == []


def test_an_empty_ledger_has_a_head_and_no_entry(database: Database) -> None:
    with database.write() as connection:
        assert ledger.head(connection) == Head()
        assert ledger.append(connection, []) == []
        assert list(ledger.entries(connection)) == []


def test_the_whole_ledger_is_read_in_portions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "READ_AT_ONCE", 4)
    for count in (0, 3, 1, 4):
        with database.write() as connection:
            ledger.append(connection, [draft(f"{count}-{number}") for number in range(count)])
        with database.read() as connection:
            found = list(ledger.entries(connection))
            assert [one.seq for one in found] == list(range(1, ledger.head(connection).seq + 1))
            assert verify(found) == []


def test_a_key_that_is_there_breaks_the_whole_transaction_case_34(database: Database) -> None:
    with database.write() as connection:
        ledger.append(connection, [draft("a")])
    with pytest.raises(Conflict), database.write() as connection:
        ledger.append(connection, [draft("b"), draft("a")])
    with database.read() as connection:
        assert [one.key for one in ledger.entries(connection)] == ["a"]


@pytest.mark.parametrize(
    "statement",
    [
        update(ledger_entry).values(actor="eve"),
        delete(ledger_entry),
        text("INSERT OR REPLACE INTO ledger_entry SELECT * FROM ledger_entry"),
        text(
            "INSERT OR REPLACE INTO ledger_entry SELECT id + 10, at_ms, kind, key, 'eve', subject, body, prev, hash"
            " FROM ledger_entry"
        ),
    ],
    ids=["update", "delete", "replace by number", "replace by key"],
)
def test_the_database_itself_refuses_to_rewrite_an_entry(database: Database, statement: object) -> None:
    with database.write() as connection:
        ledger.append(connection, [draft("a")])
    with pytest.raises(StoreError, match="append-only"), database.write() as connection:
        connection.execute(statement)  # type: ignore[call-overload]
    assert whole(database) == []


def test_who_gets_around_the_triggers_is_found_by_the_chain(database: Database) -> None:
    with database.write() as connection:
        ledger.append(connection, [draft("a"), draft("b"), draft("c")])
        for row in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            connection.execute(text(f'DROP TRIGGER "{row}"'))
        connection.execute(update(ledger_entry).where(ledger_entry.c.key == "b").values(actor="eve"))
    with database.read() as connection:
        assert [(one.seq, one.flaw) for one in verify(ledger.entries(connection))] == [(2, Flaw.CHANGED)]


def test_entries_are_found_by_kind_subject_month_and_number(database: Database) -> None:
    with database.write() as connection:
        ledger.append(
            connection,
            [
                draft("month:mail:2026-10:1"),
                draft("month:mail:2026-11:1"),
                draft("credit:7:2026-10:uptime", Kind.CREDIT_GRANTED),
                draft("reversal:credit:7:2026-10:uptime", Kind.CREDIT_REVERSED),
            ],
        )

        def found(**query: object) -> list[int]:
            return [one.seq for one in ledger.find_entries(connection, ledger.LedgerQuery(**query))]  # type: ignore[arg-type]

        assert found() == [1, 2, 3, 4]
        assert found(last=2) == [3, 4]
        assert found(month="2026-10") == [1, 3, 4]
        assert found(kind="month_closed", month="2026-11") == [2]
        assert found(subject="service:mail", last=1) == [4]
        assert found(month="%") == []
        assert ledger.get_entry(connection, "month:mail:2026-10:1").seq == 1
        with pytest.raises(NotFound):
            ledger.get_entry(connection, "no such key")


# crediting


def test_each_subscription_on_the_service_is_credited_once_case_32_case_34(peopled: Database) -> None:
    assert run(peopled, order()) == [Reason.GRANTED] * 7
    assert paid(peopled) == [date(2027, 1, 31)] * 7
    assert run(peopled, order()) == [Reason.ALREADY] * 7
    assert run(peopled, order(size=100)) == [Reason.ALREADY] * 7
    assert paid(peopled) == [date(2027, 1, 31)] * 7
    with peopled.read() as connection:
        keys = [one.key for one in ledger.entries(connection)]
    assert keys == [credit_key(number, "2026-10") for number in range(1, 8)]
    assert whole(peopled) == []


def test_a_later_revision_credits_nobody_twice_and_the_next_month_does_case_33_case_34(peopled: Database) -> None:
    run(peopled, order())
    again = Grounds("mail", "2026-10", SPAN, 2, "e" * 64, "v2", LONDON)
    assert set(run(peopled, order(again))) == {Reason.ALREADY}
    november = Grounds("mail", "2026-11", span_of(Month(2026, 11), LONDON), 1, "f" * 64, "v1", LONDON)
    assert set(run(peopled, order(november))) == {Reason.GRANTED}
    assert paid(peopled) == [date(2027, 2, 28)] * 7
    assert whole(peopled) == []


def test_only_those_on_the_failing_server_are_credited_case_40(peopled: Database) -> None:
    with peopled.write() as connection:
        connection.execute(update(residence).where(residence.c.subscription > 3).values(service="mail2"))
    assert run(peopled, order()) == [Reason.GRANTED] * 3 + [Reason.ELSEWHERE] * 4
    assert paid(peopled) == [date(2027, 1, 31)] * 3 + [date(2026, 12, 31)] * 4


def test_where_no_residence_is_known_the_only_service_is_home_case_40(peopled: Database) -> None:
    with peopled.write() as connection:
        connection.execute(delete(residence).where(residence.c.subscription > 5))
        assert subscriptions.homeless(connection, 0, 30_000_000) == 2
    assert run(peopled, order()) == [Reason.GRANTED] * 5 + [Reason.ELSEWHERE] * 2
    assert run(peopled, order(home="web")) == [Reason.ALREADY] * 5 + [Reason.ELSEWHERE] * 2
    assert run(peopled, order(home="mail")) == [Reason.ALREADY] * 5 + [Reason.GRANTED] * 2


def test_unpaid_and_past_due_customers_are_credited_too_case_36(peopled: Database) -> None:
    with peopled.write() as connection:
        connection.execute(update(schema.customer).values(billing="suspended"))
        connection.execute(update(schema.subscription).values(paid_through=date(2020, 1, 31)))
    assert set(run(peopled, order())) == {Reason.GRANTED}
    assert paid(peopled) == [date(2020, 2, 29)] * 7


def test_one_that_never_paid_is_credited_from_its_first_anchor_day_case_36(peopled: Database) -> None:
    with peopled.write() as connection:
        connection.execute(update(schema.subscription).values(paid_through=None, anchor_day=20))
    run(peopled, order())
    assert paid(peopled) == [date(2023, 12, 20)] * 7, "created on 14 Nov 2023"


def test_a_batch_that_fails_leaves_neither_entry_nor_date_case_34(peopled: Database) -> None:
    class Crash(Exception):
        pass

    with pytest.raises(Crash), peopled.write() as connection:
        assert len(credits.credit_batch(connection, order(size=5), 0)) == 5
        raise Crash
    assert paid(peopled) == [date(2026, 12, 31)] * 7
    with peopled.read() as connection:
        assert ledger.head(connection) == Head()


def test_a_dry_run_decides_the_same_and_writes_nothing(peopled: Database) -> None:
    with peopled.read() as connection:
        planned = credits.decide_batch(connection, order(size=10), 0)
        assert credits.decide_batch(connection, order(), planned[-1].subscriber.subscription) == []
        assert ledger.head(connection) == Head()
    assert [one.reason for one in planned] == run(peopled, order())
    assert [one.paid_to for one in planned] == paid(peopled)


# undoing


def undoing(today: date = TODAY, *, used: bool = False) -> Undoing:
    return Undoing("a mistake of ours", "boris", int(datetime(2026, 11, 5, tzinfo=UTC).timestamp() * 1000), today, used)


def undo(database: Database, key: str, **how: bool) -> str:
    with database.write() as connection:
        return credits.reverse_entry(connection, key, undoing(**how)).kind


def test_a_reversal_and_its_reversal_are_entries_and_each_happens_once_case_35(peopled: Database) -> None:
    run(peopled, order())
    key = credit_key(2, "2026-10")
    assert undo(peopled, key) == "credit_reversed"
    assert paid(peopled)[1] == date(2026, 12, 31)
    with pytest.raises(Conflict, match="reversed already"):
        undo(peopled, key)
    # Repeating the run does not undo the decision.
    assert run(peopled, order())[1] is Reason.REVERSED
    assert undo(peopled, reversal_key(key)) == "credit_restored"
    assert paid(peopled)[1] == date(2027, 1, 31)
    assert run(peopled, order())[1] is Reason.ALREADY
    with peopled.read() as connection:
        entries = ledger.find_entries(connection, ledger.LedgerQuery(subject="subscription:2"))
    assert [one.kind for one in entries] == ["credit_granted", "credit_reversed", "credit_restored"]
    assert json.loads(entries[1].body)["reason"] == "a mistake of ours"
    assert whole(peopled) == []


def test_a_credit_that_is_used_stays_unless_it_must_go_case_35(peopled: Database) -> None:
    run(peopled, order())
    late = undoing(date(2027, 1, 15))
    with pytest.raises(Conflict, match="is used"), peopled.write() as connection:
        credits.reverse_entry(connection, credit_key(1, "2026-10"), late)
    with peopled.write() as connection:
        credits.reverse_entry(connection, credit_key(1, "2026-10"), undoing(date(2027, 1, 15), used=True))
    assert paid(peopled)[0] == date(2026, 12, 31)


@pytest.mark.parametrize("key", ["month:mail:2026-10:1", "credit:99:2026-10:uptime"])
def test_what_is_no_credit_is_not_reversed(peopled: Database, key: str) -> None:
    with peopled.write() as connection:
        ledger.append(connection, [draft("month:mail:2026-10:1")])
    with pytest.raises(StoreError):
        undo(peopled, key)
    assert paid(peopled) == [date(2026, 12, 31)] * 7


def test_planning_a_reversal_changes_nothing(peopled: Database) -> None:
    run(peopled, order())
    with peopled.read() as connection:
        planned = credits.plan_reversal(connection, credit_key(3, "2026-10"), undoing())
        assert planned[1:] == (3, date(2026, 12, 31))
        assert ledger.head(connection).seq == 7
    assert paid(peopled)[2] == date(2027, 1, 31)


def test_at_home_until_the_first_residence_that_was_written_down_case_40(peopled: Database) -> None:
    with peopled.write() as connection:
        connection.execute(update(residence).values(service="mail2", from_minute=SPAN.first + 10))
        (first, *_) = subscriptions.subscribers(connection, after=0, limit=1, home="mail")
        assert first.stays == (("mail", 0, SPAN.first + 10), ("mail2", SPAN.first + 10, None))
        assert subscriptions.homeless(connection, SPAN.first - 10, SPAN.first) == 7
    assert run(peopled, order()) == [Reason.ELSEWHERE] * 7
    assert run(peopled, order(home="mail")) == [Reason.GRANTED] * 7
