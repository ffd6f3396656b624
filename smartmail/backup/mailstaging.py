"""Mailboxes of any format as Maildirs in a staging folder, by `doveadm backup`: each night only what changed."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from smartmail.backup import walk
from smartmail.backup.child import plain_environment
from smartmail.backup.dumps import run_tool
from smartmail.backup.faults import SourceError
from smartmail.core import backup_dumps as ask
from smartmail.core.backup_plan import BackupPlan, JobPlan
from smartmail.core.backup_record import Reason
from smartmail.core.mailbox_place import LayoutError

AT_ONCE: Final = 4
LIMIT_S: Final = 3600.0
"""For one user."""
TRIES: Final = 3
"""doveadm says with exit code 2 that mailboxes changed meanwhile, and that it is to be run again."""
_AGAIN: Final = frozenset((2, 75))
_BRIEF_S: Final = 120.0
_FEW: Final = 5


async def stage_mailboxes(job: JobPlan, plan: BackupPlan, folder: str, log: Callable[[str], None]) -> tuple[str, ...]:
    """Bring `folder` to what the mailboxes are now, and take away those of users that are gone. Returns the users whose
    mailboxes could not be staged (of those what was staged before is still there). Raises SourceError."""
    users = await _users(job, plan)
    places = _places(job, folder, users)
    try:
        await asyncio.to_thread(_tidied, job, folder, places)
        await asyncio.to_thread(_passable, Path(folder), Path(plan.folder))
    except OSError as error:
        raise SourceError(
            Reason.DUMP_FAILED,
            f"{error.filename or folder}: {error.strerror}",
            "make room there, or let us write there",
        ) from error
    guard = asyncio.Semaphore(AT_ONCE)
    faults: dict[str, str] = {}

    async def one(user: str) -> None:
        async with guard:
            fault = await _staged(plan, user, places[user])
        if fault:
            faults[user] = fault
            log(f"the mailboxes of {user} could not be staged: {fault}")

    async with asyncio.TaskGroup() as group:
        for user in users:
            group.create_task(one(user))
    if len(faults) > job.most_partial or len(faults) == len(users):
        user, fault = min(faults.items())
        what = f"the mailboxes of {len(faults)} of {len(users)} users could not be staged; {user}: {fault}"
        raise SourceError(Reason.DUMP_FAILED, what, f"try: {plan.doveadm} backup -u {user} maildir:/tmp/try")
    return tuple(sorted(faults))


async def _users(job: JobPlan, plan: BackupPlan) -> list[str]:
    found: dict[str, None] = {}
    for pattern in job.users or ("*",):
        if not ask.is_pattern(pattern):
            found[pattern] = None
            continue
        ended = await run_tool(ask.dovecot_users(plan.doveadm, pattern), _BRIEF_S, plain_environment())
        if not ended.ok or ended.cut:
            what = f"{plan.doveadm} user {pattern!r}: {ended.how(_BRIEF_S)}"
            raise SourceError(Reason.DUMP_FAILED, what, "is Dovecot running, and can its userdb list users?")
        found |= dict.fromkeys(ended.stdout.splitlines())
    found.pop("", None)
    if not found:
        raise SourceError(Reason.SOURCE_EMPTY, f"{plan.doveadm} names no users", "see the job's users")
    return list(found)


def _places(job: JobPlan, folder: str, users: list[str]) -> dict[str, str]:
    layout = ask.staging_layout(folder)
    try:
        return {user: layout.maildir(user) for user in users}
    except LayoutError as error:
        what = f"the job {job.name}: {error}"
        raise SourceError(Reason.DUMP_FAILED, what, "only users with a domain can be staged") from None


def _tidied(job: JobPlan, folder: str, places: dict[str, str]) -> None:
    """Take away the mailboxes of users that are gone; if many are at once, doveadm is likelier to be wrong."""
    known = set(places.values())
    staged = walk.mailboxes(ask.staging_layout(folder))
    gone = [one.maildir for one in staged if one.maildir not in known]
    if len(gone) > _FEW and len(gone) * 100 > len(staged) * job.usual.percent:
        raise SourceError(
            Reason.SOURCE_TOO_SMALL,
            f"{len(gone)} of {len(staged)} users with mailboxes are no longer there",
            f"if that is right, remove {folder} and run the job again",
        )
    for maildir in gone:
        shutil.rmtree(Path(maildir).parent)


def _passable(folder: Path, ours: Path) -> None:
    """doveadm writes as the user, who has to get there. What is on the way stays unlisted to others."""
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    for one in (folder, *folder.parents) if os.geteuid() == 0 else ():
        mode = one.stat().st_mode
        if mode & 0o001:
            continue
        if one != folder and not one.is_relative_to(ours):
            what = f"the users' mail cannot be staged in {folder}: {one} lets nobody through"
            raise SourceError(Reason.DUMP_FAILED, what, "name a folder in the job's paths that all can get to")
        one.chmod(mode & 0o7777 | 0o011)


async def _staged(plan: BackupPlan, user: str, maildir: str) -> str:
    """Stage one user. Returns what went wrong, "" if nothing."""
    fault = await _owned(plan, user, Path(maildir))
    for _ in range(0 if fault else TRIES):
        ended = await run_tool(ask.dovecot_backup(plan.doveadm, user, maildir), LIMIT_S, plain_environment())
        fault = "" if ended.ok else ended.how(LIMIT_S)
        if ended.code not in _AGAIN:
            break
    return fault


async def _owned(plan: BackupPlan, user: str, maildir: Path) -> str:
    """Make the user's folder, of the user."""
    home = maildir.parent
    if await asyncio.to_thread(home.is_dir):
        return ""
    numbers = []
    for field in ("uid", "gid"):
        ended = await run_tool(ask.dovecot_field(plan.doveadm, user, field), _BRIEF_S, plain_environment())
        text = ended.stdout.strip()
        numbers.append(int(text) if ended.ok and text.isascii() and text.isdigit() else None)
    uid, gid = numbers

    def make() -> None:
        home.parent.mkdir(mode=0o711, exist_ok=True)
        home.parent.chmod(0o711)
        home.mkdir(mode=0o700)
        if os.geteuid() == 0 and uid is not None and gid is not None:
            os.chown(home, uid, gid)

    try:
        await asyncio.to_thread(make)
    except OSError as error:
        return f"{home}: {error.strerror}"
    return ""
