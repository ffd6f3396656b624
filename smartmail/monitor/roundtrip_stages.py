"""Where a probe's message spent its time: the Received fields (RFC 5321 4.4) between two readings of our own clock.

Our clock tells when the sending began and when the message was seen. What lies between is told by other hosts' clocks,
to the second. Their times are put in order and between ours; what had to be moved is said.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

MAX_HOPS: Final = 50
"""Received fields looked at: more than any server passes on (Postfix's hopcount_limit)."""
_MAX_FIELD: Final = 2048
_SECOND: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BY: Final = re.compile(r"(?:\A|\s)by\s+([A-Za-z0-9\[][A-Za-z0-9.:\-_\]]{0,252})")
_COMMENT: Final = re.compile(r"\([^()]*\)")


@dataclass(frozen=True, slots=True)
class Hop:
    """One server on the way. at_ms: its own time, to the second, None where it cannot be read. by: its name or ""."""

    by: str
    at_ms: int | None


@dataclass(frozen=True, slots=True)
class Stages:
    """A trip split up, in ms; the four parts add up to the time from the sending to the seeing.

    submitted: until the first server stamped it; relayed: from server to server and in their queues; delivered: from
    the last stamp to its place in the mailbox; seen: until our poll found it. skew_ms: by how much the worst clock
    disagreed with what must have been (0: none), skewed: whose.
    """

    submitted: int
    relayed: int
    delivered: int
    seen: int
    hops: tuple[tuple[str, int], ...]
    """(name, ms since the stop before it), in the order of travel."""
    skew_ms: int = 0
    skewed: str = ""

    @property
    def total(self) -> int:
        """From the sending to the seeing, ms."""
        return self.submitted + self.relayed + self.delivered + self.seen

    @property
    def text(self) -> str:
        """For a person: what the clocks were found to be, or nothing."""
        return f"the clock of {self.skewed} is off by {self.skew_ms} ms or more" if self.skew_ms else ""


def hops_of(received: Sequence[str]) -> tuple[Hop, ...]:
    """The servers in the order of travel, from Received fields as they stand in the message (the last one first)."""
    return tuple(_hop(field) for field in reversed(received[:MAX_HOPS]))


def split(sent_ms: int, seen_ms: int, hops: Iterable[Hop], stored_ms: int | None = None) -> Stages:
    """Split a trip.

    sent_ms, seen_ms: epoch ms of our own clock. stored_ms: when the mailbox says that it got the message (IMAP's
    INTERNALDATE, to the second), None where nothing says so.
    """
    clock = _Clock(sent_ms, max(seen_ms, sent_ms))
    first = sent_ms
    travelled: list[tuple[str, int]] = []
    for index, hop in enumerate(hops):
        before = clock.now
        after = clock.move(hop.at_ms, hop.by or f"hop {index + 1}")
        travelled.append((hop.by, after - before))
        if index == 0:
            first = after
    last = clock.now
    stored = clock.move(stored_ms, "the mailbox")
    return Stages(
        submitted=first - sent_ms,
        relayed=last - first,
        delivered=stored - last,
        seen=clock.end - stored,
        hops=tuple(travelled),
        skew_ms=clock.worst,
        skewed=clock.whose,
    )


class _Clock:
    """Moves forward only, and never past the end; remembers the worst it was asked otherwise."""

    def __init__(self, start: int, end: int) -> None:
        self.now = start
        self.end = end
        self.worst = 0
        self.whose = ""

    def move(self, at_ms: int | None, whose: str) -> int:
        """To a time told by the second: the earliest moment in that second that is possible."""
        if at_ms is None:
            return self.now
        behind, ahead = self.now - (at_ms + _SECOND - 1), at_ms - self.end
        if (off := max(behind, ahead)) > self.worst:
            self.worst, self.whose = off, whose
        self.now = min(max(at_ms, self.now), self.end)
        return self.now


def _hop(field: str) -> Hop:
    text = " ".join(field[:_MAX_FIELD].split())
    clause, found, date = text.rpartition(";")
    if not found:
        clause, date = text, ""
    while (without := _COMMENT.sub(" ", clause)) != clause:
        clause = without
    name = _BY.search(clause)
    return Hop(name[1].lower() if name else "", parse_date(date))


def parse_date(text: str) -> int | None:
    """Epoch ms of a date as in RFC 5322 3.3 or in IMAP's INTERNALDATE (RFC 3501); None where it is none."""
    try:
        moment = parsedate_to_datetime(text.strip().strip('"'))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return (moment - _EPOCH) // timedelta(milliseconds=1)
    except OverflowError:
        return None
