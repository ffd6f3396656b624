"""The report as JSON to publish: the record, the figures that follow from it, and digests over both.

Integers and texts only, in the one canonical way to write them, so the same report is always the same octets.
"""

from typing import Final

from smartmail.core.canonical import canonical, digest_of
from smartmail.core.month_record import MinuteChange, to_json
from smartmail.report.model import (
    Audience,
    Counts,
    CreditLine,
    LocationLine,
    MonthReport,
    WindowLine,
)

FORMAT: Final = "smartmail-sla-report-1"
"""Of the file; the record in it has a format of its own."""


def published(report: MonthReport) -> dict[str, object]:
    """As JSON objects. "digest" is the SHA-256 of the canonical octets of everything else."""
    body: dict[str, object] = {
        "format": FORMAT,
        "audience": report.audience.value,
        "customer": report.customer if report.audience is Audience.CUSTOMER else "",
        "revision": {
            "number": report.revision.number,
            "closed_ms": report.revision.closed_ms,
            "changes": [_change(one) for one in report.revision.changes],
        },
        "record": to_json(report.record),
        "record_digest": report.verification.record_digest,
        "figures": figures(report),
        "seen": [list(line.what) for line in report.incidents],
        "credits": {
            "counts": {reason.value: count for reason, count in report.credit_counts.items()},
            "lines": [credit(line, report.audience) for line in report.credits],
        },
    }
    return {**body, "digest": digest_of(body)}


def octets(report: MonthReport) -> bytes:
    """The file."""
    return canonical(published(report)) + b"\n"


def figures(report: MonthReport) -> dict[str, object]:
    """Every figure of the report that follows from the record alone."""
    assessment = report.record.assessment
    return {
        "service": report.record.service,
        "month": str(report.record.month),
        "result": assessment.result.value,
        "credit": assessment.credit,
        "headline": report.headline,
        "consequence": report.consequence,
        "availability": {"at_best": assessment.availability_high, "at_worst": assessment.availability_low},
        "minutes": {
            "month": report.month_minutes,
            "measured": report.counts.measured,
            "eligible": report.counts.eligible,
            "allowed_down": assessment.allowed_down,
            **_counts(report.counts),
        },
        "days": [{"date": day.date, "minutes": day.span.minutes, **_counts(day.counts)} for day in report.days],
        "locations": [_location(line) for line in report.locations],
        "incidents": [
            {"number": line.number, "start": line.incident.start, "down_minutes": line.incident.down_minutes}
            for line in report.incidents
        ],
        "maintenance": [_window(line) for line in report.windows],
        "arithmetic": [{"step": step.title, "sum": step.sum} for step in report.arithmetic],
    }


def credit(line: CreditLine, audience: Audience) -> dict[str, object]:
    """A subscription's line. Whose it is has the whole entry, to check its hash; the operator has the ledger."""
    told: dict[str, object] = {
        "subscription": line.subscription,
        "plan": line.plan,
        "decision": line.reason.value,
        "months": line.months,
        "anchor_day": line.anchor_day,
        "paid_from": line.paid_from,
        "counted_from": line.counted_from,
        "paid_to": line.paid_to,
        "entry": line.number,
        "hash": line.seal,
    }
    if audience is Audience.OPERATOR:
        return {**told, "customer": line.customer}
    one = line.entry
    if one is None:
        return told
    names = ("seq", "at_ms", "kind", "key", "actor", "subject", "body", "prev", "hash")
    return {**told, "ledger": {name: getattr(one, name) for name in names}}


def _counts(counts: Counts) -> dict[str, object]:
    return {
        "up": counts.up,
        "down": counts.down,
        "unknown": counts.unknown,
        "maintenance": counts.maintenance,
    }


def _location(line: LocationLine) -> dict[str, object]:
    return {
        "location": line.name,
        "availability": line.availability,
        "up": line.up,
        "down": line.down,
        "cut_off": line.silenced,
        "silent": line.silent,
    }


def _window(line: WindowLine) -> dict[str, object]:
    return {
        "window": line.name,
        "planned": list(line.planned),
        "cancelled": line.cancelled,
        "left_out": line.excluded,
        "ran_over": line.down_over,
        "steps": [{"action": step.action, "notice": step.notice, "effect": step.effect.value} for step in line.steps],
    }


def _change(change: MinuteChange) -> list[object]:
    before, after = (None if one is None else one.value for one in (change.before, change.after))
    return [change.first, change.end, before, after]
