"""ManageSieve as a client (RFC 5804), and the probe of port 4190."""

import base64
import re
from typing import Final

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckSpec
from smartmail.monitor.probes.context import ProbeContext, Secret
from smartmail.monitor.probes.conversation import Conversation, LogicalLine, connect, target_of
from smartmail.monitor.probes.observation import Observation, ProbeFailure, Visit, observe

MAX_LINES: Final = 200
"""Lines of one answer: a server has about ten capabilities."""

_END: Final = re.compile(rb"(OK|NO|BYE)(?: |\Z)", re.I)
_PASSING: Final = re.compile(rb"\((?:TRYLATER|REFERRAL)", re.I)
_CAPABILITY: Final = re.compile(rb'"([^"\\]+)"(?: "((?:[^"\\]|\\.)*)")?\Z')


class SieveSession:
    """One ManageSieve conversation, from the greeting to LOGOUT. All that fails raises ProbeFailure."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.visit = conversation.visit
        self.capabilities: dict[str, str] = {}
        """Names in capitals, with their values."""

    async def greeting(self) -> None:
        """The capabilities the server begins with (phase "banner"), OK behind them."""
        self.visit.phase("banner")
        self.visit.at = "greeting"
        self._learn(await self._answer(Outcome.PERMANENT))

    async def command(self, line: str, at: str, no: Outcome = Outcome.PERMANENT) -> list[LogicalLine]:
        """Send a command, give the lines before OK. at: its name; the line itself may hold a secret.

        Raises ProbeFailure: `no` for NO, TRANSIENT for BYE and for a NO that says "try later".
        """
        self.visit.at = at
        self.conversation.send(line.encode("utf-8") + b"\r\n")
        return await self._answer(no)

    async def _answer(self, no: Outcome) -> list[LogicalLine]:
        lines: list[LogicalLine] = []
        while True:
            line = await self.conversation.logical_line()
            found = _END.match(line.text)
            if found is None:
                lines.append(line)
                if len(lines) > MAX_LINES:
                    raise self.visit.failure(Outcome.PROTOCOL, "endless answer")
                if not line.text.startswith((b'"', b"{")):
                    raise self.visit.failure(Outcome.PROTOCOL, line.text)
                continue
            word = found[1].upper()
            if word == b"OK":
                return lines
            said = line.text + b" " + b" ".join(line.literals)
            passing = word == b"BYE" or _PASSING.search(line.text)
            raise self.visit.failure(Outcome.TRANSIENT if passing else no, said)

    def _learn(self, lines: list[LogicalLine]) -> None:
        self.capabilities = {}
        for line in lines:
            if found := _CAPABILITY.match(line.text):
                self.capabilities[found[1].decode("utf-8", "replace").upper()] = (found[2] or b"").decode(
                    "utf-8", "replace"
                )
        if "SIEVE" not in self.capabilities:
            raise self.visit.failure(Outcome.PROTOCOL, "no capability SIEVE")

    async def start_tls(self, name: str) -> None:
        """`upgrade`, and the capabilities that follow it."""
        await self.upgrade(name)
        self.visit.phase("command")
        self.visit.at = "capabilities"
        self._learn(await self._answer(Outcome.PERMANENT))

    async def upgrade(self, name: str) -> None:
        """STARTTLS and the handshake. Raises ProbeFailure (TLS) where it is not offered or not given."""
        self.visit.phase("command")
        self.visit.at = "STARTTLS"
        if "STARTTLS" not in self.capabilities:
            raise self.visit.failure(Outcome.TLS, "STARTTLS is not offered")
        await self.command("STARTTLS", "STARTTLS", Outcome.TLS)
        await self.conversation.start_tls(name)

    async def login(self, secret: Secret) -> None:
        """AUTHENTICATE PLAIN (phase "auth"). Raises ProbeFailure: LOGIN for NO."""
        self.visit.phase("auth")
        self.visit.at = "AUTHENTICATE"
        if "PLAIN" not in self.capabilities.get("SASL", "").upper().split():
            raise self.visit.failure(Outcome.CONTENT, "AUTHENTICATE PLAIN is not offered")
        token = base64.b64encode(f"\0{secret.login}\0{secret.password}".encode()).decode()
        await self.command(f'AUTHENTICATE "PLAIN" "{token}"', "AUTHENTICATE", Outcome.LOGIN)

    async def logout(self) -> None:
        """LOGOUT. A server that hangs up without the last word has still done all it was asked for."""
        self.visit.phase("command")
        try:
            await self.command("LOGOUT", "LOGOUT")
        except ProbeFailure as failure:
            if failure.outcome is not Outcome.LOST:
                raise


async def probe_sieve(check: CheckSpec, context: ProbeContext) -> Observation:
    """As a customer's mail client that edits filters: port 4190, STARTTLS, login.

    Options: secret, tls_name, family, resolver.
    """
    return await observe(check, context, _sieve)


async def _sieve(visit: Visit) -> Outcome:
    secret = visit.secret()
    target = target_of(visit.check)
    async with await connect(visit, target) as conversation:
        session = SieveSession(conversation)
        await session.greeting()
        await session.start_tls(target.tls_name)
        await session.login(secret)
        await session.logout()
    return Outcome.OK
