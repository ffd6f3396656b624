"""What a drill asks restic for."""

from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.drill_plan import MOST_OCTETS, MOST_PATTERNS, batches, chosen_mailboxes, includes, pattern
from smartmail.core.manifest import Entry, Total

MAIL = "/srv/vmail/example.net"


def entry(path: str) -> Entry:
    return Entry(path, 1, "0" * 64)


def test_patterns_are_literal_but_for_flags() -> None:
    assert pattern("/etc/a[1]*?.conf") == "/etc/a\\[1]\\*\\?.conf"
    message = f"{MAIL}/b[o]b/Maildir/.Sent/cur/1764000000.M1P1.mx1,S=3:2,RS"
    assert pattern(message) == f"{MAIL}/b\\[o]b/Maildir/.Sent/*/1764000000.M1P1.mx1,S=3*"
    assert pattern(message) == pattern(message.replace("/cur/", "/new/").replace(":2,RS", ""))


def test_what_is_in_a_whole_mailbox_is_not_named_again() -> None:
    entries = [entry(f"{MAIL}/anna/Maildir/cur/1.a"), entry(f"{MAIL}/annabel/Maildir/cur/2.b")]
    assert includes(entries, [f"{MAIL}/anna/Maildir"]) == (
        f"{MAIL}/anna/Maildir",
        f"{MAIL}/annabel/Maildir/*/2.b*",
    )
    assert includes([]) == ()


@given(st.lists(st.text(min_size=1, max_size=50), max_size=40), st.integers(0, 3))
def test_portions_have_all_in_order(patterns: list[str], times: int) -> None:
    wanted = sorted(patterns) * (1 + times * 20)
    found = list(batches(wanted))
    assert [one for batch in found for one in batch] == wanted
    assert all(0 < len(batch) <= MOST_PATTERNS for batch in found)


def test_portions_fit_an_argv() -> None:
    long = [f"/{'x' * 4000}{number}" for number in range(1_000)]
    for batch in batches(long):
        assert sum(len(one.encode()) + len("--include=") + 9 for one in batch) <= MOST_OCTETS
    assert list(batches([])) == []


TOTALS = {"mail": {f"user{one}@example.net": Total(one, one * 100) for one in range(20)}, "other": {"": Total(9, 9)}}


def test_mailboxes_follow_from_the_seed() -> None:
    first = chosen_mailboxes(TOTALS, 5, "a", 10**9)
    assert first == chosen_mailboxes(dict(reversed(TOTALS.items())), 5, "a", 10**9) and len(set(first)) == 5
    assert first != chosen_mailboxes(TOTALS, 5, "b", 10**9)
    # An empty one proves nothing, and what is of no mailbox is none.
    every = chosen_mailboxes(TOTALS, 100, "a", 10**9)
    assert len(every) == 19 and ("mail", "user0@example.net") not in every


@given(st.integers(0, 20_000), st.integers(0, 30))
def test_mailboxes_have_room(room: int, count: int) -> None:
    found = chosen_mailboxes(TOTALS, count, "seed", room)
    assert len(found) <= count and sum(TOTALS[job][address].octets for job, address in found) <= room
