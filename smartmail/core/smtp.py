"""The server side of an SMTP conversation: bytes in -> events out, answers in -> bytes out. No I/O.

Everything that affects the state of a conversation lives in this file, and every move is a row of STEPS in
smtp_states.py.

The edge drives it so:

    session.receive(octets)
    while (event := session.next_event()) is not None:
        ...                               # does what the event says; answers now or later
    transport.write(session.output())

An event of a command (Hello, MailFrom, ...) makes the session wait: it gives no further event until the edge has called
the answering method that the event names. Octets that arrive meanwhile are kept; the edge stops reading when `backlog`
grows. RFC 5321; 3207 (STARTTLS); 4954 (AUTH); 3030 (CHUNKING); 2920 (PIPELINING); 9422 (LIMITS).
"""

import binascii
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from smartmail.core import smtp_replies as say
from smartmail.core.content import ChunkScanner, DataScanner
from smartmail.core.reply import Reply, reply
from smartmail.core.smtp_commands import from_base64, read_auth, read_chunk, read_hello, read_mail, read_rcpt
from smartmail.core.smtp_events import (
    AuthResponse,
    ChunkAsked,
    Content,
    ContentRefused,
    DataAsked,
    Event,
    Hello,
    Offer,
    Quit,
    Refused,
    StartTls,
    Terms,
    TransactionReset,
)
from smartmail.core.smtp_states import (
    AUTHENTICATING,
    CHUNK,
    CHUNKS,
    CLOSED,
    CONTENT,
    ENVELOPE,
    HELLO,
    IN_TRANSACTION,
    MUST_END_GROUP,
    NEEDS_SILENCE,
    READY,
    STEPS,
    State,
    Verb,
)

MAX_COMMAND_LINE: Final = 4096
"""Octets of a command line, CRLF included. RFC 5321 4.5.3.1.4 asks for 512, and each extension adds to it: SMTPUTF8
10+, DSN ENVID 100+ and ORCPT 500, AUTH= 500."""
MAX_AUTH_LINE: Final = 12288
"""Octets of an AUTH line, base64 included: RFC 4954 section 4."""


_CONTROLS: Final = bytes([*range(32), 127])
_AUTH, _DATA = Verb.AUTH, Verb.DATA


