"""`smartmail sla`: months judged, closed, stated anew; credits; the report."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from importlib import import_module
from typing import Annotated

import typer

from smartmail.cli.acting import DryRun, Reason, Yes, act, ask, say
from smartmail.cli.common import CliError, ExitCode, JsonFlag, console, open_store, print_json, print_table
from smartmail.cli.maintenance import local
from smartmail.cli.slaterms import configured_terms
from smartmail.core.credits import Decision, Undoing
from smartmail.core.credits import Reason as Why
from smartmail.core.month_record import MinuteChange, MonthRecord, digest
from smartmail.core.months import Month, MonthError
from smartmail.monitor.months import Months, Restatement, read_record, zone_of
from smartmail.store import credits as credit_store
from smartmail.store import sla, subscriptions
from smartmail.store.credits import CreditOrder
from smartmail.store.database import Database
from smartmail.store.errors import NotFound
from smartmail.store.samples import SampleStore

app = typer.Typer(no_args_is_help=True, help="The uptime promised: months, credits, reports.")

MonthArgument = Annotated[str, typer.Argument(metavar="MONTH", help="As 2026-10.")]
ServiceOption = Annotated[
    str | None, typer.Option("--service", help="Only this one; without it every service.", show_default=False)
]

SHOWN_DECISIONS = 50
"""Lines of a credit plan for people; the whole of it is in --json."""
SHOWN_CHANGES = 100


@app.command()
def month(ctx: typer.Context, month: MonthArgument, service: ServiceOption = None, as_json: JsonFlag = False) -> None:
    """Show a month: as it was closed, or as it stands so far."""
    database, months = _open(ctx)
    wanted = parse_month(month)
    found = [_state(database, months, name, wanted) for name in _services(months, wanted, service)]
    if as_json:
        print_json([_as_dict(record, revision) for record, revision in found])
        return
    print_table(
        ("service", "state", "availability", "down", "unknown", "allowed", "maintenance", "eligible", "result"),
        [_row(record, revision) for record, revision in found],
        title=f"{wanted}, in minutes",
    )
    for record, _revision in found:
        _print_incidents(record)


@app.command()
def close(
    ctx: typer.Context, month: MonthArgument, service: ServiceOption = None, dry_run: DryRun = False, yes: Yes = False
) -> None:
    """Freeze a month for ever, once the grace after its end is over."""
    database, months = _open(ctx)
    wanted, doing = parse_month(month), act()
    with database.read() as connection:
        closed = {one.service for one in sla.latest_revisions(connection, str(wanted))}
    names = [name for name in _services(months, wanted, service) if service or name not in closed]
    if not names:
        raise CliError(f"every service has closed {wanted}", remedy=f'see "smartmail sla month {wanted}"')
    for name in names:
        months.closable(name, wanted, doing.at_ns // 10**6)
    for name in names:
        say(_sentence(months.judge(name, wanted, doing.at_ns // 10**6)))
    if _may(dry_run=dry_run, yes=yes):
        for name in names:
            say(f"{name}: closed as revision 1, record {months.close(name, wanted, doing).digest}")


@app.command()
def restate(
    ctx: typer.Context, month: MonthArgument, service: ServiceOption = None, dry_run: DryRun = False, yes: Yes = False
) -> None:
    """Judge a closed month again with what has come since; what differs becomes the next revision."""
    database, months = _open(ctx)
    wanted, doing = parse_month(month), act()
    with database.read() as connection:
        closed = [one.service for one in sla.latest_revisions(connection, str(wanted))]
    names = [service] if service else closed
    if not names:
        raise CliError(f"{wanted} is not closed", remedy=f'close it with "smartmail sla close {wanted}"')
    found = [months.restated(name, wanted, doing.at_ns // 10**6) for name in names]
    for one in found:
        _print_restatement(one)
    different = [one for one in found if one.differs]
    if different and _may(dry_run=dry_run, yes=yes):
        for one in different:
            done = months.restate(one.new.service, wanted, doing)
            say(f"{one.new.service}: revision {done.number}, record {digest(done.new)}")


@app.command()
def credits(
    ctx: typer.Context,
    month: MonthArgument,
    apply: Annotated[bool, typer.Option("--apply", help="Grant them.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: JsonFlag = False,
) -> None:
    """Who is credited a month for a closed one; each once, however often this runs. Without --apply only a plan."""
    if apply and dry_run:
        raise CliError("--apply and --dry-run exclude each other", code=ExitCode.USAGE)
    database, months = _open(ctx)
    wanted = parse_month(month)
    order = months.credit_order(wanted, act())
    _warn_open(database, months, wanted, order)
    planned = [one for batch in months.credits(order, apply=False) for one in batch]
    granted = sum(one.reason is Why.GRANTED for one in planned)
    if not apply:
        _print_plan(wanted, planned, as_json=as_json)
        return
    if not as_json:
        _print_plan(wanted, planned, as_json=False)
    if not granted or not _may(dry_run=False, yes=yes):
        if as_json:
            print_json({"month": str(wanted), "granted": 0, "decisions": [_decision(one) for one in planned]})
        return
    done = _apply(months, order, total=len(planned), quiet=as_json)
    if as_json:
        print_json({"month": str(wanted), "granted": len(done), "decisions": [_decision(one) for one in done]})
    else:
        say(f"{len(done)} subscriptions were credited")


@app.command()
def reverse(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help='Of a credit or a reversal: see "smartmail ledger list".')],
    reason: Reason = "",
    used: Annotated[bool, typer.Option("--used", help="Also when the credited time has begun to be used.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Take a credit back, or take that back: by another entry, never by a deletion."""
    if not reason.strip():
        raise CliError("a reversal needs a reason", remedy="give --reason TEXT", code=ExitCode.USAGE)
    database = open_store(ctx)
    doing = act(reason)
    today = datetime.fromtimestamp(doing.at_ns // 10**9, UTC).date()
    undoing = Undoing(reason, doing.who, doing.at_ns // 10**6, today, used)
    with database.read() as connection:
        draft, subscription, paid_to = credit_store.plan_reversal(connection, key, undoing)
        before = subscriptions.get_subscription(connection, subscription).paid_through
    say(f"subscription {subscription}: paid through {before or 'no day'} -> {paid_to or 'no day'}; {draft.key}")
    if _may(dry_run=dry_run, yes=yes):
        with database.write() as connection:
            entry = credit_store.reverse_entry(connection, key, undoing)
        say(f"entry {entry.seq}: {entry.kind}")


def parse_month(text: str) -> Month:
    """As 2026-10. Raises CliError."""
    try:
        return Month.parse(text)
    except MonthError as error:
        raise CliError(str(error), remedy="write 2026-10", code=ExitCode.USAGE) from error


def _open(ctx: typer.Context) -> tuple[Database, Months]:
    database = open_store(ctx)
    return database, Months(database, SampleStore(database.url), configured_terms(ctx))


def _may(*, dry_run: bool, yes: bool) -> bool:
    if dry_run:
        say("dry run: nothing was done")
        return False
    if not yes:
        ask()
    return True


def _services(months: Months, month: Month, service: str | None) -> Sequence[str]:
    """The one asked for, or all there are. Raises NotFound for none."""
    names = (service,) if service else months.services(month)
    if not names:
        raise NotFound(f"no service existed in {month}", 'see "smartmail monitor roster" for those that are watched')
    return names


def _state(database: Database, months: Months, service: str, month: Month) -> tuple[MonthRecord, sla.Revision | None]:
    with database.read() as connection:
        if sla.latest_number(connection, service, str(month)):
            revision = sla.get_revision(connection, service, str(month))
            return read_record(revision), revision
    return months.judge(service, month, act().at_ns // 10**6), None


def _row(record: MonthRecord, revision: sla.Revision | None) -> tuple[object, ...]:
    judged = record.assessment
    return (
        record.service,
        f"revision {revision.number}" if revision else "so far",
        _availability(record),
        judged.down_minutes,
        judged.unknown_minutes,
        judged.allowed_down,
        judged.maintenance_minutes,
        judged.eligible,
        judged.result.value.replace("_", " "),
    )


def _availability(record: MonthRecord) -> str:
    low, high = record.assessment.availability_low, record.assessment.availability_high
    return f"{low} %" if low == high else f"{low} to {high} %"


def _sentence(record: MonthRecord) -> str:
    judged = record.assessment
    return (
        f"{record.service}, {record.month}: {_availability(record)}, {judged.result.value.replace('_', ' ')}; "
        f"{judged.down_minutes} minutes down and {judged.unknown_minutes} unknown of {judged.eligible}, "
        f"{judged.allowed_down} may be down; {'a month is credited' if judged.credit else 'no credit'}"
    )


def _print_incidents(record: MonthRecord) -> None:
    zone = zone_of(record.evidence.zone)
    found = record.findings.incidents
    if found:
        print_table(
            ("from", "until", "down", "in maintenance", "checks", "seen from"),
            [
                (
                    local(one.start, zone),
                    "" if one.end is None else local(one.end, zone),
                    one.down_minutes,
                    one.excluded_minutes,
                    ", ".join(one.checks),
                    ", ".join(one.locations),
                )
                for one in found
            ],
            title=f"{record.service}: outages",
        )


def _as_dict(record: MonthRecord, revision: sla.Revision | None) -> dict[str, object]:
    judged = record.assessment
    return {
        "service": record.service,
        "month": str(record.month),
        "revision": revision.number if revision else None,
        "closed_ms": revision.closed_ms if revision else None,
        "record": revision.digest if revision else None,
        "terms": record.evidence.terms.version,
        "zone": record.evidence.zone,
        "span": [judged.span.first, judged.span.end],
        "up": judged.up_minutes,
        "down": judged.down_minutes,
        "unknown": judged.unknown_minutes,
        "maintenance": judged.maintenance_minutes,
        "eligible": judged.eligible,
        "allowed_down": judged.allowed_down,
        "availability_low": judged.availability_low,
        "availability_high": judged.availability_high,
        "result": judged.result.value,
        "credit": judged.credit,
        "incidents": [one.to_json() for one in record.findings.incidents],
    }


def _print_restatement(one: Restatement) -> None:
    if not one.differs:
        say(f"{one.new.service}: nothing has come since revision {one.number - 1}")
        return
    say(f"{one.new.service}, revision {one.number - 1}: {_sentence(one.old)}")
    say(f"{one.new.service}, revision {one.number}: {_sentence(one.new)}")
    zone = zone_of(one.new.evidence.zone)
    print_table(
        ("from", "until", "minutes", "was", "is"),
        [_change(change, zone) for change in one.changes[:SHOWN_CHANGES]],
        title="minutes that are judged otherwise",
    )
    if len(one.changes) > SHOWN_CHANGES:
        say(f"and {len(one.changes) - SHOWN_CHANGES} more")


def _change(change: MinuteChange, zone: tzinfo) -> tuple[object, ...]:
    before, after = (side.value if side else "not measured" for side in (change.before, change.after))
    return local(change.first, zone), local(change.end, zone), change.end - change.first, before, after


def _warn_open(database: Database, months: Months, month: Month, order: CreditOrder) -> None:
    """On standard error: what this run cannot know of."""
    spans = [one.span for one in order.grounds]
    with database.read() as connection:
        closed = {one.service for one in sla.latest_revisions(connection, str(month))}
        nowhere = 0
        if spans and not order.home:
            first, end = min(one.first for one in spans), max(one.end for one in spans)
            nowhere = subscriptions.homeless(connection, first, end)
    still_open = [name for name in months.services(month) if name not in closed]
    if not closed:
        raise CliError(f"{month} is not closed", remedy=f'close it with "smartmail sla close {month}"')
    if still_open:
        _warn(f"not closed yet, and so not looked at: {', '.join(still_open)}")
    if nowhere:
        are = "1 subscription is" if nowhere == 1 else f"{nowhere} subscriptions are"
        _warn(
            f"{are} on no service in {month}, as far as is known, and not credited: say where, and since when, with"
            ' "smartmail subscription set NUMBER --service NAME --since TIME"'
        )


def _print_plan(month: Month, planned: Sequence[Decision], *, as_json: bool) -> None:
    counts = Counter(one.reason for one in planned)
    if as_json:
        shown = [_decision(one) for one in planned if one.reason is not Why.ELSEWHERE]
        totals = {reason.value: count for reason, count in sorted(counts.items())}
        print_json({"month": str(month), "granted": 0, "totals": totals, "decisions": shown})
        return
    if not planned:
        say(f"no closed service fell below in {month}: nobody is credited")
        return
    listed = [one for one in planned if one.reason is not Why.ELSEWHERE]
    print_table(
        ("subscription", "customer", "decision", "paid through", "will be"),
        [
            (
                one.subscriber.subscription,
                one.subscriber.customer,
                one.reason.value,
                one.subscriber.paid_through or "never paid",
                one.paid_to or "",
            )
            for one in listed[:SHOWN_DECISIONS]
        ],
    )
    if len(listed) > SHOWN_DECISIONS:
        say(f"and {len(listed) - SHOWN_DECISIONS} more: see --json")
    # To be granted reads as a plan; what is already so reads as it is.
    said = {Why.GRANTED: "to be credited"}
    say(", ".join(f"{count} {said.get(reason, reason.value)}" for reason, count in sorted(counts.items())))


def _apply(months: Months, order: CreditOrder, *, total: int, quiet: bool) -> list[Decision]:
    """Grant, batch by batch, with a bar where somebody looks."""
    from rich.progress import Progress

    granted: list[Decision] = []
    screen = console(stderr=True)
    with Progress(console=screen, transient=True, disable=quiet or not screen.is_terminal) as progress:
        task = progress.add_task("crediting", total=total)
        for batch in months.credits(order, apply=True):
            granted.extend(one for one in batch if one.reason is Why.GRANTED)
            progress.advance(task, len(batch))
    return granted


def _warn(text: str) -> None:
    console(stderr=True).print(f"note: {text}", soft_wrap=True)


def _decision(one: Decision) -> dict[str, object]:
    return {
        "subscription": one.subscriber.subscription,
        "customer": one.subscriber.customer,
        "decision": one.reason.value,
        "key": one.key,
        "service": one.grounds.service if one.grounds else None,
        "paid_from": one.subscriber.paid_through,
        "paid_to": one.paid_to,
    }


def _add_reports() -> None:
    """The report's commands, where this installation has them."""
    try:
        found = import_module("smartmail.report.command")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("smartmail.report"):
            raise
        return
    app.command("report")(found.report)
    app.command("verify-report")(found.verify_report)


_add_reports()
