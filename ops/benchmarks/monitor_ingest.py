"""Samples into the store, from agents that have 10,000 checks each. Each step has one JSON line on stdout.

post URL CA STORE ROUNDS BATCHES   signed batches over HTTPS; STORE: the collector's database, for tokens
store FOLDER ROUNDS BATCHES        the store alone, without HTTP: decoding, journal, sealing
"""

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.monitor_data import crowd
from benchmarks.monitor_months import answer, settle, url_of
from smartmail.core.sample import Batch, decode_batch, encode_batch
from smartmail.core.signing import token_digest
from smartmail.monitor.client import Collectors, Identity, new_key, tls_context
from smartmail.monitor.clock import SystemTime
from smartmail.store import agents
from smartmail.store.database import Database
from smartmail.store.samples import SampleStore

AGENTS = 2
"""At once, each with one batch under way: as agents do."""
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Handing:
    """One agent at work. first_minute: of what it hands in, POSIX."""

    name: str
    location: str
    collectors: Collectors
    first_minute: int

    def batches(self, first: int, count: int) -> list[bytes]:
        """Written beforehand: writing them is the agent's work."""
        return [encode_batch(_batch(self.name, self.location, self.first_minute, first + n)) for n in range(count)]

    async def post(self, batches: list[bytes]) -> int:
        """One after the other, as an agent does; how many samples were taken as new."""
        return sum([(await self.collectors.post(octets)).accepted for octets in batches])


def _batch(agent: str, location: str, first_minute: int, number: int) -> Batch:
    return crowd(agent, location, first_minute + number // 2, number % 2)


def _yesterday() -> int:
    """Its first minute."""
    return (int(time.time() * 1000) // DAY_MS - 1) * 1440


async def _enrolled(url: str, ca: Path, store_url: str, number: int) -> Handing:
    name, location, token = f"agent-{number}", f"place-{number}", f"token-of-agent-{number}"
    now = int(time.time() * 1000)
    with Database(store_url) as database, database.write() as connection:
        agents.add_token(connection, token_digest(token), location, made_by="b", made_ms=now, expires_ms=now + 600_000)
    key, _, public = new_key()
    steady = SystemTime().steady_ms
    collectors = Collectors([url], tls_context(ca), steady, Identity(name, key))
    await collectors.enrol(token, name, location, public)
    return Handing(name, location, collectors, _yesterday())


async def post(where: tuple[str, Path, str], rounds: int, count: int) -> None:
    """A first round of the first minute alone, when the collector knows nothing yet, then the rounds that count."""
    handing = [await _enrolled(*where, number) for number in range(AGENTS)]
    first, found = 0, []
    for size in (2, *[count] * rounds):
        prepared = [agent.batches(first, size) for agent in handing]
        began = time.perf_counter()
        taken = await asyncio.gather(*(agent.post(one) for agent, one in zip(handing, prepared, strict=True)))
        seconds = time.perf_counter() - began
        octets = sum(len(one) for batches in prepared for one in batches)
        found.append({"samples": sum(taken), "sent": size * 5000 * AGENTS, "seconds": seconds, "octets": octets})
        first += size
    for agent in handing:
        await agent.collectors.close()
    answer(rounds=found)


def store(folder: Path, rounds: int, count: int) -> None:
    """What of it is the store's: decoding, then the writer, who has all batches before him; then one sealing."""
    file = folder / "ingest-store.db"
    with Database(url_of(file)) as database:
        database.upgrade()
    samples = SampleStore(url_of(file))
    samples.start()
    first_minute, first, octets, found = _yesterday(), 0, 0, []
    for size in (2, *[count] * rounds):
        written = [encode_batch(_batch("agent-0", "place-0", first_minute, first + n)) for n in range(size)]
        began = time.perf_counter()
        batches = [decode_batch(one) for one in written]
        decoding = time.perf_counter() - began
        began = time.perf_counter()
        now = int(time.time() * 1000)
        waiting = [samples.put(one, batch, now) for one, batch in zip(written, batches, strict=True)]
        taken = sum(future.result(60).accepted for future in waiting)
        storing = time.perf_counter() - began
        found.append({"samples": taken, "sent": size * 5000, "decode_s": decoding, "seconds": storing})
        first, octets = first + size, octets + sum(map(len, written))
    samples.stop()
    began = time.perf_counter()
    samples.seal()
    sealing = time.perf_counter() - began
    used = settle(file)
    answer(rounds=found, seal_s=sealing, journal_octets=octets, database_octets=used)


def main(words: list[str]) -> None:
    """Run the step named by the first word."""
    if words[0] == "store":
        store(Path(words[1]), int(words[2]), int(words[3]))
    else:
        asyncio.run(post((words[1], Path(words[2]), words[3]), int(words[4]), int(words[5])))


if __name__ == "__main__":
    main(sys.argv[1:])
