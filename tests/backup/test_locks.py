"""restic's locks: only those of dead processes of this host are taken away, under our own lease, at two looks."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from plans import make_repository
from weakkeys import make_cheap

from smartmail.backup.locks import lock_age, process_began, unlock_dead, why_alive
from smartmail.backup.restic import Settings, find_restic
from smartmail.backup.vault import HeldLock, Vault
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Reason
from smartmail.core.restic import Repository
from smartmail.core.restic_output import Lock
from smartmail.core.restic_version import Capabilities, Version, capabilities

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


def held(number: int = 1, host: str = "mx1", pid: int = 4711, at_ms: int | None = NOW_MS - HOUR_MS) -> HeldLock:
    time_ns = None if at_ms is None else at_ms * 1_000_000
    return HeldLock(f"{number:064x}", Lock(host, "root", pid, True, time_ns))


def gone(pid: int) -> int | None:
    return None


def old(pid: int) -> int | None:
    """It runs since before the lock."""
    return NOW_MS - 2 * HOUR_MS


def young(pid: int) -> int | None:
    """Another process has got the number since, such as after the machine was started anew."""
    return NOW_MS


@pytest.mark.parametrize(
    ("locks", "began", "why"),
    [
        ([], gone, ""),
        ([held()], gone, ""),
        ([held(1), held(2, pid=5)], gone, ""),
        ([held()], young, ""),
        ([held()], old, "which lives"),
        ([held(at_ms=None)], young, "which lives"),
        ([held(), held(2, host="mx2")], gone, "which is not this host"),
        ([HeldLock("ab" * 32, None)], gone, "cannot be read"),
    ],
)
def test_whose_lock_it_is(locks: list[HeldLock], began: Callable[[int], int | None], why: str) -> None:
    found = why_alive(locks, "mx1", began)
    assert why in found
    assert bool(found) is bool(why)


@dataclass
class Played:
    """A vault whose locks are given, look by look, and that only notes that it was unlocked."""

    looks: list[list[HeldLock]]
    unlocked: int = 0
    name: str = "onsite"
    at: Repository = field(default_factory=lambda: Repository("onsite", "/none", "/none"))
    known: Capabilities = field(default_factory=lambda: capabilities(Version(0, 14)))

    async def locks(self) -> tuple[HeldLock, ...]:
        return tuple(self.looks.pop(0))

    async def must(self, command: object, patience: object = None, listener: object = None) -> None:
        self.unlocked += 1


async def no_pause() -> None:
    """The second look at once."""


@pytest.mark.parametrize(
    ("looks", "ours", "state", "reason", "unlocked"),
    [
        ([[]], True, RunState.OK, Reason.NONE, 0),
        ([[]], False, RunState.OK, Reason.NONE, 0),
        ([[held()]], False, RunState.FAILED, Reason.LEASED, 0),
        ([[held(host="mx2")]], True, RunState.FAILED, Reason.LOCKED, 0),
        ([[held()], [held(), held(2)]], True, RunState.FAILED, Reason.LOCKED, 0),
        ([[held()], [held(2)]], True, RunState.FAILED, Reason.LOCKED, 0),
        ([[held()], [held()], []], True, RunState.OK, Reason.NONE, 1),
        ([[held()], [], []], True, RunState.OK, Reason.NONE, 1),
        ([[held()], [held()], [held(2, host="mx2")]], True, RunState.OK, Reason.NONE, 1),
        ([[held()], [held()], [held()]], True, RunState.FAILED, Reason.LOCKED, 1),
    ],
)
async def test_when_it_is_taken_away(
    looks: list[list[HeldLock]], ours: bool, state: RunState, reason: Reason, unlocked: int
) -> None:
    vault = Played(looks)
    found = await unlock_dead(vault, ours, host="mx1", began=gone, pause=no_pause)  # type: ignore[arg-type]
    assert (found.state, found.reason, vault.unlocked) == (state, reason, unlocked)


async def test_a_process_that_came_to_life_between_the_looks_keeps_its_lock() -> None:
    vault, told = Played([[held()], [held()]]), iter([None, NOW_MS - 2 * HOUR_MS])
    found = await unlock_dead(vault, True, host="mx1", began=lambda pid: next(told), pause=no_pause)  # type: ignore[arg-type]
    assert (found.reason, vault.unlocked) == (Reason.LOCKED, 0)


def test_when_a_process_began() -> None:
    began = process_began(os.getpid())
    assert began is not None
    assert 0 <= time.time() * 1000 - began < 24 * HOUR_MS
    process = subprocess.Popen(["sleep", "60"])
    assert process_began(process.pid) is not None
    process.kill()
    deadline = time.monotonic() + 10
    while process_began(process.pid) is not None:
        assert time.monotonic() < deadline, "one that only waits to be fetched is gone"
    process.wait()
    assert process_began(process.pid) is None
    assert process_began(2**22 + 1) is None


@pytest.mark.servers
async def test_the_lock_of_a_killed_restic(tmp_path: Path) -> None:
    plan = make_repository(tmp_path, "onsite")
    vault = Vault(plan, await find_restic(Settings(tmp_path / "cache")))
    await make_cheap(vault)
    now_ms = time.time_ns() // 1_000_000
    assert (await lock_age(vault, now_ms)).age_ms is None
    env = {
        "PATH": os.environ["PATH"],
        "RESTIC_REPOSITORY_FILE": plan.at.repository_file,
        "RESTIC_PASSWORD_FILE": plan.at.password_file,
        "RESTIC_CACHE_DIR": str(tmp_path / "cache"),
    }
    words = ["restic", "backup", "-q", "--stdin", "--host=mx1"]
    with subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not any(len(one.name) == 64 for one in (tmp_path / "onsite/locks").iterdir()):
            assert time.monotonic() < deadline
        age = await lock_age(vault, now_ms + HOUR_MS)
        assert len(age.locks) == 1
        assert age.age_ms is not None
        assert HOUR_MS - 60_000 < age.age_ms <= HOUR_MS
        alive = await unlock_dead(vault, True, pause=no_pause)
        assert (alive.state, alive.reason) == (RunState.FAILED, Reason.LOCKED)
        assert f"process {process.pid} of {socket.gethostname()}, which lives" in alive.words
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (await unlock_dead(vault, False, pause=no_pause)).reason is Reason.LEASED
    found = await unlock_dead(vault, True, pause=no_pause)
    assert (found.state, len(found.removed), found.left) == (RunState.OK, 1, ())
    assert not any((tmp_path / "onsite/locks").iterdir())
