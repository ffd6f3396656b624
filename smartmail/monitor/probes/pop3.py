"""POP3 as a client (RFC 1939, 2449, 5034), and the probe of port 995."""

import base64
from typing import Final

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckSpec
from smartmail.monitor.probes.context import ProbeContext, Secret
from smartmail.monitor.probes.conversation import Conversation, connect, target_of
from smartmail.monitor.probes.observation import Observation, ProbeFailure, Visit, observe

_PASSING: Final = (b"[SYS/TEMP", b"[IN-USE", b"[LOGIN-DELAY")
"""Response codes (RFC 2449 8, RFC 3206) of an -ERR that is not about what was asked, but about the server now."""


class Pop3Session:
    """One POP3 conversation, from the greeting to QUIT. All that fails raises ProbeFailure."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.visit = conversation.visit

    async def greeting(self) -> None:
        """The server's first word (phase "banner")."""
        self.visit.phase("banner")
        self.visit.at = "greeting"
        await self._answer(Outcome.PERMANENT)

    async def command(self, line: str, at: str, error: Outcome = Outcome.PERMANENT) -> bytes:
        """Send a command, give what stands behind +OK. at: its name; the line itself may hold a secret.

        Raises ProbeFailure: `error` for -ERR, TRANSIENT for one that speaks of a passing state.
        """
        self.visit.at = at
        self.conversation.send(line.encode("utf-8") + b"\r\n")
        return await self._answer(error)

    async def _answer(self, error: Outcome) -> bytes:
        line = await self.conversation.line()
        word, _, text = line.partition(b" ")
        if word == b"+OK":
            return text
        if word != b"-ERR":
            raise self.visit.failure(Outcome.PROTOCOL, line)
        raise self.visit.failure(Outcome.TRANSIENT if text.upper().startswith(_PASSING) else error, line)

    async def start_tls(self, name: str) -> None:
        """STLS (RFC 2595) and the handshake. Raises ProbeFailure (TLS) where it is refused."""
        self.visit.phase("command")
        await self.command("STLS", "STLS", Outcome.TLS)
        await self.conversation.start_tls(name)

    async def login(self, secret: Secret, *, plain: bool) -> None:
        """USER and PASS, or AUTH PLAIN (phase "auth"). Raises ProbeFailure: LOGIN where it is refused."""
        self.visit.phase("auth")
        if plain:
            token = base64.b64encode(f"\0{secret.login}\0{secret.password}".encode()).decode()
            await self.command(f"AUTH PLAIN {token}", "AUTH", Outcome.LOGIN)
        else:
            await self.command(f"USER {secret.login}", "USER", Outcome.LOGIN)
            await self.command(f"PASS {secret.password}", "PASS", Outcome.LOGIN)

    async def messages(self) -> int:
        """STAT: how many messages there are."""
        self.visit.phase("command")
        text = await self.command("STAT", "STAT")
        count = text.split(b" ")[0]
        if not (count.isdigit() and len(count) < 10):
            raise self.visit.failure(Outcome.PROTOCOL, b"+OK " + text)
        return int(count)

    async def quit(self) -> None:
        """QUIT. A server that hangs up without the last word has still done all it was asked for."""
        try:
            await self.command("QUIT", "QUIT")
        except ProbeFailure as failure:
            if failure.outcome is not Outcome.LOST:
                raise


async def probe_pop3s(check: CheckSpec, context: ProbeContext) -> Observation:
    """As a customer's mail client: port 995, login, STAT.

    Options: secret, auth ("plain": AUTH PLAIN instead of USER and PASS), tls_name, family, resolver.
    """
    return await observe(check, context, _pop3s)


async def _pop3s(visit: Visit) -> Outcome:
    secret = visit.secret()
    target = target_of(visit.check)
    async with await connect(visit, target) as conversation:
        session = Pop3Session(conversation)
        await conversation.start_tls(target.tls_name)
        await session.greeting()
        await session.login(secret, plain=visit.check.option("auth") == "plain")
        visit.facts["messages"] = await session.messages()
        await session.quit()
    return Outcome.OK
