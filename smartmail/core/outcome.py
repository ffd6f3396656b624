"""How a probe ended, and what that counts for: a closed list of codes, one octet each.

Votes (DESIGN section 4): in one minute of one location and check abstain beats a failure seen, which beats ok, which
beats an error of the monitor itself. Silence is no vote.
"""

from enum import IntEnum
from typing import Final


class Vote(IntEnum):
    """What a location says of a check in a minute; a higher one beats a lower one."""

    SILENT = 0
    ERROR = 1
    """The monitor's own fault: says nothing about the service."""
    UP = 2
    DOWN = 3
    ABSTAIN = 4
    """The location's own control targets failed: nothing it saw in this minute counts."""


class Outcome(IntEnum):
    """The end of one probe. Codes are in stored samples: they are never given another meaning. 0 is no sample."""

    OK = 1
    OK_JUNK = 2
    """Round trip: it arrived, but in the Junk folder."""
    OK_GREYLISTED = 3
    """The server answered a recipient with 4xx as greylisting does: it works."""
    OK_EXPIRES_SOON = 4
    """All well, but the certificate or a signature ends within the warning time."""
    OK_LATE_START = 5
    """All well, but the probe began more than a second after its slot."""

    REFUSED = 16
    """The connection was refused."""
    UNREACHABLE = 17
    """No route, host or network down."""
    TIMEOUT = 18
    """No answer within the probe's time."""
    TLS = 19
    """The handshake failed, or STARTTLS was not offered."""
    CERTIFICATE = 20
    """Expired, not yet valid, of another name, or of a chain that nobody trusts."""
    DNS = 21
    """The name could not be resolved, or the answers are wrong."""
    TRANSIENT = 22
    """4xx, or its like in another protocol."""
    PERMANENT = 23
    """5xx, NO, -ERR."""
    LOGIN = 24
    """Right credentials were refused."""
    CONTENT = 25
    """An answer, but not the one it must be."""
    PROTOCOL = 26
    """Not the language the port should speak."""
    LOST = 27
    """The connection ended in the middle."""
    NOT_ARRIVED = 28
    """Round trip: not there at its deadline."""

    MONITOR_ERROR = 40
    """Our own fault: no memory, no file handle, a secret that cannot be read, a bug."""
    CONTROL_FAILED = 41
    """The location's control targets failed."""


FIRST_FAILURE: Final = 16
FIRST_OWN: Final = 40


def vote_of(outcome: int) -> Vote:
    """What an outcome counts for. Codes of a newer version count by their range; 0 is silence."""
    if outcome == Outcome.CONTROL_FAILED:
        return Vote.ABSTAIN
    if outcome >= FIRST_OWN:
        return Vote.ERROR
    if outcome >= FIRST_FAILURE:
        return Vote.DOWN
    return Vote.UP if outcome else Vote.SILENT
