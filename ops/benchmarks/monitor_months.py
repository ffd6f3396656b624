"""Months and credits, each step a process of its own with one JSON line on stdout.

build FOLDER            the noisy month as sealed segments: FOLDER/month.db
close FOLDER ROUND      close it in a copy, from the raw segments to the written revision
subscribe FOLDER COUNT  the closed month with so many subscriptions: FOLDER/subscribed.db
credit FOLDER ROUND     the credit run on a copy, and everything about it verified
report FOLDER ROUND     the month's report with a line for each credit, in the forms that anybody would send
"""

import hashlib
import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from sqlalchemy import insert, select

from benchmarks.monitor_data import CHECKS, MONTH, SERVICE, TERMS, NoisyMonth
from smartmail.core.credits import Reason, audit
from smartmail.core.ledger import Entry, Kind, shift_paid, verify
from smartmail.core.planes import to_bytes
from smartmail.core.sample import encode_batch
from smartmail.monitor.months import Months
from smartmail.store import ledger, schema, sla
from smartmail.store.agents import add_roster
from smartmail.store.database import Database
from smartmail.store.records import Act
from smartmail.store.samples import SampleStore
from smartmail.store.schema_monitor import residence

ANCHORS = 28
PAID_THROUGH = date(2026, 11, 1)


def answer(**values: object) -> None:
    """One JSON line to whoever started us."""
    print(json.dumps(values), flush=True)


def url_of(file: Path) -> str:
    """The store's URL of a database file."""
    return f"sqlite:///{file}"


def copied(folder: Path, source: str, name: str) -> Path:
    """A fresh copy of a database that nobody has open."""
    target = folder / name
    shutil.copyfile(folder / source, target)
    return target


def settle(file: Path) -> int:
    """Bring everything out of the write-ahead log; the octets of all pages that are in use."""
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sizes = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")]
        page = int(connection.execute("PRAGMA page_size").fetchone()[0])
    connection.close()
    return (int(sizes[0]) - int(sizes[1])) * page


def months_of(database: Database) -> Months:
    """The months of a database under the terms of the benchmark."""
    return Months(database, SampleStore(database.url), [TERMS])


def closing(month: NoisyMonth) -> Act:
    """Just after the grace."""
    return Act("bench", "", (month.span.end + TERMS.grace_minutes) * 60 * 10**9)


def build(folder: Path) -> None:
    """Every sample through the store's own writer and the sealing."""
    month, file = NoisyMonth(), folder / "month.db"
    with Database(url_of(file)) as database:
        database.upgrade()
        with database.write() as connection:
            add_roster(connection, month.roster)
            sla.record_announcement(connection, month.servicing)
    store = SampleStore(url_of(file))
    store.start()
    octets = accepted = 0
    for batch in month.batches():
        written = encode_batch(batch)
        octets += len(written)
        accepted += store.put(written, batch, batch.made_ms).result(60).accepted
    store.stop()
    began = time.perf_counter()
    store.seal()
    sealing = time.perf_counter() - began
    used = settle(file)
    samples = sum(stream.samples for stream in month.streams.values())
    looks = sum(stream.samples for stream in month.controls.values())
    if accepted != samples + looks:
        raise SystemExit(f"{accepted} samples were taken, of {samples + looks}")
    planes = store.read_planes(month.span, CHECKS)
    stored = [len(to_bytes(one, month.span.minutes)) for votes in planes.values() for one in (votes.up, votes.down)]
    answer(
        streams=len(planes),
        samples=samples,
        control_samples=looks,
        database_octets=used,
        # All of the database is charged to the probes alone: tables, indices, and the looks at the control targets.
        bytes_per_sample=used / samples,
        journal_bytes_per_sample=octets / accepted,
        plane_bytes=sum(stored) / len(planes),
        seal_per_s=accepted / sealing,
    )


