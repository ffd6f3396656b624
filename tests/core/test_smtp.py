"""The session machine: each step of the table, each reply, and the same whether octets come whole or one by one."""

import base64
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core import smtp_replies as say
from smartmail.core.reply import Reply, reply
from smartmail.core.smtp import IN_TRANSACTION, MAX_AUTH_LINE, MAX_COMMAND_LINE, STEPS, Session, State, Verb
from smartmail.core.smtp_events import (
    AuthResponse,
    AuthStart,
    ChunkAsked,
    Content,
    ContentRefused,
    DataAsked,
    Event,
    Hello,
    MailFrom,
    Offer,
    Quit,
    RcptTo,
    Refused,
    StartTls,
    Terms,
    TransactionReset,
)

HOST = "mx.example.com"
TERMS = Terms(HOST, max_size=1000, max_errors=1000, max_noops=1000)
OFFER = Offer(
    keywords=("PIPELINING", "SIZE 1000"),
    extensions=frozenset({"SIZE", "8BITMIME", "SMTPUTF8", "DSN"}),
    mechanisms=("PLAIN", "LOGIN"),
    starttls=True,
    chunking=True,
)
BANNER = reply(220, "", f"{HOST} ESMTP")
OK, NO, LATER = reply(250, "2.0.0", "Fine"), reply(550, "5.7.1", "No"), reply(451, "4.3.0", "Later")
GO_AHEAD = reply(354, "", "Go on")
LINES = {
    Verb.HELO: b"HELO client.example",
    Verb.EHLO: b"EHLO client.example",
    Verb.STARTTLS: b"STARTTLS",
    Verb.AUTH: b"AUTH LOGIN",
    Verb.MAIL: b"MAIL FROM:<a@example.com>",
    Verb.RCPT: b"RCPT TO:<b@example.net>",
    Verb.DATA: b"DATA",
    Verb.BDAT: b"BDAT 5",
    Verb.RSET: b"RSET",
    Verb.NOOP: b"NOOP",
    Verb.VRFY: b"VRFY b",
    Verb.HELP: b"HELP",
    Verb.QUIT: b"QUIT",
}
AT_BOUNDARY = tuple(STEPS)


def opened(terms: Terms = TERMS, offer: Offer = OFFER, *, tls: bool = False) -> Session:
    session = Session(terms, offer, tls=tls)
    session.open(BANNER)
    session.output()
    return session


def events(session: Session, octets: bytes) -> list[Event]:
    """What octets give rise to until an answer is due."""
    session.receive(octets)
    found = []
    while (event := session.next_event()) is not None:
        found.append(event)
    return found


def only(session: Session, octets: bytes) -> Event:
    """The one event of octets."""
    (event,) = events(session, octets)
    return event


def in_state(state: State, terms: Terms = TERMS, offer: Offer = OFFER) -> Session:
    """A session that has come to a state by the book."""
    session = opened(terms, offer)
    if state is State.HELLO:
        return session
    only(session, b"EHLO client.example\r\n")
    session.greet(offer, extended=True)
    path = {
        State.READY: b"",
        State.ENVELOPE: b"M",
        State.ADDRESSED: b"MR",
        State.CHUNKS: b"MRB",
        State.CONTENT: b"MRD",
        State.CHUNK: b"MRC",
        State.AUTHENTICATING: b"A",
        State.CLOSED: b"Q",
    }[state]
    for step in path:
        match chr(step):
            case "M":
                only(session, b"MAIL FROM:<a@example.com>\r\n")
                session.answer(OK)
            case "R":
                only(session, b"RCPT TO:<b@example.net>\r\n")
                session.answer(OK)
            case "B":
                events(session, b"BDAT 2\r\nxx")
                session.answer(OK)
            case "C":
                only(session, b"BDAT 10\r\n")
            case "D":
                only(session, b"DATA\r\n")
                session.accept_data(GO_AHEAD)
            case "A":
                only(session, b"AUTH LOGIN\r\n")
                session.challenge(b"Username:")
            case "Q":
                only(session, b"QUIT\r\n")
    session.output()
    assert session.state is state
    return session


def answer(session: Session, verb: Verb, word: Reply) -> None:
    """Answer a command as its edge would; `word` is positive or not."""
    if verb in (Verb.HELO, Verb.EHLO) and word.positive:
        session.greet(OFFER, extended=verb is Verb.EHLO)
    elif verb is Verb.STARTTLS:
        session.tls_started()
    elif verb is Verb.DATA and word.positive:
        assert session.accept_data(GO_AHEAD)
    elif verb is Verb.BDAT:
        events(session, b"12345")
        session.answer(word)
    else:
        session.answer(word)


