"""A user marks thousands read, moves and gets mail while the walk is on: no message may be absent afterwards."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from nights import World, world
from plans import make_plan, put_message

from smartmail.backup import job as jobs
from smartmail.core.backup_due import RunState
from smartmail.core.maildir import base_of
from smartmail.core.points import restore_points
from smartmail.core.restic_messages import Node

pytestmark = [pytest.mark.servers, pytest.mark.slow]

MESSAGES = 6_000


@dataclass
class Marking:
    """How many names were changed, and what ends it."""

    done: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def marking(cur: Path) -> Iterator[Marking]:
    """Somebody who marks all messages, with one flag and then with two, until he is stopped."""
    marks = Marking()

    def mark() -> None:
        for turn in count():
            for name in os.listdir(cur):
                if marks.stop.is_set():
                    return
                os.rename(cur / name, cur / f"{base_of(name)}:2,{'FS' if turn % 2 else 'S'}")
                marks.done += 1

    thread = threading.Thread(target=mark)
    thread.start()
    try:
        yield marks
    finally:
        marks.stop.set()
        thread.join()


async def absent(one: World, every: set[str]) -> set[str]:
    """Which of the messages no snapshot offsite has."""
    found: list[Node] = []
    for point in restore_points({"offsite": await one.vaults["offsite"].snapshots()}):
        for member in point.of_job("mail"):
            await one.vaults["offsite"].nodes(str(member.id_in("offsite")), found.append)
    return every - {base_of(node.path.rpartition("/")[2]) for node in found if node.type == "file"}


def filled(folder: Path) -> tuple[Path, set[str]]:
    """A folder full of mail, and the base names in it."""
    maildir = folder / "vmail" / "example.net" / "anna" / "Maildir"
    for number in range(MESSAGES):
        put_message(maildir, number, flags="")
    return maildir / "cur", {base_of(name) for name in os.listdir(maildir / "cur")}


async def test_thousands_marked_read_during_the_walk_are_all_in_the_restore_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cur, every = filled(tmp_path)
    whole = jobs._snapshot
    async with world(make_plan(tmp_path), tmp_path) as one:
        with marking(cur) as marks:

            async def walked(*given: object) -> None:
                await whole(*given)  # type: ignore[arg-type]
                marks.stop.set()

            monkeypatch.setattr(jobs, "_snapshot", walked)
            done = await one.night.run()
        assert marks.done
        assert (done[0].end.state, done[0].end.facts["missed"]) == (RunState.OK, 0)
        assert await absent(one, every) == set()


async def test_what_a_folder_that_never_rests_has_lost_is_said_and_the_next_night_has_it(tmp_path: Path) -> None:
    cur, every = filled(tmp_path)
    async with world(make_plan(tmp_path), tmp_path) as one:
        with marking(cur):
            done = await one.night.run()
        lost = await absent(one, every)
        assert len(lost) == done[0].end.facts["missed"]
        assert done[0].end.state is (RunState.PARTIAL if lost else RunState.OK)
        one.clock.now_ms += 3_600_000
        again = await one.night.run()
        assert (again[0].end.state, again[0].end.facts["missed"]) == (RunState.OK, 0)
        assert await absent(one, every) == set()
