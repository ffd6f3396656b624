"""A mail host, a collector and locations, each on an address of its own, at work on a fast clock: the stage of a
story in which servers fail and links are cut."""

import json
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "monitor"))

from probe_peers import Authority, Pair
from probe_servers import SecureDovecot, SecurePostfix, run_secure_dovecot, run_secure_postfix
from support.fast_agent import Beat, FastTime, Job
from support.mailservers import ALICE, password
from support.namespaces import CONTROL_PORT, DNS_PORT, NET, Host, Network, connects, network
from support.processes import Process, eventually, run

from smartmail.config import Config
from smartmail.core.months import Month, Span
from smartmail.core.roster import CheckKind
from smartmail.core.signing import token_digest
from smartmail.core.slots import slot_ms
from smartmail.store import agents
from smartmail.store.database import Database
from smartmail.store.samples import SampleStore

PACE = 16
"""A minute takes not quite four seconds of ours."""
MONTH, START_MS = Month(2026, 10), 1_792_065_600_000
TIMEOUT_MS, CONTROL_MS = 1_300, 600
"""Of ours: 21 seconds and 10 of the clock's."""
SLOTS_MS = range(6_000, 18_000)
"""Checks are named so that all begin in this part of the minute, everywhere: a probe that finds nobody has ended, and
its look at the control target, when the minute's QUIET part begins."""
QUIET_SECOND, TOO_LATE_SECOND = 50, 56

LONDON, TORONTO, OSAKA, CORE = "london", "toronto", "osaka", "core"
OUTER = (LONDON, TORONTO, OSAKA)
INNER = (TORONTO, OSAKA, CORE)
"""Of the service "inside". CORE is the collector's own host."""
WRONG_CLOCKS = {LONDON: 0, TORONTO: -300_000, OSAKA: 300_000, CORE: 0}
MAIL, COLLECTOR = "mail", "collector"
NAME = "mail.example.com"
COLLECTOR_PORT = 9326


def named(kind: str, locations: tuple[str, ...]) -> str:
    """A name of a check that begins within SLOTS_MS at each of its locations."""
    names = (f"{kind}-{number}" for number in range(100_000))
    return next(name for name in names if all(slot_ms(name, place) in SLOTS_MS for place in locations))


MX, SUBMISSION, IMAPS, POP3S, SIEVE, DNS = (
    named(kind, OUTER) for kind in ("mx", "submission", "imaps", "pop3s", "sieve", "dns")
)
INSIDE = named("inside", INNER)
OF_DOVECOT = (IMAPS, POP3S, SIEVE)
BY_NAME = (MX, SUBMISSION, *OF_DOVECOT)


@dataclass
class Phase:
    """The minutes [first, end) are wholly under one fault, or none."""

    first: int
    end: int = 0

    @property
    def minutes(self) -> range:
        """All of them."""
        return range(self.first, self.end)


@dataclass
class Collector:
    """The collector's process."""

    host: Host
    file: Path
    kills: int = 0
    process: Process | None = None

    def start(self) -> None:
        """Start it. It takes samples some seconds later."""
        with self.host.inside():
            argv = [sys.executable, str(Path(__file__).parent / "fast_monitor.py"), str(self.file)]
            self.process = Process(argv, self.file.with_suffix(".log"))

    def kill(self) -> None:
        """SIGKILL, and start anew."""
        assert self.process is not None
        self.process.kill()
        self.kills += 1
        self.start()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        return self.process.stop()


