"""The Dovecot backend against a server that says what each test wants; `servers/` has it against a real one."""

import asyncio
import base64
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from smartmail.core.fairness import SECOND_NS, Penalty
from smartmail.relay.auth import AuthResult, Challenge, MechanismNotOfferedError, Outcome, PeerInfo
from smartmail.relay.dovecot import DovecotBackend, DovecotSettings

OFFICE = PeerInfo("192.0.2.7", 40001, "198.51.100.1", 587, session="s1")
OTHER = PeerInfo("203.0.113.9", 40002, "198.51.100.1", 587, session="s2")
BOB = "bob@example.com"
OK_BOB = AuthResult(Outcome.OK, BOB)
PLAIN_BOB = b"\0bob@example.com\0secret"

MECHANISMS = (
    "MECH\tPLAIN\tplaintext",
    "MECH\tLOGIN\tplaintext",
    "MECH\tSCRAM-SHA-256\tmutual-auth",
    "MECH\tXOAUTH2\tplaintext",
)
END = ("SPID\t1", "CUID\t2", "COOKIE\t0123456789abcdef0123456789abcdef", "DONE")


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


class Dovecot:
    """Listens on a socket; takes down each line of its client, says what it is told to say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hello: tuple[str, ...] = ("VERSION\t1\t2", *MECHANISMS, *END)
        self.lines: asyncio.Queue[list[str]] = asyncio.Queue()
        self.clients: asyncio.Queue[int] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=1 << 16)

    async def stop(self) -> None:
        """As a kill does: nobody listens, the connection is gone."""
        if self._server is not None:
            self._server.close()
            await self.drop()
            await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    async def drop(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def say(self, *lines: str, connection: int = -1) -> None:
        self.writers[connection].write("".join(f"{line}\n" for line in lines).encode())

    async def asked(self) -> list[str]:
        """The fields of the client's next line."""
        return await self.lines.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.say(*self.hello)
        with suppress(ConnectionError):
            assert (await reader.readline()).startswith(b"VERSION\t1\t")
            name, _, number = (await reader.readline()).decode().partition("\t")
            assert (name, int(number) > 0) == ("CPID", True)
            self.clients.put_nowait(int(number))
            while line := await reader.readline():
                self.lines.put_nowait(line.decode().rstrip("\n").split("\t"))
        writer.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A socket's path has at most 107 octets; tmp_path may be longer."""
    with tempfile.TemporaryDirectory(prefix="sm-") as name:
        yield Path(name)


@pytest.fixture
async def dovecot(folder: Path) -> AsyncIterator[Dovecot]:
    server = Dovecot(folder / "auth")
    await server.start()
    yield server
    await server.stop()


class Seen:
    """What the backend told of its connection."""

    def __init__(self) -> None:
        self.changes: asyncio.Queue[tuple[bool, str]] = asyncio.Queue()

    def __call__(self, connected: bool, why: str) -> None:
        self.changes.put_nowait((connected, why))

    async def until(self, connected: bool) -> str:
        while True:
            change = await self.changes.get()
            if change[0] is connected:
                return change[1]


Make = Callable[..., DovecotBackend]


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
async def make(dovecot: Dovecot, seen: Seen) -> AsyncIterator[Make]:
    made: list[DovecotBackend] = []

    def make_backend(**settings: object) -> DovecotBackend:
        backend = DovecotBackend(
            str(dovecot.path),
            DovecotSettings(**settings),  # type: ignore[arg-type]
            on_change=seen,
        )
        made.append(backend)
        return backend

    yield make_backend
    for backend in made:
        backend.close()
    # Cancelled tasks end in the next turns of the loop.
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
async def backend(make: Make, seen: Seen) -> DovecotBackend:
    """Connected."""
    made = make()
    made.open()
    await seen.until(connected=True)
    return made


