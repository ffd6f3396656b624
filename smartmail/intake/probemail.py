"""The sink of the round trip: an SMTP server that takes probe mail, keeps its token and its times, and nothing else.

Only for the addresses it was given, and only with a token of our own secret: others' mail is refused, never kept.
aiosmtpd receives. Of a message only the header section is read, up to a bound; the rest passes by. What is kept is of
mail that we wrote ourselves: the token, when it came, and the Received fields, which say who passed it on and when.
"""

import asyncio
import collections
import logging
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from aiosmtpd.smtp import MISSING, SMTP, Envelope, Session, syntax

from smartmail.core.probe_token import HEADER, ProbeToken, find

log = logging.getLogger(__name__)

_MAX_HEADER: Final = 65536
"""Octets of a header section that is read; a token behind them is not seen."""
_MAX_RECEIVED: Final = 50
_MAX_RECEIVED_CHARACTERS: Final = 1024
_MAX_SESSIONS: Final = 100


class Counted(StrEnum):
    """What the sink counts."""

    ARRIVED = "arrived"
    DUPLICATE = "duplicate"
    """The same token once more: its first time stands."""
    NOT_OURS = "not_ours"
    """No token, or one that does not verify: refused."""
    WRONG_ADDRESS = "wrong_address"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    """Connections over the bound."""
    DROPPED = "dropped"
    """Arrivals let go because too many were kept."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A probe's message that came. received_ms: our clock at the end of its content. received: the Received fields,
    the last server's first."""

    token: ProbeToken
    received_ms: int
    received: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IntakeSettings:
    """addresses: who may be written to, whatever the case. max_kept: arrivals in memory. max_octets: of the largest
    message. tls: offers STARTTLS with it."""

    secret: bytes = field(repr=False)
    addresses: frozenset[str]
    max_kept: int = 10_000
    max_octets: int = 262_144
    tls: ssl.SSLContext | None = None
    host_name: str = "localhost"


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class ProbeIntake:
    """A running sink. Made by `start`; also the handler that aiosmtpd calls."""

    def __init__(
        self,
        settings: IntakeSettings,
        *,
        now_ms: Callable[[], int] = _wall_ms,
        on_arrival: Callable[[Arrival], None] | None = None,
    ) -> None:
        self._settings = settings
        self._addresses = frozenset(address.lower() for address in settings.addresses)
        self._now_ms = now_ms
        self._on_arrival = on_arrival
        self._kept: OrderedDict[str, Arrival] = OrderedDict()
        self._waiting: dict[str, list[asyncio.Future[Arrival]]] = {}
        self._sessions: set[_Session] = set()
        self._server: asyncio.Server | None = None
        self.address: tuple[str, int] = ("", 0)
        """Host and port it listens on."""
        self.counts: Counter[Counted] = Counter()
        """How often each thing happened since the start."""

    async def listen(self, host: str, port: int) -> Self:
        """Open the port (0: any free one). Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._session, host, port, backlog=128)
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def close(self) -> None:
        """Stop listening, close all sessions; whoever still waits gets a ConnectionAbortedError."""
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            session.hang_up()
        while self._sessions:
            await next(iter(self._sessions)).ended.wait()
        if self._server is not None:
            await self._server.wait_closed()
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(ConnectionAbortedError("the sink was closed"))

    async def wait(self, token: str) -> Arrival:
        """The arrival of the message with this token, past or to come. Waits for ever: put a time limit around it.

        Raises ConnectionAbortedError when the sink is closed meanwhile.
        """
        if token in self._kept:
            return self._kept[token]
        future: asyncio.Future[Arrival] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(token, [])
        waiting.append(future)
        try:
            return await future
        finally:
            waiting.remove(future)
            if not waiting:
                self._waiting.pop(token, None)

    def arrivals(self) -> tuple[Arrival, ...]:
        """What is kept, in the order of coming."""
        return tuple(self._kept.values())

    def forget(self, token: str) -> None:
        """Let go of an arrival; nothing happens when there is none."""
        self._kept.pop(token, None)

    def take(self, header: bytes) -> str:
        """Look at a message's header section; the reply to the message."""
        token_fields, received = _fields(header)
        token = next(filter(None, (find(self._settings.secret, value) for value in token_fields)), None)
        if token is None:
            self.counts[Counted.NOT_OURS] += 1
            return "550 5.7.1 Only probe mail is taken here"
        if token.text in self._kept:
            self.counts[Counted.DUPLICATE] += 1
            return "250 2.0.0 Ok: had it already"
        self._keep(Arrival(token, self._now_ms(), received))
        return "250 2.0.0 Ok: noted"

    def count(self, what: Counted) -> None:
        """Count one."""
        self.counts[what] += 1

    def add(self, session: "_Session") -> bool:
        """A session began; False: too many, end it."""
        if len(self._sessions) >= _MAX_SESSIONS:
            self.counts[Counted.TOO_MANY] += 1
            return False
        self._sessions.add(session)
        return True

    def remove(self, session: "_Session") -> None:
        """A session ended."""
        self._sessions.discard(session)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> object:
        """Takes the probes' addresses only."""
        if address.lower() not in self._addresses:
            self.counts[Counted.WRONG_ADDRESS] += 1
            return "550 5.1.1 No such mailbox here"
        return MISSING if len(envelope.rcpt_tos) < len(self._addresses) else "452 4.5.3 Too many recipients"

    async def handle_exception(self, error: Exception) -> str:
        """aiosmtpd would send the exception's text to the client."""
        log.error("probe mail: session failed: %s", type(error).__name__)
        return "451 4.3.0 Try again later"

    def _keep(self, arrival: Arrival) -> None:
        self._kept[arrival.token.text] = arrival
        self.counts[Counted.ARRIVED] += 1
        while len(self._kept) > self._settings.max_kept:
            self._kept.popitem(last=False)
            self.counts[Counted.DROPPED] += 1
        for future in self._waiting.get(arrival.token.text, ()):
            if not future.done():
                future.set_result(arrival)
        if self._on_arrival is not None:
            self._on_arrival(arrival)

    def _session(self) -> "_Session":
        return _Session(self, self._settings)


