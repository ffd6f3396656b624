"""Probes begin in their slots, once each, never two of a check at once; what could not be begun is silence."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from agentworld import MINUTE, NOW_MS, FakeTime, Lines, Saw, check, roster, settle

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind, CheckSpec
from smartmail.core.slots import GRACE_MS, MINUTE_MS, RosterBook, slot_ms
from smartmail.monitor.clock import CorrectedClock
from smartmail.monitor.control import CONTROL, Controls, Look, Reach, Target, parse_target
from smartmail.monitor.prober import Prober, ProberSettings


class World:
    """A prober, its time, and what its probes did: (check, when it began)."""

    def __init__(self, *checks: CheckSpec, **settings: object) -> None:
        self.time = FakeTime()
        self.lines = Lines()
        self.began: list[tuple[str, int]] = []
        self.held: dict[str, asyncio.Event] = {}
        self.saw: Callable[[CheckSpec], Saw] = lambda check: Saw()
        clock = CorrectedClock(self.time)
        self.prober = Prober(ProberSettings("london", **settings), clock, self.probe, self.lines)  # type: ignore[arg-type]
        self.prober.book = RosterBook([roster(*checks)], "london")

    async def probe(self, check: CheckSpec) -> Saw:
        self.began.append((check.name, self.time.true_ms))
        if check.name in self.held:
            await self.held[check.name].wait()
        return self.saw(check)

    def samples(self) -> list[tuple[str, Outcome]]:
        return [(one.check, one.outcome) for one in self.prober.take()]


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(world.prober.run()), asyncio.create_task(world.prober.watch())]
    await settle()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await world.prober.finish(0)


async def test_each_check_begins_in_its_slot_in_every_minute() -> None:
    names = ["imap", "pop3", "smtps"]
    world = World(*(check(name) for name in names))
    async with running(world):
        await world.time.advance(5 * MINUTE_MS)
    slots = [(NOW_MS + minute * MINUTE_MS + slot_ms(name, "london"), name) for minute in range(5) for name in names]
    assert [(at, name) for name, at in world.began] == sorted(slots)
    assert world.prober.counts.on_time == 15


async def test_ten_thousand_checks_begin_on_time() -> None:
    world = World(*(check(f"check-{number}") for number in range(10_000)))
    async with running(world):
        await world.time.advance(MINUTE_MS)
    counts = world.prober.counts
    assert (counts.begun, counts.on_time, counts.missed) == (10_000, 10_000, 0)
    assert len(world.prober.take()) == 10_000


async def test_case_12_a_pause_is_silence_not_caught_up() -> None:
    world = World(check("imap"))
    slot = slot_ms("imap", "london")
    async with running(world):
        await world.time.advance(MINUTE_MS)
        world.time.jump(5 * MINUTE_MS)
        await world.time.advance(MINUTE_MS)
    assert [at for _, at in world.began] == [NOW_MS + slot, NOW_MS + 6 * MINUTE_MS + slot]
    assert world.prober.counts.missed == 5
    assert world.lines.of("agent_paused") == [{"seconds": 300, "missed": 5}]


async def test_case_10_never_two_probes_of_a_check_at_once() -> None:
    world = World(check("imap"), check("pop3"))
    world.held["imap"] = asyncio.Event()
    async with running(world):
        await world.time.advance(3 * MINUTE_MS)
        assert [name for name, _ in world.began if name == "imap"] == ["imap"]
        assert len([name for name, _ in world.began if name == "pop3"]) == 3
        assert world.prober.counts.overlapped == 2
        world.held["imap"].set()
        await world.time.advance(MINUTE_MS)
    assert len([name for name, _ in world.began if name == "imap"]) == 2


async def test_case_15_a_round_trip_begins_each_minute_though_the_last_one_is_under_way() -> None:
    world = World(check("loop", kind=CheckKind.ROUND_TRIP))
    world.held["loop"] = asyncio.Event()
    async with running(world):
        await world.time.advance(4 * MINUTE_MS)
        assert len(world.began) == 4
        world.held["loop"].set()
        await settle()
        began = sorted(one.began_ms for one in world.prober.take())
    # Each belongs to the minute of its sending, whenever it ended.
    assert [at // MINUTE_MS for at in began] == [0, 1, 2, 3]


async def test_with_too_much_running_a_probe_waits_and_is_marked_late() -> None:
    world = World(check("imap"), most_at_once=1)
    world.prober.book = RosterBook([roster(check("imap"), check("pop3"))], "london")
    order = sorted(("imap", "pop3"), key=lambda name: slot_ms(name, "london"))
    first, second = order
    world.held[first] = asyncio.Event()
    async with running(world):
        await world.time.advance(slot_ms(second, "london") + 1_500)
        assert [name for name, _ in world.began] == [first]
        world.held.pop(first).set()
        await settle()
    assert [name for name, _ in world.began] == order
    assert world.samples() == [(first, Outcome.OK), (second, Outcome.OK_LATE_START)]
    assert world.prober.counts.on_time == 1


async def test_what_waits_too_long_is_missed() -> None:
    world = World(check("imap"), check("pop3"), most_at_once=1)
    first, second = sorted(("imap", "pop3"), key=lambda name: slot_ms(name, "london"))
    world.held[first] = asyncio.Event()
    async with running(world):
        await world.time.advance(slot_ms(second, "london") + GRACE_MS + 100)
        world.held.pop(first).set()
        await settle()
    assert world.samples() == [(first, Outcome.OK)]
    assert world.prober.counts.missed == 1


async def test_case_12_a_fault_of_ours_is_an_error_of_the_monitor_and_the_others_go_on() -> None:
    def broken(check: CheckSpec) -> Saw:
        if check.name == "imap":
            raise RuntimeError("secret words")
        return Saw()

    world = World(check("imap"), check("pop3"))
    world.saw = broken
    async with running(world):
        await world.time.advance(MINUTE_MS)
    found = world.prober.take()
    assert sorted((one.check, one.outcome) for one in found) == [
        ("imap", Outcome.MONITOR_ERROR),
        ("pop3", Outcome.OK),
    ]
    assert "secret words" not in repr(found)
    assert world.prober.counts.faults == 1
    assert [line["check"] for line in world.lines.of("probe_fault")] == ["imap"]


async def test_case_09_a_new_roster_counts_from_its_minute() -> None:
    world = World(check("old"))
    async with running(world):
        await world.time.advance(MINUTE_MS // 2)
        rosters = [roster(check("old")), roster(check("new"), version=2, from_minute=MINUTE + 2)]
        world.prober.book = RosterBook(rosters, "london")
        await world.time.advance(MINUTE_MS * 5 // 2)
    assert [(name, at // MINUTE_MS - MINUTE) for name, at in world.began] == [("old", 0), ("old", 1), ("new", 2)]


async def test_a_probe_that_is_cut_short_at_the_end_leaves_no_sample() -> None:
    world = World(check("imap"))
    world.held["imap"] = asyncio.Event()
    async with running(world):
        await world.time.advance(MINUTE_MS)
        assert world.prober.running == 1
    assert world.prober.running == 0
    assert world.samples() == []


# Control targets

TARGETS = (Target("192.0.2.1", 53), Target("192.0.2.2", 53))


class Net:
    """What control targets answer."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.tried: list[str] = []

    async def __call__(self, host: str, port: int) -> None:
        self.tried.append(host)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


