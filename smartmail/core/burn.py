"""How much of a month's down minutes are left, how fast they go, and when a breach comes at that rate.

By the same minutes as the month's verdict. All integers: a rate of 1000 spends exactly the month's share of every
minute; alerts are by pairs of windows, both of which must burn too fast (the short one ends the alert soon).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from smartmail.core.months import Span
from smartmail.core.planes import between
from smartmail.core.sla import Assessment, Terms

EVEN: Final = 1000
"""The rate that would just use up the month's budget."""


class Urgency(StrEnum):
    """Who is to be told."""

    PAGE = "page"
    TICKET = "ticket"


@dataclass(frozen=True, slots=True)
class Pair:
    """An alert: `share`, in per mille of the month's budget, gone within `long` minutes, and `short` no slower."""

    short: int
    long: int
    share: int
    urgency: Urgency


PAIRS: Final = (
    Pair(5, 60, 20, Urgency.PAGE),
    Pair(30, 360, 50, Urgency.PAGE),
    Pair(120, 1440, 100, Urgency.TICKET),
    Pair(360, 4320, 100, Urgency.TICKET),
)
"""The usual multi-window, multi-burn-rate alerts: 14.4, 6, 3 and 1 times an even rate in a month of 30 days."""

WINDOWS: Final = tuple(sorted({minutes for pair in PAIRS for minutes in (pair.short, pair.long)}))


@dataclass(frozen=True, slots=True)
class Budget:
    """Of a running month, in minutes. eligible: of the whole month, with what is announced so far taken out. allowed:
    down minutes without a breach; spent: down ones so far; unknown: so far; left: allowed - spent, below 0 when it is
    breached; left_if_unknown_down: the same with the unknown ones spent too. ahead: eligible minutes to come."""

    eligible: int
    allowed: int
    spent: int
    unknown: int
    left: int
    left_if_unknown_down: int
    ahead: int


@dataclass(frozen=True, slots=True)
class Burn:
    """The last `window` minutes: of the eligible ones, how many were down. rate: 1000 is even."""

    window: int
    eligible: int
    down: int
    rate: int


@dataclass(frozen=True, slots=True)
class Alert:
    """A pair of windows, and whether both burn at `threshold` or faster."""

    pair: Pair
    threshold: int
    firing: bool


def budget(so_far: Assessment, ahead: int, terms: Terms) -> Budget:
    """so_far: the month's minutes up to now. ahead: minutes from now to its end that no announced maintenance takes."""
    eligible = so_far.eligible + ahead
    allowed = terms.allowed_down(eligible)
    spent, unknown = so_far.down_minutes, so_far.unknown_minutes
    left = allowed - spent
    return Budget(eligible, allowed, spent, unknown, left, left - unknown, ahead)


def burn(recent: Assessment, now: int, window: int, terms: Terms) -> Burn:
    """The rate in the `window` minutes before `now`. recent: judged minutes up to now, of this month and the one
    before; what the window has beyond them counts nothing. Where nothing may be down at all, one down minute is
    taken as the even rate of the shortest promise: 1 in `denominator`."""
    part = recent.span.cut(now - window, now)
    mask = between(part.first - recent.span.first, part.end - recent.span.first)
    down = (recent.down & mask).bit_count()
    eligible = part.minutes - (recent.maintenance & mask).bit_count()
    tolerated = max(1, terms.tolerance) * eligible
    return Burn(window, eligible, down, EVEN * terms.denominator * down // tolerated if eligible else 0)


def burns(recent: Assessment, now: int, terms: Terms) -> tuple[Burn, ...]:
    """The rates in all WINDOWS, the shortest first."""
    return tuple(burn(recent, now, window, terms) for window in WINDOWS)


def alerts(rates: Sequence[Burn], month: Span) -> tuple[Alert, ...]:
    """All PAIRS against the rates of their windows. The share is of a month of that length. Raises KeyError if a
    window's rate is missing."""
    by_window = {one.window: one.rate for one in rates}
    found = []
    for pair in PAIRS:
        threshold = pair.share * month.minutes // pair.long
        firing = by_window[pair.short] >= threshold and by_window[pair.long] >= threshold
        found.append(Alert(pair, threshold, firing))
    return tuple(found)


def breach_in(left: Budget, rate: Burn) -> int | None:
    """Eligible minutes until the month is breached if it goes on as in that window: 0 if it is, None if it will not be
    before the month ends."""
    if left.left < 0:
        return 0
    if not rate.down:
        return None
    minutes = -(-(left.left + 1) * rate.eligible // rate.down)
    return minutes if minutes <= left.ahead else None
