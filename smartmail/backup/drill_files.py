"""The drill's work on files: the scratch folder, hashes of what came back, mailboxes and databases opened.

All of it blocks; the engine calls it in threads. No link is followed: what was restored is other people's.
"""

import fcntl
import hashlib
import json
import mailbox
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Final

from smartmail.core.drill_report import Fault, Finding
from smartmail.core.mailbox_place import INBOX
from smartmail.core.maildir import base_of, is_message_name
from smartmail.core.manifest import Entry, Manifest, ManifestError, manifest_from_json

CHUNK: Final = 1 << 20
MOST_FAULTS: Final = 100
"""Of one mailbox or tree, that are named."""
HEAD: Final = 1 << 16
"""Octets of a message that are looked at."""
_WRAPPED: Final = (b"CRYPTED", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
"""Dovecot's mail_crypt; gzip, bzip2, xz, zstandard, lz4."""
_OUTSIDE: Final = "outside"
_MOST_MANIFEST: Final = 1 << 30
_KEPT_FREE: Final = 1 << 30
"""Octets that a drill leaves free where it restores to."""


class DrillBusy(Exception):
    """Another drill is at work with this state folder."""


class Scratch:
    """A folder of this drill alone. `open` removes what a killed drill left behind."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock

    @classmethod
    def open(cls, state: Path) -> "Scratch":
        """state: the backup's folder. Raises DrillBusy, OSError."""
        parent = state / "scratch"
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        parent.chmod(0o700)
        lock = os.open(parent / "drill.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise DrillBusy(f"another drill is at work in {parent}: wait for its end") from error
        try:
            folder = parent / "drill"
            _remove_outside(folder)
            _remove(folder)
            folder.mkdir(mode=0o700)
        except BaseException:
            os.close(lock)
            raise
        return cls(folder, lock)

    def room(self) -> int:
        """Octets that may be restored here."""
        return max(shutil.disk_usage(self.folder).free - _KEPT_FREE, 0)

    def outside(self, made: Path) -> Path:
        """Take note of a folder that this drill has made elsewhere, so that the next one removes it if this one is
        killed. Returns it. Raises OSError, and then the folder is gone."""
        try:
            with (self.folder / _OUTSIDE).open("a") as out:
                out.write(f"{made}\n")
        except OSError:
            made.rmdir()
            raise
        return made

    def close(self) -> None:
        """Remove everything. Raises OSError if something stays."""
        try:
            _remove_outside(self.folder)
            _remove(self.folder)
        finally:
            os.close(self._lock)


def _remove_outside(folder: Path) -> None:
    note = folder / _OUTSIDE
    for line in note.read_text().splitlines() if note.is_file() else ():
        one = Path(line)
        # Nothing else is ever removed, whatever the note says.
        if one.is_absolute() and one.name.startswith("smartmail-drill-") and not one.is_symlink():
            _remove(one)


def _remove(folder: Path) -> None:
    """A restored folder may forbid its owner to change it."""
    if not folder.exists():
        return
    for path, folders, _ in os.walk(folder):
        for one in (Path(path), *(Path(path, name) for name in folders)):
            if not one.is_symlink():
                with suppress(OSError):
                    one.chmod(0o700)
    shutil.rmtree(folder)


# manifests


def read_manifests(
    folder: Path, run: str, digests: Mapping[str, str]
) -> tuple[tuple[Manifest, ...], tuple[Finding, ...]]:
    """See drill.read_manifests."""
    found: list[Manifest] = []
    findings: list[Finding] = []
    for job, digest in sorted(digests.items()):
        file = folder / "manifests" / f"{run}.{job}.json"
        try:
            octets = file.read_bytes() if file.stat().st_size <= _MOST_MANIFEST else b""
            manifest = manifest_from_json(json.loads(octets), digest)
            if (manifest.run, manifest.job) != (run, job):
                raise ManifestError(f"it is of run {manifest.run} and job {manifest.job}")
            found.append(manifest)
        except FileNotFoundError:
            findings.append(Finding(Fault.NO_MANIFEST, job, file.name, "the manifest is gone"))
        except OSError as error:
            findings.append(Finding(Fault.NO_MANIFEST, job, file.name, f"it cannot be read: {error.strerror}"))
        except (ManifestError, ValueError, RecursionError) as error:
            findings.append(Finding(Fault.WRONG_MANIFEST, job, file.name, str(error)))
    return tuple(found), tuple(findings)


# what came back


@dataclass(frozen=True, slots=True)
class Restored:
    """What is below `root` after a restore. entries: regular files, with the paths that they had in the snapshot.
    faults: (path, what) of what cannot be read."""

    root: Path
    entries: tuple[Entry, ...]
    octets: int
    faults: tuple[tuple[str, str], ...]


def hashed(root: Path) -> Restored:
    """Read every file that came back."""
    entries: list[Entry] = []
    faults: list[tuple[str, str]] = []
    for path in _files(root):
        name = path.removeprefix(str(root))
        try:
            entries.append(_entry(path, name))
        except OSError as error:
            faults.append((name, f"it cannot be read: {error.strerror}"))
    return Restored(root, tuple(entries), sum(one.size for one in entries), tuple(faults[:MOST_FAULTS]))


def _files(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = f"{folder}/{name}"
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def _entry(path: str, name: str) -> Entry:
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return Entry(name, size, digest.hexdigest())


# mailboxes


@dataclass(slots=True)
class Opened:
    """A mailbox, opened. faults: (folder or message, what)."""

    messages: int = 0
    octets: int = 0
    folders: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)


def open_mailbox(places: Sequence[tuple[Path, str]]) -> Opened:
    """Open each message of a mailbox. places: of each snapshot of a run where it was restored to, and the Maildir's
    path in it; a message that is in several counts once."""
    seen: dict[tuple[str, str], int] = {}
    folders: set[str] = set()
    found = Opened()
    for top, path in places:
        root = top / path.lstrip("/")
        if root.is_dir() and root.resolve() != top.resolve() / path.lstrip("/"):
            found.faults.append((path, "it is behind a link, and nothing behind it is in the backup"))
            continue
        for name, folder in _folders(root) if root.is_dir() else ():
            folders.add(name)
            messages = list(_messages(folder))
            for key, octets, fault in messages:
                if fault and len(found.faults) < MOST_FAULTS:
                    found.faults.append((f"{name}: {key}", fault))
                if not fault:
                    seen[name, key] = octets
            if not any(fault for _, _, fault in messages):
                theirs = set(mailbox.Maildir(folder, factory=None, create=False).iterkeys())
                if theirs != {key.partition(":")[0] for key, _, _ in messages}:
                    found.faults.append((name, "Python's own reader of Maildirs sees other messages"))
    found.messages, found.octets = len(seen), sum(seen.values())
    found.folders = len(folders)
    return found


def _folders(root: Path) -> Iterator[tuple[str, Path]]:
    """INBOX and the folders of Maildir++."""
    yield INBOX, root
    for one in sorted(root.iterdir()):
        holds = (one / "cur").is_dir() or (one / "new").is_dir()
        if one.name.startswith(".") and holds and not one.is_symlink():
            yield one.name[1:], one


def _messages(folder: Path) -> Iterator[tuple[str, int, str]]:
    """(key, octets, what is wrong) of each message."""
    for part in ("cur", "new", "tmp"):
        if (folder / part).is_symlink():
            # What is behind it was not restored: it may even be the live mailbox.
            yield part, 0, "it is a link, and nothing behind it is in the backup"
            return
        # tmp is in no backup; a snapshot of single folders may lack the others.
        (folder / part).mkdir(exist_ok=True)
    for part in ("cur", "new"):
        for path in sorted((folder / part).iterdir()):
            if is_message_name(path.name):
                yield base_of(path.name), *_opened(path)


def _opened(path: Path) -> tuple[int, str]:
    """A message's octets, and what is wrong with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return 0, "it is no file"
            head = file.read(HEAD)
    except OSError as error:
        return 0, f"it cannot be opened: {error.strerror}"
    return found.st_size, "" if _is_message(head) else "there is no header in it: this is no message"


def _is_message(head: bytes) -> bool:
    """Does it begin with a header, or as what a mail store has compressed or encrypted?"""
    return head.startswith(_WRAPPED) or bool(BytesHeaderParser().parsebytes(head).keys())


# databases


@dataclass(slots=True)
class Loaded:
    """A database, loaded. faults: in words."""

    tables: int = 0
    rows: int = 0
    how: str = ""
    faults: list[str] = field(default_factory=list)


def files_below(root: Path) -> tuple[Path, ...]:
    """Every regular file that came back, sorted."""
    return tuple(sorted(Path(one) for one in _files(root)))


def load_sqlite(path: Path) -> Loaded:
    """Open it, let it check itself, and count every row of every table."""
    found = Loaded(how="opened in scratch, integrity_check, every row of every table counted")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            said = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
            if said != ["ok"]:
                found.faults += said
            names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for name in names:
                quoted = '"' + name.replace('"', '""') + '"'
                found.rows += connection.execute(f"SELECT count(*) FROM {quoted}").fetchone()[0]  # noqa: S608 - quoted
            found.tables = len(names)
            if not names:
                found.faults.append("it has no table")
    except sqlite3.Error as error:
        found.faults.append(f"it does not load: {error}")
    return found
