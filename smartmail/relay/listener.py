"""A door that clients connect to: what it offers, to whom it is open, and how its sockets are accepted."""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from smartmail.config import ListenerConfig, TcpAddress
from smartmail.config.values import Network
from smartmail.core.fairness import client_key
from smartmail.core.policy import Door
from smartmail.core.proxy import ProxyError, ProxyHeader, ProxyParser
from smartmail.core.reply import Reply, reply
from smartmail.core.smtp import Session
from smartmail.core.smtp_events import Offer, Terms
from smartmail.relay.route import Capabilities
from smartmail.relay.services import Rules, Services

PROXY_HEADER_SECONDS: Final = 10
RECEIVE_BUFFER: Final = 131_072
"""Octets the kernel keeps for a client that sends faster than the upstream takes; we hold as much once more. Bounds
the memory of a session, and its speed to 1.3 MB/s over a line of 100 ms."""
PROXY_HEADER_SIZE: Final = 4096
MAX_INTRODUCED: Final = 1000
"""Connections whose PROXY header or TLS handshake is awaited; more are closed."""
_BOTH_SIDES: Final = ("8BITMIME", "SMTPUTF8", "DSN", "CHUNKING")
"""Extensions that change what the upstream is told: offered only where it offers them."""
MAX_CLIENTS: Final = 10_000
"""Addresses whose network and trust are kept; all are forgotten when there are more."""
NOTHING: Final = Offer()

Address = tuple[str, int]


class Peer(NamedTuple):
    """Who connected, and to where; as a PROXY header says, or as the socket does."""

    client: Address
    here: Address


