"""The monthly report as plain values: one model from which terminal, CSV, JSON, HTML and PDF are made.

Everything follows from a month's record, the credits and the audience (build.py); nothing here or after it asks a clock
or a database. Minutes are POSIX minutes; spans are half-open.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from smartmail.core.credits import Reason
from smartmail.core.ledger import Entry
from smartmail.core.maintenance import Effect
from smartmail.core.minutes import Verdict
from smartmail.core.month_record import CheckView, LocationView, MinuteChange, MonthRecord
from smartmail.core.months import Span
from smartmail.core.sla import Incident, Terms
from smartmail.report.wording import Clock, month_name


class Audience(StrEnum):
    """Who is to read it."""

    OPERATOR = "operator"
    """Everything, the credits of all customers among it."""
    CUSTOMER = "customer"
    """Of the credits only those of the customer's own subscriptions; no words of servers."""
    EVERYBODY = "everybody"
    """To publish: no credit of anybody."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Minutes by verdict."""

    up: int
    down: int
    unknown: int
    maintenance: int

    @property
    def eligible(self) -> int:
        """All that the promise is measured on."""
        return self.up + self.down + self.unknown

    @property
    def measured(self) -> int:
        """All of them."""
        return self.eligible + self.maintenance


@dataclass(frozen=True, slots=True)
class Stretch:
    """Minutes of one verdict within a day, `offset` minutes after its first. verdict None: not measured."""

    offset: int
    minutes: int
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Day:
    """A local day: 1,440 minutes long, or as long as the clock made it."""

    date: str
    label: str
    span: Span
    counts: Counts
    stretches: tuple[Stretch, ...]

    @property
    def unmeasured(self) -> int:
        """Minutes in which there was no service yet, or no more."""
        return self.span.minutes - self.counts.measured

    @property
    def clean(self) -> bool:
        """Was it up in every minute that was measured?"""
        return self.counts.up == self.counts.measured


@dataclass(frozen=True, slots=True)
class Seen:
    """A failure as an agent told it, for the words of an incident. detail: a server's own words, operators only."""

    minute: int
    check: str
    location: str
    outcome: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CheckLine:
    """A check: what it looks at, and what it came to in the measured minutes."""

    view: CheckView
    kind: str
    target: str

    @property
    def bears(self) -> bool:
        """Does its failure cost the service its minute, at least in a part of the month?"""
        return self.view.bearing > 0


@dataclass(frozen=True, slots=True)
class LocationLine:
    """What one location alone saw of the checks that bear the SLA, in the eligible minutes.

    up: it saw all of them up; down: at least one failing; silenced: its own way out was broken; silent: else. failed
    and mute: the minutes down and those silenced or silent, as planes over the month, for its strip. availability:
    up of up and down, per cent, cut.
    """

    name: str
    up: int
    down: int
    silenced: int
    silent: int
    availability: str
    failed: int
    mute: int
    views: tuple[LocationView, ...]


@dataclass(frozen=True, slots=True)
class IncidentLine:
    """An outage. number: in the month's order, from 1. what: what was seen to fail, in words."""

    number: int
    incident: Incident
    what: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepLine:
    """One announcement about a window. notice: minutes from its recording to the window's start."""

    action: str
    recorded_ms: int
    until_minute: int
    notice: int
    effect: Effect


@dataclass(frozen=True, slots=True)
class WindowLine:
    """A maintenance window that touches the month. excluded: the measured minutes of this month that lie in it and that
    the month leaves out, down_over: down minutes that directly follow its counted end."""

    name: str
    text: str
    planned: tuple[int, int]
    cancelled: bool
    note: bool
    excluded: int
    down_over: int
    steps: tuple[StepLine, ...]


@dataclass(frozen=True, slots=True)
class CreditLine:
    """What a subscription got for the month. entry: of the ledger, where it was granted; service: whose month did."""

    subscription: int
    customer: str
    plan: str
    reason: Reason
    entry: Entry | None = None
    months: int = 0
    anchor_day: int = 0
    paid_from: str | None = None
    counted_from: str | None = None
    paid_to: str | None = None
    service: str = ""

    @property
    def number(self) -> int | None:
        """The number of its entry."""
        return None if self.entry is None else self.entry.seq

    @property
    def seal(self) -> str:
        """The hash of its entry; "" without one."""
        return "" if self.entry is None else self.entry.hash


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the arithmetic: what is asked, the sum with its real integers, and what it says."""

    title: str
    sum: str
    says: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a reader needs to check it all."""

    record_digest: str
    sample_digest: str
    tz_version: str
    format: int


@dataclass(frozen=True, slots=True)
class Revision:
    """Which closing of the month this is. number 0: it is not closed. closed_ms: when. changes: the minutes that
    it judges otherwise than the revision before. newest: the number of the latest one; 0: this is it."""

    number: int = 0
    closed_ms: int | None = None
    changes: tuple[MinuteChange, ...] = ()
    newest: int = 0


@dataclass(frozen=True, slots=True)
class MonthReport:
    """The report. See the parts."""

    audience: Audience
    customer: str
    record: MonthRecord
    clock: Clock
    revision: Revision
    verification: Verification
    terms: Terms
    headline: str
    consequence: str
    month_minutes: int
    counts: Counts
    days: tuple[Day, ...]
    checks: tuple[CheckLine, ...]
    locations: tuple[LocationLine, ...]
    incidents: tuple[IncidentLine, ...]
    windows: tuple[WindowLine, ...]
    credits: tuple[CreditLine, ...]
    credit_counts: Mapping[Reason, int]
    arithmetic: tuple[Step, ...]

    @property
    def month_name(self) -> str:
        """ "October 2026"."""
        return month_name(self.record.month.year, self.record.month.month)
