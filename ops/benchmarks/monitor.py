"""`ops/bench monitor`: a month closed from raw, credits, the same month as rows, ingest, and one agent for minutes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .load import LoadFailed, number, numbers, read_answer
from .monitor_collector import Collector, command, start_collector, wait_for_port
from .monitor_report import Results, Row
from .procs import (
    Child,
    Cores,
    Processes,
    StartFailed,
    busy_seconds,
    cpu_seconds,
    free_port,
    raise_file_limit,
    rss_mb,
)
from .relay import Say, alone, interrupted

CREDITS: Final = 100_000
CLOSINGS: Final = 3
"""At least, for the records are held against each other."""
START_SECONDS: Final = 10
"""An agent is started so long before its minutes are counted: it asks for time and roster first."""
SETTLE_SECONDS: Final = 12
"""After the last minute: its probes have ended and their samples are handed in."""

Answer = dict[str, object]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done. credits, questions, ingests: rounds. batches: of 5,000 samples, in a round of an agent.
    minutes: of the agent."""

    credits: int = 3
    questions: int = 3
    ingests: int = 3
    batches: int = 40
    minutes: int = 2
    checks: int = 10_000

    @staticmethod
    def quick(checks: int = 10_000) -> "Plan":
        """Coarser: for a look while working, not for figures to publish."""
        return Plan(credits=1, questions=1, ingests=1, batches=16, minutes=1, checks=checks)


