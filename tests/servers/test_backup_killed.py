"""A night of the real command line and the real restic that is killed or stopped at each of its steps in turn: each
next run takes it up where it was, under the same name, until all is done and proved."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.backups import World, ended, like, template
from support.processes import eventually

from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity, Reason

BACKUP, COPY, FORGET, PRUNE = "backup", "copy", "forget", "prune"
STEPS = [
    ("before", BACKUP, "job=mail"),
    ("held", BACKUP, "job=mail"),
    ("after", BACKUP, "job=mail"),
    ("before", COPY),
    ("held", COPY),
    ("after", COPY),
    ("before", FORGET),
    ("held", FORGET),
    ("after", FORGET),
    ("held", PRUNE),
    ("held", "check"),
    ("held", "restore"),
]
ORDERLY = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with one run."""
    return template(tmp_path_factory.getbasetemp() / "template of backups")


def gone(pid: int) -> Callable[[], bool]:
    """Has the process ended, and was it fetched? To restic one that was not lives, and so does its lock."""
    return lambda: not Path(f"/proc/{pid}").exists()


def kill_all(world: World, pid: int, wrapper: int, restic: int) -> None:
    """As a machine that loses its power."""
    os.kill(pid, signal.SIGKILL)
    os.killpg(wrapper, signal.SIGKILL)
    for one in filter(None, (wrapper, restic)):
        eventually(gone(one), "the end of restic")


def kill_orchestrator(world: World, pid: int, wrapper: int, restic: int) -> None:
    """restic lives on, with nobody who hears it, and comes to some end of its own."""
    os.kill(pid, signal.SIGKILL)
    eventually(gone(pid), "the end")
    world.go()
    eventually(gone(wrapper), "the end of restic")


def terminate(world: World, pid: int, wrapper: int, restic: int) -> None:
    """As systemd stops a service."""
    os.kill(pid, signal.SIGTERM)


def interrupt(world: World, pid: int, wrapper: int, restic: int) -> None:
    """As Ctrl-C."""
    os.kill(pid, signal.SIGINT)


@pytest.mark.parametrize(
    ("stop", "code", "steps"),
    [
        (kill_all, -9, STEPS),
        # An orphan does what it was told, so there is one removal less to stop at.
        (kill_orchestrator, -9, [one for one in STEPS if one != ("before", FORGET)]),
        (terminate, 143, STEPS),
        (interrupt, 130, STEPS[1::3]),
    ],
)
def test_a_night_that_is_stopped_at_every_step(
    made: World, tmp_path: Path, stop: Callable[..., None], code: int, steps: list[tuple[str, ...]]
) -> None:
    world = like(made, tmp_path)
    for step in steps:
        world.pace(*step)
        process = world.begin("run", "--due")
        wrapper, restic = world.reached(process)
        stop(world, process.pid, wrapper, restic)
        found = ended(process)
        assert found.code == code, (step, found)
        last = world.records()[-1]
        if code == -9:
            assert last.state is RunState.STARTED, step
        else:
            assert (last.state, last.reason) == (RunState.FAILED, Reason.INTERRUPTED), step
    found = world.run("run", "--due")
    assert found.code == 0, found
    records = world.records()
    assert {one.state for one in records} <= {RunState.OK, RunState.FAILED}
    assert {one.reason for one in records} <= {Reason.NONE, Reason.CUT_OFF, Reason.INTERRUPTED}
    (run,) = {one.run for one in records if one.activity is Activity.BACKUP}
    done = {one.activity: one for one in records if one.state is RunState.OK}
    assert set(done) == {*Activity} - {Activity.PROBE, Activity.RESTORE, Activity.ERASE}
    assert not world.locks(), "no stale lock is left"
    (point,) = world.run("points", "--json").json
    assert point["run"] == run
    assert {one["job"] for one in point["snapshots"]} == {"accounts", "mail"}
    assert all(set(one["in"]) == {"onsite", "offsite"} for one in point["snapshots"])
    assert world.run("run", "--due", "--json").json == []
    assert not list((world.state / "scratch").glob("*/*"))
