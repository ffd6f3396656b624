"""`smartmail events`: what happened to each mail."""

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from smartmail.cli.acting import now_ns, parse_since, stamp
from smartmail.cli.common import JsonFlag, open_store, print_json, print_table
from smartmail.core.policy import Reason, Verdict
from smartmail.store import accounts
from smartmail.store.errors import NotFound
from smartmail.store.history import MAX_EVENTS, EventQuery, StoredEvent, find_events

if TYPE_CHECKING:
    from smartmail.store.database import Database

app = typer.Typer(help="What happened to each mail.")

FOLLOW_SECONDS = 0.5
EVENT_COLUMNS = ("when", "verdict", "reason", "client", "login", "from", "to", "reply", "queue id")

_ENVELOPE_SHOWN = 3
"""Recipients shown in a table; the rest are counted."""


@app.command()
def events(
    ctx: typer.Context,
    account: Annotated[str | None, typer.Option(help="Address of an account.", show_default=False)] = None,
    since: Annotated[
        str | None, typer.Option(help="2h, 7d, 2026-11-23 or 2026-11-23T14:00 (UTC).", show_default=False)
    ] = None,
    verdict: Annotated[Verdict | None, typer.Option(help="How it ended.", show_default=False)] = None,
    reason: Annotated[Reason | None, typer.Option(help="Why it ended so.", show_default=False)] = None,
    client: Annotated[
        str | None, typer.Option(help="IP address, or IPv6 network as limits count it.", show_default=False)
    ] = None,
    recipient: Annotated[str | None, typer.Option(help='Address, or "@domain".', show_default=False)] = None,
    queue_id: Annotated[str | None, typer.Option(help="The upstream's queue id.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=MAX_EVENTS, help="At most so many.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show the newest events that match, oldest first. With --follow, JSON is one object a line."""
    database = open_store(ctx)
    account_id, login = _account(database, account)
    query = EventQuery(
        account_id=account_id,
        login=login,
        since_ns=parse_since(since, now_ns()) if since else 0,
        verdict=verdict or "",
        reason=reason or "",
        client=client or "",
        recipient=recipient or "",
        queue_id=queue_id or "",
        limit=limit,
    )
    if follow:
        _follow(database, query, as_json=as_json)
        return
    with database.read() as connection:
        found = find_events(connection, query)
    if as_json:
        print_json([one.as_dict() for one in found])
    else:
        print_table(EVENT_COLUMNS, [event_cells(one) for one in found])


def event_cells(event: StoredEvent) -> tuple[object, ...]:
    """One event as a row of a table."""
    row = event.row
    shown = [address if 200 <= code < 300 else f"{address} ({code})" for address, code, _ in row.recipients]
    more = f" and {len(shown) - _ENVELOPE_SHOWN} more" if len(shown) > _ENVELOPE_SHOWN else ""
    return (
        stamp(row.at_ns),
        row.verdict,
        f"{row.reason} ({row.limit_name})" if row.limit_name else row.reason,
        row.client_address,
        row.login,
        row.reverse_path or "<>",
        ", ".join(shown[:_ENVELOPE_SHOWN]) + more,
        row.reply,
        row.queue_id,
    )


def _account(database: "Database", address: str | None) -> tuple[int | None, str]:
    """Id or login to look for: an address that is no account now may have been one."""
    if address is None:
        return None, ""
    with database.read() as connection:
        try:
            found = accounts.get_account(connection, address)
        except NotFound:
            return None, accounts.account_address(address)
    return found.id, ""


def _follow(database: "Database", query: EventQuery, *, as_json: bool) -> None:
    while True:
        query = print_new(database, query, as_json=as_json)
        time.sleep(FOLLOW_SECONDS)


def print_new(database: "Database", query: EventQuery, *, as_json: bool) -> EventQuery:
    """Print what matches, a line each; return the query for what comes after."""
    with database.read() as connection:
        found = find_events(connection, query)
    for one in found:
        typer.echo(json.dumps(one.as_dict()) if as_json else _line(one))
    return replace(query, after_id=max(one.id for one in found), limit=MAX_EVENTS) if found else query


def _line(event: StoredEvent) -> str:
    text = "  ".join(str(cell) for cell in event_cells(event) if cell)
    # A client chose some of these characters: none may reach the terminal as a control.
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
