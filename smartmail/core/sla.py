"""Minutes and the terms in force -> what a month was: an exact fraction, met or breached, and the incidents.

"Minimum 99.9 % (not including scheduled servicing and maintenance). If in any month it drops below that figure": below
is strict, and everything is whole minutes; a percentage is only ever shown, cut off and never rounded up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Final

from smartmail.core.canonical import Fields, JsonError
from smartmail.core.minutes import LocationVotes, ServiceMinutes, Verdict
from smartmail.core.months import MOST_MINUTES, Month, Span
from smartmail.core.planes import between, ones, pack, runs, unpack

BACKDATED_AT_MOST: Final = 10
"""Minutes that an incident's start goes back before its first down minute. A location that had failed alone for longer
says nothing of when the outage began."""

NOTHING_MEASURED: Final = "-"
"""Shown as availability where no minute was eligible."""


class TermsError(ValueError):
    """These are no terms, or none are in force; the message says why."""


class Favour(StrEnum):
    """Who wins a month that the evidence cannot decide."""

    CUSTOMER = "customer"
    PROVIDER = "provider"


class Result(StrEnum):
    """What a month came to."""

    MET = "met"
    BREACHED = "breached"
    INDETERMINATE = "indeterminate"
    """The unknown minutes would decide it."""
    NO_COMMITMENT = "no_commitment"
    """No minute was eligible: all was maintenance, or there was no service."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is promised from the first month on that begins on or after `effective`: numerator / denominator of it up.

    notice_minutes: how long before its start maintenance is to be announced. cap_minutes: the most minutes of
    maintenance that a month excludes, None: no cap. grace_minutes: a month is closed this long after its end at the
    earliest. restate_days: how long a closed month may be restated. Raises TermsError.
    """

    version: str
    effective: date
    zone: str
    numerator: int = 999
    denominator: int = 1000
    minimum_reporters: int = 2
    notice_minutes: int = 2880
    cap_minutes: int | None = None
    indeterminate: Favour = Favour.CUSTOMER
    credit_months: int = 1
    trial_credited: bool = False
    grace_minutes: int = 4320
    restate_days: int = 90

    def __post_init__(self) -> None:
        if not 0 < self.numerator <= self.denominator:
            raise TermsError(f"{self.numerator}/{self.denominator} is no share to promise")
        if self.minimum_reporters < 1 or self.credit_months < 1:
            raise TermsError("at least one reporter and one month of credit")
        if min(self.notice_minutes, self.cap_minutes or 0, self.grace_minutes, self.restate_days) < 0:
            raise TermsError("a time cannot be negative")
        if not self.version or not self.zone:
            raise TermsError("terms have a version and a zone")

    @property
    def tolerance(self) -> int:
        """The share that may be down, in parts of `denominator`."""
        return self.denominator - self.numerator

    def allowed_down(self, eligible: int) -> int:
        """The most minutes of `eligible` that may be down without a breach."""
        return self.tolerance * eligible // self.denominator

    def to_json(self) -> dict[str, object]:
        """As stored and hashed."""
        return {
            "version": self.version,
            "effective": self.effective.isoformat(),
            "zone": self.zone,
            "numerator": self.numerator,
            "denominator": self.denominator,
            "minimum_reporters": self.minimum_reporters,
            "notice_minutes": self.notice_minutes,
            "cap_minutes": self.cap_minutes,
            "indeterminate": self.indeterminate.value,
            "credit_months": self.credit_months,
            "trial_credited": self.trial_credited,
            "grace_minutes": self.grace_minutes,
            "restate_days": self.restate_days,
        }


def terms_from_json(value: object) -> Terms:
    """Read what `to_json` gives. Raises TermsError."""
    try:
        fields = Fields(value, "terms")
        return Terms(
            version=fields.text("version"),
            effective=date.fromisoformat(fields.text("effective")),
            zone=fields.text("zone"),
            numerator=fields.number("numerator"),
            denominator=fields.number("denominator"),
            minimum_reporters=fields.number("minimum_reporters"),
            notice_minutes=fields.number("notice_minutes"),
            cap_minutes=fields.number_or_none("cap_minutes"),
            indeterminate=Favour(fields.text("indeterminate")),
            credit_months=fields.number("credit_months"),
            trial_credited=fields.flag("trial_credited"),
            grace_minutes=fields.number("grace_minutes"),
            restate_days=fields.number("restate_days"),
        )
    except ValueError as error:
        raise TermsError(f"these are no terms: {error}") from error


def terms_in_force(all_terms: Sequence[Terms], month: Month) -> Terms:
    """The terms of a whole month: the latest that are effective on its 1st; a change within it waits for the next. Of
    several with one date the last in the sequence. Raises TermsError if there are none yet."""
    begun = [terms for terms in all_terms if terms.effective <= month.first_day]
    if not begun:
        raise TermsError(f"no terms are in force on {month.first_day.isoformat()}")
    latest = max(terms.effective for terms in begun)
    return next(terms for terms in reversed(begun) if terms.effective == latest)


@dataclass(frozen=True, slots=True)
class Assessment:
    """A span of minutes, judged. Each of its minutes is in exactly one of the four planes.

    credit: does it earn one, an undecided month by the terms' word. allowed_down: minutes of the eligible ones that may
    be down. availability_low takes the unknown minutes as down, availability_high as up: per cent, cut off after three
    places, "-" where nothing was eligible. Never decide by them.
    """

    span: Span
    up: int = field(repr=False)
    down: int = field(repr=False)
    unknown: int = field(repr=False)
    maintenance: int = field(repr=False)
    result: Result
    credit: bool
    allowed_down: int
    availability_low: str
    availability_high: str

    @property
    def up_minutes(self) -> int:
        """How many were up."""
        return self.up.bit_count()

    @property
    def down_minutes(self) -> int:
        """How many were down."""
        return self.down.bit_count()

    @property
    def unknown_minutes(self) -> int:
        """How many are unknown."""
        return self.unknown.bit_count()

    @property
    def maintenance_minutes(self) -> int:
        """How many were announced maintenance."""
        return self.maintenance.bit_count()

    @property
    def eligible(self) -> int:
        """The minutes that the promise is measured on: all but maintenance."""
        return self.span.minutes - self.maintenance_minutes

    def verdict_at(self, minute: int) -> Verdict | None:
        """What a minute was; None outside the span."""
        if minute not in self.span:
            return None
        bit = minute - self.span.first
        planes = ((Verdict.UP, self.up), (Verdict.DOWN, self.down), (Verdict.UNKNOWN, self.unknown))
        return next((verdict for verdict, plane in planes if plane >> bit & 1), Verdict.MAINTENANCE)

    def to_json(self) -> dict[str, object]:
        """As stored and hashed, with the counts written out."""
        n = self.span.minutes
        return {
            "span": [self.span.first, self.span.end],
            "planes": {name: pack(plane, n) for name, plane in self._planes()},
            "minutes": {name: plane.bit_count() for name, plane in self._planes()} | {"eligible": self.eligible},
            "result": self.result.value,
            "credit": self.credit,
            "allowed_down": self.allowed_down,
            "availability_low": self.availability_low,
            "availability_high": self.availability_high,
        }

    def _planes(self) -> tuple[tuple[str, int], ...]:
        return ("up", self.up), ("down", self.down), ("unknown", self.unknown), ("maintenance", self.maintenance)


def assessment_from_json(value: object) -> Assessment:
    """Read what `to_json` gives; the counts are those of the planes, whatever is written. Raises ValueError."""
    fields = Fields(value, "assessment")
    span = span_from_json(fields.value("span"))
    planes = fields.fields("planes")
    up, down, unknown, maintenance = (
        unpack(planes.text(name), span.minutes) for name in ("up", "down", "unknown", "maintenance")
    )
    return Assessment(
        span=span,
        up=up,
        down=down,
        unknown=unknown,
        maintenance=maintenance,
        result=Result(fields.text("result")),
        credit=fields.flag("credit"),
        allowed_down=fields.number("allowed_down"),
        availability_low=fields.text("availability_low"),
        availability_high=fields.text("availability_high"),
    )


def assess(service: ServiceMinutes, maintenance: int, terms: Terms, span: Span) -> Assessment:
    """Judge a span. service and maintenance: planes over it; what lies beyond it counts nothing. Maintenance wins over
    any verdict."""
    everything = ones(span.minutes)
    excluded = maintenance & everything
    down = service.down & everything & ~excluded
    unknown = service.unknown & everything & ~(excluded | down)
    up = everything ^ (excluded | down | unknown)
    eligible = span.minutes - excluded.bit_count()
    bad, open_ = down.bit_count(), unknown.bit_count()
    result = _result(bad, open_, eligible, terms)
    return Assessment(
        span=span,
        up=up,
        down=down,
        unknown=unknown,
        maintenance=excluded,
        result=result,
        credit=result is Result.BREACHED or (result is Result.INDETERMINATE and terms.indeterminate is Favour.CUSTOMER),
        allowed_down=terms.allowed_down(eligible),
        availability_low=shown_share(eligible - bad - open_, eligible),
        availability_high=shown_share(eligible - bad, eligible),
    )


def shown_share(part: int, whole: int) -> str:
    """part / whole in per cent, cut off after three places: "99.899". "-" if whole is 0."""
    if not whole:
        return NOTHING_MEASURED
    thousandths = 100_000 * part // whole
    return f"{thousandths // 1000}.{thousandths % 1000:03}"


@dataclass(frozen=True, slots=True)
class Failing:
    """A check in the service's eyes: the minutes in which it took the service down, and each location's failures that
    counted as votes. Planes."""

    down: int = field(repr=False)
    locations: Mapping[str, int] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Incident:
    """One outage.

    start: the first failing minute, up to BACKDATED_AT_MOST before `down_from`, the first down one. end: the minute
    after the last down one; None: it was down to the end of the span. down_minutes: those that cost the service;
    excluded_minutes: down, but in maintenance. checks: those that were down; locations: those that saw it.
    """

    start: int
    down_from: int
    end: int | None
    down_minutes: int
    excluded_minutes: int
    checks: tuple[str, ...]
    locations: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """As stored and hashed."""
        return {
            "start": self.start,
            "down_from": self.down_from,
            "end": self.end,
            "down_minutes": self.down_minutes,
            "excluded_minutes": self.excluded_minutes,
            "checks": list(self.checks),
            "locations": list(self.locations),
        }


def incident_from_json(value: object) -> Incident:
    """Read what `to_json` gives. Raises JsonError."""
    fields = Fields(value, "incident")
    return Incident(
        start=fields.number("start"),
        down_from=fields.number("down_from"),
        end=fields.number_or_none("end"),
        down_minutes=fields.number("down_minutes"),
        excluded_minutes=fields.number("excluded_minutes"),
        checks=fields.texts("checks"),
        locations=fields.texts("locations"),
    )


def incidents(checks: Mapping[str, Failing], maintenance: int, span: Span) -> tuple[Incident, ...]:
    """The outages of a span, in order. All planes are over it. An outage that goes on across maintenance is one, and
    so are two with nothing but a few failing minutes between them. Their down minutes add up to the assessment's."""
    down = 0
    for check in checks.values():
        down |= check.down
    down &= ones(span.minutes)
    parts: list[tuple[int, int, int]] = []
    for first, end in runs(down):
        before = parts[-1][2] if parts else 0
        start = _began(checks, before, first, end)
        if parts and start == before:
            parts[-1] = (parts[-1][0], parts[-1][1], end)
        else:
            parts.append((start, first, end))
    return tuple(_incident(checks, down, maintenance, span, part) for part in parts)


