"""Months to report on: each built from evidence by the real rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from zoneinfo import ZoneInfo

from smartmail.core.credits import Decision, Grounds, Reason, Subscriber, credit_draft, credit_key, decide
from smartmail.core.evidence import Evidence
from smartmail.core.ledger import Head, chain
from smartmail.core.maintenance import Action, Announcement
from smartmail.core.minutes import LocationVotes
from smartmail.core.month_record import MonthRecord, build, digest
from smartmail.core.months import Month, Span, days_of, span_of
from smartmail.core.outcome import Outcome
from smartmail.core.planes import between, ones
from smartmail.core.roster import CheckKind, CheckSpec, Roster
from smartmail.core.sla import Favour, Terms
from smartmail.report.build import Reader, from_record
from smartmail.report.credits import credit_line
from smartmail.report.model import Audience, CreditLine, MonthReport, Revision, Seen

LONDON = ZoneInfo("Europe/London")
PLACES = ("amsterdam", "frankfurt", "london")
CHECKS = (
    ("imaps", CheckKind.IMAPS, 993, True),
    ("mx", CheckKind.MX, 25, True),
    ("submission", CheckKind.SUBMISSION, 587, True),
    ("web-certificate", CheckKind.CERTIFICATE, 443, False),
)
Outage = tuple[int, int, str]
"""Minutes of the month [start, end) and the check that fails in them, everywhere."""


@dataclass(frozen=True)
class Scene:
    """What happened in a month; minutes count from its first."""

    month: str = "2026-10"
    outages: Sequence[Outage] = ()
    silent: Sequence[tuple[int, int]] = ()
    cut_off: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    alone: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    announcements: Sequence[Announcement] = ()
    terms: Terms = field(default_factory=lambda: Terms("2026-1", date(2026, 1, 1), "Europe/London"))
    begins: int = 0
    until: int | None = None
    service: str = "cluster-eu-1"

    @property
    def span(self) -> Span:
        return span_of(Month.parse(self.month), LONDON)

    def record(self) -> MonthRecord:
        month, span = Month.parse(self.month), self.span
        n, first = span.minutes, span.first + self.begins
        checks = tuple(
            CheckSpec(name, self.service, kind, "mail.example.net", port, PLACES, sla)
            for name, kind, port, sla in CHECKS
        )
        quiet = sum_of(self.silent)
        streams = {}
        for name, _, _, _ in CHECKS:
            failing = sum_of([(a, b) for a, b, check in self.outages if check == name])
            streams[name] = {}
            for place in PLACES:
                down = failing | (sum_of(self.alone.get(place, ())) if name == "mx" else 0)
                streams[name][place] = LocationVotes(ones(n) & ~down & ~quiet, down & ~quiet)
        evidence = Evidence(
            service=self.service,
            month=month,
            zone="Europe/London",
            tz_version="2026a",
            days=days_of(month, LONDON),
            until=span.end if self.until is None else span.first + self.until,
            terms=self.terms,
            history=(Roster(3, first, PLACES, checks),),
            streams=streams,
            silenced={place: sum_of(parts) for place, parts in self.cut_off.items()},
            announcements=tuple(self.announcements),
            sample_digest="5a" * 32,
        )
        return build(evidence)


def sum_of(parts: Sequence[tuple[int, int]]) -> int:
    plane = 0
    for start, end in parts:
        plane |= between(start, end)
    return plane


def window(scene: Scene, start: int, end: int, *, notice: int = 4320, name: str = "kernel", text: str = "") -> Scene:
    """The scene with a window at these minutes of its month, announced `notice` minutes before."""
    first = scene.span.first
    entry = Announcement(
        name,
        Action.ANNOUNCE,
        scene.service,
        first + start,
        first + end,
        (first + start - notice) * 60_000,
        "ops",
        text or "New kernel on the mail stores. Mailboxes stay reachable by turns.",
    )
    return replace(scene, announcements=(*scene.announcements, entry))


def at(day: int, hour: int, minute: int = 0) -> int:
    """A minute of the month."""
    return (day - 1) * 1440 + hour * 60 + minute


def credits_of(
    record: MonthRecord, count: int, customers: Sequence[str] = ("Müller & Söhne GmbH",)
) -> list[CreditLine]:
    """What so many subscriptions got: one is closed for abuse, one on trial, where there are three or more."""
    zone = LONDON
    ground = Grounds(
        service=record.service,
        month=str(record.month),
        span=record.assessment.span,
        revision=1,
        record=digest(record),
        terms=record.evidence.terms.version,
        zone=zone,
    )
    span = record.assessment.span
    decisions: list[Decision] = []
    for index in range(count):
        subscriber = Subscriber(
            subscription=1001 + index,
            customer=1 + index % len(customers),
            anchor_day=(index * 7) % 31 + 1,
            paid_through=date(2026, 12, 31) if index % 2 else date(2027, 1, 1 + index % 28),
            created=date(2025, 3, 1),
            first_minute=span.first - 10_000,
            closed_for="abuse" if count > 2 and index == 1 else "",
            trial_until=date(2027, 1, 1) if count > 2 and index == 2 else None,
            stays=((record.service, 0, None),),
        )
        decisions.append(decide(subscriber, [ground], ()))
    granted = [one for one in decisions if one.reason is Reason.GRANTED]
    entries = chain(
        Head(41, "c" * 64), [credit_draft(one, "closer", span.end * 60_000 + 4320 * 60_000) for one in granted]
    )
    by_key = {entry.key: entry for entry in entries}
    return [
        credit_line(
            one.subscriber.subscription,
            customers[(one.subscriber.customer - 1) % len(customers)],
            "business-20",
            one.reason,
            by_key.get(credit_key(one.subscriber.subscription, str(record.month))),
        )
        for one in decisions
    ]


CLEAN = Scene("2026-06")
BREACHED = window(
    Scene(
        outages=(
            (at(3, 14, 2), at(3, 14, 3), "submission"),
            (at(9, 9, 30), at(9, 11, 30), "imaps"),
            (at(18, 2, 50), at(18, 4, 12), "mx"),
        ),
        cut_off={"frankfurt": ((at(12, 5), at(12, 9)),)},
        alone={"amsterdam": ((at(21, 7), at(21, 7, 40)),)},
        silent=((at(27, 23, 50), at(28, 0, 4)),),
    ),
    at(18, 2),
    at(18, 4),
)
INDETERMINATE = Scene("2026-09", outages=((at(4, 8), at(4, 8, 30), "mx"),), silent=((at(10, 1), at(10, 1, 40)),))
SPRING = window(Scene("2026-03", outages=((at(29, 0, 55), at(29, 1, 5), "imaps"),)), at(15, 1), at(15, 3))
AUTUMN = Scene("2026-10", outages=((at(25, 0, 40), at(25, 1, 20), "mx"), (at(25, 1, 45), at(25, 2, 10), "imaps")))
ALL_MAINTENANCE = window(Scene("2026-02"), 0, 28 * 1440, notice=9000, text="Moved to the new data centre.")
MANY = Scene("2026-07", outages=tuple((100 * i + 7, 100 * i + 7 + 1 + i % 9, "mx") for i in range(440)))
YOUNG = Scene("2026-05", begins=at(11, 9), outages=((at(20, 3), at(20, 3, 5), "mx"),))
RUNNING = Scene("2026-11", until=at(17, 12), outages=((at(2, 3), at(2, 3, 12), "imaps"),))
PROVIDER = replace(
    INDETERMINATE, terms=Terms("2026-2", date(2026, 1, 1), "Europe/London", indeterminate=Favour.PROVIDER)
)
SCENES = {
    "clean": CLEAN,
    "breached": BREACHED,
    "indeterminate": INDETERMINATE,
    "provider": PROVIDER,
    "spring": SPRING,
    "autumn": AUTUMN,
    "maintenance": ALL_MAINTENANCE,
    "many": MANY,
    "young": YOUNG,
    "running": RUNNING,
}


def seen_in(record: MonthRecord) -> tuple[Seen, ...]:
    """What agents told of each incident."""
    told = []
    for one in record.findings.incidents:
        for check in one.checks:
            told += [
                Seen(one.start, check, place, Outcome.TIMEOUT, "421 not now, <try> later") for place in one.locations
            ]
        told.append(Seen(one.start, one.checks[0], one.locations[0], Outcome.REFUSED))
    return tuple(told)


def report_on(
    scene: Scene | MonthRecord,
    audience: Audience = Audience.OPERATOR,
    *,
    customer: str = "Müller & Söhne GmbH",
    subscriptions: int = 3,
) -> MonthReport:
    """The report on a month that is closed three days after its end."""
    record = scene.record() if isinstance(scene, Scene) else scene
    lines = credits_of(record, subscriptions) if record.assessment.credit else []
    closed = record.evidence.until == record.evidence.span.end
    revision = Revision(1, (record.evidence.span.end + 4320) * 60_000) if closed else Revision()
    return from_record(record, LONDON, revision, Reader(audience, customer, lines, seen_in(record)))
