"""A month of noisy samples, always the same ones: 12 checks from 5 locations, with latencies as a network has them,
failures seen by one location alone, agents that fall silent, locations cut off, and outages that break the promise."""

import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from itertools import chain
from typing import Final

from smartmail.core.maintenance import Action, Announcement
from smartmail.core.months import Month, Span, span_of
from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind, CheckSpec, Roster, slot_second
from smartmail.core.sample import Batch, Sample
from smartmail.core.sla import Terms
from smartmail.monitor.control import CONTROL
from smartmail.monitor.months import zone_of

SERVICE: Final = "mail"
LOCATIONS: Final = ("berlin", "madrid", "osaka", "quito", "toronto")
KINDS: Final = (CheckKind.MX, CheckKind.SUBMISSION, CheckKind.IMAPS, CheckKind.POP3S)
CHECKS: Final = tuple(f"{kind.value}-{number}" for kind in KINDS for number in (1, 2, 3))
MONTH: Final = Month(2026, 10)
TERMS: Final = Terms("2026-01", date(2020, 1, 1), "Europe/London")
BATCH_MINUTES: Final = 400
"""Minutes of the twelve checks and the control target that one batch holds: some 5,200 samples."""

_DRAWS: Final = 8192
_DETAILS: Final = (
    (Outcome.TIMEOUT, "no answer within 20000 ms at connect"),
    (Outcome.REFUSED, "connection refused at connect"),
    (Outcome.TRANSIENT, "421 4.3.2 try again later at greeting"),
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """What happened in the minutes [first, end) from the month's start on."""

    first: int
    end: int


@dataclass(slots=True)
class Stream:
    """A check's month from one location, an entry a minute; outcome 0: the agent said nothing."""

    check: str
    location: str
    outcomes: bytearray
    latencies: Sequence[int]
    details: dict[int, str] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.outcomes) - self.outcomes.count(0)


