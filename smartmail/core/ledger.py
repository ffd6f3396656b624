"""The ledger: append-only entries, each sealed with the hash of the one before; and the arithmetic of paid months.

hash = SHA-256 over the canonical JSON (sorted keys, no blanks, ASCII, no floats) of everything else in the entry, the
hash of the entry before among it. Whoever keeps an older head (number and hash) can prove that nothing up to it was
changed, dropped, moved or put in; without one a dropped end cannot be seen.
"""

import hashlib
import json
from calendar import monthrange
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Final

from smartmail.core.canonical import canonical

NO_HASH: Final = "0" * 64
"""What the first entry names as the one before."""

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_FLAT: Final = frozenset((str, int, bool, type(None)))


class Kind(StrEnum):
    """What happened. Words are in stored entries: they are never given another meaning."""

    MONTH_CLOSED = "month_closed"
    MONTH_RESTATED = "month_restated"
    MAINTENANCE_RECORDED = "maintenance_recorded"
    TERMS_RECORDED = "terms_recorded"
    CREDIT_GRANTED = "credit_granted"
    CREDIT_REVERSED = "credit_reversed"
    CREDIT_RESTORED = "credit_restored"
    """A reversal was itself reversed."""
    SUBSCRIPTION_CHANGED = "subscription_changed"
    SUBSCRIPTION_FORFEITED = "subscription_forfeited"
    """Closed for abuse: what it was credited is lost, and it is credited no more."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An entry before it has a place. key: what may happen once only. subject: whom it is about, "subscription:7".

    body: canonical JSON of an object.
    """

    kind: Kind
    key: str
    actor: str
    subject: str
    body: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as stored. kind is text, for a newer version may know more kinds."""

    seq: int
    at_ms: int
    kind: str
    key: str
    actor: str
    subject: str
    body: str
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry: how many there are, and its hash."""

    seq: int = 0
    hash: str = NO_HASH


class Flaw(StrEnum):
    """What is wrong at an entry."""

    CHANGED = "changed"
    """Its content is not what was sealed."""
    BROKEN = "broken"
    """It does not follow from the entry before it: one was dropped, put in, moved or sealed anew."""
    NUMBER = "number"
    """Its number is not the next one."""
    TWICE = "twice"
    """Its key was there before."""
    MISSING = "missing"
    """The head that was kept elsewhere is not in this ledger: its end was dropped, or written anew."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A flaw and the number of its entry."""

    seq: int
    flaw: Flaw

    def __str__(self) -> str:
        return f"entry {self.seq}: {_FLAWS[self.flaw]}"


_FLAWS: Final[Mapping[Flaw, str]] = {
    Flaw.CHANGED: "its content is not what was sealed",
    Flaw.BROKEN: "it does not follow from the one before it",
    Flaw.NUMBER: "its number is not the next one",
    Flaw.TWICE: "its key was there before",
    Flaw.MISSING: "the head that you kept is not in this ledger",
}


def body_of(**fields: object) -> str:
    """The body of an entry. Raises JsonError for a float, or what else has more than one way to be written."""
    return _written(fields)


def chain(head: Head, drafts: Iterable[Draft]) -> list[Entry]:
    """Give each draft its place behind `head`, and seal it."""
    entries, seq, prev = [], head.seq, head.hash
    for draft in drafts:
        seq += 1
        entry = Entry(seq, draft.at_ms, draft.kind.value, draft.key, draft.actor, draft.subject, draft.body, prev, "")
        prev = seal(entry)
        entries.append(
            Entry(seq, draft.at_ms, entry.kind, draft.key, draft.actor, draft.subject, draft.body, entry.prev, prev)
        )
    return entries


def head_of(entries: Sequence[Entry]) -> Head:
    """The head of a ledger that ends with these entries."""
    return Head(entries[-1].seq, entries[-1].hash) if entries else Head()


def seal(entry: Entry) -> str:
    """The hash that the entry's content must have, in hex."""
    # Each value is canonical JSON, so the whole is: keys in order, the body as the object that it is.
    text = (
        f'{{"actor":{json.dumps(entry.actor)},"at_ms":{entry.at_ms},"body":{entry.body},"key":{json.dumps(entry.key)},'
        f'"kind":{json.dumps(entry.kind)},"prev":{json.dumps(entry.prev)},"seq":{entry.seq},'
        f'"subject":{json.dumps(entry.subject)}}}'
    )
    return hashlib.sha256(text.encode("ascii", "backslashreplace")).hexdigest()


def verify(entries: Iterable[Entry], kept: Head | None = None) -> list[Problem]:
    """Everything that is wrong with a whole ledger, oldest entry first. kept: a head noted earlier, elsewhere."""
    problems: list[Problem] = []
    head, keys = Head(), set()
    found = kept is None or kept == Head()
    for entry in entries:
        if not _canonical_object(entry.body) or seal(entry) != entry.hash:
            problems.append(Problem(entry.seq, Flaw.CHANGED))
        if entry.prev != head.hash:
            problems.append(Problem(entry.seq, Flaw.BROKEN))
        if entry.seq != head.seq + 1:
            problems.append(Problem(entry.seq, Flaw.NUMBER))
        if entry.key in keys:
            problems.append(Problem(entry.seq, Flaw.TWICE))
        keys.add(entry.key)
        head = Head(entry.seq, entry.hash)
        found = found or head == kept
    if kept is not None and not found:
        problems.append(Problem(kept.seq, Flaw.MISSING))
    return problems


def add_months(day: date, count: int, anchor_day: int) -> date:
    """`count` calendar months from the month of `day` (back, if negative), on the anchor day or, where that month is
    shorter, on its last: 31 Jan -> 28 Feb -> 31 Mar for the anchor day 31. What is clamped once is not lost."""
    index = day.year * 12 + day.month - 1 + count
    return _clamped(index // 12, index % 12 + 1, anchor_day)


def first_anchor(day: date, anchor_day: int) -> date:
    """The first anchor day on or after `day`."""
    found = _clamped(day.year, day.month, anchor_day)
    return found if found >= day else add_months(day, 1, anchor_day)


def shift_paid(day: date, count: int, anchor_day: int) -> date:
    """A "paid through" moved by calendar months.

    Counted from the anchor day when it lies on one, or on the day before (who writes "through" as the last day paid).
    A date that an operator has set off the anchor keeps its own day of the month.
    """
    if day == _clamped(day.year, day.month, anchor_day):
        return add_months(day, count, anchor_day)
    after = day + timedelta(days=1)
    if after == _clamped(after.year, after.month, anchor_day):
        return add_months(after, count, anchor_day) - timedelta(days=1)
    return add_months(day, count, day.day)


def _clamped(year: int, month: int, day: int) -> date:
    return date(year, month, min(day, monthrange(year, month)[1]))


def _written(fields: Mapping[str, object]) -> str:
    # The same text either way. Entries of a credit run are flat, and 100,000 of them are written at a time.
    if _FLAT.issuperset(map(type, fields.values())):
        return _ENCODER.encode(fields)
    return canonical(fields).decode()


def _canonical_object(text: str) -> bool:
    try:
        value = json.loads(text)
        return isinstance(value, dict) and _written(value) == text
    except (ValueError, RecursionError):
        return False
