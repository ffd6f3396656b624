"""Mailboxes brought back into a live Dovecot of their own, from a repository of the real restic."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.mailservers import DOVECOT_CONF, MAIL_UID
from support.processes import Process, answers, eventually, free_port, need, run, short_directory

sys.path.insert(0, str(Path(__file__).parents[1] / "backup"))
from mailboxes import RECEIVED_S, Store, fill, make_store, open_vault
from plans import make_plan

from smartmail.backup import doveadm
from smartmail.backup.mailbox import Counts, find, restore
from smartmail.core.backup_plan import BackupPlan
from smartmail.core.mailbox_place import Layout
from smartmail.core.mailbox_restore import Into, Refusal, RestoreError, Wish

ANNA, SMALL, FULL = "anna@example.com", "small@example.com", "full@example.com"
MDBOX, NOBODY = "mdbox@example.com", "gone@example.com"
HOSTILE = "a b$(id)[x];&|@example.com"
ODD = "odd@example.com"
ODD_FOLDERS = (
    *(
        ".a\nb",
        ".~x",
        ".&bogus",
        ".Entw&APw",
        ".x%y*",
        ".Sent Items ",
        ".INBOX",
        ".inbox",
        ".a..b",
        ".a&AC8-b",
        ".x\ty",
    ),
    *(".Entwürfe", ".Entw&APw-rfe", ". lead", ".-", ".!x", ".#x", '.q"\\z', ".very" + "long" * 55, ".INBOX.Sub"),
)
LEADING, UMLAUT = ".-x *[a-z] ?", ".Entw&APw-rfe"
FOLDERS = {"": "INBOX", ".Sent": "Sent", ".Archive.2026": "Archive/2026", LEADING: "-x *[a-z] ?", UMLAUT: "Entwürfe"}
USERS = {ANNA: "", SMALL: "userdb_quota_rule=*:storage=1K", FULL: "userdb_quota_rule=*:messages=3", HOSTILE: ""}
STYLES = {
    "plain": "namespace inbox {\n  separator = .\n}\n",
    "prefix": "namespace inbox {\n  prefix = INBOX.\n  separator = .\n}\n",
    "slash": "namespace inbox {\n  separator = /\n}\n",
    "unsaid": "",
}
MORE = """
auth_username_chars =
mail_plugins = quota
plugin {
  quota = count:User quota
  quota_vsizes = yes
  quota_rule = *:storage=100M
}
service stats {
  chroot =
}
"""


@dataclass
class Live:
    """A Dovecot, what is backed up of its mailboxes, and doveadm as a command of its own."""

    directory: Path
    store: Store
    made_ms: int

    @property
    def doveadm(self) -> str:
        """The plain style's."""
        return str(self.directory / "doveadm-plain")

    def ask(self, *arguments: str, style: str = "plain") -> str:
        """What doveadm says."""
        return run([str(self.directory / f"doveadm-{style}"), *arguments]).stdout

    def messages(self, address: str, below: str, style: str = "plain") -> dict[str, list[str]]:
        """(mailbox, Message-ID) below a name -> flags and time of reception. Each once, or it fails."""
        fields = "mailbox hdr.message-id flags date.received.unixtime"
        out = self.ask("-f", "json", "fetch", "-u", address, "--", fields, "mailbox", f"{below}*", style=style)
        found: dict[str, list[str]] = {}
        for row in json.loads(out):
            key = f"{row['mailbox']} {row['hdr.message-id'].strip()}"
            assert key not in found, key
            found[key] = [*sorted(set(row["flags"].split()) - {"\\Recent"}), row["date.received.unixtime"]]
        return found


def wrapper(file: Path, body: str) -> str:
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)


@contextmanager
def dovecot(directory: Path) -> Iterator[None]:
    """One server; doveadm in several styles of namespaces beside it."""
    for name in ("run", "mail"):
        (directory / name).mkdir(mode=0o755)
    os.chown(directory / "mail", MAIL_UID, MAIL_UID)
    users = "".join(f"{user}:{{PLAIN}}secret::::::{extra}\n" for user, extra in USERS.items())
    users += f"{MDBOX}:{{PLAIN}}secret::::::userdb_mail=mdbox:~/mdbox\n"
    (directory / "users").write_text(users)
    port = free_port()
    common = DOVECOT_CONF.format(directory=directory, uid=MAIL_UID, imap_port=port).lstrip()
    for name, text in STYLES.items():
        (directory / f"{name}.conf").write_text(common + MORE + text)
        wrapper(directory / f"doveadm-{name}", f'exec doveadm -c {directory}/{name}.conf "$@"')
    process = Process(["/usr/sbin/dovecot", "-F", "-c", str(directory / "plain.conf")], directory / "output")
    try:
        eventually(answers(port, process.popen), "Dovecot's IMAP")
        yield
    finally:
        process.stop()


