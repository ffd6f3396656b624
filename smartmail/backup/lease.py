"""Who may work on a repository now: one process at a time, whatever machine it runs on.

A lease in the database, renewed while its holder lives, and a lock on a file beside it for processes of this machine,
which the kernel drops with its holder. Who dies is taken over: at once where the process is known to be gone, else when
its lease was not renewed for TTL_MS. A holder that was taken over learns of it at its next renewal and is stopped.
"""

import asyncio
import fcntl
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from smartmail.backup.process import unhurried
from smartmail.core.backup_due import Claim, Lease, Look, Standing, judge_lease, renewed, taken
from smartmail.events import backup as events
from smartmail.store import backups
from smartmail.store.database import Database
from smartmail.store.errors import StoreError, StoreUnavailable

TTL_MS: Final = 120_000
"""A lease that was not renewed for so long is nobody's."""
RENEW_S: Final = 20.0
LOOKS: Final = 60
"""How often a lease of unknown fate is looked at within TTL_MS."""


class LeaseHeld(Exception):
    """Somebody else works on the repository. lease: as it is now, None if only the lock on the file tells of it."""

    def __init__(self, repository: str, lease: Lease | None, pid: int = 0) -> None:
        self.repository = repository
        self.lease = lease
        who = f"process {pid} of {lease.host.partition('/')[0]}" if lease else "another process of this machine"
        super().__init__(f"repository {repository}: {who} works on it")


class LeaseLost(LeaseHeld):
    """We were taken for dead, and somebody else took over: what was under way was stopped."""

    def __init__(self, repository: str, lease: Lease | None) -> None:
        super().__init__(repository, lease)
        self.args = (
            f"repository {repository}: we were taken for dead and somebody else took over; the work was stopped",
        )


@dataclass(slots=True)
class _Hold:
    """What we have of one repository. lease: None before it is ours. file: the descriptor of the locked file."""

    repository: str
    file: int
    lease: Lease | None = None
    lost: bool = False


