"""Mailboxes staged by a real Dovecot: what is in them, with flags and dates, and only what changed the next time."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.mailservers import MAIL_UID, Dovecot
from support.processes import short_directory

from smartmail.backup.mailstaging import stage_mailboxes
from smartmail.backup.sources import prepare
from smartmail.backup.walk import mailboxes, sampled
from smartmail.core.backup_due import Schedule
from smartmail.core.backup_plan import BackupPlan, DrillPlan, JobKind, JobPlan
from smartmail.core.backup_record import Reason
from smartmail.core.manifest import SamplePlan

HOURLY = Schedule(every_minutes=60)
USER = "erin@example.org"


def put(dovecot: Dovecot, name: str, text: str = "hello") -> Path:
    """A message in the user's mailbox."""
    maildir = dovecot.maildir(USER)
    for part in ("", "cur", "new", "tmp"):
        (maildir / part).mkdir(parents=True, exist_ok=True)
    file = maildir / "cur" / name
    file.write_text(f"From: a@example.org\r\nSubject: x\r\n\r\n{text}\r\n")
    os.utime(file, (1_700_000_000, 1_700_000_000))
    for one in (file, *file.parents):
        if one == dovecot.directory:
            break
        os.chown(one, MAIL_UID, MAIL_UID)
    return file


def make_plan(dovecot: Dovecot, folder: Path) -> BackupPlan:
    """A plan whose doveadm speaks to this Dovecot."""
    doveadm = folder / "doveadm"
    doveadm.write_text(f'#!/bin/sh\nexec /usr/bin/doveadm -c {dovecot.directory}/dovecot.conf "$@"\n')
    doveadm.chmod(0o755)
    job = JobPlan("mdbox", JobKind.DOVECOT, "onsite", HOURLY, users=("*@example.org",))
    drill = DrillPlan("", HOURLY, SamplePlan(), 1)
    return BackupPlan("mx1", "UTC", str(folder / "state"), "restic", str(doveadm), (job,), (), drill)


async def test_mailboxes_are_staged_as_they_are(dovecot: Dovecot) -> None:
    with short_directory("staging") as folder:
        plan = make_plan(dovecot, folder)
        shutil.rmtree(dovecot.maildir(USER), ignore_errors=True)
        first, second = put(dovecot, "1700000001.M1P1.mx1:2,FS"), put(dovecot, "1700000002.M2P1.mx1:2,")
        logged: list[str] = []
        prepared = await prepare(plan.jobs[0], plan, logged.append)
        assert (prepared.unread, logged) == ((), [])
        layout = prepared.job.layout
        assert layout is not None
        assert USER in [one.address for one in mailboxes(layout)]
        staged = [*Path(layout.maildir(USER)).glob("cur/*"), *Path(layout.maildir(USER)).glob("new/*")]
        assert sorted(one.name.partition(":2,")[2] for one in staged) == ["", "FS"]
        assert {int(one.stat().st_mtime) for one in staged} == {1_700_000_000}
        assert {one.stat().st_uid for one in staged} == {MAIL_UID}
        found = sampled(prepared.job, "run", 1, "s", SamplePlan())
        assert found.manifest.totals[USER].messages == 2
        assert found.entropy_permille == 0

        inode = {one.stat().st_ino for one in staged}
        first.unlink()
        (dovecot.maildir(USER) / "cur" / "1700000003.M3P1.mx1:2,").write_bytes(second.read_bytes())
        os.chown(dovecot.maildir(USER) / "cur" / "1700000003.M3P1.mx1:2,", MAIL_UID, MAIL_UID)
        await prepare(plan.jobs[0], plan, logged.append)
        again = [*Path(layout.maildir(USER)).glob("cur/*"), *Path(layout.maildir(USER)).glob("new/*")]
        assert len(again) == 2
        assert len({one.stat().st_ino for one in again} & inode) == 1


async def test_a_user_who_is_not_there_is_told_of(dovecot: Dovecot) -> None:
    with short_directory("staging") as folder:
        plan = make_plan(dovecot, folder)
        put(dovecot, "1700000009.M9P1.mx1:2,S")
        job = replace(plan.jobs[0], users=("nobody@example.org", USER))
        logged: list[str] = []
        assert await stage_mailboxes(job, plan, f"{folder}/state/staging/mdbox", logged.append) == (
            "nobody@example.org",
        )
        assert logged


async def test_a_dovecot_that_is_not_there(dovecot: Dovecot) -> None:
    with short_directory("staging") as folder:
        plan = replace(make_plan(dovecot, folder), doveadm="/nonexistent/doveadm")
        with pytest.raises(Exception, match="cannot be started") as caught:
            await prepare(plan.jobs[0], plan, print)
        assert getattr(caught.value, "reason", None) is Reason.DUMP_FAILED
