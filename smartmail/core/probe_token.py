"""The mark that makes a probe's message recognisable: one HMAC token per message (RFC 2104, SHA-256).

An old message has another token, and a forged one has none that verifies: neither can satisfy a test. The token is one
word of small letters, digits, "." and "-", so no mail server has a reason to fold or to encode it.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

from smartmail.core.roster import NAME

HEADER: Final = "X-Smartmail-Probe"
"""The header field that carries the token."""

MIN_SECRET: Final = 16
"""Octets of the shortest secret."""
NONCE_OCTETS: Final = 16
MAX_TOKEN: Final = 200
"""Characters of the longest token, and some to spare."""

_MAX_FIELD: Final = 4096
_MAX_CANDIDATES: Final = 8
_DOMAIN: Final = b"smartmail probe token 1\n"
_TOKEN: Final = re.compile(
    r"sm1\.([a-z0-9][a-z0-9-]{0,39})\.([a-z0-9][a-z0-9-]{0,39})\.(0|[1-9][0-9]{0,14})\.([0-9a-f]{32})\.([0-9a-f]{32})"
)


@dataclass(frozen=True, slots=True)
class ProbeToken:
    """What a token that verified says. sent_ms: epoch ms of the sending. nonce: 32 hex digits."""

    check: str
    location: str
    sent_ms: int
    nonce: str
    text: str
    """The token itself."""


def make(secret: bytes, check: str, location: str, sent_ms: int, nonce: bytes) -> str:
    """The token of one message: `sm1.check.location.sent_ms.nonce.mac`.

    nonce: NONCE_OCTETS random octets, never used twice. Raises ValueError for a short secret, a name that core.roster
    would refuse, a time outside 0 to 10^15 - 1 ms or a nonce of another length.
    """
    if not NAME.match(check) or not NAME.match(location):
        raise ValueError("a token is for a check and a location by their names")
    if not 0 <= sent_ms < 10**15:
        raise ValueError("no time of sending")
    if len(nonce) != NONCE_OCTETS:
        raise ValueError(f"a nonce has {NONCE_OCTETS} octets")
    head = f"sm1.{check}.{location}.{sent_ms}.{nonce.hex()}"
    return f"{head}.{_mac(secret, head)}"


def verify(secret: bytes, text: str) -> ProbeToken | None:
    """The fields of a token made with this secret; None for anything else. Raises ValueError for a short secret."""
    if len(text) > MAX_TOKEN or not (match := _TOKEN.fullmatch(text)):
        return None
    head, _, mac = text.rpartition(".")
    if not hmac.compare_digest(_mac(secret, head), mac):
        return None
    check, location, sent_ms, nonce, _ = match.groups()
    return ProbeToken(check, location, int(sent_ms), nonce, text)


def find(secret: bytes, field: str) -> ProbeToken | None:
    """The first token of ours in a header field's value, folded or not. Only the field's beginning is looked at."""
    for index, match in enumerate(_TOKEN.finditer(field[:_MAX_FIELD])):
        if index == _MAX_CANDIDATES:
            break
        if token := verify(secret, match[0]):
            return token
    return None


def _mac(secret: bytes, head: str) -> str:
    if len(secret) < MIN_SECRET:
        raise ValueError(f"a probe secret has at least {MIN_SECRET} octets")
    # Half of the digest (RFC 2104 section 5): 128 bits, in a line that stays short.
    return hmac.new(secret, _DOMAIN + head.encode("ascii"), hashlib.sha256).hexdigest()[:32]
