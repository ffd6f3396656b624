"""restic's locks: how old they are, and the taking away of those that a dead process of ours has left.

restic itself calls a lock stale as well when it is 30 minutes old, whoever holds it; here that is not enough. Hosts are
told apart by name: two machines or containers of one name must not work on one repository.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smartmail.backup.vault import BRIEF, HeldLock, Vault, VaultError
from smartmail.core import restic as ask
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import End, Reason, reason_of

BETWEEN_S: Final = 1.0
"""From the first look to the second."""
_MARGIN_MS: Final = 60_000
"""A process that began this long after the lock is not the one that made it."""


@dataclass(frozen=True, slots=True)
class LockAge:
    """age_ms: since the oldest was made or renewed, by its holder's clock; None if there is no lock, or none whose time
    can be read."""

    locks: tuple[HeldLock, ...]
    age_ms: int | None


@dataclass(frozen=True, slots=True)
class Unlocked:
    """removed: locks that were there and are gone; left: locks that are there. words: for a person."""

    state: RunState
    reason: Reason
    removed: tuple[HeldLock, ...]
    left: tuple[HeldLock, ...]
    words: str

    @property
    def end(self) -> End:
        """For the catalogue."""
        return End(self.state, self.reason, self.facts, self.words)

    @property
    def facts(self) -> dict[str, object]:
        """For the catalogue: JSON values."""
        return {"removed": [one.id for one in self.removed], "left": [one.id for one in self.left]}


async def lock_age(vault: Vault, now_ms: int) -> LockAge:
    """Who holds locks, and for how long. Raises VaultError, ResticError."""
    locks = await vault.locks()
    times = [one.lock.time_ns for one in locks if one.lock is not None and one.lock.time_ns is not None]
    return LockAge(locks, max(now_ms - min(times) // 1_000_000, 0) if times else None)


def process_began(pid: int) -> int | None:
    """When a process of this machine began (epoch ms); None if there is none, or it has ended and only waits to be
    fetched. Blocking, but brief."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except (FileNotFoundError, ProcessLookupError):
        return None
    if state in ("Z", "X"):
        return None
    return int(booted.split()[1]) * 1000 + int(fields[18]) * 1000 // os.sysconf("SC_CLK_TCK")


async def _pause() -> None:
    await asyncio.sleep(BETWEEN_S)


async def unlock_dead(
    vault: Vault,
    lease_is_ours: bool,
    *,
    host: str = "",
    began: Callable[[int], int | None] = process_began,
    pause: Callable[[], Awaitable[None]] = _pause,
) -> Unlocked:
    """Take locks away if the repository's lease is ours and every lock is of this host and of a process that is gone,
    at two looks. Otherwise nothing is done, and words say why. host: this one's name, "" for what the system says.
    began: as `process_began`. How it ends is a result; raises ResticError if restic cannot be started."""
    try:
        first = await vault.locks()
        if not first:
            return Unlocked(RunState.OK, Reason.NONE, (), (), f"repository {vault.name}: there is no lock")
        if not lease_is_ours:
            words = f"repository {vault.name}: its lease is not ours, so its locks are not"
            return Unlocked(RunState.FAILED, Reason.LEASED, (), first, words)
        name = host or socket.gethostname()
        why = why_alive(first, name, began)
        if not why:
            await pause()
            second = await vault.locks()
            if {one.id for one in second} - {one.id for one in first}:
                why = "a new lock came meanwhile"
            else:
                why = why_alive(second, name, began)
        if why:
            return Unlocked(RunState.FAILED, Reason.LOCKED, (), first, f"repository {vault.name}: {why}")
        await vault.must(ask.unlock(vault.known, vault.at), BRIEF)
        left = await vault.locks()
    except VaultError as error:
        return Unlocked(RunState.FAILED, reason_of(error.outcome), (), (), str(error))
    ids = {one.id for one in left}
    removed = tuple(one for one in first if one.id not in ids)
    if any(one.id in ids for one in first):
        words = f"repository {vault.name}: restic kept a lock of a dead process; it goes when it is 30 minutes old"
        return Unlocked(RunState.FAILED, Reason.LOCKED, removed, left, words)
    words = f"repository {vault.name}: {len(removed)} locks of dead processes of this host were taken away"
    return Unlocked(RunState.OK, Reason.NONE, removed, left, words)


def why_alive(locks: Sequence[HeldLock], host: str, began: Callable[[int], int | None]) -> str:
    """Why one of the locks may have a living holder; "" if every one is of this host and its process is gone."""
    for one in locks:
        if one.lock is None:
            return f"lock {one.id[:8]} cannot be read"
        holder = f"lock {one.id[:8]} is held by process {one.lock.pid} of {one.lock.host}"
        if one.lock.host != host:
            return f"{holder}, which is not this host ({host})"
        since = began(one.lock.pid)
        if since is None:
            continue
        if one.lock.time_ns is None or since <= one.lock.time_ns // 1_000_000 + _MARGIN_MS:
            return f"{holder}, which lives"
    return ""
