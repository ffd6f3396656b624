"""Names to addresses, asked of a resolver by dnspython without a thread, kept for half a minute at most.

The hosts file is not looked at: customers do not have it. dnspython is imported when a resolver is made.
"""

import asyncio
import errno
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DnsResolver
    from dns.exception import DNSException
    from dns.resolver import Answer

KEPT_SECONDS: Final = 30
MAX_ADDRESSES: Final = 8
_KEPT_NAMES: Final = 10_000
_TRY_SECONDS: Final = 2.0
_HEARD_SECONDS: Final = 5.0
"""How long it counts that the system's resolver was heard, or was not: lookups fail in crowds."""
_CONFIGURATION: Final = Path("/etc/resolv.conf")
_OWN: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EPERM})
"""Errors of this host, that say nothing about the name."""


class ResolveError(Exception):
    """A name has no address, or nobody says. `message` is ours, without the peer's words."""


class NoNameserverError(Exception):
    """The location has no resolver to ask, or an option names none: the monitor's own fault."""


class Resolver:
    """Looks names up. nameserver: "address", "address:port" or "[address]:port"; "": the system's."""

    def __init__(self, nameserver: str = "") -> None:
        # Here, and not with the first probe: it takes half a second, in which no other probe would begin.
        import dns.asyncquery
        import dns.asyncresolver  # noqa: F401

        self._default = nameserver
        self._asked: dict[str, DnsResolver] = {}
        self._known: dict[tuple[str, str, str], tuple[float, tuple[str, ...]]] = {}
        self._configured = 0
        self._heard: tuple[float, bool] | None = None
        self._hearing = asyncio.Lock()

    async def addresses(
        self, host: str, family: str = "", nameserver: str = "", seconds: float = 10
    ) -> tuple[str, ...]:
        """Addresses of a host, IPv4 before IPv6, at most MAX_ADDRESSES. family: "4", "6" or "" for both.

        An address is its own answer. Raises ResolveError, NoNameserverError.
        """
        if (literal := _literal(host)) is not None:
            return literal
        host = host.rstrip(".").lower()
        if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 6.3
            return tuple({"4": ("127.0.0.1",), "6": ("::1",)}.get(family, ("127.0.0.1", "::1")))
        loop = asyncio.get_running_loop()
        key = (host, family, nameserver)
        known = self._known.get(key)
        if known is not None and known[0] > loop.time():
            return known[1]
        found, ttl = await self._ask(host, family, nameserver, seconds)
        if len(self._known) >= _KEPT_NAMES:
            self._known.clear()
        self._known[key] = (loop.time() + min(ttl, KEPT_SECONDS), found)
        return found

    async def _ask(self, host: str, family: str, nameserver: str, seconds: float) -> tuple[tuple[str, ...], int]:
        kinds = {"4": ("A",), "6": ("AAAA",)}.get(family, ("A", "AAAA"))
        answers = await asyncio.gather(
            *(self.answer(host, kind, nameserver, seconds) for kind in kinds), return_exceptions=True
        )
        found: list[str] = []
        ttl = KEPT_SECONDS
        errors: list[BaseException] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                errors.append(answer)
            elif answer is not None and answer.rrset is not None:
                found += sorted(str(record.address) for record in answer.rrset)
                ttl = min(ttl, answer.rrset.ttl)
        if found:
            return tuple(found[:MAX_ADDRESSES]), ttl
        if errors:
            raise errors[0]
        raise ResolveError(f"{host} has no address")

    async def answer(self, name: str, kind: str, nameserver: str = "", seconds: float = 10) -> "Answer | None":
        """What the resolver says of a name and a type of record; None: the name is there, without such records.

        Raises ResolveError; NoNameserverError, also when the system's resolver answers nothing at all; OSError for
        what this host could not even ask.
        """
        import dns.exception
        import dns.resolver

        nameserver = nameserver or self._default
        resolver = self._resolver(nameserver)
        try:
            return await resolver.resolve(name.rstrip(".") + ".", kind, lifetime=seconds, raise_on_no_answer=True)
        except dns.resolver.NoAnswer:
            return None
        except dns.resolver.NXDOMAIN:
            raise ResolveError(f"{name} does not exist") from None
        except dns.exception.Timeout as error:
            await self._blame(error, nameserver, seconds)
            raise ResolveError(f"no answer about {name} {kind}") from None
        except dns.resolver.NoNameservers as error:
            await self._blame(error, nameserver, seconds)
            raise ResolveError(f"the resolver fails on {name} {kind}") from None
        except dns.exception.DNSException as error:
            raise ResolveError(f"{name} {kind}: {type(error).__name__}") from None

    async def _blame(self, error: "DNSException", nameserver: str, seconds: float) -> None:
        """Raises where the fault is this host's, or that of the resolver that it is given, and not the name's."""
        for tried in error.kwargs.get("errors", ()):
            if isinstance(tried[3], OSError) and tried[3].errno in _OWN:
                raise OSError(tried[3].errno, tried[3].strerror) from None
        # One that a check names may be what is looked at.
        if not nameserver and not await self._is_heard(min(_TRY_SECONDS, seconds)):
            raise NoNameserverError("the resolver of this host answers nothing") from None

    async def _is_heard(self, seconds: float) -> bool:
        """Does the system's resolver answer, whatever it says? Asked for what every one knows: the root's servers."""
        import dns.exception
        import dns.resolver

        loop = asyncio.get_running_loop()
        async with self._hearing:
            if self._heard is None or self._heard[0] <= loop.time():
                try:
                    await self._resolver("").resolve(".", "NS", lifetime=seconds)
                    heard = True
                except dns.resolver.NoNameservers as error:
                    heard = any(tried[4] is not None for tried in error.kwargs.get("errors", ()))
                except dns.exception.Timeout:
                    heard = False
                except dns.exception.DNSException:
                    heard = True
                self._heard = (loop.time() + _HEARD_SECONDS, heard)
            return self._heard[1]

    def _resolver(self, nameserver: str) -> "DnsResolver":
        resolver = self._asked.get(nameserver)
        if not nameserver and (written := _written(_CONFIGURATION)) != self._configured:
            resolver, self._configured = None, written
            self._asked.pop("", None)
        if resolver is None:
            import dns.asyncresolver
            import dns.resolver

            try:
                resolver = dns.asyncresolver.Resolver(str(_CONFIGURATION), configure=not nameserver)
            except dns.resolver.NoResolverConfiguration:
                raise NoNameserverError("no resolver is configured on this host") from None
            if nameserver:
                address, port = split_nameserver(nameserver)
                resolver.nameservers = [address]
                resolver.port = port
            resolver.timeout = _TRY_SECONDS
            resolver.cache = None
            self._asked[nameserver] = resolver
        return resolver


def split_nameserver(text: str) -> tuple[str, int]:
    """Address and port of "192.0.2.1", "192.0.2.1:5353", "2001:db8::1" or "[2001:db8::1]:53". Raises
    NoNameserverError."""
    host, port = text, "53"
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        port = port.removeprefix(":") or (bracket and "53")
    elif text.count(":") == 1:
        host, port = text.split(":")
    if _literal(host) is None or not port.isdigit() or not 0 < int(port) < 65536:
        raise NoNameserverError("the resolver is to be an address, or an address and a port")
    return host, int(port)


def _written(file: Path) -> int:
    """When a file was written; 0 where there is none."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _literal(host: str) -> tuple[str] | None:
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        return None
