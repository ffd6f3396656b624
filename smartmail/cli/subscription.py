"""`smartmail subscription`: what customers pay for, where it lives, how far it is paid."""

from typing import Annotated

import typer

from smartmail.cli.acting import DryRun, Reason, Yes, act, ask, parse_day, say, stamp
from smartmail.cli.common import CliError, ExitCode, JsonFlag, open_store, print_json, print_table
from smartmail.cli.maintenance import local, parse_time
from smartmail.cli.slaterms import known_service, terms_for
from smartmail.core.credits import subject_of
from smartmail.core.maintenance import MINUTE_MS
from smartmail.core.months import EPOCH, MINUTE
from smartmail.monitor.months import zone_of
from smartmail.store import customers, ledger, subscriptions
from smartmail.store.subscriptions import Change, ClosedFor, SubscriptionRecord

app = typer.Typer(no_args_is_help=True, help="Subscriptions: plan, paid through, service, why they ended.")

Number = Annotated[int, typer.Argument(metavar="SUBSCRIPTION", help="Its number.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    customer: Annotated[str | None, typer.Option(help="Only of this one, by name or id.", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the subscriptions."""
    with open_store(ctx).read() as connection:
        owner = None if customer is None else customers.get_customer(connection, customer).id
        found = subscriptions.list_subscriptions(connection, customer=owner)
    if as_json:
        print_json([as_dict(one) for one in found])
        return
    print_table(
        ("subscription", "customer", "plan", "anchor day", "paid through", "service", "closed"),
        [
            (
                one.id,
                one.customer_name,
                one.plan,
                one.anchor_day,
                one.paid_through or "never paid",
                _service(one),
                f"{stamp(one.closed_ns)} {one.closed_for}" if one.closed_ns else "",
            )
            for one in found
        ],
    )


@app.command()
def show(ctx: typer.Context, subscription: Number, as_json: JsonFlag = False) -> None:
    """Show a subscription: where it lived, and what the ledger says of it."""
    database = open_store(ctx)
    with database.read() as connection:
        found = subscriptions.get_subscription(connection, subscription)
        entries = ledger.find_entries(connection, ledger.LedgerQuery(subject=subject_of(subscription)))
    if as_json:
        print_json(
            as_dict(found) | {"entries": [{"seq": one.seq, "kind": one.kind, "key": one.key} for one in entries]}
        )
        return
    zone = zone_of(terms_for(ctx, database, act().at_ns).zone)
    closed = f", closed {stamp(found.closed_ns)} ({found.closed_for})" if found.closed_ns else ""
    trial = f", on trial until {found.trial_until}" if found.trial_until else ""
    say(
        f"subscription {found.id} of {found.customer_name}: plan {found.plan}, anchor day {found.anchor_day}, "
        f"paid through {found.paid_through or 'no day'}{trial}{closed}"
    )
    print_table(
        ("service", "from", "until"),
        [
            (one.service, local(one.from_minute, zone), local(one.until_minute, zone) if one.until_minute else "")
            for one in found.residences
        ],
    )
    if entries:
        print_table(
            ("entry", "when", "kind", "key", "by"),
            [(one.seq, stamp(one.at_ms * 10**6), one.kind, one.key, one.actor) for one in entries],
        )


@app.command("set")
def set_(
    ctx: typer.Context,
    subscription: Number,
    plan: Annotated[str | None, typer.Option(help="Its plan.", show_default=False)] = None,
    anchor_day: Annotated[
        int | None, typer.Option(help="Day of the month it renews, 1 to 31.", show_default=False)
    ] = None,
    paid_through: Annotated[
        str | None, typer.Option(metavar="DATE", help="How far it is paid.", show_default=False)
    ] = None,
    trial_until: Annotated[
        str | None, typer.Option(metavar="DATE", help="The last day of its trial.", show_default=False)
    ] = None,
    service: Annotated[str | None, typer.Option(help="The service it lives on.", show_default=False)] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="With --service: from when on; now without.", show_default=False),
    ] = None,
    reason: Reason = "",
    dry_run: DryRun = False,
) -> None:
    """Change a subscription; the ledger keeps what it was."""
    if since is not None and service is None:
        raise CliError("--since goes with --service", code=ExitCode.USAGE)
    database = open_store(ctx)
    if service is not None:
        known_service(database, service)
    doing = act(reason)
    from_minute = doing.at_ns // (MINUTE_MS * 10**6)
    if since is not None:
        zone = zone_of(terms_for(ctx, database, doing.at_ns).zone)
        from_minute = (parse_time(since, zone) - EPOCH) // MINUTE
    change = Change(
        plan=plan,
        anchor_day=anchor_day,
        paid_through=None if paid_through is None else parse_day(paid_through),
        trial_until=None if trial_until is None else parse_day(trial_until),
        service=service,
        service_from=from_minute,
    )
    if change == Change(service_from=from_minute):
        raise CliError("nothing to set", remedy='see "smartmail subscription set --help"', code=ExitCode.USAGE)
    with database.write() as connection:
        lines = subscriptions.change_subscription(connection, subscription, change, doing)
        for line in lines or ("nothing to do: it is so already",):
            say(line)
        if dry_run:
            say("dry run: nothing was done")
            raise typer.Exit  # and with it the transaction is rolled back
    if lines:
        say(f"subscription {subscription} changed")


@app.command()
def close(
    ctx: typer.Context,
    subscription: Number,
    why: Annotated[ClosedFor, typer.Option("--for", help="ended, or abuse: then it forfeits its credits.")],
    reason: Reason = "",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Close a subscription. It says nothing of accounts: they are closed with "smartmail account close"."""
    if not reason.strip():
        raise CliError("closing needs a reason", remedy="give --reason TEXT", code=ExitCode.USAGE)
    database = open_store(ctx)
    with database.read() as connection:
        found = subscriptions.get_subscription(connection, subscription)
        months = subscriptions.forfeitable(connection, subscription)
    say(f"subscription {found.id} of {found.customer_name}, paid through {found.paid_through or 'no day'}: {why.value}")
    if why is ClosedFor.ABUSE:
        say(f"it forfeits {months} credited months, and is credited no more")
    if dry_run:
        say("dry run: nothing was done")
        return
    if not yes:
        ask()
    with database.write() as connection:
        subscriptions.close_subscription(connection, subscription, why, act(reason))
    say("closed")


def as_dict(one: SubscriptionRecord) -> dict[str, object]:
    """For JSON."""
    return {
        "id": one.id,
        "customer": one.customer,
        "customer_name": one.customer_name,
        "plan": one.plan,
        "anchor_day": one.anchor_day,
        "paid_through": one.paid_through,
        "trial_until": one.trial_until,
        "created_ns": one.created_ns,
        "closed_ns": one.closed_ns,
        "closed_for": one.closed_for,
        "residences": [
            {"service": stay.service, "from_minute": stay.from_minute, "until_minute": stay.until_minute}
            for stay in one.residences
        ],
    }


def _service(one: SubscriptionRecord) -> str:
    return one.residences[-1].service if one.residences and one.residences[-1].until_minute is None else ""
