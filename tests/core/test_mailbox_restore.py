"""One mailbox back, as far as it is thought: which messages, which folder, what of it is there already."""

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.mailbox_place import Layout
from smartmail.core.mailbox_restore import (
    FolderCount,
    Into,
    Message,
    Refusal,
    RestoreError,
    Wish,
    check,
    counts,
    divided,
    fits,
    folder_meant,
    folder_on_disk,
    gathered,
    held,
    maildirs_of,
    read_header,
    selected,
    tame,
)
from smartmail.core.restic_messages import Node

LAYOUT = Layout("/srv/vmail/{domain}/{local}/Maildir")
ANNA = "anna@example.com"
MAILDIR = LAYOUT.maildir(ANNA)
AT = 1_795_478_400_000


def node(inside: str, size: int = 10, mtime: str = "2026-11-24T02:00:00Z", kind: str = "file") -> Node:
    return Node(f"{MAILDIR}/{inside}", kind, size, 0o600, 8, 8, mtime)


def message(folder: str = "INBOX", name: str = "1.a:2,S", size: int = 10, received_ms: int = 0) -> Message:
    return Message(0, folder, f"{MAILDIR}{folder_on_disk(folder)}", f"cur/{name}", size, received_ms)


def refused(reason: Refusal, work: Callable[[], object]) -> RestoreError:
    with pytest.raises(RestoreError) as error:
        work()
    assert error.value.reason is reason
    return error.value


# what a restore point has


def test_a_message_marked_read_between_two_snapshots_comes_once_as_the_later_has_it() -> None:
    first = [node("new/1.a"), node("cur/2.b:2,"), node("cur/3.c:2,")]
    second = [node("cur/1.a:2,S"), node("cur/2.b:2,FS"), node("cur/4.d:2,")]
    found = gathered(LAYOUT, MAILDIR, [first, second])
    assert [(one.member, one.place) for one in found] == [
        (1, "cur/1.a:2,S"),
        (1, "cur/2.b:2,FS"),
        (0, "cur/3.c:2,"),
        (1, "cur/4.d:2,"),
    ]


def test_both_names_of_a_message_in_one_snapshot_are_one_message() -> None:
    found = gathered(LAYOUT, MAILDIR, [[node("new/1.a"), node("cur/1.a:2,S"), node("cur/1.a:2,")]])
    assert [one.place for one in found] == ["cur/1.a:2,S"]


def test_only_messages_of_this_mailbox_are_taken() -> None:
    listing = [
        node("", kind="dir"),
        node("cur", kind="dir"),
        node("cur/1.a:2,"),
        node("cur/.hidden"),
        node("tmp/2.b"),
        node("dovecot-uidlist"),
        node("cur/link", kind="symlink"),
        Node("/srv/vmail/example.com/anna2/Maildir/cur/9.z:2,", "file", 1, 0o600, 8, 8, "2026-11-24T02:00:00Z"),
        Node(f"{MAILDIR}2/cur/9.z:2,", "file", 1, 0o600, 8, 8, "2026-11-24T02:00:00Z"),
    ]
    assert [one.place for one in gathered(LAYOUT, MAILDIR, [listing])] == ["cur/1.a:2,"]


@pytest.mark.parametrize(
    ("inside", "folder"),
    [
        ("cur/1.a", "INBOX"),
        (".Sent/cur/1.a", "Sent"),
        (".Archive.2026/new/1.a", "Archive/2026"),
        (".Entw&APw-rfe/cur/1.a", "Entwürfe"),
        (".-dash *[x]/cur/1.a", "-dash *[x]"),
        (".a\nb/cur/1.a", "a_b"),
        (".~x/cur/1.a", "_x"),
        (".a..b/cur/1.a", "_/a/_/b"),
        ("a.b/cur/1.a", "a/b"),
        ("../cur/1.a", "_/_/_"),
        ("Sent/Sub/cur/1.a", "Sent/Sub"),
    ],
)
def test_folders_are_named_as_users_know_them(inside: str, folder: str) -> None:
    (found,) = gathered(LAYOUT, MAILDIR, [[node(inside)]])
    assert (found.folder, found.received_ms) == (folder, 1_795_485_600_000)
    assert found.file == f"{MAILDIR}/{inside}"


