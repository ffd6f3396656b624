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
    from smartmail.core.roster import CheckSpec
    from smartmail.monitor.probes.observation import Observation
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
    folder: Folder = DEFAULT_FOLDER,
) -> None:
    """Make this host an agent: a key of its own, known to the collector by the token."""
    import asyncio

    from smartmail.monitor.client import new_key
    from smartmail.monitor.settings import CA_FILE, KEY_FILE, SETTINGS_FILE, write_settings, write_whole

    if (folder / SETTINGS_FILE).exists():
        raise CliError(
            "there is an agent in this folder already",
            where=str(folder),
            remedy="choose another with --dir, or remove its agent.toml",
            code=ExitCode.USAGE,
        )
    text = _token(token_file)
    settings = _settings(folder, name, text.partition(".")[0], (collector, control or []))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / settings.secrets).mkdir(mode=0o700, exist_ok=True)
    _, pem, public_key = new_key()
    # On the disk before the collector knows it: a key that is known and lost would cost the token.
    write_whole(folder / KEY_FILE, pem)
    asyncio.run(_enrol(settings, ca, text, public_key))
    if ca is not None:
        write_whole(folder / CA_FILE, ca.read_bytes(), 0o644)
    write_settings(settings if ca is None else _with_ca(settings, Path(CA_FILE)))
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
    import signal

    from smartmail import events
    from smartmail.events import monitor as lines
    from smartmail.monitor.agent import Agent, AgentParts
    from smartmail.monitor.client import Collectors, Identity, read_key, tls_context
    from smartmail.monitor.clock import CorrectedClock, SystemTime
    from smartmail.monitor.prober import MOST_AT_ONCE

    _allow_descriptors(2 * MOST_AT_ONCE)
    clock = CorrectedClock(SystemTime())
    identity = Identity(settings.name, read_key(settings.key))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.set_exception_handler(events.loop_fault)
    log = events.configure()
    try:
        async with Collectors(settings.collectors, tls_context(settings.ca), clock.steady_ms, identity) as collectors:
            parts = AgentParts(clock, collectors, _probe(settings, clock.now_ms), lines)
            await Agent(settings, parts).run(stop)
    finally:
        log.close()


def _probe(settings: "AgentSettings", now_ms: Callable[[], int]) -> "Callable[[CheckSpec], Awaitable[Observation]]":
    from smartmail.core.roster import CheckKind
    from smartmail.events import monitor as lines
    from smartmail.monitor.probes import SecretSource, make_context, probe
    from smartmail.monitor.roundtrip import RoundTrips

    context = make_context(SecretSource(settings.secrets, lines.secret_readable), now_ms=now_ms)
    trips = RoundTrips(settings.location)

    def look(check: "CheckSpec") -> "Awaitable[Observation]":
        return trips.start(check, context) if check.kind is CheckKind.ROUND_TRIP else probe(check, context)

    return look


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


def _with_ca(settings: "AgentSettings", ca: Path) -> "AgentSettings":
    from dataclasses import replace

    return replace(settings, ca=ca)


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
