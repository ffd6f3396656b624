"""An agent and a collector over HTTPS on loopback: each sample at its own time, once, whatever is away meanwhile."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agentworld import (
    MINUTE,
    NOW_MS,
    Acting,
    Collecting,
    FakeTime,
    Saw,
    Watched,
    acting,
    batch,
    check,
    collecting,
    key,
    roster,
    sample,
    settings,
)

from smartmail.core.months import Span
from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckSpec
from smartmail.core.slots import MINUTE_MS
from smartmail.monitor.agent import read_kept_rosters
from smartmail.monitor.client import Collectors, Identity, Receipt, Unreachable, tls_context
from smartmail.monitor.control import Target
from smartmail.monitor.settings import (
    AgentSettings,
    SettingsError,
    check_collector,
    load_settings,
    write_settings,
    write_whole,
)
from smartmail.monitor.spool import Spool, SpoolError
from smartmail.store import agents

DAY_MS = 86_400_000
TWO = roster(check("imap"), check("pop3"))


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def home(tmp_path: Path) -> AgentSettings:
    return settings(tmp_path / "agent")


@pytest.fixture
async def collector(tmp_path: Path, time: FakeTime) -> AsyncIterator[Collecting]:
    (tmp_path / "collector").mkdir()
    async with collecting(tmp_path / "collector", time=time) as collector:
        yield collector


@pytest.fixture
def watching(collector: Collecting) -> Collecting:
    """With a roster of two checks."""
    collector.put_roster(TWO)
    return collector


@pytest.fixture
def port() -> int:
    """A port on which nothing listens yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sent(running: Acting) -> int:
    return running.agent.sender.counts.samples


async def begun(running: Acting) -> None:
    """Its first check-in is over and it has a roster."""
    await running.until(lambda: bool(running.agent.prober.book.rosters) and running.clock.offset_ms is not None)


async def test_each_sample_arrives_at_its_own_minute(watching: Collecting, time: FakeTime, home: AgentSettings) -> None:
    async with acting(home, watching.client(watching.enrolled()), time) as running:
        await begun(running)
        await time.advance(5 * MINUTE_MS)
        await running.until(lambda: sent(running) >= 10, step_ms=500)
        await running.ended()
    assert {name: minutes[:5] for name, minutes in watching.stored().items()} == {
        "imap": [0, 1, 2, 3, 4],
        "pop3": [0, 1, 2, 3, 4],
    }
    counts = running.agent.sender.counts
    assert (counts.duplicates, counts.quarantined, counts.conflicts, counts.set_aside) == (0, 0, 0, 0)
    assert [line["agent"] for line in running.lines.of("agent_stopped")] == ["london-1"]


async def test_case_25_cut_off_for_weeks_everything_is_handed_in_once_when_a_collector_is_back(
    tmp_path: Path, time: FakeTime, home: AgentSettings, port: int
) -> None:
    (tmp_path / "collector").mkdir()
    async with collecting(tmp_path / "collector", time=time, port=port) as collector:
        collector.put_roster(TWO)
        identity = collector.enrolled()
        client = collector.client(identity)
    async with acting(home, client, time) as running:
        # Nothing to begin with: neither roster nor time nor collector.
        await running.until(lambda: running.agent.counts.failed_check_ins > 0)
        async with collecting(tmp_path / "collector", time=time, port=port):
            await running.until(lambda: bool(running.agent.prober.book.rosters), step_ms=500)
        first = time.true_ms // MINUTE_MS - MINUTE
        for _ in range(3):
            await time.advance(4 * MINUTE_MS)
            await running.until(lambda: not running.agent.prober.running, step_ms=500)
            time.jump(8 * DAY_MS)
        await running.until(lambda: running.agent.counts.spooled >= 22, step_ms=500)
        spooled = running.agent.counts.spooled
        async with collecting(tmp_path / "collector", time=time, port=port) as collector:
            await running.until(lambda: sent(running) >= spooled, step_ms=500)
            stored = collector.stored()
            assert collector.conflicts() == 0
    assert len(stored["imap"]) + len(stored["pop3"]) >= spooled
    assert set(range(first + 1, first + 4)) <= set(stored["imap"])
    assert max(stored["imap"]) > 15 * 1440
    assert running.agent.sender.counts.duplicates == 0
    assert running.agent.counts.lost == 0


