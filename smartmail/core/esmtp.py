"""Parameters of MAIL and RCPT: read, checked, and rendered anew for the upstream; and xtext.

RFC 5321 4.1.2 (syntax), RFC 1870 (SIZE), RFC 6152 and RFC 3030 (BODY), RFC 6531 (SMTPUTF8), RFC 3461 (RET,
ENVID, NOTIFY, ORCPT, xtext), RFC 6533 (ORCPT of type utf-8), RFC 4954 5 (AUTH), RFC 8689 (REQUIRETLS). What
goes upstream is made from the parts that were read, never copied, so nothing can ride along in a value.
"""

import re
from typing import Final, NamedTuple

from smartmail.core.address import AddressError, parse_path
from smartmail.core.reply import Reply, reply

MAX_ENVID: Final = 100
"""Octets of an ENVID value as sent (RFC 3461 4.4)."""
MAX_ORCPT: Final = 500
"""Octets of an ORCPT value as sent (RFC 3461 4.2)."""
MAX_AUTH: Final = 500
"""Octets of an AUTH= value as sent (RFC 4954 5 leaves room for 500)."""
MAX_PARAMETERS: Final = 20
"""Parameters of one command; there are not that many keywords."""

_BAD_SYNTAX: Final = reply(501, "5.5.4", "Bad parameter syntax")
_DUPLICATE: Final = reply(501, "5.5.4", "Parameter given twice")
_UNKNOWN: Final = reply(555, "5.5.4", "Parameter not recognised or not offered")

