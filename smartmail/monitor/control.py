"""Is this location on the net at all? Its control targets: hosts that have nothing to do with what is monitored.

None of them reachable: the location is cut off, and what its probes see says nothing about the service.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

from smartmail.core import roster

CONTROL: Final = roster.CONTROL
"""The name under which the looks are stored, as a check of the location's own."""
CONNECT_SECONDS: Final = 3
FRESH_MS: Final = 1_000
"""A look that began no longer ago than this before a failure answers for it: failures come in crowds."""

_OWN: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EPERM})
"""Errors that say nothing about the net."""

Connect = Callable[[str, int], Awaitable[None]]
"""Connects to host and port and lets go again. Raises OSError, also TimeoutError."""


class Reach(Enum):
    """What a look found."""

    REACHED = "reached"
    CUT_OFF = "cut-off"
    OWN_FAULT = "own-fault"
    """This machine could not even try."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at all targets. began_ms: by the steady clock."""

    began_ms: int
    took_ms: int
    reach: Reach
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(text: str) -> Target:
    """host:port or [v6]:port. Raises ValueError."""
    host, found, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not found or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"{text!r} is no control target: write host:port")
    return Target(host, int(port))


async def connect(host: str, port: int) -> None:
    """A TCP connection, ended at once. Raises OSError, also TimeoutError."""
    async with asyncio.timeout(CONNECT_SECONDS):
        _, writer = await asyncio.open_connection(host, port)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


class Controls:
    """Looks at the control targets, never twice at the same time."""

    def __init__(
        self,
        targets: Sequence[Target],
        steady_ms: Callable[[], int],
        note: Callable[[Look], None],
        connect: Connect = connect,
    ) -> None:
        """note: is told of every look."""
        self.targets = tuple(targets)
        self._steady_ms = steady_ms
        self._note = note
        self._connect = connect
        self._last: Look | None = None
        self._running: asyncio.Task[Look] | None = None

    async def look(self) -> Look:
        """Look now; where somebody looks already, that look."""
        if self._running is None:
            self._running = asyncio.create_task(self._look(), name="control")
        # Whoever waits may be cancelled; the others still want to know.
        return await asyncio.shield(self._running)

    async def look_after(self, steady_ms: int) -> Look:
        """A look that began after `steady_ms`, or so shortly before it that it says the same."""
        while self._last is None or self._last.began_ms < steady_ms - FRESH_MS:
            await self.look()
        return self._last

    async def _look(self) -> Look:
        began = self._steady_ms()
        try:
            reach, detail = await self._any()
            self._last = Look(began, self._steady_ms() - began, reach, detail)
            self._note(self._last)
            return self._last
        finally:
            self._running = None

    async def _any(self) -> tuple[Reach, str]:
        tasks = [asyncio.ensure_future(self._connect(one.host, one.port)) for one in self.targets]
        own: list[str] = []
        try:
            for done in asyncio.as_completed(tasks):
                try:
                    await done
                except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one
                    if isinstance(error, OSError) and error.errno in _OWN:
                        own.append(error.strerror or str(error))
                else:
                    return Reach.REACHED, ""
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if own:
            return Reach.OWN_FAULT, own[0]
        return Reach.CUT_OFF, f"none of {len(self.targets)} control targets can be reached"
