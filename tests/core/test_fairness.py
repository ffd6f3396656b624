"""The fair queue in front of password hashing: turns between networks, pauses after failures, bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.fairness import SECOND_NS, Bounds, FairQueue, Penalty, client_network

FLOOD = "203.0.113.0/24"
OFFICE = "192.0.2.0/24"
HOME = "2001:db8:1:2::/64"

NO_PENALTY = Penalty(pauses=())


def seconds(number: int) -> int:
    return number * SECOND_NS


def fail(queue: FairQueue[str], network: str, times: int, now_ns: int = 0) -> None:
    """So many wrong attempts of a network, as if each had been taken."""
    for _ in range(times):
        queue._running += 1
        queue.done(network, now_ns, failed=True)


def drain(queue: FairQueue[str], now_ns: int = 0) -> list[str]:
    """All that is due, in the order in which it is taken; each is done at once, rightly."""
    taken = []
    while (turn := queue.take(now_ns)) is not None:
        taken.append(turn[1])
        queue.done(turn[0], now_ns, failed=False)
    return taken


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_an_address_counts_for_its_network(address: str, network: str) -> None:
    assert client_network(address) == network


def test_networks_take_turns() -> None:
    queue: FairQueue[str] = FairQueue(Bounds(running=1), NO_PENALTY)
    for number in range(4):
        assert queue.offer(FLOOD, f"flood{number}", 0) == ()
    queue.offer(OFFICE, "office0", 0)
    queue.offer(HOME, "home0", 0)
    queue.offer(OFFICE, "office1", 0)
    assert drain(queue) == ["flood0", "office0", "home0", "flood1", "office1", "flood2", "flood3"]


def test_no_more_run_at_once_than_there_are_workers() -> None:
    queue: FairQueue[str] = FairQueue(Bounds(running=2), NO_PENALTY)
    for name in "abc":
        queue.offer(OFFICE, name, 0)
    assert queue.take(0) == (OFFICE, "a")
    assert queue.take(0) == (OFFICE, "b")
    assert queue.take(0) is None
    assert queue.due_ns(0) is None
    queue.done(OFFICE, 0, failed=False)
    assert queue.take(0) == (OFFICE, "c")


def test_a_network_fills_its_own_places_only() -> None:
    queue: FairQueue[str] = FairQueue(Bounds(waiting=10, waiting_per_network=5))
    refused = [queue.offer(FLOOD, f"flood{number}", 0) for number in range(8)]
    assert refused == [(), (), (), (), (), ("flood5",), ("flood6",), ("flood7",)]
    assert queue.offer(OFFICE, "office", 0) == ()


def test_a_full_queue_makes_room_at_the_cost_of_the_greediest() -> None:
    queue: FairQueue[str] = FairQueue(Bounds(waiting=6, waiting_per_network=5))
    for number in range(4):
        queue.offer(FLOOD, f"flood{number}", 0)
    queue.offer(HOME, "home0", 0)
    queue.offer(HOME, "home1", 0)
    assert queue.offer(OFFICE, "office0", 0) == ("flood3",)
    assert queue.offer(OFFICE, "office1", 0) == ("flood2",)
    # Now everybody has two: nobody is greedier than the one who asks.
    assert queue.offer(OFFICE, "office2", 0) == ("office2",)
    assert queue.offer(FLOOD, "flood4", 0) == ("flood4",)
    assert len(queue) == 6


def test_failures_get_a_growing_pause_up_to_a_cap() -> None:
    queue: FairQueue[str] = FairQueue()
    pauses = []
    for _ in range(11):
        pauses.append(queue.delay_ns(FLOOD, 0) // SECOND_NS)
        fail(queue, FLOOD, 1)
    assert pauses == [0, 0, 0, 0, 1, 2, 4, 8, 15, 15, 15]


def test_a_flood_of_wrong_passwords_slows_only_its_own_network() -> None:
    queue: FairQueue[str] = FairQueue(Bounds(running=2))
    fail(queue, FLOOD, 50)
    queue.offer(FLOOD, "flood", 0)
    queue.offer(OFFICE, "office", 0)
    assert drain(queue) == ["office"]
    assert queue.due_ns(0) == seconds(15)
    assert drain(queue, seconds(15) - 1) == []
    assert drain(queue, seconds(15)) == ["flood"]


def test_a_thousand_sessions_of_a_guesser_get_one_guess_a_pause() -> None:
    """Opening many sessions at once doesn't help: the pause is between attempts, not within a session."""
    queue: FairQueue[str] = FairQueue(Bounds(running=2))
    fail(queue, FLOOD, 50)
    refused = sum(len(queue.offer(FLOOD, str(number), 0)) for number in range(1000))
    looked_at = 0
    for now in range(0, seconds(60), SECOND_NS // 10):
        while (turn := queue.take(now)) is not None:
            looked_at += 1
            queue.done(turn[0], now, failed=True)
    # 30 s of patience have room for two waiting at 15 s each, and for the third that comes as the first goes.
    assert looked_at <= 4
    assert refused + looked_at + len(queue) == 1000


def test_who_would_wait_beyond_patience_is_refused_at_once() -> None:
    queue: FairQueue[str] = FairQueue(Bounds(patience_ns=seconds(30)))
    fail(queue, FLOOD, 50)
    assert queue.offer(FLOOD, "in 15 s", 0) == ()
    assert queue.offer(FLOOD, "in 30 s", 0) == ()
    assert queue.offer(FLOOD, "in 45 s", 0) == ("in 45 s",)


def test_a_right_password_doesnt_clear_its_network() -> None:
    """Else a guesser with one login of his own would log in between the guesses."""
    queue: FairQueue[str] = FairQueue()
    fail(queue, FLOOD, 9)
    before = queue.delay_ns(FLOOD, 0)
    queue.offer(FLOOD, "own login", 0)
    queue.take(seconds(15))
    queue.done(FLOOD, seconds(15), failed=False)
    assert queue.delay_ns(FLOOD, seconds(15)) == before


def test_failures_are_forgiven_one_by_one() -> None:
    queue: FairQueue[str] = FairQueue()
    fail(queue, FLOOD, 5)
    assert queue.delay_ns(FLOOD, 0) == seconds(2)
    fail(queue, FLOOD, 1)
    queue.offer(FLOOD, "x", seconds(31))
    # 6 - 1 forgiven = 5 failures: 2 s after the last start, long past.
    assert queue.take(seconds(31)) == (FLOOD, "x")
    assert queue.delay_ns(FLOOD, seconds(31)) == seconds(2)
    assert queue.delay_ns(FLOOD, seconds(91)) == 0


def test_an_endless_flood_is_forgiven_in_bounded_time() -> None:
    queue: FairQueue[str] = FairQueue()
    fail(queue, FLOOD, 1_000_000)
    assert queue.penalty.most == 13
    fail(queue, FLOOD, 1, seconds(13 * 30))
    assert queue.delay_ns(FLOOD, seconds(13 * 30)) == 0


def test_memory_for_failing_networks_is_bounded() -> None:
    queue: FairQueue[str] = FairQueue(Bounds(networks=100))
    for number in range(1000):
        fail(queue, f"2001:db8:0:{number:x}::/64", 1)
    assert len(queue._records) == 100


def test_who_leaves_frees_his_place() -> None:
    queue: FairQueue[str] = FairQueue(Bounds(waiting_per_network=1))
    queue.offer(OFFICE, "a", 0)
    assert queue.withdraw(OFFICE, "a")
    assert not queue.withdraw(OFFICE, "a")
    assert len(queue) == 0
    assert queue.take(0) is None
    assert queue.offer(OFFICE, "b", 0) == ()
    assert queue.take(0) == (OFFICE, "b")
    assert not queue.withdraw(OFFICE, "b")


def test_a_clock_that_runs_backwards_breaks_nothing() -> None:
    queue: FairQueue[str] = FairQueue()
    fail(queue, FLOOD, 9, seconds(100))
    assert queue.delay_ns(FLOOD, 0) > 0
    assert queue.delay_ns(FLOOD, seconds(115)) == 0


Move = tuple[str, int]
moves = st.lists(
    st.tuples(st.sampled_from(["offer", "take", "right", "wrong", "leave", "tick"]), st.integers(0, 5)),
    max_size=80,
)


@given(moves)
def test_nobody_is_lost_and_no_bound_is_passed(script: list[Move]) -> None:
    bounds = Bounds(running=2, waiting=6, waiting_per_network=4, patience_ns=seconds(20), networks=3)
    queue: FairQueue[int] = FairQueue(bounds)
    now, serial = 0, 0
    waiting: dict[int, str] = {}
    running: list[str] = []
    for move, number in script:
        network = f"net{number}"
        if move == "offer":
            serial += 1
            waiting[serial] = network
            for item in queue.offer(network, serial, now):
                del waiting[item]
        elif move == "take" and (turn := queue.take(now)):
            assert waiting.pop(turn[1]) == turn[0]
            running.append(turn[0])
        elif move in ("right", "wrong") and running:
            queue.done(running.pop(), now, failed=move == "wrong")
        elif move == "leave" and waiting:
            item = min(waiting)
            assert queue.withdraw(waiting.pop(item), item)
        elif move == "tick":
            now += number * SECOND_NS
        assert len(queue) == len(waiting) <= bounds.waiting
        assert queue.running == len(running) <= bounds.running
        assert len(queue._records) <= bounds.networks
    running.clear()
    queue._running = 0
    while waiting:
        due = queue.due_ns(now)
        assert due is not None
        now = max(now, due)
        turn = queue.take(now)
        assert turn is not None
        del waiting[turn[1]]
        queue.done(turn[0], now, failed=False)
