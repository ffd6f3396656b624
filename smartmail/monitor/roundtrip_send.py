"""Sending a probe's message: as a customer does by submission, or as a stranger does to port 25."""

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from typing import Final

from smartmail.core.outcome import Outcome
from smartmail.core.probe_token import HEADER
from smartmail.monitor.probes.conversation import Conversation, connect, target_of
from smartmail.monitor.probes.observation import ProbeFailure, Visit
from smartmail.monitor.probes.smtp import SmtpSession, greylisted

_GREYLISTED: Final = re.compile(r"45[01] (?:4\.7\.[0-9]|.*gr[ae]y.?list)", re.I)
"""A reply to the content: milters greylist there too."""


class Way(StrEnum):
    """How the message leaves."""

    SUBMISSION = "submission"
    """STARTTLS and AUTH."""
    SMTPS = "smtps"
    """TLS from the first octet, and AUTH."""
    MX = "mx"
    """As another mail server: STARTTLS where it is offered, no AUTH."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A probe's message. secret: name of the login, "" on the way of a stranger."""

    way: Way
    sender: str
    recipient: str
    secret: str
    content: bytes


class Greylisted(Exception):
    """The server asks to come again later, as greylisting does. The text is its reply."""


def compose(sender: str, recipient: str, token: str, nonce: str, now_ms: int) -> bytes:
    """The message, lines ended by CRLF. Auto-Submitted (RFC 3834) keeps everybody from answering it."""
    date = format_datetime(datetime.fromtimestamp(now_ms // 1000, UTC))
    domain = sender.rpartition("@")[2] or "localhost"
    lines = (
        f"From: <{sender}>",
        f"To: <{recipient}>",
        "Subject: Mail round trip",
        f"Date: {date}",
        f"Message-ID: <{nonce}@{domain}>",
        f"{HEADER}: {token}",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        "A monitor sent this message to see that mail arrives, and how fast. It is deleted when it has been seen.",
        "",
    )
    return "\r\n".join(lines).encode("ascii")


async def send(visit: Visit, letter: Letter) -> None:
    """Send a message within the visit's time. Raises ProbeFailure with the class of what went wrong, or Greylisted
    where a stranger is asked to come again."""
    try:
        async with asyncio.timeout(visit.timeout_ms / 1000):
            async with await connect(visit, target_of(visit.check)) as conversation:
                await _converse(conversation, letter)
    except TimeoutError:
        raise visit.failure(Outcome.TIMEOUT, f"no answer within {visit.timeout_ms} ms") from None


async def _converse(conversation: Conversation, letter: Letter) -> None:
    session = SmtpSession(conversation)
    login = session.visit.secret_named(letter.secret) if letter.secret else None
    name = target_of(session.visit.check).tls_name
    if letter.way is Way.SMTPS:
        await conversation.start_tls(name)
    await session.greeting()
    await session.hello()
    offered = "STARTTLS" in session.capabilities and session.visit.check.option("starttls") != "no"
    if letter.way is Way.SUBMISSION or (letter.way is Way.MX and offered):
        await session.start_tls(name)
    if login is not None:
        await session.login(login)
    await session.mail(letter.sender)
    reply = await session.rcpt(letter.recipient)
    if reply.code not in (250, 251):
        if greylisted(reply):
            raise Greylisted(session.visit.words(str(reply)))
        raise session.refusal(reply)
    try:
        await session.data(letter.content)
    except ProbeFailure as failure:
        if failure.outcome is Outcome.TRANSIENT and _GREYLISTED.match(failure.detail):
            raise Greylisted(failure.detail) from None
        raise
    try:
        await session.quit()
    except ProbeFailure:
        # It has the message, and said so: what happens to the conversation now is no part of the trip.
        session.visit.facts["quit_failed"] = 1