@dataclass
class Stage:
    """Everything that runs, and the clock that the story is played by."""

    folder: Path
    net: Network
    dovecot: SecureDovecot
    postfix: SecurePostfix
    good: Pair
    expired: Pair
    authority: Path
    config: Config
    beat: Beat
    collector: Collector
    agents: dict[str, Process] = field(default_factory=dict)
    phases: dict[str, Phase] = field(default_factory=dict)
    before_mending: dict[str, set[str]] = field(default_factory=dict)
    frozen: ExitStack = field(default_factory=ExitStack)

    @property
    def now(self) -> tuple[int, int]:
        """Minute and second by the fast clock."""
        minute, place = divmod(FastTime(self.beat).wall_ms(), 60_000)
        return minute, place // 1000

    def wait_until(self, minute: int, second: int) -> None:
        """The story's clock is what is waited for; nothing says when it is reached."""
        clock = FastTime(self.beat)
        time.sleep(clock.real_seconds((minute * 60 + second) * 1000 - clock.wall_ms()))

    def quiet(self, minute: int) -> int:
        """Wait for the quiet part of this minute, or of a later one where it is too late. Returns which."""
        while True:
            self.wait_until(minute, QUIET_SECOND)
            now, second = self.now
            if now == minute and second < TOO_LATE_SECOND:
                return minute
            minute = now + (second >= TOO_LATE_SECOND)

    def play(self, name: str, *actions: Callable[[], object], minutes: int = 2, kills: int = 0) -> None:
        """End the phase that runs, do this, and let as many whole minutes go by, the collector killed in them."""
        if self.phases:
            last = next(reversed(self.phases))
            self.phases[last].end = self.quiet(self.phases[last].end - 1) + 1
            if last.endswith("cut"):
                self.before_mending[last] = self._heard_of(self.phases[last])
        for action in actions:
            action()
        first = self.now[0] + 1
        self.phases[name] = Phase(first, first + minutes)
        for number in range(kills):
            self.wait_until(first + number, 13 + 17 * number)
            self.collector.kill()

    def end(self) -> int:
        """End the last phase, and wait until what was seen in it lies in the spools. Returns the minute after."""
        last = self.phases[next(reversed(self.phases))]
        last.end = self.quiet(last.end - 1) + 1
        self.wait_until(last.end, 15)
        return last.end

    def kill(self) -> None:
        """End what watches."""
        for process in self.agents.values():
            process.kill()
        if self.collector.process is not None:
            self.collector.process.kill()

    def _heard_of(self, phase: Phase) -> set[str]:
        planes = SampleStore(self.config.database_url).read_planes(Span(phase.first, phase.end))
        return {location for _, location in planes}

    # What happens

    def stop_postfix(self) -> None:
        """Its ports are closed."""
        with self.net[MAIL].inside():
            self.postfix.stop()

    def start_postfix(self) -> None:
        """Started, and waited for."""
        with self.net[MAIL].inside():
            self.postfix.start()
            eventually(connects(self.net[MAIL].address, 25), "Postfix")

    def freeze(self) -> None:
        """Dovecot hangs: SIGSTOP of all its processes."""
        self.frozen.enter_context(self.dovecot.frozen())

    def thaw(self) -> None:
        """It goes on."""
        self.frozen.close()

    def serve_with(self, pair: Pair) -> None:
        """Both servers read this certificate."""
        with self.net[MAIL].inside():
            self.dovecot.use(pair)
            self.postfix.set()
            wanted = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
            for port in (self.dovecot.imaps_port, self.dovecot.pop3s_port, self.postfix.smtps_port):
                eventually(partial(_serves, port, wanted), "the certificate")

    def silence_names(self, *, silent: bool) -> None:
        """The name server hangs, or goes on."""
        self.net.names.silent = silent


def _serves(port: int, wanted: bytes) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with closing(socket.create_connection(("127.0.0.1", port), 5)) as plain, context.wrap_socket(plain) as wrapped:
            return wrapped.getpeercert(binary_form=True) == wanted
    except OSError:
        return False


def configuration(folder: Path, host: Host, ports: SecureDovecot, certificate: Pair) -> dict[str, Any]:
    """Two services: "mail" as customers reach it, and "inside" by its address, from the core's own host too."""
    usual = {"service": "mail", "host": NAME, "locations": list(OUTER)}
    login = {**usual, "secret": "probe"}
    return {
        "server": {"data_dir": str(folder)},
        "monitor": {
            "address": f"{host.address}:{COLLECTOR_PORT}",
            "certificate": str(certificate.certificate),
            "key": str(certificate.key),
            "metrics_address": "",
            "locations": [*OUTER, CORE],
            "seal_seconds": 7,
        },
        "check": [
            {**usual, "name": MX, "kind": CheckKind.MX.value, "port": 25, "recipient": ALICE},
            {**login, "name": SUBMISSION, "kind": CheckKind.SUBMISSION.value, "port": 587},
            {**login, "name": IMAPS, "kind": CheckKind.IMAPS.value, "port": ports.imaps_port},
            {**login, "name": POP3S, "kind": CheckKind.POP3S.value, "port": ports.pop3s_port},
            {**login, "name": SIEVE, "kind": CheckKind.SIEVE.value, "port": ports.sieve_port},
            {**usual, "name": DNS, "kind": CheckKind.DNS.value, "host": "example.com", "port": DNS_PORT, "mx": NAME},
            {
                **login,
                "name": INSIDE,
                "service": "inside",
                "kind": CheckKind.IMAPS.value,
                "host": "10.7.0.10",
                "port": ports.imaps_port,
                "tls_name": NAME,
                "locations": list(INNER),
            },
        ],
        "terms": [{"version": "test", "zone": "UTC"}],
    }


