"""The kinds of values a configuration holds: addresses, networks, paths. Text in, typed value out."""

import ipaddress
import re
from datetime import date
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo
from pydantic_core import PydanticCustomError

from smartmail.config.zones import find_zone
from smartmail.core.roster import NAME

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_MAX_UNIX_PATH = 107
"""Octets of a UNIX socket's path, sun_path of Linux less its NUL (unix(7))."""


class TcpAddress(NamedTuple):
    """Where to listen or connect over TCP."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(NamedTuple):
    """A UNIX stream socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


def wrong(reason: str, hint: str = "") -> PydanticCustomError:
    """The error a validator raises: `reason` in plain words, `hint` what to write instead."""
    return PydanticCustomError("smartmail", "{reason}", {"reason": reason, "hint": hint})


def parse_address(text: str) -> TcpAddress | UnixAddress:
    """Read "host:port", "[2001:db8::1]:port" or "unix:/path".

    Raises ValueError with a reason in plain words. Port 0 passes: to a listener it means any free port.
    """
    if text.startswith("unix:"):
        path = text[5:]
        if not path or "\0" in path:
            raise ValueError("a UNIX socket needs a path after unix:")
        return UnixAddress(path)
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("the port is missing")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{port!r} is no port number from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            return TcpAddress(str(ipaddress.IPv6Address(host)), int(port))
        except ValueError:
            raise ValueError(f"[{host}] is no IPv6 address") from None
    if ":" in host:
        raise ValueError("an IPv6 address is written in square brackets")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{host!r} is no host name or IP address")
    if host.replace(".", "").isdigit():
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"{host!r} is no IP address") from None
    return TcpAddress(host, int(port))


def is_loopback(host: str) -> bool:
    """True when nothing but this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(text: str) -> str:
    address = _address(text, '"127.0.0.1:2525", or "[::1]:2525"')
    if not isinstance(address, TcpAddress):
        raise wrong("a listener needs a TCP address, not a UNIX socket", 'for example "127.0.0.1:2525"')
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        if address.host != "localhost":
            # A name may mean another address tomorrow: the checks on loops and clear text would be void.
            raise wrong(
                f"a listener is bound to an IP address or localhost, not to the name {address.host!r}",
                'for all interfaces "0.0.0.0:25" and a second listener "[::]:25"',
            ) from None
    return text


def _listen_or_off(text: str) -> str:
    return text and _listen(text)


def _upstream(text: str, info: ValidationInfo) -> str:
    if not text:
        return text
    address = _address(text, '"127.0.0.1:10025", or "unix:/run/dovecot/lmtp"')
    if isinstance(address, UnixAddress):
        path = str(resolved(Path(address.path), info))
        if len(path.encode()) > _MAX_UNIX_PATH:
            raise wrong(f"a UNIX socket's path may have {_MAX_UNIX_PATH} octets at most", "use a shorter path")
        return str(UnixAddress(path))
    if not address.port:
        raise wrong("port 0 cannot be connected to", 'for example "127.0.0.1:10025"')
    return text


def _address(text: str, example: str) -> TcpAddress | UnixAddress:
    try:
        return parse_address(text)
    except ValueError as error:
        raise wrong(f"{text!r} is no address: {error}", f"for example {example}") from None


def _network(value: object) -> object:
    if not isinstance(value, str):
        if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
            return value
        raise wrong(f"a network is text in quotes, not {value!r}", 'for example "192.0.2.0/24"')
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        pass
    try:
        loose = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise wrong(f"{value!r} is no network", 'for example "192.0.2.0/24" or "2001:db8::/32"') from None
    raise wrong(f"{value!r} is an address within a network, not a network", f'write "{loose}"')


def resolved(path: Path, info: ValidationInfo) -> Path:
    """A path as it is meant: a relative one begins at the folder of the file."""
    base = (info.context or {}).get("base")
    return path if base is None else Path(base) / path


def _path(value: object, info: ValidationInfo) -> object:
    if value is None or value == "":
        return None
    if isinstance(value, str) and "\0" in value:
        raise wrong("a path cannot hold a NUL character")
    return resolved(Path(value), info) if isinstance(value, str | Path) else value


def is_host_name(text: str) -> bool:
    """Labels of letters, digits, - and _ with dots between them, 253 characters at most."""
    return _HOST.fullmatch(text) is not None


def _hostname(text: str) -> str:
    if not is_host_name(text):
        raise wrong(f"{text!r} is no host name", 'for example "mail.example.com"')
    return text


def _monitor_name(text: str) -> str:
    if not NAME.match(text):
        raise wrong(f"{text!r} is no name: small letters, digits and -, 40 at most", 'for example "web-mail"')
    return text


def _host_or_address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _hostname(text)
    return text


def _day(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise wrong(f"{text!r} is no day", 'for example "2026-01-01"') from None
    return text


def _zone(text: str) -> str:
    if find_zone(text) is None:
        raise wrong(f"{text!r} is no time zone", 'for example "Europe/London" or "UTC"')
    return text


WholeNumber = Annotated[int, Strict()]
Seconds = Annotated[int, Strict(), Field(ge=1, le=3600)]
Switch = Annotated[bool, Strict()]
ListenAddress = Annotated[str, AfterValidator(_listen)]
ListenAddressOrOff = Annotated[str, AfterValidator(_listen_or_off)]
UpstreamAddress = Annotated[str, AfterValidator(_upstream)]
MonitorName = Annotated[str, AfterValidator(_monitor_name)]
HostOrAddress = Annotated[str, AfterValidator(_host_or_address)]
Day = Annotated[str, AfterValidator(_day)]
ZoneName = Annotated[str, AfterValidator(_zone)]
HostName = Annotated[str, AfterValidator(_hostname)]
NetworkField = Annotated[Network, BeforeValidator(_network)]
OptionalPath = Annotated[Path | None, BeforeValidator(_path)]
NeededPath = Annotated[Path, BeforeValidator(_path)]
