"""The same month in a table with a row for each sample, and the same question put to both. Steps as monitor_months.

rows FOLDER           the table of Uptime Kuma's heartbeats with the 60 streams of the month: FOLDER/rows.db
question FOLDER ROUNDS  verdicts, quorum and availability of the month: by SQL from the rows, and from the planes
"""

import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.monitor_data import CHECKS, LOCATIONS, SERVICE, TERMS, NoisyMonth, Stream
from benchmarks.monitor_months import answer, settle, url_of
from smartmail.core.minutes import LocationVotes, check_minutes, service_minutes
from smartmail.core.outcome import Vote, vote_of
from smartmail.core.roster import Roster, roster_planes, sla_planes, slot_second
from smartmail.core.sla import Assessment, assess
from smartmail.store.samples import SampleStore

PLANE_RUNS = 200

# As Uptime Kuma makes them (db/knex_init_db.js), foreign keys left out: they are not asked for, and cost it time.
TABLES = """
CREATE TABLE monitor (id INTEGER PRIMARY KEY, name VARCHAR(150), location VARCHAR(150));
CREATE TABLE heartbeat (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    important BOOLEAN NOT NULL DEFAULT 0,
    monitor_id INTEGER NOT NULL,
    status SMALLINT NOT NULL,
    msg TEXT,
    time DATETIME NOT NULL,
    ping INTEGER,
    duration INTEGER NOT NULL DEFAULT 0,
    down_count INTEGER NOT NULL DEFAULT 0
);
"""
INDICES = """
CREATE INDEX important ON heartbeat (important);
CREATE INDEX monitor_time_index ON heartbeat (monitor_id, time);
CREATE INDEX monitor_id_index ON heartbeat (monitor_id);
CREATE INDEX monitor_important_time_index ON heartbeat (monitor_id, important, time);
ANALYZE;
"""
_INSERT = (
    "INSERT INTO heartbeat (important, monitor_id, status, msg, time, ping, duration) VALUES (?, ?, ?, ?, ?, ?, 60)"
)

# The fastest of eight ways to say it that were tried: no index (each leads to a scan in another order, and a larger
# sort), the check by arithmetic instead of a join. A stream has at most one row a minute here, so nothing must be
# decided between rows.
QUESTION = """
WITH verdict AS (
    SELECT substr(time, 1, 16) AS minute, (monitor_id - 1) % :checks AS number,
        sum(status = 0) AS failing, sum(status = 1) AS seen_up
    FROM heartbeat NOT INDEXED
    WHERE time >= :first AND time < :end
    GROUP BY minute, number
), service AS (
    SELECT minute, max(failing * 2 > :locations) AS down,
        sum(failing * 2 > :locations OR seen_up >= :reporters) AS decided
    FROM verdict GROUP BY minute
)
SELECT sum(down), sum(NOT down AND decided = :checks), sum(NOT down AND decided < :checks), count(*) FROM service
"""


@dataclass(frozen=True, slots=True)
class Told:
    """The answer: minutes of the service."""

    down: int
    up: int
    unknown: int

    @property
    def availability(self) -> str:
        """Per cent, unknown minutes as down, cut off after three places."""
        share = self.up * 100_000 // (self.up + self.down + self.unknown)
        return f"{share // 1000}.{share % 1000:03}"


def rows(folder: Path) -> None:
    """Fill the table in order of time, as it would grow, and make the indices at the end: the faster way."""
    month, file = NoisyMonth(), folder / "rows.db"
    connection = sqlite3.connect(file)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + TABLES)
    streams = list(month.streams.values())
    connection.executemany(
        "INSERT INTO monitor VALUES (?, ?, ?)",
        [(number, stream.check, stream.location) for number, stream in enumerate(streams, 1)],
    )
    began = time.perf_counter()
    with connection:
        connection.executemany(_INSERT, _heartbeats(month, streams))
    connection.executescript(INDICES)
    seconds = time.perf_counter() - began
    (count,) = connection.execute("SELECT count(*) FROM heartbeat").fetchone()
    connection.close()
    octets = settle(file)
    answer(rows=count, database_octets=octets, bytes_per_sample=octets / count, seconds=seconds)


