"""One connection to Dovecot's auth socket: handshake, then answers by the ids of their exchanges."""

import asyncio
import secrets
from collections.abc import Callable
from itertools import count
from typing import cast

from smartmail.core.dovecot import (
    AuthLineParser,
    Cont,
    Done,
    DovecotError,
    Fail,
    Line,
    Mech,
    Ok,
    encode_auth,
    encode_cancel,
    encode_cont,
    encode_handshake,
)


class LinkLostError(ConnectionError):
    """The connection to Dovecot is gone; what was asked on it stays unanswered."""


class Link(asyncio.Protocol):
    """One connection. `ready` is done after the handshake, `gone` when the connection is."""

    def __init__(self, on_gone: Callable[["Link", str], None]) -> None:
        """on_gone(link, why): called once, at the moment the connection is of no more use."""
        loop = asyncio.get_running_loop()
        self._on_gone = on_gone
        self.ready: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[str] = loop.create_future()
        self.mechanisms: dict[str, Mech] = {}
        self._parser = AuthLineParser()
        self._transport: asyncio.Transport | None = None
        self._pending: dict[int, asyncio.Future[Line]] = {}
        self._ids = count(1)
        self._open: set[int] = set()
        self._retired = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce ourselves. The number must be unlike that of every other client of this socket; a process
        id is not when relays run in containers."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(encode_handshake(secrets.randbelow(0x7FFFFFFF) + 1))

    def data_received(self, data: bytes) -> None:
        """Take lines; nonsense ends the connection."""
        try:
            for line in self._parser.feed(data):
                self._take(line)
        except DovecotError as error:
            self.close(f"Dovecot speaks another protocol: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits for an answer learns that none comes."""
        self.close(f"connection to Dovecot lost{f': {error}' if error else ''}")

    def close(self, why: str) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()
        if not self.ready.done():
            self.ready.set_exception(LinkLostError(why))
            # Nobody waits for it when connecting itself failed; asyncio would complain.
            self.ready.exception()
        if not self.gone.done():
            self.gone.set_result(why)
            self._on_gone(self, why)
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(LinkLostError(why))

    def retire(self) -> None:
        """Another connection takes over: end this one as soon as its exchanges are over."""
        self._retired = True
        self._end_if_idle()

    def ask(self, mechanism: str, parameters: list[tuple[str, str]], initial: bytes | None) -> int:
        """Begin an exchange; returns its id, for `line`."""
        number = next(self._ids)
        self._write(number, encode_auth(number, mechanism, parameters, initial))
        self._open.add(number)
        return number

    def go_on(self, number: int, response: bytes) -> None:
        """The client's answer to a challenge."""
        self._write(number, encode_cont(number, response))

    async def line(self, number: int) -> Line:
        """What Dovecot answers. Raises LinkLostError."""
        future = self._pending[number]
        try:
            return await future
        finally:
            self._pending.pop(number, None)

    def drop(self, number: int) -> None:
        """Nobody wants the answer any more."""
        if (future := self._pending.pop(number, None)) is not None:
            future.cancel()
        if self._transport is not None and not self.gone.done():
            self._transport.write(encode_cancel(number))
        self._over(number)

    def _write(self, number: int, line: bytes) -> None:
        if self._transport is None or self.gone.done():
            raise LinkLostError("connection to Dovecot lost")
        self._pending[number] = asyncio.get_running_loop().create_future()
        self._transport.write(line)

    def _take(self, line: Line) -> None:
        match line:
            case Mech():
                self.mechanisms[line.name] = line
            case Done():
                if not self.ready.done():
                    self.ready.set_result(None)
            case Ok() | Fail() | Cont():
                # An answer that nobody waits for is that of an exchange given up.
                future = self._pending.get(line.id)
                if future is not None and not future.done():
                    future.set_result(line)
                if not isinstance(line, Cont):
                    self._over(line.id)
            case _:
                pass

    def _over(self, number: int) -> None:
        self._open.discard(number)
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._retired and not self._open and self._transport is not None:
            # Not abort: a CANCEL may still be on its way.
            self._transport.close()