async def backed_up(directory: Path) -> tuple[Store, int]:
    plan = make_plan(directory)
    vmail = directory / "mail"
    job = replace(plan.jobs[0], paths=(str(vmail),), layout=Layout(f"{vmail}/{{domain}}/{{local}}/Maildir"))
    plan = replace(plan, jobs=(job,), doveadm=str(directory / "doveadm-plain"))
    store = await make_store(directory, plan, vmail)
    for address in (*USERS, MDBOX, NOBODY, ODD):
        maildir = store.maildir(address)
        inbox = fill(maildir, "", 4, flags="")
        inbox[0].rename(inbox[0].with_name(inbox[0].name + "FRa"))
        (maildir / "dovecot-keywords").write_text("0 $Label1\n")
        for folder in FOLDERS if address in (ANNA, MDBOX) else ():
            if folder:
                fill(maildir, folder, 2)
    for number, folder in enumerate(ODD_FOLDERS):
        fill(store.maildir(ODD), folder, 1, first=number)
    run(["chown", "-R", f"{MAIL_UID}:{MAIL_UID}", str(vmail)])
    made = await store.back_up("r1")
    return store, made.time_ms


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """Made once; each test restores another mailbox, or empties what it restored."""
    need("dovecot", "doveadm", "restic")
    with short_directory("restore") as directory, dovecot(directory):
        store, made_ms = asyncio.run(backed_up(directory))
        yield Live(directory, store, made_ms)


@pytest.fixture
async def store(live: Live, tmp_path: Path) -> Store:
    """The repository in this test's loop. The state folder is closed to the mail user, as it is by default."""
    plan = replace(live.store.plan, folder=str(tmp_path / "state"))
    return Store(plan, await open_vault(plan), live.store.vmail)


