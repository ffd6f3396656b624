"""Maildir for the backup: what a message file is, what to leave out, and which messages a walk has missed.

A walk of a live Maildir is not a snapshot of it. Flags are in the file's name, so a message that is marked read while
its folder is being read is renamed, and may be seen under both names or under neither: in a trial 417 of 40,000 were in
no snapshot, and newer versions of restic say nothing of it. A message is known by its base name, which no flag changes;
what is in the folder and not in the snapshot under any name is missing, and its folder is run again (DESIGN section 5).

Paths are text with "/" between the parts; octets that are no UTF-8 are as Python's surrogateescape has them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

INFO: Final = ":2,"
"""Between the base name and the flags."""
MESSAGE_FOLDERS: Final = frozenset(("cur", "new"))
SLACK_NS: Final = 2_000_000_000
"""File systems keep the time of a change in steps of up to this."""
LEFT_OUT_NAMES: Final = (
    "dovecot.index",
    "dovecot.index.cache",
    "dovecot.index.log",
    "dovecot.index.log.2",
    "dovecot.index.log.newlock",
    "dovecot.list.index",
    "dovecot.list.index.log",
    "dovecot.list.index.log.2",
    "dovecot.index.lock",
    "dovecot.index.cache.lock",
    "dovecot.index.log.lock",
    "dovecot-uidlist.lock",
    "dovecot-keywords.lock",
    "dovecot-acl-list.lock",
    "subscriptions.lock",
)
"""Files that Dovecot makes again by itself, or that mean nothing later. Whole names: with `*.lock` the mailbox of
bob.lock would go too. Control files (dovecot-uidlist, dovecot-keywords, subscriptions ...) are data: without them
clients fetch everything anew."""
_SIZE: Final = re.compile(r",([SW])=([0-9]{1,18})(?=[,:]|\Z)")
_NO_UTF8: Final = re.compile("[\udc80-\udcff]")
_STAMP: Final = re.compile(r"([0-9]{1,12})[._]")
_GLOB: Final = re.compile(r"([*?\[\\])")


class MessageName(NamedTuple):
    """A message file's name, taken apart. flags: the letters after ":2,", sorted, each once (a-z are keywords). size
    and virtual_size: what S= (octets in the file) and W= (with CRLF) say; None where they are not given."""

    base: str
    flags: str
    size: int | None
    virtual_size: int | None

    @property
    def delivered_s(self) -> int | None:
        """The second of delivery that the name begins with; None if it begins otherwise."""
        found = _STAMP.match(self.base)
        return int(found[1]) if found and found[1].isascii() else None


def base_of(name: str) -> str:
    """What of a file's name no change of flags changes."""
    return name.partition(INFO)[0]


def parse_name(name: str) -> MessageName | None:
    """Take a name in cur/ or new/ apart; None for what is no message there (a leading dot, nothing, a path)."""
    base, _, flags = name.partition(INFO)
    if not is_message_name(name):
        return None
    sizes = {kind: int(digits) for kind, digits in reversed(_SIZE.findall(base))}
    letters = "".join(sorted({one for one in flags if one.isascii() and one.isalpha()}))
    return MessageName(base, letters, sizes.get("S"), sizes.get("W"))


def is_message_name(name: str) -> bool:
    """Is this the name of a message, in cur/ or new/? Dovecot, too, passes over names with a leading dot."""
    return bool(base_of(name)) and not name.startswith(".") and "/" not in name and "\0" not in name


def message_place(path: str) -> tuple[str, str] | None:
    """(folder, "cur/name" or "new/name") of a message file's path; None for whatever is none. The folder is the path up
    to cur/ or new/: /srv/vmail/example.com/anna/Maildir/.Sent"""
    folder, _, name = path.rpartition("/")
    folder, slash, kind = folder.rpartition("/")
    if kind not in MESSAGE_FOLDERS or not is_message_name(name) or not (folder or slash):
        return None
    return folder or "/", f"{kind}/{name}"


def by_folder(paths: Iterable[str]) -> dict[str, list[str]]:
    """Message files of a listing by their folders, as `message_place` has them; all other paths are passed over."""
    found: dict[str, list[str]] = {}
    for path in paths:
        place = message_place(path)
        if place:
            found.setdefault(place[0], []).append(place[1])
    return found


def size_fits(name: str, octets: int) -> bool | None:
    """Does a file have the size that its name says? None if it says none. A mail store that compresses its files has
    the size before that in the name."""
    parsed = parse_name(name)
    return None if parsed is None or parsed.size is None else parsed.size == octets


# what to leave out


def exclusions(maildirs: Iterable[str]) -> tuple[str, ...]:
    """Patterns for restic's --exclude-file. maildirs: patterns of the Maildirs' own paths, such as
    "/srv/vmail/*/*/Maildir" (`escaped` makes a pattern of a plain path). Everything is left out below these only: a
    pattern "tmp" would leave out the mailbox of the user tmp. Raises ValueError for a path that is not absolute."""
    patterns: list[str] = []
    for maildir in sorted(set(maildirs)):
        if not maildir.startswith("/") or not maildir.strip("/"):
            raise ValueError(f"{maildir!r} is no absolute path of a Maildir")
        root = maildir.rstrip("/")
        for name in ("tmp", *LEFT_OUT_NAMES):
            patterns += [f"{root}/{name}", f"{root}/**/{name}"]
    return tuple(patterns)


