"""When what the configuration watches comes into force: not before the agents have heard of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.config import CheckConfig, Config, MonitorConfig
from smartmail.core.roster import CheckKind, Roster
from smartmail.core.slots import MINUTE_MS, RosterBook, slot_ms
from smartmail.monitor.rosters import LEAD_MINUTES, put_in_force, roster_of
from smartmail.store.agents import roster_history
from smartmail.store.database import Database

NOW_MS = 1_790_000_040_000
MINUTE = NOW_MS // MINUTE_MS


def wanted(*checks: str, locations: tuple[str, ...] = ("berlin", "toronto")) -> Roster:
    made = tuple(CheckConfig(name=one, service="mail", kind=CheckKind.TCP, host="mail.example.com") for one in checks)
    return roster_of(Config(monitor=MonitorConfig(locations=locations), check=made))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path / 'smartmail.db'}") as database:
        database.upgrade()
        yield database


def history(database: Database) -> list[tuple[int, int]]:
    """(version, minutes from now) of each roster."""
    with database.read() as connection:
        return [(one.version, one.from_minute - MINUTE) for one in roster_history(connection)]


@pytest.mark.parametrize("second", [0, 1, 59])
def test_the_very_first_counts_from_the_next_minute_on(database: Database, second: int) -> None:
    made = put_in_force(database, wanted("imap"), NOW_MS + 1000 * second)
    assert made is not None
    assert [check.name for check in made.checks] == ["imap"]
    assert history(database) == [(1, 1)]


@pytest.mark.parametrize("second", [0, 1, 59])
def test_a_change_counts_three_minutes_ahead(database: Database, second: int) -> None:
    put_in_force(database, wanted("imap"), NOW_MS - 3_600_000)
    put_in_force(database, wanted("imap", "pop3"), NOW_MS + 1000 * second)
    assert history(database)[1:] == [(2, LEAD_MINUTES)] == [(2, 3)]


@given(st.integers(0, MINUTE_MS - 1), st.integers(0, MINUTE_MS))
def test_an_agent_that_asks_once_a_minute_hears_of_a_change_before_it_counts_even_if_one_answer_is_lost(
    changed_ms: int, asks_ms: int
) -> None:
    counts_ms = (NOW_MS + changed_ms) // MINUTE_MS * MINUTE_MS + LEAD_MINUTES * MINUTE_MS
    assert NOW_MS + changed_ms + asks_ms + MINUTE_MS <= counts_ms


def test_until_then_the_old_one_is_worked_by(database: Database) -> None:
    put_in_force(database, wanted("imap"), NOW_MS - 3_600_000)
    put_in_force(database, wanted("pop3"), NOW_MS)
    with database.read() as connection:
        book = RosterBook(roster_history(connection), "berlin")
    slots = book.between(NOW_MS - 1, NOW_MS + 5 * MINUTE_MS - 1)
    begun = [(slot.at_ms - NOW_MS, check.name) for slot in slots for check in slot.checks]
    imap, pop3 = slot_ms("imap", "berlin"), slot_ms("pop3", "berlin")
    assert begun == [
        *((minute * MINUTE_MS + imap, "imap") for minute in range(3)),
        *((minute * MINUTE_MS + pop3, "pop3") for minute in range(3, 5)),
    ]


def test_what_is_in_force_already_is_not_written_again(database: Database) -> None:
    assert put_in_force(database, wanted("imap"), NOW_MS) is not None
    assert put_in_force(database, wanted("imap"), NOW_MS + 3_600_000) is None
    assert history(database) == [(1, 1)]


def test_what_is_to_come_is_not_written_again_either(database: Database) -> None:
    put_in_force(database, wanted("imap"), NOW_MS - 3_600_000)
    put_in_force(database, wanted("pop3"), NOW_MS)
    assert put_in_force(database, wanted("pop3"), NOW_MS + 1000) is None
    assert history(database)[1:] == [(2, 3)]


def test_a_change_of_a_change_comes_no_earlier_than_it(database: Database) -> None:
    put_in_force(database, wanted("imap"), NOW_MS - 3_600_000)
    put_in_force(database, wanted("pop3"), NOW_MS)
    put_in_force(database, wanted("sieve"), NOW_MS - 5 * MINUTE_MS)  # a clock that was set back
    assert history(database)[1:] == [(2, 3), (3, 3)]


def test_nothing_to_watch_is_no_roster_until_there_was_something(database: Database) -> None:
    assert put_in_force(database, wanted(locations=()), NOW_MS) is None
    put_in_force(database, wanted("imap"), NOW_MS)
    assert put_in_force(database, wanted(locations=()), NOW_MS) is not None
    assert history(database) == [(1, 1), (2, 3)]
