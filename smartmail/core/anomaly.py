"""Is a run what runs of this job usually are? What is not freezes retention and alerts; the backup itself goes on.

A run is held against the median of the last ones, so that one odd night neither hides the next nor becomes the rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median_low
from typing import Final

from smartmail.core.backup_plan import Usual

ENOUGH: Final = 3
"""With fewer runs before it, a run cannot be unusually large: the first ones of a job often grow."""
SMALL_FILES: Final = 100
SMALL_OCTETS: Final = 1 << 20
"""What comes or goes below these is no growth, no spike and no mass deletion, whatever share of a small job it is."""
SPIKE: Final = 5
"""So many times what is usually added is a spike, if it is also a large share of everything."""
JUMP_PERMILLE: Final = 200
"""So many more of 1,000 messages that do not look like mail. A store that compresses has all of them, every night."""


class AnomalyKind(StrEnum):
    """What can be unusual; a closed list."""

    EMPTY = "empty"
    SHRUNK = "shrunk"
    GREW = "grew"
    ADDED_SPIKE = "added_spike"
    """Far more new data than usual: a large share of everything was written anew."""
    MASS_DELETION = "mass_deletion"
    """A large share of the files has gone since the last run."""
    ENTROPY_JUMP = "entropy_jump"
    """Messages no longer look like mail: something may be encrypting them."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run found. files, octets: of the source; added: octets that were new to the repository; new: files that
    were not there under this name before. entropy_permille: of 1,000 sampled messages, how many do not look like mail;
    None if none was looked at."""

    files: int
    octets: int
    added: int
    new: int
    entropy_permille: int | None = None


@dataclass(frozen=True, slots=True)
class Anomaly:
    """kind: what is unusual; text: how much, for people; now and usual: the two numbers that were compared."""

    kind: AnomalyKind
    text: str
    now: int
    usual: int


def anomalies(now: Figures, history: Sequence[Figures], usual: Usual) -> tuple[Anomaly, ...]:
    """What is unusual about a run, in the order of AnomalyKind. history: of the last good runs, newest first; with none
    only an empty source is found."""
    if not now.files or not now.octets:
        last = history[0].files if history else 0
        return (Anomaly(AnomalyKind.EMPTY, f"{now.files} files with {now.octets} octets in all", now.files, last),)
    if not history:
        return ()
    found = (
        _shrunk(now, history, usual.percent),
        _grew(now, history, usual.percent),
        _spike(now, history, usual.percent),
        _deletion(now, history[0], usual.percent),
        _jump(now, history),
    )
    return tuple(one for one in found if one is not None)


def _shrunk(now: Figures, history: Sequence[Figures], percent: int) -> Anomaly | None:
    for unit, here, rule in _both(now, history):
        if here * 100 < rule * (100 - percent):
            return Anomaly(AnomalyKind.SHRUNK, f"{here} {unit}, where {rule} are usual", here, rule)
    return None


def _grew(now: Figures, history: Sequence[Figures], percent: int) -> Anomaly | None:
    if len(history) < ENOUGH:
        return None
    for unit, here, rule in _both(now, history):
        small = SMALL_FILES if unit == "files" else SMALL_OCTETS
        if here * 100 > rule * (100 + percent) and here - rule > small:
            return Anomaly(AnomalyKind.GREW, f"{here} {unit}, where {rule} are usual", here, rule)
    return None


def _spike(now: Figures, history: Sequence[Figures], percent: int) -> Anomaly | None:
    rule = median_low(one.added for one in history)
    large = now.added * 200 > now.octets * percent
    if len(history) < ENOUGH or not large or now.added <= max(SPIKE * rule, SMALL_OCTETS):
        return None
    text = f"{now.added} octets are new, where {rule} are usual"
    return Anomaly(AnomalyKind.ADDED_SPIKE, text, now.added, rule)


def _deletion(now: Figures, last: Figures, percent: int) -> Anomaly | None:
    """By the difference: a renamed file counts as new, and as gone, and is neither."""
    gone = last.files - now.files
    if gone <= SMALL_FILES or gone * 200 <= last.files * percent:
        return None
    text = f"{gone} of {last.files} files have gone since the last run"
    return Anomaly(AnomalyKind.MASS_DELETION, text, now.files, last.files)


def _jump(now: Figures, history: Sequence[Figures]) -> Anomaly | None:
    before = [one.entropy_permille for one in history if one.entropy_permille is not None]
    if now.entropy_permille is None or not before:
        return None
    rule = median_low(before)
    if now.entropy_permille - rule < JUMP_PERMILLE:
        return None
    text = f"{now.entropy_permille} of 1,000 messages do not look like mail, where {rule} are usual"
    return Anomaly(AnomalyKind.ENTROPY_JUMP, text, now.entropy_permille, rule)


def _both(now: Figures, history: Sequence[Figures]) -> tuple[tuple[str, int, int], ...]:
    return (
        ("files", now.files, median_low(one.files for one in history)),
        ("octets", now.octets, median_low(one.octets for one in history)),
    )