@pytest.fixture
def temporary(live: Live, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is the system's folder for temporary files to these tests."""
    folder = live.directory / "temporary"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def label(live: Live, temporary: Path) -> Iterator[str]:
    """What a restore is put below; taken away again, and nothing else is to be left."""
    yield "Restored 2026-"
    for address in (ANNA, SMALL, FULL, HOSTILE, MDBOX):
        # As all styles see it, nothing may stay: those that are only parents cannot be deleted.
        for _ in range(2):
            for name in live.ask("mailbox", "list", "-u", address).splitlines():
                if "Restored " in name:
                    argv = [live.doveadm, "mailbox", "delete", "-s", "-r", "-u", address, "--", name]
                    subprocess.run(argv, check=False, capture_output=True)
        assert "Restored " not in live.ask("mailbox", "list", "-u", address)
    assert not any(temporary.iterdir())


def expected(parent: str, separator: str, folders: dict[str, str] | None = None) -> dict[str, list[str]]:
    found = {}
    for folder, name in (FOLDERS if folders is None else folders).items():
        for number in range(4 if folder == "" else 2):
            flags = [] if folder == "" else ["\\Seen"]
            if (folder, number) == ("", 0):
                flags = ["$Label1", "\\Answered", "\\Flagged"]
            place = f"{parent}{separator}{name.replace('/', separator)}"
            found[f"{place} <{number}@example.org>"] = [*flags, str(RECEIVED_S + 3600 * number)]
    return found


@pytest.mark.parametrize(
    ("style", "address"), [("plain", ANNA), ("prefix", ANNA), ("slash", ANNA), ("unsaid", ANNA), ("plain", MDBOX)]
)
async def test_a_mailbox_comes_back_live_and_only_once(
    live: Live, store: Store, label: str, style: str, address: str
) -> None:
    separator = "/" if style == "slash" else "."
    plan = replace(store.plan, doveadm=str(live.directory / f"doveadm-{style}"))
    before = live.messages(address, "INBOX", "plain")
    found = await find(store.vault, plan, Wish(address, live.made_ms))
    dry = await restore(store.vault, plan, found, dry_run=True)
    assert (dry.added, dry.counts.found, dry.counts.already, dry.counts.adding) == (0, 12, 0, 12)
    assert dry.counts.live == (0 if address == MDBOX else 12)
    assert not any("Restored" in one for one in live.ask("mailbox", "list", "-u", address).splitlines())
    assert not (Path(plan.folder) / "restores").exists()

    heard: list[Counts] = []
    done = await restore(store.vault, plan, found, told=heard.append)
    assert (done.added, done.lost) == (12, 0) and heard == [done.counts]
    prefix = "INBOX." if style == "prefix" else ""
    assert done.where == f"{prefix}{found.label}" and found.label.startswith(label)
    assert live.messages(address, done.where, style) == expected(done.where, separator)
    assert live.messages(address, "INBOX", "plain").keys() >= before.keys()
    subscribed = live.ask("mailbox", "list", "-s", "-u", address, style=style)
    assert f"{done.where}{separator}Sent" in subscribed.splitlines()
    home = live.directory / "mail" / "example.com" / address.partition("@")[0]
    assert {one.stat().st_uid for one in home.rglob("*")} == {MAIL_UID}

    again = await restore(store.vault, plan, found)
    assert (again.added, again.counts.already, again.counts.adding) == (0, 12, 0)
    one_more = await restore(store.vault, plan, replace(found, wish=replace(found.wish, message_id="1@example.org")))
    assert (one_more.added, one_more.counts.found, one_more.counts.already) == (0, 5, 5)
    assert live.messages(address, done.where, style) == expected(done.where, separator)


async def test_some_first_then_all(live: Live, store: Store, label: str) -> None:
    plan = store.plan
    some = await find(store.vault, plan, Wish(ANNA, live.made_ms, folder="inbox", message_id="<2@example.org>"))
    assert (await restore(store.vault, plan, some)).added == 1
    every = await find(store.vault, plan, Wish(ANNA, live.made_ms))
    done = await restore(store.vault, plan, every)
    assert (done.counts.already, done.added) == (1, 11)
    assert live.messages(ANNA, done.where) == expected(done.where, ".")


async def test_a_passable_state_folder_is_used_itself(live: Live, store: Store, label: str, temporary: Path) -> None:
    temporary.chmod(0)
    plan = replace(store.plan, folder=str(live.directory / "open"))
    Path(plan.folder).mkdir(mode=0o711)
    found = await find(store.vault, plan, Wish(ANNA, live.made_ms, folder="Sent"))
    assert (await restore(store.vault, plan, found)).added == 2


class Killed(BaseException):
    """Nothing after it is done."""


async def test_killed_between_messages_and_repeated_brings_each_once(
    live: Live, store: Store, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await find(store.vault, store.plan, Wish(ANNA, live.made_ms))
    whole = doveadm.Doveadm.bring

    async def part(self: doveadm.Doveadm, address: str, maildir: str, parent: str) -> doveadm.Answer:
        """One message of each folder comes, then all ends."""
        argv = doveadm.import_argv(address, maildir, parent)
        live.ask(*argv[:-1], "1:1")
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(doveadm.Doveadm, "bring", part)
        patched.setattr("smartmail.backup.mailbox_files.Room.close", lambda self: os.close(self._lock))
        with pytest.raises(Killed):
            await restore(store.vault, store.plan, found)
    assert doveadm.Doveadm.bring is whole
    assert len(live.messages(ANNA, found.label)) == 5
    done = await restore(store.vault, store.plan, found)
    assert (done.counts.already, done.added) == (5, 7)
    assert live.messages(ANNA, done.where) == expected(done.where, ".")


@pytest.mark.parametrize("after_s", ["0.005", "0.02", "0.04"])
async def test_a_doveadm_killed_at_any_time_is_said_and_repeated(
    live: Live, store: Store, label: str, after_s: str
) -> None:
    body = f'case "$1" in import) exec timeout -s KILL {after_s} {live.doveadm} "$@";; esac\nexec {live.doveadm} "$@"'
    cut = replace(store.plan, doveadm=wrapper(Path(store.plan.folder).parent / "cut", body))
    found = await find(store.vault, store.plan, Wish(ANNA, live.made_ms))
    came = 12
    try:
        came = (await restore(store.vault, cut, found)).added
    except RestoreError as error:
        assert error.reason is Refusal.MAIL_SERVER
        came = int(error.message.partition(" ")[0])
    done = await restore(store.vault, store.plan, found)
    assert (done.counts.already, done.added) == (came, 12 - came)
    assert live.messages(ANNA, done.where) == expected(done.where, ".")


@pytest.mark.parametrize(("address", "words"), [(SMALL, "of 1 KiB in use"), (FULL, "of 3 messages in use")])
async def test_over_quota_is_said_before_anything_comes(
    live: Live, store: Store, label: str, address: str, words: str
) -> None:
    found = await find(store.vault, store.plan, Wish(ANNA, live.made_ms, target=address))
    heard: list[Counts] = []
    with pytest.raises(RestoreError) as error:
        await restore(store.vault, store.plan, found, told=heard.append)
    assert error.value.reason is Refusal.OVER_QUOTA and words in error.value.message
    assert "12 messages" in error.value.message and "quota" in error.value.hint
    assert heard[0].adding == 12
    assert live.messages(address, "Restored") == {}


async def test_an_account_that_is_gone_can_be_brought_to_another(live: Live, store: Store, label: str) -> None:
    found = await find(store.vault, store.plan, Wish(NOBODY, live.made_ms))
    with pytest.raises(RestoreError) as error:
        await restore(store.vault, store.plan, found)
    assert error.value.reason is Refusal.NO_ACCOUNT and NOBODY in error.value.message
    found = await find(store.vault, store.plan, Wish(NOBODY, live.made_ms, target=HOSTILE))
    done = await restore(store.vault, store.plan, found)
    assert done.added == 4
    assert live.messages(HOSTILE, done.where) == expected(done.where, ".", {"": "INBOX"})


async def test_an_address_hostile_to_a_shell_and_to_patterns(live: Live, store: Store, label: str) -> None:
    found = await find(store.vault, store.plan, Wish(HOSTILE, live.made_ms))
    done = await restore(store.vault, store.plan, found)
    assert (done.counts.live, done.added) == (4, 4)


@pytest.mark.parametrize("style", ["plain", "slash"])
async def test_folders_that_no_server_would_make_come_back_too(
    live: Live, store: Store, label: str, style: str
) -> None:
    plan = replace(store.plan, doveadm=str(live.directory / f"doveadm-{style}"))
    found = await find(store.vault, plan, Wish(ODD, live.made_ms, target=ANNA))
    assert len(found.folders) == len(ODD_FOLDERS) + 1
    assert (await restore(store.vault, plan, found)).added == len(ODD_FOLDERS) + 4
    again = await restore(store.vault, plan, found)
    assert (again.added, again.counts.already) == (0, len(ODD_FOLDERS) + 4)


async def test_where_the_mail_user_cannot_come_to_it_says_so(
    live: Live, store: Store, temporary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = await find(store.vault, store.plan, Wish(ANNA, live.made_ms, folder="Sent"))
    with pytest.raises(RestoreError) as error:
        await restore(store.vault, store.plan, found)
    assert error.value.reason is Refusal.TARGET and "chmod o+x" in error.value.hint
    assert list(tmp_path.glob("smartmail-restore-*")) == []


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        ('case "$1" in import) exit 0;; esac\nexec {real} "$@"', Refusal.MAIL_SERVER, "0 of 2 messages came"),
        ('case "$1" in user) echo oops >&2; exit 75;; esac\nexec {real} "$@"', Refusal.MAIL_SERVER, "oops"),
        ('case "$3" in fetch) echo no json;; *) exec {real} "$@";; esac', Refusal.MAIL_SERVER, "cannot be read"),
    ],
)
async def test_a_doveadm_that_fails_is_told_in_words(
    live: Live, store: Store, label: str, tmp_path: Path, body: str, reason: Refusal, words: str
) -> None:
    plan = replace(store.plan, doveadm=wrapper(tmp_path / "bad", body.format(real=live.doveadm)))
    found = await find(store.vault, plan, Wish(ANNA, live.made_ms, folder="Sent"))
    with pytest.raises(RestoreError) as error:
        await restore(store.vault, plan, found)
    assert error.value.reason is reason and words in error.value.message
    assert live.messages(ANNA, "Restored") == {}


async def test_without_dovecot_it_says_what_to_do(live: Live, store: Store) -> None:
    plan: BackupPlan = replace(store.plan, doveadm="/nowhere/doveadm")
    found = await find(store.vault, plan, Wish(ANNA, live.made_ms))
    with pytest.raises(RestoreError) as error:
        await restore(store.vault, plan, found)
    assert error.value.reason is Refusal.MAIL_SERVER and "folder or an archive" in error.value.hint


async def test_what_came_into_a_folder_dovecot_opens_whole(live: Live, store: Store, tmp_path: Path) -> None:
    target = live.directory / "opened"
    found = await find(store.vault, store.plan, Wish(ANNA, live.made_ms, into=Into.FOLDER, target=str(target)))
    assert (await restore(store.vault, store.plan, found)).added == 12
    assert {one.stat().st_uid for one in (target, *target.rglob("*"))} == {MAIL_UID}
    there = ("-o", f"mail_location=maildir:{target}", "-o", "mail_plugins=")
    assert len(json.loads(live.ask(*there, "-f", "json", "fetch", "-u", ANNA, "--", "mailbox", "ALL"))) == 12
