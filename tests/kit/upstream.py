"""A mail server to stand behind the relay: says what it is told to, and remembers to the octet what it got."""

import asyncio
import re
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

CAPABILITIES = ("PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
USUAL = {
    "connect": "220 upstream.example ESMTP",
    "mail": "250 2.1.0 Ok",
    "rcpt": "250 2.1.5 Ok",
    "data": "354 Go on",
    "dot": "250 2.0.0 Ok: queued as 4XyZ12AbC",
    "chunk": "250 2.0.0 Octets taken",
    "rset": "250 2.0.0 Reset",
    "xclient": "220 upstream.example ESMTP",
    "xforward": "250 2.0.0 Ok",
    "starttls": "220 2.0.0 Go on",
    "content": "",
}


@dataclass
class Message:
    """One mail that was taken. content: as it came, dot-stuffing included; without the final dot line of DATA."""

    mail: str
    recipients: list[str]
    content: bytes


@dataclass
class Override:
    """What to say at a step instead of the usual. about: only if the command has this in it. times: -1: always."""

    step: str
    says: str
    about: str = ""
    times: int = -1


class _Over(Exception):
    """This connection has ended."""


@dataclass
class Upstream:
    """Listens on loopback. `says` of an override: a reply, with further lines after "|"; "close", "reset",
    "silent", "held".

    Steps: connect, ehlo, mail, rcpt, data, content (when the first octets of content are here), dot, chunk, rset,
    xclient, xforward, starttls.
    """

    capabilities: tuple[str, ...] = CAPABILITIES
    lmtp: bool = False
    tls: ssl.SSLContext | None = None
    overrides: list[Override] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    """Each command line, of all connections, in the order of their coming."""
    kept: list[Message] = field(default_factory=list)
    received: list[bytearray] = field(default_factory=list)
    """All octets of each connection, in the order of the connections; and what each mail of BDAT chunks came to."""
    reached: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: content is not read, as by a server that is slow."""
    going: asyncio.Event = field(default_factory=asyncio.Event)
    """Not set: a reply that is "held" is not said."""
    port: int = 0

    async def start(self, port: int = 0) -> "Upstream":
        """Begin to listen."""
        self.reading.set()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**16)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """End all."""
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something that this upstream notes has come about."""
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(holds), 10)

    async def say_unasked(self, octets: bytes) -> None:
        """Say this on every open connection."""
        for writer in tuple(self._writers):
            writer.write(octets)
            await writer.drain()

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        connection = _Connection(self, reader, writer)
        try:
            await connection.run()
        except (_Over, ConnectionError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()
            await self._note()


class _Connection:
    def __init__(self, upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.up = upstream
        self.reader, self.writer = reader, writer
        self.mail = ""
        self.recipients: list[str] = []
        self.chunks: list[bytes] = []
        upstream.received.append(bytearray())
        self.index = len(upstream.received) - 1

    async def say(self, step: str, usual: str, command: str = "") -> bool:
        """Answer; True for a 2xx or 354."""
        self.up.reached[step] += 1
        says = usual
        for override in self.up.overrides:
            if override.step == step and override.times and override.about.lower() in command.lower():
                override.times -= 1
                says = override.says
                break
        await self.up._note()
        if says == "close":
            raise _Over
        if says == "reset":
            self.writer.transport.abort()
            raise _Over
        if says == "silent":
            await asyncio.Event().wait()
        if says == "held":
            await self.up.going.wait()
            says = usual
        if not says:
            return True
        octets = "".join(f"{line}\r\n" for line in says.split("|")).encode("utf-8", "surrogateescape")
        self.writer.write(octets)
        await self.writer.drain()
        return says[0] in "23"

    async def octets(self, count: int) -> bytes:
        return await self.reader.readexactly(count)

    async def line(self) -> bytes:
        got = await self.reader.readuntil(b"\r\n")
        self.up.received[self.index] += got
        return got

    async def run(self) -> None:
        await self.say("connect", USUAL["connect"])
        while True:
            line = await self.line()
            command = line[:-2].decode("utf-8", "surrogateescape")
            self.up.commands.append(command)
            verb = command.split(" ")[0].upper()
            if verb == "QUIT":
                self.writer.write(b"221 2.0.0 Bye\r\n")
                raise _Over
            await _VERBS.get(verb, _Connection.unknown)(self, command)
            await self.up._note()

    async def unknown(self, command: str) -> None:
        self.writer.write(b"500 5.5.2 Not known\r\n")

    async def ehlo(self, command: str) -> None:
        if command.startswith("LHLO") is not self.up.lmtp:
            await self.unknown(command)
            return
        self.mail, self.recipients, self.chunks = "", [], []
        lines = ["upstream.example", *self.up.capabilities]
        if self.up.tls is not None and self.writer.get_extra_info("ssl_object") is None:
            lines.append("STARTTLS")
        usual = "|".join(f"250{'-' if place < len(lines) - 1 else ' '}{one}" for place, one in enumerate(lines))
        await self.say("ehlo", usual)

    async def starttls(self, command: str) -> None:
        if await self.say("starttls", USUAL["starttls"]) and self.up.tls is not None:
            await self.writer.start_tls(self.up.tls)

    async def xclient(self, command: str) -> None:
        await self.say("xclient", USUAL["xclient"])

    async def xforward(self, command: str) -> None:
        await self.say("xforward", USUAL["xforward"])

    async def mail_from(self, command: str) -> None:
        if self.mail:
            self.writer.write(b"503 5.5.1 Nested MAIL\r\n")
        elif await self.say("mail", USUAL["mail"], command):
            self.mail, self.recipients, self.chunks = command, [], []

    async def rcpt_to(self, command: str) -> None:
        if await self.say("rcpt", USUAL["rcpt"], command):
            self.recipients.append(command)

    async def rset(self, command: str) -> None:
        self.mail, self.recipients, self.chunks = "", [], []
        await self.say("rset", USUAL["rset"])

    async def data(self, command: str) -> None:
        usual = USUAL["data"] if self.recipients else "554 5.5.1 No valid recipients"
        if not await self.say("data", usual):
            return
        lines: list[bytes] = []
        while True:
            await self.up.reading.wait()
            line = await self.line()
            if not lines:
                await self.say("content", "")
            if line == b".\r\n":
                break
            lines.append(line)
        await self.end_message(b"".join(lines))

    async def bdat(self, command: str) -> None:
        _, size, *last = command.split(" ")
        if int(size):
            first = await self.octets(1)
            await self.say("content", "")
            self.chunks.append(first + await self.octets(int(size) - 1))
        if last:
            content = b"".join(self.chunks)
            self.up.received.append(bytearray(content))
            await self.end_message(content)
        else:
            await self.say("chunk", USUAL["chunk"], command)

    async def end_message(self, content: bytes) -> None:
        message = Message(self.mail, self.recipients, content)
        self.mail, self.recipients, self.chunks = "", [], []
        replies = [await self.say("dot", USUAL["dot"], one) for one in (message.recipients if self.up.lmtp else [""])]
        if any(replies):
            self.up.kept.append(message)


_VERBS = {
    "EHLO": _Connection.ehlo,
    "LHLO": _Connection.ehlo,
    "STARTTLS": _Connection.starttls,
    "XCLIENT": _Connection.xclient,
    "XFORWARD": _Connection.xforward,
    "MAIL": _Connection.mail_from,
    "RCPT": _Connection.rcpt_to,
    "RSET": _Connection.rset,
    "DATA": _Connection.data,
    "BDAT": _Connection.bdat,
}


def smuggled(upstream: Upstream) -> list[str]:
    """What a lax server could take for the end of a mail: bare line ends and NULs in what the upstream got."""
    return [
        f"connection {number}: {octets[max(0, found.start() - 20) : found.end() + 20]!r}"
        for number, octets in enumerate(upstream.received)
        for found in BARE.finditer(octets)
    ]