BY_ITSELF = {Verb.RSET, Verb.NOOP, Verb.VRFY, Verb.HELP, Verb.QUIT}
"""The session answers these alone."""


# the table


def test_the_table_is_whole() -> None:
    assert set(STEPS) == {State.HELLO, State.READY, State.ENVELOPE, State.ADDRESSED, State.CHUNKS}
    for steps in STEPS.values():
        assert {Verb.NOOP, Verb.VRFY, Verb.HELP, Verb.QUIT, Verb.RSET, Verb.HELO, Verb.EHLO} <= set(steps)
        assert set(steps.values()) <= {None, *State}
    assert set(LINES) == set(Verb)


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("state", AT_BOUNDARY)
def test_each_verb_in_each_state(state: State, verb: Verb) -> None:
    session = in_state(state)
    found = events(session, LINES[verb] + b"\r\n")
    if verb not in STEPS[state]:
        if verb is Verb.BDAT:  # its octets come all the same
            assert found == [] and session.in_content
            found = events(session, b"12345")
        (refused,) = found
        assert isinstance(refused, Refused) and refused.reply.code == 503 and not refused.closing
        assert session.state is state and not session.waiting
        return
    if verb is Verb.QUIT:
        assert found == [Quit()] and session.closed
        assert session.output() == b"221 2.0.0 Bye\r\n"
        return
    if verb in BY_ITSELF:
        assert found == ([TransactionReset()] if verb is Verb.RSET and state in IN_TRANSACTION else [])
        assert session.output().startswith(b"2")
    else:
        assert len(found) == 1
        answer(session, verb, OK)
    expected = STEPS[state][verb]
    if verb is Verb.BDAT:
        expected = State.CHUNKS
    assert session.state is (expected or state)
    assert not session.waiting


@pytest.mark.parametrize("refusal", [NO, LATER])
@pytest.mark.parametrize("verb", sorted(set(Verb) - BY_ITSELF - {Verb.STARTTLS}))
@pytest.mark.parametrize("state", AT_BOUNDARY)
def test_a_negative_answer_leaves_the_state_but_ends_a_transaction_at_its_content(
    state: State, verb: Verb, refusal: Reply
) -> None:
    if verb not in STEPS[state]:
        return
    session = in_state(state)
    events(session, LINES[verb] + b"\r\n")
    answer(session, verb, refusal)
    assert session.state is (State.READY if verb in (Verb.DATA, Verb.BDAT) else state)
    assert session.output().endswith(refusal.render())
    assert not session.authenticated


@pytest.mark.parametrize("state", State)
def test_close_is_final(state: State) -> None:
    session = in_state(state)
    session.close(reply(421, "4.3.2", "Enough"))
    said = session.output()
    assert said == (b"" if state is State.CLOSED else b"421 4.3.2 Enough\r\n")
    for line in LINES.values():
        assert events(session, line + b"\r\n") == []
    session.answer(OK)
    session.greet(OFFER, extended=True)
    session.challenge(b"x")
    session.close(NO)
    assert session.accept_data(GO_AHEAD) is False
    assert session.output() == b"" and session.closed and session.backlog == 0 and not session.waiting
    assert session.state is State.CLOSED


def test_a_boundary_is_where_a_command_may_come() -> None:
    for state in State:
        assert in_state(state).at_boundary is (state in STEPS)
    session = in_state(State.READY)
    events(session, b"MAIL FROM:<>\r\n")
    assert not session.at_boundary
    session.answer(OK)
    assert session.at_boundary


# the greeting


def test_no_command_is_read_before_the_greeting() -> None:
    session = Session(TERMS, OFFER)
    assert session.waiting
    session.open(BANNER)
    assert session.output() == b"220 mx.example.com ESMTP\r\n"


def test_talk_before_the_greeting_closes() -> None:
    session = Session(TERMS, OFFER)
    session.receive(b"EHLO x\r\n")
    assert session.next_event() is None
    session.open(BANNER)
    assert session.output() == say.EARLY_TALK.render() and session.closed


@pytest.mark.parametrize("code", [421, 554])
def test_a_greeting_that_refuses_closes(code: int) -> None:
    session = Session(TERMS, OFFER)
    session.open(reply(code, "", "go away"))
    assert session.closed and session.output() == f"{code} go away\r\n".encode()


