"""The embedded upstream: an SMTP server that keeps each message in a Maildir, so that nothing else is needed.

aiosmtpd receives, this module keeps. What aiosmtpd 1.4.6 leaves open is closed in `_Session`: a message
without line ends fills the memory, addresses are rewritten, the timer cuts off a steady upload, texts of
exceptions are sent on.

A message is one file per recipient, in a Maildir named after the recipient (cr.yp.to/proto/maildir.html):
written and synced in tmp/, renamed to new/, the directory synced; only then 250. Line ends are LF, as readers
of Maildir expect.
"""

import asyncio
import collections
import hashlib
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Self
from urllib.parse import quote

from aiosmtpd.smtp import MISSING, SMTP, Envelope, Session, syntax

from smartmail.core.address import AddressError, Mailbox, parse_path

log = logging.getLogger(__name__)

_MAX_RECIPIENTS = 1000
_MAX_NAME = 200
"""Octets of a Maildir's name; file systems end at 255."""
_HELD_MESSAGES = 4
"""How many messages of the largest size may be in memory at once, of all sessions together."""
_TIMER_EVERY = 65536
"""Octets of content after which the session's timer starts anew (RFC 5321 4.5.3.2.5: per block)."""
_OWN_NAME = re.compile(r"\d+\.[0-9a-f]{16}\..+")


def maildir_name(mailbox: Mailbox) -> str:
    """The folder name of a recipient: its normal form with everything but letters, digits and @+=_-. as %XX.

    No name starts with a dot or holds a slash; one that would be too long ends in a hash of the whole.
    """
    name = quote(mailbox.key.encode("utf-8", "surrogateescape"), safe="@+=")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) > _MAX_NAME:
        name = f"{name[: _MAX_NAME - 65]}~{hashlib.sha256(name.encode()).hexdigest()}"
    return name


def deliver(directory: Path, copies: Iterable[tuple[str, bytes]], content: bytes, identifier: str) -> None:
    """Write one message durably into several Maildirs below `directory`, all of them or none.

    copies: Maildir name and the header lines to put before `content`. Blocks; raises OSError, and then
    nothing is left in any new/. (A crash between two renames can leave some; the sender got no 250 and comes
    again.)
    """
    written: list[tuple[Path, Path]] = []
    done: list[Path] = []
    name = f"{int(time.time())}.{identifier}.{socket.gethostname().replace('/', '_').replace(':', '_')}"
    try:
        for folder, headers in copies:
            maildir = _make_maildir(directory / folder)
            written.append((maildir / "tmp" / name, maildir / "new" / name))
            _write_synced(written[-1][0], headers, content)
        for temporary, final in written:
            temporary.rename(final)
            done.append(final)
            _sync_directory(final.parent)
    except OSError:
        for path in [*(temporary for temporary, _ in written), *done]:
            path.unlink(missing_ok=True)
        raise


