"""The accounts as the relay sees them: one immutable snapshot, and a thread that follows the database.

Plain sqlite3 only: this is part of the relay process, and SQLAlchemy would cost it 35 MB.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from smartmail.core.limits import Limit, Mode, Scope, Unit
from smartmail.core.standing import Account, Billing, Conduct
from smartmail.store.errors import StoreUnavailable
from smartmail.store.sqlite import connect, path_of

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

POLL_SECONDS = 0.2
"""Between two looks at the database: a change is heard of within this and the time of its reload."""

_IDS = 500
"""Ids in one statement, below the 999 variables that any SQLite takes."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a login is checked against. password_hash: argon2id in PHC form."""

    account: Account
    password_hash: str


class Directory:
    """Every account, domain and alias at one moment. Never changes; `changed` makes the next one."""

    __slots__ = ("_addresses", "_credentials", "_domains", "accounts", "version")

    accounts: Mapping[int, Account]
    version: int
    """The newest change that is in it: grows with every reload."""

    def __init__(self, credentials: Mapping[int, Credential], domains: Set[str], version: int) -> None:
        """credentials: by account id. domains: in normal form, closed ones included."""
        self._credentials = {found.account.address: found for found in credentials.values()}
        self._addresses = _addresses(found.account for found in credentials.values())
        self._domains = frozenset(domains)
        self.accounts = MappingProxyType({id_: found.account for id_, found in credentials.items()})
        self.version = version

    def by_login(self, login: str) -> Credential | None:
        """login: the account's own address in normal form; an alias is no login."""
        return self._credentials.get(login)

    def by_address(self, address: str) -> Account | None:
        """Whose mail it is: own address, then alias, then the "@domain" alias. address: normal form."""
        found = self._addresses.get(address)
        if found is None:
            return self._addresses.get(f"@{address.rpartition('@')[2]}")
        return found

    def is_local_domain(self, domain: str) -> bool:
        """Is it ours to take mail for? domain: normal form. A closed domain stays ours, so that its mail
        is refused with the right words."""
        return domain in self._domains

    def changed(self, accounts: Mapping[int, Credential | None], domains: Set[str] | None, version: int) -> "Directory":
        """The next snapshot. accounts: those to put in, None for those to leave out. domains: None for the
        same."""
        old = [account for id_ in accounts if (account := self.accounts.get(id_)) is not None]
        new = [credential for credential in accounts.values() if credential is not None]
        successor = Directory.__new__(Directory)
        credentials = self._credentials.copy()
        addresses = self._addresses.copy()
        by_id = dict(self.accounts)
        for account in old:
            del by_id[account.id], credentials[account.address]
            for address in (account.address, *account.aliases):
                addresses.pop(address, None)
        for found in new:
            by_id[found.account.id] = found.account
            credentials[found.account.address] = found
        addresses.update(_addresses(found.account for found in new))
        successor._credentials = credentials
        successor._addresses = addresses
        successor._domains = self._domains if domains is None else frozenset(domains)
        successor.accounts = MappingProxyType(by_id)
        successor.version = version
        return successor


def _addresses(accounts: Iterable[Account]) -> dict[str, Account]:
    return {address: account for account in accounts for address in (account.address, *account.aliases)}


EMPTY = Directory({}, frozenset(), 0)

OnChange = Callable[[Directory, frozenset[int]], None]
"""Called with the new snapshot and the ids of the accounts that differ, added and removed ones included."""
OnError = Callable[[Exception], None]
"""Called once for each poll that failed, and not again for the same words."""


