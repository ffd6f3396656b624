"""`ops/bench backup`: nights of 500,000 messages, onsite and offsite, against restic by itself and borgmatic; what a
copy reads of the source; one mailbox brought back into a live Dovecot."""

import os
import pwd
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from . import install
from .backup_data import Tree
from .backup_dovecot import Dovecot, start_dovecot
from .backup_ours import Ours, Watched
from .backup_peers import Bare, Borg, Borgmatic, Peer, Second, Stage, borgmatic
from .load import LoadFailed
from .monitor_report import Results, Row
from .peers import program
from .procs import Processes, StartFailed, raise_file_limit, unprivileged_user
from .relay import Say, alone, interrupted

PROGRAMS: Final = ("restic", "borg", "strace", "dovecot", "doveadm")
MESSAGES: Final = 500_000
QUICK: Final = 50_000
MESSAGES_VARIABLE: Final = "SMARTMAIL_BENCH_MESSAGES"
"""For who works on the benchmark: so many messages, whatever else was asked for."""
ROOM: Final = 48_000
"""Octets of disk for each message: the mail, seven repositories, and all of it restored."""
DELIVERED: Final = 100
"""Messages that come before the night that is counted."""
RESTORED: Final = 3
"""Mailboxes that are brought back, one after the other."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done."""

    messages: int = MESSAGES
    rounds: int = 3

    @staticmethod
    def of(*, quick: bool, rounds: int = 3) -> "Plan":
        """As the command line and the environment say. Raises LoadFailed for a number that is none."""
        said = os.environ.get(MESSAGES_VARIABLE, "")
        if said and (not said.isdigit() or not 100 <= int(said) <= 5_000_000):
            raise LoadFailed(f"{MESSAGES_VARIABLE}={said}: a number from 100 to 5000000")
        return Plan(int(said) if said else QUICK if quick else MESSAGES, rounds)


