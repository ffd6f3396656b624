"""Sources: each fault of a preflight by its name, hooks whatever happens, and what restic gets to read."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from plans import HOURLY, make_plan, put_message

from smartmail.backup import sources
from smartmail.backup.sources import Prepared, SourceError, prepare, release
from smartmail.core.backup_plan import BackupPlan, Hooks, JobKind, JobPlan, Usual
from smartmail.core.backup_record import Reason
from smartmail.core.left_out import left_out_by


class Stage:
    """A plan with a job of files and one of mail, and what is logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.source.mkdir()
        (self.source / "file").write_text("content")
        self.job = JobPlan("files", JobKind.FILES, "onsite", HOURLY, paths=(str(self.source),))
        self.plan: BackupPlan = make_plan(folder)
        self.logged: list[str] = []

    async def prepare(self, job: JobPlan | None = None) -> Prepared:
        return await prepare(job or self.job, self.plan, self.logged.append)

    async def refused(self, job: JobPlan | None = None) -> SourceError:
        with pytest.raises(SourceError) as caught:
            await self.prepare(job)
        assert caught.value.what
        return caught.value

    def noting(self, word: str, code: int = 0) -> tuple[str, ...]:
        """A hook that writes a word down."""
        return ("sh", "-c", f"echo {word} >> {self.folder}/notes; exit {code}")

    @property
    def notes(self) -> list[str]:
        file = self.folder / "notes"
        return file.read_text().split() if file.exists() else []


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


async def test_a_source_as_it_must_be(stage: Stage) -> None:
    prepared = await stage.prepare()
    assert (prepared.paths, prepared.excludes) == ((str(stage.source),), ())
    assert await release(prepared) == []
    assert stage.logged == []


# each fault by its name


def _nothing(stage: Stage) -> JobPlan:
    return replace(stage.job, paths=())


def _missing(stage: Stage) -> JobPlan:
    return replace(stage.job, paths=(str(stage.source), f"{stage.source}/gone"))


def _below_a_file(stage: Stage) -> JobPlan:
    return replace(stage.job, paths=(f"{stage.source}/file/below",))


def _loop(stage: Stage) -> JobPlan:
    (stage.folder / "a").symlink_to(stage.folder / "b")
    (stage.folder / "b").symlink_to(stage.folder / "a")
    return replace(stage.job, paths=(f"{stage.folder}/a",))


def _dangling(stage: Stage) -> JobPlan:
    (stage.folder / "a").symlink_to(stage.folder / "nowhere")
    return replace(stage.job, paths=(f"{stage.folder}/a",))


def _link(stage: Stage) -> JobPlan:
    (stage.folder / "a").symlink_to(stage.source)
    return replace(stage.job, paths=(f"{stage.folder}/a",))


def _unmounted(stage: Stage) -> JobPlan:
    return replace(stage.job, usual=Usual(mounted=(str(stage.source),)))


def _mount_missing(stage: Stage) -> JobPlan:
    return replace(stage.job, usual=Usual(mounted=(f"{stage.source}/gone",)))


def _empty(stage: Stage) -> JobPlan:
    (stage.source / "file").unlink()
    return stage.job


def _only_folders(stage: Stage) -> JobPlan:
    (stage.source / "file").rename(stage.folder / "file")
    (stage.source / "deep" / "er").mkdir(parents=True)
    return stage.job


def _empty_file(stage: Stage) -> JobPlan:
    (stage.source / "file").write_text("")
    return replace(stage.job, paths=(f"{stage.source}/file",))


def _few_files(stage: Stage) -> JobPlan:
    return replace(stage.job, usual=Usual(least_files=2))


def _few_octets(stage: Stage) -> JobPlan:
    return replace(stage.job, usual=Usual(least_octets=8))


def _no_queue(stage: Stage) -> JobPlan:
    return replace(stage.job, kind=JobKind.QUEUE)


def _queue_missing(stage: Stage) -> JobPlan:
    return replace(stage.job, kind=JobKind.QUEUE, paths=(f"{stage.source}/gone",))


def _database_missing(stage: Stage) -> JobPlan:
    return replace(stage.job, kind=JobKind.SQLITE, paths=(f"{stage.source}/gone.db",))


