"""`smartmail agent`: the agents of the monitor, on both sides.

On the host of the collector: `token`, `list`, `revoke`. At a location: `enrol`, `run`.
"""

import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smartmail.cli.acting import now_ns, say, stamp, who
from smartmail.cli.common import CliError, ExitCode, JsonFlag, console, open_store, print_json, print_table
from smartmail.core.roster import NAME

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from smartmail.core.roster import CheckSpec
    from smartmail.intake.probemail import ProbeIntake
    from smartmail.metrics import AgentMetrics
    from smartmail.monitor.agent import Agent
    from smartmail.monitor.clock import CorrectedClock
    from smartmail.monitor.control import Target
    from smartmail.monitor.probes.observation import Observation
    from smartmail.monitor.roundtrip import LateArrival
    from smartmail.monitor.settings import AgentSettings

app = typer.Typer(no_args_is_help=True, help="Agents of the monitor: one at each location.")

DEFAULT_FOLDER = Path("smartmail-agent")
_TOKEN_OCTETS = 32

Folder = Annotated[Path, typer.Option("--dir", help="The agent's folder.", envvar="SMARTMAIL_AGENT_DIR")]


@app.command()
def token(
    ctx: typer.Context,
    location: Annotated[str, typer.Argument(help="Where the agent will stand, as the roster names it.")],
    hours: Annotated[int, typer.Option(min=1, max=720, help="How long the token is good for.")] = 24,
    as_json: JsonFlag = False,
) -> None:
    """Make a token by which one agent can enrol, and print it, once."""
    from smartmail.core.signing import token_digest
    from smartmail.store import agents

    # The location stands in front, so that whoever enrols need not be told it apart.
    text = f"{location}.{secrets.token_urlsafe(_TOKEN_OCTETS)}"
    made_ms = now_ns() // 10**6
    expires_ms = made_ms + hours * 3_600_000
    with open_store(ctx).write() as connection:
        history = agents.roster_history(connection)
        if not history or location not in history[-1].locations:
            known = ", ".join(history[-1].locations) if history else "none yet"
            what = f"no roster names {location}, so an agent there has nothing to do (known: {known})"
            console(stderr=True).print(f"{what}; add it to monitor.locations")
        agents.add_token(
            connection, token_digest(text), location, made_by=who(), made_ms=made_ms, expires_ms=expires_ms
        )
    if as_json:
        print_json({"token": text, "location": location, "expires_ms": expires_ms})
        return
    typer.echo(text)
    until = stamp(expires_ms * 10**6)
    console(stderr=True).print(f"good for one agent at {location} until {until}; it is not shown again")


