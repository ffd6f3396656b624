"""The name of an address, confirmed forward: address -> PTR -> A/AAAA -> the same address (RFC 8601 2.7.3)."""

from typing import Final

from smartmail.monitor.trust.finding import Severity, TrustCheck, TrustFinding, finding
from smartmail.monitor.trust.lookup import Address, Lookup, host_text

_MAX_NAMES: Final = 10
"""PTR records looked at of one address."""


async def check_ptr(address: Address, lookup: Lookup) -> list[TrustFinding]:
    """Has an address a name, and does that name lead back to it?"""
    subject = str(address)
    answer = await lookup.ask(f"{address.reverse_pointer}.", "PTR")
    if answer.failed:
        return [finding(TrustCheck.PTR, subject, Severity.ERROR, str(answer.status), "ask another resolver")]
    names = sorted({host_text(record.target) for record in answer.records})[:_MAX_NAMES]  # type: ignore[attr-defined]
    if not names:
        remedy = "have the owner of the address set a PTR record"
        return [finding(TrustCheck.PTR, subject, Severity.PROBLEM, "no name: many servers refuse its mail", remedy)]
    confirmed: list[str] = []
    failed: list[str] = []
    for name in names:
        forward, addresses = await lookup.addresses(name)
        if address in addresses:
            confirmed.append(name)
        elif forward.failed:
            failed.append(f"{name}: {forward.status}")
    found = []
    if confirmed:
        found.append(finding(TrustCheck.PTR, subject, Severity.OK, f"is {', '.join(confirmed)}, and back"))
    elif failed:
        found.append(finding(TrustCheck.PTR, subject, Severity.ERROR, "; ".join(failed), "ask another resolver"))
    else:
        text, remedy = f"its name {', '.join(names)} does not lead back to it", "give that name this address"
        found.append(finding(TrustCheck.PTR, subject, Severity.PROBLEM, text, remedy))
    if len(names) > 1:
        text = f"{len(names)} names: {', '.join(names)}"
        found.append(finding(TrustCheck.PTR, subject, Severity.WARNING, text, "leave one, the name of its EHLO"))
    return found
