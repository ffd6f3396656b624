"""Hands in what lies in the spool: oldest first, each batch until a collector has it or none ever will."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from smartmail.core.sample import MAX_SAMPLES, SampleError, encode_batch
from smartmail.monitor.client import ClientError, Collectors, RefusedByCollector
from smartmail.monitor.clock import CorrectedClock
from smartmail.monitor.spool import Spool, SpoolError, Taken

POST_EVERY_MS: Final = 5_000
"""Between posts when nothing is waiting: samples are gathered for so long."""
FIRST_WAIT_MS: Final = 1_000
LONGEST_WAIT_MS: Final = 60_000
"""Between tries when no collector takes anything: doubled from the first to the longest, and spread at random."""

T = TypeVar("T")


@dataclass(slots=True)
class SendCounts:
    """What became of the spooled samples."""

    batches: int = 0
    samples: int = 0
    """Handed in, those that the collector had already included."""
    duplicates: int = 0
    quarantined: int = 0
    conflicts: int = 0
    set_aside: int = 0
    """Samples that no collector will take."""
    failures: int = 0
    """Tries that no collector answered well."""
    last_ms: int | None = None
    """When a batch was last handed in, by the steady clock."""


class SenderEvents(Protocol):
    """The operator's log, as the sender needs it."""

    def collector_lost(self, *, reason: str) -> None:
        """No collector takes anything; samples gather on disk."""

    def collector_back(self, *, url: str) -> None:
        """A collector takes samples again."""

    def batch_set_aside(self, *, samples: int, reason: str) -> None:
        """These samples will never be taken: they are kept apart in the spool."""

    def spool_failed(self, *, reason: str) -> None:
        """The disk does not give or take samples."""


class Backoff:
    """How long to wait after one failure, and after the next."""

    def __init__(self, first_ms: int = FIRST_WAIT_MS, longest_ms: int = LONGEST_WAIT_MS) -> None:
        self._first_ms = first_ms
        self._longest_ms = longest_ms
        self._failures = 0

    def well(self) -> None:
        """It worked: begin anew."""
        self._failures = 0

    def next_ms(self) -> int:
        """The next wait: between half of its length and all of it, so that agents don't come all at once."""
        # Shifted no further than needed: after weeks of failures this would be a number of megabytes.
        length = min(self._first_ms << min(self._failures, 20), self._longest_ms)
        self._failures += 1
        return length // 2 + secrets.randbelow(length // 2 + 1)


class Sender:
    """One agent's sending. `wake` tells it that there are samples."""

    def __init__(
        self,
        spool: Spool,
        collectors: Collectors,
        clock: CorrectedClock,
        events: SenderEvents,
        beside: Executor,
    ) -> None:
        """beside: the one thread that the spool is used in."""
        self.counts = SendCounts()
        self.wake = asyncio.Event()
        self._spool = spool
        self._collectors = collectors
        self._clock = clock
        self._events = events
        self._beside = beside
        self._lost = False
        self._singly_until = 0

    async def run(self, ready: Callable[[], Awaitable[bool]]) -> None:
        """Send until cancelled. ready: is asked before each batch; False is a failure as any other."""
        wait = Backoff()
        while True:
            self.wake.clear()
            try:
                went = await self._round(ready)
            except (ClientError, SpoolError) as error:
                self.counts.failures += 1
                self._say_lost(error)
                await self._clock.sleep_ms(wait.next_ms())
                continue
            wait.well()
            if went is None:
                await self.wake.wait()
            elif not went:
                await self._clock.sleep_ms(POST_EVERY_MS)

    async def _round(self, ready: Callable[[], Awaitable[bool]]) -> bool | None:
        """Send one batch. None: there was nothing. True: there may be more at once. Raises ClientError, SpoolError."""
        # First, because what it learns of the time may put right what lies in the spool.
        if not await ready():
            raise ClientError("no collector says what time it is")
        found = await self._in_thread(self._take)
        if found is None:
            return None
        taken, octets = found
        if isinstance(octets, SampleError):
            await self._refused(taken, f"it cannot be written as a batch: {octets}")
            return True
        try:
            receipt = await self._collectors.post(octets)
        except RefusedByCollector as error:
            if not error.for_ever:
                raise
            await self._refused(taken, str(error))
            return True
        await self._in_thread(lambda: self._spool.done(taken.first, taken.last))
        self._say_back()
        counts = self.counts
        counts.batches += 1
        counts.last_ms = self._clock.steady_ms()
        counts.samples += len(taken.batch.samples)
        counts.duplicates += receipt.duplicates
        counts.quarantined += receipt.quarantined
        counts.conflicts += receipt.conflicts
        return len(taken.batch.samples) * 2 > MAX_SAMPLES or taken.last < self._singly_until

    def _take(self) -> tuple[Taken, bytes | SampleError] | None:
        taken = self._spool.take(MAX_SAMPLES)
        if taken is not None and taken.first <= self._singly_until:
            taken = self._spool.take(1)
        if taken is None:
            return None
        try:
            return taken, encode_batch(taken.batch)
        except SampleError as error:
            return taken, error

    async def _refused(self, taken: Taken, reason: str) -> None:
        """Of several entries only the one at fault shall be set aside: they are tried again one by one."""
        if not taken.single:
            self._singly_until = taken.last
            return
        now_ms = self._clock.now_ms()
        await self._in_thread(lambda: self._spool.set_aside(taken.first, taken.last, reason, at_ms=now_ms))
        self.counts.set_aside += len(taken.batch.samples)
        self._events.batch_set_aside(samples=len(taken.batch.samples), reason=reason)

    def _say_lost(self, error: ClientError | SpoolError) -> None:
        if self._lost:
            return
        self._lost = True
        if isinstance(error, SpoolError):
            self._events.spool_failed(reason=str(error))
        else:
            self._events.collector_lost(reason=str(error))

    def _say_back(self) -> None:
        if self._lost:
            self._lost = False
            self._events.collector_back(url=self._collectors.url)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._beside, work)