@pytest.mark.parametrize("off_ms", [300_000, -300_000])
async def test_case_27_an_agent_five_minutes_off_and_cut_off_at_first_is_put_right(
    tmp_path: Path, home: AgentSettings, port: int, off_ms: int
) -> None:
    time = FakeTime(wall_off_ms=off_ms)
    (tmp_path / "collector").mkdir()
    async with collecting(tmp_path / "collector", time=time, port=port) as collector:
        collector.put_roster(TWO)
        client = collector.client(collector.enrolled())
    body = '{"rosters": [' + json.dumps(TWO.to_json()) + "]}"
    write_whole(home.roster_file, json.dumps({"tag": "t", "body": body}).encode())
    async with acting(home, client, time) as running:
        await running.until(lambda: bool(running.lines.of("roster_taken")))
        await time.advance(3 * MINUTE_MS)
        await running.until(lambda: running.agent.counts.spooled == 6, step_ms=10)
        async with collecting(tmp_path / "collector", time=time, port=port) as collector:
            await running.until(lambda: sent(running) >= 6, step_ms=500)
            stored = collector.stored()
            with collector.database.read() as connection:
                found = agents.find_agent(connection, "london-1")
    assert found is not None
    assert found.offset_ms == -off_ms
    assert set(stored["imap"]) >= {0, 1, 2}
    assert min(*stored["imap"], *stored["pop3"]) == 0
    assert running.agent.sender.counts.quarantined == 0


async def test_it_goes_by_the_roster_it_has_kept_when_no_collector_is_there(
    watching: Collecting, time: FakeTime, home: AgentSettings
) -> None:
    async with acting(home, watching.client(watching.enrolled()), time) as running:
        await begun(running)
    assert read_kept_rosters(home.roster_file) == (TWO,)
    away = Collectors(("https://127.0.0.1:9",), tls_context(None), time.steady_ms, Identity("london-1", key()))
    async with acting(home, away, time) as running:
        await running.until(lambda: running.agent.counts.failed_check_ins > 0)
        await time.advance(2 * MINUTE_MS)
        await running.until(lambda: running.agent.counts.spooled == 4, step_ms=10)
        assert len(running.lines.of("collector_lost")) == 1


async def test_case_09_a_new_roster_reaches_the_agent_before_it_is_in_force(
    watching: Collecting, time: FakeTime, home: AgentSettings
) -> None:
    async with acting(home, watching.client(watching.enrolled()), time) as running:
        await begun(running)
        watching.put_roster(roster(check("smtps"), version=2, from_minute=MINUTE + 3))
        await running.until(lambda: len(running.agent.prober.book.rosters) == 2, step_ms=500)
        assert time.true_ms < NOW_MS + 3 * MINUTE_MS
        await time.advance(NOW_MS + 5 * MINUTE_MS - time.true_ms)
        await running.ended()
        await running.agent.prober.finish(0)
    with Spool(home.folder) as spool:
        left = spool.take(10_000)
    stored = watching.stored()
    for one in left.batch.samples if left else ():
        # What the collector took may still be in the spool: the agent had not heard of it when it ended.
        minute = one.started_ms // MINUTE_MS - MINUTE
        if minute not in (known := stored.setdefault(one.check, [])):
            known.append(minute)
    assert {name: sorted(found) for name, found in stored.items()} == {
        "imap": [0, 1, 2],
        "pop3": [0, 1, 2],
        "smtps": [3, 4],
    }


async def test_case_08_a_location_that_is_cut_off_abstains(
    watching: Collecting, time: FakeTime, tmp_path: Path
) -> None:
    async def cut(host: str, port: int) -> None:
        raise TimeoutError

    async def fails(check: CheckSpec) -> Saw:
        return Saw(Outcome.TIMEOUT, 20_000, "no answer")

    home = settings(tmp_path / "agent", control=(Target("192.0.2.1", 53),))
    async with acting(home, watching.client(watching.enrolled()), time, fails, connect=cut) as running:
        await begun(running)
        await time.advance(MINUTE_MS)
        await running.until(lambda: sent(running) >= 6, step_ms=500)
    planes = watching.store.read_planes(Span(MINUTE, MINUTE + 1))
    assert {name: (plane.up, plane.down, plane.abstain) for (name, _), plane in planes.items()} == {
        "imap": (0, 0, 1),
        "pop3": (0, 0, 1),
        "control": (0, 0, 1),
    }


