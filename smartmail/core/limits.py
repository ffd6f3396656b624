"""Limits: rates (GCRA) and sliding quotas; reserve, commit, release and expire over N keys in one step.

Integers only. A reservation is taken over all its charges or over none; N racers can never pass one unit over a quota,
because `reserve` checks and takes in the same step. Time never runs backwards here: `now_ns` below the latest seen is
read as the latest seen.
"""

from dataclasses import dataclass
from enum import StrEnum


class Unit(StrEnum):
    """What a limit counts."""

    MESSAGES = "messages"
    RECIPIENTS = "recipients"
    FIRST_TIME = "first_time_recipients"
    BYTES = "bytes"


class Scope(StrEnum):
    """Whose budget it is."""

    ACCOUNT = "account"
    CUSTOMER = "customer"
    DOMAIN = "domain"
    CLIENT = "client"
    RECIPIENT_DOMAIN = "recipient_domain"


class Mode(StrEnum):
    """off: not looked at. shadow: counted and reported, never refuses. enforce: refuses."""

    OFF = "off"
    SHADOW = "shadow"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `quota` units in any `period` seconds (burst 0: a sliding quota), or `quota` units each `period`
    seconds on average with at most `burst` at once (burst > 0: a GCRA rate)."""

    name: str
    scope: Scope
    unit: Unit
    quota: int
    period: int
    burst: int = 0
    mode: Mode = Mode.ENFORCE
