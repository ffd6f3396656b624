"""Where log lines go: a bounded queue, and one thread that writes. The loop never waits for a log.

journald or a full pipe may stall the writer for as long as it likes: lines beyond the bound are dropped and
counted, and the count is the first line when writing goes on.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from io import FileIO
from time import monotonic, sleep

from smartmail.events.lines import EventRecord, from_library

CAPACITY = 20_000
"""Lines that may wait, about 20 MB."""
GATHER_SECONDS = 0.02
"""Lines that come within this time are written together: one system call, one wake-up of the thread."""
_BATCH = 1000
_STALLED_SECONDS = 0.05


class Sink(logging.Handler):
    """A logging handler that never blocks its caller.

    `dropped`: lines lost since the start, because the queue was full or the stream broken; any thread may
    read it.
    """

    def __init__(self, stream: FileIO, line: Callable[[EventRecord], str], *, capacity: int = CAPACITY) -> None:
        """stream: raw and unbuffered, so that nothing of ours holds a lock that the end of the process needs.
        line: record -> text without its newline."""
        super().__init__()
        self._stream = stream
        self._line = line
        self._capacity = capacity
        self._waiting: deque[EventRecord] = deque()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._counting = threading.Lock()
        self._told = 0
        self._written = 0
        self._accepted = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def handle(self, record: logging.LogRecord) -> bool:
        """As the base class, without its lock: appending to a deque needs none."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; drop it when the queue is full. Any thread may call it."""
        if len(self._waiting) >= self._capacity:
            self._drop(1)
            return
        self._accepted += 1
        self._waiting.append(record if isinstance(record, EventRecord) else from_library(record))
        if not self._wake.is_set():
            self._wake.set()

    def drain(self, timeout: float) -> bool:
        """Wait until what was taken so far is written, `timeout` seconds at most. Returns whether it is."""
        target, end = self._accepted, monotonic() + timeout
        while self._written < target and monotonic() < end:
            self._wake.set()
            sleep(0.001)
        return self._written >= target

    def close(self) -> None:
        """Write what waits, two seconds at most: a stalled stream must not hold up the end of the process."""
        self._stop.set()
        self._wake.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)
        logging.getLogger().removeHandler(self)
        super().close()

    def _drop(self, count: int) -> None:
        with self._counting:
            self.dropped += count

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._stop.wait(GATHER_SECONDS)
            self._wake.clear()
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            lines = [self._line(record) for record in batch]
            if (dropped := self.dropped) > self._told:
                text = "log lines were dropped: they could not be written fast enough"
                fields = {"count": dropped - self._told}
                lines.insert(0, self._line(EventRecord(logging.WARNING, "log_lines_dropped", text, fields)))
                self._told = dropped
            if not self._write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")):
                self._drop(len(batch))
            self._written += len(batch)

    def _write(self, octets: bytes) -> bool:
        """Write all of it, waiting as long as it takes. False when the stream is broken."""
        left = memoryview(octets)
        while left:
            try:
                count = self._stream.write(left)
            except (OSError, ValueError):
                return False
            if count is None:
                # Somebody made the stream non-blocking, a shell or another process that shares it.
                if self._stop.wait(_STALLED_SECONDS):
                    return False
                continue
            left = left[count:]
        return True
