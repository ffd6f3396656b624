"""The DNS probe and the resolver against a server that answers what a test wants, for the resolver and for the zone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from probe_peers import check_of

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind
from smartmail.monitor.probes import Observation, ProbeContext, SecretSource, make_context, probe
from smartmail.monitor.probes.resolver import ResolveError, Resolver

NOW = 1_790_000_000
ZONE = "example.com"
RECORDS = {
    ("example.com.", "NS"): ["ns1.example.com.", "ns2.example.com."],
    ("ns1.example.com.", "A"): ["127.0.0.1"],
    ("ns2.example.com.", "A"): ["127.0.0.2"],
    ("example.com.", "SOA"): ["ns1.example.com. root.example.com. 2026112301 7200 3600 1209600 300"],
    ("example.com.", "MX"): ["10 mx1.example.com.", "20 mx2.example.com."],
    ("mx1.example.com.", "A"): ["192.0.2.1"],
    ("mx2.example.com.", "AAAA"): ["2001:db8::2"],
}


def signature(kind: str, start: int, end: int) -> str:
    """An RRSIG over records of this kind, valid from and until so many hours from NOW."""
    return f"{kind} 13 2 300 {NOW + 3600 * end} {NOW + 3600 * start} 1 example.com. c2lnbmVk"


class NameServer(asyncio.DatagramProtocol):
    """Answers on 127.0.0.1 and 127.0.0.2, one port: as resolver and as both servers of the zone."""

    def __init__(self) -> None:
        self.records = {key: list(values) for key, values in RECORDS.items()}
        self.asked: list[tuple[str, str]] = []
        self.of_second: dict[str, list[str]] = {}
        """What 127.0.0.2 says of the zone instead, by type."""
        self.flags = dns.flags.QR | dns.flags.AA | dns.flags.RA
        self.silent: set[str] = set()
        """Types that nobody gets an answer about."""
        self.rcode = dns.rcode.NOERROR
        self.port = 0
        self.on_ask: Callable[[str, str], None] = lambda name, kind: None

    def answer(self, octets: bytes, *, second: bool) -> bytes | None:
        """The answer to a query."""
        query = dns.message.from_wire(octets)
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        self.on_ask(name, kind)
        if kind in self.silent:
            return None
        reply = dns.message.make_response(query)
        reply.flags = self.flags | (query.flags & dns.flags.RD)
        reply.set_rcode(self.rcode)
        values = self.records.get((name, kind), [])
        if second:
            values = self.of_second.get(kind, values)
        if values:
            reply.answer.append(dns.rrset.from_text(name, 300, "IN", kind, *values))
            signed = [text for text in self.records.get((name, "RRSIG"), []) if text.startswith(kind)]
            if signed and query.ednsflags & dns.flags.DO:
                reply.answer.append(dns.rrset.from_text(name, 300, "IN", "RRSIG", *signed))
        elif name not in {known for known, _ in self.records}:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply.to_wire()


class Endpoint(asyncio.DatagramProtocol):
    """One address of the server."""

    def __init__(self, server: NameServer, *, second: bool) -> None:
        self._server, self._second = server, second
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        if reply := self._server.answer(data, second=self._second):
            self._transport.sendto(reply, addr)


@asynccontextmanager
async def serving() -> AsyncIterator[NameServer]:
    """Run the server."""
    loop = asyncio.get_running_loop()
    server = NameServer()
    first, _ = await loop.create_datagram_endpoint(lambda: Endpoint(server, second=False), ("127.0.0.1", 0))
    server.port = first.get_extra_info("sockname")[1]
    second, _ = await loop.create_datagram_endpoint(lambda: Endpoint(server, second=True), ("127.0.0.2", server.port))
    try:
        yield server
    finally:
        first.close()
        second.close()


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with serving() as made:
        yield made


def context_for(server: NameServer, timeout_ms: int = 20_000) -> ProbeContext:
    """A context that asks this server, at NOW."""
    made = make_context(SecretSource(None), nameserver=f"127.0.0.1:{server.port}", now_ms=lambda: NOW * 1000)
    return replace(made, timeout_ms=timeout_ms)


async def look(server: NameServer, timeout_ms: int = 20_000, **options: str) -> Observation:
    """Probe the zone."""
    return await probe(check_of(CheckKind.DNS, server.port, ZONE, **options), context_for(server, timeout_ms))


async def test_all_is_well(server: NameServer) -> None:
    seen = await look(server, mx="mx2.example.com, MX1.example.com.")
    assert (seen.outcome, seen.detail) == (Outcome.OK, "")
    assert dict(seen.facts) == {"serial": 2026112301, "servers": 2}
    assert set(seen.phases) == {"dns", "command"}


async def test_servers_that_disagree(server: NameServer) -> None:
    server.of_second["SOA"] = ["ns1.example.com. root.example.com. 2026112300 7200 3600 1209600 300"]
    seen = await look(server)
    assert seen.outcome is Outcome.DNS
    assert seen.detail == "the servers disagree: ns1.example.com 2026112301, ns2.example.com 2026112300 at SOA"


async def test_a_new_zone_on_its_way_is_waited_for(server: NameServer) -> None:
    server.of_second["SOA"] = ["ns1.example.com. root.example.com. 2026112300 7200 3600 1209600 300"]

    def arrives(name: str, kind: str) -> None:
        if server.asked.count((f"{ZONE}.", "SOA")) > 2:
            server.of_second.clear()

    server.on_ask = arrives
    assert (await look(server)).outcome is Outcome.OK


async def test_a_server_that_does_not_answer_for_the_zone(server: NameServer) -> None:
    server.flags &= ~dns.flags.AA
    seen = await look(server)
    assert (seen.outcome, seen.detail) == (Outcome.DNS, "ns1.example.com is not authoritative at SOA")


async def test_a_server_without_a_soa(server: NameServer) -> None:
    server.of_second["SOA"] = []
    seen = await look(server)
    assert (seen.outcome, seen.detail) == (Outcome.DNS, "ns2.example.com has no SOA at SOA")


MISSING = [
    (("example.com.", "NS"), "example.com has no NS at NS"),
    (("example.com.", "MX"), "example.com has no MX at MX"),
    (("ns2.example.com.", "A"), "ns2.example.com does not exist"),
    (("mx1.example.com.", "A"), "mx1.example.com does not exist"),
]


@pytest.mark.parametrize(("key", "words"), MISSING)
async def test_records_that_are_missing(server: NameServer, key: tuple[str, str], words: str) -> None:
    del server.records[key]
    seen = await look(server)
    assert seen.outcome is Outcome.DNS
    assert seen.detail.startswith(words)


async def test_a_mail_host_that_is_not_ours(server: NameServer) -> None:
    server.records["example.com.", "MX"].append("5 mx.example.net.")
    server.records["mx.example.net.", "A"] = ["203.0.113.1"]
    seen = await look(server, mx="mx1.example.com,mx2.example.com")
    assert seen.outcome is Outcome.DNS
    assert "mx.example.net" in seen.detail
    assert (await look(server)).outcome is Outcome.OK


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
async def test_dns_dead(server: NameServer, rcode: dns.rcode.Rcode) -> None:
    server.rcode = rcode
    seen = await look(server)
    assert (seen.outcome, seen.detail) == (Outcome.DNS, "the resolver fails on example.com NS at NS")


async def test_dns_silent_is_dns_and_not_a_timeout_of_the_service(server: NameServer) -> None:
    server.silent = {"NS", "A", "AAAA"}
    seen = await look(server, 1000)
    assert (seen.outcome, seen.detail) == (Outcome.DNS, "no answer about example.com NS at NS")
    seen = await probe(check_of(CheckKind.TCP, 25, "mail.example.com"), context_for(server, 1000))
    assert seen.outcome is Outcome.DNS


async def test_a_name_that_is_none() -> None:
    context = replace(make_context(SecretSource(None), nameserver="127.0.0.1:9"), timeout_ms=1000)
    for host in ("a..b", "x" * 64 + ".example.com", "", "é" * 300):
        seen = await probe(check_of(CheckKind.TCP, 25, host, tls_name=""), context)
        assert seen.outcome in (Outcome.DNS, Outcome.MONITOR_ERROR)


# Signatures


def sign(server: NameServer, start: int, end: int, kinds: tuple[str, ...] = ("SOA", "MX")) -> None:
    """The zone is signed for these hours."""
    server.records["example.com.", "RRSIG"] = [signature(kind, start, end) for kind in kinds]


SIGNED = [
    (-24, 200, Outcome.OK, ""),
    (-24, 47, Outcome.OK_EXPIRES_SOON, "a signature expires in 47 hours"),
    (-24, -1, Outcome.DNS, "ns1.example.com: a signature has expired at DNSSEC"),
    (1, 200, Outcome.DNS, "ns1.example.com: a signature is not valid yet at DNSSEC"),
]


@pytest.mark.parametrize(("start", "end", "outcome", "detail"), SIGNED)
async def test_signatures_are_fresh(server: NameServer, start: int, end: int, outcome: Outcome, detail: str) -> None:
    sign(server, start, end)
    seen = await look(server, dnssec="yes")
    assert (seen.outcome, seen.detail) == (outcome, detail)


@pytest.mark.parametrize("kinds", [(), ("SOA",), ("MX",)])
async def test_a_zone_that_has_to_be_signed_and_is_not(server: NameServer, kinds: tuple[str, ...]) -> None:
    sign(server, -24, 200, kinds)
    seen = await look(server, dnssec="yes")
    assert seen.outcome is Outcome.DNS
    assert "is not signed" in seen.detail


# The resolver


async def test_an_answer_is_kept_for_a_moment(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(f"127.0.0.1:{server.port}")
    assert await resolver.addresses("mx1.example.com") == ("192.0.2.1",)
    asked = len(server.asked)
    assert await resolver.addresses("MX1.example.com.") == ("192.0.2.1",)
    assert len(server.asked) == asked
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + 31)
    assert await resolver.addresses("mx1.example.com") == ("192.0.2.1",)
    assert len(server.asked) > asked


async def test_ipv4_comes_first_and_a_family_can_be_asked_for(server: NameServer) -> None:
    server.records["both.example.com.", "A"] = ["192.0.2.9", "192.0.2.3"]
    server.records["both.example.com.", "AAAA"] = ["2001:db8::9"]
    resolver = Resolver(f"127.0.0.1:{server.port}")
    assert await resolver.addresses("both.example.com") == ("192.0.2.3", "192.0.2.9", "2001:db8::9")
    assert await resolver.addresses("both.example.com", "6") == ("2001:db8::9",)
    assert await resolver.addresses("both.example.com", "4") == ("192.0.2.3", "192.0.2.9")


async def test_failures_are_not_kept(server: NameServer) -> None:
    resolver = Resolver(f"127.0.0.1:{server.port}")
    server.rcode = dns.rcode.SERVFAIL
    with pytest.raises(ResolveError):
        await resolver.addresses("mx1.example.com")
    server.rcode = dns.rcode.NOERROR
    assert await resolver.addresses("mx1.example.com") == ("192.0.2.1",)


async def test_a_host_with_hundreds_of_addresses_is_tried_at_a_few(server: NameServer) -> None:
    server.records["many.example.com.", "A"] = [f"192.0.2.{n}" for n in range(1, 30)]
    assert len(await Resolver(f"127.0.0.1:{server.port}").addresses("many.example.com", "4")) == 8


async def test_another_resolver_for_one_check(server: NameServer) -> None:
    context = make_context(SecretSource(None), nameserver="127.0.0.1:9", now_ms=lambda: NOW * 1000)
    seen = await probe(check_of(CheckKind.DNS, server.port, ZONE, resolver=f"127.0.0.1:{server.port}"), context)
    assert seen.outcome is Outcome.OK
