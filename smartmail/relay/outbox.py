"""What one turn of the loop has to say on all its connections, said at the turn's end.

A write to a sleeping reader wakes it, which costs more than the write. Written together, the first wakes it for all.
"""

import asyncio
from typing import Final

LARGE: Final = 8192
"""Octets that do not wait for the end of the turn."""
MANY: Final = 32
"""Writes that do not wait for more: so it never holds more than MANY times LARGE."""


class Outbox:
    """Writes that wait for the end of the turn, in order. All that goes out on a transport goes by the same one."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def write(self, transport: asyncio.Transport, octets: bytes) -> None:
        """Write soon; at once, behind what waits, if it is much."""
        waiting = self._waiting
        if not waiting:
            self._loop.call_soon(self.flush)
        waiting.append((transport, octets))
        if len(octets) > LARGE or len(waiting) >= MANY:
            self.flush()

    def close(self, transport: asyncio.Transport) -> None:
        """Close behind what has been written."""
        self.write(transport, b"")

    def flush(self) -> None:
        """Write all that waits."""
        waiting, self._waiting = self._waiting, []
        for transport, octets in waiting:
            if transport.is_closing():
                continue
            if octets:
                transport.write(octets)
            else:
                transport.close()