@dataclass(slots=True)
class Bench:
    """One run; `say` tells a person what happens now."""

    plan: Plan
    processes: Processes
    cores: Cores
    root: Path
    folder: Path
    say: Say
    results: Results = field(default_factory=Results)

    def step(self, words: Sequence[str | int | Path], cores: frozenset[int], seconds: float = 150.0) -> Answer:
        """Run one step in a process of its own; its answer. Raises LoadFailed."""
        module, *rest = (str(word) for word in words)
        child = self.python(f"{module}-{rest[0]}", [f"benchmarks.{module}", *rest], cores, pipes=True)
        try:
            found = read_answer(child, seconds)
            if child.popen.wait(30):
                raise LoadFailed(f"{child.name}: {child.tail()}")
        except subprocess.TimeoutExpired as error:
            raise LoadFailed(f"{child.name} did not end") from error
        finally:
            self.processes.stop([child])
        return found

    def python(
        self, name: str, words: Sequence[str], cores: frozenset[int], *, pipes: bool = False, ca: Path | None = None
    ) -> Child:
        """Start a module of this Python. ca: whom it trusts in place of the system's authorities."""
        environment = {"PYTHONPATH": f"{self.root / 'ops'}{os.pathsep}{self.root}"}
        if ca is not None:
            environment["SSL_CERT_FILE"] = str(ca)
        arguments = [sys.executable, "-m", *words]
        return self.processes.start(name, arguments, cores, environment=environment, pipes=pipes)

    def months(self) -> None:
        """The noisy month, and its closing."""
        self.say("a month of 2.7 million samples: building, sealing")
        built = self.step(("monitor_months", "build", self.folder), self.cores.server)
        values = self.results.values
        values["plane_bytes"] = number(built, "plane_bytes")
        values["raw_bytes_per_sample"] = number(built, "bytes_per_sample")
        self.say("closing it")
        closed = [
            self.step(("monitor_months", "close", self.folder, one + 1), self.cores.server) for one in range(CLOSINGS)
        ]
        if len({(one["record_sha256"], one["digest"]) for one in closed}) != 1:
            raise LoadFailed("the same samples gave different records")
        self.results.facts["month"] = {**built, **{key: closed[0][key] for key in ("digest", "result", "down")}}
        row = Row.median("close_month", "close a month from raw", "s", [number(one, "seconds") for one in closed])
        values["close_month_s"] = row.value
        self.results.add(
            row,
            Row("record", "  its record, canonical JSON", number(closed[0], "record_octets"), "octets"),
            Row("sealed", "samples, sealed: all of the database", number(built, "bytes_per_sample"), "octets/sample"),
            Row(
                "journal",
                "  in the journal, as agents send them",
                number(built, "journal_bytes_per_sample"),
                "octets/sample",
            ),
            Row("planes", "  verdict planes, raw", number(built, "plane_bytes"), "octets/stream"),
            Row("sealing", "  sealing", number(built, "seal_per_s"), "samples/s"),
        )

    def credits(self) -> None:
        """100,000 subscriptions, once each."""
        self.say(f"{CREDITS:,} subscriptions: making them")
        self.step(("monitor_months", "subscribe", self.folder, CREDITS), self.cores.server)
        runs = []
        for one in range(1, self.plan.credits + 1):
            self.say(f"credits: round {one} of {self.plan.credits}")
            found = self.step(("monitor_months", "credit", self.folder, one), self.cores.server)
            if found["faults"] or found["granted"] != CREDITS or found["again"]:
                raise LoadFailed(f"the credit run went wrong: {json.dumps(found)[:300]}")
            runs.append(found)
        row = Row.median(
            "credits", f"{CREDITS:,} credits into the ledger", "s", [number(one, "seconds") for one in runs]
        )
        self.results.values["credits_100k_s"] = row.value
        again = [number(one, "again_seconds") for one in runs]
        self.results.add(row, Row.median("credits_again", "  the same run again: nothing left to do", "s", again))
        self.say("the report with all of them")
        told = self.step(("monitor_months", "report", self.folder, 1), self.cores.server)
        seconds = told["seconds"]
        if isinstance(seconds, dict):
            self.results.add(
                *(Row(f"report_{name}", f"  its report: {name}", float(took), "s") for name, took in seconds.items())
            )

    def rows(self) -> None:
        """The same month as rows."""
        self.say("the same month, a row for each sample")
        table = self.step(("monitor_rows", "rows", self.folder), self.cores.server)
        self.say("verdicts, quorum, availability: from the rows, from the planes")
        words = ("monitor_rows", "question", self.folder, self.plan.questions)
        asked = self.step(words, self.cores.server)
        by_rows, by_planes = number(asked, "rows_s"), number(asked, "planes_s")
        self.results.values["recompute_vs_rows"] = by_rows / by_planes
        self.results.facts["question"] = {key: asked[key] for key in ("down", "unknown", "availability")}
        self.results.add(
            Row("question_planes", "a month's verdicts: from the planes", by_planes * 1000, "ms"),
            Row(
                "question_segments",
                "  reading the planes from raw",
                number(asked, "planes_from_segments_s") * 1000,
                "ms",
            ),
            Row("question_rows", "a month's verdicts: from a row a sample", by_rows * 1000, "ms"),
            Row("row_table", "  that table", number(table, "database_octets") / 1e6, "MB"),
            Row("row_sample", "  that table", number(table, "bytes_per_sample"), "octets/sample"),
            Row(
                "row_insert",
                "  filling it, indices at the end",
                number(table, "rows") / number(table, "seconds"),
                "rows/s",
            ),
        )

    def ingest(self) -> None:
        """Signed batches over HTTPS; then the store alone."""
        self.say("ingest: signed batches over HTTPS")
        collector = start_collector(self.processes, self.folder / "ingest", self.cores.server)
        before = cpu_seconds([collector.child.pid])
        where = (collector.url, collector.authority, collector.store_url)
        counts = (self.plan.ingests, self.plan.batches)
        try:
            found = rounds_of(self.step(("monitor_ingest", "post", *where, *counts), self.cores.load))
            used = cpu_seconds([collector.child.pid]) - before
            memory = rss_mb([collector.child.pid])
        finally:
            self.processes.stop([collector.child])
        total = sum(one["samples"] for one in found)
        row = Row.median("ingest", "ingest, durable, over HTTPS", "samples/s", rates(found[1:]))
        self.results.values["ingest_per_s"] = row.value
        self.say("ingest: the store alone")
        answer = self.step(("monitor_ingest", "store", self.folder, *counts), self.cores.server)
        alone_ = rounds_of(answer)
        stored = sum(one["samples"] for one in alone_)
        decoding = [one["samples"] / one["decode_s"] for one in alone_[1:]]
        self.results.add(
            row,
            Row("ingest_cold", "  the first minute of 20,000 streams", rates(found)[0], "samples/s"),
            Row("ingest_cpu", "  CPU of the collector", used / total * 1e6, "us/sample"),
            Row("ingest_rss", "  its memory, 20,000 streams", memory, "MB"),
            Row.median("store", "the store alone", "samples/s", rates(alone_[1:])),
            Row.median("decode", "  decoding alone", "samples/s", decoding),
            Row("crowd_seal", "  sealing 10,000 streams", stored / number(answer, "seal_s"), "samples/s"),
            Row("crowd_journal", "  in the journal", number(answer, "journal_octets") / stored, "octets/sample"),
        )

    def agent(self) -> None:
        """One agent for whole minutes, its collector and its mail server on the other core."""
        collector = start_collector(self.processes, self.folder / "watched", self.cores.load)
        started = [collector.child]
        try:
            port, home, ca = self._enrolled(collector, started)
            run_agent = ("smartmail", "agent", "run", "--dir", str(home))
            agent = self.python("agent", run_agent, self.cores.server, ca=ca)
            started.append(agent)
            # Any sixty seconds hold each slot once.
            first = int(time.time()) + START_SECONDS
            end = first + 60 * self.plan.minutes
            self.say(f"one agent, {self.plan.checks:,} checks, {self.plan.minutes} min (mail server on port {port})")
            _sleep_until(first, agent)
            before = cpu_seconds([agent.pid])
            _sleep_until(end, agent)
            used = cpu_seconds([agent.pid]) - before
            memory = rss_mb([agent.pid])
            _sleep_until(end + SETTLE_SECONDS, agent)
            words = ("monitor_agent", "samples", collector.store_url, first * 1000, self.plan.minutes)
            found = self.step(words, self.cores.load)
        finally:
            self.processes.stop(started)
        self._tell_agent(found, used / (self.plan.minutes * 60), memory)

    def _enrolled(self, collector: Collector, started: list[Child]) -> tuple[int, Path, Path]:
        """Mail server up, roster written, agent enrolled: port, the agent's folder, the server's certificate."""
        port, name = free_port(), self.folder / "watched"
        made = self.step(
            ("monitor_agent", "prepare", name, port, collector.store_url, self.plan.checks), self.cores.load
        )
        certificate, key = Path(str(made["certificate"])), str(made["key"])
        words = ["benchmarks.monitor_imap", str(port), str(certificate), key, str(made["login"]), str(made["password"])]
        server = self.python("imap", words, self.cores.load)
        started.append(server)
        wait_for_port(server, port)
        home = Path(str(made["home"]))
        options = {
            "--collector": collector.url,
            "--token-file": str(made["token_file"]),
            "--name": "bench",
            "--ca": str(collector.authority),
            "--control": f"127.0.0.1:{port}",
            "--dir": str(home),
        }
        command(collector.home, ["agent", "enrol", *(word for option in options.items() for word in option)])
        return port, home, certificate

    def _tell_agent(self, found: Answer, busy: float, memory: float) -> None:
        late, latency = found["late_ms"], found["latency_ms"]
        if not isinstance(late, dict) or not isinstance(latency, dict) or late["max"] is None:
            raise LoadFailed(f"the agent handed in nothing of those minutes: {json.dumps(found)[:300]}")
        good = numbers(found, "good")
        self.results.values["checks_per_minute"] = min(good)
        self.results.values["on_time_per_mille"] = number(found, "on_time_per_mille")
        self.results.facts["agent"] = {"checks": self.plan.checks, **found}
        self.results.add(
            Row("agent", "one agent: logins over TLS that went well", min(good), "a minute", tuple(good)),
            Row("agent_on_time", "  begun within 1 s of their slot", number(found, "on_time_per_mille"), "per mille"),
            *(Row(f"agent_late_{key}", f"  begun after their slot, {key}", float(late[key]), "ms") for key in late),
            *(Row(f"agent_took_{key}", f"  took, {key}", float(latency[key]), "ms") for key in latency),
            Row("agent_cpu", "  CPU of the agent", busy * 100, "% of a core"),
            Row("agent_rss", "  its memory", memory, "MB"),
        )

    def run(self, wanted: frozenset[str]) -> None:
        """Every part that is wanted; a fault of one leaves the others."""
        works: tuple[Callable[[], None], ...] = (self.months, self.credits, self.rows, self.ingest, self.agent)
        for name, work in zip(PARTS, works, strict=True):
            if name not in wanted:
                continue
            try:
                work()
            except (LoadFailed, StartFailed) as error:
                self.results.faults[name] = str(error)
                self.say(f"{name}: {error}")


