"""STARTTLS + AUTH: ours against Postfix's own submission service, with the same Dovecot, certificate and
sink."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import ours
from .install import which
from .load import Driver, LoadFailed, Sample, Target, number, read_answer
from .peers import program
from .procs import Child, Processes, StartFailed, cpu_seconds, free_port, unprivileged_user, wait_for_greeting

THREADS = 20
DRAIN_SECONDS = 60.0
PROGRAMS = ("postfix", "dovecot", "doveadm", "openssl")

MASTER = """\
127.0.0.1:{port} inet n - n - 100 smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_tls_auth_only=yes
  -o smtpd_sender_restrictions=reject_sender_login_mismatch
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

# Its defaults, but for what would slow it for our load alone: per-client limits, the inflow brake, few
# deliveries.
MAIN = """\
compatibility_level = 3.6
myhostname = bench.example.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = {home}/log/postfix.log
maillog_file_prefixes = {home}
alias_maps =
local_recipient_maps =
biff = no
default_transport = smtp:[127.0.0.1]:{sink}
smtp_tls_security_level = none
smtp_connection_cache_on_demand = yes
default_destination_concurrency_limit = 50
initial_destination_concurrency = 20
default_process_limit = 100
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_event_limit_exceptions = 127.0.0.0/8
smtpd_tls_chain_files = {key} {certificate}
smtpd_tls_session_cache_timeout = 0
smtpd_tls_loglevel = 0
smtpd_sasl_type = dovecot
smtpd_sasl_path = {socket}
smtpd_sasl_security_options = noanonymous
smtpd_sender_login_maps = inline:{{{login}={login}}}
"""

DOVECOT = """\
base_dir = {home}/run
log_path = {home}/dovecot.log
protocols =
ssl = no
listen = 127.0.0.1
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_cache_size = 10M
auth_cache_ttl = 1 hour
passdb {{
  driver = passwd-file
  args = username_format=%u {home}/users
}}
userdb {{
  driver = static
  args = uid={user} gid=nogroup home=/nonexistent
}}
service auth {{
  client_limit = 8000
  unix_listener {socket} {{
    mode = 0666
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Samples of both sides, and why one has none."""

    samples: dict[str, list[Sample]]
    faults: dict[str, str]


@dataclass(frozen=True, slots=True)
class Stage:
    """What both sides share: folder, sink's port, repository, Dovecot and the secrets."""

    processes: Processes
    folder: Path
    root: Path
    sink: int
    server_cores: frozenset[int]
    dovecot: Child
    secrets: ours.Secrets


def _run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise StartFailed(f"{Path(str(command[0])).name} ended with code {done.returncode}: {lines[-1][:300]}")
    return done.stdout


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed ECDSA P-256 certificate and its key. Raises StartFailed."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    _run(
        program("openssl"), "req", "-x509", "-nodes",
        "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-subj", "/CN=bench.example.test", "-addext", "subjectAltName=DNS:bench.example.test",
        "-days", "30", "-keyout", key, "-out", certificate,
    )  # fmt: skip
    key.chmod(0o600)
    return certificate, key


def start_dovecot(processes: Processes, folder: Path, cores: frozenset[int]) -> tuple[Child, Path]:
    """Dovecot with nothing but its auth service and its auth cache on. Returns its socket. Raises
    StartFailed."""
    version = _run(program("dovecot"), "--version")
    if not version.startswith("2.3."):
        raise StartFailed(f"Dovecot 2.3 is wanted (Debian 12), this is {version.split()[0]}")
    home = folder / "dovecot"
    home.mkdir()
    home.chmod(0o755)
    socket = home / "auth.sock"
    # A salted hash of one round: the cost of a slow password hash must not decide between the two sides.
    secret = _run(program("doveadm"), "pw", "-s", "SSHA512", "-p", ours.PASSWORD).strip()
    (home / "users").write_text(f"{ours.LOGIN}:{secret}::::::\n")
    config = home / "dovecot.conf"
    config.write_text(DOVECOT.format(home=home, user=unprivileged_user(), socket=socket))
    child = processes.start("dovecot", [program("dovecot"), "-F", "-c", config], cores)
    _wait_until(socket.exists, child, "made no auth socket")
    return child, socket


