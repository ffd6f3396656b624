"""SMTP clients for what smtp-source cannot measure; each a process of its own, one JSON line on stdout per
answer.

latency PORT RATE SECONDS            open loop: a new connection and one 4 kB mail every 1/RATE s
tls PORT COUNT THREADS LOGIN PASSWORD   STARTTLS, AUTH PLAIN and one 4 kB mail on each connection
flood PORT SESSIONS OCTETS SECONDS   sessions that each send one big mail, as fast as they may
idle PORT SESSIONS MAILS             sessions that said EHLO and wait; after a line on stdin, mails one by one
"""

import asyncio
import base64
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

SENDER, RECIPIENT = "sender@example.test", "recipient@example.net"
HEADER = (
    f"From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: bench\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\n"
    "Message-ID: <bench@example.test>\r\n\r\n"
).encode()
LINE = b"x" * 78 + b"\r\n"
MAIL_4K = HEADER + LINE * (4096 // len(LINE) + 1)
PATIENCE = 30.0
SOURCES = 50  # loopback addresses the idle sessions come from


class Refused(Exception):
    """A reply that was not the one wanted."""


def answer(values: dict[str, object]) -> None:
    """One JSON line to whoever started us."""
    print(json.dumps(values), flush=True)


class Session:
    """One SMTP conversation over asyncio streams, command by command."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @staticmethod
    async def open(port: int, source: str = "127.0.0.1") -> "Session":
        """Connect, take the greeting, say EHLO."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        session = Session(reader, writer)
        await session.expect(b"220")
        await session.say(b"EHLO client.example.test\r\n", b"250")
        return session

    async def expect(self, code: bytes) -> None:
        """Read one reply, all its lines. Raises Refused."""
        while True:
            line = await self.reader.readline()
            if not line.startswith(code):
                raise Refused(f"wanted {code.decode()}, got {line[:200].decode(errors='replace').strip() or 'the end'}")
            if line[3:4] != b"-":
                return

    async def say(self, line: bytes, code: bytes) -> None:
        """Send and expect."""
        self.writer.write(line)
        await self.expect(code)

    async def begin_mail(self) -> None:
        """The envelope, until the server waits for content."""
        await self.say(b"MAIL FROM:<" + SENDER.encode() + b">\r\n", b"250")
        await self.say(b"RCPT TO:<" + RECIPIENT.encode() + b">\r\n", b"250")
        await self.say(b"DATA\r\n", b"354")

    async def close(self) -> None:
        """QUIT, as far as the other side still listens."""
        with suppress(OSError, Refused):
            await self.say(b"QUIT\r\n", b"221")
        self.writer.close()


async def mail_seconds(port: int, due: float) -> float:
    """One 4 kB mail on a new connection; seconds from `due` (of the loop's clock) to the 250 after the
    dot."""
    async with asyncio.timeout(PATIENCE):
        session = await Session.open(port)
        await session.begin_mail()
        await session.say(MAIL_4K + b".\r\n", b"250")
        taken = asyncio.get_running_loop().time() - due
        await session.close()
    return taken


async def latency(port: int, rate: float, seconds: float) -> None:
    """Latencies at a fixed rate, counted from when each mail was due: a late start counts against the
    server."""
    loop = asyncio.get_running_loop()
    for _ in range(5):
        await mail_seconds(port, loop.time())
    start = loop.time() + 0.05
    running: list[asyncio.Task[float]] = []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        running.append(asyncio.create_task(mail_seconds(port, due)))
    answer({"latencies_ms": [taken * 1000 for taken in await asyncio.gather(*running)]})


class TlsSession:
    """One blocking SMTP conversation, for threads."""

    def __init__(self, port: int) -> None:
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def expect(self, code: bytes) -> None:
        """Read one reply. Raises Refused."""
        got = b""
        while True:
            piece = self.socket.recv(4096)
            got += piece
            last = got[:-2].rpartition(b"\r\n")[2]
            if not piece or (got.endswith(b"\r\n") and last[3:4] != b"-"):
                break
        if not got.startswith(code):
            raise Refused(f"wanted {code.decode()}, got {got[:200].decode(errors='replace').strip() or 'the end'}")

    def say(self, line: bytes, code: bytes) -> None:
        """Send and expect."""
        self.socket.sendall(line)
        self.expect(code)

    def mail(self, context: ssl.SSLContext, initial: bytes) -> None:
        """The whole conversation of one mail."""
        self.expect(b"220")
        self.say(b"EHLO client.example.test\r\n", b"250")
        self.say(b"STARTTLS\r\n", b"220")
        self.socket = context.wrap_socket(self.socket)
        self.say(b"EHLO client.example.test\r\n", b"250")
        self.say(b"AUTH PLAIN " + initial + b"\r\n", b"235")
        self.say(b"MAIL FROM:<" + SENDER.encode() + b">\r\n", b"250")
        self.say(b"RCPT TO:<" + RECIPIENT.encode() + b">\r\n", b"250")
        self.say(b"DATA\r\n", b"354")
        self.say(MAIL_4K + b".\r\n", b"250")
        self.say(b"QUIT\r\n", b"221")

    def close(self) -> None:
        """Let go of the socket."""
        self.socket.close()


def tls(port: int, count: int, threads: int, secret: tuple[str, str]) -> None:
    """STARTTLS and AUTH on every connection; no session is ever resumed, since none is handed to the next
    one."""
    login, password = secret
    initial = base64.b64encode(f"\0{login}\0{password}".encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    left, lock = [count], threading.Lock()
    faults: list[str] = []

    def work() -> None:
        while True:
            with lock:
                if left[0] <= 0 or faults:
                    return
                left[0] -= 1
            session: TlsSession | None = None
            try:
                session = TlsSession(port)
                session.mail(context, initial)
            except (OSError, Refused) as error:
                faults.append(str(error))
            finally:
                if session is not None:
                    session.close()

    start = time.perf_counter()
    crew = [threading.Thread(target=work) for _ in range(threads)]
    for member in crew:
        member.start()
    for member in crew:
        member.join()
    if faults:
        raise Refused(faults[0])
    answer({"messages": count, "seconds": time.perf_counter() - start})


async def flood(port: int, sessions: int, octets: int, seconds: float) -> None:
    """Big mails side by side, each as fast as the server takes it. Tells how many finished within
    `seconds`."""
    chunk = LINE * 800
    sent = [0]

    async def one() -> None:
        session = await Session.open(port)
        await session.begin_mail()
        session.writer.write(HEADER)
        left = octets
        while left > 0:
            session.writer.write(chunk)
            await session.writer.drain()
            sent[0] += len(chunk)
            left -= len(chunk)
        await session.say(b".\r\n", b"250")
        await session.close()

    tasks = [asyncio.create_task(one()) for _ in range(sessions)]
    done, waiting = await asyncio.wait(tasks, timeout=seconds)
    for task in waiting:
        task.cancel()
    errors = [str(task.exception()) for task in done if task.exception() is not None]
    finished = len(done) - len(errors)
    answer({"sessions": sessions, "finished": finished, "octets": sent[0], "errors": errors[:3]})


async def idle(port: int, sessions: int, mails: int) -> None:
    """Hold many sessions after EHLO; at a line on stdin send some mails, one by one, and tell what they
    took."""
    gate = asyncio.Semaphore(100)

    async def one(number: int) -> Session:
        async with gate, asyncio.timeout(PATIENCE * 2):
            return await Session.open(port, f"127.0.0.{2 + number % SOURCES}")

    held = await asyncio.gather(*(one(number) for number in range(sessions)))
    answer({"idle": len(held)})
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.readline)
    taken = []
    for _ in range(mails):
        taken.append(await mail_seconds(port, loop.time()) * 1000)
        await asyncio.sleep(0.02)
    still = sum(not session.reader.at_eof() for session in held)
    answer({"latencies_ms": taken, "idle": still})
    for session in held:
        session.writer.close()


def main(words: list[str]) -> None:
    """Run the client named by the first word."""
    name, port = words[0], int(words[1])
    clients: dict[str, Callable[[], None]] = {
        "latency": lambda: asyncio.run(latency(port, float(words[2]), float(words[3]))),
        "tls": lambda: tls(port, int(words[2]), int(words[3]), (words[4], words[5])),
        "flood": lambda: asyncio.run(flood(port, int(words[2]), int(words[3]), float(words[4]))),
        "idle": lambda: asyncio.run(idle(port, int(words[2]), int(words[3]))),
    }
    try:
        clients[name]()
    except (OSError, Refused, TimeoutError) as error:
        sys.exit(f"{name}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
