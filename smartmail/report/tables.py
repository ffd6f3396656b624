"""The report's tables as CSV (RFC 4180, UTF-8): days, incidents, credits, whole."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

from smartmail.report.model import MonthReport

STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet may take for the beginning of a formula, the wide forms among it."""

Cell = str | int | None


def days_csv(report: MonthReport) -> str:
    """A row for each local day: its minutes by verdict."""
    header = ("service", "date", "minutes", "up", "down", "unknown", "maintenance", "not_measured")
    service = report.record.service
    return _csv(
        header,
        (
            (
                service,
                day.date,
                day.span.minutes,
                day.counts.up,
                day.counts.down,
                day.counts.unknown,
                day.counts.maintenance,
                day.unmeasured,
            )
            for day in report.days
        ),
    )


def incidents_csv(report: MonthReport) -> str:
    """A row for each incident, times with their offset; end is empty while it is still down."""
    header = ("service", "incident", "start", "down_from", "end", "down_minutes", "excluded_minutes")
    clock, service = report.clock, report.record.service
    rows: list[Sequence[Cell]] = []
    for line in report.incidents:
        one = line.incident
        times = (clock.iso(one.start), clock.iso(one.down_from), None if one.end is None else clock.iso(one.end))
        minutes = (one.down_minutes, one.excluded_minutes)
        words = (" ".join(one.checks), " ".join(one.locations), "; ".join(line.what))
        rows.append((service, line.number, *times, *minutes, *words))
    return _csv((*header, "checks", "locations", "what"), rows)


def credits_csv(report: MonthReport) -> str:
    """A row for each subscription."""
    header = ("service", "month", "subscription", "customer", "plan", "decision", "months", "paid_from", "paid_to")
    month, service = str(report.record.month), report.record.service
    return _csv(
        (*header, "ledger_entry", "ledger_hash"),
        (
            (
                service,
                month,
                line.subscription,
                line.customer,
                line.plan,
                line.reason.value,
                line.months,
                line.paid_from,
                line.paid_to,
                line.number,
                line.seal,
            )
            for line in report.credits
        ),
    )


def guarded(cell: Cell) -> Cell:
    """A text that a spreadsheet would run as a formula gets a ' in front, and NUL goes. Numbers stay numbers."""
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\0", "")
    return f"'{text}" if text.lstrip(" \u00a0\ufeff").startswith(STARTS) else text


def _csv(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([guarded(cell) for cell in row] for row in rows)
    return out.getvalue()
