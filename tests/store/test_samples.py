"""The sample store: each sample once, whatever the order, the collector, the sealing or the fault."""

import asyncio
import random
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from smartmail.core.columns import DAY_MINUTES, Column, StreamPlanes, Summary
from smartmail.core.months import Span
from smartmail.core.outcome import Outcome
from smartmail.core.sample import Batch, Sample, encode_batch
from smartmail.store import sample_writer as writer_module
from smartmail.store import sealing, segments
from smartmail.store.errors import NotFound, StoreUnavailable
from smartmail.store.sample_writer import SampleWriter, Taken
from smartmail.store.samples import Change, Failure, SampleStore
from smartmail.store.sqlite import connect

DAY = 20_500
FIRST = DAY * DAY_MINUTES
SPAN = Span(FIRST, FIRST + 2 * DAY_MINUTES)
LATE = (FIRST + 5 * DAY_MINUTES) * 60_000
"""When the batches come, if it does not matter."""


def sample(minute: int, outcome: int = 1, **fields: object) -> Sample:
    """Of the check mx, `minute` minutes after FIRST."""
    made = Sample("mx", (FIRST + minute) * 60_000 + 5_017, outcome, 20, "" if outcome == 1 else "why")
    return made._replace(**fields)  # type: ignore[arg-type]


def batch(samples: Iterable[Sample], sequence: int = 1, location: str = "ams") -> Batch:
    return Batch(f"agent-{location}", location, sequence, LATE, 12, tuple(samples))


def put(store: SampleStore, one: Batch, received_ms: int = LATE) -> Taken:
    return store.put(encode_batch(one), one, received_ms).result(60)


@contextmanager
def running(url: str) -> Iterator[SampleStore]:
    store = SampleStore(url)
    store.start()
    try:
        yield store
    finally:
        store.stop()


@pytest.fixture
def store(url: str) -> Iterator[SampleStore]:
    with running(url) as store:
        yield store


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def impatient(monkeypatch: pytest.MonkeyPatch, pragma: str = "PRAGMA busy_timeout=1") -> None:
    """Every connection from now on has this pragma too."""

    def connect_so(url: str, **how: bool) -> sqlite3.Connection:
        connection = connect(url, **how)
        connection.execute(pragma)
        return connection

    monkeypatch.setattr(writer_module, "connect", connect_so)
    monkeypatch.setattr(segments, "connect", connect_so)


def test_samples_become_planes(store: SampleStore) -> None:
    votes = [Outcome.OK, Outcome.TIMEOUT, Outcome.CONTROL_FAILED, Outcome.MONITOR_ERROR]
    taken = put(store, batch(sample(minute, vote) for minute, vote in enumerate(votes)))
    assert taken == Taken(4, 0, 0, 0, 1)
    for _ in ("in the journal", "sealed"):
        assert store.read_planes(SPAN) == {("mx", "ams"): StreamPlanes(1, 2, 4, 8)}
        assert store.read_planes(Span(FIRST + 1, FIRST + 3)) == {("mx", "ams"): StreamPlanes(0, 1, 2, 0)}
        assert store.read_planes(Span(FIRST + 4, FIRST + 9)) == {}
        assert store.read_planes(SPAN, ["imaps"]) == {}
        assert store.read(SPAN).planes == store.read_planes(SPAN, {"mx"})
        assert store.streams(SPAN) == (("mx", "ams"),)
        store.seal()


def test_an_awaited_batch_is_durable(store: SampleStore) -> None:
    one = batch([sample(0)])
    taken = asyncio.run(_awaited(store, one))
    assert taken.accepted == 1
    with running(store.url) as other:
        assert put(other, one).duplicates == 1


async def _awaited(store: SampleStore, one: Batch) -> Taken:
    return await asyncio.wrap_future(store.put(encode_batch(one), one, LATE))


def test_commits_are_synced_to_the_disk(url: str) -> None:
    """An acknowledged sample survives the loss of power: synchronous=FULL on the writer's connection."""
    writer = SampleWriter(url)
    connection = writer._open()
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()


