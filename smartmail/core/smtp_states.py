"""The states of an SMTP conversation and every move between them, as one table (RFC 5321 section 4.1.4)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where the conversation is."""

    HELLO = "hello"  # nobody has said EHLO yet, or TLS has just started
    READY = "ready"
    ENVELOPE = "envelope"  # MAIL accepted
    ADDRESSED = "addressed"  # and at least one RCPT
    CHUNKS = "chunks"  # between two BDAT chunks
    AUTHENTICATING = "authenticating"
    CONTENT = "content"  # DATA octets
    CHUNK = "chunk"  # octets of one BDAT chunk
    CLOSED = "closed"


class Verb(StrEnum):
    """The commands."""

    HELO = "HELO"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    BDAT = "BDAT"
    RSET = "RSET"
    NOOP = "NOOP"
    VRFY = "VRFY"
    HELP = "HELP"
    QUIT = "QUIT"


HELLO, READY, ENVELOPE, ADDRESSED, CHUNKS, AUTHENTICATING, CONTENT, CHUNK, CLOSED = State
"""The members by themselves: to look one up in its class takes Python 3.11 a tenth of a microsecond, each time."""

_ANYWHERE: Final[Mapping[Verb, None]] = dict.fromkeys((Verb.NOOP, Verb.VRFY, Verb.HELP, Verb.QUIT))

STEPS: Final[Mapping[State, Mapping[Verb, State | None]]] = {
    # state, then: verb -> state after a positive answer; None: stays where it is. A verb that is missing is out of
    # order there (503). After a negative answer the state stays, but for DATA and BDAT: their transaction is over.
    State.HELLO: {
        **_ANYWHERE,
        Verb.HELO: State.READY,
        Verb.EHLO: State.READY,
        Verb.RSET: None,
    },
    State.READY: {
        **_ANYWHERE,
        Verb.HELO: State.READY,
        Verb.EHLO: State.READY,
        Verb.STARTTLS: State.HELLO,
        Verb.AUTH: State.READY,
        Verb.MAIL: State.ENVELOPE,
        Verb.RSET: State.READY,
    },
    State.ENVELOPE: {
        **_ANYWHERE,
        Verb.HELO: State.READY,
        Verb.EHLO: State.READY,
        Verb.RCPT: State.ADDRESSED,
        Verb.RSET: State.READY,
    },
    State.ADDRESSED: {
        **_ANYWHERE,
        Verb.HELO: State.READY,
        Verb.EHLO: State.READY,
        Verb.RCPT: State.ADDRESSED,
        Verb.DATA: State.CONTENT,
        Verb.BDAT: State.CHUNK,
        Verb.RSET: State.READY,
    },
    State.CHUNKS: {
        **_ANYWHERE,
        Verb.HELO: State.READY,
        Verb.EHLO: State.READY,
        Verb.BDAT: State.CHUNK,
        Verb.RSET: State.READY,
    },
}

IN_TRANSACTION: Final = frozenset({State.ENVELOPE, State.ADDRESSED, State.CHUNKS})

MUST_END_GROUP: Final = frozenset({Verb.EHLO, Verb.HELO, Verb.STARTTLS, Verb.DATA})
"""Nothing may be sent behind these before their reply (RFC 2920 section 3.1); asked of EHLO only the first time."""
NEEDS_SILENCE: Final = frozenset({Verb.STARTTLS, Verb.DATA})
"""Of those, the ones for which it is asked every time: what follows would be read as something else."""
