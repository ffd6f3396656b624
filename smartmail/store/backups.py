"""The backup's catalogue, its leases and its tombstones, in the caller's transaction.

A row of the catalogue is begun, then ended once; who comes too late is told so. Leases are compared and set. Writing
belongs within `Database.write()`. Times are milliseconds since the epoch.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, text, update

from smartmail.core.backup_due import Lease, Run, RunState
from smartmail.core.backup_record import Activity, Reason, Record
from smartmail.core.erasure import ErasureError, Tombstone, subject_of
from smartmail.store.errors import Invalid
from smartmail.store.schema_backup import backup_lease, backup_record, backup_tombstone

RUNS_LOOKED_AT: Final = 1000
"""More of the past changes nothing of what is due."""

_NEW_LEASE: Final = text(
    "INSERT INTO backup_lease (repository, holder, host, term, beat, pid, changed_ms)"
    " VALUES (:repository, :holder, :host, :term, :beat, :pid, :changed_ms) ON CONFLICT (repository) DO NOTHING"
)

# the catalogue


def begin(
    connection: Connection,
    activity: Activity,
    at_ms: int,
    *,
    job: str = "",
    repository: str = "",
    run: str = "",
) -> int:
    """Write down that something begins. Returns its number, for `finish`."""
    inserted = connection.execute(
        insert(backup_record).values(
            activity=activity.value,
            job=job,
            repository=repository,
            run=run,
            started_ms=at_ms,
            state=RunState.STARTED.value,
        )
    )
    return _key_of(inserted.inserted_primary_key)


def finish(
    connection: Connection,
    record_id: int,
    state: RunState,
    reason: Reason,
    facts: Mapping[str, object],
    at_ms: int,
) -> bool:
    """Write down how it ended. False, and nothing is written, if it had ended already: somebody gave it up. facts: JSON
    values. Raises Invalid for a state that is no end, and for facts that are no JSON."""
    if state is RunState.STARTED:
        raise Invalid(f"{state.value!r} is no end")
    changed = connection.execute(
        update(backup_record)
        .where(backup_record.c.id == record_id, backup_record.c.ended_ms.is_(None))
        .values(ended_ms=at_ms, state=state.value, reason=reason.value, facts=_facts(facts))
    )
    return changed.rowcount == 1


def records(
    connection: Connection,
    *,
    activity: Activity | None = None,
    job: str | None = None,
    repository: str | None = None,
    run: str | None = None,
    limit: int = 1000,
) -> list[Record]:
    """Those of all that is given, newest first: by when they were written down, for a clock may be wrong."""
    return _select(connection, _conditions(activity, job, repository, run), limit)


def recent(connection: Connection, each: int = 400) -> list[Record]:
    """The newest of every activity of every job and repository, `each` at most, newest first: what is done rarely is
    not crowded out by what is done hourly. For `backup_status.status`."""
    table = backup_record.c
    place = func.row_number().over(partition_by=(table.activity, table.repository, table.job), order_by=table.id.desc())
    ranked = select(table.id, place.label("place")).subquery()
    wanted = select(ranked.c.id).where(ranked.c.place <= each)
    query = select(backup_record).where(table.id.in_(wanted)).order_by(table.id.desc())
    return [_record(row) for row in connection.execute(query)]


def newest(
    connection: Connection,
    activity: Activity,
    *,
    states: Collection[RunState],
    job: str | None = None,
    repository: str | None = None,
) -> Record | None:
    """The last that was begun of those in these states; None if there is none."""
    conditions = _conditions(activity, job, repository, None)
    conditions.append(backup_record.c.state.in_([state.value for state in states]))
    return next(iter(_select(connection, conditions, 1)), None)


def runs_of(connection: Connection, activity: Activity, name: str) -> list[Run]:
    """What `backup_due.judge` asks for, newest first. name: of a job for BACKUP, else of a repository."""
    backup = activity is Activity.BACKUP
    found = records(
        connection,
        activity=activity,
        job=name if backup else None,
        repository=None if backup else name,
        limit=RUNS_LOOKED_AT,
    )
    return [Run(one.run, one.started_ms, one.ended_ms, one.state) for one in found]


def counts(connection: Connection) -> dict[tuple[str, str, str], int]:
    """How many have ended, by activity, state and reason: of all that was ever written down."""
    table = backup_record.c
    query = select(table.activity, table.state, table.reason, func.count()).group_by(
        table.activity, table.state, table.reason
    )
    started = RunState.STARTED.value
    return {(row[0], row[1], row[2]): row[3] for row in connection.execute(query) if row[1] != started}


def _conditions(
    activity: Activity | None, job: str | None, repository: str | None, run: str | None
) -> list[ColumnElement[bool]]:
    table = backup_record.c
    wanted = (
        (table.activity, None if activity is None else activity.value),
        (table.job, job),
        (table.repository, repository),
        (table.run, run),
    )
    return [column == value for column, value in wanted if value is not None]


def _select(connection: Connection, conditions: Collection[ColumnElement[bool]], limit: int) -> list[Record]:
    query = select(backup_record).where(*conditions).order_by(backup_record.c.id.desc()).limit(limit)
    return [_record(row) for row in connection.execute(query)]


def _record(row: Row[Any]) -> Record:
    return Record(
        row.id,
        Activity(row.activity),
        row.job,
        row.repository,
        row.run,
        row.started_ms,
        row.ended_ms,
        RunState(row.state),
        Reason(row.reason),
        json.loads(row.facts),
    )


def _facts(facts: Mapping[str, object]) -> str:
    """As ASCII: names of files may hold octets that are no text, and those no database takes."""
    try:
        return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise Invalid(f"these facts cannot be written down: {error}") from error


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


# leases


def lease_of(connection: Connection, repository: str) -> tuple[Lease, int] | None:
    """Who works on it, and the process number of that; None if nobody does."""
    row = connection.execute(select(backup_lease).where(backup_lease.c.repository == repository)).first()
    return None if row is None else (Lease(row.holder, row.host, row.term, row.beat), row.pid)


def put_lease(connection: Connection, repository: str, old: Lease | None, new: Lease, pid: int, at_ms: int) -> bool:
    """Write `new` if what is there is still `old`; False if it is not."""
    values = {"holder": new.holder, "host": new.host, "term": new.term, "beat": new.beat, "pid": pid}
    if old is None:
        made = connection.execute(_NEW_LEASE, {"repository": repository, **values, "changed_ms": at_ms})
        return made.rowcount == 1
    changed = update(backup_lease).where(*_is(repository, old)).values(**values, changed_ms=at_ms)
    return connection.execute(changed).rowcount == 1


def drop_lease(connection: Connection, repository: str, lease: Lease) -> bool:
    """Take it away if it is still this one; False if it is not."""
    return connection.execute(delete(backup_lease).where(*_is(repository, lease))).rowcount == 1


def _is(repository: str, lease: Lease) -> tuple[ColumnElement[bool], ...]:
    table = backup_lease.c
    return (
        table.repository == repository,
        table.holder == lease.holder,
        table.host == lease.host,
        table.term == lease.term,
        table.beat == lease.beat,
    )


# tombstones


def add_tombstone(connection: Connection, subject: str, why: str, by: str, at_ms: int, expires_ms: int | None) -> int:
    """Write down that somebody is not to come back. subject: user@domain, or @domain. expires_ms: by when the last copy
    that refuses deletion has expired. Returns its number. Raises Invalid for a subject that is neither."""
    try:
        normal = subject_of(subject)
    except ErasureError as error:
        raise Invalid(str(error)) from error
    inserted = connection.execute(
        insert(backup_tombstone).values(subject=normal, why=why, actor=by, at_ms=at_ms, expires_ms=expires_ms)
    )
    return _key_of(inserted.inserted_primary_key)


def tombstones(connection: Connection) -> list[Tombstone]:
    """All of them, oldest first."""
    rows = connection.execute(select(backup_tombstone).order_by(backup_tombstone.c.id))
    return [Tombstone(row.id, row.subject, row.why, row.actor, row.at_ms, row.expires_ms) for row in rows]


def _key_of(key: Row[Any] | None) -> int:
    return int(key[0]) if key is not None else 0
