"""The real restic, Debian 12's and Debian 13's: what is said of them in the tables is so."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartmail.backup.process import Patience
from smartmail.backup.restic import Listener, Restic, Run, Settings, find_restic
from smartmail.core import restic
from smartmail.core.points import Snapshot
from smartmail.core.restic import Backup, Command, Repository, Restore
from smartmail.core.restic_messages import BackupSummary, DiffStatistics, Node, read_diff_line, read_ls_line
from smartmail.core.restic_output import (
    Unreadable,
    lock_holder,
    parse_backup,
    parse_check,
    parse_config,
    parse_copy,
    parse_find,
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
from smartmail.core.restic_version import Feature, Kind, Outcome

pytestmark = pytest.mark.servers
ROOT = Path(__file__).parents[2]
PATIENCE = Patience(silence_s=60, limit_s=60)


class Place:
    """One restic with a source of two files and two repositories, each with its own key."""

    def __init__(self, folder: Path, tool: Restic) -> None:
        self.folder, self.tool, self.known = folder, tool, tool.known
        self.source = folder / "vmail"
        self.source.mkdir()
        (self.source / "one").write_bytes(b"From: a\n" * 100)
        (self.source / "-two,S=7:2,S").write_bytes(os.urandom(200_000))
        self.onsite, self.offsite = self.repository("onsite"), self.repository("offsite")

    def repository(self, name: str, password: str = "") -> Repository:
        """Its files of secrets; the repository itself is not made."""
        files = self.folder / f"{name}.repository", self.folder / f"{name}.password"
        for file, text in zip(files, (str(self.folder / name), password or f"key of {name}"), strict=True):
            file.write_text(text + "\n")
            file.chmod(0o600)
        return Repository(name, str(files[0]), str(files[1]))

    def backup(self, *tags: str) -> Command:
        """Of the source."""
        return restic.backup(self.known, self.onsite, Backup("mx1", tags, (str(self.source),)))

    async def run(self, command: Command, listener: Listener | None = None) -> Run:
        """To its end."""
        return await self.tool.run(command, PATIENCE, listener)

    async def out(self, command: Command) -> str:
        """Of a command that must go well."""
        run = await self.run(command)
        assert run.outcome is Outcome.OK, run
        assert not run.warnings
        return run.stdout

    async def listed(self, repository: Repository) -> tuple[Snapshot, ...]:
        """Its snapshots."""
        found = parse_snapshots(await self.out(restic.snapshots(self.known, repository, host="mx1")))
        assert not isinstance(found, Unreadable)
        return found


@pytest.fixture(scope="module")
def newer() -> Iterator[Path]:
    """Debian 13's, unpacked beside the system's."""
    subprocess.run([ROOT / "ops/lib/restic18.sh"], check=True, timeout=100)
    yield ROOT / ".cache/restic18/restic"


@pytest.fixture(params=["restic of Debian 12", "restic of Debian 13"])
async def place(request: pytest.FixtureRequest, newer: Path, tmp_path: Path) -> Place:
    binary = "restic" if request.param.endswith("12") else str(newer)
    return Place(tmp_path, await find_restic(Settings(tmp_path / "cache", binary, progress_s=0.1)))


async def test_a_night_onsite_and_offsite(place: Place) -> None:
    known, onsite, offsite = place.known, place.onsite, place.offsite
    for command in (restic.init(known, onsite), restic.init(known, offsite, onsite)):
        assert isinstance(parse_init(await place.out(command)), str)
    configs = [parse_config(await place.out(restic.cat_config(known, one))) for one in (onsite, offsite)]
    assert not any(isinstance(one, Unreadable) for one in configs)
    assert len({one.chunker_polynomial for one in configs if not isinstance(one, Unreadable)}) == 1

    summary = parse_backup(await place.out(place.backup("job=mail", "run=1")))
    assert isinstance(summary, BackupSummary) and summary.files == 2
    (made,) = await place.listed(onsite)
    assert made.id.startswith(summary.snapshot_id) and made.tags == ("job=mail", "run=1")

    copied = parse_copy(await place.out(restic.copy(known, onsite, offsite, (made.id,))))
    (there,) = await place.listed(offsite)
    assert copied.started == (made.id[:8],) and copied.saved == (there.id[:8],)
    assert (there.origin, there.tree, there.time_ms) == (made.id, made.tree, made.time_ms)

    names: list[object] = []
    listing = restic.ls(known, offsite, there.id, (str(place.source),))
    await place.run(listing, Listener(line=lambda line: names.append(read_ls_line(line))))
    assert not any(isinstance(one, Unreadable) for one in names)
    files = {one.path: one.mtime_ns for one in names if isinstance(one, Node) and one.type == "file"}
    assert files == {str(one): one.stat().st_mtime_ns for one in place.source.iterdir()}

    target = place.folder / "back"
    wish = Restore(there.id, str(target), (restic.literal(str(place.source / "-two,S=7:2,S")),))
    restored = parse_restore(await place.out(restic.restore(known, offsite, wish)))
    assert (restored.restored is not None) is known.has(Feature.RESTORE_JSON)
    back = target / str(place.source / "-two,S=7:2,S").lstrip("/")
    assert back.read_bytes() == (place.source / "-two,S=7:2,S").read_bytes()

    report = parse_check(await place.out(restic.check(known, offsite, (1, 1))), ())
    assert not isinstance(report, Unreadable) and report.errors == 0


async def test_the_housekeeping(place: Place) -> None:
    known, onsite = place.known, place.onsite
    await place.out(restic.init(known, onsite))
    await place.out(place.backup("job=mail"))
    (place.source / "three").write_text("3")
    await place.out(place.backup("job=mail"))
    old, new = await place.listed(onsite)

    changes: list[object] = []
    await place.run(
        restic.diff(known, onsite, old.id, new.id), Listener(line=lambda x: changes.append(read_diff_line(x)))
    )
    assert isinstance(changes[-1], DiffStatistics) and changes[-1].added[0] == 1
    found = parse_find(await place.out(restic.find(known, onsite, ("three",), (old.id, new.id))))
    assert not isinstance(found, Unreadable) and [one.snapshot for one in found] == [new.id]
    stats = parse_stats(await place.out(restic.stats(known, onsite, mode="raw-data")))
    assert not isinstance(stats, Unreadable) and stats.snapshots == 2 and stats.octets > 200_000
    keys = parse_keys(await place.out(restic.key_list(known, onsite)))
    assert not isinstance(keys, Unreadable) and [one.current for one in keys] == [True]
    assert parse_tag(await place.out(restic.tag(known, onsite, (new.id,), add=("partial=1",)))).changed == 1
    assert (await place.listed(onsite))[-1].tags == ("job=mail", "partial=1")

    await place.out(restic.forget(known, onsite, (old.id,), dry_run=True))
    await place.out(restic.forget(known, onsite, (old.id,)))
    assert [one.origin for one in await place.listed(onsite)] == [new.id]
    assert parse_prune(await place.out(restic.prune(known, onsite))).remaining is not None
    # The tag gave the snapshot another id: neither the old one nor the forgotten one is there to be listed.
    assert (await place.run(restic.ls(known, onsite, old.id))).outcome is Outcome.NOT_FOUND


async def test_a_lock_is_seen_and_an_interrupt_takes_it_away(place: Place) -> None:
    known, onsite = place.known, place.onsite
    await place.out(restic.init(known, onsite))
    ours, theirs = os.pipe()
    command = restic.backup(known, onsite, Backup("mx1", (), stdin_name="/dump.sql"))
    task = asyncio.create_task(place.tool.run(command, PATIENCE, stdin=ours))
    locks: tuple[str, ...] = ()
    while not locks:
        locks = parse_ids(await place.out(restic.list_locks(known, onsite)))
    lock = parse_lock(await place.out(restic.cat_lock(known, onsite, locks[0])))
    assert not isinstance(lock, Unreadable) and lock.host == os.uname().nodename and not lock.exclusive

    refused = await place.run(restic.forget(known, onsite, ("0" * 8,)))
    holder = lock_holder(refused.stderr)
    assert refused.outcome is Outcome.LOCKED
    assert holder is not None and (holder.pid, holder.host) == (lock.pid, lock.host)

    task.cancel()
    await asyncio.wait((task,), timeout=1)
    # From 0.17 on it takes note of the interrupt, but ends only when its input does.
    os.close(theirs)
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(ours)
    assert await place.listed(onsite) == (), "half a dump is no snapshot"
    assert parse_ids(await place.out(restic.list_locks(known, onsite))) == ()
    assert parse_unlock(await place.out(restic.unlock(known, onsite))) in (0, None)


async def test_faults_are_told_apart(place: Place) -> None:
    known, onsite = place.known, place.onsite
    assert (await place.run(restic.cat_config(known, onsite))).outcome is Outcome.NO_REPOSITORY
    await place.out(restic.init(known, onsite))
    assert (await place.run(restic.init(known, onsite))).outcome is Outcome.EXISTS
    empty = await place.run(restic.backup(known, onsite, Backup("mx1", (), stdin_name="/dump.sql")))
    assert empty.outcome is Outcome.EMPTY_INPUT
    nothing = restic.backup(known, onsite, Backup("mx1", (), (str(place.folder / "nothing"),)))
    assert (await place.run(nothing)).outcome is Outcome.NO_SOURCE
    paths = (str(place.source), str(place.folder / "nothing"))
    assert (await place.run(restic.backup(known, onsite, Backup("mx1", (), paths)))).outcome is Outcome.PARTIAL
    unknown = restic.restore(known, onsite, Restore("0" * 64, str(place.folder / "back")))
    assert (await place.run(unknown)).outcome is Outcome.NOT_FOUND

    pack = max((place.folder / "onsite" / "data").glob("*/*"), key=lambda file: file.stat().st_size)
    octets = bytearray(pack.read_bytes())
    octets[1000] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(octets)
    assert (await place.run(restic.check(known, onsite))).outcome is Outcome.OK, "it does not read the data"
    damaged = await place.run(restic.check(known, onsite, (1, 1)))
    report = parse_check(damaged.stdout, damaged.stderr)
    assert damaged.outcome is Outcome.DAMAGED
    assert not isinstance(report, Unreadable) and report.errors and pack.name in report.packs

    wrong = place.repository("onsite", password="not this one")
    assert (await place.run(restic.snapshots(known, wrong))).outcome is Outcome.WRONG_PASSWORD
    command = Command(Kind.UNLOCK, ("unlock", "--no-such-flag"))
    assert (await place.run(command)).outcome is Outcome.UNSUPPORTED
