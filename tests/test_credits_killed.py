"""The credit run killed anywhere, and several at once: each credit once, its date moved once, the chain whole.

This file is also the process that is killed: `python test_credits_killed.py run|points URL...`.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import event, insert

from smartmail.core.credits import Grounds, Reason, Undoing, audit, credit_key
from smartmail.core.ledger import verify
from smartmail.core.months import Month, span_of
from smartmail.monitor.months import Months
from smartmail.store import credits, ledger, schema, subscriptions
from smartmail.store.credits import CreditOrder
from smartmail.store.database import Database
from smartmail.store.schema_monitor import residence

LONDON = ZoneInfo("Europe/London")
MAIL = Grounds("mail", "2026-10", span_of(Month(2026, 10), LONDON), 1, "d" * 64, "v1", LONDON)
BEFORE, AFTER = date(2027, 1, 31), date(2027, 2, 28)
PATIENCE = 60


class NoSamples:
    """A credit run asks for none."""

    def read(self, *_asked: object) -> object:
        raise AssertionError("samples were asked for")


def order(size: int) -> CreditOrder:
    return CreditOrder((MAIL,), "anna", 1000, size=size)


def make(folder: Path, count: int) -> str:
    """A database with `count` subscriptions on the service, ready to be copied. Returns its URL."""
    url = f"sqlite:///{folder / 'smartmail.db'}"
    with Database(url) as database:
        database.upgrade()
        with database.write() as connection:
            connection.execute(insert(schema.customer).values(id=1, name="Acme", contact="", created_ns=0))
            numbers = range(1, count + 1)
            values = {"customer": 1, "plan": "standard", "anchor_day": 31, "paid_through": BEFORE, "created_ns": 0}
            connection.execute(insert(schema.subscription), [{"id": number, **values} for number in numbers])
            connection.execute(
                insert(residence), [{"subscription": one, "service": "mail", "from_minute": 0} for one in numbers]
            )
    return url


def state(url: str) -> tuple[int, int]:
    """How many entries there are, and how many dates were moved; asserts that they belong together."""
    with Database(url) as database, database.read() as connection:
        entries = list(ledger.entries(connection))
        people = subscriptions.list_subscriptions(connection)
    assert verify(entries) == [] and audit(entries) == []
    moved = {one.id for one in people if one.paid_through == AFTER}
    assert {one.paid_through for one in people} <= {BEFORE, AFTER}
    assert Counter(one.key for one in entries) == Counter(credit_key(number, "2026-10") for number in moved)
    return len(entries), len(moved)


def credit_all(url: str, size: int) -> int:
    """A whole run, a line on standard output after each batch. Returns how many it granted."""
    granted = 0
    with Database(url) as database:
        for batch in Months(database, NoSamples(), ()).credits(order(size), apply=True):  # type: ignore[arg-type]
            granted += sum(one.reason is Reason.GRANTED for one in batch)
            print(len(batch), flush=True)
    return granted


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_killed_before_and_after_every_statement_and_commit_case_34(tmp_path: Path) -> None:
    """At each point a run of three batches dies and another goes on where it was: all in one warm process that forks,
    on a fresh copy of the database each time."""
    url = make(tmp_path, 6)
    with start("points", url, tmp_path / "copies") as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    seen = [json.loads(line) for line in output.splitlines()]
    assert len(seen) > 40, "every statement of three transactions"
    assert {tuple(one["killed"]) for one in seen} == {(0, 0), (2, 2), (4, 4), (6, 6)}, "whole batches only"
    assert all(one["after"] == [6, 6] for one in seen)


@pytest.mark.slow
def test_killed_at_random_again_and_again_case_34(tmp_path: Path) -> None:
    count, size = 400, 10
    url, dice, kills = make(tmp_path, count), random.Random(34), 0
    while True:
        with start("run", url, size) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            # What was credited already passes quickly; then it dies somewhere in the batches to come.
            done = state(url)[0] // size
            lines = [process.stdout.readline() for _ in range(done + dice.randint(2, 9))]
            process.kill()
            assert process.wait(PATIENCE) in (0, -signal.SIGKILL)
        kills += process.returncode != 0
        if state(url) == (count, count):
            break
        assert any(lines)
    assert kills >= 3
    assert credit_all(url, size) == 0


@pytest.mark.slow
def test_three_runs_racing_credit_each_once_case_34(tmp_path: Path) -> None:
    count = 600
    url = make(tmp_path, count)
    racers = [start("run", url, size) for size in (7, 10, 13)]
    outputs = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        with racer:
            outputs.append(racer.communicate(timeout=PATIENCE)[0])
        assert racer.returncode == 0
    granted = [int(output.split("granted ")[1]) for output in outputs]
    assert sum(granted) == count
    assert state(url) == (count, count)


def test_two_runs_that_interleave_batch_by_batch_credit_each_once_case_34(tmp_path: Path) -> None:
    url = make(tmp_path, 40)
    with Database(url) as one, Database(url) as other:
        runs = [
            Months(database, NoSamples(), ()).credits(order(size), apply=True)  # type: ignore[arg-type]
            for database, size in ((one, 7), (other, 3))
        ]
        granted = 0
        while runs:
            for run in list(runs):
                batch = next(run, None)
                if batch is None:
                    runs.remove(run)
                else:
                    granted += sum(decision.reason is Reason.GRANTED for decision in batch)
    assert granted == 40
    assert state(url) == (40, 40)


@pytest.mark.parametrize("point", range(1, 8))
def test_a_reversal_that_breaks_anywhere_is_done_whole_or_not_at_all_case_35(tmp_path: Path, point: int) -> None:
    class Broken(Exception):
        pass

    url = make(tmp_path, 1)
    credit_all(url, 5)
    undoing = Undoing("a mistake", "boris", 2000, date(2026, 11, 5))
    with Database(url) as database:
        left = point

        def break_off(*_statement: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Broken

        event.listen(database._engine, "after_cursor_execute", break_off)
        try:
            with database.write() as connection:
                credits.reverse_entry(connection, credit_key(1, "2026-10"), undoing)
        except Broken:
            assert state(url) == (1, 1)
        else:
            assert left > 0
        left = 0
        with database.read() as connection:
            held = len(list(ledger.entries(connection)))
            (person,) = subscriptions.list_subscriptions(connection)
    assert (held, person.paid_through) in ((1, AFTER), (2, BEFORE))


# the process that is killed


def die_at(point: int, database: Database) -> None:
    """Kill this process at the point-th of: before a statement, after it, before a commit, after it."""
    engine, seen = database._engine, 0

    def count(*_anything: object) -> None:
        nonlocal seen
        seen += 1
        if seen == point:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("before_cursor_execute", "after_cursor_execute", "begin", "commit", "checkin"):
        event.listen(engine, name, count)


def one_death(url: str, point: int) -> bool:
    """A run in a process of its own that dies at the point. Returns whether it came so far."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)
    with Database(url) as database:
        die_at(point, database)
        for _ in Months(database, NoSamples(), ()).credits(order(2), apply=True):  # type: ignore[arg-type]
            pass
    os._exit(0)


def all_points(url: str, folder: str) -> None:
    """Die at each point in turn, on a fresh copy; a line of JSON for each."""
    source, point = Path(url.removeprefix("sqlite:///")), 0
    while True:
        point += 1
        copy = Path(folder) / str(point)
        copy.mkdir(parents=True)
        shutil.copy(source, copy)
        copied = f"sqlite:///{copy / source.name}"
        if not one_death(copied, point):
            return
        killed = state(copied)
        with Database(copied) as database:
            for _ in Months(database, NoSamples(), ()).credits(order(2), apply=True):  # type: ignore[arg-type]
                pass
        print(json.dumps({"point": point, "killed": killed, "after": state(copied)}), flush=True)


def main() -> None:
    what, url, last = sys.argv[1:]
    if what == "points":
        all_points(url, last)
        return
    sys.stdin.readline()
    print("granted", credit_all(url, int(last)), flush=True)


if __name__ == "__main__":
    main()