def span_from_json(value: object) -> Span:
    """From [first, end]. Raises ValueError."""
    if isinstance(value, list) and len(value) == 2 and all(type(one) is int for one in value):
        span = Span(value[0], value[1])
        if span.minutes <= MOST_MINUTES:
            return span
    raise JsonError("a span is a list of two integers, not further apart than a month is long")


def failing_of(down: int, counted: Mapping[str, LocationVotes]) -> Failing:
    """A check's failures: `down` as it bears, and what its locations' counted votes say."""
    return Failing(down, {location: vote.down for location, vote in counted.items() if vote.down})


def _result(down: int, unknown: int, eligible: int, terms: Terms) -> Result:
    if not eligible:
        return Result.NO_COMMITMENT
    tolerated = terms.tolerance * eligible
    if terms.denominator * down > tolerated:
        return Result.BREACHED
    if terms.denominator * (down + unknown) <= tolerated:
        return Result.MET
    return Result.INDETERMINATE


def _began(checks: Mapping[str, Failing], earliest: int, first: int, end: int) -> int:
    """Where the failing of the checks that are down in [first, end) began, as an offset from `earliest` on."""
    seen = 0
    outage = between(first, end)
    for check in checks.values():
        if check.down & outage:
            for failures in check.locations.values():
                seen |= failures
    start = first
    while start > earliest and seen >> (start - 1) & 1:
        start -= 1
        if first - start > BACKDATED_AT_MOST:
            return first
    return start


def _incident(
    checks: Mapping[str, Failing], down: int, maintenance: int, span: Span, part: tuple[int, int, int]
) -> Incident:
    start, first, end = part
    whole = between(start, end)
    involved = {name: check for name, check in checks.items() if check.down & whole}
    places = {place for check in involved.values() for place, seen in check.locations.items() if seen & whole}
    outage = down & whole
    excluded = (outage & maintenance).bit_count()
    return Incident(
        start=span.first + start,
        down_from=span.first + first,
        end=span.first + end if end < span.minutes else None,
        down_minutes=outage.bit_count() - excluded,
        excluded_minutes=excluded,
        checks=tuple(sorted(involved)),
        locations=tuple(sorted(places)),
    )
