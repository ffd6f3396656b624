"""The drill, with the real restic: what is whole is proved, and whatever is not is found and named."""

import asyncio
import hashlib
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
from plans import HOURLY, make_plan, make_repository, put_message
from weakkeys import make_cheap

from smartmail.backup import drill_files
from smartmail.backup.drill import Brought, drill, end_of_drill, read_manifests
from smartmail.backup.drill_files import DrillBusy, Scratch, load_sqlite, open_mailbox
from smartmail.backup.drill_key import KeyUnusable, drill_key, public_text, publish, sign, verify
from smartmail.backup.restic import Restic, Settings, find_restic
from smartmail.backup.vault import Vault, VaultError
from smartmail.core import restic as ask
from smartmail.core.backup_due import RunState
from smartmail.core.backup_plan import BackupPlan, JobKind, JobPlan
from smartmail.core.backup_record import Reason
from smartmail.core.canonical import canonical
from smartmail.core.drill_report import DrillReport, Fault, ReportError
from smartmail.core.mailbox_place import Layout
from smartmail.core.manifest import Entry, Listed, Manifest, SamplePlan, choose, totals_of
from smartmail.core.points import RestorePoint, restore_points

RUN = "20261124T020000Z-7f3a"
MADE_MS = 1_795_000_000_000


@dataclass
class World:
    """A night that went well: two jobs of one run, onsite and offsite."""

    folder: Path
    plan: BackupPlan
    restic: Restic
    point: RestorePoint
    manifests: tuple[Manifest, ...]

    def job(self, name: str) -> Manifest:
        return next(one for one in self.manifests if one.job == name)


def manifest_of(job: str, files: list[Path], layout: Layout | None, at_random: int) -> Manifest:
    listed = [Listed(str(one), one.stat().st_size, layout.address(str(one)) if layout else "") for one in files]
    chosen = choose(listed, "seed", SamplePlan(at_random, 2, 1))
    entries = tuple(
        Entry(one.path, one.size, hashlib.sha256(Path(one.path).read_bytes()).hexdigest()) for one in chosen
    )
    return Manifest(RUN, job, MADE_MS, "seed", entries, totals_of(listed) if layout else {})


def world_plan(folder: Path) -> BackupPlan:
    vmail = folder / "vmail"
    layout = Layout(f"{vmail}/{{domain}}/{{local}}/Maildir")
    jobs = (
        JobPlan("accounts", JobKind.SQLITE, "onsite", HOURLY, 0, (str(folder / "staging/accounts.sqlite"),)),
        JobPlan("mail", JobKind.MAILDIR, "onsite", HOURLY, 1, (str(vmail),), layout),
    )
    return make_plan(folder, jobs)


def fill(folder: Path) -> list[Path]:
    """Three mailboxes, one with a folder of a strange name, one message of some size."""
    vmail = folder / "vmail/example.net"
    files: list[Path] = []
    for local, number in (("anna", 12), ("bob[1]*", 4), ("carl", 1)):
        maildir = vmail / local / "Maildir"
        files += [put_message(maildir, one) for one in range(number)]
        files += [put_message(maildir, 100 + one, ".Sent", text="x" * 9_000) for one in range(2)]
        (maildir / "subscriptions").write_text("Sent\n")
    return files


