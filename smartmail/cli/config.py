"""`smartmail config`: is it right, what counts and why, and what could be said."""

import os
from typing import Annotated

import typer
from pydantic import SecretStr

from smartmail.cli.common import (
    CliError,
    ExitCode,
    JsonFlag,
    config_path,
    console,
    print_error,
    print_json,
    print_table,
)
from smartmail.config import ConfigError, flatten, json_schema, read, reference, sample_toml, toml_value

app = typer.Typer(no_args_is_help=True, help="Check and show the configuration.")

_HIDDEN = "***"


@app.command()
def check(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """Tell everything that is wrong with the configuration. Exit code 1 if anything is."""
    path = config_path(ctx)
    name = str(path) if path else "embedded default"
    try:
        read(path, os.environ)
    except ConfigError as error:
        problems = error.problems
    else:
        problems = ()
    if as_json:
        listed = [
            {"file": one.file, "line": one.line, "key": one.key, "reason": one.reason, "hint": one.hint}
            for one in problems
        ]
        print_json({"file": name, "ok": not problems, "problems": listed})
    elif not problems:
        console().print(f"{name}: configuration is right")
    for one in () if as_json else problems:
        where = f"{one.file}:{one.line}" if one.line else one.file
        what = f"{one.key}: {one.reason}" if one.key else one.reason
        print_error(CliError(what, where=where, remedy=one.hint))
    raise typer.Exit(ExitCode.FOUND_BAD if problems else ExitCode.OK)


@app.command()
def show(
    ctx: typer.Context,
    as_json: JsonFlag = False,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not the default.")] = False,
) -> None:
    """Show every value that counts, and where it comes from. Secrets are hidden."""
    loaded = read(config_path(ctx), os.environ)
    rows = [
        (key, _plain(value), loaded.origins[key])
        for key, value in flatten(loaded.config)
        if not changed or loaded.origins[key] != "default"
    ]
    if as_json:
        values = {key: {"value": value, "origin": origin} for key, value, origin in rows}
        print_json({"file": str(loaded.file) if loaded.file else None, "values": values})
    elif not rows:
        console().print("every value is the default")
    else:
        print_table(("key", "value", "from"), [(key, toml_value(value), origin) for key, value, origin in rows])


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    print_json(json_schema())


@app.command()
def sample() -> None:
    """Print a configuration file with every key explained."""
    typer.echo(sample_toml(), nl=False)


@app.command(name="reference")
def print_reference() -> None:
    """Print the reference page of the configuration, in Markdown."""
    typer.echo(reference(), nl=False)


def _plain(value: object) -> str | int | bool | list[str]:
    """A value as JSON has it; a secret that is set as "***"."""
    if isinstance(value, SecretStr):
        return _HIDDEN if value.get_secret_value() else ""
    if isinstance(value, tuple):
        return [str(item) for item in value]
    if isinstance(value, bool | int):
        return value
    return "" if value is None else str(value)
