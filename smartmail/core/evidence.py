"""What a month of a service is judged by: rosters, votes, announcements, terms, and the days as they were.

The evidence of a published record is what its figures follow from, and nothing of other services or of secrets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import pairwise

from smartmail.core.canonical import Fields, JsonError, items, text, whole
from smartmail.core.maintenance import Announcement, about, announcement_from_json
from smartmail.core.minutes import LocationVotes
from smartmail.core.months import MOST_MINUTES, Month, Span
from smartmail.core.planes import ones, pack, unpack
from smartmail.core.roster import NO_OPTIONS, Roster, existence, roster_from_json, roster_planes
from smartmail.core.sla import Terms, span_from_json, terms_from_json

Day = tuple[date, Span]
Streams = Mapping[str, Mapping[str, LocationVotes]]


class EvidenceError(ValueError):
    """This is no evidence of a month; the message says where."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a month is judged by. All planes are over the whole month: bit 0 is its first minute.

    days: as the zone's rules were when the month was first judged (`months.days_of`; tz_version says which rules); they
    make up the month. until: the minute up to which samples are in: the month's end once it is over, earlier for a
    running one. history: rosters; streams: check -> location -> votes; silenced: location -> minutes in which its
    control targets failed; of these and of the announcements more than the service and month need may be given (see
    `relevant`). sample_digest: of the stored samples. zone_before: that of the month before, where it was another; ""
    else. was_before, is_after: of a service that is off the roster at the month's beginning or end, was it there in the
    month before, and is it in the one after? Raises EvidenceError if the days are not one after the other.
    """

    service: str
    month: Month
    zone: str
    tz_version: str
    days: tuple[Day, ...]
    until: int
    terms: Terms
    history: tuple[Roster, ...]
    streams: Streams
    silenced: Mapping[str, int] = field(repr=False)
    announcements: tuple[Announcement, ...]
    sample_digest: str
    zone_before: str = ""
    was_before: bool = False
    is_after: bool = False

    def __post_init__(self) -> None:
        if not self.days or any(one.end != other.first for (_, one), (_, other) in pairwise(self.days)):
            raise EvidenceError("a month is made of days, one after the other")
        if self.span.minutes > MOST_MINUTES:
            raise EvidenceError("no month is that long")

    @property
    def span(self) -> Span:
        """The whole month."""
        return Span(self.days[0][1].first, self.days[-1][1].end)

    @property
    def measured(self) -> Span:
        """The minutes to be judged: of the month, those from the service's first to its last on the roster, up to
        `until`. Its absence in between is within, as unknown, also where the months' border lies in between: off the
        roster for a while hides no outage."""
        span = self.span
        plane = existence(self.history, self.service, span.first, span.end)
        if not plane:
            return Span(span.first, span.first)
        first = 0 if self.was_before else (plane & -plane).bit_length() - 1
        end = span.end if self.is_after else span.first + plane.bit_length()
        return span.cut(span.first + first, min(end, self.until))

    def to_json(self) -> dict[str, object]:
        """As stored and hashed."""
        n = self.span.minutes
        seldom: dict[str, object] = {
            "zone_before": self.zone_before,
            "was_before": self.was_before,
            "is_after": self.is_after,
        }
        return {
            **{name: value for name, value in seldom.items() if value},
            "service": self.service,
            "month": str(self.month),
            "zone": self.zone,
            "tz_version": self.tz_version,
            "days": [[day.isoformat(), span.first, span.end] for day, span in self.days],
            "until": self.until,
            "terms": self.terms.to_json(),
            "rosters": [roster.to_json() for roster in self.history],
            "streams": {
                check: {place: {"up": pack(one.up, n), "down": pack(one.down, n)} for place, one in places.items()}
                for check, places in self.streams.items()
            },
            "silenced": {place: pack(plane, n) for place, plane in self.silenced.items()},
            "announcements": [entry.to_json() for entry in self.announcements],
            "sample_digest": self.sample_digest,
        }


def evidence_from_json(value: object) -> Evidence:
    """Read what `to_json` gives. Raises EvidenceError."""
    try:
        return _evidence(Fields(value, "evidence"))
    except EvidenceError:
        raise
    except ValueError as error:
        raise EvidenceError(f"this is no evidence of a month: {error}") from error


def relevant(evidence: Evidence) -> Evidence:
    """The same without what the month and the service do not need: rosters not in force in the month, checks of other
    services and the options of its own, votes of minutes in which a location was not to report or of which samples are
    not in yet, announcements of other months. Every stream of the roster is there, silent or not. Doing it twice
    changes nothing; the same samples in any form come out as the same evidence."""
    span = evidence.span
    history = _history(evidence)
    rosters = roster_planes(history, span.first, span.end)
    so_far = ones(span.cut(span.first, evidence.until).minutes)
    to_report: dict[str, int] = {}
    streams: dict[str, dict[str, LocationVotes]] = {}
    for check, places in sorted(rosters.items()):
        given = evidence.streams.get(check, {})
        streams[check] = {place: _within(given.get(place), plane & so_far) for place, plane in sorted(places.items())}
        for place, plane in places.items():
            to_report[place] = to_report.get(place, 0) | (plane & so_far)
    muted = {place: plane & evidence.silenced.get(place, 0) for place, plane in sorted(to_report.items())}
    entries = about(evidence.announcements, evidence.service)
    touching = {one.window for one in entries if one.from_minute < span.end and span.first < one.until_minute}
    return replace(
        evidence,
        history=history,
        streams=streams,
        silenced={place: plane for place, plane in muted.items() if plane},
        announcements=tuple(one for one in entries if one.window in touching),
    )


def _history(evidence: Evidence) -> tuple[Roster, ...]:
    """The rosters in force in the month, in order, with nothing but the service's checks."""
    span, service = evidence.span, evidence.service
    ordered = sorted(evidence.history, key=lambda roster: (roster.from_minute, roster.version))
    kept = []
    for index, roster in enumerate(ordered):
        end = ordered[index + 1].from_minute if index + 1 < len(ordered) else span.end
        if max(roster.from_minute, span.first) < min(end, span.end):
            own = (replace(check, options=NO_OPTIONS) for check in roster.checks if check.service == service)
            kept.append(replace(roster, checks=tuple(own)))
    return tuple(kept)