# commands

REFUSED = [
    (State.READY, b"", say.UNKNOWN_COMMAND),
    (State.READY, b"FOO", say.UNKNOWN_COMMAND),
    (State.READY, b" NOOP", say.UNKNOWN_COMMAND),
    (State.READY, b"NOOPX", say.UNKNOWN_COMMAND),
    (State.READY, b"XCLIENT ADDR=192.0.2.1", say.UNKNOWN_COMMAND),
    (State.READY, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2", say.UNKNOWN_COMMAND),
    (State.READY, b"NOOP \0", say.BAD_OCTETS),
    (State.READY, b"NOOP \x1b[0m", say.BAD_OCTETS),
    (State.READY, b"NOOP\t", say.BAD_OCTETS),
    (State.READY, b"NOOP \x7f", say.BAD_OCTETS),
    (State.READY, b"EHLO", say.BAD_HELLO),
    (State.READY, b"EHLO  ", say.BAD_HELLO),
    (State.READY, b"HELO a b", say.BAD_HELLO),
    (State.READY, b"EHLO " + b"x" * 256, say.BAD_HELLO),
    (State.READY, "EHLO bücher.example".encode(), say.BAD_HELLO),
    (State.READY, b"MAIL", say.BAD_PATH),
    (State.READY, b"MAIL <a@example.com>", say.BAD_PATH),
    (State.READY, b"MAIL TO:<a@example.com>", say.BAD_PATH),
    (State.READY, b"MAIL FROM:<a@example.com> SIZE=1001", say.TOO_LARGE),
    (State.READY, b"RSET now", say.NO_ARGUMENTS),
    (State.READY, b"QUIT now", say.NO_ARGUMENTS),
    (State.READY, b"STARTTLS now", say.NO_ARGUMENTS),
    (State.READY, b"RCPT TO:<b@example.net>", say.NEED_MAIL),
    (State.READY, b"DATA", say.NEED_MAIL),
    (State.READY, b"AUTH", say.UNKNOWN_MECHANISM),
    (State.READY, b"AUTH NTLM", say.UNKNOWN_MECHANISM),
    (State.READY, b"AUTH \xff", say.UNKNOWN_MECHANISM),
    (State.READY, b"AUTH PLAIN ***", say.BAD_BASE64),
    (State.READY, b"AUTH PLAIN YQ", say.BAD_BASE64),
    (State.HELLO, b"MAIL FROM:<a@example.com>", say.SAY_HELLO),
    (State.HELLO, b"STARTTLS", say.SAY_HELLO),
    (State.HELLO, b"AUTH PLAIN", say.SAY_HELLO),
    (State.ENVELOPE, b"MAIL FROM:<a@example.com>", say.NESTED_MAIL),
    (State.ENVELOPE, b"DATA", say.NEED_RCPT),
    (State.ENVELOPE, b"STARTTLS", say.OUT_OF_ORDER),
    (State.ENVELOPE, b"AUTH PLAIN", say.OUT_OF_ORDER),
    (State.ENVELOPE, b"RCPT", say.BAD_PATH),
    (State.ENVELOPE, b"RCPT FROM:<a@example.com>", say.BAD_PATH),
    (State.ADDRESSED, b"DATA now", say.NO_ARGUMENTS),
    (State.ADDRESSED, b"BDAT", say.BAD_CHUNK),
    (State.ADDRESSED, b"BDAT x", say.BAD_CHUNK),
    (State.ADDRESSED, b"BDAT -1", say.BAD_CHUNK),
    (State.ADDRESSED, b"BDAT 1 FIRST", say.BAD_CHUNK),
    (State.ADDRESSED, b"BDAT 1 LAST LAST", say.BAD_CHUNK),
    (State.ADDRESSED, b"BDAT 99999999999999", say.BAD_CHUNK),
    (State.ADDRESSED, "BDAT \u0661".encode(), say.BAD_CHUNK),
    (State.CHUNKS, b"DATA", say.MIXED_DATA),
    (State.CHUNKS, b"RCPT TO:<b@example.net>", say.OUT_OF_ORDER),
]


@pytest.mark.parametrize(("state", "line", "refusal"), REFUSED)
def test_the_right_refusal(state: State, line: bytes, refusal: Reply) -> None:
    session = in_state(state)
    assert only(session, line + b"\r\n") == Refused(refusal, closing=False)
    assert session.output() == refusal.render()
    assert session.state is state and session.errors == 1
    assert events(session, b"NOOP\r\n") == [] and session.output() == say.OK.render()


@pytest.mark.parametrize(
    ("state", "line", "code", "enhanced"),
    [
        (State.READY, b"MAIL FROM:a@example.com", 553, "5.1.7"),
        (State.READY, b"MAIL FROM:<a@b@c>", 553, "5.1.7"),
        (State.READY, "MAIL FROM:<ü@example.com>".encode(), 553, "5.6.7"),
        (State.READY, b"MAIL FROM:<a@example.com> SIZE=x", 501, "5.5.4"),
        (State.READY, b"MAIL FROM:<a@example.com> REQUIRETLS", 555, "5.5.4"),
        (State.READY, b"MAIL FROM:<a@example.com> AUTH=<>", 555, "5.5.4"),
        (State.ENVELOPE, b"RCPT TO:<>", 553, "5.1.3"),
        (State.ENVELOPE, b"RCPT TO:<b>", 553, "5.1.3"),
        (State.ENVELOPE, "RCPT TO:<ü@example.com>".encode(), 553, "5.6.7"),
        (State.ENVELOPE, b"RCPT TO:<b@example.net> NOTIFY=SOMETIMES", 501, "5.5.4"),
    ],
)
def test_bad_addresses_and_parameters(state: State, line: bytes, code: int, enhanced: str) -> None:
    session = in_state(state)
    refused = only(session, line + b"\r\n")
    assert isinstance(refused, Refused) and (refused.reply.code, refused.reply.enhanced) == (code, enhanced)
    assert session.state is state


def test_verbs_are_read_in_any_case() -> None:
    session = opened()
    assert only(session, b"eHlO client.example\r\n") == Hello("client.example", True, False)
    session.greet(OFFER, extended=True)
    assert isinstance(only(session, b"mail from:<a@example.com>\r\n"), MailFrom)
    session.answer(OK)
    assert isinstance(only(session, b"rcpt to:<b@example.net>\r\n"), RcptTo)
    session.answer(OK)
    assert isinstance(only(session, b"data\r\n"), DataAsked)


def test_smtputf8_holds_for_the_recipients_of_its_mail_only() -> None:
    session = in_state(State.READY)
    mail = only(session, "MAIL FROM:<ü@example.com> SMTPUTF8\r\n".encode())
    assert isinstance(mail, MailFrom) and mail.parameters.utf8
    session.answer(OK)
    assert isinstance(only(session, "RCPT TO:<ü@example.net>\r\n".encode()), RcptTo)
    session.answer(OK)
    events(session, b"RSET\r\nMAIL FROM:<a@example.com>\r\n")
    session.answer(OK)
    assert isinstance(only(session, "RCPT TO:<ü@example.net>\r\n".encode()), Refused)


def test_hello_says_what_is_on_offer_and_ehlo_only() -> None:
    session = opened()
    events(session, b"EHLO x\r\n")
    session.greet(OFFER, extended=True)
    assert session.output() == b"250-mx.example.com\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"
    events(session, b"HELO x\r\n")
    session.greet(OFFER, extended=False)
    assert session.output() == b"250 mx.example.com\r\n"


@pytest.mark.parametrize("line", [b"EHLO x\r\n", b"HELO x\r\n"])
@pytest.mark.parametrize("state", AT_BOUNDARY)
def test_hello_ends_a_transaction_and_says_so(state: State, line: bytes) -> None:
    hello = only(in_state(state), line)
    assert isinstance(hello, Hello) and hello.ends_transaction is (state in IN_TRANSACTION)


# pipelining


def test_commands_that_came_together_wait_their_turn() -> None:
    session = in_state(State.READY)
    group = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nNOOP\r\nDATA\r\n"
    assert isinstance(only(session, group), MailFrom)
    assert session.backlog == len(group) - len(b"MAIL FROM:<a@example.com>\r\n")
    session.answer(OK)
    assert isinstance(session.next_event(), RcptTo)
    session.answer(NO)
    assert session.next_event() == Refused(say.NEED_RCPT, closing=False)
    assert session.output().split(b"\r\n")[-3:] == [b"250 2.0.0 Ok", say.NEED_RCPT.render()[:-2], b""]


@pytest.mark.parametrize(("state", "line"), [(State.ADDRESSED, b"DATA"), (State.READY, b"STARTTLS")])
def test_nothing_may_follow_what_ends_a_group(state: State, line: bytes) -> None:
    session = in_state(state)
    assert only(session, line + b"\r\nx") == Refused(say.EARLY_TALK, closing=True)
    assert session.closed and session.output() == say.EARLY_TALK.render()


def test_nothing_may_follow_the_first_hello() -> None:
    session = opened()
    assert only(session, b"EHLO x\r\nNOOP\r\n") == Refused(say.EARLY_TALK, closing=True)


def test_content_that_comes_before_354_closes() -> None:
    session = in_state(State.ADDRESSED)
    only(session, b"DATA\r\n")
    session.receive(b"Subject: early\r\n")
    assert session.accept_data(GO_AHEAD) is False
    assert session.closed and session.output() == say.EARLY_TALK.render()


# STARTTLS


def test_starttls_forgets_everything() -> None:
    session = in_state(State.READY)
    only(session, b"STARTTLS\r\n")
    assert session.output() == say.GO_AHEAD_TLS.render() and session.waiting
    session.receive(b"MAIL FROM:<injected@example.com>\r\n")
    assert session.next_event() is None
    session.tls_started()
    assert session.tls and not session.greeted and not session.authenticated
    assert session.state is State.HELLO and session.backlog == 0
    assert session.next_event() is None and session.output() == b""
    assert only(session, b"MAIL FROM:<a@example.com>\r\n") == Refused(say.SAY_HELLO, closing=False)


def test_starttls_is_refused_under_tls_and_where_it_is_not_offered() -> None:
    session = in_state(State.READY)
    session.tls = True
    assert only(session, b"STARTTLS\r\n") == Refused(say.ALREADY_TLS, closing=False)
    session = in_state(State.READY, offer=Offer())
    assert only(session, b"STARTTLS\r\n") == Refused(say.NOT_HERE, closing=False)


def test_starttls_is_an_event_where_it_is_offered() -> None:
    assert only(in_state(State.READY), b"starttls\r\n") == StartTls()


# AUTH


def test_auth_with_an_initial_response() -> None:
    session = in_state(State.READY)
    assert only(session, b"AUTH plain AGEAYg==\r\n") == AuthStart("PLAIN", b"\0a\0b")
    session.answer(reply(235, "2.7.0", "Welcome"))
    assert session.authenticated and session.state is State.READY
    assert only(session, b"AUTH PLAIN\r\n") == Refused(say.ALREADY_AUTHENTICATED, closing=False)


def test_an_initial_response_of_no_octets_is_an_equals_sign() -> None:
    assert only(in_state(State.READY), b"AUTH PLAIN =\r\n") == AuthStart("PLAIN", b"")
    assert only(in_state(State.READY), b"AUTH PLAIN\r\n") == AuthStart("PLAIN", None)


def test_auth_by_challenges() -> None:
    session = in_state(State.READY)
    assert only(session, b"AUTH LOGIN\r\n") == AuthStart("LOGIN", None)
    session.challenge(b"Username:")
    assert session.output() == b"334 VXNlcm5hbWU6\r\n"
    assert only(session, b"YQ==\r\n") == AuthResponse(b"a")
    session.challenge(b"")
    assert session.output() == b"334 \r\n"
    assert only(session, b"\r\n") == AuthResponse(b"")
    session.answer(reply(535, "5.7.8", "No"))
    assert not session.authenticated and session.state is State.READY and session.errors == 1


def test_within_auth_a_command_is_a_response() -> None:
    assert only(in_state(State.AUTHENTICATING), b"QUIT\r\n") == AuthResponse(base64.b64decode(b"QUIT"))


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (b"*", say.AUTH_CANCELLED),
        (b"!", say.BAD_BASE64),
        (b"YQ", say.BAD_BASE64),
        (b"Y" * MAX_AUTH_LINE, say.AUTH_LINE_TOO_LONG),
    ],
)
def test_auth_is_cancelled_by_what_is_no_response(line: bytes, refusal: Reply) -> None:
    session = in_state(State.AUTHENTICATING)
    assert only(session, line + b"\r\n") == AuthResponse(None)
    assert session.output() == refusal.render()
    assert session.state is State.READY and not session.waiting and not session.authenticated


