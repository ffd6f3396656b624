"""SMTP as a client: the session (RFC 5321, 3207, 4954), and the probes of ports 25, 587 and 465."""

import base64
import re
from typing import Final

from smartmail.core.outcome import Outcome
from smartmail.core.reply import Reply, ReplyError, ReplyParser
from smartmail.core.roster import CheckSpec
from smartmail.monitor.probes.context import ProbeContext, Secret
from smartmail.monitor.probes.conversation import Conversation, connect, target_of
from smartmail.monitor.probes.observation import Observation, ProbeFailure, Visit, observe

_ADDRESS: Final = re.compile(r"[^\s<>\x00-\x20\x7f]+@[^\s<>\x00-\x20\x7f]+\Z")
_OWN_TROUBLE: Final = frozenset({"4.3.0", "4.3.1", "4.3.5", "4.4.1", "4.4.3"})
"""Enhanced codes of a server in trouble (no database, no space, misconfigured, no DNS): greylisting has others."""
_TROUBLE: Final = frozenset({421, 452})
_NOT_UNDERSTOOD: Final = frozenset({500, 502, 503, 504})


class SmtpSession:
    """One SMTP conversation, from the greeting to QUIT. All that fails raises ProbeFailure; in which phase the time
    goes is kept in the visit."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.visit = conversation.visit
        self.capabilities: dict[str, str] = {}
        """EHLO keywords in capitals, with what stands behind them."""
        self._parser = ReplyParser()

    async def reply(self) -> Reply:
        """The next reply, whatever it says. Raises ProbeFailure (PROTOCOL)."""
        while True:
            try:
                replies = self._parser.feed(await self.conversation.line() + b"\r\n")
            except ReplyError as error:
                raise self.visit.failure(Outcome.PROTOCOL, str(error)) from None
            if replies:
                return replies[0]

    async def command(self, line: str, at: str) -> Reply:
        """Send a command, give its reply. at: its name, for a failure's text; the line itself may hold a secret."""
        self.visit.at = at
        self.conversation.send(line.encode("utf-8") + b"\r\n")
        return await self.reply()

    def refusal(self, reply: Reply) -> ProbeFailure:
        """The failure that a reply means by its class."""
        if 400 <= reply.code < 500:
            return self.visit.failure(Outcome.TRANSIENT, str(reply))
        if reply.code >= 500:
            return self.visit.failure(Outcome.PERMANENT, str(reply))
        return self.visit.failure(Outcome.PROTOCOL, str(reply))

    async def greeting(self) -> Reply:
        """The server's first word (phase "banner"), 220."""
        self.visit.phase("banner")
        self.visit.at = "greeting"
        reply = await self.reply()
        if reply.code != 220:
            raise self.refusal(reply)
        return reply

    async def hello(self) -> None:
        """EHLO; the capabilities are those of this answer alone."""
        self.visit.phase("command")
        reply = await self.command(f"EHLO {self.visit.context.hello}", "EHLO")
        if reply.code != 250:
            raise self.refusal(reply)
        words = (line.partition(" ") for line in reply.lines[1:])
        self.capabilities = {name.upper(): rest for name, _, rest in words}

    async def start_tls(self, name: str) -> None:
        """`upgrade`, and EHLO again."""
        await self.upgrade(name)
        await self.hello()

    async def upgrade(self, name: str) -> None:
        """STARTTLS and the handshake. Raises ProbeFailure (TLS) where it is not offered or not given."""
        self.visit.at = "STARTTLS"
        if "STARTTLS" not in self.capabilities:
            raise self.visit.failure(Outcome.TLS, "STARTTLS is not offered")
        reply = await self.command("STARTTLS", "STARTTLS")
        if reply.code != 220:
            outcome = Outcome.TLS if reply.code >= 400 else Outcome.PROTOCOL
            raise self.visit.failure(outcome, str(reply))
        await self.conversation.start_tls(name)

    async def login(self, secret: Secret) -> None:
        """AUTH PLAIN (phase "auth"). Raises ProbeFailure: LOGIN where the server refuses the credentials."""
        self.visit.phase("auth")
        self.visit.at = "AUTH"
        if "PLAIN" not in self.capabilities.get("AUTH", "").upper().split():
            raise self.visit.failure(Outcome.CONTENT, "AUTH PLAIN is not offered")
        token = base64.b64encode(f"\0{secret.login}\0{secret.password}".encode()).decode()
        reply = await self.command(f"AUTH PLAIN {token}", "AUTH")
        if reply.code >= 500 and reply.code not in _NOT_UNDERSTOOD:
            raise self.visit.failure(Outcome.LOGIN, str(reply))
        if reply.code != 235:
            raise self.refusal(reply)

    async def mail(self, sender: str, parameters: str = "") -> Reply:
        """MAIL FROM (phase "command"); sender "" is the null reverse-path. Raises ProbeFailure where it is refused."""
        self.visit.phase("command")
        reply = await self.command(f"MAIL FROM:<{sender}>{parameters and ' ' + parameters}", "MAIL")
        if reply.code != 250:
            raise self.refusal(reply)
        return reply

    async def rcpt(self, recipient: str) -> Reply:
        """RCPT TO; the reply is the caller's to judge."""
        return await self.command(f"RCPT TO:<{recipient}>", "RCPT")

    async def data(self, message: bytes) -> Reply:
        """DATA with this message (lines ended by CRLF), dots stuffed here; the reply to the final dot, 250. Raises
        ProbeFailure where it is refused."""
        reply = await self.command("DATA", "DATA")
        if reply.code != 354:
            raise self.refusal(reply)
        self.visit.at = "end of DATA"
        stuffed = (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:]
        self.conversation.send(stuffed + (b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n"))
        reply = await self.reply()
        if reply.code != 250:
            raise self.refusal(reply)
        return reply

    async def reset(self) -> None:
        """RSET."""
        reply = await self.command("RSET", "RSET")
        if reply.code != 250:
            raise self.refusal(reply)

    async def quit(self) -> None:
        """QUIT. A server that hangs up instead of saying 221 has still done all it was asked for."""
        self.visit.phase("command")
        try:
            await self.command("QUIT", "QUIT")
        except ProbeFailure as failure:
            if failure.outcome is not Outcome.LOST:
                raise


def greylisted(reply: Reply) -> bool:
    """Whether this answer to RCPT is one that a working server gives a stranger: 4xx, but neither its going down (421)
    nor its own trouble (452, x.3.0, x.3.1, x.3.5: Postfix with its tables gone answers "451 4.3.0")."""
    return reply.transient and reply.code not in _TROUBLE and reply.enhanced not in _OWN_TROUBLE


async def probe_mx(check: CheckSpec, context: ProbeContext) -> Observation:
    """As another mail server would: port 25, up to a recipient, without a message.

    Options: recipient (an own mailbox), starttls ("no": go without), tls_name, family, resolver.
    """
    return await observe(check, context, _mx)


async def _mx(visit: Visit) -> Outcome:
    target = target_of(visit.check)
    recipient = visit.check.option("recipient")
    if not _ADDRESS.match(recipient):
        raise visit.failure(Outcome.MONITOR_ERROR, "option recipient is no address")
    async with await connect(visit, target) as conversation:
        session = SmtpSession(conversation)
        await session.greeting()
        await session.hello()
        if visit.check.option("starttls") != "no":
            await session.start_tls(target.tls_name)
        await session.mail("")
        reply = await session.rcpt(recipient)
        if reply.code not in (250, 251):
            if not greylisted(reply):
                raise session.refusal(reply)
            visit.note = f"{reply} at RCPT"
        await session.reset()
        await session.quit()
    return Outcome.OK_GREYLISTED if visit.note else Outcome.OK


async def probe_submission(check: CheckSpec, context: ProbeContext) -> Observation:
    """As a customer's mail client: port 587, STARTTLS, login. Options: secret, tls_name, family, resolver."""
    return await observe(check, context, _submission)


async def probe_smtps(check: CheckSpec, context: ProbeContext) -> Observation:
    """As `submission`, with TLS from the first octet: port 465."""
    return await observe(check, context, _smtps)


async def _submission(visit: Visit) -> Outcome:
    secret = visit.secret()
    target = target_of(visit.check)
    async with await connect(visit, target) as conversation:
        session = SmtpSession(conversation)
        await session.greeting()
        await session.hello()
        await session.start_tls(target.tls_name)
        await session.login(secret)
        await session.quit()
    return Outcome.OK


async def _smtps(visit: Visit) -> Outcome:
    secret = visit.secret()
    target = target_of(visit.check)
    async with await connect(visit, target) as conversation:
        session = SmtpSession(conversation)
        await conversation.start_tls(target.tls_name)
        await session.greeting()
        await session.hello()
        await session.login(secret)
        await session.quit()
    return Outcome.OK
