"""A stream's samples by columns: one check seen from one location, one octet a minute and column.

A stream's day is a Column: of each minute the sample that counts, and beside it those it beat. Samples are put in one
by one through a Draft; the result is the same in whatever order and as often as they came (but see Added.CONFLICT).
Months are read in bulk: days are joined to a Stretch, whose planes and digest cost no step per sample.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate, compress, pairwise
from typing import Final, NamedTuple

from smartmail.core.outcome import Vote, vote_of

DAY_MINUTES: Final = 1440
DAY_SECONDS: Final = 86_400
NO_CLOCK: Final = (2**63 - 1, -(2**63))
"""The span of the corrections of no sample."""

_SILENT: Final = bytes(DAY_MINUTES)
_RANK: Final = bytes(vote_of(code) for code in range(256))
_IS: Final = {vote: bytes(48 + (_RANK[code] == vote) for code in range(256)) for vote in Vote}
"""Outcome -> "0" or "1": does it count for this vote?"""
_HEAD: Final = struct.Struct("<cIIIqq")
_EXTRA: Final = struct.Struct("<IBH")
_REFERENCE: Final = struct.Struct("<II")
_BASE: Final = 4 * DAY_MINUTES
_LEVEL: Final = 6

LATENCY_BOUNDS_MS: Final = (1, *(step << octave for octave in range(15) for step in (2, 3)), 65_535)
"""Upper bounds of the buckets, the bound included: two in each octave, 1, 2, 3, 4, 6, 8 ... 49152, 65535."""
_BUCKET: Final = bytes(
    bucket for bucket, (low, high) in enumerate(pairwise((-1, *LATENCY_BOUNDS_MS))) for _ in range(high - low)
)
_IS_UP: Final = bytes(_RANK[code] == Vote.UP for code in range(256))
_IS_FAULT: Final = bytes(_RANK[code] not in (Vote.SILENT, Vote.UP) for code in range(256))
_SUMMARY_HEAD: Final = struct.Struct("<cII")


class ColumnError(ValueError):
    """Stored octets are no column: the database is damaged."""


class Added(IntEnum):
    """What became of a sample that was put into a Draft."""

    NEW = 0
    DUPLICATE = 1
    """The same sample is there already."""
    CONFLICT = 2
    """Another sample of the same location, check and second is there: it stands, whichever it is."""


class Held(NamedTuple):
    """What a sample says beside its identity."""

    outcome: int
    latency_ms: int
    detail: str


class StreamPlanes(NamedTuple):
    """A location's votes on a check: at most one of the four in a minute; none: it was silent."""

    up: int
    down: int
    abstain: int
    error: int


class Extra(NamedTuple):
    """A sample beaten by another of its minute. second: of the day."""

    second: int
    outcome: int
    latency_ms: int


@dataclass(frozen=True, slots=True)
class Column:
    """A stream's day. Four columns of DAY_MINUTES octets: outcome (0: silent), second of the minute at which the probe
    began, low and high octet of its latency."""

    outcomes: bytes
    seconds: bytes
    low: bytes
    high: bytes
    extras: tuple[Extra, ...] = ()
    """By second."""
    details: tuple[tuple[int, str], ...] = ()
    """Second of the day and text, by second: of the samples that count and of the extras."""
    clock: tuple[int, int] = field(default=NO_CLOCK, compare=False)
    """Least and greatest correction (ms) of the agents' clocks in the batches that brought these samples."""

    @property
    def samples(self) -> int:
        """How many samples are in it."""
        return DAY_MINUTES - self.outcomes.count(0) + len(self.extras)


EMPTY: Final = Column(_SILENT, _SILENT, _SILENT, _SILENT)


