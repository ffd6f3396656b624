"""The manifest of a restore drill: what some files were when the backup was made, kept apart from the backup.

A drill restores from offsite and compares by SHA-256 with what was written down then; counts and sizes alone would let
a file of zeros pass. Which files: some at random out of all, and some of every mailbox and every class of size, so that
no mailbox is left untried. The choice follows from a seed and from nothing else, in whatever order files are listed.

A restore of no file at all is a failure (DESIGN section 5), and restic calls it a success.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappush, heappushpop
from typing import Final, NamedTuple

from smartmail.core.canonical import Fields, JsonError, canonical, digest_of
from smartmail.core.maildir import base_of, message_place

FORMAT: Final = 1
MAX_OCTETS: Final = 2**53 - 1
"""Other readers of JSON keep integers exactly up to this."""
SIZE_CLASSES: Final = (1, 4_096, 65_536, 1_048_576)
"""Upper ends of the classes of size, not included: empty, small, middle, large, and all above."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


class ManifestError(ValueError):
    """This is no manifest, or it was changed; the message says which."""


class Listed(NamedTuple):
    """A file that may be chosen. mailbox: whose it is; "" for what is of none."""

    path: str
    size: int
    mailbox: str = ""


class Entry(NamedTuple):
    """One file: its path, its octets, and their SHA-256 in small hexadecimal digits."""

    path: str
    size: int
    sha256: str

    @property
    def key(self) -> str:
        """See `key_of`."""
        return key_of(self.path)


def key_of(path: str) -> str:
    """What names a file for ever: of a message its folder and base name, which no flag changes; else its path."""
    place = message_place(path)
    return path if place is None else f"{place[0]}/\0{base_of(place[1].partition('/')[2])}"


class Total(NamedTuple):
    """How much there was of a mailbox: messages, and the octets of their files."""

    messages: int
    octets: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """run, job: what it is of; made_ms: when. seed: by which the entries were chosen. totals: by mailbox.

    Raises ManifestError for what cannot be written: a path twice, a wrong hash, a size out of bounds.
    """

    run: str
    job: str
    made_ms: int
    seed: str
    entries: tuple[Entry, ...]
    totals: Mapping[str, Total]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for entry in self.entries:
            if entry.key in seen:
                raise ManifestError(f"{entry.path!r} is there twice")
            seen.add(entry.key)
            if not entry.path or not 0 <= entry.size <= MAX_OCTETS or not _SHA256.match(entry.sha256):
                raise ManifestError(f"{entry.path!r} has no path, size or hash that can be")
        for mailbox, total in self.totals.items():
            if min(total) < 0 or max(total) > MAX_OCTETS:
                raise ManifestError(f"the total of {mailbox!r} cannot be")
        object.__setattr__(self, "entries", tuple(sorted(self.entries)))

    def to_json(self) -> dict[str, object]:
        """As it is kept and signed: one way to write it, whatever order it was made in."""
        return {
            "format": FORMAT,
            "run": self.run,
            "job": self.job,
            "made_ms": self.made_ms,
            "seed": self.seed,
            "entries": [list(entry) for entry in self.entries],
            "totals": {mailbox: list(total) for mailbox, total in self.totals.items()},
        }

    def octets(self) -> bytes:
        """The canonical form."""
        return canonical(self.to_json())

    def digest(self) -> str:
        """SHA-256 of the canonical form: what the catalogue keeps and a signature covers."""
        return digest_of(self.to_json())


def manifest_from_json(value: object, digest: str | None = None) -> Manifest:
    """Read what `Manifest.to_json` gives. digest: what it must have, if that is known. Raises ManifestError."""
    try:
        fields = Fields(value, "the manifest")
        if fields.number("format") != FORMAT:
            raise ManifestError(f"a manifest of format {fields.number('format')}; this reads {FORMAT}")
        entries = tuple(_entry(one) for one in fields.items("entries"))
        totals = fields.fields("totals")
        found = Manifest(
            fields.text("run"),
            fields.text("job"),
            fields.number("made_ms"),
            fields.text("seed"),
            entries,
            {mailbox: _total(totals.items(mailbox)) for mailbox in totals},
        )
        if canonical(value) != found.octets():
            raise ManifestError("the manifest holds what does not belong there, or is not in order")
    except JsonError as error:
        raise ManifestError(str(error)) from None
    if digest is not None and found.digest() != digest:
        raise ManifestError("the manifest is not the one that was written: its digest differs")
    return found


# which files


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """How many: at random out of all files; of each mailbox; and of each class of size in each mailbox."""

    at_random: int = 200
    per_mailbox: int = 2
    per_size_class: int = 1


