"""The runner of restic, against a restic that plays: every version's ends, hangs, floods and deaths."""

import asyncio
import importlib.util
import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smartmail.backup.process import Patience
from smartmail.backup.restic import (
    MESSAGES,
    MOST_ERRORS,
    TAIL,
    Listener,
    Restic,
    ResticError,
    Run,
    Settings,
    find_restic,
)
from smartmail.core.restic import Backup, Command, Repository, backup, ls, snapshots
from smartmail.core.restic_messages import BackupSummary, Progress
from smartmail.core.restic_output import lock_holder, parse_backup, parse_snapshots
from smartmail.core.restic_version import Outcome, Version

FAKE = Path(__file__).with_name("fake_restic.py")
_spec = importlib.util.spec_from_file_location("fake_restic", FAKE)
assert _spec is not None and _spec.loader is not None
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

VERSIONS = ("0.14.0", "0.16.4", "0.17.1", "0.18.0", "0.19.1")
SHORT = Patience(silence_s=60, limit_s=60, interrupt_s=30, terminate_s=30)
STATUS = fake.STATUS % 1


class Stage:
    """A folder with a restic in it that plays what it is told, and a repository's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "record"
        self.script = folder / "script"
        self.binary = folder / "restic"
        self.binary.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {FAKE} {self.script} "$@"\n')
        self.binary.chmod(0o755)
        self.repository = Repository("onsite", str(folder / "place"), str(folder / "password"))
        for name in ("place", "password"):
            (folder / name).write_text("x\n")
            (folder / name).chmod(0o600)

    async def found(self, version: str, steps: list[tuple[str, object]], deaf: tuple[int, ...] = ()) -> Restic:
        """Found, with this to play."""
        self.script.write_text(
            json.dumps({"version": version, "record": str(self.record), "steps": steps, "deaf": deaf})
        )
        return await find_restic(Settings(self.folder / "cache", str(self.binary)))

    async def play(
        self, version: str, steps: list[tuple[str, object]], patience: Patience = SHORT, deaf: tuple[int, ...] = (),
        listener: Listener | None = None,
    ) -> Run:  # fmt: skip
        """Play them for a backup."""
        tool = await self.found(version, steps, deaf)
        return await tool.run(self.command(tool), patience, listener)

    def command(self, tool: Restic) -> Command:
        """A backup."""
        return backup(tool.known, self.repository, Backup("mx1", ("job=mail",), ("/srv/a", "/srv/b")))

    def recorded(self, key: str) -> list[Any]:
        """What the play wrote down under a key."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [value[key] for value in map(json.loads, lines) if key in value]

    async def until(self, key: str) -> None:
        """Wait until something was written down under a key."""
        while not self.recorded(key):
            await asyncio.sleep(0.01)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("situation", "outcome"),
    [
        ("ok", Outcome.OK),
        ("partial", Outcome.PARTIAL),
        ("missing path", Outcome.PARTIAL),
        ("locked", Outcome.LOCKED),
        ("no repository", Outcome.NO_REPOSITORY),
        ("wrong password", Outcome.WRONG_PASSWORD),
    ],
)
async def test_every_version_ends_the_same_way(stage: Stage, version: str, situation: str, outcome: Outcome) -> None:
    run = await stage.play(version, fake.play(version, situation))
    assert run.outcome is outcome
    assert run.ok is (outcome is Outcome.OK)
    assert not run.lock_may_stay
    if outcome in (Outcome.OK, Outcome.PARTIAL):
        summary = parse_backup(run.stdout)
        assert isinstance(summary, BackupSummary) and summary.files == 2
        assert len(summary.snapshot_id) == (8 if version == "0.14.0" else 64)
    if situation == "partial":
        assert [(one.item, one.counts) for one in run.errors] == [("/srv/a", True)] and run.error_count == 1
    if situation == "locked":
        holder = lock_holder(run.stderr)
        assert holder is not None and (holder.host, holder.pid, holder.exclusive) == ("mx2", 4711, True)


async def test_progress_and_messages_are_heard_as_they_come(stage: Stage) -> None:
    steps: list[Progress] = []
    said: list[object] = []
    await stage.play("0.18.0", fake.play("0.18.0", "ok"), listener=Listener(steps.append, said.append))
    assert [one.octets_done for one in steps] == [1, 9]
    assert [type(one) for one in said] == [BackupSummary]


async def test_restic_gets_files_of_secrets_and_nothing_of_our_environment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RESTIC_PASSWORD", "RESTIC_REPOSITORY", "AWS_SECRET_ACCESS_KEY", "SMARTMAIL_CONFIG"):
        monkeypatch.setenv(name, "secret")
    await stage.play("0.14.0", [("exit", 0)])
    (environment,) = stage.recorded("environment")
    assert "secret" not in environment.values()
    assert environment["RESTIC_PASSWORD_FILE"] == stage.repository.password_file
    assert environment["RESTIC_REPOSITORY_FILE"] == stage.repository.repository_file
    assert environment["RESTIC_CACHE_DIR"] == str(stage.folder / "cache")
    assert environment["RESTIC_PROGRESS_FPS"] == "1"
    assert environment["LANG"] == "C.UTF-8"
    assert stat.S_IMODE((stage.folder / "cache").stat().st_mode) == 0o700


