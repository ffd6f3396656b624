"""An SMTP upstream that keeps a durable list, and misbehaves on cue; a link to an upstream that can be cut.

Run as a program it is an upstream that can be killed: `scripted.py LIST PORT [STEP NUMBER]`.
"""

import asyncio
import os
import re
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum, StrEnum
from pathlib import Path

MARK = re.compile(rb"^X-Mark: (\S+)\r$", re.MULTILINE)
CAPABILITIES = ("PIPELINING", "SIZE 100000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")


class Step(StrEnum):
    """Where in a conversation, in its order."""

    CONNECT = "connect"
    EHLO = "ehlo"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    """Some of the content has been read, the rest has not."""
    DOT = "dot"
    """The end of the content is here, nothing is kept yet."""
    KEPT = "kept"
    """The message is kept, its 250 is not sent yet."""
    RSET = "rset"
    QUIT = "quit"


TRANSACTION = (Step.MAIL, Step.RCPT, Step.DATA, Step.CONTENT, Step.DOT, Step.KEPT)
"""The steps that every message passes."""


class Do(Enum):
    """What to do instead of answering."""

    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"
    DIE = "die"
    """kill -9 of the process that this runs in."""


Answer = bytes | Do | None
"""A reply (with its CRLF), a misdeed, or None: answer as a mail server does."""
Script = Callable[[Step, int], Answer]
"""Asked at each step with how often it was reached, in all sessions together, this time included."""


def by_table(table: Mapping[Step, Mapping[int, Answer] | Answer]) -> Script:
    """A script from a table: an answer for each time of a step, or one for always."""

    def script(step: Step, number: int) -> Answer:
        entry = table.get(step)
        return entry.get(number) if isinstance(entry, Mapping) else entry

    return script


def at(step: Step, number: int, answer: Answer) -> Script:
    """A script that misbehaves once: at `step`, the `number`th time."""
    return by_table({step: {number: answer}})


class _Gone(Exception):
    """The session ends here."""


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST: what lay unsent is lost."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _let_go(writer: asyncio.StreamWriter) -> None:
    """Close, without waiting for a peer that may never read what is left."""
    writer.close()
    if writer.transport.get_write_buffer_size():
        writer.transport.abort()


