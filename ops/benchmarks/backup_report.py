"""The backup's figures: bars, JSON and tables."""

import json
from collections.abc import Mapping
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from .monitor_report import Results, shown
from .report import QUIET, Bar

BARS: Final[tuple[Bar, ...]] = (
    Bar("overhead_pct", 10.0, at_least=False),
    Bar("rss_mb", 100.0, at_least=False),
    Bar("nightly_vs_borgmatic", 0.5, at_least=False),
    Bar("offsite_source_bytes", 0.0, at_least=False),
    Bar("mailbox_restore_s", 10.0, at_least=False),
)


def judged(results: Results) -> list[dict[str, object]]:
    """All bars with their values; one without a value is not met."""
    return [bar.judge(results.values.get(bar.id)) for bar in BARS]


def as_json(results: Results, about: Mapping[str, object]) -> str:
    """The object that `--json` writes."""
    return json.dumps(
        {
            "name": "backup",
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
    title = f"{results.facts.get('messages', 0):,} messages in {results.facts.get('mailboxes', 0):,} mailboxes"
    table = Table("figure", box=box.SIMPLE_HEAD, title=title)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for row in results.rows:
        table.add_row(row.title, shown(row.value), row.unit)
    console.print(table)
    bars = Table("bar", box=box.SIMPLE_HEAD, title="What must be reached")
    for heading in ("value", "bound", ""):
        bars.add_column(heading, justify="right")
    for bar in judged(results):
        value = bar["value"]
        text = shown(value) if isinstance(value, int | float) else "not measured"
        bars.add_row(str(bar["id"]), text, f"<= {bar['at_most']}", "[green]met[/]" if bar["met"] else "[red]not met[/]")
    console.print(bars)
    for what, fault in results.faults.items():
        console.print(f"{what}: {fault}", style="red", markup=False, highlight=False)
