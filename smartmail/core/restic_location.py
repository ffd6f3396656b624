"""The address of a repository, as restic reads it, taken apart: which backend, and of a server also where it is and who
asks. What is wrong with an address is said without the address: there may be a password in it.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit


class LocationError(ValueError):
    """This is no address of a repository. The message does not show it."""


class Backend(StrEnum):
    """What keeps a repository."""

    LOCAL = "local"
    SFTP = "sftp"
    REST = "rest"
    S3 = "s3"
    RCLONE = "rclone"
    SWIFT = "swift"
    AZURE = "azure"
    GOOGLE = "gs"
    B2 = "b2"


@dataclass(frozen=True, slots=True)
class Location:
    """Where a repository is. url: of REST its folder, ending in "/", of S3 its server, both without who asks; "" for
    every other, and where the server is not asked by HTTP over TCP. user, password: of REST; "" for none. path: of
    LOCAL."""

    backend: Backend
    url: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    path: str = ""

    @property
    def remote(self) -> bool:
        """Is it not on this machine's own file systems?"""
        return self.backend is not Backend.LOCAL


_SCHEMES: Final = {backend.value: backend for backend in Backend}
_WEB: Final = re.compile(r"https?://", re.IGNORECASE)


def take_apart(address: str) -> Location:
    """An address, such as the first line of a location file. Raises LocationError."""
    address = address.strip()
    if not address or "\n" in address or "\0" in address:
        raise LocationError("an address of a repository is one line")
    scheme, colon, rest = address.partition(":")
    backend = _SCHEMES.get(scheme) if colon else None
    if backend is None:
        return Location(Backend.LOCAL, path=address)
    if not rest:
        raise LocationError(f"after {scheme}: comes nothing")
    if backend is Backend.LOCAL:
        return Location(backend, path=rest)
    if backend is Backend.REST:
        return _rest(rest)
    if backend is Backend.S3:
        return Location(backend, _s3(rest))
    return Location(backend)


def _rest(address: str) -> Location:
    if address.startswith("http+unix://"):
        return Location(Backend.REST)
    if not _WEB.match(address):
        raise LocationError("after rest: comes http:// or https://")
    parts, host = _split(address)
    path = parts.path if parts.path.endswith("/") else parts.path + "/"
    url = urlunsplit((parts.scheme.lower(), host, path, "", ""))
    return Location(Backend.REST, url, unquote(parts.username or ""), unquote(parts.password or ""))


def _s3(address: str) -> str:
    """The server's own address: s3:https://host/bucket, s3:host/bucket or s3://host/bucket."""
    web = _WEB.match(address) is not None
    parts, host = _split(address if web else "https://" + address.removeprefix("//"))
    return urlunsplit((parts.scheme.lower(), host, "/", "", ""))


def _split(address: str) -> tuple[SplitResult, str]:
    """The parts, and host and port. urlsplit's own errors show what they are about, so they are not handed on."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise LocationError("the address has no host and port that can be read") from None
    if not host:
        raise LocationError("the address names no host")
    shown = f"[{host}]" if ":" in host else quote(host, safe="-._~")
    return parts, shown if port is None else f"{shown}:{port}"
