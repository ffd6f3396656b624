"""Who is credited for a month below the promise: "we will add another month on to your subscription".

Rules (DESIGN section 4). Credited is every subscription that lived on the service for any minute of the month, past
due and unpaid ones too. Not credited, by the terms in force: one closed for abuse, which forfeits; one that was only on
trial in that month, unless the terms say otherwise; one that ended before. One credit for a subscription, month and
clause, however many services fell below, and however often the month is restated or the run repeated. A granted credit
stands when a later revision is met; only an explicit decision reverses it, by an entry, and a reversal likewise.

A subscription that was never paid has no "paid through" to move: its month is counted from the first anchor day on or
after its creation.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta, tzinfo
from enum import StrEnum
from typing import Final

from smartmail.core.ledger import Draft, Entry, Kind, body_of, first_anchor, shift_paid
from smartmail.core.months import Span, first_minute

CLAUSE: Final = "uptime"
"""The clause of the terms that grants the credit."""
FOR_ABUSE: Final = "abuse"
ENDED: Final = "ended"
"""Why a subscription was closed."""


class CreditRefused(ValueError):
    """This cannot be reversed. hint: what to do instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Reason(StrEnum):
    """What was decided on a subscription, and why."""

    GRANTED = "granted"
    ALREADY = "already credited"
    REVERSED = "reversed by decision"
    """It was credited, and that was reversed: another revision does not bring it back, a decision does."""
    ABUSE = "closed for abuse"
    TRIAL = "on trial"
    ENDED = "ended before"
    ELSEWHERE = "not on the service"


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscription as the decision needs it. Minutes are POSIX minutes; end_minute is None while it is open.

    created: its first day, for counting where it was never paid. trial_until: its last day on trial. stays: on which
    service it lived, half-open minutes, end None for until now.
    """

    subscription: int
    customer: int
    anchor_day: int
    paid_through: date | None
    created: date
    first_minute: int
    end_minute: int | None = None
    closed_for: str = ""
    trial_until: date | None = None
    stays: tuple[tuple[str, int, int | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Grounds:
    """A month of one service that grants credits: the revision that says so, and what its terms say of credits.

    record: digest of the revision's record. zone: of the contract.
    """

    service: str
    month: str
    span: Span
    revision: int
    record: str
    terms: str
    zone: tzinfo
    credit_months: int = 1
    trial_credited: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What a subscription gets. service, paid_to: of a granted one; grounds: which revision granted it."""

    subscriber: Subscriber
    reason: Reason
    key: str
    grounds: Grounds | None = None
    paid_to: date | None = None


def credit_key(subscription: int, month: str, clause: str = CLAUSE) -> str:
    """What may be credited once only. Neither revision nor run is in it."""
    return f"credit:{subscription}:{month}:{clause}"


def reversal_key(key: str) -> str:
    """What may be reversed once only; a reversal has such a key too."""
    return f"reversal:{key}"


def subject_of(subscription: int) -> str:
    """As entries name a subscription."""
    return f"subscription:{subscription}"


def decide(subscriber: Subscriber, grounds: Sequence[Grounds], held: Collection[str]) -> Decision:
    """What the subscriber gets for a month.

    grounds: those of this month, of every service that fell below; the first one that it lived on grants. held: keys
    that are in the ledger already, of this subscriber at least. Raises ValueError without grounds.
    """
    if not grounds:
        raise ValueError("nothing was promised and broken")
    key = credit_key(subscriber.subscription, grounds[0].month)
    if key in held:
        return Decision(subscriber, _held_as(key, held), key)
    reasons = []
    for ground in grounds:
        reason = _reason(subscriber, ground)
        if reason is Reason.GRANTED:
            paid_to = shift_paid(_base(subscriber), ground.credit_months, subscriber.anchor_day)
            return Decision(subscriber, reason, key, ground, paid_to)
        reasons.append(reason)
    return Decision(subscriber, next((one for one in reasons if one is not Reason.ELSEWHERE), Reason.ELSEWHERE), key)


def credit_draft(decision: Decision, actor: str, at_ms: int) -> Draft:
    """The entry of a granted decision: with it anybody can say why, and check the sum. Raises ValueError for another
    decision."""
    ground, subscriber = decision.grounds, decision.subscriber
    if ground is None or decision.paid_to is None:
        raise ValueError(f"nothing was granted to the subscription {subscriber.subscription}")
    body = body_of(
        subscription=subscriber.subscription,
        customer=subscriber.customer,
        service=ground.service,
        month=ground.month,
        clause=CLAUSE,
        revision=ground.revision,
        record=ground.record,
        terms=ground.terms,
        months=ground.credit_months,
        anchor_day=subscriber.anchor_day,
        paid_from=_text(subscriber.paid_through),
        counted_from=_text(_base(subscriber)),
        paid_to=_text(decision.paid_to),
    )
    subject = subject_of(subscriber.subscription)
    return Draft(Kind.CREDIT_GRANTED, decision.key, actor, subject, body, at_ms)


@dataclass(frozen=True, slots=True)
class Undoing:
    """The decision to reverse an entry. today: UTC. used: also if the credited time has begun to be used."""

    reason: str
    actor: str
    at_ms: int
    today: date
    used: bool = False