@dataclass(slots=True)
class Bench:
    """One run. peers: those that are ready, in the order of the first round; nights: seconds by step, by peer."""

    plan: Plan
    stage: Stage
    root: Path
    tree: Tree
    results: Results = field(default_factory=Results)
    peers: list[Peer] = field(default_factory=list)
    nights: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def fail(self, what: str, error: Exception) -> None:
        """Keep the first fault of something."""
        self.results.faults.setdefault(what, str(error))
        self.stage.say(f"{what}: {error}")

    def make(self) -> None:
        """The mail. Raises LoadFailed when there is no room."""
        wanted, free = self.plan.messages * ROOM, shutil.disk_usage(self.stage.folder).free
        if free < wanted:
            raise LoadFailed(f"{self.stage.folder.parent} has {free / 1e9:.0f} GB free, {wanted / 1e9:.0f} are needed")
        self.stage.say(f"making {self.plan.messages:,} messages in {self.tree.mailboxes:,} mailboxes")
        started = time.monotonic()
        user = pwd.getpwnam(unprivileged_user())  # Dovecot does not write as root
        self.tree.folder.mkdir(mode=0o755)
        os.chown(self.tree.folder, user.pw_uid, user.pw_gid)
        parts = len(os.sched_getaffinity(0))
        environment = {"PYTHONPATH": f"{self.root / 'ops'}{os.pathsep}{self.root}"}
        makers = []
        for part in range(parts):
            numbers = (str(one) for one in (self.plan.messages, part, parts, user.pw_uid, user.pw_gid))
            argv = [sys.executable, "-m", "benchmarks.backup_data", str(self.tree.folder), *numbers]
            makers.append(self.stage.processes.start(f"maker-{part}", argv, frozenset(), environment=environment))
        for maker in makers:
            if maker.popen.wait():
                raise LoadFailed(f"{maker.name}: {maker.tail()}")
        self.stage.processes.stop(makers)
        self.stage.say(f"made in {time.monotonic() - started:.0f} s")
        self.results.facts |= {"messages": self.plan.messages, "mailboxes": self.tree.mailboxes}

    def ready(self, ours: Ours, bare: Bare, borgmatic_: Path | None) -> None:
        """Everybody's repositories."""
        waiting: list[Peer] = [ours, bare, Second(self.stage)]
        if borgmatic_ is None:
            self.fail("borgmatic", LoadFailed("borgmatic could not be installed from PyPI, or borgbackup is missing"))
        else:
            with_borg = Borgmatic(self.stage, borgmatic_)
            waiting += [with_borg, Borg(self.stage, with_borg)]
        for one in waiting:
            try:
                one.prepare()
                self.peers.append(one)
            except (LoadFailed, StartFailed) as error:
                self.fail(one.id, error)

    def night(self, one: Peer) -> dict[str, float] | None:
        """One night of one peer. Who fails is left out from then on."""
        try:
            return one.run()
        except (LoadFailed, StartFailed) as error:
            self.fail(one.id, error)
            self.peers.remove(one)
            return None

    def first(self) -> None:
        """The first night of each: everything is new."""
        for one in list(self.peers):
            if one.id == "borg":
                continue  # its repositories are borgmatic's
            self.stage.say(f"first night: {one.title}")
            if found := self.night(one):
                self.results.add(Row(f"first_{one.id}", f"first night: {one.title}", found["all"], "s"))
                if one.id == "bare":
                    self.results.add(Row("first_copy", "  of it the copy", found["copy"], "s"))
                if one.id == "ours":
                    share = overhead_pct(found)
                    self.results.add(Row("first_overhead", "  over restic's own time", share, "%"))

    def rounds(self) -> None:
        """Nights without a change, in turns; each round begins with another one."""
        for number in range(self.plan.rounds):
            self.stage.say(f"nights without a change: round {number + 1} of {self.plan.rounds}")
            turn = number % max(1, len(self.peers))
            for one in [*self.peers[turn:], *self.peers[:turn]]:
                if found := self.night(one):
                    self.nights.setdefault(one.id, []).append(found)

    def tell_nights(self, ours: Ours) -> None:
        """Rows and bars of the rounds. Who failed in one of them has no figures."""
        whole = {one.id: self.nights[one.id] for one in self.peers if one.id in self.nights}
        for one in self.peers:
            if one.id in whole:
                seconds = [night["all"] for night in whole[one.id]]
                self.results.add(Row.median(f"nightly_{one.id}", f"unchanged: {one.title}", "s", seconds))
        mine, values = whole.get("ours"), self.results.values
        if mine is None:
            return
        row = Row.median("overhead", "ours over restic's own time", "%", [overhead_pct(one) for one in mine])
        values["overhead_pct"] = row.value
        values["rss_mb"] = max(one.peak_mb for one in ours.nights)
        told = [(one["all"] / one["told"] - 1) * 100 for one in mine if one["told"]]
        self.results.add(row)
        if told:
            title = "  over what the catalogue has of backup, ls and copy"
            self.results.add(Row.median("overhead_told", title, "%", told))
        self.results.add(
            Row.median("own", "  ours without any restic at work", "s", [one["all"] - one["restic"] for one in mine]),
            Row.median("restics", "  restic was started", "times", [one["started"] for one in mine]),
            Row("rss", "  memory of ours, peak of all nights", values["rss_mb"], "MB", peaks(ours.nights)),
        )
        for other, title in (("bare", "  over bare restic's night"), ("borgmatic", "ours by borgmatic's night")):
            if other in whole:
                ratio = ratio_of(mine, whole[other])
                if other == "borgmatic":
                    values["nightly_vs_borgmatic"] = ratio
                    self.results.add(Row("vs_borgmatic", title, ratio, "times"))
                    borg = whole.get("borg")
                    if borg:
                        self.results.add(Row("vs_borg", "ours by bare Borg's night", ratio_of(mine, borg), "times"))
                else:
                    self.results.add(Row("over_bare", title, (ratio - 1) * 100, "%"))
        if "bare" in whole:
            copies = [one["copy"] for one in whole["bare"]]
            self.results.add(Row.median("nightly_copy", "unchanged: restic copy alone", "s", copies))

    def count(self, ours: Ours) -> None:
        """What the copy reads of the source."""
        self.stage.say(f"{DELIVERED} messages come; a night under strace: what is read of the source")
        delivered = self.tree.deliver(DELIVERED)
        time.sleep(1.1)  # a second that has begun counts as one of the walk
        found = ours.counted()
        if found.backup_octets < delivered:
            raise LoadFailed(f"strace saw {found.backup_octets} octets read by the backup, of {delivered} at least")
        self.results.values["offsite_source_bytes"] = found.copy_octets
        self.results.add(
            Row(
                "source_read",
                f"{DELIVERED} new messages: read of the source by the backup",
                found.backup_octets,
                "octets",
            ),
            Row("offsite_source", "  by the copy", found.copy_octets, "octets"),
            Row("offsite_opens", "  opened there by the copy", found.copy_opens, "files"),
        )

    def restores(self, ours: Ours) -> None:
        """Whole mailboxes, all gone, each brought back."""
        dovecot = self._dovecot(ours)
        seconds, sizes, watched = [], [], Watched()
        for number in range(self.tree.mailboxes - 1, max(-1, self.tree.mailboxes - 1 - RESTORED), -1):
            address, lost = self.tree.address(number), list(self.tree.files(number))
            self.stage.say(f"a mailbox of {len(lost):,} messages back: {address}")
            for file in lost:
                file.unlink()
            seconds.append(ours.restore(address, watched))
            sizes.append(len(lost))
            there = dovecot.messages(address, "Restored*")
            if there != len(lost):
                raise LoadFailed(f"{address}: {len(lost)} messages were lost, {there} came back")
        row = Row.median("mailbox_restore", f"one mailbox of {min(sizes):,} back, into a live Dovecot", "s", seconds)
        self.results.values["mailbox_restore_s"] = row.value
        self.results.add(row, Row("restore_rss", "  memory of ours", watched.peak_mb, "MB"))

    def _dovecot(self, ours: Ours) -> Dovecot:
        found = start_dovecot(self.stage.processes, self.stage.folder / "dovecot", self.tree)
        ours.doveadm.write_text(f'#!/bin/sh\nexec {program("doveadm")} -c {found.config} "$@"\n')
        ours.doveadm.chmod(0o755)
        return found

    def whole(self, bare: Bare) -> None:
        """Everything back into a folder, by restic."""
        self.stage.say("everything back into a folder")
        target = self.stage.folder / "whole"
        argv = bare.made[0].argv("restore", "latest", "--target", target)
        seconds = self.stage.run("restic-restore", argv)
        self.results.add(Row("full_restore", "everything back into a folder, by restic", seconds, "s"))
        shutil.rmtree(target, ignore_errors=True)

    def run(self, borgmatic_: Path | None) -> None:
        """Every part; a fault of one leaves the others."""
        try:
            self.make()
        except (LoadFailed, StartFailed) as error:
            self.fail("everything", error)
            return
        ours, bare = Ours(self.stage, self.root, self.tree), Bare(self.stage)
        self.ready(ours, bare, borgmatic_)
        self.first()
        self.rounds()
        self.tell_nights(ours)
        parts: tuple[tuple[str, Peer, Callable[[], None]], ...] = (
            ("count", ours, lambda: self.count(ours)),
            ("full restore", bare, lambda: self.whole(bare)),
            ("mailbox restore", ours, lambda: self.restores(ours)),
        )
        for name, needed, work in parts:
            try:
                if needed in self.peers:
                    work()
            except (LoadFailed, StartFailed) as error:
                self.fail(name, error)


