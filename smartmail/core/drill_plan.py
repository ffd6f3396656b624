"""What a drill restores: the manifests' files as restic's patterns, in portions, and which mailboxes as a whole."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from smartmail.core.maildir import base_of, message_place
from smartmail.core.manifest import Entry, Total
from smartmail.core.restic import literal

MOST_PATTERNS: Final = 500
"""Of one restore. restic holds every item that it passes against each, and a portion of sorted patterns passes only its
own folders: at 500,000 messages and 5,000 files this is about where opening the repository costs as much."""
MOST_OCTETS: Final = 512 << 10
"""Of the patterns of one restore: an argv of Linux holds 2 MiB as a rule."""


def includes(entries: Iterable[Entry], folders: Iterable[str] = ()) -> tuple[str, ...]:
    """Patterns for the files and the whole folders, sorted. A message may be in the snapshot under other flags than in
    the manifest, or still in new/, so its pattern leaves both open; nothing else of any path is."""
    whole = sorted(set(folders))
    found = {literal(one) for one in whole}
    for entry in entries:
        if not any(entry.path.startswith(f"{folder}/") for folder in whole):
            found.add(pattern(entry.path))
    return tuple(sorted(found))


def pattern(path: str) -> str:
    """What matches a file by whatever flags it has."""
    place = message_place(path)
    if place is None:
        return literal(path)
    return f"{literal(place[0].rstrip('/'))}/*/{literal(base_of(place[1].partition('/')[2]))}*"


def batches(patterns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The patterns in portions that one restore takes, in order."""
    batch: list[str] = []
    octets = 0
    for one in patterns:
        size = len(one.encode("utf-8", "surrogateescape")) + len("--include=") + 9
        if batch and (len(batch) == MOST_PATTERNS or octets + size > MOST_OCTETS):
            yield tuple(batch)
            batch, octets = [], 0
        batch.append(one)
        octets += size
    if batch:
        yield tuple(batch)


def chosen_mailboxes(
    totals: Mapping[str, Mapping[str, Total]], count: int, seed: str, room: int
) -> tuple[tuple[str, str], ...]:
    """Which (job, address) to restore whole: the smallest numbers by the seed, of those with a message in them, as
    long as all of them together have at most `room` octets. totals: by job and address."""
    ranked = sorted(
        (hashlib.sha256(f"{seed}\n{job}\n{address}".encode("utf-8", "surrogateescape")).digest(), job, address, total)
        for job, mailboxes in totals.items()
        for address, total in mailboxes.items()
        if address and total.messages
    )
    found: list[tuple[str, str]] = []
    for _, job, address, total in ranked:
        if len(found) < count and total.octets <= room:
            room -= total.octets
            found.append((job, address))
    return tuple(found)
