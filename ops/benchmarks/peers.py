"""The peers a relay is measured against, each with its best simple configuration for passing mail to one
sink."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import ours
from .install import NGINX_MAIL, which
from .procs import (
    Child,
    Cores,
    Processes,
    StartFailed,
    free_port,
    unprivileged_group,
    unprivileged_user,
    wait_for_greeting,
)


@dataclass(frozen=True, slots=True)
class Room:
    """What a peer is given: its folder, the port of the sink behind it, cores, and where Haraka lies (if
    it does)."""

    processes: Processes
    folder: Path
    sink: int
    cores: Cores
    root: Path
    haraka: Path | None


@dataclass(frozen=True, slots=True)
class Running:
    """A peer at work: the loopback port to send to, and its process trees (none for the direct way)."""

    port: int
    children: tuple[Child, ...]

    @property
    def pids(self) -> tuple[int, ...]:
        """The roots of the trees whose CPU and memory count."""
        return tuple(child.pid for child in self.children)


@dataclass(frozen=True, slots=True)
class Peer:
    """`id` as in rows, `title` for people, the programs it needs, and how it starts (raises StartFailed)."""

    id: str
    title: str
    programs: tuple[str, ...]
    start: Callable[[Room], Running]


def program(name: str) -> str:
    """The path of a program. Raises StartFailed."""
    path = which(name)
    if path is None:
        raise StartFailed(f"{name} is not installed")
    return path


def start_sink(processes: Processes, cores: Cores) -> Running:
    """Postfix's smtp-sink, behind every peer."""
    port = free_port()
    user = ["-u", unprivileged_user()] if os.geteuid() == 0 else []
    command = [program("smtp-sink"), "-4", *user, "-m", "6000", f"127.0.0.1:{port}", "4096"]
    child = processes.start("smtp-sink", command, cores.load)
    wait_for_greeting(child, port)
    return Running(port, (child,))


def _direct(room: Room) -> Running:
    return Running(room.sink, ())


def _haproxy(room: Room) -> Running:
    port = free_port()
    config = room.folder / "haproxy.cfg"
    config.write_text(
        "global\n  nbthread 1\n  maxconn 4000\n"
        "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 300s\n  timeout server 300s\n"
        "  option splice-auto\n"
        f"listen smtp\n  bind 127.0.0.1:{port} backlog 4096\n  server sink 127.0.0.1:{room.sink}\n"
    )
    child = room.processes.start("haproxy", [program("haproxy"), "-db", "-f", config], room.cores.server)
    wait_for_greeting(child, port)
    return Running(port, (child,))


def _nginx(room: Room) -> Running:
    port, auth = free_port(), free_port()
    config = room.folder / "nginx.conf"
    temporary = "\n".join(
        f"  {kind}_temp_path {room.folder}/nginx-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"load_module {NGINX_MAIL};\n"
        f"daemon off;\nworker_processes 1;\npid {room.folder}/nginx.pid;\n"
        f"user {unprivileged_user()} {unprivileged_group()};\n"
        f"error_log {room.folder}/nginx-error.log error;\n"
        "worker_rlimit_nofile 20000;\nevents { worker_connections 16000; multi_accept on; }\n"
        "mail {\n  server_name bench.example.test;\n"
        f"  auth_http 127.0.0.1:{auth}/auth;\n  proxy_pass_error_message on;\n"
        f"  server {{ listen 127.0.0.1:{port} backlog=4096; protocol smtp; smtp_auth none; xclient off;\n"
        '    smtp_capabilities PIPELINING 8BITMIME "SIZE 52428800"; }\n}\n'
        f"http {{\n  access_log off;\n{temporary}\n"
        f"  server {{ listen 127.0.0.1:{auth} backlog=4096;\n    location /auth {{\n"
        "      add_header Auth-Status OK; add_header Auth-Server 127.0.0.1;\n"
        f"      add_header Auth-Port {room.sink}; return 204; }}\n  }}\n}}\n"
    )
    command: list[str | Path] = [
        program("nginx"),
        "-p",
        room.folder,
        "-e",
        room.folder / "nginx-error.log",
        "-c",
        config,
    ]
    child = room.processes.start("nginx", command, room.cores.server)
    wait_for_greeting(child, port)
    return Running(port, (child,))


# Haraka leaves Nagle's algorithm on towards its upstream: with delayed acknowledgements, 40 ms on each mail.
NO_DELAY = """const net = require('node:net');
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...words) {
  this.setNoDelay(true);
  return connect.apply(this, words);
};
"""


def _haraka(room: Room) -> Running:
    return _start_haraka(room, ())


def _haraka_no_delay(room: Room) -> Running:
    script = room.folder / "no_delay.js"
    script.write_text(NO_DELAY)
    return _start_haraka(room, ("--require", str(script)))


def _start_haraka(room: Room, options: tuple[str, ...]) -> Running:
    if room.haraka is None:
        raise StartFailed("Haraka could not be installed from npm")
    port = free_port()
    home = room.folder / "haraka"
    (home / "config").mkdir(parents=True)
    (home / "plugins").mkdir()
    (home / "queue").mkdir()
    settings = {
        "smtp.ini": f"listen=127.0.0.1:{port}\nnodes=0\n",
        "log.ini": "[main]\nlevel=error\nformat=default\n",
        "loglevel": "ERROR\n",
        "me": "bench.example.test\n",
        "plugins": "accept_every_recipient\nqueue/smtp_forward\n",
        "smtp_forward.ini": f"host=127.0.0.1\nport={room.sink}\nenable_tls=false\n",
    }
    for name, text in settings.items():
        (home / "config" / name).write_text(text)
    defaults = room.haraka / "config" / "connection.ini"
    if defaults.exists():
        (home / "config" / "connection.ini").write_bytes(defaults.read_bytes())
    (home / "plugins" / "accept_every_recipient.js").write_text("exports.hook_rcpt = (next) => next(OK)\n")
    command: list[str | Path] = [program("node"), *options, room.haraka / "bin" / "haraka", "-c", home]
    child = room.processes.start(room.folder.name, command, room.cores.server)
    wait_for_greeting(child, port)
    return Running(port, (child,))


def _aiosmtpd(room: Room) -> Running:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.null_aiosmtpd", str(port)]
    environment = {"PYTHONPATH": str(room.root / "ops")}
    child = room.processes.start("aiosmtpd", command, room.cores.server, environment=environment)
    wait_for_greeting(child, port)
    return Running(port, (child,))


def _ours(room: Room) -> Running:
    home = room.folder / "smartmail"
    site = ours.Site(room.processes, home, room.root, room.cores.server)
    port, child = ours.start_relay(site, room.sink)
    return Running(port, (child,))


PEERS: tuple[Peer, ...] = (
    Peer("direct", "nothing, straight to the sink", (), _direct),
    Peer("haproxy", "HAProxy TCP pass-through", ("haproxy",), _haproxy),
    Peer("nginx", "nginx mail proxy", ("nginx",), _nginx),
    Peer("haraka", "Haraka smtp_forward", ("node", "npm"), _haraka),
    Peer("haraka-no-delay", "Haraka with TCP_NODELAY", ("node", "npm"), _haraka_no_delay),
    Peer("aiosmtpd", "aiosmtpd null handler", (), _aiosmtpd),
    Peer("ours", "Smart Mail relay", (), _ours),
)
