"""Which limits a recipient draws on: the limits of a plan and of the operator -> charges with their keys.

A message is charged once, with its first recipient; a recipient each time. What does not depend on the recipient is
worked out once per identity, since a session sends many.
"""

from collections.abc import Iterable
from typing import Final

from smartmail.core.limits import Charge, Limit, Mode, Scope, Unit
from smartmail.core.standing import Account

MAX_OPENINGS: Final = 8
"""Recipient domains whose charges an identity keeps; all are forgotten when there are more."""
_PREFIX: Final = {
    Scope.ACCOUNT: "a",
    Scope.CUSTOMER: "c",
    Scope.DOMAIN: "d",
    Scope.CLIENT: "i",
    Scope.RECIPIENT_DOMAIN: "r",
}


def key_of(scope: Scope, subject: str | int) -> str:
    """The counter key of a subject: an account or customer id, a domain, a client network."""
    return f"{_PREFIX[scope]}:{subject}"


class Budget:
    """The charges of one identity: an account, or a client network that needs no account."""

    __slots__ = ("_by_domain", "_bytes", "_first_time", "_message", "_openings", "_recipient")

    def __init__(self, limits: Iterable[Limit], account: Account | None, network: str) -> None:
        subjects: dict[Scope, str | int] = {Scope.CLIENT: network}
        if account is not None:
            subjects[Scope.ACCOUNT] = account.id
            subjects[Scope.CUSTOMER] = account.customer
            subjects[Scope.DOMAIN] = account.domain
        live = [limit for limit in limits if limit.mode is not Mode.OFF]
        keyed = [(limit, key_of(limit.scope, subjects[limit.scope])) for limit in live if limit.scope in subjects]
        self._message = tuple(Charge(limit, key, 1) for limit, key in keyed if limit.unit is Unit.MESSAGES)
        self._recipient = tuple(Charge(limit, key, 1) for limit, key in keyed if limit.unit is Unit.RECIPIENTS)
        self._bytes = tuple((limit, key) for limit, key in keyed if limit.unit is Unit.BYTES)
        self._first_time = tuple(Charge(limit, key, 1) for limit, key in keyed if limit.unit is Unit.FIRST_TIME)
        self._by_domain = tuple(
            limit for limit in live if limit.scope is Scope.RECIPIENT_DOMAIN and limit.unit is not Unit.FIRST_TIME
        )

        self._openings: dict[str, tuple[Charge, ...]] = {}
        """Of recipient domains that came before, for messages of undeclared size."""

    @property
    def counts_first_time(self) -> bool:
        """Does any limit ask whether a recipient is a new one?"""
        return bool(self._first_time)

    def opening(self, domain: str, size: int, *, is_new: bool) -> tuple[Charge, ...]:
        """The charges of a message's first recipient. size: as declared (RFC 1870), 0 if it was not; corrected when
        the message has passed. is_new: a first-time recipient."""
        usual = not size and not is_new
        if usual and (known := self._openings.get(domain)) is not None:
            return known
        charges = self._message + self._recipient
        if self._bytes:
            charges += tuple(Charge(limit, key, size) for limit, key in self._bytes)
        charges += self._of_recipient(domain, size, is_new=is_new, first_there=True)
        if usual:
            if len(self._openings) >= MAX_OPENINGS:
                self._openings.clear()
            self._openings[domain] = charges
        return charges

    def further(self, domain: str, size: int, *, is_new: bool, first_there: bool) -> tuple[Charge, ...]:
        """The charges of each recipient after the first. first_there: the message's first one in that domain."""
        return self._recipient + self._of_recipient(domain, size, is_new=is_new, first_there=first_there)

    def _of_recipient(self, domain: str, size: int, *, is_new: bool, first_there: bool) -> tuple[Charge, ...]:
        charges = self._first_time if is_new else ()
        if self._by_domain:
            key = key_of(Scope.RECIPIENT_DOMAIN, domain)
            charges += tuple(
                Charge(limit, key, size if limit.unit is Unit.BYTES else 1)
                for limit in self._by_domain
                if first_there or limit.unit is Unit.RECIPIENTS
            )
        return charges
