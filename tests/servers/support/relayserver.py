"""The relay under test: its own process, its own directory, started and waited for by its own ready line."""

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.processes import PATIENCE, Process, free_port, run

Table = Mapping[str, object]
"""A TOML table: values, or lists of values."""


@dataclass(frozen=True)
class Certificate:
    """A certificate for localhost and 127.0.0.1 that clients can check: it is its own authority."""

    file: Path
    key: Path


def make_certificate(directory: Path) -> Certificate:
    """Make one with openssl."""
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-addext", "basicConstraints=critical,CA:true"),
            *("-keyout", str(made.key), "-out", str(made.file)),
        ]
    )
    made.key.chmod(0o600)
    return made


def _toml(tables: Mapping[str, Table | Sequence[Table]]) -> str:
    lines = []
    for name, entry in tables.items():
        several = not isinstance(entry, Mapping)
        for table in entry if several else [entry]:
            lines.append(f"[[{name}]]" if several else f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


@dataclass
class Relay:
    """A relay. Ports: `submission` with STARTTLS, `smtps` with implicit TLS, `relay` trusting loopback."""

    directory: Path
    certificate: Certificate
    tables: dict[str, Table | Sequence[Table]] = field(default_factory=dict)
    """Further or other tables of the configuration."""
    submission: int = field(default_factory=free_port)
    smtps: int = field(default_factory=free_port)
    relay: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    process: Process | None = None
    accounts: Path | None = None
    """A data directory with accounts to begin with."""

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.directory / "smartmail.toml"

    @property
    def data_dir(self) -> Path:
        """What the relay may write to."""
        return self.directory / "data"

    @property
    def output(self) -> Path:
        """All that the processes of this relay have printed."""
        return self.directory / "output"

    def write_config(self) -> None:
        """Write the configuration file: the defaults below, with `tables` in their place where given."""
        local = "127.0.0.1"
        listeners: list[Table] = [
            {"name": "submission", "role": "submission", "address": f"{local}:{self.submission}"},
            {"name": "smtps", "role": "submission", "address": f"{local}:{self.smtps}", "tls": "implicit"},
            {
                "name": "relay",
                "role": "relay",
                "address": f"{local}:{self.relay}",
                "tls": "none",
                "trusted_networks": ["127.0.0.0/8"],
            },
        ]
        defaults: dict[str, Table | Sequence[Table]] = {
            "server": {"hostname": "localhost", "data_dir": str(self.data_dir), "drain_seconds": 10},
            "listener": listeners,
            "tls": {"certificate": str(self.certificate.file), "key": str(self.certificate.key)},
            "metrics": {"address": f"{local}:{self.metrics_port}"},
            "log": {"format": "json", "level": "debug"},
        }
        if self.accounts is not None and not self.data_dir.exists():
            shutil.copytree(self.accounts, self.data_dir)
        self.data_dir.mkdir(exist_ok=True)
        self.config.write_text(_toml(defaults | self.tables))

    def cli(self, *arguments: str, typed: str = "") -> str:
        """Run `smartmail` on this configuration; its standard output. AssertionError where it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "smartmail", "--config", str(self.config), *arguments],
            input=typed,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"smartmail {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def add_customer(self, domains: Sequence[str]) -> None:
        """A plan without limits, a customer who has it, and the customer's domains."""
        self.cli("plan", "add", "boundless")
        self.cli("customer", "add", "Example", "--plan", "boundless")
        for domain in domains:
            self.cli("domain", "add", domain, "--customer", "Example")

    def add_account(self, address: str, password: str) -> None:
        """An account with a password."""
        self.cli("account", "add", address, "--plan", "boundless", "--password-file", "-", typed=f"{password}\n")

    def start(self) -> "Relay":
        """Start it, return when it says that all its listeners are open."""
        argv = [sys.executable, "-m", "smartmail", "--config", str(self.config), "serve"]
        self.process = Process(argv, self.output, {"PYTHONUNBUFFERED": "1"}, self.directory)
        self.process.wait_for_line(lambda line: re.search(r"\bready\b", line) is not None, "ready line")
        return self

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        return self.process.stop()

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()

    def reload(self) -> None:
        """SIGHUP."""
        assert self.process is not None
        self.process.signal(signal.SIGHUP)

    def metrics(self) -> str:
        """The metrics page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=PATIENCE) as page:
            text: str = page.read().decode()
            return text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 where there is none."""
        total = 0.0
        for line in self.metrics().splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    @property
    def log(self) -> str:
        """All that it has printed, earlier runs included."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""
