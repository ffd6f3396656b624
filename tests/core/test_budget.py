"""What a recipient draws on: which limits, under which keys, how much; and that a mail adds up however it is sent."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.budget import MAX_OPENINGS, Budget, key_of
from smartmail.core.limits import Limit, Mode, Scope, Unit
from smartmail.core.standing import Account, Billing, Conduct

ANN = Account(17, "ann@example.com", 100, "example.com", frozenset(), "standard", Billing.CURRENT, Conduct.GOOD, 0, ())
NETWORK = "192.0.2.0/24"


def limit(scope: Scope, unit: Unit, mode: Mode = Mode.ENFORCE) -> Limit:
    return Limit(f"{scope}-{unit}", scope, unit, 10, 60, 0, mode)


ALL = [limit(scope, unit) for scope in Scope for unit in Unit]


def drawn(budget: Budget, recipients: list[tuple[str, bool]], size: int) -> Counter[tuple[Scope, Unit, str]]:
    """Units by scope, unit and key for a mail to recipients: (domain, is a new one)."""
    total: Counter[tuple[Scope, Unit, str]] = Counter()
    seen: set[str] = set()
    for number, (domain, is_new) in enumerate(recipients):
        if number == 0:
            charges = budget.opening(domain, size, is_new=is_new)
        else:
            charges = budget.further(domain, size, is_new=is_new, first_there=domain not in seen)
        seen.add(domain)
        for charge in charges:
            total[charge.limit.scope, charge.limit.unit, charge.key] += charge.amount
    return total


@pytest.mark.parametrize(
    ("scope", "subject", "key"),
    [
        (Scope.ACCOUNT, 17, "a:17"),
        (Scope.CUSTOMER, 100, "c:100"),
        (Scope.DOMAIN, "example.com", "d:example.com"),
        (Scope.CLIENT, NETWORK, f"i:{NETWORK}"),
        (Scope.RECIPIENT_DOMAIN, "example.net", "r:example.net"),
    ],
)
def test_keys(scope: Scope, subject: str | int, key: str) -> None:
    assert key_of(scope, subject) == key


def test_no_two_scopes_share_a_key() -> None:
    assert len({key_of(scope, "x") for scope in Scope}) == len(Scope)


def test_a_mail_to_three_in_two_domains() -> None:
    found = drawn(Budget(ALL, ANN, NETWORK), [("a.example", True), ("b.example", False), ("a.example", True)], 500)
    for scope, key in [
        (Scope.ACCOUNT, "a:17"),
        (Scope.CUSTOMER, "c:100"),
        (Scope.DOMAIN, "d:example.com"),
        (Scope.CLIENT, f"i:{NETWORK}"),
    ]:
        assert found[scope, Unit.MESSAGES, key] == 1
        assert found[scope, Unit.RECIPIENTS, key] == 3
        assert found[scope, Unit.FIRST_TIME, key] == 2
        assert found[scope, Unit.BYTES, key] == 500
    domain = Scope.RECIPIENT_DOMAIN
    assert found[domain, Unit.MESSAGES, "r:a.example"] == found[domain, Unit.MESSAGES, "r:b.example"] == 1
    assert (found[domain, Unit.RECIPIENTS, "r:a.example"], found[domain, Unit.RECIPIENTS, "r:b.example"]) == (2, 1)
    assert found[domain, Unit.BYTES, "r:a.example"] == found[domain, Unit.BYTES, "r:b.example"] == 500
    assert found[domain, Unit.FIRST_TIME, "r:a.example"] == 0


def test_without_an_account_only_network_and_recipient_domain_count() -> None:
    found = drawn(Budget(ALL, None, NETWORK), [("a.example", False)], 1)
    assert {scope for scope, _, _ in found} == {Scope.CLIENT, Scope.RECIPIENT_DOMAIN}


def test_limits_that_are_off_are_not_looked_at_and_shadows_are() -> None:
    off = [limit(scope, unit, Mode.OFF) for scope in Scope for unit in Unit]
    assert drawn(Budget(off, ANN, NETWORK), [("a.example", True)], 1) == {}
    assert not Budget(off, ANN, NETWORK).counts_first_time
    shadow = [limit(Scope.ACCOUNT, Unit.RECIPIENTS, Mode.SHADOW)]
    assert drawn(Budget(shadow, ANN, NETWORK), [("a.example", True)], 1).total() == 1


def test_strangers_are_asked_after_only_where_a_limit_wants_to_know() -> None:
    assert Budget([limit(Scope.ACCOUNT, Unit.FIRST_TIME)], ANN, NETWORK).counts_first_time
    assert not Budget([limit(Scope.ACCOUNT, Unit.RECIPIENTS)], ANN, NETWORK).counts_first_time
    assert not Budget([limit(Scope.ACCOUNT, Unit.FIRST_TIME)], None, NETWORK).counts_first_time


def test_a_size_that_was_not_declared_is_still_a_charge() -> None:
    """Its amount is corrected when the mail has passed; without it there would be nothing to correct."""
    charges = Budget([limit(Scope.ACCOUNT, Unit.BYTES)], ANN, NETWORK).opening("a.example", 0, is_new=False)
    assert [(charge.key, charge.amount) for charge in charges] == [("a:17", 0)]


def test_charges_that_are_kept_are_those_of_that_domain_and_of_no_declared_size() -> None:
    budget = Budget(ALL, ANN, NETWORK)
    for domain in (*(f"{number}.example" for number in range(MAX_OPENINGS + 2)), "0.example", "1.example"):
        for size in (0, 7, 0):
            for is_new in (False, True, False):
                fresh = Budget(ALL, ANN, NETWORK).opening(domain, size, is_new=is_new)
                assert budget.opening(domain, size, is_new=is_new) == fresh


@given(st.lists(st.tuples(st.sampled_from(["a.example", "b.example", "c.example"]), st.booleans()), min_size=1))
def test_a_mail_is_one_message_and_each_recipient_is_one(recipients: list[tuple[str, bool]]) -> None:
    found = drawn(Budget(ALL, ANN, NETWORK), recipients, 9)
    assert found[Scope.ACCOUNT, Unit.MESSAGES, "a:17"] == 1
    assert found[Scope.ACCOUNT, Unit.RECIPIENTS, "a:17"] == len(recipients)
    assert found[Scope.ACCOUNT, Unit.BYTES, "a:17"] == 9
    for domain in {domain for domain, _ in recipients}:
        there = [one for one, _ in recipients if one == domain]
        assert found[Scope.RECIPIENT_DOMAIN, Unit.MESSAGES, f"r:{domain}"] == 1
        assert found[Scope.RECIPIENT_DOMAIN, Unit.RECIPIENTS, f"r:{domain}"] == len(there)
        assert found[Scope.RECIPIENT_DOMAIN, Unit.BYTES, f"r:{domain}"] == 9
