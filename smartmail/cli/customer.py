"""`smartmail customer`: those who pay."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy import Connection

from smartmail.cli.acting import (
    CHANGE_COLUMNS,
    DryRun,
    OnlyAxis,
    Reason,
    Yes,
    act,
    carry_out,
    change_dicts,
    change_rows,
    now_ns,
    one_axis,
    parse_day,
    say,
    stamp,
)
from smartmail.cli.common import CliError, ExitCode, JsonFlag, open_store, print_json, print_table
from smartmail.core.standing import Billing
from smartmail.store import accounts, customers
from smartmail.store.errors import NotFound
from smartmail.store.moves import Move, customer_moves, standing_changes
from smartmail.store.plans import STANDARD
from smartmail.store.records import Axis, CustomerRecord, Subject, Subscription
from smartmail.store.subscriptions import Change, change_subscription

app = typer.Typer(no_args_is_help=True, help="Those who pay.")

Ref = Annotated[str, typer.Argument(metavar="CUSTOMER", help="Name or id.")]


@app.command()
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The customer's name.")],
    contact: Annotated[str, typer.Option(help="How to reach them.")] = "",
    plan: Annotated[str, typer.Option(help="Plan of the first subscription.")] = STANDARD,
    anchor_day: Annotated[
        int | None,
        typer.Option(help="Day of the month the subscription renews; default: today's.", show_default=False),
    ] = None,
) -> None:
    """Add a customer with a first subscription."""
    doing = act()
    day = anchor_day or datetime.fromtimestamp(now_ns() // 10**9, UTC).day
    with open_store(ctx).write() as connection:
        id_ = customers.add_customer(connection, name, contact, doing)
        customers.add_subscription(connection, id_, plan, day, doing)
    say(f"customer {name} added with the id {id_}, on the plan {plan}")


@app.command("list")
def list_(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List the customers."""
    with open_store(ctx).read() as connection:
        found = customers.list_customers(connection)
    if as_json:
        print_json([_as_dict(one) for one in found])
    else:
        print_table(
            ("id", "customer", "billing", "contact", "added", "closed"),
            [
                (one.id, one.name, one.billing, one.contact, stamp(one.created_ns), stamp(one.closed_ns))
                for one in found
            ],
        )


@app.command()
def show(ctx: typer.Context, customer: Ref, as_json: JsonFlag = False) -> None:
    """Show a customer: subscriptions, domains, and how it came to stand where it does."""
    with open_store(ctx).read() as connection:
        found = customers.get_customer(connection, customer)
        subscriptions = customers.list_subscriptions(connection, found.id)
        domains = [one.name for one in customers.list_domains(connection, found.id)]
        count = len(accounts.list_accounts(connection, customer=found.id))
        changes = standing_changes(connection, Subject.CUSTOMER, found.id)
    if as_json:
        more = {"subscriptions": [_subscription(one) for one in subscriptions], "domains": domains}
        print_json(_as_dict(found) | more | {"accounts": count, "changes": change_dicts(changes)})
        return
    closed = f", closed {stamp(found.closed_ns)}" if found.closed_ns else ""
    say(f"customer {found.name} (id {found.id}): billing {found.billing}{closed}; {found.contact or 'no contact'}")
    say(f"{count} accounts in {len(domains)} domains: {', '.join(domains) or 'none'}")
    print_table(
        ("subscription", "plan", "anchor day", "paid through"),
        [(one.id, one.plan, one.anchor_day, one.paid_through) for one in subscriptions],
    )
    if changes:
        print_table(CHANGE_COLUMNS, change_rows(changes))


@app.command("set")
def set_(
    ctx: typer.Context,
    customer: Ref,
    contact: Annotated[str | None, typer.Option(help="How to reach them.", show_default=False)] = None,
    paid_through: Annotated[
        str | None, typer.Option(metavar="DATE", help="How far it is paid.", show_default=False)
    ] = None,
    subscription: Annotated[
        int | None, typer.Option(help="Which one, where there are several.", show_default=False)
    ] = None,
) -> None:
    """Change a customer's contact, or record how far a subscription is paid."""
    if contact is None and paid_through is None:
        raise CliError("nothing to set", remedy="give --contact or --paid-through", code=ExitCode.USAGE)
    day = None if paid_through is None else parse_day(paid_through)
    with open_store(ctx).write() as connection:
        found = customers.get_customer(connection, customer)
        if contact is not None:
            customers.set_contact(connection, found.id, contact)
        if day is not None:
            owned = customers.list_subscriptions(connection, found.id)
            chosen = subscription or _only(owned)
            if chosen not in {one.id for one in owned}:
                raise NotFound(f"{found.name} has no subscription {chosen}", 'see "smartmail customer show"')
            change_subscription(connection, chosen, Change(paid_through=day), act("paid"))
    say(f"customer {found.name} changed")


@app.command()
def suspend(ctx: typer.Context, customer: Ref, reason: Reason = "", dry_run: DryRun = False, yes: Yes = False) -> None:
    """Suspend a customer for not paying: no account of it sends, mail to them is deferred, none is lost."""

    def plan(connection: Connection) -> tuple[tuple[Move, ...], list[str]]:
        found = customers.get_customer(connection, customer)
        what = "cannot log in to send; mail to them is deferred"
        return customer_moves(found, billing=Billing.SUSPENDED), [_consequence(connection, found, what)]

    carry_out(open_store(ctx), plan, reason, dry_run=dry_run, yes=yes)


@app.command()
def close(ctx: typer.Context, customer: Ref, reason: Reason = "", dry_run: DryRun = False, yes: Yes = False) -> None:
    """Close a customer: no account of it sends or receives, mail to them is refused."""

    def plan(connection: Connection) -> tuple[tuple[Move, ...], list[str]]:
        found = customers.get_customer(connection, customer)
        what = "cannot log in to send; mail to them is refused"
        return customer_moves(found, closed=True), [_consequence(connection, found, what)]

    carry_out(open_store(ctx), plan, reason, dry_run=dry_run, yes=yes)


@app.command()
def reopen(
    ctx: typer.Context,
    customer: Ref,
    reason: Reason = "",
    axis: OnlyAxis = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Lift what holds a customer: suspended becomes current, closed becomes open."""

    def plan(connection: Connection) -> tuple[tuple[Move, ...], list[str]]:
        found = customers.get_customer(connection, customer)
        moves = one_axis(customer_moves(found, billing=Billing.CURRENT, closed=False), axis)
        return moves, [_consequence(connection, found, "stand again as their own standing says")]

    carry_out(open_store(ctx), plan, reason, dry_run=dry_run, yes=yes)


def _consequence(connection: Connection, customer: CustomerRecord, what: str) -> str:
    return f"{len(accounts.list_accounts(connection, customer=customer.id))} accounts: they {what}"


def _only(subscriptions: list[Subscription]) -> int:
    if len(subscriptions) != 1:
        listed = ", ".join(str(one.id) for one in subscriptions) or "none"
        raise CliError(f"which subscription? there are: {listed}", remedy="give --subscription", code=ExitCode.USAGE)
    return subscriptions[0].id


def _subscription(one: Subscription) -> dict[str, object]:
    return {"id": one.id, "plan": one.plan, "anchor_day": one.anchor_day, "paid_through": one.paid_through}


def _as_dict(customer: CustomerRecord) -> dict[str, object]:
    return {
        "id": customer.id,
        "name": customer.name,
        "contact": customer.contact,
        Axis.BILLING.value: customer.billing,
        "created_ns": customer.created_ns,
        "closed_ns": customer.closed_ns,
    }
