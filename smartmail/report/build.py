"""A month's record, the credits and the audience -> the report. Pure: the same in, the same out."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

from smartmail.core.maintenance import Effect, Window, about, windows
from smartmail.core.minutes import LocationVotes, Verdict, counted_votes
from smartmail.core.month_record import FORMAT, LocationView, MonthRecord, digest
from smartmail.core.months import Span
from smartmail.core.outcome import Outcome, Vote, vote_of
from smartmail.core.planes import cut, runs
from smartmail.core.roster import CheckSpec, roster_planes, sla_planes
from smartmail.core.sla import Assessment, Incident, shown_share
from smartmail.report import arithmetic
from smartmail.report.model import (
    Audience,
    CheckLine,
    Counts,
    CreditLine,
    Day,
    IncidentLine,
    LocationLine,
    MonthReport,
    Revision,
    Seen,
    StepLine,
    Stretch,
    Verification,
    WindowLine,
)
from smartmail.report.wording import DAYS, Clock, listed, plural

MOST_WORDS: Final = 6
"""Kinds of failures told of one incident; more are counted."""
MOST_DETAIL: Final = 120
"""Characters of a server's answer that are told."""

OUTCOMES: Final[Mapping[int, str]] = {
    Outcome.REFUSED: "connection refused",
    Outcome.UNREACHABLE: "not reachable",
    Outcome.TIMEOUT: "no answer in time",
    Outcome.TLS: "encryption failed",
    Outcome.CERTIFICATE: "certificate not valid",
    Outcome.DNS: "name not resolved",
    Outcome.TRANSIENT: "temporary refusal",
    Outcome.PERMANENT: "refusal",
    Outcome.LOGIN: "login refused",
    Outcome.CONTENT: "wrong answer",
    Outcome.PROTOCOL: "not the protocol",
    Outcome.LOST: "connection lost",
    Outcome.NOT_ARRIVED: "mail did not arrive",
}
"""What was seen to fail, for people."""


@dataclass(frozen=True, slots=True)
class Reader:
    """For whom a report is. customer: whose name is on it, for the audience of that name. credits: of that customer, or
    of all for the operator; ignored for everybody. seen: failures as told by agents, in any order."""

    audience: Audience = Audience.OPERATOR
    customer: str = ""
    credits: Sequence[CreditLine] = ()
    seen: Sequence[Seen] = ()


def from_record(record: MonthRecord, zone: tzinfo, revision: Revision, reader: Reader) -> MonthReport:
    """The report. zone: the contract's, for showing times; the record's own days say which minutes they are."""
    clock, evidence, assessment = Clock(zone), record.evidence, record.assessment
    own = () if reader.audience is Audience.EVERYBODY else tuple(reader.credits)
    return MonthReport(
        audience=reader.audience,
        customer=reader.customer,
        record=record,
        clock=clock,
        revision=revision,
        verification=Verification(digest(record), evidence.sample_digest, evidence.tz_version, FORMAT),
        terms=evidence.terms,
        headline=arithmetic.headline(record),
        consequence=arithmetic.consequence(record),
        month_minutes=evidence.span.minutes,
        counts=Counts(*(plane.bit_count() for _, plane in _planes(assessment))),
        days=_days(record),
        checks=_checks(record),
        locations=_locations(record),
        incidents=_incidents(record, reader),
        windows=_windows(record),
        credits=own,
        credit_counts=dict(sorted(Counter(line.reason for line in own).items())),
        arithmetic=arithmetic.steps(record, clock),
    )


def _planes(assessment: Assessment) -> tuple[tuple[Verdict, int], ...]:
    return (
        (Verdict.UP, assessment.up),
        (Verdict.DOWN, assessment.down),
        (Verdict.UNKNOWN, assessment.unknown),
        (Verdict.MAINTENANCE, assessment.maintenance),
    )


def _days(record: MonthRecord) -> tuple[Day, ...]:
    measured, planes = record.assessment.span, _planes(record.assessment)
    found = []
    for day, span in record.evidence.days:
        part = measured.cut(span.first, span.end)
        shift = part.first - measured.first
        parts = [(verdict, cut(plane, shift, shift + part.minutes)) for verdict, plane in planes]
        stretches = [
            Stretch(part.first - span.first + start, end - start, verdict)
            for verdict, plane in parts
            for start, end in runs(plane)
        ]
        if not part.minutes:
            stretches = [Stretch(0, span.minutes, None)]
        elif part.minutes < span.minutes:
            around = ((0, part.first - span.first), (part.end - span.first, span.minutes))
            stretches += [Stretch(start, end - start, None) for start, end in around if start < end]
        counts = Counts(*(plane.bit_count() for _, plane in parts))
        label = f"{DAYS[day.weekday()]} {day.day}"
        found.append(Day(day.isoformat(), label, span, counts, tuple(sorted(stretches, key=lambda one: one.offset))))
    return tuple(found)


def _checks(record: MonthRecord) -> tuple[CheckLine, ...]:
    specs = _specs(record)
    return tuple(
        CheckLine(view, specs[view.check].kind.value, f"{specs[view.check].host}:{specs[view.check].port}")
        for view in record.findings.checks
    )


def _specs(record: MonthRecord) -> dict[str, CheckSpec]:
    """Each check as the latest roster that has it says."""
    history = sorted(record.evidence.history, key=lambda roster: (roster.from_minute, roster.version))
    return {check.name: check for roster in history for check in roster.checks}