def begin(
    backend: DovecotBackend, mechanism: str, initial: bytes | None, peer: PeerInfo = OFFICE
) -> asyncio.Future[Challenge | AuthResult]:
    return asyncio.ensure_future(backend.start(mechanism, initial, peer).step(None))


async def test_dovecot_is_told_who_the_client_is(backend: DovecotBackend, dovecot: Dovecot) -> None:
    result = begin(backend, "PLAIN", PLAIN_BOB)
    asked = await dovecot.asked()
    assert asked[:3] == ["AUTH", "1", "PLAIN"]
    assert sorted(asked[3:-1]) == [
        "lip=198.51.100.1", "lport=587", "nologin", "rip=192.0.2.7", "rport=40001", "secured",
        "service=smtp", "session=s1",
    ]  # fmt: skip
    # The last one: whatever follows would be taken for a part of it.
    assert asked[-1] == f"resp={b64(PLAIN_BOB)}"
    dovecot.say("OK\t1\tuser=bob@example.com")
    assert await result == OK_BOB


async def test_login_is_asked_of_dovecot_as_plain(backend: DovecotBackend, dovecot: Dovecot) -> None:
    exchange = backend.start("LOGIN", None, OFFICE)
    assert await exchange.step(None) == Challenge(b"Username:")
    assert await exchange.step(BOB.encode()) == Challenge(b"Password:")
    result = asyncio.ensure_future(exchange.step(b"secret"))
    asked = await dovecot.asked()
    assert (asked[2], asked[-1]) == ("PLAIN", f"resp={b64(PLAIN_BOB)}")
    dovecot.say("OK\t1\tuser=Bob@Example.COM")
    assert await result == OK_BOB


async def test_answers_find_their_exchange_in_any_order(backend: DovecotBackend, dovecot: Dovecot) -> None:
    results = [begin(backend, "PLAIN", f"\0user{n}@example.com\0x".encode()) for n in range(3)]
    asked = {(await dovecot.asked())[1] for _ in results}
    assert asked == {"1", "2", "3"}
    dovecot.say("OK\t3\tuser=user2@example.com", "FAIL\t1\tuser=user0@example.com", "OK\t2\tuser=user1@example.com")
    outcomes = [await result for result in results]
    assert [(r.outcome, r.login) for r in outcomes if isinstance(r, AuthResult)] == [
        (Outcome.BAD_CREDENTIALS, ""),
        (Outcome.OK, "user1@example.com"),
        (Outcome.OK, "user2@example.com"),
    ]


async def test_any_mechanism_is_relayed_challenge_by_challenge(backend: DovecotBackend, dovecot: Dovecot) -> None:
    exchange = backend.start("scram-sha-256", b"n,,n=bob,r=abc", OFFICE)
    result = asyncio.ensure_future(exchange.step(None))
    asked = await dovecot.asked()
    assert (asked[2], asked[-1]) == ("SCRAM-SHA-256", f"resp={b64(b'n,,n=bob,r=abc')}")
    dovecot.say(f"CONT\t1\t{b64(b'r=abcdef,s=salt,i=4096')}")
    assert await result == Challenge(b"r=abcdef,s=salt,i=4096")
    result = asyncio.ensure_future(exchange.step(b"c=biws,r=abcdef,p=proof"))
    assert await dovecot.asked() == ["CONT", "1", b64(b"c=biws,r=abcdef,p=proof")]
    dovecot.say(f"CONT\t1\t{b64(b'v=signature')}")
    assert await result == Challenge(b"v=signature")
    result = asyncio.ensure_future(exchange.step(b""))
    assert (await dovecot.asked())[:2] == ["CONT", "1"]
    dovecot.say("OK\t1\tuser=bob@example.com")
    assert await result == OK_BOB
    assert backend.places.total() == 0


