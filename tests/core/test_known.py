"""Known recipients: who is a stranger, how long a recipient is remembered, and what is wrong when a set is full."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmail.core.known import KnownRecipients, recipient_hash
from smartmail.core.limits import Charge, Counters, Limit, Refusal, Reservation, Scope, Unit
from smartmail.core.meter import NS, RowError

HOUR = 3600 * NS
T0 = 1_800_000_000 * NS // HOUR * HOUR
ANN, BOB, CARL = 11, 12, 13


def knows(known: KnownRecipients, now: int, account: int = 1) -> list[int]:
    return [recipient for recipient in (ANN, BOB, CARL) if known.known(account, recipient, now)]


def test_a_recipient_is_known_to_the_account_that_wrote_and_to_no_other() -> None:
    known = KnownRecipients()
    known.learn(1, ANN, T0)
    assert known.known(1, ANN, T0)
    assert not known.known(1, BOB, T0)
    assert not known.known(2, ANN, T0)


def test_asking_teaches_nothing() -> None:
    known = KnownRecipients()
    assert not known.known(1, ANN, T0)
    assert not known.known(1, ANN, T0)
    assert known.accounts == 0


@pytest.mark.parametrize(("hours", "expected"), [(0, True), (23, True), (24, False), (1000, False)])
def test_a_recipient_not_written_to_for_long_is_a_stranger_again(hours: int, expected: bool) -> None:
    known = KnownRecipients(max_age_seconds=86400)
    known.learn(1, ANN, T0)
    assert known.known(1, ANN, T0 + hours * HOUR) is expected


def test_writing_again_renews_the_age() -> None:
    known = KnownRecipients(max_age_seconds=86400)
    known.learn(1, ANN, T0)
    known.learn(1, ANN, T0 + 20 * HOUR)
    assert known.known(1, ANN, T0 + 40 * HOUR)
    assert known.count(1) == 1


def test_a_full_set_forgets_the_one_not_written_to_for_longest() -> None:
    known = KnownRecipients(capacity=2)
    known.learn(1, ANN, T0)
    assert not known.full(1)
    known.learn(1, BOB, T0)
    assert known.full(1)
    known.learn(1, ANN, T0 + HOUR)
    known.learn(1, CARL, T0 + HOUR)
    assert knows(known, T0 + HOUR) == [ANN, CARL]
    assert known.count(1) == 2


@given(learnt=st.lists(st.integers(0, 40), max_size=120), capacity=st.integers(1, 20))
@settings(deadline=None)
def test_the_error_of_a_full_set_is_one_sided(learnt: list[int], capacity: int) -> None:
    """Exactly the `capacity` recipients last written to are known: a stranger never is."""
    known = KnownRecipients(capacity=capacity)
    for step, recipient in enumerate(learnt):
        known.learn(1, recipient, T0 + step * NS)
    latest = list(dict.fromkeys(reversed(learnt)))[:capacity]
    assert {recipient for recipient in range(41) if known.known(1, recipient, T0)} == set(latest)


def test_one_account_cannot_push_out_what_another_knows() -> None:
    known = KnownRecipients(capacity=2)
    known.learn(1, ANN, T0)
    for stranger in range(1000):
        known.learn(2, stranger, T0)
    assert known.known(1, ANN, T0)


def test_an_account_that_is_deleted_is_forgotten() -> None:
    known = KnownRecipients()
    known.learn(1, ANN, T0)
    known.forget(1)
    known.forget(1)
    assert knows(known, T0) == []


@pytest.mark.parametrize("accounts", [1, 500, 10_000])
def test_the_old_are_dropped_and_empty_accounts_with_them(accounts: int) -> None:
    known = KnownRecipients(max_age_seconds=86400)
    for account in range(accounts):
        known.learn(account, ANN, T0)
    for account in range(accounts):
        known.learn(account, BOB, T0 + 12 * HOUR)
    assert sum(known.expire(T0 + 24 * HOUR) for _ in range(160)) == accounts
    assert known.accounts == accounts
    assert sum(known.expire(T0 + 36 * HOUR) for _ in range(320)) == accounts
    assert known.accounts == 0


def test_a_clock_set_back_neither_forgets_nor_renews() -> None:
    known = KnownRecipients(max_age_seconds=86400)
    known.learn(1, ANN, T0)
    known.learn(1, BOB, T0 + 24 * HOUR)
    assert knows(known, T0) == [BOB]
    known.learn(1, CARL, T0)
    assert knows(known, T0 + 47 * HOUR) == [BOB, CARL]


def test_hole_a_hijacked_account_writes_to_strangers_and_a_list_to_its_members() -> None:
    """Only strangers are charged, and only for mail that was accepted."""
    known, counters = KnownRecipients(), Counters()
    limit = Limit("strangers", Scope.ACCOUNT, Unit.FIRST_TIME, 3, 86400)

    def send(recipient: int, *, accepted: bool = True) -> bool:
        new = 0 if known.known(1, recipient, T0) else 1
        taken = counters.reserve([Charge(limit, "a:1", new)], T0, HOUR)
        if isinstance(taken, Refusal):
            return False
        if accepted:
            counters.commit(taken.id, T0)
            known.learn(1, recipient, T0)
        else:
            counters.release(taken.id, T0)
        return True

    assert [send(100 + number, accepted=False) for number in range(5)] == [True] * 5
    assert [send(recipient) for recipient in (ANN, BOB, CARL)] == [True] * 3
    assert [send(200 + number) for number in range(5)] == [False] * 5
    assert [send(recipient) for recipient in (ANN, BOB, CARL) * 50] == [True] * 150


def test_first_time_recipients_of_parallel_mails_are_each_held() -> None:
    counters = Counters()
    limit = Limit("strangers", Scope.ACCOUNT, Unit.FIRST_TIME, 1, 86400)
    first = counters.reserve([Charge(limit, "a:1", 1)], T0, HOUR)
    assert isinstance(first, Reservation)
    assert isinstance(counters.reserve([Charge(limit, "a:1", 1)], T0, HOUR), Refusal)


# ---- hashes


def test_a_hash_is_64_bits_and_the_same_in_every_process() -> None:
    assert recipient_hash("bob@example.com") == 0x272B51548A7D3D9F  # printf bob@example.com | b2sum -l 64
    assert recipient_hash("bob@example.com", b"secret") != recipient_hash("bob@example.com")
    assert 0 <= recipient_hash("ülrich@exämple.com\udcff", b"s" * 64) < 2**64


# ---- dump and load


@given(
    learnt=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(0, 5)), max_size=60),
    after=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(0, 5)), max_size=20),
)
@settings(deadline=None)
def test_a_restored_set_answers_as_the_old_one_would_have(
    learnt: list[tuple[int, int, int]], after: list[tuple[int, int, int]]
) -> None:
    old, new, now = KnownRecipients(4, 86400), KnownRecipients(4, 86400), T0
    for account, recipient, hours in learnt:
        now += hours * HOUR
        old.learn(account, recipient, now)
    new.load(old.dump(), now)
    for account, recipient, hours in after:
        now += hours * HOUR
        for known in (old, new):
            known.learn(account, recipient, now)
        for who in range(10):
            assert [old.known(one, who, now) for one in (1, 2, 3)] == [new.known(one, who, now) for one in (1, 2, 3)]


def test_a_dump_from_the_future_keeps_its_ages() -> None:
    old, new = KnownRecipients(max_age_seconds=86400), KnownRecipients(max_age_seconds=86400)
    far = T0 + 1_000_000 * HOUR
    old.learn(1, ANN, far - 12 * HOUR)
    old.learn(1, BOB, far)
    new.load(old.dump(), T0)
    assert knows(new, T0 + 11 * HOUR) == [ANN, BOB]
    assert knows(new, T0 + 12 * HOUR) == [BOB]
    assert knows(new, T0 + 24 * HOUR) == []


def test_a_smaller_capacity_keeps_the_latest() -> None:
    old, new = KnownRecipients(), KnownRecipients(capacity=2)
    for step, recipient in enumerate((CARL, ANN, BOB)):
        old.learn(1, recipient, T0 + step * HOUR)
    new.load(old.dump(), T0 + 2 * HOUR)
    assert knows(new, T0 + 2 * HOUR) == [ANN, BOB]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("clock", 2, 0)],
        [("clock", 1, "0")],
        [("clock", 1, 0), ()],
        [("clock", 1, 0), (1, ANN)],
        [("clock", 1, 0), ("a:1", ANN, 0)],
        [("clock", 1, 0), (1, "ann", 0)],
    ],
)
def test_rows_that_dump_did_not_write_change_nothing(rows: list[tuple[int | str, ...]]) -> None:
    known = KnownRecipients()
    known.learn(1, ANN, T0)
    with pytest.raises(RowError):
        known.load(rows, T0)
    assert knows(known, T0) == [ANN]


@pytest.mark.parametrize(("capacity", "age"), [(0, 86400), (1, 3599)])
def test_bounds_that_would_know_nobody_are_refused(capacity: int, age: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        KnownRecipients(capacity, age)
