"""The probe's own mailbox by IMAP: finds a message by its token, in INBOX or Junk, and cleans up after the probe.

Only messages whose token verifies with our own secret are ever marked or expunged; all others are not even marked as
seen. Without UIDPLUS (RFC 4315) nothing is expunged: plain EXPUNGE would take what others have marked.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from smartmail.core.outcome import Outcome
from smartmail.core.probe_token import HEADER, ProbeToken, find
from smartmail.monitor.probes.conversation import Target, connect
from smartmail.monitor.probes.imap import Fetched, ImapSession
from smartmail.monitor.probes.observation import ProbeFailure, Visit
from smartmail.monitor.roundtrip_stages import parse_date

T = TypeVar("T")

INBOX: Final = "INBOX"
_WINDOW: Final = 500
"""Messages searched for old tokens at each end of a mailbox: bounds the answer."""
_MOST_AT_ONCE: Final = 200
_INTERNALDATE: Final = re.compile(rb'INTERNALDATE "([^"]{1,40})"', re.I)
_TOKEN_ITEMS: Final = f"UID INTERNALDATE BODY.PEEK[HEADER.FIELDS ({HEADER})]"
_WAY_ITEMS: Final = f"UID INTERNALDATE BODY.PEEK[HEADER.FIELDS ({HEADER} Received)]"


@dataclass(frozen=True, slots=True)
class MailboxSettings:
    """Where the mailbox is. starttls: instead of TLS from the first octet. secret: name of its login. key: the token's
    secret. junk: name of its Junk folder, "" for none."""

    target: Target
    starttls: bool
    secret: str
    key: bytes = field(repr=False)
    junk: str


@dataclass(frozen=True, slots=True)
class Found:
    """A message of ours. stored_ms: the mailbox's own time of its arrival, None where it cannot be read. received: its
    Received fields, the last server's first; empty where they were not asked for."""

    token: ProbeToken
    uid: int
    folder: str
    stored_ms: int | None
    received: tuple[str, ...] = ()


class Mailbox:
    """One trip's view of the mailbox: one session, opened anew after a failure. visits: makes a session's visit."""

    def __init__(self, settings: MailboxSettings, visits: Callable[[], Visit]) -> None:
        self._settings = settings
        self._visits = visits
        self._session: ImapSession | None = None
        self._no_junk = not settings.junk

    async def look(self, token: str, *, junk: bool) -> Found | None:
        """Is the message with this token there? junk: look into that folder too. Raises ProbeFailure."""

        async def work(session: ImapSession) -> Found | None:
            for folder in self._folders(junk=junk):
                if await self._select(session, folder) and (found := await self._find(session, folder, token)):
                    return found
            return None

        return await self._do(work)

    async def own(self) -> list[Found]:
        """Messages of ours, of whatever trip, at both ends of both folders; bounded. Raises ProbeFailure."""

        async def work(session: ImapSession) -> list[Found]:
            found: dict[tuple[str, int], Found] = {}
            for folder in self._folders(junk=True):
                count = await self._select(session, folder)
                windows = {(1, min(count, _WINDOW)), (max(1, count - _WINDOW + 1), count)} if count else set()
                for first, last in windows:
                    uids = await session.search(f"{first}:{last} UNDELETED HEADER {HEADER} sm1.")
                    for fetched in await session.fetch(uids[:_MOST_AT_ONCE], _TOKEN_ITEMS) if uids else ():
                        if one := self._read(fetched, folder):
                            found[folder, one.uid] = one
            return list(found.values())

        return await self._do(work)

    async def delete(self, messages: Sequence[Found]) -> None:
        """Delete messages that `look` or `own` gave, and only them. Raises ProbeFailure."""

        async def work(session: ImapSession) -> None:
            for folder in sorted({one.folder for one in messages}):
                uids = sorted(one.uid for one in messages if one.folder == folder)
                await self._select(session, folder)
                await session.store(uids, "\\Deleted")
                if {"UIDPLUS", "IMAP4REV2"} & session.capabilities:
                    await session.expunge(uids)

        await self._do(work)

    async def close(self) -> None:
        """End the session; a failure to say goodbye is nobody's."""
        if self._session is not None:
            with suppress(ProbeFailure):
                await self._do(ImapSession.logout)
            self.drop()

    def drop(self) -> None:
        """End the connection at once."""
        if self._session is not None:
            self._session.conversation.close()
            self._session = None

    def _folders(self, *, junk: bool) -> tuple[str, ...]:
        return (INBOX, self._settings.junk) if junk and not self._no_junk else (INBOX,)

    async def _do(self, work: Callable[[ImapSession], Awaitable[T]]) -> T:
        """Do a piece of work within a visit's time; whatever it does not end well by ends the session too."""
        visit = self._session.visit if self._session is not None else self._visits()
        done = False
        try:
            async with asyncio.timeout(visit.timeout_ms / 1000):
                result = await work(self._session or await self._open(visit))
            done = True
        except TimeoutError:
            raise visit.failure(Outcome.TIMEOUT, f"no answer within {visit.timeout_ms} ms") from None
        finally:
            if not done:
                self.drop()
        return result

    async def _open(self, visit: Visit) -> ImapSession:
        settings = self._settings
        login = visit.secret_named(settings.secret)
        conversation = await connect(visit, settings.target)
        session = self._session = ImapSession(conversation)
        if settings.starttls:
            await session.greeting()
            await session.start_tls(settings.target.tls_name)
        else:
            await conversation.start_tls(settings.target.tls_name)
            await session.greeting()
        await session.login(login)
        await session.command("CAPABILITY", "CAPABILITY")
        return session

    async def _select(self, session: ImapSession, folder: str) -> int:
        """How many messages are in a folder; 0 too where there is no Junk folder."""
        try:
            return await session.select(folder)
        except ProbeFailure as failure:
            if folder == INBOX or failure.outcome is not Outcome.PERMANENT:
                raise
            self._no_junk = True
            return 0

    async def _find(self, session: ImapSession, folder: str, token: str) -> Found | None:
        uids = await session.search(f"HEADER {HEADER} {token}")
        for fetched in await session.fetch(uids[:_MOST_AT_ONCE], _WAY_ITEMS) if uids else ():
            found = self._read(fetched, folder)
            if found is not None and found.token.text == token:
                return found
        return None

    def _read(self, fetched: Fetched, folder: str) -> Found | None:
        """The message, if it is one of ours."""
        fields = _unfolded(b"".join(fetched.literals[:1]))
        marks = (find(self._settings.key, value) for name, value in fields if name == HEADER.lower())
        token = next(filter(None, marks), None)
        if token is None or not fetched.uid:
            return None
        date = _INTERNALDATE.search(fetched.items)
        stored = parse_date(date[1].decode("ascii", "replace")) if date else None
        return Found(token, fetched.uid, folder, stored, tuple(v for name, v in fields if name == "received"))


def _unfolded(header: bytes) -> list[tuple[str, str]]:
    """Names in small letters and values of the fields of a header section."""
    text = header.decode("ascii", "replace")
    lines = text.replace("\r\n ", " ").replace("\r\n\t", " ").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return [(name.strip().lower(), value.strip()) for name, found, value in pairs if found]
