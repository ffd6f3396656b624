"""Customers, domains, accounts, plans and their standing: what is refused, and what each change leaves behind."""

from datetime import date

import pytest
from argon2 import PasswordHasher
from sqlalchemy import func, select

from smartmail.core.limits import Limit, Scope, Unit
from smartmail.core.standing import Billing, Conduct
from smartmail.store import accounts, changes, customers, moves, plans, schema
from smartmail.store.database import Database
from smartmail.store.errors import Conflict, Invalid, NotFound, StoreError
from smartmail.store.records import Act, Axis, Subject


def test_a_password_is_kept_as_argon2id() -> None:
    hashed = accounts.hash_password("correct horse")
    assert hashed.startswith("$argon2id$")
    assert PasswordHasher().verify(hashed, "correct horse")


@pytest.mark.parametrize("password", ["short", "a" * 1025, "has a\0nul!", "has a\nline", "lone \udcff surrogate"])
def test_a_password_that_auth_could_not_carry_is_refused(password: str) -> None:
    with pytest.raises(Invalid):
        accounts.hash_password(password)


def test_an_address_is_stored_in_normal_form(hosted: Database, act: Act) -> None:
    with hosted.write() as connection:
        added = accounts.add_account(connection, ' "Carl"@EXAMPLE.com', "h", act)
        assert added.address == "carl@example.com"
        assert accounts.get_account(connection, "CARL@example.COM") == added


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("ann@example.com", Conflict),
        ("ANN@example.com", Conflict),
        ("sales@example.com", Conflict),
        ("carl@elsewhere.example", NotFound),
        ("carl", Invalid),
        ("carl@[192.0.2.1]", Invalid),
        ("a b@example.com", Invalid),
        ("postmaster", Invalid),
    ],
)
def test_an_account_that_cannot_be(hosted: Database, act: Act, address: str, error: type[StoreError]) -> None:
    with hosted.write() as connection:
        accounts.add_alias(connection, accounts.get_account(connection, "ann@example.com"), "sales@example.com")
    with pytest.raises(error), hosted.write() as connection:
        accounts.add_account(connection, address, "h", act)


def test_an_alias_leads_to_its_account_and_can_be_taken_away(hosted: Database) -> None:
    with hosted.write() as connection:
        ann = accounts.get_account(connection, "ann@example.com")
        accounts.add_alias(connection, ann, "Sales@example.com")
        accounts.add_alias(connection, ann, "@Example.com")
        found = accounts.get_account(connection, "sales@example.com")
        assert found.aliases == ("@example.com", "sales@example.com")
        accounts.remove_alias(connection, ann, "sales@example.com")
        with pytest.raises(NotFound):
            accounts.get_account(connection, "sales@example.com")
        with pytest.raises(NotFound):
            accounts.remove_alias(connection, ann, "sales@example.com")


def test_an_alias_in_somebody_elses_domain_is_refused(hosted: Database, act: Act) -> None:
    with hosted.write() as connection:
        other = customers.add_customer(connection, "Other", "", act)
        customers.add_domain(connection, "other.example", other, act)
        ann = accounts.get_account(connection, "ann@example.com")
        for alias in ("ann@other.example", "@other.example", "ann@nobody.example"):
            with pytest.raises(NotFound):
                accounts.add_alias(connection, ann, alias)


def test_an_alias_that_is_taken_is_refused(hosted: Database) -> None:
    with hosted.write() as connection:
        ann, bob = (accounts.get_account(connection, f"{name}@example.com") for name in ("ann", "bob"))
        accounts.add_alias(connection, ann, "@example.com")
        for alias in ("bob@example.com", "@example.com"):
            with pytest.raises(Conflict):
                accounts.add_alias(connection, bob, alias)


def test_names_are_given_once(hosted: Database, act: Act) -> None:
    with hosted.write() as connection:
        for again in (
            lambda: customers.add_customer(connection, "Acme", "", act),
            lambda: customers.add_domain(connection, "EXAMPLE.com.", 1, act),
            lambda: plans.add_plan(connection, plans.get_plan(connection, "standard")),
        ):
            with pytest.raises(Conflict):
                again()


def test_a_customer_is_found_by_id_and_by_name(hosted: Database) -> None:
    with hosted.read() as connection:
        by_name = customers.get_customer(connection, "Acme")
        assert customers.get_customer(connection, by_name.id) == customers.get_customer(connection, "1") == by_name
        with pytest.raises(NotFound):
            customers.get_customer(connection, "Nobody")


def test_a_subscription_is_paid_through_a_day(hosted: Database) -> None:
    with hosted.write() as connection:
        customers.set_paid_through(connection, 1, 1, date(2026, 12, 31))
        assert customers.list_subscriptions(connection, 1)[0].paid_through == date(2026, 12, 31)
        with pytest.raises(NotFound):
            customers.set_paid_through(connection, 1, 99, date(2026, 12, 31))


