"""Worlds of a backup for the command line: mail, two repositories, a configuration, and a restic that can be paced."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from support.forking import Forked, fork
from support.processes import eventually
from weakkeys import cheapen

from smartmail.core.backup_record import Activity, Record
from smartmail.store import backups
from smartmail.store.database import Database

WRAPPER = Path(__file__).with_name("paced_restic.py")
RUN_LIMIT_S = 100
SELDOM = 10_080
"""Minutes between the times of a job: what is due is what was never done."""
ANNA, BOB = "anna@example.net", "bob@example.net"


@dataclass(frozen=True)
class Ended:
    """A command line that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed."""
        return json.loads(self.out)


@dataclass
class World:
    """folder: everything of it. repositories, backup: more keys of the configuration, as TOML words, by repository."""

    folder: Path
    keys: dict[str, dict[str, str]] = field(default_factory=dict)
    restic: str = "restic"
    begun: int = 0

    @property
    def state(self) -> Path:
        """The backup's own folder."""
        return self.folder / "data" / "backup"

    def maildir(self, local: str) -> Path:
        """Of an account of example.net."""
        return self.folder / "vmail" / "example.net" / local / "Maildir"

    def set(self, repository: str, **keys: str) -> None:
        """More keys of a repository: TOML words."""
        self.keys.setdefault(repository, {}).update(keys)

    def write(self) -> None:
        """The configuration as it is now."""
        at = self.folder
        parts = [
            f'[server]\ndata_dir = "{at}/data"\n',
            f'[backup]\nhost = "mx1.example.net"\nzone = "Europe/London"\nrestic = "{self.restic}"\n',
            f'[drill]\nrepository = "offsite"\nevery_minutes = {SELDOM}\n',
        ]
        for name, mine in (
            ("onsite", {}),
            ("offsite", {"copy_from": '"onsite"', "offsite": "true"}),
        ):
            keys = {
                "name": f'"{name}"',
                "location": f'"{at}/{name}"',
                "password_file": f'"{at}/{name}.password"',
                "keep": "{ last = 1 }",
                "rpo_hours": "400",
                "floor": "1",
                "check_parts": "1",
                "check_every_minutes": str(SELDOM),
                **mine,
                **self.keys.get(name, {}),
            }
            parts.append("[[repository]]\n" + "".join(f"{key} = {words}\n" for key, words in keys.items() if words))
        for name, kind, more in (
            ("accounts", "sqlite", f'paths = ["{at}/accounts.db"]\n'),
            (
                "mail",
                "maildir",
                f'order = 1\npaths = ["{at}/vmail"]\nmailboxes = "{at}/vmail/{{domain}}/{{local}}/Maildir"\n',
            ),
        ):
            head = f'[[job]]\nname = "{name}"\nkind = "{kind}"\nrepository = "onsite"\n'
            parts.append(f"{head}every_minutes = {SELDOM}\n{more}")
        (at / "smartmail.toml").write_text("".join(parts))

    def begin(self, *words: str) -> Forked:
        """Start a command of `smartmail backup`."""
        self.write()
        self.begun += 1
        files = self.folder / "commands" / str(self.begun)
        files.mkdir(parents=True)
        return fork([*self.arguments, *words], files)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Before the words of each command."""
        return ("--config", str(self.folder / "smartmail.toml"), "backup")

    def run(self, *words: str) -> Ended:
        """Run one to its end."""
        return ended(self.begin(*words))

    def run_alone(self, *words: str, **environment: str) -> Ended:
        """Run one to its end, in an interpreter of its own."""
        self.write()
        found = subprocess.run(
            [sys.executable, "-m", "smartmail", *self.arguments, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            timeout=RUN_LIMIT_S,
        )
        return Ended(found.returncode, found.stdout, found.stderr)

    def records(self, activity: Activity | None = None) -> list[Record]:
        """Of the catalogue, oldest first."""
        with Database(f"sqlite:///{self.folder}/data/smartmail.db") as database, database.read() as connection:
            return backups.records(connection, activity=activity)[::-1]

    def locks(self) -> list[Path]:
        """In both repositories."""
        return [file for name in ("onsite", "offsite") for file in (self.folder / name / "locks").iterdir()]

    def metrics(self) -> tuple[Ended, str]:
        """`backup status --textfile --json`, and the file."""
        file = self.folder / "metrics.prom"
        return self.run("status", "--json", "--textfile", str(file)), file.read_text()

    # pacing

    def pace(self, when: str, *words: str) -> None:
        """The next restic with these words on its command line waits: before, held, after."""
        if self.restic == "restic":
            shutil.copy(WRAPPER, self.folder / "restic")
            self.restic = str(self.folder / "restic")
            for name in ("reached", "go"):
                os.mkfifo(self.folder / name)
        (self.folder / "pace").write_text(" ".join((when, *words)))

    def reached(self, process: Forked) -> tuple[int, int]:
        """Wait until it waits: process ids of the wrapper and of restic (0: none yet)."""
        fifo = os.open(self.folder / "reached", os.O_RDONLY | os.O_NONBLOCK)
        try:

            def told() -> bytes | None:
                assert process.poll() is None, f"it ended with {process.poll()}: {process.said()}"
                try:
                    return os.read(fifo, 100)
                except BlockingIOError:
                    return None

            wrapper, child = eventually(told, "restic to come to the place").split()
        finally:
            os.close(fifo)
        return int(wrapper), int(child)

    def go(self) -> None:
        """Let it go on."""
        with open(self.folder / "go", "w"):
            pass


def ended(process: Forked) -> Ended:
    """Wait for it."""
    code = process.wait(RUN_LIMIT_S)
    return Ended(code, *process.said())


@cache
def template(folder: Path) -> World:
    """A world with one run, made by the command line once; its repositories are cheap to open."""
    world = World(folder)
    fill(world)
    found = world.run_alone("init")
    assert found.code == 0, found
    for name in ("onsite", "offsite"):
        cheapen(folder / name, (folder / f"{name}.password").read_text().strip())
    found = world.run_alone("run")
    assert found.code == 0, found
    return world


def fill(world: World, messages: int = 6) -> None:
    """Two mailboxes and a database of accounts."""
    world.folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(world.folder / "accounts.db")) as database:
        database.execute("create table accounts (address text)")
        database.executemany("insert into accounts values (?)", [(ANNA,), (BOB,)])
        database.commit()
    for local in ("anna", "bob"):
        for number in range(messages):
            put(world.maildir(local), number, ".Sent" if number % 3 == 0 else "")


def put(maildir: Path, number: int, folder: str = "") -> Path:
    """A message in a folder of a Maildir."""
    home = maildir / folder
    for part in ("cur", "new", "tmp"):
        (home / part).mkdir(parents=True, exist_ok=True)
    text = f"From: a{number}@example.org\nSubject: message {number}\nMessage-ID: <{number}@example.org>\n\n{number}\n"
    file = home / "cur" / f"{1_764_000_000 + number}.M{number}P1.mx1,S={len(text)}:2,S"
    file.write_text(text)
    return file


def like(made: World, folder: Path) -> World:
    """Another world with copies of its repositories, in which is a run of the same jobs; with no catalogue yet."""
    world = World(folder)
    fill(world)
    for name in ("onsite", "offsite"):
        shutil.copytree(made.folder / name, folder / name)
        shutil.copy(made.folder / f"{name}.password", folder)
    return world


def snapshots(world: World, repository: str) -> int:
    """How many there are, asked of restic itself."""
    argv = ["restic", "-r", str(world.folder / repository), "-p", str(world.folder / f"{repository}.password")]
    found = subprocess.run([*argv, "snapshots", "--json", "--no-lock"], capture_output=True, check=True, text=True)
    return found.stdout.count('"tree"')
