"""From samples to rows, bars, JSON and a table for people."""

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from .load import LOADS, Sample
from .memory import Memory


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing to reach: `at_least` or `at_most` the bound."""

    id: str
    bound: float
    at_least: bool

    def judge(self, value: float | None) -> dict[str, object]:
        """The bar as JSON; no value is not met."""
        met = value is not None and (value >= self.bound if self.at_least else value <= self.bound)
        shown = None if value is None else round(value, 4)
        return {
            "id": self.id,
            "value": shown,
            "at_least" if self.at_least else "at_most": self.bound,
            "met": met,
        }


TITLES = {
    "one_per_conn_4k": "4 kB, a connection each",
    "reuse_4k": "4 kB, connections reused",
    "one_per_conn_100k": "100 kB, a connection each",
    "reuse_100k": "100 kB, connections reused",
    "tls_auth_4k": "4 kB, STARTTLS and AUTH on each",
}

QUIET = 0.15
"""Cores that others may use before we say so."""

BARS: tuple[Bar, ...] = (
    Bar("one_per_conn_4k_vs_haproxy", 1.0, at_least=True),
    Bar("one_per_conn_4k_vs_haraka", 15.0, at_least=True),
    Bar("reuse_4k_vs_haproxy", 0.8, at_least=True),
    Bar("reuse_100k_vs_haproxy", 1.0, at_least=True),
    Bar("cpu_us_per_message_4k", 150.0, at_least=False),
    Bar("cpu_4k_vs_haraka", 0.125, at_least=False),
    Bar("tls_auth_cpu_vs_postfix", 0.5, at_least=False),
    Bar("rss_growth_200x25mb", 64.0, at_least=False),
    Bar("rss_5000_idle", 100.0, at_least=False),
    Bar("new_mail_ms_at_5000_idle", 50.0, at_least=False),
)


@dataclass(slots=True)
class Results:
    """Everything measured. Keys of `samples` and `peaks`: (peer, load). `others_cores`: how many cores everything
    but the benchmark kept busy meanwhile, on average; figures from a busy machine are not worth much."""

    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    peaks: dict[tuple[str, str], float] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=dict)
    submission: Mapping[str, list[Sample]] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    faults: dict[str, str] = field(default_factory=dict)
    others_cores: float = 0.0

    def rate(self, peer: str, load: str) -> float | None:
        """Median messages per second."""
        runs = self.samples.get((peer, load))
        return statistics.median(run.rate for run in runs) if runs else None

    def cpu(self, peer: str, load: str) -> float | None:
        """Median CPU microseconds per message; None for the direct way, which has no proxy."""
        runs = self.samples.get((peer, load))
        return statistics.median(run.cpu_us for run in runs) if runs and peer != "direct" else None

    def tls_cpu(self, side: str) -> float | None:
        """Median CPU microseconds per message of a whole submission side."""
        runs = self.submission.get(side)
        return statistics.median(run.cpu_us for run in runs) if runs else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of all do not exceed; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def bar_values(results: Results) -> dict[str, float | None]:
    """The value of each bar, None where something it needs is missing."""
    rate, cpu, memory = results.rate, results.cpu, results.memory
    one, reuse, big = "one_per_conn_4k", "reuse_4k", "reuse_100k"
    return {
        "one_per_conn_4k_vs_haproxy": _ratio(rate("ours", one), rate("haproxy", one)),
        "one_per_conn_4k_vs_haraka": _ratio(rate("ours", one), rate("haraka", one)),
        "reuse_4k_vs_haproxy": _ratio(rate("ours", reuse), rate("haproxy", reuse)),
        "reuse_100k_vs_haproxy": _ratio(rate("ours", big), rate("haproxy", big)),
        "cpu_us_per_message_4k": cpu("ours", one),
        "cpu_4k_vs_haraka": _ratio(cpu("ours", one), cpu("haraka", one)),
        "tls_auth_cpu_vs_postfix": _ratio(results.tls_cpu("ours"), results.tls_cpu("postfix")),
        "rss_growth_200x25mb": memory.growth_mb,
        "rss_5000_idle": memory.idle_mb,
        "new_mail_ms_at_5000_idle": memory.mail_ms,
    }


def judged(results: Results) -> list[dict[str, object]]:
    """All bars with their values."""
    values = bar_values(results)
    return [bar.judge(values[bar.id]) for bar in BARS]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def rows(results: Results, peers: Sequence[str]) -> list[dict[str, object]]:
    """One row per peer and load, then the two submission sides."""
    found: list[dict[str, object]] = []
    for load in LOADS:
        for peer in peers:
            runs = results.samples.get((peer, load.id), [])
            waits = results.latencies.get(peer, []) if load.id == "one_per_conn_4k" else []
            found.append(
                {
                    "load": load.id,
                    "peer": peer,
                    "messages_per_second": _rounded(results.rate(peer, load.id), 1),
                    "cpu_us_per_message": _rounded(results.cpu(peer, load.id), 1),
                    "p50_ms": _rounded(percentile(waits, 0.50), 2),
                    "p99_ms": _rounded(percentile(waits, 0.99), 2),
                    "peak_rss_mb": _rounded(results.peaks.get((peer, load.id)), 1),
                    "rounds": [_run(run) for run in runs],
                }
            )
    for side in ("postfix", "ours"):
        runs = results.submission.get(side, [])
        middle = statistics.median(run.rate for run in runs) if runs else None
        found.append(
            {
                "load": "tls_auth_4k",
                "peer": side,
                "messages_per_second": _rounded(middle, 1),
                "cpu_us_per_message": _rounded(results.tls_cpu(side), 1),
                "p50_ms": None,
                "p99_ms": None,
                "peak_rss_mb": None,
                "rounds": [_run(run) for run in runs],
            }
        )
    return found


def _run(run: Sample) -> dict[str, object]:
    return {
        "messages": run.messages,
        "seconds": round(run.seconds, 3),
        "messages_per_second": round(run.rate, 1),
        "cpu_us_per_message": round(run.cpu_us, 1),
    }


def machine(pinning: str, others_cores: float) -> dict[str, object]:
    """The machine in words, without its name."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(models),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pinning": pinning,
        "others_cores": round(others_cores, 2),
    }


