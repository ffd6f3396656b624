"""The relay as a whole: its listeners and sessions, the caps over them, sweep, drain and reload."""

import asyncio
import contextlib
import fcntl
import itertools
import secrets
import termios
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Final

from smartmail import events
from smartmail.core.budget import Budget
from smartmail.core.policy import Decision, Reason, Verdict, at_connect, at_login
from smartmail.core.reply import Reply, reply
from smartmail.core.standing import Account
from smartmail.relay.auth import AuthResult, Outcome
from smartmail.relay.listener import Listener
from smartmail.relay.services import Services
from smartmail.relay.session import (
    DRAINING,
    SERVER_FULL,
    TOO_MANY_LOGINS,
    TOO_MANY_SESSIONS,
    ClientSession,
)
from smartmail.relay.upstream import Pool
from smartmail.store.directory import Directory

MAX_BUDGETS: Final = 20_000
"""Budgets kept for reuse; all are forgotten when there are more."""
LOGIN_UNKNOWN: Final = reply(454, "4.7.0", "This login is not known to the mail relay; contact the operator")


@dataclass(frozen=True, slots=True)
class Caps:
    """Sessions at the same time."""

    total: int = 10_000
    per_network: int = 100
    per_account: int = 50


class Relay:
    """Listeners, and the sessions that came in by them. Everything here runs on one loop."""

    def __init__(self, services: Services, listeners: tuple[Listener, ...], caps: Caps) -> None:
        self.services = services
        self.listeners = listeners
        self.caps = caps
        self.no_budget = Budget((), None, "")
        self.draining = False
        self._sessions: set[ClientSession] = set()
        self._by_network: Counter[str] = Counter()
        self._by_account: dict[int, set[ClientSession]] = {}
        self._budgets: dict[tuple[int, str], Budget] = {}
        self._retired: list[Pool] = []
        """Pools that mails of before a reload still use."""
        self._octets_there = bytearray(4)
        self._boot = secrets.token_hex(3)
        self._numbers = itertools.count(1)
        self._loop = asyncio.get_running_loop()
        self.tick = services.tick
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Event = asyncio.Event()
        for listener in listeners:
            services.metrics.sessions_opened[listener.name] = services.metrics.sessions_open[listener.name] = 0

    @property
    def sessions(self) -> int:
        """Sessions open now."""
        return len(self._sessions)

    @property
    def busy(self) -> int:
        """Transactions open now."""
        return sum(session.busy for session in self._sessions)

    async def open(self) -> None:
        """Open every listener. Raises OSError with the listener's name as its filename."""
        for listener in self.listeners:
            try:
                await listener.open(partial(ClientSession, self, listener), partial(_accept_failed, listener.name))
            except OSError as error:
                raise OSError(error.errno, error.strerror, f"listener {listener.name}") from error
            events.listening(
                name=listener.name,
                role=listener.config.role,
                address=listener.bound,
                tls=listener.config.tls,
            )
        self._sweep()

    def _sweep(self) -> None:
        """Once a second: deadlines of sessions, upstream connections and reservations."""
        self._timer = self._loop.call_later(1.0, self._sweep)
        now = self.tick.now = self._loop.time()
        for session in tuple(self._sessions):
            session.sweep(now)
        self.services.pool.sweep(now)
        if self._retired:
            for pool in self._retired:
                pool.sweep(now)
            self._retired = [pool for pool in self._retired if pool.size[0]]
        self.services.counters.expire(self.services.clock.now_ns())

    # what sessions ask

    def next_session_id(self) -> str:
        """Unique over restarts too."""
        return f"{self._boot}-{next(self._numbers):x}"

    def admit(self, session: ClientSession) -> Decision | None:
        """Count a session in; a decision that it may not stay, or None."""
        self._sessions.add(session)
        self._by_network[session.network] += 1
        metrics, name = self.services.metrics, session.listener.name
        metrics.sessions_opened[name] += 1
        metrics.sessions_open[name] += 1
        if self.draining:
            return Decision(Verdict.DEFERRED, Reason.DRAINING, DRAINING)
        if len(self._sessions) > self.caps.total:
            return Decision(Verdict.DEFERRED, Reason.TOO_MANY_SESSIONS, SERVER_FULL)
        if self._by_network[session.network] > self.caps.per_network:
            return Decision(Verdict.DEFERRED, Reason.TOO_MANY_SESSIONS, TOO_MANY_SESSIONS)
        decision = at_connect(session.door)
        return None if decision.accepted else decision

    def forget(self, session: ClientSession) -> None:
        """Count a session out."""
        self._sessions.discard(session)
        self.services.metrics.sessions_open[session.listener.name] -= 1
        self._by_network[session.network] -= 1
        if not self._by_network[session.network]:
            del self._by_network[session.network]
        self.log_out(session)
        if not self._sessions:
            self._emptied.set()

    def log_out(self, session: ClientSession) -> None:
        """The session speaks for no account any more."""
        if session.account is None:
            return
        same = self._by_account.get(session.account.id, set())
        same.discard(session)
        if not same:
            self._by_account.pop(session.account.id, None)

    def logged_in(self, session: ClientSession, result: AuthResult) -> Reply:
        """What a finished AUTH comes to: the backend knows the password, the policy knows the standing."""
        metrics = self.services.metrics
        if result.outcome is not Outcome.OK:
            metrics.logins[result.outcome.value] += 1
            events.login_failed(
                session=session.session_id,
                client=session.identity.address,
                listener=session.listener_name,
                why=result.why or result.outcome.value,
            )
            return result.reply
        credential = self.services.directory.by_login(result.login)
        if credential is None:
            self._login_refused(session, result.login, "unknown_account")
            return LOGIN_UNKNOWN
        account = credential.account
        decision = at_login(account)
        if decision.accepted and len(self._by_account.get(account.id, ())) >= self.caps.per_account:
            decision = Decision(Verdict.DEFERRED, Reason.TOO_MANY_SESSIONS, TOO_MANY_LOGINS)
        if not decision.accepted:
            answer = decision.reply or result.reply
            self._login_refused(session, result.login, decision.reason.value)
            if answer.code == 421:
                session.ending = answer
                return reply(454, "4.7.0", *answer.lines)
            return answer
        metrics.logins[Outcome.OK.value] += 1
        self.log_out(session)
        self._by_account.setdefault(account.id, set()).add(session)
        session.speak_for(account)
        return result.reply

    def _login_refused(self, session: ClientSession, login: str, reason: str) -> None:
        self.services.metrics.logins[reason] += 1
        events.login_refused(session=session.session_id, client=session.identity.address, login=login, reason=reason)

    def budget_of(self, account: Account | None, network: str) -> Budget:
        """The charges of an identity, worked out once."""
        key = (0 if account is None else account.id, network)
        budget = self._budgets.get(key)
        if budget is None:
            if len(self._budgets) >= MAX_BUDGETS:
                self._budgets.clear()
            own = () if account is None else account.limits
            budget = self._budgets[key] = Budget((*own, *self.services.rules.limits), account, network)
        return budget

    def count_refused(self, session: ClientSession, reason: Reason) -> None:
        """A session was turned away or cut by us."""
        self.services.metrics.sessions_refused[reason.value] += 1
        events.session_refused(
            client=session.identity.address,
            listener=session.listener_name,
            reason=reason.value,
            session=session.session_id,
        )

    def internal_error(self, error: BaseException, session_id: str) -> Reply:
        """Log a fault of ours under a reference, and return what the client hears of it."""
        reference = secrets.token_hex(5)
        self.services.metrics.internal_errors += 1
        events.internal_error(reference, error, session=session_id)
        return reply(451, "4.3.0", f"Internal error; the operator finds it under reference {reference}")

    def talks_already(self, descriptor: int) -> bool:
        """Are there octets to read on a socket? Nothing is taken off it."""
        fcntl.ioctl(descriptor, termios.FIONREAD, self._octets_there)
        return any(self._octets_there)

    # what the process tells

    def directory_changed(self, directory: Directory, changed: frozenset[int]) -> None:
        """A new snapshot of accounts; live sessions of changed ones learn of it now."""
        logins = {account.address for id_ in changed if (account := self.services.directory.accounts.get(id_))}
        self.services.directory = directory
        self._budgets = {key: budget for key, budget in self._budgets.items() if key[0] not in changed}
        self.services.backend.forget(logins)
        for id_ in changed & self._by_account.keys():
            account = directory.accounts.get(id_)
            for session in tuple(self._by_account[id_]):
                session.account_changed(account)

    def replace_pool(self, pool: Pool) -> None:
        """Mails from now on go by `pool`; those on their way end where they are."""
        former, self.services.pool = self.services.pool, pool
        pool.take_over(former)
        self._retired.append(former)

    def rules_changed(self) -> None:
        """`services.rules` was replaced: new charges from the next mail on."""
        self._budgets.clear()
        for session in self._sessions:
            session.budget = self.budget_of(session.account, session.network)

    async def drain(self, seconds: float) -> int:
        """Stop accepting, let mails finish, say 421 at boundaries. Returns how many sessions had to be cut."""
        self.draining = True
        for listener in self.listeners:
            listener.close()
        self._emptied.clear()
        if not self._sessions:
            self._emptied.set()
        for session in tuple(self._sessions):
            session.end_at_boundary(DRAINING, after_mail=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._emptied.wait()
                while any(pool.carries_mail for pool in (self.services.pool, *self._retired)):  # noqa: ASYNC110  once
                    await asyncio.sleep(0.02)
        left = tuple(self._sessions)
        for session in left:
            session.abort()
        if self._timer is not None:
            self._timer.cancel()
        for pool in (self.services.pool, *self._retired):
            pool.close()
        return len(left)


def _accept_failed(name: str, why: str) -> None:
    events.accept_failed(name=name, reason=why)