@dataclass(slots=True)
class Listener:
    """One listener of the configuration, in force. `tls` holds the certificate in use now."""

    config: ListenerConfig
    terms: Terms
    tls: ssl.SSLContext | None
    greeting_delay: float = 0.0
    sockets: list[socket.socket] = field(default_factory=list)
    name: str = field(init=False)
    """As metrics and logs know it."""
    tls_first: bool = field(init=False)
    """TLS from the first octet on, without STARTTLS."""
    banner: Reply = field(init=False)
    _offers: dict[tuple[bool, bool, int], tuple[Capabilities, tuple[str, ...], Offer]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _bound: Address | None = None
    """The address of every session here, where the listener is bound to one and not to all."""
    _clients: dict[str, tuple[str, bool]] = field(default_factory=dict)
    _doors: dict[bool, Door] = field(default_factory=dict)
    _doors_of: Rules | None = None
    """The rules that the doors were made by. Compared by identity: they are replaced, never changed."""

    def __post_init__(self) -> None:
        self.name = self.config.name
        self.tls_first = self.config.tls == "implicit"
        self.banner = reply(220, "", f"{self.terms.hostname} ESMTP Smart Mail")

    no_offer = NOTHING
    closed_door = Door(needs_login=True)

    @property
    def submission(self) -> bool:
        """Does this door ask for a login?"""
        return self.config.role == "submission"

    def know(self, address: str, rules: Rules) -> tuple[str, Door]:
        """What a client at `address` counts under, and what this listener asks of it."""
        known = self._clients.get(address)
        if known is None:
            if len(self._clients) >= MAX_CLIENTS:
                self._clients.clear()
            trusted = not self.submission and _within(address, self.config.trusted_networks)
            known = self._clients[address] = (client_key(address), trusted)
        return known[0], self._door(rules, trusted=known[1])

    def _door(self, rules: Rules, *, trusted: bool) -> Door:
        if rules is not self._doors_of:
            self._doors.clear()
            self._doors_of = rules
        door = self._doors.get(trusted)
        if door is None:
            door = self._doors[trusted] = Door(
                needs_login=self.submission,
                trusted=trusted,
                accepts_incoming=self.config.accept_incoming,
                sender_must_be_owned=rules.must_own_sender,
                allows_null_sender=rules.allow_null_sender,
            )
        return door

    def local_address(self, transport: asyncio.BaseTransport | None) -> Address:
        """Where the client connected to, for XCLIENT's DESTADDR and DESTPORT."""
        if self._bound is not None:
            return self._bound
        found = transport.get_extra_info("sockname") if transport is not None else None
        return (found[0], found[1]) if found else ("", 0)

    def offer(self, session: Session, services: Services) -> Offer:
        """What EHLO says now. Made anew only when the upstream's capabilities or the mechanisms change."""
        mechanisms: tuple[str, ...] = ()
        if self.submission and not session.authenticated:
            mechanisms = services.backend.offered(secured=session.tls or self.config.tls == "none")
        capabilities = services.pool.capabilities
        key = (session.tls, session.authenticated, services.rules.max_recipients)
        cached = self._offers.get(key)
        if cached is not None and cached[0] is capabilities and cached[1] == mechanisms:
            return cached[2]
        offer = self._make_offer(session, services, mechanisms)
        if len(self._offers) > 16:  # of rules that are no more
            self._offers.clear()
        self._offers[key] = (capabilities, mechanisms, offer)
        return offer

    def _make_offer(self, session: Session, services: Services, mechanisms: tuple[str, ...]) -> Offer:
        capabilities, pool = services.pool.capabilities, services.pool
        shared = [keyword for keyword in _BOTH_SIDES if keyword in capabilities]
        if pool.route.lmtp and "CHUNKING" in shared:
            shared.remove("CHUNKING")
        if session.tls and "REQUIRETLS" in capabilities:
            shared.append("REQUIRETLS")
        size = self.terms.max_size
        if capabilities.max_size:
            size = min(size, capabilities.max_size)
        starttls = self.config.tls == "starttls" and not session.tls and self.tls is not None
        recipients = 1 if pool.route.lmtp else services.rules.max_recipients
        keywords = ["PIPELINING", f"SIZE {size}", "ENHANCEDSTATUSCODES", *shared]
        keywords.append(f"LIMITS RCPTMAX={recipients}")
        if starttls:
            keywords.append("STARTTLS")
        if mechanisms:
            keywords.append("AUTH " + " ".join(mechanisms))
        understood = {*shared, "SIZE"}
        if self.submission:
            understood.add("AUTH")  # MAIL AUTH= (RFC 4954 section 5) is read, and never passed on
        return Offer(
            keywords=tuple(keywords),
            extensions=frozenset(understood),
            mechanisms=mechanisms,
            starttls=starttls,
            chunking="CHUNKING" in shared,
            auth_needs_tls=self.submission and not mechanisms and starttls,
        )

    # sockets

    async def open(self, protocol: Callable[[Peer | None], asyncio.Protocol], on_fault: Callable[[str], None]) -> None:
        """Bind and accept. Raises OSError: the port is taken, or may not be."""
        loop = asyncio.get_running_loop()
        endpoint = self.config.endpoint
        context = self.tls if self.tls_first else None
        if context is not None:
            # The server keeps the context that it was opened with; a reload brings another one.
            context.sni_callback = self._renew_certificate
        if self.config.proxy_protocol_from:
            sock = _bind(endpoint.host, endpoint.port)
            self.sockets = [sock]
            task = loop.create_task(self._accept_proxied(sock, context, protocol, on_fault))
            self._tasks.add(task)
            return
        self._server = await loop.create_server(
            lambda: protocol(None),
            endpoint.host,
            endpoint.port,
            ssl=context,
            backlog=1024,
            ssl_handshake_timeout=30 if context else None,
        )
        self.sockets = list(self._server.sockets)
        for sock in self.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if len(self.sockets) == 1 and endpoint.host not in ("0.0.0.0", "::"):  # noqa: S104  compared, not bound
            name = self.sockets[0].getsockname()
            self._bound = (name[0], name[1])

    def _renew_certificate(self, tls: ssl.SSLObject, name: str | None, began_with: ssl.SSLContext) -> None:
        """Called in each handshake, whether the client names a server or not."""
        if self.tls is not None and self.tls is not began_with:
            tls.context = self.tls

    @property
    def bound(self) -> str:
        """Host and port in use, also where the configuration says port 0."""
        return str(TcpAddress(*self.sockets[0].getsockname()[:2]))

    def close(self) -> None:
        """Stop accepting; sessions live on."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self.config.proxy_protocol_from:
            for sock in self.sockets:
                sock.close()

    async def _accept_proxied(
        self,
        sock: socket.socket,
        context: ssl.SSLContext | None,
        protocol: Callable[[Peer | None], asyncio.Protocol],
        on_fault: Callable[[str], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(sock)
            except OSError as error:
                on_fault(f"accept: {error}")
                await asyncio.sleep(0.1)
                continue
            if len(self._tasks) > MAX_INTRODUCED:
                client.close()
                continue
            client.setblocking(False)
            task = loop.create_task(self._introduce(client, address, context, protocol))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _introduce(
        self,
        client: socket.socket,
        address: tuple[str, int],
        context: ssl.SSLContext | None,
        protocol: Callable[[Peer | None], asyncio.Protocol],
    ) -> None:
        """Read the PROXY header if the client is a load balancer of ours, then begin the session."""
        loop = asyncio.get_running_loop()
        try:
            peer = Peer((address[0], address[1]), client.getsockname()[:2])
            if _within(address[0], self.config.proxy_protocol_from):
                async with asyncio.timeout(PROXY_HEADER_SECONDS):
                    header = await _read_header(client)
                if header.source is not None:
                    peer = Peer(header.source, header.destination or peer.here)
            await loop.connect_accepted_socket(
                lambda: protocol(peer), client, ssl=context, ssl_handshake_timeout=30 if context else None
            )
        except (ProxyError, OSError, TimeoutError, ssl.SSLError):
            _close(client)
        except asyncio.CancelledError:
            _close(client)
            raise


def _close(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.close()


async def _read_header(client: socket.socket) -> ProxyHeader:
    """Take the PROXY header, and not an octet more, off the socket: what follows may be a TLS handshake."""
    while True:
        await _readable(client)
        seen = client.recv(PROXY_HEADER_SIZE, socket.MSG_PEEK)
        if not seen:
            raise ProxyError("closed before its header")
        header = ProxyParser().feed(seen)
        if header is not None:
            length = len(seen) - len(header.rest)
            while length:
                length -= len(client.recv(length))
            return header
        await asyncio.sleep(0.02)  # a part of a header stays readable: no event tells of the rest


async def _readable(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    descriptor = client.fileno()

    def arrived() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, arrived)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _bind(host: str, port: int) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(1024)
    except OSError:
        sock.close()
        raise
    return sock


def _within(address: str, networks: tuple[Network, ...]) -> bool:
    if not networks:
        return False
    try:
        client = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(client, ipaddress.IPv6Address) and client.ipv4_mapped is not None:
        client = client.ipv4_mapped
    return any(client in network for network in networks)
