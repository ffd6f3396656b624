"""What `serve --embedded` says on the screen: what listens where, a sample account, what to try, how to go on.

The screen is standard output; the log goes to a file meanwhile, so that its lines do not tear the tables.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from smartmail import __version__
from smartmail.cli.common import CliError, ExitCode
from smartmail.cli.demo import Bring, Stage, Target, Watch, play
from smartmail.cli.sample import (
    SAMPLE_FILE,
    SAMPLE_LOGIN,
    Order,
    Sample,
    make_password,
    provision,
    read_sample,
    write_sample,
)
from smartmail.config import ListenerConfig, TcpAddress
from smartmail.core.policy import at_login
from smartmail.core.sasl import prepare_password

if TYPE_CHECKING:
    from smartmail.cli.serve import Process
    from smartmail.store.directory import Credential

PLAIN_WIDTH: Final = 110
"""Columns where there is no terminal and COLUMNS does not say."""
HEARD_SECONDS: Final = 10
_SETTINGS: Final = ("SMARTMAIL_SERVER__DATA_DIR", "SMARTMAIL_STORE__URL_FILE")
"""Environment that another terminal must share to reach the same database. Paths, no secrets."""


class Showing(NamedTuple):
    """What to show. demo: play the scene too. once: stop after it."""

    demo: bool = False
    once: bool = False


@dataclass(frozen=True, slots=True)
class Door:
    """Something that listens. where: an address with its real port, or a URL."""

    name: str
    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Screen:
    """All that the guide says. maildrop: folder of the Maildirs, None with an upstream of one's own. swaks: it is
    installed. command: how `smartmail` is called here. trouble: why the sample account cannot be tried as it is."""

    config: str
    doors: Sequence[Door]
    submission: Target | None
    sample: Sample | None
    maildrop: Path | None
    data_dir: Path
    log: Path
    command: str
    swaks: bool
    trouble: str = ""


async def show(process: "Process", showing: Showing) -> ExitCode | None:
    """Print the screen, and play the demo where asked for. Returns the code to stop the process with; None: go on.

    Raises CliError and OSError.
    """
    console = make_console()
    if showing.demo:
        _can_play(process)
    demo_password = make_password() if showing.demo else ""
    account, order = _order(process, demo_password)
    if order.sample is not None or order.demo_password:
        with console.status("making accounts"):
            await _carry_out(process, order)
    print_screen(console, await asyncio.to_thread(_screen, process, account))
    code: ExitCode | None = None
    if showing.demo:
        code = await _play(process, demo_password)
        # Without a terminal nobody can look around afterwards, or press Ctrl-C.
        if sys.stdin.isatty() and console.is_terminal and not showing.once:
            code = None
    print_end(console, stopping=code is not None)
    return code


def make_console() -> Console:
    """Standard output: as wide as the terminal, colours only there and never with NO_COLOR."""
    plain = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(file=sys.stdout, width=PLAIN_WIDTH if plain else None, highlight=False, markup=False, emoji=False)


# the sample account


def _order(process: "Process", demo_password: str) -> tuple[Sample | None, Order]:
    """The sample account, and what is to be made: itself at the first start, and when it or its file is gone. There
    is none where somebody else checks passwords."""
    if process.config.auth.backend != "local":
        return None, Order(process.url)
    data_dir = process.config.server.data_dir
    account = read_sample(data_dir)
    fresh = account is None
    if account is None:
        account = Sample(SAMPLE_LOGIN, make_password())
        # The file comes first: killed between the two, the next start makes the account that the file tells of.
        write_sample(data_dir, account)
    missing = fresh or process.services.directory.by_login(account.login) is None
    return account, Order(process.url, account if missing else None, fresh, demo_password)


async def _carry_out(process: "Process", order: Order) -> None:
    """Make accounts, and return when the relay knows them. Raises CliError."""
    change = await provision(order)
    try:
        await asyncio.wait_for(process.heard_of(change), HEARD_SECONDS)
    except TimeoutError:
        raise CliError(
            f"the relay did not hear of new accounts within {HEARD_SECONDS} s", remedy=f"see {process.log_path}"
        ) from None


def trouble_with(account: Sample, credential: "Credential | None") -> str:
    """Why this login will not work now; "" where it will. Takes as long as a login."""
    if credential is None:
        return "the account is gone"
    try:
        PasswordHasher().verify(credential.password_hash, prepare_password(account.password))
    except VerificationError:
        return "the account has another password now; delete the file for a new one"
    decision = at_login(credential.account)
    return "" if decision.accepted or decision.reply is None else f"logging in is answered: {decision.reply}"


# the demo


async def _play(process: "Process", password: str) -> ExitCode:
    submission = submission_of(process)
    if submission is None:
        raise AssertionError("looked at before the accounts were made")
    return await play(
        Stage(
            url=process.url,
            submission=submission,
            relay=_relay_of(process),
            maildrop=str(process.config.maildrop_directory) if process.maildrop is not None else "",
            password=password,
            command=_command(process.path),
        ),
        Watch(str(process.config.server.data_dir / "demo-monitor"), _command(process.path)),
        Bring(str(process.config.server.data_dir / "demo-backup"), _program()),
    )


# what there is


def _can_play(process: "Process") -> None:
    """Raises CliError for a configuration that the scene cannot be played on."""
    if process.config.auth.backend != "local":
        raise CliError("the demo needs accounts of our own", where="auth.backend", remedy='set it to "local"')
    if submission_of(process) is None:
        raise CliError("the demo needs a submission listener", remedy="configure one, or run it without a file")


def _screen(process: "Process", account: Sample | None) -> Screen:
    config = process.config
    trouble = ""
    if account is not None:
        trouble = trouble_with(account, process.services.directory.by_login(account.login))
    return Screen(
        config=str(process.path) if process.path else "no configuration file: the embedded default",
        doors=_doors(process),
        submission=submission_of(process),
        sample=account,
        maildrop=config.maildrop_directory if process.maildrop is not None else None,
        data_dir=config.server.data_dir,
        log=process.log_path,
        command=_command(process.path),
        swaks=shutil.which("swaks") is not None,
        trouble=trouble,
    )


def _doors(process: "Process") -> list[Door]:
    doors = [Door(one.name, one.bound, describe(one.config)) for one in process.relay.listeners]
    if process.maildrop is not None:
        where = str(TcpAddress(*process.maildrop.address))
        folder = near(process.config.maildrop_directory)
        doors.append(Door("maildrop", where, f"the embedded upstream: keeps mail in {folder}/"))
    else:
        doors.append(Door("upstream", process.config.upstream.address, "yours: what is let through goes there"))
    endpoint = process.config.metrics.endpoint
    if endpoint is not None:
        address = TcpAddress(endpoint.host, process.metrics_port)
        doors.append(Door("metrics", f"http://{address}/metrics", "for Prometheus"))
    return doors


def describe(listener: ListenerConfig) -> str:
    """What a listener is for, in a few words."""
    tls = {"starttls": "STARTTLS", "implicit": "TLS from the first octet", "none": "no TLS"}[listener.tls]
    if listener.role == "submission":
        return f"accounts send: {tls}, then AUTH"
    takes = []
    if listener.trusted_networks:
        takes.append(f"any mail from {', '.join(map(str, listener.trusted_networks))}")
    if listener.accept_incoming:
        takes.append("for our domains from anywhere")
    return f"servers deliver: {'; '.join(takes)}"


def submission_of(process: "Process") -> Target | None:
    """The submission listener that is easiest to try; None where there is none without a PROXY header."""
    found = [
        Target(*reachable(one.bound), one.config.tls)
        for one in process.relay.listeners
        if one.submission and not one.config.proxy_protocol_from
    ]
    return min(found, key=lambda one: one.tls != "starttls", default=None)


def _relay_of(process: "Process") -> Target | None:
    """A listener that takes mail for our domains from this machine, without a PROXY header."""
    found = [
        Target(*reachable(one.bound), one.config.tls)
        for one in process.relay.listeners
        if one.config.accept_incoming and not one.config.proxy_protocol_from
    ]
    return found[0] if found else None


def reachable(bound: str) -> tuple[str, int]:
    """Where a client on this machine connects to for a bound address: a wildcard is no destination."""
    host, _, port = bound.rpartition(":")
    host = host.strip("[]")
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port)  # noqa: S104 - compared with, not bound to


def near(path: Path) -> str:
    """A path as short as it can be written here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _command(config: Path | None) -> str:
    """How to call `smartmail` in another terminal, in the same folder, for what this process has."""
    command = _program()
    settings = [f"{name}={value}" for name in _SETTINGS if (value := os.environ.get(name))]
    if config is not None and config != Path("smartmail.toml"):
        command += f" --config {near(config)}"
    return " ".join([*settings, command])


