"""The files of a mailbox's restore: the room it works in, what came back, the Maildir or zip that is made of it.

All of it blocks; the engine calls it in threads. No link is followed: what was restored is other people's. A message is
put in place by a rename, so one that is there is whole, and a restore that was killed goes on where it was.
"""

import csv
import fcntl
import gzip
import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from smartmail.backup.doveadm import Account
from smartmail.core.mailbox_restore import (
    HEADER_OCTETS,
    Header,
    Message,
    Refusal,
    RestoreError,
    folder_on_disk,
    read_header,
)
from smartmail.core.maildir import base_of, is_left_out

KEYWORDS: Final = "dovecot-keywords"
"""In each folder: which words the small letters among the flags are."""
_KINDS: Final = ("cur", "new")
_FREE: Final = 64 << 20
_INDEX: Final = "index.csv"
_COLUMNS: Final = ("file", "folder", "received", "flags", "octets", "name")
_FLAGS: Final = {"D": "Draft", "F": "Flagged", "P": "Passed", "R": "Answered", "S": "Seen", "T": "Deleted"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST, _LATEST = datetime(1980, 1, 1, tzinfo=UTC), datetime(2107, 12, 31, tzinfo=UTC)

Step = Callable[[int], None]
"""Told how many messages are done."""


class Room:
    """A folder of one restore alone: nobody else restores the same meanwhile. `open` removes what a killed one left."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock
        self._note = folder.with_suffix(".elsewhere")

    @classmethod
    def open(cls, state: Path, key: str) -> "Room":
        """state: the backup's folder; key: what may be restored once at a time. Raises RestoreError."""
        parent = state / "restores"
        name = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]
        try:
            parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            lock = os.open(parent / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(parent, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            room = cls(parent / name, lock)
            room._clear()
            room.folder.mkdir(mode=0o711)
            room.folder.chmod(0o711)
        except BlockingIOError as error:
            os.close(lock)
            raise RestoreError(
                Refusal.BUSY, "another restore of the same mailbox is at work", "wait for its end"
            ) from error
        except OSError as error:
            os.close(lock)
            raise _unwritable(parent, error) from error
        return room

    def source(self, member: int) -> Path:
        """Where restic puts what it has of a snapshot: for us alone."""
        folder = self.folder / f"{member}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def handed_over(self, account: Account) -> Path:
        """Where a Maildir is to be made that this user can come to: in the system's folder for temporary files, if the
        state folder is closed to others. Raises RestoreError, OSError."""
        parent = self.folder
        if not _passable(parent, account):
            parent = Path(tempfile.mkdtemp(prefix="smartmail-restore-"))
            self._note.write_text(str(parent), errors="surrogateescape")
            _give(parent, account)
            if not _passable(parent, account):
                words = f"the mail user {account.uid} can come neither to {self.folder} nor to {parent}"
                raise RestoreError(Refusal.TARGET, words, "chmod o+x the backup's folder: its secrets stay closed")
        return parent / "maildir"

    def need(self, octets: int, at: Path | None = None) -> None:
        """Raises RestoreError if there is less room than this (and some)."""
        place = at or self.folder
        free = shutil.disk_usage(place).free
        if free < octets + _FREE:
            words = f"{place} has room for {free >> 20} MiB, and {octets >> 20} MiB come"
            raise RestoreError(Refusal.NO_ROOM, words, "make room, or restore one folder at a time")

    def close(self) -> None:
        """Remove everything. Raises OSError if something stays."""
        try:
            self._clear()
        finally:
            os.close(self._lock)

    def _clear(self) -> None:
        _remove(self.folder)
        if self._note.is_file():
            other = Path(self._note.read_text(errors="surrogateescape"))
            if other.name.startswith("smartmail-restore-"):
                _remove(other)
            self._note.unlink()


def _remove(folder: Path) -> None:
    """A restored folder may forbid its owner to change it."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path, folders, _ in os.walk(folder):
        for one in (Path(path), *(Path(path, name) for name in folders)):
            if not one.is_symlink():
                with suppress(OSError):
                    one.chmod(0o700)
    shutil.rmtree(folder)


def _passable(folder: Path, account: Account) -> bool:
    if account.uid in (0, os.geteuid()):
        return True
    for one in (folder, *folder.parents):
        found = one.stat()
        shift = 6 if found.st_uid == account.uid else 3 if found.st_gid == account.gid else 0
        if not found.st_mode >> shift & 1:
            return False
    return True


def _give(path: Path, account: Account) -> None:
    if os.geteuid() == 0:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _unwritable(path: Path, error: OSError) -> RestoreError:
    return RestoreError(Refusal.TARGET, f"{path}: {error.strerror or error}", "see that it may be written to")


# what came back


class Restored(NamedTuple):
    """A message and the file that it came back as."""

    message: Message
    file: Path


def came_back(messages: Iterable[Message], roots: Mapping[int, Path]) -> tuple[list[Restored], list[Message]]:
    """Which messages are whole below the roots (by member), and which are not."""
    whole, lost = [], []
    for one in messages:
        file = roots[one.member] / one.file.lstrip("/")
        with suppress(OSError, ValueError):
            found = file.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_size == one.size:
                whole.append(Restored(one, file))
                continue
        lost.append(one)
    return whole, lost


def header_of(file: Path) -> Header:
    """The header of a message, also of one that the mail store has compressed by gzip. Raises OSError."""
    with file.open("rb") as stream:
        octets = stream.read(HEADER_OCTETS)
    if octets.startswith(b"\x1f\x8b"):
        with suppress(OSError, EOFError, zlib.error), gzip.open(file) as packed:
            octets = packed.read(HEADER_OCTETS)
    return read_header(octets)


# a Maildir


def names_there(maildir: Path, folders: Iterable[str]) -> dict[str, set[str]]:
    """The base names in some folders of a Maildir. Raises RestoreError if it is something else."""
    if maildir.is_symlink() or (maildir.exists() and not maildir.is_dir()):
        raise RestoreError(Refusal.TARGET, f"{maildir} is no folder", "name a new one")
    if maildir.is_dir() and any(maildir.iterdir()) and not (maildir / "cur").is_dir():
        raise RestoreError(Refusal.TARGET, f"{maildir} has something in it that is no Maildir", "name a new folder")
    found: dict[str, set[str]] = {}
    for folder in set(folders):
        names = found.setdefault(folder, set())
        for kind in _KINDS:
            with suppress(FileNotFoundError), os.scandir(maildir / folder_on_disk(folder) / kind) as entries:
                names |= {base_of(one.name) for one in entries}
    return found


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes a Maildir. maildir: where; account: whose it becomes; None: whose it was. step: hears each message."""

    maildir: Path
    account: Account | None
    step: Step

    def fill(self, files: Sequence[Restored]) -> None:
        """Put messages into their folders. Raises RestoreError."""
        try:
            self._folder(self.maildir, files[0].file.parent.parent if files else None)
            done: set[Path] = set()
            for number, (message, file) in enumerate(files, 1):
                home = self.maildir / folder_on_disk(message.folder)
                if home not in done:
                    done.add(home)
                    self._folder(home, file.parent.parent)
                    self._keywords(home, file.parent.parent)
                self._put(file, home / "tmp" / message.name, home / message.place)
                self.step(number)
        except OSError as error:
            raise _unwritable(self.maildir, error) from error

    def add_rest(self, maildirs: Iterable[Path]) -> None:
        """Copy what else Maildirs have (UIDs, subscriptions), newest Maildir first, where it is not there yet. Raises
        RestoreError."""
        try:
            for source in maildirs:
                for path, folders, names in os.walk(source):
                    below = Path(path).relative_to(source)
                    folders[:] = [one for one in folders if one not in ("tmp", *_KINDS)]
                    for name in (one for one in names if not is_left_out(str(below / one))):
                        file, target = Path(path, name), self.maildir / below / name
                        if stat.S_ISREG(file.lstat().st_mode) and not target.exists() and target.parent.is_dir():
                            self._put(file, target.with_name(f".{name}.part"), target)
        except OSError as error:
            raise _unwritable(self.maildir, error) from error

    def _folder(self, home: Path, like: Path | None) -> None:
        for one in (home, home / "tmp", *(home / kind for kind in _KINDS)):
            if not one.is_dir():
                one.mkdir(mode=0o700, parents=True)
                self._own(one, like)

    def _keywords(self, home: Path, source: Path) -> None:
        file, target = source / KEYWORDS, home / KEYWORDS
        if file.is_file() and not file.is_symlink() and not target.exists():
            shutil.copyfile(file, target)
            target.chmod(0o600)
            self._own(target, file)

    def _put(self, file: Path, passing: Path, target: Path) -> None:
        self._own(file, None)
        try:
            file.rename(target)
        except OSError:
            shutil.copy2(file, passing, follow_symlinks=False)
            self._own(passing, file)
            passing.rename(target)

    def _own(self, path: Path, like: Path | None) -> None:
        if self.account is not None:
            _give(path, self.account)
        elif like is not None and os.geteuid() == 0:
            found = like.lstat()
            os.chown(path, found.st_uid, found.st_gid, follow_symlinks=False)


# a zip


def names_in_archive(archive: Path) -> dict[str, set[str]] | None:
    """The base names in a zip that an earlier restore made, by folder; None if there is no file. Raises RestoreError
    for another file."""
    if not archive.exists() and not archive.is_symlink():
        return None
    found: dict[str, set[str]] = {}
    try:
        with zipfile.ZipFile(archive) as packed, packed.open(_INDEX) as stream:
            for row in csv.DictReader(io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")):
                found.setdefault(_plain(row["folder"]), set()).add(base_of(_plain(row["name"])))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        words = f"{archive} is there, and no archive of an earlier restore"
        raise RestoreError(Refusal.TARGET, words, "name another file") from error
    return found


def write_archive(archive: Path, files: Sequence[Restored], step: Step) -> None:
    """Make a zip of messages, whole or not at all. Raises RestoreError."""
    begun = archive.with_name(f".{archive.name}.part")
    try:
        begun.unlink(missing_ok=True)
        descriptor = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
            rows = []
            for number, (message, file) in enumerate(files, 1):
                name = f"{_safe(message.folder)}/{number:06}.eml"
                entry = zipfile.ZipInfo(name, _moment(message.received_ms, _EARLIEST, _LATEST).timetuple()[:6])
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o600 << 16
                with file.open("rb") as stream, packed.open(entry, "w", force_zip64=True) as target:
                    shutil.copyfileobj(stream, target, 1 << 20)
                rows.append(_row(name, message, file))
                step(number)
            packed.writestr(_INDEX, _table(rows))
        begun.replace(archive)
    except OSError as error:
        with suppress(OSError):
            begun.unlink(missing_ok=True)
        raise _unwritable(archive, error) from error


def _row(name: str, message: Message, file: Path) -> tuple[str, ...]:
    words = _words_of(file.parent.parent / KEYWORDS)
    flags = [words.get(one) or _FLAGS.get(one, one) for one in message.flags]
    received = _moment(message.received_ms).strftime("%Y-%m-%dT%H:%M:%SZ")
    return name, _cell(message.folder), received, _cell(" ".join(flags)), str(message.size), _cell(message.name)


def _words_of(file: Path) -> dict[str, str]:
    """Which keyword a small letter is: lines of "0 $Label1"."""
    found: dict[str, str] = {}
    with suppress(OSError):
        if not file.is_symlink():
            for line in file.read_text(errors="replace")[:65536].splitlines():
                number, _, word = line.partition(" ")
                if number.isdecimal() and len(number) < 3 and int(number) < 26:
                    found[chr(ord("a") + int(number))] = word
    return found


def _table(rows: Iterable[tuple[str, ...]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    return out.getvalue().encode(errors="surrogateescape")


def _cell(text: str) -> str:
    """Spreadsheets run what begins like a formula."""
    return f"'{text}" if text[:1] in tuple("=+-@'\t\r") and text else text


def _plain(cell: str) -> str:
    return cell.removeprefix("'")


def _safe(folder: str) -> str:
    """A path inside the zip that no unpacker can be led astray by."""
    parts = (re.sub(r"[^\w .()&-]", "_", part).strip(" .").lstrip("-") or "_" for part in folder.split("/"))
    return "/".join(part[:80] for part in parts)


def _moment(at_ms: int, earliest: datetime = _EPOCH, latest: datetime = _LATEST) -> datetime:
    limit_ms = (latest - _EPOCH) // timedelta(milliseconds=1)
    return max(earliest, _EPOCH + timedelta(milliseconds=max(0, min(at_ms, limit_ms))))
