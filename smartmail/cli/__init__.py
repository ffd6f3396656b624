"""The command line: nouns, then verbs. This file is the wiring list, one module of this folder for each noun.

A noun's module defines `app: typer.Typer`. It is imported when its noun is used, so that `smartmail --help`
is quick.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from smartmail import __version__
from smartmail.cli.common import CliError, ExitCode, Globals, failure_of, print_error

NOUNS: Mapping[str, str] = {
    "serve": "Run the relay.",
    "config": "Check and show the configuration.",
    "customer": "Those who pay.",
    "domain": "Domains of customers.",
    "account": "Mailboxes: who may log in, send and receive.",
    "plan": "Plans and their limits.",
    "events": "What happened to each mail.",
    "monitor": "The collector, and how the services stand now.",
    "agent": "Agents of the monitor: one at each location.",
    "maintenance": "Servicing announced to customers.",
    "sla": "The uptime promised: months, credits, reports.",
    "subscription": "What customers pay for.",
    "ledger": "The chain of credits and closed months.",
    "backup": "Backups onsite and offsite, and mailboxes brought back.",
    "trust": "SPF, DKIM, DMARC, MTA-STS, TLSA, PTR, DNSBL: advice, never SLA.",
}


class LazyGroup(TyperGroup):
    """Knows its nouns by name and help text; imports a noun's module when it is used."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for noun, text in NOUNS.items():
            self.add_command(TyperGroup(name=noun, help=text), noun)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command for args[0], now in earnest: the stub is replaced by what the module defines."""
        name, _stub, rest = super().resolve_command(ctx, args)
        return name, name and load_noun(name), rest


def load_noun(noun: str) -> Any:
    """The command (group) of a noun of NOUNS. Raises CliError when this installation has no module for it."""
    module = f"smartmail.cli.{noun}"
    try:
        app = import_module(module).app
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        what = f"this installation has no `{noun}` commands"
        raise CliError(what, where=module, remedy="install the package again", code=ExitCode.USAGE) from None
    command = typer.main.get_command(app)
    command.name = noun
    command.help = command.help or NOUNS[noun]
    # Completion is installed once, for the whole program, not once for each noun.
    command.params = [one for one in command.params if one.name not in ("install_completion", "show_completion")]
    return command


app = typer.Typer(
    name="smartmail",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"smartmail {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="SMARTMAIL_CONFIG",
            metavar="PATH",
            help="Configuration file. Without it: ./smartmail.toml if there is one, else the defaults.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Smart Mail: the operations toolkit of an e-mail hosting company.

    Exit codes: 0 well, 1 something bad was found, 2 wrong usage or configuration, 3 something out of reach.
    """
    ctx.obj = Globals(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code.

    What we know how to explain is one clear line on standard error; anything else is a fault of ours and
    keeps its traceback.
    """
    try:
        command = typer.main.get_command(app)
        command(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="smartmail")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.FOUND_BAD
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        print_error(failure)
        return failure.code
    return ExitCode.OK