def make_database(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE accounts (address TEXT PRIMARY KEY, customer TEXT)")
        connection.execute("CREATE TABLE aliases (alias TEXT)")
        connection.executemany(
            "INSERT INTO accounts VALUES (?, ?)",
            [(f"user{one}@example.net", f"customer {one}") for one in range(2_000)],
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("drill")
    yield asyncio.run(make_world(folder))


async def make_world(folder: Path) -> World:
    plan = world_plan(folder)
    layout = plan.job("mail").layout
    files = fill(folder)
    database = Path(plan.job("accounts").paths[0])
    make_database(database)
    tool = await find_restic(Settings(folder / "cache"))
    onsite, offsite = (Vault(plan.repository(one), tool) for one in ("onsite", "offsite"))
    await make_cheap(onsite)
    await make_cheap(offsite, onsite)
    for job in plan.jobs:
        wish = ask.Backup(plan.host, (f"job={job.name}", f"run={RUN}"), job.paths)
        await onsite.must(ask.backup(tool.known, onsite.at, wish))
    listed = await onsite.snapshots()
    await offsite.must(ask.copy(tool.known, onsite.at, offsite.at, [one.id for one in listed]))
    (point,) = restore_points({"onsite": listed, "offsite": await offsite.snapshots()})
    manifests = manifest_of("accounts", [database], None, 5), manifest_of("mail", files, layout, 6)
    return World(folder, plan, tool, point, manifests)


@pytest.fixture
async def world(made: World, tmp_path: Path) -> AsyncIterator[World]:
    """With an offsite repository of its own, to be damaged."""
    shutil.copytree(made.folder / "offsite", tmp_path / "offsite")
    offsite = make_repository(tmp_path, "offsite", "onsite", offsite=True)
    (tmp_path / "offsite.password").write_text("the password of offsite\n")
    repositories = (made.plan.repository("onsite"), offsite)
    plan = replace(made.plan, folder=str(tmp_path / "state"), repositories=repositories)
    yield replace(made, folder=tmp_path, plan=plan)
    # Whatever happened: nothing of anybody's mail is left.
    assert not (tmp_path / "state/scratch/drill").exists()


async def drilled(world: World, *manifests: Manifest) -> DrillReport:
    ticks = count(MADE_MS, 1_000)
    vault = Vault(world.plan.repository("offsite"), world.restic)
    brought = Brought(world.point, manifests or world.manifests, seed="fixed")
    return await drill(vault, world.plan, brought, lambda: next(ticks))


def faults(report: DrillReport) -> set[tuple[str, Fault]]:
    return {(one.job, one.fault) for one in report.findings}


async def test_what_is_whole_is_proved(world: World) -> None:
    report = await drilled(world)
    assert report.findings == () and report.proved
    accounts, mail = report.jobs
    assert (accounts.files, mail.files) == (1, len(world.job("mail").entries))
    assert mail.manifest == world.job("mail").digest() and mail.restore_ms > 0
    # Only what was asked for: not all of the seventeen and six messages came back.
    whole = report.mailboxes[0]
    assert whole.messages == whole.expected == world.job("mail").totals[whole.address].messages
    assert whole.folders == 2
    assert mail.restored_files <= mail.wanted + whole.messages + 1
    (dump,) = report.dumps
    assert (dump.tables, dump.rows) == (2, 2_000)
    end = end_of_drill(report)
    assert end.state is RunState.OK and end.facts["files"] == report.files
    assert (report.host, report.repository, report.offsite) == ("mx1.example.net", "offsite", True)
    assert report.took_ms == 1_000


def packs(world: World) -> list[Path]:
    return sorted((world.folder / "offsite/data").glob("*/*"), key=lambda one: one.stat().st_size)


@pytest.mark.parametrize("which", [0, -1], ids=["the smallest", "the greatest"])
async def test_a_flipped_byte_in_an_offsite_pack(world: World, which: int) -> None:
    pack = packs(world)[which]
    octets = bytearray(pack.read_bytes())
    octets[len(octets) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(octets)
    report = await drilled(world)
    assert not report.proved
    assert Fault.RESTORE_FAILED in {one.fault for one in report.findings}
    named = [one.where for one in report.findings if one.fault in (Fault.MISSING, Fault.SIZE, Fault.HASH, Fault.DUMP)]
    assert named, report.findings
    end = end_of_drill(report)
    assert (end.state, end.reason) == (RunState.FAILED, Reason.NOT_PROVED)


@pytest.mark.parametrize("which", [0, -1], ids=["the smallest", "the greatest"])
async def test_a_deleted_offsite_pack(world: World, which: int) -> None:
    pack = packs(world)[which]
    pack.unlink()
    report = await drilled(world)
    failed = [one for one in report.findings if one.fault is Fault.RESTORE_FAILED]
    assert not report.proved and failed
    assert any(pack.name[:8] in f"{one.where} {one.text}" for one in failed), failed


async def test_a_manifest_of_other_octets(world: World) -> None:
    mail = world.job("mail")
    wrong = replace(mail, entries=(mail.entries[0]._replace(sha256="0" * 64), *mail.entries[1:]))
    report = await drilled(world, world.job("accounts"), wrong)
    (finding,) = report.findings
    assert (finding.fault, finding.job, finding.where) == (Fault.HASH, "mail", mail.entries[0].path)
    assert not report.proved


async def test_a_manifest_of_another_run_and_none_at_all(world: World) -> None:
    report = await drilled(world, replace(world.job("mail"), run="20200101T000000Z-0000"))
    found = faults(report)
    assert {("mail", Fault.WRONG_MANIFEST), ("accounts", Fault.NO_MANIFEST)} <= found
    assert not report.proved and report.files == 0


async def test_an_empty_restore(world: World) -> None:
    """restic calls it a success when its patterns match nothing."""
    elsewhere = tuple(Entry(f"/nowhere{one.path}", one.size, one.sha256) for one in world.job("mail").entries)
    empty = replace(world.job("mail"), entries=elsewhere, totals={})
    report = await drilled(replace(world, plan=replace_mailboxes(world.plan, 0)), world.job("accounts"), empty)
    assert faults(report) == {("mail", Fault.NOTHING_RESTORED), ("mail", Fault.MISSING)}
    assert not report.proved


def replace_mailboxes(plan: BackupPlan, number: int) -> BackupPlan:
    return replace(plan, drill=replace(plan.drill, mailboxes=number))


async def test_a_manifest_that_names_nothing(world: World) -> None:
    nothing = replace(world.job("mail"), entries=(), totals={})
    report = await drilled(replace(world, plan=replace_mailboxes(world.plan, 0)), world.job("accounts"), nothing)
    assert ("mail", Fault.NOTHING_TO_PROVE) in faults(report) and not report.proved


async def test_a_message_lost(world: World) -> None:
    """One more was written down than is in the snapshot: of a sampled file, and of a whole mailbox by its number."""
    mail = world.job("mail")
    folder = mail.entries[0].path.rpartition("/")[0]
    lost = Entry(f"{folder}/1764009999.M1P1.mx1,S=3:2,", 3, "1" * 64)
    totals = {one: total._replace(messages=total.messages + 1) for one, total in mail.totals.items()}
    report = await drilled(world, world.job("accounts"), replace(mail, entries=(*mail.entries, lost), totals=totals))
    assert faults(report) == {("mail", Fault.MISSING), ("mail", Fault.FEWER)}
    assert lost.path in {one.where for one in report.findings}


async def test_flags_changed_between_the_walk_and_the_manifest(world: World) -> None:
    mail = world.job("mail")
    seen = tuple(one._replace(path=one.path.replace("/cur/", "/new/").replace(":2,S", "")) for one in mail.entries)
    assert (await drilled(world, world.job("accounts"), replace(mail, entries=seen))).proved


async def test_thousands_of_files_in_one_restore(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.14 takes no file of includes: what an argv cannot hold goes in portions, each an opening of the repository."""
    monkeypatch.setattr("smartmail.core.drill_plan.MOST_PATTERNS", 1_500)
    mail = world.job("mail")
    folder = f"{world.plan.job('mail').paths[0]}/example.net/anna/Maildir/cur"
    more = tuple(Entry(f"{folder}/1764{n:06}.M1P1.mx1.of.a.long.name.{'x' * 80}", 1, "0" * 64) for n in range(2_000))
    report = await drilled(
        replace(world, plan=replace_mailboxes(world.plan, 0)),
        world.job("accounts"),
        replace(mail, entries=(*mail.entries, *more)),
    )
    assert faults(report) == {("mail", Fault.MISSING)} and len(report.findings) + report.more == 2_000
    assert report.jobs[1].files == len(mail.entries)


async def test_a_later_snapshot_of_the_run_goes_over_an_earlier_one(world: World, tmp_path: Path) -> None:
    """The run was cut off after its first snapshot, and taken up again: the manifest is of the last one."""
    offsite = Vault(world.plan.repository("offsite"), world.restic)
    (job,) = (one for one in world.plan.jobs if one.name == "accounts")
    database = Path(job.paths[0])
    before = database.read_bytes()
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("INSERT INTO aliases VALUES ('postmaster@example.net')")
        manifest = manifest_of("accounts", [database], None, 5)
        wish = ask.Backup(world.plan.host, ("job=accounts", f"run={RUN}"), job.paths)
        await offsite.must(ask.backup(offsite.known, offsite.at, wish))
    finally:
        database.write_bytes(before)
    (point,) = restore_points({"offsite": await offsite.snapshots()})
    assert len(point.of_job("accounts")) == 2
    report = await drilled(replace(world, point=point), manifest, world.job("mail"))
    assert report.proved and report.dumps[0].rows == 2_001


async def test_a_job_without_a_snapshot(world: World) -> None:
    only = replace(world.point, members=world.point.of_job("mail"))
    report = await drilled(replace(world, point=only))
    assert ("accounts", Fault.NO_SNAPSHOT) in faults(report) and not report.proved


async def test_a_snapshot_that_was_not_copied(world: World) -> None:
    here = tuple(replace(one, copies=(("onsite", one.id_in("onsite") or ""),)) for one in world.point.members)
    report = await drilled(replace(world, point=replace(world.point, members=here)))
    assert {("accounts", Fault.NO_SNAPSHOT), ("mail", Fault.NO_SNAPSHOT)} <= faults(report)


async def test_a_wrong_password_is_no_drill(world: World) -> None:
    (world.folder / "offsite.password").write_text("another\n")
    with pytest.raises(VaultError, match="wrong password"):
        await drilled(world)


async def test_a_cancelled_drill_leaves_nothing(world: World) -> None:
    task = asyncio.create_task(drilled(world))
    scratch = world.folder / "state/scratch/drill"
    while not scratch.exists():
        await asyncio.sleep(0.01)
    assert scratch.stat().st_mode & 0o077 == 0 and scratch.parent.stat().st_mode & 0o077 == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_a_killed_drill_left_is_removed(world: World) -> None:
    left = world.folder / "state/scratch/drill/0/0/vmail"
    left.mkdir(parents=True)
    (left / "secret").write_text("somebody's mail")
    left.chmod(0o500)
    assert (await drilled(world)).proved
    assert not left.exists()


def test_two_drills_at_once(tmp_path: Path) -> None:
    first = Scratch.open(tmp_path)
    with pytest.raises(DrillBusy, match="another drill"):
        Scratch.open(tmp_path)
    first.close()
    Scratch.open(tmp_path).close()


# manifests on disk


async def test_manifests_are_read_and_held_against_the_catalogue(tmp_path: Path, made: World) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    for one in made.manifests:
        (folder / f"{RUN}.{one.job}.json").write_bytes(one.octets())
    digests = {one.job: one.digest() for one in made.manifests}
    assert await read_manifests(tmp_path, RUN, digests) == (made.manifests, ())

    (folder / f"{RUN}.accounts.json").unlink()
    file = folder / f"{RUN}.mail.json"
    tampered = json.loads(file.read_bytes())
    tampered["entries"][0][2] = "f" * 64
    for octets, words in ((canonical(tampered), "digest differs"), (b"{", "Expecting"), (b"[" * 100_000, "recursion")):
        file.write_bytes(octets)
        manifests, findings = await read_manifests(tmp_path, RUN, digests)
        assert manifests == ()
        assert [(one.job, one.fault) for one in findings] == [
            ("accounts", Fault.NO_MANIFEST),
            ("mail", Fault.WRONG_MANIFEST),
        ]
        assert words in findings[1].text


# dumps


def test_a_dump_that_does_not_load(tmp_path: Path) -> None:
    good = tmp_path / "a.sqlite"
    make_database(good)
    octets = good.read_bytes()
    assert load_sqlite(good).faults == []
    broken = bytearray(octets)
    broken[4096 * 5 : 4096 * 9] = b"\xff" * 4096 * 4
    for name, content in (("cut", octets[:-8192]), ("zeros", bytes(len(octets))), ("empty", b""), ("torn", broken)):
        file = tmp_path / f"{name}?mode=rw#.sqlite"
        file.write_bytes(content)
        assert load_sqlite(file).faults, name


async def test_a_dump_that_came_back_as_it_was_and_does_not_load(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash is right: it was broken when it was backed up."""

    def broken(path: Path) -> drill_files.Loaded:
        path.write_bytes(path.read_bytes()[:5000])
        return load_sqlite(path)

    monkeypatch.setattr("smartmail.backup.drill.drill_files.load_sqlite", broken)
    report = await drilled(world)
    assert faults(report) == {("accounts", Fault.DUMP)} and not report.proved


# mailboxes


def test_a_mailbox_is_opened(tmp_path: Path) -> None:
    for number in range(3):
        put_message(tmp_path / "one/Maildir", number)
    put_message(tmp_path / "one/Maildir", 7, ".Archive.2026")
    # A later snapshot of one folder: a message again under other flags, and one more.
    put_message(tmp_path / "two/Maildir", 1, flags="RS")
    put_message(tmp_path / "two/Maildir", 8)
    opened = open_mailbox([(tmp_path / "one", "/Maildir"), (tmp_path / "two", "/Maildir")])
    assert (opened.messages, opened.folders, opened.faults) == (5, 2, [])

    put_message(tmp_path / "one/Maildir", 0).write_bytes(bytes(100))
    put_message(tmp_path / "one/Maildir", 2).write_bytes(b"CRYPTED\x03\x07 of mail_crypt")
    opened = open_mailbox([(tmp_path / "one", "/Maildir")])
    assert opened.messages == 3 and len(opened.faults) == 1 and "no header" in opened.faults[0][1]


def test_a_link_is_no_mailbox(tmp_path: Path) -> None:
    """It may lead to the live one, which would count as restored."""
    live = tmp_path / "live/Maildir"
    put_message(live, 1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "Maildir").symlink_to(live)
    assert (found := open_mailbox([(scratch, "/Maildir")])).messages == 0 and "behind a link" in found.faults[0][1]
    (scratch / "other").mkdir()
    (scratch / "other/cur").symlink_to(live / "cur")
    assert (found := open_mailbox([(scratch, "/other")])).messages == 0 and "is a link" in found.faults[0][1]
    (scratch / "third/cur").mkdir(parents=True)
    (scratch / "third/cur/1.a:2,").symlink_to(next((live / "cur").iterdir()))
    assert (found := open_mailbox([(scratch, "/third")])).messages == 0 and found.faults
    assert open_mailbox([(scratch, "/none")]).messages == 0


# the signed report


def report_of() -> DrillReport:
    return DrillReport("mx1", "offsite", True, RUN, 1, 2, 3, "restic 0.14.0", "5eed", 9, (), (), (), ())


def test_a_report_is_signed_and_verified(tmp_path: Path) -> None:
    file = publish(report_of(), tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600 and (tmp_path / "drill.key").stat().st_mode & 0o777 == 0o600
    public = (tmp_path / "drill.pub").read_text()
    found = verify(file.read_bytes(), public)
    assert (found.report, found.problems, found.key) == (report_of(), (), public.strip())
    # The same key the next time.
    assert public_text(drill_key(tmp_path)) == public.strip()


def test_a_tampered_report(tmp_path: Path) -> None:
    key = drill_key(tmp_path / "ours")
    good = json.loads(sign(report_of(), key))

    changed = json.loads(json.dumps(good))
    changed["report"]["octets_restored"] = 10
    problems = verify(canonical(changed)).problems
    assert len(problems) == 2 and "was changed" in problems[0] and "signature" in problems[1]

    # Whoever changes the digest too lacks the key; whoever signs with another key is not trusted.
    other = drill_key(tmp_path / "theirs")
    forged = sign(replace(report_of(), octets_restored=10), other)
    assert verify(forged).problems == ()
    assert "another key" in verify(forged, public_text(key)).problems[0]
    for part in ("signature", "key"):
        for value in ("", "AAAA", "\u00e9", good["signature"][:-4] + "AAA="):
            assert verify(canonical({**good, part: value})).problems


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"null",
        b"[1]",
        b"{}",
        b'{"a":1.5}',
        b"[" * 100_000,
        canonical({"purpose": "smartmail agent request v1", "report": {}, "digest": "", "key": "", "signature": ""}),
    ],
)
def test_what_is_no_report(octets: bytes) -> None:
    with pytest.raises(ReportError):
        verify(octets)


@pytest.mark.parametrize("change", [{"proved": True}, {"format": 2}, {"more": "1"}, {"extra": 1}, {"jobs": [{}]}])
def test_a_report_that_says_what_it_cannot(tmp_path: Path, change: dict[str, object]) -> None:
    value = json.loads(sign(report_of(), drill_key(tmp_path)))
    value["report"] |= change
    with pytest.raises(ReportError):
        verify(canonical(value))


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    drill_key(tmp_path)
    (tmp_path / "drill.key").chmod(0o644)
    with pytest.raises(KeyUnusable, match="others may read it"):
        drill_key(tmp_path)
    (tmp_path / "drill.key").write_text("nonsense")
    (tmp_path / "drill.key").chmod(0o600)
    with pytest.raises(KeyUnusable, match="no private key"):
        drill_key(tmp_path)