def _wait_until(ready: Callable[[], bool], child: Child, fault: str) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and child.popen.poll() is None:
        if ready():
            return
        time.sleep(0.05)
    raise StartFailed(f"{child.name} {fault}: {child.tail()}")


def start_postfix(stage: Stage) -> tuple[int, Child, Path]:
    """A Postfix of its own with only a submission service. Returns port, process, queue. Raises
    StartFailed."""
    home = stage.folder / "postfix"
    for name in ("etc", "queue", "data", "log"):
        (home / name).mkdir(parents=True)
    port = free_port()
    secrets = stage.secrets
    settings = {"key": secrets.key, "certificate": secrets.certificate, "socket": secrets.socket}
    text = MAIN.format(home=home, sink=stage.sink, login=ours.LOGIN, **settings)
    (home / "etc" / "main.cf").write_text(text)
    (home / "etc" / "master.cf").write_text(MASTER.format(port=port))
    _run(program("chown"), "postfix", home / "data")
    child = stage.processes.start("postfix", [program("postfix"), "-c", home / "etc", "start-fg"], stage.server_cores)
    wait_for_greeting(child, port)
    return port, child, home / "queue"


def _queued(queue: Path) -> int:
    return sum(1 for name in ("maildrop", "incoming", "active") for path in (queue / name).rglob("*") if path.is_file())


def _drain(queue: Path) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        if _queued(queue) == 0:
            if any(path.is_file() for path in (queue / "deferred").rglob("*")):
                raise LoadFailed("Postfix deferred mail instead of passing it on")
            return
        time.sleep(0.02)
    raise LoadFailed(f"Postfix's queue was not empty after {DRAIN_SECONDS:.0f} s")


@dataclass(frozen=True, slots=True)
class Side:
    """One side at work: where to send, whose CPU counts, and what must be over before it is read."""

    target: Target
    settle: Callable[[], None]

    def sample(self, driver: Driver, count: int) -> Sample:
        """One run of `count` connections. Raises LoadFailed."""
        before = cpu_seconds(self.target.pids)
        client = driver.client("tls", self.target.port, count, THREADS, ours.LOGIN, ours.PASSWORD)
        try:
            took = number(read_answer(client, 120.0), "seconds")
        finally:
            driver.processes.stop([client])
        self.settle()
        # The rate is the client's; what a side does after its last 250 still counts as its CPU.
        return Sample(count, took, cpu_seconds(self.target.pids) - before)


def _postfix_side(stage: Stage) -> Side:
    port, child, queue = start_postfix(stage)
    return Side(Target(port, (child.pid, stage.dovecot.pid)), lambda: _drain(queue))


def _our_side(stage: Stage) -> Side:
    site = ours.Site(stage.processes, stage.folder / "submission", stage.root, stage.server_cores)
    port, child = ours.start_submission(site, stage.sink, stage.secrets)
    return Side(Target(port, (child.pid, stage.dovecot.pid)), lambda: None)


def measure(driver: Driver, folder: Path, sink: int, counts: tuple[int, int], wanted: frozenset[str]) -> Result:
    """Interleaved rounds of both sides that are in `wanted`; `counts` = (messages per run, rounds)."""
    result = Result({"postfix": [], "ours": []}, {})
    messages, rounds = counts
    try:
        certificate, key = make_certificate(folder)
        dovecot, socket = start_dovecot(driver.processes, folder, driver.cores.server)
    except StartFailed as error:
        result.faults.update({"postfix": str(error), "ours": str(error)})
        return result
    secrets = ours.Secrets(certificate, key, socket)
    stage = Stage(driver.processes, folder, driver.root, sink, driver.cores.server, dovecot, secrets)
    sides: dict[str, Side] = {}
    for name, start in (("postfix", _postfix_side), ("ours", _our_side)):
        if name in wanted:
            try:
                sides[name] = start(stage)
                sides[name].sample(driver, max(THREADS, messages // 5))
            except (StartFailed, LoadFailed) as error:
                result.faults[name] = str(error)
                sides.pop(name, None)
    for _ in range(rounds):
        for name, side in list(sides.items()):
            try:
                result.samples[name].append(side.sample(driver, messages))
            except LoadFailed as error:
                result.faults[name] = str(error)
                del sides[name]
    return result


def missing_programs() -> list[str]:
    """Those of the programs that are not here."""
    return [name for name in PROGRAMS if which(name) is None]
