"""Repositories behind a REST server: rclone's, which can be append-only, with a password that is hard to write."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plans import make_repository

from smartmail.core.backup_plan import RepositoryPlan

SECRET = "ge:heim@wort"
QUOTED = "ge%3Aheim%40wort"


def at(folder: Path, port: int, path: str = "mx1/mail/", *, user: str = "mx1") -> RepositoryPlan:
    """A repository at a REST server of this machine; user: "" for no credentials."""
    plan = make_repository(folder, "offsite")
    who = f"{user}:{QUOTED}@" if user else ""
    Path(plan.at.repository_file).write_text(f"rest:http://{who}127.0.0.1:{port}/{path}\n")
    return plan


@contextmanager
def rclone(folder: Path, *flags: str) -> Iterator[int]:
    """`rclone serve restic` of a folder, with a user whose password is SECRET."""
    binary = shutil.which("rclone")
    assert binary, "missing for the tests: Debian's rclone"
    folder.mkdir(exist_ok=True)
    words = ("serve", "restic", "--addr", "127.0.0.1:0", "--user", "mx1", "--pass", SECRET, "--private-repos", *flags)
    env = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "RCLONE_CONFIG": str(folder / "none.conf")}
    process = subprocess.Popen([binary, *words, str(folder)], env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        port = 0
        for line in process.stderr:
            if "http://127.0.0.1:" in line:
                port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
                break
        assert port, "rclone did not begin to serve"
        yield port
    finally:
        process.terminate()
        process.wait(10)
        if process.stderr is not None:
            process.stderr.close()
