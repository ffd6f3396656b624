"""The collector as it is measured: `smartmail monitor run` in a folder of its own, over HTTPS on the loopback."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .procs import Child, Processes, StartFailed, free_port

COMMAND_SECONDS = 60
LOCATION = "here"

# No terms are in force yet, so no month is judged meanwhile, and nothing is sealed: only what comes is taken. Locations
# and checks, where there are any, are written into its database.
SETTINGS = """\
[server]
data_dir = "{home}/var"
[monitor]
address = "127.0.0.1:{port}"
metrics_address = ""
seal_seconds = 3600
[[terms]]
version = "bench"
effective = "2999-01-01"
[log]
format = "json"
level = "warning"
"""


@dataclass(frozen=True, slots=True)
class Collector:
    """A running one."""

    home: Path
    port: int
    child: Child

    @property
    def url(self) -> str:
        """Where agents find it."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def store_url(self) -> str:
        """Its database."""
        return f"sqlite:///{self.home}/var/smartmail.db"

    @property
    def authority(self) -> Path:
        """What agents trust it by."""
        return self.home / "var" / "collector.crt"


def start_collector(processes: Processes, home: Path, cores: frozenset[int]) -> Collector:
    """Start it and wait until it listens. Raises StartFailed."""
    home.mkdir(parents=True)
    port = free_port()
    config = home / "smartmail.toml"
    config.write_text(SETTINGS.format(home=home, port=port))
    command: list[str | Path] = [sys.executable, "-m", "smartmail", "--config", config, "monitor", "run"]
    child = processes.start(f"collector-{home.name}", command, cores)
    wait_for_port(child, port)
    return Collector(home, port, child)


def wait_for_port(child: Child, port: int, seconds: float = 30.0) -> None:
    """Return once somebody listens there. Raises StartFailed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if child.popen.poll() is not None:
            raise StartFailed(f"{child.name} ended with code {child.popen.returncode}: {child.tail()}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise StartFailed(f"{child.name} did not listen on port {port} within {seconds:.0f} s: {child.tail()}")


def command(home: Path, words: Sequence[str]) -> str:
    """Run one of our own commands there; what it prints. Raises StartFailed."""
    done = subprocess.run(
        [sys.executable, "-m", "smartmail", "--config", str(home / "smartmail.toml"), *words],
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
        cwd=home,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise StartFailed(f"smartmail {' '.join(words)} ended with code {done.returncode}: {lines[-1][:300]}")
    return done.stdout
