"""Mail addresses: grammar, bounds, normal form.

RFC 5321 4.1.2 and 4.1.3 (Path, Mailbox, address literals), 4.5.3.1 (bounds); RFC 6531 3.3 (UTF-8 in both
parts). Neither comments nor folding white space, and nothing is rewritten: an address goes upstream as it was
read, less a source route, so that what policy decided on is what the upstream acts on. For the same reason
these are refused, although the grammar or some servers would take them, because an MTA may read them as
something else:

- a recipient whose local part holds "@", "%" or "!" (sender-specified routing: Postfix resolves `"a@b"@here`
  to a@b);
- a domain whose last label is a number (`user@192.0.2.1` is a host name to one, an address to another);
- UTF-8 domains with characters outside letters, digits and marks, or that compatibility mapping would change;
- invisible characters and text direction marks.

U-labels become A-labels by NFC, lower-casing of each character and the punycode codec. Python's "idna" codec
is not used: it is IDNA2003, which maps "ß" to "ss" and so names another domain than the one IDNA2008 asks
for. Not checked: the Bidi rule (RFC 5893) and contextual characters (RFC 5892 A), the latter being refused
altogether.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple
from unicodedata import category, normalize

from smartmail.core.reply import Reply, reply

MAX_LOCAL: Final = 64
"""Octets of a local part, quotes included (RFC 5321 4.5.3.1.1)."""
MAX_DOMAIN: Final = 255
"""Octets of a domain, as sent and in A-label form (RFC 5321 4.5.3.1.2)."""
MAX_PATH: Final = 256
"""Octets of a path, angle brackets and source route included (RFC 5321 4.5.3.1.3)."""
MAX_LABEL: Final = 63
"""Octets of one label, in A-label form (RFC 1035 2.3.4)."""

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]"
# The plain case: ASCII, no quotes, no literal, last label starts with a letter, nothing that could be a
# route. Possessive repeats keep every pattern here linear in its input.
_PLAIN = re.compile(
    rb" *+<([A-Za-z0-9#$&'*+/=?^_`{|}~-]++(?:\.[A-Za-z0-9#$&'*+/=?^_`{|}~-]++)*+)"
    rb"@((?:[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+\.)*+[A-Za-z][A-Za-z0-9]*+(?:-++[A-Za-z0-9]++)*+)>"
)
_PATH = re.compile(
    (
        r" *+<"
        r"(?:(@[A-Za-z0-9.\x80-\xff-]++(?:,@[A-Za-z0-9.\x80-\xff-]++)*+):)?+"
        rf'({_ATEXT}++(?:\.{_ATEXT}++)*+|"(?:[ !#-\[\]-~\x80-\xff]|\\[ -~])*+")'
        r"(?:@([A-Za-z0-9.\x80-\xff-]++|\[[A-Za-z0-9:.]++\]))?+>"
    ).encode("latin-1")
)
_NULL = re.compile(rb" *+<>")
_LDH = re.compile(r"[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+")
_UTEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]"
_DOT_STRING = re.compile(rf"{_UTEXT}++(?:\.{_UTEXT}++)*+")
_QUOTED_PAIR = re.compile(r"\\(.)")
_ROUTED = re.compile(r"[@%!]")
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200b\u200e\u200f\u2028-\u202f"
    "\u205f-\u206f\u3000\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff]"
)
"""Controls (C0, DEL, C1), blanks other than ASCII's, and what shows nothing or turns the text around it."""
_DOMAIN_MARKS = re.compile("[\u034f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Marks by their category, but IDNA ignores them: with them two spellings would name one host."""
_LETTERS: Final = frozenset({"Ll", "Lo", "Lm", "Nd", "Mn", "Mc"})

_BAD_SENDER: Final = reply(553, "5.1.7", "Bad sender address syntax")
_BAD_RECIPIENT: Final = reply(553, "5.1.3", "Bad recipient address syntax")
_ROUTED_RECIPIENT: Final = reply(553, "5.1.3", "Sender-specified routing is not accepted")
_LONG_SENDER: Final = reply(553, "5.1.7", "Sender address too long")
_LONG_RECIPIENT: Final = reply(553, "5.1.3", "Recipient address too long")
_NEEDS_UTF8: Final = reply(553, "5.6.7", "Address is not ASCII: SMTPUTF8 needed")


class AddressError(ValueError):
    """Not an address. `reply` is the answer to the client and holds nothing that the client sent."""

    def __init__(self, answer: Reply) -> None:
        super().__init__(str(answer))
        self.reply = answer


class Mailbox(NamedTuple):
    """An address, made by `parse_path`. Equal means spelt alike; compare `key` to ask for the same mailbox.

    local: the local part as sent, quotes and backslashes kept. domain: as sent; an address literal with its
    brackets; "" only for the bare "Postmaster" of RFC 5321 4.1.1.3.
    """

    local: str
    domain: str

    @property
    def wire(self) -> str:
        """The address as it goes upstream: as sent, source route stripped, without angle brackets."""
        return f"{self.local}@{self.domain}" if self.domain else self.local

    @property
    def key(self) -> str:
        """The normal form that policy, counters and directory use; one mailbox, one key.

        Lower case (case folding outside ASCII, as Postfix's lookups do), NFC, no needless quoting; the domain
        in lower-case A-labels; a literal in its shortest form, an IPv4-mapped IPv6 address as IPv4.
        """
        local, domain = self.local, self.domain
        if local[:1] != '"' and domain[:1] != "[" and domain.isascii() and local.isascii():
            return f"{local}@{domain}".lower() if domain else local.lower()
        return f"{_local_key(local)}@{self.domain_key}"

    @property
    def domain_key(self) -> str:
        """The domain's part of `key`."""
        domain = self.domain
        if domain[:1] == "[":
            return _literal_key(domain)
        return domain.lower() if domain.isascii() else _ascii_domain(domain)


def parse_path(text: bytes, *, sender: bool, utf8: bool) -> tuple[Mailbox | None, bytes]:
    """Read one Path (RFC 5321 4.1.2).

    text: what follows "MAIL FROM:" or "RCPT TO:"; blanks before "<" are let pass. sender: a reverse-path,
    which may be "<>". utf8: SMTPUTF8 is in force. Returns the mailbox, None for "<>", and the octets after
    ">", unread. Raises AddressError: 553 5.1.7 for a sender, 553 5.1.3 for a recipient, 553 5.6.7 for UTF-8
    without SMTPUTF8.
    """
    found = _PLAIN.match(text)
    if found is not None:
        local, domain = found.groups()
        if len(local) <= MAX_LOCAL and len(domain) <= MAX_LABEL:  # so no label and no path is too long
            return Mailbox(local.decode("ascii"), domain.decode("ascii")), text[found.end() :]
    return _parse_any(text, sender=sender, utf8=utf8)


def normalise(text: str) -> str:
    """An operator's or a configuration's spelling of an address, to its normal form (`Mailbox.key`).

    Blanks around it and one dot at its end are let pass. Raises AddressError.
    """
    text = text.strip(" \t\r\n").removesuffix(".")
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise AddressError(_BAD_RECIPIENT) from None
    mailbox, rest = _parse_any(b"<" + raw + b">", sender=False, utf8=True)
    if mailbox is None or rest:
        raise AddressError(_BAD_RECIPIENT)
    return mailbox.key


def normalise_domain(text: str) -> str:
    """An operator's or a configuration's spelling of a domain, to the form it has in `Mailbox.key`.

    Blanks around it and one dot at its end are let pass; no address literal. Raises AddressError.
    """
    text = text.strip(" \t\r\n").removesuffix(".")
    try:
        return _ascii_domain(text)
    except ValueError:
        raise AddressError(_BAD_RECIPIENT) from None


def _parse_any(text: bytes, *, sender: bool, utf8: bool) -> tuple[Mailbox | None, bytes]:
    """The whole grammar: what the plain case left over."""
    if sender and (null := _NULL.match(text)):
        return None, text[null.end() :]
    bad = AddressError(_BAD_SENDER if sender else _BAD_RECIPIENT)
    found = _PATH.match(text)
    if found is None:
        raise bad
    raw = found[0].lstrip(b" ")
    raw_route, raw_local, raw_domain = found.groups(b"")
    if len(raw) > MAX_PATH or len(raw_local) > MAX_LOCAL or len(raw_domain) > MAX_DOMAIN:
        raise AddressError(_LONG_SENDER if sender else _LONG_RECIPIENT)
    if not utf8 and not raw.isascii():
        raise AddressError(_NEEDS_UTF8)
    try:
        route, local, domain = raw_route.decode(), raw_local.decode(), raw_domain.decode()
        _check_domains(route, domain)
    except ValueError:  # UnicodeDecodeError is one
        raise bad from None
    if _UNSEEN.search(local):
        raise bad
    if not domain and (sender or route or local.lower() != "postmaster"):
        raise bad
    if not sender and _ROUTED.search(local):
        raise AddressError(_ROUTED_RECIPIENT)
    return Mailbox(local, domain), text[found.end() :]


def _check_domains(route: str, domain: str) -> None:
    """Raise ValueError unless each domain of the source route, and the domain or literal, is well-formed."""
    if route:
        for hop in route[1:].split(",@"):
            _ascii_domain(hop)
    if domain[:1] == "[":
        _literal_key(domain)
    elif domain:
        _ascii_domain(domain)


def _ascii_domain(domain: str) -> str:
    """The domain in lower-case A-labels. Raises ValueError unless it is well-formed and within its bounds."""
    labels = [_ascii_label(label) for label in domain.split(".")]
    joined = ".".join(labels)
    if len(joined) > MAX_DOMAIN or labels[-1].isdigit():
        raise ValueError("domain out of bounds")
    return joined


def _ascii_label(label: str) -> str:
    if not label.isascii():
        label = _to_a_label(label)
    if len(label) > MAX_LABEL or not _LDH.fullmatch(label):
        raise ValueError("not a label")
    return label.lower()


def _to_a_label(label: str) -> str:
    """A U-label to its A-label (RFC 5890 2.3.2.1; RFC 5891 4.2 for what is refused)."""
    # Character by character: str.lower() of a whole word gives a final sigma by context, which DNS does not.
    folded = normalize("NFC", "".join(char.lower() for char in normalize("NFC", label)))
    if folded.isascii():  # e.g. the Kelvin sign: NFC has made it a K
        return folded
    plain = folded.replace("ß", "").replace("ς", "")  # the two letters that RFC 5892 2.6 exempts from folding
    if normalize("NFKC", normalize("NFKC", plain).casefold()) != plain:
        raise ValueError("compatibility characters in a label")
    if _UNSEEN.search(folded) or _DOMAIN_MARKS.search(folded):
        raise ValueError("invisible characters in a label")
    if any(category(char) not in _LETTERS and char != "-" for char in folded):
        raise ValueError("neither letter, digit nor mark in a label")
    if category(folded[0])[0] == "M" or folded[0] == "-" or folded[-1] == "-" or folded[2:4] == "--":
        raise ValueError("mark or hyphens in the wrong place of a label")
    return "xn--" + folded.encode("punycode").decode("ascii")


def _literal_key(literal: str) -> str:
    """An address literal in its shortest spelling (RFC 5321 4.1.3). Raises ValueError if it is none."""
    inner = literal[1:-1].lower()
    try:
        if not inner.startswith("ipv6:"):
            return f"[{IPv4Address(inner)}]"
        six = IPv6Address(inner[5:])
    except AddressValueError:
        raise ValueError("not an address literal") from None
    return f"[{six.ipv4_mapped}]" if six.ipv4_mapped else f"[ipv6:{six}]"


def _local_key(local: str) -> str:
    content = _QUOTED_PAIR.sub(r"\1", local[1:-1]) if local[:1] == '"' else local
    folded = content.lower() if content.isascii() else normalize("NFC", normalize("NFC", content).casefold())
    if _DOT_STRING.fullmatch(folded):
        return folded
    escaped = folded.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
