"""A night with the real restic: made, reconciled, copied, proved, recorded; and taken up again."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from nights import world
from plans import make_plan, put_message

from smartmail.backup import job as jobs
from smartmail.backup.job import manifest_file
from smartmail.core.backup_due import RunState
from smartmail.core.backup_plan import BackupPlan
from smartmail.core.backup_record import Activity, Reason
from smartmail.core.maildir import base_of
from smartmail.core.manifest import manifest_from_json
from smartmail.core.points import restore_points
from smartmail.core.restic_messages import Node

pytestmark = pytest.mark.servers


def filled(folder: Path, messages: int = 12) -> BackupPlan:
    """A plan, and two mailboxes with mail."""
    for local in ("anna", "bob"):
        maildir = folder / "vmail" / "example.net" / local / "Maildir"
        for number in range(messages):
            put_message(maildir, number, ".Sent" if number % 3 == 0 else "")
    return make_plan(folder)


async def test_a_night_makes_a_restore_point_onsite_and_offsite_and_says_so(tmp_path: Path) -> None:
    async with world(filled(tmp_path), tmp_path) as one:
        done = await one.night.run()
        assert [(each.activity, each.end.state) for each in done] == [
            (Activity.BACKUP, RunState.OK),
            (Activity.COPY, RunState.OK),
        ]
        listings = {name: await vault.snapshots() for name, vault in one.vaults.items()}
        (point,) = restore_points(listings)
        assert not point.lacks(["mail"], "onsite")
        assert not point.lacks(["mail"], "offsite")
        assert done[1].end.facts["proved"] == 1
        manifest = manifest_from_json(
            json.loads(manifest_file(tmp_path / "state", point.run, "mail").read_bytes()),
            str(done[0].end.facts["manifest"]),
        )
        assert {name: total.messages for name, total in manifest.totals.items()} == {
            "anna@example.net": 12,
            "bob@example.net": 12,
        }
        assert await one.night.run() == []
        one.clock.now_ms += 3_600_000
        again = await one.night.run()
        assert [each.end.state for each in again] == [RunState.OK, RunState.OK]
        assert again[0].run != done[0].run


async def test_messages_marked_read_during_the_walk_are_in_the_restore_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race of the research: what is renamed while restic reads the folder may be in no snapshot. Here a third of a
    folder is hidden from the first walk altogether, and marked read at once after it."""
    plan = filled(tmp_path, 60)
    cur = tmp_path / "vmail" / "example.net" / "anna" / "Maildir" / "cur"
    away = tmp_path / "away"
    away.mkdir()
    hidden = sorted(cur.iterdir())[:20]
    for file in hidden:
        file.rename(away / file.name)
    whole = jobs._snapshot
    steps: list[str] = []

    async def marked(*given: object) -> None:
        await whole(*given)  # type: ignore[arg-type]
        steps.append(str(given[3]))
        if len(steps) == 1:
            for file in away.iterdir():
                file.rename(cur / f"{base_of(file.name)}:2,FS")

    monkeypatch.setattr(jobs, "_snapshot", marked)
    async with world(plan, tmp_path) as one:
        done = await one.night.run()
        assert steps == ["backup", "again"]
        assert done[0].end.state is RunState.OK
        assert done[0].end.facts["rounds"] == 1
        (point,) = restore_points({"offsite": await one.vaults["offsite"].snapshots()})
        found: list[Node] = []
        for member in point.of_job("mail"):
            await one.vaults["offsite"].nodes(str(member.id_in("offsite")), found.append)
        stored = {base_of(node.path.rpartition("/")[2]) for node in found if node.type == "file"}
        assert {base_of(file.name) for file in hidden} <= stored


