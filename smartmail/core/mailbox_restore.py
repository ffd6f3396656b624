"""One mailbox back: what is wished for, which messages of a restore point that is, and what of it is there already.

Messages come from the snapshots of one run, oldest first. One that was marked read between two of them is in both,
under two names, and comes once: a message is known by its folder and its base name, which no flag changes. The base
name is also what a mail server keeps as GUID of an imported message, so a restore that is repeated adds nothing.

Times are milliseconds since the epoch, sizes octets. Nothing of a message but its header fields is looked at.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.errors import MessageError
from email.header import decode_header, make_header
from enum import StrEnum
from itertools import count
from typing import Final, NamedTuple

from smartmail.core.mailbox_place import INBOX, Layout, LayoutError, decoded, folder_name
from smartmail.core.maildir import base_of, by_folder, one_of_each, parse_name
from smartmail.core.points import nearest_names
from smartmail.core.restic_messages import Node

HEADER_OCTETS: Final = 1 << 16
"""Of a message, so much is looked at for its header."""
_LONG: Final = 220
"""Octets of a folder's name on disk: a file system has 255, and `Restored 2026-10-03` comes before it."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd]")
_GUID: Final = re.compile(r"[0-9a-f]{32}\Z")


class Into(StrEnum):
    """Where a mailbox is brought back to."""

    LIVE = "live"
    """The mail server's own mailbox, below `Restored <date>`."""
    FOLDER = "folder"
    """A Maildir of its own."""
    ARCHIVE = "archive"
    """A zip of .eml files, with a table of their folders and flags."""


class Refusal(StrEnum):
    """Why a restore does not take place, or did not end."""

    WISH = "wish"
    """What was asked for makes no sense."""
    ERASED = "erased"
    NO_JOB = "no_job"
    """No job of this repository holds mailboxes."""
    INCOMPLETE = "incomplete"
    """The repository lacks a snapshot of the restore point."""
    NO_MAILBOX = "no_mailbox"
    NO_FOLDER = "no_folder"
    AMBIGUOUS_FOLDER = "ambiguous_folder"
    NO_ACCOUNT = "no_account"
    """The mail server knows no such user."""
    OVER_QUOTA = "over_quota"
    NO_ROOM = "no_room"
    TARGET = "target"
    """It cannot be written where it is to go."""
    BUSY = "busy"
    """Another restore of the same is at work."""
    MAIL_SERVER = "mail_server"
    """doveadm did not do what was asked."""


