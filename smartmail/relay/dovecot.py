"""The Dovecot backend: one connection to its auth socket, all exchanges multiplexed on it by their ids.

Dovecot authentication protocol 1.2 (Dovecot 2.3) and 1.3 (2.4); its wire form is `core.dovecot`. PLAIN and
LOGIN are understood here, so that they are cached and take fair turns as local ones do; any other mechanism
that Dovecot offers is passed through, challenge by challenge.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

from smartmail.core.dovecot import Cont, DovecotError, Fail, Line, Mech, Ok
from smartmail.core.fairness import SECOND_NS, Bounds, Penalty, client_network
from smartmail.core.sasl import MECHANISMS, Challenge, Credentials, plain_message
from smartmail.relay.auth import (
    AuthResult,
    Exchange,
    FairChecks,
    MechanismNotOfferedError,
    Outcome,
    PasswordExchange,
    PeerInfo,
    VerifiedLogins,
    normal_login,
)
from smartmail.relay.dovecot_link import Link, LinkLostError

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
"""Seconds between attempts to connect: the first after a loss, and the most they grow to."""

_SILENT = "Dovecot does not answer"


@dataclass(frozen=True, slots=True)
class DovecotSettings:
    """cache_seconds, max_waiting, penalty: as for local passwords. running: password checks asked of Dovecot
    at once. request_seconds: for one answer; Dovecot itself holds failures back for up to 17 s.
    connect_seconds: for connecting and its handshake, and what a login waits for a connection that was just
    lost."""

    cache_seconds: int = 60
    max_waiting: int = 200
    running: int = 32
    request_seconds: float = 60.0
    connect_seconds: float = 5.0
    link_seconds: float = 300.0
    allow_anonymous: bool = False
    penalty: Penalty = field(default_factory=Penalty)


class RelayedExchange:
    """An Exchange of any mechanism: each response goes to Dovecot, each challenge to the client."""

    __slots__ = ("_backend", "_given_up", "_initial", "_link", "_mechanism", "_number", "_peer", "_place", "_response")

    def __init__(self, backend: "DovecotBackend", mechanism: str, initial: bytes | None, peer: PeerInfo) -> None:
        self._backend = backend
        self._mechanism = mechanism
        self._initial = initial
        self._peer = peer
        self._response: bytes | None = None
        self._link: Link | None = None
        self._number = 0
        self._place = ""
        self._given_up = False

    def take_place(self, network: str) -> None:
        """Count this exchange for its network until its end. The caller knows that there is room."""
        self._place = network
        self._backend.places[network] += 1

    def answer(self, response: bytes | None) -> None:
        """See Exchange.answer: Dovecot has to be asked each time."""
        if response is None:
            response, self._initial = self._initial, None
        self._response = response

    async def result(self) -> Challenge | AuthResult:
        """See Exchange.result."""
        answer: Challenge | AuthResult
        try:
            async with asyncio.timeout(self._backend.settings.request_seconds):
                answer = _meaning(await self._converse())
        except LinkLostError as lost:
            answer = AuthResult(Outcome.TEMPORARY, why=str(lost))
        except DovecotError as error:
            # Only what a client made up can be too long for Dovecot or hold what its lines cannot.
            self.cancel()
            answer = AuthResult(Outcome.BAD_CREDENTIALS, why=f"not for Dovecot: {error}")
        except TimeoutError:
            self.cancel()
            answer = AuthResult(Outcome.TEMPORARY, why=_SILENT)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if isinstance(answer, AuthResult):
            self._end()
        return answer

    async def step(self, response: bytes | None) -> Challenge | AuthResult:
        """See Exchange.step."""
        self.answer(response)
        return await self.result()

    def cancel(self) -> None:
        """See Exchange.cancel."""
        self._given_up = True
        if self._link is not None:
            self._link.drop(self._number)
        self._end()

    async def _converse(self) -> Line:
        if self._link is None:
            link = await self._backend.link()
            if self._given_up:
                raise asyncio.CancelledError
            self._number = link.ask(self._mechanism, _parameters(self._peer), self._response)
            self._link = link
        else:
            self._link.go_on(self._number, self._response or b"")
        return await self._link.line(self._number)

    def _end(self) -> None:
        self._link = None
        if self._place:
            self._backend.leave(self._place)
            self._place = ""


def _parameters(peer: PeerInfo) -> list[tuple[str, str]]:
    """What Dovecot is told of the client: for its policies, its own penalties and its log."""
    parameters = [("service", "smtp"), ("nologin", "")]
    if peer.secured:
        parameters.append(("secured", ""))
    values = (("session", peer.session), ("lip", peer.local_address), ("rip", peer.address))
    parameters += [(name, value) for name, value in values if value]
    ports = (("lport", peer.local_port), ("rport", peer.port))
    return parameters + [(name, str(value)) for name, value in ports if value]


def _meaning(line: Line) -> Challenge | AuthResult:
    match line:
        case Cont():
            return Challenge(line.data)
        case Ok() if line.user:
            return AuthResult(Outcome.OK, normal_login(line.user))
        case Fail():
            # Whatever the reason (disabled, expired, ...), a client learns no more than from a wrong
            # password.
            outcome = Outcome.TEMPORARY if line.temporary else Outcome.BAD_CREDENTIALS
            return AuthResult(outcome, why=f"Dovecot: {line.code or line.reason or 'refused'}")
        case _:
            return AuthResult(Outcome.TEMPORARY, why="Dovecot names no user")


class _Refused:
    """The Exchange of a network that has too many open."""

    def answer(self, response: bytes | None) -> AuthResult:
        """See Exchange.answer."""
        return AuthResult(Outcome.TEMPORARY, why="too many logins waiting")

    async def result(self) -> AuthResult:
        """See Exchange.result."""
        return self.answer(None)

    async def step(self, response: bytes | None) -> AuthResult:
        """See Exchange.step."""
        return self.answer(None)

    def cancel(self) -> None:
        """See Exchange.cancel."""


class DovecotBackend:
    """Whoever Dovecot lets in. Connects when first needed, or by `open`; reconnects by itself."""

    def __init__(
        self,
        socket: str,
        settings: DovecotSettings | None = None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        on_change: Callable[[bool, str], None] | None = None,
    ) -> None:
        """socket: path of the UNIX socket. on_change(connected, why): the connection came or went, for the
        log."""
        self.settings = settings or DovecotSettings()
        self.places: Counter[str] = Counter()
        waiting = self.settings.max_waiting
        bounds = Bounds(self.settings.running, waiting, waiting_per_network=max(1, waiting // 2))
        self._socket = socket
        self._clock = clock
        self._on_change = on_change
        self._cache = VerifiedLogins(self.settings.cache_seconds * SECOND_NS)
        self._checks = FairChecks(self._check, bounds, self.settings.penalty, clock)
        self._forgotten = 0
        self._keeper: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._why_down = ""
        # Until Dovecot has told, what every Dovecot has.
        self._offered: dict[str, bool] = dict.fromkeys(MECHANISMS, True)
        """Name -> whether it sends the password as it is."""

    @property
    def connected(self) -> bool:
        """True while Dovecot can be asked."""
        return self._link is not None

    @property
    def waiting(self) -> int:
        """Password checks that wait for their turn or for the end of their network's pause."""
        return self._checks.waiting

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """See Backend.mechanisms."""
        return self.offered(secured=True)

    def offered(self, *, secured: bool) -> tuple[str, ...]:
        """See Backend.offered. In Dovecot's order; those that send the password as it is only under TLS."""
        return tuple(name for name, plaintext in self._offered.items() if secured or not plaintext)

    def open(self) -> None:
        """Begin to connect. Harmless when it has begun."""
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep_connected())

    def start(self, mechanism: str, initial: bytes | None, peer: PeerInfo) -> Exchange:
        """See Backend.start."""
        name = mechanism.upper()
        if name not in self.offered(secured=peer.secured):
            raise MechanismNotOfferedError(mechanism)
        if name in MECHANISMS and "PLAIN" in self._offered:
            return PasswordExchange(self, name, initial, peer)
        network = client_network(peer.address)
        exchange = RelayedExchange(self, name, initial, peer)
        most = self.settings.max_waiting
        if self.places.total() >= most or self.places[network] >= max(1, most // 2):
            return _Refused()
        exchange.take_place(network)
        return exchange

    def cached(self, login: str, password: str) -> str | None:
        """See Backend.cached."""
        verified = self._cache.get(self._cache.key(login, password), self._clock())
        return verified[0] if verified else None

    def forget(self, logins: Collection[str]) -> None:
        """See Backend.forget."""
        self._forgotten += 1
        self._cache.forget(logins)

    def verify(self, credentials: Credentials, peer: PeerInfo) -> "asyncio.Future[AuthResult]":
        """See PasswordBackend.verify."""
        return self._checks.submit(credentials, peer)

    def leave(self, network: str) -> None:
        """An exchange of this network is over."""
        self.places[network] -= 1
        if not self.places[network]:
            del self.places[network]

    def close(self) -> None:
        """See Backend.close."""
        self._checks.close()
        if self._keeper is not None:
            self._keeper.cancel()
        if self._link is not None:
            self._link.close("shutting down")

    async def link(self) -> Link:
        """The connection; one just lost is waited for. Raises LinkLostError when Dovecot is known to be
        away."""
        self.open()
        if self._link is None:
            if self._why_down:
                raise LinkLostError(self._why_down)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.connect_seconds):
                    await self._up.wait()
        if self._link is None:
            raise LinkLostError(self._why_down or "Dovecot is not connected")
        return self._link

    async def _check(self, credentials: Credentials, peer: PeerInfo) -> AuthResult:
        forgotten = self._forgotten
        exchange = RelayedExchange(self, "PLAIN", plain_message(credentials), peer)
        answer = await exchange.step(None)
        if isinstance(answer, Challenge):
            exchange.cancel()
            return AuthResult(Outcome.TEMPORARY, why="Dovecot asks back in PLAIN")
        # What changed while Dovecot was thinking may be what it was thinking about.
        if answer.outcome is Outcome.OK and forgotten == self._forgotten:
            key = self._cache.key(credentials.login, credentials.password)
            self._cache.put(key, answer.login, "", self._clock())
        return answer

    async def _keep_connected(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            link = Link(self._lost)
            try:
                await self._connect(link)
            except (OSError, TimeoutError) as error:
                self._failed(str(error) or _SILENT)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            self._adopt(link)
            # A process of Dovecot that was replaced by a reload serves its old clients for ever, with the old
            # configuration: so every connection is replaced in time.
            await asyncio.wait([link.gone], timeout=self.settings.link_seconds)
            if link.gone.done():
                await asyncio.sleep(pause)

    async def _connect(self, link: Link) -> None:
        """Raises OSError, TimeoutError."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.settings.connect_seconds):
                await loop.create_unix_connection(lambda: link, self._socket)
                await link.ready
            if link.gone.done():
                raise LinkLostError(link.gone.result())
        except BaseException:
            link.close("the connection is given up")
            raise

    def _adopt(self, link: Link) -> None:
        former, self._link, self._why_down = self._link, link, ""
        self._offered = {name: mech.plaintext for name, mech in link.mechanisms.items() if self._may_offer(mech)}
        if former is not None:
            former.retire()
            return
        self._up.set()
        self._changed(connected=True, why="")

    def _lost(self, link: Link, why: str) -> None:
        if self._link is link:
            self._link = None
            self._up.clear()
            self._changed(connected=False, why=why)

    def _failed(self, why: str) -> None:
        if self._link is not None:
            return
        if not self._why_down:
            self._changed(connected=False, why=why)
        self._why_down = why

    def _may_offer(self, mech: Mech) -> bool:
        """EXTERNAL would trust a client certificate that was never asked for; -PLUS needs channel binding;
        private ones are between Dovecot's own processes."""
        if mech.name == "EXTERNAL" or mech.name.endswith("-PLUS") or mech.private:
            return False
        return self.settings.allow_anonymous or not (mech.anonymous or mech.name == "ANONYMOUS")

    def _changed(self, *, connected: bool, why: str) -> None:
        if self._on_change is not None:
            self._on_change(connected, why)