def test_auth_is_not_there_where_it_is_not_offered() -> None:
    assert only(in_state(State.READY, offer=Offer()), b"AUTH PLAIN\r\n") == Refused(say.NOT_HERE, closing=False)
    needs_tls = Offer(auth_needs_tls=True)
    assert only(in_state(State.READY, offer=needs_tls), b"AUTH X\r\n") == Refused(say.TLS_FIRST, closing=False)


# content


def content_of(found: list[Event]) -> tuple[bytes, bool]:
    assert all(isinstance(event, Content) for event in found)
    return b"".join(event.octets for event in found if isinstance(event, Content)), bool(
        found and isinstance(found[-1], Content) and found[-1].end
    )


def test_data_passes_as_it_is_and_the_rest_is_commands() -> None:
    session = in_state(State.CONTENT)
    found = events(session, b"Subject: x\r\n\r\n..dot\r\n.\r\nMAIL FROM:<c@example.com>\r\n")
    assert content_of(found) == (b"Subject: x\r\n\r\n..dot\r\n.\r\n", True)
    assert session.waiting
    session.answer(OK)
    assert session.state is State.READY
    assert isinstance(session.next_event(), MailFrom)


def test_data_at_fault_is_refused_at_its_end_and_the_upstream_is_told_at_once() -> None:
    session = in_state(State.CONTENT)
    bad = say.CONTENT_FAULTS[next(iter(say.CONTENT_FAULTS))]
    assert events(session, b"a\nb") == [ContentRefused(bad)]
    assert session.output() == b"" and session.in_content
    assert events(session, b"more\n.\n\r\n.\r\nNOOP\r\n") == []
    assert session.output() == bad.render() + say.OK.render()
    assert session.state is State.READY


