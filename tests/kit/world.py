"""The real relay in this process, between clients on loopback and an upstream that does as it is told."""

import asyncio
import base64
import ipaddress
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from argon2 import PasswordHasher
from prometheus_client import CollectorRegistry
from upstream import Upstream, smuggled

from smartmail.config import ListenerConfig
from smartmail.core.known import KnownRecipients
from smartmail.core.limits import Counters, Limit
from smartmail.core.smtp_events import Terms
from smartmail.core.standing import Account, Billing, Conduct
from smartmail.metrics import RelayMetrics
from smartmail.relay.listener import Listener
from smartmail.relay.passwords import AuthSettings, LocalBackend
from smartmail.relay.route import Identify, Route
from smartmail.relay.server import Caps, Relay
from smartmail.relay.services import Rules, Services
from smartmail.relay.session import ClientSession
from smartmail.relay.tls import load_context, self_made
from smartmail.relay.upstream import Pool
from smartmail.store.directory import Credential, Directory
from smartmail.store.events import EventRow

HOST = "mx.example.com"
PASSWORD = "correct horse"
PATIENCE = 10
_CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
STANDINGS = {
    "": (Billing.CURRENT, Conduct.GOOD),
    "open": (Billing.CURRENT, Conduct.GOOD),
    "past_due": (Billing.PAST_DUE, Conduct.GOOD),
    "unpaid": (Billing.SUSPENDED, Conduct.GOOD),
    "slowed": (Billing.CURRENT, Conduct.SLOWED),
    "stopped": (Billing.CURRENT, Conduct.STOPPED),
    "closed": (Billing.CURRENT, Conduct.CLOSED),
}
LISTENERS = {
    "submission": {"role": "submission", "tls": "starttls"},
    "smtps": {"role": "submission", "tls": "implicit"},
    "plain": {"role": "submission", "tls": "none"},
    "relay": {"role": "relay", "tls": "starttls", "trusted_networks": ("127.0.0.0/8",)},
    "incoming": {"role": "relay", "tls": "starttls", "accept_incoming": True},
    "stranger": {"role": "relay", "tls": "none", "trusted_networks": ("192.0.2.0/24",)},
    "balanced": {
        "role": "relay",
        "tls": "none",
        "trusted_networks": ("192.0.2.0/24", "2001:db8::/32"),
        "proxy_protocol_from": ("127.0.0.0/8",),
    },
    "balanced-incoming": {
        "role": "relay",
        "tls": "none",
        "accept_incoming": True,
        "proxy_protocol_from": ("127.0.0.0/8",),
    },
    "unbalanced": {
        "role": "relay",
        "tls": "none",
        "trusted_networks": ("127.0.0.0/8", "192.0.2.0/24"),
        "proxy_protocol_from": ("198.51.100.0/24",),
    },
}
"""The doors that a test may knock at."""


@lru_cache(maxsize=1)
def server_tls() -> ssl.SSLContext:
    """A certificate made for this run."""
    with TemporaryDirectory() as directory:
        return load_context(*self_made(Path(directory), HOST))