PARTS: Final = ("months", "credits", "rows", "ingest", "agent")
"""credits and rows need months."""


def rounds_of(found: Answer) -> list[dict[str, float]]:
    """The rounds of an ingest: numbers by name. Raises LoadFailed where a sample is missing."""
    rounds = found.get("rounds")
    if not isinstance(rounds, list) or len(rounds) < 2:
        raise LoadFailed("the step answered without its rounds")
    for one in rounds:
        if one["samples"] != one["sent"]:
            raise LoadFailed(f"{one['sent']} samples were handed in, {one['samples']} were taken")
    return rounds


def rates(rounds: Sequence[dict[str, float]]) -> list[float]:
    """Samples per second."""
    return [one["samples"] / one["seconds"] for one in rounds]


def _sleep_until(at: float, child: Child) -> None:
    """Until this time (epoch seconds). Raises LoadFailed when the process ends before."""
    while (left := at - time.time()) > 0:
        if child.popen.poll() is not None:
            raise LoadFailed(f"{child.name} ended with code {child.popen.returncode}: {child.tail()}")
        time.sleep(min(left, 1.0))


def run(root: Path, plan: Plan, wanted: frozenset[str], say: Say) -> tuple[Results, str]:
    """Measure, end all. Returns what was found and how it was pinned."""
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, interrupted)
    raise_file_limit()
    cores = Cores.plan()
    folder = Path(tempfile.mkdtemp(prefix="smartmail-bench-", dir="/var/tmp" if os.path.isdir("/var/tmp") else None))
    try:
        with alone(root / ".cache" / "bench", say), Processes(folder) as processes:
            started, busy, own = time.monotonic(), busy_seconds(), cpu_seconds([os.getpid()])
            bench = Bench(plan, processes, cores, root, folder, say)
            bench.run(wanted)
            seconds = time.monotonic() - started
            others = busy_seconds() - busy - (cpu_seconds([os.getpid()]) - own)
            bench.results.others_cores = max(0.0, others / seconds)
            say(f"done in {seconds:.0f} s")
            return bench.results, pinning(cores)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pinning(cores: Cores) -> str:
    """How processes were laid on cores, in words."""
    if not cores.server:
        return "one core, nothing pinned"
    return f"what is measured on core {min(cores.server)}, everything else on core {min(cores.load)}"