def _database_is_folder(stage: Stage) -> JobPlan:
    return replace(stage.job, kind=JobKind.SQLITE)


def _database_is_none(stage: Stage) -> JobPlan:
    return replace(stage.job, kind=JobKind.SQLITE, paths=(f"{stage.source}/file",))


FAULTS: list[tuple[Callable[[Stage], JobPlan], Reason, str]] = [
    (_nothing, Reason.SOURCE_MISSING, "names no paths"),
    (_missing, Reason.SOURCE_MISSING, "is not there"),
    (_below_a_file, Reason.SOURCE_MISSING, "is not there"),
    (_loop, Reason.SOURCE_MISSING, "Too many levels of symbolic links"),
    (_dangling, Reason.SOURCE_MISSING, "is not there"),
    (_link, Reason.SOURCE_MISSING, "is a link to"),
    (_unmounted, Reason.NOT_MOUNTED, "is no mount point"),
    (_mount_missing, Reason.NOT_MOUNTED, "is no mount point"),
    (_empty, Reason.SOURCE_EMPTY, "is empty"),
    (_only_folders, Reason.SOURCE_EMPTY, "0 files"),
    (_empty_file, Reason.SOURCE_EMPTY, "is empty"),
    (_few_files, Reason.SOURCE_TOO_SMALL, "1 files with 7 octets"),
    (_few_octets, Reason.SOURCE_TOO_SMALL, "1 files with 7 octets"),
    (_no_queue, Reason.SOURCE_EMPTY, "queue folders"),
    (_queue_missing, Reason.SOURCE_MISSING, "is not there"),
    (_database_missing, Reason.SOURCE_MISSING, "is not there"),
    (_database_is_folder, Reason.SOURCE_MISSING, "is a folder"),
    (_database_is_none, Reason.DUMP_FAILED, "not a database"),
]