def overhead_pct(night: dict[str, float]) -> float:
    """What a night of ours took beyond the time in which at least one restic was at work."""
    return (night["all"] / night["restic"] - 1) * 100


def ratio_of(ours: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> float:
    """Median by median."""
    mine, theirs = (statistics.median(one["all"] for one in nights) for nights in (ours, other))
    return mine / theirs


def peaks(nights: Sequence[Watched]) -> tuple[float, ...]:
    """Of each run."""
    return tuple(one.peak_mb for one in nights)


def run(root: Path, plan: Plan, say: Say) -> tuple[Results, str]:
    """Install, measure, end all. Returns what was found and how it was pinned."""
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, interrupted)
    raise_file_limit()
    absent = install.install_packages(PROGRAMS, say)
    if absent:
        say(f"missing, and not installed since that needs root: {', '.join(absent)}")
    cache = root / ".cache" / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    borgmatic_ = None if "borg" in absent else borgmatic(cache, say)
    folder = Path(tempfile.mkdtemp(prefix="smartmail-bench-", dir="/var/tmp" if os.path.isdir("/var/tmp") else None))
    folder.chmod(0o755)
    try:
        with alone(cache, say), Processes(folder) as processes:
            started = time.monotonic()
            stage = Stage(processes, folder, folder / "mail", say)
            bench = Bench(plan, stage, root, Tree(folder / "mail", plan.messages))
            bench.run(borgmatic_)
            bench.results.others_cores = stage.others_cores
            say(f"done in {time.monotonic() - started:.0f} s")
            return bench.results, "nothing pinned"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