class RestoreError(Exception):
    """A mailbox is not restored, or not all of it. reason: of the closed list; message: what and where; hint: what to
    do next, with the nearest that there is; "" if there is nothing to say."""

    def __init__(self, reason: Refusal, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.reason = reason
        self.message = message
        self.hint = hint

    @property
    def remedy(self) -> str:
        """The hint, under the name that other errors have it by."""
        return self.hint


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be brought back. at_ms: as it was then. folder: as users know it ("Archive/2026"), "" for all. sender:
    part of the From field. since_ms, until_ms: received at or after, and before. message_id: with or without <>.
    target: of LIVE another address to restore to ("" for the same), else the path of what is made."""

    address: str
    at_ms: int
    folder: str = ""
    sender: str = ""
    since_ms: int | None = None
    until_ms: int | None = None
    message_id: str = ""
    into: Into = Into.LIVE
    target: str = ""

    @property
    def needs_headers(self) -> bool:
        """Can the messages be told only by what is in them?"""
        return bool(self.sender or self.message_id)

    @property
    def whole(self) -> bool:
        """Is it all of the mailbox?"""
        return not (self.folder or self.needs_headers) and self.since_ms is None and self.until_ms is None

    @property
    def account(self) -> str:
        """Of LIVE: whose mailbox gets it."""
        return self.target if self.into is Into.LIVE and self.target else self.address


def check(wish: Wish) -> None:
    """Raises RestoreError for a wish that makes no sense by itself."""
    for address in dict.fromkeys((wish.address, wish.account)):
        local, found, domain = address.rpartition("@")
        if not (found and local and domain) or not address.isprintable() or address.startswith("-"):
            raise RestoreError(Refusal.WISH, f"{address!r} is no address of a mailbox", "name it as user@domain")
    if wish.into is Into.LIVE and set(wish.account) & set("*?"):
        # It would restore to all whom the pattern fits.
        hint = "restore into a folder or an archive, or name another address as target"
        raise RestoreError(Refusal.WISH, f"doveadm takes {wish.account!r} for a pattern of users", hint)
    if wish.into is not Into.LIVE and not wish.target.startswith("/"):
        what = "the Maildir" if wish.into is Into.FOLDER else "the zip"
        raise RestoreError(Refusal.WISH, f"{wish.target!r} is no absolute path", f"say where {what} is to be made")
    if wish.since_ms is not None and wish.until_ms is not None and wish.since_ms >= wish.until_ms:
        raise RestoreError(Refusal.WISH, "nothing is received since a time and before the same or an earlier one")


# what a restore point has of a mailbox


class Message(NamedTuple):
    """A message of a restore point. member: which of its snapshots has it, from 0; folder: as users know it; path: of
    its folder in the snapshot; place: "cur/name" or "new/name"; received_ms: the file's time, IMAP's INTERNALDATE."""

    member: int
    folder: str
    path: str
    place: str
    size: int
    received_ms: int

    @property
    def name(self) -> str:
        """The file's name."""
        return self.place.partition("/")[2]

    @property
    def base(self) -> str:
        """What of the name no flag changes."""
        return base_of(self.name)

    @property
    def flags(self) -> str:
        """The letters of its flags, sorted."""
        parsed = parse_name(self.name)
        return parsed.flags if parsed else ""

    @property
    def file(self) -> str:
        """Its path in the snapshot."""
        return f"{self.path}/{self.place}"

    @property
    def counted(self) -> int:
        """What a quota may count it as: with CRLF, which is a guess where the name does not say."""
        parsed = parse_name(self.name)
        virtual = parsed.virtual_size if parsed else None
        return max(self.size, self.size + self.size // 30 if virtual is None else virtual)


class FolderCount(NamedTuple):
    """How much of a folder is found."""

    folder: str
    messages: int
    octets: int


def gathered(layout: Layout, maildir: str, listings: Sequence[Iterable[Node]]) -> tuple[Message, ...]:
    """The messages of a mailbox, each once, by folder and name. maildir: its path; listings: what each snapshot has
    below it, oldest first: a later one goes over an earlier one, and what only the earlier one has stays."""
    found: dict[tuple[str, str], Message] = {}
    nodes = [{one.path: one for one in some if one.type == "file"} for some in listings]
    places = [by_folder(path for path in files if path.startswith(f"{maildir}/")) for files in nodes]
    names = _names(layout, maildir, {path for one in places for path in one})
    for member, (files, folders) in enumerate(zip(nodes, places, strict=True)):
        for path, some in folders.items():
            for base, place in one_of_each(some).items():
                node = files[f"{path}/{place}"]
                received_ms = (node.mtime_ns or 0) // 1_000_000
                found[path, base] = Message(member, names[path], path, place, node.size, received_ms)
    return tuple(found[key] for key in sorted(found))


def _names(layout: Layout, maildir: str, paths: Iterable[str]) -> dict[str, str]:
    """A name for each folder, such that no two are one on disk, where it is restored to."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for path in sorted(paths):
        plain = tame(layout.folder(path) or _inside(maildir, path))
        tries = (f"{plain} {number}" if number > 1 else plain for number in count(1))
        names[path] = next(one for one in tries if folder_on_disk(one) not in taken)
        taken.add(folder_on_disk(names[path]))
    return names


def _inside(maildir: str, path: str) -> str:
    """The name of a folder whose path is not as Maildir++ has them (LAYOUT=fs): the path below the Maildir."""
    return "/".join(decoded(part) for part in path[len(maildir) :].strip("/").split("/")) or INBOX


def tame(folder: str) -> str:
    """A folder's name as every mail server takes it, which is the same but for names that hardly anybody has: with
    control characters, with nothing between two dots, with "~" in front, or too long below another."""
    parts = (_CONTROL.sub("_", part) for part in re.split(r"[/.]", folder))
    name = "/".join(f"_{part[1:]}" if part.startswith("~") else part or "_" for part in parts)
    return name if len(folder_on_disk(name).encode(errors="surrogatepass")) <= _LONG else f"{name[:40]} {_digest(name)}"


def folder_meant(folders: Collection[str], wanted: str) -> str:
    """Which folder somebody means: just this one, or the only one but for upper and lower case, or with dots between
    the parts. Raises RestoreError, which names those that are near."""
    if wanted in folders:
        return wanted
    for form in (str.casefold, _dotted):
        found = sorted(one for one in folders if form(one) == form(wanted))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(repr(one) for one in found)
            raise RestoreError(
                Refusal.AMBIGUOUS_FOLDER, f"more than one folder may be meant by {wanted!r}", f"name one of {names}"
            )
    near = nearest_names(wanted, folders) or tuple(sorted(folders))[:5]
    listed = ", ".join(repr(one) for one in near)
    hint = f"the nearest: {listed}" if near else "it has no folder with a message in it"
    raise RestoreError(Refusal.NO_FOLDER, f"there is no folder {wanted!r} with a message in it", hint)


def selected(messages: Iterable[Message], wish: Wish) -> tuple[Message, ...]:
    """Those that are wished for, as far as a listing tells. Raises RestoreError for the folder."""
    found = tuple(messages)
    if wish.folder:
        folder = folder_meant({one.folder for one in found}, wish.folder)
        found = tuple(one for one in found if one.folder == folder)
    return tuple(
        one
        for one in found
        if (wish.since_ms is None or one.received_ms >= wish.since_ms)
        and (wish.until_ms is None or one.received_ms < wish.until_ms)
    )


def counts(messages: Iterable[Message]) -> tuple[FolderCount, ...]:
    """By folder, sorted, INBOX first."""
    found: dict[str, tuple[int, int]] = {}
    for one in messages:
        number, octets = found.get(one.folder, (0, 0))
        found[one.folder] = (number + 1, octets + one.size)
    ordered = sorted(found, key=lambda folder: (folder != INBOX, folder))
    return tuple(FolderCount(folder, *found[folder]) for folder in ordered)


def mailboxes_of(layout: Layout, nodes: Iterable[Node]) -> tuple[str, ...]:
    """Whose mailboxes a listing has, sorted."""
    found = {layout.address(node.path) for node in nodes if node.type == "dir"}
    return tuple(sorted(found - {""}))


def maildirs_of(layout: Layout, address: str) -> tuple[str, ...]:
    """Where the mailbox of an address may be: as it is written, and in small letters. Raises RestoreError."""
    try:
        return tuple(dict.fromkeys(layout.maildir(one) for one in (address, address.lower())))
    except LayoutError as error:
        raise RestoreError(Refusal.WISH, str(error), "name it as user@domain") from None


# what is in a message's header


class Header(NamedTuple):
    """Of a message. readable: False for what is no header, such as an encrypted file."""

    message_id: str
    sender: str
    readable: bool = True


def read_header(octets: bytes) -> Header:
    """The fields that a wish may ask for, of the beginning of a message. Never raises."""
    head = re.split(rb"\r?\n\r?\n", octets[:HEADER_OCTETS], maxsplit=1)[0]
    text = re.sub(r"\r?\n[ \t]+", " ", head.decode("utf-8", "surrogateescape"))
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip().isascii() and " " not in name.strip():
            fields.setdefault(name.strip().lower(), value.strip())
    return Header(bare_id(fields.get("message-id", "")), _words(fields.get("from", "")), bool(fields))


def fits(header: Header, wish: Wish) -> bool:
    """Is a message with this header wished for?"""
    if wish.message_id and header.message_id != bare_id(wish.message_id):
        return False
    return wish.sender.casefold() in header.sender.casefold()


def bare_id(text: str) -> str:
    """A Message-ID without the brackets."""
    return text.strip().removeprefix("<").removesuffix(">").strip()


def _words(value: str) -> str:
    try:
        return str(make_header(decode_header(value)))
    except (MessageError, ValueError, LookupError):
        return value


# what is there already


def held(message: Message, guids: Collection[str]) -> bool:
    """Is it among the GUIDs of a mailbox? Some formats keep a digest of a long one."""
    return bool(guids) and (message.base in guids or _digest(message.base) in guids)


def _digest(base: str) -> str:
    return base if _GUID.match(base) else hashlib.sha1(base.encode(errors="surrogatepass")).hexdigest()[:32]  # noqa: S324


class Division(NamedTuple):
    """Of the messages that are wished for. already: they are where they would be put; missing: to add."""

    already: tuple[Message, ...]
    missing: tuple[Message, ...]


def divided(messages: Iterable[Message], there: Mapping[str, Collection[str]]) -> Division:
    """there: of each folder the base names or GUIDs that it has."""
    already: list[Message] = []
    missing: list[Message] = []
    for one in messages:
        (already if held(one, there.get(one.folder, ())) else missing).append(one)
    return Division(tuple(already), tuple(missing))


def folder_on_disk(folder: str) -> str:
    """The name of a folder's directory in a Maildir: "" for INBOX. Never a path that leads out of it."""
    try:
        return folder_name(folder)
    except LayoutError:
        return f".{_digest(folder)}"


def _dotted(folder: str) -> str:
    return folder.casefold().replace(".", "/")
