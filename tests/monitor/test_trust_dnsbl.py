"""Block lists, PTR and MX: a listing is a code that says so; everything else is told apart."""

from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address

import dns.rcode
import pytest
from trustworld import Nameserver, nameserver

from smartmail.monitor.trust.dnsbl import BlockList, ListKind, check_lists, query_name
from smartmail.monitor.trust.finding import Severity, TrustFinding, worst
from smartmail.monitor.trust.hosts import MAX_ADDRESSES, MAX_HOSTS, mail_hosts
from smartmail.monitor.trust.lookup import Lookup
from smartmail.monitor.trust.ptr import check_ptr

DOMAIN = "example.com"
FOUR, OTHER, SIX = ip_address("192.0.2.25"), ip_address("192.0.2.26"), ip_address("2001:db8::25")
ZEN = BlockList("zen.example")
TEST_SIX = "2.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.zen.example"


@pytest.fixture
async def zone() -> AsyncIterator[Nameserver]:
    """A name server with an empty block list that works, for both versions."""
    async with nameserver() as server:
        server.add("2.0.0.127.zen.example", "A", "127.0.0.2", "127.0.0.10")
        server.add(TEST_SIX, "A", "127.0.0.2")
        yield server


@pytest.fixture
def lookup(zone: Nameserver) -> Lookup:
    """Asks that name server only."""
    return Lookup(["127.0.0.1"], port=zone.port, timeout_ms=300)


def only(found: Sequence[TrustFinding]) -> tuple[str, Severity, str]:
    """Subject, severity and text of the one finding."""
    (one,) = found
    return one.subject, one.severity, one.text


def test_the_question_for_an_address_and_for_a_domain() -> None:
    assert query_name(FOUR, "zen.example") == "25.2.0.192.zen.example."
    assert query_name(SIX, "zen.example.") == f"5.2{'.0' * 22}.8.b.d.0.1.0.0.2.zen.example."
    assert query_name("example.com.", "dbl.example") == "example.com.dbl.example."


async def test_an_address_that_is_on_no_list(lookup: Lookup) -> None:
    found = await check_lists([ZEN], [FOUR, OTHER], DOMAIN, lookup)
    assert only(found) == ("zen.example", Severity.OK, "none of 192.0.2.25, 192.0.2.26 is on it")


async def test_a_listing_is_said_with_its_codes(zone: Nameserver, lookup: Lookup) -> None:
    zone.add("25.2.0.192.zen.example", "A", "127.0.0.4", "127.0.0.2")
    found = await check_lists([ZEN], [FOUR, OTHER], DOMAIN, lookup)
    assert only(found) == ("192.0.2.25", Severity.PROBLEM, "is on zen.example (127.0.0.2, 127.0.0.4)")


async def test_an_ipv6_address_is_asked_for_by_nibbles(zone: Nameserver, lookup: Lookup) -> None:
    zone.add(query_name(SIX, "zen.example").rstrip("."), "A", "127.0.0.3")
    found = await check_lists([ZEN], [SIX], DOMAIN, lookup)
    assert only(found) == ("2001:db8::25", Severity.PROBLEM, "is on zen.example (127.0.0.3)")


async def test_a_list_without_ipv6_is_not_asked_for_it(zone: Nameserver, lookup: Lookup) -> None:
    del zone.zone[TEST_SIX]
    found = await check_lists([ZEN], [SIX], DOMAIN, lookup)
    assert only(found)[1:] == (Severity.OK, "lists no IPv6 addresses: its test entry for them is not there")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("127.255.255.252", "the list's name is misspelt"),
        ("127.255.255.254", "refuses public and nameless resolvers"),
        ("127.255.255.255", "too many questions"),
        ("127.255.255.253", "answers with an error"),
        ("127.0.0.1", "refuses this resolver"),
        ("192.0.2.99", "somebody else answers"),
    ],
)
async def test_an_error_code_is_an_error_not_a_listing(zone: Nameserver, lookup: Lookup, code: str, text: str) -> None:
    # Such a list gives the code to every question.
    for name in ("2.0.0.127", "1.0.0.127", "25.2.0.192"):
        zone.add(f"{name}.zen.example", "A", code)
    subject, severity, said = only(await check_lists([ZEN], [FOUR], DOMAIN, lookup))
    assert (subject, severity) == ("zen.example", Severity.ERROR)
    assert text in said
    assert code in said


