"""The event writer: nothing that was handed over is lost while the process lives, whatever the database does."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from smartmail.store import writer as writer_module
from smartmail.store.errors import StoreUnavailable
from smartmail.store.events import COLUMNS, EventRow
from smartmail.store.saved import stored_counters
from smartmail.store.sqlite import connect
from smartmail.store.writer import COMMIT_ROWS, EventWriter

Make = Callable[..., EventRow]


@contextmanager
def running(url: str) -> Iterator[EventWriter]:
    writer = EventWriter(url)
    writer.start()
    try:
        yield writer
    finally:
        writer.stop(30)


def rows_of(url: str, columns: str = "session") -> list[tuple[object, ...]]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        return connection.execute(f"SELECT {columns} FROM transaction_event ORDER BY id").fetchall()
    finally:
        connection.close()


def test_ten_thousand_rows_are_all_there_in_order(url: str, event: Make) -> None:
    with running(url) as writer:
        for number in range(10_000):
            writer.put(event(session=f"s{number}"))
        assert writer.flush(60)
        assert (writer.committed, writer.backlog, writer.dropped) == (10_000, 0, 0)
    assert rows_of(url) == [(f"s{number}",) for number in range(10_000)]


def test_a_row_arrives_as_it_was_put(url: str, event: Make) -> None:
    row = event(
        at_ns=7,
        account_id=3,
        recipients=[("b@example.net", 250, "ok"), ("c@example.net", 550, "upstream_refused")],
        verdict="accepted",
        timings={"mail": 12},
    )
    with running(url) as writer:
        writer.put(row)
    (stored,) = rows_of(url, ", ".join(COLUMNS))
    found = dict(zip(COLUMNS, stored, strict=True))
    assert json.loads(str(found.pop("recipients"))) == [
        ["b@example.net", 250, "ok"],
        ["c@example.net", 550, row[10][1][2]],
    ]
    assert json.loads(str(found.pop("timings"))) == {"mail": 12}
    assert found == {name: value for name, value in row._asdict().items() if name not in ("recipients", "timings")}


def test_many_rows_make_one_commit(url: str, event: Make) -> None:
    writer = EventWriter(url)
    for number in range(COMMIT_ROWS + 1):
        writer.put(event(session=str(number)))
    assert writer.step()
    assert writer.committed == COMMIT_ROWS
    assert writer.step()
    assert writer.committed == COMMIT_ROWS + 1


def test_a_full_backlog_drops_the_new_and_counts_it(url: str, event: Make) -> None:
    writer = EventWriter(url, max_backlog=3)
    for number in range(5):
        writer.put(event(session=str(number)))
    assert writer.dropped == 2
    assert writer.step()
    assert rows_of(url) == [("0",), ("1",), ("2",)]


def test_a_locked_database_is_waited_for(url: str, event: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "PRAGMA busy_timeout=1")
    other = connect(url)
    other.execute("BEGIN IMMEDIATE")
    writer = EventWriter(url)
    writer.put(event(session="first"))
    assert not writer.step()
    writer.put(event(session="second"))
    assert not writer.step()
    assert (writer.failed_batches, writer.committed, writer.backlog) == (2, 0, 2)
    assert "locked" in writer.last_error
    other.execute("ROLLBACK")
    other.close()
    assert writer.step()
    assert writer.last_error == ""
    assert rows_of(url) == [("first",), ("second",)]


def test_a_full_disk_loses_nothing(url: str, event: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, "PRAGMA max_page_count=1")  # SQLite takes it as: not one page more
    writer = EventWriter(url)
    for number in range(2000):
        writer.put(event(session=f"s{number}", reply="x" * 100))
    while writer.step():
        assert writer.committed < 2000
    assert "full" in writer.last_error
    assert len(rows_of(url)) == writer.committed
    assert writer.committed + writer.backlog == 2000
    monkeypatch.undo()
    with running_on(writer):
        assert writer.flush(60)
    assert rows_of(url) == [(f"s{number}",) for number in range(2000)]


def test_rows_put_while_the_disk_is_full_follow_those_that_wait(
    url: str, event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the thread gets over it by itself."""
    refused = threading.Event()

    def full(_url: str) -> sqlite3.Connection:
        refused.set()
        raise sqlite3.OperationalError("database or disk is full")

    with running(url) as writer:
        monkeypatch.setattr(writer_module, "connect", full)
        writer._connection = None
        writer.put(event(session="first"))
        assert refused.wait(60)
        writer.put(event(session="second"))
        assert not writer.flush(0.01)
        monkeypatch.undo()
        assert writer.flush(60)
        assert writer.failed_batches > 0
    assert rows_of(url) == [("first",), ("second",)]


