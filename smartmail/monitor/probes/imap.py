"""IMAP as a client: the session (RFC 9051 and 3501), and the probes of ports 993 and 143."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckSpec
from smartmail.monitor.probes.context import ProbeContext, Secret
from smartmail.monitor.probes.conversation import Conversation, LogicalLine, connect, target_of
from smartmail.monitor.probes.observation import Observation, ProbeFailure, Visit, observe

MAX_UNTAGGED: Final = 10_000
"""Untagged responses to one command: a mailbox of a probe has no more messages."""

_GREETING: Final = re.compile(rb"\* (OK|PREAUTH|BYE)(?: |\Z)", re.I)
_TAGGED: Final = re.compile(rb"(A[0-9]+) (OK|NO|BAD)(?: (.*))?\Z", re.I | re.S)
_CAPABILITY: Final = re.compile(rb"(?:\* |\[)CAPABILITY ([^\]]*)", re.I)
_CODE: Final = re.compile(rb"\[([A-Z0-9-]+)", re.I)
_EXISTS: Final = re.compile(rb"\* ([0-9]{1,10}) EXISTS\Z", re.I)
_FETCH: Final = re.compile(rb"\* ([0-9]{1,10}) FETCH \((.*)\)\Z", re.I | re.S)
_UID: Final = re.compile(rb"(?:\A|[ (])UID ([0-9]{1,10})(?:[ )]|\Z)", re.I)
_QUOTABLE: Final = re.compile(r"[\x20-\x7e]*\Z")
_PASSING: Final = frozenset({b"UNAVAILABLE", b"INUSE", b"LIMIT", b"SERVERBUG"})
"""Response codes (RFC 5530) of a NO that is not about what was asked, but about the server now."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """One FETCH response. number: of the message; uid: 0 where it was not asked for; items: as sent, literals as
    `{n}`; literals: in order."""

    number: int
    uid: int
    items: bytes
    literals: tuple[bytes, ...]


class ImapSession:
    """One IMAP conversation, from the greeting to LOGOUT. All that fails raises ProbeFailure."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.visit = conversation.visit
        self.capabilities: frozenset[str] = frozenset()
        """As last told, in capitals; empty: not told yet."""
        self._count = 0

    async def greeting(self) -> None:
        """The server's first word (phase "banner")."""
        self.visit.phase("banner")
        self.visit.at = "greeting"
        line = await self.conversation.line()
        found = _GREETING.match(line)
        if found is None or found[1].upper() == b"PREAUTH":
            raise self.visit.failure(Outcome.PROTOCOL, line)
        if found[1].upper() == b"BYE":
            raise self.visit.failure(Outcome.TRANSIENT, line)
        self._learn(line)

    async def command(self, line: str, at: str, no: Outcome = Outcome.PERMANENT) -> tuple[LogicalLine, ...]:
        """Send a command, give its untagged responses. at: its name; the line itself may hold a secret.

        Raises ProbeFailure: `no` for NO, TRANSIENT for a NO that speaks of a passing state, PERMANENT for BAD.
        """
        self.visit.at = at
        self._count += 1
        tag = b"A%d" % self._count
        self.conversation.send(tag + b" " + line.encode("utf-8") + b"\r\n")
        untagged: list[LogicalLine] = []
        while True:
            response = await self.conversation.logical_line()
            if response.text.startswith(b"* "):
                self._untagged(response, untagged)
                continue
            found = _TAGGED.match(response.text)
            if found is None or found[1] != tag:
                raise self.visit.failure(Outcome.PROTOCOL, response.text)
            if found[2].upper() != b"OK":
                raise self._refusal(response.text, no if found[2].upper() == b"NO" else Outcome.PERMANENT)
            self._learn(response.text)
            return tuple(untagged)

    def _untagged(self, response: LogicalLine, untagged: list[LogicalLine]) -> None:
        if len(untagged) >= MAX_UNTAGGED:
            raise self.visit.failure(Outcome.PROTOCOL, "endless untagged responses")
        self._learn(response.text)
        if response.text[2:5].upper() == b"BYE":
            self.conversation.said_goodbye = response.text
        untagged.append(response)

    def _refusal(self, text: bytes, outcome: Outcome) -> ProbeFailure:
        code = _CODE.search(text)
        if code is not None and code[1].upper() in _PASSING:
            outcome = Outcome.TRANSIENT
        return self.visit.failure(outcome, text.partition(b" ")[2])

    def _learn(self, text: bytes) -> None:
        found = _CAPABILITY.search(text)
        if found is not None:
            self.capabilities = frozenset(found[1].decode("ascii", "replace").upper().split())

    async def start_tls(self, name: str) -> None:
        """STARTTLS and the handshake. Raises ProbeFailure (TLS) where it is not offered or not given."""
        self.visit.phase("command")
        if not self.capabilities:
            await self.command("CAPABILITY", "CAPABILITY")
        self.visit.at = "STARTTLS"
        if "STARTTLS" not in self.capabilities:
            raise self.visit.failure(Outcome.TLS, "STARTTLS is not offered")
        await self.command("STARTTLS", "STARTTLS", no=Outcome.TLS)
        await self.conversation.start_tls(name)
        self.capabilities = frozenset()  # RFC 9051 6.2.1: what was told in clear text is forgotten

    async def login(self, secret: Secret) -> None:
        """LOGIN, or AUTHENTICATE PLAIN for what LOGIN cannot say (phase "auth"). Raises ProbeFailure: LOGIN for NO."""
        self.visit.phase("auth")
        if not _QUOTABLE.match(secret.login + secret.password) or "LOGINDISABLED" in self.capabilities:
            line, at = await self._authenticate_line(secret), "AUTHENTICATE"
        else:
            line, at = f"LOGIN {quoted(secret.login)} {quoted(secret.password)}", "LOGIN"
        await self.command(line, at, no=Outcome.LOGIN)
        self.visit.phase("command")

    async def _authenticate_line(self, secret: Secret) -> str:
        if not self.capabilities:
            await self.command("CAPABILITY", "CAPABILITY")
        if not {"SASL-IR", "AUTH=PLAIN"} <= self.capabilities:
            raise self.visit.failure(Outcome.CONTENT, "AUTHENTICATE PLAIN with SASL-IR is not offered")
        token = base64.b64encode(f"\0{secret.login}\0{secret.password}".encode()).decode()
        return f"AUTHENTICATE PLAIN {token}"

    async def select(self, mailbox: str = "INBOX") -> int:
        """SELECT; how many messages are in it."""
        for response in await self.command(f"SELECT {quoted(mailbox)}", "SELECT"):
            if found := _EXISTS.match(response.text):
                return int(found[1])
        raise self.visit.failure(Outcome.PROTOCOL, "no EXISTS in the answer")

    async def search(self, criteria: str) -> tuple[int, ...]:
        """UID SEARCH; criteria as RFC 9051 6.4.4 writes them. The UIDs, ascending."""
        uids: set[int] = set()
        for response in await self.command(f"UID SEARCH {criteria}", "SEARCH"):
            if response.text[:8].upper() == b"* SEARCH":
                uids |= {int(word) for word in response.text[8:].split() if word.isdigit()}
        return tuple(sorted(uids))

    async def fetch(self, uids: Sequence[int], items: str) -> tuple[Fetched, ...]:
        """UID FETCH; items without the brackets around them, such as "FLAGS BODY.PEEK[HEADER]"."""
        return _fetched(await self.command(f"UID FETCH {_set(uids)} ({items})", "FETCH"))

    async def fetch_number(self, number: int, items: str) -> tuple[Fetched, ...]:
        """FETCH by the message's number."""
        return _fetched(await self.command(f"FETCH {number} ({items})", "FETCH"))

    async def store(self, uids: Sequence[int], flags: str) -> None:
        """UID STORE: add these flags, such as "\\Deleted"."""
        await self.command(f"UID STORE {_set(uids)} +FLAGS.SILENT ({flags})", "STORE")

    async def expunge(self, uids: Sequence[int]) -> None:
        """UID EXPUNGE (RFC 4315) of these alone; without UIDPLUS plain EXPUNGE, which takes all that are marked."""
        if not self.capabilities:
            await self.command("CAPABILITY", "CAPABILITY")
        plus = "UIDPLUS" in self.capabilities or "IMAP4REV2" in self.capabilities
        await self.command(f"UID EXPUNGE {_set(uids)}" if plus else "EXPUNGE", "EXPUNGE")

    async def logout(self) -> None:
        """LOGOUT. A server that hangs up without the last word has still done all it was asked for."""
        self.visit.phase("command")
        try:
            await self.command("LOGOUT", "LOGOUT")
        except ProbeFailure as failure:
            if failure.outcome is not Outcome.LOST and not (self.conversation.said_goodbye and self.conversation.ended):
                raise


