"""What restic prints line by line, of versions 0.14 to 0.19, as frozen values: messages, and the items of a listing.

Nothing here raises, whatever comes: what cannot be read is an Unreadable or a Plain. Fields that are not known are
passed over. Fractions become integers: octets, milliseconds, thousandths.
"""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from smartmail.core.canonical import JsonError
from smartmail.core.points import Snapshot, snapshot_from_json
from smartmail.core.restic_json import Unreadable, integer_of, nanoseconds, object_of, part_of, scaled, text_of
from smartmail.core.restic_version import Kind

# messages: one line


class Progress(NamedTuple):
    """How far it is. Two that are equal mean that nothing went on between them. 0 for what is not said."""

    thousandths: int
    done: int
    total: int
    octets_done: int = 0
    octets: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """The end of a backup. snapshot_id: eight digits before 0.15; "" if there is none (`--dry-run` prints a false one).
    added: octets before compression; stored: after it, None before 0.15."""

    snapshot_id: str
    files_new: int
    files_changed: int
    files_unmodified: int
    files: int
    octets: int
    added: int
    stored: int | None
    duration_ms: int


@dataclass(frozen=True, slots=True)
class RestoreSummary:
    """The end of a restore (0.16)."""

    files: int
    restored: int
    skipped: int
    deleted: int
    octets: int
    octets_restored: int


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """The end of a check (0.18)."""

    errors: int
    broken_packs: tuple[str, ...]
    suggest_repair: bool
    suggest_prune: bool


@dataclass(frozen=True, slots=True)
class ItemError:
    """An item that could not be read or written. Those of "scan" do not make a backup partial, of "archival" do."""

    item: str
    during: str
    message: str

    @property
    def counts(self) -> bool:
        """Is it missing from the snapshot?"""
        return self.during != "scan"


@dataclass(frozen=True, slots=True)
class ExitError:
    """The last word on stderr (0.17)."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class TagChange:
    """A snapshot was replaced by another with other tags."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Other:
    """JSON of a type that nothing is made of here."""

    type: str


@dataclass(frozen=True, slots=True)
class Plain:
    """A line that is no JSON."""

    text: str


Message: TypeAlias = (
    Progress | BackupSummary | RestoreSummary | CheckSummary | ItemError | ExitError | TagChange | Other | Plain
)
_PROGRESS: Final = re.compile(r"\[[0-9:]{4,12}\] ([0-9]{1,3})\.([0-9])[0-9]*%\s+([0-9]{1,15}) / ([0-9]{1,15}) ")


def read_message(kind: Kind, line: str) -> Message:
    """One line of stdout or stderr. kind: says what a summary is of."""
    line = line.strip()
    found = object_of(line)
    if found is None:
        progress = _PROGRESS.match(line)
        if progress is None:
            return Plain(line)
        return Progress(int(progress[1]) * 10 + int(progress[2]), int(progress[3]), int(progress[4]))
    match text_of(found, "message_type"):
        case "status":
            return _status(found)
        case "summary":
            return _summary(kind, found)
        case "error":
            return _item_error(found)
        case "exit_error":
            return ExitError(integer_of(found, "code"), text_of(found, "message"))
        case "changed":
            return TagChange(text_of(found, "old_snapshot_id"), text_of(found, "new_snapshot_id"))
        case other:
            return Other(other)


def _status(found: dict[str, object]) -> Progress:
    done = found.get("files_done", found.get("files_restored"))
    octets = found.get("bytes_done", found.get("bytes_restored"))
    return Progress(
        min(scaled(found.get("percent_done"), 1000), 1000),
        scaled(done, 1),
        integer_of(found, "total_files"),
        scaled(octets, 1),
        integer_of(found, "total_bytes"),
        integer_of(found, "error_count"),
    )