class Session:
    """One conversation. `tls` and `authenticated` are facts that the edge tells; the rest is told by the client."""

    __slots__ = (
        "_chunk_left",
        "_chunks",
        "_data",
        "_discard",
        "_last",
        "_noops",
        "_overlong",
        "_passed",
        "_return_to",
        "_utf8",
        "_verb",
        "authenticated",
        "closed",
        "extended",
        "errors",
        "greeted",
        "kept",
        "offer",
        "said",
        "state",
        "terms",
        "tls",
        "waiting",
    )

    def __init__(self, terms: Terms, offer: Offer, *, tls: bool = False) -> None:
        self.terms = terms
        self.offer = offer
        self.tls = tls
        self.authenticated = False
        self.greeted = False
        self.extended = False
        self.state = HELLO
        self.waiting = True
        """True while an answer is due, at first the greeting."""
        self.closed = False
        """Nothing more will be said: write the output and close."""
        self.errors = 0
        self._noops = 0
        self._verb = Verb.NOOP
        self.kept = b""
        """Octets that have not been looked at."""
        self.said: list[bytes] = []
        """What is to be written to the client."""
        self._overlong: Reply | None = None
        self._data: DataScanner | None = None
        self._chunks: ChunkScanner | None = None
        self._chunk_left = 0
        self._last = False
        self._return_to: State | None = None
        self._utf8 = False
        self._passed = 0
        self._discard: Reply | None = None

    # what the edge tells

    def open(self, banner: Reply) -> None:
        """Greet the client; a banner of 4xx or 5xx turns it away. Octets that are here already are early talk."""
        if banner.code >= 400:
            self.close(banner)
        elif self.kept:
            self.close(say.EARLY_TALK)
        else:
            self._say(banner)
            self.waiting = False

    def receive(self, octets: bytes) -> None:
        """Take octets from the client."""
        self.kept = self.kept + octets if self.kept else octets

    def answer(self, answer: Reply) -> None:
        """Answer the command that waits; the state moves as STEPS says."""
        state = self.state
        if state is CLOSED:
            return
        self.said.append(answer.wire or answer.render())
        self.waiting = False
        if state is CONTENT:
            self._end_transaction()
        elif state is AUTHENTICATING:
            self.state = READY
            self.authenticated = self.authenticated or answer.positive
        elif state is CHUNK:
            if answer.positive and not self._last:
                self.state = CHUNKS
            else:
                self._end_transaction()
        elif answer.code < 300:
            self.state = STEPS[state][self._verb] or state
        elif self._verb is _DATA:
            self._end_transaction()
        if answer.code >= 500 and self._verb is _AUTH:
            self._count_error()

    def greet(self, offer: Offer, *, extended: bool) -> None:
        """Answer Hello with what is on offer now."""
        if self.state is CLOSED:
            return
        self.offer = offer
        self.extended = extended
        self._say(_hello(self.terms.hostname, offer.keywords if extended else ()))
        self.waiting = False
        self.greeted = True
        self._move()

    def challenge(self, octets: bytes) -> None:
        """Answer AUTH with a further challenge (RFC 4954 section 4: 334 and base64)."""
        if self.state is CLOSED:
            return
        self.said.append(b"334 " + binascii.b2a_base64(octets, newline=False) + b"\r\n")
        self.waiting = False
        self.state = AUTHENTICATING

    def accept_data(self, go_ahead: Reply) -> bool:
        """Pass the upstream's 354 on. False: the client talked early and is being closed; abort the upstream."""
        if self.kept:
            self.close(say.EARLY_TALK)
        if self.state is CLOSED:
            return False
        self._say(go_ahead)
        self.waiting = False
        self.state = CONTENT
        self._passed = 0
        self._data = DataScanner(normalising=self.terms.normalise)
        return True

    def discard(self, answer: Reply) -> None:
        """The content has nowhere to go: swallow what is left of it, then say `answer`."""
        if self._discard is None and self.in_content:
            self._discard = answer

    def tls_started(self) -> None:
        """The handshake is done: all that was said before is forgotten (RFC 3207 section 4.2)."""
        self.tls = True
        self.greeted = False
        self.authenticated = False
        self.state = HELLO
        self.kept = b""
        self.waiting = False

    def close(self, farewell: Reply) -> None:
        """Say `farewell` and nothing after it."""
        if self.state is not CLOSED:
            self._say(farewell)
        self.state = CLOSED
        self.closed = True
        self.kept = b""
        self.waiting = False

    # what the edge asks

    @property
    def at_boundary(self) -> bool:
        """Between two commands: a 421 may be said here."""
        return not self.waiting and self.state in STEPS

    @property
    def in_content(self) -> bool:
        """Octets of a message are coming in."""
        return self.state is CONTENT or self.state is CHUNK

    @property
    def backlog(self) -> int:
        """Octets that are kept because an answer is due."""
        return len(self.kept)

    def output(self) -> bytes:
        """Take what is to be written to the client."""
        said = self.said
        if len(said) == 1:
            return said.pop()
        joined = b"".join(said)
        said.clear()
        return joined

    def next_event(self) -> Event | None:
        """Return what the client did next; None: wait for octets, or for an answer."""
        while (buffer := self.kept) and not self.waiting:
            state = self.state
            if state is CONTENT:
                event = self._content()
            elif state is CHUNK:
                event = self._chunk()
            elif state is CLOSED:
                self.kept = b""
                return None
            else:
                end = buffer.find(b"\r\n")
                if end < 0:
                    return self._overrun()
                self.kept = buffer[end + 2 :]
                line = buffer[:end]
                event = self._response(line) if state is AUTHENTICATING else self._command(line)
            if event is not None:
                return event
        return None

    # lines

    def _overrun(self) -> Event | None:
        """There is no CRLF in the buffer: is that because the client sends something else?"""
        buffer = self.kept
        bare_cr = buffer.find(b"\r")
        if b"\n" in buffer or 0 <= bare_cr < len(buffer) - 1:
            return self._refuse_and_close(say.BARE_LINE_END)
        auth = self._auth_line(buffer)
        if len(buffer) > (MAX_AUTH_LINE if auth else MAX_COMMAND_LINE):
            self._overlong = self._overlong or (say.AUTH_LINE_TOO_LONG if auth else say.LINE_TOO_LONG)
            self.kept = buffer[-1:] if buffer.endswith(b"\r") else b""
        return None

    def _auth_line(self, line: bytes) -> bool:
        return self.state is AUTHENTICATING or line[:5].upper() == b"AUTH "

    def _command(self, line: bytes) -> Event | None:
        word, _, argument = line.partition(b" ")
        entry = _COMMANDS.get(word) or _COMMANDS.get(word.upper())
        if (
            entry is None
            or self._overlong is not None
            or len(line) > MAX_COMMAND_LINE - 2
            or len(line.translate(None, _CONTROLS)) < len(line)
        ):
            refused = self._unfit(line, None if entry is None else entry[0])
            if refused is not None or entry is None:
                return refused
        verb, handler = entry
        if verb not in STEPS[self.state]:
            return self._out_of_order(verb, argument)
        if self.kept and verb in MUST_END_GROUP and (not self.greeted or verb in NEEDS_SILENCE):
            return self._refuse_and_close(say.EARLY_TALK)
        self._verb = verb
        return handler(self, argument)

    def _unfit(self, line: bytes, verb: Verb | None) -> Event | None:
        """What is wrong with a line, whatever it commands; None: nothing, it is a long AUTH line."""
        # First of all, so that a line is treated alike whether it came whole or in parts.
        if b"\r" in line or b"\n" in line:
            return self._refuse_and_close(say.BARE_LINE_END)
        if self._overlong is not None:
            refusal, self._overlong = self._overlong, None
            return self._refuse(refusal)
        limit = MAX_AUTH_LINE if verb is _AUTH else MAX_COMMAND_LINE
        if len(line) + 2 > limit:
            return self._refuse(say.AUTH_LINE_TOO_LONG if verb is _AUTH else say.LINE_TOO_LONG)
        if len(line.translate(None, _CONTROLS)) < len(line):
            return self._refuse(say.BAD_OCTETS)
        return self._refuse(say.UNKNOWN_COMMAND) if verb is None else None

    def _out_of_order(self, verb: Verb, argument: bytes) -> Event | None:
        if verb is Verb.BDAT and (size := read_chunk(argument)) is not None:
            # RFC 3030 section 2: the octets of a refused chunk come all the same
            return self._swallow_chunk(size[0], say.NEED_RCPT if self.state is ENVELOPE else say.NEED_MAIL)
        return self._refuse(say.out_of_order(self.state, verb))

    # commands

    def _helo(self, argument: bytes) -> Event | None:
        return self._hello(argument, extended=False)

    def _ehlo(self, argument: bytes) -> Event | None:
        return self._hello(argument, extended=True)

    def _hello(self, argument: bytes, *, extended: bool) -> Event | None:
        name = read_hello(argument)
        if isinstance(name, Reply):
            return self._refuse(name)
        if self.greeted and (ended := self._count_noop()) is not None:
            return ended
        self.waiting = True
        return Hello(name, extended, self.state in IN_TRANSACTION)

    def _starttls(self, argument: bytes) -> Event | None:
        if self.tls:
            return self._refuse(say.ALREADY_TLS)
        if not self.offer.starttls:
            return self._refuse(say.NOT_HERE)
        if argument:
            return self._refuse(say.NO_ARGUMENTS)
        self._say(say.GO_AHEAD_TLS)
        self.waiting = True
        return StartTls()

    def _auth(self, argument: bytes) -> Event | None:
        start = say.ALREADY_AUTHENTICATED if self.authenticated else read_auth(argument, self.offer)
        if isinstance(start, Reply):
            return self._refuse(start)
        self.waiting = True
        self.state = AUTHENTICATING
        return start

    def _response(self, line: bytes) -> Event | None:
        """A line within an AUTH exchange."""
        self._verb = Verb.AUTH
        if b"\r" in line or b"\n" in line:
            return self._refuse_and_close(say.BARE_LINE_END)
        if self._overlong is not None or len(line) + 2 > MAX_AUTH_LINE:
            self._overlong = None
            return self._cancel(say.AUTH_LINE_TOO_LONG)
        if line == b"*":
            return self._cancel(say.AUTH_CANCELLED)
        octets = from_base64(line)
        if octets is None:
            return self._cancel(say.BAD_BASE64)
        self.waiting = True
        return AuthResponse(octets)

    def _cancel(self, refusal: Reply) -> Event:
        self.state = READY
        self._refuse(refusal)
        return AuthResponse(None)

    def _mail(self, argument: bytes) -> Event | None:
        mail = read_mail(argument, self.offer.extensions)
        if isinstance(mail, Reply):
            return self._refuse(mail)
        if mail.parameters.size > self.terms.max_size:
            return self._refuse(say.TOO_LARGE)
        self.waiting = True
        self._utf8 = mail.parameters.utf8
        return mail

    def _rcpt(self, argument: bytes) -> Event | None:
        rcpt = read_rcpt(argument, self.offer.extensions, utf8=self._utf8)
        if isinstance(rcpt, Reply):
            return self._refuse(rcpt)
        self.waiting = True
        return rcpt

    def _data_command(self, argument: bytes) -> Event | None:
        if argument:
            return self._refuse(say.NO_ARGUMENTS)
        self.waiting = True
        return DataAsked()

    def _bdat(self, argument: bytes) -> Event | None:
        size = read_chunk(argument)
        if size is None:
            return self._refuse(say.BAD_CHUNK)
        if not self.offer.chunking:
            return self._swallow_chunk(size[0], say.NOT_HERE)
        if self.state is not CHUNKS:
            self._passed = 0
            self._chunks = ChunkScanner()
        self.state = CHUNK
        self._chunk_left, self._last = size
        if size == (0, True) and self._chunks is not None:
            # Nothing will follow a CR that ended the chunk before.
            self._chunks.feed(b"", ends_message=True)
            if self._chunks.fault is not None:
                return self._break_off(say.CONTENT_FAULTS[self._chunks.fault], end=True)
        if self._passed + self._chunk_left > self.terms.max_size:
            self.discard(say.TOO_LARGE)
            if not self._chunk_left:
                return self._discarded()
            return ContentRefused(say.TOO_LARGE)
        self.waiting = not self._chunk_left
        return ChunkAsked(*size)

    def _swallow_chunk(self, size: int, refusal: Reply) -> Event | None:
        """Refuse a chunk that has no place, but take its octets off the wire first."""
        if not size:
            return self._refuse(refusal)
        self._chunk_left = size
        self._return_to = self.state
        self._discard = refusal
        self.state = CHUNK
        return None

    def _rset(self, argument: bytes) -> Event | None:
        if argument:
            return self._refuse(say.NO_ARGUMENTS)
        open_transaction = self.state in IN_TRANSACTION
        self._say(say.OK)
        self._move()
        # Counted in a transaction too: MAIL and RSET without an end cost us a record each.
        ended = self._count_noop()
        return TransactionReset() if ended is None and open_transaction else ended

    def _noop(self, argument: bytes) -> Event | None:
        self._say(say.OK)
        return self._count_noop()

    def _vrfy(self, argument: bytes) -> Event | None:
        self._say(say.CANNOT_VERIFY)
        return self._count_noop()

    def _help(self, argument: bytes) -> Event | None:
        self._say(say.HELP_TEXT)
        return self._count_noop()

    def _quit(self, argument: bytes) -> Event | None:
        if argument:
            return self._refuse(say.NO_ARGUMENTS)
        self.close(say.BYE)
        return Quit()

    # content

    def _content(self) -> Event | None:
        scanner = self._data
        if scanner is None:
            raise AssertionError("content without a scanner")
        octets, following = scanner.feed(self.kept)
        if following > 0:
            self.kept = self.kept[-following:]
        else:
            self.kept = b""
        end = following >= 0
        self._passed += len(octets)
        if self._discard is not None:
            return self._discarded() if end else None
        if scanner.fault is not None:
            return self._break_off(say.CONTENT_FAULTS[scanner.fault], end=end)
        if self._passed > self.terms.max_size + _ALLOWANCE:
            return self._break_off(say.TOO_LARGE, end=end)
        self.waiting = end
        return Content(octets, end) if octets else None

    def _chunk(self) -> Event | None:
        taken = self.kept[: self._chunk_left]
        self.kept = self.kept[len(taken) :]
        self._chunk_left -= len(taken)
        self._passed += len(taken)
        end = not self._chunk_left
        if self._discard is not None:
            return self._discarded() if end else None
        scanner = self._chunks
        if scanner is None:
            raise AssertionError("a chunk without a scanner")
        scanner.feed(taken, ends_message=end and self._last)
        if scanner.fault is not None:
            return self._break_off(say.CONTENT_FAULTS[scanner.fault], end=end)
        self.waiting = end
        return Content(taken, end)

    def _break_off(self, refusal: Reply, *, end: bool) -> Event:
        """No more of this content may pass; `refusal` is said now, if this was the end, or at the end."""
        self._discard = refusal
        if end:
            self._discarded()
        return ContentRefused(refusal)

    def _discarded(self) -> Event | None:
        """All of the content has been swallowed: say what was to be said."""
        answer, self._discard = self._discard, None
        if answer is None:
            raise AssertionError("nothing was to be discarded")
        if self._return_to is not None:
            self.state, self._return_to = self._return_to, None
            return self._refuse(answer)
        self._end_transaction()
        self._say(answer)
        return None

    # endings

    def _end_transaction(self) -> None:
        self.state = READY if self.greeted else HELLO
        self._data = None
        self._chunks = None
        self._chunk_left = 0
        self._discard = None
        self._noops = 0

    def _move(self) -> None:
        self.state = STEPS[self.state][self._verb] or self.state

    def _say(self, answer: Reply) -> None:
        self.said.append(answer.wire or answer.render())

    def _refuse(self, refusal: Reply) -> Event:
        self._say(refusal)
        return self._count_error() or Refused(refusal, closing=False)

    def _refuse_and_close(self, refusal: Reply) -> Event:
        self.close(refusal)
        return Refused(refusal, closing=True)

    def _count_error(self) -> Event | None:
        self.errors += 1
        if self.errors < self.terms.max_errors:
            return None
        return self._refuse_and_close(say.TOO_MANY_ERRORS)

    def _count_noop(self) -> Event | None:
        self._noops += 1
        if self._noops <= self.terms.max_noops:
            return None
        return self._refuse_and_close(say.TOO_MANY_NOOPS)


