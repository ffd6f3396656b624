"""The PROXY protocol: who is behind the balancer. Whole, octet by octet, and with octets behind it."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.proxy import MAX_V1, MAX_V2, ProxyError, ProxyHeader, ProxyParser

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TCP4 = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + (4711).to_bytes(2, "big") + (25).to_bytes(2, "big")
FROM4 = ("192.0.2.1", 4711), ("198.51.100.2", 25)


def v2(command: int, family: int, block: bytes, length: int | None = None) -> bytes:
    size = len(block) if length is None else length
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2, "big") + block


def whole(data: bytes) -> ProxyHeader | str | None:
    try:
        return ProxyParser().feed(data)
    except ProxyError:
        return "error"


def in_parts(data: bytes, size: int) -> ProxyHeader | str | None:
    parser = ProxyParser()
    for start in range(0, len(data), size):
        try:
            header = parser.feed(data[start : start + size])
        except ProxyError:
            return "error"
        if header is not None:
            return header._replace(rest=header.rest + data[start + size :])
    return None


GOOD = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\r\n", *FROM4),
    (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        ("255.255.255.255", 65535),
        ("255.255.255.255", 65535),
    ),
    (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0), ("0.0.0.0", 0)),
    (b"PROXY TCP6 2001:DB8::1 ::1 4711 25\r\n", ("2001:db8::1", 4711), ("::1", 25)),
    (
        b"PROXY TCP6 " + b":".join([b"ffff"] * 8) + b" " + b":".join([b"ffff"] * 8) + b" 65535 65535\r\n",
        (":".join(["ffff"] * 8), 65535),
        (":".join(["ffff"] * 8), 65535),
    ),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 4711 25\r\n", *FROM4),
    (b"PROXY UNKNOWN\r\n", None, None),
    (b"PROXY UNKNOWN \r\n", None, None),
    (b"PROXY UNKNOWN any \0thing\xff\r\n", None, None),
    (b"PROXY UNKNOWN " + b"f" * (MAX_V1 - 16) + b"\r\n", None, None),
    (v2(0x21, 0x11, TCP4), *FROM4),
    (v2(0x21, 0x11, TCP4 + b"\x04\0\0"), *FROM4),
    (v2(0x21, 0x11, TCP4 + b"\x04\0\x02xx" + b"\x05\0\x01y"), *FROM4),
    (v2(0x21, 0x11, TCP4 + b"\x04" + (MAX_V2 - 31).to_bytes(2, "big") + b"x" * (MAX_V2 - 31)), *FROM4),
    (
        v2(0x21, 0x21, ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("::1").packed + TCP4[8:]),
        ("2001:db8::1", 4711),
        ("::1", 25),
    ),
    (
        v2(0x21, 0x21, bytes(10) + b"\xff\xff" + TCP4[:4] + bytes(10) + b"\xff\xff" + TCP4[4:]),
        *FROM4,
    ),
    (v2(0x20, 0x00, b""), None, None),
    (v2(0x20, 0x11, TCP4), None, None),
    (v2(0x20, 0xFF, b"anything"), None, None),
    (v2(0x21, 0x00, b""), None, None),
    (v2(0x21, 0x31, bytes(216)), None, None),
]


@pytest.mark.parametrize(("data", "source", "destination"), GOOD)
@pytest.mark.parametrize("rest", [b"", b"EHLO client.example\r\n", b"\x16\x03\x01", b"\n", b"PROXY TCP4 "])
def test_headers(data: bytes, source: object, destination: object, rest: bytes) -> None:
    expected = ProxyHeader(source, destination, rest)  # type: ignore[arg-type]
    assert whole(data + rest) == expected
    for size in (1, 2, 7, 16):
        assert in_parts(data + rest, size) == expected


@pytest.mark.parametrize(("data", "source", "destination"), GOOD)
def test_every_shorter_part_of_a_header_needs_more(data: bytes, source: object, destination: object) -> None:
    for end in range(len(data) if len(data) < 300 else 100):
        assert whole(data[:end]) is None


BAD = [
    b"EHLO client.example\r\n",
    b"\x16\x03\x01\x02\x00\x01",
    b"GET / HTTP/1.1\r\n",
    b"proxy TCP4 192.0.2.1 198.51.100.2 4711 25\r\n",
    b" PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\r\n",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY  TCP4 192.0.2.1 198.51.100.2 4711 25\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25 \r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25 x\r\n",
    b"PROXY TCP4 192.0.2.1  198.51.100.2 4711 25\r\n",
    b"PROXY TCP4 192.0.2.1\t198.51.100.2 4711 25\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.2 4711 25\r\n",
    b"PROXY TCP4 192.0.02.1 198.51.100.2 4711 25\r\n",
    b"PROXY TCP4 192.0.2 198.51.100.2 4711 25\r\n",
    b"PROXY TCP4 ::1 ::1 4711 25\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.2 4711 25\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 4711 25\r\n",
    b"PROXY TCP6 ::1::2 ::1 4711 25\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 25\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 04711 25\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 25\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\rX",
    b"PROXY UNKNOWN\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UNKNOWN a\rb\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.2 4711 25\r\n",
    b"PROXY UNKNOWN " + b"f" * (MAX_V1 - 15) + b"\r\n",
    b"PROXY TCP4 " + b"1" * 10_000,
    b"PROXY " + b"x" * 10_000 + b"\r\n",
    SIGNATURE + b"\x11\x11\0\x0c" + TCP4,
    SIGNATURE + b"\x31\x11\0\x0c" + TCP4,
    v2(0x22, 0x11, TCP4),
    v2(0x2F, 0x11, TCP4),
    v2(0x21, 0x12, TCP4),
    v2(0x21, 0x13, TCP4),
    v2(0x21, 0x22, bytes(36)),
    v2(0x21, 0x41, TCP4),
    v2(0x21, 0xFF, TCP4),
]


@pytest.mark.parametrize("data", BAD)
def test_what_is_no_header(data: bytes) -> None:
    assert whole(data) == "error"
    for size in (1, 3, 16):
        assert in_parts(data, size) == "error"


class TestAttacks:
    """Each by its name."""

    def test_a_line_without_end_is_not_kept(self) -> None:
        parser = ProxyParser()
        assert parser.feed(b"PROXY UNKNOWN ") is None
        with pytest.raises(ProxyError):
            for _ in range(MAX_V1):
                parser.feed(b"x")

    def test_a_second_header_is_the_clients_talk_and_overrides_nothing(self) -> None:
        first, second = b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\r\n", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n"
        parser = ProxyParser()
        assert parser.feed(first + second) == ProxyHeader(*FROM4, second)
        with pytest.raises(ProxyError):
            parser.feed(second)

    def test_nothing_is_read_after_an_error(self) -> None:
        parser = ProxyParser()
        with pytest.raises(ProxyError):
            parser.feed(b"X")
        with pytest.raises(ProxyError):
            parser.feed(b"PROXY UNKNOWN\r\n")

    @pytest.mark.parametrize(
        "data",
        [
            v2(0x21, 0x11, TCP4[:-1]),  # shorter than its addresses
            v2(0x21, 0x11, b""),
            v2(0x21, 0x21, TCP4),
            v2(0x21, 0x31, bytes(215)),
            v2(0x21, 0x11, TCP4, length=11) + b"\x19",
            v2(0x21, 0x11, TCP4 + b"EHLO x\r\n"),  # swallows what the client said
            v2(0x21, 0x11, TCP4 + b"\x04\0\x05xx"),  # a vector longer than the header
            v2(0x21, 0x11, TCP4 + b"\x04\0"),
            v2(0x21, 0x11, TCP4 + b"\x04"),
            v2(0x21, 0x11, TCP4, length=0xFFFF),
            v2(0x20, 0x00, b"", length=MAX_V2),
        ],
    )
    def test_version_2_with_a_lying_length(self, data: bytes) -> None:
        assert whole(data) == "error"
        assert in_parts(data, 1) == "error"


addresses4 = st.ip_addresses(v=4)
addresses6 = st.ip_addresses(v=6)
ports = st.integers(0, 65535)


@given(st.tuples(addresses4, addresses4) | st.tuples(addresses6, addresses6), ports, ports, st.binary(max_size=20))
def test_both_versions_say_the_same(pair, source_port: int, destination_port: int, rest: bytes) -> None:  # type: ignore[no-untyped-def]
    source, destination = pair
    text = f"PROXY TCP{source.version} {source} {destination} {source_port} {destination_port}\r\n".encode()
    block = source.packed + destination.packed + source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big")
    header = whole(text + rest)
    assert header == whole(v2(0x21, 0x11 if source.version == 4 else 0x21, block) + rest)
    assert isinstance(header, ProxyHeader) and header.source is not None
    mapped = getattr(source, "ipv4_mapped", None)
    assert header.source == (str(mapped or source), source_port)
    assert header.rest == rest


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", SIGNATURE, SIGNATURE + b"\x21\x11\0"]),
)
def test_octet_by_octet_is_as_whole(data: bytes, lead: bytes) -> None:
    assert in_parts(lead + data, 1) == whole(lead + data)
