"""The relay's side towards the mail server behind it: one connection, and the pool of idle ones.

A reply that nobody waits for, or that is no reply, ends a connection. A connection goes back to the pool only clean:
after a 2xx to the dot, or a 2xx to RSET.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, cast

from smartmail.core.reply import Reply, ReplyError, ReplyParser
from smartmail.core.transfer import Loss
from smartmail.core.xclient import Identity, hello_name, xclient_command, xforward_command

WRITE_HIGH: Final = 65536
"""Octets waiting for a slow upstream at which its client is not read any further."""


class Tick:
    """Loop time as of the last sweep, a second ago at most: near enough for timeouts, and free to read."""

    __slots__ = ("now",)

    def __init__(self, now: float) -> None:
        self.now = now


OnReply = Callable[[Reply | Loss], None]


class Identify(Enum):
    """How the upstream learns who the client is."""

    AUTO = "auto"
    XCLIENT = "xclient"
    XFORWARD = "xforward"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for each reply (RFC 5321 section 4.5.3.2)."""

    connect: int = 30
    greeting: int = 300
    mail: int = 300
    rcpt: int = 300
    data: int = 120
    block: int = 180
    dot: int = 600


@dataclass(frozen=True, slots=True)
class Route:
    """Where the mail server is and how to treat it. host: "unix:/path" for a socket."""

    host: str
    port: int
    lmtp: bool = False
    identify: Identify = Identify.AUTO
    tls: ssl.SSLContext | None = None
    tls_required: bool = False
    hostname: str = "localhost"
    timeouts: Timeouts = Timeouts()
    max_connections: int = 200
    max_idle: int = 50
    max_idle_seconds: int = 60
    max_age_seconds: int = 300
    max_uses: int = 1000

    @property
    def name(self) -> str:
        """As logs and event rows name it."""
        return self.host if self.host.startswith("unix:") else f"{self.host}:{self.port}"


_NOTHING: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an upstream's EHLO reply offered: keyword -> parameters, both upper case."""

    keywords: dict[str, frozenset[str]]

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.keywords

    def attributes(self, keyword: str) -> frozenset[str]:
        """The parameters of one keyword."""
        return self.keywords.get(keyword, _NOTHING)

    @property
    def max_size(self) -> int:
        """The upstream's SIZE limit; 0: none is known."""
        value = next(iter(self.keywords.get("SIZE", ())), "")
        return int(value) if value.isdigit() else 0


def read_capabilities(answer: Reply) -> Capabilities:
    """Read an EHLO or LHLO reply; the first line is the greeting (RFC 5321 section 4.1.1.1)."""
    keywords = {}
    for line in answer.lines[1:]:
        words = line.upper().replace("=", " ", 1).split()  # "AUTH=" is an old spelling of "AUTH "
        if words:
            keywords[words[0]] = frozenset(words[1:])
    return Capabilities(keywords)


class UpstreamError(Exception):
    """No connection could be made. `reply`: what the upstream said, if it spoke."""

    def __init__(self, reason: str, answer: Reply | None = None) -> None:
        super().__init__(reason)
        self.reply = answer


class UnsuitableError(UpstreamError):
    """This connection will not do for this client; another one may."""


