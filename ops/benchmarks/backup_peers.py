"""What `ops/bench backup` is measured against: restic by itself, borgmatic, and Borg by itself; and how a command is
timed."""

import os
import resource
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from .install import Say
from .load import LoadFailed
from .peers import program
from .procs import Child, Processes, busy_seconds

LONGEST: Final = 1_800.0
"""Seconds that one command may take."""
TURN: Final = 0.01
"""Seconds between two looks at a command that is watched."""
BORGMATIC: Final = "2.1.10"
# All of it, so that the same is measured next year.
BORGMATIC_REQUIREMENTS: Final = (
    f"borgmatic=={BORGMATIC}",
    "attrs==26.1.0",
    "certifi==2026.10.18",
    "charset-normalizer==3.5.2",
    "idna==3.20",
    "jsonschema==4.26.0",
    "jsonschema-specifications==2025.9.1",
    "packaging==26.3",
    "psutil==7.2.2",
    "referencing==0.37.0",
    "requests==2.34.2",
    "rpds-py==2026.9.1",
    "ruamel.yaml==0.19.1",
    "typing_extensions==4.16.0",
    "urllib3==2.8.0",
)
COMPRESSION: Final = "zstd,3"
"""Borg's; restic's own default ("auto") is zstd at its default level, which is 3."""


@dataclass(slots=True)
class Stage:
    """What all share: processes, the scratch folder, the folder of the mail. seconds, others: over all runs that were
    timed so far, and the CPU time that anything else on the machine has used meanwhile."""

    processes: Processes
    folder: Path
    source: Path
    say: Say
    seconds: float = 0.0
    others: float = 0.0

    @property
    def others_cores(self) -> float:
        """How many cores everything else kept busy during the runs, on average."""
        return max(0.0, self.others / self.seconds) if self.seconds else 0.0

    def run(
        self,
        name: str,
        argv: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        *,
        watch: Callable[[int, float], None] | None = None,
    ) -> float:
        """Run a command to its end; its seconds. watch: called with its pid and the time (monotonic) every 10 ms. What
        was written before is on the disk before it starts. Raises LoadFailed unless it ends well."""
        os.sync()
        busy, own = busy_seconds(), _used()
        started = time.monotonic()
        child = self.processes.start(name, argv, frozenset(), environment=environment)
        try:
            _wait(child, watch)
            seconds = time.monotonic() - started
            code = child.popen.wait()
        finally:
            self.processes.stop([child])
        self.seconds += seconds
        self.others += busy_seconds() - busy - (_used() - own)
        if code:
            raise LoadFailed(f"{name} ended with code {code}: {child.tail()}")
        return seconds


def _used() -> float:
    """CPU time of ourselves and of all children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)


def _wait(child: Child, watch: Callable[[int, float], None] | None) -> None:
    """By the process's own descriptor: Popen.wait with a limit looks every 50 ms only. Raises LoadFailed."""
    descriptor = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + LONGEST
        while not poll.poll((TURN if watch is not None else LONGEST) * 1000):
            if (now := time.monotonic()) >= deadline:
                raise LoadFailed(f"{child.name} took longer than {LONGEST:.0f} s")
            if watch is not None:
                watch(child.pid, now)
    finally:
        os.close(descriptor)


class Peer(Protocol):
    """One way to back up; id: as in rows, title: for people."""

    id: str
    title: str

    def prepare(self) -> None:
        """Make its repositories. Raises LoadFailed and StartFailed."""

    def run(self) -> dict[str, float]:
        """One night: seconds by step, "all" among them. Raises LoadFailed."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A restic repository of a peer: its place, its password's file, its cache."""

    at: Path
    password_file: Path
    cache: Path

    def argv(self, *words: str | Path) -> list[str | Path]:
        """A command of restic on it."""
        where = ("-r", self.at, "--password-file", self.password_file, "--cache-dir", self.cache)
        return [program("restic"), *where, *words]

    def like(self) -> tuple[str | Path, ...]:
        """Options that name it as the one that is copied from."""
        return ("--from-repo", self.at, "--from-password-file", self.password_file)


def restic_repository(home: Path, name: str) -> Repository:
    """With a new password of its own; restic makes the rest."""
    home.mkdir(parents=True, exist_ok=True)
    password = home / f"{name}.password"
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(32))
    return Repository(home / name, password, home / "cache")


