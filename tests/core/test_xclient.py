"""XCLIENT and XFORWARD: what the upstream is told of a client, and what it can never be told."""

import re
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.esmtp import decode_xtext
from smartmail.core.xclient import MAX_LINE, Identity, xclient_command, xforward_command

XCLIENT = frozenset({"NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"})
XFORWARD = frozenset({"NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"})
SPIKE = Identity("spike.porcupine.org", "168.100.189.2", 4711, "ESMTP", "spike", "jane@example.com", "192.0.2.25", 587)
NOBODY = Identity("", "", 0, "SMTP", "", "", "", 0)


def attributes(command: bytes) -> dict[str, str]:
    """Attribute -> raw value over all lines, each checked for its shape."""
    found: dict[str, str] = {}
    for line in command.split(b"\r\n")[:-1]:
        assert len(line) + 2 <= MAX_LINE
        assert re.fullmatch(rb"(XCLIENT|XFORWARD)( [A-Z]+=[!-~]+)+", line)
        for word in line.decode("ascii").split(" ")[1:]:
            name, value = word.split("=", 1)
            assert name not in found
            found[name] = value
    assert command.endswith(b"\r\n")
    return found


def test_all_is_told() -> None:
    assert xclient_command(SPIKE, XCLIENT) == (
        b"XCLIENT PROTO=ESMTP HELO=spike LOGIN=jane@example.com DESTADDR=192.0.2.25 DESTPORT=587"
        b" NAME=spike.porcupine.org PORT=4711 ADDR=168.100.189.2\r\n"
    )
    assert xforward_command(SPIKE, XFORWARD) == (
        b"XFORWARD PROTO=ESMTP HELO=spike IDENT=[UNAVAILABLE] SOURCE=REMOTE"
        b" NAME=spike.porcupine.org PORT=4711 ADDR=168.100.189.2\r\n"
    )


def test_nothing_of_a_former_client_remains() -> None:
    """Each attribute that was offered is set, though nothing be known."""
    told = attributes(xclient_command(NOBODY, XCLIENT))
    assert told.keys() == XCLIENT
    assert told.pop("PROTO") == "SMTP"
    assert set(told.values()) == {"[UNAVAILABLE]"}
    assert attributes(xforward_command(NOBODY, XFORWARD)).keys() == XFORWARD


def test_only_what_was_offered_and_is_known_is_told() -> None:
    assert xclient_command(SPIKE, frozenset({"ADDR", "TTL", "FOO"})) == b"XCLIENT ADDR=168.100.189.2\r\n"
    assert xclient_command(SPIKE, frozenset()) == b""
    assert xforward_command(SPIKE, frozenset({"LOGIN"})) == b""


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "IPV6:2001:db8::1"),
        ("::1", "IPV6:::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "IPV6:fe80::1"),
        ("", "[UNAVAILABLE]"),
        ("unix:", "[UNAVAILABLE]"),
        ("[192.0.2.1]", "[UNAVAILABLE]"),
        ("192.0.2.1 LOGIN=root", "[UNAVAILABLE]"),
        ("::1\r\nQUIT", "[UNAVAILABLE]"),
    ],
)
def test_addresses(address: str, told: str) -> None:
    identity = SPIKE._replace(address=address, destination_address=address)
    assert attributes(xclient_command(identity, XCLIENT))["ADDR"] == told
    assert attributes(xclient_command(identity, XCLIENT))["DESTADDR"] == told
    assert attributes(xforward_command(identity, XFORWARD))["ADDR"] == told


@pytest.mark.parametrize(("port", "told"), [(1, "1"), (65535, "65535"), (0, "[UNAVAILABLE]"), (65536, "[UNAVAILABLE]")])
def test_ports(port: int, told: str) -> None:
    assert attributes(xclient_command(SPIKE._replace(port=port, destination_port=port), XCLIENT))["PORT"] == told


INJECTIONS = [
    "evil\r\nRCPT TO:<victim@example.org>",
    "evil\nLOGIN=root",
    "evil LOGIN=root",
    "evil\tLOGIN=root",
    "evil\0",
    "evil\x7f",
    "evil\x85",
    "evil\u2028x",
    "\ud800",
]