def _within(vote: LocationVotes | None, minutes: int) -> LocationVotes:
    if vote is None:
        return LocationVotes(0, 0)
    down = vote.down & minutes
    return LocationVotes(vote.up & minutes & ~down, down)


def _evidence(fields: Fields) -> Evidence:
    days = tuple(_day(one) for one in fields.items("days"))
    n = span_from_json([days[0][1].first, days[-1][1].end]).minutes if days else 0
    streams = fields.fields("streams")
    return Evidence(
        service=fields.text("service"),
        month=Month.parse(fields.text("month")),
        zone=fields.text("zone"),
        tz_version=fields.text("tz_version"),
        days=days,
        until=fields.number("until"),
        terms=terms_from_json(fields.value("terms")),
        history=tuple(roster_from_json(one) for one in fields.items("rosters")),
        streams={check: _streams(streams.fields(check), n) for check in streams},
        silenced=_planes(fields.fields("silenced"), n),
        announcements=tuple(_announcement(one) for one in fields.items("announcements")),
        sample_digest=fields.text("sample_digest"),
        zone_before=fields.text("zone_before") if "zone_before" in fields else "",
        was_before=fields.flag("was_before") if "was_before" in fields else False,
        is_after=fields.flag("is_after") if "is_after" in fields else False,
    )


def _day(value: object) -> Day:
    parts = items(value, "a day")
    if len(parts) != 3:
        raise JsonError("a day is a date and two minutes")
    return date.fromisoformat(text(parts[0], "a date")), Span(whole(parts[1], "a minute"), whole(parts[2], "a minute"))


def _streams(places: Fields, n: int) -> dict[str, LocationVotes]:
    read = {place: _planes(places.fields(place), n) for place in places}
    for place, planes in read.items():
        if planes.keys() != {"up", "down"} or planes["up"] & planes["down"]:
            raise JsonError(f"{place} says neither up nor down, or both, of a minute")
    return {place: LocationVotes(planes["up"], planes["down"]) for place, planes in read.items()}


def _planes(fields: Fields, n: int) -> dict[str, int]:
    return {name: unpack(fields.text(name), n) for name in fields}


def _announcement(value: object) -> Announcement:
    if not isinstance(value, dict):
        raise JsonError("an announcement is an object")
    return announcement_from_json(value)
