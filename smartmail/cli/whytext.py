"""`smartmail account why`: gather the facts, print the explanation."""

from dataclasses import asdict
from typing import Annotated

import typer
from sqlalchemy import Connection

from smartmail.cli.acting import now_ns, say, stamp
from smartmail.cli.common import JsonFlag, load_config, open_store, print_json, print_table
from smartmail.cli.events import EVENT_COLUMNS, event_cells
from smartmail.cli.why import Explanation, Facts, LimitLine, explain
from smartmail.core.limits import Counters, Limit
from smartmail.store import accounts, customers, plans
from smartmail.store.counters import MemoryCounters, SnapshotError
from smartmail.store.history import EventQuery, StoredEvent, counters_snapshot, find_events
from smartmail.store.moves import standing_changes
from smartmail.store.records import Subject

_EVENTS = 5


def why(
    ctx: typer.Context,
    address: Annotated[str, typer.Argument(help="The account's address, or an alias of it.")],
    as_json: JsonFlag = False,
) -> None:
    """Explain what the relay would say to this account now, and why."""
    configured = load_config(ctx).limits
    now = now_ns()
    with open_store(ctx).read() as connection:
        counters, counted_ns, trouble = _counters(connection, now)
        facts = _facts(connection, address, configured, counters)
        query = EventQuery(account_id=facts.account.id, limit=_EVENTS)
        events = find_events(connection, query)
    told = explain(facts, now)
    if as_json:
        print_json(_as_dict(told, counted_ns, events))
        return
    for line in summary(told, facts.customer.name):
        say(line)
    print_table(
        ("may it", "", "the relay says", "because"),
        [(one.question, "yes" if one.allowed else "no", one.reply, one.because) for one in told.answers],
    )
    say(trouble or f"limits, as the relay last stored them at {stamp(counted_ns)}:")
    print_table(("limit", "rule", "mode", "used", "in flight", "free", "next free"), [_cells(x) for x in told.limits])
    say("last events:" if events else "no events yet")
    if events:
        print_table(EVENT_COLUMNS, [event_cells(one) for one in events])


def summary(told: Explanation, customer: str) -> list[str]:
    """The account in a line, then what stands in its way."""
    account = told.account
    head = f"{account.address} of {customer}, plan {account.plan}: billing {account.billing}, conduct {account.conduct}"
    return [head, *(f"- {hold}" for hold in told.holds or ("nothing holds it",))]


def _facts(connection: Connection, address: str, configured: tuple[Limit, ...], counters: Counters | None) -> Facts:
    account = accounts.get_account(connection, address)
    refs = ((Subject.ACCOUNT, account.id), (Subject.DOMAIN, account.domain), (Subject.CUSTOMER, account.customer))
    return Facts(
        account=account,
        customer=customers.get_customer(connection, account.customer),
        domain=customers.get_domain(connection, account.domain),
        limits=(*plans.get_plan(connection, account.plan).limits, *configured),
        changes=[change for subject, ref in refs for change in standing_changes(connection, subject, ref)],
        counters=counters,
    )


def _counters(connection: Connection, now: int) -> tuple[Counters | None, int | None, str]:
    """The relay's counters, when it stored them, and what is wrong with them, if anything is."""
    stored = counters_snapshot(connection)
    if stored is None:
        return None, None, "limits (no relay has stored its counters yet; nothing counts as used):"
    at_ns, data = stored
    counters = MemoryCounters()
    try:
        counters.restore(data, now)
    except SnapshotError as error:
        return None, at_ns, f"limits ({error}; nothing counts as used here):"
    return counters.counters, at_ns, ""


def _cells(line: LimitLine) -> tuple[object, ...]:
    limit, usage = line.limit, line.usage
    rule = f"{limit.quota} {limit.unit} in {limit.period} s" + (f", {limit.burst} at once" if limit.burst else "")
    if usage is None:
        return limit.name, rule, limit.mode, "", "", "", ""
    free_at = "never" if usage.free_at_ns == 0 else "now" if usage.free else stamp(usage.free_at_ns)
    return limit.name, rule, limit.mode, usage.used, usage.reserved, usage.free, free_at


def _as_dict(told: Explanation, counted_ns: int | None, events: list[StoredEvent]) -> dict[str, object]:
    account = told.account
    return {
        "address": account.address,
        "billing": account.billing,
        "conduct": account.conduct,
        "holds": list(told.holds),
        "answers": [asdict(one) for one in told.answers],
        "counters_stored_ns": counted_ns,
        "limits": [asdict(one) for one in told.limits],
        "events": [one.as_dict() for one in events],
    }
