"""One process works on a repository at a time: races, a killed holder, one that was given up and wakes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smartmail.backup import lease as leases_module
from smartmail.backup.lease import LeaseHeld, LeaseLost, Leases, this_host
from smartmail.core.backup_due import Lease, renewed
from smartmail.store import backups
from smartmail.store.database import Database
from smartmail.store.errors import StoreUnavailable

TTL_MS = 600
RENEW_S = 0.02
ELSEWHERE = Lease("1.1.feed", "mx2/boot/1", 4, 7)

PROGRAM = """
import asyncio, sys
from pathlib import Path
from smartmail.backup.lease import LeaseHeld, Leases
from smartmail.store.database import Database

async def main(url, folder, host):
    with Database(url) as database:
        try:
            async with Leases(database, Path(folder), host=host, ttl_ms=600, renew_s=0.02).hold("onsite") as lease:
                print("held", lease.term, flush=True)
                await asyncio.to_thread(sys.stdin.readline)
        except LeaseHeld:
            print("refused", flush=True)

asyncio.run(main(*sys.argv[1:4]))
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path / 'smartmail.db'}") as database:
        database.upgrade()
        yield database


@pytest.fixture
def make(database: Database, tmp_path: Path) -> Callable[..., Leases]:
    def leases(folder: str = "leases", host: str = "", ttl_ms: int = TTL_MS) -> Leases:
        return Leases(database, tmp_path / folder, ttl_ms=ttl_ms, renew_s=RENEW_S, host=host)

    return leases


