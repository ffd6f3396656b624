"""A month that never was, grown from a seed: what happened to the service and to the agents, and so what they hand in.

Everything that happens is in true time, in milliseconds. Agents know only their own clocks: a wall clock that is wrong
and jumps, and a steady one that drifts. Their corrected clock, slots and rosters are the product's own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from random import Random
from typing import NamedTuple

from smartmail.core.maintenance import Announcement
from smartmail.core.months import Span
from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind, CheckSpec, Roster
from smartmail.core.sample import Batch, Sample, make_sample
from smartmail.core.slots import RosterBook, slot_ms
from smartmail.monitor.clock import CorrectedClock
from smartmail.monitor.control import CONTROL

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
EDGE_MS = 3_000
"""An outage of whole minutes begins and ends this long before them. No probe runs then, so that clocks which are not
right to the last millisecond see it in the same minutes."""
FRESH_MS = 2_000
"""What an agent needs to begin, or to begin afresh: it never looks twice in one second of what turns out to be true."""
ROSTER_NOTICE_MS = 3 * MINUTE_MS
"""A roster can be fetched so long before it is in force."""
SERVICE = "mail"
FIVE_MINUTES = 300_000
FAILURES = (Outcome.REFUSED, Outcome.TIMEOUT, Outcome.TLS, Outcome.LOGIN, Outcome.NOT_ARRIVED)

Spell = tuple[int, int]
"""From and until, milliseconds."""


@dataclass(frozen=True)
class Place:
    """A location and its one agent. skew_ms: its wall clock is ahead by this; steps: (when, by how much) it jumps;
    drift_ppm: of the steady clock. All spells in true time."""

    skew_ms: int = 0
    steps: tuple[Spell, ...] = ()
    drift_ppm: int = 0
    cut_off: tuple[Spell, ...] = ()
    """No network at all: its control targets fail, and so does all that it looks at."""
    away: tuple[Spell, ...] = ()
    """Only the collector cannot be reached."""
    dead: tuple[Spell, ...] = ()
    """The agent does not run."""
    faulty: tuple[Spell, ...] = ()
    """It alone sees everything fail, and its control targets answer."""
    strained: tuple[Spell, ...] = ()
    """Its probes end in errors of its own."""

    def reached(self, at_ms: int) -> bool:
        """Does it reach the collector?"""
        return not within((*self.cut_off, *self.away, *self.dead), at_ms)


@dataclass(frozen=True)
class Plan:
    """All that happens. outages: by check."""

    seed: int
    span: Span
    history: tuple[Roster, ...]
    places: Mapping[str, Place]
    outages: Mapping[str, tuple[Spell, ...]] = field(default_factory=dict)
    announcements: tuple[Announcement, ...] = ()
    chunk: int = 60
    """Minutes of samples in a batch."""

    @property
    def begin_ms(self) -> int:
        return self.span.first * MINUTE_MS

    @property
    def end_ms(self) -> int:
        return self.span.end * MINUTE_MS

    def down(self, check: str, span: Span) -> int:
        """The minutes of `span` in which a check was really down, of its outages of whole minutes."""
        plane = 0
        for start, end in self.outages.get(check, ()):
            plane |= span.mask((start + EDGE_MS) // MINUTE_MS, (end + EDGE_MS) // MINUTE_MS)
        return plane


class Delivery(NamedTuple):
    """A batch on its way, and when it comes (true time, which is the collector's)."""

    received_ms: int
    batch: Batch


def minutes(first: int, end: int) -> Spell:
    """An outage of the minutes [first, end)."""
    return first * MINUTE_MS - EDGE_MS, end * MINUTE_MS - EDGE_MS


def within(spells: Iterable[Spell], at_ms: int) -> bool:
    return any(start <= at_ms < end for start, end in spells)


def touching(spells: Iterable[Spell], start_ms: int, end_ms: int) -> tuple[Spell, ...]:
    return tuple(one for one in spells if one[0] < end_ms and start_ms < one[1])


def check(name: str, places: Sequence[str], *, sla: bool = True, service: str = SERVICE) -> CheckSpec:
    return CheckSpec(name, service, CheckKind.TCP, "mail.example.net", 25, tuple(places), sla)


def roster(version: int, from_minute: int, checks: Sequence[CheckSpec]) -> Roster:
    return Roster(
        version, from_minute, tuple(sorted({place for one in checks for place in one.locations})), tuple(checks)
    )


class Machine:
    """An agent's machine: see monitor.clock.Time."""

    def __init__(self, place: Place, began_ms: int) -> None:
        self._place = place
        self._began_ms = began_ms
        self.true_ms = began_ms

    def wall_ms(self) -> int:
        stepped = sum(by for at, by in self._place.steps if at <= self.true_ms)
        return self.true_ms + self._place.skew_ms + stepped

    def steady_ms(self) -> int:
        passed = self.true_ms - self._began_ms
        return 7_000 + passed + passed * self._place.drift_ppm // 10**6

    async def sleep_ms(self, milliseconds: int) -> None:
        raise AssertionError("nobody sleeps here")


class _Life:
    """One run of an agent's process: its clock, and what it has not handed in."""

    def __init__(self, machine: Machine) -> None:
        self.clock = CorrectedClock(machine)
        self.machine = machine
        self.born_ms = machine.true_ms
        self.begun_until = 0
        """Corrected time up to which slots were begun."""
        self.synced = False

    def check_in(self, chance: Random) -> int:
        """Ask the collector for the time. Returns by how much what was spooled before must move."""
        went, came = chance.randrange(1, 450), chance.randrange(1, 450)
        sent = self.clock.steady_ms()
        self.machine.true_ms += went
        server_ms = self.machine.true_ms
        self.machine.true_ms += came
        learnt = self.clock.learn(sent, server_ms, self.clock.steady_ms())
        self.synced = True
        return learnt.shift_ms if learnt is not None and learnt.first else 0


class Agent:
    """What the agent of one place hands in."""

    def __init__(self, plan: Plan, name: str) -> None:
        self._plan, self._name, self._place = plan, name, plan.places[name]
        self._chance = Random(f"{plan.seed} {name}")
        self._machine = Machine(self._place, plan.begin_ms)
        self._life: _Life | None = None
        self._book = RosterBook((), name)
        self._spool: list[Batch] = []
        self._sequence = 0
        self.handed_in: list[Delivery] = []

    def run(self) -> list[Delivery]:
        """Its whole month; what is still spooled at its end comes when the collector can be reached again."""
        plan = self._plan
        for start in range(plan.begin_ms, plan.end_ms, plan.chunk * MINUTE_MS):
            end = min(start + plan.chunk * MINUTE_MS, plan.end_ms)
            self._machine.true_ms = start
            if not self._alive(start, end):
                continue
            if self._place.reached(start):
                # Once for all the check-ins of these minutes.
                self._contact(end)
            self._probe(start, end)
            if self._place.reached(end):
                self._hand_in(end)
        after = max([plan.end_ms, *(until for _, until in (*self._place.away, *self._place.cut_off))])
        if self._spool:
            self._machine.true_ms = after
            self._life = self._life or _Life(self._machine)
            self._contact(after)
            self._hand_in(after)
        return self.handed_in

    def _alive(self, start: int, end: int) -> bool:
        """Whoever died since the last batch begins anew, with whatever the wall clock says."""
        if any(dead <= start and end <= until for dead, until in self._place.dead):
            self._life = None
            return False
        if self._life is None or any(self._life.born_ms <= dead < start for dead, _ in self._place.dead):
            # A run that ended before its clock was ever compared: of what it saw nobody will know the time.
            self._spool = [batch for batch in self._spool if batch.offset_ms is not None]
            self._life = _Life(self._machine)
        return True

    def _contact(self, until_ms: int) -> None:
        assert self._life is not None
        known = [one for one in self._plan.history if one.from_minute * MINUTE_MS - ROSTER_NOTICE_MS <= until_ms]
        self._book = RosterBook(known, self._name)
        shift_ms = self._life.check_in(self._chance)
        self._stamp(shift_ms)

    def _stamp(self, shift_ms: int) -> None:
        """Put right what was spooled by a clock that had not been compared, as Spool.restamp does."""
        life = self._life
        if life is None or not life.synced:
            return
        for index, batch in enumerate(self._spool):
            if batch.offset_ms is None:
                moved = tuple(one._replace(started_ms=one.started_ms + shift_ms) for one in batch.samples)
                self._spool[index] = batch._replace(offset_ms=life.clock.offset_ms, samples=moved)

    def _probe(self, start: int, end: int) -> None:
        life = self._life
        assert life is not None
        self._machine.true_ms = start
        now = life.clock.now_ms()
        # As core.slots.due_from: nothing is caught up, and a clock set back by more than a minute begins afresh.
        afresh = not life.begun_until or life.begun_until > now + MINUTE_MS
        low = now + FRESH_MS if afresh else max(life.begun_until, now - 1)
        high = end + (now - start) - 1
        life.begun_until = max(low, high)
        samples = [one for part in self._parts(low, high) for one in self._seen(part, now - start)]
        self._chance.shuffle(samples)
        if samples:
            self._sequence += 1
            self._machine.true_ms = end
            clock = life.clock
            batch = Batch(
                f"a-{self._name}", self._name, self._sequence, clock.now_ms(), clock.offset_ms, tuple(samples)
            )
            self._spool.append(batch)

    def _parts(self, low: int, high: int) -> Iterable[tuple[str, list[int]]]:
        """By check: the corrected instants in (low, high] at which it is begun."""
        every = range((low + 1) // MINUTE_MS, high // MINUTE_MS + 1)
        for now, group in groupby(every, key=self._book.at):
            of_roster = [minute * MINUTE_MS for minute in group]
            if now is None:
                continue
            for one in now.of_location(self._name):
                slot, late = slot_ms(one.name, self._name), self._chance.choice((0, 0, 3, 40, 700))
                yield one.name, [at + slot + late for at in of_roster if low < at + slot <= high]
            yield (
                CONTROL,
                [at + part for at in of_roster for part in (0, 15_000, 30_000, 45_000) if low < at + part <= high],
            )

    def _seen(self, part: tuple[str, list[int]], error: int) -> list[Sample]:
        """error: how far the corrected clock is ahead."""
        name, instants = part
        if not instants:
            return []
        place, start, end = self._place, instants[0] - error, instants[-1] - error + 1
        near = replace(
            place,
            cut_off=touching(place.cut_off, start, end),
            dead=touching(place.dead, start, end),
            faulty=touching(place.faulty, start, end),
            strained=touching(place.strained, start, end),
        )
        outages = touching(self._plan.outages.get(name, ()), start, end)
        quiet = not (near.cut_off or near.dead or near.faulty or near.strained or outages)
        if name == CONTROL:
            return self._controls(near, instants, error)
        if quiet:
            return [Sample(name, at, Outcome.OK, at // 977 % 391 + 5) for at in instants]
        found = []
        for at in instants:
            outcome, detail = _outcome(near, outages, at - error)
            if outcome is not None:
                found.append(make_sample(name, at, outcome, at // 977 % 391 + 5, detail))
        return found

    def _controls(self, near: Place, instants: Sequence[int], error: int) -> list[Sample]:
        """Every look that failed, and one a minute of those that did not."""
        found, reached = [], set()
        for at in instants:
            if within(near.dead, at - error):
                continue
            if within(near.cut_off, at - error):
                found.append(Sample(CONTROL, at, Outcome.CONTROL_FAILED, 0, "none of 3 answers"))
            elif at // MINUTE_MS not in reached:
                reached.add(at // MINUTE_MS)
                found.append(Sample(CONTROL, at, Outcome.OK, 9))
        return found

    def _hand_in(self, at_ms: int) -> None:
        life = self._life
        if life is None or not life.synced:
            return
        if len(self._spool) > 1:
            self._chance.shuffle(self._spool)
        for batch in self._spool:
            at_ms += self._chance.randrange(20, 900)
            self.handed_in.append(Delivery(at_ms, batch))
        self._spool.clear()


def _outcome(place: Place, outages: Sequence[Spell], true_ms: int) -> tuple[Outcome | None, str]:
    if within(place.dead, true_ms):
        return None, ""
    for start, end in place.cut_off:
        if start <= true_ms < end:
            # The network is back before the probe gives up, and the control targets answer when they are asked.
            lone = true_ms >= end - EDGE_MS
            return (Outcome.TIMEOUT, "no answer") if lone else (Outcome.CONTROL_FAILED, "timeout: no answer")
    for start, end in outages:
        if start <= true_ms < end:
            return FAILURES[start // MINUTE_MS % len(FAILURES)], "450 4.3.2 later"
    if within(place.faulty, true_ms):
        return Outcome.DNS, "no such name"
    if within(place.strained, true_ms):
        return Outcome.MONITOR_ERROR, "too many open files"
    return Outcome.OK, ""


def deliveries(plan: Plan) -> list[Delivery]:
    """What all agents hand in, in the order in which it comes."""
    return sorted((one for name in plan.places for one in Agent(plan, name).run()), key=lambda one: one.received_ms)


def jumbled(given: Iterable[Delivery], seed: int) -> list[Delivery]:
    """The same samples as a bad network brings them: split, put together otherwise, twice, and in any order within a
    few hours. Nothing comes before it was made."""
    chance = Random(f"jumbled {seed}")
    found: list[Delivery] = []
    waiting: dict[str, Delivery] = {}
    for one in given:
        dice = chance.random()
        before = waiting.pop(one.batch.location, None)
        if before is not None and before.batch.offset_ms == one.batch.offset_ms:
            one = Delivery(one.received_ms, one.batch._replace(samples=before.batch.samples + one.batch.samples))
        elif before is not None:
            found.append(before)
        if dice < 0.08:
            waiting[one.batch.location] = one
        elif dice < 0.2:
            cut = chance.randrange(len(one.batch.samples) + 1)
            overlap = max(0, cut - chance.randrange(20))
            samples = one.batch.samples
            found += [_later(one, chance, samples[:cut]), _later(one, chance, samples[overlap:])]
        else:
            found.append(one)
        if dice > 0.93:
            found.append(_later(one, chance, one.batch.samples))
    found += waiting.values()
    return sorted((one for one in found if one.batch.samples), key=lambda one: one.received_ms)


def _later(one: Delivery, chance: Random, samples: tuple[Sample, ...]) -> Delivery:
    return Delivery(one.received_ms + chance.randrange(5 * HOUR_MS), one.batch._replace(samples=samples))
