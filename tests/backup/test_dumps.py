"""Dumps: whole or not at all, whoever writes meanwhile and whatever is killed."""

import asyncio
import multiprocessing
import os
import pwd
import shutil
import signal
import sqlite3
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from plans import HOURLY, make_plan

from smartmail.backup import dumps
from smartmail.backup.dumps import Staging, copy_sqlite, dump_postgresql, dump_sqlite
from smartmail.backup.faults import SourceError
from smartmail.backup.mailstaging import stage_mailboxes
from smartmail.core.backup_dumps import DATABASE_FILE, GLOBALS_FILE, GLOBALS_TRAILER
from smartmail.core.backup_plan import BackupPlan, JobKind, JobPlan
from smartmail.core.backup_record import Reason

PG_BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that is certain to come."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def put_script(folder: Path, name: str, text: str) -> None:
    """A program of our own, for sh."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


# SQLite


def make_database(file: Path, rows: int = 100, mode: str = "wal") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"pragma journal_mode={mode}")
        connection.execute("create table pairs (one integer, other integer, filling)")
        connection.executemany("insert into pairs values (?, ?, ?)", [(i, i, "x" * 500) for i in range(rows)])
        connection.commit()
    return file


def sqlite_job(*files: Path) -> JobPlan:
    return JobPlan("accounts", JobKind.SQLITE, "onsite", HOURLY, paths=tuple(map(str, files)))


def staging(folder: Path) -> Staging:
    return Staging(folder / "state" / "staging" / "accounts")


def pairs(file: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as connection:
        return connection.execute("select one, other from pairs order by rowid").fetchall()


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate"])
async def test_a_database_is_copied_whole_and_for_us_alone(tmp_path: Path, mode: str) -> None:
    file = make_database(tmp_path / "accounts.db", mode=mode)
    folder = await dump_sqlite(sqlite_job(file), staging(tmp_path))
    copy = Path(f"{folder}{file}")
    assert pairs(copy) == [(i, i) for i in range(100)]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [one.name for one in copy.parent.iterdir()] == ["accounts.db"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_what_is_only_in_the_write_ahead_log_is_copied(tmp_path: Path) -> None:
    file = make_database(tmp_path / "accounts.db")
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("insert into pairs values (7, 7, '')")
        writer.commit()
        assert (tmp_path / "accounts.db-wal").stat().st_size
        folder = await dump_sqlite(sqlite_job(file), staging(tmp_path))
    assert len(pairs(Path(f"{folder}{file}"))) == 101


def _write(file: Path, begun: "multiprocessing.synchronize.Event", end: "multiprocessing.synchronize.Event") -> None:
    """Each transaction changes all rows at two places: a copy that mixes two is not of one moment."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as connection:
        while not end.is_set():
            connection.execute("begin immediate")
            connection.execute("update pairs set one = one + 1")
            connection.execute("update pairs set other = other + 1")
            connection.execute("commit")
            begun.set()


@pytest.mark.parametrize("mode", ["wal", "delete"])
async def test_a_busy_writer_neither_spoils_the_copy_nor_keeps_it_from_ending(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumps, "PAGES", 5)
    file = make_database(tmp_path / "accounts.db", 2000, mode)
    context = multiprocessing.get_context("spawn")
    begun, end = context.Event(), context.Event()
    writer = context.Process(target=_write, args=(file, begun, end))
    writer.start()
    try:
        await asyncio.to_thread(begun.wait, 60)
        for _ in range(3):
            folder = await dump_sqlite(sqlite_job(file), staging(tmp_path))
            found = pairs(Path(f"{folder}{file}"))
            assert len({one - i for i, (one, _) in enumerate(found)}) == 1
            assert all(one == other for one, other in found)
    finally:
        end.set()
        writer.join(30)
    assert writer.exitcode == 0


