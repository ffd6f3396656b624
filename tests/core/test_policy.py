"""Every decision by table: door x account x destination -> verdict, reason and reply."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.limits import Charge, Limit, Refusal, Scope, Unit
from smartmail.core.policy import (
    ACCEPT,
    SESSION_ENDED,
    Decision,
    Destination,
    Door,
    Reason,
    Verdict,
    at_connect,
    at_login,
    at_mail,
    at_rcpt,
    over_limit,
)
from smartmail.core.standing import Account, Billing, Conduct

ANN = Account(1, "ann@example.com", 100, "example.com", frozenset(), "standard", Billing.CURRENT, Conduct.GOOD, 0, ())
CLOSED = replace(ANN, conduct=Conduct.CLOSED)
UNPAID = replace(ANN, billing=Billing.SUSPENDED)
STOPPED = replace(ANN, conduct=Conduct.STOPPED)
BOTH = replace(CLOSED, billing=Billing.SUSPENDED)
SUBMISSION = Door(needs_login=True)
TRUSTED = Door(needs_login=False, trusted=True)
INCOMING = Door(needs_login=False, accepts_incoming=True)
STRANGERS = Door(needs_login=False)
OUTSIDE = Destination(None, local=False)
OURS = Destination(None, local=True)


def brief(decision: Decision) -> tuple[Reason, int, str]:
    """Reason, code and enhanced code; (OK, 0, "") for what is accepted."""
    if decision.accepted:
        assert decision == ACCEPT
        return Reason.OK, 0, ""
    assert decision.reply is not None
    return decision.reason, decision.reply.code, decision.reply.enhanced


YES = (Reason.OK, 0, "")


@pytest.mark.parametrize(
    ("door", "expected"),
    [(SUBMISSION, YES), (TRUSTED, YES), (INCOMING, YES), (STRANGERS, (Reason.CLIENT_NOT_TRUSTED, 554, "5.7.1"))],
)
def test_at_connect(door: Door, expected: tuple[Reason, int, str]) -> None:
    assert brief(at_connect(door)) == expected


@pytest.mark.parametrize(
    ("account", "expected"),
    [
        (ANN, YES),
        (replace(ANN, billing=Billing.PAST_DUE), YES),
        (replace(ANN, conduct=Conduct.WATCHED), YES),
        (replace(ANN, conduct=Conduct.SLOWED), YES),
        (STOPPED, YES),
        (UNPAID, (Reason.ACCOUNT_UNPAID, 525, "5.7.13")),
        (CLOSED, (Reason.ACCOUNT_CLOSED, 525, "5.7.13")),
        (BOTH, (Reason.ACCOUNT_CLOSED, 525, "5.7.13")),
    ],
)
def test_at_login(account: Account, expected: tuple[Reason, int, str]) -> None:
    assert brief(at_login(account)) == expected
    assert (at_login(account).reason in SESSION_ENDED) is (expected is not YES), "a live session has its words too"


@pytest.mark.parametrize(
    ("door", "account", "sender", "expected"),
    [
        (SUBMISSION, None, "ann@example.com", (Reason.AUTH_REQUIRED, 530, "5.7.0")),
        (SUBMISSION, None, "", (Reason.AUTH_REQUIRED, 530, "5.7.0")),
        (SUBMISSION, ANN, "ann@example.com", YES),
        (SUBMISSION, ANN, "", YES),
        (SUBMISSION, ANN, "bob@example.com", (Reason.SENDER_NOT_OWNED, 553, "5.7.1")),
        (SUBMISSION, UNPAID, "ann@example.com", (Reason.ACCOUNT_UNPAID, 525, "5.7.13")),
        (SUBMISSION, CLOSED, "ann@example.com", (Reason.ACCOUNT_CLOSED, 525, "5.7.13")),
        (SUBMISSION, STOPPED, "ann@example.com", YES),
        (replace(SUBMISSION, sender_must_be_owned=False), ANN, "bob@example.com", YES),
        (replace(SUBMISSION, allows_null_sender=False), ANN, "", (Reason.SENDER_NOT_OWNED, 553, "5.7.1")),
        (TRUSTED, None, "anybody@example.org", YES),
        (TRUSTED, None, "", YES),
        (INCOMING, None, "anybody@example.org", YES),
    ],
)
def test_at_mail(door: Door, account: Account | None, sender: str, expected: tuple[Reason, int, str]) -> None:
    assert brief(at_mail(door, account, sender)) == expected


DENIED = (Reason.RELAY_DENIED, 550, "5.7.1")
STOP = (Reason.SENDING_STOPPED, 550, "5.7.1")
GONE = (Reason.RECIPIENT_CLOSED, 550, "5.2.1")
HELD = (Reason.RECIPIENT_UNPAID, 450, "4.2.1")


@pytest.mark.parametrize(
    ("door", "account", "destination", "expected"),
    [
        (SUBMISSION, ANN, OUTSIDE, YES),
        (SUBMISSION, ANN, OURS, YES),
        (SUBMISSION, ANN, Destination(CLOSED, local=True), GONE),
        (SUBMISSION, ANN, Destination(UNPAID, local=True), HELD),
        (SUBMISSION, ANN, Destination(BOTH, local=True), GONE),
        (SUBMISSION, ANN, Destination(STOPPED, local=True), YES),
        (SUBMISSION, STOPPED, OUTSIDE, STOP),
        (SUBMISSION, STOPPED, OURS, YES),
        (SUBMISSION, STOPPED, Destination(ANN, local=True), YES),
        (SUBMISSION, STOPPED, Destination(UNPAID, local=True), HELD),
        (TRUSTED, None, OUTSIDE, YES),
        (TRUSTED, None, Destination(CLOSED, local=True), GONE),
        (TRUSTED, None, Destination(UNPAID, local=True), HELD),
        (INCOMING, None, OUTSIDE, DENIED),
        (INCOMING, None, OURS, YES),
        (INCOMING, None, Destination(ANN, local=True), YES),
        (INCOMING, None, Destination(CLOSED, local=True), GONE),
        (INCOMING, None, Destination(UNPAID, local=True), HELD),
    ],
)
def test_at_rcpt(
    door: Door, account: Account | None, destination: Destination, expected: tuple[Reason, int, str]
) -> None:
    assert brief(at_rcpt(door, account, destination, taken=0, most=100)) == expected


@pytest.mark.parametrize(("taken", "accepted"), [(0, True), (99, True), (100, False), (101, False)])
def test_too_many_recipients_is_452(taken: int, accepted: bool) -> None:
    found = brief(at_rcpt(TRUSTED, None, OUTSIDE, taken, most=100))
    assert found == (YES if accepted else (Reason.TOO_MANY_RECIPIENTS, 452, "4.5.3"))


def test_nobody_sends_outside_without_a_login_or_trust() -> None:
    """Every door, every standing: the one thing a relay must never do."""
    standings = [replace(ANN, billing=one, conduct=other) for one, other in product(Billing, Conduct)]
    for needs_login, trusted, incoming in product([False, True], repeat=3):
        door = Door(needs_login, trusted=trusted, accepts_incoming=incoming)
        for account in (None, *standings):
            may_begin = at_connect(door).accepted and at_mail(door, account, "ann@example.com").accepted
            goes_out = may_begin and at_rcpt(door, account, OUTSIDE, 0, 1).accepted
            if goes_out:
                assert trusted or account is not None
            if goes_out and account is not None:
                assert account.billing is not Billing.SUSPENDED
                assert account.conduct not in (Conduct.STOPPED, Conduct.CLOSED)


LIMIT = Limit("hourly", Scope.ACCOUNT, Unit.MESSAGES, 100, 3600)


@pytest.mark.parametrize(
    ("retry_after", "words"),
    [
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (61, "2 minutes"),
        (3600, "1 hour"),
        (3601, "2 hours"),
        (86400, "1 day"),
        (86401, "2 days"),
    ],
)
def test_over_limit_says_when_it_ends(retry_after: int, words: str) -> None:
    decision = over_limit(Refusal(Charge(LIMIT, "a:1", 1), retry_after))
    assert brief(decision) == (Reason.LIMIT_REACHED, 450, "4.7.1")
    assert decision.verdict is Verdict.DEFERRED and decision.limit == "hourly"
    assert decision.reply is not None
    assert decision.reply.text == f"Limit reached: 100 messages in 1 hour (hourly); try again in {words}"


def test_what_never_fits_is_refused_for_good() -> None:
    limit = replace(LIMIT, unit=Unit.BYTES)
    decision = over_limit(Refusal(Charge(limit, "a:1", 101), 0))
    assert (decision.verdict, *brief(decision)) == (Verdict.REJECTED, Reason.LIMIT_REACHED, 550, "5.7.1")


@given(st.sampled_from(Unit), st.integers(1, 10**7), st.integers(1, 10**9), st.integers(0, 10**7))
def test_the_words_of_a_limit_are_one_plain_line(unit: Unit, period: int, quota: int, retry_after: int) -> None:
    decision = over_limit(Refusal(Charge(Limit("x", Scope.ACCOUNT, unit, quota, period), "a:1", 1), retry_after))
    assert decision.reply is not None
    wire = decision.reply.render()
    assert wire.isascii() and wire.count(b"\r\n") == 1 and len(wire) <= 512


def test_replies_agree_with_verdicts() -> None:
    """4xx is deferred, 5xx is rejected; the enhanced code is of the reply's class."""
    decisions = [
        at_connect(STRANGERS),
        at_login(UNPAID),
        at_login(CLOSED),
        at_mail(SUBMISSION, None, ""),
        at_mail(SUBMISSION, ANN, "x@y"),
        *(at_rcpt(INCOMING, None, Destination(one, local=True), 0, 1) for one in (CLOSED, UNPAID)),
        at_rcpt(INCOMING, None, OUTSIDE, 0, 1),
        at_rcpt(INCOMING, None, OUTSIDE, 1, 1),
        at_rcpt(SUBMISSION, STOPPED, OUTSIDE, 0, 1),
    ]
    for decision in decisions:
        assert decision.reply is not None
        expected = Verdict.DEFERRED if decision.reply.transient else Verdict.REJECTED
        assert decision.verdict is expected
        assert decision.reply.enhanced[0] == str(decision.reply.code)[0]
    for farewell in SESSION_ENDED.values():
        assert farewell.code == 421