def test_batches_that_wait_share_a_commit(url: str) -> None:
    store = SampleStore(url)
    futures = [store.put(encode_batch(one), one, LATE) for one in (batch([sample(n)], n) for n in range(50))]
    store.start()
    assert [future.result(60).accepted for future in futures] == [1] * 50
    assert store.writer.commits == 1
    store.stop()


def test_a_batch_nobody_waits_for_any_more_does_not_stop_the_writer(url: str) -> None:
    store = SampleStore(url)
    one, other = batch([sample(0)]), batch([sample(1)], 2)
    store.put(encode_batch(one), one, LATE).cancel()
    waiting = store.put(encode_batch(other), other, LATE)
    store.start()
    assert waiting.result(60).accepted == 1
    store.stop()


# A month of three locations in miniature: 2 days, 3 checks, faults, second probes in a minute.


def all_samples(seed: int) -> dict[str, list[Sample]]:
    chance = random.Random(seed)
    found: dict[str, list[Sample]] = {}
    for location in ("ams", "fra", "lon"):
        for minute in range(0, 2 * DAY_MINUTES, 7):
            for check in ("mx", "imaps", "control"):
                outcome = chance.choices([1, 18, 41, 40, 4], [90, 4, 2, 2, 2])[0]
                for second in chance.sample(range(60), chance.choices([1, 2], [9, 1])[0]):
                    started_ms = (FIRST + minute) * 60_000 + second * 1000
                    text = "" if outcome == 1 else chance.choice(["timed out", "refused", ""])
                    found.setdefault(location, []).append(
                        Sample(check, started_ms, outcome, chance.randrange(500), text)
                    )
    return found


def some_batches(samples: dict[str, list[Sample]], seed: int) -> list[Batch]:
    """Split anywhere, in any order, some handed in twice or again in another cut."""
    chance = random.Random(seed)
    batches: list[Batch] = []
    for location, of_location in samples.items():
        for _ in range(2):
            shuffled = of_location[:]
            chance.shuffle(shuffled)
            while shuffled:
                size = chance.choice([1, 5, 60, 400])
                batches.append(batch(shuffled[:size], len(batches), location))
                del shuffled[:size]
    chance.shuffle(batches)
    return batches


@pytest.mark.parametrize("seed", range(3))
def test_case_25_replayed_reordered_interleaved_batches_give_the_same_result(
    url: str, new_url: Callable[[], str], seed: int
) -> None:
    samples = all_samples(1)
    with running(url) as plain:
        for location, of_location in samples.items():
            put(plain, batch(of_location, 1, location))
        plain.seal()
        expected, failures = plain.read(SPAN), plain.failures(SPAN)
    assert expected.samples == sum(map(len, samples.values()))

    chance = random.Random(seed)
    accepted = 0
    with running(new_url()) as store:
        for one in some_batches(samples, seed):
            taken = put(store, one)
            accepted += taken.accepted
            assert taken.accepted + taken.duplicates == len(one.samples)
            if chance.random() < 0.05:
                store.seal()
        assert accepted == expected.samples
        assert store.read(SPAN) == expected
        store.seal()
        assert store.read(SPAN) == expected
        assert store.failures(SPAN) == failures
        assert store.stream_digest(SPAN) == expected.digest


def test_case_25_a_batch_replayed_after_sealing_is_all_duplicates(store: SampleStore) -> None:
    one = batch(sample(minute, 18) for minute in range(100))
    assert put(store, one).accepted == 100
    assert store.seal() == sealing.Sealed(batches=1, segments=1)
    before = store.read(SPAN)
    assert put(store, one) == Taken(0, 100, 0, 0, None)
    with running(store.url) as restarted:
        assert put(restarted, one) == Taken(0, 100, 0, 0, None)
    assert store.seal() == sealing.Sealed()
    assert store.read(SPAN) == before


def test_two_collectors_take_the_same_batches_and_each_sample_once(url: str) -> None:
    samples = all_samples(2)
    batches = some_batches(samples, 5)
    takens: list[Taken] = []
    with running(url) as one, running(url) as other:
        futures: list[Future[Taken]] = []
        for number, each in enumerate(batches):
            futures += [store.put(encode_batch(each), each, LATE) for store in (one, other)]
            if number % 10 == 0:
                (one if number % 20 else other).seal()
        takens = [future.result(60) for future in futures]
        assert sum(taken.accepted for taken in takens) == sum(map(len, samples.values()))
        assert one.read(SPAN) == other.read(SPAN)
        assert one.read(SPAN).samples == sum(map(len, samples.values()))
    assert not rows(url, "SELECT * FROM sample_conflict")


