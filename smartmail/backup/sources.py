"""A job's source, made ready and let go again: hooks, a look whether it is what it must be, the dump.

An unmounted disk, an emptied folder and half a dump all look like a successful backup to restic; they are told apart
here, before anything is stored.
"""

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from smartmail.backup import walk
from smartmail.backup.child import plain_environment, run_child
from smartmail.backup.dumps import Staging, dump_postgresql, dump_sqlite, octets_of
from smartmail.backup.faults import SourceError
from smartmail.backup.mailstaging import stage_mailboxes
from smartmail.backup.process import unhurried
from smartmail.core import backup_dumps as ask
from smartmail.core.backup_plan import BackupPlan, JobKind, JobPlan
from smartmail.core.backup_record import Reason
from smartmail.core.maildir import escaped, exclusions

__all__ = ["Prepared", "SourceError", "prepare", "release"]

Log = Callable[[str], None]

_OURS: Final = ("cache", "scratch", "staging", "leases", "excludes")
"""What of our own folder no job backs up."""
_DUMPED: Final = frozenset((JobKind.SQLITE, JobKind.POSTGRESQL))
_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """What restic is to read. paths: absolute; excludes: its patterns. job: with the layout of what is in the staging
    folder, where mailboxes were staged. unread: what could not be dumped, though most could: it counts as unreadable
    items. staging: where secrets are, "" for nowhere."""

    paths: tuple[str, ...]
    excludes: tuple[str, ...]
    job: JobPlan
    unread: tuple[str, ...] = ()
    staging: str = ""


async def prepare(job: JobPlan, plan: BackupPlan, log: Log) -> Prepared:
    """Run the hooks, look at the source, dump it. Whatever fails or is cancelled, the after-hooks run. What is made is
    to be handed to `release`. Raises SourceError."""
    try:
        await _before(job)
        await asyncio.to_thread(_mounted, job)
        return await _made(job, plan, log)
    except BaseException:
        for fault in await _let_go(job, _secrets(job, plan)):
            log(fault)
        raise


async def release(prepared: Prepared) -> list[str]:
    """Run the after-hooks and remove dumps of databases, which have secrets in them. Returns what went wrong, in
    words; raises nothing of its own."""
    return await _let_go(prepared.job, prepared.staging)


async def _let_go(job: JobPlan, staging: str) -> list[str]:
    """To its end, whatever becomes of each part, and of us."""
    faults: list[str] = []

    async def work() -> None:
        if staging:
            try:
                await asyncio.to_thread(Staging(Path(staging)).clear)
            except OSError as error:
                faults.append(f"the dump in {staging} could not be removed: {error}; remove it by hand")
        for argv in job.hooks.after:
            fault = await _hook(job, argv, "after")
            if fault:
                faults.append(fault)

    await unhurried(work())
    return faults


def _secrets(job: JobPlan, plan: BackupPlan) -> str:
    return ask.staging_folder(plan.folder, job) if job.kind in _DUMPED else ""


async def _made(job: JobPlan, plan: BackupPlan, log: Log) -> Prepared:
    folder = Path(ask.staging_folder(plan.folder, job))
    match job.kind:
        case JobKind.SQLITE:
            await asyncio.to_thread(_there, job)
            await dump_sqlite(job, Staging(folder))
            return await _dumped(job, folder)
        case JobKind.POSTGRESQL:
            await dump_postgresql(job, Staging(folder))
            return await _dumped(job, folder)
        case JobKind.DOVECOT:
            place = job.paths[0] if job.paths else str(folder)
            unread = await stage_mailboxes(job, plan, place, log)
            layout = ask.staging_layout(place)
            staged = replace(job, layout=layout, paths=(place,))
            await asyncio.to_thread(_enough, staged, (place,))
            return Prepared((place,), _excludes(staged, plan), staged, unread)
        case JobKind.QUEUE:
            paths = await asyncio.to_thread(_queue, job, folder)
            return Prepared(paths, _excludes(job, plan), job)
        case _:
            await asyncio.to_thread(_there, job)
            await asyncio.to_thread(_enough, job, job.paths)
            if job.layout is not None:
                _warn_of(await asyncio.to_thread(walk.linked, job.layout), log)
            return Prepared(job.paths, _excludes(job, plan), job)


async def _dumped(job: JobPlan, folder: Path) -> Prepared:
    octets = await asyncio.to_thread(octets_of, (str(folder),))
    if octets < job.usual.least_octets:
        what = f"the dump of {job.database or ', '.join(job.paths)} has {octets} octets, where {job.usual.least_octets}"
        raise SourceError(Reason.SOURCE_TOO_SMALL, f"{what} are the least", "is it the right database?")
    return Prepared((str(folder),), job.excludes, job, staging=str(folder))