def test_data_that_is_too_large_is_refused_at_its_end() -> None:
    session = in_state(State.CONTENT)
    line = b"x" * 98 + b"\r\n"
    found = []
    for _ in range(30):
        found += events(session, line)
    assert found[-1] == ContentRefused(say.TOO_LARGE)
    assert sum(len(event.octets) for event in found if isinstance(event, Content)) <= TERMS.max_size + 1024
    assert events(session, b".\r\n") == [] and session.output() == say.TOO_LARGE.render()


def test_what_has_nowhere_to_go_is_swallowed_to_its_end() -> None:
    session = in_state(State.CONTENT)
    events(session, b"first\r\n")
    session.discard(LATER)
    session.discard(NO)
    assert events(session, b"second\r\nMAIL FROM:<x@y>\r\n") == []
    assert events(session, b".\r\n") == []
    assert session.output() == LATER.render(), "the first reason is the one"
    assert session.state is State.READY and session.at_boundary


def test_chunks_pass_as_they_are() -> None:
    session = in_state(State.ADDRESSED)
    found = events(session, b"BDAT 6\r\n.\r\nab\rBDAT 3 LAST\r\n\ncd")
    assert found[0] == ChunkAsked(6, False) and content_of(found[1:]) == (b".\r\nab\r", True)
    session.answer(OK)
    assert session.state is State.CHUNKS
    assert events(session, b"") == [ChunkAsked(3, True), Content(b"\ncd", True)]
    session.answer(OK)
    assert session.state is State.READY


