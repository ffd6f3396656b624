"""DNS block lists (RFC 5782), with answers that are no listings told apart.

A list that refuses us does not fail to answer: it answers with a code that looks like a listing. So each list is asked
for its test entry first, and an address counts as listed only by a code that says so.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from smartmail.monitor.trust.finding import Severity, TrustCheck, TrustFinding, finding
from smartmail.monitor.trust.lookup import Address, Answer, Lookup

_AT_ONCE: Final = 8

Ask = Callable[[str], Awaitable[Answer]]
"""Asks for the A records of a name."""

ERRORS: Final = {
    "127.255.255.252": "the list's name is misspelt",
    "127.255.255.254": "the list refuses public and nameless resolvers",
    "127.255.255.255": "too many questions to this list",
    "127.0.1.255": "this list takes no addresses",
    "127.0.0.1": "the list refuses this resolver",
}
"""Codes that are answers about the question, not about the address: those of Spamhaus; 127.0.0.1, which RFC 5782 2.1
keeps lists from using and URIBL and SURBL give to whom they refuse."""
_OWN_RESOLVER: Final = "ask a resolver of your own, not a public one"
_ERROR_PREFIX: Final = "127.255.255."

_TEST_ADDRESSES: Final[tuple[Address, ...]] = (IPv4Address("127.0.0.2"), IPv6Address("::ffff:7f00:2"))
_NEVER_ADDRESSES: Final[tuple[Address, ...]] = (IPv4Address("127.0.0.1"), IPv6Address("::ffff:7f00:1"))
"""RFC 5782 5: always and never listed, by version."""
_TEST_NAME: Final = "test"
_NEVER_NAME: Final = "invalid"


class ListKind(StrEnum):
    """What a list lists."""

    ADDRESSES = "addresses"
    DOMAINS = "domains"


@dataclass(frozen=True, slots=True)
class BlockList:
    """A list by its zone. test: the entry that a list of domains always has, where it is not RFC 5782's."""

    zone: str
    kind: ListKind = ListKind.ADDRESSES
    test: str = _TEST_NAME


async def check_lists(
    lists: Sequence[BlockList], addresses: Sequence[Address], domain: str, lookup: Lookup
) -> list[TrustFinding]:
    """Ask each list for the addresses or for the domain. One finding a list at least."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def ask(name: str) -> Answer:
        async with limit:
            return await lookup.ask(name, "A")

    found = await asyncio.gather(*(_List(one, ask).check(addresses, domain) for one in lists))
    return [finding for of_list in found for finding in of_list]


def query_name(subject: Address | str, zone: str) -> str:
    """What to ask a list for: reversed octets, reversed nibbles (RFC 5782 2.4), or the domain before the zone."""
    if isinstance(subject, str):
        return f"{subject.rstrip('.')}.{zone.rstrip('.')}."
    reversed_ = subject.reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
    return f"{reversed_}.{zone.rstrip('.')}."


def error_of(answer: Answer) -> str:
    """Why an answer says nothing about the address, or nothing."""
    if answer.failed:
        return str(answer.status)
    for record in answer.records:
        code = record.to_text()
        if code in ERRORS:
            return f"{ERRORS[code]} ({code})"
        if code.startswith(_ERROR_PREFIX):
            return f"the list answers with an error ({code})"
        if not ip_address(code).is_loopback:
            return f"the list is gone or somebody else answers for it ({code})"
    return ""


class _List:
    """One list being asked."""

    def __init__(self, block_list: BlockList, ask: Ask) -> None:
        self._zone = block_list.zone.rstrip(".")
        self._kind = block_list.kind
        self._test = block_list.test
        self._ask = ask

    async def check(self, addresses: Sequence[Address], domain: str) -> list[TrustFinding]:
        if self._kind == ListKind.DOMAINS:
            return await self._check([domain], self._test, _NEVER_NAME)
        found = []
        for index, version in enumerate((4, 6)):
            of_version = [address for address in addresses if address.version == version]
            if of_version:
                found += await self._check(of_version, _TEST_ADDRESSES[index], _NEVER_ADDRESSES[index])
        return found

    async def _check(
        self, subjects: Sequence[Address | str], test: Address | str, never: Address | str
    ) -> list[TrustFinding]:
        answer = await self._ask(query_name(test, self._zone))
        if answer.none and isinstance(test, IPv6Address):
            text = "lists no IPv6 addresses: its test entry for them is not there"
            return [finding(TrustCheck.DNSBL, self._zone, Severity.OK, text)]
        if trouble := await self._trouble(answer, test, never):
            return [finding(TrustCheck.DNSBL, self._zone, Severity.ERROR, trouble, _OWN_RESOLVER)]
        found = []
        for subject in subjects:
            answer = await self._ask(query_name(subject, self._zone))
            if error := error_of(answer):
                found.append(finding(TrustCheck.DNSBL, self._zone, Severity.ERROR, f"{subject}: {error}"))
            elif answer.records:
                codes = ", ".join(sorted(record.to_text() for record in answer.records))
                text, remedy = f"is on {self._zone} ({codes})", "find out why, end it, then ask to be taken off"
                found.append(finding(TrustCheck.DNSBL, str(subject), Severity.PROBLEM, text, remedy))
        if not found:
            text = f"none of {', '.join(map(str, subjects))} is on it"
            found.append(finding(TrustCheck.DNSBL, self._zone, Severity.OK, text))
        return found

    async def _trouble(self, answer: Answer, test: Address | str, never: Address | str) -> str:
        """Why nothing that this list answers counts, or nothing. answer: to the question for its test entry."""
        if error := error_of(answer):
            return error
        if not answer.records:
            return f"its test entry {test} is not there: the list is gone, or does not answer us"
        answer = await self._ask(query_name(never, self._zone))
        if answer.records and not any(record.to_text() in ERRORS for record in answer.records):
            return "it lists what must never be listed: the list is gone, and lists the world"
        return ""
