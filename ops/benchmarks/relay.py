"""`ops/bench relay`: the same loads through every peer in interleaved rounds, then TLS with AUTH, then
memory."""

import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from . import install, memory, report, submission
from .load import LOADS, Driver, Load, LoadFailed, Target, numbers, read_answer
from .peers import PEERS, Peer, Room, Running, start_sink
from .procs import Cores, Processes, StartFailed, busy_seconds, cpu_seconds, peak_rss_mb, raise_file_limit, reset_peaks

PEER_IDS = (*(peer.id for peer in PEERS), "postfix")
LATENCY_RATE = 100.0
LONGEST_WAIT = 900.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long everything takes: rounds, seconds per run, seconds of latency per round, TLS mails, flood
    seconds."""

    rounds: int = 3
    run_seconds: float = 2.5
    latency_seconds: float = 2.0
    tls_messages: int = 1_500
    flood_seconds: float = 45.0

    @staticmethod
    def quick(rounds: int) -> "Plan":
        """Coarser: for a look while working, not for figures to publish."""
        return Plan(rounds, 0.8, 0.5, 500, 8.0)


@dataclass(slots=True)
class Bench:
    """One run of the benchmark; `say` tells a person what happens now."""

    plan: Plan
    driver: Driver
    folder: Path
    wanted: frozenset[str]
    say: Say
    results: report.Results = field(default_factory=report.Results)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def fail(self, peer: str, error: Exception) -> None:
        """Keep the first fault of a peer."""
        self.results.faults.setdefault(peer, str(error))
        self.say(f"{peer}: {error}")

    def start_peers(self, sink: int, haraka: Path | None) -> dict[str, Running]:
        """All wanted peers that start."""
        running: dict[str, Running] = {}
        for peer in PEERS:
            if peer.id not in self.wanted:
                continue
            home = self.folder / peer.id
            home.mkdir()
            home.chmod(0o755)
            room = Room(self.driver.processes, home, sink, self.driver.cores, self.driver.root, haraka)
            try:
                self.require(peer)
                running[peer.id] = peer.start(room)
            except StartFailed as error:
                self.fail(peer.id, error)
        return running

    @staticmethod
    def require(peer: Peer) -> None:
        """Raise StartFailed with the names of missing programs."""
        if absent := install.missing(peer.programs):
            raise StartFailed(f"not installed: {', '.join(absent)}")

    def throughput(self, running: dict[str, Running]) -> None:
        """Every load through every peer, round by round."""
        started, busy, own = time.monotonic(), busy_seconds(), cpu_seconds([os.getpid()])
        for load in LOADS:
            for peer, at in running.items():
                reset_peaks(at.pids)
                self.calibrate(peer, at, load)
            for number in range(self.plan.rounds):
                self.say(f"{load.id}: round {number + 1} of {self.plan.rounds}")
                for peer, at in running.items():
                    self.one_run(peer, at, load)
            for peer, at in running.items():
                if at.pids:
                    self.results.peaks[peer, load.id] = peak_rss_mb(at.pids)
        others = busy_seconds() - busy - (cpu_seconds([os.getpid()]) - own)
        self.results.others_cores = max(0.0, others / (time.monotonic() - started))

    def calibrate(self, peer: str, at: Running, load: Load) -> None:
        """Find how many messages make one run."""
        try:
            count = self.driver.calibrate(Target(at.port, at.pids), load, self.plan.run_seconds)
            self.counts[peer, load.id] = count
        except LoadFailed as error:
            self.fail(peer, error)

    def one_run(self, peer: str, at: Running, load: Load) -> None:
        """One sample."""
        count = self.counts.get((peer, load.id))
        if count is None:
            return
        try:
            sample = self.driver.send(Target(at.port, at.pids), load, count)
            self.results.samples.setdefault((peer, load.id), []).append(sample)
        except LoadFailed as error:
            self.fail(peer, error)

    def latency(self, running: dict[str, Running]) -> None:
        """Latencies at one low rate that every peer can bear."""
        for number in range(self.plan.rounds):
            self.say(f"latency: round {number + 1} of {self.plan.rounds}")
            for peer, at in running.items():
                client = self.driver.client("latency", at.port, LATENCY_RATE, self.plan.latency_seconds)
                try:
                    answer = read_answer(client, self.plan.latency_seconds + 60)
                    self.results.latencies.setdefault(peer, []).extend(numbers(answer, "latencies_ms"))
                except LoadFailed as error:
                    self.fail(peer, error)
                finally:
                    self.driver.processes.stop([client])

    def submissions(self, sink: int) -> None:
        """STARTTLS + AUTH, Postfix against ours."""
        if not self.wanted & {"postfix", "ours"}:
            return
        self.say("STARTTLS + AUTH: Postfix's submission service and ours")
        counts = (self.plan.tls_messages, self.plan.rounds)
        found = submission.measure(self.driver, self.folder, sink, counts, self.wanted)
        self.results.submission = found.samples
        for side, fault in found.faults.items():
            self.fail(f"{side} with STARTTLS and AUTH", LoadFailed(fault))

    def memories(self, sink: int) -> None:
        """Our memory."""
        if "ours" not in self.wanted:
            return
        self.say("memory: 200 mails of 25 MB, then 5,000 idle sessions")
        self.results.memory = memory.measure(self.driver, self.folder, sink, self.plan.flood_seconds)
        for fault in self.results.memory.faults:
            self.fail("memory", LoadFailed(fault))

    def run(self, haraka: Path | None) -> None:
        """Everything, one after the other."""
        try:
            sink = start_sink(self.driver.processes, self.driver.cores)
        except StartFailed as error:
            self.fail("everything", error)
            return
        running = self.start_peers(sink.port, haraka)
        self.throughput(running)
        self.latency(running)
        children = [child for at in running.values() for child in at.children]
        self.driver.processes.stop(children)
        self.submissions(sink.port)
        self.memories(sink.port)


def interrupted(number: int, frame: FrameType | None) -> None:
    """A signal handler: end in order."""
    raise KeyboardInterrupt


@contextmanager
def alone(cache: Path, say: Say) -> Iterator[None]:
    """Hold the lock of this checkout's benchmarks: two at once would measure each other. Waits for a while."""
    cache.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LONGEST_WAIT
    with (cache / "lock").open("w") as lock:
        told = False
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if not told:
                say("another benchmark is running: waiting for its end")
                told = True
            time.sleep(0.5)
        yield


