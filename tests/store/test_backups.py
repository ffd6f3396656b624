"""The backup's catalogue: begun, ended once, never changed; leases compared and set; tombstones for ever."""

import sqlite3
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from alembic import command
from sqlalchemy import text

from smartmail.core.backup_due import Lease, RunState
from smartmail.core.backup_record import Activity, Reason
from smartmail.store import backups, migrations
from smartmail.store.database import Database
from smartmail.store.errors import Invalid

ENDS = [
    (RunState.OK, Reason.NONE),
    (RunState.PARTIAL, Reason.MESSAGES_MISSED),
    (RunState.FAILED, Reason.LEASED),
    (RunState.STALE, Reason.NOTHING_TO_COPY),
]


def begun(database: Database, activity: Activity = Activity.BACKUP, at_ms: int = 10, **names: str) -> int:
    with database.write() as connection:
        return backups.begin(connection, activity, at_ms, **names)


def ended(database: Database, number: int, state: RunState = RunState.OK, at_ms: int = 20, **facts: object) -> bool:
    with database.write() as connection:
        return backups.finish(connection, number, state, Reason.NONE, facts, at_ms)


# the catalogue


@pytest.mark.parametrize(("state", "reason"), ENDS)
def test_what_is_written_is_read(database: Database, state: RunState, reason: Reason) -> None:
    number = begun(database, job="mail", repository="onsite", run="r1")
    with database.read() as connection:
        before = backups.records(connection)[0]
    assert (before.id, before.state, before.ended_ms, dict(before.facts)) == (number, RunState.STARTED, None, {})
    facts = {"files": 3, "named": ("a", "b"), "words": "Grüße", "deep": MappingProxyType({"x": None})}
    with database.write() as connection:
        assert backups.finish(connection, number, state, reason, facts, 20)
    with database.read() as connection:
        after = backups.records(connection)[0]
    assert (after.activity, after.job, after.repository, after.run) == (Activity.BACKUP, "mail", "onsite", "r1")
    assert (after.started_ms, after.ended_ms, after.state, after.reason) == (10, 20, state, reason)
    assert after.facts == {"files": 3, "named": ["a", "b"], "words": "Grüße", "deep": {"x": None}}


def test_every_activity_and_reason_can_be_written(database: Database) -> None:
    with database.write() as connection:
        for activity in Activity:
            for reason in Reason:
                number = backups.begin(connection, activity, 1)
                assert backups.finish(connection, number, RunState.FAILED, reason, {}, 2)
        assert len(backups.records(connection, limit=10_000)) == len(Activity) * len(Reason)


def test_a_file_name_of_octets_that_are_no_text_is_kept(database: Database) -> None:
    name = b"/srv/vmail/\xff\xfe".decode("utf-8", "surrogateescape")
    number = begun(database)
    assert ended(database, number, named=[name])
    with database.read() as connection:
        assert backups.records(connection)[0].facts["named"] == [name]


@pytest.mark.parametrize("facts", [{"x": b"octets"}, {"x": float("nan")}, {"x": object()}])
def test_facts_that_are_no_json_are_refused_and_the_row_stays_open(
    database: Database, facts: Mapping[str, object]
) -> None:
    number = begun(database)
    with pytest.raises(Invalid, match="facts"):
        ended(database, number, **facts)
    assert ended(database, number)


def test_a_beginning_is_no_end(database: Database) -> None:
    with pytest.raises(Invalid, match="no end"):
        ended(database, begun(database), RunState.STARTED)


def test_a_finish_after_a_give_up_is_refused(database: Database) -> None:
    number = begun(database)
    with database.write() as connection:
        assert backups.finish(connection, number, RunState.FAILED, Reason.CUT_OFF, {}, 15)
    assert not ended(database, number, files=1)
    with database.read() as connection:
        record = backups.records(connection)[0]
    assert (record.state, record.reason, record.ended_ms, dict(record.facts)) == (
        RunState.FAILED,
        Reason.CUT_OFF,
        15,
        {},
    )


def test_a_finish_of_what_never_began_is_refused(database: Database) -> None:
    assert not ended(database, 77)


def test_records_are_chosen_and_newest_first(database: Database) -> None:
    first = begun(database, at_ms=30, job="mail", repository="onsite", run="r1")
    second = begun(database, at_ms=20, job="keys", repository="onsite", run="r1")
    third = begun(database, Activity.COPY, at_ms=10, repository="offsite", run="r1")

    def numbers(**wanted: object) -> list[int]:
        with database.read() as connection:
            return [one.id for one in backups.records(connection, **wanted)]  # type: ignore[arg-type]

    assert numbers() == [third, second, first]
    assert numbers(limit=2) == [third, second]
    assert numbers(activity=Activity.BACKUP) == [second, first]
    assert numbers(job="mail") == [first]
    assert numbers(repository="onsite", job="keys") == [second]
    assert numbers(run="r1", repository="offsite") == [third]
    assert numbers(job="") == [third]
    assert numbers(run="r2") == []