def test_one_row_that_no_database_takes_does_not_hold_up_the_others(url: str, event: Make) -> None:
    with running(url) as writer:
        writer.put(event(session="good"))
        writer.put(event(session="bad", at_ns=2**70))
        writer.put(event(session="worse", timings=object()))
        writer.put(event(session=None))
        writer.put(event(session="last"))
        assert writer.flush(60)
        assert (writer.committed, writer.rejected, writer.backlog) == (2, 3, 0)
    assert rows_of(url) == [("good",), ("last",)]


def test_octets_that_are_no_utf_8_are_kept_readable(url: str, event: Make) -> None:
    with running(url) as writer:
        writer.put(event(helo="caf\udce9", recipients=[("x\udcff@example.net", 250, "ok")]))
        assert writer.flush(60)
        assert writer.rejected == 0
    assert rows_of(url, "helo") == [("caf\\xe9",)]


def test_the_newest_counters_are_stored(url: str, event: Make) -> None:
    with running(url) as writer:
        assert stored_counters(url) is None
        writer.store_counters(b"old")
        writer.store_counters(b"new")
        assert writer.flush(60)
        assert stored_counters(url) == b"new"
        writer.store_counters(b"newest")
        writer.put(event())
    assert stored_counters(url) == b"newest"


def test_a_writer_that_was_stopped_has_written_everything(url: str, event: Make) -> None:
    writer = EventWriter(url)
    writer.start()
    for _ in range(1234):
        writer.put(event())
    assert writer.stop(60)
    assert len(rows_of(url)) == 1234


def test_stopping_with_the_database_away_says_that_rows_are_left(
    url: str, event: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch, "PRAGMA busy_timeout=1")
    with running(url) as writer:
        other = connect(url)
        other.execute("BEGIN IMMEDIATE")
        writer.put(event())
        assert not writer.stop(0.5)
        assert writer.backlog == 1
        other.close()


def test_a_writer_without_a_database_does_not_start(tmp_path: object) -> None:
    with pytest.raises(StoreUnavailable):
        EventWriter(f"sqlite:///{tmp_path}/none.db").start()


KILLED = """
import sys
from smartmail.store.events import EventRow
from smartmail.store.writer import EventWriter

writer = EventWriter(sys.argv[1])
writer.start()
number = 0
while True:
    for _ in range(100):
        writer.put(EventRow(1, str(number), "submission", "192.0.2.1"))
        number += 1
    writer.flush(10)
    print(writer.committed, flush=True)
"""


def test_kill_9_keeps_every_row_that_was_committed(url: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        committed = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    committed = max([committed, *(int(line) for line in process.stdout if line.endswith("\n"))])
    process.wait()
    process.stdout.close()
    rows = rows_of(url)
    assert len(rows) >= committed >= 500
    assert rows == [(str(number),) for number in range(len(rows))]
    connection = connect(url)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def impatient(monkeypatch: pytest.MonkeyPatch, pragma: str) -> None:
    """Have the writer's connections opened with one more pragma."""

    def connect_so(url: str) -> sqlite3.Connection:
        connection = connect(url)
        connection.execute(pragma)
        return connection

    monkeypatch.setattr(writer_module, "connect", connect_so)


@contextmanager
def running_on(writer: EventWriter) -> Iterator[None]:
    writer.start()
    try:
        yield
    finally:
        writer.stop(30)