class Connection(asyncio.Protocol):
    """One connection. `send` queues a command and who gets its reply; replies come back in order."""

    __slots__ = (
        "_greeting",
        "_loop",
        "_parser",
        "_tick",
        "_waiting",
        "born",
        "capabilities",
        "deadline",
        "idle_since",
        "identity",
        "lost",
        "on_blocked",
        "on_fault",
        "on_lost",
        "transport",
        "uses",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: Tick) -> None:
        self._loop = loop
        self._tick = tick
        self._parser = ReplyParser()
        # The greeting may be here before whoever opened the connection gets to run again.
        self._greeting: asyncio.Future[Reply | Loss] = loop.create_future()
        self._waiting: deque[OnReply] = deque([_into(self._greeting)])
        self.transport: asyncio.Transport | None = None
        self.capabilities = Capabilities({})
        self.identity: Identity | None = None
        self.on_blocked: Callable[[bool], None] | None = None
        self.on_fault: Callable[[Exception], None] | None = None
        """Told when what was to be done with a reply went wrong on our side; the connection is then cut."""
        self.on_lost: Callable[[Connection], None] | None = None
        self.lost = False
        self.deadline = 0.0
        """Loop time by which the oldest reply is due; 0: none is."""
        self.born = tick.now
        self.idle_since = self.born
        self.uses = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.lost:  # given up while it was being opened
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=WRITE_HIGH)

    def data_received(self, data: bytes) -> None:
        try:
            self._hand_out(self._parser.feed(data))
        except ReplyError as error:
            self._hand_out(error.replies)  # what was said before the nonsense counts
            self.abort()

    def _hand_out(self, replies: Sequence[Reply]) -> None:
        # What is said in one breath with a reply answers nothing that this reply gives rise to.
        due = len(self._waiting)
        for answer in replies[:due]:
            if self.lost:
                return
            on_reply = self._waiting.popleft()
            if not self._waiting:
                self.deadline = 0.0
            self._tell(on_reply, answer)
        if len(replies) > due:
            self.abort()

    def _tell(self, on_reply: OnReply, result: Reply | Loss) -> None:
        try:
            on_reply(result)
        except Exception as error:
            # In a protocol's callback it would end here, and a client wait for its reply for ever.
            notify, self.on_fault = self.on_fault, None
            if notify is None:
                raise
            notify(error)
            self.abort()

    def pause_writing(self) -> None:
        if self.on_blocked is not None:
            self.on_blocked(True)

    def resume_writing(self) -> None:
        if self.on_blocked is not None:
            self.on_blocked(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Loss.UPSTREAM_LOST)

    # for the relay

    @property
    def clean(self) -> bool:
        """No reply is due or half received."""
        return not self.lost and not self._waiting and self._parser.idle

    def send(self, command: bytes, on_reply: OnReply, seconds: float) -> None:
        """Write a command line; its reply, or what was lost, goes to `on_reply`."""
        if self.lost or self.transport is None:
            self._loop.call_soon(self._tell, on_reply, Loss.UPSTREAM_LOST)
            return
        self.expect(on_reply, seconds)
        self.transport.write(command)

    def expect(self, on_reply: OnReply, seconds: float) -> None:
        """A reply is due for what has been, or is about to be, written."""
        if self.lost:
            self._loop.call_soon(self._tell, on_reply, Loss.UPSTREAM_LOST)
            return
        self._waiting.append(on_reply)
        self.deadline = self._tick.now + seconds

    def due_in(self, seconds: float) -> None:
        """The reply that is waited for must come within this time from now; 0: whenever it comes."""
        self.deadline = self._tick.now + seconds if seconds else 0.0

    def write(self, octets: bytes) -> None:
        """Write content."""
        if self.transport is not None and not self.lost:
            self.transport.write(octets)

    async def ask(self, command: bytes, seconds: float) -> Reply:
        """Send a command and return its reply; raises UpstreamError where none comes."""
        answer: asyncio.Future[Reply | Loss] = self._loop.create_future()
        self.send(command, _into(answer), seconds)
        return await self._wait(answer, seconds)

    async def hear_greeting(self, seconds: float) -> Reply:
        """The upstream's first words; raises UpstreamError where none come."""
        return await self._wait(self._greeting, seconds)

    async def _wait(self, answer: asyncio.Future[Reply | Loss], seconds: float) -> Reply:
        try:
            result = await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            self.abort()
            raise UpstreamError("no reply in time") from None
        if isinstance(result, Loss):
            raise UpstreamError("connection closed by the upstream")
        return result

    def overdue(self, now: float) -> None:
        """Called by the sweep: end the connection if its reply is late."""
        if self.deadline and now >= self.deadline:
            self._end(Loss.UPSTREAM_SILENT)

    def abort(self) -> None:
        """Cut the connection: the upstream throws away what it has of a message."""
        self._end(Loss.UPSTREAM_LOST)

    def farewell(self) -> None:
        """Say QUIT and close; nobody waits for the 221."""
        if not self.lost and self.transport is not None:
            self.on_lost, notify = None, self.on_lost
            self.lost = True
            self.transport.write(b"QUIT\r\n")
            self.transport.close()
            if notify is not None:
                notify(self)

    def _end(self, loss: Loss) -> None:
        if self.lost:
            return
        self.lost = True
        self.deadline = 0.0
        if self.transport is not None:
            self.transport.abort()
        if self.on_lost is not None:
            self.on_lost(self)
        waiting, self._waiting = self._waiting, deque()
        for on_reply in waiting:
            self._tell(on_reply, loss)


def _no_room(waiter: "asyncio.Future[Connection | None]") -> None:
    if not waiter.done():
        waiter.set_exception(UpstreamError("all connections to the upstream are in use"))


def _into(answer: asyncio.Future[Reply | Loss]) -> OnReply:
    def arrived(result: Reply | Loss) -> None:
        if not answer.done():
            answer.set_result(result)

    return arrived


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
        self.on_change: Callable[[bool, str], None] | None = None
        """Told when the upstream turns reachable or not, and why."""
        self._loop = loop
        self._tick = Tick(loop.time())
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
                if answer.code >= 500 and self.route.identify is Identify.AUTO:
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
        if self.route.identify is Identify.AUTO:
            return not self._refuses_xclient and bool(connection.capabilities.attributes("XCLIENT"))
        return self.route.identify is Identify.XCLIENT

    def forward_command(self, connection: Connection, identity: Identity) -> bytes:
        """The XFORWARD command for this client; b"" where it is not used."""
        if self.route.identify not in (Identify.AUTO, Identify.XFORWARD):
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
        connection = Connection(self._loop, self._tick)
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
