"""The Dovecot backend against a real Dovecot of its own, started and killed by these tests."""

import asyncio
import base64
import hashlib
import hmac
import os
import signal
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest
import uvloop
from support.processes import Process, eventually, need, short_directory

from smartmail.core.fairness import Penalty
from smartmail.relay.auth import AuthResult, Challenge, Exchange, Outcome, PeerInfo
from smartmail.relay.dovecot import DovecotBackend, DovecotSettings

BOB = "bob@example.com"
OK_BOB = AuthResult(Outcome.OK, BOB)
PLAIN_BOB = b"\0bob@example.com\0secret"

CONFIG = """
base_dir = {directory}/run
state_dir = {directory}
log_path = {directory}/dovecot.log
ssl = no
protocols =
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
auth_mechanisms = plain login cram-md5 scram-sha-256 xoauth2 anonymous
auth_failure_delay = 0
passdb {{
  driver = passwd-file
  args = username_format=%Lu {directory}/users
}}
service auth {{
  chroot =
  unix_listener auth-relay {{
    mode = 0666
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
"""


class AuthServer:
    """A Dovecot with nothing but its auth service."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "run" / "auth-relay"
        self.users = directory / "users"
        self._runs = count()
        self._process: Process | None = None

    def start(self) -> None:
        (self.directory / "run").mkdir(exist_ok=True)
        config = self.directory / "dovecot.conf"
        config.write_text(CONFIG.format(directory=self.directory).lstrip())
        argv = ["/usr/sbin/dovecot", "-F", "-c", str(config)]
        self._process = Process(argv, self.directory / f"output-{next(self._runs)}")
        eventually(self.socket.exists, "Dovecot's auth socket")

    def stop(self) -> None:
        """End all of it. A mere SIGTERM leaves the process that answers with its clients until they go."""
        if self._process is not None:
            self._process.signal(signal.SIGSTOP)
            kill(self._children())
            self._process.kill()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def kill_auth(self) -> None:
        """kill -9 of the process that answers; the master starts another when somebody connects."""
        found = self._children("auth")
        assert found
        kill(found)

    def _children(self, wanted: str = "") -> list[int]:
        assert self._process is not None
        master = self._process.pid
        return [pid for pid, parent, name in processes() if parent == master and wanted in ("", name)]


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def processes() -> Iterator[tuple[int, int, str]]:
    """(process id, its parent's, name) of all there are."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            head, _, tail = stat.rpartition(")")
            yield int(entry.name), int(tail.split()[1]), head.partition("(")[2]


@pytest.fixture
def auth_server() -> Iterator[AuthServer]:
    need("dovecot")
    with short_directory("auth") as directory:
        server = AuthServer(directory)
        server.users.write_text("bob@example.com:{PLAIN}secret\nlong@example.com:{PLAIN}" + "x" * 1024 + "\n")
        server.start()
        try:
            yield server
        finally:
            server.stop()


class Changes:
    """Whether the backend is connected, to be waited for."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.lost = asyncio.Event()

    def __call__(self, connected: bool, why: str) -> None:
        for event, now in ((self.connected, connected), (self.lost, not connected)):
            if now:
                event.set()
            else:
                event.clear()


SETTINGS = DovecotSettings(penalty=Penalty(pauses=()))


@pytest.fixture
async def changes() -> Changes:
    return Changes()


@pytest.fixture
async def backend(auth_server: AuthServer, changes: Changes) -> AsyncIterator[DovecotBackend]:
    """Connected."""
    made = DovecotBackend(str(auth_server.socket), SETTINGS, on_change=changes)
    made.open()
    await changes.connected.wait()
    yield made
    made.close()
    for _ in range(3):
        await asyncio.sleep(0)


def start(backend: DovecotBackend, mechanism: str, initial: bytes | None) -> Exchange:
    return backend.start(mechanism, initial, PeerInfo("192.0.2.7", 40001, "127.0.0.1", 587, session="s1"))


async def log_in(backend: DovecotBackend, mechanism: str, *responses: bytes) -> AuthResult:
    """Send the responses one by one, the first as initial response."""
    exchange = start(backend, mechanism, responses[0])
    answer = await exchange.step(None)
    for response in responses[1:]:
        assert isinstance(answer, Challenge)
        answer = await exchange.step(response)
    assert isinstance(answer, AuthResult)
    return answer


async def test_mechanisms_are_those_of_its_configuration_but_for_anonymous(backend: DovecotBackend) -> None:
    assert sorted(backend.mechanisms) == ["CRAM-MD5", "LOGIN", "PLAIN", "SCRAM-SHA-256", "XOAUTH2"]
    assert sorted(backend.offered(secured=False)) == ["CRAM-MD5", "SCRAM-SHA-256"]


async def test_right_and_wrong_passwords(backend: DovecotBackend) -> None:
    assert await log_in(backend, "PLAIN", PLAIN_BOB) == OK_BOB
    assert await log_in(backend, "LOGIN", b"Bob@Example.com", b"secret") == OK_BOB
    assert await log_in(backend, "PLAIN", b"\0long@example.com\0" + b"x" * 1024) == AuthResult(
        Outcome.OK, "long@example.com"
    )
    wrong = await log_in(backend, "PLAIN", b"\0bob@example.com\0wrong")
    unknown = await log_in(backend, "PLAIN", b"\0nobody@example.com\0secret")
    assert wrong == unknown
    assert wrong.outcome is Outcome.BAD_CREDENTIALS
    assert backend.cached(BOB, "secret") == BOB
    assert backend.cached(BOB, "wrong") is None


async def test_many_logins_at_once_on_one_connection(backend: DovecotBackend) -> None:
    tokens = [PLAIN_BOB if number % 2 else f"\0bob@example.com\0{number}".encode() for number in range(60)]
    results = await asyncio.gather(*(log_in(backend, "PLAIN", token) for token in tokens))
    assert [result.outcome is Outcome.OK for result in results] == [number % 2 == 1 for number in range(60)]


async def test_cram_md5_is_relayed(backend: DovecotBackend) -> None:
    exchange = start(backend, "CRAM-MD5", None)
    challenge = await exchange.step(None)
    assert isinstance(challenge, Challenge)
    digest = hmac.new(b"secret", challenge.data, "md5").hexdigest()
    assert await exchange.step(f"bob@example.com {digest}".encode()) == OK_BOB


async def test_scram_is_relayed_to_its_last_message(backend: DovecotBackend) -> None:
    """RFC 5802 and 7677: the server's own proof comes as a last challenge, to be answered empty."""
    exchange = start(backend, "SCRAM-SHA-256", b"n,,n=bob@example.com,r=fyko")
    first = await exchange.step(None)
    assert isinstance(first, Challenge)
    fields = dict(part.partition("=")[::2] for part in first.data.decode().split(","))
    salted = hashlib.pbkdf2_hmac("sha256", b"secret", base64.b64decode(fields["s"]), int(fields["i"]))
    without_proof = f"c=biws,r={fields['r']}"
    message = f"n=bob@example.com,r=fyko,{first.data.decode()},{without_proof}".encode()
    key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True))).decode()
    last = await exchange.step(f"{without_proof},p={proof}".encode())
    server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
    assert last == Challenge(b"v=" + base64.b64encode(server))
    assert await exchange.step(b"") == OK_BOB


