"""`account why`: what the relay would say, asked of the relay's own rules."""

import pytest

from smartmail.cli.why import Explanation, Facts, explain
from smartmail.core.limits import Charge, Counters, Limit, Mode, Reservation, Scope, Unit
from smartmail.core.standing import Billing, Conduct
from smartmail.store.records import AccountRecord, Axis, CustomerRecord, DomainRecord, StandingChange, Subject

NOW = 1_700_000_000 * 10**9
DAILY = Limit("daily", Scope.ACCOUNT, Unit.RECIPIENTS, 2, 86400)
STRANGERS = Limit("strangers", Scope.ACCOUNT, Unit.FIRST_TIME, 1, 86400)
QUESTIONS = ("log in", "send as", "another domain", "never wrote to", "domain of ours", "receive")


def told(
    *,
    billing: Billing = Billing.CURRENT,
    conduct: Conduct = Conduct.GOOD,
    customer_billing: Billing = Billing.CURRENT,
    customer_closed: int | None = None,
    domain_closed: int | None = None,
    counters: Counters | None = None,
    limits: tuple[Limit, ...] = (DAILY, STRANGERS),
    changes: tuple[StandingChange, ...] = (),
) -> Explanation:
    account = AccountRecord(17, "ann@example.com", 3, "example.com", "standard", billing, conduct, 1, ())
    customer = CustomerRecord(3, "Acme", "", customer_billing, 1, customer_closed)
    domain = DomainRecord("example.com", 3, 1, domain_closed)
    return explain(Facts(account, customer, domain, limits, changes, counters), NOW)


def replies(found: Explanation) -> list[str]:
    """The reply code and enhanced code of each answer, "" where it passes, in the order of QUESTIONS."""
    assert all(key in one.question for key, one in zip(QUESTIONS, found.answers, strict=True))
    return [" ".join(one.reply.split()[:2]) for one in found.answers]


CLOSED = ["525 5.7.13"] * 5 + ["550 5.2.1"]
UNPAID = ["525 5.7.13"] * 5 + ["450 4.2.1"]


@pytest.mark.parametrize(
    ("standing", "said", "hold"),
    [
        ({}, [""] * 6, ""),
        ({"billing": Billing.PAST_DUE}, [""] * 6, "the account is past due, which alone forbids nothing"),
        ({"billing": Billing.SUSPENDED}, UNPAID, "the account is suspended as unpaid"),
        ({"conduct": Conduct.WATCHED}, [""] * 6, "the account is watched, which alone forbids nothing"),
        ({"conduct": Conduct.SLOWED}, [""] * 6, "the account is slowed for its conduct"),
        (
            {"conduct": Conduct.STOPPED},
            ["", "", "550 5.7.1", "550 5.7.1", "", ""],
            "the account may not send to other domains, for its conduct",
        ),
        ({"conduct": Conduct.CLOSED}, CLOSED, "the account is closed"),
        ({"customer_billing": Billing.SUSPENDED}, UNPAID, "the customer Acme is suspended as unpaid"),
        ({"customer_closed": 5}, CLOSED, "the customer Acme is closed"),
        ({"domain_closed": 5}, CLOSED, "the domain example.com is closed"),
        (
            {"billing": Billing.SUSPENDED, "domain_closed": 5},
            CLOSED,
            "the domain example.com is closed; the account is suspended as unpaid",
        ),
    ],
)
def test_standing(standing: dict[str, object], said: list[str], hold: str) -> None:
    found = told(**standing)  # type: ignore[arg-type]
    assert replies(found) == said
    assert "; ".join(found.holds) == hold
    assert all(one.because == hold for one in found.answers if not one.allowed)


def test_a_hold_names_who_and_why_of_its_newest_evidence() -> None:
    def change(subject: Subject, reason: str, at_ns: int) -> StandingChange:
        return StandingChange(subject, "17", Axis.CONDUCT, "good", "closed", reason, "anna", at_ns)

    changes = (
        change(Subject.ACCOUNT, "old", 1),
        change(Subject.ACCOUNT, "case 7", 2),
        change(Subject.DOMAIN, "other", 3),
    )
    found = told(conduct=Conduct.CLOSED, changes=changes)
    assert found.holds == ('the account is closed (by anna: "case 7")',)


def used(limit: Limit, amount: int) -> Counters:
    counters = Counters()
    taken = counters.reserve([Charge(limit, "a:17", amount)], NOW, 10**9)
    assert isinstance(taken, Reservation)
    counters.commit(taken.id, NOW)
    return counters


def test_a_reached_limit_defers_sending_and_nothing_else() -> None:
    found = told(counters=used(DAILY, 2))
    assert replies(found) == ["", "", "450 4.7.1", "450 4.7.1", "450 4.7.1", ""]
    assert {one.because for one in found.answers if not one.allowed} == {"the limit daily is reached"}
    assert [(line.limit.name, line.usage and line.usage.free) for line in found.limits] == [
        ("daily", 0),
        ("strangers", 1),
    ]


def test_a_limit_on_new_recipients_leaves_known_ones_alone() -> None:
    assert replies(told(counters=used(STRANGERS, 1))) == ["", "", "", "450 4.7.1", "", ""]


def test_standing_is_named_before_limits() -> None:
    found = told(conduct=Conduct.CLOSED, counters=used(DAILY, 2))
    assert replies(found) == CLOSED


def test_limits_that_are_off_or_not_an_accounts_are_not_told() -> None:
    off = Limit("off", Scope.ACCOUNT, Unit.MESSAGES, 0, 1, mode=Mode.OFF)
    client = Limit("client", Scope.CLIENT, Unit.MESSAGES, 0, 1)
    assert [line.limit.name for line in told(limits=(off, client, DAILY)).limits] == ["daily"]
    assert replies(told(limits=(off, client))) == [""] * 6


def test_asking_uses_nothing_up() -> None:
    counters = used(DAILY, 1)
    first = told(counters=counters)
    assert told(counters=counters) == first
    assert counters.open == 0
