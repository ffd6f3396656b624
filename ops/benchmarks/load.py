"""Loads: Postfix's smtp-source for throughput and CPU, our own clients for what it cannot measure."""

import json
import os
import select
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .install import which
from .procs import Child, Cores, Processes, StartFailed, cpu_seconds

SESSIONS = 20
LONGEST_RUN = 90.0
MOST_MESSAGES = 200_000
SENDER, RECIPIENT = "sender@example.test", "recipient@example.net"


@dataclass(frozen=True, slots=True)
class Load:
    """One load of smtp-source: its name in rows, octets of payload, and whether a connection carries many
    messages."""

    id: str
    size: int
    reuse: bool


LOADS: tuple[Load, ...] = (
    Load("one_per_conn_4k", 4_096, reuse=False),
    Load("reuse_4k", 4_096, reuse=True),
    Load("one_per_conn_100k", 102_400, reuse=False),
    Load("reuse_100k", 102_400, reuse=True),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: how many messages, the seconds it took, and CPU seconds of the server side in that time."""

    messages: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU microseconds of the server side for each message."""
        return self.cpu_seconds * 1e6 / self.messages


class LoadFailed(Exception):
    """A load did not finish well: a message was refused, or the time was over."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a load goes: the loopback port and the roots of the process trees whose CPU counts."""

    port: int
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Driver:
    """Starts loads on the load's cores; `root` is the repository (for our own clients' module path)."""

    processes: Processes
    cores: Cores
    root: Path

    def send(self, target: Target, load: Load, count: int) -> Sample:
        """Send `count` messages with smtp-source. It ends at the first refusal. Raises LoadFailed."""
        command = [
            which("smtp-source") or "smtp-source",
            "-4",
            "-s",
            str(min(SESSIONS, count)),
            "-m",
            str(count),
        ]
        command += ["-l", str(load.size), "-f", SENDER, "-t", RECIPIENT, "-M", "client.example.test"]
        command += (["-d"] if load.reuse else []) + [f"127.0.0.1:{target.port}"]
        before = cpu_seconds(target.pids)
        start = time.perf_counter()
        child = self.processes.start("smtp-source", command, self.cores.load)
        try:
            code = _end_of(child, LONGEST_RUN)
        finally:
            seconds = time.perf_counter() - start
            used = cpu_seconds(target.pids) - before
            self.processes.stop([child])
        if code != 0:
            raise LoadFailed(child.tail())
        return Sample(count, seconds, used)

    def calibrate(self, target: Target, load: Load, seconds: float) -> int:
        """How many messages take about `seconds`. Warms the peer up for that long (Haraka's compiler needs
        it)."""
        count, spent = 100, 0.0
        while True:
            sample = self.send(target, load, count)
            spent += sample.seconds
            enough = max(SESSIONS, min(MOST_MESSAGES, int(sample.rate * seconds)))
            if spent >= seconds and (sample.seconds >= seconds / 4 or count >= MOST_MESSAGES):
                return enough
            count = min(count * 4, enough)

    def client(self, *words: str | int | float) -> Child:
        """Start one of our own clients (module `clients`), to be spoken to over its pipes."""
        command = ["-m", "benchmarks.clients", *(str(word) for word in words)]
        return self.python(str(words[0]), command, pipes=True)

    def python(self, name: str, words: Sequence[str], *, pipes: bool = False) -> Child:
        """Start this Python on the load's cores with our package in its path."""
        environment = {"PYTHONPATH": str(self.root / "ops")}
        return self.processes.start(
            name, [sys.executable, *words], self.cores.load, environment=environment, pipes=pipes
        )


def _end_of(child: Child, seconds: float) -> int:
    """Wait for a process; its exit code. `Popen.wait(timeout)` looks only every 50 ms, which is a part of a run."""
    handle = os.pidfd_open(child.pid)
    try:
        ready, _, _ = select.select([handle], [], [], seconds)
    finally:
        os.close(handle)
    if not ready:
        raise LoadFailed(f"not finished in {seconds:.0f} s")
    return child.popen.wait()


def read_answer(child: Child, seconds: float) -> dict[str, object]:
    """The next line of a client's output as JSON. Raises LoadFailed when it ends or is silent for too
    long."""
    stream = child.popen.stdout
    if stream is None:
        raise StartFailed(f"{child.name} has no pipe")
    ready, _, _ = select.select([stream], [], [], seconds)
    line = stream.readline() if ready else b""
    if not line:
        raise LoadFailed(f"{child.name}: {child.tail() if ready else 'no answer in time'}")
    answer: dict[str, object] = json.loads(line)
    return answer


def numbers(answer: dict[str, object], key: str) -> list[float]:
    """A list of numbers in a client's answer. Raises LoadFailed when it is not there."""
    values = answer.get(key)
    if not isinstance(values, list):
        raise LoadFailed(f"the client answered without {key}")
    return [float(value) for value in values]


def number(answer: dict[str, object], key: str) -> float:
    """One number in a client's answer. Raises LoadFailed when it is not there."""
    value = answer.get(key)
    if not isinstance(value, int | float):
        raise LoadFailed(f"the client answered without {key}")
    return float(value)