def test_a_chunk_of_no_octets_is_answered_at_once() -> None:
    session = in_state(State.ADDRESSED)
    assert only(session, b"BDAT 0\r\n") == ChunkAsked(0, False) and session.waiting
    session.answer(OK)
    assert session.state is State.CHUNKS
    assert only(session, b"BDAT 0 LAST\r\n") == ChunkAsked(0, True)
    session.answer(OK)
    assert session.state is State.READY


@pytest.mark.parametrize("state", [state for state in AT_BOUNDARY if Verb.BDAT not in STEPS[state]])
@pytest.mark.parametrize("size", [0, 1, 5, 100])
def test_octets_of_a_chunk_out_of_place_are_no_commands(state: State, size: int) -> None:
    session = in_state(state)
    octets = (b"MAIL FROM:<x@y>\r\n" * 10)[:size]
    found = events(session, b"BDAT %d LAST\r\n%bNOOP\r\n" % (size, octets))
    expected = say.NEED_RCPT if state is State.ENVELOPE else say.NEED_MAIL
    assert found == [] or found == [Refused(expected, closing=False)]
    assert session.state is state
    assert session.output() == expected.render() + say.OK.render()


def test_chunks_without_chunking_are_taken_off_the_wire_and_refused() -> None:
    session = in_state(State.ADDRESSED, offer=Offer())
    events(session, b"BDAT 6 LAST\r\nRSET\r\nNOOP\r\n")
    assert session.output() == say.NOT_HERE.render() + say.OK.render()
    assert session.state is State.ADDRESSED


