"""A report in each of its forms, to a file or a terminal."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from smartmail.report.model import MonthReport


class Form(StrEnum):
    """What a report can be written as."""

    TERMINAL = "terminal"
    HTML = "html"
    PDF = "pdf"
    JSON = "json"
    DAYS = "days-csv"
    INCIDENTS = "incidents-csv"
    CREDITS = "credits-csv"


SUFFIXES: Final[Mapping[Form, str]] = MappingProxyType(
    {
        Form.TERMINAL: ".txt",
        Form.HTML: ".html",
        Form.PDF: ".pdf",
        Form.JSON: ".json",
        Form.DAYS: "-days.csv",
        Form.INCIDENTS: "-incidents.csv",
        Form.CREDITS: "-credits.csv",
    }
)


def write(report: MonthReport, form: Form) -> bytes:
    """The octets of a report. The same report and form are always the same. Raises pdf.PdfUnavailable."""
    return _WRITERS[form](report)


def _terminal(report: MonthReport) -> bytes:
    from rich.console import Console

    from smartmail.report.terminal import renderable

    console = Console(width=120, no_color=True, force_terminal=False, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(renderable(report))
    # Rich fills lines up with blanks.
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()).encode(errors="replace")


def _html(report: MonthReport) -> bytes:
    from smartmail.report.document import html

    return html(report).encode()


def _pdf(report: MonthReport) -> bytes:
    from smartmail.report.pdf import pdf

    return pdf(report)


def _json(report: MonthReport) -> bytes:
    from smartmail.report.published import octets

    return octets(report)


def _days(report: MonthReport) -> bytes:
    from smartmail.report.tables import days_csv

    return days_csv(report).encode(errors="replace")


def _incidents(report: MonthReport) -> bytes:
    from smartmail.report.tables import incidents_csv

    return incidents_csv(report).encode(errors="replace")


def _credits(report: MonthReport) -> bytes:
    from smartmail.report.tables import credits_csv

    return credits_csv(report).encode(errors="replace")


_WRITERS: Final[Mapping[Form, Callable[[MonthReport], bytes]]] = MappingProxyType(
    {
        Form.TERMINAL: _terminal,
        Form.HTML: _html,
        Form.PDF: _pdf,
        Form.JSON: _json,
        Form.DAYS: _days,
        Form.INCIDENTS: _incidents,
        Form.CREDITS: _credits,
    }
)
