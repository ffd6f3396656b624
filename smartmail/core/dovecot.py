"""The wire form of Dovecot's authentication protocol, as a client speaks it: lines in, lines out.

doc.dovecot.org "Dovecot Authentication Protocol", versions 1.1 to 1.3 (Dovecot 2.0 to 2.4). A line is a command and
its parameters, separated by TAB and ended by LF; within a parameter NUL, TAB, CR, LF and octet 1 are escaped by the
latter. What a user chose (login, realm) comes back within parameters, so a parameter that is no clean text is left
out and breaks nothing; a line that breaks the protocol itself ends the connection.
"""

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_LINE: Final = 16384
"""Octets of one line, LF included: what Dovecot's own client takes."""
MAX_HANDSHAKE_LINES: Final = 100
"""Lines before DONE; each mechanism has one."""
MINOR_VERSION: Final = 2
"""What we say we speak. From 1.2 on an empty initial response is told from an absent one."""

_ESCAPED: Final = {b"0": b"\0", b"1": b"\1", b"t": b"\t", b"r": b"\r", b"n": b"\n"}
_ESCAPE = re.compile(rb"\x01(.?)", re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MECHANISM = re.compile(r"[A-Z0-9_-]{1,20}")  # RFC 4422 3.1
_NUMBER = re.compile(rb"[0-9]{1,10}")
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_MAX_ID: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Version:
    """The server's protocol; always major 1."""

    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class Mech:
    """A mechanism and what Dovecot says of it ("plaintext", "dictionary", "active", "anonymous", "private", ...)."""

    name: str
    flags: frozenset[str] = frozenset()

    @property
    def plaintext(self) -> bool:
        """It sends the password as it is."""
        return "plaintext" in self.flags

    @property
    def anonymous(self) -> bool:
        """It lets anybody in."""
        return "anonymous" in self.flags

    @property
    def private(self) -> bool:
        """Not to be offered to clients."""
        return "private" in self.flags


@dataclass(frozen=True, slots=True)
class Spid:
    """The server's process number."""

    number: int


@dataclass(frozen=True, slots=True)
class Cuid:
    """This connection's number."""

    number: int


@dataclass(frozen=True, slots=True)
class Cookie:
    """This connection's cookie. A secret between us and Dovecot: not to be logged."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """The handshake is over."""


@dataclass(frozen=True, slots=True)
class Ok:
    """The exchange `id` ended well.

    user: the login as Dovecot knows it; "" if it told none that is clean text, and then nobody is logged in.
    parameters: the others, name -> value, "" for a flag.
    """

    id: int
    user: str
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Fail:
    """The exchange `id` failed. code: "" for plain bad credentials. reason: meant for the user."""

    id: int
    user: str = ""
    code: str = ""
    reason: str = ""
    temporary: bool = False
    """Dovecot could not tell: a fault of its own."""


@dataclass(frozen=True, slots=True)
class Cont:
    """A challenge of the exchange `id`, base64 taken off."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that a newer minor version may have; to be ignored."""

    command: str


Line = Version | Mech | Spid | Cuid | Cookie | Done | Ok | Fail | Cont | Unknown


class DovecotError(ValueError):
    """This is not the protocol, or a value cannot be said in it. `lines`: what came whole before, in the same feed."""

    def __init__(self, problem: str, lines: tuple[Line, ...] = ()) -> None:
        super().__init__(problem)
        self.lines = lines


class AuthLineParser:
    """Octets of the server in, lines out. Keeps at most MAX_LINE octets.

    Order is checked: VERSION 1.x first, then the handshake up to DONE, and no answer before it.
    """

    __slots__ = ("_buffer", "_handshake", "_ready", "_broken")

    def __init__(self) -> None:
        self._buffer = b""
        self._handshake = 0
        self._ready = False
        self._broken = False

    def feed(self, data: bytes) -> list[Line]:
        """Take octets as they came; return the lines that are now whole. Raises DovecotError, and again whenever fed
        after one."""
        if self._broken:
            raise DovecotError("fed after an error")
        lines: list[Line] = []
        *whole, self._buffer = (self._buffer + data).split(b"\n")
        try:
            for raw in whole:
                lines.append(self._line(raw))  # noqa: PERF401  (what came before an error is kept)
            if len(self._buffer) >= MAX_LINE:
                raise DovecotError("line too long")
        except DovecotError as error:
            self._broken, self._buffer = True, b""
            error.lines = tuple(lines)
            raise
        return lines

    def _line(self, raw: bytes) -> Line:
        if len(raw) >= MAX_LINE:
            raise DovecotError("line too long")
        if b"\0" in raw or b"\r" in raw:
            raise DovecotError("NUL or CR in a line")
        command, *arguments = raw.split(b"\t")
        if not self._ready:
            return self._handshake_line(command, arguments)
        if (read := _ANSWERS.get(command)) is not None:
            return read(arguments)
        if command in _HANDSHAKE:
            raise DovecotError("handshake line after DONE")
        return _unknown(command)

    def _handshake_line(self, command: bytes, arguments: list[bytes]) -> Line:
        self._handshake += 1
        if self._handshake > MAX_HANDSHAKE_LINES:
            raise DovecotError("endless handshake")
        if (command == b"VERSION") is not (self._handshake == 1):
            raise DovecotError("VERSION must come first, and once")
        if command in _ANSWERS:
            raise DovecotError("answer before DONE")
        if (read := _HANDSHAKE.get(command)) is None:
            return _unknown(command)
        line = read(arguments)
        self._ready = isinstance(line, Done)
        return line


def encode_handshake(client: int) -> bytes:
    """What to send on connecting. client: a number, below 2^32, that no other client of this Dovecot uses now."""
    return b"VERSION\t1\t%d\nCPID\t%d\n" % (MINOR_VERSION, _checked_id(client))


def encode_auth(request: int, mechanism: str, parameters: Iterable[tuple[str, str]], initial: bytes | None) -> bytes:
    """Begin an exchange.

    request: a number from 1, unused on this connection. parameters: ("service", "smtp"), ("rip", ...), ...; ("secured",
    "") is a flag. initial: the initial response without base64, None if the client sent none. Raises DovecotError for a
    value with NUL, TAB, CR or LF, and for a line that is too long.
    """
    if not _MECHANISM.fullmatch(mechanism):
        raise DovecotError("not a mechanism")
    parts = [b"AUTH", b"%d" % _checked_id(request), mechanism.encode("ascii")]
    for name, value in parameters:
        if not _NAME.fullmatch(name) or name == "resp":
            raise DovecotError("not a parameter name")
        parts.append(name.encode("ascii") + (b"=" + _escape(value) if value else b""))
    if initial is not None:
        parts.append(b"resp=" + b2a_base64(initial, newline=False))  # last, as the protocol asks
    return _bounded(b"\t".join(parts) + b"\n")


def encode_cont(request: int, data: bytes) -> bytes:
    """Answer a challenge; data without base64. Raises DovecotError if it is too long."""
    return _bounded(b"CONT\t%d\t%s\n" % (_checked_id(request), b2a_base64(data, newline=False)))


def encode_cancel(request: int) -> bytes:
    """Give an exchange up."""
    return b"CANCEL\t%d\n" % _checked_id(request)


def _checked_id(number: int) -> int:
    if not 0 < number <= _MAX_ID:
        raise DovecotError("number out of range")
    return number


def _bounded(line: bytes) -> bytes:
    if len(line) > MAX_LINE:
        raise DovecotError("line too long")
    return line


def _escape(value: str) -> bytes:
    """The escapes for NUL, TAB, CR and LF exist, but what we send has no business to hold them."""
    if any(octet in value for octet in "\0\t\r\n"):
        raise DovecotError("control character in a value")
    try:
        return value.encode().replace(b"\1", b"\1" + b"1")
    except UnicodeEncodeError:
        raise DovecotError("value is not text") from None


def _unescape(value: bytes) -> str | None:
    """The text of a parameter; None if it is no UTF-8 or holds a control character."""
    if b"\1" in value:
        value = _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), value)
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def _parameters(arguments: list[bytes]) -> dict[str, str]:
    """Name -> value, "" for a flag. Of two with one name the first holds, and if that is not clean then none."""
    found: dict[str, str | None] = {}
    for argument in arguments:
        name, _, value = argument.partition(b"=")
        if known := _unescape(name):
            found.setdefault(known, _unescape(value))
    return {name: text for name, text in found.items() if text is not None}


