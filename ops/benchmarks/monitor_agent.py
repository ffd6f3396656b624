"""One agent with thousands of checks, for whole minutes: `smartmail agent run` on one core, everything else on another.

The figures come from the samples that it handed in: each says, to the millisecond, when its probe began.

prepare FOLDER PORT STORE CHECKS   what an agent of so many IMAPS checks needs: a roster and a token in the collector's
                                   database, the login of its probes, a certificate for the mail server
samples STORE FIRST MINUTES        what the journal holds of so many minutes from FIRST (epoch ms) on, held against the
                                   slots
"""

import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.monitor_collector import LOCATION
from benchmarks.monitor_months import answer
from benchmarks.report import percentile
from smartmail.core.outcome import Vote, vote_of
from smartmail.core.roster import CheckKind, CheckSpec, Roster
from smartmail.core.signing import token_digest
from smartmail.core.slots import MINUTE_MS, ON_TIME_MS, slot_ms
from smartmail.store import agents
from smartmail.store.database import Database
from smartmail.store.segments import journal
from smartmail.store.sqlite import connect
from smartmail.web.certificate import self_made

EARLY_MS = 5_000
SECRET = "probe"
LOGIN, PASSWORD = "probe@example.test", "bench-only-not-a-secret"


@dataclass(frozen=True, slots=True)
class Minutes:
    """What came of whole minutes. expected: slots. late_ms: from each slot to the start of its probe, in order."""

    expected: int
    good: Sequence[int]
    """Probes that ended well, by minute."""
    late_ms: Sequence[int]
    latency_ms: Sequence[int]
    outcomes: dict[str, int]

    @property
    def on_time_per_mille(self) -> int:
        """Of all slots, those that were begun within the second; one that was not begun is not on time. Floored."""
        return sum(late <= ON_TIME_MS for late in self.late_ms) * 1000 // self.expected


def prepare(folder: Path, port: int, store_url: str, checks: int) -> None:
    """Everything but enrolling."""
    home, token_file = folder / "agent", folder / "token"
    (home / "secrets").mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    secret = home / "secrets" / SECRET
    secret.write_text(f"{LOGIN}\n{PASSWORD}\n")
    secret.chmod(0o600)
    token_file.write_text(f"{_write_roster(store_url, checks, port)}\n")
    pair = self_made(folder / "imap", "localhost")
    answer(
        home=str(home),
        token_file=str(token_file),
        certificate=str(pair.certificate),
        key=str(pair.key),
        login=LOGIN,
        password=PASSWORD,
    )


def _write_roster(store_url: str, checks: int, port: int) -> str:
    """In force from this minute on. Gives the token."""
    options = MappingProxyType({"secret": SECRET, "tls_name": "localhost"})
    specs = tuple(
        CheckSpec(f"c{number:05}", "mail", CheckKind.IMAPS, "127.0.0.1", port, (LOCATION,), True, options)
        for number in range(1, checks + 1)
    )
    now = int(time.time() * 1000)
    token = f"{LOCATION}.bench-{now}"
    with Database(store_url) as database, database.write() as connection:
        agents.add_roster(connection, Roster(1, now // MINUTE_MS, (LOCATION,), specs))
        agents.add_token(
            connection, token_digest(token), LOCATION, made_by="bench", made_ms=now, expires_ms=now + 600_000
        )
    return token


def count(store_url: str, first_ms: int, minutes: int) -> Minutes:
    """Every check of the newest roster has one slot in each of the minutes from `first_ms` on, wherever that lies in
    the minute."""
    with Database(store_url) as database, database.read() as reading:
        roster = agents.roster_history(reading)[-1]
    slots = {check.name: slot_ms(check.name, LOCATION) for check in roster.checks}
    connection: sqlite3.Connection = connect(store_url, read_only=True)
    rows = journal(connection)
    connection.close()
    seen: dict[tuple[str, int], tuple[int, int, int]] = {}
    for row in rows:
        for sample in row.batch().samples:
            if (slot := slots.get(sample.check)) is not None:
                late = lateness(sample.started_ms, slot)
                minute = (sample.started_ms - late - first_ms) // MINUTE_MS
                if 0 <= minute < minutes:
                    seen[sample.check, minute] = (late, int(sample.outcome), sample.latency_ms)
    good = Counter(minute for (_, minute), (_, outcome, _) in seen.items() if vote_of(outcome) is Vote.UP)
    return Minutes(
        len(slots) * minutes,
        [good[minute] for minute in range(minutes)],
        sorted(late for late, _, _ in seen.values()),
        sorted(latency for _, _, latency in seen.values()),
        {str(outcome): number for outcome, number in Counter(outcome for _, outcome, _ in seen.values()).items()},
    )


def lateness(started_ms: int, slot: int) -> int:
    """From a check's slot to its probe's start. A clock that was put right meanwhile may show it a little early."""
    return (started_ms - slot + EARLY_MS) % MINUTE_MS - EARLY_MS


def tell(found: Minutes) -> None:
    """The line for the benchmark."""
    answer(
        expected=found.expected,
        good=list(found.good),
        on_time_per_mille=found.on_time_per_mille,
        outcomes=found.outcomes,
        late_ms={name: percentile(found.late_ms, share) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1))},
        latency_ms={name: percentile(found.latency_ms, share) for name, share in (("p50", 0.5), ("p99", 0.99))},
    )


def main(words: list[str]) -> None:
    """Run the step named by the first word."""
    if words[0] == "prepare":
        prepare(Path(words[1]), int(words[2]), words[3], int(words[4]))
    else:
        tell(count(words[1], int(words[2]), int(words[3])))


if __name__ == "__main__":
    main(sys.argv[1:])
