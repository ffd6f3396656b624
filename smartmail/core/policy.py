"""May it? Attempt + account + rules -> Decision. Verdict and reason come from closed lists.

The body of a mail is no argument of anything here: decisions are made on the envelope alone.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from smartmail.core.limits import Refusal, Unit
from smartmail.core.reply import Reply, reply
from smartmail.core.standing import Account, Conduct, rights


class Verdict(StrEnum):
    """How a transaction, or an attempt at one, ended."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    REJECTED = "rejected"
    ABORTED = "aborted"
    AMBIGUOUS = "ambiguous"


_ACCEPTED: Final = Verdict.ACCEPTED


class Reason(StrEnum):
    """Why. A closed list: metrics, event rows and the command line use these words and no others."""

    OK = "ok"
    # standing
    ACCOUNT_CLOSED = "account_closed"
    ACCOUNT_UNPAID = "account_unpaid"
    SENDING_STOPPED = "sending_stopped"
    RECIPIENT_CLOSED = "recipient_closed"
    RECIPIENT_UNPAID = "recipient_unpaid"
    # who and where
    AUTH_REQUIRED = "auth_required"
    TLS_REQUIRED = "tls_required"
    SENDER_NOT_OWNED = "sender_not_owned"
    RELAY_DENIED = "relay_denied"
    CLIENT_NOT_TRUSTED = "client_not_trusted"
    # limits
    LIMIT_REACHED = "limit_reached"
    TOO_MANY_RECIPIENTS = "too_many_recipients"
    TOO_MANY_SESSIONS = "too_many_sessions"
    MESSAGE_TOO_LARGE = "message_too_large"
    # protocol
    BAD_CONTENT = "bad_content"
    BAD_SYNTAX = "bad_syntax"
    EARLY_TALK = "early_talk"
    TOO_SLOW = "too_slow"
    TIMEOUT = "timeout"
    # the other side
    CLIENT_LOST = "client_lost"
    CLIENT_RESET = "client_reset"
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_DEFERRED = "upstream_deferred"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_LOST = "upstream_lost"
    UPSTREAM_SILENT_AFTER_DOT = "upstream_silent_after_dot"
    # us
    DRAINING = "draining"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one attempt. `reply` is what the client is told; None when the upstream speaks for itself."""

    verdict: Verdict
    reason: Reason
    reply: Reply | None = None
    limit: str = ""
    """Name of the limit that refused, for LIMIT_REACHED."""

    @property
    def accepted(self) -> bool:
        """True when the attempt goes on."""
        return self.verdict is _ACCEPTED


@dataclass(frozen=True, slots=True)
class Door:
    """What a listener asks of whoever knocks.

    needs_login: MAIL only after AUTH (a submission listener). trusted: this client may send anywhere without AUTH.
    accepts_incoming: others may send to domains that are ours. sender_must_be_owned, allows_null_sender: of an account.
    """

    needs_login: bool
    trusted: bool = False
    accepts_incoming: bool = False
    sender_must_be_owned: bool = True
    allows_null_sender: bool = True


class Destination(NamedTuple):
    """What the directory knows of a recipient. account: whose mailbox it is; local: its domain is ours."""

    account: Account | None
    local: bool


ACCEPT: Final = Decision(Verdict.ACCEPTED, Reason.OK)

_UNPAID_LOGIN: Final = reply(
    525,
    "5.7.13",
    "This account is suspended because its invoice is unpaid; sending works again once it is paid",
)
_CLOSED_LOGIN: Final = reply(525, "5.7.13", "This account is closed; contact the operator of this service")
_STOPPED: Final = reply(
    550, "5.7.1", "Sending to other domains is stopped for this account; contact the operator of this service"
)


def _refuse(verdict: Verdict, reason: Reason, code: int, enhanced: str, text: str) -> Decision:
    return Decision(verdict, reason, reply(code, enhanced, text))


_LOGIN_FIRST: Final = _refuse(
    Verdict.REJECTED,
    Reason.AUTH_REQUIRED,
    530,
    "5.7.0",
    "Log in first: this server takes mail from its accounts only",
)
_NOT_TRUSTED: Final = _refuse(
    Verdict.REJECTED, Reason.CLIENT_NOT_TRUSTED, 554, "5.7.1", "Your network may not use this server"
)
_LOGIN_UNPAID: Final = Decision(Verdict.REJECTED, Reason.ACCOUNT_UNPAID, _UNPAID_LOGIN)
_LOGIN_CLOSED: Final = Decision(Verdict.REJECTED, Reason.ACCOUNT_CLOSED, _CLOSED_LOGIN)
_NOT_OWNED: Final = _refuse(
    Verdict.REJECTED,
    Reason.SENDER_NOT_OWNED,
    553,
    "5.7.1",
    "This sender address does not belong to your account",
)
_OUTSIDE_STOPPED: Final = Decision(Verdict.REJECTED, Reason.SENDING_STOPPED, _STOPPED)
_RELAY_DENIED: Final = _refuse(Verdict.REJECTED, Reason.RELAY_DENIED, 550, "5.7.1", "Relaying is not allowed")
_MAILBOX_CLOSED: Final = _refuse(
    Verdict.REJECTED, Reason.RECIPIENT_CLOSED, 550, "5.2.1", "This mailbox is closed and takes no mail"
)
_MAILBOX_UNPAID: Final = _refuse(
    Verdict.DEFERRED,
    Reason.RECIPIENT_UNPAID,
    450,
    "4.2.1",
    "This mailbox is suspended for now; try again later",
)
_TOO_MANY: Final = _refuse(
    Verdict.DEFERRED,
    Reason.TOO_MANY_RECIPIENTS,
    452,
    "4.5.3",
    "Too many recipients; send the rest as another message",
)

SESSION_ENDED: Final = {
    Reason.ACCOUNT_UNPAID: reply(421, "4.7.0", "This account has been suspended; closing the connection"),
    Reason.ACCOUNT_CLOSED: reply(421, "4.7.0", "This account has been closed; closing the connection"),
}
"""What a live session of an account hears at the next command boundary once its standing forbids sending."""


def at_connect(door: Door) -> Decision:
    """May this client talk to this listener at all?"""
    if door.needs_login or door.trusted or door.accepts_incoming:
        return ACCEPT
    return _NOT_TRUSTED


def at_login(account: Account) -> Decision:
    """The password was right: may the account log in to send? RFC 5248 section 2.4: 525 5.7.13 tells a client that its
    password is not what is wrong."""
    if rights(account).log_in_to_send:
        return ACCEPT
    return _LOGIN_CLOSED if account.conduct is Conduct.CLOSED else _LOGIN_UNPAID


def at_mail(door: Door, account: Account | None, sender: str) -> Decision:
    """May a mail from `sender` (normal form, "" the null reverse-path) begin?"""
    if account is None:
        return _LOGIN_FIRST if door.needs_login else ACCEPT
    login = at_login(account)
    if not login.accepted:
        return login
    if not sender:
        return ACCEPT if door.allows_null_sender else _NOT_OWNED
    if door.sender_must_be_owned and not account.owns(sender):
        return _NOT_OWNED
    return ACCEPT


def at_rcpt(door: Door, account: Account | None, destination: Destination, taken: int, most: int) -> Decision:
    """May this recipient be added to the `taken` ones? `most`: recipients in one transaction."""
    if taken >= most:
        return _TOO_MANY
    if account is None and not door.trusted and not destination.local:
        return _RELAY_DENIED
    if account is not None and account.conduct is Conduct.STOPPED and not destination.local:
        return _OUTSIDE_STOPPED
    if destination.account is not None:
        allowed = rights(destination.account)
        if allowed.defer_incoming:
            return _MAILBOX_UNPAID
        if not allowed.receive:
            return _MAILBOX_CLOSED
    return ACCEPT


def over_limit(refusal: Refusal) -> Decision:
    """The words for a reservation that was refused."""
    limit = refusal.charge.limit
    noun = _UNITS[limit.unit]
    if refusal.retry_after == 0:
        text = f"This message alone is more than the limit of {limit.quota} {noun} allows ({limit.name})"
        return Decision(Verdict.REJECTED, Reason.LIMIT_REACHED, reply(550, "5.7.1", text), limit.name)
    text = (
        f"Limit reached: {limit.quota} {noun} in {_span(limit.period)} ({limit.name}); "
        f"try again in {_span(refusal.retry_after)}"
    )
    return Decision(Verdict.DEFERRED, Reason.LIMIT_REACHED, reply(450, "4.7.1", text), limit.name)


_UNITS: Final = {
    Unit.MESSAGES: "messages",
    Unit.RECIPIENTS: "recipients",
    Unit.FIRST_TIME: "first-time recipients",
    Unit.BYTES: "octets",
}


def _span(seconds: int) -> str:
    """A length of time in words, rounded up to what a person needs."""
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = -(-seconds // size)
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{seconds} second{'s' if seconds != 1 else ''}"
