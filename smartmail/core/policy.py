"""May it? Attempt + account + rules -> Decision. Verdict and reason come from closed lists.

The body of a mail is no argument of anything here: decisions are made on the envelope alone.
"""

from dataclasses import dataclass
from enum import StrEnum

from smartmail.core.reply import Reply


class Verdict(StrEnum):
    """How a transaction, or an attempt at one, ended."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"
    REJECTED = "rejected"
    ABORTED = "aborted"
    AMBIGUOUS = "ambiguous"


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
    AUTH_FAILED = "auth_failed"
    AUTH_UNAVAILABLE = "auth_unavailable"
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
        return self.verdict is Verdict.ACCEPTED