def test_chunks_beyond_the_size_are_refused_before_they_come() -> None:
    session = in_state(State.ADDRESSED)
    assert events(session, b"BDAT 600\r\n" + b"x" * 600)[-1] == Content(b"x" * 600, True)
    session.answer(OK)
    assert events(session, b"BDAT 401 LAST\r\n") == [ContentRefused(say.TOO_LARGE)]
    assert events(session, b"y" * 401) == []
    assert session.output().endswith(say.TOO_LARGE.render()) and session.state is State.READY


@pytest.mark.parametrize("octets", [b"a\nb", b"a\rb", b"a\0b", b"\n\r\n"])
def test_a_chunk_at_fault_is_refused(octets: bytes) -> None:
    session = in_state(State.ADDRESSED)
    found = events(session, b"BDAT %d LAST\r\n%bNOOP\r\n" % (len(octets), octets))
    assert isinstance(found[-1], ContentRefused)
    assert session.output() == found[-1].reply.render() + say.OK.render()
    assert session.state is State.READY


def test_a_cr_that_only_an_empty_last_chunk_follows_is_a_fault() -> None:
    session = in_state(State.ADDRESSED)
    events(session, b"BDAT 2\r\na\r")
    session.answer(OK)
    session.output()
    (refused,) = events(session, b"BDAT 0 LAST\r\n")
    assert isinstance(refused, ContentRefused)
    assert session.output() == refused.reply.render() and session.state is State.READY


# bounds


@pytest.mark.parametrize("line", [b"a\nb\r\n", b"a\rb\r\n", b"a\n", b"\n", b"a\r\r\n", b"NOOP \0\n\r\n"])
def test_a_bare_line_end_closes(line: bytes) -> None:
    for session in (in_state(State.READY), in_state(State.AUTHENTICATING)):
        found = events(session, line)
        assert found[-1] == Refused(say.BARE_LINE_END, closing=True)
        assert session.closed and session.output() == say.BARE_LINE_END.render()


@pytest.mark.parametrize("step", [1, 7, 5000, 20000])
@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize(
    ("start", "limit", "refusal"),
    [(b"NOOP ", MAX_COMMAND_LINE, say.LINE_TOO_LONG), (b"AUTH PLAIN ", MAX_AUTH_LINE, say.AUTH_LINE_TOO_LONG)],
)
def test_lines_are_bounded_to_the_octet(start: bytes, limit: int, refusal: Reply, over: int, step: int) -> None:
    session = in_state(State.READY)
    line = start + b"A" * (limit - 2 - len(start) + over) + b"\r\n"
    found: list[Event] = []
    for at in range(0, len(line), step):
        found += events(session, line[at : at + step])
    assert (found == [Refused(refusal, closing=False)]) == bool(over)
    assert not session.closed


def test_a_line_without_an_end_is_not_kept() -> None:
    session = in_state(State.READY)
    for _ in range(100):
        assert events(session, b"x" * 1000) == []
        assert session.backlog <= MAX_COMMAND_LINE + 1000
    assert only(session, b"\r\n") == Refused(say.LINE_TOO_LONG, closing=False)
    assert events(session, b"NOOP\r\n") == []


def test_errors_are_counted() -> None:
    session = in_state(State.READY, Terms(HOST, 1000, max_errors=3))
    events(session, b"FOO\r\nNOOP\r\nFOO\r\n")
    assert not session.closed
    assert only(session, b"FOO\r\nNOOP\r\n") == Refused(say.TOO_MANY_ERRORS, closing=True)
    assert session.output().endswith(say.UNKNOWN_COMMAND.render() + say.TOO_MANY_ERRORS.render())


def test_failed_logins_are_errors() -> None:
    session = in_state(State.READY, Terms(HOST, 1000, max_errors=2))
    for _ in range(2):
        events(session, b"AUTH PLAIN AGEAYg==\r\n")
        session.answer(reply(535, "5.7.8", "No"))
    assert session.closed


@pytest.mark.parametrize("line", [b"NOOP", b"RSET", b"VRFY x", b"HELP", b"EHLO x", b"HELO x"])
def test_what_achieves_nothing_is_counted(line: bytes) -> None:
    session = in_state(State.READY, Terms(HOST, 1000, max_noops=3))
    for _ in range(3):
        events(session, line + b"\r\n")
        if session.waiting:
            session.greet(OFFER, extended=True)
    assert not session.closed
    assert only(session, line + b"\r\n") == Refused(say.TOO_MANY_NOOPS, closing=True)


