"""Runs an ASGI application over HTTPS inside a running loop: uvicorn, without its signals and its own logging."""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS: Final = 20
"""For the head of a request to be whole, from the first octet of the connection or of a further request."""
KEPT_OPEN_SECONDS: Final = 75
"""A connection between two requests: agents come each minute."""
CONNECTIONS: Final = 1000
STOP_SECONDS: Final = 10
"""For requests that run when the server is stopped."""


class _Impatient(H11Protocol):
    """Ends connections on which no request comes: uvicorn would keep them for ever."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Called when the server stops. An idle client would not notice the end of TLS, and we would wait for it."""
        super().shutdown()
        if self.transport.is_closing():
            self.transport.abort()

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


class _Listening(socket.socket):
    """Takes a connection even where this process has no handle left for it, and ends it at once.

    Strangers can take up all handles by connecting. asyncio would then tell the log of it some thousand times a second
    and leave everybody waiting; with a handle kept for this, whoever is too many is sent away.
    """

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(fileno=listening.detach())
        self._spare = _any_handle()

    def accept(self) -> tuple[socket.socket, Any]:
        """As of any socket."""
        while True:
            try:
                return super().accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._spare:
                    raise
            os.close(self._spare)
            self._spare = 0
            try:
                super().accept()[0].close()
            finally:
                with contextlib.suppress(OSError):
                    self._spare = _any_handle()

    def close(self) -> None:
        """As of any socket."""
        super().close()
        if self._spare:
            os.close(self._spare)
            self._spare = 0


def _any_handle() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's own affair."""
        yield


class WebServer:
    """One application on one socket."""

    def __init__(self, app: FastAPI, tls: ssl.SSLContext) -> None:
        """tls: of the server; a renewed certificate loaded into it counts for new connections."""

        def context(_config: uvicorn.Config, _default: Any) -> ssl.SSLContext:
            return tls

        config = uvicorn.Config(
            app,
            http=_Impatient,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            backlog=512,
            timeout_keep_alive=KEPT_OPEN_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            ssl_context_factory=context,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None
        self.port = 0
        """As bound, once started."""

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0: any free one. Raises OSError when the address cannot be had."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = _Listening(socket.create_server((host.strip("[]"), port), family=family, backlog=512))
        self.port = int(listening.getsockname()[1])
        self._task = asyncio.create_task(self._server.serve(sockets=[listening]), name="web-server")
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait((self._task, up), return_when=asyncio.FIRST_COMPLETED)
        if not self._server.up.is_set():
            up.cancel()
            listening.close()
            await self._task

    async def stop(self) -> None:
        """Take no more, let what runs finish, close."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
            self._task = None