def _program() -> str:
    """How to call `smartmail` in another terminal, in the same folder."""
    script = Path(sys.executable).with_name("smartmail")
    on_path = shutil.which("smartmail")
    if on_path is not None and Path(on_path) == script:
        return "smartmail"
    return near(script) if script.is_file() else f"{near(Path(sys.executable))} -m smartmail"


# commands to try


def swaks_command(submission: Target, account: Sample) -> str:
    """A mail of the sample account to itself, by swaks."""
    tls = {"starttls": " --tls", "implicit": " --tls-on-connect", "none": ""}[submission.tls]
    return (
        f"swaks --server {submission.host} --port {submission.port}{tls} \\\n"
        f"  --auth PLAIN --auth-user {account.login} --auth-password {account.password} \\\n"
        f"  --from {account.login} --to {account.login}"
    )


def python_command(submission: Target, account: Sample) -> str:
    """The same with nothing but Python's standard library. The certificate is self-made: it is not checked."""
    connect = "SMTP_SSL" if submission.tls == "implicit" else "SMTP"
    starttls = "s.starttls(); " if submission.tls == "starttls" else ""
    return (
        "python3 -c '\n"
        "import smtplib\n"
        f's = smtplib.{connect}("{submission.host}", {submission.port}, "localhost")\n'
        f'{starttls}s.login("{account.login}", "{account.password}")\n'
        f's.sendmail("{account.login}", "{account.login}", "Subject: hello\\n\\nIt works.\\n")\n'
        "print(*s.quit())'"
    )


