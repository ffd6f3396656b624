"""The local backend: right, wrong, cached, changed, flooded, cancelled."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from argon2 import PasswordHasher

from smartmail.core.fairness import SECOND_NS, Penalty
from smartmail.core.sasl import HASH_COST, MAX_PASSWORD
from smartmail.core.standing import Account, Billing, Conduct
from smartmail.relay import passwords
from smartmail.relay.auth import (
    AuthResult,
    Challenge,
    MechanismNotOfferedError,
    Outcome,
    PeerInfo,
    VerifiedLogins,
)
from smartmail.relay.passwords import AuthSettings, LocalBackend
from smartmail.store.directory import Credential

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
OFFICE = PeerInfo("192.0.2.7", 40001, "198.51.100.1", 587)
FLOOD = PeerInfo("203.0.113.9", 40002, "198.51.100.1", 587)
BOB = "bob@example.com"
OK_BOB = AuthResult(Outcome.OK, BOB)


def account(address: str) -> Account:
    domain = address.rpartition("@")[2]
    return Account(1, address, 1, domain, frozenset(), "standard", Billing.CURRENT, Conduct.GOOD, 0, ())


class Accounts:
    """What the directory would say, and what was asked of it."""

    def __init__(self) -> None:
        self.known: dict[str, Credential] = {}
        self.asked: list[str] = []

    def add(self, address: str, password: str) -> None:
        self.known[address] = Credential(account(address), CHEAP.hash(password))

    def __call__(self, login: str) -> Credential | None:
        self.asked.append(login)
        return self.known.get(login)


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def accounts() -> Accounts:
    made = Accounts()
    made.add(BOB, "secret")
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


Make = Callable[..., LocalBackend]


@pytest.fixture
async def make(accounts: Accounts, clock: Clock) -> AsyncIterator[Make]:
    made: list[LocalBackend] = []

    def make_backend(**settings: object) -> LocalBackend:
        made.append(LocalBackend(accounts, AuthSettings(**settings), clock=clock))  # type: ignore[arg-type]
        return made[-1]

    yield make_backend
    for backend in made:
        backend.close()


@asynccontextmanager
async def held_threads(backend: LocalBackend) -> AsyncIterator[None]:
    """All worker threads are busy meanwhile: whatever is asked for waits."""
    loop = asyncio.get_running_loop()
    release = asyncio.Event()
    ready = asyncio.Event()

    async def hold(_credentials: object, _peer: object) -> AuthResult:
        ready.set()
        await release.wait()
        return OK_BOB

    check, backend._checks._check = backend._checks._check, hold
    holder = loop.create_task(log_in(backend, "holder@example.com", "x"))
    await ready.wait()
    backend._checks._check = check
    try:
        yield
    finally:
        release.set()
        await holder


async def log_in(backend: LocalBackend, login: str, password: str, peer: PeerInfo = OFFICE) -> Challenge | AuthResult:
    return await backend.start("PLAIN", f"\0{login}\0{password}".encode(), peer).step(None)


async def settle() -> None:
    """Let everything that can run without a thread or a timer run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_right_password_logs_in_by_either_mechanism(make: Make) -> None:
    backend = make()
    assert await log_in(backend, BOB, "secret") == OK_BOB
    login = backend.start("login", None, OFFICE)
    assert await login.step(None) == Challenge(b"Username:")
    assert await login.step(BOB.encode()) == Challenge(b"Password:")
    assert await login.step(b"secret") == OK_BOB


async def test_the_login_is_returned_in_normal_form(make: Make) -> None:
    assert await log_in(make(), "Bob@EXAMPLE.com", "secret") == OK_BOB


async def test_a_password_typed_on_another_keyboard_fits(make: Make, accounts: Accounts) -> None:
    accounts.add(BOB, "p\u00e1ss\u00f6rd")
    assert await log_in(make(), BOB, "pa\u0301sso\u0308rd") == OK_BOB


