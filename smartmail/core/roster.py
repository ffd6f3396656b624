"""Who is to look at what, and from when on: services, their checks, and the locations that report.

A roster is in force from the minute it names until the next one's; each minute is judged by the roster in force when it
begins (DESIGN section 4). The same value goes to the agents, which keep it.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}\Z")
"""Names of services, checks, locations and agents: no dot, no slash, nothing that could be a path."""

CONTROL: Final = "control"
"""The name under which a location's looks at its own control targets are stored; no check of a roster has it."""

NO_OPTIONS: Final[Mapping[str, str]] = MappingProxyType({})


class RosterError(ValueError):
    """The text is no roster; the message says where it is wrong."""


class CheckKind(StrEnum):
    """What a check does."""

    MX = "mx"
    """SMTP on port 25: greeting, EHLO, STARTTLS, MAIL and RCPT of an own mailbox, no message."""
    SUBMISSION = "submission"
    """Port 587: STARTTLS and AUTH."""
    SMTPS = "smtps"
    """Port 465: TLS from the first octet, and AUTH."""
    IMAPS = "imaps"
    """Port 993: login, select, fetch."""
    IMAP = "imap"
    """Port 143: the same behind STARTTLS."""
    POP3S = "pop3s"
    """Port 995: login, stat."""
    SIEVE = "sieve"
    """ManageSieve, port 4190: STARTTLS and login."""
    HTTPS = "https"
    """Web mail: status and text."""
    DNS = "dns"
    """SOA agreement, MX, A/AAAA, DNSSEC freshness of a domain."""
    CERTIFICATE = "certificate"
    """Chain, name and expiry of the certificate of a port."""
    ROUND_TRIP = "round-trip"
    """A message sent by submission and received, judged for the minute of its sending."""
    TCP = "tcp"
    """A connection, no more: the control targets of a location."""


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """One check. sla: does a failure cost the service its minute? options: by kind, secrets only by their names."""

    name: str
    service: str
    kind: CheckKind
    host: str
    port: int
    locations: tuple[str, ...]
    sla: bool = True
    options: Mapping[str, str] = field(default_factory=lambda: NO_OPTIONS)

    def option(self, name: str, default: str = "") -> str:
        """The value of an option."""
        return self.options.get(name, default)


@dataclass(frozen=True, slots=True)
class Roster:
    """What is looked at from `from_minute` on, and by whom."""

    version: int
    from_minute: int
    locations: tuple[str, ...]
    checks: tuple[CheckSpec, ...]

    @property
    def services(self) -> tuple[str, ...]:
        """Names of all services, in order."""
        return tuple(sorted({check.service for check in self.checks}))

    def of_location(self, location: str) -> tuple[CheckSpec, ...]:
        """The checks that a location does."""
        return tuple(check for check in self.checks if location in check.locations)

    def to_json(self) -> dict[str, Any]:
        """As stored, hashed, and sent to agents."""
        return {
            "version": self.version,
            "from_minute": self.from_minute,
            "locations": list(self.locations),
            "checks": [
                {
                    "name": check.name,
                    "service": check.service,
                    "kind": check.kind.value,
                    "host": check.host,
                    "port": check.port,
                    "locations": list(check.locations),
                    "sla": check.sla,
                    "options": dict(sorted(check.options.items())),
                }
                for check in self.checks
            ],
        }


def roster_from_json(value: object) -> Roster:
    """Read what `to_json` gives. Raises RosterError."""
    try:
        return _roster(value)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RosterError(f"this is no roster: {error}") from error


def _roster(value: Any) -> Roster:
    locations = tuple(_name(one) for one in value["locations"])
    checks = tuple(_check(one, locations) for one in value["checks"])
    if len({check.name for check in checks}) != len(checks) or len(set(locations)) != len(locations):
        raise RosterError("a name stands there twice")
    return Roster(int(value["version"]), int(value["from_minute"]), locations, checks)


def _check(value: Any, locations: Sequence[str]) -> CheckSpec:
    port = int(value["port"])
    if not 0 <= port <= 65535:
        raise RosterError(f"there is no port {port}")
    where = tuple(_name(one) for one in value["locations"])
    if unknown := set(where) - set(locations):
        raise RosterError(f"unknown locations: {', '.join(sorted(unknown))}")
    options = MappingProxyType({str(key): str(word) for key, word in value["options"].items()})
    kind = CheckKind(value["kind"])
    name, service, sla = _name(value["name"]), _name(value["service"]), value["sla"] is True
    return CheckSpec(name, service, kind, str(value["host"]), port, where, sla, options)


def _name(value: object) -> str:
    if not isinstance(value, str) or not NAME.match(value):
        raise RosterError(f"{value!r} is no name: small letters, digits and -, 40 at most")
    return value


def slot_second(check: str, location: str) -> int:
    """The second of each minute (0 to 49) at which a location begins this check: fixed, and spread so that neither the
    location nor the server has all at once. The last ten seconds are left for what takes its time."""
    digest = hashlib.sha256(f"{check}\n{location}".encode()).digest()
    return int.from_bytes(digest[:4]) % 50


def roster_planes(history: Sequence[Roster], first: int, end: int) -> dict[str, dict[str, int]]:
    """Who was to report, minute by minute: check -> location -> plane over the minutes [first, end).

    history: in any order; from one minute on the last of those that name the same minute counts.
    """
    planes: dict[str, dict[str, int]] = {}
    for roster, mask in _in_force(history, first, end):
        for check in roster.checks:
            of_check = planes.setdefault(check.name, {})
            for location in check.locations:
                of_check[location] = of_check.get(location, 0) | mask
    return planes


def sla_planes(history: Sequence[Roster], service: str, first: int, end: int) -> dict[str, int]:
    """When each check of a service bore its SLA: check -> plane over the minutes [first, end)."""
    planes: dict[str, int] = {}
    for roster, mask in _in_force(history, first, end):
        for check in roster.checks:
            if check.service == service and check.sla:
                planes[check.name] = planes.get(check.name, 0) | mask
    return planes


def checks_of(history: Sequence[Roster], service: str, first: int, end: int) -> tuple[str, ...]:
    """Every check that a service had in these minutes, by name."""
    parts = _in_force(history, first, end)
    return tuple(sorted({c.name for roster, mask in parts if mask for c in roster.checks if c.service == service}))


def existence(history: Sequence[Roster], service: str, first: int, end: int) -> int:
    """The minutes in which a service existed: some roster in force had a check of it."""
    plane = 0
    for roster, mask in _in_force(history, first, end):
        if service in roster.services:
            plane |= mask
    return plane


def only_service(history: Sequence[Roster], end: int) -> str:
    """The one service that there was before the minute `end`; "" for none, or several."""
    names = {name for roster in history if roster.from_minute < end for name in roster.services}
    return names.pop() if len(names) == 1 else ""


def _in_force(history: Sequence[Roster], first: int, end: int) -> list[tuple[Roster, int]]:
    ordered = sorted(history, key=lambda roster: (roster.from_minute, roster.version))
    parts = []
    for index, roster in enumerate(ordered):
        until = ordered[index + 1].from_minute if index + 1 < len(ordered) else end
        start, stop = max(roster.from_minute, first), min(until, end)
        if start < stop:
            parts.append((roster, ((1 << (stop - start)) - 1) << (start - first)))
    return parts
