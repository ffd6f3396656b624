"""The metrics of the backup are what `backup status` says, and nothing where nothing is known."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from plans import DAY_MS, HOUR_MS, make_plan
from prometheus_client import CollectorRegistry, generate_latest

from smartmail.core.backup_due import RunState
from smartmail.core.backup_plan import BackupPlan
from smartmail.core.backup_record import Activity, Reason, Record
from smartmail.core.backup_status import Reading, Status, status
from smartmail.core.points import Snapshot
from smartmail.metrics import BackupMetrics
from smartmail.store import backups
from smartmail.store.database import Database

NOW = 1_800_000_000_000
RUN = "20270115T080000Z-7f3a"


@pytest.fixture
def plan(tmp_path: Path) -> BackupPlan:
    return make_plan(tmp_path)


def snapshot(made_ms: int, name: str = "a", original: str = "") -> Snapshot:
    return Snapshot(name * 64, made_ms, "t" * 64, "mx1.example.net", ("job=mail", f"run={RUN}"), ("/srv",), original)


def record(activity: Activity, started_ms: int, **more: object) -> Record:
    names = {"job": "", "repository": "", "run": RUN, "state": RunState.OK, "facts": {}, **more}
    return Record(
        1,
        activity,
        str(names["job"]),
        str(names["repository"]),
        str(names["run"]),
        started_ms,
        started_ms + 90_000,
        RunState(str(names["state"])),
        Reason.NONE,
        names["facts"],  # type: ignore[arg-type]
    )


def shown(status: Status, counts: Iterable[tuple[tuple[str, str, str], int]] = ()) -> Callable[..., float | None]:
    registry = CollectorRegistry()
    BackupMetrics(registry).show(status, dict(counts))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"smartmail_backup_{name}", labels)

    return value


def judged(plan: BackupPlan, readings: dict[str, Reading], *records: Record) -> Status:
    return status(plan, readings, records, ZoneInfo(plan.zone), NOW)


def test_what_never_was_is_zero_and_not_absent(plan: BackupPlan) -> None:
    offsite = replace(plan.repositories[1], append_only=True)
    plan = replace(plan, repositories=(plan.repositories[0], offsite))
    value = shown(judged(plan, {name: Reading(()) for name in ("onsite", "offsite")}))
    for name in ("last_success", "last_partial"):
        for repository in ("onsite", "offsite"):
            assert value(f"{name}_timestamp_seconds", job="mail", repository=repository) == 0
    assert value("last_run_timestamp_seconds", job="mail") == 0
    for name in ("copy", "check", "full_read", "retention", "prune", "probe", "drill"):
        assert value(f"last_{name}_timestamp_seconds", repository="offsite") == 0, name
    assert value("state", job="mail", repository="onsite", state="never") == 1
    assert value("state", job="mail", repository="onsite", state="ok") == 0
    assert value("age_seconds", job="mail", repository="onsite") is None
    assert value("last_run_ok", job="mail") is None


def test_what_is_known_is_shown(plan: BackupPlan) -> None:
    made = NOW - HOUR_MS
    facts = {"files": 5, "octets": 700, "added": 60, "missed": 2, "anomalies": ["fewer files"]}
    listed = {
        "onsite": Reading((snapshot(made),), octets=1234, lock_ms=NOW - 5_000),
        "offsite": Reading((snapshot(made, "b", "a" * 64),)),
    }
    told = judged(
        plan,
        listed,
        record(Activity.BACKUP, made, job="mail", repository="onsite", facts=facts),
        record(Activity.COPY, made, repository="offsite"),
        record(Activity.RETENTION, NOW - DAY_MS, repository="onsite"),
        record(Activity.DRILL, NOW - DAY_MS, repository="offsite", facts={"files": 40, "restore_ms": 2500}),
        record(Activity.CHECK, NOW - DAY_MS, repository="onsite", facts={"part": 1, "parts": 4}),
    )
    onsite = told.repository("onsite")
    read = replace(onsite, check=replace(onsite.check, covered_ms=NOW - 4 * DAY_MS))
    told = replace(told, repositories=(read, told.repository("offsite")))
    value = shown(told)
    here = {"job": "mail", "repository": "onsite"}
    assert value("status_timestamp_seconds") == NOW / 1000
    assert value("last_success_timestamp_seconds", **here) == made / 1000
    assert value("age_seconds", **here) == 3600
    assert value("rpo_seconds", **here) == 26 * 3600
    assert value("snapshots", **here) == 1
    assert value("state", **here, state="ok") == 1
    assert value("last_success_timestamp_seconds", job="mail", repository="offsite") == made / 1000
    assert value("last_copy_timestamp_seconds", repository="offsite") == (made + 90_000) / 1000
    assert value("last_copy_timestamp_seconds", repository="onsite") is None
    assert value("run_seconds", job="mail") == 90
    assert value("last_run_ok", job="mail") == 1
    assert [value(f"source_{name}", job="mail") for name in ("files", "bytes")] == [5, 700]
    assert value("added_bytes", job="mail") == 60
    assert value("missed_messages", job="mail") == 2
    assert value("anomalies", job="mail") == 1
    assert value("repository_bytes", repository="onsite") == 1234
    assert value("repository_bytes", repository="offsite") is None
    assert value("lock_age_seconds", repository="onsite") == 5
    assert value("lock_age_seconds", repository="offsite") == 0
    assert value("differing_copies", repository="offsite") == 0
    assert value("last_probe_timestamp_seconds", repository="onsite") is None
    assert value("last_check_timestamp_seconds", repository="onsite") == (NOW - DAY_MS + 90_000) / 1000
    assert value("last_full_read_timestamp_seconds", repository="onsite") == (NOW - 4 * DAY_MS) / 1000
    assert value("last_full_read_timestamp_seconds", repository="offsite") == 0
    assert value("drill_files", repository="offsite") == 40
    assert value("drill_restore_seconds", repository="offsite") == 2.5


def test_of_a_repository_that_could_not_be_read_nothing_is_made_up(plan: BackupPlan) -> None:
    value = shown(judged(plan, {"onsite": Reading((snapshot(NOW - HOUR_MS),)), "offsite": Reading(None, "away")}))
    there = {"job": "mail", "repository": "offsite"}
    assert value("repository_readable", repository="offsite") == 0
    assert value("repository_readable", repository="onsite") == 1
    assert value("state", **there, state="unreadable") == 1
    for name in ("last_success_timestamp_seconds", "snapshots", "age_seconds"):
        assert value(name, **there) is None
    for name in ("repository_snapshots", "lock_age_seconds", "differing_copies"):
        assert value(name, repository="offsite") is None


def test_every_job_is_in_one_state_in_each_repository(plan: BackupPlan) -> None:
    for readings in ({}, {"onsite": Reading(())}, {"onsite": Reading((snapshot(NOW - 40 * DAY_MS),))}):
        told = judged(plan, readings)
        value = shown(told)
        for one in told.jobs:
            states = ("ok", "partial", "stale", "never", "unreadable")
            found = [value("state", job=one.job, repository=one.repository, state=state) for state in states]
            assert sorted(found, key=lambda count: count or 0) == [0, 0, 0, 0, 1]


def test_before_the_first_status_there_is_no_figure() -> None:
    registry = CollectorRegistry()
    BackupMetrics(registry)
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    assert all(line.startswith("smartmail_backup_runs_total{") and line.endswith(" 0.0") for line in lines)


def test_no_address_id_or_path_is_a_label(plan: BackupPlan) -> None:
    registry = CollectorRegistry()
    reading = Reading((snapshot(NOW - HOUR_MS),), lock_ms=NOW, lock_holder="root@mx1")
    BackupMetrics(registry).show(judged(plan, {"onsite": reading}), {})
    labels = {value for family in registry.collect() for one in family.samples for value in one.labels.values()}
    assert not {one for one in labels if "@" in one or "/" in one or len(one) > 20}


def test_the_counts_are_those_of_the_catalogue_and_outlive_a_process(plan: BackupPlan, tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path / 'smartmail.db'}") as database:
        database.upgrade()
        with database.write() as connection:
            for reason in (Reason.NONE, Reason.NONE, Reason.LOCKED):
                number = backups.begin(connection, Activity.COPY, 1, repository="offsite")
                state = RunState.FAILED if reason else RunState.OK
                backups.finish(connection, number, state, reason, {}, 2)
            backups.begin(connection, Activity.COPY, 1, repository="offsite")
        with database.read() as connection:
            counts = backups.counts(connection)
    value = shown(judged(plan, {}), counts.items())
    assert value("runs_total", activity="copy", state="ok", reason="") == 2
    assert value("runs_total", activity="copy", state="failed", reason="locked") == 1
    assert value("runs_total", activity="copy", state="started", reason="") is None
    assert value("runs_total", activity="drill", state="ok", reason="") == 0
