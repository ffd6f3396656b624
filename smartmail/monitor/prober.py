"""Begins each check in its slot and turns what it saw into a sample.

One timer for all checks. A slot that cannot be begun in time is missed: silence, never a sample made up later.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from smartmail.core.outcome import Outcome, Vote, vote_of
from smartmail.core.roster import CheckKind, CheckSpec
from smartmail.core.slots import GRACE_MS, MINUTE_MS, ON_TIME_MS, RosterBook, due_from
from smartmail.monitor.clock import CorrectedClock
from smartmail.monitor.control import CONTROL, Connect, Controls, Look, Reach, Target, connect

MOST_AT_ONCE: Final = 4_000
"""Probes: 10,000 checks a minute that all hang for 20 seconds are 3,300."""
LOOK_EVERY_MS: Final = 15_000
"""Between looks at the control targets when nothing fails."""

_TICK_MS: Final = 500
"""The longest sleep: a new roster or a clock put right counts after no longer than this."""
_LIMIT_SECONDS: Final[Mapping[CheckKind, int]] = {CheckKind.ROUND_TRIP: 900}
_USUAL_LIMIT_SECONDS: Final = 58
"""A probe ends by its own deadline; this only catches one that does not."""
_OVERLAP: Final[Mapping[CheckKind, int]] = {CheckKind.ROUND_TRIP: 16}
"""Probes of one check at once: a round trip is begun each minute, and may take many."""


class Seen(Protocol):
    """What a probe gives back."""

    @property
    def outcome(self) -> Outcome: ...
    @property
    def latency_ms(self) -> int: ...
    @property
    def detail(self) -> str: ...


Probe = Callable[[CheckSpec], Awaitable[Seen]]
"""Does one check, once."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A sample before it has a time: began_ms is of the steady clock."""

    check: str
    began_ms: int
    outcome: Outcome
    latency_ms: int
    detail: str


@dataclass(frozen=True, slots=True)
class _OwnFault:
    detail: str
    outcome: Outcome = Outcome.MONITOR_ERROR
    latency_ms: int = 0


@dataclass(slots=True)
class ProbeCounts:
    """What became of the slots. begun = on_time + late."""

    begun: int = 0
    on_time: int = 0
    """Within a second of their slot."""
    missed: int = 0
    """Not begun: the agent slept, or too much was running."""
    overlapped: int = 0
    """Not begun: the check's last probe still ran."""
    faults: int = 0
    """Probes that ended by a fault of ours."""
    cut_off: int = 0
    """Looks that reached no control target."""
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Samples by kind of check and outcome (in small letters); without the looks at the control targets."""


class ProberEvents(Protocol):
    """The operator's log, as the prober needs it."""

    def probe_fault(self, *, check: str, error: BaseException) -> None:
        """A probe broke off by a fault of ours."""

    def agent_paused(self, *, seconds: int, missed: int) -> None:
        """The agent did not run for a while: these slots are silence."""

    def location_cut_off(self, *, location: str, detail: str) -> None:
        """No control target can be reached: the location abstains."""

    def location_back(self, *, location: str) -> None:
        """Control targets can be reached again."""


@dataclass(frozen=True, slots=True)
class ProberSettings:
    """What a prober works by."""

    location: str
    targets: tuple[Target, ...] = ()
    most_at_once: int = MOST_AT_ONCE
    connect: Connect = connect


