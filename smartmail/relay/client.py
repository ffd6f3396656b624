"""What a transaction knows of the session it belongs to."""

from typing import Protocol

from smartmail.core.budget import Budget
from smartmail.core.policy import Door
from smartmail.core.reply import Reply
from smartmail.core.standing import Account
from smartmail.core.xclient import Identity
from smartmail.relay.services import Rules, Services


class Client(Protocol):
    """What a transaction needs of its session."""

    services: Services
    rules: Rules
    door: Door
    account: Account | None
    budget: Budget
    session_id: str
    network: str
    tls_name: str

    @property
    def identity(self) -> Identity:
        """The client as the upstream is to know it."""

    @property
    def listener_name(self) -> str:
        """For the event row."""

    @property
    def waits_for_answer(self) -> bool:
        """A command, or the end of the content, has not been answered yet."""

    def answer(self, answer: Reply) -> None:
        """Answer the command that waits."""

    def go_ahead(self, answer: Reply) -> bool:
        """Pass a 354 on; False: the client had talked early and is gone."""

    def swallow(self, answer: Reply) -> None:
        """Read the content to its end, then say this."""

    def hold(self, *, reading: bool) -> None:
        """Stop or go on reading content: the upstream is slow."""

    def fault(self, error: BaseException) -> Reply:
        """A fault of ours: log it, return 451 with its reference."""
