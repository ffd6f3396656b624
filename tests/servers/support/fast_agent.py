"""A real agent on a clock that runs many times as fast as ours.

`fast_agent.py FILE`: a Job as JSON. It enrols, runs until SIGTERM, and writes every sample that its spool has taken to
`made.jsonl` in its folder. The clock is the same for all who are given the same Beat, in whatever process.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop

from smartmail import events
from smartmail.core import slots
from smartmail.core.sample import Batch
from smartmail.events import monitor as lines
from smartmail.monitor import prober
from smartmail.monitor.agent import Agent, AgentParts
from smartmail.monitor.client import Collectors, Identity, Unreachable, new_key, read_key, tls_context
from smartmail.monitor.clock import CorrectedClock
from smartmail.monitor.control import connect, parse_target
from smartmail.monitor.probes import SecretSource, make_context, probe
from smartmail.monitor.settings import KEY_FILE, SECRETS, AgentSettings, write_whole

MADE = "made.jsonl"
GRACE_REAL_MS = 1_000
"""A slot may be begun this much later, of our time: a busy machine costs our time, not the clock's."""


@dataclass(frozen=True)
class Beat:
    """The fast clock stood at start_ms when the machine's monotonic one stood at origin_ns."""

    pace: int
    origin_ns: int
    start_ms: int


class FastTime:
    """A clock by a Beat. wall_off_ms: how wrong its wall clock is."""

    def __init__(self, beat: Beat, wall_off_ms: int = 0) -> None:
        self._beat = beat
        self._wall_off_ms = wall_off_ms

    def wall_ms(self) -> int:
        """Epoch milliseconds."""
        return self._beat.start_ms + self._wall_off_ms + self.steady_ms()

    def steady_ms(self) -> int:
        """Since the origin."""
        return (time.monotonic_ns() - self._beat.origin_ns) * self._beat.pace // 10**6

    def real_seconds(self, milliseconds: int) -> float:
        """So many of the clock's, in our seconds."""
        return max(milliseconds, 0) / 1000 / self._beat.pace

    async def sleep_ms(self, milliseconds: int) -> None:
        """So many of the clock's."""
        await asyncio.sleep(self.real_seconds(milliseconds))


@dataclass(frozen=True)
class Job:
    """One agent. ca: PEM, for the collector; authority: PEM, for the probes. timeout_ms, control_ms: patience of a
    probe and of a look at the control target, in our time."""

    beat: Beat
    wall_off_ms: int
    folder: str
    location: str
    collector: str
    token: str
    ca: str
    authority: str
    nameserver: str
    control: str
    timeout_ms: int
    control_ms: int

    @staticmethod
    def read(file: Path) -> "Job":
        """As written by `json.dumps(asdict(job))`."""
        value: dict[str, Any] = json.loads(file.read_text())
        return Job(**value | {"beat": Beat(**value["beat"])})


def real_ms() -> int:
    """Certificates live in our time."""
    return time.time_ns() // 10**6


def recorded(add: Callable[[Batch, str], int], file: Path) -> Callable[[Batch, str], int]:
    """The spool's `add`, and a line for each sample that it took."""

    def added(batch: Batch, run: str) -> int:
        number = add(batch, run)
        with file.open("a") as made:
            made.writelines(
                json.dumps([one.check, one.started_ms, int(one.outcome), one.latency_ms, one.detail]) + "\n"
                for one in batch.samples
            )
        return number

    return added


async def enrol(job: Job, clock: CorrectedClock) -> None:
    """Have a new key known, as soon as there is a collector."""
    _, pem, public = new_key()
    write_whole(Path(job.folder) / KEY_FILE, pem)
    async with Collectors([job.collector], tls_context(Path(job.ca)), clock.steady_ms) as stranger:
        while True:
            try:
                return await stranger.enrol(job.token, f"{job.location}-1", job.location, public)
            except Unreachable:
                await asyncio.sleep(0.1)


async def main(job: Job) -> None:
    """Enrol, and work until SIGTERM."""
    for module in (slots, prober):
        setattr(module, "GRACE_MS", GRACE_REAL_MS * job.beat.pace)  # noqa: B010  # a Final, of an ordinary clock
    folder, name = Path(job.folder), f"{job.location}-1"
    clock = CorrectedClock(FastTime(job.beat, job.wall_off_ms))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    made = make_context(
        SecretSource(folder / SECRETS), ca_file=Path(job.authority), nameserver=job.nameserver, now_ms=real_ms
    )
    context = replace(made, timeout_ms=job.timeout_ms)

    async def reach(host: str, port: int) -> None:
        async with asyncio.timeout(job.control_ms / 1000):
            await connect(host, port)

    await enrol(job, clock)
    identity = Identity(name, read_key(folder / KEY_FILE))
    settings = AgentSettings(folder, name, job.location, (job.collector,), control=(parse_target(job.control),))
    async with Collectors([job.collector], tls_context(Path(job.ca)), clock.steady_ms, identity) as collectors:
        parts = AgentParts(clock, collectors, lambda check: probe(check, context), lines, reach)
        agent = Agent(settings, parts)
        agent.spool.add = recorded(agent.spool.add, folder / MADE)  # type: ignore[method-assign,assignment]
        await agent.run(stop)


if __name__ == "__main__":
    log = events.configure()
    try:
        uvloop.run(main(Job.read(Path(sys.argv[1]))))
    finally:
        log.close()