def _excludes(job: JobPlan, plan: BackupPlan) -> tuple[str, ...]:
    mail = exclusions((job.layout.pattern(),)) if job.layout is not None else ()
    inside = any(plan.folder == path or plan.folder.startswith(f"{path.rstrip('/')}/") for path in job.paths)
    ours = tuple(f"{escaped(plan.folder)}/{name}" for name in _OURS) if inside else ()
    return (*mail, *ours, *job.excludes)


# hooks


async def _before(job: JobPlan) -> None:
    for argv in job.hooks.before:
        fault = await _hook(job, argv, "before")
        if fault:
            raise SourceError(Reason.HOOK_FAILED, fault, "the backup was not begun: run the command by hand")


async def _hook(job: JobPlan, argv: Sequence[str], when: str) -> str:
    """Run one. Returns what went wrong, "" if nothing."""
    env = plain_environment({"SMARTMAIL_JOB": job.name, "SMARTMAIL_HOOK": when})
    name = f"the {when}-hook {argv[0]} of job {job.name}"
    try:
        ended = await run_child(argv, env, job.hooks.limit_s)
    except (OSError, ValueError) as error:
        return f"{name} cannot be started: {error}"
    return "" if ended.ok else f"{name}: {ended.how(job.hooks.limit_s)}"


# what a source must be


def _mounted(job: JobPlan) -> None:
    for path in job.usual.mounted:
        if not os.path.ismount(path):
            raise SourceError(Reason.NOT_MOUNTED, f"{path} is no mount point", f"mount it: mount {path}")


def _there(job: JobPlan) -> None:
    """Each path is there, can be read, and is not empty."""
    if not job.paths:
        raise SourceError(
            Reason.SOURCE_MISSING, f"the job {job.name} names no paths", "write them into the job's paths"
        )
    for path in job.paths:
        try:
            found = os.stat(path)  # noqa: PTH116
            if job.kind is not JobKind.SQLITE and os.path.islink(path):  # noqa: PTH114
                real = os.path.realpath(path)
                # restic keeps a link as a link, and calls that a success.
                raise SourceError(Reason.SOURCE_MISSING, f"{path} is a link to {real}", f"write {real} into the paths")
            if stat.S_ISDIR(found.st_mode):
                if job.kind is JobKind.SQLITE:
                    raise SourceError(Reason.SOURCE_MISSING, f"{path} is a folder, no database", "name its file")
                with os.scandir(path) as entries:
                    empty = next(entries, None) is None
            else:
                with open(path, "rb"):  # noqa: PTH123
                    empty = found.st_size == 0
        except OSError as error:
            raise _unreachable(path, error) from error
        if empty:
            raise SourceError(Reason.SOURCE_EMPTY, f"{path} is empty", "is its disk mounted?")


def _unreachable(path: str, error: OSError) -> SourceError:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return SourceError(
                Reason.SOURCE_MISSING, f"{path} is not there", "is its disk mounted, and the path right?"
            )
        case PermissionError():
            return SourceError(Reason.ITEMS_UNREADABLE, f"{path} may not be read by us", "run as a user who may")
        case _:
            return SourceError(Reason.SOURCE_MISSING, f"{path} cannot be reached: {error.strerror or error}")


def _enough(job: JobPlan, paths: Sequence[str]) -> None:
    """At least so many files and octets; looked at no further than that."""
    usual = job.usual
    files, octets = walk.at_least(paths, usual.least_files, usual.least_octets)
    if files < usual.least_files or octets < usual.least_octets:
        reason = Reason.SOURCE_TOO_SMALL if files else Reason.SOURCE_EMPTY
        least = f"where {usual.least_files} and {usual.least_octets} are the least"
        raise SourceError(
            reason,
            f"{', '.join(paths)}: {files} files with {octets} octets, {least}",
            "is something missing? else lower least_files or least_octets",
        )


def _queue(job: JobPlan, folder: Path) -> tuple[str, ...]:
    """The queue's folders, and beside them how to bring them back."""
    places = job.paths or ("/var/spool/postfix",)
    found = []
    for place in places:
        try:
            os.stat(place)  # noqa: PTH116
        except OSError as error:
            raise _unreachable(place, error) from error
        here = [f"{place.rstrip('/')}/{name}" for name in ask.QUEUE_FOLDERS]
        here = [path for path in here if os.path.isdir(path)]  # noqa: PTH112
        if not here:
            raise SourceError(
                Reason.SOURCE_EMPTY, f"{place} has none of Postfix's queue folders", "see: postconf queue_directory"
            )
        found += here
    note = folder / ask.QUEUE_NOTE_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not note.exists() or note.read_text() != ask.QUEUE_NOTE:
            note.write_text(ask.QUEUE_NOTE)
    except OSError as error:
        raise SourceError(
            Reason.DUMP_FAILED, f"{note} cannot be written: {error.strerror}", "make room there"
        ) from error
    return (*found, str(note))


def _warn_of(links: Sequence[str], log: Log) -> None:
    if links:
        named = ", ".join(links[:_NAMED])
        log(f"{len(links)} links among the mailboxes, and what they lead to is not backed up by them: {named}")
