"""TLSA and MTA-STS against what is really served, and the report of everything."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import dns.rcode
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from trustworld import Identity, Nameserver, Web, identity, nameserver, web

from smartmail.intake.probemail import IntakeSettings, start
from smartmail.monitor.trust.dnsbl import BlockList
from smartmail.monitor.trust.finding import Severity, TrustFinding
from smartmail.monitor.trust.finding import TrustCheck as Check
from smartmail.monitor.trust.hosts import MailHost
from smartmail.monitor.trust.lookup import Lookup
from smartmail.monitor.trust.mta_sts import HttpsSettings, check_mta_sts, covers
from smartmail.monitor.trust.report import TrustContext, TrustReport, TrustRequest, check_trust
from smartmail.monitor.trust.served import Served, SmtpSettings, served_by
from smartmail.monitor.trust.tlsa import Tlsa, association, check_tlsa, matches, usable

DOMAIN, MX, POLICY_HOST = "example.com", "mx.example.com", "mta-sts.example.com"
LOOPBACK = ip_address("127.0.0.1")
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmax_age: 604800\r\n"

ROOT = identity("root.example", authority=True)
MIDDLE = identity("middle.example", ROOT, authority=True)
MX_IDENTITY = identity(MX, MIDDLE)
EXPIRED = identity(MX, MIDDLE, days=-1)
OTHER_NAME = identity("other.example.com", MIDDLE)
STRANGER = identity(MX)
WEB_IDENTITY = identity(POLICY_HOST, ROOT)


def spki(one: Identity) -> bytes:
    """The public key as a certificate holds it."""
    return one.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def der(one: Identity) -> bytes:
    """The certificate."""
    return one.certificate.public_bytes(Encoding.DER)


# What a TLSA record matches

CHAIN = MX_IDENTITY.chain


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (Tlsa(3, 0, 0, der(MX_IDENTITY)), True),
        (Tlsa(3, 0, 1, hashlib.sha256(der(MX_IDENTITY)).digest()), True),
        (Tlsa(3, 0, 2, hashlib.sha512(der(MX_IDENTITY)).digest()), True),
        (Tlsa(3, 1, 0, spki(MX_IDENTITY)), True),
        (Tlsa(3, 1, 1, hashlib.sha256(spki(MX_IDENTITY)).digest()), True),
        (Tlsa(3, 1, 2, hashlib.sha512(spki(MX_IDENTITY)).digest()), True),
        (Tlsa(3, 1, 1, hashlib.sha256(der(MX_IDENTITY)).digest()), False),
        (Tlsa(3, 1, 1, hashlib.sha256(spki(MIDDLE)).digest()), False),
        (Tlsa(2, 1, 1, hashlib.sha256(spki(MIDDLE)).digest()), True),
        (Tlsa(2, 0, 1, hashlib.sha256(der(MIDDLE)).digest()), True),
        (Tlsa(2, 1, 2, hashlib.sha512(spki(ROOT)).digest()), True),
        (Tlsa(2, 1, 1, hashlib.sha256(spki(MX_IDENTITY)).digest()), False),
        (Tlsa(2, 1, 1, hashlib.sha256(spki(STRANGER)).digest()), False),
        (Tlsa(2, 0, 0, der(ROOT)), True),
        (Tlsa(2, 0, 0, b"no certificate"), False),
    ],
)
def test_a_record_and_a_chain(record: Tlsa, expected: bool) -> None:
    assert usable(record) == ""
    assert matches(record, CHAIN, MX) == expected


def test_an_authority_that_is_not_sent_counts_where_the_record_holds_it_whole() -> None:
    assert matches(Tlsa(2, 0, 0, der(ROOT)), CHAIN[:2], MX)
    assert not matches(Tlsa(2, 0, 1, hashlib.sha256(der(ROOT)).digest()), CHAIN[:2], MX)
    assert not matches(Tlsa(2, 0, 0, der(STRANGER)), CHAIN[:2], MX)


def test_an_authority_sent_along_that_issued_nothing_does_not_count() -> None:
    smuggled = (der(STRANGER), der(MIDDLE), der(ROOT))
    assert not matches(Tlsa(2, 1, 1, hashlib.sha256(spki(MIDDLE)).digest()), smuggled, MX)


def test_usage_2_wants_the_hosts_name_and_usage_3_does_not() -> None:
    chain = OTHER_NAME.chain
    assert not matches(Tlsa(2, 1, 1, hashlib.sha256(spki(MIDDLE)).digest()), chain, MX)
    assert matches(Tlsa(3, 1, 1, hashlib.sha256(spki(OTHER_NAME)).digest()), chain, MX)
    starred = identity("*.example.com", MIDDLE).chain
    assert matches(Tlsa(2, 1, 1, hashlib.sha256(spki(MIDDLE)).digest()), starred, MX)
    assert not matches(Tlsa(2, 1, 1, hashlib.sha256(spki(MIDDLE)).digest()), starred, "a.b.example.com")


def test_no_chain_matches_nothing() -> None:
    assert not matches(Tlsa(3, 1, 1, bytes(32)), (), MX)
    assert not matches(Tlsa(2, 0, 0, der(ROOT)), (), MX)


@pytest.mark.parametrize(
    "record",
    [
        Tlsa(0, 1, 1, bytes(32)),
        Tlsa(1, 1, 1, bytes(32)),
        Tlsa(3, 2, 1, bytes(32)),
        Tlsa(3, 1, 3, bytes(32)),
        Tlsa(3, 1, 1, bytes(31)),
        Tlsa(3, 1, 2, bytes(32)),
    ],
)
def test_a_record_that_senders_ignore(record: Tlsa) -> None:
    assert usable(record)


# The live world


@dataclass
class World:
    """A name server, an MX host and a policy host on loopback."""

    zone: Nameserver
    policy: Web
    stack: AsyncExitStack
    directory: Path

    @property
    def lookup(self) -> Lookup:
        """Asks its name server only."""
        return Lookup(["127.0.0.1"], port=self.zone.port, timeout_ms=1000)

    @property
    def https(self) -> HttpsSettings:
        """Trusts its root only."""
        return HttpsSettings(self.policy.port, 5000, ROOT.roots())

    async def mx(self, served: Identity | None) -> SmtpSettings:
        """An MX host that serves this certificate, or offers no STARTTLS."""
        tls = served.server_context(self.directory) if served else None
        settings = IntakeSettings(bytes(32), frozenset({"probe@example.com"}), tls=tls)
        server = await start(settings, "127.0.0.1", 0)
        self.stack.push_async_callback(server.close)
        return SmtpSettings(server.address[1], "probe.example", 5000, ROOT.roots())

    def publish_tlsa(self, port: int, *records: Tlsa) -> None:
        """Put TLSA records into the zone."""
        texts = [f"{one.usage} {one.selector} {one.matching} {one.data.hex()}" for one in records]
        self.zone.add(f"_{port}._tcp.{MX}", "TLSA", *texts)

    async def tlsa(self, settings: SmtpSettings) -> list[TrustFinding]:
        """What is said of the MX host's TLSA records."""
        host = MailHost(MX, (LOOPBACK,), authenticated=self.zone.validated)
        return await check_tlsa(host, settings.port, await served_by(host, settings), self.lookup)

    async def sts(self, settings: SmtpSettings | None = None, hosts: Sequence[str] = (MX,)) -> list[TrustFinding]:
        """What is said of the domain's MTA-STS."""
        served: tuple[Served, ...] = ()
        if settings is not None:
            served = await served_by(MailHost(MX, (LOOPBACK,)), settings)
        return await check_mta_sts(DOMAIN, hosts, served, self.lookup, self.https)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Everything well: a policy that covers the MX host, a zone that a resolver has validated."""
    async with AsyncExitStack() as stack:
        zone = await stack.enter_async_context(nameserver())
        policy = await stack.enter_async_context(web(WEB_IDENTITY.server_context(tmp_path)))
        zone.validated = True
        zone.add(DOMAIN, "MX", f"10 {MX}.")
        for host in (MX, POLICY_HOST):
            zone.add(host, "A", "127.0.0.1")
        zone.text("_mta-sts.example.com", "v=STSv1; id=20261026;")
        policy.body = POLICY
        yield World(zone, policy, stack, tmp_path)


def summary(found: Sequence[TrustFinding]) -> list[tuple[Severity, str]]:
    """Severities and texts."""
    return [(one.severity, one.text) for one in found]


GOOD = Tlsa(3, 1, 1, hashlib.sha256(spki(MX_IDENTITY)).digest())


# TLSA, live


async def test_the_record_of_the_certificate_served(world: World) -> None:
    settings = await world.mx(MX_IDENTITY)
    world.publish_tlsa(settings.port, GOOD)
    (found,) = await world.tlsa(settings)
    assert (found.subject, found.severity) == ("mx.example.com [127.0.0.1]", Severity.OK)


async def test_a_rollover_one_record_of_two_matches(world: World) -> None:
    settings = await world.mx(MX_IDENTITY)
    world.publish_tlsa(settings.port, Tlsa(3, 1, 1, bytes(32)), GOOD)
    assert [one.severity for one in await world.tlsa(settings)] == [Severity.OK]


async def test_a_certificate_renewed_without_its_record_is_a_problem_with_the_record_to_publish(world: World) -> None:
    settings = await world.mx(STRANGER)
    world.publish_tlsa(settings.port, GOOD)
    (found,) = await world.tlsa(settings)
    assert (found.severity, "no TLSA record matches" in found.text) == (Severity.PROBLEM, True)
    assert found.remedy == f"publish: 3 1 1 {hashlib.sha256(spki(STRANGER)).hexdigest()}"


async def test_usage_3_holds_for_an_expired_certificate_that_nobody_trusts(world: World) -> None:
    for served in (EXPIRED, STRANGER):
        settings = await world.mx(served)
        world.publish_tlsa(settings.port, Tlsa(3, 1, 1, hashlib.sha256(spki(served)).digest()))
        assert [one.severity for one in await world.tlsa(settings)] == [Severity.OK]


async def test_records_without_dnssec_are_said_to_be_ignored(world: World) -> None:
    world.zone.validated = False
    settings = await world.mx(MX_IDENTITY)
    world.publish_tlsa(settings.port, GOOD)
    found = await world.tlsa(settings)
    assert [one.severity for one in found] == [Severity.WARNING, Severity.OK]
    assert "not validated" in found[0].text


async def test_only_records_that_senders_ignore_are_a_problem(world: World) -> None:
    settings = await world.mx(MX_IDENTITY)
    world.publish_tlsa(settings.port, Tlsa(1, 1, 1, GOOD.data))
    assert [one.severity for one in await world.tlsa(settings)] == [Severity.WARNING, Severity.PROBLEM]


async def test_no_records_no_dane(world: World) -> None:
    assert summary(await world.tlsa(await world.mx(MX_IDENTITY))) == [(Severity.OK, "no TLSA record: DANE is not used")]


async def test_records_that_cannot_be_asked_for_are_an_error(world: World) -> None:
    settings = await world.mx(MX_IDENTITY)
    world.zone.broken[f"_{settings.port}._tcp.{MX}"] = dns.rcode.SERVFAIL
    assert [one.severity for one in await world.tlsa(settings)] == [Severity.ERROR]


async def test_a_host_with_records_that_offers_no_tls_is_a_problem(world: World) -> None:
    settings = await world.mx(None)
    world.publish_tlsa(settings.port, GOOD)
    assert summary(await world.tlsa(settings)) == [(Severity.PROBLEM, "STARTTLS is not offered")]


async def test_a_host_that_cannot_be_reached_is_an_error_of_ours(world: World) -> None:
    settings = await world.mx(MX_IDENTITY)
    await world.stack.aclose()
    (served,) = await served_by(MailHost(MX, (LOOPBACK,)), settings)
    assert (served.chain, served.unreachable) == ((), True)
    assert served.trouble.startswith(f"cannot speak to port {settings.port}: ")


async def test_the_whole_chain_is_seen_and_what_pkix_says_of_it(world: World) -> None:
    host = MailHost(MX, (LOOPBACK,))
    said = {}
    for name, one in {"good": MX_IDENTITY, "expired": EXPIRED, "name": OTHER_NAME, "stranger": STRANGER}.items():
        (served,) = await served_by(host, await world.mx(one))
        assert served.chain == one.chain
        said[name] = served.refused
    assert said["good"] == ""
    assert "expired" in said["expired"]
    assert "mismatch" in said["name"]
    assert "self-signed" in said["stranger"]


@pytest.mark.parametrize(
    ("spoken", "trouble"),
    [
        (b"554 go away\r\n", "the greeting was answered with 554 go away"),
        (b"220 hello\r\n250-x\r\n250 STARTTLS\r\n454 not now\r\n", "STARTTLS was answered with 454 not now"),
        (b"220 hello\r\n250 STARTTLS\r\n220 go\r\n", "the TLS handshake failed: "),
        (b"220 " + b"x" * 100_000, "cannot speak to port "),
        (b"220-x\r\n" * 200, "the greeting: an endless reply"),
        (b"", "cannot speak to port "),
    ],
    ids=["refused", "not now", "no TLS", "endless line", "endless reply", "gone"],
)
async def test_whatever_a_server_says_is_put_into_words(world: World, spoken: bytes, trouble: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(spoken)
        if spoken.endswith(b"220 go\r\n"):
            await reader.readuntil(b"STARTTLS\r\n")
            await reader.read(5)
            writer.write(b"no TLS at all\r\n")
        writer.write_eof()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        settings = SmtpSettings(server.sockets[0].getsockname()[1], "probe.example", 5000, ROOT.roots())
        (served,) = await served_by(MailHost(MX, (LOOPBACK,)), settings)
    assert served.chain == ()
    assert served.trouble.startswith(trouble)


# MTA-STS, live


async def test_a_policy_that_the_mx_host_keeps(world: World) -> None:
    assert summary(await world.sts(await world.mx(MX_IDENTITY))) == [
        (Severity.OK, "mode enforce, covers mx.example.com, for 7 days")
    ]
    (request,) = world.policy.requests
    assert request.startswith(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n")
    assert b"\r\nhost: mta-sts.example.com\r\n" in request.lower()


@pytest.mark.parametrize(
    ("served", "text"),
    [
        (EXPIRED, "does not keep the policy: certificate has expired"),
        (OTHER_NAME, "does not keep the policy: Hostname mismatch"),
        (STRANGER, "does not keep the policy: self-signed"),
        (None, "STARTTLS is not offered"),
    ],
    ids=["expired", "another name", "nobody trusts it", "no TLS"],
)
async def test_an_mx_host_that_breaks_its_domains_policy(world: World, served: Identity | None, text: str) -> None:
    found = await world.sts(await world.mx(served))
    assert [(one.severity, one.subject) for one in found if one.severity != Severity.OK] == [
        (Severity.PROBLEM, "mx.example.com [127.0.0.1]")
    ]
    assert text in found[-1].text


async def test_an_mx_host_that_the_policy_does_not_cover(world: World) -> None:
    found = await world.sts(hosts=(MX, "mx2.example.com"))
    assert [(one.severity, one.subject) for one in found] == [(Severity.PROBLEM, "mx2.example.com")]
    world.policy.body = POLICY.replace(b"enforce", b"testing")
    found = await world.sts(hosts=("mx2.example.com",))
    assert {one.severity for one in found} == {Severity.WARNING}


async def test_a_policy_that_expires_at_once_is_said(world: World) -> None:
    world.policy.body = POLICY.replace(b"604800", b"3600")
    assert [one.severity for one in await world.sts()] == [Severity.WARNING]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"status": "404 Not Found"}, "status 404"),
        ({"status": "301 Moved", "headers": {"Content-Type": "text/plain", "Location": "/x"}}, "status 301"),
        ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "serves text/html"),
        ({"body": b"x" * 70_000}, "more than 65536 octets"),
        ({"body": b"\xff"}, "no UTF-8"),
        ({"body": b"hello"}, "key: value"),
        ({"body": POLICY.replace(b"mx: mx.example.com\r\n", b"")}, "at least one mx"),
        ({"status": "garbage"}, "fetching from [127.0.0.1] failed"),
    ],
    ids=["404", "redirect", "html", "too large", "no text", "no policy", "no mx", "no HTTP"],
)
async def test_a_policy_that_senders_cannot_use(world: World, change: dict[str, object], text: str) -> None:
    for key, value in change.items():
        setattr(world.policy, key, value)
    (found,) = await world.sts()
    assert found.severity == Severity.PROBLEM
    assert text in found.text
    assert found.remedy


async def test_a_policy_host_with_a_certificate_of_another_name(world: World) -> None:
    other = await world.stack.enter_async_context(web(OTHER_NAME.server_context(world.directory)))
    other.body = POLICY
    world.policy.port = other.port
    (found,) = await world.sts()
    assert (found.severity, found.subject) == (Severity.PROBLEM, POLICY_HOST)
    assert "CERTIFICATE_VERIFY_FAILED" in found.text


async def test_a_policy_host_that_is_not_there_and_one_that_cannot_be_asked_for(world: World) -> None:
    del world.zone.zone[POLICY_HOST]
    assert summary(await world.sts()) == [(Severity.PROBLEM, "the policy host has no address")]
    world.zone.broken[POLICY_HOST] = dns.rcode.SERVFAIL
    assert [one.severity for one in await world.sts()] == [Severity.ERROR]


async def test_no_record_two_records_and_a_bad_one(world: World) -> None:
    world.zone.add("_mta-sts.example.com", "TXT", '"v=STSv1; id=1;"', '"v=STSv1; id=2;"')
    assert [one.severity for one in await world.sts()] == [Severity.PROBLEM]
    world.zone.text("_mta-sts.example.com", "v=STSv1; id=not/letters;")
    assert [one.severity for one in await world.sts()] == [Severity.PROBLEM]
    world.zone.text("_mta-sts.example.com", "something else")
    assert [one.severity for one in await world.sts()] == [Severity.WARNING]
    assert world.policy.requests == []


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("mx.example.com", "MX.example.com.", True),
        ("*.example.com", "mx.example.com", True),
        ("*.example.com", "a.mx.example.com", False),
        ("*.example.com", "example.com", False),
        ("*.example.com", ".example.com", False),
        ("mx.example.com", "mx.example.com.evil.example", False),
    ],
)
def test_a_pattern_of_a_policy(pattern: str, host: str, expected: bool) -> None:
    assert covers(pattern, host) == expected


# Everything


async def report(world: World, settings: SmtpSettings, request: TrustRequest) -> TrustReport:
    """Look at everything."""
    return await check_trust(request, TrustContext(world.lookup, settings, world.https))


async def test_a_domain_where_all_is_well(world: World) -> None:
    settings = await world.mx(MX_IDENTITY)
    world.publish_tlsa(settings.port, GOOD)
    zone = world.zone
    zone.text(DOMAIN, "v=spf1 mx -all")
    zone.text("_dmarc.example.com", "v=DMARC1; p=reject; rua=mailto:reports@example.com")
    zone.text("_smtp._tls.example.com", "v=TLSRPTv1; rua=mailto:tls@example.com")
    zone.text("s1._domainkey.example.com", f"v=DKIM1; k=ed25519; p={'A' * 43}=")
    zone.add("1.0.0.127.in-addr.arpa", "PTR", f"{MX}.")
    zone.add("2.0.0.127.zen.example", "A", "127.0.0.2")
    # The host's own address is RFC 5782's that is never listed: asked for twice, both times as it should be.
    request = TrustRequest("Example.com.", ("s1",), lists=(BlockList("zen.example"),))
    found = await report(world, settings, request)
    assert found.worst == Severity.OK, found
    assert [one.check for one in found.findings] == [one for one in Check if one is not Check.ALL]
    assert found.to_json()["worst"] == "ok"
    assert found.to_json()["findings"][0] == {
        "check": "mx",
        "subject": "example.com",
        "severity": "ok",
        "text": "mail goes to mx.example.com",
        "remedy": "",
    }


async def test_a_bare_domain_gets_a_report_and_what_was_not_looked_at_is_said(world: World) -> None:
    found = await report(world, await world.mx(None), TrustRequest(DOMAIN, connect=False))
    assert found.worst == Severity.PROBLEM
    unseen = [one.check for one in found.findings if one.text.startswith("not looked at")]
    assert unseen == [Check.DKIM, Check.TLSA, Check.DNSBL]


@pytest.mark.parametrize(
    ("served", "severity", "text"),
    [
        (EXPIRED, Severity.WARNING, "would not be trusted: certificate has expired"),
        (None, Severity.WARNING, "STARTTLS is not offered"),
    ],
    ids=["expired", "no TLS"],
)
async def test_an_mx_hosts_tls_is_looked_at_where_no_policy_asks_for_it(
    world: World, served: Identity | None, severity: Severity, text: str
) -> None:
    del world.zone.zone["_mta-sts.example.com"]
    found = await report(world, await world.mx(served), TrustRequest(DOMAIN))
    (about,) = [one for one in found.findings if one.subject == "mx.example.com [127.0.0.1]"]
    assert (about.check, about.severity, text in about.text) == (Check.MX, severity, True)


async def test_an_mx_host_that_cannot_be_reached_is_never_silence(world: World) -> None:
    closed = await start(IntakeSettings(bytes(32), frozenset({"probe@example.com"})), "127.0.0.1", 0)
    await closed.close()
    settings = SmtpSettings(closed.address[1], "probe.example", 5000, ROOT.roots())
    found = await report(world, settings, TrustRequest(DOMAIN))
    about = {one.check: one.severity for one in found.findings if one.subject == "mx.example.com [127.0.0.1]"}
    assert about == {Check.MX: Severity.ERROR, Check.MTA_STS: Severity.ERROR}


async def test_a_domain_of_other_letters_is_asked_for_as_the_dns_has_it(world: World) -> None:
    world.zone.add("xn--mnchen-3ya.example", "MX", "0 .")
    found = await report(world, SmtpSettings(), TrustRequest("München.example"))
    assert found.domain == "xn--mnchen-3ya.example"
    assert summary(found.findings)[0] == (Severity.OK, "takes no mail, and says so (RFC 7505)")


@pytest.mark.parametrize("domain", ["a..example", "x" * 64 + ".example", "." * 3])
async def test_what_is_no_domain_is_said(world: World, domain: str) -> None:
    found = await report(world, SmtpSettings(), TrustRequest(domain))
    assert summary(found.findings) == [(Severity.PROBLEM, "no valid name of a domain")]
    assert not world.zone.asked


async def test_a_dead_resolver_gives_errors_and_no_problem(world: World) -> None:
    settings = await world.mx(MX_IDENTITY)
    world.zone.broken[DOMAIN] = dns.rcode.REFUSED
    found = await report(world, settings, TrustRequest(DOMAIN, ("s1",)))
    assert found.worst == Severity.ERROR
    assert {one.text for one in found.findings if one.severity == Severity.ERROR} >= {"the resolver refused"}


def test_the_association_of_a_certificate_that_is_none() -> None:
    assert association(b"anything", 0, 1) == hashlib.sha256(b"anything").digest()
    with pytest.raises(ValueError, match=r"."):
        association(b"anything", 1, 1)


def test_a_private_authority_is_trusted_by_nobody_else() -> None:
    assert ssl.create_default_context().cert_store_stats() != ROOT.roots().cert_store_stats()
