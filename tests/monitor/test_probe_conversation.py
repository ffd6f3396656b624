"""Octets to lines, however they are cut; and whatever octets come, a session ends in an answer or a named failure."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probe_peers import check_of

from smartmail.core.outcome import FIRST_FAILURE, FIRST_OWN, Outcome
from smartmail.core.roster import CheckKind
from smartmail.monitor.probes import ProbeFailure, SecretSource, Visit, make_context, observe
from smartmail.monitor.probes.conversation import MAX_LINE, Conversation, LogicalLine
from smartmail.monitor.probes.https import _head, _look_for
from smartmail.monitor.probes.imap import ImapSession, quoted
from smartmail.monitor.probes.pop3 import Pop3Session
from smartmail.monitor.probes.sieve import SieveSession
from smartmail.monitor.probes.smtp import SmtpSession

CONTEXT = make_context(SecretSource(None), nameserver="127.0.0.1:9")


def hear(
    pieces: Sequence[bytes], talk: Callable[[Conversation], Awaitable[None]], *, at_once: bool = True
) -> tuple[Outcome, str]:
    """Run a session whose server says these pieces and ends; how that went."""

    async def work(visit: Visit) -> Outcome:
        conversation = Conversation(visit)
        if not at_once:
            loop = asyncio.get_running_loop()
            for piece in pieces:
                loop.call_soon(conversation.data_received, piece)
            loop.call_soon(conversation.eof_received)
        else:
            for piece in pieces:
                conversation.data_received(piece)
            conversation.eof_received()
        await talk(conversation)
        return Outcome.OK

    seen = asyncio.run(observe(check_of(CheckKind.TCP, 25, text="x"), CONTEXT, work))
    return seen.outcome, seen.detail


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The octets in pieces."""
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(marks)]


LITERALS = b'* 1 FETCH (A {5}\r\na\r\n{9 B {0}\r\n "x" C {3+}\r\nxyz)\r\nA1 OK {done\r\nrest'


@given(st.lists(st.integers(0, 1000), max_size=40), st.booleans())
def test_lines_and_literals_do_not_depend_on_how_the_octets_are_cut(places: list[int], at_once: bool) -> None:
    found: list[LogicalLine | bytes] = []

    async def talk(conversation: Conversation) -> None:
        found.append(await conversation.logical_line())
        found.append(await conversation.line())
        found.append(await conversation.octets(4))

    assert hear(cut(LITERALS, places), talk, at_once=at_once) == (Outcome.OK, "")
    assert found == [
        LogicalLine(b'* 1 FETCH (A {5} B {0} "x" C {3+})', (b"a\r\n{9", b"", b"xyz")),
        b"A1 OK {done",
        b"rest",
    ]


def test_octet_by_octet() -> None:
    test_lines_and_literals_do_not_depend_on_how_the_octets_are_cut.hypothesis.inner_test(  # type: ignore[attr-defined]
        list(range(len(LITERALS))), False
    )


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"x" * (MAX_LINE - 2) + b"\r\n", Outcome.OK),
        (b"x" * (MAX_LINE - 1) + b"\r\n", Outcome.PROTOCOL),
        (b"x" * (MAX_LINE + 1), Outcome.PROTOCOL),
        (b"bare\n", Outcome.PROTOCOL),
        (b"bare\rcr\r\n", Outcome.OK),
        (b"half", Outcome.LOST),
        (b"", Outcome.LOST),
    ],
)
@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_bounds_of_a_line(data: bytes, outcome: Outcome, size: int) -> None:
    async def talk(conversation: Conversation) -> None:
        await conversation.line()

    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert hear(pieces, talk)[0] is outcome


async def smtp(conversation: Conversation) -> None:
    session = SmtpSession(conversation)
    await session.greeting()
    await session.hello()
    await session.mail("")
    await session.rcpt("a@example.com")
    await session.data(b"x")
    await session.quit()


async def imap(conversation: Conversation) -> None:
    session = ImapSession(conversation)
    await session.greeting()
    await session.select()
    await session.search("ALL")
    await session.fetch_number(1, "FLAGS")
    await session.expunge((1,))
    await session.logout()


async def pop3(conversation: Conversation) -> None:
    session = Pop3Session(conversation)
    await session.greeting()
    await session.messages()
    await session.quit()


async def sieve(conversation: Conversation) -> None:
    session = SieveSession(conversation)
    await session.greeting()
    await session.logout()


async def http(conversation: Conversation) -> None:
    status, fields = await _head(conversation)
    await _look_for(conversation, status, fields)


WORDS = {
    smtp: [b"220 hi\r\n", b"250-a\r\n", b"250 b\r\n", b"354 go\r\n", b"4", b"421 x\r\n", b"250", b"\xff"],
    imap: [b"* OK [CAPABILITY IMAP4rev1 UIDPLUS] hi\r\n", b"A1 OK\r\n", b"A2 NO [X] y\r\n", b"* 3 EXISTS\r\n",
           b"* SEARCH 1 x 99999999999\r\n", b"* 1 FETCH (UID 3 X {3}\r\n", b"abc", b")\r\n", b"A3 OK\r\n", b"{9}\r\n",
           b"* BYE bye\r\n"],
    pop3: [b"+OK\r\n", b"+OK 3 4\r\n", b"-ERR [SYS/TEMP] x\r\n", b"+", b"\r\n"],
    sieve: [b'"SIEVE" "x"\r\n', b"OK\r\n", b'"', b"{3}\r\n", b"abc\r\n", b'BYE "x"\r\n', b"{3+}\r\n"],
    http: [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Go\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 4\r\n",
           b"\r\n", b"3\r\n", b"abc\r\n", b"0\r\n", b"ffffffff\r\n"],
}  # fmt: skip


@pytest.mark.parametrize("talk", WORDS)
@given(data=st.data())
def test_whatever_comes_a_failure_has_a_name(
    talk: Callable[[Conversation], Awaitable[None]], data: st.DataObject
) -> None:
    pieces = data.draw(st.lists(st.one_of(st.sampled_from(WORDS[talk]), st.binary(max_size=20)), max_size=12))
    outcome, detail = hear(pieces, talk)
    assert outcome is Outcome.OK or FIRST_FAILURE <= outcome < FIRST_OWN, detail


def test_quoted_strings() -> None:
    assert quoted('a"b\\c') == '"a\\"b\\\\c"'
    with pytest.raises(ValueError, match="no quoted string"):
        quoted("a\r\nb")


def test_a_failure_says_what_and_how() -> None:
    failure = ProbeFailure(Outcome.LOST, "gone")
    assert (failure.outcome, failure.detail, str(failure)) == (Outcome.LOST, "gone", "gone")
