"""What of a long report is shown to people. Tables and JSON have everything."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from smartmail.core.credits import Reason
from smartmail.core.maintenance import Effect
from smartmail.report.model import Audience, CreditLine, Day, IncidentLine, MonthReport, WindowLine
from smartmail.report.wording import length, minutes, plural

MOST_CREDITS: Final = 30
"""Subscriptions listed for people."""


DECISIONS: Final = {
    Reason.GRANTED: "Extended",
    Reason.ALREADY: "Extended for this month already",
    Reason.REVERSED: "Extended, then reversed by decision",
    Reason.ABUSE: "Not extended: closed for abuse",
    Reason.TRIAL: "Not extended: on trial in this month",
    Reason.ENDED: "Not extended: ended before this month",
    Reason.ELSEWHERE: "Not extended: not on this service in this month",
}
"""What was decided on a subscription, for whoever has it."""


def decision(line: CreditLine) -> str:
    """What was decided, in words."""
    if line.reason is not Reason.GRANTED:
        return DECISIONS[line.reason]
    if line.entry is None:
        return f"{plural(line.months, 'month')} due, not entered yet"
    return f"Extended by {plural(line.months, 'month')}"


def remarks(report: MonthReport) -> tuple[str, ...]:
    """What the result alone would say wrongly: credits that stand, and a later revision."""
    found = []
    granted = any(line.reason is Reason.GRANTED and line.entry is not None for line in report.credits)
    earlier = report.revision.number > 1 and not report.record.assessment.credit
    if earlier and (granted or report.audience is Audience.EVERYBODY):
        found.append("A credit that an earlier revision granted stands.")
    if report.revision.newest:
        found.append(f"This is revision {report.revision.number}; revision {report.revision.newest} has replaced it.")
    return tuple(found)


def day_lines(days: Sequence[Day]) -> list[tuple[str, int, int, str]]:
    """The days that were not up in every minute: label, minutes, minutes up, and the others in words. Neighbours that
    were nothing but maintenance, or not measured at all, are one line."""
    found: list[tuple[str, int, int, str]] = []
    for one, group in groupby(days, key=_sort):
        together = list(group)
        if one == "clean":
            continue
        groups = [together] if one != "mixed" else [[day] for day in together]
        for part in groups:
            label = part[0].label if len(part) == 1 else f"{part[0].label} to {part[-1].label}"
            total, ups = sum(day.span.minutes for day in part), sum(day.counts.up for day in part)
            found.append((label, total, ups, _words(part)))
    return found


def _sort(day: Day) -> str:
    if day.clean and not day.unmeasured:
        return "clean"
    whole = len(day.stretches) == 1 and day.stretches[0].verdict
    return "mixed" if len(day.stretches) > 1 else str(whole)


def _words(days: Sequence[Day]) -> str:
    named = (
        (sum(day.counts.down for day in days), "down"),
        (sum(day.counts.unknown for day in days), "unknown"),
        (sum(day.counts.maintenance for day in days), "maintenance"),
        (sum(day.unmeasured for day in days), "not measured"),
    )
    return ", ".join(f"{count:,} {name}" for count, name in named if count)


def by_length(lines: Sequence[IncidentLine], most: int) -> tuple[IncidentLine, ...]:
    """The `most` incidents that cost the most minutes, in the month's order."""
    costly = sorted(lines, key=lambda line: (-line.incident.down_minutes, line.number))[:most]
    return tuple(sorted(costly, key=lambda line: line.number))


def cut_note(lines: Sequence[IncidentLine], shown: Sequence[IncidentLine]) -> str:
    """What the shown ones leave out: "" if nothing."""
    numbers = {line.number for line in shown}
    rest = [line.incident.down_minutes for line in lines if line.number not in numbers]
    if not rest:
        return ""
    return (
        f"These are the {len(shown)} longest. {plural(len(rest), 'more incident', 'more incidents')},"
        f" none longer than {length(max(rest))}, {minutes(sum(rest))} down in all."
    )


def first_credits(lines: Sequence[CreditLine]) -> Sequence[CreditLine]:
    """Those not granted first, for they need a look; all, where they are few."""
    if len(lines) <= MOST_CREDITS:
        return lines
    return sorted(lines, key=lambda line: line.reason is Reason.GRANTED)[:MOST_CREDITS]


def window_state(line: WindowLine) -> str:
    """What a window came to, in a few words."""
    if line.note:
        return "note only: not left out"
    if line.steps[0].effect is Effect.SHORT_NOTICE:
        return "short notice: not left out"
    words = "cancelled" if line.cancelled else "announced in time"
    if line.down_over:
        words += f", overran by {length(line.down_over)}"
    return words
