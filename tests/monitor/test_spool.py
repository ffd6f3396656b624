"""The spool: what was acknowledged is there again after whatever happens, oldest first, and leaves only when told."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agentworld import NOW_MS, batch, sample

from smartmail.core.sample import Batch, Sample
from smartmail.monitor.spool import FILE, KEPT_MS, Spool, SpoolError, Taken

DAY_MS = 86_400_000


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path) as spool:
        yield spool


def minutes(first: int, end: int, **fields: object) -> Batch:
    """A batch with a sample for each of these minutes, made in the last of them."""
    samples = [sample(at_ms=NOW_MS + 60_000 * one) for one in range(first, end)]
    return batch(*samples, **{"made_ms": samples[-1].started_ms} | fields)


def take(spool: Spool, most: int = 10_000) -> Taken:
    taken = spool.take(most)
    assert taken is not None
    return taken


def starts(taken: Taken) -> list[int]:
    return [(one.started_ms - NOW_MS) // 60_000 for one in taken.batch.samples]


def test_what_was_put_in_comes_out_oldest_first_in_one_batch(spool: Spool) -> None:
    for first in range(3):
        spool.add(minutes(first, first + 1), "run")
    taken = take(spool)
    assert starts(taken) == [0, 1, 2]
    assert taken.batch.agent == "london-1"
    assert taken.batch.sequence == taken.last


def test_case_25_it_stays_until_it_is_done(spool: Spool) -> None:
    spool.add(minutes(0, 2), "run")
    taken = take(spool)
    assert take(spool) == taken
    spool.done(taken.first, taken.last)
    assert spool.take(10) is None
    assert spool.waiting().samples == 0


def test_a_batch_is_bounded_but_never_less_than_an_entry(spool: Spool) -> None:
    for first in (0, 3, 6):
        spool.add(minutes(first, first + 3), "run")
    assert starts(take(spool, 7)) == [0, 1, 2, 3, 4, 5]
    assert starts(take(spool, 1)) == [0, 1, 2]
    assert take(spool, 1).single


def test_numbers_are_never_given_twice(spool: Spool) -> None:
    first = spool.add(minutes(0, 1), "run")
    spool.done(first, first)
    assert spool.add(minutes(1, 2), "run") > first


def test_case_27_samples_of_this_run_are_put_right_when_the_time_is_learnt(spool: Spool) -> None:
    spool.add(minutes(0, 1, offset_ms=None), "former run")
    spool.add(minutes(1, 2, offset_ms=None), "run")
    assert spool.restamp("run", 300_000, -250) == 1
    former = take(spool)
    assert (starts(former), former.batch.offset_ms) == ([0], None)
    spool.done(former.first, former.last)
    right = take(spool)
    assert (starts(right), right.batch.offset_ms) == ([6], -250)
    assert spool.restamp("run", 300_000, -250) == 0


def test_two_locations_are_never_in_one_batch(spool: Spool) -> None:
    spool.add(minutes(0, 1), "run")
    spool.add(minutes(1, 2, location="paris"), "run")
    assert starts(take(spool)) == [0]


def test_entries_too_far_apart_for_one_batch_are_two(spool: Spool) -> None:
    spool.add(minutes(0, 1), "run")
    spool.add(minutes(60 * 24 * 40, 60 * 24 * 40 + 1), "run")
    assert starts(take(spool)) == [0]


def test_what_nobody_takes_is_set_aside_not_lost(spool: Spool) -> None:
    spool.add(minutes(0, 2), "run")
    spool.add(minutes(2, 3), "run")
    bad = take(spool, 1)
    spool.set_aside(bad.first, bad.last, "bad_batch", at_ms=NOW_MS)
    assert starts(take(spool)) == [2]
    assert spool.waiting().aside == 2


def test_what_is_older_than_thirty_days_goes(spool: Spool) -> None:
    spool.add(minutes(0, 5), "run")
    spool.add(minutes(60 * 24, 60 * 24 + 1), "run")
    assert spool.prune(NOW_MS + KEPT_MS) == 0
    assert spool.prune(NOW_MS + KEPT_MS + 3_600_000) == 5
    assert spool.waiting().samples == 1
    assert spool.prune(NOW_MS + KEPT_MS + DAY_MS + 60_000) == 1


def test_beyond_the_room_there_is_the_oldest_go(tmp_path: Path) -> None:
    with Spool(tmp_path, max_octets=2_000) as spool:
        for first in range(0, 400, 10):
            spool.add(minutes(first, first + 10), "run")
        lost = spool.prune(0)
        assert 0 < lost < 400
        assert spool.waiting().samples == 400 - lost
        assert starts(take(spool))[0] == lost
        assert spool.prune(0) == 0


def test_room_is_given_back_when_a_backlog_is_gone(spool: Spool, tmp_path: Path) -> None:
    detail = "".join(chr(33 + number % 90) for number in range(200))
    for number in range(60):
        samples = [
            Sample(f"check-{one}", NOW_MS + number * 60_000, 20, one, f"{number}.{one} {detail}"[:200])
            for one in range(100)
        ]
        spool.add(batch(*samples), "run")
    while (taken := spool.take(10_000)) is not None:
        spool.done(taken.first, taken.last)
    spool.close()
    assert (tmp_path / FILE).stat().st_size < 100_000


def test_it_is_all_there_when_it_is_opened_again(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.add(minutes(0, 3), "run")
    with Spool(tmp_path) as spool:
        assert starts(take(spool)) == [0, 1, 2]


def test_only_its_owner_may_read_it(spool: Spool, tmp_path: Path) -> None:
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_a_second_agent_in_the_same_folder_is_refused(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="another agent"):
        Spool(tmp_path).open()
    spool.close()
    with Spool(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpoolError):
        Spool(tmp_path / "missing").open()


def test_an_entry_spoilt_on_disk_is_set_aside_and_the_others_go_on(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for first in range(3):
            spool.add(minutes(first, first + 1), "run")
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE entry SET octets = zeroblob(length(octets)) WHERE id = 2")
    connection.close()
    with Spool(tmp_path) as spool:
        assert starts(take(spool)) == [0, 2]
        assert spool.waiting().aside == 1


@pytest.mark.parametrize("octets", [b"no database at all" * 500, bytes(8192)])
def test_a_file_that_is_no_spool_is_moved_away(tmp_path: Path, octets: bytes) -> None:
    (tmp_path / FILE).write_bytes(octets)
    with Spool(tmp_path) as spool:
        assert spool.broken is not None
        assert spool.broken.read_bytes() == octets
        spool.add(minutes(0, 1), "run")
        assert starts(take(spool)) == [0]


def test_a_torn_tail_is_cut_and_nothing_before_it_is_lost(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for first in range(20):
            spool.add(minutes(first, first + 1), "run")
        # As a power cut leaves it: the log of commits ends in the middle of the last one.
        torn = tmp_path / "torn"
        torn.mkdir()
        (torn / FILE).write_bytes((tmp_path / FILE).read_bytes())
        log = (tmp_path / f"{FILE}-wal").read_bytes()
        (torn / f"{FILE}-wal").write_bytes(log[:-1500])
    with Spool(torn) as spool:
        assert starts(take(spool)) == list(range(19))


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from agentworld import NOW_MS, batch, sample
from smartmail.monitor.spool import Spool
with Spool(Path(sys.argv[1])) as spool:
    for number in range(10**9):
        spool.add(batch(sample(at_ms=NOW_MS + 60_000 * number)), "run")
        print(number, flush=True)
"""


def test_after_kill_9_everything_acknowledged_is_there(tmp_path: Path) -> None:
    kit = str(Path(__file__).parent.parent / "kit")
    command = [sys.executable, "-c", CHILD, str(tmp_path), kit]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = -1
        while acknowledged < 25:
            acknowledged = int(child.stdout.readline())
        os.kill(child.pid, 9)
        for line in child.stdout:
            acknowledged = int(line)
    with Spool(tmp_path) as spool:
        found = starts(take(spool))
    assert found[: acknowledged + 1] == list(range(acknowledged + 1))
    assert len(found) <= acknowledged + 2
