"""`smartmail domain`: domains of customers."""

from typing import Annotated

import typer
from sqlalchemy import Connection

from smartmail.cli.acting import (
    CHANGE_COLUMNS,
    DryRun,
    Reason,
    Yes,
    act,
    carry_out,
    change_dicts,
    change_rows,
    say,
    stamp,
)
from smartmail.cli.common import JsonFlag, open_store, print_json, print_table
from smartmail.store import accounts, customers
from smartmail.store.moves import Move, domain_moves, standing_changes
from smartmail.store.records import DomainRecord, Subject

app = typer.Typer(no_args_is_help=True, help="Domains of customers.")

Name = Annotated[str, typer.Argument(help="The domain.")]
Customer = Annotated[str, typer.Option("--customer", help="Name or id of the customer.", show_default=False)]


@app.command()
def add(ctx: typer.Context, name: Name, customer: Customer) -> None:
    """Add a domain to a customer: mail to it is taken from now on."""
    with open_store(ctx).write() as connection:
        owner = customers.get_customer(connection, customer)
        added = customers.add_domain(connection, name, owner.id, act())
    say(f"domain {added} added to {owner.name}")


@app.command("list")
def list_(
    ctx: typer.Context,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the domains."""
    with open_store(ctx).read() as connection:
        names = {one.id: one.name for one in customers.list_customers(connection)}
        owner = None if customer is None else customers.get_customer(connection, customer).id
        found = customers.list_domains(connection, owner)
    if as_json:
        print_json([_as_dict(one, names[one.customer]) for one in found])
    else:
        print_table(
            ("domain", "customer", "added", "closed"),
            [(one.name, names[one.customer], stamp(one.created_ns), stamp(one.closed_ns)) for one in found],
        )


@app.command()
def show(ctx: typer.Context, name: Name, as_json: JsonFlag = False) -> None:
    """Show a domain, its accounts, and how it came to stand where it does."""
    with open_store(ctx).read() as connection:
        domain = customers.get_domain(connection, name)
        owner = customers.get_customer(connection, domain.customer)
        found = accounts.list_accounts(connection, domain=domain.name)
        changes = standing_changes(connection, Subject.DOMAIN, domain.name)
    if as_json:
        more = {"accounts": [one.address for one in found], "changes": change_dicts(changes)}
        print_json(_as_dict(domain, owner.name) | more)
        return
    state = f"closed {stamp(domain.closed_ns)}" if domain.closed_ns else "open"
    say(f"domain {domain.name} of {owner.name}, added {stamp(domain.created_ns)}, {state}, {len(found)} accounts")
    if changes:
        print_table(CHANGE_COLUMNS, change_rows(changes))


@app.command()
def close(ctx: typer.Context, name: Name, reason: Reason = "", dry_run: DryRun = False, yes: Yes = False) -> None:
    """Close a domain: its accounts neither send nor receive; mail to them is refused."""
    _move(ctx, name, reason, closed=True, dry_run=dry_run, yes=yes)


@app.command()
def reopen(ctx: typer.Context, name: Name, reason: Reason = "", dry_run: DryRun = False, yes: Yes = False) -> None:
    """Open a closed domain again: each account is as its own standing says."""
    _move(ctx, name, reason, closed=False, dry_run=dry_run, yes=yes)


def _move(ctx: typer.Context, name: str, reason: str, *, closed: bool, dry_run: bool, yes: bool) -> None:
    def plan(connection: Connection) -> tuple[tuple[Move, ...], list[str]]:
        domain = customers.get_domain(connection, name)
        count = len(accounts.list_accounts(connection, domain=domain.name))
        what = "mail from and to them is refused" if closed else "each stands as its own standing says"
        return domain_moves(domain, closed=closed), [f"{count} accounts: {what}"]

    carry_out(open_store(ctx), plan, reason, dry_run=dry_run, yes=yes)


def _as_dict(domain: DomainRecord, customer: str) -> dict[str, object]:
    return {
        "name": domain.name,
        "customer": customer,
        "created_ns": domain.created_ns,
        "closed_ns": domain.closed_ns,
    }
