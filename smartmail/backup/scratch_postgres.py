"""A dump of PostgreSQL, loaded: into a server of its own that lives only for the drill, with no port, reachable only by
us, and gone afterwards. Where there is no server's program, the dump is at least read to its end."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from smartmail.backup.child import Ended, plain_environment, run_child
from smartmail.backup.drill_files import Loaded, Scratch
from smartmail.backup.process import unhurried
from smartmail.core import backup_dumps as ask

LIMIT_S: Final = 6 * 3600.0
_START_S: Final = 60
_STOP_S: Final = 30.0
_USER: Final = "postgres"
_COUNT: Final = """\
SELECT count(*), coalesce(sum((xpath('/row/c/text()', query_to_xml(
format('SELECT count(*) AS c FROM %I.%I', schemaname, tablename), false, true, '')))[1]::text::bigint), 0)
FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"""
"""Tables, and the rows of all of them: each is read."""


_HARMLESS: Final = ("already exists", "tablespace", "directory")


async def load_postgresql(dump: Path, roles: Path | None, scratch: Scratch, limit_s: float = LIMIT_S) -> Loaded:
    """Load a dump in PostgreSQL's custom format, and the roles if they are there. What is wrong is in the faults.
    Raises OSError if the scratch server's folder cannot be made."""
    found = Loaded(how="read to its end by pg_restore; there is no PostgreSQL server's program here to load it into")
    read = await _run(ask.pg_read(str(dump)), limit_s)
    if not read.ok:
        found.faults.append(f"pg_restore: {read.how(limit_s)}")
        return found
    programs = _programs()
    if programs is None:
        return found
    server = _Server(programs, await asyncio.to_thread(scratch.outside, _base()))
    try:
        fault = await server.start()
        if fault:
            found.faults.append(fault)
            return found
        await _load(server, dump, roles, limit_s, found)
    finally:
        await unhurried(server.stop())
    return found


async def _load(server: "_Server", dump: Path, roles: Path | None, limit_s: float, found: Loaded) -> None:
    if roles is not None:
        told = await server.client("psql", "--no-psqlrc", "--quiet", f"--file={roles}", "postgres", limit_s=limit_s)
        # Our own superuser is there already, and tablespaces are folders of another machine.
        wrong = [
            line
            for line in told.stderr.splitlines()
            if "ERROR:" in line
            and "already exists" not in line
            and "tablespace" not in line
            and "directory" not in line
        ]
        found.faults += [f"the roles: {line.partition('ERROR:')[2].strip()}" for line in wrong[:5]]
    made = await server.client("createdb", "--template=template0", "drill")
    restored = made
    if made.ok:
        flags = ("--exit-on-error", "--no-owner", "--no-privileges", "--no-tablespaces", "--dbname=drill")
        restored = await server.client("pg_restore", *flags, str(dump), limit_s=limit_s)
    if not restored.ok:
        found.faults.append(f"it does not load: {restored.how(limit_s)}")
        return
    counted = await server.client("psql", "--no-psqlrc", "-At", f"--command={_COUNT}", "drill", limit_s=limit_s)
    numbers = counted.stdout.strip().split("|")
    if not counted.ok or len(numbers) != 2:
        found.faults.append(f"its tables cannot be read: {counted.how(limit_s)}")
        return
    found.tables, found.rows = int(numbers[0]), int(numbers[1])
    found.how = "restored into a PostgreSQL server of its own, every row of every table counted"
    if not found.tables:
        found.faults.append("it has no table")


class _Server:
    """One server. base: a folder that is ours alone; a socket's path must be short."""

    def __init__(self, programs: Path, base: Path) -> None:
        self._programs = programs
        self._base = base
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Make and start it. Returns what went wrong, "" if nothing."""
        if os.geteuid() == 0:
            await asyncio.to_thread(shutil.chown, self._base, _USER, _USER)
        data = f"{self._base}/data"
        flags = (
            f"--pgdata={data}",
            f"--username={_USER}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )
        made = await _run((*self._as_user(), str(self._programs / "initdb"), *flags), 120)
        if not made.ok:
            return f"initdb: {made.how(120)}"
        settings = ("listen_addresses=", f"unix_socket_directories={self._base}", "fsync=off", "max_wal_size=256MB")
        argv = (*self._as_user(), str(self._programs / "postgres"), "-D", data, *(f"--{one}" for one in settings))
        self._process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=plain_environment(),
            cwd=self._base,
            start_new_session=True,
        )
        for _ in range(_START_S * 5):
            if self._process.returncode is not None:
                return f"the scratch server did not start: exit code {self._process.returncode}"
            if (await self.client("pg_isready", "--timeout=2")).ok:
                return ""
            await asyncio.sleep(0.2)
        return f"the scratch server did not start within {_START_S} s"

    async def client(self, program: str, *words: str, limit_s: float = 120) -> Ended:
        """Run one of the client programs against it."""
        argv = (str(self._programs / program), f"--host={self._base}", f"--username={_USER}", *words)
        return await _run(argv, limit_s)

    async def stop(self) -> None:
        """End it, and remove all of it."""
        process = self._process
        if process is not None and process.returncode is None:
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    process.send_signal(number)
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(process.wait(), _STOP_S)
                    break
        await asyncio.to_thread(shutil.rmtree, self._base)

    def _as_user(self) -> Sequence[str]:
        """The server will not run as root. It ends with us, also when we are killed."""
        user = (f"--reuid={_USER}", f"--regid={_USER}", "--init-groups") if os.geteuid() == 0 else ()
        return ("setpriv", "--pdeathsig=INT", *user)


async def _run(argv: Sequence[str], limit_s: float) -> Ended:
    try:
        return await run_child(argv, plain_environment(), limit_s)
    except OSError as error:
        return Ended(127, "", False, f"{argv[0]} cannot be started: {error.strerror or error}")


def _base() -> Path:
    return Path(tempfile.mkdtemp(prefix="smartmail-drill-"))


def _programs() -> Path | None:
    """The folder of the server's programs; None if there is none that may be used."""
    if os.geteuid() == 0:
        try:
            import pwd

            pwd.getpwnam(_USER)
        except KeyError:
            return None
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    places += sorted(debian, key=lambda one: int(one.parent.name) if one.parent.name.isdigit() else 0, reverse=True)
    needed = ("postgres", "initdb", "psql", "createdb", "pg_restore", "pg_isready")
    whole = [one for one in places if all((one / program).exists() for program in needed)]
    return whole[0] if whole and shutil.which("setpriv") else None
