"""The PROXY protocol, versions 1 and 2, as a receiver: who is behind the balancer that connected to us.

HAProxy's proxy-protocol.txt, sections 2.1 and 2.2. Speak it only with peers from a trust list, and then always: the
receiver must not guess whether a header is there.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

MAX_V1: Final = 107
"""Octets of a version 1 line, CRLF included (2.1)."""
MAX_V2: Final = 4096
"""Octets of a version 2 header, TLVs included. The protocol allows 65,551, and asks that it fit one TCP segment."""

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V1: Final = b"PROXY "
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*+)?+|TCP([46]) ([0-9A-Fa-f:.]++) ([0-9A-Fa-f:.]++) (\d{1,5}) (\d{1,5}))"
)
_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_ADDRESSLESS: Final = frozenset({0x00, 0x01, 0x02, 0x10, 0x20, 0x30, 0x31, 0x32})
"""Family and transport that name no TCP endpoint: unspecified, or UNIX."""

Endpoint = tuple[str, int]


class ProxyError(ValueError):
    """No PROXY header: close the connection."""


class ProxyHeader(NamedTuple):
    """source, destination: (numeric address, port), an IPv4-mapped address as IPv4. Both None: LOCAL or UNKNOWN, the
    connection's own endpoints hold. rest: octets behind the header, unread."""

    source: Endpoint | None
    destination: Endpoint | None
    rest: bytes


class ProxyParser:
    """Octets in, one header out. Keeps at most what one header may have."""

    __slots__ = ("_buffer", "_spent")

    def __init__(self) -> None:
        self._buffer = b""
        self._spent = False

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Take octets as they came; None: more are needed. Raises ProxyError as soon as it is no header, and when fed
        after the header or after an error."""
        if self._spent:
            raise ProxyError("fed after the end")
        self._buffer += data
        try:
            header = _parse(self._buffer)
        except ProxyError:
            self._spent, self._buffer = True, b""
            raise
        if header is not None:
            self._spent, self._buffer = True, b""
        return header


def _parse(data: bytes) -> ProxyHeader | None:
    if data[:6] == _V1[: len(data)]:
        return _parse_v1(data)
    if data[:12] == _SIGNATURE[: len(data)]:
        return _parse_v2(data)
    raise ProxyError("neither a version 1 nor a version 2 header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\n", 0, MAX_V1)
    if end < 0:
        carriage_return = data.find(b"\r", 0, MAX_V1)
        if len(data) >= MAX_V1 or 0 <= carriage_return < len(data) - 1:
            raise ProxyError("version 1 line without CRLF")
        return None
    found = _LINE.fullmatch(data, 0, end - 1) if data[end - 1 : end] == b"\r" else None
    if found is None:
        raise ProxyError("malformed version 1 line")
    family, *fields = found.groups()
    rest = data[end + 1 :]
    if family is None:
        return ProxyHeader(None, None, rest)
    source, destination, source_port, destination_port = (field.decode("ascii") for field in fields)
    numeric = _four if family == b"4" else _six
    return ProxyHeader((numeric(source), _port(source_port)), (numeric(destination), _port(destination_port)), rest)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    command = data[12] if len(data) > 12 else None
    if command is None:
        return None
    if command not in (_LOCAL, _PROXY):
        raise ProxyError("unknown version or command")
    if len(data) < 16:
        return None
    family, length = data[13], int.from_bytes(data[14:16], "big")
    if 16 + length > MAX_V2:
        raise ProxyError("version 2 header too long")
    if command == _PROXY and length < _address_size(family):
        raise ProxyError("version 2 header too short for its addresses")
    if len(data) < 16 + length:
        return None
    block, rest = data[16 : 16 + length], data[16 + length :]
    if command == _LOCAL:
        return ProxyHeader(None, None, rest)
    _check_vectors(block[_address_size(family) :])
    if family in _ADDRESSLESS:
        return ProxyHeader(None, None, rest)
    size = 4 if family == _TCP4 else 16
    ports = block[2 * size :]
    return ProxyHeader(
        (_packed(block[:size]), int.from_bytes(ports[:2], "big")),
        (_packed(block[size : 2 * size]), int.from_bytes(ports[2:4], "big")),
        rest,
    )


def _address_size(family: int) -> int:
    """Octets of the address block of a family and transport. Raises ProxyError for one that mail cannot have."""
    if family == _TCP4:
        return 12
    if family == _TCP6:
        return 36
    if family in _ADDRESSLESS:
        return 216 if family in (0x31, 0x32) else 0
    raise ProxyError("unknown address family, or datagrams")


def _check_vectors(block: bytes) -> None:
    """Type-length-value vectors, all skipped. Raises ProxyError unless they end where the header ends: then its length
    lied, and what follows would be read from the wrong place."""
    at = 0
    while at < len(block):
        at += 3 + int.from_bytes(block[at + 1 : at + 3], "big") if at + 3 <= len(block) else 3
    if at != len(block):
        raise ProxyError("version 2 vectors do not end with the header")


def _packed(octets: bytes) -> str:
    return str(IPv4Address(octets)) if len(octets) == 4 else _plain(IPv6Address(octets))


def _four(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise ProxyError("not an IPv4 address") from None


def _six(text: str) -> str:
    try:
        return _plain(IPv6Address(text))
    except AddressValueError:
        raise ProxyError("not an IPv6 address") from None


def _plain(address: IPv6Address) -> str:
    return str(address.ipv4_mapped or address)


def _port(text: str) -> int:
    if int(text) > 65535 or text != str(int(text)):
        raise ProxyError("not a port")
    return int(text)
