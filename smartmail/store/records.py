"""What the repository functions give back and take: plain values, one class for each noun."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from smartmail.core.limits import Limit
from smartmail.core.standing import Billing, Conduct


@dataclass(frozen=True, slots=True)
class Act:
    """On whose word, why and when something is done. reason may be "" where nothing but a setting changes."""

    who: str
    reason: str
    at_ns: int


class Axis(StrEnum):
    """The two axes of standing."""

    BILLING = "billing"
    CONDUCT = "conduct"


class Subject(StrEnum):
    """Whose standing it is."""

    CUSTOMER = "customer"
    DOMAIN = "domain"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan and its limits, ordered by name."""

    name: str
    description: str
    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a customer pays for. anchor_day: day of the month it renews (1-31). paid_through: None before
    the first payment."""

    id: int
    plan: str
    anchor_day: int
    paid_through: date | None
    closed_ns: int | None


@dataclass(frozen=True, slots=True)
class CustomerRecord:
    """Who pays."""

    id: int
    name: str
    contact: str
    billing: Billing
    created_ns: int
    closed_ns: int | None


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """A domain that is ours to take mail for."""

    name: str
    customer: int
    created_ns: int
    closed_ns: int | None


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """An account as stored: its own standing, before its domain's and customer's are folded in."""

    id: int
    address: str
    customer: int
    domain: str
    plan: str
    billing: Billing
    conduct: Conduct
    created_ns: int
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StandingChange:
    """One line of evidence."""

    subject: Subject
    ref: str
    axis: Axis
    from_state: str
    to_state: str
    reason: str
    who: str
    at_ns: int