_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*+)(?:=([!-<>-~\x80-\xff]++))?+")
_FAST_MAIL = re.compile(
    rb" (?:SIZE=(0|[1-9][0-9]{0,17})(?: (BODY=8BITMIME))?+|(BODY=8BITMIME)(?: SIZE=(0|[1-9][0-9]{0,17}))?+)"
)
_SIZE = re.compile(rb"[0-9]{1,20}")
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2})*+")
_HEX = re.compile(rb"\+(..)")
_X_ENCODED: Final = tuple(
    bytes([octet]) if 0x21 <= octet <= 0x7E and octet not in b"+=" else b"+%02X" % octet for octet in range(256)
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PRINTABLE = re.compile(r"[ -~]++")
_ADDRESS_TYPE = re.compile(rb"[A-Za-z0-9!#$%&'*/?^_`{|}~-]++")
_UTF8_ADDRESS = re.compile(r"(?:[!-*,-<>-\[\]-~\x80-\U0010ffff]|\\x\{[0-9A-Fa-f]{2,6}\})++")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")

_MAIL_EXTENSIONS: Final = {
    b"SIZE": "SIZE",
    b"BODY": "8BITMIME",
    b"SMTPUTF8": "SMTPUTF8",
    b"RET": "DSN",
    b"ENVID": "DSN",
    b"AUTH": "AUTH",
    b"REQUIRETLS": "REQUIRETLS",
}
_RCPT_EXTENSIONS: Final = {b"NOTIFY": "DSN", b"ORCPT": "DSN"}


class ParameterError(ValueError):
    """A parameter that cannot be taken. `reply` is the answer to the client; it holds nothing that was sent."""

    def __init__(self, answer: Reply) -> None:
        super().__init__(str(answer))
        self.reply = answer


class MailParameters(NamedTuple):
    """What MAIL carried behind its path. A value that was not given is 0, "" or False.

    size: octets the client declares. body: "7BIT", "8BITMIME" or "BINARYMIME". ret: "FULL" or "HDRS". envid:
    decoded. auth: the mailbox as decoded, or "<>". wire: what goes behind the path upstream, with its leading
    blank. AUTH= is not in it: it is a claim of the client's that only a server which authenticated us would
    hear (RFC 4954 5 lets a relay that does not vouch for it drop it), and one without AUTH refuses it.
    """

    size: int = 0
    body: str = ""
    utf8: bool = False
    ret: str = ""
    envid: str = ""
    auth: str = ""
    requiretls: bool = False
    wire: bytes = b""


class RcptParameters(NamedTuple):
    """What RCPT carried behind its path.

    notify: words in upper case as given, () if absent. orcpt: "type;address", decoded, "" if absent. wire: what
    goes behind the path upstream, with its leading blank.
    """

    notify: tuple[str, ...] = ()
    orcpt: str = ""
    wire: bytes = b""


_NO_MAIL_PARAMETERS: Final = MailParameters()
_NO_RCPT_PARAMETERS: Final = RcptParameters()
_ONLY_8BITMIME: Final = MailParameters(body="8BITMIME", wire=b" BODY=8BITMIME")


def parse_mail_parameters(rest: bytes, offered: frozenset[str]) -> MailParameters:
    """Read what follows the path of MAIL.

    rest: b"", or a blank and parameters. offered: the keywords of our EHLO answer, upper case. Raises
    ParameterError: 555 5.5.4 for a keyword that is unknown or was not offered, 501 5.5.4 for a bad or
    repeated one.
    """
    if not rest:
        return _NO_MAIL_PARAMETERS
    found = _FAST_MAIL.fullmatch(rest)
    if found is not None:
        size, then_body, body, then_size = found.groups()
        size, body = size or then_size, body or then_body
        if (size is None or "SIZE" in offered) and (body is None or "8BITMIME" in offered):
            if size is None:
                return _ONLY_8BITMIME
            return MailParameters._make((int(size), "8BITMIME" if body else "", False, "", "", "", False, rest))
    given = _read(rest, _MAIL_EXTENSIONS, offered)
    size_given = _value(given, b"SIZE")
    fields = MailParameters(
        size=_size(size_given),
        body=_body(_value(given, b"BODY"), offered),
        utf8=_flag(given, b"SMTPUTF8"),
        ret=_ret(_value(given, b"RET")),
        envid=_envid(_value(given, b"ENVID")),
        auth=_auth(_value(given, b"AUTH")),
        requiretls=_flag(given, b"REQUIRETLS"),
    )
    wire = [
        b" SIZE=%d" % fields.size if size_given else b"",
        b" BODY=" + fields.body.encode() if fields.body else b"",
        b" SMTPUTF8" if fields.utf8 else b"",
        b" RET=" + fields.ret.encode() if fields.ret else b"",
        b" ENVID=" + encode_xtext(fields.envid) if fields.envid else b"",
        b" REQUIRETLS" if fields.requiretls else b"",
    ]
    return fields._replace(wire=b"".join(wire))


def parse_rcpt_parameters(rest: bytes, offered: frozenset[str]) -> RcptParameters:
    """Read what follows the path of RCPT. Arguments and errors as in `parse_mail_parameters`."""
    if not rest:
        return _NO_RCPT_PARAMETERS
    given = _read(rest, _RCPT_EXTENSIONS, offered)
    notify = _notify(_value(given, b"NOTIFY"))
    orcpt, rendered = _orcpt(_value(given, b"ORCPT"), offered)
    wire = b" NOTIFY=" + ",".join(notify).encode() if notify else b""
    return RcptParameters(notify, orcpt, wire + b" ORCPT=" + rendered if rendered else wire)


def encode_xtext(text: str) -> bytes:
    """RFC 3461 4: printable ASCII less "+" and "=" as it is, other octets of its UTF-8 as "+" and two digits.

    Raises ParameterError for a control character: whoever decodes it would have a CR or NUL in hand.
    """
    if _CONTROL.search(text):
        raise ParameterError(_BAD_SYNTAX)
    try:
        return b"".join([_X_ENCODED[octet] for octet in text.encode()])
    except UnicodeEncodeError:
        raise ParameterError(_BAD_SYNTAX) from None


def decode_xtext(value: bytes) -> str:
    """The text that xtext stands for.

    Raises ParameterError unless `value` is xtext (lower-case digits are let pass) and the text is UTF-8 without a
    control character.
    """
    if not _XTEXT.fullmatch(value):
        raise ParameterError(_BAD_SYNTAX)
    try:
        text = _HEX.sub(lambda found: bytes.fromhex(found[1].decode()), value).decode()
    except UnicodeDecodeError:
        raise ParameterError(_BAD_SYNTAX) from None
    if _CONTROL.search(text):
        raise ParameterError(_BAD_SYNTAX)
    return text


def _read(rest: bytes, extensions: dict[bytes, str], offered: frozenset[str]) -> dict[bytes, bytes]:
    """Keyword in upper case -> value, b"" where it has none. More blanks, and blanks at the end, are let pass."""
    pieces = [piece for piece in rest.split(b" ") if piece]
    if rest[:1] != b" " or len(pieces) > MAX_PARAMETERS:
        raise ParameterError(_BAD_SYNTAX)
    given: dict[bytes, bytes] = {}
    for piece in pieces:
        found = _PARAMETER.fullmatch(piece)
        if found is None:
            raise ParameterError(_BAD_SYNTAX)
        keyword, value = found[1].upper(), found[2] or b""
        if extensions.get(keyword) not in offered:
            raise ParameterError(_UNKNOWN)
        if keyword in given:
            raise ParameterError(_DUPLICATE)
        given[keyword] = value
    return given


def _value(given: dict[bytes, bytes], keyword: bytes) -> bytes:
    """The value of a keyword that needs one; b"" if the keyword is absent."""
    if given.get(keyword) == b"":
        raise ParameterError(_BAD_SYNTAX)
    return given.get(keyword, b"")


def _flag(given: dict[bytes, bytes], keyword: bytes) -> bool:
    """Whether a keyword that takes no value is there."""
    if given.get(keyword):
        raise ParameterError(_BAD_SYNTAX)
    return keyword in given


def _size(value: bytes) -> int:
    if value and not _SIZE.fullmatch(value):
        raise ParameterError(_BAD_SYNTAX)
    return int(value or b"0")


def _body(value: bytes, offered: frozenset[str]) -> str:
    body = _word(value, ("7BIT", "8BITMIME", "BINARYMIME"))
    if body == "BINARYMIME" and "BINARYMIME" not in offered:
        raise ParameterError(_UNKNOWN)
    return body


def _ret(value: bytes) -> str:
    return _word(value, ("FULL", "HDRS"))


def _word(value: bytes, words: tuple[str, ...]) -> str:
    """One of the words, in upper case; "" for b""."""
    word = value.decode("latin-1").upper() if value.isascii() else "?"
    if word and word not in words:
        raise ParameterError(_BAD_SYNTAX)
    return word


def _envid(value: bytes) -> str:
    text = decode_xtext(value)
    if len(value) > MAX_ENVID or (value and not _PRINTABLE.fullmatch(text)):
        raise ParameterError(_BAD_SYNTAX)
    return text


def _auth(value: bytes) -> str:
    """A mailbox in xtext, or "<>" (RFC 4954 5)."""
    text = decode_xtext(value)
    if text in ("", "<>"):
        return text
    try:
        mailbox, rest = parse_path(b"<" + text.encode() + b">", sender=True, utf8=True)
    except AddressError:
        raise ParameterError(_BAD_SYNTAX) from None
    if len(value) > MAX_AUTH or rest or mailbox is None:
        raise ParameterError(_BAD_SYNTAX)
    return mailbox.wire


def _notify(value: bytes) -> tuple[str, ...]:
    if not value:
        return ()
    words = tuple(_word(word, ("NEVER", "SUCCESS", "FAILURE", "DELAY")) for word in value.split(b","))
    if "" in words or len(set(words)) < len(words) or ("NEVER" in words and len(words) > 1):
        raise ParameterError(_BAD_SYNTAX)
    return words


def _orcpt(value: bytes, offered: frozenset[str]) -> tuple[str, bytes]:
    """("type;address" decoded, the same for the wire); both empty for b""."""
    if not value:
        return "", b""
    kind, separator, encoded = value.partition(b";")
    if len(value) > MAX_ORCPT or not separator or not encoded or not _ADDRESS_TYPE.fullmatch(kind):
        raise ParameterError(_BAD_SYNTAX)
    if kind.lower() == b"utf-8":
        address = _decode_utf8_address(encoded, raw="SMTPUTF8" in offered)
        # Always the ASCII form: it is right whether or not SMTPUTF8 is in force for this mail (RFC 6533 3).
        rendered = _NOT_QCHAR.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", address).encode("ascii")
    else:
        # Not ASCII only: Postfix 3.7 sends a UTF-8 address as rfc822 with its octets in xtext.
        address = decode_xtext(encoded)
        rendered = encode_xtext(address)
    if len(kind) + 1 + len(rendered) > MAX_ORCPT:
        raise ParameterError(_BAD_SYNTAX)
    return f"{kind.decode('ascii')};{address}", kind + b";" + rendered


def _decode_utf8_address(value: bytes, *, raw: bool) -> str:
    """utf-8-addr-xtext, or with `raw` also utf-8-addr-unitext (RFC 6533 3), to the address."""
    if not raw and not value.isascii():
        raise ParameterError(_BAD_SYNTAX)
    try:
        text = value.decode()
        if not _UTF8_ADDRESS.fullmatch(text):
            raise ParameterError(_BAD_SYNTAX)
        address = _EMBEDDED.sub(lambda found: chr(int(found[1], 16)), text)
        address.encode()  # a surrogate, written out in digits, has no UTF-8
    except (UnicodeError, ValueError):  # ValueError: chr() beyond U+10FFFF
        raise ParameterError(_BAD_SYNTAX) from None
    if _CONTROL.search(address):
        raise ParameterError(_BAD_SYNTAX)
    return address