_ALLOWANCE: Final = 1024
"""Octets by which DATA may pass the size limit: dot-stuffing is no part of a message's size (RFC 1870 section 3)."""

_COMMANDS: Final[Mapping[bytes, tuple[Verb, Callable[[Session, bytes], Event | None]]]] = {
    b"HELO": (Verb.HELO, Session._helo),
    b"EHLO": (Verb.EHLO, Session._ehlo),
    b"STARTTLS": (Verb.STARTTLS, Session._starttls),
    b"AUTH": (Verb.AUTH, Session._auth),
    b"MAIL": (Verb.MAIL, Session._mail),
    b"RCPT": (Verb.RCPT, Session._rcpt),
    b"DATA": (Verb.DATA, Session._data_command),
    b"BDAT": (Verb.BDAT, Session._bdat),
    b"RSET": (Verb.RSET, Session._rset),
    b"NOOP": (Verb.NOOP, Session._noop),
    b"VRFY": (Verb.VRFY, Session._vrfy),
    b"HELP": (Verb.HELP, Session._help),
    b"QUIT": (Verb.QUIT, Session._quit),
}


@lru_cache(maxsize=256)
def _hello(hostname: str, keywords: tuple[str, ...]) -> Reply:
    """The answer to EHLO, the same for every client until the offer changes; rendered once."""
    return reply(250, "", hostname, *keywords)