# printing


def print_screen(console: Console, screen: Screen) -> None:
    """All of it, from top to bottom. Commands are never folded: they are there to be pasted."""
    console.print()
    console.print(Text.assemble(("Smart Mail ", "bold"), (__version__, "bold"), f" is running  ({screen.config})"))
    _print_doors(console, screen)
    if screen.sample is not None:
        _print_sample(console, screen, screen.sample)
    head(console, "Look around", f"in another terminal, in {Path.cwd()}")
    login = screen.sample.login if screen.sample else "ADDRESS"
    for words in ("account list", "events", f"account why {login}"):
        _print_command(console, f"{screen.command} {words}")
    _print_command(console, f"tail -f {near(screen.log)}")


def _print_doors(console: Console, screen: Screen) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what", style="bold", no_wrap=True)
    table.add_column("where", style="green", no_wrap=True)
    table.add_column("for", overflow="fold")
    for door in screen.doors:
        table.add_row(Text(door.name), Text(door.where), Text(door.what))
    console.print(table)


def _print_sample(console: Console, screen: Screen, account: Sample) -> None:
    console.print(Text("Sample account", "bold cyan"))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("login", Text(account.login, "green"))
    table.add_row(
        "password",
        Text.assemble((account.password, "green"), f"  (kept in {near(screen.data_dir / SAMPLE_FILE)}, mode 0600)"),
    )
    if screen.maildrop is not None:
        table.add_row("its mail", Text(f"{near(screen.maildrop)}/{account.login}/new/", "green"))
    if screen.trouble:
        table.add_row("but", Text(screen.trouble, "bold yellow"))
    console.print(Padding(table, (0, 0, 0, 2)))
    if screen.submission is None:
        return
    head(console, "Send a mail", "in another terminal")
    if screen.swaks:
        _print_command(console, swaks_command(screen.submission, account))
        console.print("or, with Python alone:")
    _print_command(console, python_command(screen.submission, account))
    if screen.maildrop is not None:
        console.print("and see it:")
        _print_command(console, f"ls {near(screen.maildrop)}/{account.login}/new/")


def print_end(console: Console, *, stopping: bool) -> None:
    """The last line. stopping: the relay does not go on."""
    console.print()
    text = "The relay stops now" if stopping else "Ctrl-C stops the relay"
    console.print(f"{text}; accounts, mail and events are kept for the next start.", soft_wrap=True)


def head(console: Console, title: str, note: str = "") -> None:
    """A heading, with an empty line above it."""
    console.print()
    console.print(Text.assemble((title, "bold cyan"), (f"  {note}" if note else "", "dim")), soft_wrap=True)


def _print_command(console: Console, command: str) -> None:
    # Not indented: what is pasted goes to a shell, and Python minds.
    console.print(Text(command, "yellow"), soft_wrap=True)
