"""Who is it? The contract of the authentication backends, and what they share: cache, turns, PLAIN and LOGIN.

A backend says only whether the password is right. What the account may do is the policy's question, asked
after a right password and never after a wrong one. Passwords are text, SASL data are octets without base64.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from hashlib import blake2b
from typing import Protocol

from smartmail.core.address import AddressError, normalise
from smartmail.core.fairness import SECOND_NS, Bounds, FairQueue, Penalty, client_network
from smartmail.core.reply import Reply, reply
from smartmail.core.sasl import MECHANISMS, Challenge, Credentials, Malformed, Mechanism

__all__ = [
    "AuthResult",
    "Backend",
    "Challenge",
    "Exchange",
    "FairChecks",
    "MechanismNotOfferedError",
    "Outcome",
    "PasswordExchange",
    "PeerInfo",
    "VerifiedLogins",
    "normal_login",
]

MAX_VERIFIED = 10_000
"""Verified logins kept: about 4 MB when full."""


class Outcome(StrEnum):
    """How an exchange ended. TEMPORARY: nobody knows; the backend is overloaded or away."""

    OK = "ok"
    BAD_CREDENTIALS = "bad_credentials"
    TEMPORARY = "temporary"


_REPLIES = {
    Outcome.OK: reply(235, "2.7.0", "Authentication successful"),
    Outcome.BAD_CREDENTIALS: reply(535, "5.7.8", "Authentication credentials invalid"),
    Outcome.TEMPORARY: reply(454, "4.7.0", "Temporary authentication failure, try again later"),
}


@dataclass(frozen=True, slots=True)
class AuthResult:
    """The end of an exchange. login: in normal form, "" unless OK. why: for our log, never for the client."""

    outcome: Outcome
    login: str = ""
    why: str = ""

    @property
    def reply(self) -> Reply:
        """What the client is told (RFC 4954 section 6); for OK only if the policy has no objection."""
        return _REPLIES[self.outcome]


_CLOSED = AuthResult(Outcome.TEMPORARY, why="shutting down")


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """The client, as a backend may know it. Addresses without brackets; secured: the session runs on TLS."""

    address: str
    port: int = 0
    local_address: str = ""
    local_port: int = 0
    secured: bool = True
    session: str = ""


class MechanismNotOfferedError(ValueError):
    """`start` was asked for a mechanism that `offered` doesn't name: 504 5.5.4."""


class Exchange(Protocol):
    """One AUTH. Call `step(None)` first, then `step` with each response of the client, until an AuthResult.

    Or, so that nothing needs a task where no task is needed: `answer` says what can be said at once (prompts,
    malformed responses, cached logins); when it returns None, `await result()`.
    """

    def answer(self, response: bytes | None) -> Challenge | AuthResult | None:
        """Take a response; None: it has to be looked into, `await result()`."""

    async def result(self) -> Challenge | AuthResult:
        """What comes of the response that `answer` left open. Raises CancelledError after `cancel`."""

    async def step(self, response: bytes | None) -> Challenge | AuthResult:
        """`answer`, and `result` if need be."""

    def cancel(self) -> None:
        """The client is gone or gave up ("*"): free what is held for it. Harmless at any time, and twice."""


