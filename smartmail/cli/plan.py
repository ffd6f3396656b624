"""`smartmail plan`: plans and their limits."""

from typing import Annotated

import typer

from smartmail.cli.acting import parse_span, say
from smartmail.cli.common import CliError, ExitCode, JsonFlag, open_store, print_json, print_table
from smartmail.core.limits import Limit, Mode, Scope, Unit
from smartmail.store import plans
from smartmail.store.records import Plan

app = typer.Typer(no_args_is_help=True, help="Plans and their limits.")

_LIMIT_HELP = (
    "Add or replace a limit: name=per-day,unit=recipients,quota=500,period=1d"
    " and, if wanted, scope=account|customer|domain, burst=N (makes it a rate), mode=enforce|shadow|off. Repeatable."
)
Limits = Annotated[list[str] | None, typer.Option("--limit", help=_LIMIT_HELP, show_default=False)]
Name = Annotated[str, typer.Argument(help="The plan's name.")]


@app.command()
def add(
    ctx: typer.Context,
    name: Name,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    limit: Limits = None,
) -> None:
    """Add a plan."""
    plan = Plan(name, description, tuple(parse_limit(text) for text in limit or ()))
    with open_store(ctx).write() as connection:
        plans.add_plan(connection, plan)
    say(f"plan {name} added, {len(plan.limits)} limits")


@app.command("list")
def list_(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List the plans."""
    with open_store(ctx).read() as connection:
        found = plans.list_plans(connection)
    if as_json:
        print_json([as_dict(plan) for plan in found])
    else:
        print_table(("plan", "limits", "description"), [(p.name, len(p.limits), p.description) for p in found])


@app.command()
def show(ctx: typer.Context, name: Name, as_json: JsonFlag = False) -> None:
    """Show a plan and its limits."""
    with open_store(ctx).read() as connection:
        plan = plans.get_plan(connection, name)
    if as_json:
        print_json(as_dict(plan))
        return
    say(f"plan {plan.name}: {plan.description}")
    print_table(
        ("limit", "of each", "counts", "quota", "period", "burst", "mode"),
        [(n.name, n.scope, n.unit, n.quota, f"{n.period} s", n.burst, n.mode) for n in plan.limits],
    )


@app.command("set")
def set_(
    ctx: typer.Context,
    name: Name,
    description: Annotated[str | None, typer.Option(help="For people.", show_default=False)] = None,
    limit: Limits = None,
    drop_limit: Annotated[
        list[str] | None, typer.Option(help="Take out the limit of this name. Repeatable.", show_default=False)
    ] = None,
) -> None:
    """Change a plan. Its accounts feel it within a second; what they have used stays counted."""
    if description is None and not limit and not drop_limit:
        raise CliError("nothing to set", remedy="give --description, --limit or --drop-limit", code=ExitCode.USAGE)
    wanted = [parse_limit(text) for text in limit or ()]
    with open_store(ctx).write() as connection:
        plans.get_plan(connection, name)
        if description is not None:
            plans.describe_plan(connection, name, description)
        for gone in drop_limit or ():
            plans.drop_limit(connection, name, gone)
        for one in wanted:
            plans.put_limit(connection, name, one)
    say(f"plan {name} changed")


def parse_limit(text: str) -> Limit:
    """ "name=...,unit=...,quota=...,period=..." -> Limit. Raises CliError that names the part."""
    parts: dict[str, str] = {}
    for part in text.split(","):
        key, found, value = part.partition("=")
        if not found or key.strip() in parts:
            raise _bad_limit(text, f"{part!r} is no key=value, or comes twice")
        parts[key.strip()] = value.strip()
    missing = {"name", "unit", "quota", "period"} - parts.keys()
    unknown = parts.keys() - {"name", "unit", "quota", "period", "scope", "burst", "mode"}
    if missing or unknown:
        raise _bad_limit(text, f"{'missing' if missing else 'unknown'}: {', '.join(sorted(missing or unknown))}")
    try:
        return Limit(
            name=parts["name"],
            scope=Scope(parts.get("scope", Scope.ACCOUNT)),
            unit=Unit(parts["unit"]),
            quota=int(parts["quota"]),
            period=parse_span(parts["period"]),
            burst=int(parts.get("burst", "0")),
            mode=Mode(parts.get("mode", Mode.ENFORCE)),
        )
    except ValueError as error:
        raise _bad_limit(text, str(error)) from error


def as_dict(plan: Plan) -> dict[str, object]:
    """For JSON."""
    return {
        "name": plan.name,
        "description": plan.description,
        "limits": [
            {
                "name": one.name,
                "scope": one.scope,
                "unit": one.unit,
                "quota": one.quota,
                "period": one.period,
                "burst": one.burst,
                "mode": one.mode,
            }
            for one in plan.limits
        ],
    }


def _bad_limit(text: str, why: str) -> CliError:
    return CliError(
        f"{text!r} is no limit: {why}",
        where="--limit",
        remedy="write name=per-day,unit=recipients,quota=500,period=1d",
        code=ExitCode.USAGE,
    )
