"""The DNS of a mail domain: its servers agree, its mail hosts are the right ones and have addresses, and, where it is
signed, the signatures are fresh."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckSpec
from smartmail.monitor.probes.context import ProbeContext
from smartmail.monitor.probes.conversation import Target, resolve
from smartmail.monitor.probes.observation import Observation, Visit, observe
from smartmail.monitor.probes.resolver import NoNameserverError, ResolveError

if TYPE_CHECKING:
    from dns.message import Message, QueryMessage
    from dns.resolver import Answer

T = TypeVar("T")

WARN_HOURS: Final = 48
"""Signers renew days before the end: fewer hours left are worth a word."""
SOA_WAIT_MS: Final = 4_000
"""Servers that disagree are asked again after so long: a new zone takes a moment from one to the others."""
MAX_SERVERS: Final = 16
_TRIES: Final = 2
_TRY_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _State:
    """What a server of the zone says. signatures: (inception, expiration) of those over SOA and MX, epoch seconds."""

    server: str
    serial: int
    signatures: tuple[tuple[int, int], ...] = ()


async def probe_dns(check: CheckSpec, context: ProbeContext) -> Observation:
    """Look at the zone `host`, whose servers listen on `port`.

    Failures are DNS. Options: mx (the names that must be there, with commas), dnssec ("yes": SOA and MX must be signed,
    now), warn_hours (of signatures), soa_wait_ms, family, resolver.
    """
    return await observe(check, context, _dns)


async def _dns(visit: Visit) -> Outcome:
    wait_ms = visit.number("soa_wait_ms", SOA_WAIT_MS)
    warn_hours = visit.number("warn_hours", WARN_HOURS)
    signed = visit.check.option("dnssec") == "yes"
    visit.phase("dns")
    servers = await _servers(visit)
    await _mail_hosts(visit)
    visit.phase("command")
    states = await _states(visit, servers, signed=signed)
    if len({state.serial for state in states}) > 1:
        await asyncio.sleep(wait_ms / 1000)
        states = await _states(visit, servers, signed=signed)
    serials = {state.serial for state in states}
    visit.at = "SOA"
    if len(serials) > 1:
        told = ", ".join(f"{state.server} {state.serial}" for state in states)
        raise visit.failure(Outcome.DNS, f"the servers disagree: {told}")
    visit.facts["serial"], visit.facts["servers"] = serials.pop(), len(states)
    return _freshness(visit, states, warn_hours) if signed else Outcome.OK


async def _all(works: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """All of them at once, and none still under way when the first failure is raised."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def _answer(visit: Visit, name: str, kind: str) -> "Answer":
    visit.at = kind
    try:
        answer = await visit.context.resolver.answer(
            name, kind, visit.check.option("resolver"), min(10.0, visit.timeout_ms / 2000)
        )
    except ResolveError as error:
        raise visit.failure(Outcome.DNS, str(error)) from None
    except NoNameserverError as error:
        raise visit.failure(Outcome.MONITOR_ERROR, str(error)) from None
    if answer is None or answer.rrset is None:
        raise visit.failure(Outcome.DNS, f"{name} has no {kind}")
    return answer


async def _servers(visit: Visit) -> tuple[_Server, ...]:
    answer = await _answer(visit, visit.check.host, "NS")
    names = sorted(record.target.to_text(omit_final_dot=True).lower() for record in answer)[:MAX_SERVERS]
    found = await _all(_addresses(visit, name) for name in names)
    return tuple(_Server(name, addresses) for name, addresses in zip(names, found, strict=True))


async def _addresses(visit: Visit, name: str) -> tuple[str, ...]:
    return await resolve(visit, Target(name, 0, "", visit.check.option("family"), visit.check.option("resolver")))


async def _mail_hosts(visit: Visit) -> None:
    answer = await _answer(visit, visit.check.host, "MX")
    names = {record.exchange.to_text(omit_final_dot=True).lower() for record in answer}
    if expected := visit.check.option("mx"):
        wanted = {name.strip().rstrip(".").lower() for name in expected.split(",")}
        if names != wanted:
            raise visit.failure(Outcome.DNS, f"the mail hosts are {', '.join(sorted(names))}")
    visit.at = "addresses of the MX"
    await _all(_addresses(visit, name) for name in sorted(names))


async def _states(visit: Visit, servers: Sequence[_Server], *, signed: bool) -> tuple[_State, ...]:
    visit.at = "SOA"
    return tuple(await _all(_state(visit, server, signed=signed) for server in servers))


async def _state(visit: Visit, server: _Server, *, signed: bool) -> _State:
    import dns.flags
    import dns.rdatatype

    zone = visit.check.host.rstrip(".") + "."
    replies = [await _ask(visit, server, zone, kind, signed=signed) for kind in (("SOA", "MX") if signed else ("SOA",))]
    if not replies[0].flags & dns.flags.AA:
        raise visit.failure(Outcome.DNS, f"{server.name} is not authoritative")
    serials = [r.serial for s in replies[0].answer if s.rdtype == dns.rdatatype.SOA for r in s]
    if len(serials) != 1:
        raise visit.failure(Outcome.DNS, f"{server.name} has no SOA")
    signatures: list[tuple[int, int]] = []
    for reply, kind in zip(replies, (dns.rdatatype.SOA, dns.rdatatype.MX), strict=False):
        of_kind = [
            (record.inception, record.expiration)
            for records in reply.answer
            if records.rdtype == dns.rdatatype.RRSIG and records.covers == kind
            for record in records
        ]
        if signed and not of_kind:
            raise visit.failure(Outcome.DNS, f"{server.name}: {kind.name} is not signed")
        signatures += of_kind
    return _State(server.name, serials[0], tuple(signatures))


async def _ask(visit: Visit, server: _Server, zone: str, kind: str, *, signed: bool) -> "Message":
    """The server's answer, of the first of its addresses that gives one. Raises ProbeFailure."""
    import dns.asyncquery
    import dns.exception
    import dns.message
    import dns.rcode

    query: QueryMessage = dns.message.make_query(zone, kind, want_dnssec=signed, flags=0)
    for _ in range(_TRIES):
        for address in server.addresses:
            try:
                reply, _ = await dns.asyncquery.udp_with_fallback(
                    query, address, _TRY_SECONDS, visit.check.port, ignore_unexpected=True, ignore_errors=True
                )
            except (dns.exception.DNSException, EOFError):
                continue
            except OSError as error:
                if visit.fault(error).outcome is Outcome.MONITOR_ERROR:
                    raise
                continue
            if reply.rcode() != dns.rcode.NOERROR:
                raise visit.failure(Outcome.DNS, f"{server.name} says {dns.rcode.to_text(reply.rcode())}")
            return reply
    raise visit.failure(Outcome.DNS, f"{server.name} does not answer")


def _freshness(visit: Visit, states: Sequence[_State], warn_hours: int) -> Outcome:
    now = visit.context.now_ms() // 1000
    visit.at = "DNSSEC"
    for state in states:
        for inception, _ in state.signatures:
            if inception > now:
                raise visit.failure(Outcome.DNS, f"{state.server}: a signature is not valid yet")
    server, until = min(((s.server, end) for s in states for _, end in s.signatures), key=lambda pair: pair[1])
    visit.facts["signature_expires"] = until
    if until < now:
        raise visit.failure(Outcome.DNS, f"{server}: a signature has expired")
    if until - now < warn_hours * 3600:
        visit.note = f"a signature expires in {(until - now) // 3600} hours"
        return Outcome.OK_EXPIRES_SOON
    return Outcome.OK
