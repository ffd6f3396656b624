"""What restic prints as a whole, of versions 0.14 to 0.19, as frozen values: its documents of JSON, and what it says in
words where it has no JSON, or not in every version.

Nothing here raises, whatever comes: what cannot be read is an Unreadable. Plain lines around JSON are passed over
(`--retry-lock` prints one before, `forget --prune` many after). What is only said in words is a hint: the truth is what
`snapshots` lists afterwards.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from smartmail.core.points import Snapshot
from smartmail.core.restic_json import (
    Unreadable,
    integer_of,
    list_in,
    nanoseconds,
    object_in,
    text_of,
)
from smartmail.core.restic_messages import (
    BackupSummary,
    CheckSummary,
    Node,
    RestoreSummary,
    TagChange,
    node_of,
    read_message,
    snapshot_of,
)
from smartmail.core.restic_version import Kind, plain

MOST_COMPLAINTS: Final = 100
"""Of a check, that are kept."""


# documents


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """What `cat config` says. Copies share data only if the chunker polynomials are equal."""

    id: str
    version: int
    chunker_polynomial: str


@dataclass(frozen=True, slots=True)
class Stats:
    """Octets and files of the snapshots asked for; blobs and uncompressed are None where it is not said."""

    octets: int
    files: int
    snapshots: int
    blobs: int | None
    uncompressed: int | None


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a repository. current: the one that opened it just now."""

    id: str
    current: bool
    user: str
    host: str
    created: str


@dataclass(frozen=True, slots=True)
class Found:
    """What `find` found in one snapshot."""

    snapshot: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Lock:
    """Who holds a lock. time_ns: since when, or last renewed (every five minutes); None if it cannot be read."""

    host: str
    user: str
    pid: int
    exclusive: bool
    time_ns: int | None


def parse_snapshots(stdout: str) -> tuple[Snapshot, ...] | Unreadable:
    """Of `snapshots --json`. One that cannot be read makes all unreadable: a list with gaps would be taken as whole."""
    items = list_in(stdout, "the list of snapshots")
    if isinstance(items, Unreadable):
        return items
    found: list[Snapshot] = []
    for item in items:
        snapshot = snapshot_of(item)
        if isinstance(snapshot, Unreadable):
            return snapshot
        found.append(snapshot)
    return tuple(found)


def parse_config(stdout: str) -> RepositoryConfig | Unreadable:
    """Of `cat config`."""
    found = object_in(stdout)
    if found is None or not text_of(found, "id") or not text_of(found, "chunker_polynomial"):
        return Unreadable("the repository's configuration", stdout[:200])
    return RepositoryConfig(text_of(found, "id"), integer_of(found, "version"), text_of(found, "chunker_polynomial"))


def parse_init(stdout: str) -> str | Unreadable:
    """The id of the repository that was made; its first ten digits before 0.15."""
    found = object_in(stdout)
    if found is not None and text_of(found, "id"):
        return text_of(found, "id")
    created = re.search(r"^created restic repository ([0-9a-f]{8,64})\b", stdout, re.MULTILINE)
    return created[1] if created else Unreadable("the answer of init", stdout[:200])


def parse_backup(stdout: str) -> BackupSummary | Unreadable:
    """The summary of a backup."""
    for line in reversed(stdout.splitlines()):
        message = read_message(Kind.BACKUP, line)
        if isinstance(message, BackupSummary):
            return message
    return Unreadable("the summary of a backup", stdout[-200:])


def parse_stats(stdout: str) -> Stats | Unreadable:
    """Of `stats --json`."""
    found = object_in(stdout)
    if found is None or "total_size" not in found:
        return Unreadable("the answer of stats", stdout[:200])
    return Stats(
        integer_of(found, "total_size"),
        integer_of(found, "total_file_count"),
        integer_of(found, "snapshots_count"),
        integer_of(found, "total_blob_count") if "total_blob_count" in found else None,
        integer_of(found, "total_uncompressed_size") if "total_uncompressed_size" in found else None,
    )


def parse_keys(stdout: str) -> tuple[Key, ...] | Unreadable:
    """Of `key list --json`."""
    items = list_in(stdout, "the list of keys")
    if isinstance(items, Unreadable):
        return items
    keys = []
    for item in items:
        if not isinstance(item, dict) or not text_of(item, "id"):
            return Unreadable("a key", repr(item)[:200])
        texts = (text_of(item, name) for name in ("userName", "hostName", "created"))
        keys.append(Key(text_of(item, "id"), item.get("current") is True, *texts))
    return tuple(keys)


