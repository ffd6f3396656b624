"""SPF, DKIM, DMARC, TLS-RPT: what is published, judged; what cannot be asked is never called wrong."""

import base64
import sys
from collections.abc import AsyncIterator, Sequence

import dns.rcode
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from trustworld import Nameserver, nameserver

from smartmail.monitor.trust.finding import Severity, TrustFinding, finding, printable, worst
from smartmail.monitor.trust.finding import TrustCheck as Check
from smartmail.monitor.trust.lookup import Lookup, Status
from smartmail.monitor.trust.spf_dkim_dmarc import check_dkim, check_dmarc, check_spf, check_tls_rpt

DOMAIN = "example.com"


@pytest.fixture
async def zone() -> AsyncIterator[Nameserver]:
    """A name server."""
    async with nameserver() as server:
        server.add(DOMAIN, "MX", "10 mx.example.com.")
        server.add("mx.example.com", "A", "127.0.0.1")
        yield server


@pytest.fixture
def lookup(zone: Nameserver) -> Lookup:
    """Asks that name server only."""
    return Lookup(["127.0.0.1"], port=zone.port, timeout_ms=1000)


def said(found: Sequence[TrustFinding], severity: Severity) -> str:
    """The texts of one severity."""
    return "\n".join(one.text for one in found if one.severity == severity)


# SPF


async def test_a_good_spf_record(zone: Nameserver, lookup: Lookup) -> None:
    zone.text(DOMAIN, "v=spf1 mx -all")
    (found,) = await check_spf(DOMAIN, lookup)
    assert (found.check, found.subject, found.severity) == (Check.SPF, DOMAIN, Severity.OK)
    assert found.text == "v=spf1 mx -all (1 of 10 lookups)"


@pytest.mark.parametrize(
    ("record", "severity", "text"),
    [
        (None, Severity.PROBLEM, "does not exist"),
        ("v=spf1 mx +all", Severity.PROBLEM, "everybody may send"),
        ("v=spf1 mx", Severity.WARNING, "says nothing about other senders"),
        ("v=spf1 mx ?all", Severity.WARNING, "says nothing about other senders"),
        ("v=spf1 ip4:300.1.2.3 -all", Severity.PROBLEM, "300.1.2.3"),
        ("v=spf1 " + "".join(f"include:s{n}.example.com " for n in range(11)) + "-all", Severity.PROBLEM, "11/10"),
        ("v=spf1 include:example.com -all", Severity.PROBLEM, "loop"),
    ],
    ids=["none", "everybody", "no end", "neutral", "syntax", "eleven lookups", "a loop"],
)
async def test_spf_that_does_not_hold(
    zone: Nameserver, lookup: Lookup, record: str | None, severity: Severity, text: str
) -> None:
    for number in range(11):
        zone.text(f"s{number}.example.com", "v=spf1 ip4:192.0.2.1 -all")
    if record is not None:
        zone.text(DOMAIN, record)
    found = await check_spf(DOMAIN, lookup)
    assert found[0].severity == severity
    assert text in found[0].text
    assert found[0].remedy


async def test_two_spf_records_are_none(zone: Nameserver, lookup: Lookup) -> None:
    zone.add(DOMAIN, "TXT", '"v=spf1 mx -all"', '"v=spf1 a -all"')
    assert "multiple" in said(await check_spf(DOMAIN, lookup), Severity.PROBLEM).lower()


async def test_a_changed_record_is_seen_at_the_next_look(zone: Nameserver, lookup: Lookup) -> None:
    zone.text(DOMAIN, "v=spf1 mx +all")
    assert worst(await check_spf(DOMAIN, lookup)) == Severity.PROBLEM
    zone.text(DOMAIN, "v=spf1 mx -all")
    assert worst(await check_spf(DOMAIN, lookup)) == Severity.OK


# DMARC and TLS-RPT


