"""Plans and their limits, in the caller's transaction."""

from sqlalchemy import Connection, delete, insert, select, update

from smartmail.core.limits import Limit, Mode, Scope, Unit
from smartmail.store import schema
from smartmail.store.changes import ChangeKind, bump
from smartmail.store.errors import Conflict, Invalid, NotFound
from smartmail.store.records import Plan

STANDARD = "standard"
"""The plan that the first migration makes."""


def add_plan(connection: Connection, plan: Plan) -> None:
    """Raises Conflict when the name is taken, Invalid for a limit that makes no sense."""
    if connection.execute(select(schema.plan.c.name).where(schema.plan.c.name == plan.name)).first():
        raise Conflict(f'there is a plan "{plan.name}" already', f'change it with "smartmail plan set {plan.name}"')
    if not plan.name.strip():
        raise Invalid("a plan needs a name")
    connection.execute(insert(schema.plan).values(name=plan.name, description=plan.description))
    for limit in plan.limits:
        put_limit(connection, plan.name, limit)


def list_plans(connection: Connection) -> list[Plan]:
    """Every plan, by name."""
    limits: dict[str, list[Limit]] = {}
    table = schema.plan_limit
    for row in connection.execute(select(table).order_by(table.c.plan, table.c.name)):
        limits.setdefault(row.plan, []).append(
            Limit(row.name, Scope(row.scope), Unit(row.unit), row.quota, row.period, row.burst, Mode(row.mode))
        )
    plans = connection.execute(select(schema.plan).order_by(schema.plan.c.name))
    return [Plan(row.name, row.description, tuple(limits.get(row.name, ()))) for row in plans]


def get_plan(connection: Connection, name: str) -> Plan:
    """Raises NotFound, naming the plans there are."""
    plans = {plan.name: plan for plan in list_plans(connection)}
    if name not in plans:
        raise NotFound(f'there is no plan "{name}"', f"there are: {', '.join(plans)}")
    return plans[name]


def describe_plan(connection: Connection, name: str, description: str) -> None:
    """Change the description. Raises NotFound."""
    get_plan(connection, name)
    connection.execute(update(schema.plan).where(schema.plan.c.name == name).values(description=description))


def put_limit(connection: Connection, plan: str, limit: Limit) -> None:
    """Add a limit to a plan, or replace the one of its name. Raises NotFound, Invalid."""
    get_plan(connection, plan)
    if limit.quota < 0 or limit.period <= 0 or limit.burst < 0 or not limit.name.strip():
        raise Invalid(
            f'the limit "{limit.name}" makes no sense',
            "a name, quota >= 0, period > 0 seconds, burst >= 0 are needed",
        )
    if limit.scope not in (Scope.ACCOUNT, Scope.CUSTOMER, Scope.DOMAIN):
        raise Invalid(
            f'a plan cannot limit by "{limit.scope}"',
            "limits by client or recipient domain go into the configuration",
        )
    table = schema.plan_limit
    connection.execute(delete(table).where(table.c.plan == plan, table.c.name == limit.name))
    connection.execute(
        insert(table).values(
            plan=plan,
            name=limit.name,
            scope=limit.scope.value,
            unit=limit.unit.value,
            quota=limit.quota,
            period=limit.period,
            burst=limit.burst,
            mode=limit.mode.value,
        )
    )
    bump(connection, ChangeKind.PLAN, plan)


def drop_limit(connection: Connection, plan: str, name: str) -> None:
    """Take a limit out of a plan. Raises NotFound."""
    table = schema.plan_limit
    done = connection.execute(delete(table).where(table.c.plan == plan, table.c.name == name))
    if done.rowcount != 1:
        raise NotFound(f'the plan "{plan}" has no limit "{name}"', f'see "smartmail plan show {plan}"')
    bump(connection, ChangeKind.PLAN, plan)
