"""Samples, and the batches in which agents hand them in: one octet string, by columns, compressed.

The form: b"SMB1", the length of the body (4 octets), the body compressed by zlib. The body, little-endian:

    agent, location          length (1 octet) and name
    sequence, made_ms        8 octets each
    offset                   1 octet (0: the clock was never set by ours), 8 octets of milliseconds
    samples, checks, details how many (4, 2, 2 octets); base_ms, the earliest start (8 octets)
    checks                   length (1 octet) and name, in ascending order
    details                  length (2 octets) and text, in ascending order
    columns                  check (2 octets), start - base_ms (4), outcome (1), latency (2), detail (2; 0: none)

The columns of several octets are cut into planes, all the lowest octets first: they compress better so.
A body has one form only: the same batch is always the same body, and anything else is refused.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

from smartmail.core.outcome import Outcome
from smartmail.core.roster import NAME

MAX_SAMPLES: Final = 10_000
MAX_OCTETS: Final = 16 * 1024 * 1024
"""Of a body. MAX_SAMPLES of the longest samples stay below it."""
MAX_LATENCY_MS: Final = 65_535
MAX_DETAIL: Final = 200
MAX_SPREAD_MS: Final = 2**32 - 1
"""Between the first and the last start in a batch: 49 days."""
MAX_MS: Final = 2**48

_MAGIC: Final = b"SMB1"
_PREFIX: Final = struct.Struct("<4sI")
_NUMBERS: Final = struct.Struct("<QQBqIHHQ")
_LEVEL: Final = 6
_MAX_EXPANSION: Final = 1100
"""zlib makes at most 1032 octets of one."""
_OUTCOMES: Final = tuple(Outcome(code) if code in set(Outcome) else code for code in range(256))


class SampleFault(StrEnum):
    """Why octets are no batch: a closed list."""

    FORM = "form"
    """Not of this form at all, or of a version unknown."""
    TOO_LARGE = "too_large"
    """More octets than may be, or a claim of more."""
    TOO_MANY = "too_many"
    """More samples than may be."""
    DAMAGED = "damaged"
    """Cut short, with something behind it, or not what the compression says."""
    LAYOUT = "layout"
    """Lengths, order or references inside the body are wrong."""
    NAME = "name"
    """No name of an agent, a location or a check."""
    TIME = "time"
    """A moment or a correction that cannot be."""
    OUTCOME = "outcome"
    """No outcome."""
    LATENCY = "latency"
    """Outside of 0 to MAX_LATENCY_MS."""
    DETAIL = "detail"
    """Too long, not printable, or with an outcome that needs none."""


class SampleError(ValueError):
    """Octets are no batch, or a batch cannot be written as octets. `reason` says why."""

    def __init__(self, reason: SampleFault, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Sample(NamedTuple):
    """One probe, by the location that made it."""

    check: str
    started_ms: int
    """Milliseconds since the epoch, by the corrected clock. Location, check and the second make a sample's identity."""
    outcome: int
    """An Outcome, or the code of a newer version: 1 to 255."""
    latency_ms: int
    detail: str = ""
    """Printable, at most MAX_DETAIL; "" for plain OK."""


class Batch(NamedTuple):
    """What an agent hands in at once. sequence: its own count of batches."""

    agent: str
    location: str
    sequence: int
    made_ms: int
    offset_ms: int | None
    """What was added to the agent's clock; None: it was never compared with ours."""
    samples: tuple[Sample, ...]


def make_sample(check: str, started_ms: int, outcome: int, latency_ms: int, detail: str = "") -> Sample:
    """A sample that can be written: latency clamped to 0..MAX_LATENCY_MS, detail made printable and cut."""
    if outcome == Outcome.OK:
        detail = ""
    elif not detail.isprintable() or len(detail) > MAX_DETAIL:
        detail = "".join(letter if letter.isprintable() else "?" for letter in detail[:MAX_DETAIL])
    return Sample(check, started_ms, outcome, min(max(latency_ms, 0), MAX_LATENCY_MS), detail)


def encode_batch(batch: Batch) -> bytes:
    """The batch as octets. Raises SampleError for a batch that `decode_batch` would refuse."""
    body = _body(batch)
    return _PREFIX.pack(_MAGIC, len(body)) + zlib.compress(body, _LEVEL)


