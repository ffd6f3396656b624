"""`smartmail account`: mailboxes: who may log in, send and receive."""

from typing import Annotated

import typer
from sqlalchemy import Connection

from smartmail.cli.acting import (
    CHANGE_COLUMNS,
    DryRun,
    Generate,
    OnlyAxis,
    PasswordFile,
    Reason,
    Yes,
    act,
    carry_out,
    change_dicts,
    change_rows,
    one_axis,
    read_password,
    say,
    stamp,
)
from smartmail.cli.common import CliError, ExitCode, JsonFlag, open_store, print_json, print_table
from smartmail.cli.whytext import why
from smartmail.core.standing import Billing, Conduct
from smartmail.store import accounts, customers
from smartmail.store.moves import Move, account_moves, standing_changes
from smartmail.store.plans import STANDARD
from smartmail.store.records import AccountRecord, Subject

app = typer.Typer(no_args_is_help=True, help="Mailboxes: who may log in, send and receive.")
app.command()(why)

Address = Annotated[str, typer.Argument(help="The account's address; an alias will do where it exists already.")]
Aliases = Annotated[
    list[str] | None,
    typer.Option(help='One more address of the same customer, or "@domain" for a whole one. Repeatable.'),
]


@app.command()
def add(
    ctx: typer.Context,
    address: Address,
    plan: Annotated[str, typer.Option(help="Its limits.")] = STANDARD,
    alias: Aliases = None,
    password_file: PasswordFile = None,
    generate: Generate = False,
) -> None:
    """Add an account in a domain that exists. Without an option for it, the password is asked for."""
    database = open_store(ctx)
    with database.read() as connection:  # before anybody types a password in vain
        accounts.check_new_account(connection, address, plan)
    password, made = read_password(password_file, generate=generate)
    hashed = accounts.hash_password(password)
    with database.write() as connection:
        added = accounts.add_account(connection, address, hashed, act(), plan)
        for one in alias or ():
            accounts.add_alias(connection, added, one)
    say(f"account {added.address} added, on the plan {plan}")
    _show_made(password, made=made)


