"""Snapshots of several repositories as restore points, and how old the newest good one is.

A run makes snapshots of all its jobs under one `run=` tag; together they are one restore point, and a mailbox is
brought back with the accounts and keys of the same run. A copy in another repository has another id, but the same
origin (the id that it was copied from) and the same tree id, which is the SHA-256 of the plain tree and so proves the
copy (DESIGN section 5). Ages are read from the repositories, never from what a scheduler remembers.

Times are milliseconds since the epoch.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from enum import StrEnum
from typing import Final

from smartmail.core.canonical import Fields, JsonError, text

JOB: Final = "job"
RUN: Final = "run"
PARTIAL: Final = "partial"
"""The tags that the orchestrator writes: `job=mail`, `run=20261003T020000Z-7f`, `partial=17`."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


class PointNotFound(LookupError):
    """There is no such restore point. hint: the nearest that there is."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot of one repository, as restic lists it. original: the id it was copied from or had before it was
    tagged anew, "" for none. tags and paths are sorted."""

    id: str
    time_ms: int
    tree: str
    host: str
    tags: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    original: str = ""

    @property
    def origin(self) -> str:
        """What is the same for a snapshot and all its copies."""
        return self.original or self.id

    def tag(self, key: str) -> str:
        """The value of the tag `key=value`; "" if there is none. The first in sorting order, if there are several."""
        return next((tag[len(key) + 1 :] for tag in self.tags if tag.startswith(f"{key}=")), "")

    @property
    def partial(self) -> bool:
        """Were there items that could not be read?"""
        return self.tag(PARTIAL) not in ("", "0")


def snapshot_from_json(value: object) -> Snapshot:
    """From one element of `restic snapshots --json` (0.14 and later; what newer versions add is not looked at).
    Raises JsonError."""
    fields = Fields(value, "a snapshot")
    known = set(fields)
    try:
        moment = datetime.fromisoformat(fields.text("time"))
    except ValueError:
        raise JsonError("a snapshot: time is no moment") from None
    if moment.tzinfo is None:
        raise JsonError("a snapshot: time has no offset")
    lists = {
        key: tuple(sorted({text(one, f"a snapshot: {key}") for one in fields.items(key)}))
        if key in known and fields.value(key) is not None
        else ()
        for key in ("tags", "paths")
    }
    original = fields.value("original") if "original" in known else None
    return Snapshot(
        fields.text("id"),
        (moment - _EPOCH) // _MS,
        fields.text("tree"),
        fields.text("hostname"),
        lists["tags"],
        lists["paths"],
        "" if original is None else text(original, "a snapshot: original"),
    )


# restore points


@dataclass(frozen=True, slots=True)
class Member:
    """One snapshot of a restore point. copies: (repository, id there) of every copy with this tree, sorted."""

    job: str
    origin: str
    tree: str
    time_ms: int
    partial: bool
    copies: tuple[tuple[str, str], ...]

    def id_in(self, repository: str) -> str | None:
        """Its id in a repository; None if it is not there."""
        return next((snapshot for name, snapshot in self.copies if name == repository), None)


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """All snapshots of one run, oldest first. A job has more than one if folders were run again: later ones go over
    earlier ones."""

    run: str
    members: tuple[Member, ...]

    @property
    def time_ms(self) -> int:
        """When its last snapshot was begun: nothing in it was seen before, and no snapshot of it was begun later."""
        return self.members[-1].time_ms

    @property
    def partial(self) -> bool:
        """Is anything in it known to be incomplete?"""
        return any(member.partial for member in self.members)

    def of_job(self, job: str) -> tuple[Member, ...]:
        """Its snapshots of a job, oldest first."""
        return tuple(member for member in self.members if member.job == job)

    def lacks(self, jobs: Iterable[str], repository: str | None = None) -> tuple[str, ...]:
        """Which of the jobs it has no snapshot of, or of which not every snapshot is in the repository; sorted."""
        missing = []
        for job in sorted(set(jobs)):
            members = self.of_job(job)
            if not members or (repository is not None and any(one.id_in(repository) is None for one in members)):
                missing.append(job)
        return tuple(missing)