def _locations(record: MonthRecord) -> tuple[LocationLine, ...]:
    evidence, span = record.evidence, record.assessment.span
    shift, n = span.first - evidence.span.first, span.minutes
    silenced = {place: cut(plane, shift, shift + n) for place, plane in evidence.silenced.items()}
    rosters = roster_planes(evidence.history, span.first, span.end)
    bearing = sla_planes(evidence.history, evidence.service, span.first, span.end)
    expected: dict[str, int] = {}
    failed: dict[str, int] = {}
    wanting: dict[str, int] = {}
    for check, bears in bearing.items():
        roster = {place: plane & bears for place, plane in rosters.get(check, {}).items()}
        votes = {
            place: LocationVotes(cut(vote.up, shift, shift + n), cut(vote.down, shift, shift + n))
            for place, vote in evidence.streams.get(check, {}).items()
        }
        counted = counted_votes(votes, roster, silenced)
        for place, plane in roster.items():
            vote = counted.get(place, LocationVotes(0, 0))
            expected[place] = expected.get(place, 0) | plane
            failed[place] = failed.get(place, 0) | vote.down
            wanting[place] = wanting.get(place, 0) | plane & ~(vote.up | vote.down)
    views: dict[str, list[LocationView]] = {}
    for view in record.findings.locations:
        views.setdefault(view.location, []).append(view)
    eligible = record.assessment.up | record.assessment.down | record.assessment.unknown
    return tuple(
        _location(
            place,
            (expected[place] & eligible, failed[place] & eligible, wanting[place] & eligible),
            silenced.get(place, 0),
            tuple(views.get(place, ())),
        )
        for place in sorted(expected)
    )


def _location(name: str, planes: tuple[int, int, int], silenced: int, views: tuple[LocationView, ...]) -> LocationLine:
    expected, down, wanting = planes
    muted = expected & silenced & ~down
    silent = wanting & ~down & ~muted
    up = expected & ~(down | muted | silent)
    ups, downs = up.bit_count(), down.bit_count()
    share = shown_share(ups, ups + downs)
    return LocationLine(name, ups, downs, muted.bit_count(), silent.bit_count(), share, down, muted | silent, views)


def _incidents(record: MonthRecord, reader: Reader) -> tuple[IncidentLine, ...]:
    failures = (one for one in reader.seen if vote_of(one.outcome) is Vote.DOWN)
    seen = sorted(failures, key=lambda one: (one.minute, one.check, one.location, one.outcome, one.detail))
    end = record.assessment.span.end
    return tuple(
        IncidentLine(number, one, _what(one, end, seen, reader.audience))
        for number, one in enumerate(record.findings.incidents, 1)
    )


def _what(incident: Incident, end: int, seen: Sequence[Seen], audience: Audience) -> tuple[str, ...]:
    """What was seen to fail in an incident, by check and way of failing, the most frequent first. seen: by minute."""
    ways: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], set[str]] = {}
    details: dict[tuple[str, str], str] = {}
    first = bisect_left(seen, incident.start, key=_minute)
    last = bisect_left(seen, end if incident.end is None else incident.end, key=_minute)
    for one in seen[first:last]:
        if one.check in incident.checks:
            way = (one.check, OUTCOMES.get(one.outcome, "failure"))
            ways[way] += 1
            places.setdefault(way, set()).add(one.location)
            details.setdefault(way, one.detail)
    lines = []
    for way, _ in sorted(ways.items(), key=lambda item: (-item[1], item[0])):
        check, how = way
        line = f"{check}: {how}, seen from {listed(tuple(sorted(places[way])))}"
        if audience is Audience.OPERATOR and details[way]:
            line += f' ("{details[way][:MOST_DETAIL]}")'
        lines.append(line)
    if len(lines) > MOST_WORDS:
        lines[MOST_WORDS:] = [f"and {plural(len(lines) - MOST_WORDS, 'way', 'ways')} more of failing"]
    return tuple(lines)


def _minute(one: Seen) -> int:
    return one.minute


def _windows(record: MonthRecord) -> tuple[WindowLine, ...]:
    evidence = record.evidence
    span = evidence.span
    folded = windows(about(evidence.announcements, evidence.service), evidence.terms.notice_minutes)
    touching = [window for window in folded if any(_overlaps(part, span) for part in _spans(window))]
    return tuple(
        _window(window, record.assessment) for window in sorted(touching, key=lambda one: (one.planned, one.name))
    )


def _spans(window: Window) -> Iterable[tuple[int, int]]:
    """Every time that the window was said to be at, a cancelled one too."""
    yield window.planned
    for entry, _ in window.steps:
        yield window.planned[0], max(entry.until_minute, window.planned[0])


def _overlaps(part: tuple[int, int], span: Span) -> bool:
    return part[0] < span.end and span.first < part[1]


def _window(window: Window, assessment: Assessment) -> WindowLine:
    span, first = assessment.span, window.planned[0]
    counted = span.mask(*window.counted)
    over = 0
    if window.counts and window.counted[1] in span:
        after = span.cut(window.counted[1], span.end)
        rest = cut(assessment.down, after.first - span.first, span.minutes)
        # The lowest clear bit is where the outage that began in the window ends.
        over = (~rest & (rest + 1)).bit_length() - 1
    steps = tuple(
        StepLine(
            entry.action.value,
            entry.recorded_ms,
            entry.until_minute,
            first - -(-entry.recorded_ms // 60_000),
            effect,
        )
        for entry, effect in window.steps
    )
    return WindowLine(
        name=window.name,
        text=window.text,
        planned=window.planned,
        cancelled=window.cancelled,
        note=window.steps[0][1] is Effect.NOTE,
        excluded=(counted & assessment.maintenance).bit_count(),
        down_over=over,
        steps=steps,
    )
