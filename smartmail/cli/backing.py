"""What the verbs of `smartmail backup` work with: the plan, restic, the repositories, the catalogue."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer

from smartmail.backup.catalogue import Catalogue
from smartmail.backup.lease import LeaseHeld, Leases
from smartmail.backup.night import Done, Night
from smartmail.backup.restic import Restic, ResticError, Settings, find_restic
from smartmail.backup.sources import SourceError
from smartmail.backup.telling import Teller
from smartmail.backup.vault import Vault, VaultError
from smartmail.cli.backup_show import Display
from smartmail.cli.common import CliError, ExitCode, console, load_config, open_store, print_json
from smartmail.config import Config
from smartmail.config.backup import backup_plan, locations
from smartmail.core.backup_due import RunState
from smartmail.core.backup_plan import BackupPlan
from smartmail.core.mailbox_restore import RestoreError
from smartmail.core.points import PointNotFound, Snapshot
from smartmail.core.restic_version import Outcome
from smartmail.events import backup as events
from smartmail.events import configure
from smartmail.store.database import Database

T = TypeVar("T")

OUT_OF_REACH = frozenset(
    (Outcome.UNREACHABLE, Outcome.UNTRUSTED, Outcome.NO_REPOSITORY, Outcome.STALLED, Outcome.TIMED_OUT)
)


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Backing:
    """vaults: by the name of the repository."""

    config: Config
    plan: BackupPlan
    restic: Restic
    vaults: dict[str, Vault]
    database: Database
    catalogue: Catalogue
    leases: Leases

    @property
    def folder(self) -> Path:
        """The state folder."""
        return Path(self.plan.folder)

    def vault(self, name: str) -> Vault:
        """Raises CliError, which names those that there are."""
        if name not in self.vaults:
            raise CliError(f'there is no repository "{name}"', remedy=f"there are: {', '.join(self.vaults)}")
        return self.vaults[name]

    async def listings(self) -> "Listings":
        """What every repository holds, and which could not be read."""
        found = Listings({}, {})

        async def one(vault: Vault) -> None:
            try:
                found.snapshots[vault.name] = await vault.snapshots()
            except (VaultError, ResticError) as error:
                found.unread[vault.name] = str(error)

        await asyncio.gather(*map(one, self.vaults.values()))
        return found


@dataclass(frozen=True, slots=True)
class Listings:
    """Snapshots by repository; and why one could not be read."""

    snapshots: dict[str, tuple[Snapshot, ...]]
    unread: dict[str, str]


def planned(ctx: typer.Context) -> tuple[Config, BackupPlan]:
    """The configuration and its plan. Raises CliError when nothing is to be backed up."""
    config = load_config(ctx)
    plan = backup_plan(config)
    if not plan.repositories:
        remedy = "add [[repository]] and [[job]] to the configuration: see ops/docs/backup.md"
        raise CliError("no repository is configured", remedy=remedy, code=ExitCode.USAGE)
    return config, plan


@contextlib.asynccontextmanager
async def working(ctx: typer.Context) -> AsyncIterator[Backing]:
    """All of it, made and put away. Raises CliError and ResticError."""
    config, plan = planned(ctx)
    database = open_store(ctx)
    folder = Path(plan.folder)
    await asyncio.to_thread(_write_locations, folder, locations(config))
    restic = await find_restic(Settings(folder / "cache", plan.restic))
    vaults = {one.name: Vault(one, restic) for one in plan.repositories}
    catalogue = Catalogue(database, now_ms, lambda step, error: events.backup_fault(step=step, error=error))
    yield Backing(config, plan, restic, vaults, database, catalogue, Leases(database, folder / "leases"))


@contextlib.contextmanager
def night_of(work: Backing, *, as_json: bool = False) -> Iterator[Night]:
    """A night, and somebody who tells of it: bars and lines on a terminal, else the lines of the log."""
    screen = console(stderr=as_json)
    if screen.is_terminal:
        with Display(screen) as display:
            yield Night(work.plan, work.vaults, work.catalogue, work.leases, display)
        return
    sink = configure(style=work.config.log.format, level=work.config.log.level)
    try:
        yield Night(work.plan, work.vaults, work.catalogue, work.leases, Teller())
    finally:
        sink.close()


def leave(done: Sequence[Done], *, as_json: bool = False) -> None:
    """Print what was done, where that is wanted, and end: code 1 unless all went well."""
    if as_json:
        print_json([_as_dict(one) for one in done])
    if any(one.end.state is not RunState.OK for one in done):
        raise typer.Exit(ExitCode.FOUND_BAD)


def _as_dict(done: Done) -> dict[str, object]:
    return {
        "activity": done.activity,
        "job": done.job,
        "repository": done.repository,
        "run": done.run,
        "state": done.end.state,
        "reason": done.end.reason,
        "words": done.end.words,
        "facts": dict(done.end.facts),
    }


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C and SIGTERM stop restic in the proper order first. Raises CliError for what can be
    explained."""
    try:
        return asyncio.run(_stoppable(main))
    except (VaultError, SourceError, RestoreError) as error:
        outcome = error.outcome if isinstance(error, VaultError) else None
        code = ExitCode.UNREACHABLE if outcome in OUT_OF_REACH else ExitCode.FOUND_BAD
        said = error.message if isinstance(error, RestoreError) else str(error)
        raise CliError(said, remedy=error.remedy, code=code) from None
    except ResticError as error:
        raise CliError(str(error), code=ExitCode.UNREACHABLE) from None
    except PointNotFound as error:
        raise CliError(error.message, remedy=error.hint) from None
    except LeaseHeld as error:
        raise CliError(str(error), remedy="wait for it to end, or see smartmail backup status") from None


async def _stoppable(main: Coroutine[Any, Any, T]) -> T:
    """SIGTERM as Ctrl-C: else restic would live on with nobody to hear it, and no line would say how it ended."""
    task, told = asyncio.current_task(), asyncio.Event()
    assert task is not None  # noqa: S101 - cannot be, within a coroutine

    def stop() -> None:
        told.set()
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    try:
        return await main
    except asyncio.CancelledError:
        if told.is_set():
            raise typer.Exit(ExitCode.TERMINATED) from None
        raise


def _write_locations(folder: Path, wanted: dict[Path, str]) -> None:
    """restic reads addresses from files: those of the configuration are put into files of ours."""
    # Passable, so that a mail user comes to what is staged for him; what is in it is closed by itself.
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    for file, location in wanted.items():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        octets = f"{location}\n".encode()
        if not file.is_file() or file.read_bytes() != octets:
            begun = file.with_name(f"{file.name}.{os.getpid()}")
            descriptor = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(octets)
            begun.replace(file)
