"""A mail service in the test's own loop: submission or port 25 by aiosmtpd, a mailbox by IMAP, and secrets in files."""

import asyncio
import email
import re
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from trustworld import Identity, identity

from smartmail.core.probe_token import HEADER
from smartmail.core.roster import CheckKind, CheckSpec
from smartmail.monitor.probes.context import ProbeContext, SecretSource, make_context

LOGIN, PASSWORD = "probe@example.com", "a password of the probe"
TOKEN_KEY = "key of the tokens, long enough"


@dataclass
class Message:
    """A message in a folder."""

    uid: int
    octets: bytes
    stored: float = field(default_factory=time.time)
    flags: set[str] = field(default_factory=set)

    @property
    def token(self) -> str:
        """Its token, or nothing."""
        return str(email.message_from_bytes(self.octets).get(HEADER, "")).strip()


@dataclass
class Service:
    """What the servers do, and what they have seen."""

    directory: Path
    folders: dict[str, list[Message]] = field(default_factory=lambda: {"INBOX": [], "Junk": []})
    deliver_to: str = "INBOX"
    """The folder of new mail; "": it is held back in `held`."""
    held: list[bytes] = field(default_factory=list)
    rcpt_replies: list[str] = field(default_factory=list)
    """Answers to the next RCPTs."""
    data_replies: list[str] = field(default_factory=list)
    """Answers to the next contents, which are then not taken."""
    imap_closed: int = 0
    """So many of the next IMAP connections are closed at once."""
    uidplus: bool = True
    received: tuple[str, ...] = ()
    """Received fields that the service puts before a message."""
    commands: Counter[str] = field(default_factory=Counter)
    smtp_sessions: int = 0
    imap_sessions: int = 0
    on_mail: Callable[[Message], None] = lambda message: None
    smtp_port: int = 0
    imap_port: int = 0
    next_uid: int = 1

    def put(self, octets: bytes, folder: str = "INBOX", stored: float | None = None) -> Message:
        """A message into a folder."""
        message = Message(self.next_uid, octets, time.time() if stored is None else stored)
        self.next_uid += 1
        self.folders[folder].append(message)
        return message

    def check(self, **options: str) -> CheckSpec:
        """A round trip through this service."""
        usual = {
            "recipient": LOGIN,
            "secret": "login",
            "token_secret": "tokens",
            "imap_port": str(self.imap_port),
            "deadline": "20",
        }
        kept = MappingProxyType({key: value for key, value in {**usual, **options}.items() if value})
        return CheckSpec("trip", "mail", CheckKind.ROUND_TRIP, "localhost", self.smtp_port, ("london",), options=kept)

    def context(self, now_ms: Callable[[], int] | None = None) -> ProbeContext:
        """Trusts this service's certificate, knows its secrets."""
        given = {} if now_ms is None else {"now_ms": now_ms}
        return make_context(SecretSource(self.directory), ca_file=self.directory / "roots.pem", **given)

    # What aiosmtpd calls

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """RCPT."""
        if self.rcpt_replies:
            return self.rcpt_replies.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Content."""
        if self.data_replies:
            return self.data_replies.pop(0)
        assert isinstance(envelope.content, bytes)
        octets = b"".join(f"Received: {one}\r\n".encode() for one in self.received) + envelope.content
        if self.deliver_to:
            self.on_mail(self.put(octets, self.deliver_to))
        else:
            self.held.append(octets)
        return "250 2.0.0 taken"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, credentials: object
    ) -> AuthResult:
        """AUTH."""
        assert isinstance(credentials, LoginPassword)
        given = (credentials.login.decode(), credentials.password.decode())
        # handled: aiosmtpd gives the answer to a refusal only where this says that nobody did.
        return AuthResult(success=given == (LOGIN, PASSWORD), handled=False)


class _Imap:
    """One IMAP session, of the commands that a round trip uses."""

    def __init__(self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._service = service
        self._reader = reader
        self._writer = writer
        self._folder: list[Message] = []

    async def run(self) -> None:
        self._writer.write(b"* OK hello\r\n")
        while line := (await self._reader.readline()).decode().rstrip():
            tag, _, rest = line.partition(" ")
            word = rest.removeprefix("UID ").partition(" ")[0]
            self._service.commands[word] += 1
            answer = getattr(self, f"_{word.lower()}")(rest.removeprefix("UID ").partition(" ")[2])
            self._writer.write(f"{tag} {answer}\r\n".encode())
            await self._writer.drain()
            if word == "LOGOUT":
                return

    def _say(self, text: bytes) -> None:
        self._writer.write(b"* " + text + b"\r\n")

    def _capability(self, _: str) -> str:
        self._say(b"CAPABILITY IMAP4rev1" + (b" UIDPLUS" if self._service.uidplus else b""))
        return "OK"

    def _login(self, arguments: str) -> str:
        return "OK" if arguments == f'"{LOGIN}" "{PASSWORD}"' else "NO [AUTHENTICATIONFAILED] no"

    def _select(self, arguments: str) -> str:
        folder = self._service.folders.get(arguments.strip('"'))
        if folder is None:
            return "NO [NONEXISTENT] no such mailbox"
        self._folder = folder
        self._say(b"%d EXISTS" % len(folder))
        return "OK"

    def _search(self, arguments: str) -> str:
        wanted = re.fullmatch(rf"(?:(\d+):(\d+) )?(UNDELETED )?HEADER {HEADER} (\S+)", arguments)
        assert wanted is not None, arguments
        first, last = int(wanted[1] or 1), int(wanted[2] or len(self._folder))
        found = [
            message.uid
            for message in self._folder[first - 1 : last]
            if wanted[4] in message.token and not (wanted[3] and "\\Deleted" in message.flags)
        ]
        self._say(b"SEARCH" + b"".join(b" %d" % uid for uid in found))
        return "OK"

    def _fetch(self, arguments: str) -> str:
        uids, _, items = arguments.partition(" ")
        names = re.search(r"HEADER\.FIELDS \(([^)]*)\)", items)
        assert names is not None
        assert "PEEK" in items
        for message in self._of(uids):
            parsed = email.message_from_bytes(message.octets)
            wanted = names[1].lower().split()
            header = "".join(f"{key}: {value}\r\n" for key, value in parsed.items() if key.lower() in wanted) + "\r\n"
            date = time.strftime("%d-%b-%Y %H:%M:%S +0000", time.gmtime(message.stored))
            self._say(
                f'{self._folder.index(message) + 1} FETCH (UID {message.uid} INTERNALDATE "{date}" '
                f"BODY[HEADER.FIELDS ({names[1]})] {{{len(header)}}}\r\n{header})".encode()
            )
        return "OK"

    def _store(self, arguments: str) -> str:
        for message in self._of(arguments.partition(" ")[0]):
            message.flags.add("\\Deleted")
        return "OK"

    def _expunge(self, arguments: str) -> str:
        chosen = self._of(arguments) if arguments else list(self._folder)
        for message in chosen:
            if "\\Deleted" in message.flags:
                self._folder.remove(message)
        return "OK"

    def _logout(self, _: str) -> str:
        self._say(b"BYE")
        return "OK"

    def _of(self, uids: str) -> list[Message]:
        wanted = {int(uid) for uid in uids.split(",")}
        return [message for message in self._folder if message.uid in wanted]


@asynccontextmanager
async def service(directory: Path) -> AsyncIterator[Service]:
    """A service on 127.0.0.1 with a certificate for localhost."""
    made = Service(directory)
    certificate = identity("localhost", identity("root.example", authority=True))
    _write(directory, certificate)
    tls = certificate.server_context(directory)

    def smtp() -> SMTP:
        made.smtp_sessions += 1
        return _Smtp(made, tls)

    async def imap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.imap_sessions += 1
        try:
            if made.imap_closed:
                made.imap_closed -= 1
            else:
                await _Imap(made, reader, writer).run()
        except OSError:
            pass
        finally:
            writer.close()

    smtp_server = await asyncio.get_running_loop().create_server(smtp, "127.0.0.1", 0)
    imap_server = await asyncio.start_server(imap, "127.0.0.1", 0, ssl=tls)
    made.smtp_port = smtp_server.sockets[0].getsockname()[1]
    made.imap_port = imap_server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        for server in (smtp_server, imap_server):
            server.close()
            await server.wait_closed()


class _Smtp(SMTP):
    def __init__(self, made: Service, tls: ssl.SSLContext) -> None:
        super().__init__(
            made,
            hostname="localhost",
            tls_context=tls,
            authenticator=made.authenticate,
            auth_exclude_mechanism=["LOGIN"],
            loop=asyncio.get_running_loop(),
        )


def _write(directory: Path, certificate: Identity) -> None:
    root = ssl.DER_cert_to_PEM_cert(certificate.chain[1])
    for name, text in {
        "roots.pem": root,
        "login": f"{LOGIN}\n{PASSWORD}\n",
        "wrong": f"{LOGIN}\nanother password\n",
        "tokens": f"tokens\n{TOKEN_KEY}\n",
        "short": "tokens\nshort\n",
    }.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