def set_up(folder: Path, stack: ExitStack) -> Stage:
    """Hosts, servers, collector and agents, all at work."""
    net = stack.enter_context(network(MAIL, COLLECTOR, *OUTER))
    net.names.zone = {
        "example.com.": {
            "SOA": "ns.example.com. hostmaster.example.com. 7 3600 600 86400 60",
            "NS": "ns.example.com.",
            "MX": f"10 {NAME}.",
        },
        "ns.example.com.": {"A": NET},
        f"{NAME}.": {"A": net[MAIL].address},
    }
    authority = Authority(folder)
    good, expired = authority.issue("good"), authority.issue("expired", end_days=-1)
    with net[MAIL].inside():
        dovecot = stack.enter_context(run_secure_dovecot(good))
        postfix = stack.enter_context(run_secure_postfix(dovecot))
        open_to_all(net[MAIL], dovecot, postfix)
    host = net[COLLECTOR]
    config = configuration(folder, host, dovecot, authority.issue("collector", [host.address]))
    beat = Beat(PACE, time.monotonic_ns(), START_MS)
    (folder / "collector.json").write_text(json.dumps({"config": config, "beat": asdict(beat)}))
    collector = Collector(host, folder / "collector.json")
    stage = Stage(
        folder, net, dovecot, postfix, good, expired, authority.file, Config.model_validate(config), beat, collector
    )
    # Frozen processes do not end, and what still runs must not outlive the network.
    stack.callback(stage.thaw)
    stack.callback(stage.kill)
    start_watching(stage)
    return stage


def open_to_all(host: Host, dovecot: SecureDovecot, postfix: SecurePostfix) -> None:
    """Both serve at the host's address too, Postfix at the usual ports. Called inside."""
    file = dovecot.directory / "dovecot.conf"
    file.write_text(f"{file.read_text()}\nlisten = *\n")
    assert dovecot.process is not None
    dovecot.process.signal(signal.SIGHUP)
    for port in (25, 587):
        name = f"{host.address}:{port}"
        entry = f"{name}/inet={name} inet n - n - - smtpd"
        run(["/usr/sbin/postconf", "-c", str(postfix.postfix.config), "-M", entry])
    postfix.set()
    for port in (25, 587, dovecot.imaps_port, dovecot.pop3s_port, dovecot.sieve_port):
        eventually(connects(host.address, port), f"{host.name} at port {port}")


def start_watching(stage: Stage) -> None:
    """Start the collector and the agents, and wait until each of them has its roster."""
    tokens = {location: f"{location}.{secrets.token_hex(16)}" for location in (*OUTER, CORE)}
    with Database(stage.config.database_url) as database:
        database.upgrade()
        with database.write() as connection:
            for location, token in tokens.items():
                agents.add_token(
                    connection,
                    token_digest(token),
                    location,
                    made_by="test",
                    made_ms=START_MS - 60_000,
                    expires_ms=START_MS + 7_200_000,
                )
    stage.collector.start()
    for location, token in tokens.items():
        host = stage.net[COLLECTOR if location == CORE else location]
        with host.inside():
            stage.agents[location] = start_agent(stage, location, token)
    assert stage.collector.process is not None
    stage.collector.process.wait_for_line(lambda line: "listening" in line, "listening collector")
    for process in stage.agents.values():
        process.wait_for_line(lambda line: "roster taken" in line, "roster")


def start_agent(stage: Stage, location: str, token: str) -> Process:
    """An agent's process, in the namespace that this thread is in."""
    folder = stage.folder / location
    (folder / "secrets").mkdir(parents=True, mode=0o700)
    secret = folder / "secrets" / "probe"
    secret.write_text(f"{ALICE}\n{password(ALICE)}\n")
    secret.chmod(0o600)
    job = Job(
        beat=stage.beat,
        wall_off_ms=WRONG_CLOCKS[location],
        folder=str(folder),
        location=location,
        collector=f"https://{stage.net[COLLECTOR].address}:{COLLECTOR_PORT}",
        token=token,
        ca=str(stage.authority),
        authority=str(stage.authority),
        nameserver=f"{NET}:{DNS_PORT}",
        control=f"{NET}:{CONTROL_PORT}",
        timeout_ms=TIMEOUT_MS,
        control_ms=CONTROL_MS,
    )
    file = folder / "job.json"
    file.write_text(json.dumps(asdict(job)))
    argv = [sys.executable, str(Path(__file__).parent / "fast_agent.py"), str(file)]
    return Process(argv, folder / "log")
