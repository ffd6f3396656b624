"""What the nouns share: exit codes, the configuration, the store, tables, JSON, and errors in one form."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from smartmail.config import Config
    from smartmail.store.database import Database

DEFAULT_FILE = Path("smartmail.toml")
"""Read from the working directory when no other is named."""

_UNBOUNDED = 10_000
"""Columns of a table that no person looks at: nothing is cut or wrapped."""

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
"""Type of the `--json` option that every reading command has: `as_json: JsonFlag = False`."""


class ExitCode(IntEnum):
    """What scripts may rely on."""

    OK = 0
    FOUND_BAD = 1
    """It worked, and what it looked at is not well; or what was asked for is not there."""
    USAGE = 2
    """Wrong arguments, or a configuration that cannot be used."""
    UNREACHABLE = 3
    """A database, server or file cannot be reached."""
    INTERRUPTED = 130
    """Ctrl-C: 128 + SIGINT, as shells count."""
    TERMINATED = 143
    """Told to end: 128 + SIGTERM."""


class CliError(Exception):
    """A failure that we can explain: what is wrong, where, and what to do about it."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "", code: ExitCode = ExitCode.FOUND_BAD) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy
        self.code = code


@dataclass(frozen=True, slots=True)
class Globals:
    """The options before the noun. `config`: --config or SMARTMAIL_CONFIG, else None."""

    config: Path | None = None


def config_path(ctx: typer.Context) -> Path | None:
    """The file to read: the one named, else ./smartmail.toml if there is one, else None."""
    options = ctx.find_root().obj
    if isinstance(options, Globals) and options.config is not None:
        return options.config
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def load_config(ctx: typer.Context) -> "Config":
    """The configuration. Raises ConfigError, which `main` prints."""
    from smartmail.config import load

    return load(config_path(ctx))


def open_store(ctx: typer.Context) -> "Database":
    """The configured database, its schema brought up to date; closed when the command ends.

    Raises ConfigError and StoreError, which `main` prints.
    """
    url = load_config(ctx).database_url
    # 600 ms of imports that only the commands with a database shall pay.
    from smartmail.store.database import Database
    from smartmail.store.migrations import ensure

    ensure(url)
    database = Database(url)
    ctx.call_on_close(database.close)
    return database


def console(*, stderr: bool = False) -> "Console":
    """A rich console. Colour only on a terminal, never with NO_COLOR; only a terminal folds lines."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNBOUNDED
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print rows as a table. Numbers are put to the right; nothing in a cell is read as markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    listed = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numeric = bool(listed) and all(isinstance(row[index], int) for row in listed)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*(Text(_cell(value)) for value in row))
    console().print(table)


def print_json(value: object) -> None:
    """Print a value as JSON: keys in their order, what JSON does not know as text."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_error(error: CliError) -> None:
    """One line on standard error: where, what, what to do."""
    for line in error.what.splitlines() or [""]:
        text = f"{error.where}: {line}" if error.where else line
        _complain(text, error.remedy)


def _complain(text: str, remedy: str) -> None:
    from rich.text import Text

    line = Text.assemble(("error: ", "bold red"), text)
    if remedy:
        line.append(f" ({remedy})", "cyan")
    console(stderr=True).print(line, soft_wrap=True)


def failure_of(error: Exception) -> CliError | None:
    """What `error` means to the user, or None for a fault of ours."""
    if isinstance(error, CliError):
        return error
    # By sys.modules: an error of a module that was never imported cannot have been raised.
    if (config := sys.modules.get("smartmail.config")) and isinstance(error, config.ConfigError):
        return CliError(str(error), code=ExitCode.USAGE)
    if (store := sys.modules.get("smartmail.store.errors")) and isinstance(error, store.StoreError):
        unreachable = isinstance(error, store.StoreUnavailable)
        wrong = isinstance(error, store.Invalid)
        code = ExitCode.UNREACHABLE if unreachable else ExitCode.USAGE if wrong else ExitCode.FOUND_BAD
        return CliError(error.message, remedy=error.hint, code=code)
    if isinstance(error, OSError):
        where = str(error.filename) if error.filename else ""
        return CliError(error.strerror or str(error), where=where, code=ExitCode.UNREACHABLE)
    return None


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    # A login or address may hold terminal escapes.
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
