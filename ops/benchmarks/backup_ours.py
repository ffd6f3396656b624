"""`smartmail backup` as it is measured: its commands, watched from outside; what its catalogue says; what is read of
the source while it copies."""

import json
import re
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .backup_data import Tree
from .backup_peers import Stage
from .load import LoadFailed
from .peers import program

SETTINGS: Final = """\
[server]
data_dir = "{home}/var"
[log]
format = "json"
level = "warning"
[backup]
restic = "{restic}"
doveadm = "{home}/doveadm"
host = "mx1.example.net"
[[repository]]
name = "onsite"
location = "{home}/onsite"
password_file = "{home}/onsite.password"
keep = {{ daily = 14, weekly = 8, monthly = 12 }}
[[repository]]
name = "offsite"
location = "{home}/offsite"
password_file = "{home}/offsite.password"
copy_from = "onsite"
offsite = true
keep = {{ daily = 14, weekly = 8, monthly = 24 }}
[[job]]
name = "mail"
kind = "maildir"
repository = "onsite"
paths = ["{source}"]
mailboxes = "{layout}"
"""
STATUS_EVERY: Final = 3
"""The high-water mark is read at every so many looks; it never falls."""
READS: Final = ("read", "pread64", "readv", "preadv", "preadv2", "mmap", "sendfile", "copy_file_range", "splice")
OPENS: Final = ("open", "openat", "openat2", "creat")
_CALL: Final = re.compile(r"^(\d+)\.(\d{6}) (\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+)")
_LENGTH: Final = re.compile(r", (\d+), PROT_")


@dataclass(slots=True)
class Watched:
    """A process of ours as it is seen from outside: when it had a child, and its own peak of memory. spans: by pid,
    from the first look that saw it to the last."""

    spans: dict[int, list[float]] = field(default_factory=dict)
    peak_kib: int = 0
    looks: int = 0

    def look(self, pid: int, now: float) -> None:
        """Once more. now: seconds of a clock that does not jump."""
        with suppress(OSError):
            for child in children(pid):
                self.spans.setdefault(child, [now, now])[1] = now
            if self.looks % STATUS_EVERY == 0:
                self.peak_kib = max(self.peak_kib, high_water_kib(pid))
        self.looks += 1

    @property
    def peak_mb(self) -> float:
        """In MB (10^6 octets)."""
        return self.peak_kib * 1024 / 1e6


def children(pid: int) -> list[int]:
    """Those of all its threads (proc(5)). Raises OSError when it is gone."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def high_water_kib(pid: int) -> int:
    """VmHWM; 0 of one that has ended. Raises OSError when it is gone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def covered(spans: Iterable[Sequence[float]]) -> float:
    """How long at least one of them lasted: those at the same time count once."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted((one[0], one[1]) for one in spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the catalogue. Times in milliseconds since the epoch."""

    id: int
    activity: str
    state: str
    started_ms: int
    ended_ms: int
    facts: dict[str, object]

    @property
    def restic_ms(self) -> int:
        """restic's own time, as it was written down."""
        value = self.facts.get("restic_ms")
        return value if isinstance(value, int) else 0