class _Session(SMTP):
    """aiosmtpd's session, with a content that is not kept."""

    line_length_limit = 4096

    def __init__(self, intake: ProbeIntake, settings: IntakeSettings) -> None:
        super().__init__(
            intake,
            data_size_limit=settings.max_octets,
            enable_SMTPUTF8=True,
            hostname=settings.host_name,
            ident="ESMTP",
            tls_context=settings.tls,
            timeout=60,
            loop=asyncio.get_running_loop(),
        )
        # aiosmtpd's is one dict for the whole process, grown by each EHLO and cleared by each connection.
        self.command_size_limits = collections.defaultdict(lambda: self.command_size_limit)
        self._intake = intake
        self.ended = asyncio.Event()
        """Set when the connection is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's call: a client came, or its TLS is up."""
        if self.transport is None and not self._intake.add(self):
            transport.close()
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio's call: the connection is gone."""
        super().connection_lost(error)
        self._intake.remove(self)
        self.ended.set()

    def hang_up(self) -> None:
        """Send what is still to be sent, then close."""
        if self.transport is not None:
            self.transport.close()

    @syntax("DATA")
    async def smtp_DATA(self, arg: str) -> None:
        """DATA (RFC 5321 4.1.1.4): the header section is looked at, the rest only counted."""
        envelope = self.envelope
        if envelope is None or not envelope.rcpt_tos:
            await self.push("503 5.5.1 Error: need RCPT command")
            return
        if arg:
            await self.push("501 5.5.4 Syntax: DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        header = await self._header()
        self.envelope = self._create_envelope()
        if header is None:
            self._intake.count(Counted.TOO_LARGE)
            await self.push("552 5.3.4 Message too large")
        else:
            await self.push(self._intake.take(header))

    async def _header(self) -> bytes | None:
        """Read the content to its end; its header section, or None where the content is larger than allowed."""
        header = bytearray()
        in_header = line_start = True
        octets = 0
        while True:
            piece, ends_line = await self._piece()
            if line_start and ends_line and piece == b".":
                break
            if line_start and ends_line and not piece:
                in_header = False
            octets += len(piece) + 2
            if in_header and len(header) < _MAX_HEADER:
                header += piece + (b"\r\n" if ends_line else b"")
            line_start = ends_line
        too_large = self.data_size_limit is not None and octets > self.data_size_limit
        return None if too_large else bytes(header)

    async def _piece(self) -> tuple[bytes, bool]:
        """A line without its CRLF and True, or a part of a very long one and False."""
        try:
            return (await self._reader.readuntil(b"\r\n"))[:-2], True
        except asyncio.LimitOverrunError as overrun:
            return await self._reader.read(overrun.consumed), False


def _fields(header: bytes) -> tuple[list[str], tuple[str, ...]]:
    """The token fields and the Received fields of a header section, unfolded."""
    tokens: list[str] = []
    received: list[str] = []
    text = header.decode("ascii", "replace")
    for line in text.replace("\r\n ", " ").replace("\r\n\t", " ").split("\r\n"):
        name, found, value = line.partition(":")
        match name.strip().lower() if found else "":
            case "received" if len(received) < _MAX_RECEIVED:
                received.append(value.strip()[:_MAX_RECEIVED_CHARACTERS])
            case name if name == HEADER.lower():
                tokens.append(value)
            case _:
                pass
    return tokens, tuple(received)


async def start(
    settings: IntakeSettings,
    host: str,
    port: int,
    *,
    now_ms: Callable[[], int] = _wall_ms,
    on_arrival: Callable[[Arrival], None] | None = None,
) -> ProbeIntake:
    """Run a sink in the caller's loop.

    now_ms: the corrected clock, epoch ms. on_arrival: called for each new arrival, in the loop. Raises OSError when the
    port cannot be had.
    """
    # aiosmtpd logs every command, and at debug level every line of the content: neither belongs in our log.
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    return await ProbeIntake(settings, now_ms=now_ms, on_arrival=on_arrival).listen(host, port)
