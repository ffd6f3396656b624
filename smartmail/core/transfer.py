"""What becomes of a mail when one side of the relay is lost: one table, the whole of the relay's failure semantics.

RFC 5321 section 6.1: a 250 to the final dot takes responsibility, so it is only ever the upstream's. RFC 1047: a lost
reply to the dot leaves the outcome unknown; a duplicate is preferred to a loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from smartmail.core.policy import Reason, Verdict
from smartmail.core.reply import Reply, reply


class Phase(StrEnum):
    """How far a transaction has come with the upstream."""

    ENVELOPE = "envelope"  # MAIL or RCPT under way or answered
    ASKED = "asked"  # DATA sent, 354 not yet seen
    STREAMING = "streaming"  # content flows
    DOT_SENT = "dot_sent"  # the end of the content has been written; only the reply is missing


class Loss(StrEnum):
    """What happened."""

    UPSTREAM_UNREACHABLE = "upstream_unreachable"  # no connection could be had
    UPSTREAM_LOST = "upstream_lost"  # closed, reset, or talked nonsense
    UPSTREAM_SILENT = "upstream_silent"  # its timeout ran out (RFC 5321 section 4.5.3.2)
    CLIENT_LOST = "client_lost"
    CLIENT_SLOW = "client_slow"  # below the data rate floor, or its timeout ran out


class Charge(StrEnum):
    """What happens to the reservation of limits."""

    COMMIT = "commit"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Fate:
    """What to do. `reply` is for a client that is still there. `finish`: wait for the upstream's reply all the same."""

    verdict: Verdict
    reason: Reason
    charge: Charge
    reply: Reply | None = None
    finish: bool = False


UPSTREAM_UNREACHABLE: Final = reply(451, "4.4.1", "The mail server behind this one cannot be reached; try again later")
UPSTREAM_GONE: Final = reply(451, "4.4.2", "The mail server behind this one closed the connection; try again later")
UPSTREAM_SLOW: Final = reply(451, "4.4.2", "The mail server behind this one did not answer in time; try again later")
OUTCOME_UNKNOWN: Final = reply(
    451, "4.4.2", "The mail server behind this one took the message but did not confirm it; try again later"
)
CLIENT_TOO_SLOW: Final = reply(421, "4.4.2", "Sent too slowly; closing the connection")

_UNREACHABLE = Fate(Verdict.DEFERRED, Reason.UPSTREAM_UNREACHABLE, Charge.RELEASE, UPSTREAM_UNREACHABLE)
_LOST = Fate(Verdict.DEFERRED, Reason.UPSTREAM_LOST, Charge.RELEASE, UPSTREAM_GONE)
_SILENT = Fate(Verdict.DEFERRED, Reason.TIMEOUT, Charge.RELEASE, UPSTREAM_SLOW)
_AMBIGUOUS = Fate(Verdict.AMBIGUOUS, Reason.UPSTREAM_SILENT_AFTER_DOT, Charge.COMMIT, OUTCOME_UNKNOWN)
_CLIENT_GONE = Fate(Verdict.ABORTED, Reason.CLIENT_LOST, Charge.RELEASE)
_CLIENT_SLOW = Fate(Verdict.ABORTED, Reason.TOO_SLOW, Charge.RELEASE, CLIENT_TOO_SLOW)
_FINISH = Fate(Verdict.ACCEPTED, Reason.CLIENT_LOST, Charge.COMMIT, finish=True)

_BEFORE_THE_DOT: Final[Mapping[Loss, Fate]] = {
    Loss.UPSTREAM_UNREACHABLE: _UNREACHABLE,
    Loss.UPSTREAM_LOST: _LOST,
    Loss.UPSTREAM_SILENT: _SILENT,
    Loss.CLIENT_LOST: _CLIENT_GONE,
    Loss.CLIENT_SLOW: _CLIENT_SLOW,
}

FATES: Final[Mapping[Phase, Mapping[Loss, Fate]]] = {
    Phase.ENVELOPE: _BEFORE_THE_DOT,
    Phase.ASKED: _BEFORE_THE_DOT,
    Phase.STREAMING: _BEFORE_THE_DOT,
    Phase.DOT_SENT: {
        Loss.UPSTREAM_UNREACHABLE: _AMBIGUOUS,
        Loss.UPSTREAM_LOST: _AMBIGUOUS,
        Loss.UPSTREAM_SILENT: _AMBIGUOUS,
        Loss.CLIENT_LOST: _FINISH,
        Loss.CLIENT_SLOW: _FINISH,
    },
}
