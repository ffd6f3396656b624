"""What people see while a backup goes on: bars on a terminal, a line for each step elsewhere."""

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity, End
from smartmail.core.restic_messages import Progress as Step

COLOURS = {RunState.OK: "green", RunState.PARTIAL: "yellow", RunState.FAILED: "bold red", RunState.STALE: "yellow"}
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def size(octets: int) -> str:
    """As people read it: 1.4 GiB."""
    for unit, name in _UNITS:
        if octets >= unit:
            return f"{octets // unit}.{octets % unit * 10 // unit} {name}"
    return f"{octets} B"


def lasted(milliseconds: int) -> str:
    """A duration: 850 ms, 4.2 s, 12 min, 5 h, 3 d."""
    if milliseconds < 1_000:
        return f"{milliseconds} ms"
    if milliseconds < 60_000:
        return f"{milliseconds // 1000}.{milliseconds % 1000 // 100} s"
    minutes = milliseconds // 60_000
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} d"


class Display:
    """Watches a night. Bars, where the console is a terminal; else nothing until a step ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def began(self, activity: Activity, job: str, repository: str, run: str) -> None:
        """Show a bar."""
        if self._bars is not None:
            self._tasks[_name(activity, job, repository)] = self._bars.add_task(
                _name(activity, job, repository), total=None, done=""
            )

    def progress(self, activity: Activity, job: str, repository: str, step: str, progress: Step) -> None:
        """Move it."""
        task = self._tasks.get(_name(activity, job, repository))
        if self._bars is not None and task is not None:
            done = f"{progress.done:,} of {progress.total:,}" if progress.total else f"{progress.done:,}"
            if progress.octets:
                done += f"  {size(progress.octets_done)}"
            self._bars.update(
                task,
                total=1000 if progress.thousandths else None,
                completed=progress.thousandths,
                done=f"{step} {done}",
            )

    def ended(self, activity: Activity, job: str, repository: str, run: str, end: End) -> None:
        """Say how it ended."""
        with self._lock:
            name = _name(activity, job, repository)
            task = self._tasks.pop(name, None)
            if self._bars is not None and task is not None:
                self._bars.remove_task(task)
            line = Text.assemble((f"{end.state.value:<8}", COLOURS.get(end.state, "")), name)
            told = ", ".join(said(activity, end))
            if told:
                line.append(f"  {told}")
            self._console.print(line, soft_wrap=True)

    def log(self, text: str) -> None:
        """A line."""
        self._console.print(Text(f"        {text}"), soft_wrap=True)


def said(activity: Activity, end: End) -> list[str]:
    """What of an end people want to read."""
    facts = {name: value for name, value in end.facts.items() if isinstance(value, int)}
    told: list[str] = []
    if activity is Activity.BACKUP and "files" in facts:
        told.append(f"{facts['files']:,} files, {size(facts['octets'])}, {size(facts['added'])} new")
        if facts.get("rounds"):
            told.append(f"folders run again {facts['rounds']} times")
    if activity is Activity.COPY and "proved" in facts:
        told.append(f"{facts['copied']} copied, {facts['proved']} proved by their tree")
    strange = end.facts.get("anomalies")
    if isinstance(strange, list):
        told += [str(one) for one in strange]
    if end.words:
        told.append(end.words)
    elif end.reason:
        told.append(end.reason.value.replace("_", " "))
    return told


def _name(activity: Activity, job: str, repository: str) -> str:
    if activity is Activity.COPY:
        return f"copy to {repository}"
    return f"{activity.value} {job}" if job else f"{activity.value} {repository}"