class ScriptedUpstream:
    """The upstream. `listing` gets one line per kept message, its mark, before the 250 is sent."""

    def __init__(self, listing: Path, script: Script | None = None) -> None:
        self.listing = listing
        self.script: Script = script or (lambda step, number: None)
        self.commands: list[str] = []
        """Every command line of every session, as it came."""
        self.contents: list[bytes] = []
        """Every content kept, dot stuffing and all, without the final dot."""
        self.reached: Counter[Step] = Counter()
        self.capabilities = CAPABILITIES
        self._arrivals = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._stalled = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        """Where it listens, once started."""

    async def start(self, port: int = 0) -> "ScriptedUpstream":
        """Listen on 127.0.0.1."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**24, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """End all sessions and the listener."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # a transport that was aborted lets go of its socket in the loop's next round

    async def wait_for(self, step: Step, number: int = 1) -> None:
        """Wait until `step` has been reached `number` times."""
        async with self._arrivals:
            await self._arrivals.wait_for(lambda: self.reached[step] >= number)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._session(reader, writer)
        except (_Gone, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            _let_go(writer)

    async def _answer(self, step: Step, usual: bytes, writer: asyncio.StreamWriter) -> bool:
        """Reply at `step`. True when the usual reply was given. Raises _Gone where the session is to end."""
        async with self._arrivals:
            self.reached[step] += 1
            number = self.reached[step]
            self._arrivals.notify_all()
        answer = self.script(step, number)
        match answer:
            case Do.DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            case Do.RESET:
                reset(writer)
                raise _Gone
            case Do.CLOSE:
                raise _Gone
            case Do.STALL:
                await asyncio.Event().wait()
            case bytes():
                writer.write(answer)
                await writer.drain()
                return False
        writer.write(usual)
        await writer.drain()
        return True

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._answer(Step.CONNECT, b"220 scripted.example ESMTP\r\n", writer)
        recipients = 0
        while line := await reader.readline():
            text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            self.commands.append(text)
            verb = text[:4].upper()
            if verb == "EHLO":
                lines = ["scripted.example", *self.capabilities]
                body = "".join(f"250-{one}\r\n" for one in lines[:-1]) + f"250 {lines[-1]}\r\n"
                await self._answer(Step.EHLO, body.encode(), writer)
            elif verb == "MAIL":
                recipients = 0
                await self._answer(Step.MAIL, b"250 2.1.0 Ok\r\n", writer)
            elif verb == "RCPT":
                recipients += await self._answer(Step.RCPT, b"250 2.1.5 Ok\r\n", writer)
            elif verb == "DATA" and not recipients:
                await self._answer(Step.DATA, b"554 5.5.1 No valid recipients\r\n", writer)
            elif verb == "DATA":
                if await self._answer(Step.DATA, b"354 Go on\r\n", writer):
                    await self._message(reader, writer)
                recipients = 0
            elif verb == "RSET":
                recipients = 0
                await self._answer(Step.RSET, b"250 2.0.0 Ok\r\n", writer)
            elif verb == "QUIT":
                await self._answer(Step.QUIT, b"221 2.0.0 Bye\r\n", writer)
                return
            else:
                writer.write(b"502 5.5.2 Not known\r\n" if verb != "NOOP" else b"250 2.0.0 Ok\r\n")

    async def _message(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = []
        while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
            lines.append(line)
            if len(lines) == 1:
                await self._answer(Step.CONTENT, b"", writer)
        content = b"".join(lines)
        if not await self._answer(Step.DOT, b"", writer):
            return
        self.contents.append(content)
        found = MARK.search(content)
        with self.listing.open("ab", buffering=0) as listing:
            listing.write((found[1] if found else b"-") + b"\n")
        await self._answer(Step.KEPT, b"250 2.0.0 Ok: queued as SCRIPTED\r\n", writer)


def kept(listing: Path) -> Counter[str]:
    """How often each mark is in an upstream's list."""
    return Counter(listing.read_text().split()) if listing.exists() else Counter()


class Link:
    """A TCP link to an upstream, cut by RST on both sides once, at a step seen passing."""

    TOKENS: Mapping[Step, bytes] = {
        Step.EHLO: b"EHLO",
        Step.MAIL: b"MAIL FROM",
        Step.RCPT: b"RCPT TO",
        Step.DATA: b"DATA\r\n",
        Step.CONTENT: b"X-Mark",
        Step.DOT: b"\r\n.\r\n",
        Step.KEPT: b"\r\n.\r\n",
    }

    def __init__(self, upstream_port: int, step: Step, number: int) -> None:
        self._upstream_port = upstream_port
        self._step, self._number = step, number
        self._seen = 0
        self.cut = asyncio.Event()
        """Set when it has been cut."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        """Where it listens, once started."""

    async def start(self) -> "Link":
        """Listen on 127.0.0.1."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """End all connections and the listener."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # a transport that was aborted lets go of its socket in the loop's next round

    def _due(self) -> bool:
        self._seen += 1
        return self._seen == self._number

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._step is Step.CONNECT and self._due():
                self.cut.set()
                reset(writer)
                return
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            down = asyncio.create_task(self._down(up_reader, writer))
            try:
                await self._up(reader, writer, up_writer, down)
            finally:
                down.cancel()
                _let_go(up_writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            _let_go(writer)

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _up(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_writer: asyncio.StreamWriter,
        down: "asyncio.Task[None]",
    ) -> None:
        token = self.TOKENS.get(self._step, b"\0never")
        tail = b""
        while data := await reader.read(65536):
            window = tail + data
            found = window.find(token)
            if found >= 0 and self._due():
                await self._cut(window, found + len(token), len(tail), (writer, up_writer, down))
                return
            tail = b"" if found >= 0 else window[-(len(token) - 1) :]
            up_writer.write(data)
            await up_writer.drain()

    async def _cut(
        self,
        window: bytes,
        end: int,
        passed: int,
        ends: "tuple[asyncio.StreamWriter, asyncio.StreamWriter, asyncio.Task[None]]",
    ) -> None:
        """Cut: after the token for most steps; before the dot at DOT; with the reply swallowed at KEPT."""
        writer, up_writer, down = ends
        stop = end - 3 if self._step is Step.DOT else end
        if self._step is Step.KEPT:
            # The upstream is to keep the message and its 250 to get lost: from here on nothing comes down.
            down.cancel()
        up_writer.write(window[passed:stop])
        await up_writer.drain()
        if self._step is Step.KEPT:
            up_writer.write_eof()
        self.cut.set()
        reset(writer)


async def _main(arguments: list[str]) -> None:
    listing, port, *fault = arguments
    script = at(Step(fault[0]), int(fault[1]), Do.DIE) if fault else None
    upstream = await ScriptedUpstream(Path(listing), script).start(int(port))
    print(f"ready {upstream.port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