class DirectoryWatch:
    """Follows the database in a thread of its own; keeps the last good snapshot whatever happens to the
    database."""

    def __init__(
        self,
        url: str,
        on_change: OnChange,
        on_error: OnError,
        loop: "AbstractEventLoop | None" = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """url: "sqlite:///path" of an upgraded database. loop: the callbacks are run on it; without one
        they run on the watch's thread."""
        self._reader = DirectoryReader(url)
        self._on_change = on_change
        self._on_error = on_error
        self._loop = loop
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="directory-watch", daemon=True)
        self._said = ""
        self.errors = 0
        """Polls that failed."""

    @property
    def current(self) -> Directory:
        """The newest snapshot."""
        return self._reader.current

    def start(self) -> None:
        """Load everything, then start the thread. Raises StoreUnavailable."""
        self.load()
        self._thread.start()

    def load(self) -> None:
        """Load everything, start no thread: for a caller of `step`. Raises StoreUnavailable."""
        try:
            self._reader.poll()
        except (sqlite3.Error, OSError, ValueError) as error:
            raise StoreUnavailable(f"the accounts cannot be loaded: {error}") from error

    def stop(self) -> None:
        """End the thread; no callback is begun afterwards."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self.step()

    def step(self) -> bool:
        """Look once; call back if something is new. True when something was."""
        try:
            changed = self._reader.poll()
        except Exception as error:  # a row of nonsense must not end the thread: the old snapshot stays, and it is told
            self.errors += 1
            self._reader.close()
            if str(error) != self._said:
                self._said = str(error)
                self._call(self._on_error, error)
            return False
        self._said = ""
        if changed is None:
            return False
        self._call(self._on_change, self.current, changed)
        return True

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        if self._loop is None:
            callback(*arguments)
            return
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            self._stop.set()


class DirectoryReader:
    """The watch without its thread: one connection, and what was seen last."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] = (0, 0)
        self._data_version = -1
        self._plans: dict[str, tuple[Limit, ...]] = {}
        self.current = EMPTY
        self._loaded = False

    def poll(self) -> frozenset[int] | None:
        """Bring `current` up to date. Returns the ids of the accounts that differ, None when nothing has
        changed.

        The set may be empty: a domain was added, say. Raises sqlite3.Error, OSError, StoreUnavailable, and
        ValueError for rows that make no sense; `current` is then as before.
        """
        connection = self._open()
        data_version = int(connection.execute("PRAGMA data_version").fetchone()[0])
        if data_version == self._data_version:
            return None
        connection.execute("BEGIN")
        try:
            changed = self._follow(connection)
        finally:
            connection.execute("ROLLBACK")
        self._data_version = data_version
        return changed

    def close(self) -> None:
        """Let go of the file; the next poll opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._data_version = -1

    def _open(self) -> sqlite3.Connection:
        """The connection; a new one when the file was replaced, by a restored backup for instance."""
        stat = path_of(self._url).stat()
        identity = (stat.st_dev, stat.st_ino)
        if self._connection is None or identity != self._file:
            self.close()
            self._connection = connect(self._url, read_only=True)
            if identity != self._file:
                self._loaded = False
            self._file = identity
        return self._connection

    def _follow(self, connection: sqlite3.Connection) -> frozenset[int] | None:
        oldest, newest = connection.execute("SELECT min(id), max(id) FROM change").fetchone()
        seen, newest = self.current.version, newest or 0
        if not self._loaded or newest < seen or (oldest or 0) > seen + 1:
            return self._load_all(connection, newest)
        if newest == seen:
            return None
        rows = connection.execute("SELECT DISTINCT kind, ref FROM change WHERE id > ?", (seen,)).fetchall()
        refs: dict[str, list[str]] = {}
        for kind, ref in rows:
            refs.setdefault(kind, []).append(ref)
        ids = _concerned(connection, refs)
        plans = _load_plans(connection) if "plan" in refs else self._plans
        loaded = _load_accounts(connection, plans, ids)
        domains = _load_domains(connection) if "domain" in refs else None
        self.current = self.current.changed({id_: loaded.get(id_) for id_ in ids}, domains, newest)
        self._plans = plans
        return frozenset(ids)

    def _load_all(self, connection: sqlite3.Connection, newest: int) -> frozenset[int]:
        plans = _load_plans(connection)
        credentials = _load_accounts(connection, plans, None)
        fresh = Directory(credentials, _load_domains(connection), newest)
        stale = self.current
        self.current, self._plans, self._loaded = fresh, plans, True
        # Sets, not comparisons: which passwords differ is not looked at, so every account counts as changed.
        return frozenset(fresh.accounts) | frozenset(stale.accounts)


def _concerned(connection: sqlite3.Connection, refs: Mapping[str, list[str]]) -> set[int]:
    """The ids of all accounts that these changes may have touched."""
    ids = {int(ref) for ref in refs.get("account", ())}
    for kind, column in (("customer", "customer"), ("domain", "domain"), ("plan", "plan")):
        for ref in refs.get(kind, ()):
            value = int(ref) if kind == "customer" else ref
            query = f"SELECT id FROM account WHERE {column} = ?"  # noqa: S608
            ids.update(row[0] for row in connection.execute(query, (value,)))
    return ids


def _load_plans(connection: sqlite3.Connection) -> dict[str, tuple[Limit, ...]]:
    limits: dict[str, list[Limit]] = {}
    query = "SELECT plan, name, scope, unit, quota, period, burst, mode FROM plan_limit ORDER BY plan, name"
    for plan, name, scope, unit, quota, period, burst, mode in connection.execute(query):
        limit = Limit(name, Scope(scope), Unit(unit), quota, period, burst, Mode(mode))
        limits.setdefault(plan, []).append(limit)
    return {plan: tuple(found) for plan, found in limits.items()}


def _load_domains(connection: sqlite3.Connection) -> frozenset[str]:
    return frozenset(row[0] for row in connection.execute("SELECT name FROM domain"))


_ACCOUNTS = """
SELECT account.id, account.address, account.customer, account.domain, account.password_hash, account.plan,
       account.billing, account.conduct, account.created_ns, customer.billing,
       customer.closed_ns IS NOT NULL OR domain.closed_ns IS NOT NULL
