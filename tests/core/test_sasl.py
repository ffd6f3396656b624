"""PLAIN (RFC 4616) and LOGIN: what counts as credentials, and what doesn't."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.sasl import (
    MAX_LOGIN,
    MAX_PASSWORD,
    MECHANISMS,
    Challenge,
    Credentials,
    Login,
    Malformed,
    Plain,
    plain_message,
    prepare_password,
)


def plain(response: bytes) -> Challenge | Credentials | Malformed:
    return Plain().step(response)


def login(name: bytes, password: bytes) -> Challenge | Credentials | Malformed:
    exchange = Login()
    first = exchange.step(name)
    return exchange.step(password) if isinstance(first, Challenge) else first


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b"\0tim\0tanstaaftanstaaf", Credentials("", "tim", "tanstaaftanstaaf")),
        (b"Ursel\0Kurt\0xipj3plmq", Credentials("Ursel", "Kurt", "xipj3plmq")),
        (b"\0bob@example.com\0pass word", Credentials("", "bob@example.com", "pass word")),
        ("\0jürg@exämple.org\0pässwörd€".encode(), Credentials("", "jürg@exämple.org", "pässwörd€")),
        (b"\0bob\0tab\tin password", Credentials("", "bob", "tab\tin password")),
    ],
)
def test_plain_carries_authzid_login_and_password(response: bytes, expected: Credentials) -> None:
    assert plain(response) == expected


def test_plain_without_initial_response_is_asked_with_an_empty_challenge() -> None:
    exchange = Plain()
    assert exchange.step(None) == Challenge(b"")
    assert exchange.step(b"\0bob\0secret") == Credentials("", "bob", "secret")


def test_login_asks_for_the_name_then_for_the_password() -> None:
    exchange = Login()
    assert exchange.step(None) == Challenge(b"Username:")
    assert exchange.step(b"bob@example.com") == Challenge(b"Password:")
    assert exchange.step(b"secret") == Credentials("", "bob@example.com", "secret")


def test_login_takes_the_name_as_initial_response() -> None:
    exchange = Login()
    assert exchange.step(b"bob@example.com") == Challenge(b"Password:")
    assert exchange.step(b"secret") == Credentials("", "bob@example.com", "secret")


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (b"", "PLAIN has two NULs, not 0"),
        (b"bob", "PLAIN has two NULs, not 0"),
        (b"\0bob", "PLAIN has two NULs, not 1"),
        (b"\0bob\0secret\0", "PLAIN has two NULs, not 3"),
        (b"\0bob\0sec\0ret", "PLAIN has two NULs, not 3"),
        (b"\0\0\0\0\0\0", "PLAIN has two NULs, not 6"),
        (b"\0\0secret", "login is empty"),
        (b"\0bob\0", "password is empty"),
        (b"\0b\xffb\0secret", "login is no UTF-8"),
        (b"\0bob\0s\xe9cret", "password is no UTF-8"),
        (b"\xc0\x80\0bob\0secret", "authzid is no UTF-8"),
        (b"\0bo\xed\xa0\x80b\0secret", "login is no UTF-8"),
        (b"\0bob\r\nRCPT TO:<x>\0secret", "login has a control character"),
        (b"\0bob\nX\0secret", "login has a control character"),
        (b"\0bob\tnologin\0secret", "login has a control character"),
        (b"\0bob\x7f\0secret", "login has a control character"),
        ("\0bob\x85\0secret".encode(), "login has a control character"),
        ("\0bob\u2028\0secret".encode(), "login has a control character"),
        (b"a\x01b\0bob\0secret", "authzid has a control character"),
        (b"\0bob\0sec\rret", "password has a NUL or a line break"),
        (b"\0bob\0sec\nret", "password has a NUL or a line break"),
        (b"\0" + b"b" * (MAX_LOGIN + 1) + b"\0secret", "login has 513 octets, more than 512"),
        (b"b" * (MAX_LOGIN + 1) + b"\0bob\0secret", "authzid has 513 octets, more than 512"),
        (b"\0bob\0" + b"s" * (MAX_PASSWORD + 1), "password has 1025 octets, more than 1024"),
    ],
)
def test_plain_out_of_grammar_or_bounds_is_malformed(response: bytes, why: str) -> None:
    assert plain(response) == Malformed(why)


@pytest.mark.parametrize(
    ("name", "password", "why"),
    [
        (b"", b"secret", "login is empty"),
        (b"bob", b"", "password is empty"),
        (b"bob\0x", b"secret", "login has a control character"),
        (b"bob\r\n", b"secret", "login has a control character"),
        (b"bob", b"sec\0ret", "password has a NUL or a line break"),
        (b"bob", b"secret\r\n", "password has a NUL or a line break"),
        (b"\xff", b"secret", "login is no UTF-8"),
        (b"bob", b"\xff", "password is no UTF-8"),
        (b"b" * (MAX_LOGIN + 1), b"secret", "login has 513 octets, more than 512"),
        (b"bob", b"s" * (MAX_PASSWORD + 1), "password has 1025 octets, more than 1024"),
    ],
)
def test_login_out_of_bounds_is_malformed(name: bytes, password: bytes, why: str) -> None:
    assert login(name, password) == Malformed(why)


def test_values_at_their_bounds_pass() -> None:
    name, password = b"b" * MAX_LOGIN, b"s" * MAX_PASSWORD
    expected = Credentials("", name.decode(), password.decode())
    assert plain(b"\0" + name + b"\0" + password) == expected
    assert login(name, password) == expected


@pytest.mark.parametrize("name", MECHANISMS)
def test_nothing_follows_the_end_of_an_exchange(name: str) -> None:
    exchange = MECHANISMS[name]()
    while isinstance(exchange.step(b"bob"), Challenge):
        pass
    assert exchange.step(b"\0bob\0secret") == Malformed("the exchange is over")


@pytest.mark.parametrize(
    ("authzid", "other"),
    [
        ("", False),
        ("bob@example.com", False),
        ("Bob@Example.COM", False),
        ("alice@example.com", True),
        ("bob", True),
    ],
)
def test_an_authzid_that_differs_from_the_login_is_seen(authzid: str, *, other: bool) -> None:
    assert Credentials(authzid, "bob@example.com", "secret").for_another is other


def test_a_password_is_not_in_the_repr() -> None:
    assert "secret" not in repr(Credentials("", "bob", "secret"))


@pytest.mark.parametrize(
    ("typed", "prepared"),
    [
        ("plain ASCII ~", "plain ASCII ~"),
        ("pa\u0301ss", "p\u00e1ss"),
        ("p\u00e1ss", "p\u00e1ss"),
        ("no\u00a0break", "no break"),
        ("ideographic\u3000space", "ideographic space"),
        ("\ufb01", "\ufb01"),
    ],
)
def test_a_password_is_the_same_from_every_keyboard(typed: str, prepared: str) -> None:
    assert prepare_password(typed) == prepared
    assert prepare_password(prepared) == prepared


names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=100)


@given(authzid=st.one_of(st.just(""), names), login=names, password=names)
def test_what_goes_into_a_plain_message_comes_out(authzid: str, login: str, password: str) -> None:
    credentials = Credentials(authzid, login, password)
    assert plain(plain_message(credentials)) == credentials


@given(st.lists(st.one_of(st.none(), st.binary(max_size=2000)), max_size=4), st.sampled_from(sorted(MECHANISMS)))
def test_no_bytes_raise_and_no_credentials_hold_a_nul_or_a_line_break(responses: list[bytes | None], name: str) -> None:
    exchange = MECHANISMS[name]()
    for response in responses:
        step = exchange.step(response)
        if isinstance(step, Credentials):
            assert step.login
            assert step.password
            assert not set("\0\r\n") & set(step.authzid + step.login + step.password)