def client_tls() -> ssl.SSLContext:
    """A client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@lru_cache(maxsize=1)
def _hash() -> str:
    return _CHEAP.hash(PASSWORD)


def account(number: int, address: str, standing: str = "", **fields: object) -> Account:
    """An account; its customer is 100, its plan has no limits."""
    billing, conduct = STANDINGS[standing]
    domain = address.rpartition("@")[2]
    plain = Account(number, address, 100, domain, frozenset(), "standard", billing, conduct, 0, ())
    return replace(plain, **fields)  # type: ignore[arg-type]


def directory(accounts: Iterable[Account], domains: Iterable[str] = (), version: int = 1) -> Directory:
    """A snapshot; every account has PASSWORD."""
    known = {one.id: Credential(one, _hash()) for one in accounts}
    ours = {one.account.domain for one in known.values()} | set(domains)
    return Directory(known, ours, version)


@dataclass
class Setup:
    """What a relay is made of, for one test."""

    accounts: list[Account] = field(default_factory=lambda: [account(1, "ann@example.com")])
    domains: list[str] = field(default_factory=list)
    limits: tuple[Limit, ...] = ()
    rules: Rules = field(default_factory=Rules)
    terms: Terms = field(default_factory=lambda: Terms(HOST, max_size=1_000_000))
    caps: Caps = field(default_factory=Caps)
    listeners: tuple[str, ...] = ("submission",)
    identify: Identify = Identify.AUTO
    upstream: Upstream = field(default_factory=Upstream)
    upstream_tls: ssl.SSLContext | None = None
    upstream_tls_required: bool = False
    reachable: bool = True
    max_connections: int = 200
    greeting_delay: float = 0.0
    backend_settings: AuthSettings = field(default_factory=AuthSettings)


class World:
    """A running relay, its upstream, and the rows it wrote."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.upstream = setup.upstream
        self.rows: list[EventRow] = []
        self.clients: list[Client] = []

    async def open(self) -> None:
        setup = self.setup
        await self.upstream.start()
        if not setup.reachable:
            await self.upstream.stop()
        route = Route(
            "127.0.0.1",
            self.upstream.port,
            lmtp=self.upstream.lmtp,
            identify=setup.identify,
            tls=setup.upstream_tls,
            tls_required=setup.upstream_tls_required,
            hostname=HOST,
            max_connections=setup.max_connections,
        )
        pool = Pool(route, asyncio.get_running_loop())
        self.backend = LocalBackend(lambda login: self.services.directory.by_login(login), setup.backend_settings)
        self.services = Services(
            rules=replace(setup.rules, limits=(*setup.rules.limits, *setup.limits)),
            directory=directory(setup.accounts, setup.domains),
            counters=Counters(),
            known=KnownRecipients(),
            pool=pool,
            backend=self.backend,
            metrics=RelayMetrics(CollectorRegistry()),
            put_row=self.rows.append,
        )
        self.relay = Relay(self.services, tuple(self._listener(name) for name in setup.listeners), setup.caps)
        if setup.reachable and not any(one.step in ("connect", "ehlo", "starttls") for one in setup.upstream.overrides):
            # As at the start of the process, so that EHLO has something to offer.
            pool.give_back(await pool.connect())
            self.upstream.commands.clear()
        await self.relay.open()

    def _listener(self, name: str) -> Listener:
        config = ListenerConfig.model_validate({"name": name, "address": "127.0.0.1:0", **LISTENERS[name]})
        tls = None if config.tls == "none" else server_tls()
        return Listener(config, self.setup.terms, tls, self.setup.greeting_delay)

    async def close(self) -> None:
        for client in self.clients:
            client.hang_up()
        await self.relay.drain(PATIENCE)
        self.backend.close()
        if self.setup.reachable:
            await self.upstream.stop()

    def check(self) -> None:
        """What must hold after anything whatever."""
        assert self.services.metrics.internal_errors == 0, "the relay broke"
        assert self.services.counters.open == 0, "a reservation was never settled"
        assert smuggled(self.upstream) == []

    def port(self, listener: str = "") -> int:
        """Where a listener, or the first one, is."""
        found = [one for one in self.relay.listeners if one.name == (listener or self.relay.listeners[0].name)]
        return int(found[0].sockets[0].getsockname()[1])

    def session(self) -> ClientSession:
        """The one session that is open."""
        (session,) = self.relay._sessions
        return session

    def change(self, *accounts: Account) -> None:
        """These accounts are other than they were, as the directory's watch would tell."""
        known = {one.id: one for one in self.services.directory.accounts.values()}
        known.update({one.id: one for one in accounts})
        version = self.services.directory.version + 1
        now = directory(known.values(), self.setup.domains, version)
        self.relay.directory_changed(now, frozenset(one.id for one in accounts))

    async def client(self, listener: str = "") -> "Client":
        """Connect; nothing is read yet."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port(listener), limit=2**20))
        self.clients.append(client)
        return client

    async def greeted(self, listener: str = "") -> "Client":
        """Connect, and say EHLO."""
        client = await self.client(listener)
        assert (await client.reply())[0] == 220
        await client.ask("EHLO client.example", 250)
        return client

    async def logged_in(self, login: str = "ann@example.com", listener: str = "submission") -> "Client":
        """Connect, STARTTLS where there is TLS, and log in."""
        client = await self.greeted(listener)
        if listener == "submission":
            await client.ask("STARTTLS", 220)
            await client.start_tls()
            await client.ask("EHLO client.example", 250)
        await client.ask(auth_plain(login), 235)
        return client


def auth_plain(login: str, password: str = PASSWORD) -> str:
    """The AUTH PLAIN line."""
    return "AUTH PLAIN " + base64.b64encode(f"\0{login}\0{password}".encode()).decode()


class Client:
    """A client that says exactly what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, octets: bytes) -> None:
        """Octets as they are."""
        self.writer.write(octets)
        await self.writer.drain()

    async def line(self) -> str:
        """One line without its CRLF; "" at the end."""
        octets = await asyncio.wait_for(self.reader.readline(), PATIENCE)
        return octets.decode("utf-8", "surrogateescape").removesuffix("\r\n")

    async def reply(self) -> tuple[int, str]:
        """One whole reply: its code, and its lines as they came. (0, "") where the connection has ended."""
        lines = [await self.line()]
        while re.match(r"\d{3}-", lines[-1]):
            lines.append(await self.line())
        return int(lines[-1][:3] or 0), "\n".join(lines)

    async def ask(self, command: str | bytes, code: int) -> str:
        """Say a command; the reply must have this code."""
        octets = command if isinstance(command, bytes) else command.encode()
        await self.send(octets + b"\r\n")
        found, text = await self.reply()
        assert found == code, f"{command!r} was answered {text!r}, not {code}"
        return text

    async def envelope(self, sender: str = "ann@example.com", *recipients: str) -> None:
        """MAIL and RCPT, all of them taken."""
        await self.ask(f"MAIL FROM:<{sender}>", 250)
        for recipient in recipients or ("bob@example.net",):
            await self.ask(f"RCPT TO:<{recipient}>", 250)

    async def mail(self, content: bytes = b"Subject: x\r\n\r\nhello\r\n", *recipients: str) -> tuple[int, str]:
        """A whole mail; the reply to the dot."""
        await self.envelope("ann@example.com", *recipients)
        await self.ask("DATA", 354)
        await self.send(content + b".\r\n")
        return await self.reply()

    async def start_tls(self) -> None:
        """Shake hands."""
        await asyncio.wait_for(self.writer.start_tls(client_tls()), PATIENCE)

    async def ended(self) -> bytes:
        """What is left to read before the end."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE)
        except ConnectionError:
            return b""

    def hang_up(self) -> None:
        """Cut the connection, with a reset: a mere end could be a client that still reads."""
        connection = self.writer.get_extra_info("socket")
        if connection is not None and not self.writer.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def running(setup: Setup | None = None, *, sound: bool = True) -> AsyncIterator[World]:
    """A world for a while. sound: check at its end what must hold after anything."""
    world = World(setup or Setup())
    await world.open()
    try:
        yield world
        if sound:
            for client in world.clients:
                client.hang_up()
            await world.relay.drain(PATIENCE)
            world.check()
    finally:
        await world.close()


def proxy_v1(source: str, port: int = 40000) -> bytes:
    """A PROXY header of version 1."""
    family = ipaddress.ip_address(source).version
    here = "127.0.0.1" if family == 4 else "::1"
    return f"PROXY TCP{family} {source} {here} {port} 25\r\n".encode()
