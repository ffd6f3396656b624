"""Dumps of what cannot be copied as it is: databases, and mailboxes of other formats than Maildir.

A set of dumps is made in a folder of its own and takes the last one's place when all of it is whole, so that whatever
is killed, and when, leaves the last whole set or none.
"""

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from smartmail.backup.child import Ended, plain_environment, run_child
from smartmail.backup.faults import SourceError
from smartmail.backup.process import unhurried
from smartmail.core import backup_dumps as ask
from smartmail.core.backup_plan import JobPlan
from smartmail.core.backup_record import Reason

LIMIT_S: Final = 6 * 3600.0
"""For one dump of PostgreSQL."""
PAGES: Final = 2000
"""Pages of SQLite between two looks whether to stop."""
_BUSY_S: Final = 30.0
_POSTGRESQL: Final = ("PG",)


class Staging:
    """Where a job's dumps are made, and where they are then: `folder`, at the same path each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.begun = folder.parent / ".begun" / folder.name
        self._gone = folder.parent / ".gone" / folder.name

    def begin(self) -> Path:
        """An empty folder to fill. What a killed run left in it is gone. Raises OSError."""
        for old in (self.begun, self._gone):
            shutil.rmtree(old, ignore_errors=True)
        self.begun.mkdir(mode=0o700, parents=True)
        return self.begun

    def take(self) -> Path:
        """The filled one takes the last one's place. Raises OSError."""
        for file in self.begun.rglob("*"):
            _sync(file)
        _sync(self.begun)
        self._gone.parent.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            self.folder.rename(self._gone)
        self.begun.rename(self.folder)
        _sync(self.folder.parent)
        shutil.rmtree(self._gone, ignore_errors=True)
        return self.folder

    def clear(self) -> None:
        """Remove all of it. Raises OSError."""
        for one in (self.begun, self._gone, self.folder):
            if one.exists():
                shutil.rmtree(one)


# SQLite


async def dump_sqlite(job: JobPlan, staging: Staging) -> Path:
    """Copy each database of a job, at its whole path below the staging folder. Raises SourceError."""
    stop = threading.Event()
    await _in_thread(lambda: _copy_all(job, staging, stop), stop)
    return staging.folder


async def _in_thread(work: Callable[[], object], stop: threading.Event | None = None) -> None:
    """Do it in a thread, which is over when this is: else it would go on filling a folder that is somebody else's by
    then. stop: set when we are cancelled."""
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        await unhurried(_over(task))
        raise


async def _over(task: asyncio.Task[object]) -> None:
    await asyncio.wait((task,))
    task.exception()


def _copy_all(job: JobPlan, staging: Staging, stop: threading.Event) -> None:
    try:
        folder = staging.begin()
        for path in job.paths:
            target = folder / path.lstrip("/")
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            copy_sqlite(path, target, stop)
        staging.take()
    except OSError as error:
        raise _unwritable(staging.folder, error) from error


def copy_sqlite(path: str, target: Path, stop: threading.Event | None = None) -> None:
    """Copy a database as it is at one moment, whoever writes to it meanwhile, and prove the copy intact. target: not
    there yet; only we may read it. Raises SourceError, OSError."""
    if os.path.getsize(path) == 0:  # noqa: PTH202
        # An empty file is a database without tables to SQLite.
        raise SourceError(Reason.SOURCE_EMPTY, f"the database {path} is an empty file", "is it the right path?")
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        with closing(_opened(path, "mode=ro")) as source, closing(_opened(str(target), "mode=rw")) as copy:
            # A backup begins anew with each write of somebody else, for ever beside a busy writer: so it reads from
            # one transaction, which with a write-ahead log keeps nobody waiting.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            source.backup(copy, pages=PAGES, progress=_progress(stop))
        with closing(_opened(str(target), "mode=ro&immutable=1")) as copy:
            verdict = copy.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        raise SourceError(
            Reason.DUMP_FAILED,
            f"the database {path} could not be copied: {error}",
            "try: sqlite3 FILE 'PRAGMA integrity_check'",
        ) from error
    if verdict != ("ok",):
        raise SourceError(
            Reason.DUMP_FAILED,
            f"the database {path} is damaged: {verdict[0] if verdict else 'nothing is said'}",
            "restore it from the last good backup, or have sqlite3 FILE .recover save what is left",
        )


