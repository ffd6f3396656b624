"""The backup's pages: a restore drill's report and the scorecard, each one HTML file with nothing to load, to read,
print and keep."""

from dataclasses import dataclass
from datetime import tzinfo
from functools import cache
from typing import TYPE_CHECKING, Final

from smartmail.core.drill_report import DrillReport, Fault
from smartmail.core.scorecard import Mark, Scorecard
from smartmail.report.document import cleaned
from smartmail.report.wording import Clock, listed, number, plural

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_FINDINGS: Final = 60
"""On the page; the JSON has more."""
MOST_MAILBOXES: Final = 60
FAULT_WORDS: Final = {
    Fault.NOTHING_RESTORED: "Nothing came back",
    Fault.NOTHING_TO_PROVE: "Nothing to prove",
    Fault.MISSING: "File missing",
    Fault.SIZE: "Wrong size",
    Fault.HASH: "Wrong content",
    Fault.DOUBLED: "Two contents",
    Fault.FEWER: "Messages missing",
    Fault.NO_SNAPSHOT: "No snapshot",
    Fault.NO_MANIFEST: "No manifest",
    Fault.WRONG_MANIFEST: "Wrong manifest",
    Fault.RESTORE_FAILED: "Restore failed",
    Fault.UNREADABLE: "Cannot be opened",
    Fault.DUMP: "Dump does not load",
}
KIND_WORDS: Final = {
    "maildir": "mail",
    "files": "files",
    "sqlite": "SQLite",
    "postgresql": "PostgreSQL",
    "dovecot": "mail, by doveadm",
    "queue": "mail queue",
}
MARK_WORDS: Final = {Mark.MET: "Met", Mark.NOT_MET: "Not met", Mark.NOT_PROVED: "Not proved"}


@dataclass(frozen=True, slots=True)
class Seal:
    """Who signed a drill's report: the public key and the signature, in base64."""

    key: str
    signature: str


def drill_html(report: DrillReport, zone: tzinfo, seal: Seal | None = None) -> str:
    """The page of a drill. zone: for showing times. The same report is always the same text."""
    return (
        _environment()
        .get_template("drill.html.j2")
        .render(
            report=report,
            digest=report.digest(),
            seal=seal,
            clock=Clock(zone),
            headline=drill_headline(report),
            findings=report.findings[:MOST_FINDINGS],
            findings_cut=len(report.findings) + report.more - len(report.findings[:MOST_FINDINGS]),
            mailboxes=report.mailboxes[:MOST_MAILBOXES],
            mailboxes_cut=max(0, len(report.mailboxes) - MOST_MAILBOXES),
        )
    )


def scorecard_html(card: Scorecard, zone: tzinfo) -> str:
    """The page of a scorecard. The same card is always the same text."""
    return (
        _environment()
        .get_template("scorecard.html.j2")
        .render(card=card, clock=Clock(zone), headline=scorecard_headline(card))
    )


def drill_headline(report: DrillReport) -> str:
    """What a drill has shown, in a sentence."""
    if report.proved:
        parts = [f"{plural(report.files, 'file')} restored from {report.repository} and proved by SHA-256"]
        if report.mailboxes:
            parts.append(f"{plural(len(report.mailboxes), 'mailbox', 'mailboxes')} opened and counted")
        if report.dumps:
            parts.append(f"{plural(len(report.dumps), 'database')} loaded")
        return f"{listed(tuple(parts))}."
    count = len(report.findings) + report.more
    if not report.files:
        return f"Nothing that was restored from {report.repository} could be proved; {plural(count, 'finding')}."
    wanted = sum(one.wanted for one in report.jobs)
    return f"{number(report.files)} of {plural(wanted, 'file')} proved; {plural(count, 'finding')}."


def scorecard_headline(card: Scorecard) -> str:
    """How the card stands, in a sentence."""
    if card.met:
        return "All five are met, each by facts that were verified within their windows."
    words = [f"{one.digit} ({one.title[0].lower()}{one.title[1:]})" for one in card.digits if one.mark is not Mark.MET]
    return f"{plural(card.count, 'digit')} of 5 {'is' if card.count == 1 else 'are'} met. Open: {listed(tuple(words))}."


def drill_text(report: DrillReport) -> str:
    """A drill for a terminal without colours or for a log: lines, no control characters."""
    lines = ["The restore is proved." if report.proved else "The restore is NOT proved.", drill_headline(report)]
    for job in report.jobs:
        took = f"{size(job.octets)}, restored in {duration(job.restore_ms)}"
        lines.append(f"  {job.job}: {number(job.files)} of {plural(job.wanted, 'file')} proved, {took}")
    lines += [
        f"  {one.address}: {number(one.messages)} opened, {number(one.expected)} written down"
        for one in report.mailboxes
    ]
    lines += [
        f"  {one.name}: {plural(one.tables, 'table')}, {plural(one.rows, 'row')}; {one.how}" for one in report.dumps
    ]
    for one in report.findings[:MOST_FINDINGS]:
        where = f"{one.where}: " if one.where else ""
        lines.append(f"  {FAULT_WORDS[one.fault]} ({one.job or 'all'}): {where}{one.text}")
    if more := len(report.findings) + report.more - len(report.findings[:MOST_FINDINGS]):
        lines.append(f"  and {plural(more, 'more finding')}")
    return "".join(f"{cleaned(line)}\n" for line in lines)


def size(octets: int) -> str:
    """ "812 octets", "1.4 MiB"."""
    if octets < 1024:
        return plural(octets, "octet")
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if octets >= 1 << power:
            tenths = octets * 10 >> power
            return f"{tenths // 10:,}.{tenths % 10} {unit}" if tenths < 1000 else f"{tenths // 10:,} {unit}"
    raise AssertionError  # pragma: no cover - the last unit is 1024


def duration(ms: int) -> str:
    """ "0.4 s", "14 s", "12 min 5 s", "3 h 20 min"."""
    seconds = ms // 1000
    if seconds < 10:
        return f"{seconds}.{ms % 1000 // 100} s"
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if left else f"{hours} h"


def age(ms: int | None) -> str:
    """How long ago, roughly: "12 min", "26 h", "9 days"; "never" for None."""
    if ms is None:
        return "never"
    minutes = max(ms, 0) // 60_000
    if minutes < 1:
        return "just now"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 72 * 60 else plural(minutes // 1440, "day")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader("smartmail.report")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        finalize=cleaned,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    for name in ("report.css", "backup.css"):
        style = Markup(loader.get_source(environment, name)[0])  # noqa: S704 - our own file
        environment.globals[name.removesuffix(".css") + "_style"] = style
    environment.globals |= {"fault_words": FAULT_WORDS, "kind_words": KIND_WORDS, "mark_words": MARK_WORDS}
    environment.filters |= {
        "length_of": len,
        "number": number,
        "plural": plural,
        "size": size,
        "duration": duration,
        "age": age,
    }
    return environment