def test_what_is_done_rarely_is_not_crowded_out(database: Database) -> None:
    drill = begun(database, Activity.DRILL, repository="offsite")
    check = begun(database, Activity.CHECK, repository="onsite")
    numbers = [begun(database, job=job, repository="onsite") for _ in range(5) for job in ("keys", "mail")]
    with database.read() as connection:
        assert [one.id for one in backups.recent(connection, each=2)] == [*reversed(numbers[-4:]), check, drill]
        assert len(backups.recent(connection)) == 12


def test_what_has_ended_is_counted(database: Database) -> None:
    for state in (RunState.OK, RunState.OK, RunState.FAILED):
        ended(database, begun(database, job="mail"), state)
    begun(database, job="mail")
    ended(database, begun(database, Activity.DRILL))
    with database.read() as connection:
        assert backups.counts(connection) == {
            ("backup", "ok", ""): 2,
            ("backup", "failed", ""): 1,
            ("drill", "ok", ""): 1,
        }


def test_the_newest_is_that_of_the_states_asked_for(database: Database) -> None:
    good = begun(database, job="mail")
    ended(database, good)
    bad = begun(database, job="mail")
    ended(database, bad, RunState.FAILED)
    begun(database, job="mail")
    with database.read() as connection:
        whole = backups.newest(connection, Activity.BACKUP, states=(RunState.OK, RunState.PARTIAL), job="mail")
        failed = backups.newest(connection, Activity.BACKUP, states=(RunState.FAILED,))
        none = backups.newest(connection, Activity.BACKUP, states=(RunState.OK,), job="keys")
    assert whole is not None
    assert failed is not None
    assert (whole.id, failed.id, none) == (good, bad, None)


@pytest.mark.parametrize(
    ("activity", "name", "runs"),
    [
        (Activity.BACKUP, "mail", ["r2", "r1"]),
        (Activity.BACKUP, "onsite", []),
        (Activity.CHECK, "onsite", ["c1"]),
        (Activity.CHECK, "mail", []),
        (Activity.DRILL, "offsite", []),
    ],
)
def test_the_schedule_gets_the_runs_of_its_name(
    database: Database, activity: Activity, name: str, runs: list[str]
) -> None:
    begun(database, job="mail", repository="onsite", run="r1")
    ended(database, begun(database, job="mail", repository="onsite", run="r2"))
    begun(database, Activity.CHECK, repository="onsite", run="c1")
    with database.read() as connection:
        found = backups.runs_of(connection, activity, name)
    assert [one.name for one in found] == runs
    if runs[:1] == ["r2"]:
        assert (found[0].started_ms, found[0].ended_ms, found[0].state) == (10, 20, RunState.OK)
        assert (found[1].ended_ms, found[1].state) == (None, RunState.STARTED)


# what the triggers refuse

ATTACKS_ON_ENDED = [
    "UPDATE backup_record SET facts = '{}' WHERE id = 1",
    "UPDATE backup_record SET state = 'ok' WHERE id = 1",
    "UPDATE backup_record SET ended_ms = NULL, state = 'started' WHERE id = 1",
    "UPDATE OR REPLACE backup_record SET id = 1 WHERE id = 2",
    "UPDATE OR IGNORE backup_record SET reason = '' WHERE id = 1",
    "DELETE FROM backup_record WHERE id = 1",
    "REPLACE INTO backup_record SELECT * FROM backup_record WHERE id = 1",
    "INSERT OR REPLACE INTO backup_record SELECT 1, activity, job, repository, run, 9, 9, 'ok', '', '{}'"
    " FROM backup_record WHERE id = 2",
    "INSERT INTO backup_record SELECT * FROM backup_record WHERE id = 1 ON CONFLICT (id) DO UPDATE SET state = 'ok'",
]
ATTACKS_ON_OPEN = [
    "UPDATE backup_record SET started_ms = 11 WHERE id = 2",
    "UPDATE backup_record SET facts = '[]' WHERE id = 2",
    "UPDATE backup_record SET job = 'other', ended_ms = 20, state = 'ok' WHERE id = 2",
    "UPDATE backup_record SET run = 'other', ended_ms = 20, state = 'ok' WHERE id = 2",
    "UPDATE backup_record SET id = 3, ended_ms = 20, state = 'ok' WHERE id = 2",
    "DELETE FROM backup_record WHERE id = 2",
    "REPLACE INTO backup_record SELECT * FROM backup_record WHERE id = 2",
]


