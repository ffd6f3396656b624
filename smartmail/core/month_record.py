"""A month's record: the evidence, and all that follows from it. Anybody can compute it again without us.

The record is plain JSON of texts and integers that has one way to be written, so its digest is the same wherever and
whenever it is made of the same evidence. A later change of a zone's rules moves nothing: the days are evidence.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from smartmail.core.canonical import Fields, canonical, differences, digest_of
from smartmail.core.evidence import Evidence, evidence_from_json, relevant
from smartmail.core.maintenance import excluded_plane
from smartmail.core.minutes import (
    CheckMinutes,
    LocationVotes,
    Verdict,
    check_minutes,
    counted_votes,
    service_minutes,
)
from smartmail.core.months import Month
from smartmail.core.planes import cut, ones, runs
from smartmail.core.roster import roster_planes, sla_planes
from smartmail.core.sla import (
    Assessment,
    Failing,
    Incident,
    assess,
    assessment_from_json,
    failing_of,
    incident_from_json,
    incidents,
)

FORMAT: Final = 1
"""Of the record and of the rules that compute it: another rule is another format."""


class RecordError(ValueError):
    """This is no month's record; the message says where."""


@dataclass(frozen=True, slots=True)
class CheckView:
    """A check in the measured minutes: in how many it was in force and bore the SLA, and what those in force were.

    Of the unknown ones: divided (somebody saw it fail, too few to be down), else cut_off (a location was silenced),
    else silent. Maintenance is not taken out here.
    """

    check: str
    in_force: int
    bearing: int
    up: int
    down: int
    unknown: int
    advisory: int
    divided: int
    cut_off: int
    silent: int


@dataclass(frozen=True, slots=True)
class LocationView:
    """A check from one location: the minutes it was to report, of these the ones it saw it up or fail, was silenced or
    said nothing; and alone: it saw it fail and the check was not down."""

    check: str
    location: str
    expected: int
    up: int
    down: int
    silenced: int
    silent: int
    alone: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What follows from the evidence."""

    assessment: Assessment
    incidents: tuple[Incident, ...]
    checks: tuple[CheckView, ...]
    locations: tuple[LocationView, ...]

    def to_json(self) -> dict[str, object]:
        """As stored and hashed."""
        return {
            "assessment": self.assessment.to_json(),
            "incidents": [one.to_json() for one in self.incidents],
            "checks": [asdict(one) for one in self.checks],
            "locations": [asdict(one) for one in self.locations],
        }


@dataclass(frozen=True, slots=True)
class MonthRecord:
    """Evidence and findings of one service and month."""

    evidence: Evidence
    findings: Findings

    @property
    def service(self) -> str:
        """Whose month."""
        return self.evidence.service

    @property
    def month(self) -> Month:
        """Which month."""
        return self.evidence.month

    @property
    def assessment(self) -> Assessment:
        """The verdict."""
        return self.findings.assessment


@dataclass(frozen=True, slots=True)
class MinuteChange:
    """The minutes [first, end) that a restatement judges otherwise. None: not measured."""

    first: int
    end: int
    before: Verdict | None
    after: Verdict | None


@dataclass(frozen=True, slots=True)
class _Stream:
    """A check's part of the evidence, over the measured minutes. Planes by location."""

    check: str
    roster: Mapping[str, int] = field(repr=False)
    counted: Mapping[str, LocationVotes]
    silenced: Mapping[str, int] = field(repr=False)
    minutes: CheckMinutes
    bearing: int = field(repr=False)


def build(evidence: Evidence) -> MonthRecord:
    """Judge a month, or what there is of a running one."""
    evidence = relevant(evidence)
    span = evidence.measured
    checks = _checks(evidence)
    bearing = {one.check: one.bearing for one in checks}
    minutes = service_minutes({one.check: one.minutes for one in checks}, bearing, span.minutes)
    excluded = excluded_plane(evidence.announcements, span, evidence.terms)
    failing: dict[str, Failing] = {one.check: failing_of(one.minutes.down & one.bearing, one.counted) for one in checks}
    findings = Findings(
        assessment=assess(minutes, excluded, evidence.terms, span),
        incidents=incidents(failing, excluded, span),
        checks=tuple(_check_view(one) for one in checks),
        locations=tuple(_location_view(one, place) for one in checks for place in sorted(one.roster)),
    )
    return MonthRecord(evidence, findings)


def to_json(record: MonthRecord) -> dict[str, object]:
    """The record as it is published: the evidence, and the findings under "findings"."""
    return {"format": FORMAT, **record.evidence.to_json(), "findings": record.findings.to_json()}


def from_json(value: object) -> MonthRecord:
    """Read what `to_json` gives, with the findings as they are written there: `verify` computes them again. Raises
    RecordError."""
    try:
        fields = Fields(value, "record")
        if fields.number("format") != FORMAT:
            raise RecordError(f"format {fields.number('format')} is not known here")
        findings = fields.fields("findings")
        return MonthRecord(
            evidence_from_json(value),
            Findings(
                assessment=assessment_from_json(findings.value("assessment")),
                incidents=tuple(incident_from_json(one) for one in findings.items("incidents")),
                checks=tuple(_read_check(Fields(one, "a check")) for one in findings.items("checks")),
                locations=tuple(_read_location(Fields(one, "a location")) for one in findings.items("locations")),
            ),
        )
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"this is no month's record: {error}") from error