def run(root: Path, plan: Plan, wanted: frozenset[str], say: Say) -> tuple[report.Results, str]:
    """Install, start, measure, end all. Returns what was found and how it was pinned."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    raise_file_limit()
    programs = tuple(sorted({name for peer in PEERS if peer.id in wanted for name in peer.programs}))
    absent = install.install_packages((*programs, "smtp-source", "smtp-sink", *submission.PROGRAMS), say)
    if absent:
        say(f"missing, and not installed since that needs root: {', '.join(absent)}")
    haraka = install.haraka(root / ".cache" / "bench", say) if wanted & {"haraka", "haraka-no-delay"} else None
    cores = Cores.plan()
    folder = Path(tempfile.mkdtemp(prefix="smartmail-bench-", dir="/var/tmp" if os.path.isdir("/var/tmp") else None))
    folder.chmod(0o755)
    try:
        with alone(root / ".cache" / "bench", say), Processes(folder) as processes:
            started = time.monotonic()
            bench = Bench(plan, Driver(processes, cores, root), folder, wanted, say)
            bench.run(haraka)
            say(f"done in {time.monotonic() - started:.0f} s")
            return bench.results, pinning(cores)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pinning(cores: Cores) -> str:
    """How processes were laid on cores, in words."""
    if not cores.server:
        return "one core, nothing pinned"
    return f"every server side on core {min(cores.server)}, source, sink and clients on core {min(cores.load)}"
