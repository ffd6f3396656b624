"""By when the keep rules of a repository have let go of what is in it now: the date that somebody who asked to be
erased is told. An upper bound, for backups that go on at least as often as their schedule says."""

from collections.abc import Iterable
from typing import Final

from smartmail.core.retention import MOST, KeepRule, Period

MS_PER_DAY: Final = 86_400_000
_DAYS: Final = {
    Period.HOURLY: 1,
    Period.DAILY: 1,
    Period.WEEKLY: 7,
    Period.MONTHLY: 31,
    Period.YEARLY: 366,
}
"""The longest that a period is; of an hour, a day: backups come daily."""
SLACK_DAYS: Final = 7
"""Between a rule that lets go and the run that removes, with the periods that have begun."""


def expires_ms(rules: Iterable[KeepRule] | None, made_ms: int, every_ms: int = MS_PER_DAY) -> int | None:
    """When a snapshot made at `made_ms` is gone for certain. rules: None for a repository that keeps everything.
    every_ms: how often a snapshot is made at least. None: never, or nobody can tell (tags, "all")."""
    if rules is None:
        return None
    last = made_ms
    for rule in rules:
        until = _until(rule, made_ms, every_ms)
        if until is None:
            return None
        last = max(last, until)
    return last + SLACK_DAYS * MS_PER_DAY


def _until(rule: KeepRule, made_ms: int, every_ms: int) -> int | None:
    if rule.tag or rule.count >= MOST:
        return None
    if rule.within is not None:
        # The duration is measured back from a later day: the longest that it can be.
        days = rule.within.years * 366 + rule.within.months * 31 + rule.within.days + 1
        return made_ms + days * MS_PER_DAY + rule.within.hours * 3_600_000 + _period(rule.period, every_ms)
    return made_ms + (rule.count + 1) * _period(rule.period, every_ms)


def _period(period: Period, every_ms: int) -> int:
    return every_ms if period is Period.LAST else max(_DAYS[period] * MS_PER_DAY, every_ms)