def test_collectors_that_seal_at_the_same_time_lose_and_double_nothing(url: str) -> None:
    samples = all_samples(3)
    with running(url) as store:
        for one in some_batches(samples, 1):
            put(store, one)
        expected = store.read(SPAN)
        sealed: list[sealing.Sealed] = []
        sealers = [threading.Thread(target=lambda: sealed.append(SampleStore(url).seal())) for _ in range(3)]
        for sealer in sealers:
            sealer.start()
        for sealer in sealers:
            sealer.join()
        assert store.read(SPAN) == expected
    assert rows(url, "SELECT count(*) FROM sample_batch") == [(0,)]


def test_what_another_collector_took_in_and_sealed_between_two_looks_is_known(url: str) -> None:
    with running(url) as one, running(url) as other:
        put(one, batch([sample(0)]))
        put(other, batch([sample(1)], 2))
        put(other, batch([sample(2)], 3))
        other.seal()
        assert put(one, batch([sample(n) for n in range(4)], 4)) == Taken(1, 3, 0, 0, 4)


def test_case_26_another_content_under_the_same_identity_is_refused_and_recorded_once(store: SampleStore) -> None:
    put(store, batch([sample(0), sample(1)]))
    before = store.read(SPAN)
    lie = batch([sample(0, 18, detail="no answer"), sample(1), sample(2)], 2)
    assert put(store, lie) == Taken(1, 1, 0, 1, 2)
    assert put(store, lie) == Taken(0, 2, 0, 1, None)
    store.seal()
    assert put(store, lie) == Taken(0, 2, 0, 1, None)
    assert store.read(Span(FIRST, FIRST + 2)).planes == {("mx", "ams"): StreamPlanes(3, 0, 0, 0)}
    assert before.planes == {("mx", "ams"): StreamPlanes(3, 0, 0, 0)}
    kept = rows(store.url, "SELECT agent, location, check_name, started_ms, kept, refused FROM sample_conflict")
    assert kept == [("agent-ams", "ams", "mx", sample(0).started_ms, "ok 20 ms", "timeout 20 ms no answer")]


def test_case_27_a_sample_of_the_future_is_put_aside_and_the_rest_is_taken(store: SampleStore) -> None:
    received = sample(10).started_ms
    one = batch(
        [
            sample(0),
            sample(10, started_ms=received + 120_000),
            sample(10, 18, check="imaps", started_ms=received + 120_001),
            sample(9999),
        ]
    )
    assert put(store, one, received) == Taken(2, 0, 2, 0, 1)
    assert put(store, one, received) == Taken(0, 2, 2, 0, None)
    everything = Span(FIRST, FIRST + 10_000)
    for _ in ("in the journal", "sealed"):
        assert store.read(everything).samples == 2
        store.seal()
    aside = rows(store.url, "SELECT started_ms, received_ms, reason, outcome, latency_ms FROM sample_quarantine")
    assert aside == [
        (received + 120_001, received, "future", 18, 20),
        (sample(9999).started_ms, received, "future", 1, 20),
    ]
    assert put(store, one, sample(9999).started_ms).accepted == 2, "when its time has come it is taken"
    assert store.read(everything).samples == 4


def test_what_no_agent_can_have_kept_so_long_is_put_aside(store: SampleStore) -> None:
    received = sample(0).started_ms + segments.PAST_TOLERANCE_MS
    one = batch([sample(0), sample(0, check="imaps", started_ms=received - segments.PAST_TOLERANCE_MS - 1)])
    assert put(store, one, received) == Taken(1, 0, 1, 0, 1)
    assert rows(store.url, "SELECT check_name, reason FROM sample_quarantine") == [("imaps", "past")]
    for _ in ("in the journal", "sealed"):
        assert store.read(SPAN).samples == 1
        store.seal()