def test_a_write_at_each_step_does_not_begin_the_copy_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dumps, "PAGES", 10)
    file = make_database(tmp_path / "accounts.db", 1000)
    left: list[int] = []
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:

        def writing(status: int, remaining: int, total: int) -> None:
            left.append(remaining)
            assert len(left) <= total, "it would go on for ever"
            writer.execute("update pairs set one = one + 1")

        monkeypatch.setattr(dumps, "_progress", lambda stop: writing)
        copy_sqlite(str(file), tmp_path / "copy")
    assert len(left) > 10
    assert left == sorted(left, reverse=True)
    assert pairs(tmp_path / "copy") == [(i, i) for i in range(1000)]


async def test_databases_with_one_name_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    files = [make_database(tmp_path / name / "mail.db", rows) for name, rows in (("a", 1), ("b", 2))]
    folder = await dump_sqlite(sqlite_job(*files), staging(tmp_path))
    assert [len(pairs(Path(f"{folder}{file}"))) for file in files] == [1, 2]


@pytest.mark.parametrize("name", ["a?mode=memory", "a#b", "a%20b", "-a", "a b\n*", os.fsdecode(b"a\xff")])
async def test_hostile_names_of_databases(tmp_path: Path, name: str) -> None:
    file = make_database(tmp_path / "x.db").rename(tmp_path / name)
    folder = await dump_sqlite(sqlite_job(file), staging(tmp_path))
    assert Path(f"{folder}{file}").stat().st_size == file.stat().st_size


def _no_database(file: Path) -> None:
    file.write_text("this is no database, whatever its name says" * 100)


def _empty(file: Path) -> None:
    file.write_text("")


def _damaged(file: Path) -> None:
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(size // 2)
        opened.write(b"\xff" * 8192)


def _cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_no_database, Reason.DUMP_FAILED),
        (_empty, Reason.SOURCE_EMPTY),
        (_damaged, Reason.DUMP_FAILED),
        (_cut_off, Reason.DUMP_FAILED),
    ],
)
async def test_what_is_damaged_is_not_taken_for_a_dump(
    tmp_path: Path, harm: Callable[[Path], None], reason: Reason
) -> None:
    file = make_database(tmp_path / "accounts.db", 500)
    last = await dump_sqlite(sqlite_job(file), staging(tmp_path))
    harm(file)
    with pytest.raises(SourceError) as caught:
        await dump_sqlite(sqlite_job(file), staging(tmp_path))
    assert caught.value.reason is reason
    assert len(pairs(Path(f"{last}{file}"))) == 500


async def test_an_exclusive_lock_is_waited_for_and_then_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumps, "_BUSY_S", 0.05)
    file = make_database(tmp_path / "accounts.db", mode="delete")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("begin exclusive")
        with pytest.raises(SourceError, match="locked") as caught:
            await dump_sqlite(sqlite_job(file), staging(tmp_path))
    assert caught.value.reason is Reason.DUMP_FAILED


