"""A child process from its beginning to its end: pipes of our own, and an end in the proper order.

SIGINT first, then SIGTERM, then SIGKILL to all of its group, each with a wait; nothing of it lives on.
"""

import asyncio
import os
import signal
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

Process: TypeAlias = asyncio.subprocess.Process

CHUNK: Final = 1 << 16
_KILL_S: Final = 5.0
"""What SIGKILL takes at most, unless the kernel itself hangs."""
_DRAIN_S: Final = 2.0
"""After the end its children (ssh, rclone) may hold the pipes for so long."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a command may take, in seconds. silence_s: without any progress, where the command reports it; limit_s:
    in all; interrupt_s, terminate_s: what SIGINT and SIGTERM get before the next one."""

    silence_s: float = 900.0
    limit_s: float = 86_400.0
    interrupt_s: float = 60.0
    terminate_s: float = 10.0


class Pipe:
    """A pipe that restic writes into and that we read. Ours, so that it can be closed whoever else still holds it."""

    def __init__(self) -> None:
        self._ours, self.theirs = os.pipe()
        self._transport: asyncio.ReadTransport | None = None
        self.reader = asyncio.StreamReader(limit=CHUNK)

    async def open(self) -> None:
        """Begin to read."""
        loop = asyncio.get_running_loop()
        end = os.fdopen(self._ours, "rb", buffering=0)
        self._ours = -1
        try:
            self._transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self.reader), end)
        except BaseException:
            end.close()
            raise

    def close_theirs(self) -> None:
        """After restic was started: its end is only its own."""
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def close(self) -> None:
        """Both ends. What was not read is lost."""
        self.close_theirs()
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1
        if self._transport is not None:
            self._transport.close()


async def start(argv: Sequence[str], env: Mapping[str, str], stdin: int | None, out: Pipe, err: Pipe) -> Process:
    """Begin it, in a session of its own: no terminal to ask at, no signal that was meant for us. env: all of its
    environment. stdin: a file descriptor, None for nothing. Raises OSError."""
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
            stdout=out.theirs,
            stderr=err.theirs,
            env=env,
            start_new_session=True,
        )
    finally:
        out.close_theirs()
        err.close_theirs()


async def unhurried(work: Coroutine[object, object, None]) -> None:
    """Wait for it to its end, however often this task is cancelled meanwhile; the cancellation is raised then."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


async def finish(
    process: Process, ended: asyncio.Task[int], readers: set[asyncio.Task[None]], patience: Patience
) -> None:
    """Stop it if it still runs; read what is left; end what holds its pipes."""
    # To restic alone: its ssh must live for as long as restic takes its locks away through it.
    for number, wait in ((signal.SIGINT, patience.interrupt_s), (signal.SIGTERM, patience.terminate_s)):
        if ended.done():
            break
        with suppress(ProcessLookupError):
            process.send_signal(number)
        await asyncio.wait((ended,), timeout=wait)
    if not ended.done():
        _kill_group(process)
        await asyncio.wait((ended,), timeout=_KILL_S)
    _, late = await asyncio.wait(readers, timeout=_DRAIN_S)
    if late:
        _kill_group(process)
        _, late = await asyncio.wait(late, timeout=_KILL_S)
    for task in (*late, ended):
        task.cancel()
    if late:
        await asyncio.wait(late)


def _kill_group(process: Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
