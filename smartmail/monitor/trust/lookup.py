"""DNS questions whose failure says what failed: "there is none" is an answer, "I was refused" is not."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.resolver

Address = IPv4Address | IPv6Address

_PAYLOAD: Final = 1232
"""Octets of a UDP answer (the DNS flag day's figure)."""


class Status(StrEnum):
    """How a question ended."""

    FOUND = "found"
    NO_NAME = "no such name"
    NO_DATA = "no such record"
    REFUSED = "the resolver refused"
    FAILED = "the resolver failed (SERVFAIL or the like)"
    TIMEOUT = "no answer in time"
    BAD_NAME = "no valid name"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. authenticated: the resolver says that it validated the answer (RFC 4035 3.2.3, AD)."""

    status: Status
    records: tuple[dns.rdata.Rdata, ...] = ()
    authenticated: bool = False

    @property
    def none(self) -> bool:
        """It is certain that there is no such record."""
        return self.status in (Status.NO_NAME, Status.NO_DATA)

    @property
    def failed(self) -> bool:
        """Nothing is known."""
        return self.status not in (Status.FOUND, Status.NO_NAME, Status.NO_DATA)


class Lookup:
    """Asks one set of resolvers.

    nameservers: addresses; none: those of the system. Raises OSError when the system names none.
    """

    def __init__(self, nameservers: Sequence[str] = (), *, port: int = 53, timeout_ms: int = 5000) -> None:
        try:
            self._resolver = dns.asyncresolver.Resolver(configure=not nameservers)
            self._blocking = dns.resolver.Resolver(configure=not nameservers)
        except dns.resolver.NoResolverConfiguration as error:
            raise OSError("the system names no resolver") from error
        for resolver in (self._resolver, self._blocking):
            if nameservers:
                resolver.nameservers = list(nameservers)
                resolver.port = port
            resolver.lifetime = timeout_ms / 1000
            resolver.timeout = max(timeout_ms / 3000, 0.2)
        self._resolver.flags = dns.flags.RD | dns.flags.AD
        self._resolver.use_edns(0, dns.flags.DO, _PAYLOAD)

    @property
    def blocking(self) -> dns.resolver.Resolver:
        """The same resolvers for code that runs in a thread."""
        return self._blocking

    async def ask(self, name: str, kind: str) -> Answer:
        """Ask for the records of a name. kind: "TXT", "MX", ... Never raises for what the DNS does."""
        try:
            asked = dns.name.from_text(name)
            answer = await self._resolver.resolve(asked, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN:
            return Answer(Status.NO_NAME)
        except dns.exception.Timeout:
            return Answer(Status.TIMEOUT)
        except dns.resolver.NoNameservers as error:
            return Answer(Status.REFUSED if _refused(error) else Status.FAILED)
        except (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel, dns.name.BadEscape, UnicodeError):
            return Answer(Status.BAD_NAME)
        except (dns.exception.DNSException, OSError):
            return Answer(Status.FAILED)
        authenticated = bool(answer.response.flags & dns.flags.AD)
        if answer.rrset is None:
            return Answer(Status.NO_DATA, authenticated=authenticated)
        return Answer(Status.FOUND, tuple(answer.rrset), authenticated)

    async def texts(self, name: str) -> tuple[Answer, tuple[str, ...]]:
        """The TXT records of a name, the strings of each joined (RFC 7208 3.3)."""
        answer = await self.ask(name, "TXT")
        return answer, tuple(b"".join(record.strings).decode("utf-8", "replace") for record in answer.records)  # type: ignore[attr-defined]

    async def addresses(self, host: str) -> tuple[Answer, tuple[Address, ...]]:
        """The A and AAAA records of a name. The answer is the worse one of both, unless there are addresses."""
        four, six = await self.ask(host, "A"), await self.ask(host, "AAAA")
        found = tuple(ip_address(record.to_text()) for record in (*four.records, *six.records))
        return (four if four.records or four.failed else six), found


def _refused(error: dns.resolver.NoNameservers) -> bool:
    for _, _, _, _, response in error.kwargs.get("errors", ()):
        if isinstance(response, dns.message.Message) and response.rcode() in (dns.rcode.REFUSED, dns.rcode.NOTAUTH):
            return True
    return False


def host_text(name: object) -> str:
    """A name of the DNS as people write it: lower case, no dot at the end."""
    return str(name).rstrip(".").lower()
