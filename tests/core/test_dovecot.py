"""Dovecot's authentication protocol: lines in, lines out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.dovecot import (
    MAX_HANDSHAKE_LINES,
    MAX_LINE,
    AuthLineParser,
    Cont,
    Cookie,
    Cuid,
    Done,
    DovecotError,
    Fail,
    Line,
    Mech,
    Ok,
    Spid,
    Unknown,
    Version,
    encode_auth,
    encode_cancel,
    encode_cont,
    encode_handshake,
)

# As Dovecot 2.3.19 says it.
HANDSHAKE = (
    b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nMECH\tAPOP\tprivate\tdictionary\tactive\n"
    b"MECH\tANONYMOUS\tanonymous\nSPID\t4711\nCUID\t3\nCOOKIE\tcb8bc1b5b1b1b1b1b1b1b1b1b1b1b1b1\nDONE\n"
)
HANDSHAKE_LINES: list[Line] = [
    Version(1, 2),
    Mech("PLAIN", frozenset({"plaintext"})),
    Mech("LOGIN", frozenset({"plaintext"})),
    Mech("APOP", frozenset({"private", "dictionary", "active"})),
    Mech("ANONYMOUS", frozenset({"anonymous"})),
    Spid(4711),
    Cuid(3),
    Cookie("cb8bc1b5b1b1b1b1b1b1b1b1b1b1b1b1"),
    Done(),
]


def lines_of(data: bytes, size: int) -> tuple[list[Line], bool]:
    """The lines, and whether an error came after them."""
    parser = AuthLineParser()
    lines: list[Line] = []
    for start in range(0, len(data), size):
        try:
            lines += parser.feed(data[start : start + size])
        except DovecotError as error:
            return [*lines, *error.lines], True
    return lines, False


def after_handshake(data: bytes) -> list[Line]:
    for size in (1, 5, len(data) + len(HANDSHAKE)):
        lines, error = lines_of(HANDSHAKE + data, size)
        assert not error
    assert lines[: len(HANDSHAKE_LINES)] == HANDSHAKE_LINES
    return lines[len(HANDSHAKE_LINES) :]


def breaks(data: bytes) -> bool:
    results = [lines_of(data, size) for size in (1, 5, len(data))]
    assert results[0] == results[1] == results[2]
    return results[0][1]


def test_the_handshake() -> None:
    assert after_handshake(b"") == []
    assert HANDSHAKE_LINES[1].plaintext and not HANDSHAKE_LINES[1].private  # type: ignore[union-attr]
    assert HANDSHAKE_LINES[3].private and HANDSHAKE_LINES[4].anonymous  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"OK\t1\tuser=jane@example.com\n", Ok(1, "jane@example.com", {})),
        (b"OK\t4294967295\tuser=j\tnologin\tpass=\n", Ok(4294967295, "j", {"nologin": "", "pass": ""})),
        (b"OK\t1\n", Ok(1, "", {})),
        ("OK\t1\tuser=jürg\n".encode(), Ok(1, "jürg", {})),
        (b"OK\t1\tuser=a=b\n", Ok(1, "a=b", {})),
        (b"OK\t1\tuser=a\x01\x01b\n", Ok(1, "", {})),
        (b"OK\t1\tuser=a\x01xb\n", Ok(1, "axb", {})),
        (b"FAIL\t2\tuser=jane\n", Fail(2, "jane")),
        (b"FAIL\t2\tuser=jane\tcode=temp_fail\n", Fail(2, "jane", "temp_fail", "", True)),
        (b"FAIL\t2\ttemp\n", Fail(2, "", "", "", True)),
        (b"FAIL\t2\treason=No entry\tcode=user_disabled\n", Fail(2, "", "user_disabled", "No entry")),
        (b"CONT\t3\t\n", Cont(3, b"")),
        (b"CONT\t3\tVXNlcm5hbWU6\n", Cont(3, b"Username:")),
        (b"CANCELLED\t4\n", Unknown("CANCELLED")),
    ],
)
def test_answers(data: bytes, line: Line) -> None:
    assert after_handshake(data) == [line]


def test_several_answers_at_once() -> None:
    assert after_handshake(b"CONT\t2\t\nOK\t1\tuser=a\nFAIL\t2\n") == [Cont(2, b""), Ok(1, "a", {}), Fail(2)]


@pytest.mark.parametrize(
    "data",
    [
        b"OK\t1\tuser=a\n",
        b"VERSION\t2\t0\n",
        b"VERSION\t1\n",
        b"VERSION\tx\t1\n",
        b"MECH\tPLAIN\n",
        b"DONE\n",
        b"\n",
        b"VERSION\t1\t1\nVERSION\t1\t1\n",
        b"VERSION\t1\t1\nOK\t1\tuser=a\n",
        b"VERSION\t1\t1\nFAIL\t1\n",
        b"VERSION\t1\t1\nMECH\n",
        b"VERSION\t1\t1\nMECH\tplain text\n",
        b"VERSION\t1\t1\nSPID\n",
        b"VERSION\t1\t1\nCUID\t-1\n",
        b"VERSION\t1\t1\nCOOKIE\t\n",
        b"VERSION\t1\t1\n" + b"MECH\tPLAIN\n" * MAX_HANDSHAKE_LINES,
        HANDSHAKE + b"VERSION\t1\t1\n",
        HANDSHAKE + b"MECH\tPLAIN\n",
        HANDSHAKE + b"DONE\n",
        HANDSHAKE + b"\n",
        HANDSHAKE + b"OK\n",
        HANDSHAKE + b"OK\t\n",
        HANDSHAKE + b"OK\tx\tuser=a\n",
        HANDSHAKE + b"OK\t4294967296\tuser=a\n",
        HANDSHAKE + "OK\t\u0661\tuser=a\n".encode(),
        HANDSHAKE + b"CONT\t1\n",
        HANDSHAKE + b"CONT\t1\t!!!!\n",
        HANDSHAKE + b"CONT\t1\tQQ\n",
        HANDSHAKE + b"CONT\t1\tQQ=\n",
        HANDSHAKE + b"CONT\t1\tQ Q=\n",
        HANDSHAKE + b"OK\t1\tuser=a\r\n",
        HANDSHAKE + b"OK\t1\tuser=a\0\n",
        HANDSHAKE + b"\xff\t1\n",
    ],
)
def test_what_is_not_the_protocol(data: bytes) -> None:
    assert breaks(data)


def test_nothing_is_read_after_an_error() -> None:
    parser = AuthLineParser()
    with pytest.raises(DovecotError):
        parser.feed(b"HELLO\n")
    with pytest.raises(DovecotError):
        parser.feed(HANDSHAKE)


def test_answers_that_came_whole_before_an_error_are_told() -> None:
    parser = AuthLineParser()
    parser.feed(HANDSHAKE)
    with pytest.raises(DovecotError) as caught:
        parser.feed(b"OK\t1\tuser=a\nnonsense\0\n")
    assert caught.value.lines == (Ok(1, "a", {}),)


class TestAttacks:
    """Each by its name."""

    @pytest.mark.parametrize("user", [b"\xff", b"a\x01tb", b"a\x01nOK", b"a\x010b", b"a\x01rb", b"\xc2\x85"])
    def test_a_login_that_is_no_clean_text_logs_nobody_in_and_breaks_nothing(self, user: bytes) -> None:
        assert after_handshake(b"OK\t1\tuser=" + user + b"\nFAIL\t2\tuser=" + user + b"\tcode=temp_fail\n") == [
            Ok(1, "", {}),
            Fail(2, "", "temp_fail", "", True),
        ]

    def test_a_second_user_parameter_is_not_heard(self) -> None:
        assert after_handshake(b"OK\t1\tuser=jane\tuser=root\n") == [Ok(1, "jane", {})]
        assert after_handshake(b"OK\t1\tuser=j\x01n\tuser=root\n") == [Ok(1, "", {})]

    @pytest.mark.parametrize("data", [b"x" * MAX_LINE, b"OK\t1\tuser=" + b"x" * MAX_LINE + b"\n", b"OK\t" * MAX_LINE])
    def test_a_line_without_end_is_not_kept(self, data: bytes) -> None:
        assert breaks(HANDSHAKE + data)

    def test_the_longest_line_is_taken(self) -> None:
        user = "x" * (MAX_LINE - len("OK\t1\tuser=\n"))
        assert after_handshake(f"OK\t1\tuser={user}\n".encode()) == [Ok(1, user, {})]

    @pytest.mark.parametrize("control", ["\0", "\t", "\r", "\n"])
    def test_a_parameter_that_would_add_parameters_or_lines(self, control: str) -> None:
        with pytest.raises(DovecotError):
            encode_auth(1, "PLAIN", [("service", f"smtp{control}nologin")], None)
        with pytest.raises(DovecotError):
            encode_auth(1, f"PLAIN{control}", [], None)
        with pytest.raises(DovecotError):
            encode_auth(1, "PLAIN", [(f"a{control}b", "")], None)

    def test_a_parameter_called_resp(self) -> None:
        with pytest.raises(DovecotError):
            encode_auth(1, "PLAIN", [("resp", "AAAA")], None)

    def test_the_cookie_is_not_in_a_repr(self) -> None:
        assert "secret" not in repr(Cookie("secret"))


def test_what_we_say() -> None:
    assert encode_handshake(4711) == b"VERSION\t1\t2\nCPID\t4711\n"
    assert (
        encode_auth(1, "LOGIN", [("service", "smtp"), ("secured", "")], None)
        == b"AUTH\t1\tLOGIN\tservice=smtp\tsecured\n"
    )
    assert (
        encode_auth(7, "PLAIN", [("service", "smtp"), ("rip", "2001:db8::1")], b"\0a\0b")
        == b"AUTH\t7\tPLAIN\tservice=smtp\trip=2001:db8::1\tresp=AGEAYg==\n"
    )
    assert encode_auth(7, "EXTERNAL", [("session", "a\x01b")], b"") == b"AUTH\t7\tEXTERNAL\tsession=a\x011b\tresp=\n"
    assert encode_cont(7, b"jane") == b"CONT\t7\tamFuZQ==\n"
    assert encode_cont(7, b"") == b"CONT\t7\t\n"
    assert encode_cancel(7) == b"CANCEL\t7\n"


@pytest.mark.parametrize("number", [0, -1, 2**32])
def test_numbers_fit_32_bits(number: int) -> None:
    for say in (encode_handshake, encode_cancel):
        with pytest.raises(DovecotError):
            say(number)
    with pytest.raises(DovecotError):
        encode_cont(number, b"")


def test_what_we_say_fits_dovecots_line() -> None:
    with pytest.raises(DovecotError):
        encode_cont(1, b"x" * MAX_LINE)
    with pytest.raises(DovecotError):
        encode_auth(1, "PLAIN", [], b"x" * MAX_LINE)


@given(st.integers(1, 2**32 - 1), st.binary(max_size=200))
def test_a_challenge_reads_back(number: int, data: bytes) -> None:
    assert after_handshake(encode_cont(number, data)) == [Cont(number, data)]


@given(
    st.binary(max_size=80),
    st.sampled_from([b"", b"VERSION\t1\t1\n", HANDSHAKE, HANDSHAKE + b"OK\t1\tuser=", HANDSHAKE + b"CONT\t1\t"]),
)
def test_octet_by_octet_is_as_whole(data: bytes, lead: bytes) -> None:
    breaks(lead + data + b"\n")
