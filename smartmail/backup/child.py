"""A small command from beginning to end: hooks, dumps, doveadm. What it says is kept up to a bound; it never waits for
a terminal, and never outlives its limit."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from smartmail.backup.process import CHUNK, Patience, Pipe, Process, finish, start, unhurried

KEPT: Final = 16 << 20
"""Octets of stdout that are kept."""
TAIL: Final = 4096
"""Octets of stderr that are kept, the last ones."""
_INHERITED: Final = ("PATH", "HOME", "USER", "LOGNAME", "TZ")


@dataclass(frozen=True, slots=True)
class Ended:
    """code: the exit code, or the negative number of a signal; None: it took longer than its limit, and was stopped.
    cut: stdout was longer than what is kept. stderr: its end."""

    code: int | None
    stdout: str
    cut: bool
    stderr: str

    @property
    def ok(self) -> bool:
        """Did it do what was asked?"""
        return self.code == 0

    def how(self, limit_s: float) -> str:
        """How it ended, in words: "exit code 1: no such database"."""
        match self.code:
            case None:
                what = f"took longer than {limit_s:g} s and was stopped"
            case code if code < 0:
                what = f"ended by signal {-code}"
            case code:
                what = f"exit code {code}"
        lines = [line.strip() for line in (self.stderr or self.stdout).splitlines() if line.strip()]
        return f"{what}: {lines[-1][-300:]}" if lines else what


def plain_environment(more: Mapping[str, str] | None = None, prefixes: tuple[str, ...] = ()) -> dict[str, str]:
    """What a command needs of our environment, and nothing that may be secret. prefixes: variables to hand on too."""
    found = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith(prefixes)}
    found.setdefault("PATH", os.defpath)
    return found | {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"} | dict(more or {})


async def run_child(argv: Sequence[str], env: Mapping[str, str], limit_s: float) -> Ended:
    """Run it to its end. A cancelled task ends it first. Raises OSError if it cannot be started."""
    out, err = Pipe(), Pipe()
    try:
        await out.open()
        await err.open()
        process = await start(argv, env, None, out, err)
        kept, told = bytearray(), bytearray()
        readers = {asyncio.create_task(_keep(out.reader, kept)), asyncio.create_task(_tail(err.reader, told))}
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait((ended,), timeout=limit_s)
            in_time = ended.done()
        finally:
            await _finish(process, ended, readers)
    finally:
        out.close()
        err.close()
    code = process.returncode if process.returncode is not None else -signal.SIGKILL
    text = bytes(kept[:KEPT]).decode("utf-8", "surrogateescape")
    return Ended(code if in_time else None, text, len(kept) > KEPT, bytes(told).decode("utf-8", "replace"))


async def _finish(process: Process, ended: asyncio.Task[int], readers: set[asyncio.Task[None]]) -> None:
    """To its end, however often we are cancelled meanwhile."""
    if not ended.done():
        # All of its group: a shell that is stopped leaves what it has started.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
    await unhurried(finish(process, ended, readers, Patience(interrupt_s=2.0, terminate_s=3.0)))


async def _keep(stream: asyncio.StreamReader, kept: bytearray) -> None:
    while chunk := await stream.read(CHUNK):
        kept += chunk[: max(0, KEPT + 1 - len(kept))]


async def _tail(stream: asyncio.StreamReader, told: bytearray) -> None:
    while chunk := await stream.read(CHUNK):
        told += chunk
        del told[:-TAIL]
