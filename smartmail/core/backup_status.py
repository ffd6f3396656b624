"""How the backup stands: what the repositories list, what the catalogue says, and the plan -> one value, that the
terminal, JSON and the metrics all show.

Ages are those of snapshots in the repositories. The catalogue is asked only for what no repository knows: whether a run
was whole (a snapshot does not say that it lacks a message), checks, drills, and what went wrong. A repository that
could not be read is shown as that, never as empty. Times are milliseconds since the epoch; None: never.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import tzinfo

from smartmail.core.backup_due import Cause, Job, RunState, Schedule, judge
from smartmail.core.backup_facts import ENDED, as_run, fact, incomplete_runs, newest, past, words_of
from smartmail.core.backup_plan import BackupPlan, JobPlan, RepositoryPlan
from smartmail.core.backup_record import Activity, Reason, Record
from smartmail.core.coverage import coverage, readings_of
from smartmail.core.points import (
    JOB,
    RUN,
    Age,
    Expected,
    Freshness,
    Member,
    Mismatch,
    Snapshot,
    ages,
    mismatches,
    restore_points,
)
from smartmail.core.retention import TOLERANCE_MS


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of one repository. snapshots: None if it could not be read, `fault` says why. octets: stored, None
    if nobody asked. lock_ms: when the oldest lock in it was made or last renewed; lock_holder: by whom."""

    snapshots: tuple[Snapshot, ...] | None
    fault: str = ""
    octets: int | None = None
    lock_ms: int | None = None
    lock_holder: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How the newest of something ended."""

    state: RunState
    reason: Reason
    started_ms: int
    ended_ms: int
    run: str = ""
    words: str = ""

    @property
    def took_ms(self) -> int:
        """How long it ran."""
        return max(self.ended_ms - self.started_ms, 0)


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of a job's newest run that has some. added: octets before compression. unreadable: items that the
    tool could not read; missed: messages that the reconciliation found absent."""

    files: int = 0
    octets: int = 0
    added: int = 0
    unreadable: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job in a repository. state: None if the repository could not be read. last_ms, whole_ms: of the newest snapshot
    and the newest whole one. partial_ms: of the newest that is not whole. future: how many snapshots are dated after
    now. ended, cause, next_ms, figures, anomalies: of the job itself, so only where the repository is the one that it
    is backed up to; None and empty for copies."""

    job: str
    repository: str
    rpo_ms: int
    state: Freshness | None
    last_ms: int | None
    whole_ms: int | None
    partial_ms: int | None
    future: int
    snapshots: int
    copied_ms: int | None = None
    """When a copy to here was last proved; of copies only."""
    ended: Ending | None = None
    cause: Cause | None = None
    next_ms: int | None = None
    figures: Figures | None = None
    anomalies: tuple[str, ...] = ()

    def age_ms(self, now_ms: int) -> int | None:
        """How old the newest whole snapshot is."""
        return None if self.whole_ms is None else max(now_ms - self.whole_ms, 0)


@dataclass(frozen=True, slots=True)
class CheckStatus:
    """A repository's checks. ok_ms: the last that went well; parts_read of parts were ever read without an error;
    covered_ms: everything was read at this time or later, None if not all was; damaged: parts whose newest reading
    found a fault."""

    ended: Ending | None
    ok_ms: int | None
    parts: int
    parts_read: int
    covered_ms: int | None
    damaged: tuple[int, ...]
    window_ms: int
    next_ms: int | None

    def covered(self, now_ms: int) -> bool:
        """Was all of it read within the window, and is whole?"""
        return self.covered_ms is not None and not self.damaged and self.covered_ms >= now_ms - self.window_ms


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """One repository. snapshots: how many of ours, None if it could not be read. differing: copies whose tree is not
    that of their origin. copied_ms, retained_ms, pruned_ms, probed_ms: when each last went well."""

    name: str
    offsite: bool
    append_only: bool
    copy_from: str
    fault: str
    snapshots: int | None
    octets: int | None
    lock_ms: int | None
    lock_holder: str
    check: CheckStatus
    copied_ms: int | None
    copy_ended: Ending | None
    retained_ms: int | None
    retention_ended: Ending | None
    pruned_ms: int | None
    probed_ms: int | None
    probe_ended: Ending | None
    differing: tuple[Mismatch, ...]

    @property
    def readable(self) -> bool:
        """Could it be read just now?"""
        return self.snapshots is not None

    def lock_age_ms(self, now_ms: int) -> int | None:
        """How long its oldest lock is there without being renewed; None if there is none."""
        return None if self.lock_ms is None else max(now_ms - self.lock_ms, 0)


@dataclass(frozen=True, slots=True)
class DrillStatus:
    """The restore drill. proved_ms: when one last proved everything; files, restore_ms: of that one. repository: "" if
    there is to be none."""

    repository: str
    proved_ms: int | None
    files: int
    restore_ms: int
    window_ms: int
    ended: Ending | None
    next_ms: int | None

    def proved(self, now_ms: int) -> bool:
        """Was a restore proved within the window?"""
        return self.proved_ms is not None and self.proved_ms >= now_ms - self.window_ms


@dataclass(frozen=True, slots=True)
class Status:
    """All of it, as it was at `at_ms`. jobs: of each repository in the order of the plan, the jobs by name."""

    at_ms: int
    host: str
    jobs: tuple[JobStatus, ...]
    repositories: tuple[RepositoryStatus, ...]
    drill: DrillStatus

    def repository(self, name: str) -> RepositoryStatus:
        """Raises KeyError."""
        return {one.name: one for one in self.repositories}[name]

    def to_json(self) -> dict[str, object]:
        """All of it, for programs."""
        return asdict(self)


def status(
    plan: BackupPlan, readings: Mapping[str, Reading], records: Sequence[Record], zone: tzinfo, now_ms: int
) -> Status:
    """Judge everything. readings: by repository; one that is missing counts as not read. records: of the catalogue, in
    any order. zone: of the plan's schedules."""
    known = past(records, now_ms)
    view = _View(plan, readings, known, _listings(plan, readings, incomplete_runs(known)), zone, now_ms)
    return Status(
        now_ms,
        plan.host,
        tuple(one for repository in plan.repositories for one in view.jobs_of(repository)),
        tuple(view.repository(one) for one in plan.repositories),
        view.drill(),
    )


