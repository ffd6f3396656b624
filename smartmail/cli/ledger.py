"""`smartmail ledger`: what was promised, measured, granted and taken back, in a chain that shows every change."""

import json
from typing import Annotated

import typer

from smartmail.cli.acting import say, stamp
from smartmail.cli.common import CliError, ExitCode, JsonFlag, open_store, print_json, print_table
from smartmail.cli.sla import parse_month
from smartmail.core.credits import audit, subject_of
from smartmail.core.ledger import Entry, Head, Kind, verify
from smartmail.store import ledger
from smartmail.store.audit import audit_tables

app = typer.Typer(no_args_is_help=True, help="The chain of evidence: list it, verify it.")


@app.command("list")
def list_(
    ctx: typer.Context,
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only these.", show_default=False)] = None,
    subscription: Annotated[int | None, typer.Option(help="Only of this one.", show_default=False)] = None,
    month: Annotated[str, typer.Option(help="Only about this month, as 2026-10.", show_default=False)] = "",
    last: Annotated[int, typer.Option("--last", min=0, help="The newest so many; 0: all.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List entries, oldest first."""
    query = ledger.LedgerQuery(
        kind=kind.value if kind else "",
        subject="" if subscription is None else subject_of(subscription),
        month=str(parse_month(month)) if month else "",
        last=last,
    )
    with open_store(ctx).read() as connection:
        found = ledger.find_entries(connection, query)
    if as_json:
        print_json([as_dict(one) for one in found])
        return
    print_table(
        ("entry", "when", "kind", "key", "by", "hash"),
        [(one.seq, stamp(one.at_ms * 10**6), one.kind, one.key, one.actor, one.hash[:12]) for one in found],
    )


@app.command("verify")
def verify_(
    ctx: typer.Context,
    head: Annotated[
        str,
        typer.Option("--head", metavar="NUMBER:HASH", help="A head noted earlier, elsewhere.", show_default=False),
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Check the whole chain, every credit's sum, and that months, maintenance, terms and subscriptions stand in the
    database as the ledger has them. Prints the head: note it elsewhere, and --head proves later that nothing before it
    was changed or dropped."""
    kept = parse_head(head) if head else None
    with open_store(ctx).read() as connection:
        problems = [str(one) for one in verify(ledger.entries(connection), kept)]
        problems += audit(ledger.entries(connection))
        if not problems:
            # Of entries that cannot be trusted no row can be said to be wrong.
            problems += audit_tables(connection, ledger.entries(connection))
        newest = ledger.head(connection)
    if as_json:
        print_json({"entries": newest.seq, "head": f"{newest.seq}:{newest.hash}", "problems": problems})
    else:
        for line in problems:
            say(line)
        counts = f"{plural(newest.seq, 'entry', 'entries')}, {plural(len(problems), 'problem', 'problems')}"
        say(f"{counts}; head {newest.seq}:{newest.hash}")
    if problems:
        raise typer.Exit(ExitCode.FOUND_BAD)


def parse_head(text: str) -> Head:
    """As "12:ab..." with 64 hexadecimal digits. Raises CliError."""
    number, _, digest = text.partition(":")
    if not (number.isascii() and number.isdecimal() and len(digest) == 64 and set(digest) <= set("0123456789abcdef")):
        raise CliError(f"{text!r} is no head", remedy="give it as ledger verify prints it", code=ExitCode.USAGE)
    return Head(int(number), digest)


def plural(count: int, one: str, many: str) -> str:
    """ "1 entry", "2 entries"."""
    return f"{count} {one if count == 1 else many}"


def as_dict(entry: Entry) -> dict[str, object]:
    """For JSON; from it the hash can be computed again."""
    return {
        "seq": entry.seq,
        "at_ms": entry.at_ms,
        "kind": entry.kind,
        "key": entry.key,
        "actor": entry.actor,
        "subject": entry.subject,
        "body": json.loads(entry.body),
        "prev": entry.prev,
        "hash": entry.hash,
    }