def _number(arguments: list[bytes]) -> int:
    if not arguments or not _NUMBER.fullmatch(arguments[0]) or int(arguments[0]) > _MAX_ID:
        raise DovecotError("number missing")
    return int(arguments[0])


def _version(arguments: list[bytes]) -> Version:
    major, minor = _number(arguments), _number(arguments[1:])
    if major != 1:
        raise DovecotError(f"protocol version {major}")
    return Version(major, minor)


def _mech(arguments: list[bytes]) -> Mech:
    name = _unescape(arguments[0]) if arguments else None
    if name is None or not _MECHANISM.fullmatch(name):
        raise DovecotError("MECH without a mechanism")
    return Mech(name, frozenset(_parameters(arguments[1:])))


def _cookie(arguments: list[bytes]) -> Cookie:
    value = _unescape(arguments[0]) if arguments else None
    if not value:
        raise DovecotError("COOKIE without a cookie")
    return Cookie(value)


def _ok(arguments: list[bytes]) -> Ok:
    number, parameters = _number(arguments), _parameters(arguments[1:])
    return Ok(number, parameters.pop("user", ""), parameters)


def _fail(arguments: list[bytes]) -> Fail:
    number, parameters = _number(arguments), _parameters(arguments[1:])
    code = parameters.get("code", "")
    temporary = code in ("temp_fail", "temp") or "temp" in parameters  # the last two before Dovecot 2.3
    return Fail(number, parameters.get("user", ""), code, parameters.get("reason", ""), temporary)


def _cont(arguments: list[bytes]) -> Cont:
    number = _number(arguments)
    if len(arguments) < 2 or not _BASE64.fullmatch(arguments[1]):
        raise DovecotError("CONT without base64")
    try:
        return Cont(number, a2b_base64(arguments[1]))
    except Base64Error:
        raise DovecotError("CONT without base64") from None


def _unknown(command: bytes) -> Unknown:
    name = _unescape(command)
    if not name:
        raise DovecotError("not a command")
    return Unknown(name[:64])


_HANDSHAKE: Final[Mapping[bytes, Callable[[list[bytes]], Line]]] = {
    b"VERSION": _version,
    b"MECH": _mech,
    b"SPID": lambda arguments: Spid(_number(arguments)),
    b"CUID": lambda arguments: Cuid(_number(arguments)),
    b"COOKIE": _cookie,
    b"DONE": lambda arguments: Done(),
}
_ANSWERS: Final[Mapping[bytes, Callable[[list[bytes]], Line]]] = {b"OK": _ok, b"FAIL": _fail, b"CONT": _cont}
