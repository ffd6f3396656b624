"""Senders that put load on a relay and write down what each message was answered.

Run as a program it is a client that can be killed: `load.py PORT RECORD COUNT STEP NUMBER`.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from support.scripted import Step

BODY = b"All work and no play makes a dull mail.\r\n" * 200


@dataclass
class Record:
    """What was sent and what came back: mark -> the reply to its dot, or whatever refused it; "" for none."""

    replies: dict[str, str] = field(default_factory=dict)
    on_step: Callable[[Step], None] = lambda step: None
    """Called by each sender at each step, just after it has sent what the step names."""

    def note(self, mark: str, reply: str) -> None:
        """Write down how a message ended."""
        self.replies[mark] = reply

    @property
    def accepted(self) -> set[str]:
        """Marks of messages that got 250."""
        return {mark for mark, reply in self.replies.items() if reply.startswith("250")}


class Refused(Exception):
    """A command got another reply than it was to get."""


class Sender:
    """One SMTP session."""

    def __init__(self, port: int, record: Record) -> None:
        self._port, self._record = port, record
        self._writer: asyncio.StreamWriter | None = None

    async def _reply(self) -> str:
        lines = []
        while True:
            line = (await self._reader.readuntil(b"\r\n")).decode().rstrip()
            lines.append(line)
            if line[3:4] != "-":
                return "\n".join(lines)

    async def _say(self, line: str, code: str, step: Step) -> None:
        self._writer.write(line.encode() + b"\r\n")
        self._record.on_step(step)
        reply = await self._reply()
        if not reply.startswith(code):
            raise Refused(reply)

    async def connect(self) -> None:
        """Connect and say EHLO. Raises Refused, ConnectionError, IncompleteReadError."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._record.on_step(Step.CONNECT)
        greeting = await self._reply()
        if not greeting.startswith("220"):
            raise Refused(greeting)
        await self._say("EHLO client.example", "250", Step.EHLO)

    async def send(self, mark: str) -> None:
        """Send one message; the record has its outcome, whatever it is."""
        self._record.note(mark, "")
        try:
            await self._say("MAIL FROM:<alice@example.com>", "250", Step.MAIL)
            await self._say("RCPT TO:<bob@example.com>", "250", Step.RCPT)
            await self._say("DATA", "354", Step.DATA)
        except Refused as refused:
            self._record.note(mark, str(refused))
            if str(refused).startswith("421"):
                raise ConnectionResetError from None
            self._writer.write(b"RSET\r\n")
            await self._reply()
            return
        assert self._writer is not None
        content = f"X-Mark: {mark}\r\nSubject: load\r\n\r\n".encode() + BODY
        self._writer.write(content[: len(content) // 2])
        await self._writer.drain()
        self._record.on_step(Step.CONTENT)
        self._writer.write(content[len(content) // 2 :] + b".\r\n")
        await self._writer.drain()
        self._record.on_step(Step.DOT)
        self._record.note(mark, await self._reply())
        self._record.on_step(Step.KEPT)

    async def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.transport.abort()
            with suppress(OSError):
                await self._writer.wait_closed()


async def send_all(port: int, marks: Iterable[str], record: Record) -> None:
    """One sender: the messages one after the other, connecting anew whenever its session is lost."""
    sender: Sender | None = None
    try:
        for mark in marks:
            try:
                if sender is None:
                    sender = Sender(port, record)
                    await sender.connect()
                await sender.send(mark)
            except (ConnectionError, asyncio.IncompleteReadError, Refused):
                if sender is not None:
                    await sender.close()
                sender = None
    finally:
        if sender is not None:
            await sender.close()


async def load(port: int, senders: int, each: int, record: Record, name: str = "m") -> None:
    """`senders` sessions at once, `each` messages from every one."""
    await asyncio.gather(
        *(send_all(port, [f"{name}-{who}-{nth}" for nth in range(each)], record) for who in range(senders))
    )


def check(record: Record, kept: Counter[str], ambiguous: int) -> None:
    """The oracle. Raises AssertionError.

    Every message that got 250 was kept exactly once. None that got 4xx or 5xx was kept, except at most
    `ambiguous`, the number that the relay itself counted as such. One without a reply was kept once at most.
    """
    assert set(kept) <= set(record.replies), "nothing was kept that nobody sent"
    assert max(kept.values(), default=0) <= 1, f"kept twice: {[mark for mark in kept if kept[mark] > 1]}"
    lost = [mark for mark in record.accepted if not kept[mark]]
    assert not lost, f"got 250 and were not kept: {lost}"
    refused = {mark: reply for mark, reply in record.replies.items() if reply[:1] in ("4", "5")}
    surprises = {mark: reply for mark, reply in refused.items() if kept[mark]}
    assert len(surprises) <= ambiguous, f"refused and kept, but {ambiguous} counted: {surprises}"


async def _main(arguments: list[str]) -> None:
    port, path, count, step, number = arguments
    left = int(number)
    # Unbuffered: a line must be out before the next step.
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def die_at(reached: Step) -> None:
        nonlocal left
        if reached == step:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    class Written(Record):
        def note(self, mark: str, reply: str) -> None:
            super().note(mark, reply)
            os.write(file, f"{mark} {reply.splitlines()[0] if reply else ''}\n".encode())

    await load(int(port), 4, int(count), Written(on_step=die_at), "killed")


def read_record(path: Path) -> Record:
    """What a killed client had written down."""
    record = Record()
    for line in path.read_text().splitlines():
        mark, _, reply = line.partition(" ")
        record.note(mark, reply)
    return record


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