async def test_wrong_password_and_unknown_login_look_the_same(
    make: Make, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same reply, same way, and argon2 of the same cost for both."""
    costs: list[str] = []
    matches = passwords._matches

    def watched(password_hash: str, password: str) -> bool:
        costs.append(password_hash.rpartition("$")[0].rpartition("$")[0])
        return matches(password_hash, password)

    monkeypatch.setattr(passwords, "_matches", watched)
    backend = make(penalty=Penalty(pauses=()))
    results = [
        await log_in(backend, login, "wrong")
        for login in (BOB, "nobody@example.com", "no address", "bob@example.com.", BOB)
    ]
    for result in results:
        assert isinstance(result, AuthResult)
        assert (result.outcome, result.login) == (Outcome.BAD_CREDENTIALS, "")
        assert str(result.reply) == "535 5.7.8 Authentication credentials invalid"
    assert len(costs) == 5
    assert len(set(costs)) == 1


async def test_an_unknown_login_costs_as_much_as_a_fresh_hash_before_any_login_is_known(make: Make) -> None:
    hasher = PasswordHasher(HASH_COST.passes, HASH_COST.memory_kib, HASH_COST.lanes)
    assert make()._nobody.startswith(hasher.hash("x").rpartition("$")[0].rpartition("$")[0])


@pytest.mark.parametrize("stored", ["", "!", "{CRYPT}$1$abc$def", "$argon2id$garbage", "$2b$12$abc"])
async def test_an_unusable_hash_never_matches_and_breaks_nothing(make: Make, accounts: Accounts, stored: str) -> None:
    accounts.known[BOB] = Credential(account(BOB), stored)
    for password in ("secret", stored or "x"):
        result = await log_in(make(), BOB, password)
        assert isinstance(result, AuthResult)
        assert result.outcome is Outcome.BAD_CREDENTIALS


async def test_an_authzid_of_somebody_else_is_refused_even_with_the_right_password(
    make: Make, accounts: Accounts
) -> None:
    backend = make()
    for token in (
        b"alice@example.com\0bob@example.com\0secret",
        b"alice@example.com\0bob@example.com\0wrong",
    ):
        result = await backend.start("PLAIN", token, OFFICE).step(None)
        assert result == AuthResult(Outcome.BAD_CREDENTIALS, why="wants to act as another")
    assert accounts.asked == []
    assert await backend.start("PLAIN", b"BOB@example.com\0bob@example.com\0secret", OFFICE).step(None) == OK_BOB


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"bob@example.com",
        b"\0bob@example.com\0sec\0ret",
        b"\0bob@example.com\r\nRSET\0secret",
        b"\0bob@example.com\0sec\nret",
        b"\0bob\x1b[2J@example.com\0secret",
        b"\0bob@example.com\0\xff\xfe",
        b"\0bob@example.com\0" + b"x" * (MAX_PASSWORD + 1),
        b"x" * 12_000,
    ],
)
async def test_nul_line_breaks_and_nonsense_reach_no_directory_and_no_thread(
    make: Make, accounts: Accounts, token: bytes
) -> None:
    backend = make()
    result = await backend.start("PLAIN", token, OFFICE).step(None)
    assert isinstance(result, AuthResult)
    assert result.outcome is Outcome.BAD_CREDENTIALS
    assert result.why.startswith("malformed: ")
    assert accounts.asked == []
    assert backend._executor._threads == set()


async def test_nothing_is_offered_or_taken_without_tls(make: Make) -> None:
    backend = make()
    assert backend.offered(secured=True) == backend.mechanisms == ("PLAIN", "LOGIN")
    assert backend.offered(secured=False) == ()
    for mechanism, secured in (("PLAIN", False), ("CRAM-MD5", True), ("", True), ("EXTERNAL", True)):
        with pytest.raises(MechanismNotOfferedError):
            backend.start(mechanism, None, PeerInfo("192.0.2.7", secured=secured))


async def test_a_verified_login_is_answered_at_once_from_the_cache(make: Make) -> None:
    backend = make()
    assert backend.cached(BOB, "secret") is None
    await log_in(backend, BOB, "secret")
    assert backend.cached(BOB, "secret") == BOB
    exchange = backend.start("PLAIN", b"\0bob@example.com\0secret", FLOOD)
    assert exchange.answer(None) == OK_BOB
    assert backend.cached(BOB, "wrong") is None
    assert backend.cached("alice@example.com", "secret") is None


async def test_a_wrong_login_is_never_cached(make: Make) -> None:
    backend = make()
    await log_in(backend, BOB, "wrong")
    assert backend.cached(BOB, "wrong") is None
    assert len(backend._cache) == 0


async def test_cache_ends_with_its_time(make: Make, clock: Clock) -> None:
    backend = make(cache_seconds=60)
    await log_in(backend, BOB, "secret")
    clock.now = 59 * SECOND_NS
    assert backend.cached(BOB, "secret") == BOB
    # Use doesn't prolong it.
    clock.now = 60 * SECOND_NS
    assert backend.cached(BOB, "secret") is None


async def test_cache_can_be_turned_off(make: Make) -> None:
    backend = make(cache_seconds=0)
    assert await log_in(backend, BOB, "secret") == OK_BOB
    assert backend.cached(BOB, "secret") is None


async def test_cache_is_dropped_when_the_password_changes(make: Make, accounts: Accounts) -> None:
    backend = make()
    await log_in(backend, BOB, "secret")
    accounts.add(BOB, "new secret")
    assert backend.cached(BOB, "secret") is None
    result = await log_in(backend, BOB, "secret")
    assert isinstance(result, AuthResult)
    assert result.outcome is Outcome.BAD_CREDENTIALS
    assert await log_in(backend, BOB, "new secret") == OK_BOB


async def test_cache_is_dropped_when_the_account_is_gone(make: Make, accounts: Accounts) -> None:
    backend = make()
    await log_in(backend, BOB, "secret")
    del accounts.known[BOB]
    assert backend.cached(BOB, "secret") is None


async def test_cache_is_dropped_for_changed_logins_only(make: Make, accounts: Accounts) -> None:
    backend = make()
    accounts.add("alice@example.com", "hers")
    await log_in(backend, BOB, "secret")
    await log_in(backend, "BOB@example.com", "secret")
    await log_in(backend, "alice@example.com", "hers")
    backend.forget(frozenset({BOB}))
    assert backend.cached(BOB, "secret") is None
    assert backend.cached("BOB@example.com", "secret") is None
    assert backend.cached("alice@example.com", "hers") == "alice@example.com"


async def test_a_password_changed_while_it_is_checked_lets_nobody_in(
    make: Make, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = passwords._matches

    def slow(password_hash: str, password: str) -> bool:
        right = matches(password_hash, password)
        accounts.add(BOB, "new secret")
        return right

    monkeypatch.setattr(passwords, "_matches", slow)
    backend = make()
    result = await log_in(backend, BOB, "secret")
    assert result == AuthResult(Outcome.TEMPORARY, why="the account changed meanwhile")
    assert len(backend._cache) == 0


def test_the_cache_is_bounded_and_forgets_the_longest_unused() -> None:
    cache = VerifiedLogins(ttl_ns=100, most=2)
    keys = [cache.key(str(number), "x") for number in range(3)]
    cache.put(keys[0], "0", "", 0)
    cache.put(keys[1], "1", "", 0)
    assert cache.get(keys[0], 1) == ("0", "")
    cache.put(keys[2], "2", "", 0)
    assert [cache.get(key, 1) is not None for key in keys] == [True, False, True]


def test_the_cache_holds_no_password_and_two_processes_share_no_key() -> None:
    caches = VerifiedLogins(100), VerifiedLogins(100)
    keys = [cache.key(BOB, "secret") for cache in caches]
    assert keys[0] != keys[1]
    assert len(keys[0]) == 32
    assert caches[0].key("ab", "c") != caches[0].key("a", "bc")


async def test_a_flood_of_wrong_passwords_slows_only_its_own_network(make: Make) -> None:
    """Two hundred wrong passwords from one network stand in line; a login from elsewhere is second to be
    checked."""
    backend = make(workers=1, max_waiting=200, penalty=Penalty(pauses=()))
    order: list[str] = []

    async def one(peer: PeerInfo, login: str, password: str) -> Outcome:
        result = await log_in(backend, login, password, peer)
        assert isinstance(result, AuthResult)
        if result.outcome is not Outcome.TEMPORARY:
            order.append(login)
        return result.outcome

    async with held_threads(backend):
        flood = [asyncio.ensure_future(one(FLOOD, f"guess{number}@example.com", "x")) for number in range(200)]
        await settle()
        office = asyncio.ensure_future(one(OFFICE, BOB, "secret"))
        await settle()
        assert backend.waiting == 101
    assert await office is Outcome.OK
    outcomes = await asyncio.gather(*flood)
    # The flood's own network had room for half of the places; the rest was told to come again.
    assert outcomes.count(Outcome.TEMPORARY) == 100
    assert outcomes.count(Outcome.BAD_CREDENTIALS) == 100
    assert order.index(BOB) == 1


async def test_a_guessing_network_is_held_and_a_cached_login_of_it_is_not(make: Make) -> None:
    backend = make(workers=1)
    await log_in(backend, BOB, "secret", FLOOD)
    for number in range(4):
        await log_in(backend, BOB, f"wrong{number}", FLOOD)
    held = asyncio.ensure_future(log_in(backend, BOB, "wrong again", FLOOD))
    await settle()
    assert backend.waiting == 1
    assert await log_in(backend, BOB, "secret", FLOOD) == OK_BOB
    assert await log_in(backend, BOB, "wrong", OFFICE) == AuthResult(Outcome.BAD_CREDENTIALS, why="wrong password")
    assert not held.done()
    held.cancel()
    await settle()
    assert backend.waiting == 0


async def test_a_held_attempt_goes_on_when_its_pause_ends(make: Make, clock: Clock) -> None:
    backend = make(penalty=Penalty(free=0, pauses=(SECOND_NS // 100,)))
    await log_in(backend, BOB, "wrong")
    held = asyncio.ensure_future(log_in(backend, BOB, "secret"))
    await settle()
    assert backend.waiting == 1
    clock.now += SECOND_NS // 100
    assert await held == OK_BOB


async def test_who_hangs_up_while_hashing_pays_like_others(make: Make) -> None:
    backend = make(workers=1)
    for number in range(4):
        attempt = asyncio.ensure_future(log_in(backend, BOB, f"wrong{number}", FLOOD))
        while not backend._checks._tasks:
            await asyncio.sleep(0)
        running = set(backend._checks._tasks)
        attempt.cancel()
        await asyncio.wait(running)
        await settle()
    held = asyncio.ensure_future(log_in(backend, BOB, "wrong again", FLOOD))
    await settle()
    assert backend.waiting == 1
    held.cancel()


async def test_a_client_lost_in_line_frees_its_place(make: Make, accounts: Accounts) -> None:
    backend = make(workers=1)
    async with held_threads(backend):
        exchange = backend.start("PLAIN", b"\0bob@example.com\0secret", OFFICE)
        waiting = asyncio.ensure_future(exchange.step(None))
        await settle()
        assert backend.waiting == 1
        exchange.cancel()
        exchange.cancel()
        await settle()
        assert backend.waiting == 0
        assert waiting.cancelled()
    assert accounts.asked == []
    assert await log_in(backend, BOB, "secret") == OK_BOB


async def test_sessions_that_log_in_at_once_with_one_password_need_one_hash(make: Make, accounts: Accounts) -> None:
    backend = make(workers=1, max_waiting=4)
    async with held_threads(backend):
        sessions = [asyncio.ensure_future(log_in(backend, BOB, "secret")) for _ in range(100)]
        await settle()
        assert backend.waiting == 1
        sessions[0].cancel()
    assert await asyncio.gather(*sessions[1:]) == [OK_BOB] * 99
    assert accounts.asked == [BOB, BOB]


async def test_overload_says_try_again_later(make: Make) -> None:
    backend = make(workers=1, max_waiting=2)
    async with held_threads(backend):
        first = asyncio.ensure_future(log_in(backend, BOB, "secret", FLOOD))
        await settle()
        result = await log_in(backend, BOB, "other", FLOOD)
        assert result == AuthResult(Outcome.TEMPORARY, why="too many logins waiting")
        assert isinstance(result, AuthResult)
        assert str(result.reply) == "454 4.7.0 Temporary authentication failure, try again later"
    assert await first == OK_BOB


async def test_a_check_that_breaks_is_temporary_and_blocks_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bool:
        raise MemoryError("46 MiB")

    backend = make(workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(passwords, "_matches", broken)
        result = await log_in(backend, BOB, "secret")
        assert result == AuthResult(Outcome.TEMPORARY, why="could not be checked: MemoryError('46 MiB')")
    assert await log_in(backend, BOB, "secret") == OK_BOB


async def test_closing_answers_whoever_waits(make: Make) -> None:
    backend = make(workers=1)
    async with held_threads(backend):
        waiting = asyncio.ensure_future(log_in(backend, BOB, "secret"))
        await settle()
        backend.close()
        closed = AuthResult(Outcome.TEMPORARY, why="shutting down")
        assert await waiting == closed
        assert await log_in(backend, BOB, "other") == closed


async def test_an_exchange_abandoned_between_its_steps_leaves_nothing_behind(make: Make) -> None:
    backend = make()
    exchange = backend.start("LOGIN", None, OFFICE)
    await exchange.step(None)
    exchange.cancel()
    assert backend.waiting == 0