async def test_a_token_of_an_auth_line_at_its_limit_passes_whole(backend: DovecotBackend, dovecot: Dovecot) -> None:
    """12,288 octets of base64: RFC 4954 section 4."""
    token = bytes(range(1, 256)) * 36 + b"x" * 36
    assert len(b64(token)) == 12_288
    exchange = backend.start("XOAUTH2", token, OFFICE)
    result = asyncio.ensure_future(exchange.step(None))
    assert (await dovecot.asked())[-1] == f"resp={b64(token)}"
    dovecot.say("CONT\t1\t")
    assert await result == Challenge(b"")
    result = asyncio.ensure_future(exchange.step(token))
    assert await dovecot.asked() == ["CONT", "1", b64(token)]
    dovecot.say("OK\t1\tuser=bob@example.com")
    assert await result == OK_BOB


async def test_dovecot_killed_in_mid_exchange_is_temporary_and_the_next_login_works(
    backend: DovecotBackend, dovecot: Dovecot, seen: Seen
) -> None:
    scram = backend.start("SCRAM-SHA-256", b"n,,n=bob,r=abc", OFFICE)
    first = asyncio.ensure_future(scram.step(None))
    await dovecot.asked()
    dovecot.say(f"CONT\t1\t{b64(b'r=abcdef')}")
    assert isinstance(await first, Challenge)
    plain = begin(backend, "PLAIN", PLAIN_BOB)
    await dovecot.asked()
    await dovecot.stop()
    for result in (await plain, await scram.step(b"c=biws")):
        assert isinstance(result, AuthResult)
        assert result.outcome is Outcome.TEMPORARY
        assert str(result.reply).startswith("454 4.7.0 ")
    assert backend.places.total() == 0
    await dovecot.start()
    await seen.until(connected=True)
    again = begin(backend, "PLAIN", PLAIN_BOB)
    # Ids begin anew: an answer of the old connection could not be mistaken for one of this.
    assert (await dovecot.asked())[1] == "1"
    dovecot.say("OK\t1\tuser=bob@example.com")
    assert await again == OK_BOB


async def test_a_login_waits_for_a_connection_just_lost(backend: DovecotBackend, dovecot: Dovecot, seen: Seen) -> None:
    """Dovecot drops its clients when it reloads: no reason to turn anybody away."""
    await dovecot.drop()
    await seen.until(connected=False)
    result = begin(backend, "PLAIN", PLAIN_BOB)
    await dovecot.asked()
    dovecot.say("OK\t1\tuser=bob@example.com")
    assert await result == OK_BOB


async def test_while_dovecot_is_away_logins_are_answered_at_once(make: Make, dovecot: Dovecot, seen: Seen) -> None:
    await dovecot.stop()
    backend = make()
    assert backend.mechanisms == ("PLAIN", "LOGIN")
    backend.open()
    assert "No such file" in await seen.until(connected=False)
    result = await begin(backend, "PLAIN", PLAIN_BOB)
    assert isinstance(result, AuthResult)
    assert result.outcome is Outcome.TEMPORARY
    assert "No such file" in result.why
    await dovecot.start()
    await seen.until(connected=True)
    assert backend.connected


async def test_an_old_connection_is_replaced_and_ends_after_its_exchanges(make: Make, dovecot: Dovecot) -> None:
    """A process that Dovecot replaced by a reload would else serve us for ever, with what it knew then."""
    backend = make(link_seconds=0.05)
    exchange = backend.start("PLAIN", None, OFFICE)
    result = begin(backend, "PLAIN", PLAIN_BOB)
    assert (await dovecot.asked())[0] == "AUTH"
    first, second = await dovecot.clients.get(), await dovecot.clients.get()
    assert first != second
    assert not dovecot.writers[0].is_closing()
    dovecot.say("OK\t1\tuser=bob@example.com", connection=0)
    assert await result == OK_BOB
    await dovecot.writers[0].wait_closed()
    assert backend.connected
    assert exchange.answer(PLAIN_BOB) == OK_BOB