async def test_a_run_that_was_cut_off_is_taken_up_again_under_its_name(tmp_path: Path) -> None:
    async with world(filled(tmp_path), tmp_path) as one:
        with one.catalogue.database.write() as connection:
            from smartmail.store import backups

            backups.begin(connection, Activity.BACKUP, one.clock(), job="mail", repository="onsite", run="cut")
        one.clock.now_ms += 60_000
        done = await one.night.run()
        assert [each.run for each in done] == ["cut", "cut"]
        records = await one.catalogue.records(Activity.BACKUP)
        assert [(each.state, each.reason) for each in records] == [
            (RunState.OK, Reason.NONE),
            (RunState.FAILED, Reason.CUT_OFF),
        ]


async def test_an_offsite_that_is_away_fails_alone_and_is_caught_up(tmp_path: Path) -> None:
    plan = filled(tmp_path)
    async with world(plan, tmp_path) as one:
        (tmp_path / "offsite").rename(tmp_path / "gone")
        first = await one.night.run()
        assert [(each.end.state, each.end.reason) for each in first] == [
            (RunState.OK, Reason.NONE),
            (RunState.FAILED, Reason.NO_REPOSITORY),
        ]
        (tmp_path / "gone").rename(tmp_path / "offsite")
        (second,) = await one.night.run()
        assert second.end.state is RunState.OK
        assert second.end.facts["runs"] == [first[0].run]


async def test_a_copy_with_other_chunker_parameters_is_refused(tmp_path: Path) -> None:
    plan = filled(tmp_path)
    async with world(plan, tmp_path, init=False) as one:
        for vault in one.vaults.values():
            await vault.init()
        done = await one.night.run()
        assert [each.end.reason for each in done] == [Reason.NONE, Reason.CHUNKER_DIFFERS]


async def test_a_wrong_password_offsite_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    plan = filled(tmp_path)
    async with world(plan, tmp_path) as one:
        file = Path(plan.repository("offsite").at.password_file)
        right = file.read_text()
        file.write_text("wrong\n")
        done = await one.night.run()
        assert [each.end.reason for each in done] == [Reason.NONE, Reason.WRONG_PASSWORD]
        file.write_text(right)
        (caught,) = await one.night.run()
        assert caught.end.state is RunState.OK


async def test_a_source_that_vanished_is_no_backup(tmp_path: Path) -> None:
    plan = filled(tmp_path)
    async with world(plan, tmp_path) as one:
        await one.night.run()
        (tmp_path / "vmail").rename(tmp_path / "elsewhere")
        one.clock.now_ms += 3_600_000
        done = await one.night.run()
        assert [(each.end.state, each.end.reason) for each in done] == [(RunState.FAILED, Reason.SOURCE_MISSING)]


async def test_two_orchestrators_at_once_do_the_work_once(tmp_path: Path) -> None:
    async with world(filled(tmp_path), tmp_path) as one:
        both: Sequence[list[object]] = await asyncio.gather(one.night.run(), one.night.run())  # type: ignore[assignment]
        assert len(await one.vaults["onsite"].snapshots()) == 1, both
        assert len(await one.vaults["offsite"].snapshots()) == 1


async def test_only_the_jobs_that_are_named_are_run(tmp_path: Path) -> None:
    plan = filled(tmp_path)
    config = replace(plan.jobs[0], name="other")
    async with world(replace(plan, jobs=(*plan.jobs, config)), tmp_path) as one:
        done = await one.night.run(["other"])
        assert {each.job for each in done if each.activity is Activity.BACKUP} == {"other"}


async def test_a_repository_that_was_changed_for_another_is_found_out(tmp_path: Path) -> None:
    """The second copy does not ask for the chunker parameters again, unless nothing of the first is left."""
    plan = filled(tmp_path)
    async with world(plan, tmp_path) as one:
        await one.night.run()
        (tmp_path / "offsite").rename(tmp_path / "first")
        await one.vaults["offsite"].init()
        one.clock.now_ms += 3_600_000
        done = await one.night.run()
        assert [each.end.reason for each in done] == [Reason.NONE, Reason.CHUNKER_DIFFERS]
