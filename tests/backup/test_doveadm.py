"""doveadm's command lines and answers; doveadm itself is run by tests/servers."""

from pathlib import Path

import pytest

from smartmail.backup.doveadm import (
    Account,
    Doveadm,
    Namespace,
    Quota,
    by_folder_below,
    guids_argv,
    import_argv,
    quota_argv,
    read_account,
    read_guids,
    read_namespace,
    read_quota,
    too_much,
    user_argv,
)
from smartmail.core.mailbox_restore import Refusal, RestoreError

ANNA = "anna@example.com"
NAMESPACES = """namespace inbox {
  inbox = yes
  prefix = INBOX.
  separator = .
  type = private
}
namespace {
  inbox = no
  prefix = shared/
  separator = /
  type = shared
}
"""


def test_command_lines() -> None:
    assert user_argv(ANNA) == ("user", "--", ANNA)
    assert quota_argv(ANNA) == ("-f", "json", "quota", "get", "-u", ANNA)
    assert guids_argv(ANNA)[-2:] == ("mailbox guid", "ALL")
    assert guids_argv(ANNA, "-Restored")[-3:] == ("mailbox guid", "mailbox", "-Restored*")
    argv = import_argv(ANNA, "/s/m x", "-Restored")
    assert argv[-4:] == ("--", "maildir:/s/m x:LAYOUT=maildir++:INDEX=MEMORY", "-Restored", "ALL")
    for path in ("/a:INDEX=/etc", "relative"):
        with pytest.raises(ValueError, match="cannot be told"):
            import_argv(ANNA, path, "Restored")


@pytest.mark.parametrize(
    ("text", "account"),
    [
        ("field\tvalue\nuid\t8\ngid\t9\nhome\t/h\n", Account(8, 9, "/h")),
        ("field\tvalue\nuid\t8\ngid\t9\n", Account(8, 9, "")),
        ("field\tvalue\ngid\t9\n", None),
        ("anna@example.com\n", None),
        ("uid\t-1\ngid\t9\n", None),
        ("", None),
    ],
)
def test_accounts(text: str, account: Account | None) -> None:
    assert read_account(text) == account


@pytest.mark.parametrize(
    ("text", "namespace"),
    [
        (NAMESPACES, Namespace("INBOX.", ".")),
        (NAMESPACES.replace("inbox = yes", "inbox = no"), Namespace()),
        ('namespace inbox {\n  inbox = yes\n  prefix = "a b/"\n  separator = /\n}\n', Namespace("a b/", "/")),
        ("namespace inbox {\n  inbox = yes\n  prefix = \n  separator = \n}\n", Namespace()),
        ("nothing", Namespace()),
    ],
)
def test_namespaces(text: str, namespace: Namespace) -> None:
    assert read_namespace(text) == namespace


def test_quotas_without_a_limit_are_none() -> None:
    rows = (
        '[{"root":"User","type":"STORAGE","value":"6","limit":"10","percent":"0"},'
        '{"root":"User","type":"MESSAGE","value":"40","limit":"-","percent":"0"}]'
    )
    storage = Quota("User", "STORAGE", 6, 10)
    assert read_quota(rows) == (storage,)
    assert too_much((storage,), 1, 4096) is None
    assert too_much((storage,), 1, 4097) == storage
    assert too_much((), 10**9, 10**15) is None
    message = Quota("User", "MESSAGE", 3, 4)
    assert too_much((message,), 1, 0) is None and too_much((message,), 2, 0) == message


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]"])
def test_no_messages(text: str) -> None:
    assert read_guids(text) == {}


def test_an_answer_that_is_no_json_is_the_mail_servers_fault() -> None:
    with pytest.raises(RestoreError) as error:
        read_guids("[{")
    assert error.value.reason is Refusal.MAIL_SERVER


@pytest.mark.parametrize(
    ("mailbox", "separator", "folder"),
    [
        ("R 1/Archive/2026", "/", "Archive/2026"),
        ("R 1.Archive.2026", ".", "Archive/2026"),
        ("R 1.Archive.2026", "", "Archive/2026"),
        ("R 1/a.b", "/", "a.b"),
        ("R 10/Sent", "/", None),
        ("R 1", "/", None),
        ("INBOX", "/", None),
    ],
)
def test_folders_below_a_parent(mailbox: str, separator: str, folder: str | None) -> None:
    assert by_folder_below({mailbox: {"g"}}, "R 1", separator) == ({} if folder is None else {folder: {"g"}})


async def test_control_characters_of_a_log_line_are_not_shown(tmp_path: Path) -> None:
    script = tmp_path / "doveadm"
    script.write_text("#!/bin/sh\nprintf 'doveadm(x)<1><y>: Error: \\033[31mred' >&2\nexit 75\n")
    script.chmod(0o755)
    with pytest.raises(RestoreError) as error:
        await Doveadm(str(script)).guids(ANNA)
    assert "Error: ?[31mred" in error.value.message
