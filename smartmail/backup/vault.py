"""One repository, as the backup uses it: restic's commands on it, their answers read, their failures in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from smartmail.backup.process import Patience
from smartmail.backup.restic import Listener, Restic, Run
from smartmail.core import restic as ask
from smartmail.core.backup_plan import RepositoryPlan
from smartmail.core.points import Snapshot
from smartmail.core.restic_json import Unreadable
from smartmail.core.restic_messages import Node, read_ls_line
from smartmail.core.restic_output import Lock, RepositoryConfig, parse_config, parse_ids, parse_lock, parse_snapshots
from smartmail.core.restic_version import Outcome

T = TypeVar("T")

BRIEF: Final = Patience(limit_s=600, interrupt_s=10, terminate_s=5)
"""For commands that read little."""
_REMEDIES: Final = {
    Outcome.NO_REPOSITORY: "smartmail backup init makes it, if it is new",
    Outcome.WRONG_PASSWORD: "look at the repository's password_file",
    Outcome.UNREACHABLE: "is its server up, and the address right?",
    Outcome.UNTRUSTED: "somebody may be in between: compare the server's key or certificate with the true one",
    Outcome.REFUSED: "look at the credentials; an append-only server refuses to delete on purpose",
    Outcome.NO_SPACE: "make room at the repository, or at the temporary folder",
    Outcome.DAMAGED: "the repository is damaged: smartmail backup check names the packs; keep the other copy as it is",
    Outcome.LOCKED: "smartmail backup status tells who holds the lock",
}


class VaultError(Exception):
    """restic did not do what was asked. outcome: how it ended; remedy: what may help, "" if that is not known."""

    def __init__(self, repository: str, what: str, outcome: Outcome, reason: str) -> None:
        self.repository = repository
        self.what = what
        self.outcome = outcome
        self.reason = reason
        self.remedy = _REMEDIES.get(outcome, "")
        told = f": {reason}" if reason else ""
        super().__init__(f"repository {repository}: {what}: {outcome.value.replace('_', ' ')}{told}")


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock in the repository: its id, and who holds it (None if it cannot be read)."""

    id: str
    lock: Lock | None


class Vault:
    """plan: which repository; restic: by what. Commands that take a lock are the caller's to order."""

    def __init__(self, plan: RepositoryPlan, restic: Restic) -> None:
        self.plan = plan
        self.name = plan.name
        self.at = plan.at
        self.restic = restic
        self.known = restic.known

    async def run(
        self,
        command: ask.Command,
        patience: Patience | None = None,
        listener: Listener | None = None,
        stdin: int | None = None,
    ) -> Run:
        """Run a command, however it ends. Raises ResticError as `Restic.run` does."""
        return await self.restic.run(command, patience, listener, stdin)

    async def must(
        self, command: ask.Command, patience: Patience | None = None, listener: Listener | None = None
    ) -> Run:
        """Run a command that has to succeed. Raises VaultError."""
        run = await self.run(command, patience, listener)
        if not run.ok:
            raise self.failure(run)
        return run

    def failure(self, run: Run) -> VaultError:
        """What a run's end means."""
        return VaultError(self.name, run.command.kind.value, run.outcome, run.reason)

    async def config(self) -> RepositoryConfig:
        """Its id and chunker polynomial. Raises VaultError."""
        return self._read(await self.must(ask.cat_config(self.known, self.at), BRIEF), parse_config)

    async def init(self, like: "Vault | None" = None) -> RepositoryConfig:
        """Make it, with the chunker parameters of `like`. Raises VaultError, also where there is one already."""
        await self.must(ask.init(self.known, self.at, like.at if like else None), BRIEF)
        return await self.config()

    async def snapshots(self, host: str = "", tags: Sequence[str] = ()) -> tuple[Snapshot, ...]:
        """What it lists. Raises VaultError."""
        return self._read(
            await self.must(ask.snapshots(self.known, self.at, host=host, tags=tags), BRIEF), parse_snapshots
        )

    async def nodes(self, snapshot: str, take: Callable[[Node], None], folders: Sequence[str] = ()) -> None:
        """Give each file and folder of a snapshot to `take`. Raises VaultError, also for a line that cannot be read:
        a listing with gaps would be taken as whole."""
        broken: list[Unreadable] = []

        def line(text: str) -> None:
            found = read_ls_line(text)
            if isinstance(found, Node):
                take(found)
            elif isinstance(found, Unreadable):
                broken.append(found)

        run = await self.must(ask.ls(self.known, self.at, snapshot, folders), listener=Listener(line=line))
        if broken:
            raise VaultError(
                self.name, run.command.kind.value, Outcome.FAILED, f"a line that cannot be read: {broken[0]}"
            )

    async def locks(self) -> tuple[HeldLock, ...]:
        """Who holds locks. One that goes while it is looked at is left out. Raises VaultError."""
        listed = await self.must(ask.list_locks(self.known, self.at), BRIEF)
        found = []
        for one in parse_ids(listed.stdout):
            run = await self.run(ask.cat_lock(self.known, self.at, one), BRIEF)
            if run.ok:
                lock = parse_lock(run.stdout)
                found.append(HeldLock(one, None if isinstance(lock, Unreadable) else lock))
        return tuple(found)

    def _read(self, run: Run, parse: Callable[[str], T | Unreadable]) -> T:
        found = parse(run.stdout)
        if isinstance(found, Unreadable):
            raise VaultError(self.name, run.command.kind.value, Outcome.FAILED, f"it cannot be read: {found}")
        return found
