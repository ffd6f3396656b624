"""`smartmail sla report` and `smartmail sla verify-report`: the commands, wired by the command line's own modules.

Nothing heavy is imported before it is needed: the database by the one, neither database nor templates by the other.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smartmail.core.months import Month, MonthError
from smartmail.report.model import Audience
from smartmail.report.outputs import SUFFIXES, Form, write

if TYPE_CHECKING:
    from smartmail.report.gather import Wanted
    from smartmail.report.model import MonthReport
    from smartmail.store.database import Database

DEFAULT_FILE = Path("smartmail.toml")
WRONG, BAD_USAGE = 1, 2
"""Exit codes: a figure is wrong; this is no report."""

_FORM_HELP = "What to write. Repeatable with --output; the terminal is for looking at it now."


def report(
    ctx: typer.Context,
    month: Annotated[str, typer.Argument(metavar="MONTH", help="A closed one, as 2026-10.")],
    service: Annotated[
        str, typer.Option("--service", help="Which one; needed where there are several.", show_default=False)
    ] = "",
    customer: Annotated[
        str,
        typer.Option("--customer", help="To send to this one: name or id. Only its own credits.", show_default=False),
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="To publish: nobody's credits.")] = False,
    revision: Annotated[int, typer.Option(min=0, help="Which revision; 0: the latest.")] = 0,
    form: Annotated[list[Form] | None, typer.Option("--format", help=_FORM_HELP, show_default="terminal")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file, or a folder for several formats. Without: standard output."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """The month's report: minutes, incidents, maintenance, arithmetic, credits."""
    from smartmail.report.gather import Wanted
    from smartmail.store.errors import Invalid

    if public and customer:
        raise Invalid("--public and --customer exclude each other", "a report is for everybody or for one")
    try:
        Month.parse(month)
    except MonthError as error:
        raise Invalid(str(error)) from error
    audience = Audience.EVERYBODY if public else Audience.CUSTOMER if customer else Audience.OPERATOR
    forms = list(dict.fromkeys((*(form or ()), *([Form.JSON] if as_json else ())))) or [Form.TERMINAL]
    if len(forms) > 1 and (output is None or not output.is_dir()):
        raise Invalid("several formats need a folder", "give --output FOLDER, one that is there")
    database = _open(ctx)
    name = service or _only_service(database, month)
    made = _gathered(database, Wanted(name, month, revision, audience, customer))
    for one in forms:
        _deliver(made, one, output)


def verify_report(
    file: Annotated[Path, typer.Argument(help="A report as JSON; - reads standard input.", allow_dash=True)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Compute every figure of a published report again, from the votes in it: no database, no network.

    That the votes are those that were published, only the digests prove: compare them with those you were given.
    Exit codes: 0 it holds, 1 a figure is wrong, 2 it is no report.
    """
    from smartmail.report.verify import NotAReport, read, verify

    octets = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    try:
        found = verify(read(octets))
    except NotAReport as error:
        typer.echo(f"error: {file}: this is no report: {_plain(str(error))}", err=True)
        raise typer.Exit(BAD_USAGE) from error
    if as_json:
        told = {"name": found.name, "record": found.record_digest, "report": found.digest}
        typer.echo(json.dumps({**told, "problems": found.problems, "remarks": found.remarks}, indent=2))
        raise typer.Exit(WRONG if found.problems else 0)
    for problem in found.problems:
        typer.echo(_plain(problem))
    for remark in found.remarks:
        typer.echo(f"note: {_plain(remark)}", err=True)
    if found.problems:
        count = len(found.problems)
        typer.echo(f"{_plain(found.name)}: {count} {'place is' if count == 1 else 'places are'} not as computed")
        raise typer.Exit(WRONG)
    typer.echo(f"{found.name}: every figure is as computed")
    typer.echo(f"record sha256 {found.record_digest}")
    typer.echo(f"report sha256 {found.digest}")
    typer.echo(
        "So the figures follow from the votes in this file. That those are the votes that were published, only the"
        " digests prove: compare them with the ones you were given."
    )


def _gathered(database: "Database", wanted: "Wanted") -> "MonthReport":
    from smartmail.report.gather import gather
    from smartmail.store.samples import SampleStore

    return gather(database, wanted, SampleStore(database.url).failures)


def _only_service(database: "Database", month: str) -> str:
    """The one service that has closed the month. Raises NotFound for none, Invalid for several."""
    from smartmail.store.errors import Invalid, NotFound
    from smartmail.store.sla import latest_revisions

    with database.read() as connection:
        names = [one.service for one in latest_revisions(connection, month)]
    if not names:
        raise NotFound(f"{month} is not closed", f'close it with "smartmail sla close {month}"')
    if len(names) > 1:
        raise Invalid(f"{len(names)} services have closed {month}", f"give --service: {', '.join(names)}")
    return names[0]


def _deliver(made: "MonthReport", form: Form, output: Path | None) -> None:
    if output is None and form is Form.TERMINAL:
        from rich.console import Console

        from smartmail.report.terminal import show

        width = None if sys.stdout.isatty() else 120
        show(made, Console(width=width, highlight=False, markup=False, emoji=False))
        return
    octets = _written(made, form)
    if output is None:
        sys.stdout.buffer.write(octets)
        sys.stdout.buffer.flush()
        return
    path = output / file_name(made, form) if output.is_dir() else output
    path.write_bytes(octets)
    typer.echo(f"{path}: {len(octets)} octets", err=True)


def file_name(made: "MonthReport", form: Form) -> str:
    """What a report is called in a folder: service, month and revision, and nothing that anybody else has written."""
    whose = {Audience.OPERATOR: "operator", Audience.CUSTOMER: "customer", Audience.EVERYBODY: "public"}
    return f"{made.record.service}-{made.record.month}-r{made.revision.number}-{whose[made.audience]}{SUFFIXES[form]}"


def _written(made: "MonthReport", form: Form) -> bytes:
    from smartmail.report.pdf import PdfUnavailable
    from smartmail.store.errors import StoreUnavailable

    try:
        return write(made, form)
    except PdfUnavailable as error:
        raise StoreUnavailable(error.message, error.hint) from error


def _open(ctx: typer.Context) -> "Database":
    """The configured database, its schema brought up to date. Raises ConfigError and StoreError."""
    from smartmail.config import load
    from smartmail.store.database import Database
    from smartmail.store.migrations import ensure

    named = getattr(ctx.find_root().obj, "config", None)
    path = named if named is not None else DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    url = load(path).database_url
    ensure(url)
    database = Database(url)
    ctx.call_on_close(database.close)
    return database


def _plain(text: str) -> str:
    return text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)