@pytest.mark.parametrize(
    ("record", "severity", "text"),
    [
        ("v=DMARC1; p=reject; rua=mailto:reports@example.com", Severity.OK, "p=reject"),
        ("v=DMARC1; p=none; rua=mailto:reports@example.com", Severity.WARNING, "p=none"),
        ("v=DMARC1; p=quarantine", Severity.WARNING, "nobody gets the reports"),
        ("v=DMARC1; p=perhaps", Severity.PROBLEM, "perhaps"),
        (None, Severity.PROBLEM, "does not exist"),
    ],
)
async def test_dmarc(zone: Nameserver, lookup: Lookup, record: str | None, severity: Severity, text: str) -> None:
    if record is not None:
        zone.text("_dmarc.example.com", record)
    found = await check_dmarc(DOMAIN, lookup)
    assert found[0].severity == severity, found
    assert text in found[0].text


@pytest.mark.parametrize(
    ("record", "severity"),
    [
        ("v=TLSRPTv1; rua=mailto:tls@example.com", Severity.OK),
        ("v=TLSRPTv1; rua=tls@example.com", Severity.PROBLEM),
        (None, Severity.WARNING),
    ],
)
async def test_tls_rpt(zone: Nameserver, lookup: Lookup, record: str | None, severity: Severity) -> None:
    if record is not None:
        zone.text("_smtp._tls.example.com", record)
    found = await check_tls_rpt(DOMAIN, lookup)
    assert found[0].severity == severity, found


# DKIM


def rsa_record(bits: int, extra: str = "") -> str:
    """The record of a new RSA key."""
    key = rsa.generate_private_key(65537, bits).public_key()
    octets = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"v=DKIM1; k=rsa; {extra}p={base64.b64encode(octets).decode()}"


def elliptic_record() -> str:
    """An elliptic key that says it is RSA."""
    octets = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    return f"p={base64.b64encode(octets).decode()}"


ED25519 = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("record", "severity", "text"),
    [
        (rsa_record(2048), Severity.OK, "an RSA key of 2048 bits"),
        (rsa_record(1024), Severity.WARNING, "an RSA key of 1024 bits"),
        (rsa_record(2048, "t=s:y; "), Severity.WARNING, "test mode"),
        (f"v=DKIM1; k=ed25519; p={ED25519}", Severity.OK, "an Ed25519 key"),
        (f"k=ed25519;p={ED25519[:20]} {ED25519[20:]};", Severity.OK, "an Ed25519 key"),
        ("v=DKIM1; k=ed25519; p=AAAA", Severity.PROBLEM, "of 3 octets"),
        ("v=DKIM1; k=rsa; p=", Severity.PROBLEM, "revoked"),
        ("v=DKIM1; k=rsa; p=AAAA", Severity.PROBLEM, "cannot be read"),
        ("v=DKIM1; k=rsa; p=!!!!", Severity.PROBLEM, "not base64"),
        ("v=DKIM1; k=dsa; p=AAAA", Severity.PROBLEM, "unknown kind"),
        ("v=DKIM2; p=AAAA", Severity.PROBLEM, "no DKIM key record"),
        ("v=DKIM1; k=rsa", Severity.PROBLEM, "no DKIM key record"),
        ("v=DKIM1; p=AAAA; p=BBBB", Severity.PROBLEM, "comes twice"),
        ("v=spf1 -all", Severity.PROBLEM, "no DKIM key record"),
        ("hello", Severity.PROBLEM, "no tag list"),
        (elliptic_record(), Severity.PROBLEM, "no RSA key"),
        (None, Severity.PROBLEM, "no key"),
    ],
)
async def test_a_dkim_key(zone: Nameserver, lookup: Lookup, record: str | None, severity: Severity, text: str) -> None:
    if record is not None:
        zone.text("s1._domainkey.example.com", record)
    (found,) = await check_dkim(DOMAIN, "s1", lookup)
    assert (found.severity, found.subject) == (severity, "s1._domainkey.example.com")
    assert text in found.text


