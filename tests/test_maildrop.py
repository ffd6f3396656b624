"""The embedded upstream: kept durably or refused, nothing told, nothing lost."""

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from smartmail.core.address import parse_path
from smartmail.intake.maildrop import MaildropServer, clean, deliver, maildir_name, start

MAX_SIZE = 200_000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the Maildirs go."""
    return tmp_path / "mail"


@pytest.fixture
async def drop(directory: Path) -> AsyncIterator[MaildropServer]:
    """A running maildrop."""
    server = await start(directory, "127.0.0.1", 0, MAX_SIZE)
    yield server
    await server.close()


class Client:
    """A session, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def reply(self) -> str:
        """The next reply, its lines joined by \\n, without the final CRLF."""
        lines = []
        while True:
            line = (await self.reader.readuntil(b"\r\n"))[:-2].decode()
            lines.append(line)
            if line[3:4] != "-":
                return "\n".join(lines)

    async def say(self, line: str | bytes) -> str:
        """Send a command line, wait for its reply."""
        self.writer.write((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return await self.reply()

    async def message(self, content: bytes, *recipients: str, sender: str = "alice@example.com") -> str:
        """A whole transaction; `content` is sent as it is, then CRLF.CRLF must have come. The last reply."""
        assert (await self.say(f"MAIL FROM:<{sender}> SMTPUTF8 BODY=8BITMIME")).startswith("250")
        for recipient in recipients or ("bob@example.com",):
            assert (await self.say(f"RCPT TO:<{recipient}>")).startswith("250")
        assert (await self.say("DATA")).startswith("354")
        self.writer.write(content)
        return await self.reply()

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        await self.writer.wait_closed()


async def connect(address: tuple[str, int]) -> Client:
    """A session after EHLO."""
    client = Client(*await asyncio.open_connection(*address))
    assert (await client.reply()).startswith("220 ")
    assert (await client.say("EHLO client.example")).startswith("250-")
    return client


@pytest.fixture
async def client(drop: MaildropServer) -> AsyncIterator[Client]:
    """A session after EHLO."""
    made = await connect(drop.address)
    yield made
    await made.close()


def kept(directory: Path, name: str = "bob@example.com") -> list[bytes]:
    """The messages of one Maildir."""
    return [path.read_bytes() for path in sorted((directory / name / "new").glob("*"))]


def body(message: bytes) -> bytes:
    """A kept message without the headers the maildrop put before it."""
    lines = message.split(b"\n")
    assert lines[0].startswith(b"Return-Path: <")
    assert lines[1].startswith(b"Delivered-To: ")
    assert lines[2].startswith(b"Received: from [127.0.0.1] by ")
    return b"\n".join(lines[4:])


def name(address: str) -> str:
    """The Maildir name of an address as a client writes it."""
    mailbox, _ = parse_path(f"<{address}>".encode(), sender=False, utf8=True)
    assert mailbox is not None
    return maildir_name(mailbox)


async def test_250_carries_the_id_and_the_message_is_there(client: Client, directory: Path) -> None:
    answer = await client.message(b"Subject: x\r\n\r\nhello\r\n.\r\n")
    identifier = re.fullmatch(r"250 2\.0\.0 Ok: queued as ([0-9a-f]{16})", answer)
    assert identifier is not None
    (path,) = (directory / "bob@example.com" / "new").iterdir()
    assert identifier[1] in path.name
    assert path.stat().st_mode & 0o077 == 0
    assert body(path.read_bytes()) == b"Subject: x\n\nhello\n"
    assert path.read_bytes().startswith(b"Return-Path: <alice@example.com>\nDelivered-To: bob@example.com\nReceived: ")
    assert list((directory / "bob@example.com" / "tmp").iterdir()) == []


async def test_each_recipient_has_its_own_maildir_and_a_doubled_one_gets_one_copy(
    client: Client, directory: Path
) -> None:
    await client.message(b"x\r\n.\r\n", "bob@example.com", "Carol@EXAMPLE.com", "bob@example.COM")
    assert len(kept(directory)) == 1
    (carol,) = kept(directory, "carol@example.com")
    assert b"Delivered-To: Carol@EXAMPLE.com\n" in carol


async def test_the_null_sender_is_kept_as_such(client: Client, directory: Path) -> None:
    await client.message(b"x\r\n.\r\n", sender="")
    assert kept(directory)[0].startswith(b"Return-Path: <>\n")


async def test_a_null_recipient_is_refused(client: Client) -> None:
    await client.say("MAIL FROM:<alice@example.com>")
    assert (await client.say("RCPT TO:<>")).startswith("553 5.1.3")


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (b"..\r\n.\r\n", b".\n"),
        (b"..x\r\n...\r\n.\r\n", b".x\n..\n"),
        (b".\r\n", b""),
        (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\n"),
        (b"a\r.\rb\r\n.\r\n", b"a\r.\rb\n"),
        (b"a\n.\r\nb\r\n.\r\n", b"a\n.\nb\n"),
        (b"a\r\n.\nb\r\n.\r\n", b"a\n\nb\n"),
        (b"\x00\xff\x80\r\n.\r\n", b"\x00\xff\x80\n"),
        (b"l" * 150_000 + b"\r\n.\r\n", b"l" * 150_000 + b"\n"),
        (b"l" * 65536 + b"\r\n.\r\n", b"l" * 65536 + b"\n"),
        (b"l" * 65535 + b"\r\n.\r\n", b"l" * 65535 + b"\n"),
        (b"l" * 65534 + b"\r\n.m\r\n.\r\n", b"l" * 65534 + b"\nm\n"),
    ],
)
@pytest.mark.parametrize("split", [1_000_000, 65536, 7])
async def test_only_crlf_dot_crlf_ends_a_message_and_nothing_else_changes(
    client: Client, directory: Path, sent: bytes, stored: bytes, split: int
) -> None:
    if split == 7 and len(sent) > 1000:
        split = 7919
    await client.say("MAIL FROM:<alice@example.com>")
    await client.say("RCPT TO:<bob@example.com>")
    await client.say("DATA")
    for start_at in range(0, len(sent), split):
        client.writer.write(sent[start_at : start_at + split])
        await client.writer.drain()
    assert (await client.reply()).startswith("250 ")
    assert body(kept(directory)[0]) == stored


async def test_pipelined_transactions_are_all_kept(client: Client, directory: Path) -> None:
    one = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n"
    client.writer.write(one)
    assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
    client.writer.write(b"1\r\n.\r\n" + one)
    assert [(await client.reply())[:3] for _ in range(4)] == ["250", "250", "250", "354"]
    client.writer.write(b"2\r\n.\r\nQUIT\r\n")
    assert [(await client.reply())[:3] for _ in range(2)] == ["250", "221"]
    assert sorted(body(message) for message in kept(directory)) == [b"1\n", b"2\n"]


async def test_two_at_once_do_not_mix(drop: MaildropServer, directory: Path) -> None:
    clients = [await connect(drop.address) for _ in range(8)]

    async def send(number: int, client: Client) -> None:
        for turn in range(5):
            content = f"{number}.{turn} ".encode() * 500
            assert (await client.message(content + b"\r\n.\r\n")).startswith("250")

    await asyncio.gather(*(send(number, client) for number, client in enumerate(clients)))
    for client in clients:
        await client.close()
    found = sorted(body(message) for message in kept(directory))
    assert found == sorted(f"{n}.{t} ".encode() * 500 + b"\n" for n in range(8) for t in range(5))


async def test_a_message_too_large_is_refused_by_its_declared_size(client: Client) -> None:
    answer = await client.say(f"MAIL FROM:<alice@example.com> SIZE={MAX_SIZE + 1}")
    assert answer.startswith("552 ")


@pytest.mark.parametrize(
    "line", [b"x" * 998 + b"\r\n", b"x" * 1000, b"\r\n" * 500], ids=["lines", "no line end", "empty"]
)
async def test_a_message_too_large_is_read_to_its_end_refused_and_the_session_goes_on(
    client: Client, directory: Path, line: bytes
) -> None:
    content = line * (2 * MAX_SIZE // len(line))
    assert (await client.message(content + b"\r\n.\r\n")).startswith("552 5.3.4 ")
    assert (await client.message(b"x\r\n.\r\n")).startswith("250 ")
    assert len(kept(directory)) == 1


async def test_the_largest_message_that_fits_is_kept(client: Client, directory: Path) -> None:
    assert (await client.message(b"x" * (MAX_SIZE - 2) + b"\r\n.\r\n")).startswith("250 ")
    assert len(body(kept(directory)[0])) == MAX_SIZE - 1


async def test_large_messages_at_once_are_put_off_not_held_without_bound(drop: MaildropServer, directory: Path) -> None:
    clients = [await connect(drop.address) for _ in range(6)]
    for client in clients:
        await client.say("MAIL FROM:<alice@example.com>")
        await client.say("RCPT TO:<bob@example.com>")
        await client.say("DATA")
    big = b"x" * (MAX_SIZE - 2)
    for client in clients:
        client.writer.write(big + b"\r\n")
        await client.writer.drain()
    # Whether it was read shows only in the reply; the reply to a command of another session comes after it.
    other = await connect(drop.address)
    await other.say("NOOP")
    for client in clients:
        client.writer.write(b".\r\n")
    answers = [await client.reply() for client in clients]
    codes = {answer[:9] for answer in answers}
    assert codes <= {"250 2.0.0", "452 4.3.1"}
    assert len(kept(directory)) == sum(answer.startswith("250") for answer in answers) >= 4
    assert (await other.message(big + b"\r\n.\r\n")).startswith("250 ")
    for client in [*clients, other]:
        await client.close()


async def test_garbage_gets_5xx_and_the_next_session_is_served(drop: MaildropServer) -> None:
    client = await connect(drop.address)
    for line in (
        b"\xff\xfe\x00",
        b"GET / HTTP/1.1",
        b"MAIL FROM:<a",
        b"RCPT TO:<\x00@x>",
        b"DATA",
        b"A" * 5000,
    ):
        assert (await client.say(line))[0] == "5"
    assert (await client.say(b"B" * 200_000))[0] == "5"
    await client.close()
    again = await connect(drop.address)
    assert (await again.message(b"x\r\n.\r\n")).startswith("250 ")
    await again.close()


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(drop: MaildropServer, directory: Path) -> None:
    client = await connect(drop.address)
    await client.say("MAIL FROM:<alice@example.com>")
    await client.say("RCPT TO:<bob@example.com>")
    await client.say("DATA")
    client.writer.write(b"half a message\r\n")
    await client.writer.drain()
    await client.close()
    await drop.close()
    assert list(directory.rglob("*")) == []


async def test_a_client_that_leaves_after_the_dot_leaves_a_whole_message_or_none(
    drop: MaildropServer, directory: Path
) -> None:
    client = await connect(drop.address)
    await client.say("MAIL FROM:<alice@example.com>")
    await client.say("RCPT TO:<bob@example.com>")
    await client.say("DATA")
    client.writer.write(b"x\r\n.\r\n")
    client.writer.write_eof()
    await client.reader.read()
    await client.close()
    await drop.close()
    assert [body(message) for message in kept(directory)] in ([], [b"x\n"])
    assert not list(directory.glob("*/tmp/*"))


async def test_a_failed_write_is_451_without_its_cause_and_the_log_has_the_reference(
    client: Client, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "bob@example.com").write_text("in the way")
    with caplog.at_level(logging.ERROR):
        answer = await client.message(b"secret content\r\n.\r\n", "carol@example.com", "bob@example.com")
    found = re.fullmatch(r"451 4\.3\.0 Message not kept, try again later \(reference ([0-9a-f]{8})\)", answer)
    assert found is not None
    assert found[1] in caplog.text
    assert "secret" not in caplog.text
    assert kept(directory, "carol@example.com") == [], "all or none"
    (directory / "bob@example.com").unlink()
    assert (await client.message(b"x\r\n.\r\n")).startswith("250 ")


async def test_commands_and_content_are_not_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("mail.log").setLevel(logging.CRITICAL)
        await client.message(b"canary-in-content\r\n.\r\n", "canary@example.com")
    assert "canary" not in caplog.text


async def test_close_finishes_what_was_begun(directory: Path) -> None:
    drop = await start(directory, "127.0.0.1", 0, MAX_SIZE)
    clients = [await connect(drop.address) for _ in range(5)]
    pending = [asyncio.create_task(client.message(b"x" * 1000 + b"\r\n.\r\n")) for client in clients]
    done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    await drop.close()
    answers = await asyncio.gather(*pending, return_exceptions=True)
    positive = sum(isinstance(answer, str) and answer.startswith("250") for answer in answers)
    assert positive >= len(done)
    assert len(kept(directory)) >= positive
    for client in clients:
        await client.close()
    with pytest.raises(OSError):
        await asyncio.open_connection(*drop.address)


async def test_a_busy_port_is_an_oserror(drop: MaildropServer, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="address already in use"):
        await start(tmp_path / "other", *drop.address, MAX_SIZE)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("bob@example.com", "bob@example.com"),
        ("Bob@Example.COM", "bob@example.com"),
        ('"../../etc/passwd"@example.com', "%22..%2F..%2Fetc%2Fpasswd%22@example.com"),
        ("a/b@example.com", "a%2Fb@example.com"),
        (
            "пользователь@example.com",
            "%D0%BF%D0%BE%D0%BB%D1%8C%D0%B7%D0%BE%D0%B2%D0%B0%D1%82%D0%B5%D0%BB%D1%8C@example.com",
        ),
        ("bob@[IPv6:2001:db8::1]", "bob@%5Bipv6%3A2001%3Adb8%3A%3A1%5D"),
    ],
)
def test_a_folder_name_is_safe_and_of_one_spelling(address: str, expected: str) -> None:
    assert name(address).lower() == expected.lower()


