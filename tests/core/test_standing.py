"""Billing and conduct: every move of both tables, and what each pair of standings permits."""

from itertools import product

import pytest

from smartmail.core.standing import (
    BILLING_MOVES,
    CONDUCT_MOVES,
    Account,
    Billing,
    Conduct,
    MoveRefused,
    Rights,
    move_billing,
    move_conduct,
    rights,
)


def account(billing: Billing = Billing.CURRENT, conduct: Conduct = Conduct.GOOD, *aliases: str) -> Account:
    return Account(1, "ann@example.com", 100, "example.com", frozenset(aliases), "standard", billing, conduct, 0, ())


@pytest.mark.parametrize(("current", "wanted"), list(product(Billing, Billing)))
def test_each_move_of_billing(current: Billing, wanted: Billing) -> None:
    allowed = wanted is current or wanted in BILLING_MOVES[current]
    if allowed:
        assert move_billing(current, wanted) is wanted
    else:
        with pytest.raises(MoveRefused):
            move_billing(current, wanted)


@pytest.mark.parametrize(("current", "wanted"), list(product(Conduct, Conduct)))
def test_each_move_of_conduct(current: Conduct, wanted: Conduct) -> None:
    allowed = wanted is current or wanted in CONDUCT_MOVES[current]
    if allowed:
        assert move_conduct(current, wanted) is wanted
    else:
        with pytest.raises(MoveRefused):
            move_conduct(current, wanted)


def test_the_tables_are_whole() -> None:
    assert set(BILLING_MOVES) == set(Billing) and set(CONDUCT_MOVES) == set(Conduct)


def test_what_the_tables_forbid() -> None:
    assert Billing.PAST_DUE not in BILLING_MOVES[Billing.SUSPENDED], "a suspended account comes back by paying in full"
    assert CONDUCT_MOVES[Conduct.CLOSED] == {Conduct.GOOD, Conduct.WATCHED}, "closed is left by an appeal only"
    for conduct in set(Conduct) - {Conduct.CLOSED}:
        assert Conduct.CLOSED in CONDUCT_MOVES[conduct], "a named operator may close at once"


@pytest.mark.parametrize(("billing", "conduct"), list(product(Billing, Conduct)))
def test_what_each_standing_permits(billing: Billing, conduct: Conduct) -> None:
    closed, unpaid = conduct is Conduct.CLOSED, billing is Billing.SUSPENDED
    stopped = conduct is Conduct.STOPPED
    assert rights(account(billing, conduct)) == Rights(
        log_in_to_send=not closed and not unpaid,
        send_outside=not closed and not unpaid and not stopped,
        receive=not closed and not unpaid,
        defer_incoming=unpaid and not closed,
    )


def test_mail_is_never_both_received_and_deferred_and_only_closing_loses_it() -> None:
    for billing, conduct in product(Billing, Conduct):
        found = rights(account(billing, conduct))
        assert not (found.receive and found.defer_incoming)
        assert (found.receive or found.defer_incoming) is (conduct is not Conduct.CLOSED)


@pytest.mark.parametrize(
    ("address", "owned"),
    [
        ("", True),
        ("ann@example.com", True),
        ("sales@example.com", True),
        ("anything@shop.example", True),
        ("bob@example.com", False),
        ("ann@example.org", False),
        ("ann@sub.shop.example", False),
        ("ANN@example.com", False),
    ],
)
def test_ownership(address: str, owned: bool) -> None:
    """Addresses are in normal form, so that comparing them is enough."""
    ann = account(Billing.CURRENT, Conduct.GOOD, "sales@example.com", "@shop.example")
    assert ann.owns(address) is owned
