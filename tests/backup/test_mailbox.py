"""Mailboxes brought back by the real restic into folders and archives; into a live Dovecot: tests/servers."""

import asyncio
import csv
import io
import logging
import os
import shutil
import stat
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mailboxes import BODY, RECEIVED_S, Store, fill, make_store, open_vault
from plans import make_plan

from smartmail.backup import mailbox as engine
from smartmail.backup.mailbox import Counts, Found, Step, find, restore
from smartmail.backup.mailbox_files import Maker, Restored, Room
from smartmail.backup.process import Patience
from smartmail.backup.restic import Listener, Run
from smartmail.backup.vault import Vault
from smartmail.core.erasure import Tombstone
from smartmail.core.mailbox_restore import Into, Message, Refusal, RestoreError, Wish
from smartmail.core.points import PointNotFound
from smartmail.core.restic import Command
from smartmail.core.restic_version import Kind, Outcome

pytestmark = pytest.mark.servers
ANNA, BOB = "anna@example.com", "bob@example.com"
STAR = "*@example.com"
LEADING = ".-x *[a-z] ?"
FOLDERS = {".Sent": "Sent", ".Work": "Work", ".work": "work", LEADING: "-x *[a-z] ?", ".Entw&APw-rfe": "Entwürfe"}


@dataclass
class Kept:
    """What was backed up: a first run of two snapshots and a second run, with the times of their ends."""

    folder: Path
    first_ms: int
    second_ms: int


async def _back_up(folder: Path) -> Kept:
    store = await make_store(folder)
    anna, bob, star = (store.maildir(one) for one in (ANNA, BOB, STAR))
    inbox = fill(anna, "", 4, flags="")
    for name in FOLDERS:
        fill(anna, name, 2)
    (anna / ".Sent" / "dovecot-keywords").write_text("0 $Label1\n")
    (anna / "dovecot-uidlist").write_text("3 V1 N9 Gabc\n")
    (anna / "subscriptions").write_text("Sent\n")
    keyword = anna / ".Sent/cur"
    for one in keyword.iterdir():
        one.rename(one.with_name(one.name + "a"))
    fill(bob, "", 3)
    fill(star, "", 1, first=7)
    await store.back_up("r1")
    # Between the two members: one is marked read, one comes, one goes.
    inbox[0].rename(inbox[0].with_name(inbox[0].name + "FS"))
    inbox[1].unlink()
    fill(anna, "", 1, first=9)
    first = await store.back_up("r1", anna / "cur")
    shutil.rmtree(anna / ".Work")
    second = await store.back_up("r2")
    return Kept(folder, first.time_ms, second.time_ms)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Made once: nothing here changes it."""
    return asyncio.run(_back_up(tmp_path_factory.mktemp("kept")))


class Counting(Vault):
    """Counts what is asked of restic."""

    def __init__(self, vault: Vault) -> None:
        super().__init__(vault.plan, vault.restic)
        self.asked: list[Kind] = []

    async def run(
        self,
        command: Command,
        patience: Patience | None = None,
        listener: Listener | None = None,
        stdin: int | None = None,
    ) -> Run:
        """As the real one."""
        self.asked.append(command.kind)
        return await super().run(command, patience, listener, stdin)


@pytest.fixture
async def store(kept: Kept, tmp_path: Path) -> Store:
    """The repository, with a state folder of this test's own."""
    plan = make_plan(kept.folder)
    vault = await open_vault(plan)
    return Store(replace(plan, folder=str(tmp_path / "state")), Counting(vault), kept.folder / "vmail")


async def refused(reason: Refusal, store: Store, wish: Wish, **named: object) -> RestoreError:
    with pytest.raises(RestoreError) as error:
        found = await find(store.vault, store.plan, wish, **named)  # type: ignore[arg-type]
        await restore(store.vault, store.plan, found)
    assert error.value.reason is reason, error.value
    return error.value


def leftovers(store: Store) -> list[str]:
    """What restores have left in the state folder, but for their locks."""
    return [one.name for one in (Path(store.plan.folder) / "restores").iterdir() if one.suffix != ".lock"]


def in_maildir(maildir: Path) -> dict[str, str]:
    """Messages by folder and number: their flags. Each once, or it fails."""
    found: dict[str, str] = {}
    for file in (one for one in maildir.rglob("*") if one.is_file() and one.parent.name in ("cur", "new")):
        folder = "" if file.parent.parent == maildir else file.parent.parent.name
        number = file.name.partition(".M")[2].partition("P")[0]
        key = f"{folder}/{number}"
        assert key not in found
        assert file.stat().st_mtime == RECEIVED_S + 3600 * int(number)
        assert BODY in file.read_text()
        found[key] = file.name.rpartition(",")[2]
    return found


