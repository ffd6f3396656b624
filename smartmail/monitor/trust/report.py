"""All trust checks of a domain in one report: once an hour, advisory, never part of any SLA (DESIGN section 4)."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dns.exception
import dns.name

from smartmail.monitor.trust.dnsbl import BlockList, check_lists
from smartmail.monitor.trust.finding import Severity, TrustCheck, TrustFinding, finding, worst
from smartmail.monitor.trust.hosts import MailHost, mail_hosts
from smartmail.monitor.trust.lookup import Address, Lookup
from smartmail.monitor.trust.mta_sts import HttpsSettings, check_mta_sts
from smartmail.monitor.trust.ptr import check_ptr
from smartmail.monitor.trust.served import Served, SmtpSettings, check_served, served_by
from smartmail.monitor.trust.spf_dkim_dmarc import check_dkim, check_dmarc, check_spf, check_tls_rpt
from smartmail.monitor.trust.tlsa import check_tlsa


@dataclass(frozen=True, slots=True)
class TrustRequest:
    """What to look at. selectors: of DKIM. senders: addresses that mail leaves from, besides those of the MX hosts.
    lists: block lists to ask; nobody else is. connect: speak to the MX hosts' port."""

    domain: str
    selectors: tuple[str, ...] = ()
    senders: tuple[Address, ...] = ()
    lists: tuple[BlockList, ...] = ()
    connect: bool = True


@dataclass(frozen=True, slots=True)
class TrustContext:
    """By whom and how to ask."""

    lookup: Lookup
    smtp: SmtpSettings = field(default_factory=SmtpSettings)
    https: HttpsSettings = field(default_factory=HttpsSettings)


@dataclass(frozen=True, slots=True)
class TrustReport:
    """What was found, in the order of TrustCheck."""

    domain: str
    findings: tuple[TrustFinding, ...]

    @property
    def worst(self) -> Severity:
        """The worst finding's severity."""
        return worst(self.findings)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "domain": self.domain,
            "worst": self.worst.value,
            "findings": [
                {
                    "check": one.check.value,
                    "subject": one.subject,
                    "severity": one.severity.value,
                    "text": one.text,
                    "remedy": one.remedy,
                }
                for one in self.findings
            ],
        }


async def check_trust(request: TrustRequest, context: TrustContext) -> TrustReport:
    """Look at everything. Raises only for a fault of ours: whatever the DNS and the servers do is a finding."""
    try:
        domain = dns.name.from_text(request.domain).to_text(omit_final_dot=True).lower()
    except (dns.exception.DNSException, UnicodeError):
        text = "no valid name of a domain"
        return TrustReport(request.domain, (finding(TrustCheck.MX, request.domain, Severity.PROBLEM, text),))
    hosts, found = await mail_hosts(domain, context.lookup)
    served: dict[MailHost, tuple[Served, ...]] = {}
    if request.connect:
        looked = await asyncio.gather(*(served_by(host, context.smtp) for host in hosts))
        served = dict(zip(hosts, looked, strict=True))
    addresses = _addresses(hosts, request.senders)
    everything = [one for of_host in served.values() for one in of_host]
    found += check_served(everything)
    names = [host.name for host in hosts]
    pieces: list[Awaitable[list[TrustFinding]]] = [
        check_spf(domain, context.lookup),
        check_dmarc(domain, context.lookup),
        check_tls_rpt(domain, context.lookup),
        check_mta_sts(domain, names, everything, context.lookup, context.https),
        check_lists(request.lists, addresses, domain, context.lookup),
        *(check_dkim(domain, selector, context.lookup) for selector in request.selectors),
        *(check_tlsa(host, context.smtp.port, of_host, context.lookup) for host, of_host in served.items()),
        *(check_ptr(address, context.lookup) for address in addresses),
    ]
    for part in await asyncio.gather(*pieces):
        found += part
    found += _not_looked_at(domain, request)
    order = list(TrustCheck)
    return TrustReport(domain, tuple(sorted(found, key=lambda one: order.index(one.check))))


def _addresses(hosts: Sequence[MailHost], senders: Sequence[Address]) -> tuple[Address, ...]:
    """Each address once."""
    return tuple(dict.fromkeys([*(address for host in hosts for address in host.addresses), *senders]))


def _not_looked_at(domain: str, request: TrustRequest) -> list[TrustFinding]:
    """Silence is not ok."""
    found = []
    if not request.selectors:
        text = "not looked at: no selector was named"
        found.append(finding(TrustCheck.DKIM, domain, Severity.WARNING, text, "name the selectors that you sign with"))
    if not request.lists:
        text = "not looked at: no list was named"
        found.append(finding(TrustCheck.DNSBL, domain, Severity.WARNING, text, "name the lists to ask"))
    if not request.connect:
        text = "not looked at: no MX host was spoken to"
        found.append(finding(TrustCheck.TLSA, domain, Severity.WARNING, text))
    return found
