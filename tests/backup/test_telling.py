"""The night as lines of the log: each end one line, at its level, without anybody's address."""

import logging
from collections.abc import Mapping

import pytest

from smartmail.backup.locks import LockAge
from smartmail.backup.telling import Teller
from smartmail.backup.vault import HeldLock
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity, End, Reason
from smartmail.core.erasure import Tombstone
from smartmail.core.restic_output import Lock

RUN = "20270115T080000Z-7f3a"


class Kept(logging.Handler):
    """Keeps what is logged, as (level, event, fields)."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str, Mapping[str, object]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        values = vars(record)
        self.lines.append((record.levelname.lower(), values["event"], values["fields"]))

    def of(self, event: str) -> Mapping[str, object]:
        return next(fields for _, name, fields in self.lines if name == event)

    def names(self) -> list[str]:
        return [name for _, name, _ in self.lines]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    kept, logger = Kept(), logging.getLogger("smartmail")
    monkeypatch.setattr(logger, "handlers", [kept])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    monkeypatch.setattr(logger, "propagate", False)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    return kept


@pytest.fixture
def teller() -> Teller:
    seconds = iter(range(0, 10_000, 5))
    return Teller(lambda: next(seconds))


ENDINGS = {
    Activity.BACKUP: "backup_job_ended",
    Activity.COPY: "backup_copied",
    Activity.RETENTION: "retention_refused",
    Activity.PRUNE: "repository_pruned",
    Activity.CHECK: "repository_checked",
    Activity.PROBE: "deletion_probed",
    Activity.DRILL: "drill_ended",
    Activity.RESTORE: "restore_made",
    Activity.ERASE: "erasure_ended",
}


@pytest.mark.parametrize("activity", Activity)
@pytest.mark.parametrize(
    ("state", "level"), [(RunState.OK, "info"), (RunState.PARTIAL, "warning"), (RunState.FAILED, "error")]
)
def test_each_activity_ends_in_one_line_of_its_level(
    kept: Kept, teller: Teller, activity: Activity, state: RunState, level: str
) -> None:
    teller.began(activity, "mail", "onsite", RUN)
    kept.lines.clear()
    reason = Reason.NONE if state is RunState.OK else Reason.FAILED
    teller.ended(activity, "mail", "onsite", RUN, End(state, reason, words="why"))
    [(found, name, fields)] = kept.lines
    if activity is Activity.RETENTION:
        assert (found, name) == (
            ("info", "retention_removed") if state is RunState.OK else ("error", ENDINGS[activity])
        )
    else:
        assert (found, name) == (level, ENDINGS[activity])
        assert (fields["state"], fields["reason"]) == (state.value, reason.value)
    assert fields["repository"] == "onsite"


def test_a_run_begins_with_its_first_job_and_ends_once(kept: Kept, teller: Teller) -> None:
    end = End(RunState.OK, facts={"files": 3, "octets": 9, "anomalies": ["SHRUNK: fewer files"]})
    for job in ("keys", "mail"):
        teller.began(Activity.BACKUP, job, "onsite", RUN)
        teller.ended(Activity.BACKUP, job, "onsite", RUN, end)
    teller.over([end, End(RunState.PARTIAL)])
    assert kept.names() == [
        "backup_run_begun",
        *("backup_begun", "backup_job_ended", "source_anomaly") * 2,
        "backup_run_ended",
    ]
    assert kept.of("backup_run_begun") == {"run": RUN, "job": "keys"}
    job = kept.of("backup_job_ended")
    assert (job["seconds"], job["files"], job["octets"], job["missed"]) == (5, 3, 9, None)
    assert kept.of("source_anomaly")["what"] == ("SHRUNK: fewer files",)
    ended = kept.of("backup_run_ended")
    assert (ended["run"], ended["done"], ended["bad"]) == (RUN, 2, 1)


def test_a_run_with_nothing_to_do_says_nothing(kept: Kept, teller: Teller) -> None:
    teller.over([])
    assert kept.lines == []


def test_facts_of_another_kind_than_foreseen_do_no_harm(kept: Kept, teller: Teller) -> None:
    facts = {"copied": "three", "proved": True, "files": None, "removed": 7, "anomalies": "no list", "grounds": [1]}
    for activity in Activity:
        teller.ended(activity, "", "onsite", RUN, End(RunState.FAILED, Reason.INTERNAL, facts))
    assert kept.of("backup_copied")["copied"] == 0
    assert kept.of("backup_copied")["proved"] == 0
    assert kept.of("retention_refused")["grounds"] == ("1",)


def test_an_address_is_in_no_line_of_a_restore_or_a_tombstone(kept: Kept, teller: Teller) -> None:
    facts = {"address": "ann@example.com", "found": 7, "added": 3}
    end = End(RunState.OK, facts=facts, words="3 messages put back for ann@example.com")
    teller.ended(Activity.RESTORE, "", "offsite", RUN, end)
    teller.tombstone(Tombstone(4, "ann@example.com", "asked for it", "anna", 1, None))
    teller.tombstone(Tombstone(5, "@example.com", "left", "anna", 1, None))
    assert "ann@example.com" not in str(kept.lines)
    assert (kept.of("restore_made")["found"], kept.of("restore_made")["added"]) == (7, 3)
    assert [fields["kind"] for _, _, fields in kept.lines[1:]] == ["address", "domain"]


def test_locks_faults_and_words_have_their_lines(kept: Kept, teller: Teller) -> None:
    locks = (HeldLock("a" * 64, Lock("mx1", "root", 42, True, 1)), HeldLock("b" * 64, None))
    teller.locks("onsite", LockAge(locks, 90_500), removed=True)
    teller.fault("copy offsite", OSError(5, "broken"))
    teller.log("a hook complained")
    assert [fields.get("holder") for _, _, fields in kept.lines[:2]] == ["process 42 of mx1", "unreadable"]
    assert kept.lines[0][2]["age_seconds"] == 90
    assert kept.of("backup_fault")["error"] == "OSError"
    assert kept.of("backup_note") == {"text": "a hook complained"}