WHOLE_FIRST = {
    "/0": "FS",
    "/1": "",
    "/2": "",
    "/3": "",
    "/9": "S",
    **{f"{name}/{number}": "Sa" if name == ".Sent" else "S" for name in FOLDERS for number in (0, 1)},
}


async def test_a_whole_mailbox_into_a_folder_and_again(
    store: Store, kept: Kept, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    target = tmp_path / "back"
    wish = Wish(ANNA, kept.first_ms, into=Into.FOLDER, target=str(target))
    found = await find(store.vault, store.plan, wish)
    assert (found.job, found.run, len(found.snapshots), found.partial) == ("mail", "r1", 2, False)
    assert {one.folder: one.messages for one in found.folders} == {"INBOX": 5, **dict.fromkeys(FOLDERS.values(), 2)}

    dry = await restore(store.vault, store.plan, found, dry_run=True)
    assert (dry.dry, dry.added, dry.counts.found, dry.counts.adding) == (True, 0, 15, 15)
    assert not target.exists() and not Path(store.plan.folder).exists()

    heard: list[Counts] = []
    steps: list[tuple[Step, int, int]] = []
    done = await restore(store.vault, store.plan, found, told=heard.append, progress=lambda *step: steps.append(step))
    assert (done.added, done.lost, done.where) == (15, 0, str(target))
    assert heard == [done.counts] and steps[-1] == (Step.ADDING, 15, 15)
    assert in_maildir(target) == WHOLE_FIRST
    assert (target / "dovecot-uidlist").read_text() == "3 V1 N9 Gabc\n"
    assert (target / "subscriptions").read_text() == "Sent\n"
    assert (target / ".Sent/dovecot-keywords").read_text() == "0 $Label1\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o700

    again = await restore(store.vault, store.plan, found)
    assert (again.added, again.counts.already, again.counts.adding) == (0, 15, 0)
    assert in_maildir(target) == WHOLE_FIRST
    assert leftovers(store) == []
    vault = store.vault
    assert isinstance(vault, Counting)
    assert vault.asked == [Kind.SNAPSHOTS, Kind.LS, Kind.LS, Kind.RESTORE, Kind.RESTORE]
    assert BODY not in caplog.text


@pytest.mark.parametrize("reached", [0, 1, 9, 14])
async def test_killed_between_two_messages_and_repeated_brings_each_once(
    store: Store, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: int
) -> None:
    target = tmp_path / "back"
    found = await find(store.vault, store.plan, Wish(ANNA, kept.first_ms, into=Into.FOLDER, target=str(target)))

    class Killed(BaseException):
        """Nothing after it is done."""

    put = Maker._put
    done = 0

    def until(self: Maker, file: Path, passing: Path, place: Path) -> None:
        nonlocal done
        if done == reached:
            # In the midst of a copy: half a message is on its way.
            passing.parent.mkdir(exist_ok=True)
            passing.write_bytes(file.read_bytes()[:20])
            raise Killed
        done += 1
        put(self, file, passing, place)

    with monkeypatch.context() as patched:
        patched.setattr(Maker, "_put", until)
        # As the kernel does it: the lock goes, the files stay.
        patched.setattr(Room, "close", lambda self: os.close(self._lock))
        with pytest.raises(Killed):
            await restore(store.vault, store.plan, found)
    assert leftovers(store)
    again = await restore(store.vault, store.plan, found)
    assert again.counts.already == reached and again.added == 15 - reached
    assert in_maildir(target) == WHOLE_FIRST


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(ANNA, 0, folder="-x *[a-z] ?"), {f"{LEADING}/0", f"{LEADING}/1"}),
        (Wish(ANNA, 0, folder="entwürfe"), {".Entw&APw-rfe/0", ".Entw&APw-rfe/1"}),
        (Wish(ANNA, 0, folder="Work", message_id="<1@example.org>"), {".Work/1"}),
        (Wish(ANNA, 0, folder="INBOX", sender="A9@EXAMPLE"), {"/9"}),
        (
            Wish(ANNA, 0, folder="inbox", since_ms=(RECEIVED_S + 3600) * 1000, until_ms=(RECEIVED_S + 10_800) * 1000),
            {"/1", "/2"},
        ),
        (Wish(STAR, 0), {"/7"}),
        (Wish("Anna@Example.com", 0, message_id="3@example.org"), {"/3"}),
    ],
)
async def test_what_is_chosen(store: Store, kept: Kept, tmp_path: Path, wish: Wish, expected: set[str]) -> None:
    target = tmp_path / "back"
    wish = replace(wish, at_ms=kept.first_ms, into=Into.FOLDER, target=str(target))
    done = await restore(store.vault, store.plan, await find(store.vault, store.plan, wish))
    assert set(in_maildir(target)) == expected
    assert done.added == len(expected) == done.counts.found
    if not wish.whole:
        assert not (target / "dovecot-uidlist").exists()


