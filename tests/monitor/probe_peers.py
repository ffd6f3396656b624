"""Servers that say what a test wants, certificates of every kind, and the dialogs a probe is to have when well."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from smartmail.core.roster import CheckKind, CheckSpec
from smartmail.monitor.probes import ProbeContext, SecretSource, make_context

NAME = "mail.example.com"
LOGIN = "probe@example.com"
PASSWORD = "kV4-marked-zQ8w"
"""Searched for wherever something could have been written."""
RECIPIENT = "probe@example.com"


# Certificates


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        """A server's context with it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Authority:
    """Issues certificates; `file` is what those who trust it are given."""

    def __init__(self, directory: Path, name: str = "Test Authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        builder = self._builder(
            self._name, self._key.public_key(), now - timedelta(days=1000), now + timedelta(days=1000)
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._own = builder.sign(self._key, hashes.SHA256())
        self.file = directory / "authority.pem"
        self.file.write_bytes(self._own.public_bytes(serialization.Encoding.PEM))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )

    def issue(self, label: str, names: Sequence[str] = (NAME,), start_days: int = -10, end_days: int = 90) -> Pair:
        """A certificate for these names or addresses, valid from and until so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        start, end = now + timedelta(days=start_days), now + timedelta(days=end_days, hours=1)
        alternatives: list[x509.GeneralName] = []
        for name in names:
            with suppress(ValueError):
                alternatives.append(x509.IPAddress(ip_address(name)))
                continue
            alternatives.append(x509.DNSName(name))
        builder = self._builder(subject, key.public_key(), start, end)
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        pair = Pair(self._directory / f"{label}.pem", self._directory / f"{label}.key")
        pair.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        pair.key.chmod(0o600)
        return pair


# A peer


class Link:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: ssl.SSLContext) -> None:
        self.reader, self.writer, self._tls = reader, writer, tls
        self.heard = b""
        """The last line."""

    async def say(self, data: bytes) -> None:
        """Send."""
        self.writer.write(data)
        await self.writer.drain()

    async def hear(self, start: bytes) -> bytes:
        """Read a line, which must begin so."""
        self.heard = await self.reader.readline()
        if not self.heard:
            raise ConnectionResetError
        assert self.heard.startswith(start), f"heard {self.heard!r} instead of {start!r}"
        return self.heard

    async def start_tls(self) -> None:
        """The handshake."""
        await self.writer.start_tls(self._tls)

    async def drip(self, data: bytes) -> None:
        """Send octet by octet, each in a segment of its own as far as we can say."""
        for octet in data:
            await self.say(bytes([octet]))
            await asyncio.sleep(0)

    async def for_ever(self, data: bytes) -> None:
        """Send this until the other side has had enough."""
        while True:
            await self.say(data * 64)

    async def wait(self) -> None:
        """Say nothing until the other side goes."""
        while await self.reader.read(4096):
            pass


Script = Callable[[Link], Awaitable[None]]


class Peer:
    """A server on loopback that runs a script for each connection."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.wrong: list[str] = []
        """What the script did not expect to hear."""


@asynccontextmanager
async def peer(script: Script, tls: ssl.SSLContext, *, implicit: bool = False) -> AsyncIterator[Peer]:
    """Run a peer; its connections are gone when this ends, and it heard what it had to."""
    made = Peer()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        made.connections += 1
        try:
            await script(Link(reader, writer, tls))
        except AssertionError as error:
            made.wrong.append(str(error))
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls if implicit else None)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert made.wrong == []


# Dialogs


@dataclass(frozen=True)
class Step:
    """The server hears a line that begins so ("" at its own first word), and answers; tls: then the handshake."""

    hear: bytes
    say: bytes
    tls: bool = False


Act = Callable[[Link, Step], Awaitable[None]]
"""What to do at a step instead of answering."""


def dialog(steps: Sequence[Step], instead: Mapping[int, Act] | None = None) -> Script:
    """The script of these steps; at those of `instead` something else is done, and the dialog ends there."""

    async def script(link: Link) -> None:
        for index, step in enumerate(steps):
            if step.hear:
                await link.hear(step.hear)
            if instead and index in instead:
                await instead[index](link, step)
                return
            await link.say(step.say)
            if step.tls:
                await link.start_tls()
        await link.wait()

    return script


def with_answer(steps: Sequence[Step], hear: bytes, say: bytes) -> list[Step]:
    """The steps, with another answer to the last command that begins so, and none after it."""
    at = max(index for index, step in enumerate(steps) if step.hear.startswith(hear))
    return [*steps[:at], replace(steps[at], say=say, tls=False)]


def _tagged(first: int, *steps: tuple[bytes, bytes]) -> list[Step]:
    return [
        Step(b"A%d %s" % (first + n, hear), say.replace(b"TAG", b"A%d" % (first + n)))
        for n, (hear, say) in enumerate(steps)
    ]


