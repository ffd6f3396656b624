"""Ends what a benchmark started when the benchmark itself was killed. Argument: its folder.

Reads session ids from stdin, one a line, until the other end is gone: then every process of those sessions is
killed and the folder removed. After a proper end there is nothing left to do, and doing it again does no harm.
"""

import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path


def members(sessions: set[int], folder: Path) -> list[int]:
    """The processes of these sessions (proc(5): field 6 of stat), and those that work in the folder: Postfix's
    master makes a session of its own."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
            if session in sessions or (entry / "cwd").readlink().is_relative_to(folder):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def main(folder: Path) -> None:
    """Wait for the end, then sweep."""
    sessions = {int(line) for line in sys.stdin if line.strip().isdigit()}
    for _ in range(3):  # what was being forked while we looked
        for pid in members(sessions, folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