class Leases:
    """database: with the schema of now. folder: for the locked files; of this machine. clock: epoch ms, for people.

    ttl_ms, renew_s: as TTL_MS and RENEW_S; all processes that share the database must agree on them. host: what tells
    this machine from all others, and one boot of it from the next; by default what the kernel says.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        ttl_ms: int = TTL_MS,
        renew_s: float = RENEW_S,
        host: str = "",
    ) -> None:
        self._database = database
        self._folder = folder
        self._clock = clock
        self._ttl_ms = ttl_ms
        self._renew_s = renew_s
        self._host = host or this_host()
        self._pid = os.getpid()
        self._holder = f"{self._pid}.{_born(self._pid)[1]}.{secrets.token_hex(8)}"
        self._holds: dict[str, _Hold | None] = {}

    def ours(self, repository: str) -> bool:
        """Do we hold it now?"""
        hold = self._holds.get(repository)
        return hold is not None and hold.lease is not None and not hold.lost

    @asynccontextmanager
    async def hold(self, repository: str) -> AsyncIterator[Lease]:
        """Hold the lease within the block; gives it as it was taken.

        Raises LeaseHeld at once if its holder lives, else after watching it (TTL_MS at most); LeaseLost, out of the
        block, when somebody took it over; StoreUnavailable when the database or the folder cannot be used.
        """
        hold = await self._acquire(repository)
        task = asyncio.current_task()
        assert task is not None and hold.lease is not None  # noqa: S101 - neither can be, within a coroutine
        cancelled, over = task.cancelling(), asyncio.Event()
        renewal = asyncio.create_task(self._renew(hold, over, task))
        try:
            yield hold.lease
        except BaseException as error:
            # A cancellation that is not ours goes on as one.
            if not hold.lost or (task.uncancel() > cancelled and isinstance(error, asyncio.CancelledError)):
                raise
            raise LeaseLost(repository, hold.lease) from error
        finally:
            over.set()
            await unhurried(self._end(hold, renewal))

    # taking

    async def _acquire(self, repository: str) -> _Hold:
        if repository in self._holds:
            current = await asyncio.to_thread(self._read, repository)
            raise LeaseHeld(repository, *current)
        self._holds[repository] = None
        file = -1
        try:
            file = self._lock(repository)
            hold = _Hold(repository, file)
            await self._claim(hold)
        except BaseException:
            if file >= 0:
                os.close(file)
            del self._holds[repository]
            raise
        self._holds[repository] = hold
        return hold

    def _lock(self, repository: str) -> int:
        """The descriptor of the file, locked; -1 if somebody has it."""
        path = self._folder / quote(repository, safe="")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(
                f"{path} cannot be used for the lease: {error.strerror}",
                "run the backup as one user always, and let the folder be that user's",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return -1
        except OSError as error:
            os.close(file)
            raise StoreUnavailable(f"{path} cannot be locked: {error.strerror}") from error
        return file

    async def _claim(self, hold: _Hold) -> None:
        """Until the lease is ours, or its holder is seen to live."""
        look: Look | None = None
        while True:
            lease, pid = await asyncio.to_thread(self._read, hold.repository)
            if hold.file < 0:
                raise LeaseHeld(hold.repository, lease, pid)
            alive = _alive(lease, pid) if lease and lease.host == self._host else None
            claim = Claim(self._holder, self._host, time.monotonic_ns() // 1_000_000, alive)
            before = look
            standing, look = judge_lease(lease, look, claim, self._ttl_ms)
            if standing is not Standing.HELD:
                await self._take(hold, lease, taken(lease, claim))
                if hold.lease is not None:
                    if lease is not None and standing is Standing.DEAD:
                        host = lease.host.partition("/")[0]
                        events.lease_taken_over(repository=hold.repository, host=host, process=pid)
                    return
                look = None
            elif alive or (before is not None and look != before):
                raise LeaseHeld(hold.repository, lease, pid)
            else:
                await asyncio.sleep(self._ttl_ms / 1000 / LOOKS)

    async def _take(self, hold: _Hold, old: Lease | None, new: Lease) -> None:
        """Ours must not stay behind where the wait for the thread is cancelled: a living holder is never given up."""

        async def work() -> None:
            if await asyncio.to_thread(self._put, hold.repository, old, new):
                hold.lease = new

        try:
            await unhurried(work())
        except asyncio.CancelledError:
            await unhurried(self._drop(hold))
            raise

    # keeping

    async def _renew(self, hold: _Hold, over: asyncio.Event, task: asyncio.Task[object]) -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), self._renew_s)
            old = hold.lease
            if over.is_set() or old is None:
                return
            try:
                kept = await asyncio.to_thread(self._put, hold.repository, old, renewed(old))
            except StoreError:
                # Nobody can take it over either, as long as the database is away.
                continue
            if kept:
                hold.lease = renewed(old)
            elif not over.is_set():
                hold.lost = True
                events.lease_lost(repository=hold.repository)
                task.cancel()
                return

    async def _end(self, hold: _Hold, renewal: asyncio.Task[None]) -> None:
        try:
            await renewal
            await self._drop(hold)
        finally:
            os.close(hold.file)
            self._holds.pop(hold.repository, None)

    async def _drop(self, hold: _Hold) -> None:
        """A database that is away keeps the lease until we are dead: then it is taken over."""
        lease = hold.lease
        if lease is not None and not hold.lost:
            with suppress(StoreError):
                await asyncio.to_thread(self._delete, hold.repository, lease)

    # the database, in threads

    def _read(self, repository: str) -> tuple[Lease | None, int]:
        with self._database.read() as connection:
            return backups.lease_of(connection, repository) or (None, 0)

    def _put(self, repository: str, old: Lease | None, new: Lease) -> bool:
        with self._database.write() as connection:
            return backups.put_lease(connection, repository, old, new, self._pid, self._clock())

    def _delete(self, repository: str, lease: Lease) -> bool:
        with self._database.write() as connection:
            return backups.drop_lease(connection, repository, lease)


def this_host() -> str:
    """The machine's name; which boot of which kernel; and whose process numbers they are (a container has its own)."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    try:
        return f"{os.uname().nodename}/{boot.read_text().strip()}/{space.stat().st_ino}"
    except OSError:
        return f"{os.uname().nodename}/{secrets.token_hex(8)}"


def _alive(lease: Lease, pid: int) -> bool:
    """Does the process of a lease of this host live? A number that another process got meanwhile is not it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    state, born = _born(pid)
    if state in ("Z", "X"):
        return False
    noted = lease.holder.split(".")[1:2]
    return not born or noted in ([born], [""])


def _born(pid: int) -> tuple[str, str]:
    """State and time of birth of a process, in the kernel's words; ("", "") if it does not show them."""
    try:
        # The name before them is in parentheses, and may hold some.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]
