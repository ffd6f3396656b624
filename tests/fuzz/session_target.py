"""The fuzz target of the session machine: an edge that answers at once, and a second opinion on every step.

The first octet of the input is the edge's mood (what it offers, what it refuses), the rest is what the client says.
"""

import re
from dataclasses import dataclass, field

from smartmail.core.reply import ReplyParser, reply
from smartmail.core.smtp import MAX_AUTH_LINE, Session
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
from smartmail.core.smtp_states import IN_TRANSACTION, State

TERMS = Terms("mx.example.com", max_size=2000, max_errors=6, max_noops=6)
EXTENSIONS = frozenset({"SIZE", "8BITMIME", "SMTPUTF8", "DSN"})
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
OK, NO, BUSY = reply(250, "2.0.0", "Ok"), reply(550, "5.7.1", "No"), reply(451, "4.3.0", "Busy")
GO_AHEAD, WELCOME = reply(354, "", "Go on"), reply(235, "2.7.0", "Welcome")


@dataclass
class Edge:
    """Drives one session and checks that each event may come where it comes."""

    mood: int
    session: Session = field(init=False)
    trace: list[tuple[object, ...]] = field(default_factory=list)
    written: bytes = b""
    greeted: bool = False
    sender: bool = False
    recipients: int = 0
    in_data: bool = False
    chunk_left: int = 0
    chunks_begun: bool = False
    last_chunk: bool = False
    message: bytes = b""
    refused: bool = False
    finished: bool = False

    def __post_init__(self) -> None:
        self.session = Session(TERMS, self.offer(), tls=bool(self.mood & 1))
        self.session.open(reply(220, "", "mx.example.com ESMTP"))

    def offer(self) -> Offer:
        """What this edge offers; AUTH only under TLS."""
        tls = self.session.tls if hasattr(self, "session") else bool(self.mood & 1)
        return Offer(
            ("PIPELINING",), EXTENSIONS, ("PLAIN", "LOGIN") if tls else (), not tls, bool(self.mood & 2), not tls
        )

    def refuses(self, event: Event, bit: int) -> bool:
        """Whether this edge refuses: by mood and by what was said, never by how it was cut."""
        return bool(self.mood & bit) and len(repr(event)) % 3 == 0

    def feed(self, octets: bytes) -> None:
        """Give octets; take every event there is; answer each at once."""
        session = self.session
        session.receive(octets)
        while (event := session.next_event()) is not None:
            assert not self.finished, "an event after the end"
            self.take(event)
        assert session.closed or not session.waiting, "an answer is due that no event asked for"
        assert session.backlog <= MAX_AUTH_LINE + len(octets), "octets pile up"
        self.written += session.output()

    def take(self, event: Event) -> None:
        """Check, note and answer one event."""
        session = self.session
        if not isinstance(event, Content):
            self.trace.append((type(event).__name__, *event))
        match event:
            case Hello():
                assert event.ends_transaction == (self.sender and session.state in IN_TRANSACTION)
                self.end_transaction()
                session.greet(self.offer(), extended=event.extended)
                self.greeted = True
            case StartTls():
                assert self.greeted and not session.tls and not self.sender
                self.greeted = False
                session.tls_started()
            case AuthStart() | AuthResponse():
                self.take_auth(event)
            case MailFrom():
                assert self.greeted and not self.sender
                self.sender = not self.refuses(event, 4)
                session.answer(OK if self.sender else NO)
            case RcptTo():
                assert self.sender and not self.chunks_begun
                accepted = not self.refuses(event, 8)
                self.recipients += accepted
                session.answer(OK if accepted else NO)
            case DataAsked():
                assert self.sender and self.recipients and not self.chunks_begun
                self.take_data()
            case ChunkAsked():
                assert self.sender and self.recipients and self.mood & 2
                self.chunks_begun, self.chunk_left, self.last_chunk = True, event.size, event.last
                if not event.size:
                    self.end_chunk()
            case Content():
                self.take_content(event)
            case ContentRefused():
                assert self.in_data or self.chunks_begun or self.mood & 2
                self.refused = True
                self.end_transaction()
            case TransactionReset():
                assert self.sender
                self.end_transaction()
            case Refused():
                self.finished = event.closing
                if session.state is State.READY:
                    self.end_transaction()
            case Quit():
                self.finished = True

    def take_auth(self, event: AuthStart | AuthResponse) -> None:
        session = self.session
        if isinstance(event, AuthStart):
            assert session.tls and self.greeted and not self.sender and not session.authenticated
        octets = event.initial if isinstance(event, AuthStart) else event.octets
        if isinstance(event, AuthResponse) and octets is None:
            return
        if octets is None:
            session.challenge(b"")
        else:
            session.answer(NO if self.refuses(event, 16) else WELCOME)

    def take_data(self) -> None:
        if self.mood & 32:
            self.session.answer(BUSY)
            self.end_transaction()
        elif self.session.accept_data(GO_AHEAD):
            self.in_data, self.message = True, b""
        else:
            self.finished = True

    def take_content(self, event: Content) -> None:
        assert not self.refused or self.in_data or self.chunks_begun
        self.message += event.octets
        if self.in_data:
            framed = b"\r\n" + self.message
            assert not BARE.search(framed), "a bare line end or NUL is passed on"
            end = framed.find(b"\r\n.\r\n")
            assert (end >= 0) == event.end and (end < 0 or end + 5 == len(framed)), "the end is somewhere else"
            if event.end:
                self.trace.append(("message", self.message))
                self.end_transaction()
                self.session.answer(OK)
        else:
            assert self.chunks_begun and 0 < len(event.octets) <= self.chunk_left
            self.chunk_left -= len(event.octets)
            assert event.end == (not self.chunk_left)
            whole = event.end and self.last_chunk
            assert not BARE.search(self.message if whole else self.message.removesuffix(b"\r"))
            if event.end:
                self.end_chunk()

    def end_chunk(self) -> None:
        if self.last_chunk:
            self.trace.append(("message", self.message))
            self.end_transaction()
        self.session.answer(OK)

    def end_transaction(self) -> None:
        """Forget the mail."""
        self.sender = self.in_data = self.chunks_begun = False
        self.recipients, self.message = 0, b""


def play(mood: int, pieces: list[bytes]) -> Edge:
    """One conversation."""
    edge = Edge(mood)
    for piece in pieces:
        edge.feed(piece)
        if edge.session.closed:
            edge.feed(b"MAIL FROM:<after@the.end>\r\n")
            break
    replies = ReplyParser().feed(edge.written)
    assert all(200 <= answer.code <= 599 for answer in replies)
    return edge


def check_session(data: bytes) -> None:
    """See `targets.session`."""
    mood, talk = data[0] if data else 0, data[1:]
    lines = [line + b"\r\n" for line in talk.split(b"\r\n")]
    lines[-1] = lines[-1][:-2]
    by_line = play(mood, [line for line in lines if line])
    by_octet = play(mood, [talk[at : at + 1] for at in range(len(talk))])
    assert by_line.trace == by_octet.trace, (by_line.trace, by_octet.trace)
    assert by_line.written == by_octet.written, (by_line.written, by_octet.written)
    assert by_line.session.state is by_octet.session.state
    play(mood, [talk])  # pipelined: the client may be refused for talking early, so only the steps are checked
