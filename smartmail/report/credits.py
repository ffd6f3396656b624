"""What subscriptions got for a month: of a ledger's entry, or of a decision -> a report's line."""

import json

from smartmail.core.canonical import Fields
from smartmail.core.credits import Decision, Reason
from smartmail.core.ledger import Entry
from smartmail.report.model import CreditLine


def credit_line(subscription: int, customer: str, plan: str, reason: Reason, entry: Entry | None) -> CreditLine:
    """entry: of the ledger, the one that granted it. Raises ValueError if its body is none."""
    if entry is None:
        return CreditLine(subscription, customer, plan, reason)
    body = Fields(json.loads(entry.body), f"entry {entry.seq}")
    return CreditLine(
        subscription=subscription,
        customer=customer,
        plan=plan,
        reason=reason,
        entry=entry,
        months=body.number("months"),
        anchor_day=body.number("anchor_day"),
        paid_from=_text_or_none(body, "paid_from"),
        counted_from=_text_or_none(body, "counted_from"),
        paid_to=_text_or_none(body, "paid_to"),
        service=body.text("service"),
    )


def due_line(decision: Decision, customer: str, plan: str) -> CreditLine:
    """Of a decision that is in no ledger yet: what is due, or why nothing is."""
    one, grounds = decision.subscriber, decision.grounds
    months = 0 if grounds is None else grounds.credit_months
    return CreditLine(one.subscription, customer, plan, decision.reason, months=months, anchor_day=one.anchor_day)


def _text_or_none(body: Fields, key: str) -> str | None:
    return None if body.value(key) is None else body.text(key)
