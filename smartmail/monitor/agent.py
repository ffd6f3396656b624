"""One agent: probes in fixed slots, spools what they saw, hands it in, and keeps its clock and its roster.

It needs a collector only to begin with: from then on it goes by the roster it has kept, and everything it saw is handed
in when a collector is there again.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from smartmail.core.roster import Roster
from smartmail.core.sample import Batch, SampleError, make_sample
from smartmail.core.slots import MINUTE_MS, RosterBook
from smartmail.monitor.client import ClientError, Collectors, Rosters, Unreachable, read_rosters
from smartmail.monitor.clock import CorrectedClock, boot_id
from smartmail.monitor.control import Connect, connect
from smartmail.monitor.prober import MOST_AT_ONCE, Fresh, Probe, Prober, ProberEvents, ProberSettings
from smartmail.monitor.sender import Backoff, Sender, SenderEvents
from smartmail.monitor.settings import AgentSettings, write_whole
from smartmail.monitor.spool import Spool, SpoolError

FLUSH_MS: Final = 1_000
"""Samples are on the disk no later than this after their probe ended."""
ENTRY_SAMPLES: Final = 5_000
MOST_FRESH: Final = 200_000
"""Samples kept in memory while the disk takes none; beyond it the oldest are lost."""
FIRST_CHECK_IN_SECONDS: Final = 10
"""Waited for before the first slot: with the right time no sample needs to be put right."""
FINISH_SECONDS: Final = 10
"""For probes that run when the agent is stopped."""
PRUNE_EVERY_MS: Final = 3_600_000

T = TypeVar("T")


class AgentEvents(ProberEvents, SenderEvents, Protocol):
    """The operator's log, as the agent needs it."""

    def agent_started(self, *, agent: str, location: str, collectors: Sequence[str]) -> None:
        """The agent begins its work."""

    def agent_stopped(self, *, agent: str, waiting: int) -> None:
        """It has ended. waiting: samples that lie in the spool."""

    def clock_learnt(self, *, offset_ms: int, shift_ms: int) -> None:
        """The wall clock is this far behind the collector's; our time moved by shift_ms."""

    def roster_taken(self, *, version: int, checks: int) -> None:
        """Another roster is the newest that is known."""

    def samples_lost(self, *, samples: int, reason: str) -> None:
        """These samples are gone."""

    def spool_broken(self, *, file: str) -> None:
        """The spool could not be read and lies here; a new one was begun."""


@dataclass(frozen=True, slots=True)
class AgentParts:
    """What an agent works with; all but the settings is given, so that a test may give another."""

    clock: CorrectedClock
    collectors: Collectors
    probe: Probe
    events: AgentEvents
    connect: Connect = connect
    most_at_once: int = MOST_AT_ONCE
    boot: str = field(default_factory=boot_id)


@dataclass(slots=True)
class AgentCounts:
    """What the agent itself has done; see also ProbeCounts and SendCounts."""

    spooled: int = 0
    """Samples on the disk."""
    lost: int = 0
    """Samples that the disk did not take, or that no collector took in 30 days."""
    check_ins: int = 0
    failed_check_ins: int = 0