def test_a_move_leaves_evidence_and_is_heard_of(hosted: Database, act: Act) -> None:
    with hosted.write() as connection:
        ann = accounts.get_account(connection, "ann@example.com")
        before = connection.execute(select(func.max(schema.change.c.id))).scalar_one()
        moves.apply_moves(connection, moves.account_moves(ann, billing=Billing.SUSPENDED), act)
    with hosted.read() as connection:
        assert accounts.get_account(connection, "ann@example.com").billing is Billing.SUSPENDED
        (evidence,) = moves.standing_changes(connection, Subject.ACCOUNT, ann.id)
        assert (evidence.axis, evidence.from_state, evidence.to_state) == (Axis.BILLING, "current", "suspended")
        assert (evidence.reason, evidence.who, evidence.at_ns) == ("invoice 12", "anna", act.at_ns)
        heard = connection.execute(select(schema.change).where(schema.change.c.id > before)).all()
        assert [(row.kind, row.ref) for row in heard] == [("account", str(ann.id))]


def test_standing_where_it_should_is_no_move(hosted: Database) -> None:
    with hosted.read() as connection:
        ann = accounts.get_account(connection, "ann@example.com")
        assert moves.account_moves(ann, billing=Billing.CURRENT, conduct=Conduct.GOOD) == ()
        assert moves.customer_moves(customers.get_customer(connection, 1), closed=False) == ()


def test_a_move_that_the_tables_do_not_know_is_refused(hosted: Database, act: Act) -> None:
    with hosted.write() as connection:
        ann = accounts.get_account(connection, "ann@example.com")
        moves.apply_moves(connection, moves.account_moves(ann, billing=Billing.SUSPENDED), act)
        ann = accounts.get_account(connection, "ann@example.com")
        with pytest.raises(Conflict, match="suspended to past_due"):
            moves.account_moves(ann, billing=Billing.PAST_DUE)


def test_a_plan_that_was_overtaken_is_not_applied(hosted: Database, act: Act) -> None:
    with hosted.read() as connection:
        ann = accounts.get_account(connection, "ann@example.com")
        stale = moves.account_moves(ann, conduct=Conduct.WATCHED)
    with hosted.write() as connection:
        moves.apply_moves(connection, moves.account_moves(ann, conduct=Conduct.CLOSED), act)
    with pytest.raises(Conflict, match="no longer"), hosted.write() as connection:
        moves.apply_moves(connection, stale, act)
    with hosted.read() as connection:
        assert accounts.get_account(connection, "ann@example.com").conduct is Conduct.CLOSED


@pytest.mark.parametrize(("who", "reason"), [("", "why"), ("who", ""), ("who", "  ")])
def test_a_move_needs_a_name_and_a_reason(hosted: Database, who: str, reason: str) -> None:
    with pytest.raises(Invalid), hosted.write() as connection:
        ann = accounts.get_account(connection, "ann@example.com")
        moves.apply_moves(connection, moves.account_moves(ann, conduct=Conduct.CLOSED), Act(who, reason, 1))


def test_closing_and_reopening_a_domain_and_a_customer(hosted: Database, act: Act) -> None:
    for closed in (True, False):
        with hosted.write() as connection:
            domain = customers.get_domain(connection, "example.com")
            owner = customers.get_customer(connection, 1)
            plan = (*moves.domain_moves(domain, closed=closed), *moves.customer_moves(owner, closed=closed))
            moves.apply_moves(connection, plan, act)
            assert (customers.get_domain(connection, "example.com").closed_ns is not None) is closed
            assert (customers.get_customer(connection, 1).closed_ns is not None) is closed
    with hosted.read() as connection:
        evidence = moves.standing_changes(connection, Subject.DOMAIN, "example.com")
        assert [one.to_state for one in evidence] == ["good", "closed"]


def test_a_limit_is_put_replaced_and_dropped(database: Database) -> None:
    limit = Limit("per-day", Scope.ACCOUNT, Unit.RECIPIENTS, 10, 86400)
    wider = Limit("per-day", Scope.CUSTOMER, Unit.RECIPIENTS, 20, 86400)
    with database.write() as connection:
        plans.add_plan(connection, plans.Plan("small", "for one", (limit,)))
        assert plans.get_plan(connection, "small").limits == (limit,)
        plans.put_limit(connection, "small", wider)
        assert plans.get_plan(connection, "small").limits == (wider,)
        plans.drop_limit(connection, "small", "per-day")
        with pytest.raises(NotFound):
            plans.drop_limit(connection, "small", "per-day")


@pytest.mark.parametrize("scope", [Scope.CLIENT, Scope.RECIPIENT_DOMAIN])
def test_a_plan_cannot_limit_what_is_not_an_accounts(database: Database, scope: Scope) -> None:
    with pytest.raises(Invalid), database.write() as connection:
        plans.put_limit(connection, "standard", Limit("x", scope, Unit.MESSAGES, 1, 1))


def test_the_list_of_changes_stays_short(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "KEPT_CHANGES", 5)
    with database.write() as connection:
        for number in range(20):
            changes.bump(connection, changes.ChangeKind.ACCOUNT, number)
        assert [row.ref for row in connection.execute(select(schema.change))] == ["15", "16", "17", "18", "19"]
