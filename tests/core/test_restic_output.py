"""What restic prints, read: each shape as versions 0.14 and 0.18 wrote it, and every kind of garbage."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.points import Snapshot
from smartmail.core.restic_json import MOST, Unreadable, nanoseconds
from smartmail.core.restic_messages import (
    BackupSummary,
    Change,
    CheckSummary,
    DiffStatistics,
    ExitError,
    ItemError,
    Node,
    Other,
    Plain,
    Progress,
    RestoreSummary,
    TagChange,
    read_diff_line,
    read_ls_line,
    read_message,
)
from smartmail.core.restic_output import (
    CheckReport,
    CopyReport,
    Key,
    Lock,
    PruneReport,
    RepositoryConfig,
    RestoreReport,
    Stats,
    TagReport,
    lock_holder,
    parse_backup,
    parse_check,
    parse_config,
    parse_copy,
    parse_find,
    parse_forget,
    parse_ids,
    parse_init,
    parse_keys,
    parse_lock,
    parse_prune,
    parse_restore,
    parse_snapshots,
    parse_stats,
    parse_tag,
    parse_unlock,
)
from smartmail.core.restic_version import Kind

A, B, TREE = "a" * 64, "b" * 64, "2" * 64
SNAPSHOT_14 = {
    "time": "2026-11-22T08:26:39.445123456Z",
    "tree": TREE,
    "paths": ["/srv/vmail"],
    "hostname": "mx1",
    "username": "root",
    "tags": ["job=mail"],
    "id": A,
    "short_id": A[:8],
}
SNAPSHOT_18 = SNAPSHOT_14 | {"original": B, "program_version": "restic 0.18.0", "summary": {"files_new": 2}}
TIME_MS = 1_795_335_999_445
WAITING = "repo already locked, waiting up to 5m0s for the lock"
SUMMARY_14 = (
    '{"message_type":"summary","files_new":6,"files_changed":1,"files_unmodified":2,"dirs_new":13,"dirs_changed":0,'
    '"dirs_unmodified":0,"data_blobs":6,"tree_blobs":11,"data_added":106783,"total_files_processed":9,'
    '"total_bytes_processed":100063,"total_duration":0.2204,"snapshot_id":"e01d3999"}'
)
NODE = (
    '{"name":"a","type":"file","path":"/srv/vmail/a","uid":5000,"gid":5000,"size":3,"mode":384,"permissions":'
    '"-rw-------","mtime":"2026-11-23T23:37:58.630661774Z","atime":"2026-11-23T23:37:58.63066177Z",'
    '"ctime":"2026-11-23T23:37:58.63066177Z","struct_type":"node"}'
)
THE_NODE = Node("/srv/vmail/a", "file", 3, 384, 5000, 5000, "2026-11-23T23:37:58.630661774Z")
PACK = "c257e1daaa668156baf536c34e4cade3286e452e5ed4fb19c791f3277507b629"


@pytest.mark.parametrize(
    ("kind", "line", "message"),
    [
        (
            Kind.BACKUP,
            '{"message_type":"status","percent_done":0.25049,"total_files":2,"files_done":1,"total_bytes":5003,'
            '"bytes_done":3,"seconds_elapsed":7,"current_files":["/a"]}',
            Progress(250, 1, 2, 3, 5003),
        ),
        (Kind.BACKUP, '{"message_type":"status","percent_done":0,"total_files":1}', Progress(0, 0, 1)),
        (Kind.BACKUP, '{"message_type":"status","percent_done":1,"error_count":4}', Progress(1000, 0, 0, errors=4)),
        (
            Kind.RESTORE,
            '{"message_type":"status","percent_done":0.5,"total_files":6,"files_restored":3,"total_bytes":10,'
            '"bytes_restored":5}',
            Progress(500, 3, 6, 5, 10),
        ),
        (Kind.CHECK, "[0:39] 50.07%  1 / 2 snapshots", Progress(500, 1, 2)),
        (Kind.COPY, "[1:02:39] 100.00%  2 / 2 packs copied", Progress(1000, 2, 2)),
        (Kind.BACKUP, SUMMARY_14, BackupSummary("e01d3999", 6, 1, 2, 9, 100063, 106783, None, 220)),
        (
            Kind.BACKUP,
            SUMMARY_14.replace('"e01d3999"', f'"{A}","data_added_packed":6709,"backup_start":"x"'),
            BackupSummary(A, 6, 1, 2, 9, 100063, 106783, 6709, 220),
        ),
        (
            Kind.BACKUP,
            SUMMARY_14.replace('"e01d3999"', '"6253c094","dry_run":true'),
            BackupSummary("", 6, 1, 2, 9, 100063, 106783, None, 220),
        ),
        (
            Kind.RESTORE,
            '{"message_type":"summary","total_files":6,"files_restored":6,"total_bytes":5003,"bytes_restored":5003}',
            RestoreSummary(6, 6, 0, 0, 5003, 5003),
        ),
        (Kind.RESTORE, '{"message_type":"summary"}', RestoreSummary(0, 0, 0, 0, 0, 0)),
        (
            Kind.CHECK,
            '{"message_type":"summary","num_errors":11,"broken_packs":null,"suggest_repair_index":false,'
            '"suggest_prune":true}',
            CheckSummary(11, (), False, True),
        ),
        (
            Kind.BACKUP,
            '{"message_type":"error","error":{"Op":"open","Path":"/srv/a","Err":13},"during":"archival","item":"/srv/a"}',
            ItemError("/srv/a", "archival", "open /srv/a: errno 13"),
        ),
        (
            Kind.BACKUP,
            '{"message_type":"error","error":{"Op":"read","Path":"/x","Err":{}},"during":"scan","item":"/x"}',
            ItemError("/x", "scan", "read /x"),
        ),
        (
            Kind.BACKUP,
            '{"message_type":"error","error":{"message":"open /a: permission denied"},"during":"archival","item":"/a"}',
            ItemError("/a", "archival", "open /a: permission denied"),
        ),
        (Kind.CHECK, '{"message_type":"error","message":"pack x\\n"}', ItemError("", "", "pack x")),
        (Kind.LS, '{"message_type":"exit_error","code":12,"message":"Fatal: no"}', ExitError(12, "Fatal: no")),
        (
            Kind.TAG,
            f'{{"message_type":"changed","old_snapshot_id":"{A}","new_snapshot_id":"{B}"}}',
            TagChange(A, B),
        ),
        (Kind.COPY, '{"message_type":"something_of_2030","value":1}', Other("something_of_2030")),
        (Kind.CHECK, "create exclusive lock for repository\n", Plain("create exclusive lock for repository")),
        (Kind.BACKUP, '{"message_type":"status","percent', Plain('{"message_type":"status","percent')),
        (Kind.BACKUP, '{"message_type":"status","percent_done":1e999,"total_files":-1}', Progress(1000, 0, 0)),
        (Kind.BACKUP, '{"message_type":"status","percent_done":NaN,"total_files":true}', Progress(0, 0, 0)),
        (Kind.BACKUP, f'{{"message_type":"status","total_files":{"9" * 400}}}', Progress(0, 0, MOST)),
        (Kind.BACKUP, "[" * 100_000, Plain("[" * 100_000)),
        (Kind.BACKUP, '{"a":' * 100_000, Plain('{"a":' * 100_000)),
    ],
)
def test_a_line_is_a_message(kind: Kind, line: str, message: object) -> None:
    assert read_message(kind, line) == message


def test_an_error_of_the_scan_makes_no_backup_partial() -> None:
    assert not ItemError("/a", "scan", "").counts
    assert ItemError("/a", "archival", "").counts


@pytest.mark.parametrize(
    ("text", "originals"),
    [
        (json.dumps([SNAPSHOT_14]), [""]),
        (f"{WAITING}\n{json.dumps([SNAPSHOT_18, SNAPSHOT_14])}\n", [B, ""]),
        ("[]\n", []),
        ("null\n", []),
    ],
)
def test_snapshots_are_listed(text: str, originals: list[str]) -> None:
    expected = [Snapshot(A, TIME_MS, TREE, "mx1", ("job=mail",), ("/srv/vmail",), one) for one in originals]
    assert parse_snapshots(text) == tuple(expected)


@pytest.mark.parametrize(
    "text",
    ["", WAITING, "{}", json.dumps([SNAPSHOT_14])[:-5], json.dumps([SNAPSHOT_14, {}]), '[{"id":1}]', "[[]]", "[1]"],
)
def test_a_list_with_gaps_is_no_list(text: str) -> None:
    assert isinstance(parse_snapshots(text), Unreadable)


def test_a_listing_is_read_line_by_line() -> None:
    first = json.dumps(SNAPSHOT_14 | {"struct_type": "snapshot"})
    assert read_ls_line(first) == Snapshot(A, TIME_MS, TREE, "mx1", ("job=mail",), ("/srv/vmail",))
    assert read_ls_line(NODE + "\n") == THE_NODE
    assert read_ls_line(WAITING) is None
    assert isinstance(read_ls_line(NODE[:-9]), Unreadable)
    assert isinstance(read_ls_line('{"path":7,"struct_type":"node"}'), Unreadable)


def test_times_are_whole_nanoseconds() -> None:
    assert THE_NODE.mtime_ns == 1_795_477_078_630_661_774
    assert nanoseconds("1970-01-01T00:00:00+01:00") == -3600 * 10**9
    assert nanoseconds("1969-12-31T23:59:59.5Z") == -500_000_000
    for wrong in ("", "2026-13-01T00:00:00Z", "2026-11-23T23:37:58", "yesterday"):
        assert nanoseconds(wrong) is None


def test_a_diff_is_read_line_by_line() -> None:
    assert read_diff_line('{"message_type":"change","path":"/a","modifier":"+"}') == Change("/a", "+")
    assert read_diff_line(
        '{"message_type":"statistics","changed_files":3,"added":{"files":2,"bytes":10},"removed":{"files":1,"bytes":4}}'
    ) == DiffStatistics(3, (2, 10), (1, 4))
    assert read_diff_line("comparing") is None
    assert isinstance(read_diff_line("{"), Unreadable)


CONFIG = f'{{"version":2,"id":"{A}","chunker_polynomial":"3aacb0d8589b39"}}'
LOCK = '{"time":"2026-11-23T23:38:48.5Z","exclusive":true,"hostname":"vm","username":"root","pid":18856}'
KEYS = '[{"current":true,"id":"a8c0a56f","userName":"root","hostName":"vm","created":"2026-11-23 23:37:59"}]'
LIST = json.dumps([{"matches": [json.loads(NODE)], "hits": 1, "snapshot": A}])


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_config, CONFIG, RepositoryConfig(A, 2, "3aacb0d8589b39")),
        (parse_config, json.dumps(json.loads(CONFIG), indent=2), RepositoryConfig(A, 2, "3aacb0d8589b39")),
        (parse_init, "created restic repository 8fbef344f8 at \n\nPlease note\n", "8fbef344f8"),
        (parse_init, f'{{"message_type":"initialized","id":"{A}","repository":"r"}}', A),
        (
            parse_stats,
            '{"total_size":200126,"total_file_count":38,"snapshots_count":2}',
            Stats(200126, 38, 2, None, None),
        ),
        (
            parse_stats,
            '{"total_size":6422,"total_uncompressed_size":7316,"compression_ratio":1.1,"total_blob_count":7,'
            '"snapshots_count":1}',
            Stats(6422, 0, 1, 7, 7316),
        ),
        (parse_keys, KEYS, (Key("a8c0a56f", True, "root", "vm", "2026-11-23 23:37:59"),)),
        (parse_lock, LOCK, Lock("vm", "root", 18856, True, 1_795_477_128_500_000_000)),
        (parse_ids, f"{WAITING}\n{A}\n{B}\n", (A, B)),
        (parse_backup, f"{WAITING}\n{SUMMARY_14}\n", BackupSummary("e01d3999", 6, 1, 2, 9, 100063, 106783, None, 220)),
        (parse_tag, "create exclusive lock for repository\nmodified tags on 1 snapshots\n", TagReport(1, ())),
        (
            parse_tag,
            f'{{"message_type":"changed","old_snapshot_id":"{A}","new_snapshot_id":"{B}"}}\n'
            '{"message_type":"summary","changed_snapshots":1}\n',
            TagReport(1, (TagChange(A, B),)),
        ),
        (parse_tag, "no snapshots were modified\n", TagReport(0, ())),
        (parse_unlock, "successfully removed locks\n", None),
        (parse_unlock, "successfully removed 3 locks\n", 3),
        (parse_unlock, "", 0),
        (
            parse_prune,
            "to delete:             0 blobs / 0 B\ntotal prune:           3 blobs / 1.500 KiB\n"
            "remaining:             7 blobs / 6.271 KiB\n",
            PruneReport(1536, 6421),
        ),
        (parse_prune, "no such words", PruneReport(None, None)),
        (
            parse_copy,
            "\nsnapshot c4dbb79a of [/src] at 2026-11-23 23:44:28 +0000 UTC)\n  copy started\n"
            "[0:00] 100.00%  2 / 2 packs copied\n\nsnapshot 053b8092 saved\n\nsnapshot d67597d9 of [/src] at 2026)\n"
            "skipping source snapshot d67597d9, was already copied to snapshot 11111111\n",
            CopyReport(("c4dbb79a", "d67597d9"), ("053b8092",), (("d67597d9", "11111111"),)),
        ),
        (
            parse_restore,
            "restoring <Snapshot 5f840999 of [/src]> to /out\nfinished verifying 0 files in /out (took 0s)\n",
            RestoreReport(None, None, 0),
        ),
        (
            parse_restore,
            '{"message_type":"summary","total_files":6,"files_restored":6,"total_bytes":9,"bytes_restored":9}',
            RestoreReport(6, 9, None),
        ),
        (parse_restore, "", RestoreReport(None, None, None)),
    ],
)
def test_an_answer_is_read(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


def test_what_was_found_is_read() -> None:
    found = parse_find(LIST)
    assert not isinstance(found, Unreadable)
    assert [(one.snapshot, one.nodes) for one in found] == [(A, (THE_NODE,))]
    assert parse_find("[]") == ()


def test_groups_of_forget_are_the_first_line_only() -> None:
    group = {"tags": None, "host": "mx1", "paths": None, "keep": [SNAPSHOT_14], "remove": None, "reasons": []}
    (only,) = parse_forget(json.dumps([group]) + "\nloading indexes...\n[0:00] 100.00%  3 / 3 packs\n") or ("none",)
    assert (only.host, only.tags, [one.id for one in only.keep], only.remove) == ("mx1", (), [A], ())  # type: ignore[union-attr]
    assert parse_forget("") == ()
    assert isinstance(parse_forget(json.dumps([group | {"remove": [{}]}])), Unreadable)


@pytest.mark.parametrize(
    ("stdout", "stderr", "report"),
    [
        ("load indexes\n\nno errors were found\n", [], CheckReport(0, (), False, False, ())),
        (
            '{"message_type":"summary","num_errors":0,"broken_packs":null}\n',
            [],
            CheckReport(0, (), False, False, ()),
        ),
        (
            "check all packs\n",
            [f"pack {PACK}: does not exist", "Load(<data/c257>) returned error", "Fatal: repository contains errors"],
            CheckReport(1, (PACK,), False, False, (f"pack {PACK}: does not exist",)),
        ),
        (
            "check all packs\n",
            [f"Pack ID does not match, want {PACK}, got {A}", "Fatal: repository contains errors"],
            CheckReport(1, (PACK,), False, False, (f"Pack ID does not match, want {PACK}, got {A}",)),
        ),
        (
            f'{{"message_type":"summary","num_errors":2,"broken_packs":["{A}"],"suggest_repair_index":true}}\n',
            [f'{{"message_type":"error","message":"pack {PACK}: does not exist\\n"}}'],
            CheckReport(2, (A, PACK), True, False, (f"pack {PACK}: does not exist",)),
        ),
    ],
)
def test_a_check_is_read(stdout: str, stderr: list[str], report: CheckReport) -> None:
    assert parse_check(stdout, stderr) == report


def test_a_check_that_did_not_end_found_nothing() -> None:
    assert isinstance(parse_check("load indexes\n", ["Fatal: connection refused"]), Unreadable)


@pytest.mark.parametrize("shape", ["{0}", '{{"message_type":"exit_error","code":11,"message":"{0}"}}'])
@pytest.mark.parametrize("exclusive", [False, True])
def test_who_holds_the_lock_is_read(shape: str, exclusive: bool) -> None:
    text = f"repository is already locked{' exclusively' if exclusive else ''} by PID 18856 on vm by root (UID 0)"
    assert lock_holder(["x", shape.format(text)]) == Lock("vm", "root", 18856, exclusive, None)
    assert lock_holder(["nobody"]) is None


ALL_PARSERS: tuple[Callable[[str], object], ...] = (
    parse_snapshots, parse_config, parse_init, parse_backup, parse_stats, parse_keys, parse_find, parse_lock, parse_ids,
    parse_copy, parse_restore, parse_prune, parse_tag, parse_unlock, parse_forget, read_ls_line, read_diff_line,
    lambda text: parse_check(text, text.splitlines()),
    lambda text: lock_holder([text]),
    lambda text: [read_message(kind, text) for kind in Kind],
)  # fmt: skip
_WORDS = st.sampled_from(
    ["message_type", "status", "summary", "error", "item", "id", "time", "tree", "hostname", "paths", "tags", "matches",
     "snapshot", "pid", "keep", "remove", "path", "struct_type", "node", "percent_done", "added", A,
     "2026-11-22T08:26:39Z"]
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=6),
    max_leaves=12,
)


@given(st.lists(st.text() | _JSON.map(json.dumps), max_size=4).map("\n".join))
def test_nothing_that_is_printed_raises(text: str) -> None:
    for parse in ALL_PARSERS:
        parse(text)


@pytest.mark.parametrize("text", [json.dumps([SNAPSHOT_18]), CONFIG, KEYS, LOCK, LIST, SUMMARY_14, NODE], ids=range(7))
def test_an_output_cut_anywhere_raises_nothing(text: str) -> None:
    for end in range(0, len(text), 3):
        for parse in ALL_PARSERS:
            parse(text[:end])