def _opened(path: str, options: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path))}?{options}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)


def _progress(stop: threading.Event | None) -> Callable[[int, int, int], None]:
    def progress(status: int, remaining: int, total: int) -> None:
        if stop is not None and stop.is_set():
            raise sqlite3.OperationalError("stopped")

    return progress


# PostgreSQL


async def dump_postgresql(job: JobPlan, staging: Staging, limit_s: float = LIMIT_S) -> Path:
    """The database and the roles of its server. Each must end well and be whole. Raises SourceError."""
    try:
        folder = staging.begun
        await _in_thread(staging.begin)
        database, roles = str(folder / ask.DATABASE_FILE), str(folder / ask.GLOBALS_FILE)
        for file in (database, roles):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        await _must(ask.pg_dump(job.database, database), limit_s, Reason.DUMP_FAILED)
        await _must(ask.pg_dumpall(job.database, roles), limit_s, Reason.DUMP_FAILED)
        listed = await _must(ask.pg_list(database), limit_s, Reason.DUMP_TRUNCATED)
        if not ask.listed_entries(listed.stdout):
            raise SourceError(
                Reason.SOURCE_EMPTY, f"the dump of {job.database} has nothing in it", "is it the right database?"
            )
        await _must(ask.pg_read(database), limit_s, Reason.DUMP_TRUNCATED)
        if not ask.globals_whole(await asyncio.to_thread(_tail, roles)):
            raise SourceError(
                Reason.DUMP_TRUNCATED, f"the roles beside {job.database} have no end", "run the job again"
            )
        await _in_thread(staging.take)
        return staging.folder
    except ask.DumpRefused as error:
        raise SourceError(Reason.DUMP_FAILED, str(error)) from None
    except OSError as error:
        raise _unwritable(staging.folder, error) from error


async def _must(argv: tuple[str, ...], limit_s: float, reason: Reason) -> Ended:
    ended = await run_tool(argv, limit_s, plain_environment(prefixes=_POSTGRESQL))
    if not ended.ok:
        remedy = "is the disk full? run the job again" if reason is Reason.DUMP_TRUNCATED else _hint(ended.stderr)
        raise SourceError(reason, f"{argv[0]}: {ended.how(limit_s)}", remedy)
    return ended


async def run_tool(argv: tuple[str, ...], limit_s: float, env: dict[str, str]) -> Ended:
    """Run a tool that has to be there. Raises SourceError."""
    try:
        return await run_child(argv, env, limit_s)
    except OSError as error:
        text = f"{argv[0]} cannot be started: {error.strerror or error}"
        raise SourceError(Reason.DUMP_FAILED, text, f"install it, or put the folder of {argv[0]} into PATH") from error


def _hint(stderr: str) -> str:
    if "pg_authid" in stderr or "permission denied" in stderr:
        return "dump as a superuser, such as by PGUSER or a service file"
    if "password" in stderr:
        return "put the password into ~/.pgpass"
    if "version mismatch" in stderr:
        return "install the client programs of the server's version"
    return ""


def _tail(file: str) -> bytes:
    with Path(file).open("rb") as opened:
        opened.seek(max(0, os.fstat(opened.fileno()).st_size - 1024))
        return opened.read()


# both


def octets_of(folders: Iterable[str]) -> int:
    """How much is in all files below. Raises OSError."""
    return sum(file.lstat().st_size for folder in folders for file in Path(folder).rglob("*") if file.is_file())


def _unwritable(folder: Path, error: OSError) -> SourceError:
    what = f"the dump could not be written below {folder.parent}: {error.strerror or error}"
    return SourceError(Reason.DUMP_FAILED, what, "make room there, or let us write there")


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