class Draft:
    """A stream's day that samples are put into."""

    __slots__ = ("_details", "_extras", "_high", "_low", "_seconds", "clock", "outcomes")

    def __init__(self, column: Column = EMPTY) -> None:
        self.outcomes = bytearray(column.outcomes)
        """What counts in each minute; only `add` changes it."""
        self._seconds = bytearray(column.seconds)
        self._low = bytearray(column.low)
        self._high = bytearray(column.high)
        self._extras = {extra.second: (extra.outcome, extra.latency_ms) for extra in column.extras}
        self._details = dict(column.details)
        self.clock = column.clock

    def add(self, second: int, outcome: int, latency_ms: int, detail: str) -> Added:
        """Put in a sample. second: of the day, 0 to 86,399.

        In a minute abstain counts before a failure, then ok, then an error of the monitor; among equals the earliest.
        """
        minute, start = divmod(second, 60)
        held = self.outcomes[minute]
        if held:
            if self._seconds[minute] == start or second in self._extras:
                same = self.held(second) == (outcome, latency_ms, detail)
                return Added.DUPLICATE if same else Added.CONFLICT
            if (_RANK[outcome], -start) < (_RANK[held], -self._seconds[minute]):
                self._extras[second] = (outcome, latency_ms)
                if detail:
                    self._details[second] = detail
                return Added.NEW
            latency = self._low[minute] | self._high[minute] << 8
            self._extras[minute * 60 + self._seconds[minute]] = (held, latency)
        self.outcomes[minute] = outcome
        self._seconds[minute] = start
        self._low[minute] = latency_ms & 255
        self._high[minute] = latency_ms >> 8
        if detail:
            self._details[second] = detail
        return Added.NEW

    def held(self, second: int) -> Held:
        """The sample of this second of the day. Raises KeyError where there is none."""
        minute, start = divmod(second, 60)
        detail = self._details.get(second, "")
        if self.outcomes[minute] and self._seconds[minute] == start:
            return Held(self.outcomes[minute], self._low[minute] | self._high[minute] << 8, detail)
        return Held(*self._extras[second], detail)

    def widen_clock(self, low: int, high: int) -> None:
        """Note that samples came under these corrections."""
        self.clock = (min(self.clock[0], low), max(self.clock[1], high))

    def freeze(self) -> Column:
        """The day as it is now."""
        return Column(
            bytes(self.outcomes),
            bytes(self._seconds),
            bytes(self._low),
            bytes(self._high),
            tuple(Extra(second, *self._extras[second]) for second in sorted(self._extras)),
            tuple(sorted(self._details.items())),
            self.clock,
        )


def encode_column(column: Column) -> bytes:
    """The day as stored."""
    texts, references = _pack_details(column.details)
    head = _HEAD.pack(b"1", len(column.extras), len(column.details), len(texts), *column.clock)
    extras = b"".join(_EXTRA.pack(*extra) for extra in column.extras)
    body = (column.outcomes, column.seconds, column.low, column.high, head, extras, references, texts)
    return zlib.compress(b"".join(body), _LEVEL)


def decode_column(octets: bytes) -> Column:
    """Read what `encode_column` gives. Raises ColumnError."""
    extras: tuple[Extra, ...] = ()
    details: tuple[tuple[int, str], ...] = ()
    try:
        body = zlib.decompress(octets)
        version, extra_count, detail_count, text_octets, low, high = _HEAD.unpack_from(body, _BASE)
        if version != b"1":
            raise ColumnError(f"a column of version {version!r}")
        if extra_count or detail_count:
            place = _BASE + _HEAD.size
            until = place + extra_count * _EXTRA.size
            extras = tuple(map(Extra._make, _EXTRA.iter_unpack(body[place:until])))
            details = _unpack_details(body[until:], detail_count, text_octets)
    except (zlib.error, struct.error, UnicodeDecodeError, IndexError) as error:
        raise ColumnError(f"a stored column is damaged: {error}") from error
    outcomes, seconds, latency_low, latency_high = (body[at : at + DAY_MINUTES] for at in range(0, _BASE, DAY_MINUTES))
    return Column(outcomes, seconds, latency_low, latency_high, extras, details, (low, high))


