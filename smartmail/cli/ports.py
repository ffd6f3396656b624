"""Is every address of the configuration free? Looked at before anything is started, so that all busy ones are
told at once and nothing has been touched."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from smartmail.cli.common import CliError, ExitCode
from smartmail.config import Config, TcpAddress


def check_free(config: Config) -> None:
    """Raises CliError (exit code 3) with one line for each address that cannot be listened on."""
    found = []
    for name, endpoint in _endpoints(config):
        try:
            _try(endpoint)
        except OSError as error:
            found.append(_words(name, endpoint, error))
    if found:
        raise CliError("\n".join(found), code=ExitCode.UNREACHABLE)


def _endpoints(config: Config) -> Iterator[tuple[str, TcpAddress]]:
    """The key that names an address, and the address; port 0 is always free."""
    for listener in config.listener:
        yield f"listener {listener.name}", listener.endpoint
    if config.metrics.endpoint is not None:
        yield "metrics", config.metrics.endpoint
    if config.upstream.endpoint is None:
        yield "maildrop", config.maildrop.endpoint


def _try(endpoint: TcpAddress) -> None:
    """Bind each address the name stands for, and let go of it. Raises OSError."""
    found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in found:
        try:
            probe = socket.socket(family, kind, protocol)
        except OSError:
            continue  # a kernel without IPv6: what listens leaves that family out too
        with contextlib.closing(probe):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
            # Binding alone succeeds beside a socket that is bound and does not listen yet.
            probe.listen(1)


def _words(name: str, endpoint: TcpAddress, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        find = f"`ss -ltnp sport = :{endpoint.port}` shows which"
        return f"{name}: {endpoint} is in use by another program (stop it: {find}; or {_elsewhere(name)})"
    if error.errno == errno.EACCES:
        return f"{name}: {endpoint} may not be opened by this user (ports below 1024 are root's; {_elsewhere(name)})"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{name}: this machine has no address {endpoint.host} ({_elsewhere(name)})"
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return f"{name}: {endpoint} cannot be listened on: {reason} ({_elsewhere(name)})"


def _elsewhere(name: str) -> str:
    noun, _, which = name.partition(" ")
    if not which:
        return f"set SMARTMAIL_{noun.upper()}__ADDRESS=127.0.0.1:0 for any free port"
    return f'set another address in smartmail.toml, [[listener]] name = "{which}"'