async def test_many_messages_are_asked_for_by_folder(
    store: Store, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "FEW", 1)
    target = tmp_path / "back"
    wish = Wish(ANNA, kept.first_ms, LEADING[1:], into=Into.FOLDER, target=str(target))
    await restore(store.vault, store.plan, await find(store.vault, store.plan, wish))
    assert set(in_maildir(target)) == {f"{LEADING}/0", f"{LEADING}/1"}


async def test_nothing_that_fits_is_no_error(store: Store, kept: Kept, tmp_path: Path) -> None:
    wish = Wish(ANNA, kept.second_ms, message_id="none@example.org", into=Into.FOLDER, target=str(tmp_path / "back"))
    found = await find(store.vault, store.plan, wish)
    done = await restore(store.vault, store.plan, found, dry_run=True)
    assert (done.counts.found, done.added) == (0, 0)
    assert not (tmp_path / "back").exists()
    assert leftovers(store) == []


async def test_errors_name_the_nearest(store: Store, kept: Kept, tmp_path: Path) -> None:
    with pytest.raises(PointNotFound) as early:
        await find(store.vault, store.plan, Wish(ANNA, 1000))
    assert "the first is" in early.value.hint and "r1" in early.value.hint
    error = await refused(Refusal.NO_MAILBOX, store, Wish("ana@example.com", kept.first_ms))
    assert error.hint.startswith("the nearest: anna@example.com")
    error = await refused(Refusal.NO_FOLDER, store, Wish(ANNA, kept.second_ms, "Snet"))
    assert "'Sent'" in error.hint
    error = await refused(Refusal.AMBIGUOUS_FOLDER, store, Wish(ANNA, kept.first_ms, "WORK"))
    assert error.hint == "name one of 'Work', 'work'"
    await refused(Refusal.WISH, store, Wish("../etc@example.com", kept.first_ms))
    with pytest.raises(RestoreError) as none:
        await find(store.vault, replace(store.plan, jobs=()), Wish(ANNA, kept.first_ms))
    assert none.value.reason is Refusal.NO_JOB


async def test_who_was_erased_is_not_brought_back(store: Store, kept: Kept) -> None:
    stone = Tombstone(1, ANNA, "asked for it", "dpo", kept.second_ms + 1, None)
    for one in (stone, replace(stone, subject="@example.com")):
        error = await refused(Refusal.ERASED, store, Wish(ANNA, kept.second_ms), tombstones=(one,))
        assert "asked for it" in error.message
    before = replace(stone, at_ms=kept.first_ms - 60_000)
    assert (await find(store.vault, store.plan, Wish(ANNA, kept.second_ms), tombstones=(before,))).messages


async def test_an_archive_and_again(store: Store, kept: Kept, tmp_path: Path) -> None:
    target = tmp_path / "anna.zip"
    wish = Wish(ANNA, kept.first_ms, into=Into.ARCHIVE, target=str(target))
    found = await find(store.vault, store.plan, wish)
    done = await restore(store.vault, store.plan, found)
    assert done.added == 15 and stat.S_IMODE(target.stat().st_mode) == 0o600
    with zipfile.ZipFile(target) as packed:
        assert packed.testzip() is None
        rows = list(csv.DictReader(io.TextIOWrapper(packed.open("index.csv"), "utf-8")))
        assert {one["folder"] for one in rows} == {"INBOX", "'-x *[a-z] ?", *FOLDERS.values()} - {"-x *[a-z] ?"}
        for one in rows:
            assert ".." not in one["file"] and not one["file"].startswith(("/", "-"))
            octets = packed.read(one["file"])
            assert len(octets) == int(one["octets"]) and BODY.encode() in octets
        (first,) = [one for one in rows if one["folder"] == "INBOX" and ".M0P" in one["name"]]
        assert (first["flags"], first["received"]) == ("Flagged Seen", "2026-09-21T14:13:20Z")
        assert {one["flags"] for one in rows if one["folder"] == "Sent"} == {"Seen $Label1"}
    octets = target.read_bytes()
    again = await restore(store.vault, store.plan, found)
    assert (again.added, again.counts.already) == (0, 15) and target.read_bytes() == octets
    await refused(Refusal.TARGET, store, replace(wish, address=BOB))
    other = tmp_path / "other.zip"
    other.write_text("no zip")
    await refused(Refusal.TARGET, store, replace(wish, target=str(other)))
    assert other.read_text() == "no zip"