@dataclass(frozen=True)
class NoisyMonth:
    """The month. All follows from the seed."""

    seed: int = 1

    @cached_property
    def span(self) -> Span:
        """October 2026 in London: 44,700 minutes, for one night is an hour longer."""
        return span_of(MONTH, zone_of(TERMS.zone))

    @cached_property
    def roster(self) -> Roster:
        """Who looks at what, all month."""
        checks = tuple(
            CheckSpec(name, SERVICE, KINDS[place // 3], "mail.example.test", 993, LOCATIONS)
            for place, name in enumerate(CHECKS)
        )
        return Roster(1, self.span.first - 1440, LOCATIONS, checks)

    @cached_property
    def servicing(self) -> Announcement:
        """Two hours of servicing, announced a week before."""
        first = self.span.first + 20_000
        recorded_ms = (first - 7 * 1440) * 60_000
        return Announcement("bench-1", Action.ANNOUNCE, SERVICE, first, first + 120, recorded_ms, "bench", "new disks")

    @cached_property
    def streams(self) -> dict[tuple[str, str], Stream]:
        """The 60 streams of the checks."""
        outages = self._outages()
        return {
            (check, location): self._stream(check, location, outages.get(check, []))
            for location in LOCATIONS
            for check in CHECKS
        }

    @cached_property
    def controls(self) -> dict[str, Stream]:
        """Each location's looks at its control targets."""
        return {location: self._control(location) for location in LOCATIONS}

    def batches(self) -> Iterator[Batch]:
        """Everything as agents hand it in: by time, each location its own."""
        minutes = self.span.minutes
        for number, first in enumerate(range(0, minutes, BATCH_MINUTES)):
            end = min(first + BATCH_MINUTES, minutes)
            for location in LOCATIONS:
                streams = [*(self.streams[check, location] for check in CHECKS), self.controls[location]]
                samples = tuple(chain.from_iterable(self._samples(stream, range(first, end)) for stream in streams))
                yield Batch(f"agent-{location}", location, number, (self.span.first + end) * 60_000, 3, samples)

    def _samples(self, stream: Stream, minutes: Iterable[int]) -> Iterator[Sample]:
        base = self.span.first * 60_000 + slot_second(stream.check, stream.location) * 1000
        outcomes, latencies, details = stream.outcomes, stream.latencies, stream.details
        for minute in minutes:
            if outcome := outcomes[minute]:
                started = base + minute * 60_000 + latencies[minute] % 90
                yield Sample(stream.check, started, outcome, latencies[minute], details.get(minute, ""))

    def _random(self, *words: str) -> random.Random:
        # Texts are seeded by their SHA-512: the same in every process.
        return random.Random(" ".join((str(self.seed), *words)))

    def _outages(self) -> dict[str, list[Stretch]]:
        """Three times a check was down for everybody: 75 minutes, where 44 may be."""
        dice = self._random("outages")
        found: dict[str, list[Stretch]] = {}
        for check in dice.sample(CHECKS, 3):
            first = dice.randrange(2000, self.span.minutes - 2000)
            found[check] = [Stretch(first, first + 25)]
        return found

    def _partition(self, location: str) -> list[Stretch]:
        """Four of the five were cut off together for twelve minutes: nobody knows what those were."""
        first = self._random("partition").randrange(self.span.minutes - 12)
        return [Stretch(first, first + 12)] if location in LOCATIONS[:4] else []

    def _absences(self, location: str) -> tuple[list[Stretch], list[Stretch]]:
        """When a location's agent was silent, and when it was cut off."""
        dice = self._random("absences", location)

        def some(count: int, longest: int) -> list[Stretch]:
            starts = [dice.randrange(self.span.minutes - longest) for _ in range(count)]
            return [Stretch(first, first + dice.randrange(longest // 4, longest)) for first in starts]

        return some(4, 90), some(3, 40) + self._partition(location)

    def _latencies(self, dice: random.Random) -> Sequence[int]:
        """Log-normal around what this way takes, from 15 to 900 ms; one of a hundred takes several times that."""
        middle = 15 * 60 ** dice.random()
        draws = [middle * dice.lognormvariate(0, 0.3) * (4 if dice.random() < 0.01 else 1) for _ in range(_DRAWS)]
        return dice.choices([min(max(1, round(draw)), 20_000) for draw in draws], k=self.span.minutes)

    def _stream(self, check: str, location: str, outages: Sequence[Stretch]) -> Stream:
        dice = self._random(check, location)
        minutes = self.span.minutes
        stream = Stream(check, location, bytearray([Outcome.OK]) * minutes, self._latencies(dice))
        silent, cut_off = self._absences(location)

        def mark(minute: int, outcome: Outcome, detail: str) -> None:
            stream.outcomes[minute] = outcome
            stream.details[minute] = detail

        for minute in dice.sample(range(minutes), minutes // 2000):
            mark(minute, *dice.choice(_DETAILS))
        for minute in dice.sample(range(minutes), minutes // 20_000):
            mark(minute, Outcome.MONITOR_ERROR, "OSError EMFILE at connect")
        for outage in outages:
            for minute in range(outage.first, outage.end):
                mark(minute, *_DETAILS[0])
        for gap in cut_off:
            for minute in range(gap.first, gap.end):
                mark(minute, Outcome.CONTROL_FAILED, "timeout: no answer within 20000 ms at connect")
        self._silence(stream, silent)
        return stream

    def _control(self, location: str) -> Stream:
        dice = self._random(CONTROL, location)
        stream = Stream(CONTROL, location, bytearray([Outcome.OK]) * self.span.minutes, self._latencies(dice))
        silent, cut_off = self._absences(location)
        for gap in cut_off:
            for minute in range(gap.first, gap.end):
                stream.outcomes[minute] = Outcome.CONTROL_FAILED
                stream.details[minute] = "none of 2 control targets can be reached"
        self._silence(stream, silent)
        return stream

    @staticmethod
    def _silence(stream: Stream, gaps: Sequence[Stretch]) -> None:
        for gap in gaps:
            for minute in range(gap.first, gap.end):
                stream.outcomes[minute] = 0
                stream.details.pop(minute, None)


def crowd(agent: str, location: str, minute: int, half: int, checks: int = 10_000) -> Batch:
    """What an agent of many checks hands in at once: one minute (POSIX) of half of them, with noisy latencies."""
    dice = random.Random(f"{location} {minute} {half}")
    names = range(half * checks // 2, (half + 1) * checks // 2)
    octets = struct.unpack(f"<{len(names)}H", dice.randbytes(2 * len(names)))
    samples = tuple(
        Sample(f"c{number:05}", minute * 60_000 + number % 50 * 1000 + noise % 100, Outcome.OK, 40 + noise % 211)
        for number, noise in zip(names, octets, strict=True)
    )
    return Batch(agent, location, minute * 2 + half, minute * 60_000 + 59_000, 0, samples)