def test_attack_an_agent_that_fills_the_tables_of_what_is_put_aside(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "PUT_ASIDE_A_DAY", 3)
    put(store, batch([sample(0)]))
    strange = [sample(0, 18), sample(0, 19), *(sample(20_000, started_ms=LATE + 900_000 + n) for n in range(9))]
    assert put(store, batch(strange)) == Taken(0, 0, 9, 2, None)
    assert put(store, batch([sample(0, 20)])).conflicts == 1

    def kept() -> list[tuple[object, ...]]:
        tables = ("sample_quarantine", "sample_conflict")
        return [rows(store.url, f"SELECT count(*) FROM {table}")[0] for table in tables]

    assert kept() == [(3,), (0,)]
    assert put(store, batch([sample(0, 20)], location="lon")) == Taken(1, 0, 0, 0, 2)
    assert put(store, batch([sample(0, 21)], location="lon")).conflicts == 1
    assert kept() == [(3,), (1,)]
    put(store, batch([sample(0, 20)]), LATE + 86_400_000)
    assert kept() == [(3,), (2,)]


def test_case_27_a_clock_that_steps_back_does_not_turn_a_failure_into_ok(store: SampleStore) -> None:
    put(store, batch([sample(0, 18)]))
    taken = put(store, batch([sample(0, started_ms=sample(0).started_ms - 3_000)], 2))
    assert taken == Taken(1, 0, 0, 0, 2)
    assert store.read_planes(SPAN) == {("mx", "ams"): StreamPlanes(0, 1, 0, 0)}
    assert store.read(SPAN).samples == 2


def test_case_27_the_correction_of_the_agents_clock_is_on_record(store: SampleStore) -> None:
    put(store, batch([sample(0)])._replace(offset_ms=-300_000))
    put(store, batch([sample(1)], 2)._replace(offset_ms=40))
    put(store, batch([sample(1)], 2, "fra")._replace(offset_ms=None))
    for _ in ("in the journal", "sealed"):
        assert store.clock_corrections(SPAN) == {("mx", "ams"): (-300_000, 40)}
        store.seal()


def test_case_28_a_late_sample_is_taken_at_its_own_time_and_changes_the_digest(store: SampleStore) -> None:
    put(store, batch(sample(minute) for minute in range(100) if minute != 50))
    store.seal()
    before = store.read(SPAN)
    put(store, batch([sample(50, 18)], 2), LATE + 30 * 86_400_000)
    after = store.read(SPAN)
    assert after.digest != before.digest
    assert after.planes["mx", "ams"].down == 1 << 50
    assert after.samples == before.samples + 1


def test_case_29_only_closed_days_are_let_go_and_their_verdicts_stay(store: SampleStore) -> None:
    put(store, batch(sample(minute, 1 if minute % 9 else 18) for minute in range(0, 2 * DAY_MINUTES, 3)))
    planes, failures = store.read_planes(SPAN), store.failures(SPAN)
    latencies = store.latency_histogram("mx", "ams", SPAN)
    digest = store.stream_digest(SPAN)
    assert store.prune(FIRST + DAY_MINUTES - 1) == 0
    assert store.stream_digest(SPAN) == digest
    assert store.prune(FIRST + DAY_MINUTES + 5) == 1
    assert store.prune(FIRST + DAY_MINUTES + 5) == 0
    assert rows(store.url, "SELECT day FROM sample_segment") == [(DAY + 1,)]
    assert store.read_planes(SPAN) == planes
    assert store.failures(SPAN) == failures
    assert store.latency_histogram("mx", "ams", SPAN) == latencies
    with pytest.raises(NotFound, match="no longer kept"):
        store.stream_digest(SPAN)
    assert store.read(Span(FIRST + DAY_MINUTES, SPAN.end)).samples == DAY_MINUTES / 3


def test_what_comes_after_its_day_was_let_go_is_put_aside(url: str) -> None:
    with running(url) as store, running(url) as other:
        one = batch([sample(0), sample(1, 18)])
        put(store, one)
        put(other, one)
        store.prune(FIRST + DAY_MINUTES)
        for each in (store, other):
            assert put(each, one) == Taken(0, 2, 0, 0, None), "what says the same is a duplicate"
            late = batch([sample(0, 18), sample(2)], 2)
            assert put(each, late) == Taken(0, 0, 2, 0, None)
        assert store.seal() == sealing.Sealed()
        assert store.read_planes(SPAN) == {("mx", "ams"): StreamPlanes(1, 2, 0, 0)}
    reasons = rows(url, "SELECT reason, outcome FROM sample_quarantine ORDER BY id")
    assert reasons == [("pruned", 18), ("pruned", 1)]


