"""Memory of our relay: under slow upstreams with big mails, and with thousands of idle sessions."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import ours
from .load import LOADS, Driver, LoadFailed, Target, number, numbers, read_answer
from .procs import Child, StartFailed, free_port, rss_mb, wait_for_greeting

BIG_SESSIONS, BIG_OCTETS, SLOW_RATE = 200, 25_000_000, 1_000_000
IDLE_SESSIONS, IDLE_MAILS = 5_000, 20
WATCH_EVERY = 0.1


@dataclass(frozen=True, slots=True)
class Memory:
    """What was found; None where it could not be. MB are 10^6 octets."""

    growth_mb: float | None = None
    growth_finished: int = 0
    idle_mb: float | None = None
    mail_ms: float | None = None
    faults: tuple[str, ...] = ()


def _relay(driver: Driver, home: Path, sink: int) -> tuple[int, Child]:
    site = ours.Site(driver.processes, home, driver.root, driver.cores.server)
    return ours.start_relay(site, sink)


def _watch(pid: int, done: Callable[[], bool]) -> float:
    """The highest resident size in MB until `done`."""
    peak = rss_mb([pid])
    while not done():
        time.sleep(WATCH_EVERY)
        peak = max(peak, rss_mb([pid]))
    return peak


def growth(driver: Driver, folder: Path, seconds: float) -> tuple[float, int]:
    """200 sessions with 25 MB each towards a sink that reads 1 MB/s on each connection: (MB of growth,
    finished)."""
    slow_port = free_port()
    sink = driver.python("slow-sink", ["-m", "benchmarks.slow_sink", str(slow_port), str(SLOW_RATE)])
    wait_for_greeting(sink, slow_port)
    port, relay = _relay(driver, folder / "growth", slow_port)
    driver.send(Target(port, (relay.pid,)), LOADS[0], 400)
    time.sleep(0.5)
    before = rss_mb([relay.pid])
    client = driver.client("flood", port, BIG_SESSIONS, BIG_OCTETS, seconds)
    deadline = time.monotonic() + seconds + 15
    peak = _watch(relay.pid, lambda: client.popen.poll() is not None or time.monotonic() > deadline)
    if relay.popen.poll() is not None:
        raise LoadFailed(f"the relay ended: {relay.tail()}")
    report = read_answer(client, 1.0)
    if errors := report.get("errors"):
        raise LoadFailed(f"big mails failed: {errors}")
    driver.processes.stop([client, relay, sink])
    return peak - before, int(number(report, "finished"))


def idle(driver: Driver, folder: Path, sink: int) -> tuple[float, float]:
    """5,000 sessions that said EHLO: (resident MB, median ms of a new mail meanwhile)."""
    port, relay = _relay(driver, folder / "idle", sink)
    client = driver.client("idle", port, IDLE_SESSIONS, IDLE_MAILS)
    if number(read_answer(client, 90.0), "idle") != IDLE_SESSIONS:
        raise LoadFailed("not every idle session was taken")
    time.sleep(1.0)
    resident = rss_mb([relay.pid])
    if client.popen.stdin is not None:
        client.popen.stdin.write(b"mails\n")
        client.popen.stdin.flush()
    report = read_answer(client, 60.0)
    if (held := number(report, "idle")) != IDLE_SESSIONS:
        raise LoadFailed(f"only {held:.0f} of the idle sessions were still there at the end")
    driver.processes.stop([client, relay])
    return resident, statistics.median(numbers(report, "latencies_ms"))


def measure(driver: Driver, folder: Path, sink: int, flood_seconds: float) -> Memory:
    """Both, each with a fresh relay; a fault of one leaves the other."""
    growth_mb, finished, idle_mb, mail_ms = None, 0, None, None
    faults: list[str] = []
    running = len(driver.processes.children)
    try:
        growth_mb, finished = growth(driver, folder, flood_seconds)
    except (StartFailed, LoadFailed) as error:
        faults.append(f"200 big mails: {error}")
    driver.processes.stop(driver.processes.children[running:])
    try:
        idle_mb, mail_ms = idle(driver, folder, sink)
    except (StartFailed, LoadFailed) as error:
        faults.append(f"5,000 idle sessions: {error}")
    driver.processes.stop(driver.processes.children[running:])
    return Memory(growth_mb, finished, idle_mb, mail_ms, tuple(faults))
