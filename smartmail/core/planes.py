"""Bit planes: a set of minutes as one Python integer; bit i is the i-th minute of a span that the caller keeps.

Numbers per minute (how many locations saw it fail) are lists of planes, least significant first: "digits". One
operation on whole planes adds or compares all 44,640 minutes of a month at once.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import Final

_ONES: Final = re.compile("1+")
_RUN: Final = re.compile(r"(0|[1-9][0-9]{0,8})\+([1-9][0-9]{0,8})\Z")


class PlaneError(ValueError):
    """The text or the octets are no plane of that length."""


def ones(n: int) -> int:
    """All of n minutes."""
    return (1 << n) - 1


def between(start: int, end: int) -> int:
    """The bits [start, end); none if it ends before it starts."""
    return ((1 << (end - start)) - 1) << start if start < end else 0


def cut(plane: int, start: int, end: int) -> int:
    """The bits [start, end) of a plane as a plane of their own: bit 0 is what was bit `start`."""
    return (plane >> start) & ones(end - start) if start < end else 0


def runs(plane: int) -> list[tuple[int, int]]:
    """The runs of set bits as half-open pairs, in order."""
    return [found.span() for found in _ONES.finditer(bin(plane)[:1:-1])] if plane else []


def to_bytes(plane: int, n: int) -> bytes:
    """A plane of n minutes in ceil(n / 8) octets, little endian. Raises PlaneError if it has a bit past n."""
    if plane < 0 or plane.bit_length() > n:
        raise PlaneError(f"this plane is not one of {n} minutes")
    return plane.to_bytes((n + 7) // 8, "little")


def from_bytes(octets: bytes, n: int) -> int:
    """What `to_bytes` was given. Raises PlaneError for another length or a bit past n."""
    plane = int.from_bytes(octets, "little")
    if len(octets) != (n + 7) // 8 or plane.bit_length() > n:
        raise PlaneError(f"these octets are not a plane of {n} minutes")
    return plane


def pack(plane: int, n: int) -> str:
    """A plane of n minutes as text for a record that people may check: "1440+3,2000+2" is three minutes from offset
    1440 and two from 2000. Where that would be longer than the octets in base64 it is those, after "=".

    The same plane is always the same text: a compressor of another version would give another digest.
    """
    octets = to_bytes(plane, n)
    room = (len(octets) + 2) // 3 * 4 + 1
    parts, used = [], -1
    for start, end in runs(plane):
        part = f"{start}+{end - start}"
        used += len(part) + 1
        if used > room:
            return "=" + b64encode(octets).decode()
        parts.append(part)
    return ",".join(parts)


def unpack(text: str, n: int) -> int:
    """What `pack` was given. Raises PlaneError for anything that `pack` does not write."""
    try:
        plane = from_bytes(b64decode(text[1:], validate=True), n) if text.startswith("=") else _of_runs(text, n)
        if pack(plane, n) == text:
            return plane
    except ValueError as error:
        raise PlaneError(f"no plane of {n} minutes: {text[:60]!r}") from error
    raise PlaneError(f"not the one way to write a plane of {n} minutes: {text[:60]!r}")


def sum_planes(planes: Iterable[int]) -> list[int]:
    """How many of the planes have each bit, as digits: carry-save adders, three planes of one weight in, one of this
    weight and one of the next out."""
    digits, level = [], [plane for plane in planes if plane]
    while level:
        carries = []
        while len(level) > 2:
            a, b, c = level.pop(), level.pop(), level.pop()
            half = a ^ b
            level.append(half ^ c)
            carries.append((a & b) | (half & c))
        if len(level) == 2:
            digits.append(level[0] ^ level[1])
            carries.append(level[0] & level[1])
        else:
            digits.append(level[0])
        level = carries
    return digits


def at_least(digits: Sequence[int], least: int, n: int) -> int:
    """The minutes of n in which the number is `least` or more."""
    if least < 1:
        return ones(n)
    below = least - 1
    more = 0
    for i in range(max(len(digits), below.bit_length())):
        digit = digits[i] if i < len(digits) else 0
        # A higher digit that differs from that of `below` decides; where it does not, the lower ones have.
        more = more & digit if below >> i & 1 else more | digit
    return more


def by_count(planes: Iterable[int], n: int) -> dict[int, int]:
    """The n minutes by how many of the planes have them: count -> plane, without empty ones."""
    parts = {0: ones(n)} if n else {}
    for plane in planes:
        split: dict[int, int] = {}
        for count, part in parts.items():
            with_it = part & plane
            if with_it:
                split[count + 1] = split.get(count + 1, 0) | with_it
            if with_it != part:
                split[count] = split.get(count, 0) | (part ^ with_it)
        parts = split
    return parts


def _of_runs(text: str, n: int) -> int:
    plane = 0
    for part in text.split(",") if text else ():
        found = _RUN.match(part)
        if not found or (end := int(found[1]) + int(found[2])) > n:
            raise PlaneError(f"{part[:60]!r} is no run of {n} minutes")
        plane |= between(int(found[1]), end)
    return plane
