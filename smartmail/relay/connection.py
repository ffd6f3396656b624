"""One connection to the mail server behind us: commands out, replies in order to whoever asked.

A reply that nobody waits for, or that is no reply, ends it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, cast

from smartmail.core.reply import Reply, ReplyError, ReplyParser
from smartmail.core.transfer import Loss
from smartmail.core.xclient import Identity
from smartmail.relay.outbox import Outbox
from smartmail.relay.route import Capabilities

WRITE_HIGH: Final = 16_384
"""Octets waiting for a slow upstream at which its client is not read any further."""


class Tick:
    """Loop time as of the last sweep, a second ago at most: near enough for timeouts, and free to read."""

    __slots__ = ("now",)

    def __init__(self, now: float) -> None:
        self.now = now


OnReply = Callable[[Reply | Loss], None]


class UpstreamError(Exception):
    """No connection could be made. `reply`: what the upstream said, if it spoke."""

    def __init__(self, reason: str, answer: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = answer


class UnsuitableError(UpstreamError):
    """This connection will not do for this client; another one may."""


class Connection(asyncio.Protocol):
    """One connection. `send` queues a command and who gets its reply; replies come back in order."""

    __slots__ = (
        "_greeting",
        "_loop",
        "_outbox",
        "_parser",
        "_tick",
        "_waiting",
        "born",
        "capabilities",
        "deadline",
        "idle_since",
        "identity",
        "lost",
        "on_blocked",
        "on_fault",
        "on_lost",
        "transport",
        "uses",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: Tick, outbox: Outbox) -> None:
        self._loop = loop
        self._outbox = outbox
        self._tick = tick
        self._parser = ReplyParser()
        # The greeting may be here before whoever opened the connection gets to run again.
        self._greeting: asyncio.Future[Reply | Loss] = loop.create_future()
        self._waiting: deque[OnReply] = deque([_into(self._greeting)])
        self.transport: asyncio.Transport | None = None
        self.capabilities = Capabilities({})
        self.identity: Identity | None = None
        self.on_blocked: Callable[[bool], None] | None = None
        self.on_fault: Callable[[Exception], None] | None = None
        """Told when what was to be done with a reply went wrong on our side; the connection is then cut."""
        self.on_lost: Callable[[Connection], None] | None = None
        self.lost = False
        self.deadline = 0.0
        """Loop time by which the oldest reply is due; 0: none is."""
        self.born = tick.now
        self.idle_since = self.born
        self.uses = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.lost:  # given up while it was being opened
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        try:
            self._hand_out(self._parser.feed(data))
        except ReplyError as error:
            self._hand_out(error.replies)  # what was said before the nonsense counts
            self.abort()

    def _hand_out(self, replies: Sequence[Reply]) -> None:
        waiting = self._waiting
        # What is said in one breath with a reply answers nothing that this reply gives rise to.
        due = len(waiting)
        for answer in replies if len(replies) <= due else replies[:due]:
            if self.lost:
                return
            on_reply = waiting.popleft()
            if not waiting:
                self.deadline = 0.0
            try:
                on_reply(answer)
            except Exception as error:
                self._fault(error)
        if len(replies) > due:
            self.abort()

    def _tell(self, on_reply: OnReply, result: Reply | Loss) -> None:
        try:
            on_reply(result)
        except Exception as error:
            self._fault(error)

    def _fault(self, error: Exception) -> None:
        # In a protocol's callback it would end there, and a client wait for its reply for ever.
        notify, self.on_fault = self.on_fault, None
        if notify is None:
            raise error
        notify(error)
        self.abort()

    def pause_writing(self) -> None:
        if self.on_blocked is not None:
            self.on_blocked(True)

    def resume_writing(self) -> None:
        if self.on_blocked is not None:
            self.on_blocked(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Loss.UPSTREAM_LOST)

    # for the relay

    @property
    def clean(self) -> bool:
        """No reply is due or half received."""
        return not self.lost and not self._waiting and self._parser.idle

    def send(self, command: bytes, on_reply: OnReply, seconds: float) -> None:
        """Write a command line; its reply, or what was lost, goes to `on_reply`."""
        if self.lost or self.transport is None:
            self._loop.call_soon(self._tell, on_reply, Loss.UPSTREAM_LOST)
            return
        self._waiting.append(on_reply)
        self.deadline = self._tick.now + seconds
        self._outbox.write(self.transport, command)

    def expect(self, on_reply: OnReply, seconds: float) -> None:
        """A reply is due for what has been, or is about to be, written. seconds: 0 is whenever it comes."""
        if self.lost:
            self._loop.call_soon(self._tell, on_reply, Loss.UPSTREAM_LOST)
            return
        self._waiting.append(on_reply)
        self.deadline = self._tick.now + seconds if seconds else 0.0

    def due_in(self, seconds: float) -> None:
        """The reply that is waited for must come within this time from now; 0: whenever it comes."""
        self.deadline = self._tick.now + seconds if seconds else 0.0

    def write(self, octets: bytes) -> None:
        """Write content."""
        if self.transport is not None and not self.lost:
            self._outbox.write(self.transport, octets)

    async def ask(self, command: bytes, seconds: float) -> Reply:
        """Send a command and return its reply; raises UpstreamError where none comes."""
        answer: asyncio.Future[Reply | Loss] = self._loop.create_future()
        self.send(command, _into(answer), seconds)
        return await self._wait(answer, seconds)

    async def hear_greeting(self, seconds: float) -> Reply:
        """The upstream's first words; raises UpstreamError where none come."""
        return await self._wait(self._greeting, seconds)

    async def _wait(self, answer: asyncio.Future[Reply | Loss], seconds: float) -> Reply:
        try:
            result = await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            self.abort()
            raise UpstreamError("no reply in time") from None
        if isinstance(result, Loss):
            raise UpstreamError("connection closed by the upstream")
        return result

    def overdue(self, now: float) -> None:
        """Called by the sweep: end the connection if its reply is late."""
        if self.deadline and now >= self.deadline:
            self._end(Loss.UPSTREAM_SILENT)

    def abort(self) -> None:
        """Cut the connection: the upstream throws away what it has of a message."""
        self._end(Loss.UPSTREAM_LOST)

    def farewell(self) -> None:
        """Say QUIT and close; nobody waits for the 221."""
        if not self.lost and self.transport is not None:
            self.on_lost, notify = None, self.on_lost
            self.lost = True
            self._outbox.write(self.transport, b"QUIT\r\n")
            self._outbox.close(self.transport)
            if notify is not None:
                notify(self)

    def _end(self, loss: Loss) -> None:
        if self.lost:
            return
        self.lost = True
        self.deadline = 0.0
        if self.transport is not None:
            self.transport.abort()
        if self.on_lost is not None:
            self.on_lost(self)
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            self._tell(on_reply, loss)


def _into(answer: asyncio.Future[Reply | Loss]) -> OnReply:
    def arrived(result: Reply | Loss) -> None:
        if not answer.done():
            answer.set_result(result)

    return arrived
