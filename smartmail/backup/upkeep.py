"""What follows a night's backups and copies: retention, checks, the probe, the drill. Each only when it is due."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from smartmail.backup import checking, probe, retaining
from smartmail.backup.drill import Brought, drill, end_of_drill, read_manifests
from smartmail.backup.drill_files import DrillBusy
from smartmail.backup.drill_key import publish
from smartmail.backup.lease import LeaseHeld
from smartmail.backup.night import Done, Night, held
from smartmail.backup.vault import Vault
from smartmail.core.backup_due import Job, RunState, Schedule, judge
from smartmail.core.backup_facts import as_run, cut_off
from smartmail.core.backup_plan import MS_PER_HOUR, RepositoryPlan
from smartmail.core.backup_record import Activity, End, Reason, Record
from smartmail.core.drill_report import DrillReport
from smartmail.core.points import RestorePoint, restore_points
from smartmail.core.retention import Holds

RETENTION_MS: Final = 24 * MS_PER_HOUR
"""Retention is judged at least this often: a wrong clock should be heard of early."""


class Upkeep:
    """night: whose plan, repositories, catalogue and leases are used."""

    def __init__(self, night: Night) -> None:
        self._night = night
        self._plan = night.plan
        self._catalogue = night.catalogue

    async def run(self) -> list[Done]:
        """Whatever is due, one after the other."""
        done: list[Done] = []
        for repository in self._plan.repositories:
            if await self.retention_due(repository):
                done += await self.retain(repository)
            if await self._due(Activity.CHECK, repository.name, repository.check.schedule):
                done += await self.check(repository)
            if repository.append_only and await self._due(Activity.PROBE, repository.name, repository.check.schedule):
                done.append(await self.probe(repository))
        if self._plan.drill.repository and await self._due(
            Activity.DRILL, self._plan.drill.repository, self._plan.drill.schedule
        ):
            done.append((await self.drill())[0])
        return done

    # retention

    async def retention_due(self, repository: RepositoryPlan) -> bool:
        """Has something come since the last time, was it cut off, or is it too long ago?"""
        if repository.keep is None or repository.append_only:
            return False
        last = await self._newest(Activity.RETENTION, repository.name)
        if last is None or last.started_ms <= self._catalogue.clock() - RETENTION_MS:
            return True
        if await self._unfinished(repository):
            return True
        came = await self._newest(Activity.COPY if repository.copy_from else Activity.BACKUP, repository.name)
        return came is not None and came.started_ms > last.started_ms

    async def _unfinished(self, repository: RepositoryPlan) -> bool:
        """Was it cut off between its first step and the end of the prune? What was forgotten then is still stored."""
        last = await self._newest(Activity.RETENTION, repository.name)
        pruned = await self._newest(Activity.PRUNE, repository.name)
        if last is None or cut_off(last):
            return last is not None
        if pruned is None or pruned.id < last.id:
            return bool(last.facts.get("removed"))
        return cut_off(pruned)

    async def plan_retention(self, repository: RepositoryPlan, *, anew: bool = False) -> retaining.Planned:
        """What would go, and may it? Raises VaultError."""
        records = await self._catalogue.records(Activity.RETENTION, repository=repository.name)
        return await retaining.plan_retention(
            self._vault(repository),
            self._plan,
            await self._holds(),
            records,
            self._catalogue.clock,
            anomalies=await self._anomalies(repository),
            anew=anew,
        )

    async def retain(self, repository: RepositoryPlan, *, anew: bool = False) -> list[Done]:
        """Plan, guard, forget; and prune if something went."""
        vault = self._vault(repository)

        async def forget() -> End:
            planned = await self.plan_retention(repository, anew=anew)
            retained = await retaining.carry_out(vault, planned, self._plan.folder)
            return End(retained.state, retained.reason, retained.facts, _said(retained.words, retained.remedy))

        async def prune() -> End:
            pruned = await retaining.prune(vault)
            return End(pruned.state, pruned.reason, pruned.facts, _said(pruned.words, pruned.remedy))

        try:
            async with self._night.hold(repository.name):
                unfinished = await self._unfinished(repository)
                done = [await self._night.one(Activity.RETENTION, forget, repository=repository.name)]
                if done[0].end.facts.get("removed") or unfinished:
                    done.append(await self._night.one(Activity.PRUNE, prune, repository=repository.name))
                return done
        except LeaseHeld as error:
            return [Done(Activity.RETENTION, "", repository.name, "", held(error))]

    async def _holds(self) -> Holds:
        """What the last drill proved stays."""
        proved = [one for one in await self._catalogue.records(Activity.DRILL, limit=100) if one.state is RunState.OK]
        snapshots = proved[0].facts.get("snapshots") if proved else None
        return Holds(verified=frozenset(map(str, snapshots)) if isinstance(snapshots, list) else frozenset())

    async def _anomalies(self, repository: RepositoryPlan) -> list[str]:
        """What the newest run of each job looks wrong by."""
        found = []
        for job in self._plan.jobs_in(repository.name):
            last = await self._newest(Activity.BACKUP, job.repository, job.name)
            strange = last.facts.get("anomalies") if last else None
            found += [f"{job.name}: {one}" for one in strange] if isinstance(strange, list) else []
        return found

    # checks

    async def check(self, repository: RepositoryPlan, part: int | None = None, *, whole: bool = False) -> list[Done]:
        """Read the part that is longest unread, or `part`, or everything."""
        vault = self._vault(repository)
        records = await self._catalogue.records(Activity.CHECK, repository=repository.name)

        async def work() -> End:
            found = await checking.check(vault, records, self._catalogue.clock(), part=part, whole=whole)
            return End(found.state, found.reason, found.facts, _said(found.words, found.remedy))

        try:
            async with self._night.hold(repository.name):
                return [await self._night.one(Activity.CHECK, work, repository=repository.name)]
        except LeaseHeld as error:
            return [Done(Activity.CHECK, "", repository.name, "", held(error))]

    async def probe(self, repository: RepositoryPlan) -> Done:
        """Is deletion refused there?"""

        async def work() -> End:
            found = await probe.probe(repository)
            return End(found.state, found.reason, found.facts, found.words)

        return await self._night.one(Activity.PROBE, work, repository=repository.name)

    # the drill

    async def drill(self) -> tuple[Done, DrillReport | None]:
        """Restore from the drill's repository and prove it, and keep the signed report in `reports` of the state
        folder. None: it did not come so far."""
        name = self._plan.drill.repository
        vault = self._night.vaults[name]
        reports: list[DrillReport] = []

        async def work() -> End:
            point = await self._newest_point(vault)
            if point is None:
                return End(RunState.FAILED, Reason.NOTHING_TO_COPY, words=f"{name} holds no restore point yet")
            manifests, broken = await read_manifests(Path(self._plan.folder), point.run, await self._digests(point.run))
            try:
                report = await drill(vault, self._plan, Brought(point, manifests, broken), self._catalogue.clock)
            except DrillBusy as error:
                return End(RunState.FAILED, Reason.LEASED, words=str(error))
            reports.append(report)
            file = await asyncio.to_thread(publish, report, Path(self._plan.folder))
            end = end_of_drill(report)
            proved = sorted({one.origin for one in point.members})
            return End(
                end.state,
                end.reason,
                {**end.facts, "snapshots": proved, "run": point.run, "file": file.name},
                end.words,
            )

        try:
            async with self._night.hold_drill(name):
                done = await self._night.one(Activity.DRILL, work, repository=name)
        except LeaseHeld as error:
            done = Done(Activity.DRILL, "", name, "", held(error))
        return done, reports[0] if reports else None

    async def _newest_point(self, vault: Vault) -> RestorePoint | None:
        """The newest that has all jobs there, else the newest of all."""
        points = restore_points({vault.name: await vault.snapshots(self._plan.host)})
        jobs = [one.name for one in self._plan.jobs_in(vault.name)]
        return next(
            (one for one in reversed(points) if not one.lacks(jobs, vault.name)), points[-1] if points else None
        )

    async def _digests(self, run: str) -> dict[str, str]:
        """By job, of the newest manifest of the run."""
        found: dict[str, str] = {}
        for record in await self._catalogue.records(Activity.BACKUP):
            digest = record.facts.get("manifest")
            if record.run == run and isinstance(digest, str):
                found.setdefault(record.job, digest)
        return found

    # the parts

    def _vault(self, repository: RepositoryPlan) -> Vault:
        return self._night.vaults[repository.name]

    async def _newest(self, activity: Activity, repository: str, job: str | None = None) -> Record | None:
        records = await self._catalogue.records(activity, repository=repository, job=job, limit=1)
        return records[0] if records else None

    async def _due(self, activity: Activity, repository: str, schedule: Schedule) -> bool:
        records: Sequence[Record] = await self._catalogue.records(activity, repository=repository, limit=20)
        zone = ZoneInfo(self._plan.zone)
        return judge(Job(repository, schedule), map(as_run, records), zone, self._catalogue.clock()).due


def _said(words: str, remedy: str) -> str:
    return f"{words} ({remedy})" if remedy else words