async def test_each_connection_introduces_itself_with_another_number(
    backend: DovecotBackend, dovecot: Dovecot, seen: Seen
) -> None:
    """Dovecot refuses a second client with the number of one that it still knows."""
    first = await dovecot.clients.get()
    await dovecot.drop()
    await seen.until(connected=False)
    assert await dovecot.clients.get() != first


@pytest.mark.parametrize(
    "hello",
    [
        ("VERSION\t2\t0", *MECHANISMS, *END),
        (*MECHANISMS, *END),
        ("HTTP/1.1 400 Bad Request",),
        ("VERSION\tone\ttwo",),
        ("x" * 100_000,),
        ("",),
        ("VERSION\t1\t2", "OK\tx\tuser=bob@example.com"),
    ],
)
async def test_a_peer_that_is_no_dovecot_lets_nobody_in(
    make: Make, dovecot: Dovecot, seen: Seen, hello: tuple[str, ...]
) -> None:
    dovecot.hello = hello
    backend = make(connect_seconds=0.5)
    backend.open()
    await seen.until(connected=False)
    result = await begin(backend, "PLAIN", PLAIN_BOB)
    assert isinstance(result, AuthResult)
    assert result.outcome is Outcome.TEMPORARY


async def test_nonsense_in_mid_connection_ends_it(backend: DovecotBackend, dovecot: Dovecot, seen: Seen) -> None:
    result = begin(backend, "PLAIN", PLAIN_BOB)
    await dovecot.asked()
    dovecot.say("OK\t1", "\0\0\0", "OK\t1\tuser=root@example.com")
    answer = await result
    assert isinstance(answer, AuthResult)
    assert (answer.outcome, answer.login) == (Outcome.TEMPORARY, "")
    await seen.until(connected=False)


async def test_no_answer_in_time_is_temporary_and_tells_dovecot(make: Make, dovecot: Dovecot, seen: Seen) -> None:
    backend = make(request_seconds=0.05)
    backend.open()
    await seen.until(connected=True)
    result = await begin(backend, "PLAIN", PLAIN_BOB)
    assert result == AuthResult(Outcome.TEMPORARY, why="Dovecot does not answer")
    assert (await dovecot.asked())[:2] == ["AUTH", "1"]
    assert await dovecot.asked() == ["CANCEL", "1"]


async def test_a_late_answer_is_nobody_elses(backend: DovecotBackend, dovecot: Dovecot) -> None:
    given_up = begin(backend, "SCRAM-SHA-256", b"n,,n=mallory,r=abc")
    await dovecot.asked()
    given_up.cancel()
    assert await dovecot.asked() == ["CANCEL", "1"]
    result = begin(backend, "PLAIN", PLAIN_BOB)
    await dovecot.asked()
    dovecot.say("OK\t1\tuser=mallory@example.com", "OK\t2\tuser=bob@example.com")
    assert await result == OK_BOB


async def test_a_client_lost_in_mid_exchange_is_told_to_dovecot(backend: DovecotBackend, dovecot: Dovecot) -> None:
    exchange = backend.start("SCRAM-SHA-256", b"n,,n=bob,r=abc", OFFICE)
    waiting = asyncio.ensure_future(exchange.step(None))
    await dovecot.asked()
    assert backend.places.total() == 1
    exchange.cancel()
    exchange.cancel()
    assert await dovecot.asked() == ["CANCEL", "1"]
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert backend.places.total() == 0
    between = backend.start("SCRAM-SHA-256", b"n,,n=bob,r=abc", OFFICE)
    result = asyncio.ensure_future(between.step(None))
    await dovecot.asked()
    dovecot.say("CONT\t2\t")
    await result
    between.cancel()
    assert await dovecot.asked() == ["CANCEL", "2"]
    assert backend.places.total() == 0