def _body(batch: Batch) -> bytes:
    agent, location, sequence, made_ms, offset_ms, samples = batch
    for sample in samples:
        _check_sample(sample)
    _check_numbers(sequence, made_ms, offset_ms)
    starts = [sample.started_ms for sample in samples]
    base = min(starts, default=0)
    if starts and max(starts) - base > MAX_SPREAD_MS:
        raise SampleError(SampleFault.TIME, "the samples are more than 49 days apart")
    checks = sorted({sample.check for sample in samples})
    details = sorted({sample.detail for sample in samples} - {""})
    if len(checks) > 65_535 or len(details) > 65_535:
        raise SampleError(SampleFault.TOO_MANY, "too many different checks or details in one batch")
    check_number = {name: number for number, name in enumerate(checks)}
    detail_number = {"": 0} | {text: number for number, text in enumerate(details, 1)}
    count = len(samples)
    return b"".join(
        (
            _name(agent),
            _name(location),
            _NUMBERS.pack(
                sequence, made_ms, offset_ms is not None, offset_ms or 0, count, len(checks), len(details), base
            ),
            *map(_name, checks),
            *map(_text, details),
            _split(struct.pack(f"<{count}H", *[check_number[sample.check] for sample in samples]), 2),
            _split(struct.pack(f"<{count}I", *[start - base for start in starts]), 4),
            bytes([sample.outcome for sample in samples]),
            _split(struct.pack(f"<{count}H", *[sample.latency_ms for sample in samples]), 2),
            _split(struct.pack(f"<{count}H", *[detail_number[sample.detail] for sample in samples]), 2),
        )
    )


def _check_sample(sample: Sample) -> None:
    if not 0 < sample.started_ms <= MAX_MS:
        raise SampleError(SampleFault.TIME, f"{sample.started_ms} is no moment of a sample")
    if not 0 < sample.outcome < 256:
        raise SampleError(SampleFault.OUTCOME, f"{sample.outcome} is no outcome")
    if not 0 <= sample.latency_ms <= MAX_LATENCY_MS:
        raise SampleError(SampleFault.LATENCY, f"{sample.latency_ms} ms is no latency that can be written")
    if sample.detail:
        _check_detail(sample.detail)
        if sample.outcome == Outcome.OK:
            raise SampleError(SampleFault.DETAIL, "a detail with plain ok")


def _check_detail(text: str) -> None:
    if len(text) > MAX_DETAIL or not text.isprintable():
        raise SampleError(SampleFault.DETAIL, "a detail is too long or not printable")


def _check_numbers(sequence: int, made_ms: int, offset_ms: int | None) -> None:
    if not 0 <= sequence < 2**63:
        raise SampleError(SampleFault.LAYOUT, f"{sequence} is no sequence number")
    if not 0 < made_ms <= MAX_MS or not -MAX_MS <= (offset_ms or 0) <= MAX_MS:
        raise SampleError(SampleFault.TIME, "the batch's moment or correction cannot be")


def _name(name: str) -> bytes:
    if not NAME.match(name):
        raise SampleError(SampleFault.NAME, f"{name[:60]!r} is no name")
    return bytes([len(name)]) + name.encode()


def _text(text: str) -> bytes:
    octets = text.encode()
    return len(octets).to_bytes(2, "little") + octets


def _split(octets: bytes, width: int) -> bytes:
    return b"".join(octets[place::width] for place in range(width))


def decode_batch(octets: bytes, *, max_samples: int = MAX_SAMPLES, max_octets: int = MAX_OCTETS) -> Batch:
    """Read what `encode_batch` gives. max_octets: of the body; no more than about twice of it is ever held.

    Raises SampleError, for whatever octets.
    """
    body = _inflate(octets, max_octets)
    reader = _Reader(body)
    agent, location = reader.name(), reader.name()
    sequence, made_ms, synced, offset_ms, count, check_count, detail_count, base = reader.numbers()
    if synced > 1 or (offset_ms and not synced):
        raise SampleError(SampleFault.LAYOUT, "neither a correction nor none")
    _check_numbers(sequence, made_ms, offset_ms)
    if count > max_samples:
        raise SampleError(SampleFault.TOO_MANY, f"{count} samples, where {max_samples} may be")
    names = [reader.name() for _ in range(check_count)]
    details = ["", *(reader.text() for _ in range(detail_count))]
    samples = _samples(reader, count, base, (names, details))
    reader.end()
    return Batch(agent, location, sequence, made_ms, offset_ms if synced else None, samples)


