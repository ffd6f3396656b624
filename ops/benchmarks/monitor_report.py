"""The monitor's figures: bars, rows, JSON and tables."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

from .report import QUIET, Bar

BARS: tuple[Bar, ...] = (
    Bar("close_month_s", 2.0, at_least=False),
    Bar("credits_100k_s", 10.0, at_least=False),
    Bar("ingest_per_s", 50_000.0, at_least=True),
    Bar("plane_bytes", 12_000.0, at_least=False),
    Bar("raw_bytes_per_sample", 4.0, at_least=False),
    Bar("recompute_vs_rows", 500.0, at_least=True),
    Bar("checks_per_minute", 10_000.0, at_least=True),
    Bar("on_time_per_mille", 999.0, at_least=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. rounds: what it is the median of, where there were several."""

    id: str
    title: str
    value: float
    unit: str
    rounds: tuple[float, ...] = ()

    @staticmethod
    def median(id_: str, title: str, unit: str, rounds: Sequence[float]) -> "Row":
        """The median of the rounds."""
        return Row(id_, title, statistics.median(rounds), unit, tuple(rounds))

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "id": self.id,
            "title": self.title,
            "value": significant(self.value),
            "unit": self.unit,
            "rounds": [significant(one) for one in self.rounds],
        }


@dataclass(slots=True)
class Results:
    """Everything measured. values: by bar; one that is missing here was not measured. others_cores: as of the relay's
    benchmark."""

    rows: list[Row] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    others_cores: float = 0.0

    def add(self, *rows: Row) -> None:
        """Keep these rows."""
        self.rows += rows


def significant(value: float) -> float:
    """Five significant digits; whole numbers as they are."""
    return value if value == int(value) else float(f"{value:.5g}")


def judged(results: Results) -> list[dict[str, object]]:
    """All bars with their values; one without a value is not met."""
    return [bar.judge(results.values.get(bar.id)) for bar in BARS]


def as_json(results: Results, about: Mapping[str, object]) -> str:
    """The object that `--json` writes."""
    return json.dumps(
        {
            "name": "monitor",
            "machine": about,
            "rows": [row.as_json() for row in results.rows],
            "facts": results.facts,
            "bars": judged(results),
            "faults": results.faults,
        },
        indent=2,
    )


def show(console: Console, results: Results, about: Mapping[str, object]) -> None:
    """What was measured, and the bars."""
    console.print(f"{about['processor']}, {about['cores']} cores; {about['pinning']}")
    if results.others_cores > QUIET:
        console.print(f"[yellow]others kept {results.others_cores:.1f} cores busy meanwhile: measure again[/]")
    table = Table("figure", box=box.SIMPLE_HEAD, title="One month of 12 checks from 5 locations, and one agent")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for row in results.rows:
        table.add_row(row.title, shown(row.value), row.unit)
    console.print(table)
    bars = Table("bar", box=box.SIMPLE_HEAD, title="What must be reached")
    for heading in ("value", "bound", ""):
        bars.add_column(heading, justify="right")
    for bar in judged(results):
        value, least = bar["value"], bar.get("at_least")
        bound = f">= {least}" if least is not None else f"<= {bar['at_most']}"
        text = shown(value) if isinstance(value, int | float) else "not measured"
        bars.add_row(str(bar["id"]), text, bound, "[green]met[/]" if bar["met"] else "[red]not met[/]")
    console.print(bars)
    for what, fault in results.faults.items():
        console.print(f"{what}: {fault}", style="red", markup=False, highlight=False)


def shown(value: float) -> str:
    """As people read it: thousands set apart, small figures with the digits that say something."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