class Backend(Protocol):
    """Something that knows who may log in."""

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What may be offered under TLS; names in capitals."""

    def offered(self, *, secured: bool) -> tuple[str, ...]:
        """What may be offered, with or without TLS."""

    def open(self) -> None:
        """Make ready, so that the first client waits for nothing. Needs the running loop; harmless twice."""

    def start(self, mechanism: str, initial: bytes | None, peer: PeerInfo) -> Exchange:
        """Begin an exchange; `initial` is the initial response, if any. Raises MechanismNotOfferedError."""

    def cached(self, login: str, password: str) -> str | None:
        """The login in normal form if this very pair was verified a short while ago and still holds."""

    def forget(self, logins: Collection[str]) -> None:
        """These logins (normal form) have changed: what was verified before counts no more."""

    def close(self) -> None:
        """Free threads and sockets. Whoever waits gets TEMPORARY."""


def normal_login(login: str) -> str:
    """As the directory has it; what is no address at all stays as it is, and is unknown there."""
    try:
        return normalise(login)
    except AddressError:
        return login


class VerifiedLogins:
    """Pairs of login and password that were found right, for a short while.

    Kept is a keyed BLAKE2b of the pair (RFC 7693 section 2.9), the key random per process: what is kept here
    can be looked up nowhere else. Bounded; the longest unused goes first.
    """

    __slots__ = ("_entries", "_most", "_secret", "_ttl_ns")

    def __init__(self, ttl_ns: int, most: int = MAX_VERIFIED) -> None:
        self._entries: OrderedDict[bytes, tuple[str, str, int]] = OrderedDict()
        self._secret = secrets.token_bytes(32)
        self._ttl_ns = ttl_ns
        self._most = most

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, login: str, password: str) -> bytes:
        """The pair as this cache knows it. NUL parts the two: neither can hold one."""
        return blake2b(f"{login}\0{password}".encode(), digest_size=32, key=self._secret).digest()

    def get(self, key: bytes, now_ns: int) -> tuple[str, str] | None:
        """(login in normal form, proof given to `put`), or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[2] <= now_ns:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry[0], entry[1]

    def put(self, key: bytes, login: str, proof: str, now_ns: int) -> None:
        """Remember a verified pair. proof: what must not change for it to hold, for the caller to compare."""
        if self._ttl_ns <= 0:
            return
        self._entries[key] = (login, proof, now_ns + self._ttl_ns)
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def drop(self, key: bytes) -> None:
        """This pair holds no more."""
        self._entries.pop(key, None)

    def forget(self, logins: Collection[str]) -> None:
        """No pair of these logins (normal form) holds any more."""
        for key in [key for key, entry in self._entries.items() if entry[0] in logins]:
            del self._entries[key]


class PasswordBackend(Protocol):
    """What a PasswordExchange needs of its backend."""

    def cached(self, login: str, password: str) -> str | None:
        """See Backend.cached."""

    def verify(self, credentials: Credentials, peer: PeerInfo) -> "asyncio.Future[AuthResult]":
        """Find out; the future may be cancelled at any time."""


class PasswordExchange:
    """An Exchange for PLAIN and LOGIN over any backend that can verify a login and password."""

    __slots__ = ("_backend", "_credentials", "_future", "_initial", "_machine", "_peer")

    def __init__(self, backend: "PasswordBackend", mechanism: str, initial: bytes | None, peer: PeerInfo) -> None:
        """mechanism: PLAIN or LOGIN. initial: the initial response, if any."""
        self._backend = backend
        self._machine: Mechanism = MECHANISMS[mechanism]()
        self._initial = initial
        self._peer = peer
        self._credentials: Credentials | None = None
        self._future: asyncio.Future[AuthResult] | None = None

    def answer(self, response: bytes | None) -> Challenge | AuthResult | None:
        """See Exchange.answer."""
        if response is None:
            response, self._initial = self._initial, None
        step = self._machine.step(response)
        if isinstance(step, Challenge):
            return step
        if isinstance(step, Malformed):
            return AuthResult(Outcome.BAD_CREDENTIALS, why=f"malformed: {step.why}")
        if step.for_another:
            # Said before the password is looked at, so that it tells nothing of it.
            return AuthResult(Outcome.BAD_CREDENTIALS, why="wants to act as another")
        if login := self._backend.cached(step.login, step.password):
            return AuthResult(Outcome.OK, login)
        self._credentials = step
        return None

    async def result(self) -> AuthResult:
        """See Exchange.result."""
        credentials, self._credentials = self._credentials, None
        if credentials is None:
            raise RuntimeError("no response is waiting for its result")
        self._future = self._backend.verify(credentials, self._peer)
        return await self._future

    async def step(self, response: bytes | None) -> Challenge | AuthResult:
        """See Exchange.step."""
        return self.answer(response) or await self.result()

    def cancel(self) -> None:
        """See Exchange.cancel."""
        if self._future is not None:
            self._future.cancel()


