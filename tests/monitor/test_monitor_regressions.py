"""Faults that were found in the monitor by reading it as an adversary would, each by what it must do instead."""

import asyncio
import errno
import json
import os
import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agentworld import (
    NOW_MS,
    FakeTime,
    Watched,
    acting,
    batch,
    check,
    collecting,
    roster,
    sample,
    settings,
)
from probe_peers import DIALOGS, Authority, Pair, Step, check_of, context_of, dialog, peer
from test_probe_dns import NameServer, serving
from test_slots_run import World
from test_slots_run import running as probing

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind, RosterError, roster_from_json
from smartmail.core.slots import MINUTE_MS, slot_ms
from smartmail.monitor import client as client_module
from smartmail.monitor.client import Collectors, Unreachable, tls_context
from smartmail.monitor.probes import SecretSource, TlsRoots, make_context, probe
from smartmail.monitor.probes import resolver as resolver_module
from smartmail.monitor.probes.resolver import NoNameserverError, ResolveError, Resolver
from smartmail.monitor.settings import AgentSettings, write_whole
from smartmail.monitor.spool import KEPT_MS, Spool, SpoolError

DAY_MS = 86_400_000
TWO = roster(check("imap"), check("pop3"))


@pytest.fixture
def home(tmp_path: Path) -> AgentSettings:
    return settings(tmp_path / "agent")


# The spool