class Prober:
    """All probes of one location. `take` hands over the samples made since the last time."""

    def __init__(self, settings: ProberSettings, clock: CorrectedClock, probe: Probe, events: ProberEvents) -> None:
        self.counts = ProbeCounts()
        self.book = RosterBook((), settings.location)
        """Replaced whole when there is another."""
        self._settings = settings
        self._clock = clock
        self._probe = probe
        self._events = events
        self._controls = Controls(settings.targets, clock.steady_ms, self._looked, settings.connect)
        self._fresh: list[Fresh] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._of_check: dict[str, int] = {}
        self._queue: deque[tuple[CheckSpec, int]] = deque()
        self._cut_off = False
        self._control_minute = 0
        self._control_second = 0

    def take(self) -> list[Fresh]:
        """The samples made since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    @property
    def running(self) -> int:
        """Probes that run now."""
        return len(self._tasks)

    async def run(self) -> None:
        """Begin slots until cancelled."""
        last = self._clock.now_ms()
        while True:
            now = self._clock.now_ms()
            start = due_from(last, now)
            if start > last:
                self._note_pause(last, start, now)
            for slot in self.book.between(start, now):
                for check in slot.checks:
                    self._begin(check, slot.at_ms)
            # Set back a little, the clock comes again to slots that were begun; set back far, it begins afresh.
            last = now if start < last else max(last, now)
            after = self.book.after(now)
            wake = now + _TICK_MS if after is None else min(after, now + _TICK_MS)
            await self._clock.sleep_until(wake)

    async def watch(self) -> None:
        """Look at the control targets in fixed places of the minute, until cancelled."""
        while self._settings.targets:
            now = self._clock.now_ms()
            await self._clock.sleep_until((now // LOOK_EVERY_MS + 1) * LOOK_EVERY_MS)
            await self._controls.look()

    async def finish(self, seconds: float) -> None:
        """Let the probes that run end, those that need longer without a sample."""
        self._queue.clear()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=seconds)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _note_pause(self, last: int, start: int, now: int) -> None:
        # A clock put right by years is no pause of years.
        missed = sum(len(slot.checks) for slot in self.book.between(max(last, start - 10 * MINUTE_MS), start))
        self.counts.missed += missed
        self._events.agent_paused(seconds=(now - last) // 1000, missed=missed)

    def _begin(self, check: CheckSpec, slot_ms: int) -> None:
        if self._of_check.get(check.name, 0) >= _OVERLAP.get(check.kind, 1):
            self.counts.overlapped += 1
        elif len(self._tasks) >= self._settings.most_at_once:
            self._queue.append((check, slot_ms))
        else:
            self._of_check[check.name] = self._of_check.get(check.name, 0) + 1
            task = asyncio.create_task(self._run(check, slot_ms))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        while self._queue and len(self._tasks) < self._settings.most_at_once:
            check, slot_ms = self._queue.popleft()
            if self._clock.now_ms() - slot_ms > GRACE_MS:
                self.counts.missed += 1
            else:
                self._begin(check, slot_ms)

    async def _run(self, check: CheckSpec, slot_ms: int) -> None:
        began = self._clock.steady_ms()
        late = self._clock.at(began) - slot_ms > ON_TIME_MS
        self.counts.begun += 1
        self.counts.on_time += not late
        try:
            seen = await self._ask(check)
            outcome, detail = seen.outcome, seen.detail
            if outcome is Outcome.OK and late:
                outcome = Outcome.OK_LATE_START
            elif vote_of(outcome) is Vote.DOWN and await self._is_cut_off():
                outcome, detail = Outcome.CONTROL_FAILED, f"{outcome.name.lower()}: {detail}"
            self.counts.outcomes[check.kind.value, outcome.name.lower()] += 1
            self._fresh.append(Fresh(check.name, began, outcome, seen.latency_ms, detail))
        finally:
            self._of_check[check.name] -= 1
            if not self._of_check[check.name]:
                del self._of_check[check.name]

    async def _ask(self, check: CheckSpec) -> Seen:
        try:
            async with asyncio.timeout(_LIMIT_SECONDS.get(check.kind, _USUAL_LIMIT_SECONDS)):
                return await self._probe(check)
        except Exception as error:  # whatever is wrong with one probe, the others must go on
            self.counts.faults += 1
            self._events.probe_fault(check=check.name, error=error)
            return _OwnFault(type(error).__name__)

    async def _is_cut_off(self) -> bool:
        """A failure counts only if the location is on the net after it."""
        if not self._settings.targets:
            return False
        look = await self._controls.look_after(self._clock.steady_ms())
        return look.reach is Reach.CUT_OFF

    def _looked(self, look: Look) -> None:
        """Each failed look is a sample, of those that went well one each minute; never two in one second."""
        self.counts.cut_off += look.reach is Reach.CUT_OFF
        self._say(look)
        now = self._clock.at(look.began_ms)
        minute, second = now // MINUTE_MS, now // 1000
        reached = look.reach is Reach.REACHED
        if second == self._control_second or (reached and minute == self._control_minute):
            return
        self._control_second = second
        if reached:
            self._control_minute = minute
        outcome = {
            Reach.REACHED: Outcome.OK,
            Reach.CUT_OFF: Outcome.CONTROL_FAILED,
            Reach.OWN_FAULT: Outcome.MONITOR_ERROR,
        }[look.reach]
        self._fresh.append(Fresh(CONTROL, look.began_ms, outcome, look.took_ms if reached else 0, look.detail))

    def _say(self, look: Look) -> None:
        if look.reach is Reach.CUT_OFF and not self._cut_off:
            self._cut_off = True
            self._events.location_cut_off(location=self._settings.location, detail=look.detail)
        elif look.reach is Reach.REACHED and self._cut_off:
            self._cut_off = False
            self._events.location_back(location=self._settings.location)