def test_folders_whose_names_are_one_on_disk_do_not_take_each_others_messages() -> None:
    insides = ("cur", ".INBOX/cur", ".inbox/cur", ".a\nb/cur", ".a\tb/cur", ".Work/cur", ".work/cur")
    found = gathered(LAYOUT, MAILDIR, [[node(f"{inside}/1.a:2,") for inside in insides]])
    assert sorted(one.folder for one in found) == ["INBOX", "INBOX 2", "Work", "a_b", "a_b 2", "inbox 2", "work"]
    assert len({folder_on_disk(one.folder) for one in found}) == len(insides)


@given(st.lists(st.text(min_size=1, max_size=260).filter(lambda name: "/" not in name), max_size=6, unique=True))
def test_whatever_folders_are_called_each_has_a_directory_of_its_own(names: list[str]) -> None:
    found = gathered(LAYOUT, MAILDIR, [[node(f".{name}/cur/1.a") for name in names]])
    assert len(found) == len({folder_on_disk(one.folder) for one in found}) == len(names)
    for one in found:
        assert len(folder_on_disk(one.folder).encode(errors="surrogatepass")) < 235
        assert tame(one.folder) == one.folder


def test_dates_are_those_of_the_files_and_the_end_is_not_included() -> None:
    wish = Wish(ANNA, AT, since_ms=1000, until_ms=2000)
    given = [message(name=f"{ms}.a", received_ms=ms) for ms in (999, 1000, 1999, 2000)]
    assert [one.received_ms for one in selected(given, wish)] == [1000, 1999]


def test_counts_have_the_inbox_first() -> None:
    found = counts([message("Archive"), message(), message("Archive", "2.b", 5)])
    assert found == (FolderCount("INBOX", 1, 10), FolderCount("Archive", 2, 15))


# which folder


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        ("Sent", "Sent"),
        ("inbox", "INBOX"),
        ("archive/2026", "Archive/2026"),
        ("Archive.2026", "Archive/2026"),
        ("entwürfe", "Entwürfe"),
        ("Work", "Work"),
        ("*", "*"),
    ],
)
def test_the_folder_that_is_meant(wanted: str, meant: str) -> None:
    assert folder_meant(["INBOX", "Sent", "Archive/2026", "Entwürfe", "Work", "work", "*"], wanted) == meant


def test_two_folders_that_differ_by_case_are_both_named() -> None:
    error = refused(Refusal.AMBIGUOUS_FOLDER, lambda: folder_meant(["Work", "work", "Sent"], "WORK"))
    assert str(error) == "more than one folder may be meant by 'WORK'; name one of 'Work', 'work'"


def test_an_unknown_folder_names_the_nearest() -> None:
    error = refused(Refusal.NO_FOLDER, lambda: folder_meant(["INBOX", "Sent", "Archive/2026"], "Snet"))
    assert error.hint == "the nearest: 'Sent'"
    error = refused(Refusal.NO_FOLDER, lambda: folder_meant(["INBOX", "Sent"], "xyzzy"))
    assert error.hint == "the nearest: 'INBOX', 'Sent'"
    assert "no folder with a message" in refused(Refusal.NO_FOLDER, lambda: folder_meant([], "Sent")).hint


@given(st.text(max_size=300))
def test_a_folder_on_disk_never_leads_out_of_its_maildir(folder: str) -> None:
    name = folder_on_disk(folder)
    assert "/" not in name and "\0" not in name and name not in (".", "..")
    assert name == "" or name.startswith(".")


# headers


@pytest.mark.parametrize(
    ("octets", "message_id", "sender"),
    [
        (b"Message-ID: <1@e>\r\nFrom: Anna <a@e>\r\n\r\nFrom: body\r\n", "1@e", "Anna <a@e>"),
        (b"from:\n a@e\nMESSAGE-ID:\n <1@e>\n\nx", "1@e", "a@e"),
        (b"From: =?utf-8?q?J=C3=BCrgen?= <j@e>\n\n", "", "Jürgen <j@e>"),
        ("From: Jürgen <j@e>\n\n".encode(), "", "Jürgen <j@e>"),
        (b"From: =?no-such-charset?q?x?= <j@e>\n\n", "", "=?no-such-charset?q?x?= <j@e>"),
        (b"From: =?utf-8?b?x?= <j@e>\n\n", "", None),
        (b"Subject: x\n\nMessage-ID: <in@body>\n", "", ""),
        (b"Message-ID: <1@e>\nMessage-ID: <2@e>\n\n", "1@e", ""),
    ],
)
def test_header_fields(octets: bytes, message_id: str, sender: str | None) -> None:
    found = read_header(octets)
    assert found.readable and found.message_id == message_id
    assert sender is None or found.sender == sender