async def test_it_has_a_session_of_its_own(stage: Stage) -> None:
    await stage.play("0.14.0", [("exit", 0)])
    assert stage.recorded("session") == stage.recorded("pid") != [os.getsid(0)]


async def test_a_flood_on_stderr_blocks_nothing_and_fills_nothing(stage: Stage) -> None:
    flood = "open /srv/x: permission denied " + "x" * 300
    steps = [("err", f"Fatal: {fake.NO_CONFIG}"), ("flood", ("err", flood, 20_000)), ("exit", 1)]
    run = await stage.play("0.14.0", steps)
    assert len(run.tail) == TAIL and run.reason.startswith("Fatal: unable to open config file")
    assert run.outcome is Outcome.NO_REPOSITORY, "the reason came long before the last lines"


async def test_errors_are_counted_beyond_those_that_are_named(stage: Stage) -> None:
    (_, line), *_ = fake.play("0.18.0", "partial")
    count = MOST_ERRORS + 5_000
    run = await stage.play("0.18.0", [("flood", ("err", line, count)), ("exit", 3)])
    assert (len(run.errors), run.error_count, run.outcome) == (MOST_ERRORS, count, Outcome.PARTIAL)


async def test_a_flood_on_stdout_is_cut_and_said_to_be(stage: Stage) -> None:
    run = await stage.play("0.14.0", [("flood", ("out", "words " * 30, 10_000)), ("exit", 0)])
    assert run.cut and len(run.stdout) <= MESSAGES


async def test_a_line_without_an_end_is_cut(stage: Stage) -> None:
    run = await stage.play("0.14.0", [("long line", 3_000_000), ("out", ""), ("out", "after"), ("exit", 0)])
    assert run.stdout.endswith("\nafter\n") and len(run.stdout) < 100_000


async def test_a_document_of_one_long_line_is_kept_whole(stage: Stage) -> None:
    snapshot = {"id": "a" * 64, "time": "2026-11-22T08:26:39Z", "tree": "b" * 64, "hostname": "mx1"}
    tool = await stage.found("0.18.0", [("out", json.dumps([snapshot] * 5000)), ("exit", 0)])
    run = await tool.run(snapshots(tool.known, stage.repository), SHORT)
    found = parse_snapshots(run.stdout)
    assert isinstance(found, tuple) and len(found) == 5000 and not run.cut


async def test_a_listing_is_given_on_and_kept_nowhere(stage: Stage) -> None:
    tool = await stage.found("0.18.0", [("flood", ("out", '{"a":1}', 30_000)), ("exit", 0)])
    lines: list[str] = []
    run = await tool.run(ls(tool.known, stage.repository, "a" * 8), SHORT, Listener(line=lines.append))
    assert len(lines) == 30_000 and set(lines) == {'{"a":1}\n'} and run.stdout == ""


async def test_silence_is_ended_by_an_interrupt(stage: Stage) -> None:
    run = await stage.play("0.14.0", [("out", STATUS), ("hang", 0)], Patience(silence_s=0.2))
    assert (run.outcome, run.code) == (Outcome.STALLED, 130)
    assert stage.recorded("signal") == [signal.SIGINT]
    assert not run.lock_may_stay


async def test_the_same_progress_again_and_again_is_silence(stage: Stage) -> None:
    run = await stage.play("0.18.0", [("stutter", STATUS)], Patience(silence_s=0.2))
    assert run.outcome is Outcome.STALLED


async def test_why_it_hung_is_said_when_restic_said_it(stage: Stage) -> None:
    retry = 'Stat(<config/>) returned error, retrying after 1s: Head "http://u:pw@h/": connect: connection refused'
    run = await stage.play("0.18.0", [("err", retry), ("hang", 0)], Patience(silence_s=0.2))
    assert run.outcome is Outcome.UNREACHABLE
    assert "pw" not in "".join(run.stderr)


async def test_a_command_without_progress_may_be_silent_until_its_limit(stage: Stage) -> None:
    tool = await stage.found("0.14.0", [("hang", 0)])
    command = snapshots(tool.known, stage.repository)
    run = await tool.run(command, Patience(silence_s=0.01, limit_s=0.3))
    assert run.outcome is Outcome.TIMED_OUT


async def test_who_is_deaf_to_the_interrupt_is_terminated(stage: Stage) -> None:
    patience = Patience(silence_s=0.2, interrupt_s=0.2)
    run = await stage.play("0.14.0", [("hang", 0)], patience, deaf=(signal.SIGINT,))
    assert stage.recorded("signal") == [signal.SIGINT, signal.SIGTERM]
    assert (run.outcome, run.code, run.lock_may_stay) == (Outcome.STALLED, 143, True)


