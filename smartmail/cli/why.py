"""What the relay would say to an account now, and why, in plain words. Pure: facts in, explanation out.

The answers are not told from memory: the relay's own decision functions and counters are asked, with the
facts that the store holds. What only a running relay knows (sessions, the client's network) is not asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from smartmail.core.budget import Budget, key_of
from smartmail.core.limits import Counters, Limit, Mode, Refusal, Scope, Usage
from smartmail.core.policy import ACCEPT, Decision, Destination, Door, at_login, at_mail, at_rcpt, over_limit
from smartmail.core.standing import Account, Billing, Conduct
from smartmail.store.directory import conduct_in_force, worse
from smartmail.store.records import AccountRecord, Axis, CustomerRecord, DomainRecord, StandingChange, Subject

_SUBMISSION = Door(needs_login=True)
_INCOMING = Door(needs_login=False, accepts_incoming=True)
_ELSEWHERE = "example.net"
_TTL_NS = 10**9
_COUNTED = (Scope.ACCOUNT, Scope.CUSTOMER, Scope.DOMAIN)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the store holds on an account. limits: those of its plan and the configured ones. counters: the
    relay's last snapshot, loaded; None where there is none. changes: evidence on the account, its domain
    and customer."""

    account: AccountRecord
    customer: CustomerRecord
    domain: DomainRecord
    limits: tuple[Limit, ...]
    changes: Sequence[StandingChange]
    counters: Counters | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One thing the account may try: what the relay would say. reply "" where it lets it pass."""

    question: str
    allowed: bool
    reply: str
    because: str


@dataclass(frozen=True, slots=True)
class LimitLine:
    """One limit, and how much of it is used. usage: None before the relay has stored its counters."""

    limit: Limit
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """account: with what is above it folded in, as the relay sees it. holds: all that stands in its way."""

    account: Account
    holds: tuple[str, ...]
    answers: tuple[Answer, ...]
    limits: tuple[LimitLine, ...]


def explain(facts: Facts, now_ns: int) -> Explanation:
    """Ask the relay's rules about the account as it stands now."""
    account = in_force(facts)
    holds = tuple(_holds(facts))
    counted = tuple(limit for limit in facts.limits if limit.scope in _COUNTED)
    return Explanation(
        account=account,
        holds=holds,
        answers=_answers(account, counted, facts.counters, now_ns, "; ".join(holds)),
        limits=tuple(_limit_lines(account, counted, facts.counters, now_ns)),
    )


def in_force(facts: Facts) -> Account:
    """The account as the directory hands it to the relay."""
    record = facts.account
    above_closed = facts.domain.closed_ns is not None or facts.customer.closed_ns is not None
    return Account(
        id=record.id,
        address=record.address,
        customer=record.customer,
        domain=record.domain,
        aliases=frozenset(record.aliases),
        plan=record.plan,
        billing=worse(record.billing, facts.customer.billing),
        conduct=conduct_in_force(record.conduct, above_closed=above_closed),
        created_ns=record.created_ns,
        limits=facts.limits,
    )


def _holds(facts: Facts) -> list[str]:
    """All that keeps the account from doing as it likes, widest first, each with its evidence."""
    account, customer, domain = facts.account, facts.customer, facts.domain
    found: list[tuple[str, Subject, Axis]] = []
    if customer.closed_ns is not None:
        found.append((f"the customer {customer.name} is closed", Subject.CUSTOMER, Axis.CONDUCT))
    if customer.billing is not Billing.CURRENT:
        found.append((f"the customer {customer.name} {_PAYING[customer.billing]}", Subject.CUSTOMER, Axis.BILLING))
    if domain.closed_ns is not None:
        found.append((f"the domain {domain.name} is closed", Subject.DOMAIN, Axis.CONDUCT))
    if account.billing is not Billing.CURRENT:
        found.append((f"the account {_PAYING[account.billing]}", Subject.ACCOUNT, Axis.BILLING))
    if account.conduct is not Conduct.GOOD:
        found.append((f"the account {_BEHAVING[account.conduct]}", Subject.ACCOUNT, Axis.CONDUCT))
    return [words + _evidence(facts.changes, subject, axis) for words, subject, axis in found]


_PAYING = {
    Billing.CURRENT: "has paid",
    Billing.PAST_DUE: "is past due, which alone forbids nothing",
    Billing.SUSPENDED: "is suspended as unpaid",
}
_BEHAVING = {
    Conduct.GOOD: "behaves",
    Conduct.WATCHED: "is watched, which alone forbids nothing",
    Conduct.SLOWED: "is slowed for its conduct",
    Conduct.STOPPED: "may not send to other domains, for its conduct",
    Conduct.CLOSED: "is closed",
}


def _evidence(changes: Sequence[StandingChange], subject: Subject, axis: Axis) -> str:
    latest = max(
        (one for one in changes if one.subject is subject and one.axis is axis),
        key=lambda one: one.at_ns,
        default=None,
    )
    return "" if latest is None else f' (by {latest.who}: "{latest.reason}")'


def _answers(
    account: Account, limits: tuple[Limit, ...], counters: Counters | None, now_ns: int, holds: str
) -> tuple[Answer, ...]:
    login = at_login(account)
    mail = at_mail(_SUBMISSION, account, account.address)
    outside = _after(mail, at_rcpt(_SUBMISSION, account, Destination(None, local=False), 0, 1))
    inside = _after(mail, at_rcpt(_SUBMISSION, account, Destination(None, local=True), 0, 1))
    incoming = at_rcpt(_INCOMING, None, Destination(account, local=True), 0, 1)
    known = _counted(account, limits, counters, now_ns, new=False)
    unknown = _counted(account, limits, counters, now_ns, new=True)
    asked = (
        ("log in to send, with the right password", login),
        (f"send as {account.address}", mail),
        ("send to another domain", _after(outside, known)),
        ("send to an address it never wrote to", _after(outside, unknown)),
        ("send to a domain of ours", _after(inside, known)),
        ("receive mail", incoming),
    )
    return tuple(_answer(question, decision, holds) for question, decision in asked)


def _after(earlier: Decision, later: Decision) -> Decision:
    """What is refused first is what the client hears."""
    return later if earlier.accepted else earlier


def _counted(
    account: Account, limits: tuple[Limit, ...], counters: Counters | None, now_ns: int, *, new: bool
) -> Decision:
    """What the limits say to one more recipient; taken from a copy, and given back."""
    if counters is None:
        counters = Counters()
    charges = Budget(limits, account, network="-").opening(_ELSEWHERE, 0, is_new=new)
    taken = counters.reserve(charges, now_ns, _TTL_NS)
    if isinstance(taken, Refusal):
        return over_limit(taken)
    counters.release(taken.id, now_ns)
    return ACCEPT


def _answer(question: str, decision: Decision, holds: str) -> Answer:
    if decision.accepted:
        return Answer(question, allowed=True, reply="", because="")
    because = f"the limit {decision.limit} is reached" if decision.limit else holds or decision.reason.value
    return Answer(question, allowed=False, reply=str(decision.reply or ""), because=because)


def _limit_lines(
    account: Account, limits: tuple[Limit, ...], counters: Counters | None, now_ns: int
) -> list[LimitLine]:
    subjects: dict[Scope, str | int] = {
        Scope.ACCOUNT: account.id,
        Scope.CUSTOMER: account.customer,
        Scope.DOMAIN: account.domain,
    }
    return [
        LimitLine(
            limit, counters.usage(limit, key_of(limit.scope, subjects[limit.scope]), now_ns) if counters else None
        )
        for limit in limits
        if limit.mode is not Mode.OFF
    ]