@given(st.binary(max_size=400))
def test_no_octets_break_the_reading_of_a_header(octets: bytes) -> None:
    assert isinstance(read_header(octets).message_id, str)
    assert isinstance(read_header(b"From: " + octets).sender, str)


def test_what_is_no_header_is_said_to_be_none() -> None:
    assert not read_header(b"CRYPTED\x03\x07\x00\x00\xff\xfe").readable
    assert not read_header(b"").readable


@pytest.mark.parametrize(
    ("wish", "fit"),
    [
        (Wish(ANNA, AT, message_id="1@e"), True),
        (Wish(ANNA, AT, message_id=" <1@e> "), True),
        (Wish(ANNA, AT, message_id="1@E"), False),
        (Wish(ANNA, AT, sender="ANNA"), True),
        (Wish(ANNA, AT, sender="bob"), False),
        (Wish(ANNA, AT, sender="a@e", message_id="2@e"), False),
        (Wish(ANNA, AT), True),
    ],
)
def test_what_fits_a_wish(wish: Wish, fit: bool) -> None:
    assert fits(read_header(b"Message-ID: <1@e>\nFrom: Anna <a@e>\n\n"), wish) is fit


# what is there already


def test_what_is_there_is_told_by_folder_and_base_name() -> None:
    given = [message("Sent", "1.a:2,S"), message("Sent", "2.b:2,"), message("INBOX", "1.a:2,")]
    found = divided(given, {"Sent": {"1.a"}, "Drafts": {"2.b"}})
    assert found.already == (given[0],)
    assert found.missing == (given[1], given[2])


def test_a_guid_kept_as_a_digest_is_known() -> None:
    assert held(message(name="1.a:2,S"), {hashlib.sha1(b"1.a").hexdigest()[:32]})
    assert not held(message(name="1.a:2,S"), {"1.b"})
    assert held(message(name="0123456789abcdef0123456789abcdef:2,"), {"0123456789abcdef0123456789abcdef"})


def test_the_size_that_counts_for_a_quota() -> None:
    assert message(name="1.a,S=100,W=112:2,", size=100).counted == 112
    assert message(name="1.a,S=3000:2,", size=3000).counted == 3100


# wishes


@pytest.mark.parametrize(
    "wish",
    [
        Wish("anna", AT),
        Wish("@example.com", AT),
        Wish("anna@", AT),
        Wish("-A@example.com", AT),
        Wish("anna\n@example.com", AT),
        Wish(ANNA, AT, target="nobody"),
        Wish(ANNA, AT, target="*@example.com"),
        Wish("a?na@example.com", AT),
        Wish(ANNA, AT, into=Into.FOLDER),
        Wish(ANNA, AT, into=Into.ARCHIVE, target="relative.zip"),
        Wish(ANNA, AT, since_ms=5, until_ms=5),
    ],
)
def test_wishes_that_make_no_sense(wish: Wish) -> None:
    assert refused(Refusal.WISH, lambda: check(wish)).message


@pytest.mark.parametrize(
    ("wish", "whole"),
    [
        (Wish(ANNA, AT), True),
        (Wish(ANNA, AT, folder="Sent"), False),
        (Wish(ANNA, AT, since_ms=0), False),
        (Wish(ANNA, AT, sender="x"), False),
    ],
)
def test_a_whole_mailbox(wish: Wish, whole: bool) -> None:
    check(wish)
    assert wish.whole is whole


def test_where_a_mailbox_may_be() -> None:
    assert maildirs_of(LAYOUT, ANNA) == (MAILDIR,)
    assert maildirs_of(LAYOUT, "Anna@example.com") == ("/srv/vmail/example.com/Anna/Maildir", MAILDIR)
    for address in ("../x@example.com", "..@example.com", "anna@.."):
        refused(Refusal.WISH, lambda address=address: maildirs_of(LAYOUT, address))  # type: ignore[misc]
