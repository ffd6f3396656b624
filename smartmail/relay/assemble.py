"""From the configuration to the relay's parts. No decision is made here, and nothing is opened but key files."""

import ssl
from collections.abc import Callable

from smartmail import events
from smartmail.config import Config, UnixAddress
from smartmail.core.smtp_events import Terms
from smartmail.relay.auth import Backend
from smartmail.relay.listener import Listener
from smartmail.relay.passwords import AuthSettings, Credential, LocalBackend
from smartmail.relay.route import Identify, Route, Timeouts
from smartmail.relay.server import Caps
from smartmail.relay.services import Rules
from smartmail.relay.tls import client_context


def rules_of(config: Config) -> Rules:
    """What a reload may change for sessions that are open."""
    return Rules(
        limits=config.limits,
        max_recipients=config.server.max_recipients,
        must_own_sender=config.sender.must_be_owned,
        allow_null_sender=config.sender.allow_null,
        command_seconds=config.timeouts.command,
        block_seconds=config.timeouts.data_block,
        min_data_rate=config.server.min_data_rate,
    )


def caps_of(config: Config) -> Caps:
    """Sessions at the same time."""
    server = config.server
    return Caps(server.max_sessions, server.max_sessions_per_client, server.max_sessions_per_account)


def backend_of(config: Config, lookup: Callable[[str], Credential | None]) -> Backend:
    """Who checks passwords, not yet connected. lookup: of a login, in the directory in force."""
    auth = config.auth
    if auth.backend == "dovecot" and auth.socket is not None:
        from smartmail.relay.dovecot import DovecotBackend, DovecotSettings

        asked = DovecotSettings(cache_seconds=auth.cache_seconds, max_waiting=auth.max_waiting)
        socket = str(auth.socket)

        def changed(connected: bool, why: str) -> None:
            if connected:
                events.auth_backend_up(socket=socket)
            else:
                events.auth_backend_down(socket=socket, reason=why)

        return DovecotBackend(socket, asked, on_change=changed)
    settings = AuthSettings(workers=auth.workers, max_waiting=auth.max_waiting, cache_seconds=auth.cache_seconds)
    return LocalBackend(lookup, settings)


def route_of(config: Config, embedded: tuple[str, int] | None) -> Route:
    """The way to the upstream. embedded: where the maildrop listens, for a configuration that names no upstream.

    Raises TlsError when the system's certificate authorities cannot be read.
    """
    upstream, timeouts = config.upstream, config.timeouts
    endpoint = upstream.endpoint
    if endpoint is None:
        host, port = embedded or ("127.0.0.1", 0)
    elif isinstance(endpoint, UnixAddress):
        host, port = str(endpoint), 0
    else:
        host, port = endpoint
    return Route(
        host=host,
        port=port,
        lmtp=upstream.protocol == "lmtp",
        identify=Identify(upstream.identity),
        tls=None if upstream.tls == "none" else client_context(upstream.tls),
        tls_required=upstream.tls == "required",
        hostname=config.server.hostname,
        timeouts=Timeouts(
            connect=timeouts.upstream_connect,
            greeting=timeouts.upstream_greeting,
            mail=timeouts.upstream_mail,
            rcpt=timeouts.upstream_rcpt,
            data=timeouts.upstream_data,
            block=timeouts.upstream_data,
            dot=timeouts.upstream_dot,
        ),
        max_connections=upstream.max_connections,
        max_idle=upstream.max_idle,
        max_idle_seconds=upstream.max_idle_seconds,
        max_age_seconds=upstream.max_age_seconds,
        max_uses=upstream.max_uses,
    )


def listeners_of(config: Config, context: ssl.SSLContext | None) -> tuple[Listener, ...]:
    """Every listener, not yet open."""
    terms = Terms(
        hostname=config.server.hostname,
        max_size=config.server.max_message_size,
        max_errors=config.server.max_errors,
        max_noops=config.server.max_noops,
        normalise=config.content.bare_newlines == "normalise",
    )
    delay = config.server.greeting_delay_ms / 1000
    return tuple(Listener(one, terms, None if one.tls == "none" else context, delay) for one in config.listener)