async def test_a_12_kb_token_passes_and_the_connection_lives_on(backend: DovecotBackend, changes: Changes) -> None:
    """Its password database knows no tokens: XOAUTH2 then sends its error as a challenge, and fails."""
    frame = b"user=bob@example.com\x01auth=Bearer %s\x01\x01"
    token = frame % (b"x" * (9216 - len(frame) + 2))
    assert len(base64.b64encode(token)) == 12_288
    result = await log_in(backend, "XOAUTH2", token, b"")
    assert result.outcome is Outcome.BAD_CREDENTIALS
    assert not changes.lost.is_set()
    assert await log_in(backend, "PLAIN", PLAIN_BOB) == OK_BOB


async def test_dovecot_killed_in_mid_exchange_is_temporary_and_the_next_login_works(
    backend: DovecotBackend, auth_server: AuthServer, changes: Changes
) -> None:
    exchange = start(backend, "CRAM-MD5", None)
    challenge = await exchange.step(None)
    assert isinstance(challenge, Challenge)
    auth_server.kill_auth()
    await changes.lost.wait()
    digest = hmac.new(b"secret", challenge.data, "md5").hexdigest()
    result = await exchange.step(f"bob@example.com {digest}".encode())
    assert isinstance(result, AuthResult)
    assert result.outcome is Outcome.TEMPORARY
    assert await log_in(backend, "PLAIN", PLAIN_BOB) == OK_BOB


async def test_dovecot_stopped_is_temporary_until_it_is_back(
    backend: DovecotBackend, auth_server: AuthServer, changes: Changes
) -> None:
    await asyncio.to_thread(auth_server.stop)
    await changes.lost.wait()
    assert (await log_in(backend, "PLAIN", PLAIN_BOB)).outcome is Outcome.TEMPORARY
    await asyncio.to_thread(auth_server.start)
    await changes.connected.wait()
    assert await log_in(backend, "PLAIN", PLAIN_BOB) == OK_BOB


async def test_a_broken_password_database_is_temporary(backend: DovecotBackend, auth_server: AuthServer) -> None:
    auth_server.users.write_text("changed")
    auth_server.users.chmod(0)
    assert (await log_in(backend, "PLAIN", PLAIN_BOB)).outcome is Outcome.TEMPORARY


async def test_an_exchange_given_up_disturbs_no_other(backend: DovecotBackend) -> None:
    given_up = start(backend, "CRAM-MD5", None)
    assert isinstance(await given_up.step(None), Challenge)
    given_up.cancel()
    assert await log_in(backend, "PLAIN", PLAIN_BOB) == OK_BOB


async def test_two_relays_share_one_dovecot(backend: DovecotBackend, auth_server: AuthServer) -> None:
    other = DovecotBackend(str(auth_server.socket), SETTINGS)
    results = await asyncio.gather(*(log_in(each, "PLAIN", PLAIN_BOB) for each in (backend, other)))
    assert results == [OK_BOB, OK_BOB]
    other.close()


def test_it_works_on_uvloop_too(auth_server: AuthServer) -> None:
    async def main() -> tuple[AuthResult, AuthResult]:
        backend = DovecotBackend(str(auth_server.socket), SETTINGS)
        try:
            right = await log_in(backend, "PLAIN", PLAIN_BOB)
            return right, await log_in(backend, "XOAUTH2", b"user=bob@example.com\x01auth=Bearer x\x01\x01", b"")
        finally:
            backend.close()

    right, wrong = uvloop.run(main())
    assert right == OK_BOB
    assert wrong.outcome is Outcome.BAD_CREDENTIALS
