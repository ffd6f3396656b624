"""The agent's clock: a steady one, put right by what the collector says.

The wall clock of a machine may be minutes wrong, and jump. So time is counted by the steady clock, and where that
stands is learnt from the collector, each answer with the error that half its round trip allows. The wall clock only
says where to begin.
"""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

WORST_ROUND_TRIP_MS: Final = 10_000
"""An answer that took longer teaches nothing."""

_STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Counts on while the machine is suspended, where there is such a clock."""


_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Names this start of the machine, in which the steady clock is one and the same; "" where nothing tells."""
    try:
        return _BOOT.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


class Time(Protocol):
    """Where time comes from. Tests give another."""

    def wall_ms(self) -> int:
        """The machine's wall clock, epoch milliseconds."""

    def steady_ms(self) -> int:
        """A clock that is never set: milliseconds since whenever."""

    async def sleep_ms(self, milliseconds: int) -> None:
        """Come back no earlier than after that long."""


class SystemTime:
    """The machine's own."""

    def wall_ms(self) -> int:
        """See Time."""
        return time.time_ns() // 1_000_000

    def steady_ms(self) -> int:
        """See Time."""
        return time.clock_gettime_ns(_STEADY) // 1_000_000

    async def sleep_ms(self, milliseconds: int) -> None:
        """See Time."""
        await asyncio.sleep(max(milliseconds, 0) / 1000)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What an answer changed. shift_ms: by how much the corrected clock moved. first: it was the first of all."""

    shift_ms: int
    first: bool


class CorrectedClock:
    """The time that samples are given. Until the first answer: the wall clock as it was at the start, counted on."""

    def __init__(self, source: Time) -> None:
        self._source = source
        self._base = source.wall_ms() - source.steady_ms()
        self._offset_ms: int | None = None

    @property
    def offset_ms(self) -> int | None:
        """What the machine's wall clock had to be moved by when that was last learnt; None before the first
        answer."""
        return self._offset_ms

    def now_ms(self) -> int:
        """The corrected time, epoch milliseconds."""
        return self._base + self._source.steady_ms()

    def steady_ms(self) -> int:
        """The steady clock, to be turned into a time later by `at`."""
        return self._source.steady_ms()

    def at(self, steady_ms: int) -> int:
        """The corrected time, by what is known now, of an instant of the steady clock."""
        return self._base + steady_ms

    async def sleep_ms(self, milliseconds: int) -> None:
        """Come back no earlier than after that long."""
        await self._source.sleep_ms(milliseconds)

    async def sleep_until(self, at_ms: int) -> None:
        """Come back when the corrected clock shows `at_ms`, or as it would without what is learnt meanwhile."""
        end = self._source.steady_ms() + at_ms - self.now_ms()
        while True:
            await self._source.sleep_ms(end - self._source.steady_ms())
            # A timer may be a millisecond early, and what then begins would be of the minute before.
            if self._source.steady_ms() >= end:
                return

    def learn(self, sent_ms: int, server_ms: int, received_ms: int) -> Learnt | None:
        """The collector said `server_ms`, between two instants of our steady clock.

        None when it taught nothing: it took too long, or what we have agrees with it as exactly as can be told.
        """
        trip = received_ms - sent_ms
        if not 0 <= trip <= WORST_ROUND_TRIP_MS:
            return None
        base = server_ms - (sent_ms + trip // 2)
        first = self._offset_ms is None
        shift = base - self._base
        # Within half the round trip the answer cannot tell which of the two is right; moving would be jitter.
        if not first and abs(shift) <= trip // 2 + 1:
            return None
        self._base = base
        self._offset_ms = self.now_ms() - self._source.wall_ms()
        return Learnt(shift, first)
