"""The catalogue as the engine writes it: each call one transaction, in a thread, so that the loop never waits for a
disk. What was begun is ended, whatever comes in between; only a killed process leaves a line without an end."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from smartmail.backup.restic import ResticError
from smartmail.backup.sources import SourceError
from smartmail.backup.vault import VaultError
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity, End, Reason, Record, reason_of
from smartmail.store import backups
from smartmail.store.database import Database

Clock = Callable[[], int]
"""Epoch milliseconds."""


class Catalogue:
    """database: with the schema of now. fault: told of an error that is ours, with its traceback at hand."""

    def __init__(self, database: Database, clock: Clock, fault: Callable[[str, Exception], None]) -> None:
        self.database = database
        self.clock = clock
        self._fault = fault

    async def records(
        self,
        activity: Activity | None = None,
        *,
        job: str | None = None,
        repository: str | None = None,
        limit: int = 1000,
    ) -> list[Record]:
        """Newest first."""

        def read() -> list[Record]:
            with self.database.read() as connection:
                return backups.records(connection, activity=activity, job=job, repository=repository, limit=limit)

        return await asyncio.to_thread(read)

    async def recorded(
        self,
        activity: Activity,
        work: Callable[[], Awaitable[End]],
        *,
        job: str = "",
        repository: str = "",
        run: str = "",
    ) -> End:
        """Do it, and write down that it began and how it ended. A failure that can be explained is an End; so is a
        fault of ours, which is told of as well: one job's must not keep the others from running."""
        number = await asyncio.to_thread(self._begin, activity, job, repository, run)
        try:
            end = await work()
        except asyncio.CancelledError:
            await asyncio.shield(self._finish(number, End(RunState.FAILED, Reason.INTERRUPTED, words="it was stopped")))
            raise
        except (VaultError, SourceError, ResticError) as error:
            end = end_of(error)
        except Exception as error:
            self._fault(f"{activity.value} {job or repository}", error)
            end = End(RunState.FAILED, Reason.INTERNAL, words=f"a fault of ours: {error!r}")
        await self._finish(number, end)
        return end

    async def give_up(self, record: Record) -> bool:
        """End a line whose process is gone. False if it had ended after all."""
        return await asyncio.to_thread(self._end, record.id, End(RunState.FAILED, Reason.CUT_OFF))

    def _begin(self, activity: Activity, job: str, repository: str, run: str) -> int:
        with self.database.write() as connection:
            return backups.begin(connection, activity, self.clock(), job=job, repository=repository, run=run)

    async def _finish(self, number: int, end: End) -> bool:
        return await asyncio.to_thread(self._end, number, end)

    def _end(self, number: int, end: End) -> bool:
        facts: Mapping[str, object] = {**end.facts, "words": end.words} if end.words else end.facts
        with self.database.write() as connection:
            return backups.finish(connection, number, end.state, end.reason, facts, self.clock())


def end_of(error: VaultError | SourceError | ResticError) -> End:
    """A failure that can be explained, as an end."""
    match error:
        case VaultError():
            reason, remedy = reason_of(error.outcome), error.remedy
        case SourceError():
            reason, remedy = error.reason, error.remedy
        case _:
            reason, remedy = Reason.FAILED, ""
    return End(RunState.FAILED, reason, words=f"{error} ({remedy})" if remedy else str(error))
