"""What retention is about to remove, on disk before it goes: one small file for each repository.

It is read by the next retention alone, and only to tell what a run that was killed has removed from what somebody else
has. Losing it loses no data: the numbers of snapshots look wrong then, and a person is asked.
"""

import asyncio
import json
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from smartmail.core.retention import Group

_MOST_OCTETS: Final = 64 << 20


class JournalError(Exception):
    """It cannot be read or written: the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One plan that was begun. ids: what it was to remove, each with the group it is counted in."""

    plan: str
    ids: tuple[tuple[str, Group], ...]


def unsettled(entries: Sequence[Entry], settled: Collection[str]) -> tuple[Entry, ...]:
    """The entries after the last one whose end is known: whatever was before it is in what was counted then."""
    last = max((number for number, one in enumerate(entries) if one.plan in settled), default=-1)
    return tuple(entries[last + 1 :])


async def read_journal(folder: str, repository: str) -> tuple[Entry, ...]:
    """Oldest first; nothing if there is no file. Raises JournalError."""
    return await asyncio.to_thread(_read, _place(folder, repository))


async def write_journal(folder: str, repository: str, entries: Sequence[Entry]) -> None:
    """In place of what is there; it is on the disk when this returns. Raises JournalError."""
    await asyncio.to_thread(_write, _place(folder, repository), entries)


def _place(folder: str, repository: str) -> Path:
    return Path(folder) / "retention" / f"{quote(repository, safe='')}.json"


def _read(file: Path) -> tuple[Entry, ...]:
    try:
        with file.open("rb") as stream:
            listed = json.loads(stream.read(_MOST_OCTETS))
        return tuple(
            Entry(
                str(one["plan"]),
                tuple((str(name), Group(str(host), tuple(map(str, tags)))) for name, host, tags in one["ids"]),
            )
            for one in listed
        )
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise JournalError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JournalError(f"{file} is not what retention wrote, and is passed over") from error


def _write(file: Path, entries: Sequence[Entry]) -> None:
    listed = [
        {"plan": one.plan, "ids": [[name, group.host, list(group.tags)] for name, group in one.ids]} for one in entries
    ]
    new = file.with_suffix(".new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            new.unlink()
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(json.dumps(listed).encode())
            stream.flush()
            os.fsync(descriptor)
        new.replace(file)
        descriptor = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise JournalError(f"{file} cannot be written: {error.strerror}") from error