def escaped(path: str) -> str:
    """A pattern that fits just this path."""
    return _GLOB.sub(r"\\\1", path)


def is_left_out(inside: str) -> bool:
    """Do the patterns of `exclusions` leave this out? inside: the path below its Maildir (".Sent/tmp/1.x")."""
    return any(part == "tmp" or part in LEFT_OUT_NAMES for part in inside.split("/"))


# what a walk has missed


class FolderDifference(NamedTuple):
    """One folder against its snapshot, by base names. missed: not in the snapshot under any name. arrived: not there
    either, but delivered after the walk began. renamed: there under another name. gone: in the snapshot only. doubled:
    in the snapshot under two names. The first two are names as they are now, sorted; the others are numbers."""

    missed: tuple[str, ...]
    arrived: tuple[str, ...]
    renamed: int
    gone: int
    doubled: int


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """All folders that were compared. again: those to run again, sorted. missed: (folder, name) of what is absent."""

    again: tuple[str, ...]
    missed: tuple[tuple[str, str], ...]
    arrived: int
    renamed: int
    gone: int
    doubled: int
    messages: int
    """How many are in the folders now."""

    @property
    def complete(self) -> bool:
        """Is every message that was there in the snapshot?"""
        return not self.missed


def changed_since(changes_ns: Iterable[int], began_ns: int) -> bool:
    """Must a folder be compared? changes_ns: the times of change of its cur/ and new/, read after the walk; began_ns:
    when the walk began, by the same clock. A folder in which no name came or went since cannot have been misread."""
    return any(change >= began_ns - SLACK_NS for change in changes_ns)


def compare_folder(live: Iterable[str], stored: Iterable[str], began_s: int | None = None) -> FolderDifference:
    """Compare what a folder holds after the walk ("cur/name", "new/name") with what the snapshot has of it.

    began_s: the second at which the walk began; what is named as delivered in it or later was not there to be missed.
    None: everything that is absent was missed. What is no message is passed over.
    """
    exact = {one for one in stored if _base(one) is not None}
    held = {_base(one) for one in exact}
    missed, arrived, renamed = [], [], 0
    # A message that is renamed while it is listed may be listed under two names, and is one all the same.
    seen = one_of_each(live)
    for base, one in seen.items():
        if base in held:
            renamed += one not in exact
        elif began_s is not None and _delivered(base) >= began_s:
            arrived.append(one)
        else:
            missed.append(one)
    return FolderDifference(
        tuple(sorted(missed)), tuple(sorted(arrived)), renamed, len(held - seen.keys()), len(exact) - len(held)
    )


def reconcile(
    live: Mapping[str, Iterable[str]], stored: Mapping[str, Iterable[str]], began_s: int | None = None
) -> Reconciliation:
    """Compare folders as `by_folder` has them. Pass the folders that changed during the walk, or all. A folder that is
    in the snapshot only is gone as a whole; it is never run again. began_s: see `compare_folder`."""
    again, missed = [], []
    arrived = renamed = gone = doubled = messages = 0
    for folder in sorted({*live, *stored}):
        names = list(one_of_each(live.get(folder, ())).values())
        found = compare_folder(names, stored.get(folder, ()), began_s)
        messages += len(names)
        arrived += len(found.arrived)
        renamed += found.renamed
        gone += found.gone
        doubled += found.doubled
        if found.missed:
            again.append(folder)
            missed += [(folder, one) for one in found.missed]
    return Reconciliation(tuple(again), tuple(missed), arrived, renamed, gone, doubled, messages)


def one_of_each(names: Iterable[str]) -> dict[str, str]:
    """One name for each base ("cur/1.x:2,S" for "1.x"), for a restore from a snapshot that has both names of a message:
    the one in cur/ before the one in new/, then the one with more flags."""
    found: dict[str, str] = {}
    for one in names:
        base = _base(one)
        if base is not None and (base not in found or _rank(one) > _rank(found[base])):
            found[base] = one
    return found


def merged(listings: Iterable[Mapping[str, Iterable[str]]]) -> dict[str, dict[str, str]]:
    """The folders of a run's snapshots, oldest first, as one: folder -> base -> name. A folder that was run again has
    its later names, and what was only in the earlier one stays: it was in the mailbox during the run."""
    found: dict[str, dict[str, str]] = {}
    for listing in listings:
        for folder, names in listing.items():
            found.setdefault(folder, {}).update(one_of_each(names))
    return found


def _base(place: str) -> str | None:
    """Of "cur/name" or "new/name"; None for what is no message."""
    kind, _, name = place.partition("/")
    if kind not in MESSAGE_FOLDERS or not is_message_name(name):
        return None
    # restic's listings have U+FFFD for each octet that is no UTF-8: without it such a message is missed for ever.
    return base_of(name if name.isascii() else _NO_UTF8.sub("\N{REPLACEMENT CHARACTER}", name))


def _delivered(base: str) -> int:
    found = _STAMP.match(base)
    return int(found[1]) if found and found[1].isascii() else -1


def _rank(place: str) -> tuple[bool, int, str]:
    return place.startswith("cur/"), len(place.partition(INFO)[2]), place
