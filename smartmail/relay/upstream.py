"""The pool of connections to the mail server behind us.

A connection goes back to the pool only clean: after a 2xx to the dot, or a 2xx to RSET.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from smartmail.core.reply import Reply
from smartmail.core.transfer import Loss
from smartmail.core.xclient import Identity, hello_name, xclient_command, xforward_command
from smartmail.relay.connection import Connection, Tick, UnsuitableError, UpstreamError
from smartmail.relay.outbox import Outbox
from smartmail.relay.route import Capabilities, Identify, Route, read_capabilities

_AUTO, _XCLIENT = Identify.AUTO, Identify.XCLIENT
_FORWARDS: Final = (Identify.AUTO, Identify.XFORWARD)


class Pool:
    """Connections to one route. Newest idle one first, so that the rest can age out."""

    def __init__(self, route: Route, loop: asyncio.AbstractEventLoop) -> None:
        self.route = route
        self.name = route.name
        self.capabilities = Capabilities({})
        """Of the newest connection; what EHLO on our side may promise."""
        self.reachable: bool | None = None
        self.opened = 0
        self.reused = 0
        self.failed = 0
        self.on_refused_identity: Callable[[str], None] | None = None
        """Told once, with its reply, when the upstream offers XCLIENT and then does not take it."""
        self.on_change: Callable[[bool, str], None] | None = None
        """Told when the upstream turns reachable or not, and why."""
        self._loop = loop
        self._tick = Tick(loop.time())
        self._outbox = Outbox(loop)
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        """Those being opened too."""
        self._promised = 0
        """Places that have been given to who waited for one, and are not taken yet."""
        self._refuses_xclient = False
        """It offered XCLIENT and did not honour it: XFORWARD from now on, unless only XCLIENT will do."""
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()

    @property
    def size(self) -> tuple[int, int]:
        """(connections, idle ones)."""
        return len(self._all), len(self._idle)

    @property
    def carries_mail(self) -> bool:
        """Is a mail on its way over one of the connections? After its dot it may outlive its client."""
        return any(connection.on_blocked is not None for connection in self._all)

    def take_idle(self) -> Connection | None:
        """An idle connection that is young enough, at once; None: `connect` must make one."""
        now = self._tick.now
        while self._idle:
            connection = self._idle.pop()
            if connection.lost:
                continue
            if not connection.clean or self._worn(connection, now):
                connection.farewell()
                continue
            connection.uses += 1
            self.reused += 1
            return connection
        return None

    async def connect(self) -> Connection:
        """Open a connection and say EHLO; where no more are allowed, take one that another mail is done with. Raises
        UpstreamError."""
        if not self._has_room and (given := await self._turn()) is not None:
            return given
        try:
            connection = await self._open()
        except (OSError, UpstreamError, TimeoutError) as error:
            self.failed += 1
            self._reachable(is_so=False, why=str(error) or type(error).__name__)
            if isinstance(error, UpstreamError):
                raise
            raise UpstreamError(str(error) or type(error).__name__) from error
        self.opened += 1
        connection.uses = 1
        self._reachable(is_so=True, why="")
        return connection

    def give_back(self, connection: Connection) -> None:
        """Return a clean connection; call only after 2xx to the dot or to RSET."""
        connection.on_blocked = connection.on_fault = None
        if connection.lost:
            return
        connection.idle_since = now = self._tick.now
        if not connection.clean or connection.uses >= self.route.max_uses or self._worn(connection, now):
            connection.farewell()
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                connection.uses += 1
                self.reused += 1
                waiter.set_result(connection)
                return
        if len(self._idle) >= self.route.max_idle:
            connection.farewell()
            return
        self._idle.append(connection)

    def reset_and_give_back(self, connection: Connection) -> None:
        """RSET, and back to the pool if the answer is 2xx."""
        connection.on_blocked = connection.on_fault = None

        def answered(result: Reply | Loss) -> None:
            if isinstance(result, Reply) and result.positive:
                self.give_back(connection)
            else:
                connection.farewell()

        connection.send(b"RSET\r\n", answered, self.route.timeouts.mail)

    def sweep(self, now: float) -> None:
        """Once a second: late replies, and idle connections past their age. now: loop time."""
        self._tick.now = now
        for connection in tuple(self._all):
            connection.overdue(now)
        for connection in [idle for idle in self._idle if self._worn(idle, now)]:
            self._idle.remove(connection)
            connection.farewell()

    def close(self) -> None:
        """Say goodbye on idle connections and cut the rest."""
        for connection in tuple(self._idle):
            connection.farewell()
        self._idle.clear()
        for connection in tuple(self._all):
            connection.abort()
        self._outbox.flush()

    def take_over(self, former: "Pool") -> None:
        """This pool replaces `former`: its sums go on, its idle connections end now, the others with their mail."""
        self.opened, self.reused, self.failed = former.opened, former.reused, former.failed
        former._retire()

    def _retire(self) -> None:
        self.route = replace(self.route, max_idle=0)
        for connection in tuple(self._idle):
            connection.farewell()
        self._idle.clear()

    async def introduce(self, connection: Connection | None, identity: Identity) -> Connection:
        """Make a connection know the client, or open one that does. Raises UpstreamError.

        An upstream that offers XCLIENT and then refuses it is told by XFORWARD, or not at all, unless the route
        says that only XCLIENT will do.
        """
        while True:
            if connection is None:
                connection = await self.connect()
            reused = connection.uses > 1
            try:
                if self.wants_xclient(connection, identity):
                    await self._say_xclient(connection, identity)
                return connection
            except UnsuitableError:
                pass
            except UpstreamError as error:
                # One that had been used may have come to its end; what a new one says is for this client.
                if not reused or (error.reply is not None and error.reply.code != 421):
                    raise
            connection = None

    def _require_identity(self, connection: Connection) -> None:
        """A route that names one way to pass the client's identity on must not pass mail without."""
        asked = self.route.identify
        if asked in (Identify.XCLIENT, Identify.XFORWARD) and asked.value.upper() not in connection.capabilities:
            raise UpstreamError(f"upstream.identity is {asked.value}, but the upstream does not offer it")

    async def _say_xclient(self, connection: Connection, identity: Identity) -> None:
        """XCLIENT starts the session anew, with a new EHLO (XCLIENT_README)."""
        if not self._uses_xclient(connection):
            connection.farewell()
            raise UnsuitableError("knows another client, and cannot be told of this one")
        offered = connection.capabilities.attributes("XCLIENT")
        if not offered:
            connection.farewell()
            raise UpstreamError("XCLIENT is required but not offered")
        for command in xclient_command(identity, offered).splitlines(keepends=True):
            answer = await connection.ask(command, self.route.timeouts.mail)
            if answer.code != 220:
                connection.farewell()
                # A 4xx passes; anything else will be the same with the next client.
                if not answer.transient and self.route.identify is Identify.AUTO:
                    if not self._refuses_xclient and self.on_refused_identity is not None:
                        self.on_refused_identity(str(answer))
                    self._refuses_xclient = True
                    raise UnsuitableError(f"XCLIENT answered with {answer}", answer)
                raise UpstreamError(f"XCLIENT answered with {answer}", answer)
        connection.identity = identity
        # This EHLO is what the upstream takes for the client's own, and puts into its Received line.
        await self._hello(connection, hello_name(identity) or self.route.hostname)

    def wants_xclient(self, connection: Connection, identity: Identity) -> bool:
        """Must `introduce` be called before this client's mail? Always on a connection that knows another one."""
        if connection.identity is None:
            return self._uses_xclient(connection)
        return connection.identity != identity

    def _uses_xclient(self, connection: Connection) -> bool:
        if self.route.identify is _AUTO:
            return not self._refuses_xclient and bool(connection.capabilities.attributes("XCLIENT"))
        return self.route.identify is _XCLIENT

    def forward_command(self, connection: Connection, identity: Identity) -> bytes:
        """The XFORWARD command for this client; b"" where it is not used."""
        if self.route.identify not in _FORWARDS:
            return b""
        if "XFORWARD" not in connection.capabilities or connection.identity is not None:
            return b""
        return xforward_command(identity, connection.capabilities.attributes("XFORWARD"))

    # inside

    def _worn(self, connection: Connection, now: float) -> bool:
        route = self.route
        return now - connection.born > route.max_age_seconds or now - connection.idle_since > route.max_idle_seconds

    @property
    def _has_room(self) -> bool:
        return len(self._all) + self._promised < self.route.max_connections

    async def _turn(self) -> Connection | None:
        """Wait for a connection that is given back, or (None) for the place of one that has ended."""
        if self._idle:
            self._idle[0].farewell()
            return None
        waiter: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiters.append(waiter)
        late = self._loop.call_later(self.route.timeouts.connect, _no_room, waiter)
        try:
            given = await waiter
        finally:
            late.cancel()
        if given is None:
            self._promised -= 1
        return given

    def _wake(self) -> None:
        """Who waits first gets the place that is free."""
        while self._waiters and self._has_room:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._promised += 1
                waiter.set_result(None)

    async def _open(self) -> Connection:
        route = self.route
        connection = Connection(self._loop, self._tick, self._outbox)
        connection.on_lost = self._forget
        # Before it is there: it may be lost again before we get to run.
        self._all.add(connection)
        try:
            async with asyncio.timeout(route.timeouts.connect):
                if route.host.startswith("unix:"):
                    await self._loop.create_unix_connection(lambda: connection, route.host[5:])
                else:
                    await self._loop.create_connection(lambda: connection, route.host, route.port)
            await self._shake_hands(connection)
        except BaseException:
            connection.abort()
            raise
        if self.capabilities != connection.capabilities:
            self.capabilities = connection.capabilities
        return connection

    async def _shake_hands(self, connection: Connection) -> None:
        route = self.route
        greeting = await connection.hear_greeting(route.timeouts.greeting)
        if greeting.code != 220:
            connection.farewell()
            raise UpstreamError(f"greeted with {greeting}", greeting)
        await self._hello(connection)
        if route.tls is not None:
            await self._start_tls(connection, route.tls)
        self._require_identity(connection)

    async def _hello(self, connection: Connection, name: str = "") -> None:
        verb = "LHLO" if self.route.lmtp else "EHLO"
        command = f"{verb} {name or self.route.hostname}\r\n"
        answer = await connection.ask(command.encode(), self.route.timeouts.mail)
        if not answer.positive:
            connection.farewell()
            raise UpstreamError(f"{verb} answered with {answer}", answer)
        connection.capabilities = read_capabilities(answer)

    async def _start_tls(self, connection: Connection, context: ssl.SSLContext) -> None:
        route = self.route
        if "STARTTLS" not in connection.capabilities:
            if route.tls_required:
                connection.farewell()
                raise UpstreamError("STARTTLS is required but not offered")
            return
        answer = await connection.ask(b"STARTTLS\r\n", route.timeouts.mail)
        if not answer.positive or not connection.clean or connection.transport is None:
            connection.abort()
            raise UpstreamError(f"STARTTLS answered with {answer}", answer)
        transport = await self._loop.start_tls(
            connection.transport,
            connection,
            context,
            server_hostname=route.host if route.tls_required and not route.host.startswith("unix:") else None,
            ssl_handshake_timeout=route.timeouts.connect,
        )
        if transport is None:
            connection.abort()
            raise UpstreamError("STARTTLS handshake failed")
        connection.connection_made(transport)
        await self._hello(connection)

    def _forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._wake()

    def _reachable(self, *, is_so: bool, why: str) -> None:
        if self.reachable is not is_so:
            self.reachable = is_so
            if self.on_change is not None:
                self.on_change(is_so, why)


def _no_room(waiter: "asyncio.Future[Connection | None]") -> None:
    if not waiter.done():
        waiter.set_exception(UpstreamError("all connections to the upstream are in use"))