@dataclass(slots=True)
class Ours:
    """Onsite, offsite by copy, one job. nights: what was watched at each run."""

    stage: Stage
    root: Path
    tree: Tree
    id: str = "ours"
    title: str = "smartmail backup run, onsite and offsite"
    nights: list[Watched] = field(default_factory=list)
    seen: int = 0

    @property
    def home(self) -> Path:
        """Its configuration, repositories and state."""
        return self.stage.folder / self.id

    @property
    def doveadm(self) -> Path:
        """What its configuration names as doveadm."""
        return self.home / "doveadm"

    def prepare(self) -> None:
        """The configuration, and both repositories."""
        self.home.mkdir()
        text = SETTINGS.format(
            home=self.home, restic=program("restic"), source=self.tree.folder, layout=self.tree.layout
        )
        (self.home / "smartmail.toml").write_text(text)
        self.command("smartmail-init", "backup", "init")

    def run(self) -> dict[str, float]:
        """One night: onsite, then offsite. "restic": while at least one restic was at work; "started": how many there
        were; "told": the sum of what the catalogue says restic took."""
        watched = Watched()
        seconds = self.command("smartmail-run", "backup", "run", "mail", watched=watched)
        entries = self.night()
        if not watched.spans:
            raise LoadFailed("no restic was seen at work below smartmail (/proc/PID/task/TID/children)")
        self.nights.append(watched)
        told = [one.restic_ms / 1000 for one in entries]
        return {
            "all": seconds,
            "restic": covered(watched.spans.values()),
            "started": float(len(watched.spans)),
            "told": sum(told),
        }

    def night(self) -> list[Entry]:
        """What the catalogue has on the run just made. Raises LoadFailed unless it has a backup and a copy, and all of
        it went well."""
        entries = self.entries()
        if not {"backup", "copy"} <= {one.activity for one in entries} or {one.state for one in entries} != {"ok"}:
            found = ", ".join(f"{one.activity} {one.state}: {json.dumps(one.facts)[:200]}" for one in entries)
            raise LoadFailed(f"the night was not a backup and its copy: {found or 'nothing'}")
        return entries

    def entries(self) -> list[Entry]:
        """What the catalogue has that was not asked for before, oldest first."""
        question = (
            "SELECT id, activity, state, started_ms, coalesce(ended_ms, 0), facts FROM backup_record"
            " WHERE id > ? ORDER BY id"
        )
        with closing(sqlite3.connect(f"file:{self.home}/var/smartmail.db?mode=ro", uri=True)) as connection:
            found = [
                Entry(number, activity, state, started, ended, json.loads(facts))
                for number, activity, state, started, ended, facts in connection.execute(question, (self.seen,))
            ]
        self.seen = max((one.id for one in found), default=self.seen)
        return found

    def restore(self, address: str, watched: Watched) -> float:
        """Bring a mailbox back into the live Dovecot, as of now; seconds."""
        words = ("restore", address, "--into", "live", "--yes")
        return self.command("smartmail-restore", "backup", *words, watched=watched)

    def command(
        self, name: str, *words: str, watched: Watched | None = None, before: Sequence[str | Path] = ()
    ) -> float:
        """Run a command of ours; its seconds. before: what it is run by. Raises LoadFailed."""
        argv: list[str | Path] = [
            *before,
            sys.executable,
            "-m",
            "smartmail",
            "--config",
            self.home / "smartmail.toml",
            *words,
        ]
        look = None if watched is None else watched.look
        return self.stage.run(name, argv, {"PYTHONPATH": str(self.root)}, watch=look)

    def counted(self) -> "Counted":
        """One more night under strace: what was read of the source, by whichever process of ours, while the copy was
        made. Raises LoadFailed where the count cannot be trusted: it must have seen what the backup itself read."""
        traces = self.home / "traces"
        traces.mkdir()
        calls = ",".join((*OPENS, *READS))
        tracer = (program("strace"), "-ff", "-y", "-ttt", "-s", "0", "--seccomp-bpf", "-e", f"trace={calls}")
        self.command("smartmail-traced", "backup", "run", "mail", before=(*tracer, "-o", traces / "t"))
        entries = {one.activity: one for one in self.night()}
        found = Counted()
        for trace in traces.iterdir():
            with trace.open(errors="replace") as lines:
                found.add(lines, str(self.tree.folder), entries["backup"], entries["copy"])
        return found


@dataclass(slots=True)
class Counted:
    """Opens of anything below the source, and octets that were read there: during the backup, during the copy."""

    backup_opens: int = 0
    backup_octets: int = 0
    copy_opens: int = 0
    copy_octets: int = 0

    def add(self, lines: Iterable[str], source: str, backup: Entry, copy: Entry) -> None:
        """Lines of one thread, as strace -y -ttt writes them: descriptors come with their paths."""
        for line in lines:
            if source not in line or (call := _CALL.match(line)) is None:
                continue
            at_ms = int(call[1]) * 1000 + int(call[2]) // 1000
            octets = _octets(call[3], call[4], call[5])
            if copy.started_ms <= at_ms <= copy.ended_ms:
                self.copy_opens += call[3] in OPENS
                self.copy_octets += octets
            elif backup.started_ms <= at_ms <= backup.ended_ms:
                self.backup_opens += call[3] in OPENS
                self.backup_octets += octets


def _octets(call: str, words: str, result: str) -> int:
    """What a call has read of a file; a mapping counts as a whole."""
    if call in OPENS or result.startswith("-"):
        return 0
    if call == "mmap":
        length = _LENGTH.search(words)
        return int(length[1]) if length else 0
    return int(result, 0)
