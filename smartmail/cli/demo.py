"""`--demo`: has three short scenes played, each by a process of its own.

`smartmail.cli.scene` is played against the running relay, `smartmail.cli.watching` shows the monitor,
`smartmail.cli.bringing` the backup. Child processes, so that they are to the relay what any client is, and that their
SQLAlchemy does not become part of the relay's process.
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from typing import NamedTuple

from smartmail.cli.common import ExitCode


class Target(NamedTuple):
    """Where a client connects to. tls: as a listener has it, "starttls", "implicit" or "none"."""

    host: str
    port: int
    tls: str


@dataclass(frozen=True, slots=True)
class Stage:
    """What the scene is played on. url: of the store. submission: for accounts. relay: for mail from elsewhere, None
    where there is no such listener. maildrop: folder of the Maildirs, "" where mail goes on to another server.
    password: of all the demo's accounts. command: how to call `smartmail`."""

    url: str
    submission: Target
    relay: Target | None
    maildrop: str
    password: str
    command: str

    def to_json(self) -> str:
        """For the child's standard input."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Stage":
        """What `to_json` wrote."""
        values = json.loads(text)
        relay = values.pop("relay")
        return cls(submission=Target(*values.pop("submission")), relay=Target(*relay) if relay else None, **values)


@dataclass(frozen=True, slots=True)
class Watch:
    """What the monitor's scene is played with. folder: emptied, and filled anew. command: how to call `smartmail`."""

    folder: str
    command: str

    def to_json(self) -> str:
        """For the child's standard input."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Bring:
    """What the backup's scene is played with. folder: emptied, and filled anew. command: how to call `smartmail`, for a
    configuration of the scene's own."""

    folder: str
    command: str

    def to_json(self) -> str:
        """For the child's standard input."""
        return json.dumps(asdict(self))


async def play(stage: Stage, watch: Watch, bring: Bring) -> ExitCode:
    """Play all scenes on the terminal (or whatever standard output is).

    Returns OK when all was as the scenes expect, else FOUND_BAD. Cancelled, it ends the child.
    """
    codes = [
        await _play("smartmail.cli.scene", stage.to_json()),
        await _play("smartmail.cli.watching", watch.to_json()),
        await _play("smartmail.cli.bringing", bring.to_json()),
    ]
    return max(codes)


async def _play(module: str, order: str) -> ExitCode:
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", module, stdin=asyncio.subprocess.PIPE)
    try:
        await child.communicate(order.encode())
    finally:
        if child.returncode is None:
            child.terminate()
    return ExitCode.OK if child.returncode == 0 else ExitCode.FOUND_BAD
