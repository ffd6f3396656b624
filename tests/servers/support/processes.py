"""Processes and ports of the server tests: started, waited for, and ended for certain."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 60.0
"""Seconds after which a wait has failed. Nothing is measured by it: a wait ends once its condition holds."""


_given: set[int] = set()


def free_port() -> int:
    """A TCP port free on loopback, outside the kernel's ephemeral range: no client socket takes it meanwhile.

    Each xdist worker has its own thousand.
    """
    worker = int("".join(filter(str.isdigit, os.environ.get("PYTEST_XDIST_WORKER", "0"))) or 0)
    chooser = random.SystemRandom()
    for _ in range(200):
        port = 20000 + 1000 * (worker % 12) + chooser.randrange(1000)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise RuntimeError("no free port")


def eventually(probe: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
    """What `probe` gives as soon as it is true. Raises AssertionError, naming `what`, when it never is."""
    deadline = time.monotonic() + patience
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {patience:.0f} s for {what}"
        time.sleep(0.01)


def answers(port: int, process: subprocess.Popen[bytes] | None = None) -> Callable[[], bool]:
    """A probe: something accepts connections on 127.0.0.1:port. Fails at once if the process has ended."""

    def probe() -> bool:
        assert process is None or process.poll() is None, f"ended with {process.returncode}"
        with socket.socket() as attempt:
            attempt.settimeout(1)
            return attempt.connect_ex(("127.0.0.1", port)) == 0

    return probe


@contextmanager
def short_directory(name: str) -> Iterator[Path]:
    """A directory that others may enter, its path short enough for Unix sockets below it; removed after."""
    directory = Path(tempfile.mkdtemp(prefix=f"sm-{name}-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Process:
    """One child process, its output kept in a file and searchable while it runs."""

    def __init__(
        self, argv: Sequence[str], output: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.output = output
        self._changed = threading.Condition()
        self._closed = False
        self.popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.output.open("ab", buffering=0) as copy, self.popen.stdout as pipe:
            for line in pipe:
                copy.write(line)
                with self._changed:
                    self._lines.append(line.decode(errors="replace"))
                    self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_for_line(self, wanted: Callable[[str], bool], what: str, patience: float = PATIENCE) -> str:
        """The first line of output, past or to come, that `wanted` accepts."""
        deadline = time.monotonic() + patience
        seen = 0
        with self._changed:
            while True:
                for line in self._lines[seen:]:
                    if wanted(line):
                        return line
                seen = len(self._lines)
                left = deadline - time.monotonic()
                assert not self._closed and left > 0, f"no {what}; output was:\n{''.join(self._lines)}"
                self._changed.wait(left)

    @property
    def text(self) -> str:
        """All output so far."""
        with self._changed:
            return "".join(self._lines)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.popen.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.popen.wait(PATIENCE)

    def stop(self) -> int:
        """SIGTERM and wait; SIGKILL where that does not help. The exit status."""
        self.signal(signal.SIGTERM)
        try:
            status = self.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._reader.join(PATIENCE)
        return status


def run(argv: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; AssertionError with its output where it fails."""
    done = subprocess.run(  # type: ignore[call-overload]
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, **options
    )
    assert done.returncode == 0, f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    result: subprocess.CompletedProcess[str] = done
    return result


def need(*commands: str) -> None:
    """Fail, and so fail the test, where a command is not installed: a missing server is never a skip."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [command for command in commands if shutil.which(command, path=path) is None]
    assert not missing, f"not installed: {', '.join(missing)} (ops/test installs them when root)"
