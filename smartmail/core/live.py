"""A running month as it stands: the same minutes as the ledger's, looked at while they come in."""

from dataclasses import dataclass, field
from typing import Final

from smartmail.core.burn import PAIRS, Alert, Budget, Burn, alerts, breach_in, budget, burns
from smartmail.core.maintenance import excluded_plane
from smartmail.core.minutes import LocationVotes, Verdict, check_minutes
from smartmail.core.month_record import MonthRecord
from smartmail.core.months import Span
from smartmail.core.planes import ones
from smartmail.core.roster import roster_planes
from smartmail.core.sla import Assessment, Incident

ALARM_WINDOW: Final = PAIRS[0].long
"""Minutes of the window by whose rate a breach is foretold."""


@dataclass(frozen=True, slots=True)
class Advisory:
    """One location, or too few of them, sees a check fail that the others see up. since: minute."""

    check: str
    location: str
    since: int


@dataclass(frozen=True, slots=True)
class LiveMonth:
    """A service's month up to now. verdict: of its last judged minute. breach_in: minutes, None when not in sight."""

    record: MonthRecord = field(repr=False)
    until: int
    verdict: Verdict | None
    budget: Budget
    burns: tuple[Burn, ...]
    alerts: tuple[Alert, ...]
    breach_in: int | None
    incident: Incident | None
    advisories: tuple[Advisory, ...]


def live_month(record: MonthRecord, before: Assessment | None) -> LiveMonth:
    """record: of the running month, up to now. before: the month before it, for windows that reach back."""
    evidence, now = record.evidence, record.assessment.span.end
    recent = record.assessment if before is None else joined(before, record.assessment)
    rates = burns(recent, now, evidence.terms)
    left = budget(record.assessment, _ahead(record), evidence.terms)
    by_window = {rate.window: rate for rate in rates}
    last = record.findings.incidents[-1] if record.findings.incidents else None
    return LiveMonth(
        record=record,
        until=now,
        verdict=record.assessment.verdict_at(now - 1),
        budget=left,
        burns=rates,
        alerts=alerts(rates, evidence.span),
        breach_in=breach_in(left, by_window[ALARM_WINDOW]),
        incident=last if last is not None and last.end is None else None,
        advisories=_advisories(record),
    )


def joined(before: Assessment, now: Assessment) -> Assessment:
    """Two assessments, the second beginning where the first ends or later, as one for looking back over. The minutes
    between them, of a service that did not exist, are unknown."""
    shift = now.span.first - before.span.first
    gap = ones(shift) & ~ones(before.span.minutes)
    span = Span(before.span.first, now.span.end)
    return Assessment(
        span=span,
        up=before.up | now.up << shift,
        down=before.down | now.down << shift,
        unknown=before.unknown | gap | now.unknown << shift,
        maintenance=before.maintenance | now.maintenance << shift,
        result=now.result,
        credit=now.credit,
        allowed_down=now.allowed_down,
        availability_low=now.availability_low,
        availability_high=now.availability_high,
    )


def _ahead(record: MonthRecord) -> int:
    """Minutes to the month's end that no announced maintenance takes."""
    evidence, now = record.evidence, record.assessment.span.end
    measured = Span(record.assessment.span.first, evidence.span.end)
    excluded = excluded_plane(evidence.announcements, measured, evidence.terms) >> (now - measured.first)
    return evidence.span.end - now - excluded.bit_count()


def _advisories(record: MonthRecord) -> tuple[Advisory, ...]:
    """Who sees a failure in the last judged minute, of checks that are not down in it."""
    evidence = record.evidence
    first, last = evidence.span.first, record.assessment.span.end - 1
    rosters = roster_planes(evidence.history, last, last + 1)
    found = []
    for check, places in sorted(evidence.streams.items()):
        seen = {place: votes.down & ~evidence.silenced.get(place, 0) for place, votes in places.items()}
        failing = sorted(place for place, plane in seen.items() if plane >> (last - first) & 1)
        now = {place: LocationVotes(0, 1) for place in failing}
        # By the check's own votes: an open incident names checks that are up again, and none that bears no SLA.
        if check_minutes(now, rosters.get(check, {}), {}, evidence.terms.minimum_reporters, 1).down:
            continue
        for place in failing:
            since = last
            while since > first and seen[place] >> (since - 1 - first) & 1:
                since -= 1
            found.append(Advisory(check, place, since))
    return tuple(found)
