"""Retention with the real restic: just what was planned goes, and nothing where something looks wrong."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from plans import DAY_MS, HOUR_MS, make_plan
from served import SECRET, at, rclone
from weakkeys import make_cheap

from smartmail.backup.checking import check
from smartmail.backup.journal import JournalError, read_journal, write_journal
from smartmail.backup.locks import unlock_dead
from smartmail.backup.process import Patience
from smartmail.backup.restic import Listener, Restic, Run, Settings, find_restic
from smartmail.backup.retaining import Planned, Retained, Row, carry_out, plan_retention, prune, rows
from smartmail.backup.vault import Vault, VaultError
from smartmail.core.backup_due import RunState
from smartmail.core.backup_plan import BackupPlan
from smartmail.core.backup_record import Activity, Reason, Record
from smartmail.core.points import Snapshot
from smartmail.core.restic import Command, Prune
from smartmail.core.restic_version import Kind, Outcome, Version
from smartmail.core.retention import Ground, Group, Guards, Holds, KeepRule, Period

NOW_MS = int(datetime(2026, 11, 24, 6, tzinfo=UTC).timestamp()) * 1000
LONDON = ZoneInfo("Europe/London")
MAIL = Group("mx1.example.net", ("job=mail",))


def snapshot(day: int, *more: str, job: str = "mail") -> Snapshot:
    """Of the night `day` days ago."""
    name = f"{day:02x}{len(more):02x}{job.encode().hex():.4}" * 8
    return Snapshot(
        name[:64],
        NOW_MS - 4 * HOUR_MS - day * DAY_MS,
        f"tree{day}",
        "mx1.example.net",
        tuple(sorted((f"job={job}", f"run=r{day}", *more))),
    )


@dataclass
class Played(Vault):
    """A vault whose listings are given, one after the other (the last one for good), and that only notes commands."""

    listings: list[Sequence[Snapshot]]
    plan: object
    asked: list[Command] = field(default_factory=list)
    code: Outcome = Outcome.OK

    def __post_init__(self) -> None:
        super().__init__(self.plan, Restic(Path("/none"), Version(0, 14), Settings(Path("/none"))))  # type: ignore[arg-type]

    async def snapshots(self, host: str = "", tags: Sequence[str] = ()) -> tuple[Snapshot, ...]:
        found = self.listings.pop(0) if len(self.listings) > 1 else self.listings[0]
        if isinstance(found, Exception):
            raise found
        return tuple(found)

    async def run(
        self,
        command: Command,
        patience: Patience | None = None,
        listener: Listener | None = None,
        stdin: int | None = None,
    ) -> Run:
        self.asked.append(command)
        return Run(command, Version(0, 14), 0, self.code, "", False, (), 0, (), ("it went wrong",), 1)


def played(folder: Path, *listings: Sequence[Snapshot] | Exception, **changes: object) -> tuple[Played, BackupPlan]:
    plan = make_plan(folder)
    return Played(list(listings), replace(plan.repository("onsite"), **changes)), plan  # type: ignore[arg-type]


def record(number: int, found: Retained) -> Record:
    return Record(
        number,
        Activity.RETENTION,
        "",
        "onsite",
        "",
        NOW_MS - HOUR_MS,
        NOW_MS,
        found.state,
        found.reason,
        found.end.facts,
    )


async def planned(
    vault: Vault, plan: BackupPlan, records: Sequence[Record] = (), now_ms: int = NOW_MS, **more: object
) -> Planned:
    return await plan_retention(vault, plan, Holds(), records, lambda: now_ms, **more)  # type: ignore[arg-type]


NIGHTS = [snapshot(day) for day in range(10)]


# the plan as it is shown


async def test_a_plan_is_a_table_with_the_reasons_of_each(tmp_path: Path) -> None:
    vault, plan = played(tmp_path, [*NIGHTS, replace(snapshot(11), tags=())])
    found = await planned(vault, plan)
    table = rows(found.plan, LONDON)
    assert len(table) == 11
    assert table[0] == Row(
        True, NIGHTS[0].id[:8], "2026-11-24 02:00:00 +0000", "mail", "mx1.example.net", "r0", False,
        "newest; kept by rule (daily 7: 2026-11-24)",
    )  # fmt: skip
    assert [one.kept for one in table] == [True] * 7 + [False] * 3 + [True]
    assert table[7].why == "past the rule's number (daily 7: 2026-11-17)"
    assert table[10].why == "not made by a job"
    assert not found.objections
    assert found.facts["planned"] == [one.id for one in NIGHTS[7:]]
    assert "no other clock" in found.notes[0]


async def test_where_everything_is_kept_there_is_no_plan(tmp_path: Path) -> None:
    vault, plan = played(tmp_path, NIGHTS, keep=None)
    with pytest.raises(ValueError, match="everything is kept"):
        await planned(vault, plan)


# refusals


def removed(*days: int) -> list[Snapshot]:
    return [one for day, one in enumerate(NIGHTS) if day not in days]


@pytest.mark.parametrize(
    ("listing", "changes", "more", "ground"),
    [
        (NIGHTS, {}, {"now_ms": NOW_MS + 3653 * DAY_MS}, Ground.NEWEST_TOO_OLD),
        (NIGHTS, {"guards": Guards(floor=1)}, {"now_ms": NOW_MS - 30 * DAY_MS}, Ground.FUTURE_SNAPSHOT),
        (removed(0), {}, {}, Ground.NEWEST_TOO_OLD),
        ([], {}, {}, Ground.NO_SNAPSHOTS),
        (NIGHTS, {"keep": (KeepRule(tag="leagl"), KeepRule(Period.DAILY, 7))}, {}, Ground.TAG_UNMATCHED),
        (NIGHTS, {"keep": ()}, {}, Ground.NO_RULES),
        (NIGHTS, {"keep": (KeepRule(Period.LAST, 1),)}, {}, Ground.BELOW_FLOOR),
        (NIGHTS, {"keep": (KeepRule(Period.LAST, 3),)}, {}, Ground.TOO_LARGE_A_SHARE),
        (NIGHTS, {"guards": Guards(most_removed=2)}, {}, Ground.TOO_MANY),
        (NIGHTS, {"guards": Guards(needs_verified=True)}, {}, Ground.NOTHING_VERIFIED),
        (NIGHTS, {}, {"anomalies": ("job mail: 9 in 10 files went",)}, Ground.ANOMALY),
        ([snapshot(day, job="other") for day in range(9)], {}, {}, Ground.NEWEST_TOO_OLD),
    ],
)
async def test_nothing_goes_where_something_is_wrong(
    tmp_path: Path, listing: list[Snapshot], changes: dict[str, object], more: dict[str, object], ground: Ground
) -> None:
    vault, plan = played(tmp_path, listing, **changes)
    found = await planned(vault, plan, **more)  # type: ignore[arg-type]
    assert ground in {one.ground for one in found.objections}
    ended = await carry_out(vault, found, plan.folder)
    assert (ended.state, ended.reason, ended.removed) == (RunState.FAILED, Reason.GUARDED, ())
    assert ground.value in ended.end.facts["grounds"]  # type: ignore[operator]
    assert "nothing was removed" in ended.end.words
    assert not vault.asked


async def test_a_server_that_says_another_time(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nDate: Tue, 24 Nov 2026 06:00:00 GMT\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    # The snapshots are of the wrong clock, too: the other clock alone can tell.
    ahead = [replace(one, time_ms=one.time_ms + 3653 * DAY_MS) for one in NIGHTS]
    async with server:
        right = await planned(*played(tmp_path, NIGHTS, clock=url))
        wrong = await planned(*played(tmp_path, ahead, clock=url), now_ms=NOW_MS + 3653 * DAY_MS)
    assert not right.objections
    assert not right.notes
    assert {one.ground for one in wrong.objections} == {Ground.CLOCK_WRONG}
    silent = await planned(*played(tmp_path, NIGHTS, clock=url))
    assert {one.ground for one in silent.objections} == {Ground.CLOCK_UNPROVED}
    assert "its clock gave no answer" in silent.notes[0]


async def test_a_count_that_fell_is_refused_until_a_person_has_looked(tmp_path: Path) -> None:
    vault, plan = played(tmp_path, NIGHTS, NIGHTS, NIGHTS[:7], removed(3, 4, 7, 8, 9))
    ended = await carry_out(vault, await planned(vault, plan), plan.folder)
    assert (ended.state, len(ended.removed)) == (RunState.OK, 3)
    records = [record(1, ended)]
    found = await planned(vault, plan, records)
    assert [one.ground for one in found.objections] == [Ground.COUNT_FELL]
    assert "5 snapshots, where 7 were left" in found.objections[0].text
    looked = await planned(vault, plan, records, anew=True)
    assert not looked.objections
    after = await carry_out(vault, looked, plan.folder)
    assert after.state is RunState.OK
    assert not (await planned(vault, plan, [*records, record(2, after)])).objections


async def test_a_snapshot_that_went_in_between_is_a_refusal(tmp_path: Path) -> None:
    vault, plan = played(tmp_path, NIGHTS, removed(2))
    ended = await carry_out(vault, await planned(vault, plan), plan.folder)
    assert (ended.reason, ended.end.facts["grounds"]) == (Reason.GUARDED, ["changed"])
    assert NIGHTS[2].id[:8] in ended.words
    assert not vault.asked


async def test_a_plan_of_another_repository_is_not_carried_out(tmp_path: Path) -> None:
    vault, plan = played(tmp_path, NIGHTS)
    with pytest.raises(ValueError, match="a plan of elsewhere"):
        await carry_out(vault, replace(await planned(vault, plan), repository="elsewhere"), plan.folder)


async def test_append_only_is_planned_but_never_forgotten_from(tmp_path: Path) -> None:
    vault, plan = played(tmp_path, NIGHTS, append_only=True)
    found = await planned(vault, plan)
    assert len(found.plan.removed) == 3
    ended = await carry_out(vault, found, plan.folder)
    assert (ended.state, ended.reason, len(ended.remaining)) == (RunState.FAILED, Reason.REFUSED, 3)
    assert "append-only" in ended.words
    freed = await prune(vault)
    assert (freed.state, freed.reason) == (RunState.FAILED, Reason.REFUSED)
    assert not vault.asked


# what went is what the listing tells


async def test_restic_says_yes_and_nothing_went(tmp_path: Path) -> None:
    vault, plan = played(tmp_path, NIGHTS)
    ended = await carry_out(vault, await planned(vault, plan), plan.folder)
    assert (ended.state, ended.reason, len(ended.remaining)) == (RunState.FAILED, Reason.FAILED, 3)
    assert list(vault.asked[0].argv[-3:]) == [one.id for one in reversed(NIGHTS[7:])]


async def test_restic_says_no_and_all_went(tmp_path: Path) -> None:
    vault, plan = played(tmp_path, NIGHTS, NIGHTS, NIGHTS[:7])
    vault.code = Outcome.KILLED
    ended = await carry_out(vault, await planned(vault, plan), plan.folder)
    assert (ended.state, ended.reason, len(ended.removed)) == (RunState.OK, Reason.NONE, 3)
    assert "killed" in ended.warnings[0]


async def test_something_else_went_too(tmp_path: Path) -> None:
    vault, plan = played(tmp_path, NIGHTS, NIGHTS, NIGHTS[1:7])
    ended = await carry_out(vault, await planned(vault, plan), plan.folder)
    assert (ended.state, ended.reason) == (RunState.FAILED, Reason.FAILED)
    assert ended.end.facts["unplanned"] == [NIGHTS[0].id]
    assert "left" not in ended.end.facts


async def test_what_went_cannot_be_listed(tmp_path: Path) -> None:
    fault = VaultError("onsite", "snapshots", Outcome.UNREACHABLE, "connection refused")
    vault, plan = played(tmp_path, NIGHTS, NIGHTS, fault)
    ended = await carry_out(vault, await planned(vault, plan), plan.folder)
    assert (ended.state, ended.reason) == (RunState.FAILED, Reason.UNREACHABLE)
    assert "left" not in ended.end.facts


# what is written down before


async def test_a_run_that_never_said_how_it_ended_does_not_look_like_theft(tmp_path: Path) -> None:
    """It forgot two of three and was killed; the next one was killed as well; the third knows what is missing."""
    vault, plan = played(tmp_path, NIGHTS[:7])
    records = [record(1, await carry_out(vault, await planned(vault, plan), plan.folder))]
    later = [snapshot(-1), snapshot(-2), snapshot(-3), *NIGHTS[:7]]
    clock = NOW_MS + 3 * DAY_MS

    async def next_run(listing: Sequence[Snapshot], *after: Sequence[Snapshot], at_ms: int) -> Planned:
        vault.listings = [listing, listing, *after]
        found = await planned(vault, plan, records, at_ms)
        if after:
            await carry_out(vault, found, plan.folder)
        return found

    first = await next_run(later, later[:8], at_ms=clock)
    assert len(first.plan.removed) == 3
    second = await next_run(later[:8], later[:7], at_ms=clock + HOUR_MS)
    assert not second.objections
    assert len(second.pending) == 1
    # One more night, and 2 that nobody planned to remove.
    vault.listings = [later[:7]]
    third = await planned(vault, plan, records, clock + 2 * HOUR_MS)
    assert not third.objections
    assert len(third.pending) == 2
    ended = await carry_out(vault, third, plan.folder)
    assert len(await read_journal(plan.folder, "onsite")) == 3
    # Now that an end is known, what was before it is settled, and is not counted a second time.
    records.append(record(2, ended))
    assert not (await planned(vault, plan, records, clock + 2 * HOUR_MS)).pending
    vault.listings = [later[1:6]]
    robbed = await planned(vault, plan, records, clock + 2 * HOUR_MS)
    assert Ground.COUNT_FELL in {one.ground for one in robbed.objections}


async def test_without_what_was_written_down_a_person_is_asked(tmp_path: Path) -> None:
    vault, plan = played(tmp_path, NIGHTS)
    records = [record(1, await carry_out(vault, await planned(vault, plan), plan.folder))]
    assert records[0].facts["left"] == [{"host": MAIL.host, "tags": ["job=mail"], "count": 10}]
    vault.listings = [NIGHTS, NIGHTS, NIGHTS[:7]]
    await carry_out(vault, await planned(vault, plan, records, NOW_MS + 1), plan.folder)
    assert not (await planned(vault, plan, records, NOW_MS + 2)).objections
    file = tmp_path / "state/retention/onsite.json"
    assert file.stat().st_mode & 0o777 == 0o600
    for content in (b"", b"{}", b"[{}]", b"[" * 100_000, b'[{"plan": "x", "ids": [["a"]]}]', b"\xff"):
        file.write_bytes(content)
        found = await planned(vault, plan, records, NOW_MS + 2)
        assert "is not what retention wrote" in " ".join(found.notes) or content == b"{}"
        assert [one.ground for one in found.objections] == [Ground.COUNT_FELL]


async def test_nothing_goes_that_could_not_be_written_down(tmp_path: Path) -> None:
    vault, plan = played(tmp_path, NIGHTS)
    (tmp_path / "state").mkdir()
    (tmp_path / "state/retention").write_text("no folder")
    ended = await carry_out(vault, await planned(vault, plan), plan.folder)
    assert (ended.state, ended.reason) == (RunState.FAILED, Reason.INTERNAL)
    assert not vault.asked
    with pytest.raises(JournalError):
        await write_journal(plan.folder, "onsite", ())


# the real restic


class Place:
    """Repositories that are made once, copied for each test."""

    def __init__(self, folder: Path, restic: Restic, plan: BackupPlan) -> None:
        self.folder, self.plan = folder, plan
        self.vault = Vault(plan.repository("onsite"), restic)

    def backup(self, when: str, *tags: str, to: Path | None = None) -> None:
        """At a time of its own, which only restic itself can be told."""
        file = self.folder / "one"
        file.write_bytes(os.urandom(20_000))
        at_file = self.vault.at.repository_file if to is None else str(to)
        words = [f"--time={when}", "--host=mx1.example.net", *(f"--tag={tag}" for tag in tags), str(file)]
        env = {
            "PATH": os.environ["PATH"],
            "RESTIC_REPOSITORY_FILE": at_file,
            "RESTIC_PASSWORD_FILE": self.vault.at.password_file,
            "RESTIC_CACHE_DIR": str(self.folder / "cache"),
            "TZ": "UTC",
        }
        subprocess.run(["restic", "backup", "-q", *words], env=env, check=True, timeout=60)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with six nights."""
    folder = tmp_path_factory.mktemp("base")

    async def make() -> None:
        plan = make_plan(folder)
        place = Place(folder, await find_restic(Settings(folder / "cache")), plan)
        await make_cheap(place.vault)
        for day in range(19, 25):
            place.backup(f"2026-11-{day} 02:00:00", "job=mail", f"run=r{day}")

    asyncio.run(make())
    return folder / "onsite"


