"""The way from the minutes of the month to its result, written out with the real integers.

Each sum can be checked with a pocket calculator: integers only, and the comparison that decides is the one that the
contract makes, not one of percentages.
"""

from collections.abc import Sequence
from typing import Final

from smartmail.core.month_record import MonthRecord
from smartmail.core.months import Span
from smartmail.core.sla import Assessment, Favour, Result, Terms
from smartmail.report.model import Step
from smartmail.report.wording import MONTHS, Clock, minutes, months, notice, number, percent, target

DAY: Final = 1440


def steps(record: MonthRecord, clock: Clock) -> tuple[Step, ...]:
    """The arithmetic of a month, in order."""
    assessment, terms = record.assessment, record.evidence.terms
    return (
        _of_month(record, clock),
        *_of_measured(record, clock),
        _of_maintenance(assessment, terms),
        *(_of_promise(assessment, terms) if assessment.eligible else ()),
        _verdict(assessment, terms),
    )


def headline(record: MonthRecord) -> str:
    """The result in a sentence."""
    assessment, terms = record.assessment, record.evidence.terms
    promise = target(terms)
    if _running(record):
        so_far = {
            Result.BREACHED: f"The month is not over; so far availability is below {promise}",
            Result.MET: f"The month is not over; so far {promise} is kept",
            Result.INDETERMINATE: f"The month is not over; so far it cannot be told whether {promise} is kept",
            Result.NO_COMMITMENT: "The month is not over; so far no minute of it counts",
        }
        return f"{so_far[assessment.result]}."
    return {
        Result.MET: f"Availability was {promise} or better.",
        Result.BREACHED: f"Availability was below {promise}.",
        Result.INDETERMINATE: f"The measurements cannot show whether availability was {promise}.",
        Result.NO_COMMITMENT: "No minute of this month counts, so there is no availability to state.",
    }[assessment.result]


def consequence(record: MonthRecord) -> str:
    """What the terms make of the result, in a sentence."""
    assessment, terms = record.assessment, record.evidence.terms
    if _running(record):
        return "A month is judged after its end."
    granted = f"Each subscription on the service is extended by {months(terms.credit_months)}"
    if assessment.result is Result.INDETERMINATE:
        who = terms.indeterminate.value
        decided = f"Terms {terms.version} decide such a month in the {who}'s favour."
        ending = f" {granted}." if assessment.credit else " No subscription is extended."
        return decided + ending
    return f"{granted}." if assessment.credit else "No subscription is extended."


def _running(record: MonthRecord) -> bool:
    return record.evidence.until < record.evidence.span.end


def _of_month(record: MonthRecord, clock: Clock) -> Step:
    days, span = record.evidence.days, record.evidence.span
    usual = sum(1 for _, day in days if day.minutes == DAY)
    parts = [f"{usual} x {number(DAY)}", *(number(day.minutes) for _, day in days if day.minutes != DAY)]
    unusual = [f"{day.day} {MONTHS[day.month - 1]} has {_hours(part)}" for day, part in days if part.minutes != DAY]
    says = f"The month runs from {clock.full(span.first)} to {clock.full(span.end)}."
    if unusual:
        says += f" The clock changes: {'; '.join(unusual)}."
    if record.evidence.zone_before:
        says += f" It begins where the month before ended, by the clock of {record.evidence.zone_before}."
    return Step("Minutes of the month", f"{' + '.join(parts)} = {number(span.minutes)}", says)


def _hours(span: Span) -> str:
    hours, rest = divmod(span.minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} hours"


def _of_measured(record: MonthRecord, clock: Clock) -> Sequence[Step]:
    """Nothing, where the whole month was measured."""
    span, measured = record.evidence.span, record.assessment.span
    before, after = measured.first - span.first, span.end - measured.end
    if not before and not after:
        return ()
    if not measured.minutes:
        says = "The service was not there in this month."
    else:
        until = "up to which measurements are in" if _running(record) and after else "when the service ended"
        began = f"The service began at {clock.full(measured.first)}." if before else ""
        ended = f"The last minute measured is the one before {clock.full(measured.end)}, {until}." if after else ""
        says = f"{began} {ended}".strip()
    parts = [number(span.minutes), *(f"- {number(part)}" for part in (before, after) if part)]
    return (Step("Minutes measured", f"{' '.join(parts)} = {number(measured.minutes)}", says),)


