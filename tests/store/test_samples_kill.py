"""Collectors killed at every statement they make, and at random beside each other: what was acknowledged is there, and
is there once."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smartmail.core.columns import DAY_MINUTES
from smartmail.core.months import Span
from smartmail.core.sample import Batch, Sample, encode_batch
from smartmail.store.samples import SampleStore, StoredSamples

DAY = 20_500
SPAN = Span(DAY * DAY_MINUTES, (DAY + 3) * DAY_MINUTES)
LATE = SPAN.end * 60_000

# A job is [url, statement to die at, order of batches, prune?]; jobs of one round run beside each other. The answer
# to a round: for each job the batches that were acknowledged, and how its process ended.
DRIVER = """
import json, os, signal, sys, threading
from smartmail.core.sample import decode_batch
from smartmail.store import sample_writer, segments
from smartmail.store.samples import SampleStore

late, prune_until, *files = sys.argv[1:]
batches = [open(file, "rb").read() for file in files]
connect = segments.connect

def run(url, die_at, order, prune, pipe):
    statements = 0
    lock = threading.Lock()
    def tick(_statement):
        nonlocal statements
        with lock:
            statements += 1
            if statements == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
    def watched(url, **how):
        connection = connect(url, **how)
        connection.set_trace_callback(tick)
        return connection
    segments.connect = sample_writer.connect = watched
    store = SampleStore(url)
    store.start()
    for place, number in enumerate(order):
        store.put(batches[number], decode_batch(batches[number]), int(late)).result()
        os.write(pipe, bytes([number]))
        if place % 2:
            store.seal()
    if prune:
        store.prune(int(prune_until))
    store.stop()

for line in sys.stdin:
    started = []
    for job in json.loads(line):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                run(*job, writing)
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        started.append((child, reading))
    answers = []
    for child, reading in started:
        with open(reading, "rb") as acknowledged:
            numbers = list(acknowledged.read())
        _, status = os.waitpid(child, 0)
        answers.append([numbers, os.waitstatus_to_exitcode(status)])
    print(json.dumps(answers), flush=True)
"""

KILLED = -9
Job = tuple[str, int, list[int], bool]


class Driver:
    """Runs jobs in processes that can die."""

    def __init__(self, folder: Path, batches: list[Batch], prune_until: int) -> None:
        files = []
        for number, batch in enumerate(batches):
            file = folder / f"{number}.batch"
            file.write_bytes(encode_batch(batch))
            files.append(str(file))
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(LATE), str(prune_until), *files],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0
        self._process.stdout.close()

    def run(self, *jobs: Job) -> list[tuple[list[int], int]]:
        """For each job: which batches were acknowledged, and how its process ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(jobs) + "\n")
        self._process.stdin.flush()
        return [(numbers, code) for numbers, code in json.loads(self._process.stdout.readline())]


def overlapping_batches(count: int) -> list[Batch]:
    """Of two locations over two days; each sample is in two of the batches."""
    chance = random.Random(4)
    batches = []
    for location in ("ams", "fra"):
        samples = [
            Sample(check, (SPAN.first + minute) * 60_000 + 7_000, outcome, chance.randrange(900), "x" * (outcome > 1))
            for minute in range(0, 2 * DAY_MINUTES, 60)
            for check in ("mx", "imaps")
            for outcome in chance.choices([1, 18], [9, 1])
        ]
        for _ in range(2):
            chance.shuffle(samples)
            size = -(-len(samples) // (count // 4))
            parts = (samples[start : start + size] for start in range(0, len(samples), size))
            batches += [Batch(f"a-{location}", location, len(batches), LATE, 0, tuple(part)) for part in parts]
    return batches


def stored(url: str, batches: list[Batch], acknowledged: list[int]) -> StoredSamples:
    """What is stored after a fault, seen to be complete, then completed by handing in everything again."""
    store = SampleStore(url)
    store.start()
    try:
        before = store.read(SPAN).samples
        known = {(batches[n].location, sample) for n in acknowledged for sample in batches[n].samples}
        every = {(batch.location, sample) for batch in batches for sample in batch.samples}
        assert len(known) <= before
        for number in acknowledged:
            assert store.put(encode_batch(batches[number]), batches[number], LATE).result(60).accepted == 0
        accepted = sum(store.put(encode_batch(batch), batch, LATE).result(60).accepted for batch in batches)
        assert before + accepted == len(every)
        store.seal()
        return store.read(SPAN)
    finally:
        store.stop()


@pytest.fixture
def batches() -> list[Batch]:
    return overlapping_batches(8)


@pytest.fixture
def expected(url: str, tmp_path: Path, batches: list[Batch]) -> StoredSamples:
    """Of all batches without a fault. Leaves an empty database at empty.db."""
    path = Path(url.removeprefix("sqlite:///"))
    shutil.copy(path, tmp_path / "empty.db")
    result = stored(url, batches, [])
    assert result.samples == len({(batch.location, sample) for batch in batches for sample in batch.samples})
    return result


def fresh(tmp_path: Path, name: str) -> str:
    path = tmp_path / f"{name}.db"
    shutil.copy(tmp_path / "empty.db", path)
    return f"sqlite:///{path}"


def test_killed_at_every_statement_nothing_is_lost_or_doubled(
    tmp_path: Path, batches: list[Batch], expected: StoredSamples
) -> None:
    """Inside and between the transactions of putting and of sealing."""
    ends = []
    with Driver(tmp_path, batches, 0) as driver:
        while not ends or ends[-1] == KILLED:
            url = fresh(tmp_path, f"at-{len(ends)}")
            ((acknowledged, end),) = driver.run((url, len(ends) + 1, list(range(len(batches))), False))
            ends.append(end)
            assert stored(url, batches, acknowledged) == expected
    assert ends[-1] == 0
    assert len(ends) > 60


def test_killed_while_pruning_the_verdicts_stay(tmp_path: Path, batches: list[Batch], expected: StoredSamples) -> None:
    """The days that were not let go yet have their samples, and every day has its verdicts."""
    sealed = fresh(tmp_path, "sealed")
    stored(sealed, batches, [])
    ends = []
    with Driver(tmp_path, batches, SPAN.end) as driver:
        while not ends or ends[-1] == KILLED:
            path = tmp_path / f"prune-{len(ends)}.db"
            shutil.copy(sealed.removeprefix("sqlite:///"), path)
            ((_, end),) = driver.run((f"sqlite:///{path}", len(ends) + 1, [], True))
            ends.append(end)
            store = SampleStore(f"sqlite:///{path}")
            assert store.read_planes(SPAN) == expected.planes
            if end == KILLED:
                store.prune(SPAN.end)
                assert store.read_planes(SPAN) == expected.planes
    assert ends[-1] == 0
    assert len(ends) > 20


@pytest.mark.parametrize("seed", range(2))
def test_two_collectors_killed_at_random_lose_and_double_nothing(
    tmp_path: Path, batches: list[Batch], expected: StoredSamples, seed: int
) -> None:
    """Both take every batch, in their own order, on one database; both are started again and again."""
    chance = random.Random(seed)
    url = fresh(tmp_path, "shared")
    acknowledged: list[int] = []
    with Driver(tmp_path, batches, 0) as driver:
        for _ in range(12):
            orders = [chance.sample(range(len(batches)), len(batches)) for _ in range(2)]
            for numbers, end in driver.run(*((url, chance.randint(5, 120), order, False) for order in orders)):
                acknowledged += numbers
                assert end in (0, KILLED)
    assert stored(url, batches, acknowledged) == expected