def _inflate(octets: bytes, max_octets: int) -> bytes:
    if len(octets) < _PREFIX.size:
        raise SampleError(SampleFault.FORM, "too short for a batch")
    magic, claimed = _PREFIX.unpack_from(octets)
    if magic != _MAGIC:
        raise SampleError(SampleFault.FORM, "this is no batch of this version")
    if claimed > max_octets or len(octets) > max_octets:
        raise SampleError(SampleFault.TOO_LARGE, f"a batch of {claimed} octets, where {max_octets} may be")
    if claimed > len(octets) * _MAX_EXPANSION:
        raise SampleError(SampleFault.DAMAGED, "more is claimed than there can be")
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(memoryview(octets)[_PREFIX.size :], claimed + 1)
    except zlib.error as error:
        raise SampleError(SampleFault.DAMAGED, f"the compression is damaged: {error}") from None
    if len(body) != claimed or not inflater.eof or inflater.unused_data:
        raise SampleError(SampleFault.DAMAGED, "the length is not what was claimed")
    return body


def _samples(reader: "_Reader", count: int, base: int, tables: tuple[list[str], list[str]]) -> tuple[Sample, ...]:
    names, details = tables
    of_check = reader.column(count, 2)
    deltas = reader.column(count, 4)
    outcomes = reader.take(count)
    latencies = reader.column(count, 2)
    of_detail = reader.column(count, 2)
    _ascending(names, of_check, range(len(names)))
    _ascending(details, of_detail, range(1, len(details)))
    if count:
        if min(deltas) or not 0 < base <= MAX_MS - max(deltas):
            raise SampleError(SampleFault.TIME, "the samples' moments cannot be")
    elif base:
        raise SampleError(SampleFault.LAYOUT, "a moment without a sample")
    if 0 in outcomes:
        raise SampleError(SampleFault.OUTCOME, "0 is no outcome")
    if len(details) > 1 and any(map(_plain_with_detail, outcomes, of_detail)):
        raise SampleError(SampleFault.DETAIL, "a detail with plain ok")
    columns = zip(
        map(names.__getitem__, of_check),
        map(base.__add__, deltas),
        map(_OUTCOMES.__getitem__, outcomes),
        latencies,
        map(details.__getitem__, of_detail),
        strict=True,
    )
    return tuple(map(Sample._make, columns))


def _ascending(table: Sequence[str], column: Iterable[int], numbers: range) -> None:
    """Every entry is used, each is there once, none is missing: else the same batch could be written in two ways."""
    used = set(column) - ({0} if numbers.start else set())
    if used != set(numbers):
        raise SampleError(SampleFault.LAYOUT, "a table does not hold just what the columns name")
    if any(one >= other for one, other in pairwise(table)):
        raise SampleError(SampleFault.LAYOUT, "a table is not in order")


def _plain_with_detail(outcome: int, detail: int) -> bool:
    return outcome == 1 and detail > 0


class _Reader:
    """Takes a body apart from its front; never beyond its end."""

    __slots__ = ("body", "place")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.place = 0

    def take(self, length: int) -> bytes:
        start = self.place
        self.place += length
        if self.place > len(self.body):
            raise SampleError(SampleFault.LAYOUT, "the body ends too early")
        return self.body[start : self.place]

    def numbers(self) -> tuple[int, ...]:
        return _NUMBERS.unpack(self.take(_NUMBERS.size))

    def name(self) -> str:
        name = self.take(self.take(1)[0]).decode("latin-1")
        if not NAME.match(name):
            raise SampleError(SampleFault.NAME, f"{name[:60]!r} is no name")
        return name

    def text(self) -> str:
        octets = self.take(int.from_bytes(self.take(2), "little"))
        try:
            text = octets.decode()
        except UnicodeDecodeError:
            raise SampleError(SampleFault.DETAIL, "a detail is no UTF-8") from None
        _check_detail(text)
        return text

    def column(self, count: int, width: int) -> tuple[int, ...]:
        planes = self.take(count * width)
        whole = bytearray(len(planes))
        for place in range(width):
            whole[place::width] = planes[place * count : (place + 1) * count]
        return struct.unpack(f"<{count}{'H' if width == 2 else 'I'}", whole)

    def end(self) -> None:
        if self.place != len(self.body):
            raise SampleError(SampleFault.LAYOUT, "something is behind the last column")
