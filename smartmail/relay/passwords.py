"""The local backend: accounts with argon2 hashes, checked off the loop, in turns between client networks."""

import asyncio
import re
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError, VerifyMismatchError

from smartmail.core.fairness import SECOND_NS, Bounds, Penalty
from smartmail.core.sasl import HASH_COST, Credentials, prepare_password
from smartmail.core.standing import Account
from smartmail.relay.auth import (
    AuthResult,
    FairChecks,
    MechanismNotOfferedError,
    Outcome,
    PasswordExchange,
    PeerInfo,
    VerifiedLogins,
    normal_login,
)


class Credential(Protocol):
    """What the directory knows of a login."""

    @property
    def account(self) -> Account:
        """Its account; the address is the login in normal form."""

    @property
    def password_hash(self) -> str:
        """Argon2, in PHC string form. Anything else never matches."""


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """workers: threads that hash. max_waiting: attempts waiting in all; one network may have half of them.
    cache_seconds: how long a verified login counts; 0: not at all. penalty: of networks that fail."""

    workers: int = 2
    max_waiting: int = 200
    cache_seconds: int = 60
    penalty: Penalty = field(default_factory=Penalty)


_HASHER = PasswordHasher(HASH_COST.passes, HASH_COST.memory_kib, HASH_COST.lanes)
_PHC = re.compile(r"(\$argon2(?:id|i|d)(?:\$v=\d+)?\$m=\d+,t=\d+,p=\d+\$)[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")


def _nobody(cost: str) -> str:
    """A hash that no password has, as dear as others with this beginning of a PHC string."""
    return f"{cost}{'A' * 22}${'A' * 43}"


def _matches(password_hash: str, password: str) -> bool:
    """Runs in a worker. Raises argon2's VerificationError if it could not be found out (no memory)."""
    try:
        return _HASHER.verify(password_hash, prepare_password(password))
    except VerifyMismatchError:
        return False


class LocalBackend:
    """Accounts with argon2 hashes that `lookup` finds. Hashing runs in a few threads, in fair turns."""

    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")

    def __init__(
        self,
        lookup: Callable[[str], Credential | None],
        settings: AuthSettings | None = None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """lookup: a login in normal form -> what is known of it, at this moment, without waiting.
        clock: nanoseconds from any fixed point."""
        settings = settings or AuthSettings()
        waiting = settings.max_waiting
        bounds = Bounds(settings.workers, waiting, waiting_per_network=max(1, waiting // 2))
        self._lookup = lookup
        self._clock = clock
        self._cache = VerifiedLogins(settings.cache_seconds * SECOND_NS)
        self._checks = FairChecks(self._check, bounds, settings.penalty, clock)
        self._executor = ThreadPoolExecutor(settings.workers, thread_name_prefix="argon2")
        # Checked for unknown logins, so that they take as long as known ones; takes on the cost of the hashes
        # that there are, which may have come from elsewhere.
        self._nobody = _nobody(f"$argon2id$v=19$m={HASH_COST.memory_kib},t={HASH_COST.passes},p={HASH_COST.lanes}$")

    @property
    def waiting(self) -> int:
        """Logins that wait for a thread or for the end of their network's pause."""
        return self._checks.waiting

    def open(self) -> None:
        """See Backend.open: nothing to do here."""

    def offered(self, *, secured: bool) -> tuple[str, ...]:
        """Nothing without TLS: both mechanisms send the password as it is."""
        return self.mechanisms if secured else ()

    def start(self, mechanism: str, initial: bytes | None, peer: PeerInfo) -> PasswordExchange:
        """See Backend.start."""
        name = mechanism.upper()
        if name not in self.offered(secured=peer.secured):
            raise MechanismNotOfferedError(mechanism)
        return PasswordExchange(self, name, initial, peer)

    def cached(self, login: str, password: str) -> str | None:
        """See Backend.cached. A few microseconds. Ends at once when the stored hash changes."""
        key = self._cache.key(login, password)
        verified = self._cache.get(key, self._clock())
        if verified is None:
            return None
        credential = self._lookup(verified[0])
        if credential is None or credential.password_hash != verified[1]:
            self._cache.drop(key)
            return None
        return verified[0]

    def forget(self, logins: Collection[str]) -> None:
        """See Backend.forget."""
        self._cache.forget(logins)

    def close(self) -> None:
        """See Backend.close."""
        self._checks.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def verify(self, credentials: Credentials, peer: PeerInfo) -> "asyncio.Future[AuthResult]":
        """See PasswordBackend.verify."""
        return self._checks.submit(credentials, peer)

    async def _check(self, credentials: Credentials, peer: PeerInfo) -> AuthResult:
        login, password = credentials.login, credentials.password
        normal = normal_login(login)
        credential = self._lookup(normal)
        stored = "" if credential is None else credential.password_hash
        # A locked account ("!") or a foreign scheme must not answer sooner than others either.
        usable = _PHC.fullmatch(stored)
        if usable:
            self._nobody = _nobody(usable[1])
        loop = asyncio.get_running_loop()
        try:
            right = await loop.run_in_executor(self._executor, _matches, stored if usable else self._nobody, password)
        except VerificationError as error:
            return AuthResult(Outcome.TEMPORARY, why=f"argon2: {error}")
        if credential is None or not usable or not right:
            why = "unknown login" if credential is None else "wrong password" if usable else "unusable hash"
            return AuthResult(Outcome.BAD_CREDENTIALS, why=why)
        current = self._lookup(normal)
        if current is None or current.password_hash != stored:
            return AuthResult(Outcome.TEMPORARY, why="the account changed meanwhile")
        self._cache.put(self._cache.key(login, password), normal, stored, self._clock())
        return AuthResult(Outcome.OK, normal)
