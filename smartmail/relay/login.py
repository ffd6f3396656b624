"""AUTH on one session: an exchange with the backend, from the command to its answer."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from smartmail.core.reply import reply
from smartmail.core.sasl import Challenge
from smartmail.core.smtp import Session
from smartmail.core.smtp_events import AuthStart
from smartmail.relay.auth import AuthResult, Exchange, MechanismNotOfferedError, Outcome, PeerInfo

if TYPE_CHECKING:
    from smartmail.relay.session import ClientSession

NO_MECHANISM: Final = reply(504, "5.5.4", "Authentication mechanism not available")


class Login:
    """What a session has under way with the backend. Made with its first AUTH."""

    __slots__ = ("_client", "_exchange", "_smtp", "_task")

    def __init__(self, client: "ClientSession", smtp: Session) -> None:
        self._client = client
        self._smtp = smtp
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, asked: AuthStart) -> None:
        """AUTH with a mechanism."""
        client, identity = self._client, self._client.identity
        peer = PeerInfo(
            identity.address,
            identity.port,
            identity.destination_address,
            identity.destination_port,
            bool(client.tls_name) or client.listener.config.tls == "none",
            client.session_id,
        )
        try:
            self._exchange = client.services.backend.start(asked.mechanism, asked.initial, peer)
        except MechanismNotOfferedError:
            self._smtp.answer(NO_MECHANISM)
            return
        self.go_on(None)

    def go_on(self, octets: bytes | None) -> None:
        """The client's response to a challenge; None: there has been none yet."""
        exchange = self._exchange
        if exchange is None:
            raise AssertionError("a response without an exchange")
        result = exchange.answer(octets)
        if result is None:
            self._task = asyncio.get_running_loop().create_task(self._wait(exchange))
        else:
            self._answered(result)

    def cancel(self) -> None:
        """The client took AUTH back, or is gone."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _wait(self, exchange: Exchange) -> None:
        try:
            result = await exchange.result()
        except Exception as error:  # the backend broke: the client hears 454, the log hears why
            self._client.fault(error)
            result = AuthResult(Outcome.TEMPORARY)
        finally:
            self._task = None
        self._client.resume_with(partial(self._answered, result))

    def _answered(self, result: Challenge | AuthResult) -> None:
        if isinstance(result, Challenge):
            self._smtp.challenge(result.data)
            return
        self._exchange = None
        self._smtp.answer(self._client.logged_in(result))