def close(folder: Path, number: int) -> None:
    """Raw segments -> evidence -> verdicts -> record -> digest -> revision and ledger entry, committed."""
    month = NoisyMonth()
    file = copied(folder, "month.db", f"closed-{number}.db")
    with Database(url_of(file)) as database:
        months = months_of(database)
        months.services(MONTH)  # imports, zone and engine are there before the clock runs
        act = closing(month)
        began = time.perf_counter()
        revision = months.close(SERVICE, MONTH, act)
        seconds = time.perf_counter() - began
        with database.read() as connection:
            stored = sla.get_revision(connection, SERVICE, str(MONTH))
        assessment = months.judge(SERVICE, MONTH, act.at_ns // 10**6).assessment
    settle(file)
    answer(
        seconds=seconds,
        record_sha256=hashlib.sha256(stored.record.encode()).hexdigest(),
        digest=revision.digest,
        record_octets=len(stored.record),
        result=revision.result,
        credited=revision.credited,
        down=assessment.down_minutes,
        unknown=assessment.unknown_minutes,
    )


def subscribe(folder: Path, count: int) -> None:
    """Subscriptions of as many customers, with all anchor days, each living on the service since before the month."""
    first = NoisyMonth().span.first
    created_ns = (first - 60 * 1440) * 60 * 10**9
    file = copied(folder, "closed-1.db", "subscribed.db")
    numbers = range(1, count + 1)
    with Database(url_of(file)) as database, database.write() as connection:
        connection.execute(insert(schema.plan).values(name="mail"))
        connection.execute(
            insert(schema.customer),
            [{"id": number, "name": f"customer-{number}", "created_ns": created_ns} for number in numbers],
        )
        connection.execute(
            insert(schema.subscription),
            [
                {
                    "id": number,
                    "customer": number,
                    "plan": "mail",
                    "anchor_day": number % ANCHORS + 1,
                    "paid_through": PAID_THROUGH.replace(day=number % ANCHORS + 1),
                    "created_ns": created_ns,
                }
                for number in numbers
            ],
        )
        connection.execute(
            insert(residence),
            [{"subscription": number, "service": SERVICE, "from_minute": first - 60 * 1440} for number in numbers],
        )
    settle(file)
    answer(subscriptions=count)


def credit(folder: Path, number: int) -> None:
    """The run as `smartmail sla credits --apply` does it, then the proof, then the run once more: nothing is left."""
    file = copied(folder, "subscribed.db", f"credited-{number}.db")
    with Database(url_of(file)) as database:
        months = months_of(database)
        act = closing(NoisyMonth())
        months.services(MONTH)
        began = time.perf_counter()
        order = months.credit_order(MONTH, act)
        granted = sum(one.reason is Reason.GRANTED for batch in months.credits(order, apply=True) for one in batch)
        seconds = time.perf_counter() - began
        again_began = time.perf_counter()
        again = sum(one.reason is Reason.GRANTED for batch in months.credits(order, apply=True) for one in batch)
        again_seconds = time.perf_counter() - again_began
        faults = _faults(database, granted)
    used = settle(file)
    answer(seconds=seconds, again_seconds=again_seconds, granted=granted, again=again, faults=faults, octets=used)


def _faults(database: Database, granted: int) -> list[str]:
    """What is not as it must be after a credit run: the chain, the sums, each key once, each date moved once."""
    with database.read() as connection:
        entries: list[Entry] = list(ledger.entries(connection))
        paid = dict(connection.execute(select(schema.subscription.c.id, schema.subscription.c.paid_through)).all())
    found = [str(problem) for problem in verify(entries)] + audit(entries)
    credits = [entry for entry in entries if entry.kind == Kind.CREDIT_GRANTED]
    if len(credits) != granted or len({entry.subject for entry in credits}) != granted or granted != len(paid):
        found.append(f"{len(credits)} credits in the ledger, {granted} granted, {len(paid)} subscriptions")
    for subscription, day in paid.items():
        anchor = subscription % ANCHORS + 1
        if day != shift_paid(PAID_THROUGH.replace(day=anchor), 1, anchor):
            found.append(f"subscription {subscription} is paid through {day}")
    return found[:5]


def report(folder: Path, number: int) -> None:
    """Reading and building the report, then each form."""
    from smartmail.report.gather import Wanted, gather
    from smartmail.report.outputs import Form, write

    with Database(url_of(folder / f"credited-{number}.db")) as database:
        began = time.perf_counter()
        made = gather(database, Wanted(SERVICE, str(MONTH)), SampleStore(database.url).failures)
        seconds = {"gather": time.perf_counter() - began}
        octets: dict[str, int] = {}
        for form in (Form.CREDITS, Form.JSON, Form.HTML, Form.TERMINAL):
            began = time.perf_counter()
            octets[form.value] = len(write(made, form))
            seconds[form.value] = time.perf_counter() - began
    answer(seconds=seconds, octets=octets)


def main(words: list[str]) -> None:
    """Run the step named by the first word."""
    steps: dict[str, Callable[[], None]] = {
        "build": lambda: build(Path(words[1])),
        "close": lambda: close(Path(words[1]), int(words[2])),
        "subscribe": lambda: subscribe(Path(words[1]), int(words[2])),
        "credit": lambda: credit(Path(words[1]), int(words[2])),
        "report": lambda: report(Path(words[1]), int(words[2])),
    }
    steps[words[0]]()


if __name__ == "__main__":
    main(sys.argv[1:])
