"""Who takes the mail of a domain: its MX hosts and their addresses (RFC 5321 5.1)."""

from dataclasses import dataclass
from typing import Final

from smartmail.monitor.trust.finding import Severity, TrustCheck, TrustFinding, finding
from smartmail.monitor.trust.lookup import Address, Lookup, Status, host_text

MAX_HOSTS: Final = 20
MAX_ADDRESSES: Final = 8
"""Looked at of one domain, and of one host: a zone does not decide how much we do."""


@dataclass(frozen=True, slots=True)
class MailHost:
    """One MX host. authenticated: the MX record and the addresses came with a validated answer."""

    name: str
    addresses: tuple[Address, ...]
    authenticated: bool = False


async def mail_hosts(domain: str, lookup: Lookup) -> tuple[tuple[MailHost, ...], list[TrustFinding]]:
    """The MX hosts of a domain by preference, and what is wrong with them. A domain without MX is its own host."""
    answer = await lookup.ask(domain, "MX")
    if answer.failed:
        return (), [finding(TrustCheck.MX, domain, Severity.ERROR, f"MX: {answer.status}", "ask another resolver")]
    if answer.status == Status.NO_NAME:
        return (), [finding(TrustCheck.MX, domain, Severity.PROBLEM, "there is no such domain", "look at the name")]
    records = sorted(answer.records, key=lambda record: (record.preference, record.exchange))  # type: ignore[attr-defined]
    names = [host_text(record.exchange) for record in records[:MAX_HOSTS]]  # type: ignore[attr-defined]
    if names == [""]:
        return (), [finding(TrustCheck.MX, domain, Severity.OK, "takes no mail, and says so (RFC 7505)")]
    found: list[TrustFinding] = []
    if not names:
        text = "no MX record: servers fall back to the address of the domain itself"
        found.append(finding(TrustCheck.MX, domain, Severity.WARNING, text, "publish an MX record"))
    hosts = []
    for name in names or [domain]:
        host, about = await _host(name, answer.authenticated, lookup)
        hosts += host
        found += about
    if not any(one.severity == Severity.PROBLEM for one in found) and names:
        found.append(finding(TrustCheck.MX, domain, Severity.OK, f"mail goes to {', '.join(names)}"))
    return tuple(hosts), found


async def _host(name: str, authenticated: bool, lookup: Lookup) -> tuple[list[MailHost], list[TrustFinding]]:
    answer, addresses = await lookup.addresses(name)
    if addresses:
        return [MailHost(name, addresses[:MAX_ADDRESSES], authenticated and answer.authenticated)], []
    if answer.failed:
        return [], [finding(TrustCheck.MX, name, Severity.ERROR, f"its address: {answer.status}")]
    text = "an MX host without an address"
    return [], [finding(TrustCheck.MX, name, Severity.PROBLEM, text, "give it an A or AAAA record, or drop the MX")]