@pytest.fixture
async def place(base: Path, tmp_path: Path) -> Place:
    plan = make_plan(tmp_path)
    shutil.copytree(base, tmp_path / "onsite")
    onsite = replace(plan.repository("onsite"), keep=(KeepRule(Period.DAILY, 4),))
    plan = replace(plan, repositories=(onsite, *plan.repositories[1:]))
    return Place(tmp_path, await find_restic(Settings(tmp_path / "cache")), plan)


@pytest.mark.servers
async def test_just_what_was_planned_goes_and_what_came_in_between_stays(place: Place) -> None:
    vault = place.vault
    found = await planned(vault, place.plan)
    assert not found.objections
    assert [one.tag("run") for one in found.plan.removed] == ["r20", "r19"]
    place.backup("2026-11-18 02:00:00", "job=mail", "run=late")
    ended = await carry_out(vault, found, place.plan.folder)
    assert (ended.state, ended.warnings) == (RunState.OK, ())
    left = await vault.snapshots()
    assert sorted(one.tag("run") for one in left) == ["late", "r21", "r22", "r23", "r24"]
    assert ended.end.facts["left"] == [{"host": MAIL.host, "tags": list(MAIL.tags), "count": 5}]
    freed = await prune(vault, Prune(max_unused="0%"))
    assert (freed.state, freed.reason) == (RunState.OK, Reason.NONE)
    assert freed.freed
    assert freed.freed > 40_000
    again = await planned(vault, place.plan, [record(1, ended)])
    assert not again.objections
    assert [one.tag("run") for one in again.plan.removed] == ["late"]


