"""A night for tests: real restic, a real catalogue, a watcher that remembers."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from weakkeys import make_cheap

from smartmail.backup.catalogue import Catalogue
from smartmail.backup.lease import Leases
from smartmail.backup.night import Night
from smartmail.backup.restic import Settings, find_restic
from smartmail.backup.vault import Vault
from smartmail.core.backup_plan import BackupPlan
from smartmail.core.backup_record import Activity, End
from smartmail.core.restic_messages import Progress
from smartmail.store.database import Database

NOW_MS = 1_795_478_400_000
"""2026-11-24 00:00 UTC."""


@dataclass
class Told:
    """What a watcher heard."""

    lines: list[str] = field(default_factory=list)
    ends: list[tuple[Activity, str, End]] = field(default_factory=list)

    def began(self, activity: Activity, job: str, repository: str, run: str) -> None:
        """Not kept."""

    def progress(self, activity: Activity, job: str, repository: str, step: str, progress: Progress) -> None:
        """Not kept."""

    def ended(self, activity: Activity, job: str, repository: str, run: str, end: End) -> None:
        """Kept."""
        self.ends.append((activity, job or repository, end))

    def log(self, text: str) -> None:
        """Kept."""
        self.lines.append(text)


@dataclass
class Clock:
    """A clock that is set."""

    now_ms: int = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@dataclass
class World:
    """A night and what it works with."""

    plan: BackupPlan
    vaults: dict[str, Vault]
    night: Night
    catalogue: Catalogue
    told: Told
    clock: Clock


@contextlib.asynccontextmanager
async def world(plan: BackupPlan, folder: Path, *, init: bool = True, binary: str = "restic") -> AsyncIterator[World]:
    """init: make the repositories, too."""
    restic = await find_restic(Settings(folder / "cache", binary))
    vaults = {one.name: Vault(one, restic) for one in plan.repositories}
    if init:
        for one in plan.repositories:
            await make_cheap(vaults[one.name], vaults[one.copy_from] if one.copy_from else None)
    clock, told = Clock(), Told()

    def fault(what: str, error: Exception) -> None:
        raise AssertionError(what) from error

    with Database(f"sqlite:///{folder}/catalogue.db") as database:
        database.upgrade()
        catalogue = Catalogue(database, clock, fault)
        leases = Leases(database, folder / "leases")
        yield World(plan, vaults, Night(plan, vaults, catalogue, leases, told), catalogue, told, clock)
