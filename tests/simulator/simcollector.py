"""Collectors for simulated months: in this process, or in processes of their own that are killed again and again.

This file is also the process that has the latter: `python simcollector.py FILE` with a Job as JSON on standard input.
"""

import json
import os
import random
import select
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smartmail.core.sample import Batch, decode_batch, encode_batch
from smartmail.store.sample_writer import Taken
from smartmail.store.samples import SampleStore

if TYPE_CHECKING:
    from simmonth import Delivery

PATIENCE = 60
WINDOW = 24
"""Batches that are handed in and not acknowledged yet, at most."""
KILLED = -signal.SIGKILL


@dataclass
class Told:
    """What the collectors answered, summed up."""

    accepted: int = 0
    duplicates: int = 0
    quarantined: int = 0
    conflicts: int = 0

    def note(self, taken: Taken) -> None:
        self.accepted += taken.accepted
        self.duplicates += taken.duplicates
        self.quarantined += taken.quarantined
        self.conflicts += taken.conflicts


def collect(url: str, given: "Sequence[Delivery]", seed: int = 0, *, collectors: int = 1, seals: int = 6) -> Told:
    """Hand everything in, each batch as octets to one of the collectors, which seal about so often in all."""
    chance = random.Random(f"collect {seed}")
    stores = [SampleStore(url) for _ in range(collectors)]
    told = Told()
    waiting: deque[Future[Taken]] = deque()
    try:
        for store in stores:
            store.start()
        for received_ms, batch in given:
            octets = encode_batch(batch)
            read: Batch = decode_batch(octets, max_samples=20_000)
            waiting.append(chance.choice(stores).put(octets, read, received_ms))
            if len(waiting) > WINDOW:
                told.note(waiting.popleft().result(PATIENCE))
            if chance.random() * len(given) < seals:
                chance.choice(stores).seal()
        while waiting:
            told.note(waiting.popleft().result(PATIENCE))
    finally:
        for store in stores:
            store.stop()
    return told


@dataclass(frozen=True)
class Job:
    """url: of the database. index: offset, octets and time of coming of each batch in the file. kills: how often a
    collector is to die. collectors: at once."""

    url: str
    index: tuple[tuple[int, int, int], ...]
    kills: int
    collectors: int
    seed: int


@dataclass(frozen=True)
class Survived:
    """killed: collectors that ended by SIGKILL. handed_in: batches sent, those sent again included."""

    killed: int
    handed_in: int


def collect_killed(
    url: str, given: "Sequence[Delivery]", folder: Path, seed: int = 0, *, kills: int = 50, collectors: int = 1
) -> Survived:
    """Hand everything in to collectors that are killed and started again; what was not acknowledged is sent again."""
    file, index = folder / f"batches-{seed}", []
    with file.open("wb") as out:
        for received_ms, batch in given:
            octets = encode_batch(batch)
            index.append((out.tell(), len(octets), received_ms))
            out.write(octets)
    job = Job(url, tuple(index), kills, collectors, seed)
    done = subprocess.run(
        [sys.executable, __file__, str(file)],
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        timeout=10 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return Survived(**json.loads(done.stdout))


def _serve(job: Job, octets: bytes, share: Sequence[int], pipe: int) -> None:
    """A collector's life: takes its share of batches, acknowledges each when it is durable, and seals now and then."""
    chance = random.Random(os.getpid())
    store = SampleStore(job.url)
    store.start()
    waiting: deque[tuple[int, Future[Taken]]] = deque()

    def acknowledge() -> None:
        number, future = waiting.popleft()
        future.result(PATIENCE)
        os.write(pipe, number.to_bytes(4))

    for number in share:
        start, length, received_ms = job.index[number]
        body = octets[start : start + length]
        waiting.append((number, store.put(body, decode_batch(body, max_samples=20_000), received_ms)))
        if len(waiting) > WINDOW:
            acknowledge()
        if chance.random() < 0.06:
            store.seal()
    while waiting:
        acknowledge()
    store.stop()


class _Child:
    """A collector's process, and what it has acknowledged."""

    def __init__(self, job: Job, octets: bytes, share: Sequence[int], patience: int | None) -> None:
        """patience: acknowledgements until it is killed; None: it lives."""
        self.share, self.patience, self.acknowledged = share, patience, set[int]()
        self.reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                os.close(self.reading)
                _serve(job, octets, share, writing)
                code = 0
            finally:
                os._exit(code)
        os.close(writing)

    def hear(self) -> bool:
        """Read what it says, and kill it when its time has come. False at its end."""
        said = os.read(self.reading, 4)
        if not said:
            return False
        self.acknowledged.add(int.from_bytes(said))
        if self.patience is not None and len(self.acknowledged) == self.patience:
            os.kill(self.pid, signal.SIGKILL)
        return True

    def end(self) -> int:
        os.close(self.reading)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _run(job: Job, octets: bytes) -> Survived:
    chance = random.Random(f"killed {job.seed}")
    waiting = list(range(len(job.index)))
    killed = sent = 0
    while waiting or killed < job.kills:
        # All are in, and there is somebody left to kill: the agents never heard of it and send everything again.
        waiting = waiting or list(range(len(job.index)))
        left = job.kills - killed
        children = []
        for number in range(job.collectors):
            share = [one for one in waiting if job.collectors == 1 or chance.random() < 0.6 or one % 2 == number]
            if len(waiting) < 200:
                chance.shuffle(share)
            most = min(len(share) - 1, 3 * len(waiting) // (2 * left + 2))
            patience = chance.randint(1, max(1, most)) if left > number and len(share) > 1 else None
            children.append(_Child(job, octets, share, patience))
            sent += len(share)
        open_ = {child.reading: child for child in children}
        while open_:
            for reading in select.select(list(open_), [], [])[0]:
                if not open_[reading].hear():
                    del open_[reading]
        ends = Counter(child.end() for child in children)
        assert set(ends) <= {0, KILLED}, ends
        killed += ends[KILLED]
        done = set().union(*(child.acknowledged for child in children))
        waiting = [one for one in waiting if one not in done]
    return Survived(killed, sent)


def main(file: str) -> None:
    value = json.load(sys.stdin)
    job = Job(**value | {"index": tuple(tuple(one) for one in value["index"])})
    print(json.dumps(asdict(_run(job, Path(file).read_bytes()))))


if __name__ == "__main__":
    main(sys.argv[1])
