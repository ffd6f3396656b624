"""`--demo`: has a short scene played against the running relay, through real sockets, by a process of its own.

The scene itself is `smartmail.cli.scene`. A child process, so that it is to the relay what any client is, and that its
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


async def play(stage: Stage) -> ExitCode:
    """Play the scene on the terminal (or whatever standard output is).

    Returns OK when every reply was the one the scene expects, else FOUND_BAD. Cancelled, it ends the child.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "smartmail.cli.scene", stdin=asyncio.subprocess.PIPE
    )
    try:
        await child.communicate(stage.to_json().encode())
    finally:
        if child.returncode is None:
            child.terminate()
    return ExitCode.OK if child.returncode == 0 else ExitCode.FOUND_BAD