Check = Callable[[Credentials, PeerInfo], Coroutine[None, None, AuthResult]]


@dataclass(slots=True, eq=False)
class _Job:
    """One claim from one network, however many sessions make it at this moment."""

    network: str
    credentials: Credentials
    peer: PeerInfo
    waiters: set["asyncio.Future[AuthResult]"] = field(default_factory=set)


class FairChecks:
    """Runs the checks of a backend in fair turns between client networks (`core.fairness`), a few at a
    time."""

    __slots__ = ("_check", "_clock", "_closed", "_jobs", "_queue", "_tasks", "_timer")

    def __init__(
        self, check: Check, bounds: Bounds, penalty: Penalty, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """check: finds out; BAD_CREDENTIALS counts against the network. clock: nanoseconds, from any
        point."""
        self._check = check
        self._clock = clock
        self._queue: FairQueue[_Job] = FairQueue(bounds, penalty)
        self._jobs: dict[tuple[str, Credentials], _Job] = {}
        self._tasks: set[asyncio.Task[AuthResult]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Checks that wait for their turn or for the end of their network's pause."""
        return len(self._queue)

    def submit(self, credentials: Credentials, peer: PeerInfo) -> "asyncio.Future[AuthResult]":
        """Have it checked in turn. The future may be cancelled at any time."""
        future: asyncio.Future[AuthResult] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_result(_CLOSED)
            return future
        network = client_network(peer.address)
        job = self._jobs.get((network, credentials))
        # After a restart all sessions of a program log in at once with one password: it is checked once.
        fresh = job is None
        if job is None:
            job = self._jobs[network, credentials] = _Job(network, credentials, peer)
        job.waiters.add(future)
        future.add_done_callback(partial(self._left, job))
        if fresh:
            for refused in self._queue.offer(network, job, self._clock()):
                self._finish(refused, AuthResult(Outcome.TEMPORARY, why="too many logins waiting"))
            self._pump()
        return future

    def close(self) -> None:
        """No more checks; whoever waits gets TEMPORARY."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for job in list(self._jobs.values()):
            self._finish(job, _CLOSED)
        for task in self._tasks:
            task.cancel()

    def _pump(self) -> None:
        """Start whatever may start now, and come back when somebody's pause ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop, now = asyncio.get_running_loop(), self._clock()
        while (turn := self._queue.take(now)) is not None:
            job = turn[1]
            task = loop.create_task(self._check(job.credentials, job.peer))
            self._tasks.add(task)
            task.add_done_callback(partial(self._checked, job))
        if (due := self._queue.due_ns(now)) is not None:
            self._timer = loop.call_later(max(due - now, SECOND_NS // 1000) / SECOND_NS, self._pump)

    def _checked(self, job: _Job, task: "asyncio.Task[AuthResult]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            result = _CLOSED
        elif (error := task.exception()) is not None:
            result = AuthResult(Outcome.TEMPORARY, why=f"could not be checked: {error!r}")
        else:
            result = task.result()
        self._queue.done(job.network, self._clock(), failed=result.outcome is Outcome.BAD_CREDENTIALS)
        self._finish(job, result)
        if not self._closed:
            self._pump()

    def _finish(self, job: _Job, result: AuthResult) -> None:
        self._jobs.pop((job.network, job.credentials), None)
        for future in job.waiters:
            if not future.done():
                future.set_result(result)

    def _left(self, job: _Job, future: "asyncio.Future[AuthResult]") -> None:
        """A session has its result, or is gone. The last one to go takes the job out of the queue; a check
        that runs runs on, and counts: a guesser who hangs up pays like others."""
        if not future.cancelled():
            return
        job.waiters.discard(future)
        if not job.waiters and self._queue.withdraw(job.network, job):
            self._jobs.pop((job.network, job.credentials), None)