async def test_a_task_cancelled_in_mid_exchange_frees_its_place(backend: DovecotBackend, dovecot: Dovecot) -> None:
    waiting = begin(backend, "SCRAM-SHA-256", b"n,,n=bob,r=abc")
    await dovecot.asked()
    waiting.cancel()
    assert await dovecot.asked() == ["CANCEL", "1"]
    assert backend.places.total() == 0


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("FAIL\t1\tuser=bob@example.com", Outcome.BAD_CREDENTIALS),
        ("FAIL\t1", Outcome.BAD_CREDENTIALS),
        ("FAIL\t1\tuser=bob@example.com\tauthz", Outcome.BAD_CREDENTIALS),
        ("FAIL\t1\tuser=bob@example.com\tuser_disabled", Outcome.BAD_CREDENTIALS),
        ("FAIL\t1\tuser=bob@example.com\tcode=pass_expired\treason=expired", Outcome.BAD_CREDENTIALS),
        ("FAIL\t1\tuser=bob@example.com\ttemp", Outcome.TEMPORARY),
        ("FAIL\t1\tuser=bob@example.com\tcode=temp_fail", Outcome.TEMPORARY),
        ("OK\t1", Outcome.TEMPORARY),
        ("OK\t1\tuser=", Outcome.TEMPORARY),
        ("CONT\t1\t", Outcome.TEMPORARY),
    ],
)
async def test_what_dovecot_says_and_what_comes_of_it(
    backend: DovecotBackend, dovecot: Dovecot, answer: str, outcome: Outcome
) -> None:
    result = begin(backend, "PLAIN", PLAIN_BOB)
    await dovecot.asked()
    dovecot.say(answer)
    said = await result
    assert isinstance(said, AuthResult)
    assert (said.outcome, said.login) == (outcome, "")
    assert backend.cached(BOB, "secret") is None


async def test_mechanisms_are_dovecots_but_for_the_dangerous_ones(make: Make, dovecot: Dovecot, seen: Seen) -> None:
    dovecot.hello = (
        "VERSION\t1\t3",
        "MECH\tSCRAM-SHA-256\tmutual-auth",
        "MECH\tPLAIN\tplaintext",
        "MECH\tANONYMOUS\tanonymous",
        "MECH\tEXTERNAL\tprivate",
        "MECH\tSCRAM-SHA-256-PLUS\tmutual-auth",
        "MECH\tDOVECOT-TOKEN\tprivate",
        "MECH\tXOAUTH2\tplaintext",
        *END,
    )
    backend = make()
    backend.open()
    await seen.until(connected=True)
    assert backend.mechanisms == ("SCRAM-SHA-256", "PLAIN", "XOAUTH2")
    assert backend.offered(secured=False) == ("SCRAM-SHA-256",)
    for name in ("ANONYMOUS", "EXTERNAL", "SCRAM-SHA-256-PLUS", "LOGIN"):
        with pytest.raises(MechanismNotOfferedError):
            backend.start(name, None, OFFICE)
    with pytest.raises(MechanismNotOfferedError):
        backend.start("PLAIN", None, PeerInfo("192.0.2.7", secured=False))


async def test_anonymous_is_offered_only_if_configured(make: Make, dovecot: Dovecot, seen: Seen) -> None:
    dovecot.hello = ("VERSION\t1\t2", "MECH\tANONYMOUS\tanonymous", *END)
    backend = make(allow_anonymous=True)
    backend.open()
    await seen.until(connected=True)
    assert backend.mechanisms == ("ANONYMOUS",)


async def test_a_dovecot_without_plain_gets_login_relayed(make: Make, dovecot: Dovecot, seen: Seen) -> None:
    dovecot.hello = ("VERSION\t1\t2", "MECH\tLOGIN\tplaintext", *END)
    backend = make()
    backend.open()
    await seen.until(connected=True)
    exchange = backend.start("LOGIN", None, OFFICE)
    result = asyncio.ensure_future(exchange.step(None))
    assert (await dovecot.asked())[2] == "LOGIN"
    dovecot.say(f"CONT\t1\t{b64(b'Username:')}")
    assert await result == Challenge(b"Username:")


