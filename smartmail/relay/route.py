"""Where the mail server behind us is, how to treat it, and what its EHLO offers."""

import ssl
from dataclasses import dataclass
from enum import Enum
from typing import Final

from smartmail.core.reply import Reply


class Identify(Enum):
    """How the upstream learns who the client is."""

    AUTO = "auto"
    XCLIENT = "xclient"
    XFORWARD = "xforward"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for each reply (RFC 5321 section 4.5.3.2)."""

    connect: int = 30
    greeting: int = 300
    mail: int = 300
    rcpt: int = 300
    data: int = 120
    block: int = 180
    dot: int = 600


@dataclass(frozen=True, slots=True)
class Route:
    """Where the mail server is and how to treat it. host: "unix:/path" for a socket."""

    host: str
    port: int
    lmtp: bool = False
    identify: Identify = Identify.AUTO
    tls: ssl.SSLContext | None = None
    tls_required: bool = False
    hostname: str = "localhost"
    timeouts: Timeouts = Timeouts()
    max_connections: int = 200
    max_idle: int = 50
    max_idle_seconds: int = 60
    max_age_seconds: int = 300
    max_uses: int = 1000

    @property
    def name(self) -> str:
        """As logs and event rows name it."""
        return self.host if self.host.startswith("unix:") else f"{self.host}:{self.port}"


_NOTHING: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an upstream's EHLO reply offered: keyword -> parameters, both upper case."""

    keywords: dict[str, frozenset[str]]

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.keywords

    def attributes(self, keyword: str) -> frozenset[str]:
        """The parameters of one keyword."""
        return self.keywords.get(keyword, _NOTHING)

    @property
    def max_size(self) -> int:
        """The upstream's SIZE limit; 0: none is known."""
        value = next(iter(self.keywords.get("SIZE", ())), "")
        return int(value) if value.isdigit() else 0


def read_capabilities(answer: Reply) -> Capabilities:
    """Read an EHLO or LHLO reply; the first line is the greeting (RFC 5321 section 4.1.1.1)."""
    keywords = {}
    for line in answer.lines[1:]:
        words = line.upper().replace("=", " ", 1).split()  # "AUTH=" is an old spelling of "AUTH "
        if words:
            keywords[words[0]] = frozenset(words[1:])
    return Capabilities(keywords)