def _heartbeats(month: NoisyMonth, streams: list[Stream]) -> Iterator[tuple[object, ...]]:
    status = {Vote.UP: 1, Vote.DOWN: 0, Vote.ABSTAIN: 2, Vote.ERROR: 2}
    start = datetime.fromtimestamp(month.span.first * 60, UTC)
    seconds = [f":{slot_second(stream.check, stream.location):02}.000" for stream in streams]
    before = [1] * len(streams)
    for minute in range(month.span.minutes):
        at = (start + timedelta(minutes=minute)).strftime("%Y-%m-%d %H:%M")
        for place, stream in enumerate(streams):
            outcome = stream.outcomes[minute]
            if outcome:
                now = status[vote_of(outcome)]
                important = now != before[place]
                before[place] = now
                message = stream.details.get(minute, "200 - OK")
                yield important, place + 1, now, message, at + seconds[place], stream.latencies[minute]


def _asked(connection: sqlite3.Connection, month: NoisyMonth) -> Told:
    """By SQL. A minute in which nobody said anything of anything has no row: it is unknown too."""
    first, end = (
        datetime.fromtimestamp(minute * 60, UTC).strftime("%Y-%m-%d %H:%M:%S")
        for minute in (month.span.first, month.span.end)
    )
    values = {
        "first": first,
        "end": end,
        "locations": len(LOCATIONS),
        "checks": len(CHECKS),
        "reporters": TERMS.minimum_reporters,
    }
    down, up, unknown, minutes = connection.execute(QUESTION, values).fetchone()
    return Told(down, up, unknown + month.span.minutes - minutes)


def _reckoned(roster: Roster, votes: dict[str, dict[str, LocationVotes]], month: NoisyMonth) -> Assessment:
    """By planes: the product's own functions, from the roster to the availability."""
    span = month.span
    rosters = roster_planes([roster], span.first, span.end)
    bearing = sla_planes([roster], SERVICE, span.first, span.end)
    reporters, minutes = TERMS.minimum_reporters, span.minutes
    checks = {
        check: check_minutes(votes[check], locations, {}, reporters, minutes) for check, locations in rosters.items()
    }
    return assess(service_minutes(checks, bearing, minutes), 0, TERMS, span)


def _timed(work: Callable[[], object], runs: int) -> list[float]:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return times


def question(folder: Path, rounds: int) -> None:
    """Each side answers in turn, round by round. Their answers are held against each other."""
    month = NoisyMonth()
    store = SampleStore(url_of(folder / "month.db"))
    votes: dict[str, dict[str, LocationVotes]] = {}
    for (check, location), planes in store.read_planes(month.span, CHECKS).items():
        votes.setdefault(check, {})[location] = LocationVotes(planes.up, planes.down)
    connection = sqlite3.connect(folder / "rows.db")
    # All of the table fits into its cache, and the sort stays in memory.
    connection.executescript("PRAGMA cache_size=-1000000; PRAGMA mmap_size=2000000000; PRAGMA temp_store=MEMORY;")
    roster = month.roster
    told, assessed = _asked(connection, month), _reckoned(roster, votes, month)
    reckoned = Told(assessed.down_minutes, assessed.up_minutes, assessed.unknown_minutes)
    if told != reckoned or told.availability != assessed.availability_low:
        raise SystemExit(
            f"the rows say {told}, {told.availability}; the planes {reckoned}, {assessed.availability_low}"
        )
    by_rows: list[float] = []
    by_planes: list[float] = []
    for _ in range(rounds):
        by_rows += _timed(lambda: _asked(connection, month), 1)
        by_planes += _timed(lambda: _reckoned(roster, votes, month), PLANE_RUNS)
    from_raw = _timed(lambda: store.read_planes(month.span, CHECKS), 3)
    connection.close()
    answer(
        rows_s=statistics.median(by_rows),
        planes_s=statistics.median(by_planes),
        planes_from_segments_s=statistics.median(from_raw),
        down=told.down,
        unknown=told.unknown,
        availability=told.availability,
    )


def main(words: list[str]) -> None:
    """Run the step named by the first word."""
    if words[0] == "rows":
        rows(Path(words[1]))
    else:
        question(Path(words[1]), int(words[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