def choose(files: Iterable[Listed], seed: str, wanted: SamplePlan) -> tuple[Listed, ...]:
    """The sample, sorted by path. Each file gets a number from the seed and its path, and the smallest of each stratum
    are taken, so one walk without holding the files is enough. Whoever knows the seed before knows the sample."""
    secret = hashlib.sha256(seed.encode("utf-8", "surrogateescape")).digest()
    strata: dict[tuple[str, int] | str | None, list[tuple[int, Listed]]] = {}
    for one in files:
        name = key_of(one.path).encode("utf-8", "surrogateescape")
        number = -int.from_bytes(hashlib.blake2b(name, digest_size=12, key=secret).digest(), "big")
        _keep(strata.setdefault(None, []), number, one, wanted.at_random)
        _keep(strata.setdefault(one.mailbox, []), number, one, wanted.per_mailbox)
        _keep(strata.setdefault((one.mailbox, size_class(one.size)), []), number, one, wanted.per_size_class)
    # A message that was renamed while it was listed may be there under two names: one is enough.
    chosen = sorted({one for heap in strata.values() for _, one in heap})
    return tuple(sorted({key_of(one.path): one for one in chosen}.values()))


def size_class(octets: int) -> int:
    """The number of the class of size: 0 for an empty file."""
    return sum(octets >= end for end in SIZE_CLASSES)


def totals_of(files: Iterable[Listed]) -> dict[str, Total]:
    """Files and octets of each mailbox."""
    found: dict[str, Total] = {}
    for one in files:
        messages, octets = found.get(one.mailbox, (0, 0))
        found[one.mailbox] = Total(messages + 1, octets + one.size)
    return found


# what was restored


class Fault(StrEnum):
    """What a drill can find; a closed list."""

    NOTHING_RESTORED = "nothing_restored"
    NOTHING_TO_PROVE = "nothing_to_prove"
    MISSING = "missing"
    SIZE = "size"
    HASH = "hash"
    DOUBLED = "doubled"
    """One file came back twice with different octets."""
    FEWER = "fewer"
    """A mailbox came back with fewer messages than were written down."""


class Finding(NamedTuple):
    """What, where (a path or a mailbox, "" for the drill as a whole), and in words."""

    fault: Fault
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """files, octets: how much was proved by its hash. findings: sorted."""

    files: int
    octets: int
    findings: tuple[Finding, ...]

    @property
    def proved(self) -> bool:
        """Was something proved, and nothing found?"""
        return self.files > 0 and not self.findings


def compare(restored: Iterable[Entry], manifest: Manifest, totals: Mapping[str, Total] | None = None) -> Comparison:
    """Hold restored files against the manifest. Their paths are those in the snapshot, not those they were restored to.

    Files that the manifest does not name prove nothing and are no fault. totals: what was counted after the restore of
    whole mailboxes; each is held against the manifest's, None: not counted. More messages than before are no fault:
    they may have arrived between the manifest and the snapshot.
    """
    there: dict[str, Entry] = {}
    findings: list[Finding] = []
    for one in restored:
        known = there.setdefault(one.key, one)
        if known[1:] != one[1:]:
            findings.append(Finding(Fault.DOUBLED, one.path, f"also there, with other octets, as {known.path}"))
    if not there:
        findings.append(Finding(Fault.NOTHING_RESTORED, "", "the restore brought back no file"))
    if not manifest.entries:
        findings.append(Finding(Fault.NOTHING_TO_PROVE, "", "the manifest names no file"))
    files = octets = 0
    for entry in manifest.entries:
        finding = _against(there.get(entry.key), entry)
        if finding:
            findings.append(finding)
        else:
            files, octets = files + 1, octets + entry.size
    for mailbox, total in ({} if totals is None else manifest.totals).items():
        counted = (totals or {}).get(mailbox, Total(0, 0))
        if counted.messages < total.messages:
            text = f"{counted.messages} messages, where {total.messages} were written down"
            findings.append(Finding(Fault.FEWER, mailbox, text))
    return Comparison(files, octets, tuple(sorted(findings)))


def _against(found: Entry | None, entry: Entry) -> Finding | None:
    if found is None:
        return Finding(Fault.MISSING, entry.path, "not among what was restored")
    if found.size != entry.size:
        return Finding(Fault.SIZE, entry.path, f"{found.size} octets, where {entry.size} were written down")
    if found.sha256 != entry.sha256:
        return Finding(Fault.HASH, entry.path, "the right size, and other octets than were written down")
    return None


def _keep(heap: list[tuple[int, Listed]], number: int, one: Listed, most: int) -> None:
    """Keep the `most` greatest: numbers are negative, so those are the smallest."""
    if len(heap) < most:
        heappush(heap, (number, one))
    elif most and number >= heap[0][0]:
        heappushpop(heap, (number, one))


def _entry(value: object) -> Entry:
    match value:
        case [str(path), int(size), str(sha256)] if not isinstance(size, bool):
            return Entry(path, size, sha256)
        case _:
            raise ManifestError("an entry is not path, size and hash")


def _total(value: list[object]) -> Total:
    match value:
        case [int(messages), int(octets)] if not isinstance(messages, bool) and not isinstance(octets, bool):
            return Total(messages, octets)
        case _:
            raise ManifestError("a total is not messages and octets")