def decode_outcomes(octets: bytes) -> bytes:
    """Only the outcomes of what `encode_column` or `encode_summary` gives, the rest not taken apart. Raises
    ColumnError."""
    try:
        body = zlib.decompress(octets)
    except zlib.error as error:
        raise ColumnError(f"a stored column is damaged: {error}") from error
    if len(body) < DAY_MINUTES:
        raise ColumnError("a stored column is damaged: it ends too early")
    return body[:DAY_MINUTES]


def _pack_details(details: tuple[tuple[int, str], ...]) -> tuple[bytes, bytes]:
    """The different texts, one a line (they are printable: no line end in them), and which second has which."""
    texts = {text: number for number, text in enumerate(sorted({text for _, text in details}))}
    return "\n".join(texts).encode(), b"".join(_REFERENCE.pack(second, texts[text]) for second, text in details)


def _unpack_details(octets: bytes, count: int, text_octets: int) -> tuple[tuple[int, str], ...]:
    until = count * _REFERENCE.size
    texts = octets[until : until + text_octets].decode().split("\n")
    return tuple((second, texts[number]) for second, number in _REFERENCE.iter_unpack(octets[:until]))


@dataclass(frozen=True, slots=True)
class Summary:
    """What stays of a stream's day when its samples are let go."""

    outcomes: bytes
    hours: Mapping[int, tuple[int, ...]]
    """As `latency_hours` gives it."""
    details: tuple[tuple[int, str], ...]
    """Of the samples that counted: second of the day and text."""


def summarise(column: Column) -> Summary:
    """The verdicts, the details behind them, and how the latencies were spread in each hour."""
    return Summary(column.outcomes, latency_hours(column), counted_details(column))


