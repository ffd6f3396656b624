"""A backup that stands well: a plan of two repositories and two jobs, what they list, what the catalogue says."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from smartmail.core.backup_due import RunState, Schedule
from smartmail.core.backup_plan import BackupPlan, CheckPlan, DrillPlan, JobKind, JobPlan, RepositoryPlan
from smartmail.core.backup_record import Activity, Reason, Record
from smartmail.core.backup_status import Reading
from smartmail.core.mailbox_place import Layout
from smartmail.core.manifest import SamplePlan
from smartmail.core.points import Snapshot
from smartmail.core.restic import Repository

NOW = 1_795_500_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
DAILY = Schedule(every_minutes=1440)
RUN = "20261124T020000Z-7f3a"
HOST = "mx1.example.net"
MADE = NOW - 4 * HOUR_MS


def make_repository(name: str, copy_from: str = "") -> RepositoryPlan:
    return RepositoryPlan(
        name,
        Repository(name, f"/etc/{name}.location", f"/etc/{name}.password"),
        (),
        26 * HOUR_MS,
        CheckPlan(4, DAILY, 30 * DAY_MS),
        copy_from=copy_from,
        offsite=bool(copy_from),
        append_only=bool(copy_from),
    )


def make_plan() -> BackupPlan:
    layout = Layout("/srv/vmail/{domain}/{local}/Maildir")
    jobs = (
        JobPlan("mail", JobKind.MAILDIR, "onsite", DAILY, 1, ("/srv/vmail",), layout),
        JobPlan("accounts", JobKind.SQLITE, "onsite", DAILY, 0, ("/srv/accounts.sqlite",)),
    )
    repositories = (make_repository("onsite"), make_repository("offsite", "onsite"))
    drill = DrillPlan("offsite", DAILY, SamplePlan(), 8 * DAY_MS)
    return BackupPlan(HOST, "UTC", "/var/lib/smartmail/backup", "restic", "doveadm", jobs, repositories, drill)


def snapshot(job: str, at_ms: int = MADE, run: str = RUN, number: int = 0, host: str = HOST) -> Snapshot:
    name = hashlib.sha256(f"{job} {at_ms} {run} {number} {host}".encode()).hexdigest()
    return Snapshot(name, at_ms, name[::-1], host, (f"job={job}", f"run={run}"), ("/srv",))


def listing() -> tuple[Snapshot, ...]:
    return (snapshot("accounts"), snapshot("mail"))


def copied(one: Snapshot) -> Snapshot:
    return replace(one, id=hashlib.sha256(one.id.encode()).hexdigest(), original=one.id)


def copied_listing() -> tuple[Snapshot, ...]:
    return tuple(map(copied, listing()))


def good_readings() -> dict[str, Reading]:
    return {"onsite": Reading(listing(), octets=5_000), "offsite": Reading(copied_listing(), octets=4_900)}


_numbers = iter(range(1, 1_000_000))


def record(
    activity: Activity,
    ended_ms: int | None,
    *,
    job: str = "",
    repository: str = "",
    run: str = RUN,
    state: RunState = RunState.OK,
    reason: Reason = Reason.NONE,
    facts: Mapping[str, object] | None = None,
    started_ms: int | None = None,
) -> Record:
    """One that ran for a minute."""
    started = started_ms if started_ms is not None else (ended_ms or NOW) - 60_000
    return Record(next(_numbers), activity, job, repository, run, started, ended_ms, state, reason, facts or {})


BAD_CHECK = record(
    Activity.CHECK,
    NOW - HOUR_MS,
    repository="offsite",
    state=RunState.FAILED,
    reason=Reason.DAMAGED,
    facts={"part": 2, "parts": 4, "errors": 1, "read": True, "words": "pack abcdef01 is damaged"},
)


def good_records() -> list[Record]:
    facts = {"files": 900, "octets": 12_000_000, "added": 3_000, "items": 0, "missed": 0}
    found = [
        record(Activity.BACKUP, MADE + 60_000, job=job, repository="onsite", facts=facts)
        for job in ("accounts", "mail")
    ]
    found += [
        record(Activity.COPY, MADE + 120_000, repository="offsite", facts={"runs": [RUN]}),
        record(Activity.DRILL, NOW - 2 * DAY_MS, repository="offsite", facts={"files": 212, "restore_ms": 3_000}),
        record(Activity.PROBE, NOW - DAY_MS, repository="offsite"),
        record(Activity.RETENTION, NOW - 3 * HOUR_MS, repository="onsite"),
    ]
    for repository in ("onsite", "offsite"):
        found += [
            record(
                Activity.CHECK,
                NOW - (10 - part) * DAY_MS,
                repository=repository,
                facts={"part": part, "parts": 4, "errors": 0, "read": True},
            )
            for part in (1, 2, 3, 4)
        ]
    return found
