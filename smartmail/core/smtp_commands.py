"""What the argument of a command says: octets in, an event or the refusal out. No state; see core/smtp.py."""

import binascii
from typing import Final

from smartmail.core import smtp_replies as say
from smartmail.core.address import AddressError, parse_path
from smartmail.core.esmtp import ParameterError, parse_mail_parameters, parse_rcpt_parameters
from smartmail.core.reply import Reply
from smartmail.core.smtp_events import AuthStart, MailFrom, Offer, RcptTo

MAX_CHUNK: Final = 1 << 40
"""A BDAT size beyond this is no size."""


def read_hello(argument: bytes) -> str | Reply:
    """The name behind HELO or EHLO (RFC 5321 section 4.1.1.1): any word, for clients call themselves anything."""
    name = argument.strip()
    if not name or b" " in name or len(name) > 255 or not name.isascii():
        return say.BAD_HELLO
    return name.decode("ascii")


def read_auth(argument: bytes, offer: Offer) -> AuthStart | Reply:
    """Mechanism and initial response (RFC 4954 section 4)."""
    if not offer.mechanisms:
        return say.TLS_FIRST if offer.auth_needs_tls else say.NOT_HERE
    mechanism, _, initial = argument.strip().partition(b" ")
    name = mechanism.decode("ascii", "replace").upper()
    if name not in offer.mechanisms:
        return say.UNKNOWN_MECHANISM
    if not initial:
        return AuthStart(name, None)
    # "=" is an initial response of no octets
    octets = b"" if initial == b"=" else from_base64(initial)
    return say.BAD_BASE64 if octets is None else AuthStart(name, octets)


def read_mail(argument: bytes, extensions: frozenset[str]) -> MailFrom | Reply:
    """FROM:<reverse-path> and its parameters. extensions: those on offer."""
    if argument[:5].upper() != b"FROM:":
        return say.BAD_PATH
    utf8 = not argument.isascii() and b"SMTPUTF8" in argument.upper() and "SMTPUTF8" in extensions
    try:
        sender, rest = parse_path(argument[5:], sender=True, utf8=utf8)
        return MailFrom(sender, parse_mail_parameters(rest, extensions))
    except (AddressError, ParameterError) as error:
        return error.reply


def read_rcpt(argument: bytes, extensions: frozenset[str], *, utf8: bool) -> RcptTo | Reply:
    """TO:<recipient> and its parameters. utf8: MAIL said SMTPUTF8."""
    if argument[:3].upper() != b"TO:":
        return say.BAD_PATH
    try:
        recipient, rest = parse_path(argument[3:], sender=False, utf8=utf8)
        parameters = parse_rcpt_parameters(rest, extensions)
    except (AddressError, ParameterError) as error:
        return error.reply
    return say.BAD_PATH if recipient is None else RcptTo(recipient, parameters)


def read_chunk(argument: bytes) -> tuple[int, bool] | None:
    """Read "size [LAST]" (RFC 3030 section 2)."""
    size, _, last = argument.strip().partition(b" ")
    if not size.isdigit() or len(size) > 13 or last.strip().upper() not in (b"", b"LAST"):
        return None
    return (int(size), bool(last.strip())) if int(size) <= MAX_CHUNK else None


def from_base64(text: bytes) -> bytes | None:
    """The octets, or None for what is no base64 to the letter."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None