class TestAttacks:
    """Each by its name."""

    @pytest.mark.parametrize(
        "name", [*INJECTIONS, "a..b", "-a.example", "a-.example", "192.0.2.1", "x" * 64, "a." * 200, "ü.example"]
    )
    def test_a_ptr_record_is_told_only_if_it_is_a_host_name(self, name: str) -> None:
        """nginx CVE-2026-28753: the client's reverse DNS went into XCLIENT as it was."""
        assert attributes(xclient_command(SPIKE._replace(name=name), XCLIENT))["NAME"] == "[UNAVAILABLE]"
        assert attributes(xforward_command(SPIKE._replace(name=name), XFORWARD))["NAME"] == "[UNAVAILABLE]"

    @pytest.mark.parametrize("helo", [*INJECTIONS, "<script>", "a(b)", 'a"b', "a@b", "a;b", "x" * 256, "=" * 250])
    def test_a_helo_name_is_told_only_if_it_is_harmless_in_a_header(self, helo: str) -> None:
        assert attributes(xclient_command(SPIKE._replace(helo=helo), XCLIENT))["HELO"] == "[UNAVAILABLE]"

    @pytest.mark.parametrize("login", ["evil LOGIN=root", "a+b=c@example.com", "jürg@example.com", "a\u00a0b"])
    def test_a_login_is_told_in_xtext(self, login: str) -> None:
        told = attributes(xclient_command(SPIKE._replace(login=login), XCLIENT))
        assert decode_xtext(told["LOGIN"].encode()) == login

    @pytest.mark.parametrize("login", ["evil\r\nQUIT", "evil\0", "\x85", "\ud800", "x" * 256, "ü" * 128, "=" * 200])
    def test_a_login_with_a_control_character_or_too_long_is_not_told(self, login: str) -> None:
        assert attributes(xclient_command(SPIKE._replace(login=login), XCLIENT))["LOGIN"] == "[UNAVAILABLE]"

    def test_proto_is_never_anything_else(self) -> None:
        for proto in ("", "LMTP", "x\r\nQUIT"):
            assert attributes(xclient_command(SPIKE._replace(proto=proto), XCLIENT))["PROTO"] == "SMTP"


@pytest.mark.parametrize("helo", ["[192.0.2.1]", "[IPv6:::1]", "DESKTOP_PC", "localhost", "a.b-c.example", "a=b+c"])
def test_usual_helo_names(helo: str) -> None:
    told = attributes(xclient_command(SPIKE._replace(helo=helo), XCLIENT))["HELO"]
    assert decode_xtext(told.encode()) == helo


def test_long_values_take_several_commands_with_the_address_in_the_last() -> None:
    name = ".".join(["n" * 62] * 4)
    long = Identity(name, "2001:db8::1", 65535, "ESMTP", "h" * 255, "l" * 255, "2001:db8::2", 587)
    command = xclient_command(long, XCLIENT)
    lines = command.splitlines(keepends=True)
    assert len(lines) == 3
    assert [b" ADDR=" in line for line in lines] == [False, False, True]
    told = attributes(command)
    assert (told["NAME"], told["HELO"], told["LOGIN"]) == (name, "h" * 255, "l" * 255)


texts = st.text(max_size=300) | st.sampled_from(INJECTIONS)


@given(texts, texts, texts, texts, texts, st.integers(-1, 70000), st.sets(st.sampled_from(sorted(XCLIENT | XFORWARD))))
def test_whatever_is_known_of_a_client_the_commands_are_well_formed(
    name, address, proto, helo, login, port, offered
) -> None:  # type: ignore[no-untyped-def]
    identity = Identity(name, address, port, proto, helo, login, address, port)
    for command, known in ((xclient_command, XCLIENT), (xforward_command, XFORWARD)):
        line = command(identity, frozenset(offered))
        if offered & known:
            assert attributes(line).keys() == offered & known
        else:
            assert line == b""


@given(st.ip_addresses())
def test_the_address_told_is_the_address(address: object) -> None:
    told = attributes(xclient_command(SPIKE._replace(address=str(address)), XCLIENT))["ADDR"]
    six = ip_address(str(address))
    mapped = getattr(six, "ipv4_mapped", None)
    assert ip_address(told.removeprefix("IPV6:")) == (mapped or six)