def quoted(text: str) -> str:
    """A quoted string (RFC 9051 4.3). Raises ValueError for what none can hold."""
    if not _QUOTABLE.match(text):
        raise ValueError("no quoted string can hold this")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _set(uids: Sequence[int]) -> str:
    return ",".join(map(str, uids))


def _fetched(responses: Sequence[LogicalLine]) -> tuple[Fetched, ...]:
    found = []
    for response in responses:
        if match := _FETCH.match(response.text):
            uid = _UID.search(match[2])
            found.append(Fetched(int(match[1]), int(uid[1]) if uid else 0, match[2], response.literals))
    return tuple(found)


async def probe_imaps(check: CheckSpec, context: ProbeContext) -> Observation:
    """As a customer's mail client: port 993, login, INBOX, its first message.

    Options: secret, mailbox (default INBOX), tls_name, family, resolver.
    """
    return await observe(check, context, _imaps)


async def probe_imap(check: CheckSpec, context: ProbeContext) -> Observation:
    """As `imaps`, with STARTTLS: port 143."""
    return await observe(check, context, _imap)


async def _imaps(visit: Visit) -> Outcome:
    secret = visit.secret()
    target = target_of(visit.check)
    async with await connect(visit, target) as conversation:
        session = ImapSession(conversation)
        await conversation.start_tls(target.tls_name)
        await session.greeting()
        return await _look_into_mailbox(session, secret)


async def _imap(visit: Visit) -> Outcome:
    secret = visit.secret()
    target = target_of(visit.check)
    async with await connect(visit, target) as conversation:
        session = ImapSession(conversation)
        await session.greeting()
        await session.start_tls(target.tls_name)
        return await _look_into_mailbox(session, secret)


async def _look_into_mailbox(session: ImapSession, secret: Secret) -> Outcome:
    await session.login(secret)
    mailbox = session.visit.check.option("mailbox", "INBOX")
    messages = await session.select(mailbox)
    session.visit.facts["messages"] = messages
    # Another client may just have taken it away. That the one that is now the first is gone too would be no chance.
    gone = messages and not await _first_message(session) and await session.select(mailbox)
    if gone and not await _first_message(session):
        raise session.visit.failure(Outcome.CONTENT, "the first message is not there")
    await session.logout()
    return Outcome.OK


async def _first_message(session: ImapSession) -> bool:
    return bool(await session.fetch_number(1, "UID FLAGS BODY.PEEK[HEADER.FIELDS (DATE)]"))