@pytest.mark.parametrize("attack", ATTACKS_ON_ENDED + ATTACKS_ON_OPEN)
def test_a_row_of_the_catalogue_only_ends(database: Database, url: str, attack: str) -> None:
    ended(database, begun(database, job="mail"), RunState.FAILED)
    begun(database, job="mail")
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    before = connection.execute("SELECT * FROM backup_record").fetchall()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(attack)
    connection.rollback()
    assert connection.execute("SELECT * FROM backup_record").fetchall() == before
    connection.close()


@pytest.mark.parametrize(
    "row",
    ["'r', 1, NULL, 'ok'", "'r', 1, 2, 'started'"],
    ids=["an end without a time", "a time without an end"],
)
def test_a_state_without_its_time_is_refused(url: str, row: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    columns = "activity, job, repository, run, started_ms, ended_ms, state"
    with pytest.raises(sqlite3.IntegrityError, match="ck_backup_record_end"):
        connection.execute(f"INSERT INTO backup_record ({columns}) VALUES ('backup', '', '', {row})")
    connection.close()


def test_the_catalogue_comes_to_a_database_that_is_in_use(url: str) -> None:
    used = url.replace("smartmail.db", "used.db")
    with Database(used) as database:
        with database.write() as connection:
            command.upgrade(migrations.alembic_config(connection), "0002")
            connection.execute(text("INSERT INTO plan (name) VALUES ('gold')"))
            connection.execute(text("INSERT INTO roster_version (from_minute, body) VALUES (7, '{}')"))
        assert database.upgrade()
        assert begun(database) == 1
        with database.read() as connection:
            plans = connection.execute(text("SELECT name FROM plan ORDER BY name")).scalars().all()
            assert plans == ["gold", "standard"]
            assert connection.execute(text("SELECT from_minute FROM roster_version")).scalars().all() == [7]


# leases

OURS = Lease("a", "mx1", 1, 0)


def put(database: Database, old: Lease | None, new: Lease, repository: str = "onsite") -> bool:
    with database.write() as connection:
        return backups.put_lease(connection, repository, old, new, 42, 1000)


def there(database: Database, repository: str = "onsite") -> tuple[Lease, int] | None:
    with database.read() as connection:
        return backups.lease_of(connection, repository)


def test_a_lease_is_put_read_renewed_and_dropped(database: Database) -> None:
    assert there(database) is None
    assert put(database, None, OURS)
    assert there(database) == (OURS, 42)
    next_one = Lease("a", "mx1", 1, 1)
    assert put(database, OURS, next_one)
    assert there(database) == (next_one, 42)
    assert there(database, "offsite") is None
    with database.write() as connection:
        assert not backups.drop_lease(connection, "onsite", OURS)
        assert backups.drop_lease(connection, "onsite", next_one)
    assert there(database) is None


@pytest.mark.parametrize(
    "believed",
    [None, Lease("b", "mx1", 1, 0), Lease("a", "mx2", 1, 0), Lease("a", "mx1", 2, 0), Lease("a", "mx1", 1, 1)],
    ids=["that there is none", "another holder", "another host", "another term", "another beat"],
)
def test_a_lease_that_is_not_as_believed_is_left(database: Database, believed: Lease | None) -> None:
    assert put(database, None, OURS)
    assert not put(database, believed, Lease("c", "mx3", 9, 0))
    if believed is not None:
        with database.write() as connection:
            assert not backups.drop_lease(connection, "onsite", believed)
    assert there(database) == (OURS, 42)


def test_a_lease_that_is_gone_is_not_renewed(database: Database) -> None:
    assert not put(database, OURS, Lease("a", "mx1", 1, 1))
    assert there(database) is None


# tombstones


def test_tombstones_are_kept_in_their_normal_form(database: Database) -> None:
    with database.write() as connection:
        first = backups.add_tombstone(connection, "Ann@Example.COM", "asked for it", "anna", 100, None)
        backups.add_tombstone(connection, "@Example.net", "left", "anna", 200, 300)
    with database.read() as connection:
        found = backups.tombstones(connection)
    assert [(one.subject, one.why, one.by, one.at_ms, one.expires_ms) for one in found] == [
        ("ann@example.com", "asked for it", "anna", 100, None),
        ("@example.net", "left", "anna", 200, 300),
    ]
    assert found[0].id == first


@pytest.mark.parametrize("subject", ["", "ann", "@", "*@example.com, bob@example.com"])
def test_a_tombstone_of_nobody_is_refused(database: Database, subject: str) -> None:
    with pytest.raises(Invalid, match="neither"), database.write() as connection:
        backups.add_tombstone(connection, subject, "", "anna", 100, None)