def test_an_entry_that_a_wrong_clock_dated_takes_no_others_along(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.add(batch(sample(), made_ms=NOW_MS), "run")
        spool.add(batch(sample(at_ms=60_000), made_ms=60_000, offset_ms=None), "without a battery")
        spool.add(batch(sample(at_ms=60_000), made_ms=60_000), "old")
        spool.add(batch(sample(at_ms=NOW_MS + 60_000), made_ms=NOW_MS + 60_000), "run")
        assert spool.prune(NOW_MS + DAY_MS) == 1
        assert spool.waiting().samples == 3
        assert spool.prune(NOW_MS + KEPT_MS + DAY_MS) == 2
        assert spool.unstamped() == ["without a battery"]


# The agent


@pytest.fixture
def port() -> int:
    """A port on which nothing listens yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def restarted(home: AgentSettings, port: int, off_ms: int, boots: tuple[str, str]) -> dict[str, list[int]]:
    """An agent whose clock is off ends without a word from any collector; another in its place reaches one. What is
    stored in the end. boots: the start of the machine that each of them runs in."""
    time, folder = FakeTime(wall_off_ms=off_ms), home.folder / "collector"
    folder.mkdir()
    async with collecting(folder, time=time, port=port) as collector:
        collector.put_roster(TWO)
        identity = collector.enrolled()
        clients = [collector.client(identity) for _ in boots]
    body = '{"rosters": [' + json.dumps(TWO.to_json()) + "]}"
    write_whole(home.roster_file, json.dumps({"tag": "t", "body": body}).encode())
    async with acting(home, clients[0], time, boot=boots[0]) as running:
        await running.until(lambda: bool(running.lines.of("roster_taken")))
        await time.advance(3 * MINUTE_MS)
        await running.until(lambda: running.agent.counts.spooled == 6, step_ms=10)
    time.wall_off_ms = 0  # the machine's own time service is there at last
    async with (
        collecting(folder, time=time, port=port) as collector,
        acting(home, clients[1], time, boot=boots[1]) as running,
    ):
        await running.until(lambda: running.agent.sender.counts.samples >= 6, step_ms=500)
        return collector.stored()


@pytest.mark.parametrize("off_ms", [300_000, -300_000])
async def test_case_27_what_was_seen_before_a_restart_and_before_any_answer_is_put_right_too(
    home: AgentSettings, port: int, off_ms: int
) -> None:
    stored = await restarted(home, port, off_ms, ("a", "a"))
    assert stored["imap"][:3] == [0, 1, 2]
    assert stored["pop3"][:3] == [0, 1, 2]


async def test_case_27_what_was_seen_before_the_machine_was_started_anew_stays_as_it_was_told(
    home: AgentSettings, port: int
) -> None:
    stored = await restarted(home, port, -300_000, ("a", "b"))
    assert stored["imap"][:3] == [-5, -4, -3]


async def test_a_full_disk_is_told_once_and_not_each_second(
    tmp_path: Path, home: AgentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = FakeTime()

    def full(*_: object) -> int:
        raise SpoolError("no space left on device")

    async with collecting(tmp_path, time=time) as collector:
        collector.put_roster(TWO)
        async with acting(home, collector.client(collector.enrolled()), time) as running:
            await running.until(lambda: bool(running.agent.prober.book.rosters))
            with monkeypatch.context() as failing:
                failing.setattr(Spool, "add", full)
                await time.advance(2 * MINUTE_MS)
                assert len(running.lines.of("spool_failed")) == 1
            await running.until(lambda: running.agent.sender.counts.samples >= 4, step_ms=500)


async def test_samples_that_nobody_can_write_do_not_end_the_agent(
    tmp_path: Path, home: AgentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = FakeTime()
    async with collecting(tmp_path, time=time) as collector:
        collector.put_roster(TWO)
        async with acting(home, collector.client(collector.enrolled()), time) as running:
            await running.until(lambda: bool(running.agent.prober.book.rosters))
            with monkeypatch.context() as wrong:
                wrong.setattr(running.clock, "at", lambda steady_ms: -steady_ms)
                await time.advance(MINUTE_MS)
                await running.until(lambda: running.agent.counts.lost == 2, step_ms=500)
            await running.until(lambda: running.agent.sender.counts.samples >= 2, step_ms=500)
    assert sum(line["samples"] for line in running.lines.of("samples_lost")) == 2


async def test_case_27_a_clock_set_back_a_little_begins_no_slot_twice() -> None:
    world = World(check("imap"))
    clock = world.prober._clock
    place = slot_ms("imap", "london")
    async with probing(world):
        await world.time.advance(place + 5_000)
        now = clock.steady_ms()
        assert clock.learn(now, clock.now_ms() - 20_000, now) is not None
        await world.time.advance(50_000)
        assert len(world.began) == 1
        await world.time.advance(MINUTE_MS)
        assert len(world.began) == 2


# What a collector says


class Answering(Watched):
    """Every question gets this answer."""

    def __init__(self, answer: bytes) -> None:
        Collectors.__init__(self, ("https://collector.test",), ssl.create_default_context(), lambda: 0)
        self._answer = client_module._Answer("https://collector.test", 200, "", answer)

    async def _ask(self, *_: Any) -> Any:
        return self._answer


@pytest.mark.parametrize("now_ms", [0, -1, 86_400_000, 10**18])
async def test_a_collector_whose_clock_was_never_set_teaches_no_time(now_ms: int) -> None:
    async with Answering(b'{"now_ms": %d}' % now_ms) as client:
        with pytest.raises(Unreachable, match="its clock is not set"):
            await client.time()


async def test_an_answer_that_drips_for_ever_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "WHOLE_SECONDS", 0.2)
    async with collecting(tmp_path) as collector:
        held = asyncio.Event()

        async def never(*_: object) -> None:
            await held.wait()

        monkeypatch.setattr(client_module, "_bounded", never)
        async with Collectors((collector.url,), tls_context(collector.ca), lambda: 0) as client:
            with pytest.raises(Unreachable, match="TimeoutError"):
                await client.time()


def test_a_number_without_end_is_no_roster() -> None:
    value = json.loads('{"version": Infinity, "from_minute": 0, "locations": [], "checks": []}')
    with pytest.raises(RosterError):
        roster_from_json(value)


# Faults of this host are no votes


async def test_without_a_file_handle_a_lookup_is_our_fault_and_not_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_datagram_endpoint", fails)
    context = make_context(SecretSource(None), nameserver="127.0.0.1:9")
    seen = await probe(check_of(CheckKind.TCP, 25, "mail.example.com"), context)
    assert (seen.outcome, seen.detail) == (Outcome.MONITOR_ERROR, "OSError EMFILE at DNS")


def systems(server: NameServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """As if the system's configuration named this server."""
    file = folder / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\n")
    monkeypatch.setattr(resolver_module, "_CONFIGURATION", file)
    resolver = Resolver()
    resolver._resolver("").port = server.port
    return resolver


async def test_a_resolver_of_this_host_that_is_dead_is_our_fault_and_not_the_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        server.silent = {"A", "AAAA", "NS"}
        resolver = systems(server, tmp_path, monkeypatch)
        with pytest.raises(NoNameserverError):
            await resolver.addresses("mx1.example.com", seconds=0.3)
        context = make_context(SecretSource(None))
        object.__setattr__(context, "resolver", resolver)
        seen = await probe(check_of(CheckKind.TCP, 25, "mx1.example.com", timeout_ms="2000"), context)
    assert (seen.outcome, seen.detail) == (
        Outcome.MONITOR_ERROR,
        "the resolver of this host answers nothing at DNS",
    )


async def test_a_resolver_that_is_only_silent_about_the_name_tells_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        server.silent = {"A", "AAAA"}
        resolver = systems(server, tmp_path, monkeypatch)
        with pytest.raises(ResolveError, match="no answer about mx1"):
            await resolver.addresses("mx1.example.com", seconds=0.3)
        assert server.asked.count((".", "NS")) == 1


async def test_another_resolver_of_this_host_is_heard_of_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        resolver = systems(server, tmp_path, monkeypatch)
        assert await resolver.addresses("mx1.example.com") == ("192.0.2.1",)
        (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.2\n")
        os.utime(tmp_path / "resolv.conf", ns=(1, 1))
        assert resolver._resolver("").nameservers == ["127.0.0.2"]


async def test_a_host_that_trusts_nobody_says_nothing_of_certificates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, good: Pair
) -> None:
    empty = ssl.DefaultVerifyPaths("", str(tmp_path), "", str(tmp_path / "none.pem"), "", str(tmp_path))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: empty)
    monkeypatch.setattr(ssl, "create_default_context", lambda cafile=None: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context = replace(make_context(SecretSource(None)), roots=TlsRoots())
    async with peer(dialog([Step(b"", b"")]), good.server(), implicit=True) as server:
        seen = await probe(check_of(CheckKind.CERTIFICATE, server.port, starttls="none"), context)
    assert (seen.outcome, seen.detail) == (Outcome.MONITOR_ERROR, "trusted roots: FileNotFoundError at TLS handshake")


@pytest.mark.parametrize(
    ("again", "outcome"),
    [
        ([(b"A4 SELECT", b"* 0 EXISTS\r\nA4 OK\r\n")], Outcome.OK),
        (
            [
                (b"A4 SELECT", b"* 1 EXISTS\r\nA4 OK\r\n"),
                (b"A5 FETCH 1", b"* 1 FETCH (UID 9 FLAGS ())\r\nA5 OK\r\n"),
            ],
            Outcome.OK,
        ),
        ([(b"A4 SELECT", b"* 1 EXISTS\r\nA4 OK\r\n"), (b"A5 FETCH 1", b"A5 OK\r\n")], Outcome.CONTENT),
    ],
)
async def test_a_message_that_another_client_just_took_away_is_no_fault_of_the_server(
    authority: Authority,
    good: Pair,
    probe_secrets: SecretSource,
    again: list[tuple[bytes, bytes]],
    outcome: Outcome,
) -> None:
    steps = list(DIALOGS[CheckKind.IMAPS])
    at = next(index for index, step in enumerate(steps) if step.hear.startswith(b"A3 FETCH"))
    steps[at:] = [Step(b"A3 FETCH", b"A3 OK [EXPUNGEISSUED] Some messages were already expunged.\r\n")]
    steps += [Step(hear, say) for hear, say in again]
    number = b"A%d" % (4 + len(again))
    steps.append(Step(number + b" LOGOUT", b"* BYE\r\n" + number + b" OK\r\n"))
    async with peer(dialog(steps), good.server(), implicit=True) as server:
        seen = await probe(check_of(CheckKind.IMAPS, server.port), context_of(probe_secrets, authority.file))
    assert seen.outcome is outcome, seen
