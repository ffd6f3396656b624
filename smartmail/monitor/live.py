"""Every service as it stands now, by the same reckoning as the month's end."""

from datetime import UTC, datetime
from typing import Final

from smartmail.core.burn import WINDOWS
from smartmail.core.live import LiveMonth, live_month
from smartmail.core.month_record import MonthRecord
from smartmail.core.months import Month
from smartmail.monitor.months import Months
from smartmail.store.errors import Conflict, NotFound

SETTLE_MINUTES: Final = 2
"""A minute is looked at so long after its end: its probes have ended then, and their samples are here."""


def look(months: Months, now_ms: int) -> tuple[LiveMonth, ...]:
    """All services that exist now. Blocks for as long as a month takes to be judged. Raises StoreError."""
    settled_ms = now_ms - SETTLE_MINUTES * 60_000
    today = datetime.fromtimestamp(settled_ms // 1000, UTC)
    month = Month(today.year, today.month)
    found = []
    for service in sorted({name for near in (month.previous(), month) for name in _services(months, near)}):
        record = _running(months, service, month, settled_ms)
        if record is None or record.assessment.span.end < settled_ms // 60_000:
            continue
        behind = record.assessment.span.end - record.evidence.span.first
        before = _judged(months, service, record.month.previous(), settled_ms) if behind < WINDOWS[-1] else None
        found.append(live_month(record, None if before is None else before.assessment))
    return tuple(found)


def _running(months: Months, service: str, month: Month, now_ms: int) -> MonthRecord | None:
    """The month that runs in the zone of its terms: by UTC it may be the next already, or still the one before."""
    for one in (month.next(), month, month.previous()):
        if (record := _judged(months, service, one, now_ms)) is not None:
            return record
    return None


def _judged(months: Months, service: str, month: Month, now_ms: int) -> MonthRecord | None:
    try:
        return months.judge(service, month, now_ms)
    except (Conflict, NotFound):  # not begun, no terms yet, or there was no such service
        return None


def _services(months: Months, month: Month) -> tuple[str, ...]:
    try:
        return months.services(month)
    except Conflict:  # no terms were in force
        return ()
