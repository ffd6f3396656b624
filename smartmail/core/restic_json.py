"""JSON of restic, read without ever raising: fields that are missing or of another type are 0 or "".

restic leaves out what is zero, and adds fields with each version, so a missing field says nothing.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

MOST: Final = 2**63 - 1
"""No number is larger than this."""
_NANO: Final = 1_000_000_000
_TIME: Final = re.compile(r"([0-9-]{10}[Tt ][0-9:]{8})(?:\.([0-9]{1,9})[0-9]*)?([Zz]|[+-][0-9]{2}:[0-9]{2})\Z")
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """It is not what it should be. what: which output; excerpt: how it begins."""

    what: str
    excerpt: str


def object_of(line: str) -> dict[str, object] | None:
    """A line that is one JSON object; None for every other."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def list_in(text: str, what: str) -> list[object] | Unreadable:
    """The first JSON array that begins a line; `null` is an empty one."""
    for value in _values(text):
        if isinstance(value, list):
            return value
        if value is None:
            return []
    return Unreadable(what, text[:200])


def object_in(text: str) -> dict[str, object] | None:
    """The first JSON object that begins a line."""
    return next((value for value in _values(text) if isinstance(value, dict)), None)


def _values(text: str) -> Iterator[object]:
    decoder = json.JSONDecoder()
    position = 0
    while position < len(text):
        end = text.find("\n", position)
        if text.startswith(("{", "[", "null"), position):
            try:
                value, end_of_value = decoder.raw_decode(text, position)
            except (ValueError, RecursionError):
                pass
            else:
                yield value
                end = text.find("\n", end_of_value)
        if end < 0:
            return
        position = end + 1


def text_of(found: Mapping[str, object], name: str) -> str:
    """A text, or ""."""
    value = found.get(name)
    return value if isinstance(value, str) else ""


def integer_of(found: Mapping[str, object], name: str) -> int:
    """A whole number that is not negative, or 0."""
    return scaled(found.get(name), 1)


def scaled(value: object, by: int) -> int:
    """A number times `by`, rounded; 0 for what is no number or negative, MOST at most."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return 0
    return MOST if value >= MOST else min(round(value * by), MOST)


def part_of(found: Mapping[str, object], name: str) -> Mapping[str, object]:
    """An object in an object, or an empty one."""
    value = found.get(name)
    return value if isinstance(value, dict) else {}


def nanoseconds(time: str) -> int | None:
    """RFC 3339 with up to nine places -> nanoseconds since the epoch; None if it is no such time."""
    found = _TIME.match(time)
    if found is None:
        return None
    try:
        moment = datetime.fromisoformat(found[1] + found[3].upper())
    except ValueError:
        return None
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * _NANO + int((found[2] or "").ljust(9, "0"))
