"""The terms as the nouns that need them get them: the configured and the recorded ones."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from smartmail.cli.common import CliError, ExitCode, load_config
from smartmail.core.months import Month
from smartmail.core.sla import Terms, TermsError, terms_in_force
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


def terms_for(ctx: typer.Context, database: "Database", at_ns: int) -> Terms:
    """The terms in force at a time. Raises CliError when there are none, Conflict when recorded ones were changed."""
    with database.read() as connection:
        known = sla.known_terms(connection, configured_terms(ctx))
    moment = datetime.fromtimestamp(at_ns // 10**9, UTC)
    try:
        return terms_in_force(known, Month(moment.year, moment.month))
    except TermsError as error:
        raise CliError(str(error), remedy="write [[terms]] into the configuration", code=ExitCode.USAGE) from error
