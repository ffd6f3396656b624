"""What every probe of an agent shares: secrets by name, trusted roots, the resolver, the deadline and the clock."""

import errno
import os
import ssl
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from smartmail.core.roster import NAME
from smartmail.monitor.probes.resolver import Resolver

TIMEOUT_MS: Final = 20_000
_MAX_SECRET: Final = 4096


class SecretError(Exception):
    """A secret cannot be read; the message names it and the reason, never its content."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What a probe logs in with."""

    login: str
    password: str = field(repr=False)


class SecretSource:
    """Named secrets: one file each in a directory, named as the secret, with the login and the password on a line each.

    A file is read again once it has changed. warn: called once for each file that others may read.
    """

    def __init__(self, directory: Path | None, warn: Callable[[str], None] | None = None) -> None:
        self._directory = directory
        self._warn = warn
        self._known: dict[str, tuple[tuple[int, int, int], Secret]] = {}
        self._warned: set[str] = set()

    def get(self, name: str) -> Secret:
        """The secret of that name (core.roster.NAME). Raises SecretError."""
        if not NAME.match(name):
            raise SecretError("the name of the secret is none")
        if self._directory is None:
            raise SecretError(f"secret {name}: no directory of secrets is configured")
        file = self._directory / name
        try:
            status = file.stat()
            version = (status.st_mtime_ns, status.st_ino, status.st_size)
            known = self._known.get(name)
            if known is not None and known[0] == version:
                return known[1]
            self._look_at_mode(name, status.st_mode)
            secret = _read(name, file)
        except OSError as error:
            raise SecretError(f"secret {name}: {error.strerror}") from None
        self._known[name] = (version, secret)
        return secret

    def _look_at_mode(self, name: str, mode: int) -> None:
        if stat.S_IMODE(mode) & 0o077 and name not in self._warned:
            self._warned.add(name)
            if self._warn is not None:
                self._warn(f"secret {name}: others than the owner may read the file (mode {stat.S_IMODE(mode):04o})")


def _read(name: str, path: Path) -> Secret:
    with path.open("rb") as file:
        octets = file.read(_MAX_SECRET + 1)
    try:
        lines = octets.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise SecretError(f"secret {name}: not UTF-8") from None
    login, password = (line.removesuffix("\r") for line in lines) if len(lines) == 2 else ("", "")
    if len(octets) > _MAX_SECRET or not login or not password:
        raise SecretError(f"secret {name}: must be two lines, the login and the password")
    if not login.isprintable() or not {"\0", "\r"}.isdisjoint(password):
        raise SecretError(f"secret {name}: a control character in it")
    return Secret(login, password)


class TlsRoots:
    """Whom to trust: one context for all handshakes, made anew when the file of roots has changed.

    A context takes the name to check at each handshake; making one costs some ten milliseconds.
    """

    def __init__(self, ca_file: Path | None = None) -> None:
        self._given = ca_file
        default = ssl.get_default_verify_paths()
        self._watched = str(ca_file or default.cafile or default.openssl_cafile)
        self._version = -1
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """The client context: verification on, TLS 1.2 or later. Raises OSError where the file is no use, or
        the system has no authorities: that every certificate is bad then would be no news of the servers."""
        try:
            version = os.stat(self._watched).st_mtime_ns  # noqa: PTH116  # a third of the time, at every handshake
        except OSError:
            if self._given is not None:
                raise
            version = 0
        if self._context is None or version != self._version:
            context = ssl.create_default_context(cafile=str(self._given) if self._given else None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self._given is None and not context.cert_store_stats()["x509_ca"] and not _folder_of_roots():
                raise FileNotFoundError(errno.ENOENT, "this host trusts no authority at all")
            self._context, self._version = context, version
        return self._context


def _folder_of_roots() -> bool:
    """Is there anything in the system's folder of authorities, which OpenSSL only looks into when it verifies?"""
    default = ssl.get_default_verify_paths()
    with suppress(OSError):
        return any(Path(default.capath or default.openssl_capath).iterdir())
    return False


def system_now_ms() -> int:
    """Epoch milliseconds by the system's clock."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """Shared by all probes of one agent; made once. now_ms: corrected epoch milliseconds, for what expires.
    hello: the name given with EHLO."""

    secrets: SecretSource
    resolver: Resolver
    roots: TlsRoots
    timeout_ms: int = TIMEOUT_MS
    now_ms: Callable[[], int] = system_now_ms
    hello: str = "probe.invalid"


def make_context(
    secrets: SecretSource,
    *,
    ca_file: Path | None = None,
    nameserver: str = "",
    hello: str = "probe.invalid",
    now_ms: Callable[[], int] = system_now_ms,
) -> ProbeContext:
    """A context. ca_file: roots instead of the system's; nameserver: "address" or "address:port" instead of the
    system's resolver."""
    return ProbeContext(secrets, Resolver(nameserver), TlsRoots(ca_file), now_ms=now_ms, hello=hello)