def clean(directory: Path) -> int:
    """Remove what an earlier run, killed while writing, left in the tmp/ folders. Returns how many files."""
    leftovers = [path for path in directory.glob("*/tmp/*") if _OWN_NAME.fullmatch(path.name)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _make_maildir(maildir: Path) -> Path:
    if not (maildir / "cur").is_dir():
        maildir.mkdir(parents=True, exist_ok=True)
        for folder in ("tmp", "new", "cur"):
            (maildir / folder).mkdir(mode=0o700, exist_ok=True)
        _sync_directory(maildir)
        _sync_directory(maildir.parent)
    return maildir


def _write_synced(path: Path, *parts: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for part in parts:
            left = memoryview(part)
            while left:
                left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _TooLarge(Exception):
    """The content passed a bound; `answer` is the reply once it has all been read and dropped."""

    def __init__(self, answer: str) -> None:
        super().__init__(answer)
        self.answer = answer


class MaildropServer:
    """A running maildrop. Made by `start`; also the handler that aiosmtpd calls."""

    def __init__(self, directory: Path, max_size: int) -> None:
        self._directory = directory
        self._max_size = max_size
        self._free = max_size * _HELD_MESSAGES
        self._writers = ThreadPoolExecutor(4, thread_name_prefix="maildrop")
        self._writes: set[asyncio.Future[None]] = set()
        self._sessions: set[_Session] = set()
        self._server: asyncio.Server | None = None
        self.address: tuple[str, int] = ("", 0)
        """Host and port it listens on."""

    async def listen(self, host: str, port: int) -> Self:
        """Open the port (0: any free one). Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._session, host, port, backlog=1024)
        self.address = self._server.sockets[0].getsockname()[:2]
        return self

    async def close(self) -> None:
        """Stop listening, let running writes end and be answered, close all sessions."""
        if self._server is not None:
            self._server.close()
        if self._writes:
            await asyncio.wait(self._writes)
            await asyncio.sleep(0)  # the sessions that waited for them send their replies
        for session in list(self._sessions):
            session.hang_up()
        while self._sessions:
            await next(iter(self._sessions)).ended.wait()
        if self._server is not None:
            await self._server.wait_closed()
        self._writers.shutdown()

    def hold(self, octets: int) -> bool:
        """Take `octets` of the memory that all sessions share; False when there is not so much left."""
        if octets > self._free:
            return False
        self._free -= octets
        return True

    def let_go(self, octets: int) -> None:
        """Give back what `hold` took."""
        self._free += octets

    def add(self, session: "_Session") -> None:
        """A session began."""
        self._sessions.add(session)

    def remove(self, session: "_Session") -> None:
        """A session ended."""
        self._sessions.discard(session)

    def _session(self) -> "_Session":
        return _Session(self, self._max_size)

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offers PIPELINING (RFC 2920): aiosmtpd reads pipelined commands but does not say so."""
        session.host_name = hostname
        return [*responses[:1], "250-PIPELINING", *responses[1:]]

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> object:
        """Bounds the number of recipients (RFC 5321 4.5.3.1.10)."""
        return MISSING if len(envelope.rcpt_tos) < _MAX_RECIPIENTS else "452 4.5.3 Too many recipients"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keeps the message. Raises OSError, answered by `handle_exception`."""
        identifier = secrets.token_hex(8)
        sender, content = envelope.mail_from or "<>", envelope.content
        if not isinstance(content, bytes):
            raise TypeError("content is bytes unless decode_data is set")
        copies = {
            maildir_name(mailbox): self._headers(session, sender, mailbox, identifier)
            for mailbox in map(_recipient, envelope.rcpt_tos)
        }
        loop = asyncio.get_running_loop()
        write = loop.run_in_executor(self._writers, deliver, self._directory, list(copies.items()), content, identifier)
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        # A client that goes away now cancels us, not the write: what was begun is finished.
        await asyncio.shield(write)
        return f"250 2.0.0 Ok: queued as {identifier}"

    async def handle_exception(self, error: Exception) -> str:
        """The reply to whatever went wrong: nothing of it is told to the client."""
        reference = secrets.token_hex(4)
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        log.error("maildrop: message not kept: %s (reference %s)", reason, reference)
        return f"451 4.3.0 Message not kept, try again later (reference {reference})"

    def _headers(self, session: Session, sender: str, recipient: Mailbox, identifier: str) -> bytes:
        peer = session.peer[0] if session.peer else "unknown"
        host, kind = self.address[0], "UTF8SMTP" if not recipient.wire.isascii() else "ESMTP"
        path = sender if sender == "<>" else f"<{sender}>"
        text = (
            f"Return-Path: {path}\n"
            f"Delivered-To: {recipient.wire}\n"
            f"Received: from [{peer}] by [{host}] with {kind} id {identifier};\n\t{formatdate()}\n"
        )
        return text.encode("utf-8", "surrogateescape")


class _Session(SMTP):
    """aiosmtpd's session with its open ends closed."""

    # The reader's limit, in octets: longer lines come in pieces, so it does not bound what a line may be.
    line_length_limit = 65536
    command_size_limit = 4096

    def __init__(self, drop: MaildropServer, max_size: int) -> None:
        super().__init__(
            drop,
            data_size_limit=max_size,
            enable_SMTPUTF8=True,
            hostname="localhost",
            ident="ESMTP maildrop",
            loop=asyncio.get_running_loop(),
        )
        # aiosmtpd's is one dict for the whole process, grown by each EHLO and cleared by each connection.
        self.command_size_limits = collections.defaultdict(lambda: self.command_size_limit)
        self._drop = drop
        self._held = 0
        self.ended = asyncio.Event()
        """Set when the connection is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's call: a client came."""
        self._drop.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio's call: the connection is gone."""
        super().connection_lost(error)
        self._drop.remove(self)
        self.ended.set()

    def hang_up(self) -> None:
        """Send what is still to be sent, then close."""
        if self.transport is not None:
            self.transport.close()

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """As the relay reads addresses: aiosmtpd's own reader rewrites them. `<>` stays as it is."""
        sender = self.envelope is None or not self.envelope.mail_from
        try:
            mailbox, rest = parse_path(arg.encode("utf-8", "surrogateescape"), sender=sender, utf8=True)
        except AddressError:
            return None, None
        return "<>" if mailbox is None else mailbox.wire, rest.decode("utf-8", "surrogateescape")

    @syntax("DATA")
    async def smtp_DATA(self, arg: str) -> None:
        """DATA (RFC 5321 4.1.1.4) in bounded memory; only CRLF.CRLF ends it."""
        envelope = self.envelope
        if envelope is None or not envelope.rcpt_tos:
            await self.push("503 5.5.1 Error: need RCPT command")
            return
        if arg:
            await self.push("501 5.5.4 Syntax: DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        try:
            envelope.content = await self._content()
            answer = await self._call_handler_hook("DATA")
        except _TooLarge as error:
            answer = error.answer
        finally:
            self._drop.let_go(self._held)
            self._held = 0
            self.envelope = self._create_envelope()
        await self.push(answer)

    async def _content(self) -> bytes:
        """The content without dot stuffing, line ends LF. Raises _TooLarge once the end has been read."""
        kept = bytearray()
        refusal = ""
        line_start, since_timer = True, 0
        while True:
            piece, ends_line = await self._piece()
            if line_start and ends_line and piece == b".":
                break
            if line_start and piece.startswith(b"."):
                piece = piece[1:]
            line_start = ends_line
            octets = len(piece) + (2 if ends_line else 0)
            since_timer += octets
            if since_timer > _TIMER_EVERY:
                since_timer = 0
                self._reset_timeout()
            refusal = refusal or self._hold(octets)
            if refusal:
                kept.clear()
                continue
            kept += piece
            if ends_line:
                kept += b"\n"
        if refusal:
            raise _TooLarge(refusal)
        return bytes(kept)

    def _hold(self, octets: int) -> str:
        """Count `octets` of this message; the reply that refuses it, or nothing."""
        if self.data_size_limit is not None and self._held + octets > self.data_size_limit:
            return "552 5.3.4 Message too large"
        if not self._drop.hold(octets):
            return "452 4.3.1 Too many large messages at once, try again later"
        self._held += octets
        return ""

    async def _piece(self) -> tuple[bytes, bool]:
        """A line without its CRLF and True, or a part of a very long one and False."""
        try:
            return (await self._reader.readuntil(b"\r\n"))[:-2], True
        except asyncio.LimitOverrunError as overrun:
            return await self._reader.read(overrun.consumed), False


def _recipient(address: str) -> Mailbox:
    mailbox, _ = parse_path(f"<{address}>".encode("utf-8", "surrogateescape"), sender=False, utf8=True)
    if mailbox is None:
        raise ValueError("a recipient is never the null path")
    return mailbox


async def start(directory: Path, host: str, port: int, max_size: int) -> MaildropServer:
    """Run a maildrop in the caller's loop.

    directory: where the Maildirs are (made if missing). max_size: octets of the largest message. Raises
    OSError when the directory or the port cannot be had.
    """
    await asyncio.to_thread(_prepare, directory)
    # aiosmtpd logs every command, and at debug level every line of the content: neither belongs in our log.
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)
    return await MaildropServer(directory, max_size).listen(host, port)


def _prepare(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    clean(directory)