async def test_a_batch_that_nobody_will_ever_take_does_not_hold_up_the_others(
    collector: Collecting, time: FakeTime, home: AgentSettings
) -> None:
    with Spool(home.folder) as spool:
        spool.add(batch(sample("imap", NOW_MS - 120_000)), "former")
        spool.add(batch(sample("imap", NOW_MS - 60_000), location="paris"), "former")
        spool.add(batch(sample("pop3", NOW_MS - 60_000)), "former")
    async with acting(home, collector.client(collector.enrolled()), time) as running:
        await running.until(lambda: sent(running) == 2, step_ms=500)
        waiting = running.agent.spool.waiting()
    assert (waiting.samples, waiting.aside) == (0, 1)
    assert collector.stored() == {"imap": [-2], "pop3": [-1]}
    assert collector.stored("paris") == {}
    assert [line["samples"] for line in running.lines.of("batch_set_aside")] == [1]


async def test_a_revoked_agent_keeps_its_samples_until_it_is_enrolled_again(
    collector: Collecting, time: FakeTime, home: AgentSettings
) -> None:
    identity = collector.enrolled()
    with Spool(home.folder) as spool:
        spool.add(batch(sample()), "former")
    with collector.database.write() as connection:
        agents.revoke(connection, "london-1", NOW_MS)
    async with acting(home, collector.client(identity), time) as running:
        await running.until(lambda: running.agent.sender.counts.failures > 3, step_ms=500)
        assert running.agent.spool.waiting().samples == 1
    assert collector.batches() == 0
    async with acting(home, collector.client(collector.enrolled()), time) as running:
        await running.until(lambda: sent(running) == 1, step_ms=500)
    assert collector.batches() == 1


async def test_case_25_an_answer_that_is_lost_costs_a_duplicate_not_a_second_sample(
    collector: Collecting, time: FakeTime, home: AgentSettings
) -> None:
    class Losing(Watched):
        lost = 0

        async def post(self, octets: bytes) -> Receipt:
            receipt = await super().post(octets)
            if self.lost < 3:
                self.lost += 1
                raise Unreachable("the answer was lost")
            return receipt

    with Spool(home.folder) as spool:
        spool.add(batch(sample("imap"), sample("pop3")), "former")
    client = Losing((collector.url,), collector.ca, time, collector.enrolled())
    async with acting(home, client, time) as running:
        await running.until(lambda: sent(running) == 2, step_ms=500)
    assert running.agent.sender.counts.duplicates == 2
    assert collector.batches() == 1
    assert collector.conflicts() == 0
    assert [name for name, _ in running.lines.said if name.startswith("collector")] == [
        "collector_lost",
        "collector_back",
    ]


