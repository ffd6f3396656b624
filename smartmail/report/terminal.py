"""The report on a terminal: rich renderables, and a strip of the month's days."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from smartmail.core.minutes import Verdict
from smartmail.core.sla import Result
from smartmail.report.model import Audience, Day, MonthReport, WindowLine
from smartmail.report.selection import (
    DECISIONS,
    MOST_CREDITS,
    by_length,
    cut_note,
    decision,
    first_credits,
    remarks,
    window_state,
)
from smartmail.report.wording import (
    RESULT_WORDS,
    length,
    listed,
    minutes,
    number,
    percent,
    plural,
    target,
)

COLOURS: Final = {
    Result.MET: "green",
    Result.BREACHED: "red",
    Result.INDETERMINATE: "yellow",
    Result.NO_COMMITMENT: "cyan",
}
LEVELS: Final = ((1, "▂"), (10, "▄"), (60, "▆"), (1440, "█"))
"""Height of a day's mark by its down minutes: up to 1, 10, 60, more."""
MOST_INCIDENTS: Final = 20


def show(report: MonthReport, console: Console) -> None:
    """Print the report."""
    console.print(renderable(report))


def renderable(report: MonthReport) -> RenderableType:
    """The whole report. Nothing in it is read as markup, and no control character of anybody's text comes through."""
    parts = [
        _head(report),
        _titled("Minutes", _minutes(report)),
        _titled("Days", _strip(report.days)),
        _titled("Checks", _checks(report)),
        _titled("Locations, each as it saw the service alone", _locations(report)),
        _titled("Incidents", _incidents(report)),
        _titled("Maintenance", _windows(report)),
        _titled("The arithmetic", _arithmetic(report)),
    ]
    if report.audience is not Audience.EVERYBODY:
        parts.append(_titled("Credits", _credits(report)))
    parts.append(_foot(report))
    return Group(*parts)


