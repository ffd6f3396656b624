"""Our relay as it is measured: everything on (policy, limits, metrics, event rows), in a folder of its
own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .procs import Child, Processes, StartFailed, free_port, wait_for_greeting

LOGIN = "sender@example.test"
PASSWORD = "bench-only-not-a-secret"
COMMAND_SECONDS = 60

# Several limits that every message is charged to, far above the load: counted and enforced, never reached.
LIMITS = "\n".join(
    f'[[limit]]\nname = "{scope}-{unit}-{period}"\nscope = "{scope}"\nunit = "{unit}"\nquota = 1000000000000\n'
    f'period = {period}\nburst = {burst}\nmode = "enforce"\n'
    for scope, unit, period, burst in (
        ("client", "messages", 3600, 0),
        ("client", "recipients", 60, 1_000_000),
        ("client", "bytes", 86400, 0),
        ("recipient_domain", "messages", 3600, 0),
        ("recipient_domain", "recipients", 60, 1_000_000),
    )
)


@dataclass(frozen=True, slots=True)
class Site:
    """Where one instance of ours lives: its processes, its folder, the repository, its cores."""

    processes: Processes
    home: Path
    root: Path
    cores: frozenset[int]

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.home / "smartmail.toml"

    @property
    def environment(self) -> dict[str, str]:
        """The repository's own code, whatever else is installed."""
        return {"PYTHONPATH": str(self.root)}


def _settings(site: Site, sink: int) -> str:
    return (
        f'[server]\nhostname = "bench.example.test"\ndata_dir = "{site.home}/var"\n'
        "max_sessions = 20000\nmax_sessions_per_client = 20000\nmax_sessions_per_account = 20000\n"
        f'[upstream]\nprotocol = "smtp"\naddress = "127.0.0.1:{sink}"\nidentity = "none"\ntls = "none"\n'
        "max_connections = 400\nmax_idle = 50\n"
        f'[metrics]\naddress = "127.0.0.1:{free_port()}"\n'
        '[log]\nformat = "json"\nlevel = "warning"\n'
        f"{LIMITS}"
    )


def _serve(site: Site, port: int) -> Child:
    command: list[str | Path] = [sys.executable, "-m", "smartmail", "--config", site.config, "serve"]
    name = f"smartmail-{site.home.name}"
    child = site.processes.start(name, command, site.cores, environment=site.environment)
    wait_for_greeting(child, port)
    return child


def start_relay(site: Site, sink: int) -> tuple[int, Child]:
    """A relay listener that trusts the loopback, passing to the sink. Returns its port. Raises
    StartFailed."""
    site.home.mkdir(parents=True)
    port = free_port()
    listener = (
        f'[[listener]]\nname = "bench"\nrole = "relay"\naddress = "127.0.0.1:{port}"\ntls = "none"\n'
        'trusted_networks = ["127.0.0.0/8"]\n'
    )
    site.config.write_text(_settings(site, sink) + listener)
    return port, _serve(site, port)


@dataclass(frozen=True, slots=True)
class Secrets:
    """Certificate and key files, and the socket of Dovecot's auth service."""

    certificate: Path
    key: Path
    socket: Path


def start_submission(site: Site, sink: int, secrets: Secrets) -> tuple[int, Child]:
    """A submission listener with STARTTLS and Dovecot as its authenticator. Returns its port. Raises
    StartFailed."""
    site.home.mkdir(parents=True)
    port = free_port()
    extra = (
        f'[[listener]]\nname = "bench"\nrole = "submission"\naddress = "127.0.0.1:{port}"\ntls = "starttls"\n'
        f'[tls]\ncertificate = "{secrets.certificate}"\nkey = "{secrets.key}"\n'
        f'[auth]\nbackend = "dovecot"\nsocket = "{secrets.socket}"\n'
    )
    site.config.write_text(_settings(site, sink) + extra)
    _provision(site)
    return port, _serve(site, port)


def _provision(site: Site) -> None:
    """The one account of the load and its plan, made with our own commands; limits far above the load."""
    limits = (
        "name=hour,scope=account,unit=messages,quota=1000000000,period=1h",
        "name=day,scope=customer,unit=recipients,quota=1000000000,period=1d",
        "name=rate,scope=account,unit=recipients,quota=1000000000,period=1h,burst=1000000",
    )
    for words in (
        ("plan", "add", "bench", *(word for limit in limits for word in ("--limit", limit))),
        ("customer", "add", "bench", "--plan", "bench"),
        ("domain", "add", "example.test", "--customer", "bench"),
        ("account", "add", LOGIN, "--plan", "bench", "--generate"),
    ):
        _command(site, words)


def _command(site: Site, words: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "smartmail", "--config", str(site.config), *words],
        env={**os.environ, **site.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
        cwd=site.home,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise StartFailed(f"smartmail {' '.join(words)} ended with code {done.returncode}: {lines[-1][:300]}")