def test_a_day_with_samples_in_the_journal_is_not_let_go(store: SampleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is acknowledged while the pruning goes on finds its segment."""
    put(store, batch([sample(0)]))
    store.seal()
    put(store, batch([sample(1)], 2))
    monkeypatch.setattr(sealing, "seal", lambda _url: None)
    assert store.prune(FIRST + DAY_MINUTES) == 0
    monkeypatch.undo()
    assert store.prune(FIRST + DAY_MINUTES) == 1
    assert store.read_planes(SPAN) == {("mx", "ams"): StreamPlanes(3, 0, 0, 0)}


def test_case_30_a_restored_backup_and_a_replay_give_the_same_digest(url: str, new_url: Callable[[], str]) -> None:
    samples = all_samples(4)
    batches = some_batches(samples, 9)
    backup = new_url()
    with running(url) as store:
        for number, one in enumerate(batches):
            put(store, one)
            if number == len(batches) // 2:
                store.seal()
                copied = sqlite3.connect(backup.removeprefix("sqlite:///"))
                connection = connect(url)
                connection.backup(copied)
                connection.close()
                copied.close()
        expected = store.read(SPAN)
    with running(backup) as restored:
        assert restored.read(SPAN) != expected
        for one in batches:
            put(restored, one)
        restored.seal()
        assert restored.read(SPAN) == expected


def test_a_locked_database_refuses_the_batch_and_stores_nothing_of_it(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    store.writer._close()
    holder = connect(store.url)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        put(store, batch([sample(0)]))
    with pytest.raises(StoreUnavailable, match="locked"):
        put(store, batch([sample(0)]))
    holder.execute("ROLLBACK")
    holder.close()
    assert store.writer.failed_groups == 2
    assert store.read(SPAN).samples == 0
    assert put(store, batch([sample(0)])).accepted == 1


def test_a_full_disk_refuses_the_batch_and_what_was_acknowledged_stays(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch, "PRAGMA max_page_count=1")  # SQLite takes it as: not one page more
    store.writer._close()
    chance = random.Random(1)
    acknowledged = 0
    refused = None
    for number in range(500):
        one = batch((sample(number * 5 + n, latency_ms=chance.randrange(60_000)) for n in range(5)), number)
        try:
            acknowledged += put(store, one).accepted
        except StoreUnavailable as error:
            assert "full" in str(error)
            refused = one
            break
    assert refused is not None
    everything = Span(FIRST, FIRST + 9999)
    assert store.read(everything).samples == acknowledged
    monkeypatch.undo()
    assert put(store, refused).accepted == 5
    assert store.read(everything).samples == acknowledged + 5


def test_a_full_disk_stops_the_sealing_and_loses_nothing(store: SampleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    put(store, batch(sample(n, latency_ms=chance.randrange(60_000)) for n in range(2 * DAY_MINUTES)))
    expected = store.read(SPAN)
    with monkeypatch.context() as full:
        impatient(full, "PRAGMA max_page_count=1")
        full.setattr(sealing, "encode_column", lambda _: bytes(1_000_000))
        with pytest.raises(StoreUnavailable, match="full"):
            store.seal()
    assert store.read(SPAN) == expected
    assert store.seal().segments == 2
    assert store.read(SPAN) == expected


def test_a_batch_that_cannot_be_sorted_in_is_refused_and_the_thread_goes_on(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(writer_module.SampleWriter, "_put_aside", lambda *_: 1 // 0)
        with pytest.raises(StoreUnavailable, match="division"):
            put(store, batch([sample(0), sample(0, 18)]))
    assert store.writer.failed_groups == 1
    assert put(store, batch([sample(0), sample(0, 18)])) == Taken(1, 0, 0, 1, 1)


def test_a_stopped_writer_refuses_and_what_it_took_is_written(url: str) -> None:
    store = SampleStore(url)
    store.start()
    futures = [store.put(encode_batch(one), one, LATE) for one in (batch([sample(n)], n) for n in range(20))]
    store.stop()
    assert sum(future.result(0).accepted for future in futures) == 20
    with pytest.raises(StoreUnavailable, match="stopping"):
        put(store, batch([sample(0)]))


def test_a_writer_that_is_behind_refuses_more(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING_OCTETS", 10)
    store = SampleStore(url)
    one = batch([sample(0)])
    first = store.put(encode_batch(one), one, LATE)
    with pytest.raises(StoreUnavailable, match="waiting"):
        put(store, one)
    store.start()
    assert first.result(60).accepted == 1
    store.stop()


def test_without_a_database_nothing_starts(tmp_path: object) -> None:
    store = SampleStore(f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(StoreUnavailable):
        store.start()
    with pytest.raises(StoreUnavailable):
        store.read_planes(SPAN)
    with pytest.raises(StoreUnavailable):
        store.seal()


@pytest.mark.parametrize("table", ["sample_batch", "sample_segment"])
def test_damage_in_the_database_is_told_and_not_read_past(store: SampleStore, table: str) -> None:
    put(store, batch([sample(0)]))
    if table == "sample_segment":
        store.seal()
    connection = connect(store.url)
    connection.execute(f"UPDATE {table} SET octets = substr(octets, 1, 40)")
    connection.close()
    for read in (lambda: store.read(SPAN), lambda: store.read_planes(SPAN), lambda: store.failures(SPAN)):
        with pytest.raises(StoreUnavailable, match="damaged"):
            read()
    with running(store.url) as restarted, pytest.raises(StoreUnavailable, match="damaged"):
        put(restarted, batch([sample(1)], 2))


def test_failures_by_minute_with_their_words(store: SampleStore) -> None:
    put(
        store,
        batch(
            [
                sample(3, 18, detail="no answer"),
                sample(1, 41, detail=""),
                sample(2),
                sample(4, 40, detail="no file handle"),
                sample(5, 2, detail="in Junk"),
                sample(3, 18, started_ms=sample(3).started_ms + 9_000, detail="second probe of the minute"),
            ]
        ),
    )
    put(store, batch([sample(3, 16, detail="refused")], 1, "fra"))
    expected = (
        Failure("mx", "ams", FIRST + 1, Outcome.CONTROL_FAILED, ""),
        Failure("mx", "ams", FIRST + 3, Outcome.TIMEOUT, "no answer"),
        Failure("mx", "fra", FIRST + 3, Outcome.REFUSED, "refused"),
        Failure("mx", "ams", FIRST + 4, Outcome.MONITOR_ERROR, "no file handle"),
    )
    for _ in ("in the journal", "sealed"):
        assert store.failures(SPAN) == expected
        assert store.failures(Span(FIRST + 3, FIRST + 4)) == expected[1:3]
        assert store.failures(SPAN, ["imaps"]) == ()
        store.seal()


def test_latencies_by_hour_of_one_location(store: SampleStore) -> None:
    put(store, batch([sample(0, latency_ms=100), sample(59, latency_ms=100), sample(60, latency_ms=9), sample(61, 18)]))
    put(store, batch([sample(0, latency_ms=1)], 1, "fra"))
    hours = store.latency_histogram("mx", "ams", SPAN)
    assert [(hour * 60 - FIRST, sum(counts)) for hour, counts in hours.items()] == [(0, 2), (60, 1)]
    assert store.latency_histogram("mx", "ams", Span(FIRST + 1, FIRST + 61)).keys() == {FIRST // 60 + 1}
    assert store.latency_histogram("imaps", "ams", SPAN) == {}


def test_the_live_view_hears_what_counts_now(store: SampleStore) -> None:
    put(store, batch([sample(0, 18)]))
    since = store.newest_batch()
    assert since == 1
    assert store.recent(since) == (since, True, ())
    put(store, batch([sample(0, started_ms=sample(0).started_ms + 1000), sample(1)], 2))
    put(store, batch([sample(1, 18, detail="lie")], 3))
    recent = store.recent(since)
    assert recent == (2, True, (Change("mx", "ams", FIRST, 18), Change("mx", "ams", FIRST + 1, 1)))
    assert store.recent(recent.batch_id).changes == ()
    put(store, batch([sample(2)], 4))
    store.seal()
    assert store.recent(recent.batch_id) == (3, False, ()), "sealed in between: read anew"
    assert store.recent(3) == (3, True, ())


def test_the_live_view_and_the_planes_agree(store: SampleStore) -> None:
    samples = all_samples(6)
    seen: dict[tuple[str, str, int], int] = {}
    since = 0
    for number, one in enumerate(some_batches(samples, 2)):
        put(store, one)
        if number % 9 == 0:
            recent = store.recent(since)
            assert recent.complete
            since = recent.batch_id
            seen |= {(change.check, change.location, change.minute): change.outcome for change in recent.changes}
            store.seal()
    seen |= {(c.check, c.location, c.minute): c.outcome for c in store.recent(since).changes}
    for (check, location), planes in store.read_planes(SPAN).items():
        for minute in range(SPAN.minutes):
            outcome = seen.get((check, location, FIRST + minute), 0)
            assert (planes.down >> minute & 1) == (16 <= outcome < 40)
            assert (planes.up >> minute & 1) == (0 < outcome < 16)


def test_days_that_are_sealed_are_forgotten_and_read_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = all_samples(7)
    batches = some_batches(samples, 3)
    store = SampleStore(url)
    monkeypatch.setattr(store.writer._known, "_max_drafts", 3)
    store.start()
    accepted = 0
    for number, one in enumerate(batches):
        accepted += put(store, one).accepted
        if number % 7 == 0:
            store.seal()
    assert accepted == store.read(SPAN).samples == sum(map(len, samples.values()))
    store.stop()


def test_a_long_journal_is_sealed_in_several_transactions(store: SampleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "SEAL_SAMPLES", 100)
    for number in range(9):
        put(store, batch((sample(number * 300 + n) for n in range(60 if number else 300)), number))
    expected = store.read(SPAN)
    assert store.seal().batches == 9
    assert store.read(SPAN) == expected
    assert rows(store.url, "SELECT sum(samples) FROM sample_segment") == [(60 * 8 + 300,)]


def test_a_sealer_that_was_overtaken_does_not_write_over_what_came_since(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = sealing._replace

    def overtaken(*arguments: object) -> bool:
        monkeypatch.setattr(sealing, "_replace", replace)
        assert store.seal().batches == 1
        put(store, batch([sample(1, 18)], 2))
        assert store.seal().batches == 1
        put(store, batch([sample(2)], 3))
        return replace(*arguments)  # type: ignore[arg-type]

    put(store, batch([sample(0)]))
    monkeypatch.setattr(sealing, "_replace", overtaken)
    assert store.seal().contested == 1
    assert store.seal().contested == 0
    assert store.read_planes(SPAN) == {("mx", "ams"): StreamPlanes(5, 2, 0, 0)}


def test_a_sample_that_is_sealed_while_its_day_is_summarised_is_not_let_go_unseen(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    summarise = sealing.summarise

    def overtaken(column: Column) -> Summary:
        monkeypatch.setattr(sealing, "summarise", summarise)
        put(store, batch([sample(1, 18)], 2))
        assert store.seal().batches == 1
        return summarise(column)

    put(store, batch([sample(0)]))
    monkeypatch.setattr(sealing, "summarise", overtaken)
    assert store.prune(FIRST + DAY_MINUTES) == 0
    assert store.prune(FIRST + DAY_MINUTES) == 1
    assert store.read_planes(SPAN) == {("mx", "ams"): StreamPlanes(1, 2, 0, 0)}


@pytest.fixture
def new_url(url: str, tmp_path: object) -> Callable[[], str]:
    """URLs of more empty databases."""
    empty = f"{tmp_path}/empty.db"
    connection = connect(url)
    target = sqlite3.connect(empty)
    connection.backup(target)
    target.close()
    connection.close()
    made: Sequence[int] = []

    def make() -> str:
        made.append(1)  # type: ignore[attr-defined]
        path = f"{tmp_path}/another-{len(made)}.db"
        shutil.copy(empty, path)
        return f"sqlite:///{path}"

    return make