class Agent:
    """One location's agent. `run` is its whole life."""

    def __init__(self, settings: AgentSettings, parts: AgentParts) -> None:
        """settings.folder: exists."""
        self.counts = AgentCounts()
        self.prober = Prober(
            ProberSettings(settings.location, settings.control, parts.most_at_once, parts.connect),
            parts.clock,
            parts.probe,
            parts.events,
        )
        self.spool = Spool(settings.folder)
        # One thread: what is put into the spool comes before what is asked of it afterwards.
        self._beside = ThreadPoolExecutor(1, "spool")
        self.sender = Sender(self.spool, parts.collectors, parts.clock, parts.events, self._beside)
        self._settings = settings
        self._clock = parts.clock
        self._made_ms = parts.clock.steady_ms()
        self._collectors = parts.collectors
        self._events = parts.events
        self._boot = parts.boot or secrets.token_hex(8)
        self._run = f"{self._boot}:{parts.clock.at(0)}"
        """Names this life of the process: the start of the machine, and what its steady clock was taken to begin at."""
        self._tag = ""
        self._synced = False
        self._checking = asyncio.Lock()
        self._flushing = asyncio.Lock()
        self._held: list[Fresh] = []
        self._unstamped: tuple[int, int] | None = None
        self._disk_failed = False

    @property
    def waiting(self) -> int:
        """Samples that no collector has yet."""
        return self.spool.samples + len(self._held)

    @property
    def since_hand_in_ms(self) -> int:
        """How long ago a batch was last handed in; without one, how long ago the agent was made."""
        last_ms = self.sender.counts.last_ms
        return self._clock.steady_ms() - (self._made_ms if last_ms is None else last_ms)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Raises SpoolError when the spool cannot be opened."""
        try:
            await self._in_thread(self.spool.open)
            await self._work(stop)
        finally:
            await self._in_thread(self.spool.close)
            self._beside.shutdown()

    async def _work(self, stop: asyncio.Event) -> None:
        events = self._events
        if self.spool.broken is not None:
            events.spool_broken(file=str(self.spool.broken))
        events.agent_started(
            agent=self._settings.name, location=self._settings.location, collectors=self._settings.collectors
        )
        self._load_roster()
        try:
            async with asyncio.timeout(FIRST_CHECK_IN_SECONDS):
                await self._check_in()
        except TimeoutError:
            self.counts.failed_check_ins += 1
        probing = [asyncio.create_task(self.prober.run()), asyncio.create_task(self.prober.watch())]
        handing = [
            asyncio.create_task(one)
            for one in (self._flush_often(), self._check_in_often(), self._prune_often(), self.sender.run(self._ready))
        ]
        ending = asyncio.create_task(stop.wait())
        try:
            await self._until_ended(ending, [*probing, *handing])
            await _cancelled(probing)
            await self.prober.finish(FINISH_SECONDS)
        finally:
            await _cancelled([ending, *probing, *handing])
            await self.prober.finish(0)
            await self._flush()
        waiting = await self._in_thread(self.spool.waiting)
        events.agent_stopped(agent=self._settings.name, waiting=waiting.samples)

    async def _until_ended(self, ending: "asyncio.Task[bool]", tasks: "Sequence[asyncio.Task[None]]") -> None:
        """Wait for the end. A task that breaks off is a fault of ours: it ends the agent, loudly."""
        running: set[asyncio.Task[None] | asyncio.Task[bool]] = {*tasks, ending}
        while not ending.done():
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    # The clock and the roster

    async def _check_in_often(self) -> None:
        wait = Backoff(5_000, MINUTE_MS)
        while True:
            if self._synced and self._tag:
                wait.well()
                await self._clock.sleep_ms(MINUTE_MS - secrets.randbelow(5_000))
            else:
                await self._clock.sleep_ms(wait.next_ms())
            await self._check_in()

    async def _check_in(self) -> bool:
        """Ask for the time and the roster. False when no collector answered well."""
        async with self._checking:
            try:
                await self._ask_time()
                rosters = await self._collectors.roster(self._tag)
            except (ClientError, SpoolError):
                self.counts.failed_check_ins += 1
                return False
            self.counts.check_ins += 1
            if rosters is not None:
                self._take_rosters(rosters)
            return True

    async def _ask_time(self) -> None:
        told = await self._collectors.time()
        learnt = self._clock.learn(told.sent_ms, told.server_ms, told.received_ms)
        offset_ms = self._clock.offset_ms
        if learnt is not None and offset_ms is not None:
            if learnt.first:
                self._unstamped = self._clock.at(0), offset_ms
            self._events.clock_learnt(offset_ms=offset_ms, shift_ms=learnt.shift_ms)
        if self._unstamped is not None:
            base_ms, first_offset_ms = self._unstamped
            await self._in_thread(lambda: self._put_right(base_ms, first_offset_ms))
            self._unstamped = None
            self._synced = True

    def _put_right(self, base_ms: int, offset_ms: int) -> None:
        """Everything seen before since the machine was started, by this process or by one that was ended, went by the
        same steady clock: in the spool it is wrong by what that was taken to begin at."""
        for run in self.spool.unstamped():
            boot, _, base = run.rpartition(":")
            if boot == self._boot:
                self.spool.restamp(run, base_ms - int(base), offset_ms)

    async def _ready(self) -> bool:
        return self._synced or await self._check_in()

    def _take_rosters(self, rosters: Rosters) -> None:
        self.prober.book = RosterBook(rosters.rosters, self._settings.location)
        self._tag = rosters.tag
        kept = json.dumps({"tag": rosters.tag, "body": rosters.body.decode("utf-8", "replace")})
        try:
            write_whole(self._settings.roster_file, kept.encode())
        except OSError as error:
            self._events.spool_failed(reason=f"{self._settings.roster_file}: {error.strerror}")
        self._say_roster()

    def _load_roster(self) -> None:
        """Go by the rosters as last heard. What cannot be read is asked for anew."""
        try:
            rosters = read_kept_rosters(self._settings.roster_file)
        except (OSError, ValueError, KeyError, TypeError, Unreachable):
            return
        # No tag: the first check-in brings them whole, and with it the file is good again.
        self.prober.book = RosterBook(rosters, self._settings.location)
        self._say_roster()

    def _say_roster(self) -> None:
        if newest := self.prober.book.rosters[-1:]:
            self._events.roster_taken(version=newest[0].version, checks=len(newest[0].checks))

    # The spool

    async def _flush_often(self) -> None:
        while True:
            await self._clock.sleep_ms(FLUSH_MS)
            await self._flush()

    async def _flush(self) -> None:
        """Bring what was seen to the disk. What it does not take is kept and tried again."""
        # Shielded: what the thread has begun to write must not be forgotten, and so be written twice.
        await asyncio.shield(asyncio.ensure_future(self._flush_now()))

    async def _flush_now(self) -> None:
        async with self._flushing:
            self._held += self.prober.take()
            while self._held:
                part = self._held[:ENTRY_SAMPLES]
                # Times and offset are settled, and the place in the thread's queue taken, with nothing in between:
                # so a clock that is put right meanwhile finds these samples in the spool, or not yet made.
                batch = self._batch(part)
                try:
                    await self._in_thread(lambda batch=batch: self.spool.add(batch, self._run))  # type: ignore[misc]
                except SpoolError as error:
                    self._say_disk(error)
                    self._drop_oldest()
                    return
                except SampleError as error:  # a time that no sample can have: another try would end the same
                    del self._held[: len(part)]
                    self._lose(len(part), f"they cannot be written: {error}")
                    continue
                self._disk_failed = False
                del self._held[: len(part)]
                self.counts.spooled += len(part)
                self.sender.wake.set()

    def _batch(self, part: Sequence[Fresh]) -> Batch:
        at = self._clock.at
        samples = tuple(
            make_sample(one.check, at(one.began_ms), one.outcome, one.latency_ms, one.detail) for one in part
        )
        settings = self._settings
        return Batch(settings.name, settings.location, 0, self._clock.now_ms(), self._clock.offset_ms, samples)

    def _drop_oldest(self) -> None:
        over = len(self._held) - MOST_FRESH
        if over > 0:
            del self._held[:over]
            self._lose(over, "the disk takes none")

    def _lose(self, samples: int, reason: str) -> None:
        self.counts.lost += samples
        self._events.samples_lost(samples=samples, reason=reason)

    def _say_disk(self, error: SpoolError) -> None:
        """Once: it is tried each second, and the log may be on the same disk."""
        if not self._disk_failed:
            self._disk_failed = True
            self._events.spool_failed(reason=str(error))

    async def _prune_often(self) -> None:
        while True:
            # What a clock that nobody has compared calls old may be of today.
            now_ms = self._clock.now_ms() if self._synced else 0
            try:
                lost = await self._in_thread(lambda now_ms=now_ms: self.spool.prune(now_ms))  # type: ignore[misc]
            except SpoolError as error:
                self._events.spool_failed(reason=str(error))
                lost = 0
            if lost:
                self._lose(lost, "no collector took them in time, or there is no room")
            await self._clock.sleep_ms(PRUNE_EVERY_MS)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._beside, work)


async def _cancelled(tasks: "Sequence[asyncio.Task[Any]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def read_kept_rosters(file: Path) -> tuple[Roster, ...]:
    """The rosters that an agent keeps. Raises OSError, and ValueError, KeyError, TypeError or Unreachable for what is
    no such file."""
    return read_rosters(json.loads(file.read_bytes())["body"])
