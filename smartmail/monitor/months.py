"""A month of a service: gather the evidence, judge it, close it, state it anew, and find who is to be credited.

A month is closed once, after the grace of its terms, and frozen as revision 1. What comes late makes a next revision
with the same days and terms, as long as the terms allow; the old ones stay.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from typing import Final, Protocol

from sqlalchemy import Connection

from smartmail.config.zones import TZ_VERSION, find_zone
from smartmail.core.canonical import canonical
from smartmail.core.credits import Decision, Grounds
from smartmail.core.evidence import Day, Evidence
from smartmail.core.minutes import LocationVotes
from smartmail.core.month_record import MinuteChange, MonthRecord, build, difference, digest, from_json, to_json
from smartmail.core.months import Month, MonthError, Span, days_of, first_minute, span_of
from smartmail.core.roster import Roster, checks_of, existence, only_service
from smartmail.core.sla import Terms, TermsError, terms_in_force
from smartmail.monitor.control import CONTROL
from smartmail.store import sla
from smartmail.store.agents import roster_history
from smartmail.store.credits import CreditOrder, credit_batch, decide_batch
from smartmail.store.database import Database
from smartmail.store.errors import Conflict, Invalid, NotFound
from smartmail.store.records import Act
from smartmail.store.samples import StoredSamples

DAY_MS: Final = 86_400_000


def zone_of(name: str) -> tzinfo:
    """A zone by its IANA name. Raises Invalid."""
    zone = find_zone(name)
    if zone is None:
        raise Invalid(f"there is no time zone {name!r}", 'write it as "Europe/London"')
    return zone


def terms_at(known: Sequence[Terms], minute: int) -> Terms:
    """The terms of the month that a minute is in. Raises TermsError where there are none, Invalid for a minute that no
    month has."""
    day = datetime.fromtimestamp(minute * 60, UTC)
    try:
        month = Month(day.year, day.month).next()
        while minute < first_minute(month.first_day, zone_of(zone_before(known, month) or _zone(known, month))):
            month = month.previous()
    except MonthError as error:
        raise Invalid(str(error)) from error
    return terms_in_force(known, month)


def zone_before(known: Sequence[Terms], month: Month) -> str:
    """The zone of the terms of the month before, where it is another: the month begins by that one. "" else."""
    own = terms_in_force(known, month).zone
    try:
        before = _zone(known, month.previous())
    except (TermsError, MonthError):  # there were none yet, or there is no month before
        return ""
    return "" if before == own else before


def _zone(known: Sequence[Terms], month: Month) -> str:
    return terms_in_force(known, month).zone


class Samples(Protocol):
    """What is asked of `store.samples.SampleStore`."""

    def read(self, span: Span, checks: Collection[str] | None = None) -> StoredSamples:
        """Votes and digest of a span of minutes."""
        ...


@dataclass(frozen=True, slots=True)
class Restatement:
    """A closed month judged again. changes: the minutes that are judged otherwise. new equals old in its digest when
    nothing has come since."""

    old: MonthRecord
    new: MonthRecord
    number: int
    changes: tuple[MinuteChange, ...]

    @property
    def differs(self) -> bool:
        """Is there anything to write down?"""
        return digest(self.old) != digest(self.new)


class Months:
    """The months of one database. terms: as configured; those recorded before are known too."""

    def __init__(self, database: Database, samples: Samples, terms: Sequence[Terms]) -> None:
        self._database = database
        self._samples = samples
        self._configured = tuple(terms)

    def services(self, month: Month) -> tuple[str, ...]:
        """The services that existed in a month, or have closed it."""
        with self._database.read() as connection:
            history = roster_history(connection)
            days = self._days(connection, month)
            span = Span(days[0][1].first, days[-1][1].end)
            closed = {one.service for one in sla.latest_revisions(connection, str(month))}
        names = {name for roster in history for name in roster.services}
        return tuple(sorted(closed | {name for name in names if existence(history, name, span.first, span.end)}))

    def judge(self, service: str, month: Month, now_ms: int) -> MonthRecord:
        """A month as its evidence is now: the whole month once it is over, else what has passed of it. Raises NotFound
        for a service that did not exist in it, Conflict for a month that has not begun or has no terms."""
        return build(self._evidence(service, month, now_ms // 60_000))

    def close(self, service: str, month: Month, act: Act) -> sla.Revision:
        """Freeze a month as revision 1. Raises Conflict before the grace is over, and when it is closed already; else
        as `judge` does."""
        self.closable(service, month, act.at_ns // 10**6)
        revision = _revision(self.judge(service, month, act.at_ns // 10**6), 1, act)
        with self._database.write() as connection:
            sla.record_terms(connection, self._configured, act)
            sla.insert_revision(connection, revision)
        return revision

    def closable(self, service: str, month: Month, now_ms: int) -> None:
        """Raises Conflict where a month may not be closed yet, or is closed."""
        with self._database.read() as connection:
            terms = self._terms(connection, month)
            last = sla.latest_number(connection, service, str(month))
        if last:
            raise Conflict(f"{month} of {service} is closed", f'late samples go into "smartmail sla restate {month}"')
        earliest = span_of(month, zone_of(terms.zone)).end + terms.grace_minutes
        if now_ms < earliest * 60_000:
            when = datetime.fromtimestamp(earliest * 60, UTC).strftime("%Y-%m-%d %H:%MZ")
            raise Conflict(f"{month} may not be closed before {when}", "late samples and round trips are awaited")

    def restated(self, service: str, month: Month, now_ms: int) -> Restatement:
        """A closed month judged again by its own days and terms. Raises NotFound when it is not closed or its samples
        were let go, Conflict when the time for it is over."""
        with self._database.read() as connection:
            latest = sla.get_revision(connection, service, str(month))
        old = read_record(latest)
        if now_ms > _restatable_until(old.evidence):
            days = old.evidence.terms.restate_days
            raise Conflict(f"{month} ended over {days} days ago", "by its terms it stands as it was stated last")
        new = build(self._gathered(replace(old.evidence, until=old.evidence.span.end)))
        return Restatement(old, new, latest.number + 1, difference(old, new))

    def restate(self, service: str, month: Month, act: Act) -> Restatement:
        """Write down the next revision, if anything differs. Raises as `restated` does."""
        found = self.restated(service, month, act.at_ns // 10**6)
        if found.differs:
            changed = sum(change.end - change.first for change in found.changes)
            with self._database.write() as connection:
                sla.insert_revision(connection, _revision(found.new, found.number, act), changed)
        return found

    def credit_order(self, month: Month, act: Act) -> CreditOrder:
        """The credit run of a month: the grounds in the latest revision of each service that has closed it. No
        grounds: nothing fell below."""
        with self._database.read() as connection:
            latest = sla.latest_revisions(connection, str(month))
            credited = [
                sla.get_revision(connection, one.service, one.month, one.number) for one in latest if one.credited
            ]
            history = roster_history(connection)
        grounds = tuple(_grounds(one) for one in credited)
        # Who moved since still lived, in that month, on the one service that there was.
        home = only_service(history, max((one.span.end for one in grounds), default=0))
        return CreditOrder(grounds, act.who, act.at_ns // 10**6, home)

    def credits(self, order: CreditOrder, *, apply: bool) -> Iterator[list[Decision]]:
        """Decide on every subscription, some thousand at a time, and with `apply` do what was decided: each batch in
        one transaction. Stopped at any point and run again, it does the rest."""
        after = 0
        while True:
            if apply:
                with self._database.write() as connection:
                    decisions = credit_batch(connection, order, after)
            else:
                with self._database.read() as connection:
                    decisions = decide_batch(connection, order, after)
            if not decisions:
                return
            after = decisions[-1].subscriber.subscription
            yield decisions

    def prunable_until(self, now_ms: int) -> int:
        """The minute before which no sample is needed any more: of every service, each month up to it is closed, and
        may not be restated. 0: there is no service."""
        with self._database.read() as connection:
            history = roster_history(connection)
            names = {name for roster in history for name in roster.services}
            return min((_needed_from(connection, history, name, now_ms) for name in names), default=0)

    def _evidence(self, service: str, month: Month, now_minute: int) -> Evidence:
        with self._database.read() as connection:
            terms, before = self._terms(connection, month), self._zone_before(connection, month)
            days = self._days(connection, month)
        span = Span(days[0][1].first, days[-1][1].end)
        if now_minute <= span.first:
            raise Conflict(f"{month} has not begun", "there is nothing to judge yet")
        return self._gathered(
            Evidence(
                service=service,
                month=month,
                zone=terms.zone,
                tz_version=TZ_VERSION,
                days=days,
                until=min(now_minute, span.end),
                terms=terms,
                history=(),
                streams={},
                silenced={},
                announcements=(),
                sample_digest="",
                zone_before=before,
            )
        )

    def _gathered(self, frame: Evidence) -> Evidence:
        """The frame (days, terms) with what is stored of it now. Raises NotFound."""
        span = frame.span
        with self._database.read() as connection:
            history = roster_history(connection)
            log = sla.announcements(connection)
        checks = checks_of(history, frame.service, span.first, span.end)
        if not checks:
            raise NotFound(f"there was no service {frame.service} in {frame.month}", _known(history))
        stored = self._samples.read(span, (*checks, CONTROL))
        streams: dict[str, dict[str, LocationVotes]] = {}
        silenced: dict[str, int] = {}
        for (check, location), planes in stored.planes.items():
            streams.setdefault(check, {})[location] = LocationVotes(planes.up, planes.down)
            silenced[location] = silenced.get(location, 0) | planes.abstain
        return replace(
            frame,
            history=tuple(history),
            streams=streams,
            silenced=silenced,
            announcements=tuple(log),
            sample_digest=stored.digest,
            was_before=_was_before(history, frame),
            is_after=_is_after(history, frame),
        )

    def _days(self, connection: Connection, month: Month) -> tuple[Day, ...]:
        zone, before = zone_of(self._terms(connection, month).zone), self._zone_before(connection, month)
        return days_of(month, zone, zone_of(before) if before else None)

    def _zone_before(self, connection: Connection, month: Month) -> str:
        return zone_before(self._all_terms(connection), month)

    def _all_terms(self, connection: Connection) -> list[Terms]:
        return sla.known_terms(connection, self._configured)

    def _terms(self, connection: Connection, month: Month) -> Terms:
        try:
            return terms_in_force(self._all_terms(connection), month)
        except TermsError as error:
            raise Conflict(str(error), "write [[terms]] into the configuration") from error


def _was_before(history: Sequence[Roster], frame: Evidence) -> bool:
    """Is the service off the roster when the month begins, and was it on it in the month before?"""
    first = frame.span.first
    start = span_of(frame.month.previous(), zone_of(frame.zone_before or frame.zone)).first
    here = existence(history, frame.service, first, first + 1)
    return not here and bool(existence(history, frame.service, start, first))


def _is_after(history: Sequence[Roster], frame: Evidence) -> bool:
    """Is the service off the roster when the month ends, and on it in the month after, as far as that is known?"""
    last = frame.span.end
    end = span_of(frame.month.next(), zone_of(frame.zone)).end
    here = existence(history, frame.service, last - 1, last)
    return not here and bool(existence(history, frame.service, last, end))


def read_record(revision: sla.Revision) -> MonthRecord:
    """The record of a stored revision, which must have been read with it. Raises Conflict when it is not what its
    digest says."""
    record = from_json(json.loads(revision.record))
    if digest(record) != revision.digest:
        raise Conflict(
            f"revision {revision.number} of {revision.month} of {revision.service} is not what its digest says",
            "restore the database from a backup",
        )
    return record


def _revision(record: MonthRecord, number: int, act: Act) -> sla.Revision:
    return sla.Revision(
        service=record.service,
        month=str(record.month),
        number=number,
        closed_ms=act.at_ns // 10**6,
        actor=act.who,
        digest=digest(record),
        result=record.assessment.result.value,
        credited=record.assessment.credit,
        record=canonical(to_json(record)).decode(),
    )


def _grounds(revision: sla.Revision) -> Grounds:
    evidence = read_record(revision).evidence
    return Grounds(
        service=revision.service,
        month=revision.month,
        span=evidence.span,
        revision=revision.number,
        record=revision.digest,
        terms=evidence.terms.version,
        zone=zone_of(evidence.zone),
        credit_months=evidence.terms.credit_months,
        trial_credited=evidence.terms.trial_credited,
    )


def _restatable_until(evidence: Evidence) -> int:
    """In milliseconds."""
    return evidence.span.end * 60_000 + evidence.terms.restate_days * DAY_MS


def _needed_from(connection: Connection, history: Sequence[Roster], service: str, now_ms: int) -> int:
    """The minute from which on a service's samples are still needed."""
    until = min(roster.from_minute for roster in history if service in roster.services)
    for first in sla.revisions(connection, service=service):
        if first.number != 1:
            continue
        evidence = read_record(sla.get_revision(connection, service, first.month, 1)).evidence
        if now_ms <= _restatable_until(evidence) or evidence.span.first > until:
            break
        until = max(until, evidence.span.end)
    # A service that has gone since has no month to close any more.
    now_minute = now_ms // 60_000
    return until if existence(history, service, until, now_minute) else now_minute


def _known(history: Sequence[Roster]) -> str:
    names = sorted({name for roster in history for name in roster.services})
    return f"there are: {', '.join(names)}" if names else "no roster was ever recorded"