async def test_an_error_code_that_comes_late_is_no_listing_either(zone: Nameserver, lookup: Lookup) -> None:
    zone.add("25.2.0.192.zen.example", "A", "127.255.255.255")
    found = await check_lists([ZEN], [FOUR], DOMAIN, lookup)
    assert worst(found) == Severity.ERROR


@pytest.mark.parametrize(
    ("code", "text"),
    [(dns.rcode.REFUSED, "refused"), (dns.rcode.SERVFAIL, "failed"), (-1, "no answer in time")],
    ids=["refused", "servfail", "silent"],
)
async def test_a_resolver_that_gets_refused_is_said_as_such(
    zone: Nameserver, lookup: Lookup, code: int, text: str
) -> None:
    zone.broken["zen.example"] = code
    (found,) = await check_lists([ZEN], [FOUR], DOMAIN, lookup)
    assert found.severity == Severity.ERROR
    assert text in found.text
    assert found.remedy == "ask a resolver of your own, not a public one"


async def test_a_list_that_is_gone_says_nothing(zone: Nameserver, lookup: Lookup) -> None:
    del zone.zone["2.0.0.127.zen.example"]
    assert "test entry 127.0.0.2 is not there" in only(await check_lists([ZEN], [FOUR], DOMAIN, lookup))[2]


async def test_a_dead_list_that_lists_the_world_lists_nobody(zone: Nameserver, lookup: Lookup) -> None:
    for name in ("1.0.0.127", "25.2.0.192"):
        zone.add(f"{name}.zen.example", "A", "127.0.0.2")
    (found,) = await check_lists([ZEN], [FOUR], DOMAIN, lookup)
    assert (found.severity, "lists the world" in found.text) == (Severity.ERROR, True)


async def test_a_list_of_domains_is_asked_for_the_domain(zone: Nameserver, lookup: Lookup) -> None:
    dbl = BlockList("dbl.example", ListKind.DOMAINS)
    zone.add("test.dbl.example", "A", "127.0.1.2")
    assert only(await check_lists([dbl], [FOUR], DOMAIN, lookup))[1] == Severity.OK
    zone.add("example.com.dbl.example", "A", "127.0.1.4")
    assert only(await check_lists([dbl], [FOUR], DOMAIN, lookup))[1] == Severity.PROBLEM
    assert ("25.2.0.192.dbl.example", "A") not in zone.asked


async def test_a_list_of_domains_with_a_test_entry_of_its_own(zone: Nameserver, lookup: Lookup) -> None:
    zone.add("point.example.surbl.example", "A", "127.0.0.2")
    surbl = BlockList("surbl.example", ListKind.DOMAINS, test="point.example")
    assert only(await check_lists([surbl], [], DOMAIN, lookup))[1] == Severity.OK


async def test_nobody_is_asked_who_was_not_named(zone: Nameserver, lookup: Lookup) -> None:
    assert await check_lists([], [FOUR], DOMAIN, lookup) == []
    await check_lists([ZEN], [FOUR], DOMAIN, lookup)
    assert all(name.endswith(".zen.example") for name, _ in zone.asked)


# PTR


async def test_an_address_whose_name_leads_back(zone: Nameserver, lookup: Lookup) -> None:
    zone.add("25.2.0.192.in-addr.arpa", "PTR", "Mail.example.com.")
    zone.add("mail.example.com", "A", "192.0.2.25")
    assert only(await check_ptr(FOUR, lookup)) == ("192.0.2.25", Severity.OK, "is mail.example.com, and back")
    zone.add(SIX.reverse_pointer, "PTR", "mail.example.com.")
    zone.add("mail.example.com", "AAAA", "2001:db8::25")
    assert only(await check_ptr(SIX, lookup))[1] == Severity.OK


async def test_an_address_without_a_name(zone: Nameserver, lookup: Lookup) -> None:
    assert only(await check_ptr(FOUR, lookup))[1:] == (Severity.PROBLEM, "no name: many servers refuse its mail")