@app.command("list")
def list_(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List the agents."""
    from dataclasses import asdict

    from smartmail.store import agents

    with open_store(ctx).read() as connection:
        found = agents.list_agents(connection)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    rows = [
        (
            one.name,
            one.location,
            _when(one.enrolled_ms),
            _when(one.last_seen_ms),
            "" if one.offset_ms is None else f"{one.offset_ms} ms",
            _when(one.revoked_ms),
        )
        for one in found
    ]
    print_table(("agent", "location", "enrolled", "last seen", "clock off by", "revoked"), rows)


@app.command()
def revoke(ctx: typer.Context, name: Annotated[str, typer.Argument(help="The agent's name.")]) -> None:
    """Take nothing more from an agent, from now on. What it has handed in stays."""
    from smartmail.store import agents

    with open_store(ctx).write() as connection:
        agents.revoke(connection, name, now_ns() // 10**6)
    say(f"agent {name} revoked")


@app.command()
def enrol(
    collector: Annotated[list[str], typer.Option(help="https://host[:port]. Repeatable: the first is asked.")],
    token_file: Annotated[Path, typer.Option(help="File with the token; - is standard input.")],
    name: Annotated[str, typer.Option(help="What this agent is to be called.")],
    ca: Annotated[
        Path | None, typer.Option(help="Whom to trust for the collector (PEM). Without it: the system's authorities.")
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(help="host:port that has nothing to do with what is monitored. Repeatable.", show_default=False),
    ] = None,
    probe_ca: Annotated[
        Path | None,
        typer.Option(help="Whom probes trust (PEM), where servers have certificates of an authority of your own."),
    ] = None,
    folder: Folder = DEFAULT_FOLDER,
) -> None:
    """Make this host an agent: a key of its own, known to the collector by the token."""
    import asyncio

    from smartmail.monitor.client import new_key
    from smartmail.monitor.settings import KEY_FILE, SETTINGS_FILE, write_settings, write_whole

    if (folder / SETTINGS_FILE).exists():
        raise CliError(
            "there is an agent in this folder already",
            where=str(folder),
            remedy="choose another with --dir, or remove its agent.toml",
            code=ExitCode.USAGE,
        )
    text = _token(token_file)
    settings = _settings(folder, name, text.partition(".")[0], (collector, control or []))
    _look_at_roots(probe_ca)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / settings.secrets).mkdir(mode=0o700, exist_ok=True)
    _, pem, public_key = new_key()
    # On the disk before the collector knows it: a key that is known and lost would cost the token.
    write_whole(folder / KEY_FILE, pem)
    asyncio.run(_enrol(settings, ca, text, public_key))
    write_settings(_with_authorities(settings, ca, probe_ca))
    say(f"agent {name} enrolled at {settings.location}; start it with: smartmail agent run --dir {folder}")
    if not settings.control:
        say("it has no control targets: when this host loses the net, it will see everything as down (--control)")


@app.command()
def run(folder: Folder = DEFAULT_FOLDER) -> None:
    """Run the agent of this folder until SIGTERM."""
    import uvloop

    from smartmail.monitor.client import KeyUnusable
    from smartmail.monitor.settings import SettingsError, load_settings
    from smartmail.monitor.spool import SpoolError

    try:
        uvloop.run(_run(load_settings(folder)))
    except (SettingsError, KeyUnusable, SpoolError) as error:
        raise CliError(str(error), code=ExitCode.USAGE) from None


async def _run(settings: "AgentSettings") -> None:
    import asyncio
    import contextlib
    import signal

    from prometheus_client import CollectorRegistry

    from smartmail import events
    from smartmail.events import monitor as lines
    from smartmail.metrics import AgentMetrics
    from smartmail.monitor.agent import Agent, AgentParts
    from smartmail.monitor.client import Collectors, Identity, read_key, tls_context
    from smartmail.monitor.clock import CorrectedClock, SystemTime
    from smartmail.monitor.prober import MOST_AT_ONCE

    _look_at_roots(settings.probe_ca)
    _allow_descriptors(2 * MOST_AT_ONCE)
    clock = CorrectedClock(SystemTime())
    identity = Identity(settings.name, read_key(settings.key))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.set_exception_handler(events.loop_fault)
    log = events.configure()
    metrics = AgentMetrics(CollectorRegistry())
    try:
        async with contextlib.AsyncExitStack() as stack:
            collectors = Collectors(settings.collectors, tls_context(settings.ca), clock.steady_ms, identity)
            await stack.enter_async_context(collectors)
            sink = await _intake(stack, settings, clock.now_ms)
            parts = AgentParts(clock, collectors, probe_of(settings, clock.now_ms, metrics, sink), lines)
            agent = Agent(settings, parts)
            watch(metrics, agent, clock)
            if settings.metrics is not None:
                _serve_metrics(stack, settings.metrics, metrics)
            await agent.run(stop)
    finally:
        log.close()


async def _intake(
    stack: "AsyncExitStack", settings: "AgentSettings", now_ms: Callable[[], int]
) -> "ProbeIntake | None":
    """Take round trips' messages here, where the settings say so. Raises CliError."""
    from smartmail import events
    from smartmail.intake.probemail import IntakeSettings, start
    from smartmail.monitor.probes import SecretSource
    from smartmail.monitor.probes.context import SecretError

    wanted = settings.intake
    if wanted is None:
        return None
    try:
        secret = SecretSource(settings.secrets).get(wanted.secret).password.encode()
        sink = await start(
            IntakeSettings(secret, frozenset(wanted.addresses)), wanted.at.host, wanted.at.port, now_ms=now_ms
        )
    except (SecretError, ValueError) as error:
        raise CliError(str(error), where="agent.toml, intake", code=ExitCode.USAGE) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise CliError(reason, where=f"agent.toml, intake {wanted.at}", code=ExitCode.UNREACHABLE) from None
    stack.push_async_callback(sink.close)
    events.listening(name="intake", role="intake", address=f"{sink.address[0]}:{sink.address[1]}")
    return sink


def probe_of(
    settings: "AgentSettings", now_ms: Callable[[], int], metrics: "AgentMetrics", sink: "ProbeIntake | None" = None
) -> "Callable[[CheckSpec], Awaitable[Observation]]":
    """Does a check, and tells `metrics` what it saw."""
    from smartmail.core.roster import CheckKind
    from smartmail.events import monitor as lines
    from smartmail.monitor.probes import SecretSource, make_context, probe
    from smartmail.monitor.roundtrip import RoundTrips

    secrets_ = SecretSource(settings.secrets, lines.secret_readable)
    context = make_context(secrets_, ca_file=settings.probe_ca, now_ms=now_ms)

    def late(one: "LateArrival") -> None:
        metrics.late[one.check] += 1
        lines.round_trip_late(check=one.check, location=one.location, late_ms=one.late_ms, sent_ms=one.sent_ms)

    trips = RoundTrips(settings.location, sink=sink, on_late=late)

    async def look(check: "CheckSpec") -> "Observation":
        is_trip = check.kind is CheckKind.ROUND_TRIP
        seen = await (trips.start(check, context) if is_trip else probe(check, context))
        metrics.saw(check, seen.phases, seen.facts)
        return seen

    return look


def watch(metrics: "AgentMetrics", agent: "Agent", clock: "CorrectedClock") -> None:
    """Have the metrics show what the agent counts."""
    probes, sent, counts = agent.prober.counts, agent.sender.counts, agent.counts

    def checks() -> frozenset[str]:
        roster = agent.prober.book.at(clock.now_ms() // 60_000)
        return frozenset(check.name for check in roster.checks) if roster else frozenset()

    metrics.outcomes = lambda: probes.outcomes
    metrics.offset_ms = lambda: clock.offset_ms
    metrics.checks = checks
    metrics.watch(
        counters=(
            (
                "smartmail_agent_late_starts",
                "Probes begun over 1 s after their slot.",
                lambda: probes.begun - probes.on_time,
            ),
            (
                "smartmail_agent_missed_slots",
                "Slots in which nothing was begun: the agent slept, or too much ran.",
                lambda: probes.missed,
            ),
            (
                "smartmail_agent_overlapped_slots",
                "Slots left out because the check's last probe still ran.",
                lambda: probes.overlapped,
            ),
            ("smartmail_agent_probe_faults", "Probes that ended by a fault of ours.", lambda: probes.faults),
            ("smartmail_agent_control_failures", "Looks that reached no control target.", lambda: probes.cut_off),
            ("smartmail_agent_spooled_samples", "Samples brought to the disk.", lambda: counts.spooled),
            ("smartmail_agent_handed_in_samples", "Samples that a collector took.", lambda: sent.samples),
            ("smartmail_agent_quarantined_samples", "Of these, dated in the future.", lambda: sent.quarantined),
            (
                "smartmail_agent_conflicting_samples",
                "Of these, other than what the collector knew.",
                lambda: sent.conflicts,
            ),
            (
                "smartmail_agent_set_aside_samples",
                "Samples that no collector will ever take, kept apart.",
                lambda: sent.set_aside,
            ),
            (
                "smartmail_agent_lost_samples",
                "Samples that are gone: no disk, no room, or no collector in 30 days.",
                lambda: counts.lost,
            ),
            (
                "smartmail_agent_hand_in_failures",
                "Tries to hand in that no collector answered well.",
                lambda: sent.failures,
            ),
            (
                "smartmail_agent_check_in_failures",
                "Questions for time and roster that no collector answered well.",
                lambda: counts.failed_check_ins,
            ),
        ),
        gauges=(
            ("smartmail_agent_waiting_samples", "Samples that no collector has yet.", lambda: agent.waiting),
            ("smartmail_agent_running_probes", "Probes that run now.", lambda: agent.prober.running),
            (
                "smartmail_agent_since_hand_in_seconds",
                "Time since a collector last took samples; before the first time, since the start.",
                lambda: agent.since_hand_in_ms / 1000,
            ),
        ),
    )


def _serve_metrics(stack: "AsyncExitStack", endpoint: "Target", metrics: "AgentMetrics") -> None:
    from prometheus_client import start_http_server

    from smartmail import events

    try:
        server, thread = start_http_server(endpoint.port, endpoint.host, registry=metrics.registry)
    except OSError as error:
        raise CliError(error.strerror or str(error), where=f"metrics {endpoint}", code=ExitCode.UNREACHABLE) from error
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    address = f"{endpoint.host}:{server.server_port}"
    events.listening(name="metrics", role="metrics", address=address)


async def _enrol(settings: "AgentSettings", ca: Path | None, text: str, public_key: str) -> None:
    from smartmail.monitor.client import ClientError, Collectors, RefusedByCollector, tls_context
    from smartmail.monitor.clock import SystemTime

    try:
        async with Collectors(settings.collectors[:1], tls_context(ca), SystemTime().steady_ms) as collectors:
            await collectors.enrol(text, settings.name, settings.location, public_key)
    except RefusedByCollector as error:
        raise CliError(f"the collector refuses: {error.what}", where=settings.collectors[0]) from None
    except ClientError as error:
        raise CliError(str(error), remedy="see that it runs, and --ca", code=ExitCode.UNREACHABLE) from None
    except OSError as error:
        raise CliError(f"{error.strerror or error}", where=str(ca or "--ca"), code=ExitCode.USAGE) from None


def _settings(folder: Path, name: str, location: str, urls: tuple[list[str], list[str]]) -> "AgentSettings":
    from smartmail.monitor.control import parse_target
    from smartmail.monitor.settings import AgentSettings, SettingsError, check_collector

    if not NAME.match(location):
        raise CliError("this is no token", where="--token-file", code=ExitCode.USAGE)
    if not NAME.match(name):
        raise CliError(
            f"{name!r} cannot be an agent's name",
            where="--name",
            remedy="small letters, digits and -, 40 at most",
            code=ExitCode.USAGE,
        )
    collectors, control = urls
    try:
        reached = tuple(check_collector(url) for url in collectors)
        return AgentSettings(folder, name, location, reached, control=tuple(parse_target(one) for one in control))
    except (SettingsError, ValueError) as error:
        raise CliError(str(error), code=ExitCode.USAGE) from None


def _with_authorities(settings: "AgentSettings", ca: Path | None, probe_ca: Path | None) -> "AgentSettings":
    """With copies of these files in the agent's folder."""
    from dataclasses import replace

    from smartmail.monitor.settings import CA_FILE, PROBE_CA_FILE, write_whole

    for name, given in ((CA_FILE, ca), (PROBE_CA_FILE, probe_ca)):
        if given is not None:
            write_whole(settings.folder / name, given.read_bytes(), 0o644)
    return replace(settings, ca=ca and Path(CA_FILE), probe_ca=probe_ca and Path(PROBE_CA_FILE))


def _look_at_roots(file: Path | None) -> None:
    """Raises CliError for a file of roots that no probe could use."""
    import ssl

    try:
        if file is not None:
            ssl.create_default_context(cafile=file)
    except ssl.SSLError as error:
        raise CliError("no certificates in it", where=str(file), code=ExitCode.USAGE) from error
    except OSError as error:
        raise CliError(error.strerror or str(error), where=str(file), code=ExitCode.USAGE) from error


def _token(file: Path) -> str:
    try:
        text = sys.stdin.readline() if str(file) == "-" else file.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CliError(f"the token cannot be read: {reason}", where=str(file), code=ExitCode.USAGE) from None
    return text.strip()


def _when(at_ms: int | None) -> str:
    return "" if at_ms is None else stamp(at_ms * 10**6)


def _allow_descriptors(wanted: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
