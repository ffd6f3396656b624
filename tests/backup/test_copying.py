"""Which runs wait to be copied, by the catalogue alone; and what a proved copy is."""

import pytest

from smartmail.backup.copying import LOOKED_BACK_MS, known_of, pending, unproved
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity, Record
from smartmail.core.points import Snapshot

NOW = 1_795_000_000_000
HOUR = 3_600_000


def backup(run: str, hours_ago: int, state: RunState = RunState.OK, job: str = "mail") -> Record:
    """A job of a run."""
    at = NOW - hours_ago * HOUR
    return Record(hours_ago, Activity.BACKUP, job, "onsite", run, at, at + 60_000, state)


def copied(hours_ago: int, *runs: str, state: RunState = RunState.OK, to: str = "offsite") -> Record:
    """A copy of runs."""
    at = NOW - hours_ago * HOUR
    return Record(
        1_000 + hours_ago, Activity.COPY, "", to, runs[-1], at, at + 60_000, state, facts={"runs": list(runs)}
    )


@pytest.mark.parametrize(
    ("records", "waiting"),
    [
        ([], ()),
        ([backup("r1", 20)], ("r1",)),
        ([backup("r1", 20, RunState.PARTIAL)], ("r1",)),
        ([backup("r1", 20, RunState.FAILED)], ()),
        ([backup("r1", 20, RunState.STARTED)], ()),
        ([backup("r1", 20), copied(19, "r1")], ()),
        ([backup("r1", 20), copied(19, "r1", state=RunState.FAILED)], ("r1",)),
        ([backup("r1", 20), copied(19, "r1", to="elsewhere")], ("r1",)),
        ([backup("r2", 20), backup("r1", 44), copied(43, "r1")], ("r2",)),
        ([backup("r2", 20), backup("r1", 44)], ("r1", "r2")),
        ([backup("r1", 20), backup("r1", 10, job="config"), copied(15, "r1")], ("r1",)),
        ([backup("r1", 20, job="another")], ()),
        ([backup("r1", LOOKED_BACK_MS // HOUR + 1)], ()),
    ],
    ids=[
        "nothing was made",
        "a new run",
        "one that is not whole",
        "one that failed",
        "one that is running",
        "one that was copied",
        "one whose copy failed",
        "one that was copied elsewhere",
        "the newer of two",
        "both, the older first",
        "one with a job that was taken up again after the copy",
        "a job that is not for there",
        "one that is too old",
    ],
)
def test_what_waits_to_be_copied(records: list[Record], waiting: tuple[str, ...]) -> None:
    assert pending(records, {"mail", "config"}, "offsite", NOW) == waiting
    assert pending(reversed(records), {"mail", "config"}, "offsite", NOW) == waiting


def test_a_copy_is_proved_by_origin_and_tree() -> None:
    ours = Snapshot("a" * 64, 1, "tree-a", "mx1")
    copy = Snapshot("b" * 64, 1, "tree-a", "mx1", original=ours.id)
    assert unproved([ours], [copy]) == []
    assert unproved([ours], [Snapshot("b" * 64, 1, "tree-b", "mx1", original=ours.id)]) == [ours]
    assert unproved([ours], [Snapshot("b" * 64, 1, "tree-a", "mx1")]) == [ours]
    assert unproved([ours], []) == [ours]


def test_what_the_last_proved_copy_showed_is_known() -> None:
    good = Record(1, Activity.COPY, "", "offsite", "r", NOW, NOW, RunState.OK, facts={"origins": ["a", "b"]})
    bad = Record(2, Activity.COPY, "", "offsite", "r", NOW, NOW, RunState.FAILED, facts={"origins": ["c"]})
    assert known_of([bad, good], "offsite").origins == {"a", "b"}
    assert known_of([bad, good], "elsewhere").origins == frozenset()