def test_folder_names_fit_the_file_system_and_stay_apart() -> None:
    domain = ".".join(["d" * 55] * 3)
    first, second = name(f"{'/' * 60}@{domain}.example"), name(f"{'/' * 60}@{domain}.example.com")
    assert first != second
    assert max(len(first), len(second)) <= 255


def test_nothing_is_left_where_the_disk_is_full(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes a write fail half way, as a full disk does."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from smartmail.intake.maildrop import deliver\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "copies = [('a@example.com', b''), ('b@example.com', b'H' * 100)]\n"
        "try:\n"
        "    deliver(Path(sys.argv[1]), copies, b'x' * 4950, 'f' * 16)\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "File too large\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


SERVER = """
import asyncio, sys
from pathlib import Path
from smartmail.intake.maildrop import start

async def main():
    drop = await start(Path(sys.argv[1]), "127.0.0.1", 0, 1_000_000)
    print(drop.address[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def process(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A maildrop in a process of its own; its first output line is the port."""
    with subprocess.Popen([sys.executable, "-c", SERVER, str(directory)], stdout=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


async def test_kill_9_under_load_loses_nothing_that_got_250(process: subprocess.Popen[str], directory: Path) -> None:
    assert process.stdout is not None
    port = int(process.stdout.readline())
    positive: set[str] = set()
    enough = asyncio.Event()

    async def send(number: int) -> None:
        client = await connect(("127.0.0.1", port))
        try:
            for turn in range(10_000):
                mark = f"mark-{number}-{turn}-"
                if (await client.message(mark.encode() + b"x" * 3000 + b"\r\n.\r\n")).startswith("250"):
                    positive.add(mark)
                if len(positive) >= 60:
                    enough.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            client.writer.close()

    senders = [asyncio.create_task(send(number)) for number in range(4)]
    await enough.wait()
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.gather(*senders)
    found = [re.match(rb"mark-\d+-\d+-", body(message)) for message in kept(directory)]
    marks = [match[0].decode() for match in found if match]
    assert len(marks) == len(set(marks)) == len(found)
    assert positive <= set(marks)
    for message in kept(directory):
        assert body(message).endswith(b"x" * 3000 + b"\n"), "whole"
    clean(directory)
    assert not list(directory.glob("*/tmp/*"))


def test_clean_removes_our_leftovers_only(tmp_path: Path) -> None:
    deliver(tmp_path, [("a@example.com", b"")], b"x", "0" * 16)
    folder = tmp_path / "a@example.com" / "tmp"
    (folder / ("1700000000." + "0" * 16 + ".host")).write_bytes(b"half")
    (folder / "somebody-else").write_bytes(b"x")
    assert clean(tmp_path) == 1
    assert [path.name for path in folder.iterdir()] == ["somebody-else"]
    assert len(list((tmp_path / "a@example.com" / "new").iterdir())) == 1
