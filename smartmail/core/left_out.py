"""Which paths restic leaves out by its exclude patterns: for what has to know before the backup, such as a manifest.

As restic's filter has it: a pattern is a list of parts, of which `**` stands for any number; one that does not begin
with a slash fits anywhere; what lies below a match is left out with it; "!" takes something in again.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final

_CLASS: Final = re.compile(r"\[(\^?)((?:\\.|[^\]\\])+)\]")


def left_out_by(patterns: Iterable[str]) -> Callable[[str], bool]:
    """patterns: as in an exclude file. The function takes an absolute path. A pattern that restic would refuse fits
    nothing."""
    rules = [(not one.startswith("!"), _compiled(one.lstrip("!"))) for one in patterns if one.strip("!/ ")]

    def left_out(path: str) -> bool:
        found = False
        for leaves_out, rule in rules:
            if rule is not None and found is not leaves_out and rule.match(path):
                found = leaves_out
        return found

    return left_out if rules else lambda path: False


def _compiled(pattern: str) -> re.Pattern[str] | None:
    parts = [part for part in pattern.split("/") if part]
    text = "" if pattern.startswith("/") else "(?:/[^/]+)*"
    for part in parts:
        text += "(?:/[^/]+)*" if part == "**" else f"/{_part(part)}"
    try:
        return re.compile(rf"{text}(?=/|\Z)", re.DOTALL)
    except re.error:
        return None


def _part(part: str) -> str:
    found, at = "", 0
    while at < len(part):
        letter = part[at]
        group = _CLASS.match(part, at) if letter == "[" else None
        if group is not None:
            found += f"[{group[1]}{group[2]}]"
            at = group.end()
        elif letter == "\\" and at + 1 < len(part):
            found += re.escape(part[at + 1])
            at += 2
        else:
            found += {"*": "[^/]*", "?": "[^/]"}.get(letter, re.escape(letter))
            at += 1
    return found