def test_a_mail_starts_the_count_anew() -> None:
    session = in_state(State.CONTENT, Terms(HOST, 1000, max_noops=2))
    events(session, b".\r\n")
    session.answer(OK)
    assert events(session, b"NOOP\r\nNOOP\r\n") == [] and not session.closed


# however it is cut


class Edge:
    """Answers every event at once, always alike, and keeps what came of it."""

    def __init__(self, mood: int) -> None:
        offer = Offer((), OFFER.extensions, OFFER.mechanisms, not mood & 8, bool(mood & 1))
        self.session = opened(Terms(HOST, 300, 8, 8, normalise=bool(mood & 2)), offer)
        self.mood = mood
        self.told: list[object] = []
        self.said = b""

    def feed(self, octets: bytes) -> None:
        session = self.session
        session.receive(octets)
        while (event := session.next_event()) is not None:
            self.take(event)
        self.said += session.output()

    def take(self, event: Event) -> None:
        session = self.session
        if isinstance(event, Content) and self.told and isinstance(self.told[-1], Content):
            event = Content(self.told.pop().octets + event.octets, event.end)  # type: ignore[attr-defined]
        self.told.append(event)
        match event:
            case Hello():
                session.greet(session.offer, extended=event.extended)
            case StartTls():
                session.tls_started()
            case AuthStart(initial=None):
                session.challenge(b"more")
            case AuthStart() | AuthResponse(octets=bytes()):
                session.answer(NO if self.mood & 4 else reply(235, "2.7.0", "Welcome"))
            case MailFrom() | RcptTo():
                session.answer(OK)
            case DataAsked():
                session.accept_data(GO_AHEAD)
            case ChunkAsked(size=0) | Content(end=True):
                session.answer(OK)


TALK = st.lists(
    st.one_of(
        st.sampled_from([line + b"\r\n" for line in LINES.values()]),
        st.sampled_from(
            [
                b"Subject: x\r\n\r\nhello\r\n.\r\n",
                b"..\r\n.\r\n",
                b"BDAT 4\r\nabcd",
                b"BDAT 3 LAST\r\nab\r",
                b"BDAT 400\r\n" + b"z" * 400,
                b"AUTH PLAIN AGEAYg==\r\n",
                b"YQ==\r\n",
                b"*\r\n",
                b"MAIL FROM:<> SIZE=9\r\n",
                b"MAIL FROM:<a@\r\n",
                b"\n",
                b"\r",
                b"\0",
                b".\r\n",
                b"\r\n.\r\n",
            ]
        ),
        st.binary(max_size=8),
    ),
    max_size=25,
)


@given(st.integers(0, 15), TALK, st.lists(st.integers(0, 400), max_size=8))
def test_a_conversation_is_the_same_however_it_is_cut(mood: int, talk: list[bytes], cuts: list[int]) -> None:
    """Line by line as a client that waits, octet by octet, and at random; but what talks early is cut alike."""
    whole = b"".join(talk)
    lines = [line + b"\r\n" for line in whole.split(b"\r\n")]
    lines[-1] = lines[-1][:-2]
    edges = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    by_line, by_octet, at_random = Edge(mood), Edge(mood), Edge(mood)
    for line in lines:
        by_line.feed(line)
    for at in range(len(whole)):
        by_octet.feed(whole[at : at + 1])
    for low, high in pairwise(edges):
        at_random.feed(whole[low:high])
    assert by_line.told == by_octet.told
    assert by_line.said == by_octet.said
    assert by_line.session.state is by_octet.session.state
    if Refused(say.EARLY_TALK, closing=True) not in at_random.told and b"STARTTLS" not in whole.upper():
        assert at_random.told == by_octet.told
        assert at_random.said == by_octet.said


@given(st.integers(0, 15), TALK)
def test_every_reply_is_one_and_no_octet_of_a_client_is_echoed(mood: int, talk: list[bytes]) -> None:
    edge = Edge(mood)
    for piece in talk:
        edge.feed(piece)
    for line in edge.said.split(b"\r\n")[:-1]:
        assert re.fullmatch(rb"[2-5][0-9]{2}[ -][\x20-\x7e]*", line)


@given(st.integers(0, 15), st.binary(max_size=400))
def test_no_octets_make_it_fall_over(mood: int, octets: bytes) -> None:
    edge = Edge(mood)
    edge.feed(octets)
    edge.feed(b"\r\nNOOP\r\n")
    assert edge.session.closed or edge.session.state in State