@pytest.fixture
def spawn(database: Database, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Another process that takes the lease of "onsite" and holds it until a line comes in."""
    children: list[subprocess.Popen[str]] = []

    def start(folder: str = "leases", host: str = "") -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", PROGRAM, database.url, str(tmp_path / folder), host]
        children.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def let_go(child: subprocess.Popen[str]) -> int:
    with contextlib.suppress(BrokenPipeError):
        child.communicate("\n", timeout=30)
    return child.returncode


def there(database: Database) -> tuple[Lease, int] | None:
    with database.read() as connection:
        return backups.lease_of(connection, "onsite")


def put(database: Database, new: Lease, old: Lease | None = None, pid: int = 1) -> None:
    with database.write() as connection:
        assert backups.put_lease(connection, "onsite", old, new, pid, 0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


# one process


async def test_it_is_held_renewed_and_dropped(database: Database, make: Callable[..., Leases]) -> None:
    leases = make()
    assert not leases.ours("onsite")
    async with leases.hold("onsite") as lease:
        assert leases.ours("onsite")
        assert there(database) == (lease, os.getpid())
        await until(lambda: (found := there(database)) is not None and found[0].beat >= 2)
        async with leases.hold("offsite"):
            assert leases.ours("offsite")
    assert there(database) is None
    assert not leases.ours("onsite")
    async with leases.hold("onsite"):
        pass


@pytest.mark.parametrize("same", [True, False], ids=["of one object", "of two objects"])
async def test_two_tasks_of_one_process_do_not_share_it(make: Callable[..., Leases], same: bool) -> None:
    first = make()
    second = first if same else make()
    async with first.hold("onsite"):
        with pytest.raises(LeaseHeld, match=rf"repository onsite: process {os.getpid()} of"):
            async with second.hold("onsite"):
                raise AssertionError
        assert first.ours("onsite")
    async with second.hold("onsite"):
        pass


async def test_it_is_dropped_when_the_work_fails(database: Database, make: Callable[..., Leases]) -> None:
    with pytest.raises(ZeroDivisionError):
        async with make().hold("onsite"):
            raise ZeroDivisionError
    assert there(database) is None


async def test_it_is_dropped_when_the_work_is_cancelled(database: Database, make: Callable[..., Leases]) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with make().hold("onsite"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert there(database) is None


async def test_a_cancellation_at_any_step_of_taking_it_leaves_nothing(
    database: Database, make: Callable[..., Leases]
) -> None:
    leases = make()

    async def work() -> None:
        async with leases.hold("onsite"):
            pass

    for steps in range(12):
        task = asyncio.create_task(work())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        assert there(database) is None
        assert not leases.ours("onsite")
    await work()


async def test_a_cancellation_while_the_lease_is_written_takes_it_back(
    database: Database, make: Callable[..., Leases], monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = make()
    loop, written = asyncio.get_running_loop(), asyncio.Event()
    original = backups.put_lease

    def slow(*arguments: object) -> bool:
        loop.call_soon_threadsafe(written.set)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(leases_module.backups, "put_lease", slow)

    async def work() -> None:
        async with leases.hold("onsite"):
            raise AssertionError

    task = asyncio.create_task(work())
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert there(database) is None


@pytest.mark.parametrize("attack", ["a file in the folder's place", "a link in the file's place"])
async def test_a_folder_that_cannot_be_used_is_told_of(
    make: Callable[..., Leases], tmp_path: Path, attack: str
) -> None:
    if attack.startswith("a file"):
        (tmp_path / "leases").write_text("")
    else:
        (tmp_path / "leases").mkdir()
        (tmp_path / "leases" / "onsite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="cannot be used for the lease"):
        async with make().hold("onsite"):
            raise AssertionError
    assert not (tmp_path / "elsewhere").exists()


async def test_a_repository_with_a_slash_in_its_name_stays_in_the_folder(
    make: Callable[..., Leases], tmp_path: Path
) -> None:
    async with make().hold("../../x"):
        assert [path.name for path in (tmp_path / "leases").iterdir()] == ["..%2F..%2Fx"]


# several processes


@pytest.mark.parametrize("folders", [("leases", "leases"), ("one", "other")], ids=["one folder", "a folder each"])
async def test_of_two_processes_that_race_one_gets_it(
    spawn: Callable[..., subprocess.Popen[str]], folders: tuple[str, str]
) -> None:
    children = [spawn(folder) for folder in folders * 2]
    answers = [said(child) for child in children]
    assert sorted(answers) == ["held 1", "refused", "refused", "refused"]
    assert [let_go(child) for child in children] == [0] * 4
    assert said_again(spawn) == "held 1"


def said_again(spawn: Callable[..., subprocess.Popen[str]]) -> str:
    child = spawn()
    answer = said(child)
    let_go(child)
    return answer


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "a zombie"])
@pytest.mark.parametrize("folder", ["leases", "other"], ids=["its folder", "another folder"])
async def test_a_killed_holder_is_taken_over_at_once(
    database: Database,
    make: Callable[..., Leases],
    spawn: Callable[..., subprocess.Popen[str]],
    folder: str,
    reaped: bool,
) -> None:
    child = spawn()
    assert said(child) == "held 1"
    with pytest.raises(LeaseHeld, match=f"process {child.pid} of"):
        async with make(folder).hold("onsite"):
            raise AssertionError
    child.send_signal(signal.SIGKILL)
    if reaped:
        child.wait()
    else:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    # A holder that is known to be dead is not waited for, however long it would have had.
    async with make(folder, ttl_ms=3_600_000).hold("onsite") as lease:
        assert lease.term == 2
        assert there(database) == (lease, os.getpid())


async def test_a_stopped_process_of_this_machine_is_never_given_up(
    database: Database, make: Callable[..., Leases], spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    child = spawn()
    assert said(child) == "held 1"
    child.send_signal(signal.SIGSTOP)
    for folder in ("leases", "other"):
        with pytest.raises(LeaseHeld):
            async with make(folder, ttl_ms=0).hold("onsite"):
                raise AssertionError
    child.send_signal(signal.SIGCONT)
    assert let_go(child) == 0
    assert there(database) is None


async def test_a_process_number_that_another_process_got_is_not_the_holder(
    database: Database, make: Callable[..., Leases]
) -> None:
    put(database, Lease(f"{os.getpid()}.17.feed", this_host(), 3, 0), pid=os.getpid())
    async with make(ttl_ms=3_600_000).hold("onsite") as lease:
        assert lease.term == 4


# another machine


async def test_a_holder_elsewhere_that_renews_is_left(database: Database, make: Callable[..., Leases]) -> None:
    put(database, ELSEWHERE)

    async def beat() -> None:
        now = ELSEWHERE
        while True:
            put(database, renewed(now), now)
            now = renewed(now)
            await asyncio.sleep(0.01)

    beating = asyncio.create_task(beat())
    with pytest.raises(LeaseHeld, match="of mx2 works on it"):
        async with make(ttl_ms=3000).hold("onsite"):
            raise AssertionError
    beating.cancel()


async def test_a_holder_elsewhere_that_is_silent_is_taken_over_after_its_time(
    database: Database, make: Callable[..., Leases]
) -> None:
    put(database, ELSEWHERE)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with make().hold("onsite") as lease:
        assert loop.time() - began >= TTL_MS / 1000
        assert lease.term == ELSEWHERE.term + 1


async def test_a_holder_that_was_given_up_is_stopped_and_changes_nothing(
    database: Database, make: Callable[..., Leases]
) -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("stopped")

    theirs = Lease("9.9.feed", "mx2/boot/1", 9, 0)
    with pytest.raises(LeaseLost, match="somebody else took over"):
        async with make().hold("onsite"):
            steal(database, theirs)
            await work()
    assert ended == ["stopped"]
    assert there(database) == (theirs, 77)
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


def steal(database: Database, theirs: Lease) -> None:
    """Take it from whoever has it, whatever its beat is by now."""
    with database.write() as connection:
        found = backups.lease_of(connection, "onsite")
        assert found is not None
        assert backups.put_lease(connection, "onsite", found[0], theirs, 77, 0)


async def test_who_was_cancelled_by_somebody_else_too_is_cancelled(
    database: Database, make: Callable[..., Leases]
) -> None:
    async def work() -> None:
        async with make().hold("onsite"):
            steal(database, Lease("9.9.feed", "mx2/boot/1", 9, 0))
            try:
                await asyncio.Event().wait()
            finally:
                current = asyncio.current_task()
                assert current is not None
                current.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())


async def test_the_database_may_be_away_for_a_while(
    database: Database, make: Callable[..., Leases], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, refused = backups.put_lease, []

    def away(*arguments: object) -> bool:
        if len(refused) < 3:
            refused.append(1)
            raise StoreUnavailable("it is away")
        return original(*arguments)  # type: ignore[arg-type]

    async with make().hold("onsite"):
        monkeypatch.setattr(leases_module.backups, "put_lease", away)
        await until(lambda: (found := there(database)) is not None and found[0].beat >= 1)
    assert len(refused) == 3
    assert there(database) is None