async def test_a_cancelled_copy_has_ended_when_the_task_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make_database(tmp_path / "accounts.db")
    inside, over = threading.Event(), threading.Event()

    def slow(path: str, target: Path, stop: threading.Event) -> None:
        inside.set()
        stop.wait(30)
        over.set()
        raise SourceError(Reason.DUMP_FAILED, "stopped")

    monkeypatch.setattr(dumps, "copy_sqlite", slow)
    task = asyncio.create_task(dump_sqlite(sqlite_job(file), staging(tmp_path)))
    await until(inside.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert over.is_set()
    assert not staging(tmp_path).folder.exists()


def test_a_copy_stops_when_it_is_told_to(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(SourceError, match="stopped"):
        copy_sqlite(str(make_database(tmp_path / "a.db")), tmp_path / "copy", stop)


def _die_half_way(file: Path, folder: Path) -> None:
    real = dumps.copy_sqlite

    def dying(path: str, target: Path, stop: threading.Event) -> None:
        real(path, target, stop)
        os.truncate(target, 4096)
        os.kill(os.getpid(), signal.SIGKILL)

    dumps.copy_sqlite = dying  # type: ignore[assignment]
    asyncio.run(dump_sqlite(sqlite_job(file), staging(folder)))


@pytest.mark.parametrize("before", [True, False])
async def test_a_killed_dump_leaves_the_last_whole_one_or_none(tmp_path: Path, before: bool) -> None:
    file = make_database(tmp_path / "accounts.db")
    if before:
        await dump_sqlite(sqlite_job(file), staging(tmp_path))
    process = multiprocessing.get_context("spawn").Process(target=_die_half_way, args=(file, tmp_path))
    process.start()
    await asyncio.to_thread(process.join, 60)
    assert process.exitcode == -signal.SIGKILL
    copy = Path(f"{staging(tmp_path).folder}{file}")
    assert copy.exists() is before
    if before:
        assert len(pairs(copy)) == 100
    await dump_sqlite(sqlite_job(file), staging(tmp_path))
    assert len(pairs(copy)) == 100
    assert not staging(tmp_path).begun.exists()


def test_between_two_sets_there_is_none_and_never_a_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = staging(tmp_path)
    for name in ("one", "two"):
        (place.begin() / name).write_text("x")
        place.take()
    assert [file.name for file in place.folder.iterdir()] == ["two"]
    (place.begin() / "three").write_text("x")
    real, steps = Path.rename, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal steps
        steps += 1
        if steps == 2:
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            place.take()
    assert not place.folder.exists()
    (place.begin() / "four").write_text("x")
    assert [file.name for file in place.take().iterdir()] == ["four"]
    place.clear()
    assert not list(tmp_path.rglob("four"))


async def test_a_full_disk_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Staging) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Staging, "take", full)
    with pytest.raises(SourceError, match="No space left") as caught:
        await dump_sqlite(sqlite_job(make_database(tmp_path / "a.db")), staging(tmp_path))
    assert (caught.value.reason, "make room" in caught.value.remedy) == (Reason.DUMP_FAILED, True)


# PostgreSQL, played


