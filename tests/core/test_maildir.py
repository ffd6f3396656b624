"""Which files of a Maildir are messages, what is left out of a backup, and which messages a walk has missed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.maildir import (
    LEFT_OUT_NAMES,
    SLACK_NS,
    FolderDifference,
    MessageName,
    Reconciliation,
    base_of,
    by_folder,
    changed_since,
    compare_folder,
    escaped,
    exclusions,
    is_left_out,
    is_message_name,
    merged,
    message_place,
    one_of_each,
    parse_name,
    reconcile,
    size_fits,
)

BASE = "1763800000.M1P2.mx1,S=1024,W=1050"


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        (f"{BASE}:2,FS", MessageName(BASE, "FS", 1024, 1050)),
        (f"{BASE}:2,", MessageName(BASE, "", 1024, 1050)),
        (BASE, MessageName(BASE, "", 1024, 1050)),
        (f"{BASE}:2,SFSa", MessageName(BASE, "FSa", 1024, 1050)),
        (f"{BASE}:2,S;x", MessageName(BASE, "Sx", 1024, 1050)),
        ("x,W=7,S=5:2,", MessageName("x,W=7,S=5", "", 5, 7)),
        ("x,S=5,S=9", MessageName("x,S=5,S=9", "", 5, None)),
        ("x,S=,W=a:2,S", MessageName("x,S=,W=a", "S", None, None)),
        ("x,S=12z", MessageName("x,S=12z", "", None, None)),
        ("plain", MessageName("plain", "", None, None)),
        ("a:2,S:2,F", MessageName("a", "FS", None, None)),
        (":2,S", None),
        ("", None),
        (".hidden:2,S", None),
        ("a/b", None),
        ("a\0b", None),
    ],
)
def test_a_name_is_taken_apart(name: str, parsed: MessageName | None) -> None:
    assert parse_name(name) == parsed


@pytest.mark.parametrize(
    ("name", "second"), [(BASE, 1763800000), ("1763800000_0.x", 1763800000), ("abc.x", None), ("12", None)]
)
def test_a_name_says_when_it_was_delivered(name: str, second: int | None) -> None:
    parsed = parse_name(name)
    assert parsed and parsed.delivered_s == second


def test_a_size_in_the_name_is_held_against_the_file() -> None:
    assert [size_fits(f"{BASE}:2,S", octets) for octets in (1024, 1023)] == [True, False]
    assert size_fits("plain:2,S", 5) is None


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/v/anna/Maildir/cur/1.x:2,S", ("/v/anna/Maildir", "cur/1.x:2,S")),
        ("/v/anna/Maildir/.Sent/new/1.x", ("/v/anna/Maildir/.Sent", "new/1.x")),
        ("cur/1.x", None),
        ("/cur/1.x", ("/", "cur/1.x")),
        ("/v/Maildir/tmp/1.x", None),
        ("/v/Maildir/cur", None),
        ("/v/Maildir/cur/", None),
        ("/v/Maildir/cur/.nfs0001", None),
        ("/v/Maildir/dovecot-uidlist", None),
        ("/v/Maildir/cur/deeper/1.x", None),
        ("/v/cur/new/1.x", ("/v/cur", "new/1.x")),
    ],
)
def test_a_message_file_is_a_visible_name_in_cur_or_new(path: str, place: tuple[str, str] | None) -> None:
    assert message_place(path) == place


# what is left out


def translated(pattern: str) -> re.Pattern[str]:
    """As restic reads it: * within a part, ** over any number of parts, and all below what fits."""
    found = "".join(
        {"**/": "(?:[^/]+/)*", "*": "[^/]*"}.get(one, re.escape(one.removeprefix("\\")))
        for one in re.findall(r"\*\*/|\\.|.", pattern)
    )
    return re.compile(f"{found}(?:/.*)?\\Z", re.DOTALL)


def left_out_by_patterns(path: str, *maildirs: str) -> bool:
    return any(translated(one).match(path) for one in exclusions(maildirs))


ROOT = "/srv/vmail/*/*/Maildir"
INSIDE = "/srv/vmail/example.com/anna/Maildir"


@pytest.mark.parametrize(
    "inside",
    [
        "tmp/1.x",
        ".Sent/tmp/1.x",
        "Archive/2026/tmp/1.x",
        "dovecot.index.cache",
        ".Sent/dovecot.index.log.2",
        "dovecot-uidlist.lock",
    ],
)
def test_half_written_mail_indexes_and_locks_are_left_out(inside: str) -> None:
    assert is_left_out(inside) and left_out_by_patterns(f"{INSIDE}/{inside}", ROOT)


@pytest.mark.parametrize(
    "inside",
    [
        "cur/1.x:2,S",
        "new/1.x",
        "dovecot-uidlist",
        "dovecot-keywords",
        "dovecot-uidvalidity",
        "dovecot-uidvalidity.5f000000",
        "subscriptions",
        "dovecot-acl",
        "maildirsize",
        "sieve/main.sieve",
        ".Locks.lock/cur/1.x",
        ".tmp/cur/1.x",
        ".dovecot.index/new/1.x",
    ],
)
def test_messages_control_files_and_folders_with_such_names_are_kept(inside: str) -> None:
    assert not is_left_out(inside) and not left_out_by_patterns(f"{INSIDE}/{inside}", ROOT)


@pytest.mark.parametrize("user", ["tmp", "bob.lock", "dovecot.index"])
def test_a_user_with_such_a_name_keeps_the_mail(user: str) -> None:
    assert not left_out_by_patterns(f"/srv/vmail/example.com/{user}/Maildir/cur/1.x", ROOT)
    assert left_out_by_patterns(f"/srv/vmail/example.com/{user}/Maildir/tmp/1.x", ROOT)


def test_a_plain_path_is_made_a_pattern_of_itself_alone() -> None:
    odd = "/srv/[a]*?\\/Maildir"
    assert escaped(odd) == "/srv/\\[a]\\*\\?\\\\/Maildir"
    assert left_out_by_patterns(f"{odd}/tmp/1.x", escaped(odd))
    assert not left_out_by_patterns("/srv/aXY/Maildir/tmp/1.x", escaped(odd))


@pytest.mark.parametrize("path", ["", "/", "//", "srv/vmail", "*/Maildir"])
def test_patterns_for_everything_or_for_nowhere_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no absolute path"):
        exclusions([path])


@given(st.lists(st.sampled_from(["cur", "new", "tmp", ".Sent", "x", *LEFT_OUT_NAMES]), min_size=1, max_size=4))
def test_the_patterns_and_the_predicate_say_the_same(parts: list[str]) -> None:
    inside = "/".join(parts)
    assert is_left_out(inside) is left_out_by_patterns(f"{INSIDE}/{inside}", ROOT)


# what a walk has missed


@pytest.mark.parametrize(
    ("live", "stored", "found"),
    [
        pytest.param(["cur/a:2,S"], ["cur/a:2,S"], FolderDifference((), (), 0, 0, 0), id="the same"),
        pytest.param(["cur/a:2,S"], ["cur/a:2,"], FolderDifference((), (), 1, 0, 0), id="marked read since"),
        pytest.param(["cur/a:2,"], ["new/a"], FolderDifference((), (), 1, 0, 0), id="moved from new to cur"),
        pytest.param(["cur/a:2,S"], [], FolderDifference(("cur/a:2,S",), (), 0, 0, 0), id="renamed between two reads"),
        pytest.param([], ["cur/a:2,S"], FolderDifference((), (), 0, 1, 0), id="expunged since"),
        pytest.param(
            ["cur/a:2,S"], ["cur/a:2,", "cur/a:2,S"], FolderDifference((), (), 0, 0, 1), id="seen under both names"
        ),
        pytest.param(
            ["cur/a:2,"], ["cur/a:2,", "cur/a:2,S"], FolderDifference((), (), 0, 0, 1), id="under both, and back again"
        ),
        pytest.param(["cur/.x", "tmp/b", "c"], [".y", "tmp/d"], FolderDifference((), (), 0, 0, 0), id="no messages"),
        pytest.param([], [], FolderDifference((), (), 0, 0, 0), id="both empty"),
    ],
)
def test_a_folder_is_compared_by_base_names(live: list[str], stored: list[str], found: FolderDifference) -> None:
    assert compare_folder(live, stored) == found
    assert compare_folder(iter(live), iter(stored)) == found


def test_mail_delivered_after_the_walk_began_is_not_missed_and_runs_nothing_again() -> None:
    live = ["new/99.before", "new/100.at", "new/101.after", "new/noname"]
    assert compare_folder(live, [], 100) == FolderDifference(
        ("new/99.before", "new/noname"), ("new/100.at", "new/101.after"), 0, 0, 0
    )
    assert compare_folder(live, []).missed == tuple(sorted(live))
    assert reconcile({"/m": ["new/100.at"]}, {}, 100).again == ()


def test_a_message_moved_to_a_folder_that_was_read_before_is_found_missing_there() -> None:
    live = {"/m/.Archive": ["cur/a:2,S"], "/m": []}
    stored: dict[str, list[str]] = {"/m/.Archive": [], "/m": []}
    found = reconcile(live, stored)
    assert (found.again, found.missed, found.complete) == (("/m/.Archive",), (("/m/.Archive", "cur/a:2,S"),), False)


def test_folders_are_reconciled_together() -> None:
    live = by_folder(["/m/cur/a:2,S", "/m/new/b", "/m/.New/cur/c:2,", "/m/dovecot-uidlist", "/m/.Empty/tmp/x"])
    stored = by_folder(["/m/cur/a:2,", "/m/.Old/cur/d:2,", "/m/cur/e:2,"])
    assert reconcile(live, stored) == Reconciliation(
        again=("/m", "/m/.New"),
        missed=(("/m", "new/b"), ("/m/.New", "cur/c:2,")),
        arrived=0,
        renamed=1,
        gone=2,
        doubled=0,
        messages=3,
    )


def test_thousands_marked_read_during_the_walk_are_missed_by_it_and_found() -> None:
    """The walk reads a folder in pieces; what is renamed to a place already read is under neither name in it."""
    before = [f"new/{number}.x" for number in range(40_000)]
    after = [f"cur/{number}.x:2,S" if number % 7 == 0 else f"new/{number}.x" for number in range(40_000)]
    walked = [name for number, name in enumerate(before) if not (number % 7 == 0 and number > 30_000)]
    found = reconcile({"/m": after}, {"/m": walked})
    assert [name for _, name in found.missed] == sorted(name for name in after[30_001:] if name.endswith("S"))
    assert found.again == ("/m",)
    again = reconcile({"/m": after}, {"/m": merged([{"/m": walked}, {"/m": after}])["/m"].values()})
    assert again.complete and again.renamed == 0


@pytest.mark.parametrize(
    ("changes", "changed"),
    [((5, 9), False), ((10**10 - SLACK_NS - 1, 0), False), ((10**10 - SLACK_NS, 0), True), ((0, 10**11), True)],
)
def test_a_folder_is_compared_if_it_changed_since_the_walk_began(changes: tuple[int, int], changed: bool) -> None:
    assert changed_since(changes, 10**10) is changed


def test_of_a_message_under_two_names_the_read_one_is_restored_once() -> None:
    assert one_of_each(["new/a", "cur/a:2,", "cur/a:2,RS", "cur/b:2,", "tmp/c"]) == {
        "a": "cur/a:2,RS",
        "b": "cur/b:2,",
    }


def test_folders_run_again_go_over_the_first_snapshot_and_lose_nothing() -> None:
    first = {"/m": ["new/a", "cur/b:2,"], "/m/.Sent": ["cur/s:2,S"]}
    again = {"/m": ["cur/a:2,S", "cur/c:2,"]}
    assert merged([first, again]) == {
        "/m": {"a": "cur/a:2,S", "b": "cur/b:2,", "c": "cur/c:2,"},
        "/m/.Sent": {"s": "cur/s:2,S"},
    }


# what always holds

bases = st.sampled_from([f"{second}.M{number}" for second in (50, 150) for number in range(6)])
places = st.builds(
    lambda base, kind, flags: f"{kind}/{base}" if kind == "new" else f"cur/{base}:2,{flags}",
    bases,
    st.sampled_from(["cur", "new"]),
    st.sampled_from(["", "S", "FS"]),
)
strangers = st.sampled_from(["cur/.hidden", "tmp/x", "cur/", "dovecot-uidlist", "new/:2,S"])
folders = st.dictionaries(st.sampled_from(["/m", "/m/.Sent"]), st.lists(places | strangers, max_size=12))


def bases_naively(names: list[str]) -> set[str]:
    inner = [name.split("/", 1)[1] for name in names if name.split("/")[0] in ("cur", "new")]
    return {name.split(":2,")[0] for name in inner if not name.startswith(".") and name.split(":2,")[0]}


@given(folders, folders)
def test_what_is_missed_is_the_difference_of_the_sets_of_base_names(
    live: dict[str, list[str]], stored: dict[str, list[str]]
) -> None:
    found = reconcile(live, stored)
    missing = {
        (folder, base)
        for folder, names in live.items()
        for base in bases_naively(names) - bases_naively(stored.get(folder, []))
    }
    assert {(folder, base_of(name.split("/", 1)[1])) for folder, name in found.missed} == missing
    assert found.again == tuple(sorted({folder for folder, _ in missing}))
    assert found.gone == sum(
        len(bases_naively(names) - bases_naively(live.get(folder, []))) for folder, names in stored.items()
    )


@given(folders, folders)
def test_after_the_folders_were_run_again_nothing_is_missed(
    live: dict[str, list[str]], stored: dict[str, list[str]]
) -> None:
    again = {folder: live[folder] for folder in reconcile(live, stored).again}
    whole = {folder: list(names.values()) for folder, names in merged([stored, again]).items()}
    assert reconcile(live, whole).complete


@given(st.text(max_size=30))
def test_any_text_is_a_name_or_none(text: str) -> None:
    parsed = parse_name(text)
    assert (parsed is not None) is is_message_name(text)
    assert parsed is None or text.startswith(parsed.base)


def test_a_message_that_was_listed_under_two_names_is_missed_once() -> None:
    found = compare_folder(["new/7.a", "cur/7.a:2,S", "cur/8.b:2,S"], ["cur/8.b:2,"])
    assert found.missed == ("cur/7.a:2,S",)
    assert found.renamed == 1
