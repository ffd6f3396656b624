"""Tell the upstream who our client is: the XCLIENT and XFORWARD commands.

Postfix XCLIENT_README and XFORWARD_README. Names come from the client and its DNS, so a value is sent only if it
has the shape that its attribute must have, and then in xtext: a PTR record, a HELO name or a login with CR LF in
it can neither end the command nor add to it (nginx CVE-2026-28753). Everything else is [UNAVAILABLE].
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

from smartmail.core.esmtp import ParameterError, encode_xtext

MAX_LINE: Final = 512
"""Octets of one command line, CRLF included (both READMEs; RFC 5321 4.5.3.1.4)."""
MAX_VALUE: Final = 255
"""Octets of one value before xtext (both READMEs)."""

_CACHED: Final = 4096
"""Values whose wire form is kept: the same clients come again and again."""
_UNAVAILABLE: Final = b"[UNAVAILABLE]"
_LONGEST_ENCODED: Final = MAX_LINE - len(b"XFORWARD DESTADDR=\r\n")
_HOST_NAME = re.compile(
    r"(?![0-9.]*+\Z)[A-Za-z0-9_]++(?:-++[A-Za-z0-9_]++)*+(?:\.[A-Za-z0-9_]++(?:-++[A-Za-z0-9_]++)*+)*+"
)
# Printable ASCII without what is special in a Received header.
_HELO_NAME = re.compile(r"[!#-'*-:=?A-Z\[\]-~]++")


class Identity(NamedTuple):
    """What is known of a client. Unknown is "" or 0.

    name: host name from DNS, verified forward. address: numeric, without brackets. proto: "SMTP" or "ESMTP". helo:
    the EHLO argument. login: after AUTH. destination_*: where the client connected to.
    """

    name: str
    address: str
    port: int
    proto: str
    helo: str
    login: str
    destination_address: str
    destination_port: int


def hello_name(identity: Identity) -> str:
    """The client's HELO name, if another server may be told it as it is; else ""."""
    return identity.helo if _HELO_NAME.fullmatch(identity.helo) and len(identity.helo) <= MAX_VALUE else ""


def xclient_command(identity: Identity, offered: frozenset[str]) -> bytes:
    """The XCLIENT command that makes the upstream see `identity`, CRLF included; b"" if nothing is offered.

    offered: the attribute names behind XCLIENT in the upstream's EHLO answer, upper case. Each of them that we know
    is set, so that nothing of a former client remains; those that we do not know are never set. Longer than 512
    octets it becomes several commands, each of which is answered with a 220: send them one by one
    (`splitlines(keepends=True)`), as the upstream starts anew after each. ADDR comes last, because the right to say
    XCLIENT may end with it.
    """
    return _commands(b"XCLIENT", identity, offered, _XCLIENT)


def xforward_command(identity: Identity, offered: frozenset[str]) -> bytes:
    """The XFORWARD command for one mail transaction; as `xclient_command`, but each command is answered with 250 and
    all may be pipelined."""
    return _commands(b"XFORWARD", identity, offered, _XFORWARD)


def _commands(
    verb: bytes,
    identity: Identity,
    offered: frozenset[str],
    attributes: Mapping[str, Callable[[Identity], bytes]],
) -> bytes:
    lines: list[bytes] = []
    line = b""
    for name, value in attributes.items():
        if name not in offered:
            continue
        part = b" %s=%s" % (name.encode("ascii"), value(identity))
        if line and len(line) + len(part) + 2 > MAX_LINE:
            lines.append(line + b"\r\n")
            line = b""
        line = (line or verb) + part
    return b"".join(lines) + (line + b"\r\n" if line else b"")


def _text(value: str) -> bytes:
    """xtext, or [UNAVAILABLE] for what is empty, too long, or not clean text."""
    if not value or len(value.encode("utf-8", "surrogatepass")) > MAX_VALUE:
        return _UNAVAILABLE
    try:
        encoded = encode_xtext(value)
    except ParameterError:
        return _UNAVAILABLE
    return encoded if len(encoded) <= _LONGEST_ENCODED else _UNAVAILABLE


@lru_cache(maxsize=_CACHED)
def _host_name(value: str) -> bytes:
    fits = _HOST_NAME.fullmatch(value) and all(len(label) <= 63 for label in value.split("."))
    return _text(value) if fits else _UNAVAILABLE


@lru_cache(maxsize=_CACHED)
def _helo_name(value: str) -> bytes:
    return _text(value) if _HELO_NAME.fullmatch(value) else _UNAVAILABLE


@lru_cache(maxsize=_CACHED)
def _address(value: str) -> bytes:
    """IPv4, or IPv6 behind "IPV6:"; an IPv4-mapped address as IPv4, a zone left out."""
    try:
        if ":" not in value:
            return str(IPv4Address(value)).encode("ascii")
        six = IPv6Address(value.partition("%")[0])
    except AddressValueError:
        return _UNAVAILABLE
    return str(six.ipv4_mapped).encode("ascii") if six.ipv4_mapped else b"IPV6:" + str(six).encode("ascii")


def _port(value: int) -> bytes:
    return b"%d" % value if 0 < value < 65536 else _UNAVAILABLE


def _proto(value: str) -> bytes:
    return b"ESMTP" if value.upper().startswith("E") else b"SMTP"  # [UNAVAILABLE] is no value of PROTO


_XCLIENT: Final[Mapping[str, Callable[[Identity], bytes]]] = {
    "PROTO": lambda identity: _proto(identity.proto),
    "HELO": lambda identity: _helo_name(identity.helo),
    "LOGIN": lambda identity: _text(identity.login),
    "DESTADDR": lambda identity: _address(identity.destination_address),
    "DESTPORT": lambda identity: _port(identity.destination_port),
    "NAME": lambda identity: _host_name(identity.name),
    "PORT": lambda identity: _port(identity.port),
    "ADDR": lambda identity: _address(identity.address),
}
_XFORWARD: Final[Mapping[str, Callable[[Identity], bytes]]] = {
    "PROTO": lambda identity: _proto(identity.proto),
    "HELO": lambda identity: _helo_name(identity.helo),
    "IDENT": lambda identity: _UNAVAILABLE,
    "SOURCE": lambda identity: b"REMOTE",
    "NAME": lambda identity: _host_name(identity.name),
    "PORT": lambda identity: _port(identity.port),
    "ADDR": lambda identity: _address(identity.address),
}
