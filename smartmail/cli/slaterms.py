"""The terms as the nouns that need them get them: the configured and the recorded ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from smartmail.cli.common import CliError, ExitCode, load_config
from smartmail.core.sla import Terms, TermsError
from smartmail.monitor.months import terms_at
from smartmail.store import sla
from smartmail.store.agents import roster_history

if TYPE_CHECKING:
    from smartmail.store.database import Database


def configured_terms(ctx: typer.Context) -> tuple[Terms, ...]:
    """What stands in the configuration. Raises ConfigError."""
    return load_config(ctx).sla_terms


def known_service(database: "Database", service: str) -> None:
    """Raises CliError for a service that no roster has named, so that a slip of the pen is not promised to customers.
    Before the first roster any name will do."""
    with database.read() as connection:
        names = sorted({name for roster in roster_history(connection) for name in roster.services})
    if names and service not in names:
        raise CliError(f'there is no service "{service}"', remedy=f"there are: {', '.join(names)}")


def all_terms(ctx: typer.Context, database: "Database") -> list[Terms]:
    """Those recorded and those configured. Raises Conflict when recorded ones were changed."""
    with database.read() as connection:
        return sla.known_terms(connection, configured_terms(ctx))


def terms_for(ctx: typer.Context, database: "Database", at_ns: int) -> Terms:
    """The terms in force at a time. Raises CliError when there are none, Conflict when recorded ones were changed."""
    return terms_of(all_terms(ctx, database), at_ns // (60 * 10**9))


def terms_of(known: Sequence[Terms], minute: int) -> Terms:
    """The terms of the month that a minute is in. Raises CliError when there are none."""
    try:
        return terms_at(known, minute)
    except TermsError as error:
        raise CliError(str(error), remedy="write [[terms]] into the configuration", code=ExitCode.USAGE) from error