def _summary(kind: Kind, found: dict[str, object]) -> Message:
    if kind is Kind.BACKUP:
        return BackupSummary(
            "" if found.get("dry_run") is True else text_of(found, "snapshot_id"),
            integer_of(found, "files_new"),
            integer_of(found, "files_changed"),
            integer_of(found, "files_unmodified"),
            integer_of(found, "total_files_processed"),
            integer_of(found, "total_bytes_processed"),
            integer_of(found, "data_added"),
            integer_of(found, "data_added_packed") if "data_added_packed" in found else None,
            scaled(found.get("total_duration"), 1000),
        )
    if kind is Kind.RESTORE:
        names = ("total_files", "files_restored", "files_skipped", "files_deleted", "total_bytes", "bytes_restored")
        return RestoreSummary(*(integer_of(found, name) for name in names))
    if kind is Kind.CHECK:
        packs = found.get("broken_packs")
        return CheckSummary(
            integer_of(found, "num_errors"),
            tuple(one for one in packs if isinstance(one, str)) if isinstance(packs, list) else (),
            found.get("suggest_repair_index") is True,
            found.get("suggest_prune") is True,
        )
    return Other("summary")


def _item_error(found: dict[str, object]) -> ItemError:
    error = found.get("error")
    message = text_of(found, "message")
    if isinstance(error, dict):
        message = text_of(error, "message")
        if not message:
            # Before 0.16: Go's PathError as it is, its cause a number or nothing.
            cause = error.get("Err")
            number = f": errno {cause}" if isinstance(cause, int) else ""
            message = f"{text_of(error, 'Op')} {text_of(error, 'Path')}{number}".strip()
    return ItemError(text_of(found, "item"), text_of(found, "during"), message.strip())


# a listing: one line


class Node(NamedTuple):
    """One item of `ls` or `find`. type: file, dir, symlink ...; mtime: as restic writes it, RFC 3339."""

    path: str
    type: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime: str

    @property
    def mtime_ns(self) -> int | None:
        """Nanoseconds since the epoch; None if the time cannot be read."""
        return nanoseconds(self.mtime)


@dataclass(frozen=True, slots=True)
class Change:
    """One item that differs between two snapshots. modifier: "+", "-", "M", "U", "T" and combinations."""

    path: str
    modifier: str


@dataclass(frozen=True, slots=True)
class DiffStatistics:
    """The end of a diff. added, removed: (files, octets)."""

    changed: int
    added: tuple[int, int]
    removed: tuple[int, int]


def read_ls_line(line: str) -> Node | Snapshot | Unreadable | None:
    """One line of `ls --json`: first the snapshot, then the items; None for a plain or an empty line."""
    if not line.startswith("{"):
        return None
    found = object_of(line)
    if found is None:
        return Unreadable("a line of ls", line[:200])
    if found.get("struct_type") == "snapshot":
        return snapshot_of(found)
    return node_of(found)


def read_diff_line(line: str) -> Change | DiffStatistics | Unreadable | None:
    """One line of `diff --json`; None for a plain or an empty line."""
    if not line.startswith("{"):
        return None
    found = object_of(line)
    if found is None:
        return Unreadable("a line of diff", line[:200])
    if found.get("message_type") == "change":
        return Change(text_of(found, "path"), text_of(found, "modifier"))
    if found.get("message_type") == "statistics":
        added, removed = part_of(found, "added"), part_of(found, "removed")
        return DiffStatistics(
            integer_of(found, "changed_files"),
            (integer_of(added, "files"), integer_of(added, "bytes")),
            (integer_of(removed, "files"), integer_of(removed, "bytes")),
        )
    return None


def node_of(found: dict[str, object]) -> Node | Unreadable:
    """An item of `ls` or `find`."""
    path = found.get("path")
    if not isinstance(path, str):
        return Unreadable("an item", repr(found)[:200])
    size, mode, uid, gid = (integer_of(found, name) for name in ("size", "mode", "uid", "gid"))
    return Node(path, text_of(found, "type"), size, mode, uid, gid, text_of(found, "mtime"))


def snapshot_of(found: object) -> Snapshot | Unreadable:
    """An element of `snapshots`, or the first line of `ls`."""
    try:
        return snapshot_from_json(found)
    except JsonError as error:
        return Unreadable(f"a snapshot ({error})", repr(found)[:200])
