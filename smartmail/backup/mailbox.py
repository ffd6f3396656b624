"""One mailbox back: found in a restore point, counted, and put into the live mailbox, a Maildir or a zip.

`find` lists what the restore point has below the mailbox's own Maildir, `restore` says how much of it is missing and
then brings just that. As few commands of restic as can be: each takes a second to open the repository. Nothing is
written before the counts are told, and of a message nothing but its header is looked at.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from smartmail.backup.doveadm import Account, Doveadm, Namespace, Quota, by_folder_below, too_much
from smartmail.backup.mailbox_files import (
    KEYWORDS,
    Maker,
    Restored,
    Room,
    came_back,
    header_of,
    names_in_archive,
    names_there,
    write_archive,
)
from smartmail.backup.mailbox_find import Found, find, layout_of, together
from smartmail.backup.process import unhurried
from smartmail.backup.vault import Vault
from smartmail.core import restic as ask
from smartmail.core.backup_plan import BackupPlan
from smartmail.core.mailbox_restore import (
    FolderCount,
    Into,
    Message,
    Refusal,
    RestoreError,
    counts,
    divided,
    fits,
    held,
)
from smartmail.core.restic_version import Outcome

__all__ = ["Brought", "Counts", "Found", "Step", "find", "restore"]

FEW: Final = 200
"""Up to so many messages are asked for one by one, more by their folders."""
MANY_FOLDERS: Final = 500


class Step(StrEnum):
    """What a restore is at."""

    LISTING = "listing"
    RESTORING = "restoring"
    ADDING = "adding"


Told = Callable[["Counts"], None]
"""Hears the counts before anything is written. What it raises ends the restore."""
Progress = Callable[[Step, int, int], None]
"""Hears the step, what is done of it and how much it is. Called in threads, too; must be quick."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Before anything is written. found: those that are wished for; already: of them, those that an earlier restore
    has put there; adding: the others; live: how many of `found` are in the live mailbox still, None if not into it;
    unreadable: those whose header could not be read, which are not in `found`."""

    found: int
    octets: int
    already: int
    adding: int
    adding_octets: int
    live: int | None
    unreadable: int
    folders: tuple[FolderCount, ...]


@dataclass(frozen=True, slots=True)
class Brought:
    """The end of it. added: how many were put there; lost: how many the repository could not give back whole; where:
    the mailbox's or file's name; words: what restic said of what is lost. dry: nothing was to be written."""

    counts: Counts
    where: str
    added: int = 0
    lost: int = 0
    words: str = ""
    dry: bool = False


@dataclass(slots=True)
class _There:
    """Where it goes, as it is now. names: of each folder what it has; live: all GUIDs of the live mailbox."""

    where: str
    names: dict[str, set[str]] = field(default_factory=dict)
    live: set[str] | None = None
    account: Account | None = None
    namespace: Namespace = field(default_factory=Namespace)
    quotas: tuple[Quota, ...] = ()


# restoring


async def restore(
    vault: Vault,
    plan: BackupPlan,
    found: Found,
    *,
    dry_run: bool = False,
    told: Told | None = None,
    progress: Progress | None = None,
) -> Brought:
    """Bring what was found to where it is wished. dry_run: only count. A restore that is repeated, also after it was
    killed, adds what is missing and nothing else. Raises RestoreError, VaultError, ResticError."""
    if dry_run and not found.wish.needs_headers:
        work = _Restore(vault, plan, found, None, progress)
        return await work.run(dry_run, told)
    key = f"{found.wish.into}:{found.wish.target or found.wish.address}"
    room = await asyncio.to_thread(Room.open, Path(plan.folder), key)
    try:
        return await _Restore(vault, plan, found, room, progress).run(dry_run, told)
    finally:
        await unhurried(asyncio.to_thread(room.close))


class _Restore:
    """One restore, from the counts to the end. room: None if it only counts."""

    def __init__(
        self, vault: Vault, plan: BackupPlan, found: Found, room: Room | None, progress: Progress | None
    ) -> None:
        self.vault, self.found, self.wish, self.room = vault, found, found.wish, room
        self.live = [one for job in plan.jobs if (one := layout_of(plan, job)) is not None]
        self.doveadm = Doveadm(plan.doveadm)
        self.tell = progress or (lambda step, done, total: None)
        self.words = ""

    async def run(self, dry_run: bool, told: Told | None) -> Brought:
        there = await self._there()
        messages, lost, unreadable = self.found.messages, 0, 0
        files: list[Restored] = []
        if self.wish.needs_headers:
            files, gone = await self._fetch(messages)
            files, unreadable = await asyncio.to_thread(self._fitting, files)
            messages, lost = tuple(one.message for one in files), len(gone)
        division = divided(messages, there.names)
        missing = division.missing
        numbers = _counted(messages, len(division.already), missing, there, unreadable)
        if told is not None:
            told(numbers)
        self._refuse(missing, there)
        if dry_run or not missing:
            return Brought(numbers, there.where, lost=lost, words=self.words, dry=dry_run)
        if not self.wish.needs_headers:
            files, gone = await self._fetch(missing)
            lost = len(gone)
        wanted = set(missing)
        files = [one for one in files if one.message in wanted]
        added = await self._put(files, there)
        return Brought(numbers, there.where, added, lost, self.words)

    async def _there(self) -> _There:
        wish, target = self.wish, Path(self.wish.target)
        folders = [one.folder for one in self.found.messages]
        if wish.into is Into.FOLDER:
            ours = any(layout.address(str(target)) for layout in self.live)
            if ours and await asyncio.to_thread(target.exists):
                words = f"{target} is a live mailbox: old names may not be put over it"
                raise RestoreError(Refusal.TARGET, words, "restore into live, or name another folder")
            return _There(str(target), await asyncio.to_thread(names_there, target, folders))
        if wish.into is Into.ARCHIVE:
            names = await asyncio.to_thread(names_in_archive, target)
            if not target.parent.is_dir():
                raise RestoreError(Refusal.TARGET, f"there is no folder {target.parent}", "make it first")
            return _There(str(target), names or {})
        account = await self.doveadm.account(wish.account)
        namespace, quotas, guids = await asyncio.gather(
            self.doveadm.namespace(), self.doveadm.quota(wish.account), self.doveadm.guids(wish.account)
        )
        parent = f"{namespace.prefix}{self.found.label}"
        names = by_folder_below(guids, parent, namespace.separator)
        live = {guid for box, some in guids.items() if not box.startswith(parent) for guid in some}
        return _There(parent, names, live, account, namespace, quotas)

    def _refuse(self, missing: Sequence[Message], there: _There) -> None:
        """Before anything is written."""
        if self.wish.into is Into.ARCHIVE and there.names and missing:
            words = f"{there.where} is the archive of another restore: {len(missing)} messages are not in it"
            raise RestoreError(Refusal.TARGET, words, "name another file")
        octets = sum(one.counted for one in missing)
        limit = too_much(there.quotas, len(missing), octets)
        if limit is not None and missing:
            unit = " KiB" if limit.kind == "STORAGE" else " messages"
            words = (
                f"{self.wish.account} has {limit.value} of {limit.limit}{unit} in use ({limit.root}), and"
                f" {len(missing)} messages with {-(-octets // 1024)} KiB would come: that is over the quota"
            )
            hint = "raise the quota, restore one folder or a few days, or restore into a folder or an archive"
            raise RestoreError(Refusal.OVER_QUOTA, words, hint)

    # what restic gives back

    async def _fetch(self, messages: Sequence[Message]) -> tuple[list[Restored], list[Message]]:
        """One command for each snapshot that has some of them."""
        room = self._room()
        await asyncio.to_thread(room.need, sum(one.size for one in messages))
        by_member: dict[int, list[Message]] = defaultdict(list)
        for one in messages:
            by_member[one.member].append(one)
        self.tell(Step.RESTORING, 0, len(messages))
        roots = {member: room.source(member) for member in by_member}
        await together(*(self._ask(member, roots[member], some) for member, some in by_member.items()))
        whole, lost = await asyncio.to_thread(came_back, messages, roots)
        if messages and not whole:
            words = f"repository {self.vault.name} gave back none of {len(messages)} messages: {self.words}"
            raise RestoreError(Refusal.INCOMPLETE, words.rstrip(": "), "name another repository, or an earlier time")
        self.tell(Step.RESTORING, len(whole), len(messages))
        return whole, lost

    async def _ask(self, member: int, root: Path, messages: Sequence[Message]) -> None:
        wish = ask.Restore(self.found.snapshots[member], str(root), self._patterns(messages), verify=True)
        run = await self.vault.run(ask.restore(self.vault.known, self.vault.at, wish))
        if run.outcome is Outcome.DAMAGED:
            # What is whole is worth having: the rest is counted as lost.
            self.words = str(self.vault.failure(run))
        elif not run.ok:
            raise self.vault.failure(run)

    def _patterns(self, messages: Sequence[Message]) -> tuple[str, ...]:
        paths = dict.fromkeys(one.path for one in messages)
        if self._with_rest() or len(paths) > MANY_FOLDERS:
            return (ask.literal(self.found.maildir),)
        keywords = [f"{path}/{KEYWORDS}" for path in paths]
        if len(messages) <= FEW:
            files = [one.file for one in messages]
        else:
            files = [f"{path}/{kind}" for path in paths for kind in ("cur", "new")]
        return tuple(ask.literal(one) for one in (*keywords, *files))

    def _with_rest(self) -> bool:
        """Do UIDs and subscriptions come, too? They mean something only beside all of the messages."""
        return self.wish.into is Into.FOLDER and self.wish.whole

    def _fitting(self, files: Sequence[Restored]) -> tuple[list[Restored], int]:
        found, unreadable = [], 0
        for one in files:
            header = header_of(one.file)
            if not header.readable:
                unreadable += 1
            elif fits(header, self.wish):
                found.append(one)
        return found, unreadable

    # where it goes

    async def _put(self, files: list[Restored], there: _There) -> int:
        self.tell(Step.ADDING, 0, len(files))
        if self.wish.into is Into.ARCHIVE:
            await asyncio.to_thread(write_archive, Path(there.where), files, self._step(files))
            return len(files)
        if self.wish.into is Into.FOLDER:
            await asyncio.to_thread(self._make_folder, files, Path(there.where))
            return len(files)
        return await self._import(files, there)

    def _make_folder(self, files: Sequence[Restored], target: Path) -> None:
        maildirs = {one.message.member: self._room().source(one.message.member) for one in files}
        maker = Maker(target, None, self._step(files))
        maker.fill(files)
        if self._with_rest():
            below = self.found.maildir.lstrip("/")
            maker.add_rest(maildirs[member] / below for member in sorted(maildirs, reverse=True))

    async def _import(self, files: list[Restored], there: _There) -> int:
        account = there.account
        if account is None:
            raise AssertionError("into live only")
        address, parent = self.wish.account, there.where
        maildir = await asyncio.to_thread(self._hand_over, files, account)
        answer = await self.doveadm.bring(address, str(maildir), parent)
        now = by_folder_below(await self.doveadm.guids(address, parent), parent, there.namespace.separator)
        wanted = [one.message for one in files]
        added = sum(held(one, now.get(one.folder, ())) for one in wanted)
        self.tell(Step.ADDING, added, len(wanted))
        if added < len(wanted):
            words = f"{added} of {len(wanted)} messages came into {parent} of {address}: {answer.words}"
            raise RestoreError(
                Refusal.MAIL_SERVER, words, "put that right and repeat it: what is there comes not again"
            )
        return added

    def _hand_over(self, files: Sequence[Restored], account: Account) -> Path:
        room = self._room()
        maildir = room.handed_over(account)
        if maildir.parent.stat().st_dev != room.folder.stat().st_dev:
            room.need(sum(one.message.size for one in files), maildir.parent)
        Maker(maildir, account, lambda done: None).fill(files)
        return maildir

    def _step(self, files: Sequence[Restored]) -> Callable[[int], None]:
        return lambda done: self.tell(Step.ADDING, done, len(files))

    def _room(self) -> Room:
        if self.room is None:
            raise AssertionError("a count writes nothing")
        return self.room


def _counted(
    messages: Sequence[Message], already: int, missing: Sequence[Message], there: _There, unreadable: int
) -> Counts:
    live = None if there.live is None else sum(held(one, there.live) for one in messages)
    return Counts(
        len(messages),
        sum(one.size for one in messages),
        already,
        len(missing),
        sum(one.size for one in missing),
        live,
        unreadable,
        counts(messages),
    )