def octets_of(record: MonthRecord) -> bytes:
    """The canonical octets of a record."""
    return canonical(to_json(record))


def digest(record: MonthRecord) -> str:
    """SHA-256 of the canonical octets, in hexadecimal."""
    return digest_of(to_json(record))


def verify(value: object) -> list[str]:
    """Compute a published record again from its own evidence: every place where it says something else, as text; none
    if it holds. Raises RecordError if it is no record at all."""
    return differences(value, to_json(build(from_json(value).evidence)))


def recompute(record: MonthRecord) -> list[str]:
    """The same of a record that was read before."""
    return differences(to_json(record), to_json(build(record.evidence)))


def difference(old: MonthRecord, new: MonthRecord) -> tuple[MinuteChange, ...]:
    """The minutes that two revisions judge differently, in order, in runs as long as they can be."""
    one, other = old.assessment, new.assessment
    first = min(one.span.first, other.span.first)
    n = max(one.span.end, other.span.end) - first
    before, after = _by_verdict(one, first, n), _by_verdict(other, first, n)
    changes = [
        MinuteChange(first + start, first + end, was, now)
        for was, old_plane in before.items()
        for now, new_plane in after.items()
        if was is not now
        for start, end in runs(old_plane & new_plane)
    ]
    return tuple(sorted(changes, key=lambda change: change.first))


def _checks(evidence: Evidence) -> list[_Stream]:
    """The service's checks, judged one by one over the measured minutes."""
    span = evidence.measured
    start = span.first - evidence.span.first
    end = start + span.minutes
    silenced = {place: cut(plane, start, end) for place, plane in evidence.silenced.items()}
    bearing = sla_planes(evidence.history, evidence.service, span.first, span.end)
    judged = []
    for check, roster in sorted(roster_planes(evidence.history, span.first, span.end).items()):
        votes = {
            place: LocationVotes(cut(one.up, start, end), cut(one.down, start, end))
            for place, one in evidence.streams[check].items()
        }
        counted = counted_votes(votes, roster, silenced)
        minutes = check_minutes(counted, roster, silenced, evidence.terms.minimum_reporters, span.minutes)
        judged.append(_Stream(check, roster, counted, silenced, minutes, bearing.get(check, 0)))
    return judged


def _check_view(one: _Stream) -> CheckView:
    in_force = _any(one.roster.values())
    unknown = one.minutes.unknown & in_force
    divided = unknown & _any(vote.down for vote in one.counted.values())
    muted = _any(plane & one.silenced.get(place, 0) for place, plane in one.roster.items())
    cut_off = unknown & muted & ~divided
    return CheckView(
        check=one.check,
        in_force=in_force.bit_count(),
        bearing=one.bearing.bit_count(),
        up=one.minutes.up.bit_count(),
        down=one.minutes.down.bit_count(),
        unknown=unknown.bit_count(),
        advisory=one.minutes.advisory.bit_count(),
        divided=divided.bit_count(),
        cut_off=cut_off.bit_count(),
        silent=(unknown & ~(divided | cut_off)).bit_count(),
    )


def _location_view(one: _Stream, place: str) -> LocationView:
    expected, vote = one.roster[place], one.counted[place]
    silenced = expected & one.silenced.get(place, 0)
    return LocationView(
        check=one.check,
        location=place,
        expected=expected.bit_count(),
        up=vote.up.bit_count(),
        down=vote.down.bit_count(),
        silenced=silenced.bit_count(),
        silent=(expected & ~(silenced | vote.up | vote.down)).bit_count(),
        alone=(vote.down & ~one.minutes.down).bit_count(),
    )


def _by_verdict(one: Assessment, first: int, n: int) -> dict[Verdict | None, int]:
    """Each verdict's plane over the n minutes from `first` on."""
    shift = one.span.first - first
    planes: dict[Verdict | None, int] = {
        Verdict.UP: one.up << shift,
        Verdict.DOWN: one.down << shift,
        Verdict.UNKNOWN: one.unknown << shift,
        Verdict.MAINTENANCE: one.maintenance << shift,
    }
    planes[None] = ones(n) & ~_any(planes.values())
    return planes


def _any(planes: Iterable[int]) -> int:
    union = 0
    for plane in planes:
        union |= plane
    return union


def _read_check(fields: Fields) -> CheckView:
    names = ("in_force", "bearing", "up", "down", "unknown", "advisory", "divided", "cut_off", "silent")
    return CheckView(fields.text("check"), *(fields.number(name) for name in names))


def _read_location(fields: Fields) -> LocationView:
    names = ("expected", "up", "down", "silenced", "silent", "alone")
    return LocationView(fields.text("check"), fields.text("location"), *(fields.number(name) for name in names))
