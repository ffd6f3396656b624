"""Command lines of `smartmail` as processes of their own, forked from one that has its modules already: importing them
takes most of what a command takes, and tests run a hundred of them.

Run as a program it reads one JSON line for each: {"argv", "folder"}. stdout, stderr, pid and, when it has ended, code
are files in that folder."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from support.processes import eventually


@dataclass
class Forked:
    """One command, as much like a Popen as tests need. pid: also of its process group."""

    folder: Path
    pid: int

    def poll(self) -> int | None:
        """Its exit code, or the negative number of a signal; None while it runs."""
        try:
            return int((self.folder / "code").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def wait(self, patience: float) -> int:
        """Its exit code."""
        eventually(lambda: self.poll() is not None, "a command to end", patience)
        code = self.poll()
        assert code is not None
        return code

    def said(self) -> tuple[str, str]:
        """What it has written."""
        return (self.folder / "out").read_text(), (self.folder / "err").read_text()


@cache
def _server() -> "subprocess.Popen[str]":
    """It ends with this process, which is the only writer of its stdin."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "support.forking"],
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def fork(argv: list[str], folder: Path) -> Forked:
    """Begin `smartmail` with these arguments. folder: an empty one for its files."""
    server = _server()
    assert server.stdin is not None
    server.stdin.write(json.dumps({"argv": argv, "folder": str(folder)}) + "\n")
    server.stdin.flush()
    pid = eventually(lambda: (folder / "pid").is_file() and (folder / "pid").read_text(), "a command to begin")
    return Forked(folder, int(pid))


def _serve() -> None:
    # Whatever a command imports on its way.
    import smartmail.backup.upkeep
    import smartmail.cli.backup
    import smartmail.metrics
    import smartmail.report.backup
    import smartmail.store.migrations  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        asked = json.loads(line)
        if os.fork() == 0:
            _attend(asked["argv"], Path(asked["folder"]))
            os._exit(0)


def _attend(argv: list[str], folder: Path) -> None:
    """Wait for one, which must not be done by who waits for the next line."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        _become(argv, folder)
    _write(folder / "pid", pid)
    _, status = os.waitpid(pid, 0)
    _write(folder / "code", os.waitstatus_to_exitcode(status))


def _become(argv: list[str], folder: Path) -> None:
    from smartmail.cli import main

    os.setsid()
    for number, name in ((0, "/dev/null"), (1, folder / "out"), (2, folder / "err")):
        file = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.exit(main(argv))


def _write(file: Path, number: int) -> None:
    begun = file.with_suffix(".new")
    begun.write_text(str(number))
    begun.replace(file)


if __name__ == "__main__":
    _serve()