def plain(text: str) -> str:
    """A text without control characters: a name may hold terminal escapes."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)


def _text(words: str, style: str = "") -> Text:
    return Text(plain(words), style=style)


def _titled(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(title, style="bold"), Padding(body, (0, 0, 1, 0)))


def _head(report: MonthReport) -> RenderableType:
    assessment = report.record.assessment
    colour = COLOURS[assessment.result]
    name = f"{report.month_name}, service {report.record.service}"
    if report.audience is Audience.CUSTOMER and report.customer:
        name += f", for {report.customer}"
    lines = [
        Text.assemble((RESULT_WORDS[assessment.result], f"bold {colour}"), f"  {report.headline}"),
        Text(" ".join((report.consequence, *remarks(report)))),
    ]
    if assessment.eligible:
        lines.append(Text(_sides(report)))
    return Panel(Group(*lines), title=_text(name), title_align="left", border_style=colour, box=box.ROUNDED, width=100)


def _sides(report: MonthReport) -> str:
    assessment = report.record.assessment
    best, worst = percent(assessment.availability_high), percent(assessment.availability_low)
    unknown = minutes(report.counts.unknown)
    shown = f"{best}" if not report.counts.unknown else f"{best} at best, {worst} if the {unknown} unknown were down"
    return f"Availability {shown}; promised {target(report.terms)}"


def _minutes(report: MonthReport) -> RenderableType:
    counts, assessment = report.counts, report.record.assessment
    table = _table(("", "minutes", ""), right=(1,))
    rows = [("the month", report.month_minutes, f"{report.record.evidence.zone}")]
    if report.month_minutes != counts.measured:
        rows.append(("not measured", report.month_minutes - counts.measured, "no service, or not yet"))
    rows += [
        ("maintenance", counts.maintenance, "announced in time: left out"),
        ("that count", counts.eligible, ""),
        ("up", counts.up, ""),
        ("down", counts.down, f"{number(assessment.allowed_down)} allowed"),
        ("unknown", counts.unknown, "too little was seen"),
    ]
    for name, count, note in rows:
        table.add_row(name, number(count), note)
    return table


def _strip(days: Sequence[Day]) -> RenderableType:
    marks, numbers = Text(), Text(style="dim")
    for day in days:
        mark, style = _mark(day)
        marks.append(f" {mark} ", style)
        numbers.append(f"{int(day.date[-2:]):>2} ")
    legend = "· up   ▂ ▄ ▆ █ down: 1, up to 10, up to 60, more minutes   ? unknown   = maintenance   - not measured"
    return Group(marks, numbers, Text(legend, style="dim"))


def _mark(day: Day) -> tuple[str, str]:
    counts = day.counts
    if counts.down:
        return next(mark for most, mark in LEVELS if counts.down <= most or most == LEVELS[-1][0]), "bold red"
    if counts.unknown:
        return "?", "yellow"
    if counts.maintenance:
        return "=", "cyan"
    return ("-", "dim") if not counts.measured else ("·", "green")


def _checks(report: MonthReport) -> RenderableType:
    table = _table(("check", "at", "SLA", "up", "down", "unknown", "advisory"), right=(3, 4, 5, 6))
    for line in report.checks:
        view = line.view
        cells = (view.up, view.down, view.unknown, view.advisory)
        table.add_row(
            _text(view.check), _text(line.target), "yes" if line.bears else "no", *(number(cell) for cell in cells)
        )
    return table


def _locations(report: MonthReport) -> RenderableType:
    table = _table(("location", "availability", "up", "down", "cut off", "silent"), right=(1, 2, 3, 4, 5))
    for line in report.locations:
        cells = (line.up, line.down, line.silenced, line.silent)
        table.add_row(_text(line.name), percent(line.availability), *(number(cell) for cell in cells))
    return table


def _incidents(report: MonthReport) -> RenderableType:
    if not report.incidents:
        return Text("none")
    shown = by_length(report.incidents, MOST_INCIDENTS)
    table = _table(("", "from", "to", "down", "left out", "checks", "seen from"), right=(0, 3, 4))
    told = []
    for line in shown:
        one, clock = line.incident, report.clock
        table.add_row(
            str(line.number),
            clock.moment(one.start),
            "still down" if one.end is None else clock.until(one.start, one.end),
            length(one.down_minutes),
            length(one.excluded_minutes) if one.excluded_minutes else "",
            _text(listed(one.checks)),
            _text(listed(one.locations)),
        )
        told += [_text(f"{line.number:>3}  {what}", "dim") for what in line.what]
    if note := cut_note(report.incidents, shown):
        told.append(Text(note, style="dim"))
    return Group(table, *told)


def _windows(report: MonthReport) -> RenderableType:
    if not report.windows:
        return Text("none announced")
    table = _table(("window", "from", "to", "left out", "", "what"), right=(3,))
    for line in report.windows:
        table.add_row(*_window(report, line))
    return table


def _window(report: MonthReport, line: WindowLine) -> tuple[RenderableType, ...]:
    first, end = line.planned
    clock = report.clock
    return (
        _text(line.name),
        clock.moment(first),
        clock.until(first, end),
        number(line.excluded),
        window_state(line),
        _text(line.text),
    )


def _arithmetic(report: MonthReport) -> RenderableType:
    table = _table(("", "", ""))
    table.show_header = False
    for index, step in enumerate(report.arithmetic, 1):
        table.add_row(f"{index}.", step.title, _text(step.sum))
    return table


def _credits(report: MonthReport) -> RenderableType:
    if not report.credits:
        return Text("none")
    counted = "; ".join(
        f"{number(count)}: {DECISIONS[reason].lower()}" for reason, count in report.credit_counts.items()
    )
    shown = first_credits(report.credits)
    table = _table(("subscription", "customer", "plan", "", "paid through", "now"), right=(0,))
    for line in shown:
        table.add_row(
            str(line.subscription),
            _text(line.customer),
            _text(line.plan),
            decision(line),
            line.paid_from or "",
            line.paid_to or "",
        )
    rest = len(report.credits) - len(shown)
    more = [Text(f"and {plural(rest, 'subscription')} more: see the CSV", style="dim")] if rest else []
    return Group(Text(counted), table, *more)


def _foot(report: MonthReport) -> RenderableType:
    check, revision = report.verification, report.revision
    closed = "not closed" if revision.closed_ms is None else f"closed {report.clock.instant(revision.closed_ms)}"
    lines = [
        f"revision {revision.number}, {closed}; terms {report.terms.version}; time zone data {check.tz_version}",
        f"record  sha256 {check.record_digest}",
        f"samples sha256 {check.sample_digest}",
    ]
    lines += [
        f"changed: {report.clock.moment(one.first)}, {minutes(one.end - one.first)},"
        f" {_was(one.before)} -> {_was(one.after)}"
        for one in revision.changes[:MOST_CREDITS]
    ]
    return Text("\n".join(plain(line) for line in lines), style="dim")


def _was(verdict: Verdict | None) -> str:
    return "not measured" if verdict is None else verdict.value


def _table(columns: Iterable[str], right: Sequence[int] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold")
    return table