async def test_who_is_deaf_to_all_is_killed(stage: Stage) -> None:
    patience = Patience(silence_s=0.2, interrupt_s=0.2, terminate_s=0.2)
    run = await stage.play("0.18.0", [("hang", 0)], patience, deaf=(signal.SIGINT, signal.SIGTERM))
    assert (run.outcome, run.code, run.lock_may_stay) == (Outcome.STALLED, -signal.SIGKILL, True)
    await gone(stage.recorded("pid"))


async def test_a_death_by_the_kernel_is_no_success(stage: Stage) -> None:
    run = await stage.play("0.18.0", [("out", fake.SUMMARY % "e01d3999"), ("die", 0)])
    assert (run.outcome, run.lock_may_stay) == (Outcome.KILLED, True)


async def test_what_it_leaves_behind_does_not_hold_us(stage: Stage) -> None:
    run = await stage.play("0.18.0", [("child", 0), ("out", fake.SUMMARY % "e01d3999"), ("exit", 0)])
    assert run.ok
    await gone(stage.recorded("child"))


async def test_a_cancelled_task_stops_restic_first(stage: Stage) -> None:
    tool = await stage.found("0.14.0", [("hang", 0)])
    task = asyncio.create_task(tool.run(stage.command(tool), SHORT))
    await stage.until("hangs")
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stage.recorded("signal") == [signal.SIGINT]
    await gone(stage.recorded("pid"))


async def test_a_listener_that_fails_stops_restic_and_is_heard(stage: Stage) -> None:
    def fail(_: Progress) -> None:
        raise RuntimeError("a full disk, say")

    with pytest.raises(RuntimeError, match="a full disk"):
        await stage.play("0.14.0", [("out", STATUS), ("hang", 0)], listener=Listener(progress=fail))
    assert stage.recorded("signal") == [signal.SIGINT]


async def test_stdin_is_read_from_a_pipe_and_else_is_empty(stage: Stage) -> None:
    tool = await stage.found("0.14.0", [("stdin", 0), ("exit", 0)])
    ours, theirs = os.pipe()
    os.write(theirs, b"a dump")
    os.close(theirs)
    try:
        await tool.run(stage.command(tool), SHORT, stdin=ours)
    finally:
        os.close(ours)
    await tool.run(stage.command(tool), SHORT)
    assert stage.recorded("stdin") == ["a dump", ""]


async def test_many_run_at_a_time(stage: Stage) -> None:
    tool = await stage.found("0.18.0", fake.play("0.18.0", "ok"))
    runs = await asyncio.gather(*(tool.run(stage.command(tool), SHORT) for _ in range(4)))
    assert all(run.ok for run in runs)


async def test_no_descriptor_is_left_open(stage: Stage) -> None:
    tool = await stage.found("0.18.0", fake.play("0.18.0", "ok"))
    await tool.run(stage.command(tool), SHORT)
    await asyncio.sleep(0)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await tool.run(stage.command(tool), SHORT)
        await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_secret_that_others_can_read_is_warned_of(stage: Stage) -> None:
    (stage.folder / "password").chmod(0o644)
    run = await stage.play("0.18.0", fake.play("0.18.0", "ok"))
    assert run.ok and run.warnings == (f"{stage.folder / 'password'} can be read by others (mode 0644): chmod 600 it",)


def _empty(file: Path) -> None:
    file.write_text("")


@pytest.mark.parametrize("spoil", [Path.unlink, _empty])
async def test_without_its_secret_it_is_not_started(stage: Stage, spoil: Callable[[Path], None]) -> None:
    tool = await stage.found("0.18.0", fake.play("0.18.0", "ok"))
    spoil(stage.folder / "password")
    with pytest.raises(ResticError, match="password"):
        await tool.run(stage.command(tool), SHORT)
    assert not stage.record.exists()


@pytest.mark.parametrize("version", VERSIONS)
async def test_its_version_is_found(stage: Stage, version: str) -> None:
    tool = await stage.found(version, [])
    assert str(tool.version) == version and tool.known.version == tool.version
    assert tool.version > Version(0, 13)


async def test_what_is_too_old_is_refused(stage: Stage) -> None:
    with pytest.raises(ResticError, match=r"is restic 0\.12\.1; 0\.14\.0 or newer is needed"):
        await stage.found("0.12.1", [])


async def test_what_is_not_there_is_named_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(ResticError, match="apt-get install restic"):
        await find_restic(Settings(tmp_path, str(tmp_path / "nothing")))


async def test_what_is_not_restic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResticError, match="is not restic"):
        await find_restic(Settings(tmp_path, "/bin/true"))


async def gone(pids: list[int]) -> None:
    """Until none of them lives; one that is dead and not yet reaped by init counts as gone. A process that is being
    killed closes its pipes a moment before it is gone, so this may have to wait for that moment."""
    for pid in pids:
        while alive(pid):
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Is it a process that is no zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