async def test_a_verified_login_is_cached_until_it_changes(backend: DovecotBackend, dovecot: Dovecot) -> None:
    result = begin(backend, "PLAIN", PLAIN_BOB)
    await dovecot.asked()
    dovecot.say("OK\t1\tuser=bob@example.com")
    await result
    assert backend.start("PLAIN", PLAIN_BOB, OTHER).answer(None) == OK_BOB
    assert backend.cached(BOB, "wrong") is None
    backend.forget(frozenset({BOB}))
    assert backend.cached(BOB, "secret") is None


async def test_a_login_that_changes_while_dovecot_thinks_is_not_cached(
    backend: DovecotBackend, dovecot: Dovecot
) -> None:
    result = begin(backend, "PLAIN", PLAIN_BOB)
    await dovecot.asked()
    backend.forget(frozenset({BOB}))
    dovecot.say("OK\t1\tuser=bob@example.com")
    assert await result == OK_BOB
    assert backend.cached(BOB, "secret") is None


@pytest.mark.parametrize(
    "token",
    [
        b"\0bob@example.com\tuser=root\0secret",
        b"\0bob@example.com\n\0secret",
        b"\0bob@example.com\0sec\0ret",
        b"alice@example.com\0bob@example.com\0secret",
    ],
)
async def test_credentials_out_of_grammar_never_reach_dovecot(
    backend: DovecotBackend, dovecot: Dovecot, token: bytes
) -> None:
    result = await begin(backend, "PLAIN", token)
    assert isinstance(result, AuthResult)
    assert result.outcome is Outcome.BAD_CREDENTIALS
    assert dovecot.lines.empty()


async def test_a_flood_of_wrong_passwords_leaves_dovecot_to_the_others(make: Make, dovecot: Dovecot) -> None:
    backend = make(penalty=Penalty(free=0, pauses=(15 * SECOND_NS,)))
    wrong = begin(backend, "PLAIN", b"\0bob@example.com\0wrong", OTHER)
    await dovecot.asked()
    dovecot.say("FAIL\t1\tuser=bob@example.com")
    await wrong
    flood = [begin(backend, "PLAIN", f"\0bob@example.com\0guess{n}".encode(), OTHER) for n in range(50)]
    right = begin(backend, "PLAIN", PLAIN_BOB, OFFICE)
    assert (await dovecot.asked())[-1] == f"resp={b64(PLAIN_BOB)}"
    dovecot.say("OK\t2\tuser=bob@example.com")
    assert await right == OK_BOB
    assert dovecot.lines.empty()
    # Two can wait for their turn within patience; the rest was turned away.
    refused = [attempt.result() for attempt in flood if attempt.done()]
    assert refused == [AuthResult(Outcome.TEMPORARY, why="too many logins waiting")] * 48
    for attempt in flood:
        attempt.cancel()


async def test_open_exchanges_of_one_network_leave_room_for_others(make: Make, dovecot: Dovecot, seen: Seen) -> None:
    backend = make(max_waiting=4)
    backend.open()
    await seen.until(connected=True)
    flood = [begin(backend, "SCRAM-SHA-256", b"n,,n=bob,r=abc", OTHER) for _ in range(3)]
    assert await flood[2] == AuthResult(Outcome.TEMPORARY, why="too many logins waiting")
    await dovecot.asked()
    await dovecot.asked()
    office = begin(backend, "SCRAM-SHA-256", b"n,,n=bob,r=abc", OFFICE)
    assert "rip=192.0.2.7" in await dovecot.asked()
    for attempt in (*flood, office):
        attempt.cancel()


async def test_closing_answers_whoever_waits(backend: DovecotBackend, dovecot: Dovecot) -> None:
    result = begin(backend, "PLAIN", PLAIN_BOB)
    await dovecot.asked()
    backend.close()
    assert await result == AuthResult(Outcome.TEMPORARY, why="shutting down")
