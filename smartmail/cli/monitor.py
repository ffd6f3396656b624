"""`smartmail monitor`: the collector, and how the services stand now."""

import asyncio
import os
import resource
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from smartmail.cli.acting import now_ns, say
from smartmail.cli.common import (
    CliError,
    ExitCode,
    JsonFlag,
    config_path,
    load_config,
    open_store,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from pathlib import Path

    from smartmail.cli.collecting import Monitor
    from smartmail.config import Config
    from smartmail.core.live import LiveMonth

_DESCRIPTORS = 16_384

app = typer.Typer(no_args_is_help=True, help="The collector, and how the services stand now.")


@app.command()
def run(ctx: typer.Context) -> None:
    """Run the collector: take samples from agents, judge every minute, look at the domains of [[trust]] each hour, tell
    Prometheus. SIGHUP reads the configuration again."""
    from smartmail import events
    from smartmail.store.migrations import ensure

    path, config = config_path(ctx), load_config(ctx)
    sink = events.configure(style=config.log.format, level=config.log.level)
    try:
        config.server.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _allow_descriptors()
        ensure(config.database_url)
        asyncio.run(_serve(config, path))
    finally:
        sink.close()


def _allow_descriptors() -> None:
    """Connections that strangers hold are to leave room for agents and the database."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(config: "Config", path: "Path | None") -> None:
    from smartmail import events
    from smartmail.cli.collecting import Monitor, started

    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(events.loop_fault)
    began = loop.time()
    started(str(path) if path else "embedded default", os.getpid())
    async with Monitor(config) as monitor:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        reloads: set[asyncio.Task[None]] = set()

        def reload() -> None:
            task = loop.create_task(_reload(monitor, path))
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
        events.ready(listeners=1 if monitor.port else 0)
        await stop.wait()
    events.stopped(seconds=int(loop.time() - began))


async def _reload(monitor: "Monitor", path: "Path | None") -> None:
    from smartmail import events
    from smartmail.config import ConfigError, load
    from smartmail.store.errors import StoreError

    name = str(path) if path else "embedded default"
    try:
        fixed = await monitor.reload(load(path))
    except (ConfigError, StoreError, OSError) as error:
        events.config_refused(config=name, problems=str(error).splitlines())
        return
    events.config_reloaded(config=name, needs_restart=fixed)


@app.command()
def apply(ctx: typer.Context) -> None:
    """Put the configuration's checks, locations and terms in force: the first ones from the next minute on, a change
    three minutes ahead, so that agents have heard of it. `run` does it too when it starts, and at SIGHUP."""
    from smartmail.cli.acting import act
    from smartmail.monitor.rosters import put_in_force, roster_of
    from smartmail.store import sla

    config, database = load_config(ctx), open_store(ctx)
    with database.write() as connection:
        sla.record_terms(connection, config.sla_terms, act())
    roster = put_in_force(database, roster_of(config), now_ns() // 10**6)
    if roster is None:
        say("nothing to do: it is in force already")
        return
    places = ", ".join(roster.locations) or "none"
    since = _when(roster.from_minute)
    say(f"roster {roster.version}: {len(roster.checks)} checks, locations: {places}; in force from {since}")


@app.command()
def status(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """How every service stands now: budget, burn, open incidents, locations that fail alone. Exit code 1 while one is
    down or its month is breached."""
    from smartmail.core.minutes import Verdict
    from smartmail.monitor.live import look
    from smartmail.monitor.months import Months
    from smartmail.store.samples import SampleStore

    config, database = load_config(ctx), open_store(ctx)
    live = look(Months(database, SampleStore(config.database_url), config.sla_terms), now_ns() // 10**6)
    if as_json:
        print_json([as_dict(one) for one in live])
    elif not live:
        say("no service is watched; add [[check]] to the configuration and run an agent")
    else:
        _print(live)
    if any(one.verdict is Verdict.DOWN or one.budget.left < 0 for one in live):
        raise typer.Exit(ExitCode.FOUND_BAD)


@app.command()
def roster(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List what is watched now, and from where."""
    from smartmail.store.agents import roster_history

    with open_store(ctx).read() as connection:
        history = roster_history(connection)
    if not history:
        raise CliError("nothing is watched yet", remedy='add [[check]] and run "smartmail monitor apply"')
    newest = history[-1]
    if as_json:
        print_json(newest.to_json())
        return
    say(f"roster {newest.version}, in force from {_when(newest.from_minute)}")
    print_table(
        ("check", "service", "kind", "host", "port", "sla", "locations"),
        [(c.name, c.service, c.kind.value, c.host, c.port, c.sla, ", ".join(c.locations)) for c in newest.checks],
    )


def _print(live: "tuple[LiveMonth, ...]") -> None:
    print_table(
        ("service", "month", "judged until", "now", "down", "unknown", "allowed", "left", "burn 1h", "breach in"),
        [
            (
                one.record.service,
                str(one.record.month),
                _when(one.until),
                one.verdict.value if one.verdict else "",
                one.budget.spent,
                one.budget.unknown,
                one.budget.allowed,
                one.budget.left,
                _rate(one),
                "" if one.breach_in is None else f"{one.breach_in} min",
            )
            for one in live
        ],
    )
    for one in live:
        if one.incident is not None:
            what, where = ", ".join(one.incident.checks), ", ".join(one.incident.locations)
            say(f"{one.record.service}: down since {_when(one.incident.start)}: {what}; seen from {where}")
        for advisory in one.advisories:
            since = _when(advisory.since)
            say(f"{one.record.service}: {advisory.check} fails from {advisory.location} alone, since {since}")


def _rate(one: "LiveMonth") -> str:
    rate = next(burn.rate for burn in one.burns if burn.window == 60)
    return f"{rate // 1000}.{rate % 1000 // 100}"


def as_dict(one: "LiveMonth") -> dict[str, object]:
    """For JSON."""
    incident = one.incident
    return {
        "service": one.record.service,
        "month": str(one.record.month),
        "judged_until_minute": one.until,
        "verdict": one.verdict.value if one.verdict else None,
        "eligible": one.budget.eligible,
        "allowed": one.budget.allowed,
        "down": one.budget.spent,
        "unknown": one.budget.unknown,
        "left": one.budget.left,
        "left_if_unknown_down": one.budget.left_if_unknown_down,
        "burn_per_mille": {str(burn.window): burn.rate for burn in one.burns},
        "alerts": [alert.pair.urgency.value for alert in one.alerts if alert.firing],
        "breach_in_minutes": one.breach_in,
        "incident": None if incident is None else incident.to_json(),
        "advisories": [
            {"check": each.check, "location": each.location, "since_minute": each.since} for each in one.advisories
        ],
    }


def _when(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%Y-%m-%d %H:%MZ")