@dataclass(slots=True)
class Bare:
    """restic backup, then restic copy: what an operator writes into a script."""

    stage: Stage
    id: str = "bare"
    title: str = "restic backup, restic copy"
    made: list[Repository] = field(default_factory=list)

    def prepare(self) -> None:
        """Onsite, then offsite with the same chunker parameters."""
        onsite, offsite = (restic_repository(self.stage.folder / self.id, name) for name in ("onsite", "offsite"))
        self.stage.run("restic-init", onsite.argv("init"))
        self.stage.run("restic-init", offsite.argv("init", "--copy-chunker-params", *onsite.like()))
        self.made = [onsite, offsite]

    def run(self) -> dict[str, float]:
        """Both steps."""
        onsite, offsite = self.made
        backup = self.stage.run("restic-backup", onsite.argv("backup", "--host", "mx1", self.stage.source))
        copy = self.stage.run("restic-copy", offsite.argv("copy", "--host", "mx1", *onsite.like()))
        return {"all": backup + copy, "backup": backup, "copy": copy}


@dataclass(slots=True)
class Second:
    """A second restic backup of the same mail, to the other place: what copying stands in for."""

    stage: Stage
    id: str = "second"
    title: str = "a second restic backup"
    made: list[Repository] = field(default_factory=list)

    def prepare(self) -> None:
        """One repository."""
        self.made = [restic_repository(self.stage.folder / self.id, "offsite")]
        self.stage.run("restic-init", self.made[0].argv("init"))

    def run(self) -> dict[str, float]:
        """Back up."""
        argv = self.made[0].argv("backup", "--host", "mx1", self.stage.source)
        return {"all": self.stage.run("restic-second", argv)}


@dataclass(slots=True)
class Borgmatic:
    """borgmatic with Borg, to two local repositories."""

    stage: Stage
    binary: Path
    id: str = "borgmatic"
    title: str = "borgmatic create, two repositories"
    passphrase: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @property
    def home(self) -> Path:
        """Its configuration, repositories, cache and state."""
        return self.stage.folder / self.id

    def prepare(self) -> None:
        """The configuration, and both repositories."""
        self.home.mkdir()
        config = self.home / "config.yaml"
        config.touch(mode=0o600)
        config.write_text(
            f"source_directories:\n  - {self.stage.source}\n"
            f"repositories:\n  - path: {self.home}/onsite\n    label: onsite\n"
            f"  - path: {self.home}/offsite\n    label: offsite\n"
            f"encryption_passphrase: {self.passphrase}\ncompression: {COMPRESSION}\n"
            f"local_path: {program('borg')}\nborg_base_directory: {self.home}/base\n"
            f"user_state_directory: {self.home}/state\nuser_runtime_directory: {self.home}/run\n"
        )
        self.stage.run("borgmatic-init", self._argv("repo-create", "--encryption", "repokey"))

    def run(self) -> dict[str, float]:
        """An archive in each."""
        return {"all": self.stage.run("borgmatic-create", self._argv("create"))}

    def _argv(self, *words: str) -> list[str | Path]:
        return [self.binary, "--config", self.home / "config.yaml", *words]


@dataclass(slots=True)
class Borg:
    """Borg by itself, into borgmatic's repositories, one after the other. borgmatic asks Borg for a dry run before each
    archive; this is without."""

    stage: Stage
    borgmatic: Borgmatic
    id: str = "borg"
    title: str = "borg create, two repositories"
    archives: int = 0

    def prepare(self) -> None:
        """They are there."""

    def run(self) -> dict[str, float]:
        """An archive in each."""
        home = self.borgmatic.home
        environment = {"BORG_BASE_DIR": str(home / "base"), "BORG_PASSPHRASE": self.borgmatic.passphrase}
        self.archives += 1
        seconds = 0.0
        for name in ("onsite", "offsite"):
            archive = f"{home / name}::bare-{self.archives}"
            argv: list[str | Path] = [
                program("borg"),
                "create",
                "--compression",
                COMPRESSION,
                archive,
                self.stage.source,
            ]
            seconds += self.stage.run("borg-create", argv, environment)
        return {"all": seconds}


def borgmatic(cache: Path, say: Say) -> Path | None:
    """borgmatic's program in an environment of its own inside `cache`, installed from PyPI when it is not there yet;
    None when it cannot be."""
    home = cache / f"borgmatic-{BORGMATIC}"
    binary, whole = home / "bin" / "borgmatic", home / ".installed"
    if whole.exists() and binary.exists():
        return binary
    say(f"installing borgmatic {BORGMATIC} from PyPI")
    requirements = cache / f"borgmatic-{BORGMATIC}.txt"
    requirements.write_text("".join(f"{one}\n" for one in BORGMATIC_REQUIREMENTS))
    python = home / "bin" / "python"
    steps: tuple[list[str | Path], ...] = (
        [sys.executable, "-m", "venv", "--clear", home],
        [python, "-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check", "-r", requirements],
    )
    for argv in steps:
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            say(f"borgmatic: {error}")
            return None
        if done.returncode:
            say(f"borgmatic: {(done.stderr.strip().splitlines() or ['no output'])[-1][:300]}")
            return None
    whole.touch()
    return binary