async def test_case_08_cut_off_the_location_abstains_and_its_failures_do_not_count() -> None:
    net = Net(TimeoutError())
    world = World(check("imap"), targets=TARGETS, connect=net)
    world.saw = lambda check: Saw(Outcome.TIMEOUT, 20_000, "no answer")
    async with running(world):
        await world.time.advance(MINUTE_MS)
    found = {one.check: one for one in world.prober.take()}
    assert found["imap"].outcome is Outcome.CONTROL_FAILED
    assert found["imap"].detail == "timeout: no answer"
    assert found[CONTROL].outcome is Outcome.CONTROL_FAILED
    assert [name for name, _ in world.lines.said] == ["location_cut_off"]
    net.error = None
    world.saw = lambda check: Saw()
    async with running(world):
        await world.time.advance(MINUTE_MS)
    assert set(world.samples()) == {(CONTROL, Outcome.OK), ("imap", Outcome.OK)}
    assert [name for name, _ in world.lines.said] == ["location_cut_off", "location_back"]


async def test_with_one_control_target_reached_a_failure_counts() -> None:
    async def first_only(host: str, port: int) -> None:
        if host != TARGETS[1].host:
            raise ConnectionRefusedError

    world = World(check("imap"), targets=TARGETS, connect=first_only)
    world.saw = lambda check: Saw(Outcome.REFUSED)
    async with running(world):
        await world.time.advance(MINUTE_MS)
    assert set(world.samples()) == {(CONTROL, Outcome.OK), ("imap", Outcome.REFUSED)}


async def test_without_control_targets_a_failure_counts() -> None:
    world = World(check("imap"))
    world.saw = lambda check: Saw(Outcome.REFUSED)
    async with running(world):
        await world.time.advance(MINUTE_MS)
    assert world.samples() == [("imap", Outcome.REFUSED)]


async def test_a_crowd_of_failures_asks_the_control_targets_once() -> None:
    net = Net(TimeoutError())
    world = World(targets=TARGETS, connect=net)
    controls = Controls(TARGETS, world.time.steady_ms, lambda look: None, net)
    looks = await asyncio.gather(*(controls.look_after(world.time.steady_ms()) for _ in range(500)))
    assert {look.reach for look in looks} == {Reach.CUT_OFF}
    assert len(net.tried) == 2


async def test_a_look_before_the_failure_does_not_answer_for_it() -> None:
    net, time, looks = Net(), FakeTime(), list[Look]()
    controls = Controls(TARGETS, time.steady_ms, looks.append, net)
    assert (await controls.look()).reach is Reach.REACHED
    net.error = TimeoutError()
    time.jump(5_000)
    assert (await controls.look_after(time.steady_ms())).reach is Reach.CUT_OFF
    assert len(looks) == 2


async def test_case_12_when_this_host_cannot_even_try_that_is_no_cut() -> None:
    net = Net(OSError(24, "Too many open files"))
    world = World(check("imap"), targets=TARGETS, connect=net)
    world.saw = lambda check: Saw(Outcome.REFUSED)
    async with running(world):
        await world.time.advance(MINUTE_MS)
    assert set(world.samples()) == {(CONTROL, Outcome.MONITOR_ERROR), ("imap", Outcome.REFUSED)}


async def test_control_targets_on_a_real_socket() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    looks: list[Look] = []
    controls = Controls([Target("127.0.0.1", 9), Target("127.0.0.1", port)], FakeTime().steady_ms, looks.append)
    assert (await controls.look()).reach is Reach.REACHED
    server.close()
    await server.wait_closed()
    assert (await controls.look()).reach is Reach.CUT_OFF


@pytest.mark.parametrize(
    ("text", "target"),
    [("192.0.2.1:53", Target("192.0.2.1", 53)), ("[2001:db8::1]:443", Target("2001:db8::1", 443))],
)
def test_a_control_target_is_host_and_port(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize("text", ["", "host", "host:", ":53", "host:0", "host:65536", "host:x", "host:-1"])
def test_what_is_no_control_target(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_target(text)
