"""Announcements of maintenance, terms and closed months, in the caller's transaction: written once, never changed.

Each is also an entry in the ledger, so that its time and words are sealed by what comes after.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, Row, func, insert, select

from smartmail.core.canonical import canonical
from smartmail.core.ledger import Draft, Kind
from smartmail.core.maintenance import Action, Announcement, MaintenanceRefused, check
from smartmail.core.sla import Terms, terms_from_json
from smartmail.store.errors import Conflict, Invalid, NotFound
from smartmail.store.ledger import append, lock
from smartmail.store.records import Act
from smartmail.store.schema_monitor import maintenance_entry, sla_revision, terms_version


@dataclass(frozen=True, slots=True)
class Revision:
    """A closed month as stored. number: 1 when it was closed, then one more for each restatement. record: canonical
    JSON of a core.month_record.MonthRecord; "" where only the head of it was asked for. credited: does it grant?"""

    service: str
    month: str
    number: int
    closed_ms: int
    actor: str
    digest: str
    result: str
    credited: bool
    record: str = ""


def announcements(connection: Connection) -> list[Announcement]:
    """The whole log, oldest line first."""
    return [
        _announcement(row) for row in connection.execute(select(maintenance_entry).order_by(maintenance_entry.c.id))
    ]


def record_announcements(connection: Connection, new: Sequence[Announcement]) -> None:
    """Write lines into the log, within `Database.write()`. Raises Conflict, saying why one may not stand there."""
    lock(connection)
    log = announcements(connection)
    drafts = []
    for entry in new:
        try:
            check(log, entry)
        except MaintenanceRefused as error:
            raise Conflict(f"{entry.window}: {error.message}", error.hint) from error
        log.append(entry)
        inserted = connection.execute(insert(maintenance_entry).values(**entry.to_json()))
        key = inserted.inserted_primary_key
        name = f"maintenance:{key[0] if key is not None else 0}"
        body = canonical(entry.to_json()).decode()
        subject = f"window:{entry.window}"
        drafts.append(Draft(Kind.MAINTENANCE_RECORDED, name, entry.actor, subject, body, entry.recorded_ms))
    append(connection, drafts)


def record_announcement(connection: Connection, new: Announcement) -> None:
    """One line; see `record_announcements`."""
    record_announcements(connection, [new])


def recorded_terms(connection: Connection) -> list[Terms]:
    """Every version of the terms that was ever in use, oldest first."""
    rows = connection.execute(select(terms_version.c.body).order_by(terms_version.c.id))
    return [terms_from_json(json.loads(body)) for body in rows.scalars()]


def known_terms(connection: Connection, configured: Sequence[Terms]) -> list[Terms]:
    """The recorded terms, then the configured ones that are new. Raises Conflict where a configured version has other
    words than the recorded one: what was promised is not rewritten."""
    recorded = {terms.version: terms for terms in recorded_terms(connection)}
    for terms in configured:
        if terms.version in recorded and recorded[terms.version] != terms:
            raise Conflict(
                f'the terms "{terms.version}" are in use, and the configuration has changed them',
                "give the changed terms a version and an effective date of their own",
            )
    return [*recorded.values(), *(terms for terms in configured if terms.version not in recorded)]


def record_terms(connection: Connection, configured: Sequence[Terms], act: Act) -> list[Terms]:
    """Record the configured terms that are new, within `Database.write()`; returns `known_terms`. Raises Conflict as it
    does, and Invalid for new ones that would be in force in a month that is closed."""
    lock(connection)
    known = known_terms(connection, configured)
    recorded = {terms.version for terms in recorded_terms(connection)}
    newest = connection.execute(select(func.max(sla_revision.c.month))).scalar()
    for terms in known:
        if terms.version in recorded:
            continue
        if newest is not None and terms.effective <= date.fromisoformat(f"{newest}-01"):
            raise Invalid(
                f'the terms "{terms.version}" would be effective from {terms.effective}, and {newest} is closed',
                "terms do not reach back: let them be effective in a later month",
            )
        body = canonical(terms.to_json()).decode()
        at_ms = act.at_ns // 10**6
        connection.execute(
            insert(terms_version).values(version=terms.version, effective=terms.effective, body=body, recorded_ms=at_ms)
        )
        version = terms.version
        append(connection, [Draft(Kind.TERMS_RECORDED, f"terms:{version}", act.who, f"terms:{version}", body, at_ms)])
    return known


def insert_revision(connection: Connection, new: Revision, changed_minutes: int = 0) -> None:
    """Freeze a month, within `Database.write()`. changed_minutes: of a restatement. Raises Conflict when the number is
    not the next one."""
    lock(connection)
    last = latest_number(connection, new.service, new.month)
    if new.number != last + 1:
        raise Conflict(f"{new.month} of {new.service} has {last} revisions: the next is {last + 1}, not {new.number}")
    connection.execute(
        insert(sla_revision).values(
            service=new.service,
            month=new.month,
            number=new.number,
            closed_ms=new.closed_ms,
            actor=new.actor,
            record_digest=new.digest,
            record=new.record,
            result=new.result,
            credited=int(new.credited),
        )
    )
    kind = Kind.MONTH_CLOSED if new.number == 1 else Kind.MONTH_RESTATED
    body = canonical(
        {
            "service": new.service,
            "month": new.month,
            "revision": new.number,
            "record": new.digest,
            "result": new.result,
            "credited": new.credited,
            "changed_minutes": changed_minutes,
        }
    ).decode()
    key = f"month:{new.service}:{new.month}:{new.number}"
    append(connection, [Draft(kind, key, new.actor, f"service:{new.service}", body, new.closed_ms)])


def latest_number(connection: Connection, service: str, month: str) -> int:
    """How many revisions a month has; 0 while it is not closed."""
    table = sla_revision
    query = select(func.max(table.c.number)).where(table.c.service == service, table.c.month == month)
    return connection.execute(query).scalar() or 0


def get_revision(connection: Connection, service: str, month: str, number: int = 0) -> Revision:
    """A closed month with its record; number 0: the latest revision. Raises NotFound."""
    wanted = number or latest_number(connection, service, month)
    table = sla_revision
    row = connection.execute(
        select(table).where(table.c.service == service, table.c.month == month, table.c.number == wanted)
    ).one_or_none()
    if row is None:
        what = f"no revision {number} of {month}" if number else f"no closed {month}"
        raise NotFound(f"there is {what} of {service}", 'see "smartmail sla month"')
    return _revision(row, row.record)


def revisions(connection: Connection, *, service: str = "", month: str = "") -> list[Revision]:
    """Every revision, or those of a service, a month, or both, by month, service and number; without their records."""
    table = sla_revision
    columns = [column for column in table.c if column is not table.c.record]
    query = select(*columns).order_by(table.c.month, table.c.service, table.c.number)
    if service:
        query = query.where(table.c.service == service)
    if month:
        query = query.where(table.c.month == month)
    return [_revision(row, "") for row in connection.execute(query)]


def latest_revisions(connection: Connection, month: str) -> list[Revision]:
    """The latest revision of each service that has closed the month, by service; without their records."""
    latest = {one.service: one for one in revisions(connection, month=month)}
    return [latest[service] for service in sorted(latest)]


def _revision(row: Row[tuple[object, ...]], record: str) -> Revision:
    return Revision(
        service=row.service,
        month=row.month,
        number=row.number,
        closed_ms=row.closed_ms,
        actor=row.actor,
        digest=row.record_digest,
        result=row.result,
        credited=bool(row.credited),
        record=record,
    )


def _announcement(row: Row[tuple[object, ...]]) -> Announcement:
    return Announcement(
        window=row.window,
        action=Action(row.action),
        service=row.service,
        from_minute=row.from_minute,
        until_minute=row.until_minute,
        recorded_ms=row.recorded_ms,
        actor=row.actor,
        text=row.text,
    )