class Played:
    """pg_dump, pg_dumpall and pg_restore that do as they are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.job = JobPlan("accounts", JobKind.POSTGRESQL, "onsite", HOURLY, database="mail")
        self.play("pg_dump", "printf 'PGDMP and so on' > $file")
        self.play("pg_dumpall", f"printf -- 'CREATE ROLE mail;\\n{GLOBALS_TRAILER.decode()}\\n' > $file")
        self.play("pg_restore", "[ $1 = --list ] && echo '215; 1259 16386 TABLE public a postgres'; exit 0")

    def play(self, name: str, text: str) -> None:
        taken = 'for one in "$@"; do case "$one" in --file=*) file=${one#--file=};; esac; done'
        put_script(self.bin, name, f"{taken}\n{text}")

    async def dump(self, limit_s: float = 60) -> Path:
        return await dump_postgresql(self.job, staging(self.folder), limit_s)


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return Played(tmp_path)


async def test_both_dumps_are_taken_together(played: Played) -> None:
    folder = await played.dump()
    assert {file.name for file in folder.iterdir()} == {DATABASE_FILE, GLOBALS_FILE}
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("name", "text", "reason", "words"),
    [
        ("pg_dump", "echo 'no such database' >&2; exit 1", Reason.DUMP_FAILED, "exit code 1: no such database"),
        ("pg_dump", "printf half > $file; exit 3", Reason.DUMP_FAILED, "exit code 3"),
        ("pg_dump", "printf half > $file; kill -9 $$", Reason.DUMP_FAILED, "signal 9"),
        ("pg_dump", "printf half > $file; exec sleep 600", Reason.DUMP_FAILED, "longer than 1 s"),
        ("pg_dumpall", "echo 'permission denied for table pg_authid' >&2; exit 1", Reason.DUMP_FAILED, "pg_authid"),
        ("pg_dumpall", "printf 'CREATE ROLE mail;' > $file", Reason.DUMP_TRUNCATED, "no end"),
        ("pg_dumpall", ":", Reason.DUMP_TRUNCATED, "no end"),
        ("pg_restore", "echo 'input file is too short' >&2; exit 1", Reason.DUMP_TRUNCATED, "too short"),
        ("pg_restore", "[ $1 = --list ] && echo '2; a TABLE' && exit 0; exit 1", Reason.DUMP_TRUNCATED, "exit code 1"),
        ("pg_restore", "echo '; nothing'", Reason.SOURCE_EMPTY, "nothing in it"),
    ],
)
@pytest.mark.parametrize("before", [True, False])
async def test_half_a_dump_is_none(
    played: Played, name: str, text: str, reason: Reason, words: str, before: bool
) -> None:
    last = (await played.dump() / DATABASE_FILE).stat().st_ino if before else 0
    played.play(name, text)
    with pytest.raises(SourceError) as caught:
        await played.dump(1 if "sleep" in text else 60)
    assert (caught.value.reason, words in caught.value.what) == (reason, True), caught.value.what
    folder = staging(played.folder).folder
    assert folder.exists() is before
    if before:
        assert (folder / DATABASE_FILE).stat().st_ino == last


async def test_without_the_client_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="cannot be started") as caught:
        await dump_postgresql(replace(sqlite_job(), database="mail"), staging(tmp_path))
    assert "install it" in caught.value.remedy


async def test_a_password_in_the_connection_is_refused(played: Played) -> None:
    played.job = replace(played.job, database="postgresql://mail:geheim@db/mail")
    with pytest.raises(SourceError, match="pgpass") as caught:
        await played.dump()
    assert "geheim" not in str(caught.value)


async def test_a_cancelled_dump_ends_pg_dump(played: Played) -> None:
    played.play("pg_dump", f"printf half > $file; echo $$ > {played.folder}/pid; exec sleep 600")
    task = asyncio.create_task(played.dump())
    await until(lambda: (played.folder / "pid").exists() and bool((played.folder / "pid").read_text()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int((played.folder / "pid").read_text()), 0)
    assert not staging(played.folder).folder.exists()


# PostgreSQL, real


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A PostgreSQL of Debian's on a socket of its own, with a database `mail`; how to reach it, as variables."""
    if PG_BIN is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="sm-pg-"))
    owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    as_owner: dict[str, int] = {"user": owner.pw_uid, "group": owner.pw_gid} if os.geteuid() == 0 else {}
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    folder.chmod(0o755)

    def run(*argv: str) -> None:
        done = subprocess.run(argv, capture_output=True, text=True, cwd=folder, check=False, **as_owner)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr

    run(f"{PG_BIN}/initdb", "--auth=trust", "--username=postgres", "--no-sync", f"--pgdata={folder}/data")
    options = f"-k {folder} -c listen_addresses= -c fsync=off"
    run(f"{PG_BIN}/pg_ctl", f"--pgdata={folder}/data", f"--log={folder}/log", "-w", f"--options={options}", "start")
    try:
        reach = ("-h", str(folder), "-U", "postgres")
        run(f"{PG_BIN}/createdb", *reach, "mail")
        words = "create table accounts as select i, repeat(md5(i::text), 20) as filling from generate_series(1, 3000) i"
        run(f"{PG_BIN}/psql", *reach, "-d", "mail", "-c", words, "-c", "create role relay login password 'x'")
        yield {"PGHOST": str(folder), "PGUSER": "postgres", "PATH": f"{PG_BIN}:{os.environ['PATH']}"}
    finally:
        run(f"{PG_BIN}/pg_ctl", f"--pgdata={folder}/data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def reached(cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> JobPlan:
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    return JobPlan("accounts", JobKind.POSTGRESQL, "onsite", HOURLY, database="mail")


@pytest.mark.parametrize("database", ["mail", "dbname=mail", "postgresql:///mail"])
async def test_a_real_database_is_dumped_and_comes_back(reached: JobPlan, tmp_path: Path, database: str) -> None:
    folder = await dump_postgresql(replace(reached, database=database), staging(tmp_path))
    restored = subprocess.run(
        ["pg_restore", "--data-only", "--file=-", str(folder / DATABASE_FILE)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert restored.count("\n3000\t") == 1
    assert "CREATE ROLE relay" in (folder / GLOBALS_FILE).read_text()


async def test_a_real_dump_that_was_cut_off_is_found(
    reached: JobPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table of contents is whole: only who reads all of it finds out."""
    real = shutil.which("pg_dump")
    cut = 'for one in "$@"; do case "$one" in --file=*) truncate -s -3000 "${one#--file=}";; esac; done'
    put_script(tmp_path / "bin", "pg_dump", f'{real} "$@" || exit\n{cut}')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    with pytest.raises(SourceError) as caught:
        await dump_postgresql(reached, staging(tmp_path))
    assert caught.value.reason is Reason.DUMP_TRUNCATED
    assert not staging(tmp_path).folder.exists()


async def test_a_database_that_is_not_there(reached: JobPlan, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist") as caught:
        await dump_postgresql(replace(reached, database="gone"), staging(tmp_path))
    assert caught.value.reason is Reason.DUMP_FAILED


async def test_a_server_that_is_not_there(reached: JobPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", str(tmp_path))
    with pytest.raises(SourceError, match="pg_dump: exit code 1"):
        await dump_postgresql(reached, staging(tmp_path))


# Dovecot, played


class Dovecot:
    """A doveadm that knows some users and stages a message for each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: BackupPlan = replace(make_plan(folder), doveadm=str(folder / "bin" / "doveadm"))
        self.job = JobPlan("mdbox", JobKind.DOVECOT, "onsite", HOURLY, users=("*",))
        self.staged = folder / "state" / "staging" / "mdbox"
        self.logged: list[str] = []
        self.play("anna@a.org", "bert@b.org")

    def play(self, *users: str, backup: str = "", listing: str = "") -> None:
        (self.folder / "users").write_text("".join(f"{user}\n" for user in users))
        text = f"""
            case "$1 $2" in
            "user -f") echo 65534;;
            user*) {listing or f"cat {self.folder}/users"};;
            *) echo "$3" >> {self.folder}/asked; place=${{4#maildir:}}
               {backup}
               mkdir -p "$place/cur" && echo "Subject: x" > "$place/cur/1.x:2,S";;
            esac"""
        put_script(self.folder / "bin", "doveadm", text)

    async def stage(self) -> tuple[str, ...]:
        return await stage_mailboxes(self.job, self.plan, str(self.staged), self.logged.append)

    def mailboxes(self) -> set[str]:
        return {str(one.relative_to(self.staged)) for one in self.staged.glob("*/*/Maildir")}


@pytest.fixture
def dovecot(tmp_path: Path) -> Dovecot:
    return Dovecot(tmp_path)


@pytest.fixture(autouse=True)
def _passable(tmp_path: Path) -> None:
    """pytest's folders are for their owner alone."""
    for one in (tmp_path, *tmp_path.parents):
        if not one.stat().st_mode & 1:
            one.chmod(one.stat().st_mode | 0o011)


async def test_each_user_is_staged_and_who_is_gone_is_removed(dovecot: Dovecot) -> None:
    assert await dovecot.stage() == ()
    assert dovecot.mailboxes() == {"a.org/anna/Maildir", "b.org/bert/Maildir"}
    dovecot.play("bert@b.org")
    assert await dovecot.stage() == ()
    assert dovecot.mailboxes() == {"b.org/bert/Maildir"}


async def test_a_user_without_a_pattern_is_not_looked_up(dovecot: Dovecot) -> None:
    dovecot.job = replace(dovecot.job, users=("carol@c.org",))
    await dovecot.stage()
    assert dovecot.mailboxes() == {"c.org/carol/Maildir"}


async def test_most_users_cannot_vanish_at_once(dovecot: Dovecot) -> None:
    """Then doveadm is likelier to be wrong than right."""
    dovecot.play(*(f"u{number}@a.org" for number in range(20)))
    await dovecot.stage()
    dovecot.play("u1@a.org")
    with pytest.raises(SourceError) as caught:
        await dovecot.stage()
    assert caught.value.reason is Reason.SOURCE_TOO_SMALL
    assert len(dovecot.mailboxes()) == 20


@pytest.mark.parametrize(
    ("listing", "reason"),
    [("echo 'no iteration' >&2; exit 68", Reason.DUMP_FAILED), (":", Reason.SOURCE_EMPTY)],
)
async def test_users_that_cannot_be_listed(dovecot: Dovecot, listing: str, reason: Reason) -> None:
    await dovecot.stage()
    dovecot.play(listing=listing)
    with pytest.raises(SourceError) as caught:
        await dovecot.stage()
    assert caught.value.reason is reason
    assert len(dovecot.mailboxes()) == 2


@pytest.mark.parametrize("user", ["anna", "../../x@a.org", "a/b@a.org", "..@a.org", "a@.."])
async def test_a_hostile_user_leads_nowhere(dovecot: Dovecot, user: str) -> None:
    dovecot.play("bert@b.org", user)
    with pytest.raises(SourceError) as caught:
        await dovecot.stage()
    assert caught.value.reason is Reason.DUMP_FAILED
    assert not dovecot.mailboxes()


async def test_hostile_names_that_are_names(dovecot: Dovecot) -> None:
    dovecot.play("-rf@a.org", "*@b.org", "a b@a.org", "a$HOME`id`@a.org")
    assert await dovecot.stage() == ()
    assert dovecot.mailboxes() == {
        "a.org/-rf/Maildir", "b.org/*/Maildir", "a.org/a b/Maildir", "a.org/a$HOME`id`/Maildir",
    }  # fmt: skip


async def test_mailboxes_that_change_meanwhile_are_staged_again(dovecot: Dovecot) -> None:
    dovecot.play("anna@a.org", backup=f"[ -e {dovecot.folder}/tried ] || {{ touch {dovecot.folder}/tried; exit 2; }}")
    assert await dovecot.stage() == ()
    assert (dovecot.folder / "asked").read_text().split() == ["anna@a.org"] * 2


async def test_one_user_who_cannot_be_staged_keeps_what_there_was(dovecot: Dovecot) -> None:
    await dovecot.stage()
    dovecot.play("anna@a.org", "bert@b.org", backup='[ "$3" = anna@a.org ] && echo broken >&2 && exit 65')
    assert await dovecot.stage() == ("anna@a.org",)
    assert len(dovecot.mailboxes()) == 2
    assert ["exit code 65: broken" in one for one in dovecot.logged] == [True]


async def test_too_many_users_who_cannot_be_staged(dovecot: Dovecot) -> None:
    dovecot.job = replace(dovecot.job, most_partial=1)
    dovecot.play("a@a.org", "b@a.org", "c@a.org", backup='[ "$3" = c@a.org ] || exit 65')
    with pytest.raises(SourceError, match="2 of 3 users") as caught:
        await dovecot.stage()
    assert caught.value.reason is Reason.DUMP_FAILED


@pytest.mark.skipif(os.geteuid() != 0, reason="only root stages for others")
async def test_a_folder_that_users_cannot_get_to_is_told_of(dovecot: Dovecot) -> None:
    closed = dovecot.folder / "closed"
    closed.mkdir(mode=0o700)
    dovecot.staged = closed / "staged"
    with pytest.raises(SourceError, match="lets nobody through"):
        await dovecot.stage()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root stages for others")
async def test_users_folders_are_theirs_alone(dovecot: Dovecot) -> None:
    await dovecot.stage()
    found = (dovecot.staged / "a.org" / "anna").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, 65534)
    assert stat.S_IMODE(dovecot.staged.stat().st_mode) == 0o711
