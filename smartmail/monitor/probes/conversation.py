"""A conversation by lines over TCP and TLS, as a client: bounded in octets, timed by phase, its failures named.

One asyncio Protocol with its own TLS over memory BIOs: connecting, the handshake and the first word of the server are
phases of their own, nothing said before a handshake is taken for said after it, and a line costs no timer (the probe's
one deadline ends every wait).
"""

import asyncio
import re
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self, cast

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckSpec
from smartmail.monitor.probes.observation import ProbeFailure, Visit
from smartmail.monitor.probes.resolver import NoNameserverError, ResolveError

MAX_LINE: Final = 8192
"""Octets of a line, CRLF included: RFC 9051 asks for 8192, SMTP's 512 and POP3's 512 are less."""
MAX_RECEIVED: Final = 1024 * 1024
"""Octets of a whole conversation, as they come from the network."""
_READ: Final = 65536
_DNS_SECONDS: Final = 10.0
_LITERAL: Final = re.compile(rb"\{([0-9]{1,9})\+?\}\Z")
_SKEWED_MS: Final = 3_600_000
_OF_TIME: Final = frozenset({9, 10})
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect. tls_name: the name that the certificate must have and that is asked for (SNI).
    family: "4", "6" or "" for both; nameserver: "" for the context's."""

    host: str
    port: int
    tls_name: str = ""
    family: str = ""
    nameserver: str = ""


_epoch = lru_cache(maxsize=1000)(ssl.cert_time_to_seconds)
"""A few certificates are seen again and again."""


def target_of(check: CheckSpec) -> Target:
    """Host and port of a check, with its options tls_name, family, resolver."""
    return Target(
        check.host,
        check.port,
        check.option("tls_name") or check.host.rstrip("."),
        check.option("family"),
        check.option("resolver"),
    )


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """A line of IMAP or ManageSieve with its literals (RFC 9051 4.3, RFC 5804 1.2) taken out.

    text: the line, each literal's announcement `{n}` left standing, without the last CRLF; literals: in order."""

    text: bytes
    literals: tuple[bytes, ...] = ()