@pytest.mark.servers
async def test_killed_half_way_and_the_next_run(place: Place) -> None:
    """Of two ids one is forgotten, then restic is killed; nobody hears how it ended."""
    vault = place.vault
    longer = Vault(replace(vault.plan, keep=(KeepRule(Period.DAILY, 6),)), vault.restic)
    before = await carry_out(longer, await planned(longer, place.plan), place.plan.folder)
    records = [record(1, before)]
    assert (before.state, before.removed) == (RunState.OK, ())

    class Halved(Vault):
        async def run(
            self,
            command: Command,
            patience: Patience | None = None,
            listener: Listener | None = None,
            stdin: int | None = None,
        ) -> Run:
            if command.kind is not Kind.FORGET:
                return await super().run(command, patience, listener, stdin)
            run = await super().run(replace(command, argv=command.argv[:-1]), patience, listener)
            return replace(run, code=-9, outcome=Outcome.KILLED)

    halved = Halved(vault.plan, vault.restic)
    found = await planned(halved, place.plan, records)
    ended = await carry_out(halved, found, place.plan.folder)
    assert (ended.state, ended.reason) == (RunState.FAILED, Reason.KILLED)
    assert (len(ended.removed), len(ended.remaining)) == (1, 1)
    again = await planned(vault, place.plan, records)
    assert not again.objections
    assert tuple(one.id for one in again.plan.removed) == ended.remaining
    assert (await carry_out(vault, again, place.plan.folder)).state is RunState.OK