def _of_maintenance(assessment: Assessment, terms: Terms) -> Step:
    excluded = assessment.maintenance_minutes
    says = "No maintenance is left out."
    if excluded:
        announced = f"announced {notice(terms)} or more before its start"
        says = f"{minutes(excluded)} of maintenance {announced} {_are(excluded)} left out."
    if terms.cap_minutes is not None:
        says += f" The terms leave out {minutes(terms.cap_minutes)} a month at most."
    total = assessment.span.minutes
    return Step("Minutes that count", f"{number(total)} - {number(excluded)} = {number(assessment.eligible)}", says)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _of_promise(assessment: Assessment, terms: Terms) -> Sequence[Step]:
    up, down, unknown = assessment.up_minutes, assessment.down_minutes, assessment.unknown_minutes
    eligible, tolerance = assessment.eligible, terms.tolerance
    share = f"{number(tolerance)} in {number(terms.denominator)}"
    worst = f"({number(eligible)} - {number(down)} - {number(unknown)}) / {number(eligible)}"
    best = f"({number(eligible)} - {number(down)}) / {number(eligible)}"
    sides = f"{best} = {percent(assessment.availability_high)}"
    says = "Cut after three places, never rounded up. Only shown: the comparison below decides."
    if unknown:
        sides += f"; {worst} = {percent(assessment.availability_low)}"
        says = (
            "At best, with every unknown minute taken as up; at worst, with every one taken as down. "
            "Cut after three places, never rounded up. Only shown: the comparison below decides."
        )
    return (
        Step(
            "What they were",
            f"{number(up)} up + {number(down)} down + {number(unknown)} unknown = {number(eligible)}",
            "Each minute that counts is exactly one of the three. Silence is unknown, never up.",
        ),
        Step("Availability", sides, says),
        Step(
            "Minutes that may be down",
            f"{number(eligible)} x {number(tolerance)} / {number(terms.denominator)},"
            f" whole minutes: {number(assessment.allowed_down)}",
            f"{target(terms)} leaves {share} minutes.",
        ),
    )


def _verdict(assessment: Assessment, terms: Terms) -> Step:
    down, unknown, eligible = assessment.down_minutes, assessment.unknown_minutes, assessment.eligible
    factor, limit = terms.denominator, terms.tolerance * eligible
    right = f"{number(terms.tolerance)} x {number(eligible)} = {number(limit)}"
    certain = f"{number(factor)} x {number(down)} = {number(factor * down)}"
    title = "The comparison that decides"
    if assessment.result is Result.NO_COMMITMENT:
        return Step(
            title, f"{number(assessment.span.minutes)} - {number(assessment.maintenance_minutes)} = 0", _NOTHING
        )
    if assessment.result is Result.BREACHED:
        return Step(
            title,
            f"{certain} is more than {right}",
            "Below the promise, even if every unknown minute was up. Exactly on it would be kept.",
        )
    most = f"{number(factor)} x ({number(down)} + {number(unknown)}) = {number(factor * (down + unknown))}"
    if assessment.result is Result.MET:
        if not unknown:
            return Step(title, f"{certain} is not more than {right}", "The promise is kept.")
        return Step(
            title, f"{most} is not more than {right}", "The promise is kept, even if every unknown minute was down."
        )
    wins = "the month counts as not met" if terms.indeterminate is Favour.CUSTOMER else "the month counts as met"
    return Step(
        title,
        f"{certain} is not more than {right}, but {most} is",
        f"The unknown minutes would decide it. By terms {terms.version}, in the {terms.indeterminate.value}'s favour,"
        f" {wins}.",
    )


_NOTHING = "No minute counts: nothing was promised for this month, so nothing was kept or broken."
