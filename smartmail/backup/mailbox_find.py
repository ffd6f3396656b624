"""A mailbox looked for in a repository: which restore point, which snapshots of it, which messages.

Only what is below the mailbox's own Maildir is listed: one command of restic for the snapshots, one for each snapshot
of the point, and one more for an error that is to name the nearest mailboxes.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from zoneinfo import ZoneInfo

from smartmail.backup.vault import Vault
from smartmail.core.backup_plan import BackupPlan, JobKind, JobPlan
from smartmail.core.erasure import Tombstone, erased
from smartmail.core.mailbox_place import Layout, LayoutError
from smartmail.core.mailbox_restore import (
    FolderCount,
    Message,
    Refusal,
    RestoreError,
    Wish,
    check,
    counts,
    gathered,
    mailboxes_of,
    maildirs_of,
    selected,
)
from smartmail.core.points import PointNotFound, RestorePoint, Snapshot, nearest_names, point_at, restore_points, shown
from smartmail.core.restic_messages import Node

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """What a restore point has. snapshots: ids in this repository, oldest first; messages: as far as a listing tells
    them; partial: is anything of the point known to be incomplete? label: the name of what is made of it, with its
    date."""

    wish: Wish
    job: str
    run: str
    time_ms: int
    partial: bool
    maildir: str
    snapshots: tuple[str, ...]
    messages: tuple[Message, ...]
    label: str

    @property
    def folders(self) -> tuple[FolderCount, ...]:
        """How many messages each folder has."""
        return counts(self.messages)


async def find(
    vault: Vault,
    plan: BackupPlan,
    wish: Wish,
    *,
    tombstones: Iterable[Tombstone] = (),
    snapshots: Sequence[Snapshot] | None = None,
) -> Found:
    """What the newest restore point not after the wish's time has of the mailbox. snapshots: of this repository, if
    they are listed already. Raises PointNotFound, RestoreError, VaultError, ResticError."""
    check(wish)
    jobs = [(one, layout) for one in plan.jobs_in(vault.name) if (layout := layout_of(plan, one)) is not None]
    if not jobs:
        raise RestoreError(Refusal.NO_JOB, f"no job with mailboxes is in {vault.name}", "name another repository")
    listed = await vault.snapshots(plan.host) if snapshots is None else snapshots
    points = restore_points({vault.name: [one for one in listed if one.host == plan.host]})
    zone = ZoneInfo(plan.zone)
    tried: list[tuple[JobPlan, Layout, RestorePoint]] = []
    missing: PointNotFound | None = None
    for job, layout in jobs:
        try:
            point = point_at([one for one in points if one.of_job(job.name)], wish.at_ms, zone)
        except PointNotFound as error:
            missing = missing or error
            continue
        tried.append((job, layout, point))
    if not tried and missing is not None:
        raise missing
    _refuse_erased(wish, tombstones, [point for _, _, point in tried])
    found = await together(*(_look(vault, plan, wish, *one) for one in tried))
    best = next((one for one in found if one is not None and one.messages), None)
    best = best or next((one for one in found if one is not None), None)
    if best is None:
        raise await _no_mailbox(vault, plan, wish, tried)
    return best


def layout_of(plan: BackupPlan, job: JobPlan) -> Layout | None:
    """Where a job's snapshots have mailboxes; None if it has none."""
    if job.kind is JobKind.DOVECOT:
        try:
            return Layout(f"{plan.folder}/staging/{job.name}/{{domain}}/{{local}}/Maildir")
        except LayoutError:
            return None
    return job.layout if job.kind is JobKind.MAILDIR else None


def _refuse_erased(wish: Wish, tombstones: Iterable[Tombstone], points: Sequence[RestorePoint]) -> None:
    stones = tuple(tombstones)
    for point in points:
        stone = erased(wish.address, stones, point.time_ms)
        if stone is not None:
            hint = "what was backed up before that is not brought back"
            raise RestoreError(Refusal.ERASED, f"{stone.subject} was erased ({stone.why}, by {stone.by})", hint)


async def _look(
    vault: Vault, plan: BackupPlan, wish: Wish, job: JobPlan, layout: Layout, point: RestorePoint
) -> Found | None:
    members = point.of_job(job.name)
    ids = tuple(found for one in members if (found := one.id_in(vault.name)))
    maildirs = maildirs_of(layout, wish.address)
    listings: list[list[Node]] = [[] for _ in ids]
    await together(*(vault.nodes(one, listings[at].append, maildirs) for at, one in enumerate(ids)))
    there = {node.path for listing in listings for node in listing}
    maildir = next((one for one in maildirs if any(path == one or path.startswith(f"{one}/") for path in there)), None)
    if maildir is None:
        return None
    messages = selected(gathered(layout, maildir, listings), wish)
    day = shown(point.time_ms, ZoneInfo(plan.zone))[:10]
    return Found(
        wish,
        job.name,
        point.run,
        point.time_ms,
        any(one.partial for one in members),
        maildir,
        ids,
        messages,
        f"Restored {day}",
    )


async def _no_mailbox(
    vault: Vault, plan: BackupPlan, wish: Wish, tried: Sequence[tuple[JobPlan, Layout, RestorePoint]]
) -> RestoreError:
    """Its hint names mailboxes that there are: of the first snapshots of each job, which are whole."""
    names: set[str] = set()
    for job, layout, point in tried:
        folders: list[Node] = []

        def take(node: Node, folders: list[Node] = folders) -> None:
            if node.type == "dir":
                folders.append(node)

        snapshot = point.of_job(job.name)[0].id_in(vault.name)
        if snapshot is not None:
            await vault.nodes(snapshot, take)
        names |= set(mailboxes_of(layout, folders))
    near = nearest_names(wish.address, names) or tuple(sorted(names))[:3]
    at = shown(tried[0][2].time_ms, ZoneInfo(plan.zone))
    hint = f"the nearest: {', '.join(near)}" if near else "it has no mailbox at all"
    return RestoreError(Refusal.NO_MAILBOX, f"the restore point of {at} has no mailbox {wish.address}", hint)


async def together(*work: Awaitable[T]) -> list[T]:
    """All of it at once; what one raises is raised when all have ended: no restic is left at work behind our back."""
    found = await asyncio.gather(*work, return_exceptions=True)
    done: list[T] = []
    for one in found:
        if isinstance(one, BaseException):
            raise one
        done.append(one)
    return done