@pytest.mark.parametrize(("make", "reason", "words"), FAULTS, ids=[one[0].__name__.strip("_") for one in FAULTS])
async def test_faults(stage: Stage, make: Callable[[Stage], JobPlan], reason: Reason, words: str) -> None:
    job = make(stage)
    error = await stage.refused(replace(job, hooks=Hooks(after=(stage.noting("after"),))))
    assert (error.reason, words in error.what) == (reason, True), error.what
    assert stage.notes == ["after"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("what", ["folder", "file", "database"])
def test_what_may_not_be_read(stage: Stage, what: str) -> None:
    """As a user who is not root."""
    place = stage.source if what == "folder" else stage.source / "file"
    kind = JobKind.SQLITE if what == "database" else JobKind.FILES
    job = replace(stage.job, kind=kind, paths=(str(place),))
    for one in (stage.folder, *stage.folder.parents):
        if one.stat().st_mode & 0o777 == 0o700:
            one.chmod(0o711)
    place.chmod(0o000 if what == "folder" else 0o600)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setuid(65534)
        try:
            asyncio.new_event_loop().run_until_complete(stage.prepare(job))
            os.write(writing, b"prepared")
        except SourceError as error:
            os.write(writing, error.reason.value.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        text = told.read().decode()
    assert text == Reason.ITEMS_UNREADABLE.value


async def test_a_mounted_one_passes(stage: Stage) -> None:
    await stage.prepare(replace(stage.job, usual=Usual(mounted=("/proc",))))


async def test_counting_ends_once_there_is_enough(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    real = os.scandir

    def counting(path: str) -> object:
        nonlocal looked
        looked += 1
        return real(path)

    for number in range(200):
        (stage.source / f"{number}").mkdir()
    monkeypatch.setattr(os, "scandir", counting)
    await stage.prepare()
    assert looked < 5


# hooks


async def test_hooks_run_in_order_around_it(stage: Stage) -> None:
    before, after = (stage.noting("one"), stage.noting("two")), (stage.noting("three"), stage.noting("four"))
    prepared = await stage.prepare(replace(stage.job, hooks=Hooks(before, after)))
    assert stage.notes == ["one", "two"]
    assert await release(prepared) == []
    assert stage.notes == ["one", "two", "three", "four"]


async def test_a_before_hook_may_bring_the_source(stage: Stage) -> None:
    """Such as a snapshot of the file system."""
    job = replace(stage.job, paths=(f"{stage.folder}/snapshot",))
    make = ("cp", "-r", str(stage.source), f"{stage.folder}/snapshot")
    drop = ("rm", "-r", f"{stage.folder}/snapshot")
    prepared = await stage.prepare(replace(job, hooks=Hooks((make,), (drop,))))
    assert await release(prepared) == []
    assert not (stage.folder / "snapshot").exists()


async def test_a_before_hook_that_fails_stops_the_job(stage: Stage) -> None:
    failing = ("sh", "-c", "echo no such volume >&2; exit 5")
    hooks = Hooks((stage.noting("one"), failing, stage.noting("never")), (stage.noting("after"),))
    error = await stage.refused(replace(stage.job, hooks=hooks))
    assert error.reason is Reason.HOOK_FAILED
    assert "exit code 5: no such volume" in error.what
    assert stage.notes == ["one", "after"]


async def test_a_hook_that_is_not_there(stage: Stage) -> None:
    error = await stage.refused(replace(stage.job, hooks=Hooks((("/nonexistent/hook",),))))
    assert error.reason is Reason.HOOK_FAILED
    assert "cannot be started" in error.what


async def test_a_hook_that_hangs_is_ended_with_all_it_started(stage: Stage) -> None:
    hanging = ("sh", "-c", f"sleep 600 & echo $! > {stage.folder}/pid; wait")
    error = await stage.refused(replace(stage.job, hooks=Hooks((hanging,), (stage.noting("after"),), limit_s=1)))
    assert error.reason is Reason.HOOK_FAILED
    assert "longer than 1 s" in error.what
    assert stage.notes == ["after"]
    assert not _lives(int((stage.folder / "pid").read_text()))


async def test_every_after_hook_runs_whatever_became_of_the_others(stage: Stage) -> None:
    hooks = Hooks(after=(stage.noting("one", 3), ("/nonexistent",), stage.noting("two")))
    faults = await release(await stage.prepare(replace(stage.job, hooks=hooks)))
    assert stage.notes == ["one", "two"]
    assert len(faults) == 2
    assert "exit code 3" in faults[0]


async def test_after_hooks_that_fail_do_not_hide_what_failed_before(stage: Stage) -> None:
    hooks = Hooks(after=(stage.noting("after", 3),))
    error = await stage.refused(replace(stage.job, paths=("/nonexistent",), hooks=hooks))
    assert error.reason is Reason.SOURCE_MISSING
    assert ["exit code 3" in one for one in stage.logged] == [True]


async def test_a_cancelled_job_runs_its_after_hooks(stage: Stage) -> None:
    hanging = ("sh", "-c", f"touch {stage.folder}/begun; exec sleep 600")
    hooks = Hooks((hanging,), (stage.noting("after"),))
    task = asyncio.create_task(stage.prepare(replace(stage.job, hooks=hooks)))
    await _until((stage.folder / "begun").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.notes == ["after"]


async def test_release_goes_to_its_end_when_it_is_cancelled(stage: Stage) -> None:
    waiting = ("sh", "-c", f"touch {stage.folder}/begun; until [ -e {stage.folder}/go ]; do sleep 0.01; done")
    prepared = await stage.prepare(replace(stage.job, hooks=Hooks(after=(waiting, stage.noting("after")))))
    task = asyncio.create_task(release(prepared))
    await _until((stage.folder / "begun").exists)
    task.cancel()
    await asyncio.sleep(0)
    (stage.folder / "go").touch()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.notes == ["after"]


async def test_hooks_see_no_secrets(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTIC_PASSWORD", "geheim")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim")
    monkeypatch.setenv("PGPASSWORD", "geheim")
    await stage.prepare(replace(stage.job, hooks=Hooks((("sh", "-c", f"env > {stage.folder}/env"),))))
    env = (stage.folder / "env").read_text()
    assert "geheim" not in env
    assert "SMARTMAIL_JOB=files" in env
    assert "SMARTMAIL_HOOK=before" in env


async def test_a_flood_from_a_hook_stays_small(stage: Stage) -> None:
    flood = ("sh", "-c", "head -c 30000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; exit 1")
    error = await stage.refused(replace(stage.job, hooks=Hooks((flood,))))
    assert len(error.what) < 1000
    assert "the end" in error.what


# what restic gets to read


async def test_mail_is_read_without_tmp_and_indexes(stage: Stage) -> None:
    maildir = stage.folder / "vmail" / "example.net" / "tmp" / "Maildir"
    put_message(maildir, 1)
    prepared = await stage.prepare(replace(stage.plan.job("mail"), excludes=("*.bak",)))
    left_out = left_out_by(prepared.excludes)
    assert not left_out(f"{maildir}/cur/1")
    assert not left_out(f"{maildir}/dovecot-uidlist")
    assert left_out(f"{maildir}/.Sent/tmp/1")
    assert left_out(f"{maildir}/dovecot.index.cache")
    assert left_out("/anywhere/x.bak")


async def test_mail_behind_links_is_told_of(stage: Stage) -> None:
    put_message(stage.folder / "vmail" / "example.net" / "anna" / "Maildir", 1)
    (stage.folder / "vmail" / "example.net" / "bert").symlink_to(stage.folder / "vmail" / "example.net" / "anna")
    await stage.prepare(stage.plan.job("mail"))
    assert ["bert" in one and "not backed up" in one for one in stage.logged] == [True]


async def test_what_is_on_its_way_is_not_backed_up_with_the_data_folder(stage: Stage) -> None:
    prepared = await stage.prepare(replace(stage.job, paths=(str(stage.folder),)))
    left_out = left_out_by(prepared.excludes)
    assert left_out(f"{stage.plan.folder}/cache/x")
    assert left_out(f"{stage.plan.folder}/staging/accounts/x")
    assert not left_out(f"{stage.plan.folder}/reports/x")
    assert (await stage.prepare()).excludes == ()


async def test_a_queue_comes_with_how_to_bring_it_back(stage: Stage) -> None:
    for name in ("active", "deferred", "hold", "pid", "private"):
        (stage.source / name).mkdir()
    prepared = await stage.prepare(replace(stage.job, name="queue", kind=JobKind.QUEUE))
    *folders, note = prepared.paths
    assert folders == [f"{stage.source}/{name}" for name in ("active", "deferred", "hold")]
    assert "postsuper -s" in Path(note).read_text()
    before = Path(note).stat().st_mtime_ns
    await stage.prepare(replace(stage.job, name="queue", kind=JobKind.QUEUE))
    assert Path(note).stat().st_mtime_ns == before


async def test_dumps_are_gone_after_their_release(stage: Stage) -> None:
    database = stage.source / "accounts.db"
    with sqlite3.connect(database) as connection:
        connection.execute("create table accounts (password)")
    connection.close()
    job = replace(stage.job, kind=JobKind.SQLITE, paths=(str(database),))
    prepared = await stage.prepare(job)
    [staged] = prepared.paths
    assert Path(staged + str(database)).exists()
    assert await release(prepared) == []
    assert not list(Path(staged).parent.rglob("*.db"))


async def test_a_dump_that_is_too_small_is_refused_and_gone(stage: Stage) -> None:
    database = stage.source / "accounts.db"
    with sqlite3.connect(database) as connection:
        connection.execute("create table accounts (password)")
    connection.close()
    job = replace(stage.job, kind=JobKind.SQLITE, paths=(str(database),), usual=Usual(least_octets=10**6))
    assert (await stage.refused(job)).reason is Reason.SOURCE_TOO_SMALL
    assert not list(Path(stage.plan.folder).rglob("*.db"))


async def test_what_cannot_be_removed_is_told_of(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources.Staging, "clear", failing)
    prepared = Prepared(("/x",), (), replace(stage.job, hooks=Hooks(after=(stage.noting("after"),))), staging="/x")
    assert ["could not be removed" in one for one in await release(prepared)] == [True]
    assert stage.notes == ["after"]


async def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def _lives(pid: int) -> bool:
    """A zombie that nobody has looked after does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
