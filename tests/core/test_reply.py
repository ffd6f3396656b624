"""Replies: rendered, and read from an upstream whole, octet by octet, and several at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.reply import MAX_REPLY_LINE, MAX_REPLY_SIZE, Reply, ReplyError, ReplyParser, reply


def replies_of(data: bytes, size: int) -> tuple[list[Reply], bool, bool]:
    """The replies, whether an error came after them, and whether nothing is held back."""
    parser = ReplyParser()
    replies: list[Reply] = []
    for start in range(0, len(data), size):
        try:
            replies += parser.feed(data[start : start + size])
        except ReplyError as error:
            return [*replies, *error.replies], True, True
    return replies, False, parser.idle


def read(data: bytes) -> tuple[list[Reply], bool, bool]:
    """As `replies_of`, the same for every size."""
    results = [replies_of(data, size) for size in (1, 3, len(data) or 1)]
    assert results[0] == results[1] == results[2]
    return results[0]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 Ok\r\n", Reply(250, ("Ok",))),
        (b"250\r\n", Reply(250, ("",))),
        (b"250 \r\n", Reply(250, ("",))),
        (b"250 2.1.5 Ok\r\n", Reply(250, ("Ok",), "2.1.5")),
        (b"250 2.1.5\r\n", Reply(250, ("",), "2.1.5")),
        (b"250 2.1.5 \r\n", Reply(250, ("",), "2.1.5")),
        (b"250  2.1.5 Ok\r\n", Reply(250, (" 2.1.5 Ok",))),
        (b"250 2.1.5.1 Ok\r\n", Reply(250, ("2.1.5.1 Ok",))),
        (b"250 2.1.5Ok\r\n", Reply(250, ("2.1.5Ok",))),
        (b"250 2.1.5\tOk\r\n", Reply(250, ("2.1.5\tOk",))),
        (b"250 5.1.5 Ok\r\n", Reply(250, ("5.1.5 Ok",))),
        (b"354 3.0.0 Go\r\n", Reply(354, ("3.0.0 Go",))),
        (b"550 5.1.1 <a@b>: no such user\r\n", Reply(550, ("<a@b>: no such user",), "5.1.1")),
        (b"550 5.1234.1 x\r\n", Reply(550, ("5.1234.1 x",))),
        ("550 5.1.1 jürg\r\n".encode(), Reply(550, ("jürg",), "5.1.1")),
        ("550 5.\u0661.1 x\r\n".encode(), Reply(550, ("5.\u0661.1 x",))),
        (b"550 \xff\r\n", Reply(550, ("\udcff",))),
        (b"250-a\r\n250 b\r\n", Reply(250, ("a", "b"))),
        (b"250-\r\n250\r\n", Reply(250, ("", ""))),
        (b"250-2.0.0 a\r\n250 2.0.0 b\r\n", Reply(250, ("a", "b"), "2.0.0")),
        (b"250-2.0.0 a\r\n250 b\r\n", Reply(250, ("2.0.0 a", "b"))),
        (b"250-2.0.0 a\r\n250 2.0.1 b\r\n", Reply(250, ("2.0.0 a", "2.0.1 b"))),
        (b"250-host\r\n250-SIZE 1\r\n250 DSN\r\n", Reply(250, ("host", "SIZE 1", "DSN"))),
    ],
)
def test_replies(data: bytes, expected: Reply) -> None:
    assert read(data) == ([expected], False, True)
    assert read(data + data) == ([expected, expected], False, True)
    assert read(data + b"25") == ([expected], False, False)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b" \r\n",
        b"Ok\r\n",
        b"25 Ok\r\n",
        b"2500 Ok\r\n",
        b"150 Ok\r\n",
        b"650 Ok\r\n",
        b"250Ok\r\n",
        b"250_Ok\r\n",
        b"250\tOk\r\n",
        b" 250 Ok\r\n",
        "\uff1250 Ok\r\n".encode(),
        b"250-a\r\n251 b\r\n",
        b"250-a\r\n\r\n",
        b"250 a\nb\r\n",
        b"250 a\rb\r\n",
        b"250 a\0b\r\n",
        b"250 a\x7fb\r\n",
        b"250 a\x1b[0mb\r\n",
        b"250 a\n250 b\r\n",
        b"250 a\r\r\n",
        b"250 2.0.0\n\r\n",
        b"250 " + b"x" * (MAX_REPLY_LINE - 5) + b"\r\n",
        b"250 " + b"x" * MAX_REPLY_LINE,
        b"250-" + b"x" * 4000 + b"\r\n" + (b"250-" + b"x" * 4000 + b"\r\n") * (MAX_REPLY_SIZE // 4006),
    ],
)
def test_what_is_no_reply(data: bytes) -> None:
    assert read(data) == ([], True, True)


def test_the_longest_line_is_taken() -> None:
    text = "x" * (MAX_REPLY_LINE - 6)
    assert read(f"250 {text}\r\n".encode()) == ([Reply(250, (text,))], False, True)


def test_replies_that_came_whole_before_an_error_are_told() -> None:
    parser = ReplyParser()
    with pytest.raises(ReplyError) as caught:
        parser.feed(b"250 2.0.0 queued\r\nnonsense\r\n")
    assert caught.value.replies == (Reply(250, ("queued",), "2.0.0"),)


def test_a_reply_in_parts_is_not_idle() -> None:
    parser = ReplyParser()
    assert parser.idle
    assert parser.feed(b"250-a\r\n") == [] and not parser.idle
    assert parser.feed(b"250 b\r\n") and parser.idle
    assert parser.feed(b"2") == [] and not parser.idle
    assert parser.feed(b"50 b\r\n") == [Reply(250, ("b",))] and parser.idle


@pytest.mark.parametrize(
    ("answer", "wire"),
    [
        (reply(250, "2.0.0", "Ok"), b"250 2.0.0 Ok\r\n"),
        (reply(354, "", "Go"), b"354 Go\r\n"),
        (reply(250, "", "a", "b", "c"), b"250-a\r\n250-b\r\n250 c\r\n"),
        (reply(421, "4.3.2", "a", "b"), b"421-4.3.2 a\r\n421 4.3.2 b\r\n"),
        (Reply(250, ()), b"250 \r\n"),
        (Reply(550, ("\udcff",)), b"550 \xff\r\n"),
    ],
)
def test_rendering(answer: Reply, wire: bytes) -> None:
    assert answer.render() == wire


def test_kinds_of_reply() -> None:
    assert reply(250, "", "x").positive and not reply(354, "", "x").positive
    assert reply(421, "", "x").transient and not reply(550, "", "x").transient
    assert str(reply(550, "5.7.1", "a", "b")) == "550 5.7.1 a b"
    assert str(Reply(250, ())) == "250"


texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40)


@given(
    st.integers(200, 599),
    st.lists(texts, min_size=1, max_size=4),
    st.none() | st.tuples(st.integers(0, 999), st.integers(0, 999)),
)
def test_what_is_rendered_reads_back(code: int, lines: list[str], detail: tuple[int, int] | None) -> None:
    enhanced = f"{code // 100}.{detail[0]}.{detail[1]}" if detail and code // 100 != 3 else ""
    answer = Reply(code, tuple(lines), enhanced)
    found, error, idle = read(answer.render())
    assert (error, idle) == (False, True)
    assert found[0].render() == answer.render()
    if enhanced or not lines[0][:1].isdigit():
        assert found == [answer]


@given(
    st.lists(
        st.sampled_from(
            [b"2", b"5", b"0", b"-", b" ", b"\r\n", b"\r", b"\n", b".", b"250-", b"250 2.0.0 ", b"x", b"\0"]
        ),
        max_size=30,
    )
)
def test_octet_by_octet_is_as_whole(parts: list[bytes]) -> None:
    read(b"".join(parts))
