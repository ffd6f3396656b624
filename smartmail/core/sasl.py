"""SASL mechanisms whose credentials we see ourselves: PLAIN and LOGIN, as tiny state machines.

Bytes in (base64 already undone) -> a Challenge, Credentials, or Malformed. PLAIN is RFC 4616; LOGIN has no
RFC, its de facto form is draft-murchison-sasl-login with the prompts that every client expects.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

MAX_LOGIN = 512
"""Octets of an authzid or a login. RFC 4616 section 2 asks for at least 255; a mailbox has at most 254."""
MAX_PASSWORD = 1024
"""Octets of a password. RFC 4616 section 2 asks for at least 255."""

_PROMPT_LOGIN = b"Username:"
_PROMPT_PASSWORD = b"Password:"

# C0, DEL and C1 are prohibited output of SASLprep (RFC 4013 section 2.3) and would be a hole wherever a login
# is written into a line: the log, XCLIENT, Dovecot's socket. The line separators of Unicode serve no login
# either.
_NOT_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# A password is written nowhere; these three are what no account can have been given.
_NOT_IN_PASSWORDS = re.compile("[\x00\r\n]")


@dataclass(frozen=True, slots=True)
class HashCost:
    """What argon2id is to spend on one password."""

    memory_kib: int
    passes: int
    lanes: int


HASH_COST = HashCost(memory_kib=47104, passes=1, lanes=1)
"""For new passwords: about 45 ms. OWASP's first choice, and not its equal of 19 MiB and two passes: glibc
maps areas above 32 MiB apart and gives them back at once, smaller ones stay with the arena of each thread."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """The client is to be asked: `data` goes into a 334 reply, base64 still to be done."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the client claims. authzid "" means: act as the login itself."""

    authzid: str
    login: str
    password: str = field(repr=False)

    @property
    def for_another(self) -> bool:
        """True when the client logs in as one and wants to act as another (RFC 4616 section 2)."""
        return bool(self.authzid) and self.authzid.casefold() != self.login.casefold()


@dataclass(frozen=True, slots=True)
class Malformed:
    """The client broke the mechanism's grammar or bounds. `why` is for our log, never for the client."""

    why: str


Step = Challenge | Credentials | Malformed


class Mechanism(Protocol):
    """One exchange, from the initial response on. After Credentials or Malformed it is over."""

    def step(self, response: bytes | None) -> Step:
        """Take the client's next response, decoded. None: the AUTH command carried no initial response."""


class _Stage(Enum):
    LOGIN = auto()
    PASSWORD = auto()
    OVER = auto()


class Plain:
    """PLAIN: [authzid] NUL login NUL password, in one response (RFC 4616 section 2)."""

    __slots__ = ("_over",)

    def __init__(self) -> None:
        self._over = False

    def step(self, response: bytes | None) -> Step:
        """See Mechanism.step."""
        if self._over:
            return Malformed("the exchange is over")
        if response is None:
            return Challenge(b"")
        self._over = True
        parts = response.split(b"\0", 3)
        if len(parts) != 3:
            return Malformed(f"PLAIN has two NULs, not {response.count(0)}")
        try:
            authzid = _name(parts[0], "authzid") if parts[0] else ""
            login = _name(parts[1], "login")
            return Credentials(authzid, login, _password(parts[2]))
        except _BadTextError as bad:
            return Malformed(str(bad))


class Login:
    """LOGIN: the login, then the password, each asked for; the login may come as initial response."""

    __slots__ = ("_login", "_stage")

    def __init__(self) -> None:
        self._stage = _Stage.LOGIN
        self._login = ""

    def step(self, response: bytes | None) -> Step:
        """See Mechanism.step."""
        stage, self._stage = self._stage, _Stage.OVER
        try:
            if stage is _Stage.LOGIN:
                if response is None:
                    self._stage = _Stage.LOGIN
                    return Challenge(_PROMPT_LOGIN)
                self._login = _name(response, "login")
                self._stage = _Stage.PASSWORD
                return Challenge(_PROMPT_PASSWORD)
            if stage is _Stage.PASSWORD:
                return Credentials("", self._login, _password(response or b""))
        except _BadTextError as bad:
            return Malformed(str(bad))
        return Malformed("the exchange is over")


MECHANISMS: Mapping[str, Callable[[], Mechanism]] = {"PLAIN": Plain, "LOGIN": Login}
"""Name in capitals -> what makes a fresh exchange."""


def plain_message(credentials: Credentials) -> bytes:
    """The PLAIN response that carries these credentials, for a server further on."""
    return f"{credentials.authzid}\0{credentials.login}\0{credentials.password}".encode()


def prepare_password(password: str) -> str:
    """The form in which a password is hashed and compared, so that one typed on another keyboard still fits.

    OpaqueString of RFC 8265 section 4.2.2: Unicode spaces become U+0020, then NFC. ASCII comes back as it is.
    """
    if password.isascii():
        return password
    # Costs a megabyte of tables: only where somebody has such a password.
    import unicodedata

    spaced = "".join(" " if unicodedata.category(char) == "Zs" else char for char in password)
    return unicodedata.normalize("NFC", spaced)


class _BadTextError(ValueError):
    pass


def _name(value: bytes, what: str) -> str:
    text = _text(value, what, MAX_LOGIN)
    if _NOT_IN_NAMES.search(text):
        raise _BadTextError(f"{what} has a control character")
    return text


def _password(value: bytes) -> str:
    text = _text(value, "password", MAX_PASSWORD)
    if _NOT_IN_PASSWORDS.search(text):
        raise _BadTextError("password has a NUL or a line break")
    return text


def _text(value: bytes, what: str, most: int) -> str:
    if not value:
        raise _BadTextError(f"{what} is empty")
    if len(value) > most:
        raise _BadTextError(f"{what} has {len(value)} octets, more than {most}")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _BadTextError(f"{what} is no UTF-8") from None