@dataclass(frozen=True, slots=True)
class _View:
    """What everything is judged by."""

    plan: BackupPlan
    readings: Mapping[str, Reading]
    records: tuple[Record, ...]
    lists: Mapping[str, Sequence[Snapshot]]
    zone: tzinfo
    now_ms: int

    def of(self, activity: Activity, *, job: str | None = None, repository: str | None = None) -> list[Record]:
        return [
            one
            for one in self.records
            if one.activity is activity
            and (job is None or one.job == job)
            and (repository is None or one.repository == repository)
        ]

    def jobs_of(self, repository: RepositoryPlan) -> tuple[JobStatus, ...]:
        jobs = sorted(self.plan.jobs_in(repository.name), key=lambda one: one.name)
        expected = [Expected(one.name, repository.name, repository.rpo_ms) for one in jobs]
        judged = ages(expected, self.lists, self.now_ms)
        listed = self.lists.get(repository.name)
        copied = newest(self.of(Activity.COPY, repository=repository.name), (RunState.OK,))
        return tuple(
            self._job(job, age, listed, copied if repository.copy_from else None)
            for job, age in zip(jobs, judged, strict=True)
        )

    def _job(self, job: JobPlan, age: Age, listed: Sequence[Snapshot] | None, copied: Record | None) -> JobStatus:
        mine = [one for one in listed or () if one.tag(JOB) == job.name]
        partial = [one.time_ms for one in mine if one.partial and one.time_ms <= self.now_ms + TOLERANCE_MS]
        found = JobStatus(
            job.name,
            age.expected.repository,
            age.expected.rpo_ms,
            None if listed is None else age.state,
            age.last_ms,
            age.whole_ms,
            max(partial, default=None),
            age.future,
            len(mine),
            copied.ended_ms if copied else None,
        )
        if job.repository != age.expected.repository:
            return found
        runs = self.of(Activity.BACKUP, job=job.name)
        cause, next_ms = self._due(job.name, job.schedule, runs)
        counted = newest([one for one in runs if "files" in one.facts], tuple(RunState))
        last = newest(runs, ENDED)
        return replace(
            found,
            ended=_ending(last),
            cause=cause,
            next_ms=next_ms,
            figures=None
            if counted is None
            else Figures(*(fact(counted, key) for key in ("files", "octets", "added", "unreadable", "missed"))),
            anomalies=words_of(last, "anomalies") if last else (),
        )

    def repository(self, plan: RepositoryPlan) -> RepositoryStatus:
        name = plan.name
        reading = self.readings.get(name, Reading(None, "it was not read"))
        listed = self.lists
        copies, retained, probes = (
            self.of(activity, repository=name) for activity in (Activity.COPY, Activity.RETENTION, Activity.PROBE)
        )
        both = {one: listed[one] for one in (plan.copy_from, name) if one in listed}
        return RepositoryStatus(
            name,
            plan.offsite,
            plan.append_only,
            plan.copy_from,
            reading.fault if reading.snapshots is None else "",
            len(listed[name]) if name in listed else None,
            reading.octets,
            reading.lock_ms,
            reading.lock_holder,
            self._check(plan),
            _well(copies),
            _ending(newest(copies, ENDED)),
            _well(retained),
            _ending(newest(retained, ENDED)),
            _well(self.of(Activity.PRUNE, repository=name)),
            _well(probes),
            _ending(newest(probes, ENDED)),
            mismatches(both) if plan.copy_from else (),
        )

    def _check(self, plan: RepositoryPlan) -> CheckStatus:
        records = self.of(Activity.CHECK, repository=plan.name)
        read = coverage(readings_of(records, plan.name), plan.check.parts, self.now_ms)
        return CheckStatus(
            _ending(newest(records, ENDED)),
            _well(records),
            read.parts,
            read.parts - len(read.unread),
            read.covered_since_ms,
            read.damaged,
            plan.check.window_ms,
            self._due(plan.name, plan.check.schedule, records)[1],
        )

    def drill(self) -> DrillStatus:
        plan = self.plan.drill
        records = self.of(Activity.DRILL)
        good = newest(records, (RunState.OK,))
        return DrillStatus(
            plan.repository,
            good.ended_ms if good else None,
            fact(good, "files") if good else 0,
            fact(good, "restore_ms") if good else 0,
            plan.window_ms,
            _ending(newest(records, ENDED)),
            self._due(plan.repository, plan.schedule, records)[1] if plan.repository else None,
        )

    def _due(self, name: str, schedule: Schedule, records: Iterable[Record]) -> tuple[Cause, int]:
        runs = [as_run(one) for one in records]
        verdict = judge(Job(name, schedule), runs, self.zone, self.now_ms)
        return verdict.cause, verdict.next_ms


