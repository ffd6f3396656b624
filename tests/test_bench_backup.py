"""The arithmetic and the form of `ops/bench backup`; what it measures is not measured here."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

OPS = Path(__file__).resolve().parents[1] / "ops"
sys.path.insert(0, str(OPS))

from benchmarks.backup import MESSAGES_VARIABLE, Plan, overhead_pct, ratio_of  # noqa: E402
from benchmarks.backup_data import PER_MAILBOX, Tree  # noqa: E402
from benchmarks.backup_ours import SETTINGS, Counted, Entry, Watched, children, covered  # noqa: E402
from benchmarks.backup_report import BARS, as_json, judged  # noqa: E402
from benchmarks.load import LoadFailed  # noqa: E402
from benchmarks.monitor_report import Results, Row  # noqa: E402

from smartmail.config import load  # noqa: E402
from smartmail.config.backup import backup_plan  # noqa: E402

REACHED = {
    "overhead_pct": 8.0,
    "rss_mb": 70.0,
    "nightly_vs_borgmatic": 0.3,
    "offsite_source_bytes": 0.0,
    "mailbox_restore_s": 6.0,
}


def test_every_bar_has_its_name_and_its_bound() -> None:
    bounds = {bar.id: (bar.bound, bar.at_least) for bar in BARS}
    assert bounds == {
        "overhead_pct": (10, False),
        "rss_mb": (100, False),
        "nightly_vs_borgmatic": (0.5, False),
        "offsite_source_bytes": (0, False),
        "mailbox_restore_s": (10, False),
    }


def test_bars_that_are_reached_are_met_and_one_octet_of_the_source_is_too_much() -> None:
    assert all(bar["met"] for bar in judged(Results(values=dict(REACHED))))
    bars = {bar["id"]: bar["met"] for bar in judged(Results(values=REACHED | {"offsite_source_bytes": 1.0}))}
    assert bars["offsite_source_bytes"] is False


@pytest.mark.parametrize("missing", sorted(REACHED))
def test_a_bar_without_a_value_is_null_and_not_met(missing: str) -> None:
    bars = {bar["id"]: bar for bar in judged(Results(values={k: v for k, v in REACHED.items() if k != missing}))}
    assert bars[missing]["value"] is None
    assert bars[missing]["met"] is False
    assert sum(bool(bar["met"]) for bar in bars.values()) == len(BARS) - 1


def test_the_json_object_has_name_machine_rows_and_bars() -> None:
    results = Results(values=dict(REACHED), faults={"borgmatic": "no"})
    results.add(Row.median("nightly_ours", "unchanged", "s", [3.0, 1.0, 2.0]))
    value = json.loads(as_json(results, {"processor": "x"}))
    assert value["name"] == "backup"
    assert value["rows"][0]["value"] == 2.0
    assert {bar["id"] for bar in value["bars"]} == set(REACHED)
    assert value["faults"] == {"borgmatic": "no"}


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0.0),
        ([(1.0, 3.0)], 2.0),
        ([(1.0, 3.0), (2.0, 4.0)], 3.0),
        ([(1.0, 9.0), (2.0, 4.0), (5.0, 6.0)], 8.0),
        ([(5.0, 6.0), (1.0, 2.0)], 2.0),
    ],
)
def test_restics_that_run_side_by_side_count_once(spans: list[tuple[float, float]], seconds: float) -> None:
    assert covered(spans) == seconds


def test_a_child_is_seen_from_the_first_look_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([[7], [7, 8], [8], []])
    monkeypatch.setattr("benchmarks.backup_ours.children", lambda pid: next(seen))
    watched = Watched()
    for now in (1.0, 2.0, 3.0, 4.0):
        watched.look(os.getpid(), now)
    assert watched.spans == {7: [1.0, 2.0], 8: [2.0, 3.0]}
    assert watched.peak_mb > 1


def test_a_process_that_is_gone_is_no_error() -> None:
    with pytest.raises(OSError):
        children(2**22 + 1)
    watched = Watched()
    watched.look(2**22 + 1, 1.0)
    assert not watched.spans


def test_overhead_is_what_a_night_takes_beyond_restic_and_ratios_are_of_medians() -> None:
    assert overhead_pct({"all": 11.0, "restic": 10.0}) == pytest.approx(10)
    ours, other = ({"all": one} for one in (9.0, 1.0, 2.0)), ({"all": one} for one in (4.0, 5.0, 3.0))
    assert ratio_of(list(ours), list(other)) == 0.5


BACKUP = Entry(1, "backup", "ok", 1_000_000, 1_005_000, {})
COPY = Entry(2, "copy", "ok", 1_005_000, 1_009_000, {"restic_ms": 7})


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('1002.000000 openat(AT_FDCWD</x>, "/src/a/cur/1", O_RDONLY) = 5</src/a/cur/1>', Counted(backup_opens=1)),
        ("1002.000000 read(5</src/a/cur/1>, ..., 4096) = 700", Counted(backup_octets=700)),
        ("1006.000000 read(5</src/a/cur/1>, ..., 4096) = 700", Counted(copy_octets=700)),
        ("1006.000000 pread64(5</src/a>, ..., 4096, 0) = -1 EIO (Input/output error)", Counted()),
        (
            "1006.000000 mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 5</src/a>, 0) = 0x7f0000000000",
            Counted(copy_octets=4096),
        ),
        ("1006.000000 read(5</elsewhere/pack>, ..., 4096) = 4096", Counted()),
        ('1006.000000 openat(AT_FDCWD</x>, "/src/a", O_RDONLY) = -1 ENOENT (No such file)', Counted(copy_opens=1)),
        ("1500.000000 read(5</src/a/cur/1>, ..., 4096) = 700", Counted()),
        ("+++ exited with 0 +++ /src", Counted()),
    ],
)
def test_what_strace_tells_of_the_source_is_counted_to_the_step_it_was_in(line: str, found: Counted) -> None:
    counted = Counted()
    counted.add([line + "\n"], "/src", BACKUP, COPY)
    assert counted == found


def test_restics_time_comes_from_the_facts_and_is_nothing_without_them() -> None:
    assert (COPY.restic_ms, BACKUP.restic_ms) == (7, 0)


def test_the_plan_follows_the_command_line_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MESSAGES_VARIABLE, raising=False)
    assert (Plan.of(quick=False).messages, Plan.of(quick=True).messages) == (500_000, 50_000)
    monkeypatch.setenv(MESSAGES_VARIABLE, "2000")
    assert Plan.of(quick=True, rounds=5) == Plan(2_000, 5)
    monkeypatch.setenv(MESSAGES_VARIABLE, "few")
    with pytest.raises(LoadFailed, match="few"):
        Plan.of(quick=False)


def test_the_mail_is_always_the_same_and_named_as_dovecot_names_it(tmp_path: Path) -> None:
    one, other = Tree(tmp_path / "one", 1_300), Tree(tmp_path / "other", 1_300)
    for number in range(one.mailboxes):
        one.make(number)
        other.make(number)
    files = [sorted(tree.files(number)) for tree in (one, other) for number in (0, 1)]
    assert [len(found) for found in files] == [PER_MAILBOX, 300, PER_MAILBOX, 300]
    assert [file.relative_to(one.folder) for file in files[0]] == [file.relative_to(other.folder) for file in files[2]]
    assert all(mine.read_bytes() == theirs.read_bytes() for mine, theirs in zip(files[1], files[3], strict=True))
    for file in files[0]:
        flags = r":2,[A-Z]*" if file.parent.name == "cur" else ""
        assert re.fullmatch(rf"\d{{10}}\.M\d{{6}}P\d+\.mx1,S=(\d+){flags}", file.name)
        assert f",S={file.stat().st_size}" in file.name
        assert 512 <= file.stat().st_size <= 8192
        assert file.name.startswith(f"{int(file.stat().st_mtime)}.")
    assert len({file.read_bytes() for file in files[0]}) == PER_MAILBOX


def test_five_hundred_thousand_messages_are_five_hundred_mailboxes() -> None:
    tree = Tree(Path("/srv/vmail"), 500_000)
    assert tree.mailboxes == 500
    assert len({tree.address(one) for one in range(500)}) == 500


def test_new_mail_is_put_into_the_inbox(tmp_path: Path) -> None:
    tree = Tree(tmp_path, 100)
    tree.make(0)
    before = set(tree.files(0))
    octets = tree.deliver(3)
    new = set(tree.files(0)) - before
    assert {file.parent for file in new} == {tree.maildir(0) / "new"}
    assert sum(file.stat().st_size for file in new) == octets
    assert len(new) == 3


def test_the_configuration_of_the_benchmark_holds(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "mail", 1_000)
    file = tmp_path / "smartmail.toml"
    file.write_text(SETTINGS.format(home=tmp_path, restic="/usr/bin/restic", source=tree.folder, layout=tree.layout))
    plan = backup_plan(load(file))
    layout = plan.job("mail").layout
    assert layout is not None
    assert layout.maildir(tree.address(0)) == str(tree.maildir(0))
    assert [one.name for one in plan.copies_of("onsite")] == ["offsite"]