@pytest.mark.servers
@pytest.mark.parametrize("what", ["forget", "prune"])
async def test_kill_9_while_it_holds_its_lock_and_the_next_run(place: Place, what: str) -> None:
    """Wherever the kill falls, the next run finds a sound repository and ends what was begun."""
    vault, locks = place.vault, place.folder / "onsite/locks"
    found = await planned(vault, place.plan)
    if what == "prune":
        assert (await carry_out(vault, found, place.plan.folder)).state is RunState.OK

    async def kill_at_lock() -> None:
        async with asyncio.timeout(30):
            while not any(len(one.name) == 64 for one in locks.iterdir()):
                await asyncio.sleep(0.002)
        for pid in children():
            os.kill(pid, signal.SIGKILL)

    killer = asyncio.create_task(kill_at_lock())
    if what == "forget":
        ended = await carry_out(vault, found, place.plan.folder)
        await killer
        assert ended.reason in (Reason.KILLED, Reason.NONE)
        assert ended.state is RunState.OK or ended.remaining
        assert set(ended.removed) | set(ended.remaining) == {one.id for one in found.plan.removed}
    else:
        freed = await prune(vault, Prune(max_unused="0%"))
        await killer
        assert (freed.state, freed.reason) == (RunState.FAILED, Reason.KILLED)
    assert any(locks.iterdir())
    unlocked = await unlock_dead(vault, True, pause=no_pause)
    assert (unlocked.state, len(unlocked.removed), unlocked.left) == (RunState.OK, 1, ())
    again = await planned(vault, place.plan)
    assert not again.objections
    assert (await carry_out(vault, again, place.plan.folder)).state is RunState.OK
    assert (await prune(vault, Prune(max_unused="0%"))).state is RunState.OK
    assert sorted(one.tag("run") for one in await vault.snapshots()) == ["r21", "r22", "r23", "r24"]
    assert (await check(vault, (), NOW_MS, whole=True)).state is RunState.OK