def as_json(results: Results, peers: Sequence[str], about: Mapping[str, object]) -> str:
    """The object that `--json` writes."""
    return json.dumps(
        {
            "name": "relay",
            "machine": about,
            "rows": rows(results, peers),
            "memory_run": {"sessions": 200, "finished": results.memory.growth_finished},
            "bars": judged(results),
            "faults": results.faults,
        },
        indent=2,
    )


def show(console: Console, results: Results, peers: Mapping[str, str], about: Mapping[str, object]) -> None:
    """Two tables: what was measured, and the bars."""
    console.print(f"{about['processor']}, {about['cores']} cores; {about['pinning']}")
    ids = tuple(peers)
    if results.others_cores > QUIET:
        console.print(f"[yellow]others kept {results.others_cores:.1f} cores busy meanwhile: measure again[/]")
    table = Table("through", box=box.SIMPLE_HEAD, title="20 sessions, smtp-source to smtp-sink")
    for heading in ("messages/s", "of direct", "CPU us", "p50 ms", "p99 ms", "peak MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    before = ""
    for row in rows(results, ids):
        load, peer = str(row["load"]), str(row["peer"])
        if load != before:
            table.add_section()
            table.add_row(TITLES[load], style="cyan")
        before = load
        share = _ratio(results.rate(peer, load), results.rate("direct", load))
        cells = (
            _cell(row["messages_per_second"], 0),
            "" if share is None else f"{share:.2f}",
            *(_cell(row[key], 1) for key in ("cpu_us_per_message", "p50_ms", "p99_ms", "peak_rss_mb")),
        )
        title = peers.get(peer, "Postfix submission")
        table.add_row(f"  {title}", *cells, style="bold" if peer == "ours" else "")
    console.print(table)
    bars = Table("bar", box=box.SIMPLE_HEAD, title="What must be reached")
    for heading in ("value", "bound", ""):
        bars.add_column(heading, justify="right")
    for bar in judged(results):
        bound = f">= {bar['at_least']}" if "at_least" in bar else f"<= {bar['at_most']}"
        value = "not measured" if bar["value"] is None else _cell(bar["value"], 3)
        bars.add_row(str(bar["id"]), value, bound, "[green]met[/]" if bar["met"] else "[red]not met[/]")
    console.print(bars)
    for what, fault in results.faults.items():
        console.print(f"[red]{what}[/]: {fault}", markup=True, highlight=False)


def _cell(value: object, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else "-"
