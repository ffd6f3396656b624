"""The snapshot of the counters, and how ours compare with those of the `limits` library."""

import json
import threading
from types import SimpleNamespace

import limits.storage.memory
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from smartmail.core.limits import Charge, Counters, Limit, Refusal, Reservation, Scope, Unit
from smartmail.store.counters import MemoryCounters, SnapshotError, encode

NS = 1_000_000_000
T0 = 1_800_000_000 * NS
A = "a:17"
QUOTA = Limit("quota", Scope.ACCOUNT, Unit.MESSAGES, 5, 60)
RATE = Limit("rate", Scope.ACCOUNT, Unit.BYTES, 5000, 60, 5000)


def take(counters: MemoryCounters | Counters, limit: Limit, now: int, amount: int = 1) -> bool:
    taken = counters.reserve([Charge(limit, A, amount)], now, 900 * NS)
    if isinstance(taken, Refusal):
        return False
    counters.commit(taken.id, now)
    return True


def filled() -> MemoryCounters:
    counters = MemoryCounters()
    assert take(counters, QUOTA, T0, 5)
    assert take(counters, RATE, T0, 5000)
    counters.known.learn(17, 0xFFFF_FFFF_FFFF_FFFF, T0)
    return counters


def test_a_restart_keeps_counters_and_known_recipients() -> None:
    again = MemoryCounters()
    again.restore(filled().snapshot(), T0 + NS)
    assert not take(again, QUOTA, T0 + NS)
    assert not take(again, RATE, T0 + NS, 100)
    assert again.known.known(17, 0xFFFF_FFFF_FFFF_FFFF, T0 + NS)
    assert take(again, QUOTA, T0 + 60 * NS, 5)


def test_a_snapshot_of_restored_counters_is_the_same_snapshot() -> None:
    data = filled().snapshot()
    again = MemoryCounters()
    again.restore(data, T0)
    assert again.snapshot() == data


def test_a_snapshot_is_compact_json_without_an_address() -> None:
    data = filled().snapshot()
    assert b" " not in data
    assert json.loads(data)["version"] == 1
    assert encode(filled().rows()) == data


def test_nothing_to_keep_is_a_snapshot_too() -> None:
    again = filled()
    again.restore(MemoryCounters().snapshot(), T0)
    assert take(again, QUOTA, T0, 5)
    assert not again.known.known(17, 0xFFFF_FFFF_FFFF_FFFF, T0)


def test_a_session_keeps_its_counters_across_a_restore() -> None:
    counters = MemoryCounters()
    reserve, known = counters.reserve, counters.known
    counters.restore(filled().snapshot(), T0)
    assert isinstance(reserve([Charge(QUOTA, A, 1)], T0, NS), Refusal)
    assert known.known(17, 0xFFFF_FFFF_FFFF_FFFF, T0)


def test_mail_in_flight_at_a_crash_is_charged() -> None:
    counters = MemoryCounters()
    assert isinstance(counters.reserve([Charge(QUOTA, A, 5)], T0, 900 * NS), Reservation)
    again = MemoryCounters()
    again.restore(counters.snapshot(), T0)
    assert not take(again, QUOTA, T0)


def test_regular_work_ends_what_hangs_and_forgets_what_is_idle() -> None:
    counters = filled()
    assert isinstance(counters.reserve([Charge(RATE, "a:1", 1)], T0, 10 * NS), Reservation)
    assert counters.expire(T0 + 10 * NS) == 1
    for _ in range(3):
        counters.expire(T0 + 400 * 86400 * NS)
    assert (counters.counters.keys, counters.known.accounts) == (0, 0)


CLOCKS = {"counters": [["clock", 1, T0]], "known": [["clock", 1, 0]]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"version":1',
        json.dumps({"version": 2, **CLOCKS}).encode(),
        json.dumps({"version": 1, **CLOCKS, "known": None}).encode(),
        json.dumps({"version": 1, **CLOCKS, "counters": [[1.5]]}).encode(),
        json.dumps({"version": 1, **CLOCKS, "counters": [{}]}).encode(),
        json.dumps({"version": 1, **CLOCKS, "counters": [["clock", True, 0]]}).encode(),
        json.dumps({"version": 1, **CLOCKS, "counters": [["clock", 9, 0]]}).encode(),
        json.dumps({"version": 1, **CLOCKS, "known": [["clock", 9, 0]]}).encode(),
        json.dumps({"version": 1, **CLOCKS, "known": [["clock", 1, 0], [1, 2]]}).encode(),
    ],
)
def test_a_damaged_snapshot_is_refused_and_changes_nothing(data: bytes) -> None:
    counters = filled()
    before = counters.snapshot()
    with pytest.raises(SnapshotError):
        counters.restore(data, T0)
    assert counters.snapshot() == before


@given(
    st.binary(max_size=200)
    | st.recursive(st.integers() | st.text(max_size=3) | st.none(), st.lists).map(
        lambda value: json.dumps({"version": 1, "counters": value, "known": value}).encode()
    )
)
@settings(deadline=None)
def test_whatever_the_bytes_are_only_a_snapshot_error_comes_out(data: bytes) -> None:
    with pytest.raises(SnapshotError):
        MemoryCounters().restore(data, T0)


class NoTimer:
    """In place of the library's clean-up thread, which would run on real time."""

    def __init__(self, *_: object) -> None:
        pass

    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return True


@given(steps=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 6)), max_size=60))
@settings(deadline=None)
def test_a_sliding_quota_decides_as_the_moving_window_of_limits_does(steps: list[tuple[int, int]]) -> None:
    """Mails are a second or more apart, a grain of a minute: there ours is exact."""
    ours, now = Counters(), 1000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits.storage.memory, "time", SimpleNamespace(time=lambda: now))
        patch.setattr(limits.storage.memory, "threading", SimpleNamespace(Timer=NoTimer, RLock=threading.RLock))
        theirs = MovingWindowRateLimiter(MemoryStorage())
        item = RateLimitItemPerMinute(QUOTA.quota)
        for wait, units in steps:
            # The millisecond keeps events from being a minute apart to the nanosecond: their window is closed at
            # both ends, ours at one.
            now += wait + 0.001
            passed = take(ours, QUOTA, round(now * 1000) * (NS // 1000), units)
            assert passed == theirs.hit(item, A, cost=units)