async def no_pause() -> None:
    """The second look at once."""


def children() -> Iterator[int]:
    """Our own child processes that are restic."""
    for file in Path("/proc/self/task").glob("*/children"):
        for word in file.read_text().split():
            if "restic" in Path(f"/proc/{word}/cmdline").read_text():
                yield int(word)


@pytest.mark.servers
async def test_an_append_only_server_says_no_and_that_is_heard_soon(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """restic alone would ask each snapshot's deletion for 45 seconds."""
    served = tmp_path / "served"
    (served / "mx1").mkdir(parents=True)
    (tmp_path / "onsite").rename(served / "mx1/mail")
    with rclone(served, "--append-only") as port:
        offsite = at(tmp_path, port)
        onsite = place.vault.plan
        vault = Vault(
            replace(onsite, at=replace(onsite.at, repository_file=offsite.at.repository_file)), place.vault.restic
        )
        place.backup(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", "job=mail", "run=r25", to=Path(vault.at.repository_file))
        found = await plan_retention(vault, place.plan, Holds(), (), lambda: time.time_ns() // 1_000_000)
        assert Ground.CLOCK_WRONG not in {one.ground for one in found.objections}
        assert Ground.CLOCK_UNPROVED not in {one.ground for one in found.objections}
        wrong = await plan_retention(
            vault, place.plan, Holds(), (), lambda: time.time_ns() // 1_000_000 + 3653 * DAY_MS
        )
        assert Ground.CLOCK_WRONG in {one.ground for one in wrong.objections}
        began = time.monotonic()
        ended = await carry_out(vault, found, place.plan.folder)
        assert time.monotonic() - began < 25
        assert (ended.state, ended.reason) == (RunState.FAILED, Reason.REFUSED)
        assert ended.remaining
        assert not ended.removed
        assert "403" in ended.words
        assert "only somebody at the server itself" in ended.end.words
        # Nothing unused is there to free, so prune itself has nothing to be refused.
        assert len(await vault.snapshots()) == 7
        assert not any((served / "mx1/mail/locks").iterdir())
        for shown in (repr(ended), repr(found), caplog.text):
            assert "heim" not in shown
            assert SECRET not in shown


@pytest.mark.servers
async def test_an_append_only_server_refuses_a_prune_and_all_is_still_there(place: Place, tmp_path: Path) -> None:
    """There is data to free, since somebody with the right has forgotten snapshots at the server itself."""
    vault = place.vault
    found = await planned(vault, place.plan)
    assert (await carry_out(vault, found, place.plan.folder)).state is RunState.OK
    served = tmp_path / "served"
    (served / "mx1").mkdir(parents=True)
    (tmp_path / "onsite").rename(served / "mx1/mail")
    before = {one.name for one in (served / "mx1/mail").rglob("*") if one.is_file()}
    with rclone(served, "--append-only") as port:
        elsewhere = replace(vault.at, repository_file=at(tmp_path, port).at.repository_file)
        offsite = Vault(replace(vault.plan, at=elsewhere), vault.restic)
        began = time.monotonic()
        freed = await prune(offsite, Prune(max_unused="0%"))
        assert time.monotonic() - began < 25
        assert (freed.state, freed.reason) == (RunState.FAILED, Reason.REFUSED)
        assert "403" in freed.words
        assert before <= {one.name for one in (served / "mx1/mail").rglob("*") if one.is_file()}
        assert (await check(offsite, (), NOW_MS, whole=True)).state is RunState.OK
