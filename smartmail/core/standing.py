"""Billing and conduct standing of an account: two axes, each one transition table, and what they permit together.

Terms: "You must pay accounts on time to ensure continuity of service"; "The use of any account to send spam will
result in the account being closed without refund."
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from smartmail.core.limits import Limit


class Billing(StrEnum):
    """Has the customer paid? Moves by invoices, never by conduct."""

    CURRENT = "current"
    PAST_DUE = "past_due"
    SUSPENDED = "suspended"


class Conduct(StrEnum):
    """How the account behaves: the ladder. Moves by signals and operators, never by invoices."""

    GOOD = "good"
    WATCHED = "watched"
    SLOWED = "slowed"
    STOPPED = "stopped"
    CLOSED = "closed"


BILLING_MOVES: Mapping[Billing, frozenset[Billing]] = {
    Billing.CURRENT: frozenset({Billing.PAST_DUE, Billing.SUSPENDED}),
    Billing.PAST_DUE: frozenset({Billing.CURRENT, Billing.SUSPENDED}),
    Billing.SUSPENDED: frozenset({Billing.CURRENT}),
}

CONDUCT_MOVES: Mapping[Conduct, frozenset[Conduct]] = {
    Conduct.GOOD: frozenset({Conduct.WATCHED, Conduct.SLOWED, Conduct.STOPPED, Conduct.CLOSED}),
    Conduct.WATCHED: frozenset({Conduct.GOOD, Conduct.SLOWED, Conduct.STOPPED, Conduct.CLOSED}),
    Conduct.SLOWED: frozenset({Conduct.GOOD, Conduct.WATCHED, Conduct.STOPPED, Conduct.CLOSED}),
    Conduct.STOPPED: frozenset({Conduct.GOOD, Conduct.WATCHED, Conduct.SLOWED, Conduct.CLOSED}),
    Conduct.CLOSED: frozenset({Conduct.GOOD, Conduct.WATCHED}),
}


class MoveRefused(ValueError):
    """The tables know no such move."""


def move_billing(current: Billing, wanted: Billing) -> Billing:
    """Return `wanted`; raise MoveRefused where the table has no such move. Staying is always allowed."""
    if wanted is not current and wanted not in BILLING_MOVES[current]:
        raise MoveRefused(f"billing cannot go from {current} to {wanted}")
    return wanted


def move_conduct(current: Conduct, wanted: Conduct) -> Conduct:
    """Return `wanted`; raise MoveRefused where the table has no such move. Staying is always allowed."""
    if wanted is not current and wanted not in CONDUCT_MOVES[current]:
        raise MoveRefused(f"conduct cannot go from {current} to {wanted}")
    return wanted


@dataclass(frozen=True, slots=True)
class Account:
    """A mailbox and login, as the relay needs to know it. Names are in normal form (`core.address`).

    `closed_domains` are not here: a closed domain or customer is folded into the standing of its accounts by the
    directory, so that one value answers every question.
    """

    id: int
    address: str
    customer: int
    domain: str
    aliases: frozenset[str]
    plan: str
    billing: Billing
    conduct: Conduct
    created_ns: int
    limits: tuple[Limit, ...]

    def owns(self, address: str) -> bool:
        """May this account send as `address` (normal form)? The null reverse-path "" belongs to everybody.

        An alias of the form "@domain" owns the whole domain.
        """
        if not address or address == self.address or address in self.aliases:
            return True
        return f"@{address.rpartition('@')[2]}" in self.aliases


@dataclass(frozen=True, slots=True)
class Rights:
    """What a standing permits."""

    log_in_to_send: bool
    send_outside: bool
    receive: bool
    defer_incoming: bool


def rights(account: Account) -> Rights:
    """Join the two axes. Conduct closes for good, billing only holds: mail for an unpaid account is deferred, never
    lost; mail for a closed one is refused."""
    closed = account.conduct is Conduct.CLOSED
    unpaid = account.billing is Billing.SUSPENDED
    return Rights(
        log_in_to_send=not (closed or unpaid),
        send_outside=not (closed or unpaid or account.conduct is Conduct.STOPPED),
        receive=not (closed or unpaid),
        defer_incoming=unpaid and not closed,
    )