async def test_two_records_at_a_selector_are_none(zone: Nameserver, lookup: Lookup) -> None:
    zone.add("s1._domainkey.example.com", "TXT", f'"k=ed25519; p={ED25519}"', '"x"')
    (found,) = await check_dkim(DOMAIN, "s1", lookup)
    assert found.severity == Severity.PROBLEM


async def test_a_selector_that_is_no_name_is_said(lookup: Lookup) -> None:
    (found,) = await check_dkim(DOMAIN, "a" * 64, lookup)
    assert (found.severity, found.text) == (Severity.PROBLEM, "no valid name")


# What cannot be asked


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (dns.rcode.REFUSED, "the resolver refused"),
        (dns.rcode.SERVFAIL, "the resolver failed (SERVFAIL or the like)"),
        (-1, "no answer in time"),
    ],
    ids=["refused", "servfail", "silent"],
)
async def test_a_resolver_that_does_not_answer_is_an_error_of_ours_not_a_missing_record(
    zone: Nameserver, code: int, text: str
) -> None:
    zone.broken[DOMAIN] = code
    lookup = Lookup(["127.0.0.1"], port=zone.port, timeout_ms=200)
    found = [
        *await check_spf(DOMAIN, lookup),
        *await check_dmarc(DOMAIN, lookup),
        *await check_tls_rpt(DOMAIN, lookup),
        *await check_dkim(DOMAIN, "s1", lookup),
    ]
    assert [(one.check, one.severity, one.text) for one in found] == [
        (check, Severity.ERROR, text) for check in (Check.SPF, Check.DMARC, Check.TLS_RPT, Check.DKIM)
    ]


async def test_without_checkdmarc_the_rest_is_looked_at_and_this_is_said(
    zone: Nameserver, lookup: Lookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "checkdmarc", None)
    zone.text("_smtp._tls.example.com", "v=TLSRPTv1; rua=mailto:tls@example.com")
    checks = (check_spf, check_dmarc, check_tls_rpt)
    found = [one for check in checks for one in await check(DOMAIN, lookup)]
    assert {(one.severity, one.remedy) for one in found} == {(Severity.ERROR, "install smartmail[deliverability]")}
    assert len(found) == 3


async def test_no_such_name_and_no_such_record_are_told_apart(zone: Nameserver, lookup: Lookup) -> None:
    assert (await lookup.ask("nowhere.example.org", "TXT")).status == Status.NO_NAME
    assert (await lookup.ask(DOMAIN, "AAAA")).status == Status.NO_DATA
    assert (await lookup.ask("mx.example.com", "A")).status == Status.FOUND


async def test_the_resolvers_word_on_dnssec_is_kept(zone: Nameserver, lookup: Lookup) -> None:
    assert not (await lookup.ask("mx.example.com", "A")).authenticated
    zone.validated = True
    assert (await lookup.ask("mx.example.com", "A")).authenticated


async def test_a_large_answer_comes_by_tcp(zone: Nameserver, lookup: Lookup) -> None:
    zone.add("large.example.com", "TXT", *(f'"{number:0200d}"' for number in range(60)))
    answer, texts = await lookup.texts("large.example.com")
    assert (answer.status, len(texts)) == (Status.FOUND, 60)


# The values


def test_a_problem_outweighs_an_error_outweighs_a_warning() -> None:
    def of(*severities: Severity) -> Severity:
        return worst([finding(Check.SPF, "", severity, "") for severity in severities])

    assert of() == of(Severity.OK) == Severity.OK
    assert of(Severity.OK, Severity.WARNING) == Severity.WARNING
    assert of(Severity.WARNING, Severity.ERROR) == Severity.ERROR
    assert of(Severity.ERROR, Severity.PROBLEM, Severity.OK) == Severity.PROBLEM


def test_what_somebody_put_into_the_dns_reaches_no_terminal() -> None:
    assert printable("a\x1b[31m\nb\u202e c") == "a\ufffd[31m b\ufffd c"
    assert len(printable("x" * 10_000)) == 400