def reverse(entry: Entry, subscriber: Subscriber, undoing: Undoing) -> tuple[Draft, date | None]:
    """The entry that undoes `entry`, a credit or the reversal of one, and the "paid through" after it.

    Raises CreditRefused for any other entry, no reason, a subscription that has forfeited, or a credit that is used
    (unless `undoing.used`).
    """
    if entry.kind not in (Kind.CREDIT_GRANTED, Kind.CREDIT_REVERSED, Kind.CREDIT_RESTORED):
        raise CreditRefused(f'"{entry.key}" is no credit', "only credits and their reversals can be reversed")
    if not undoing.reason.strip():
        raise CreditRefused("a reversal needs a reason", "give --reason TEXT")
    if subscriber.closed_for == FOR_ABUSE:
        raise CreditRefused("it was closed for abuse: its credits are forfeited", "there is nothing left to reverse")
    now = subscriber.paid_through
    before = json.loads(entry.body)
    months = -int(before["months"])
    moved = shift_paid(_base(subscriber), months, subscriber.anchor_day)
    if months < 0 and moved < undoing.today and not undoing.used:
        raise CreditRefused(
            f"the credited time is used: without it, it would have been paid through {moved}",
            "give --used to take it back all the same",
        )
    paid_to: date | None = moved
    if before["paid_to"] == _text(now):
        # Exactly what was before, where nothing came between: a clamped date finds back to its own day.
        paid_to = None if before["paid_from"] is None else date.fromisoformat(before["paid_from"])
    body = body_of(
        subscription=subscriber.subscription,
        reverses=entry.key,
        reason=undoing.reason,
        months=months,
        anchor_day=subscriber.anchor_day,
        paid_from=_text(now),
        paid_to=_text(paid_to),
    )
    kind = Kind.CREDIT_RESTORED if months > 0 else Kind.CREDIT_REVERSED
    subject = subject_of(subscriber.subscription)
    return Draft(kind, reversal_key(entry.key), undoing.actor, subject, body, undoing.at_ms), paid_to


def balance(entries: Iterable[Entry]) -> Mapping[int, int]:
    """Credited months by subscription, as the entries say: granted, less reversed. Forfeited ones count nothing."""
    months: dict[int, int] = {}
    for entry in entries:
        if entry.kind in (Kind.CREDIT_GRANTED, Kind.CREDIT_REVERSED, Kind.CREDIT_RESTORED):
            body = json.loads(entry.body)
            months[body["subscription"]] = months.get(body["subscription"], 0) + int(body["months"])
        elif entry.kind == Kind.SUBSCRIPTION_FORFEITED:
            months[json.loads(entry.body)["subscription"]] = 0
    return months


def audit(entries: Iterable[Entry]) -> list[str]:
    """What is wrong with the credits in an unbroken chain: a sum that is not as it says, a key that is not of its
    content, a reversal of what is not there. One line for each."""
    found: list[str] = []
    months: dict[str, int] = {}
    for entry in entries:
        if entry.kind not in (Kind.CREDIT_GRANTED, Kind.CREDIT_REVERSED, Kind.CREDIT_RESTORED):
            continue
        try:
            wrong = _wrong_with(entry, json.loads(entry.body), months)
        except (KeyError, TypeError, ValueError) as error:
            wrong = f"its content cannot be read: {error}"
        if wrong:
            found.append(f"entry {entry.seq}: {wrong}")
    return found


def _wrong_with(entry: Entry, body: Mapping[str, object], months: dict[str, int]) -> str:
    count, anchor = int(str(body["months"])), int(str(body["anchor_day"]))
    subscription = int(str(body["subscription"]))
    months[entry.key] = count
    if entry.subject != subject_of(subscription):
        return "it is about another subscription than its subject"
    if entry.kind == Kind.CREDIT_GRANTED:
        if entry.key != credit_key(subscription, str(body["month"]), str(body["clause"])):
            return "its key is not that of its content"
        base, paid_to = date.fromisoformat(str(body["counted_from"])), date.fromisoformat(str(body["paid_to"]))
        if body["paid_from"] is not None and body["paid_from"] != body["counted_from"]:
            return "it is not counted from what was paid"
        return "" if shift_paid(base, count, anchor) == paid_to else "its dates are not its months apart"
    reversed_key = str(body["reverses"])
    if entry.key != reversal_key(reversed_key):
        return "its key is not that of its content"
    return "" if months.get(reversed_key) == -count else "it does not undo what it names"


def _reason(subscriber: Subscriber, ground: Grounds) -> Reason:
    first = max(ground.span.first, subscriber.first_minute)
    end = ground.span.end if subscriber.end_minute is None else min(ground.span.end, subscriber.end_minute)
    lived_until = max(
        (
            min(end, end if until is None else until)
            for service, since, until in subscriber.stays
            if service == ground.service and max(first, since) < min(end, end if until is None else until)
        ),
        default=None,
    )
    if lived_until is None:
        gone = subscriber.end_minute is not None and subscriber.end_minute <= ground.span.first
        return Reason.ENDED if gone else Reason.ELSEWHERE
    if subscriber.closed_for == FOR_ABUSE:
        return Reason.ABUSE
    if subscriber.trial_until is not None and not ground.trial_credited:
        trial_end = first_minute(subscriber.trial_until + timedelta(days=1), ground.zone)
        if lived_until <= trial_end:
            return Reason.TRIAL
    return Reason.GRANTED


def _held_as(key: str, held: Collection[str]) -> Reason:
    reason = Reason.ALREADY
    while (key := reversal_key(key)) in held:
        reason = Reason.REVERSED if reason is Reason.ALREADY else Reason.ALREADY
    return reason


def _base(subscriber: Subscriber) -> date:
    return subscriber.paid_through or first_anchor(subscriber.created, subscriber.anchor_day)


def _text(day: date | None) -> str | None:
    return None if day is None else day.isoformat()
