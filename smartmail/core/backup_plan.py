"""What is backed up, to where, how often, and what is kept: the configuration of the backup as plain values.

A job is backed up once, to the repository that it names; every repository with a `copy_from` gets the snapshots of that
one by copy, never from the source (DESIGN section 5). Paths are absolute, times milliseconds, sizes octets.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from smartmail.core.backup_due import Schedule
from smartmail.core.mailbox_place import Layout
from smartmail.core.manifest import SamplePlan
from smartmail.core.restic import Prune, Repository
from smartmail.core.retention import Guards, KeepRule

MS_PER_HOUR: Final = 3_600_000


class JobKind(StrEnum):
    """What a job's source is."""

    MAILDIR = "maildir"
    """Folders of Maildirs: reconciled after the walk, sampled for the drill."""
    FILES = "files"
    """Folders or files that are as they are: configuration, keys."""
    SQLITE = "sqlite"
    """A SQLite database, by its own backup."""
    POSTGRESQL = "postgresql"
    """A database of PostgreSQL, by pg_dump, and the roles by pg_dumpall."""
    DOVECOT = "dovecot"
    """Mailboxes of any format (mdbox, sdbox), by `doveadm backup` into a staging Maildir."""
    QUEUE = "queue"
    """The Postfix queue."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Commands around a job, such as making and dropping a file-system snapshot; each an argv. `after` is run whatever
    came before it. limit_s: for each."""

    before: tuple[tuple[str, ...], ...] = ()
    after: tuple[tuple[str, ...], ...] = ()
    limit_s: int = 600


@dataclass(frozen=True, slots=True)
class Usual:
    """What a source must be like before and after a run. mounted: paths that must be mount points. least_*: fewer is a
    fault. percent: how far the files and octets may be from the median of the last runs before it is an anomaly."""

    mounted: tuple[str, ...] = ()
    least_files: int = 1
    least_octets: int = 1
    percent: int = 50


@dataclass(frozen=True, slots=True)
class JobPlan:
    """One job. paths: what is backed up (of a database: the file of SQLite, or nothing). layout: where mailboxes are,
    for Maildirs. database: of PostgreSQL, the name or the connection's service. users: of DOVECOT, patterns of
    `doveadm user`. most_partial: with more unreadable items a run has failed, with fewer it is partial."""

    name: str
    kind: JobKind
    repository: str
    schedule: Schedule
    order: int = 0
    paths: tuple[str, ...] = ()
    layout: Layout | None = None
    excludes: tuple[str, ...] = ()
    database: str = ""
    users: tuple[str, ...] = ()
    usual: Usual = field(default_factory=Usual)
    hooks: Hooks = field(default_factory=Hooks)
    most_partial: int = 100


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """How a repository is checked: one of `parts` parts of its data is read each time `schedule` comes; all of them
    must have been read within `window_ms`."""

    parts: int
    schedule: Schedule
    window_ms: int


@dataclass(frozen=True, slots=True)
class RepositoryPlan:
    """One repository. copy_from: "" if jobs are backed up to it directly. offsite: is it at another place? append_only:
    it is to refuse deletion, which a probe proves. keep: None: nothing is forgotten from here. rpo_ms: how old the
    newest whole snapshot of each job may be. clock: URL whose Date header retention compares the clock with, "" for the
    repository's own where it is one."""

    name: str
    at: Repository
    keep: tuple[KeepRule, ...] | None
    rpo_ms: int
    check: CheckPlan
    guards: Guards = field(default_factory=Guards)
    prune: Prune = field(default_factory=Prune)
    copy_from: str = ""
    offsite: bool = False
    append_only: bool = False
    clock: str = ""


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """The restore drill. repository: where from, "" for none. window_ms: how old the last proof may be."""

    repository: str
    schedule: Schedule
    sample: SamplePlan
    window_ms: int
    mailboxes: int = 1
    """How many whole mailboxes are restored, opened and counted."""


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """All of it. host: what snapshots are made under, whatever the machine is called. zone: of schedules and retention.
    folder: for dumps on their way, manifests, reports and restic's cache; nothing in it is needed for a restore."""

    host: str
    zone: str
    folder: str
    restic: str
    doveadm: str
    jobs: tuple[JobPlan, ...]
    repositories: tuple[RepositoryPlan, ...]
    drill: DrillPlan

    def job(self, name: str) -> JobPlan:
        """Raises KeyError."""
        return {one.name: one for one in self.jobs}[name]

    def repository(self, name: str) -> RepositoryPlan:
        """Raises KeyError."""
        return {one.name: one for one in self.repositories}[name]

    def copies_of(self, repository: str) -> tuple[RepositoryPlan, ...]:
        """The repositories that get the snapshots of this one, in the order of the file."""
        return tuple(one for one in self.repositories if one.copy_from == repository)

    def jobs_in(self, repository: str) -> tuple[JobPlan, ...]:
        """The jobs whose snapshots are to be in a repository, directly or by copy."""
        plan = self.repository(repository)
        source = plan.copy_from or repository
        return tuple(one for one in self.jobs if one.repository == source)