async def test_a_name_that_leads_elsewhere(zone: Nameserver, lookup: Lookup) -> None:
    zone.add("25.2.0.192.in-addr.arpa", "PTR", "host25.provider.example.")
    zone.add("host25.provider.example", "A", "192.0.2.99")
    severity, text = only(await check_ptr(FOUR, lookup))[1:]
    assert (severity, "does not lead back" in text) == (Severity.PROBLEM, True)


async def test_a_name_whose_address_cannot_be_asked_is_an_error(zone: Nameserver, lookup: Lookup) -> None:
    zone.add("25.2.0.192.in-addr.arpa", "PTR", "mail.example.com.")
    zone.broken["mail.example.com"] = dns.rcode.SERVFAIL
    assert only(await check_ptr(FOUR, lookup))[1] == Severity.ERROR
    zone.broken["25.2.0.192.in-addr.arpa"] = dns.rcode.REFUSED
    assert only(await check_ptr(FOUR, lookup))[1:] == (Severity.ERROR, "the resolver refused")


async def test_several_names_are_too_many(zone: Nameserver, lookup: Lookup) -> None:
    zone.add("25.2.0.192.in-addr.arpa", "PTR", "a.example.com.", "b.example.com.")
    zone.add("a.example.com", "A", "192.0.2.25")
    found = await check_ptr(FOUR, lookup)
    assert [one.severity for one in found] == [Severity.OK, Severity.WARNING]


# MX


async def test_the_hosts_of_a_domain_by_preference(zone: Nameserver, lookup: Lookup) -> None:
    zone.add(DOMAIN, "MX", "20 b.example.com.", "10 A.example.com.")
    zone.add("a.example.com", "A", "192.0.2.1")
    zone.add("b.example.com", "AAAA", "2001:db8::1")
    hosts, found = await mail_hosts(DOMAIN, lookup)
    assert [(host.name, list(map(str, host.addresses))) for host in hosts] == [
        ("a.example.com", ["192.0.2.1"]),
        ("b.example.com", ["2001:db8::1"]),
    ]
    assert only(found)[1:] == (Severity.OK, "mail goes to a.example.com, b.example.com")


async def test_a_domain_without_mx_is_its_own_host_and_is_told(zone: Nameserver, lookup: Lookup) -> None:
    zone.add(DOMAIN, "A", "192.0.2.1")
    hosts, found = await mail_hosts(DOMAIN, lookup)
    assert [host.name for host in hosts] == [DOMAIN]
    assert worst(found) == Severity.WARNING


async def test_a_domain_that_takes_no_mail_is_well(zone: Nameserver, lookup: Lookup) -> None:
    zone.add(DOMAIN, "MX", "0 .")
    hosts, found = await mail_hosts(DOMAIN, lookup)
    assert (hosts, worst(found)) == ((), Severity.OK)


async def test_an_mx_host_without_address_is_a_problem_and_one_that_cannot_be_asked_an_error(
    zone: Nameserver, lookup: Lookup
) -> None:
    zone.add(DOMAIN, "MX", "10 a.example.com.")
    assert worst((await mail_hosts(DOMAIN, lookup))[1]) == Severity.PROBLEM
    zone.broken["a.example.com"] = dns.rcode.SERVFAIL
    assert "a.example.com" in [one.subject for one in (await mail_hosts(DOMAIN, lookup))[1]]
    zone.broken[DOMAIN] = dns.rcode.REFUSED
    assert only((await mail_hosts(DOMAIN, lookup))[1])[1] == Severity.ERROR


async def test_no_such_domain(lookup: Lookup) -> None:
    assert only((await mail_hosts("nowhere.example", lookup))[1])[1] == Severity.PROBLEM


async def test_a_zone_does_not_decide_how_many_hosts_are_spoken_to(zone: Nameserver, lookup: Lookup) -> None:
    zone.add(DOMAIN, "MX", *(f"10 h{number}.example.com." for number in range(40)))
    for number in range(40):
        zone.add(f"h{number}.example.com", "A", *(f"192.0.2.{last}" for last in range(1, 31)))
    hosts, _ = await mail_hosts(DOMAIN, lookup)
    assert len(hosts) == MAX_HOSTS
    assert {len(host.addresses) for host in hosts} == {MAX_ADDRESSES}
