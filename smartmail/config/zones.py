"""Time zones, from the tzdata package and never from the machine: so its version is the one that is used."""

import re
from datetime import tzinfo
from functools import cache
from importlib import import_module, resources
from typing import Final
from zoneinfo import ZoneInfo

_NAME: Final = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")

TZ_VERSION: Final[str] = import_module("tzdata").IANA_VERSION
"""As "2026a"."""


@cache
def find_zone(name: str) -> tzinfo | None:
    """A zone by its IANA name; None if there is none."""
    if not _NAME.fullmatch(name):
        return None
    path = resources.files("tzdata.zoneinfo").joinpath(*name.split("/"))
    if not path.is_file():
        return None
    with path.open("rb") as file:
        try:
            return ZoneInfo.from_file(file, key=name)
        except ValueError:
            # Beside the zones the package has lists of them.
            return None