_EHLO_CLEAR = Step(b"EHLO", b"250-mail.example.com\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 STARTTLS\r\n")
_EHLO_TLS = Step(b"EHLO", b"250-mail.example.com\r\n250 AUTH PLAIN LOGIN\r\n")
_GREETING = Step(b"", b"220 mail.example.com ESMTP\r\n")
_STARTTLS = Step(b"STARTTLS", b"220 2.0.0 Ready\r\n", tls=True)
_AUTH = Step(b"AUTH PLAIN", b"235 2.7.0 Welcome\r\n")
_QUIT = Step(b"QUIT", b"221 2.0.0 Bye\r\n")
_MAILBOX = (
    (b'LOGIN "probe@example.com" "kV4-marked-zQ8w"', b"TAG OK [CAPABILITY IMAP4rev1 UIDPLUS] Logged in\r\n"),
    (b'SELECT "INBOX"', b"* FLAGS (\\Seen)\r\n* 2 EXISTS\r\n* OK [UIDVALIDITY 1]\r\nTAG OK [READ-WRITE] Selected\r\n"),
    (
        b"FETCH 1",
        b"* 1 FETCH (UID 7 FLAGS () BODY[HEADER.FIELDS (DATE)] {11}\r\nDate: x\r\n\r\n)\r\nTAG OK Fetched\r\n",
    ),
    (b"LOGOUT", b"* BYE Logging out\r\nTAG OK Done\r\n"),
)
_SIEVE_CAPABILITIES = b'"IMPLEMENTATION" "Test"\r\n"SIEVE" "fileinto reject"\r\n'

DIALOGS: Mapping[CheckKind, Sequence[Step]] = {
    CheckKind.MX: [
        _GREETING,
        _EHLO_CLEAR,
        _STARTTLS,
        _EHLO_TLS,
        Step(b"MAIL FROM:<>", b"250 2.1.0 Ok\r\n"),
        Step(b"RCPT TO:<probe@example.com>", b"250 2.1.5 Ok\r\n"),
        Step(b"RSET", b"250 2.0.0 Ok\r\n"),
        _QUIT,
    ],
    CheckKind.SUBMISSION: [_GREETING, _EHLO_CLEAR, _STARTTLS, _EHLO_TLS, _AUTH, _QUIT],
    CheckKind.SMTPS: [_GREETING, _EHLO_TLS, _AUTH, _QUIT],
    CheckKind.IMAPS: [Step(b"", b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] Ready\r\n"), *_tagged(1, *_MAILBOX)],
    CheckKind.IMAP: [
        Step(b"", b"* OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] Ready\r\n"),
        Step(b"A1 STARTTLS", b"A1 OK Begin\r\n", tls=True),
        *_tagged(2, *_MAILBOX),
    ],
    CheckKind.POP3S: [
        Step(b"", b"+OK Ready\r\n"),
        Step(b"USER probe@example.com", b"+OK\r\n"),
        Step(b"PASS kV4-marked-zQ8w", b"+OK Logged in.\r\n"),
        Step(b"STAT", b"+OK 2 320\r\n"),
        Step(b"QUIT", b"+OK Bye\r\n"),
    ],
    CheckKind.SIEVE: [
        Step(b"", _SIEVE_CAPABILITIES + b'"SASL" ""\r\n"STARTTLS"\r\nOK "Ready"\r\n'),
        Step(b"STARTTLS", b'OK "Begin"\r\n', tls=True),
        Step(b"", _SIEVE_CAPABILITIES + b'"SASL" "PLAIN LOGIN"\r\nOK "Ready"\r\n'),
        Step(b'AUTHENTICATE "PLAIN" "', b'OK "Logged in"\r\n'),
        Step(b"LOGOUT", b'OK "Bye"\r\n'),
    ],
    CheckKind.HTTPS: [
        Step(
            b"GET /mail HTTP/1.1",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<h1>Sign in here</h1>"[:-1],
        )
    ],
}
IMPLICIT = frozenset({CheckKind.SMTPS, CheckKind.IMAPS, CheckKind.POP3S, CheckKind.HTTPS})
KINDS = tuple(DIALOGS)
STEPS = [(kind, index) for kind in KINDS for index in range(len(DIALOGS[kind]))]
"""Every point of every dialog at which the server can do something else."""


def check_of(kind: CheckKind, port: int, host: str = "127.0.0.1", **options: str) -> CheckSpec:
    """A check of this kind, with the options its probe needs."""
    needed = {"secret": "probe", "recipient": RECIPIENT, "tls_name": NAME, "soa_wait_ms": "0"}
    if kind is CheckKind.HTTPS:
        needed |= {"path": "/mail", "text": "Sign in"}
    return CheckSpec("a-check", "mail", kind, host, port, ("london",), True, needed | options)


def make_secrets(directory: Path, login: str = LOGIN, password: str = PASSWORD) -> SecretSource:
    """A source with the one secret "probe"."""
    file = directory / "probe"
    file.write_text(f"{login}\n{password}\n")
    file.chmod(0o600)
    return SecretSource(directory)


def context_of(secrets: SecretSource, ca_file: Path, timeout_ms: int = 20_000, nameserver: str = "") -> ProbeContext:
    """A context that trusts this authority."""
    made = make_context(secrets, ca_file=ca_file, nameserver=nameserver or "127.0.0.1:9")
    return replace(made, timeout_ms=timeout_ms)