def _listings(
    plan: BackupPlan, readings: Mapping[str, Reading], incomplete: Collection[tuple[str, str]]
) -> dict[str, list[Snapshot]]:
    """Ours, of the repositories that could be read; what is not whole carries the tag that says so."""
    lists = {
        name: [one for one in reading.snapshots if one.host == plan.host]
        for name, reading in readings.items()
        if reading.snapshots is not None
    }
    broken = {(name, *key) for name in lists for key in incomplete}
    copies = [one.name for one in plan.repositories if one.copy_from in lists and one.name in lists]
    for point in restore_points(lists) if copies else ():
        # A copy of some of a run's snapshots is no copy of the run.
        broken |= {(name, job, point.run) for name in copies for job in point.lacks(_jobs(point.members), name)}
    return {
        name: [_as_partial(one) if (name, one.tag(JOB), one.tag(RUN)) in broken else one for one in snapshots]
        for name, snapshots in lists.items()
    }


def _jobs(members: Iterable[Member]) -> set[str]:
    return {one.job for one in members}


def _as_partial(snapshot: Snapshot) -> Snapshot:
    return snapshot if snapshot.partial else replace(snapshot, tags=("partial=1", *snapshot.tags))


def _well(records: Iterable[Record]) -> int | None:
    found = newest(records, (RunState.OK,))
    return found.ended_ms if found else None


def _ending(record: Record | None) -> Ending | None:
    if record is None or record.ended_ms is None:
        return None
    words = "; ".join(words_of(record, "words"))
    return Ending(record.state, record.reason, record.started_ms, record.ended_ms, record.run, words)
