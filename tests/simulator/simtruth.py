"""What agents handed in, and what it means, by the plainest reckoning there is: sample by sample, minute by minute."""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from simmonth import MINUTE_MS, SERVICE, Delivery

from smartmail.core.months import Span
from smartmail.core.outcome import Vote, vote_of
from smartmail.core.roster import Roster
from smartmail.core.sample import Sample
from smartmail.monitor.control import CONTROL

Identity = tuple[str, str, int]
"""Location, check and second: what makes a sample one of its own."""


def truth(given: Iterable[Delivery], span: Span, checks: Collection[str]) -> dict[Identity, Sample]:
    """The different samples of these checks that began in these minutes. No two say different things of one second."""
    first, end = span.first * MINUTE_MS, span.end * MINUTE_MS
    found: dict[Identity, Sample] = {}
    for _, batch in given:
        for sample in batch.samples:
            if first <= sample.started_ms < end and sample.check in checks:
                key = (batch.location, sample.check, sample.started_ms // 1000)
                assert found.setdefault(key, sample) == sample, "the simulator contradicts itself"
    return found


@dataclass
class Minutes:
    """What each minute of a span was, of a service, judged by counting, a minute at a time."""

    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)


def by_hand(seen: Mapping[Identity, Sample], history: Sequence[Roster], span: Span, minimum: int = 2) -> Minutes:
    """The rules of a minute once more, in the plainest words."""
    ordered = sorted(history, key=lambda one: (one.from_minute, one.version))
    votes: dict[tuple[int, str, str], Vote] = {}
    muted: set[tuple[int, str]] = set()
    own = {one.name for each in ordered for one in each.checks if one.service == SERVICE} | {CONTROL}
    for (place, name, second), sample in seen.items():
        if name not in own:
            continue
        key, vote = (second // 60, name, place), vote_of(sample.outcome)
        votes[key] = max(vote, votes.get(key, Vote.SILENT))
        if vote is Vote.ABSTAIN:
            muted.add((second // 60, place))
    found = Minutes()
    for minute in range(span.first, span.end):
        index = bisect_right(ordered, minute, key=lambda one: one.from_minute) - 1
        verdicts = []
        for one in ordered[index].checks if index >= 0 else ():
            if one.service != SERVICE or not one.sla:
                continue
            said = [
                Vote.SILENT if (minute, place) in muted else votes.get((minute, one.name, place), Vote.SILENT)
                for place in one.locations
            ]
            half = len(said) / 2
            if said.count(Vote.DOWN) > half:
                verdicts.append("down")
            elif said.count(Vote.UP) >= min(minimum, len(said) // 2 + 1):
                verdicts.append("up")
            else:
                verdicts.append("unknown")
        where = found.down if "down" in verdicts else found.unknown
        if verdicts and set(verdicts) == {"up"}:
            where = found.up
        where.append(minute - span.first)
    return found


def plane(bits: Iterable[int]) -> int:
    """The bits as a plane."""
    octets = bytearray(6000)
    for bit in bits:
        octets[bit >> 3] |= 1 << (bit & 7)
    return int.from_bytes(octets, "little")
