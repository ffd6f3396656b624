"""The way of one night: due jobs -> backup onsite -> copy offsite -> retention -> check -> drill.

A timer only ticks; what is due follows from the catalogue (core/backup_due.py). Whoever works on a repository holds its
lease. A run that was cut off is taken up again under its own name, so that its set becomes whole.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from smartmail.backup.catalogue import Catalogue
from smartmail.backup.copying import copy_runs, known_of, pending
from smartmail.backup.job import Task, back_up
from smartmail.backup.lease import LeaseHeld, Leases
from smartmail.backup.locks import unlock_dead
from smartmail.backup.restic import Listener, ResticError
from smartmail.backup.vault import Vault
from smartmail.core.anomaly import Figures
from smartmail.core.backup_due import Cause, Job, RunState, Verdict, due_jobs, judge
from smartmail.core.backup_facts import as_run, cut_off
from smartmail.core.backup_plan import MS_PER_HOUR, BackupPlan, JobPlan, RepositoryPlan
from smartmail.core.backup_record import Activity, End, Reason, Record
from smartmail.core.restic_messages import Progress

UNDER_LEASE: Final = frozenset(
    (Activity.BACKUP, Activity.COPY, Activity.RETENTION, Activity.PRUNE, Activity.CHECK, Activity.ERASE)
)
"""What is only done by who holds the lease of its repository."""
LOCKS_MS: Final = 48 * MS_PER_HOUR
"""After something did not end well, locks are looked for so long."""
REMEMBERED: Final = 14
"""How many runs of a job tell what is usual."""


class Watcher(Protocol):
    """Who hears of the night while it goes on."""

    def began(self, activity: Activity, job: str, repository: str, run: str) -> None:
        """Something begins."""

    def progress(self, activity: Activity, job: str, repository: str, step: str, progress: Progress) -> None:
        """It goes on."""

    def ended(self, activity: Activity, job: str, repository: str, run: str, end: End) -> None:
        """It has ended."""

    def log(self, text: str) -> None:
        """Something to know, in words."""


@dataclass(frozen=True, slots=True)
class Done:
    """One thing that was done, and how it ended."""

    activity: Activity
    job: str
    repository: str
    run: str
    end: End


class Night:
    """plan and vaults (by name) belong together."""

    def __init__(
        self, plan: BackupPlan, vaults: Mapping[str, Vault], catalogue: Catalogue, leases: Leases, watcher: Watcher
    ) -> None:
        self.plan = plan
        self.vaults = vaults
        self.catalogue = catalogue
        self._leases = leases
        self._watcher = watcher

    async def due(self, only: Collection[str] | None = None) -> tuple[Verdict, ...]:
        """What the schedule says of each job. only: of these."""
        now = self.catalogue.clock()
        zone = ZoneInfo(self.plan.zone)
        found = []
        for job in self.plan.jobs:
            if only is None or job.name in only:
                records = await self.catalogue.records(Activity.BACKUP, job=job.name, limit=100)
                found.append(judge(_job(job), map(as_run, records), zone, now))
        return tuple(found)

    async def run(self, jobs: Collection[str] | None = None) -> list[Done]:
        """Back up and copy. jobs: these, due or not; None: those that are due. What waits to be copied is copied."""
        if jobs is None:
            verdicts = await self.due()
            wanted = [job.name for job, _ in due_jobs((_job(self.plan.job(one.job)), one) for one in verdicts)]
        else:
            verdicts = await self.due(jobs)
            wanted = [one.name for one in sorted(map(self.plan.job, jobs), key=lambda one: (one.order, one.name))]
        resumed = {one.resumes for one in verdicts if one.cause is Cause.RESUMED and one.job in wanted}
        run = max(resumed) if resumed else run_name(self.catalogue.clock())
        done: list[Done] = []
        for repository in dict.fromkeys(self.plan.job(name).repository for name in wanted):
            mine = [self.plan.job(name) for name in wanted if self.plan.job(name).repository == repository]
            done += await self._jobs(repository, mine, run, due=jobs is None)
        return done + await self._copies()

    async def _jobs(self, repository: str, jobs: Sequence[JobPlan], run: str, *, due: bool) -> list[Done]:
        try:
            async with self.hold(repository):
                # Whoever had the lease a moment ago may have done them.
                still = {one.job for one in await self.due([job.name for job in jobs]) if one.due or not due}
                return [await self._job(job, run) for job in jobs if job.name in still]
        except LeaseHeld as error:
            self._watcher.log(str(error))
            return [Done(Activity.BACKUP, job.name, repository, run, held(error)) for job in jobs]

    @contextlib.asynccontextmanager
    async def hold(self, repository: str) -> AsyncIterator[None]:
        """Be the one who works on it. Raises LeaseHeld."""
        async with self._leases.hold(repository):
            await self._give_up(repository, UNDER_LEASE)
            await self._unlock(repository)
            yield

    @contextlib.asynccontextmanager
    async def hold_drill(self, repository: str) -> AsyncIterator[None]:
        """Be the one who drills there, beside those who work on it. Raises LeaseHeld."""
        async with self._leases.hold(f"drill of {repository}"):
            last = await self.catalogue.records(Activity.DRILL, repository=repository, limit=1)
            await self._give_up(repository, (Activity.DRILL,))
            if last and cut_off(last[0]):
                # Who works there now has looked for its locks already.
                with contextlib.suppress(LeaseHeld):
                    async with self.hold(repository):
                        pass
            yield

    async def _give_up(self, repository: str, activities: Collection[Activity]) -> None:
        """End the lines without an end, now that we hold the lease: whoever wrote them is gone."""
        for record in await self.catalogue.records(repository=repository, limit=100):
            if record.activity in activities and record.ended_ms is None and await self.catalogue.give_up(record):
                what = f"{record.activity.value} {record.job or record.repository}"
                self._watcher.log(f"{what}: run {record.run} was cut off; what is not done is done again")

    async def _unlock(self, repository: str) -> None:
        """Take away the locks of a restic that was killed. Looked for only where one may be: it costs an opening."""
        copies = [one.name for one in self.plan.repositories if one.copy_from == repository]
        since_ms = self.catalogue.clock() - LOCKS_MS
        records = [
            one for name in (repository, *copies) for one in await self.catalogue.records(repository=name, limit=20)
        ]
        if not any(one.started_ms > since_ms and one.state in (RunState.STARTED, RunState.FAILED) for one in records):
            return
        try:
            found = await unlock_dead(self.vaults[repository], self._leases.ours(repository))
        except ResticError as error:
            self._watcher.log(str(error))
            return
        if found.removed or found.state is not RunState.OK:
            self._watcher.log(found.words)

    async def _job(self, job: JobPlan, run: str) -> Done:
        records = await self.catalogue.records(Activity.BACKUP, job=job.name, limit=REMEMBERED * 2)

        def tell(step: str, progress: Progress) -> None:
            self._watcher.progress(Activity.BACKUP, job.name, job.repository, step, progress)

        task = Task(self.plan, job, self.vaults[job.repository], run, figures_of(records), tell, self._watcher.log)
        return await self.one(Activity.BACKUP, lambda: back_up(task), job=job.name, repository=job.repository, run=run)

    async def one(
        self,
        activity: Activity,
        work: Callable[[], Awaitable[End]],
        *,
        job: str = "",
        repository: str = "",
        run: str = "",
    ) -> Done:
        """Do one thing, recorded and told of."""
        self._watcher.began(activity, job, repository, run)
        end = await self.catalogue.recorded(activity, work, job=job, repository=repository, run=run)
        self._watcher.ended(activity, job, repository, run, end)
        return Done(activity, job, repository, run, end)

    # copies

    async def _copies(self) -> list[Done]:
        """Each target by itself and side by side: a slow one does not keep the others waiting."""
        backups = await self.catalogue.records(Activity.BACKUP)
        groups = await asyncio.gather(*(self._copy(one, backups) for one in self.plan.repositories if one.copy_from))
        return [one for group in groups for one in group]

    async def _copy(self, target: RepositoryPlan, backups: Sequence[Record]) -> list[Done]:
        copies = await self.catalogue.records(Activity.COPY, repository=target.name)
        jobs = {one.name for one in self.plan.jobs_in(target.name)}
        runs = pending((*backups, *copies), jobs, target.name, self.catalogue.clock())
        if not runs:
            return []
        listener = Listener(
            progress=lambda progress: self._watcher.progress(Activity.COPY, "", target.name, "copy", progress)
        )
        source = self.vaults[target.copy_from]

        async def work() -> End:
            return await copy_runs(
                source, self.vaults[target.name], self.plan.host, runs, known_of(copies, target.name), listener
            )

        try:
            async with self.hold(target.name):
                return [await self.one(Activity.COPY, work, repository=target.name, run=runs[-1])]
        except LeaseHeld as error:
            self._watcher.log(str(error))
            return [Done(Activity.COPY, "", target.name, runs[-1], held(error))]


def run_name(now_ms: int) -> str:
    """A name for a run, that no other has: 20261124T020000Z-7f3a."""
    moment = datetime.fromtimestamp(now_ms / 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def figures_of(records: Sequence[Record]) -> tuple[Figures, ...]:
    """What the last good runs found, newest first."""
    found = []
    for one in records:
        if one.state in (RunState.OK, RunState.PARTIAL):
            numbers = [one.facts.get(name) for name in ("files", "octets", "added", "new")]
            if all(isinstance(number, int) for number in numbers):
                entropy = one.facts.get("entropy_permille")
                files, octets, added, new = (number for number in numbers if isinstance(number, int))
                found.append(Figures(files, octets, added, new, entropy if isinstance(entropy, int) else None))
    return tuple(found[:REMEMBERED])


def held(error: LeaseHeld) -> End:
    """Somebody else is at work there."""
    return End(RunState.FAILED, Reason.LEASED, words=str(error))


def _job(job: JobPlan) -> Job:
    return Job(job.name, job.schedule, job.order)