def parse_find(stdout: str) -> tuple[Found, ...] | Unreadable:
    """Of `find --json`."""
    items = list_in(stdout, "the answer of find")
    if isinstance(items, Unreadable):
        return items
    found = []
    for item in items:
        matches = item.get("matches") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(matches, list):
            return Unreadable("an answer of find", repr(item)[:200])
        nodes = []
        for match in matches:
            node = node_of(match) if isinstance(match, dict) else Unreadable("an item", repr(match)[:200])
            if isinstance(node, Unreadable):
                return node
            nodes.append(node)
        found.append(Found(text_of(item, "snapshot"), tuple(nodes)))
    return tuple(found)


def parse_lock(stdout: str) -> Lock | Unreadable:
    """Of `cat lock`."""
    found = object_in(stdout)
    if found is None or "pid" not in found:
        return Unreadable("a lock", stdout[:200])
    names = text_of(found, "hostname"), text_of(found, "username")
    return Lock(*names, integer_of(found, "pid"), found.get("exclusive") is True, nanoseconds(text_of(found, "time")))


def parse_ids(stdout: str) -> tuple[str, ...]:
    """Of `list locks`: the ids, one a line; other lines are passed over."""
    return tuple(line for line in stdout.split() if re.fullmatch(r"[0-9a-f]{64}", line))


# words


@dataclass(frozen=True, slots=True)
class CopyReport:
    """started: ids of source snapshots; saved: the new ids in the target; skipped: (source, target) that were there
    already. All of eight digits."""

    started: tuple[str, ...]
    saved: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """errors: how many, 0 only if the check itself says that there are none. packs: ids of those that are named as
    missing or broken. complaints: the first MOST_COMPLAINTS."""

    errors: int
    packs: tuple[str, ...]
    suggest_repair: bool
    suggest_prune: bool
    complaints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """None for what is not said: before 0.16 only the files that were verified are counted."""

    restored: int | None
    octets: int | None
    verified: int | None


@dataclass(frozen=True, slots=True)
class PruneReport:
    """Octets, about: restic rounds them. None for what is not said."""

    removed: int | None
    remaining: int | None


@dataclass(frozen=True, slots=True)
class TagReport:
    """How many snapshots were replaced; which (0.17 and later)."""

    changed: int
    changes: tuple[TagChange, ...]


@dataclass(frozen=True, slots=True)
class ForgetGroup:
    """What restic itself would keep and remove of a group, by a rule (`forget --dry-run --json`)."""

    host: str
    tags: tuple[str, ...]
    keep: tuple[Snapshot, ...]
    remove: tuple[Snapshot, ...]


def parse_copy(stdout: str) -> CopyReport:
    """Of `copy`, which has no JSON in any version."""
    started = re.findall(r"^snapshot ([0-9a-f]{8}) of ", stdout, re.MULTILINE)
    saved = re.findall(r"^snapshot ([0-9a-f]{8}) saved", stdout, re.MULTILINE)
    skipped = re.findall(
        r"^skipping (?:source )?snapshot ([0-9a-f]{8}), was already copied to snapshot ([0-9a-f]{8})",
        stdout,
        re.MULTILINE,
    )
    return CopyReport(tuple(started), tuple(saved), tuple((one, other) for one, other in skipped))


_PACK: Final = re.compile(
    r"\bpack (?:([0-9a-f]{8,64})(?::? does not exist| contains [0-9]+ errors|: )"
    r"|id does not match, want ([0-9a-f]{8,64}))",
    re.IGNORECASE,
)
_SUGGEST_REPAIR: Final = re.compile(r"restic repair |rebuild-index|repair index")


def parse_check(stdout: str, stderr: Iterable[str]) -> CheckReport | Unreadable:
    """Of `check`: JSON from 0.18 on, words before. Unreadable if it did not come to an end."""
    lines = [plain(line) for line in stderr]
    complaints = [line for line in lines if line.strip() and not line.startswith(("Fatal:", "Load(", "List("))]
    packs = {found[1] or found[2] for line in lines if (found := _PACK.search(line))}
    suggests = any(_SUGGEST_REPAIR.search(line) for line in lines)
    for line in reversed(stdout.splitlines()):
        message = read_message(Kind.CHECK, line)
        if isinstance(message, CheckSummary):
            packs.update(message.broken_packs)
            repair = message.suggest_repair or suggests
            return CheckReport(message.errors, _sorted(packs), repair, message.suggest_prune, _first(complaints))
    if "no errors were found" in stdout:
        return CheckReport(0, _sorted(packs), suggests, "restic prune" in stdout, _first(complaints))
    if any("repository contains errors" in line or "the repository is damaged" in line for line in lines):
        return CheckReport(max(len(complaints), 1), _sorted(packs), suggests, False, _first(complaints))
    return Unreadable("the answer of check", (stdout or "\n".join(lines))[-200:])