async def test_while_the_disk_takes_nothing_samples_are_kept_and_tried_again(
    watching: Collecting, time: FakeTime, home: AgentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True
    add = Spool.add

    def failing(self: Spool, *arguments: Any) -> int:
        if full:
            raise SpoolError("no space left on device")
        return add(self, *arguments)

    monkeypatch.setattr(Spool, "add", failing)
    async with acting(home, watching.client(watching.enrolled()), time) as running:
        await begun(running)
        await time.advance(2 * MINUTE_MS)
        await running.until(lambda: bool(running.lines.of("spool_failed")), step_ms=10)
        full = False
        await running.until(lambda: sent(running) >= 4, step_ms=500)
    assert set(watching.stored()["imap"]) >= {0, 1}
    assert running.agent.counts.lost == 0


async def test_a_spool_that_cannot_be_read_is_told_and_a_new_one_begun(
    collector: Collecting, time: FakeTime, home: AgentSettings
) -> None:
    (home.folder / "spool.db").write_bytes(b"not a spool" * 1000)
    async with acting(home, collector.client(collector.enrolled()), time) as running:
        await running.until(lambda: running.agent.counts.check_ins > 0)
        assert running.lines.of("spool_broken")[0]["file"].endswith("spool.db.broken-1")


async def test_case_12_probes_that_run_at_the_end_are_waited_for(
    watching: Collecting, time: FakeTime, home: AgentSettings
) -> None:
    release = asyncio.Event()

    async def slow(check: CheckSpec) -> Saw:
        await release.wait()
        return Saw()

    async with acting(home, watching.client(watching.enrolled()), time, slow) as running:
        await begun(running)
        await time.advance(MINUTE_MS)
        assert running.agent.prober.running == 2
        running.stop.set()
        asyncio.get_running_loop().call_soon(release.set)
        await running.task
        assert running.agent.counts.spooled == 2


CHILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from agentworld import FakeTime, Lines, all_well, settings, roster, check
from smartmail.core.slots import RosterBook
from smartmail.monitor.agent import Agent, AgentParts
from smartmail.monitor.client import Collectors, Identity, Unreachable, new_key, tls_context
from smartmail.monitor.clock import CorrectedClock

class Stuck(Collectors):
    async def time(self):
        told = await super().time()
        return told
    async def post(self, octets):
        print("posting", flush=True)
        await asyncio.Event().wait()

async def main():
    time = FakeTime()
    client = Stuck((sys.argv[3],), tls_context(Path(sys.argv[4])), time.steady_ms, Identity("london-1", new_key()[0]))
    agent = Agent(settings(Path(sys.argv[1])), AgentParts(CorrectedClock(time), client, all_well, Lines()))
    agent.prober.book = RosterBook([roster(check("imap"), check("pop3"))], "london")
    running = asyncio.create_task(agent.run(asyncio.Event()))
    while True:
        await time.advance(500)
        await asyncio.sleep(0.001)

asyncio.run(main())
"""


async def test_kill_9_between_the_spool_and_the_post_costs_nothing(
    collector: Collecting, time: FakeTime, home: AgentSettings
) -> None:
    kit = str(Path(__file__).parent.parent / "kit")
    arguments = (str(home.folder), kit, collector.url, str(collector.ca))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    async with asyncio.timeout(60):
        assert await child.stdout.readline() == b"posting\n"
    os.kill(child.pid, 9)
    await child.wait()
    child._transport.close()  # type: ignore[attr-defined]
    assert collector.batches() == 0
    with Spool(home.folder) as spool:
        taken = spool.take(10_000)
    assert taken is not None
    time.jump(taken.batch.made_ms - NOW_MS + MINUTE_MS)
    async with acting(home, collector.client(collector.enrolled()), time) as running:
        await running.until(lambda: sent(running) >= len(taken.batch.samples), step_ms=500)
    stored = collector.stored()
    for one in taken.batch.samples:
        assert stored[one.check].count(one.started_ms // MINUTE_MS - MINUTE) == 1
    assert running.agent.sender.counts.duplicates == 0
    assert collector.conflicts() == 0


# Settings


def test_settings_come_back_from_their_file(tmp_path: Path) -> None:
    wanted = AgentSettings(
        tmp_path,
        "london-1",
        "london",
        ("https://one.example", "https://[2001:db8::1]:8443"),
        Path("ca.pem"),
        control=(Target("192.0.2.1", 53), Target("2001:db8::1", 443)),
    )
    write_settings(wanted)
    found = load_settings(tmp_path)
    assert (found.name, found.location, found.collectors) == (wanted.name, wanted.location, wanted.collectors)
    assert found.control == wanted.control
    assert (found.ca, found.key, found.secrets) == (tmp_path / "ca.pem", tmp_path / "agent.key", tmp_path / "secrets")
    assert (tmp_path / "agent.toml").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name is missing"),
        ("name = 7", "should be a text"),
        ("= what", "Invalid"),
        ('name = "../x"\nlocation = "london"\ncollectors = ["https://a"]', "small letters"),
        ('name = "a"\nlocation = "a/b"\ncollectors = ["https://a"]', "small letters"),
        ('name = "a"\nlocation = "b"\ncollectors = []', "at least one"),
        ('name = "a"\nlocation = "b"\ncollectors = ["http://a"]', "no collector"),
        ('name = "a"\nlocation = "b"\ncollectors = ["https://a"]\ncontrol = ["x"]', "host:port"),
        ('name = "a"\nlocation = "b"\ncollectors = ["https://a"]\nmore = 1', "unknown keys: more"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "agent.toml").write_text(text)
    with pytest.raises(SettingsError, match=says):
        load_settings(tmp_path)


def test_no_settings_at_all(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no agent was enrolled"):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    "url",
    ["", "collector.example", "http://c", "https://", "https://c/path", "https://u:p@c", "https://c:0", "https://c:x"],
)
def test_what_is_no_collectors_address(url: str) -> None:
    with pytest.raises(SettingsError):
        check_collector(url)