async def test_targets_that_are_something_else(store: Store, kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    wish = Wish(BOB, kept.second_ms, into=Into.FOLDER)
    found = await find(store.vault, store.plan, replace(wish, target=str(tmp_path / "new")))
    live = store.maildir(BOB)
    for target in (tmp_path / "file", tmp_path / "full", tmp_path / "link", live):
        with pytest.raises(RestoreError) as error:
            await restore(store.vault, store.plan, replace(found, wish=replace(wish, target=str(target))))
        assert error.value.reason is Refusal.TARGET
    assert "live mailbox" in error.value.message


async def test_two_restores_of_the_same_at_once(store: Store, kept: Kept, tmp_path: Path) -> None:
    wish = Wish(BOB, kept.second_ms, into=Into.FOLDER, target=str(tmp_path / "new"))
    found = await find(store.vault, store.plan, wish)
    room = Room.open(Path(store.plan.folder), f"folder:{tmp_path / 'new'}")
    with pytest.raises(RestoreError) as error:
        await restore(store.vault, store.plan, found)
    assert error.value.reason is Refusal.BUSY
    room.close()
    assert (await restore(store.vault, store.plan, found)).added == 3


async def test_no_room_is_said_before_anything_comes(
    store: Store, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = Wish(BOB, kept.second_ms, into=Into.FOLDER, target=str(tmp_path / "new"))
    found = await find(store.vault, store.plan, wish)
    monkeypatch.setattr("smartmail.backup.mailbox_files._FREE", 1 << 60)
    with pytest.raises(RestoreError) as error:
        await restore(store.vault, store.plan, found)
    assert error.value.reason is Refusal.NO_ROOM and not (tmp_path / "new").exists()


async def test_a_message_that_does_not_come_back_is_lost_and_the_others_come(
    store: Store, kept: Kept, tmp_path: Path
) -> None:
    wish = Wish(BOB, kept.second_ms, into=Into.FOLDER, target=str(tmp_path / "new"))
    found = await find(store.vault, store.plan, wish)
    wrong: tuple[Message, ...] = (found.messages[0]._replace(size=1), *found.messages[1:])
    damaged: Found = replace(found, messages=wrong)
    done = await restore(store.vault, store.plan, damaged)
    assert (done.added, done.lost) == (2, 1)
    with pytest.raises(RestoreError) as error:
        await restore(store.vault, store.plan, replace(found, messages=wrong[:1]))
    assert error.value.reason is Refusal.INCOMPLETE


async def test_of_a_damaged_repository_comes_what_is_whole(
    store: Store, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As restic 0.14 does it when a pack is gone: 45 s of retries, the files left out, exit 1."""
    found = await find(store.vault, store.plan, Wish(BOB, kept.second_ms, into=Into.FOLDER, target=f"{tmp_path}/new"))
    real = Vault.run

    async def damaged(self: Vault, command: Command, *more: object) -> Run:
        run = await real(self, command, *more)  # type: ignore[arg-type]
        target = next(one for one in command.argv if one.startswith("--target=")).removeprefix("--target=")
        min(Path(target).rglob("*S=*")).unlink()
        return replace(run, outcome=Outcome.DAMAGED, stderr=("Fatal: There were 1 errors",))

    monkeypatch.setattr(Counting, "run", damaged)
    done = await restore(store.vault, store.plan, found)
    assert (done.added, done.lost) == (2, 1)
    assert "damaged: Fatal: There were 1 errors" in done.words


def test_a_link_that_came_back_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    home = tmp_path / "0/m/cur"
    home.mkdir(parents=True)
    (home / "1.a:2,").symlink_to(secret)
    (tmp_path / "0/m/dovecot-keywords").symlink_to(secret)
    (home / "2.b:2,").write_text("x")
    message = Message(0, "INBOX", "/m", "cur/1.a:2,", len("secret"), 0)
    whole, lost = engine.came_back([message, message._replace(place="cur/2.b:2,", size=1)], {0: tmp_path / "0"})
    assert lost == [message]
    Maker(tmp_path / "new", None, lambda done: None).fill([Restored(*one) for one in whole])
    assert sorted(one.name for one in (tmp_path / "new").rglob("*") if not one.is_dir()) == ["2.b:2,"]
