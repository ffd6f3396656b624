"""What an agent signs: one text for each request, that can be taken for nothing else.

The text names its own purpose and version first, so that a signature made here never fits another protocol that uses
the same key, and each part is of a form that cannot hold the line end between the parts.
"""

import base64
import binascii
import hashlib
from typing import Final

from smartmail.core.roster import NAME

PURPOSE: Final = "smartmail agent request v1"
AGENT_HEADER: Final = "X-Smartmail-Agent"
SIGNATURE_HEADER: Final = "X-Smartmail-Signature"
"""Base64 of the Ed25519 signature (RFC 8032) over `signed_text`."""
DIGEST_HEADER: Final = "Content-Digest"
"""RFC 9530. With it the signature can be judged before the first octet of the body is read."""

SIGNATURE_OCTETS: Final = 64
KEY_OCTETS: Final = 32
DIGEST_OCTETS: Final = 32


class SigningError(ValueError):
    """A header or key is not of the form it must have."""


def digest_of(body: bytes) -> bytes:
    """SHA-256 of a body: 32 octets."""
    return hashlib.sha256(body).digest()


def signed_text(agent: str, method: str, path: str, digest: bytes) -> bytes:
    """The octets to sign: purpose, method, path, agent, SHA-256 of the body in hex, a line each.

    Raises SigningError for an agent that is no name, a method or path with a character outside printable ASCII or
    with a space, and a digest of another length.
    """
    if not NAME.match(agent):
        raise SigningError("the agent's name is no name")
    for part in (method, path):
        if not part or not part.isascii() or not part.isprintable() or " " in part:
            raise SigningError("method and path are printable ASCII without spaces")
    if len(digest) != DIGEST_OCTETS:
        raise SigningError(f"a digest has {DIGEST_OCTETS} octets")
    return "\n".join((PURPOSE, method, path, agent, digest.hex(), "")).encode("ascii")


def digest_header(digest: bytes) -> str:
    """The value of Content-Digest: `sha-256=:<base64>:`."""
    return f"sha-256=:{write_base64(digest)}:"


def read_digest_header(value: str) -> bytes:
    """The digest in what `digest_header` writes; no other algorithm, no list. Raises SigningError."""
    body = value.removeprefix("sha-256=:").removesuffix(":")
    if value != f"sha-256=:{body}:":
        raise SigningError(f"{DIGEST_HEADER} is not of the form sha-256=:...:")
    return read_base64(body, DIGEST_OCTETS)


def read_base64(text: str, octets: int) -> bytes:
    """Exactly `octets` octets in canonical base64. Raises SigningError."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise SigningError("this is not base64") from None
    # Two texts for the same octets would be two names for one thing.
    if len(found) != octets or write_base64(found) != text:
        raise SigningError(f"this is not base64 of {octets} octets")
    return found


def write_base64(octets: bytes) -> str:
    """Standard base64, padded."""
    return base64.b64encode(octets).decode("ascii")


def token_digest(token: str) -> str:
    """What is kept of an enrolment token: hex SHA-256. A token has 256 random bits, so it needs no salt and no slow
    hash."""
    return hashlib.sha256(b"smartmail enrolment token v1\n" + token.encode("utf-8", "surrogatepass")).hexdigest()