@app.command("list")
def list_(
    ctx: typer.Context,
    domain: Annotated[str | None, typer.Option(help="Only this domain's.", show_default=False)] = None,
    customer: Annotated[str | None, typer.Option(help="Only this customer's.", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the accounts, each with its own standing."""
    with open_store(ctx).read() as connection:
        owner = None if customer is None else customers.get_customer(connection, customer).id
        names = {one.id: one.name for one in customers.list_customers(connection)}
        found = accounts.list_accounts(connection, domain=domain, customer=owner)
    if as_json:
        print_json([_as_dict(one, names[one.customer]) for one in found])
    else:
        print_table(
            ("account", "customer", "plan", "billing", "conduct", "aliases", "added"),
            [
                (
                    one.address,
                    names[one.customer],
                    one.plan,
                    one.billing,
                    one.conduct,
                    len(one.aliases),
                    stamp(one.created_ns),
                )
                for one in found
            ],
        )


@app.command()
def show(ctx: typer.Context, address: Address, as_json: JsonFlag = False) -> None:
    """Show an account, and how it came to stand where it does. What follows from it: `account why`."""
    with open_store(ctx).read() as connection:
        found = accounts.get_account(connection, address)
        owner = customers.get_customer(connection, found.customer)
        changes = standing_changes(connection, Subject.ACCOUNT, found.id)
    if as_json:
        print_json(_as_dict(found, owner.name) | {"changes": change_dicts(changes)})
        return
    say(f"account {found.address} (id {found.id}) of {owner.name}, plan {found.plan}, added {stamp(found.created_ns)}")
    say(f"billing {found.billing}, conduct {found.conduct}; aliases: {', '.join(found.aliases) or 'none'}")
    if changes:
        print_table(CHANGE_COLUMNS, change_rows(changes))


@app.command("set")
def set_(
    ctx: typer.Context,
    address: Address,
    plan: Annotated[str | None, typer.Option(help="Its limits.", show_default=False)] = None,
    add_alias: Aliases = None,
    remove_alias: Annotated[
        list[str] | None, typer.Option(help="Take this alias away. Repeatable.", show_default=False)
    ] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a new password.")] = False,
    password_file: PasswordFile = None,
    generate: Generate = False,
) -> None:
    """Change an account's plan, aliases or password. For its standing see move, suspend, reopen and close."""
    new_password = password or generate or password_file is not None
    if not (plan or add_alias or remove_alias or new_password):
        raise CliError(
            "nothing to set",
            remedy="give --plan, --add-alias, --remove-alias, --password, --password-file or --generate",
            code=ExitCode.USAGE,
        )
    database = open_store(ctx)
    with database.read() as connection:
        accounts.get_account(connection, address)
    typed, made = read_password(password_file, generate=generate) if new_password else ("", False)
    hashed = accounts.hash_password(typed) if new_password else ""
    with database.write() as connection:
        found = accounts.get_account(connection, address)
        if plan:
            accounts.set_plan(connection, found.id, plan)
        for gone in remove_alias or ():
            accounts.remove_alias(connection, found, gone)
        for one in add_alias or ():
            accounts.add_alias(connection, found, one)
        if hashed:
            accounts.set_password(connection, found.id, hashed)
    say(f"account {found.address} changed; running relays hear of it within a second")
    _show_made(typed, made=made)


@app.command()
def move(
    ctx: typer.Context,
    address: Address,
    billing: Annotated[Billing | None, typer.Option(help="Where to.", show_default=False)] = None,
    conduct: Annotated[Conduct | None, typer.Option(help="Where to.", show_default=False)] = None,
    reason: Reason = "",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Move an account on either axis of its standing, as far as the tables allow."""
    if billing is None and conduct is None:
        raise CliError("move it where?", remedy="give --billing or --conduct", code=ExitCode.USAGE)
    _carry_out(ctx, address, reason, (billing, conduct), dry_run=dry_run, yes=yes)


@app.command()
def suspend(
    ctx: typer.Context, address: Address, reason: Reason = "", dry_run: DryRun = False, yes: Yes = False
) -> None:
    """Suspend an account for not paying: it cannot log in to send; mail to it is deferred, none is lost."""
    _carry_out(ctx, address, reason, (Billing.SUSPENDED, None), dry_run=dry_run, yes=yes)


@app.command()
def close(ctx: typer.Context, address: Address, reason: Reason = "", dry_run: DryRun = False, yes: Yes = False) -> None:
    """Close an account: it neither sends nor receives; mail to it is refused."""
    _carry_out(ctx, address, reason, (None, Conduct.CLOSED), dry_run=dry_run, yes=yes)


@app.command()
def reopen(
    ctx: typer.Context,
    address: Address,
    reason: Reason = "",
    axis: OnlyAxis = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Lift what holds an account: its billing becomes current, its conduct good."""

    def plan(connection: Connection) -> tuple[tuple[Move, ...], list[str]]:
        found = accounts.get_account(connection, address)
        moves = account_moves(found, billing=Billing.CURRENT, conduct=Conduct.GOOD)
        return one_axis(moves, axis), _above(connection, found)

    carry_out(open_store(ctx), plan, reason, dry_run=dry_run, yes=yes)


def _carry_out(
    ctx: typer.Context,
    address: str,
    reason: str,
    to: tuple[Billing | None, Conduct | None],
    *,
    dry_run: bool,
    yes: bool,
) -> None:
    def plan(connection: Connection) -> tuple[tuple[Move, ...], list[str]]:
        found = accounts.get_account(connection, address)
        moves = account_moves(found, billing=to[0], conduct=to[1])
        return moves, [_CONSEQUENCES[move.to_state] for move in moves if move.to_state in _CONSEQUENCES]

    carry_out(open_store(ctx), plan, reason, dry_run=dry_run, yes=yes)


_CONSEQUENCES = {
    Billing.SUSPENDED.value: "it cannot log in to send; mail to it is deferred; sessions it has end within a second",
    Conduct.STOPPED.value: "it may not send to other domains; it goes on receiving",
    Conduct.CLOSED.value: "it cannot log in to send; mail to it is refused; sessions it has end within a second",
}


def _above(connection: Connection, account: AccountRecord) -> list[str]:
    """What still holds the account when its own standing is good again."""
    customer = customers.get_customer(connection, account.customer)
    domain = customers.get_domain(connection, account.domain)
    found = []
    if customer.closed_ns is not None:
        found.append(f"its customer {customer.name} stays closed, and so the account")
    if customer.billing is Billing.SUSPENDED:
        found.append(f"its customer {customer.name} stays suspended, and so the account")
    if domain.closed_ns is not None:
        found.append(f"its domain {domain.name} stays closed, and so the account")
    return found


def _show_made(password: str, *, made: bool) -> None:
    if made:
        say(f"password: {password}")


def _as_dict(account: AccountRecord, customer: str) -> dict[str, object]:
    return {
        "id": account.id,
        "address": account.address,
        "customer": customer,
        "domain": account.domain,
        "plan": account.plan,
        "billing": account.billing,
        "conduct": account.conduct,
        "created_ns": account.created_ns,
        "aliases": list(account.aliases),
    }