class Conversation(asyncio.Protocol):
    """One connection of one probe. Everything that waits raises ProbeFailure where the other side fails it."""

    def __init__(self, visit: Visit, max_received: int = MAX_RECEIVED) -> None:
        self.visit = visit
        self.ended = False
        """The other side has closed; what it said before can still be read."""
        self.said_goodbye = b""
        """What the other side said of its going (IMAP's BYE), for the failure that follows."""
        self._left = max_received
        self._buffer = bytearray()
        self._failure: ProbeFailure | None = None
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._shaking = False
        self._tls: ssl.SSLObject | None = None
        """Once the handshake is done."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Octets came, in whatever pieces."""
        try:
            self._take(data)
        except Exception as error:
            # asyncio would only log it. It becomes the probe's end instead: a sample of our own fault.
            self._fail(self.visit.failure(Outcome.MONITOR_ERROR, type(error).__name__))
        self._wake()

    def _take(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._fail(self.visit.failure(Outcome.PROTOCOL, "more octets than any answer has"))
        elif self._tls is not None:
            self._incoming.write(data)
            self._decrypt(self._tls)
        elif self._shaking:
            self._incoming.write(data)
        else:
            self._buffer += data

    def eof_received(self) -> bool:
        """The other side ends: so do we."""
        self.ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.ended = True
        if isinstance(exc, OSError) and self._failure is None:
            self._failure = self.visit.fault(exc)
        self._wake()

    def _decrypt(self, tls: ssl.SSLObject) -> None:
        try:
            while data := tls.read(_READ):
                self._buffer += data
            self.ended = True
        except ssl.SSLWantReadError:
            self._flush()  # an answer of TLS itself, to a change of keys
        except ssl.SSLError as error:
            self._fail(self.visit.failure(Outcome.TLS, f"TLS breaks: {error.reason or type(error).__name__}"))

    def _fail(self, failure: ProbeFailure) -> None:
        self._failure = self._failure or failure
        if self._transport is not None:
            self._transport.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _more(self) -> None:
        """Wait for anything to happen. Raises ProbeFailure where nothing more can come."""
        if self._failure is not None:
            raise self._failure
        if self.ended:
            if self.said_goodbye:
                raise self.visit.failure(Outcome.TRANSIENT, self.said_goodbye)
            raise self.visit.failure(Outcome.LOST, "connection closed")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # What a probe calls

    @property
    def pending(self) -> bool:
        """Something has come that nobody has read."""
        return bool(self._buffer)

    async def line(self) -> bytes:
        """The next line without its CRLF. Raises ProbeFailure: PROTOCOL above MAX_LINE octets or for a bare LF."""
        start = 0
        while (end := self._buffer.find(b"\n", start)) < 0:
            if len(self._buffer) > MAX_LINE:
                raise self.visit.failure(Outcome.PROTOCOL, b"endless line: " + self._buffer[:60])
            start = len(self._buffer)
            await self._more()
        line = bytes(self._buffer[: end + 1])
        if end >= MAX_LINE or not line.endswith(b"\r\n"):
            raise self.visit.failure(Outcome.PROTOCOL, b"not a line: " + line[:60])
        del self._buffer[: end + 1]
        return line[:-2]

    async def octets(self, count: int) -> bytes:
        """Exactly so many octets."""
        while len(self._buffer) < count:
            await self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def some(self) -> bytes:
        """Whatever has come, at least one octet; b"" at the end of the connection."""
        while not self._buffer:
            if self.ended and self._failure is None:
                return b""
            await self._more()
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    async def logical_line(self) -> LogicalLine:
        """The next line with the literals in it."""
        line = part = await self.line()
        literals: list[bytes] = []
        while (found := _LITERAL.search(part)) is not None:
            size = int(found[1])
            if size > self._left + len(self._buffer):
                raise self.visit.failure(Outcome.PROTOCOL, f"a literal of {size} octets")
            literals.append(await self.octets(size))
            part = await self.line()
            line += part
            if len(line) > MAX_LINE:
                raise self.visit.failure(Outcome.PROTOCOL, b"endless line: " + line[:60])
        return LogicalLine(line, tuple(literals))

    def send(self, data: bytes) -> None:
        """Send octets; what the connection does not take at once waits in its buffer."""
        if self._transport is None or self._transport.is_closing():
            return  # the next read says why
        if self._tls is None:
            self._transport.write(data)
            return
        left = memoryview(data)
        try:
            while left:
                left = left[self._tls.write(left) :]  # a record at a time
        except ssl.SSLError as error:
            self._fail(self.visit.failure(Outcome.TLS, f"TLS breaks: {error.reason or type(error).__name__}"))
            return
        self._flush()

    async def start_tls(self, name: str) -> None:
        """The handshake, as phase "tls"; `name` is asked for and must be the certificate's.

        Raises ProbeFailure: CERTIFICATE, TLS, or PROTOCOL where clear text came before it that nobody asked for: it
        would be read as if it had been protected (CVE-2011-0411 and its like).
        """
        if self._buffer:
            raise self.visit.failure(Outcome.PROTOCOL, "clear text sent ahead of the TLS handshake")
        self.visit.phase("tls")
        self.visit.at = "TLS handshake"
        try:
            context = self.visit.context.roots.context()
        except OSError as error:
            raise self.visit.failure(Outcome.MONITOR_ERROR, f"trusted roots: {type(error).__name__}") from None
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._shaking = True
        while not await self._shaken(tls):
            pass
        self._flush()
        self._note_certificate(tls)
        self._tls = tls
        self._decrypt(tls)

    async def _shaken(self, tls: ssl.SSLObject) -> bool:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            await self._handshake_octets()
            return False
        except ssl.SSLCertVerificationError as error:
            self._flush()  # the alert: their log then says why
            raise self._untrusted(error) from None
        except ssl.SSLError as error:
            self._flush()
            reason = (error.reason or type(error).__name__).replace("_", " ").lower()
            raise self.visit.failure(Outcome.TLS, f"handshake failed: {reason}") from None
        return True

    async def _handshake_octets(self) -> None:
        if self.ended and self._failure is None:
            raise self.visit.failure(Outcome.TLS, "connection closed")
        await self._more()

    def _flush(self) -> None:
        if self._outgoing.pending and self._transport is not None:
            self._transport.write(self._outgoing.read())

    def _untrusted(self, error: ssl.SSLCertVerificationError) -> ProbeFailure:
        if (
            error.verify_code in _OF_TIME
            and abs(time.time_ns() // 1_000_000 - self.visit.context.now_ms()) > _SKEWED_MS
        ):
            # OpenSSL asks the system's clock, and the collector's says that this one is wrong.
            return self.visit.failure(Outcome.MONITOR_ERROR, "the clock of this host is wrong by more than an hour")
        return self.visit.failure(Outcome.CERTIFICATE, error.verify_message or "not to be verified")

    def _note_certificate(self, tls: ssl.SSLObject) -> None:
        certificate = tls.getpeercert()
        until = certificate.get("notAfter") if certificate else None
        if isinstance(until, str):
            self.visit.facts["certificate_expires"] = _epoch(until)
        self.visit.facts["tls"] = tls.version() or ""

    def close(self) -> None:
        """End it from our side. Nothing is waited for."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._tls is not None and self._failure is None:
            with suppress(ssl.SSLError):  # always raised: their half of the closing is not waited for
                self._tls.unwrap()
            self._flush()
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


async def connect(visit: Visit, target: Target, max_received: int = MAX_RECEIVED) -> Conversation:
    """Look the host up (phase "dns") and connect (phase "connect") to the first address that answers.

    Use it as `async with await connect(...)`. Raises ProbeFailure: DNS, REFUSED, UNREACHABLE, MONITOR_ERROR.
    """
    visit.phase("dns")
    visit.at = "DNS"
    addresses = await resolve(visit, target)
    visit.phase("connect")
    visit.at = "connect"
    loop = asyncio.get_running_loop()
    deadline = loop.time() + visit.timeout_ms / 1000
    failures: list[ProbeFailure] = []
    for index, address in enumerate(addresses):
        conversation = Conversation(visit, max_received)
        others = len(addresses) - index - 1
        try:
            if others:  # a customer's client would not spend all its patience on the first
                async with asyncio.timeout((deadline - loop.time()) / (others + 2)):
                    await loop.create_connection(lambda: conversation, address, target.port)  # noqa: B023
            else:
                await loop.create_connection(lambda: conversation, address, target.port)  # noqa: B023
        except OSError as error:
            failures.append(visit.fault(error))
            continue
        visit.facts["address"] = address
        return conversation
    told = [failure for failure in failures if failure.outcome is not Outcome.UNREACHABLE] or failures
    raise told[0]


async def resolve(visit: Visit, target: Target) -> tuple[str, ...]:
    """Addresses of the target. Raises ProbeFailure (DNS, MONITOR_ERROR)."""
    seconds = min(_DNS_SECONDS, visit.timeout_ms / 2000)
    try:
        return await visit.context.resolver.addresses(target.host, target.family, target.nameserver, seconds)
    except ResolveError as error:
        raise visit.failure(Outcome.DNS, str(error)) from None
    except NoNameserverError as error:
        raise visit.failure(Outcome.MONITOR_ERROR, str(error)) from None
    except OSError as error:
        raise _resolving(visit, error) from None


def _resolving(visit: Visit, error: OSError) -> ProbeFailure:
    failure = visit.fault(error)
    if failure.outcome is Outcome.MONITOR_ERROR:
        return failure
    return ProbeFailure(Outcome.DNS, failure.detail)
