"""The report as one HTML file: style and pictures within, no script, nothing to load; to read, print and keep."""

import re
from functools import cache
from typing import TYPE_CHECKING, Final

from smartmail.report.maps import location_strips, minute_map
from smartmail.report.model import Audience, MonthReport
from smartmail.report.selection import (
    DECISIONS,
    by_length,
    cut_note,
    day_lines,
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
    notice,
    number,
    percent,
    plural,
    set_sum,
    target,
)

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_INCIDENTS: Final = 60
MOST_CHANGES: Final = 40
_CONTROL: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""What has no place in a text of people: control characters, and what turns the direction of a line."""


def html(report: MonthReport) -> str:
    """The page. The same report is always the same text."""
    shown = by_length(report.incidents, MOST_INCIDENTS)
    measured, span = report.record.assessment.span, report.record.evidence.span
    template = _environment().get_template("report.html.j2")
    return template.render(
        report=report,
        record=report.record,
        assessment=report.record.assessment,
        terms=report.terms,
        clock=report.clock,
        audience=report.audience.value,
        for_customer=report.audience is Audience.CUSTOMER,
        for_operator=report.audience is Audience.OPERATOR,
        month=minute_map(report.days),
        strips=location_strips(report.locations, report.days, measured.first - span.first, measured.minutes),
        marked_days=day_lines(report.days),
        clean_days=sum(day.clean and not day.unmeasured for day in report.days),
        incidents=shown,
        incidents_cut=cut_note(report.incidents, shown),
        credits=first_credits(report.credits),
        changes=report.revision.changes[:MOST_CHANGES],
        changes_cut=max(0, len(report.revision.changes) - MOST_CHANGES),
        down_minutes=sum(line.incident.down_minutes for line in report.incidents),
    )


def cleaned(value: object) -> object:
    """What is put into the page: control characters become U+FFFD. Markup of ours stays markup."""
    from markupsafe import Markup

    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _CONTROL.sub("\ufffd", value)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("smartmail.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=cleaned,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    loader = environment.loader
    if loader is None:  # pragma: no cover - it was given above
        raise RuntimeError("no loader")
    environment.globals["style"] = Markup(loader.get_source(environment, "report.css")[0])  # noqa: S704 - our own file
    environment.globals["result_words"] = RESULT_WORDS
    environment.globals["decisions"] = DECISIONS
    environment.filters |= {
        "remarks": remarks,
        "length_of": len,
        "notice": notice,
        "number": number,
        "minutes": minutes,
        "decision": decision,
        "length": length,
        "percent": percent,
        "plural": plural,
        "listed": listed,
        "sum": set_sum,
        "target": target,
        "window_state": window_state,
    }
    return environment
