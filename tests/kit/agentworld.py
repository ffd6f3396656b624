"""A collector over HTTPS on a real socket with a real store, agents with tiny probes, and a time that tests move."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from smartmail.core.months import Span
from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind, CheckSpec, Roster
from smartmail.core.sample import Batch, Sample
from smartmail.core.signing import token_digest
from smartmail.monitor.agent import Agent, AgentParts
from smartmail.monitor.client import Collectors, Identity, new_key, tls_context
from smartmail.monitor.clock import CorrectedClock
from smartmail.monitor.settings import AgentSettings
from smartmail.store import agents
from smartmail.store.database import Database
from smartmail.store.samples import SampleStore
from smartmail.web.certificate import self_made, server_context
from smartmail.web.collector import CollectorState, collector_app
from smartmail.web.serving import WebServer

NOW_MS = 1_790_000_040_000
"""The start of a minute in September 2026."""
MINUTE = NOW_MS // 60_000


class FakeTime:
    """Stands still until `advance` moves it; then whoever sleeps is woken in order."""

    def __init__(self, now_ms: int = NOW_MS, *, wall_off_ms: int = 0) -> None:
        """wall_off_ms: how far the wall clock is ahead of the true time."""
        self.true_ms = now_ms
        self.wall_off_ms = wall_off_ms
        self.busy = 0
        """Requests under way: time stands still for them, else they would take minutes."""
        self._start = now_ms
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def wall_ms(self) -> int:
        return self.true_ms + self.wall_off_ms

    def steady_ms(self) -> int:
        return 5_000 + self.true_ms - self._start

    async def sleep_ms(self, milliseconds: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self.true_ms + max(milliseconds, 1), self._count, future))
        await future

    async def advance(self, milliseconds: int) -> None:
        """Let this much time go by, as fast as the sleepers do their work."""
        end = self.true_ms + milliseconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            while self.busy:
                await asyncio.sleep(0.001)
            at, _, future = heapq.heappop(self._sleepers)
            self.true_ms = max(self.true_ms, at)
            if not future.done():
                future.set_result(None)
                await settle()
        while self.busy:
            await asyncio.sleep(0.001)
        self.true_ms = end
        await settle()

    def jump(self, milliseconds: int) -> None:
        """The machine was suspended: time went by, and nobody ran."""
        self.true_ms += milliseconds


class Watched(Collectors):
    """Collectors for whose answers time stands still."""

    def __init__(self, urls: Sequence[str], ca: Path, time: FakeTime, identity: Identity | None = None) -> None:
        super().__init__(urls, tls_context(ca), time.steady_ms, identity)
        self._time = time

    async def _ask(self, *arguments: Any) -> Any:
        self._time.busy += 1
        try:
            return await super()._ask(*arguments)
        finally:
            self._time.busy -= 1


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(12):
        await asyncio.sleep(0)


@dataclass
class Lines:
    """A log that keeps its lines, as (event, fields)."""

    said: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    def __getattr__(self, event: str) -> Callable[..., None]:
        if event.startswith("_"):
            raise AttributeError(event)

        def say(**fields: object) -> None:
            self.said.append((event, fields))

        return say

    def of(self, event: str) -> list[Mapping[str, Any]]:
        """The fields of each line of this event."""
        return [fields for name, fields in self.said if name == event]


def check(name: str, *locations: str, kind: CheckKind = CheckKind.TCP) -> CheckSpec:
    return CheckSpec(name, "cluster-a", kind, "127.0.0.1", 1, locations or ("london",))


def roster(*checks: CheckSpec, version: int = 1, from_minute: int = MINUTE - 10) -> Roster:
    where = sorted({one for each in checks for one in each.locations} | {"london", "paris"})
    return Roster(version, from_minute, tuple(where), checks)


@dataclass
class Collecting:
    """A running collector. now_ms: its clock, true time unless a test sets `time`."""

    folder: Path
    database: Database
    store: SampleStore
    state: CollectorState
    app: FastAPI
    server: WebServer
    time: FakeTime
    lines: Lines

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.port}"

    @property
    def ca(self) -> Path:
        return self.folder / "collector.crt"

    def token(self, location: str = "london", *, life_ms: int = 3_600_000) -> str:
        text = f"{location}.{token_hex(16)}"
        now_ms = self.time.true_ms
        with self.database.write() as connection:
            agents.add_token(
                connection, token_digest(text), location, made_by="anna", made_ms=now_ms, expires_ms=now_ms + life_ms
            )
        return text

    def enrolled(self, name: str = "london-1", location: str = "london") -> Identity:
        """An agent that the collector knows."""
        key, _, public_key = new_key()
        token = self.token(location)
        with self.database.write() as connection:
            asked = agents.Enrolment(token_digest(token), name, location, public_key)
            agents.enrol(connection, asked, self.time.true_ms)
        return Identity(name, key)

    def put_roster(self, one: Roster) -> None:
        with self.database.write() as connection:
            agents.add_roster(connection, one)

    def client(self, identity: Identity | None, *before: str) -> Collectors:
        """What an agent speaks through; `before`: collectors tried before this one."""
        return Watched((*before, self.url), self.ca, self.time, identity)

    def stored(self, location: str = "london") -> dict[str, list[int]]:
        """The minutes of each check of a location for which there is a sample, relative to MINUTE."""
        planes = self.store.read_planes(Span(MINUTE - 50_000, MINUTE + 50_000))
        found: dict[str, list[int]] = {}
        for (name, where), plane in planes.items():
            if where == location:
                bits = plane.up | plane.down | plane.abstain | plane.error
                found[name] = [i - 50_000 for i in range(bits.bit_length()) if bits >> i & 1]
        return found

    def conflicts(self) -> int:
        with self.database.read() as connection:
            return connection.exec_driver_sql("SELECT count(*) FROM sample_conflict").scalar_one()

    def batches(self) -> int:
        """Rows of the journal."""
        with self.database.read() as connection:
            return connection.exec_driver_sql("SELECT count(*) FROM sample_batch").scalar_one()


@asynccontextmanager
async def collecting(folder: Path, *, time: FakeTime | None = None, port: int = 0) -> AsyncIterator[Collecting]:
    """A collector on a free port of loopback, its database in `folder` (used again if it is there)."""
    time = time or FakeTime()
    lines = Lines()
    url = f"sqlite:///{folder / 'smartmail.db'}"
    with Database(url) as database:
        database.upgrade()
        store = SampleStore(url)
        store.start()
        state = CollectorState(database, store, lambda: time.true_ms, lines)
        app = collector_app(state)
        server = WebServer(app, server_context(self_made(folder, "127.0.0.1")))
        await server.start("127.0.0.1", port)
        try:
            yield Collecting(folder, database, store, state, app, server, time, lines)
        finally:
            await server.stop()
            store.stop()


@dataclass(frozen=True)
class Saw:
    """What a tiny probe gives back."""

    outcome: Outcome = Outcome.OK
    latency_ms: int = 7
    detail: str = ""


Probe = Callable[[CheckSpec], Awaitable[Saw]]


async def all_well(check: CheckSpec) -> Saw:
    """A probe that finds everything well."""
    return Saw()


@dataclass
class Acting:
    """A running agent."""

    agent: Agent
    time: FakeTime
    clock: CorrectedClock
    lines: Lines
    stop: asyncio.Event
    task: "asyncio.Task[None]"

    async def until(self, reached: Callable[[], bool], *, step_ms: int = 0) -> None:
        """Wait for what real sockets and threads bring; with a step, time goes by meanwhile."""
        async with asyncio.timeout(30):
            while not reached():
                if self.task.done():
                    await self.task
                if step_ms:
                    await self.time.advance(step_ms)
                await asyncio.sleep(0.002)

    async def ended(self) -> None:
        """Stop it as SIGTERM does."""
        self.stop.set()
        await self.task


@asynccontextmanager
async def acting(
    settings: AgentSettings, collectors: Collectors, time: FakeTime, probe: Probe = all_well, **parts: Any
) -> AsyncIterator[Acting]:
    """An agent at work in the folder of its settings."""
    clock = CorrectedClock(time)
    lines = Lines()
    agent = Agent(settings, AgentParts(clock, collectors, probe, lines, **parts))
    stop = asyncio.Event()
    task = asyncio.create_task(agent.run(stop))
    running = Acting(agent, time, clock, lines, stop, task)
    try:
        yield running
    finally:
        stop.set()
        try:
            await task
        finally:
            await collectors.close()


def settings(folder: Path, url: str = "https://127.0.0.1:1", **fields: Any) -> AgentSettings:
    folder.mkdir(exist_ok=True)
    return AgentSettings(folder, fields.pop("name", "london-1"), fields.pop("location", "london"), (url,), **fields)


def batch(*samples: Sample, agent: str = "london-1", location: str = "london", **fields: Any) -> Batch:
    return Batch(
        agent, location, fields.get("sequence", 1), fields.get("made_ms", NOW_MS), fields.get("offset_ms", 0), samples
    )


def sample(check: str = "imap", at_ms: int = NOW_MS, outcome: Outcome = Outcome.OK, latency_ms: int = 7) -> Sample:
    return Sample(check, at_ms, outcome, latency_ms)


def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()