FROM account JOIN customer ON customer.id = account.customer JOIN domain ON domain.name = account.domain
"""
_ALIASES = "SELECT account, address FROM alias"


def _load_accounts(
    connection: sqlite3.Connection, plans: Mapping[str, tuple[Limit, ...]], ids: Set[int] | None
) -> dict[int, Credential]:
    """By id; `ids` None for all. What was closed or unpaid above the account is folded into its standing."""
    aliases: dict[int, list[str]] = {}
    for account, address in _select(connection, _ALIASES, "account", ids):
        aliases.setdefault(account, []).append(address)
    found = {}
    shared: dict[str, str] = {}  # one copy of each domain and plan name
    for row in _select(connection, _ACCOUNTS, "account.id", ids):
        id_, address, customer, domain, password_hash, plan, billing, conduct, created_ns, paying, closed = row
        account = Account(
            id=id_,
            address=address,
            customer=customer,
            domain=shared.setdefault(domain, domain),
            aliases=frozenset(aliases.get(id_, ())),
            plan=shared.setdefault(plan, plan),
            billing=worse(Billing(billing), Billing(paying)),
            conduct=conduct_in_force(Conduct(conduct), above_closed=bool(closed)),
            created_ns=created_ns,
            limits=plans.get(plan, ()),
        )
        found[id_] = Credential(account, password_hash)
    return found


def _select(connection: sqlite3.Connection, query: str, column: str, ids: Set[int] | None) -> Iterator[tuple[Any, ...]]:
    if ids is None:
        yield from connection.execute(query)
        return
    wanted = sorted(ids)
    for start in range(0, len(wanted), _IDS):
        some = wanted[start : start + _IDS]
        yield from connection.execute(f"{query} WHERE {column} IN ({','.join('?' * len(some))})", some)


def worse(one: Billing, other: Billing) -> Billing:
    """The one that permits less: an account pays as its customer pays."""
    order = list(Billing)
    return max(one, other, key=order.index)


def conduct_in_force(own: Conduct, *, above_closed: bool) -> Conduct:
    """An account of a closed domain or customer is closed, whatever its own conduct."""
    return Conduct.CLOSED if above_closed else own
