"""What a report of a closed month is made of, read from the store."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from smartmail.config.zones import find_zone
from smartmail.core.credits import Decision, Grounds, Reason, credit_key, decide, reversal_key, subject_of
from smartmail.core.ledger import Entry
from smartmail.core.month_record import MonthRecord, difference, digest, from_json
from smartmail.core.months import Span
from smartmail.core.roster import only_service
from smartmail.report.build import Reader, from_record
from smartmail.report.credits import credit_line, due_line
from smartmail.report.model import Audience, CreditLine, MonthReport, Revision, Seen
from smartmail.store import sla
from smartmail.store.agents import roster_history
from smartmail.store.customers import get_customer
from smartmail.store.database import Database
from smartmail.store.errors import Conflict, Invalid
from smartmail.store.ledger import LedgerQuery, find_entries
from smartmail.store.samples import Failure
from smartmail.store.subscriptions import list_subscriptions, subscribers

MOST_TOLD = 60
"""Incidents of which the words of the agents are looked up."""

AWAY = (Reason.ELSEWHERE, Reason.ENDED)
"""What is decided on subscriptions that did not live on the service in the month."""

FEW, BATCH = 500, 2000
"""Subscriptions that are looked up one by one; and read at once, where there are more."""

Failures = Callable[[Span, tuple[str, ...]], Iterable[Failure]]
"""What agents saw in minutes, of checks: `store.samples.SampleStore.failures`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which report. number: of the revision, 0: the latest. customer: name or id, for the audience of that name."""

    service: str
    month: str
    number: int = 0
    audience: Audience = Audience.OPERATOR
    customer: str = ""


def gather(database: Database, wanted: Wanted, failures: Failures) -> MonthReport:
    """Read and build it. Raises NotFound for a month that is not closed or a customer that is not there, Conflict where
    a stored record is not what its digest says, Invalid for a customer's report without one."""
    if (wanted.audience is Audience.CUSTOMER) is not bool(wanted.customer):
        raise Invalid("a customer's report is for one customer, and no other report is", "give --customer, or leave it")
    with database.read() as connection:
        stored = sla.get_revision(connection, wanted.service, wanted.month, wanted.number)
        record = _record(stored)
        newest = sla.latest_number(connection, wanted.service, wanted.month)
        before = None
        if stored.number > 1:
            before = _record(sla.get_revision(connection, wanted.service, wanted.month, stored.number - 1))
        zone = find_zone(record.evidence.zone)
        if zone is None:
            raise Invalid(f"there is no time zone {record.evidence.zone!r}", "install another version of tzdata")
        customer = get_customer(connection, wanted.customer) if wanted.customer else None
        lines: tuple[CreditLine, ...] = ()
        if wanted.audience is not Audience.EVERYBODY:
            lines = tuple(_credits(connection, stored, record, None if customer is None else customer.id))
    changes = () if before is None else difference(before, record)
    revision = Revision(stored.number, stored.closed_ms, changes, newest if newest > stored.number else 0)
    seen = _seen(record, failures)
    reader = Reader(wanted.audience, "" if customer is None else customer.name, lines, seen)
    return from_record(record, zone, revision, reader)


def _record(stored: sla.Revision) -> MonthRecord:
    record = from_json(json.loads(stored.record))
    if digest(record) != stored.digest:
        raise Conflict(
            f"revision {stored.number} of {stored.month} of {stored.service} is not what its digest says",
            "restore the database from a backup",
        )
    return record


def _credits(
    connection: Connection, stored: sla.Revision, record: MonthRecord, customer: int | None
) -> Iterator[CreditLine]:
    """A line for each subscription that was credited for the month, or lived on the service and was not."""
    owned = list_subscriptions(connection, customer=customer)
    entries = _entries(connection, stored.month, None if customer is None else [one.id for one in owned])
    lines: dict[int, CreditLine] = {}
    for one in owned:
        if entry := entries.get(credit_key(one.id, stored.month)):
            line = credit_line(one.id, one.customer_name, one.plan, Reason.GRANTED, entry)
            if line.service == stored.service:
                lines[one.id] = line
    grounds = _grounds(stored, record) if stored.credited else None
    wanted = [one.id for one in owned if one.id not in lines]
    decided = _decisions(connection, grounds, wanted, entries.keys()) if grounds else {}
    for one in owned:
        if found := lines.get(one.id):
            taken_back = _reversed(credit_key(one.id, stored.month), entries)
            yield credit_line(one.id, one.customer_name, one.plan, Reason.REVERSED, None) if taken_back else found
        elif (decision := decided.get(one.id)) and decision.reason not in AWAY:
            yield due_line(decision, one.customer_name, one.plan)


def _entries(connection: Connection, month: str, subscriptions: Sequence[int] | None) -> dict[str, Entry]:
    """The month's entries by key: of these subscriptions, or None for all."""
    subjects = [""] if subscriptions is None else [subject_of(one) for one in subscriptions]
    return {
        entry.key: entry
        for subject in subjects
        for entry in find_entries(connection, LedgerQuery(subject=subject, month=month))
    }


def _reversed(key: str, entries: Mapping[str, Entry]) -> bool:
    """Was it taken back, and that not taken back again?"""
    taken_back = False
    while (key := reversal_key(key)) in entries:
        taken_back = not taken_back
    return taken_back


def _decisions(
    connection: Connection, grounds: Grounds, wanted: Sequence[int], held: Collection[str]
) -> dict[int, Decision]:
    """What each of these subscriptions, in order of their ids, would get now. held: keys in the ledger."""
    home = only_service(roster_history(connection), grounds.span.end)
    found: dict[int, Decision] = {}
    # One by one where they are few, else all that there are, some thousand at a time.
    few = len(wanted) <= FEW
    after, rest = 0, iter(wanted)
    while True:
        if few:
            after = next(rest, 0) - 1
        batch = subscribers(connection, after=after, limit=1 if few else BATCH, home=home) if after >= 0 else []
        if not batch:
            return found
        after = batch[-1].subscription
        for one in batch:
            # Credited for another service's month, it is no business of this one's unless it lived here too.
            here = decide(one, [grounds], ())
            found[one.subscription] = here if here.reason in AWAY else decide(one, [grounds], held)


def _grounds(stored: sla.Revision, record: MonthRecord) -> Grounds | None:
    evidence = record.evidence
    zone = find_zone(evidence.zone)
    if zone is None:
        return None
    return Grounds(
        service=stored.service,
        month=stored.month,
        span=evidence.span,
        revision=stored.number,
        record=stored.digest,
        terms=evidence.terms.version,
        zone=zone,
        credit_months=evidence.terms.credit_months,
        trial_credited=evidence.terms.trial_credited,
    )


def _seen(record: MonthRecord, failures: Failures) -> tuple[Seen, ...]:
    """What agents told of the longest incidents. Nothing of them is left where samples were let go."""
    end = record.assessment.span.end
    costly = sorted(record.findings.incidents, key=lambda one: (-one.down_minutes, one.start))[:MOST_TOLD]
    return tuple(
        Seen(one.minute, one.check, one.location, one.outcome, one.detail)
        for incident in costly
        for one in failures(Span(incident.start, end if incident.end is None else incident.end), incident.checks)
    )