def parse_restore(stdout: str) -> RestoreReport:
    """Of `restore`. An include that matches nothing is a count of 0, and no error for restic."""
    verified = re.search(r"^finished verifying ([0-9]{1,15}) files in ", stdout, re.MULTILINE)
    checked = int(verified[1]) if verified else None
    for line in reversed(stdout.splitlines()):
        message = read_message(Kind.RESTORE, line)
        if isinstance(message, RestoreSummary):
            return RestoreReport(message.restored, message.octets_restored, checked)
    return RestoreReport(None, None, checked)


_UNITS: Final = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40, "PiB": 50}


def parse_prune(stdout: str) -> PruneReport:
    """Of `prune`, with or without `--dry-run`."""
    return PruneReport(_size(stdout, "total prune"), _size(stdout, "remaining"))


def _size(stdout: str, name: str) -> int | None:
    found = re.search(rf"^{name}: .*/ ([0-9]{{1,12}})(?:\.([0-9]{{1,3}}))? ([KMGTP]?i?B)$", stdout, re.MULTILINE)
    if found is None or found[3] not in _UNITS:
        return None
    thousandths = int(found[1]) * 1000 + int((found[2] or "").ljust(3, "0"))
    return (thousandths << _UNITS[found[3]]) // 1000


def parse_tag(stdout: str) -> TagReport:
    """Of `tag`."""
    changes = tuple(
        message for line in stdout.splitlines() if isinstance(message := read_message(Kind.TAG, line), TagChange)
    )
    said = re.search(r"^modified tags on ([0-9]{1,9}) snapshots?", stdout, re.MULTILINE)
    return TagReport(int(said[1]) if said else len(changes), changes)


def parse_unlock(stdout: str) -> int | None:
    """How many locks were removed; None if that is not said (0.14 says the same whether there were any or not)."""
    found = re.search(r"^successfully removed ([0-9]{1,9}) locks", stdout, re.MULTILINE)
    if found:
        return int(found[1])
    return None if "successfully removed locks" in stdout else 0


def parse_forget(stdout: str) -> tuple[ForgetGroup, ...] | Unreadable:
    """Of `forget --json` by rules: the first array, whatever comes after it. By ids nothing is printed: ()."""
    if not stdout.strip():
        return ()
    items = list_in(stdout, "the answer of forget")
    if isinstance(items, Unreadable):
        return items
    groups = []
    for item in items:
        if not isinstance(item, dict):
            return Unreadable("a group of forget", repr(item)[:200])
        sides: list[tuple[Snapshot, ...]] = []
        for side in ("keep", "remove"):
            listed = item.get(side)
            read = [snapshot_of(one) for one in listed] if isinstance(listed, list) else []
            wrong = next((one for one in read if isinstance(one, Unreadable)), None)
            if wrong is not None:
                return wrong
            sides.append(tuple(one for one in read if isinstance(one, Snapshot)))
        tags = item.get("tags")
        texts = tuple(one for one in tags if isinstance(one, str)) if isinstance(tags, list) else ()
        groups.append(ForgetGroup(text_of(item, "host"), texts, *sides))
    return tuple(groups)


_HOLDER: Final = re.compile(r"already locked( exclusively)? by PID ([0-9]{1,10}) on (\S{1,255}) by (\S{1,255})")


def lock_holder(stderr: Iterable[str]) -> Lock | None:
    """Who was in the way, if the repository was locked. The time is not read: it is of the holder's clock."""
    for line in stderr:
        if found := _HOLDER.search(plain(line)):
            return Lock(found[3], found[4], int(found[2]), found[1] is not None, None)
    return None


def _sorted(packs: set[str]) -> tuple[str, ...]:
    return tuple(sorted(packs))


def _first(complaints: list[str]) -> tuple[str, ...]:
    return tuple(line[:500] for line in complaints[:MOST_COMPLAINTS])