def counted_details(column: Column) -> tuple[tuple[int, str], ...]:
    """The details of the samples that count: at most one in a minute."""
    return tuple(detail for detail in column.details if column.seconds[detail[0] // 60] == detail[0] % 60)


def encode_summary(summary: Summary) -> bytes:
    """The summary as stored. No hour has more than 60 samples that count: one octet for each bucket."""
    texts, references = _pack_details(summary.details)
    none = (0,) * len(LATENCY_BOUNDS_MS)
    counts = b"".join(bytes(summary.hours.get(hour, none)) for hour in range(24))
    head = _SUMMARY_HEAD.pack(b"S", len(summary.details), len(texts))
    return zlib.compress(b"".join((summary.outcomes, head, counts, references, texts)), _LEVEL)


def decode_summary(octets: bytes) -> Summary:
    """Read what `encode_summary` gives. Raises ColumnError."""
    width = len(LATENCY_BOUNDS_MS)
    try:
        body = zlib.decompress(octets)
        version, detail_count, text_octets = _SUMMARY_HEAD.unpack_from(body, DAY_MINUTES)
        if version != b"S":
            raise ColumnError(f"a summary of version {version!r}")
        place = DAY_MINUTES + _SUMMARY_HEAD.size
        counts = [tuple(body[place + hour * width : place + (hour + 1) * width]) for hour in range(24)]
        details = _unpack_details(body[place + 24 * width :], detail_count, text_octets) if detail_count else ()
    except (zlib.error, struct.error, UnicodeDecodeError, IndexError) as error:
        raise ColumnError(f"a stored summary is damaged: {error}") from error
    hours = {hour: found for hour, found in enumerate(counts) if any(found)}
    return Summary(body[:DAY_MINUTES], hours, details)


def latency_hours(column: Column) -> dict[int, tuple[int, ...]]:
    """How the latencies of the samples that count as up are spread: hour of the day -> how many of them are in each
    bucket of LATENCY_BOUNDS_MS. An hour without any is left out."""
    latencies = bytearray(2 * DAY_MINUTES)
    latencies[::2] = column.low
    latencies[1::2] = column.high
    buckets = bytes(map(_BUCKET.__getitem__, struct.unpack(f"<{DAY_MINUTES}H", latencies)))
    counted = column.outcomes.translate(_IS_UP)
    hours = {}
    for hour in range(24):
        minutes = slice(hour * 60, hour * 60 + 60)
        found = bytes(compress(buckets[minutes], counted[minutes]))
        if found:
            hours[hour] = tuple(map(found.count, range(len(LATENCY_BOUNDS_MS))))
    return hours


def latency_quantile(counts: Sequence[int], per_mille: int) -> int | None:
    """The bound (ms) below or at which that many of a thousand samples are; None: there is no sample.

    counts: by bucket, of one hour or summed over several.
    """
    wanted = -(-sum(counts) * per_mille // 1000)
    for bound, so_far in zip(LATENCY_BOUNDS_MS, accumulate(counts), strict=True):
        if so_far >= wanted and so_far:
            return bound
    return None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stream over the minutes [first, end): the columns of Column, one octet a minute."""

    first: int
    outcomes: bytes
    seconds: bytes
    low: bytes
    high: bytes
    extras: tuple[Extra, ...]
    """Their seconds, and those of the details, count from the epoch."""
    details: tuple[tuple[int, str], ...]

    @property
    def samples(self) -> int:
        """How many samples are in it."""
        return len(self.outcomes) - self.outcomes.count(0) + len(self.extras)


def join_days(days: Mapping[int, Column], first: int, end: int) -> Stretch:
    """The minutes [first, end) of a stream. days: by days since the epoch; where one is missing it was silent."""
    numbers = range(first // DAY_MINUTES, -(-end // DAY_MINUTES))
    columns = [(number, days.get(number, EMPTY)) for number in numbers]

    def joined(part: Callable[[Column], bytes]) -> bytes:
        return cut_days([part(column) for _, column in columns], first, end)

    extras = [
        Extra(number * DAY_SECONDS + extra.second, extra.outcome, extra.latency_ms)
        for number, column in columns
        for extra in column.extras
    ]
    details = [(number * DAY_SECONDS + second, text) for number, column in columns for second, text in column.details]
    return Stretch(
        first,
        joined(lambda column: column.outcomes),
        joined(lambda column: column.seconds),
        joined(lambda column: column.low),
        joined(lambda column: column.high),
        tuple(extra for extra in extras if first * 60 <= extra.second < end * 60),
        tuple(detail for detail in details if first * 60 <= detail[0] < end * 60),
    )


def cut_days(days: list[bytes], first: int, end: int) -> bytes:
    """The minutes [first, end) of whole days that follow each other, the first of them the one with `first` in it."""
    skip = first % DAY_MINUTES
    return b"".join(days)[skip : skip + end - first]


def planes_of(outcomes: bytes) -> StreamPlanes:
    """The votes in a column of outcomes, bit i for octet i."""
    backwards = outcomes[::-1] or b"\0"
    up, down, abstain, error = (
        int(backwards.translate(_IS[vote]), 2) for vote in (Vote.UP, Vote.DOWN, Vote.ABSTAIN, Vote.ERROR)
    )
    return StreamPlanes(up, down, abstain, error)


def faults_in(outcomes: bytes) -> list[int]:
    """The places in a column of outcomes where something else than up counts."""
    marks = outcomes.translate(_IS_FAULT)
    return list(compress(range(len(marks)), marks)) if 1 in marks else []


def stretch_digest(check: str, location: str, stretch: Stretch) -> bytes:
    """SHA-256 over every sample of a stream's stretch: the same however the samples were handed in and are stored.

    Over: "check location first minutes extras details" (the last two: how many) and a line end; the columns outcomes,
    seconds, low, high; each extra (second of the epoch: 8 octets, outcome: 1, latency: 2, little-endian); each detail
    as "second text" and a line end.
    """
    minutes = len(stretch.outcomes)
    counts = f"{len(stretch.extras)} {len(stretch.details)}"
    digest = hashlib.sha256(f"{check} {location} {stretch.first} {minutes} {counts}\n".encode())
    for column in (stretch.outcomes, stretch.seconds, stretch.low, stretch.high):
        digest.update(column)
    digest.update(b"".join(struct.pack("<QBH", *extra) for extra in stretch.extras))
    digest.update("".join(f"{second} {text}\n" for second, text in stretch.details).encode())
    return digest.digest()