def restore_points(listings: Mapping[str, Iterable[Snapshot]]) -> tuple[RestorePoint, ...]:
    """Join what each repository (by name) lists; oldest point first. Snapshots without a `run=` or `job=` tag belong to
    none. Two of one origin with different trees are two members, so that neither passes as the other's copy."""
    found: dict[str, dict[tuple[str, str, str], list[tuple[str, Snapshot]]]] = {}
    for repository, snapshots in listings.items():
        for snapshot in snapshots:
            run, job = snapshot.tag(RUN), snapshot.tag(JOB)
            if run and job:
                found.setdefault(run, {}).setdefault((job, snapshot.origin, snapshot.tree), []).append(
                    (repository, snapshot)
                )
    points = [
        RestorePoint(run, tuple(sorted((_member(key, copies) for key, copies in members.items()), key=_order)))
        for run, members in found.items()
    ]
    return tuple(sorted(points, key=lambda point: (point.time_ms, point.run)))


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A copy whose tree is not the tree of what it says it was copied from."""

    origin: str
    job: str
    trees: tuple[tuple[str, str], ...]
    """(repository, tree id), sorted."""


def mismatches(listings: Mapping[str, Iterable[Snapshot]]) -> tuple[Mismatch, ...]:
    """Origins that have more than one tree id, over all repositories."""
    found: dict[str, list[tuple[str, Snapshot]]] = {}
    for repository, snapshots in listings.items():
        for snapshot in snapshots:
            found.setdefault(snapshot.origin, []).append((repository, snapshot))
    return tuple(
        Mismatch(origin, copies[0][1].tag(JOB), tuple(sorted({(name, one.tree) for name, one in copies})))
        for origin, copies in sorted(found.items())
        if len({one.tree for _, one in copies}) > 1
    )


def point_at(points: Sequence[RestorePoint], at_ms: int, zone: tzinfo) -> RestorePoint:
    """The newest of the points (oldest first) that is not after `at_ms`. zone: for the times in the error.

    Raises PointNotFound, which names the first point that there is.
    """
    index = bisect_right(points, at_ms, key=lambda point: point.time_ms)
    if index:
        return points[index - 1]
    wanted = f"there is no restore point at or before {shown(at_ms, zone)}"
    if not points:
        raise PointNotFound(wanted, "there is none at all yet")
    raise PointNotFound(wanted, f"the first is {shown(points[0].time_ms, zone)} (run {points[0].run})")


def point_of_run(points: Sequence[RestorePoint], run: str, zone: tzinfo) -> RestorePoint:
    """The point of a run, by its name or a beginning of it that only one has.

    Raises PointNotFound, which names those that are near.
    """
    exact = next((point for point in points if point.run == run), None)
    if exact is not None:
        return exact
    found = [point for point in points if run and point.run.startswith(run)]
    if len(found) == 1:
        return found[0]
    if found:
        raise PointNotFound(f'more than one run begins with "{run}"', f"they are {_listed(found, zone)}")
    names = nearest_names(run, [point.run for point in points])
    near = [point for name in names for point in points if point.run == name] or list(points[-1:])
    hint = f"the nearest: {_listed(near, zone)}" if near else "there is none at all yet"
    raise PointNotFound(f'there is no run "{run}"', hint)


def nearest_names(wanted: str, names: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """Which existing names (mailboxes, folders, jobs) a wrong one may have meant, the nearest first."""
    by_folded = {name.casefold(): name for name in sorted(set(names), reverse=True)}
    return tuple(by_folded[name] for name in get_close_matches(wanted.casefold(), by_folded, most, 0.6))


def shown(at_ms: int, zone: tzinfo) -> str:
    """A time as the wall clock of a zone shows it, with its offset: 2026-10-03 08:00:00 +0100."""
    return (_EPOCH + at_ms * _MS).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %z")


# ages


class Freshness(StrEnum):
    """Of an expected job in a repository."""

    OK = "ok"
    PARTIAL = "partial"
    """The newest snapshot is new enough, but a complete one is not."""
    STALE = "stale"
    NEVER = "never"
    """Nothing of it is there."""


@dataclass(frozen=True, slots=True)
class Expected:
    """That a job's newest snapshot in a repository is at most `rpo_ms` old."""

    job: str
    repository: str
    rpo_ms: int


@dataclass(frozen=True, slots=True)
class Age:
    """What was found of an expectation. last_ms: of the newest snapshot; whole_ms: of the newest complete one; None if
    there is none. future: how many are dated after now; they prove nothing and count nowhere else."""

    expected: Expected
    state: Freshness
    last_ms: int | None
    whole_ms: int | None
    future: int

    def age_ms(self, now_ms: int) -> int | None:
        """How old the newest complete snapshot is; None if there is none."""
        return None if self.whole_ms is None else now_ms - self.whole_ms


def ages(
    expected: Iterable[Expected], listings: Mapping[str, Iterable[Snapshot]], now_ms: int, tolerance_ms: int = 300_000
) -> tuple[Age, ...]:
    """Judge every expectation, in order. A repository that is not among the listings holds nothing: what could not be
    read must be told apart by the caller. A copy is as old as what it is a copy of: restic keeps the time."""
    times: dict[tuple[str, str], list[Snapshot]] = {}
    for repository, snapshots in listings.items():
        for snapshot in snapshots:
            times.setdefault((snapshot.tag(JOB), repository), []).append(snapshot)
    return tuple(_age(one, times.get((one.job, one.repository), []), now_ms, tolerance_ms) for one in expected)


def _age(expected: Expected, snapshots: Sequence[Snapshot], now_ms: int, tolerance_ms: int) -> Age:
    past = [one for one in snapshots if one.time_ms <= now_ms + tolerance_ms]
    last = max((one.time_ms for one in past), default=None)
    whole = max((one.time_ms for one in past if not one.partial), default=None)
    oldest_allowed = now_ms - expected.rpo_ms
    if last is None:
        state = Freshness.NEVER
    elif last < oldest_allowed:
        state = Freshness.STALE
    elif whole is None or whole < oldest_allowed:
        state = Freshness.PARTIAL
    else:
        state = Freshness.OK
    return Age(expected, state, last, whole, len(snapshots) - len(past))


def _member(key: tuple[str, str, str], copies: Iterable[tuple[str, Snapshot]]) -> Member:
    found = list(copies)
    return Member(
        *key,
        min(snapshot.time_ms for _, snapshot in found),
        any(snapshot.partial for _, snapshot in found),
        tuple(sorted((repository, snapshot.id) for repository, snapshot in found)),
    )


def _order(member: Member) -> tuple[int, str, str, str]:
    return member.time_ms, member.job, member.origin, member.tree


def _listed(points: Sequence[RestorePoint], zone: tzinfo) -> str:
    return ", ".join(f"{point.run} ({shown(point.time_ms, zone)})" for point in points[:5])
