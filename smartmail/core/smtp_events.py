"""What a session tells its edge (events), and what the edge tells a session (terms, offer). See core/smtp.py."""

from dataclasses import dataclass
from typing import NamedTuple

from smartmail.core.address import Mailbox
from smartmail.core.esmtp import MailParameters, RcptParameters
from smartmail.core.reply import Reply


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for a listener's sessions from their start to their end."""

    hostname: str
    max_size: int
    max_errors: int = 10
    max_noops: int = 50
    normalise: bool = False
    """Put spaces for bare line ends and NULs in content, rather than refuse it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What EHLO advertises at this moment; the edge makes it anew as TLS, AUTH and the upstream change.

    keywords: the EHLO lines. extensions: parameter sets of MAIL and RCPT that are understood (`core.esmtp`).
    mechanisms: of AUTH, upper case. auth_needs_tls: AUTH is missing only because TLS is.
    """

    keywords: tuple[str, ...] = ()
    extensions: frozenset[str] = frozenset()
    mechanisms: tuple[str, ...] = ()
    starttls: bool = False
    chunking: bool = False
    auth_needs_tls: bool = False


class Hello(NamedTuple):
    """HELO or EHLO. Answer by `greet(offer)`, or `answer(refusal)`. Ends an open transaction."""

    name: str
    extended: bool
    ends_transaction: bool


class StartTls(NamedTuple):
    """220 is in the output: write it, stop reading, shake hands, then call `tls_started()`."""


class AuthStart(NamedTuple):
    """Answer by `challenge(octets)` or `answer(reply)`."""

    mechanism: str
    initial: bytes | None


class AuthResponse(NamedTuple):
    """The client's octets, base64 taken off; None: it cancelled, and has been told so. Else answer as AuthStart."""

    octets: bytes | None


class MailFrom(NamedTuple):
    """A reverse-path; None is the null one. Answer by `answer(reply)`."""

    sender: Mailbox | None
    parameters: MailParameters


class RcptTo(NamedTuple):
    """A recipient. Answer by `answer(reply)`."""

    recipient: Mailbox
    parameters: RcptParameters


class DataAsked(NamedTuple):
    """DATA. Answer by `accept_data(reply)` with a 354, else `answer(refusal)`."""


class ChunkAsked(NamedTuple):
    """BDAT. Its octets follow as Content without an answer; `answer(reply)` when ContentEnd has come."""

    size: int
    last: bool


class Content(NamedTuple):
    """Octets to pass on as they are. `end`: with these the message, or the chunk, is whole: `answer(reply)` is due.

    For DATA they include the dot-stuffing and the final CRLF.CRLF.
    """

    octets: bytes
    end: bool


class ContentRefused(NamedTuple):
    """The content broke a rule: abort the upstream now. The rest is swallowed, then the client is told `reply`."""

    reply: Reply


class TransactionReset(NamedTuple):
    """RSET ended an open transaction; it has been answered."""


class Refused(NamedTuple):
    """The session answered an offence by itself. `closing`: and says no more."""

    reply: Reply
    closing: bool


class Quit(NamedTuple):
    """221 is in the output: write it and close."""


Event = (
    Hello
    | StartTls
    | AuthStart
    | AuthResponse
    | MailFrom
    | RcptTo
    | DataAsked
    | ChunkAsked
    | Content
    | ContentRefused
    | TransactionReset
    | Refused
    | Quit
)
