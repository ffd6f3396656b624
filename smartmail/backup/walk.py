"""Walks over what is backed up: which folders changed, what is in them, and a sample of it for the drill.

Functions for threads. A mailbox is looked at as a list of names: of half a million messages only a few thousand files
are ever asked for their size, the others say it in their names.
"""

import hashlib
import os
import random
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Final, NamedTuple

from smartmail.core.backup_plan import JobPlan
from smartmail.core.left_out import left_out_by
from smartmail.core.mailbox_place import Layout
from smartmail.core.maildir import INFO, changed_since, message_place
from smartmail.core.manifest import MAX_OCTETS, Entry, Listed, Manifest, SamplePlan, Total, choose

CANDIDATES: Final = 16
"""Messages of each mailbox that a sample is chosen from, at least."""
ALL_UP_TO: Final = 1000
"""So many files that are no messages are all in the manifest."""
_KINDS: Final = ("new", "cur")
"""In this order: a message that is moved while both are listed is in one of the two lists."""
_LISTINGS: Final = 3
_CHUNK: Final = 1 << 20
_HEAD: Final = 1024
_SAYS_SIZE: Final = re.compile(r",S=([0-9]{1,12})(?=[,:\n])")
_HEADER: Final = re.compile(rb"^[A-Za-z][A-Za-z0-9-]{1,60}:(?:[ \t\r\n]|\Z)", re.MULTILINE)
_STAMP: Final = re.compile(r"[0-9]{1,12}(?=[._])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sampled:
    """manifest: what to prove a restore by. entropy_permille: of 1,000 of its messages, how many do not look like mail;
    None if it has no message."""

    manifest: Manifest
    entropy_permille: int | None = None


class Mailbox(NamedTuple):
    """A mailbox that is there: its address and the path of its Maildir."""

    address: str
    maildir: str


def mailboxes(layout: Layout) -> list[Mailbox]:
    """All Maildirs that are there, sorted by path; of a name that is no address's the address is "". A folder that
    cannot be read has none: restic tells of it."""
    return [Mailbox(layout.address(path), path) for path in sorted(_matching(layout.parts(), "/"))]


def linked(layout: Layout) -> list[str]:
    """Links on the way to mailboxes and folders: restic keeps a link as a link, without the mail behind it. Sorted."""
    first = layout.owned()
    found = set()
    for _, maildir in mailboxes(layout):
        steps = maildir.split("/")[1:]
        for depth in range(first, len(steps)):
            step = "/" + "/".join(steps[: depth + 1])
            if step not in found and os.path.islink(step):  # noqa: PTH114
                found.add(step)
        found |= {one.path for one in _entries(maildir) if one.name.startswith(".") and one.is_symlink()}
    return sorted(found)


def marks(layout: Layout) -> dict[str, tuple[int, ...]]:
    """When each folder last changed, by the clock of its file system: taken before a walk, it lets `changed_folders`
    do without our own clock being the same one."""
    return {folder: _changes(folder) for _, maildir in mailboxes(layout) for folder in _folders(maildir)}


def changed_folders(
    layout: Layout, began_ns: int, before: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, list[str]]:
    """The folders in which names may have come or gone since, and what is in them now ("cur/name", "new/name").

    began_ns: when the walk began. before: what `marks` told then; a folder that differs from it changed as well.
    """
    found = []
    for _, maildir in mailboxes(layout):
        for folder in _folders(maildir):
            now = _changes(folder)
            if changed_since(now, began_ns) or (before is not None and before.get(folder) != now):
                found.append(folder)
    return listing(found)


def listing(folders: Iterable[str]) -> dict[str, list[str]]:
    """What is in the folders now. One that is gone has an empty list."""
    return {folder: _names(folder) for folder in folders}


def at_least(paths: Sequence[str], files: int, octets: int) -> tuple[int, int]:
    """How many files and octets are at and below the paths, counted until there are as many as asked for."""
    found = (0, 0)
    for one in _files(paths, lambda path: False):
        found = (found[0] + 1, found[1] + one.size)
        if found[0] >= files and found[1] >= octets:
            break
    return found


# the sample


def sampled(job: JobPlan, run: str, made_ms: int, seed: str, plan: SamplePlan) -> Sampled:
    """A sample of a job's mailboxes, and how much is in each. made_ms: when the walk began. The sample follows from the
    seed and the names. Raises ValueError for a job without a layout."""
    if job.layout is None:
        raise ValueError(f"the job {job.name} has no mailboxes")
    found = mailboxes(job.layout)
    wanted = max(CANDIDATES, -(-2 * plan.at_random // max(1, len(found))))
    left_out = left_out_by(job.excludes) if job.excludes else None
    totals: dict[str, Total] = {}
    candidates: list[Listed] = []
    for mailbox in found:
        total, some = _of_mailbox(mailbox, f"{seed}/{mailbox.maildir}", wanted, left_out)
        there = totals.get(mailbox.address, Total(0, 0))
        totals[mailbox.address] = Total(there.messages + total.messages, min(MAX_OCTETS, there.octets + total.octets))
        candidates += some
    entries, strange = _hashed(choose(candidates, seed, plan))
    manifest = Manifest(run, job.name, made_ms, seed, entries, totals)
    return Sampled(manifest, strange * 1000 // len(entries) if entries else None)


def sampled_files(job: JobPlan, run: str, made_ms: int, seed: str, plan: SamplePlan, paths: Sequence[str]) -> Sampled:
    """The same of files that are no messages: all of them up to ALL_UP_TO, else a sample of at least as many. What the
    job leaves out is passed over."""
    messages = octets = 0

    def counted() -> Iterator[Listed]:
        nonlocal messages, octets
        for one in _files(paths, left_out_by(job.excludes)):
            messages, octets = messages + 1, octets + one.size
            yield one

    files = counted()
    first = list(islice(files, ALL_UP_TO + 1))
    if len(first) > ALL_UP_TO:
        more = replace(plan, at_random=max(plan.at_random, ALL_UP_TO))
        first = list(choose(chain(first, files), seed, more))
    entries, _ = _hashed(first)
    totals = {"": Total(messages, min(MAX_OCTETS, octets))} if messages else {}
    return Sampled(Manifest(run, job.name, made_ms, seed, entries, totals))


def still_there(manifest: Manifest, layout: Layout | None = None) -> Manifest:
    """Leave out what is gone by now, under whatever flags: what is left was there during the walk. layout: of the job;
    with it mailboxes that changed are counted anew, without what came since the walk began."""
    listed: dict[str, set[str]] = {}
    totals = dict(manifest.totals)
    addresses = _addresses(manifest, layout)
    kept = []
    for entry in manifest.entries:
        if os.path.lexists(entry.path) or _renamed(entry.path, listed):
            kept.append(entry)
        elif (address := addresses(entry.path)) in totals:
            messages, octets = totals[address]
            totals[address] = Total(max(0, messages - 1), max(0, octets - entry.size))
    if layout is not None:
        for address, messages in _counted_again(layout, manifest.made_ms).items():
            if address in totals and messages < totals[address].messages:
                totals[address] = Total(messages, totals[address].octets)
    return replace(manifest, entries=tuple(kept), totals=totals)


def unchanged(manifest: Manifest, began_ns: int) -> Manifest:
    """Of files that are no messages: leave out what was written or moved since, which may be in the snapshot as it was
    before or after."""
    kept = []
    for entry in manifest.entries:
        with suppress(OSError):
            if not changed_since((os.lstat(entry.path).st_ctime_ns,), began_ns):
                kept.append(entry)
    return replace(manifest, entries=tuple(kept))


def _of_mailbox(
    mailbox: Mailbox, seed: str, wanted: int, left_out: Callable[[str], bool] | None
) -> tuple[Total, list[Listed]]:
    """How much is in a mailbox, and up to `wanted` of its messages with their sizes. A message that is renamed
    meanwhile may count twice: `still_there` puts that right."""
    shelves: list[tuple[str, list[str]]] = []
    messages = octets = 0
    for folder in _folders(mailbox.maildir):
        for kind in _KINDS:
            place = f"{folder}/{kind}"
            names = [name for name in _listed(place) if name[0] not in ".:"]
            if left_out is not None:
                names = [name for name in names if not left_out(f"{place}/{name}")]
            names.sort()
            shelves.append((place, names))
            messages += len(names)
            octets += _octets(place, names)
    numbers = random.Random(os.fsencode(seed)).sample(range(messages), min(wanted, messages))  # noqa: S311
    chosen = _numbered(shelves, sorted(numbers))
    some = [Listed(path, size, mailbox.address) for path in chosen if (size := _size(path)) is not None]
    return Total(messages, min(MAX_OCTETS, octets)), some


def _numbered(shelves: Iterable[tuple[str, Sequence[str]]], numbers: Sequence[int]) -> Iterator[str]:
    """The paths of these numbers (sorted), counted through all shelves."""
    first, waiting = 0, iter(numbers)
    number = next(waiting, None)
    for place, names in shelves:
        while number is not None and number < first + len(names):
            yield f"{place}/{names[number - first]}"
            number = next(waiting, None)
        first += len(names)


def _once(names: Iterable[str]) -> list[str]:
    """Without a message's second name, where it was renamed while it was listed; without what is no message."""
    return list({name[4:].partition(INFO)[0]: name for name in names if name[4:5] not in ("", ".", ":")}.values())


def _octets(place: str, names: Sequence[str]) -> int:
    """By the names, as far as they say it."""
    said = _SAYS_SIZE.findall("\n".join((*names, "")))
    if len(said) == len(names):
        return sum(map(int, said))
    octets = 0
    for name in names:
        found = _SAYS_SIZE.search(f"{name}\n")
        octets += int(found[1]) if found else _size(f"{place}/{name}") or 0
    return octets


def _hashed(chosen: Iterable[Listed]) -> tuple[tuple[Entry, ...], int]:
    """The entries, without what cannot be read any more; and how many of them do not look like mail."""
    entries, strange = [], 0
    listed: dict[str, set[str]] = {}
    for one in chosen:
        read = _read(one.path) or (_read(name) if (name := _renamed(one.path, listed)) else None)
        if read is not None:
            entry, head = read
            entries.append(Entry(one.path, entry.size, entry.sha256))
            strange += _HEADER.search(head) is None
    return tuple(entries), strange


def _read(path: str) -> tuple[Entry, bytes] | None:
    """Its hash, and its beginning. None if it is not there, or no file."""
    try:
        # What is put into a mailbox's folder may be a pipe, which would never end, or lead elsewhere.
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(number, "rb", buffering=0) as file, suppress(OSError):
        if not stat.S_ISREG(os.fstat(number).st_mode):
            return None
        digest, size, head = hashlib.sha256(), 0, b""
        while chunk := file.read(_CHUNK):
            head = head or chunk[:_HEAD]
            digest.update(chunk)
            size += len(chunk)
        return Entry(path, size, digest.hexdigest()), head
    return None


def _renamed(path: str, listed: dict[str, set[str]]) -> str:
    """What the message is called now; "" if it is gone. listed: folders that were listed for it already."""
    place = message_place(path)
    if place is None:
        return ""
    folder, name = place
    if folder not in listed:
        listed[folder] = set(_names(folder))
    base = name[4:].partition(INFO)[0]
    return next((f"{folder}/{one}" for one in listed[folder] if one[4:].partition(INFO)[0] == base), "")


def _addresses(manifest: Manifest, layout: Layout | None) -> Callable[[str], str]:
    if layout is not None:
        return layout.address
    only = next(iter(manifest.totals)) if len(manifest.totals) == 1 else None
    return lambda path: "?" if only is None else only


def _counted_again(layout: Layout, began_ms: int) -> dict[str, int]:
    """Of mailboxes that changed since: their messages that had been delivered before."""
    counts: dict[str, int] = {}
    for address, maildir in mailboxes(layout):
        folders = _folders(maildir)
        if changed_since((change for folder in folders for change in _changes(folder)), began_ms * 10**6):
            before = sum(_delivered(name) < began_ms // 1000 for one in folders for name in _once(_names(one)))
            counts[address] = counts.get(address, 0) + before
    return counts


def _delivered(name: str) -> int:
    found = _STAMP.match(name, 4)
    return int(found[0]) if found else -1


# the file system


def _matching(parts: Sequence[str | None], path: str) -> Iterator[str]:
    """The folders that are there for a layout's parts, below `path`."""
    if not parts:
        yield path.rstrip("/")
        return
    if parts[0] is None:
        names = [one.name for one in _entries(path) if one.is_dir()]
        if len(parts) == 1:
            yield from (f"{path}{name}" for name in names)
            return
    else:
        names = [parts[0]]
    for name in names:
        if len(parts) > 1 or os.path.isdir(f"{path}{name}"):  # noqa: PTH112
            yield from _matching(parts[1:], f"{path}{name}/")


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except OSError:
        return []


def _folders(maildir: str) -> list[str]:
    """The folders of a Maildir++, INBOX first."""
    inside = [one.path for one in _entries(maildir) if one.name.startswith(".") and one.is_dir()]
    return [maildir, *sorted(inside)]


def _changes(folder: str) -> tuple[int, ...]:
    """When names last came or went in cur/ and new/. Not the time of modification: that can be set."""
    found = []
    for kind in _KINDS:
        with suppress(OSError):
            found.append(os.stat(f"{folder}/{kind}").st_ctime_ns)  # noqa: PTH116
    return tuple(found)


def _listed(place: str) -> list[str]:
    try:
        return os.listdir(place)  # noqa: PTH208
    except OSError:
        return []


def _names(folder: str) -> list[str]:
    """What is in new/ and cur/. A listing, too, can miss what is renamed meanwhile: as long as the folder changes, it
    is listed again, up to _LISTINGS times, and whatever was seen counts."""
    found: dict[str, None] = {}
    for _ in range(_LISTINGS):
        before = _changes(folder)
        for kind in _KINDS:
            found |= dict.fromkeys([f"{kind}/{name}" for name in _listed(f"{folder}/{kind}")])
        if _changes(folder) == before:
            break
    return list(found)


def _files(paths: Sequence[str], left_out: Callable[[str], bool]) -> Iterator[Listed]:
    """All plain files at and below the paths."""
    for path in dict.fromkeys(paths):
        with suppress(OSError):
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) and not left_out(path):
                yield Listed(path, found.st_size)
    waiting = [path for path in dict.fromkeys(paths) if not os.path.islink(path)]  # noqa: PTH114
    while waiting:
        for one in sorted(_entries(waiting.pop()), key=lambda entry: entry.name):
            if left_out(one.path):
                continue
            if one.is_dir(follow_symlinks=False):
                waiting.append(one.path)
            elif one.is_file(follow_symlinks=False):
                with suppress(OSError):
                    yield Listed(one.path, one.stat(follow_symlinks=False).st_size)


def _size(path: str) -> int | None:
    """Of a plain file; None for everything else."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
