"""The backup's part of smartmail.toml: repositories, jobs and the restore drill."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from smartmail.config.backup_values import (
    KEEP_ALL,
    AbsolutePath,
    Clock,
    Commands,
    Database,
    DoveadmUser,
    Exclude,
    Keep,
    Location,
    MailboxLayout,
    MaxUnused,
    Name,
    OptionalName,
    Program,
    ResticOption,
    SnapshotHost,
    TimeOfDay,
    Variables,
    Weekday,
)
from smartmail.config.section import Section
from smartmail.config.values import (
    ListenAddressOrOff,
    NeededPath,
    OptionalPath,
    Switch,
    TcpAddress,
    WholeNumber,
    ZoneName,
    parse_address,
)
from smartmail.core.backup_plan import JobKind

Count = Annotated[WholeNumber, Field(ge=1, le=1_000_000)]
Sampled = Annotated[WholeNumber, Field(ge=0, le=100_000)]
Rate = Annotated[WholeNumber, Field(ge=0, le=2**31 - 1)]
EveryMinutes = Annotated[WholeNumber, Field(ge=0, le=44_640)]
Retries = Annotated[WholeNumber, Field(ge=0, le=20)]
Days = Annotated[WholeNumber, Field(ge=1, le=3660)]


class BackupConfig(Section):
    """What all of the backup shares: `smartmail backup` and its timer."""

    restic: Program = "restic"
    """restic: a name to look for, or an absolute path; version 0.14 or newer."""
    doveadm: Program = "doveadm"
    """Dovecot's doveadm, for jobs of the kind dovecot and for restores into a live mailbox."""
    host: SnapshotHost = ""
    """The name that snapshots are made under. Needed as soon as there is a job, and never changed: snapshots of another
    name are counted by themselves."""
    zone: ZoneName = "UTC"
    """Time zone of the schedules and of the days, weeks and months of retention, for example "Europe/London"."""
    folder: OptionalPath = None
    """Folder for dumps on their way, manifests, reports and restic's cache; empty: backup within data_dir. No restore
    needs what is in it."""
    metrics_address: ListenAddressOrOff = "127.0.0.1:9329"
    """IP address and port of the backup's own metrics for Prometheus, of `smartmail backup loop`. Empty: off."""

    @property
    def metrics_endpoint(self) -> TcpAddress | None:
        """`metrics_address` as (host, port); None when switched off."""
        found = parse_address(self.metrics_address) if self.metrics_address else None
        return found if isinstance(found, TcpAddress) else None


class DrillConfig(Section):
    """The restore drill: some of everything is restored from one repository, and compared by SHA-256 with what was
    written down when it was backed up."""

    repository: OptionalName = ""
    """Which repository it restores from; take the one offsite. Empty: no drill."""
    times: tuple[TimeOfDay, ...] = ("06:00",)
    """When, by the wall clock of backup.zone."""
    weekdays: tuple[Weekday, ...] = ("sun",)
    """On which days; empty: on all."""
    every_minutes: EveryMinutes = 0
    """In place of times: every so many minutes."""
    at_random: Sampled = 200
    """Files out of all of a job."""
    per_mailbox: Sampled = 2
    """Files out of each mailbox."""
    per_size_class: Sampled = 1
    """Files out of each class of size (empty, below 4 KiB, 64 KiB, 1 MiB, above) of each mailbox."""
    mailboxes: Annotated[WholeNumber, Field(ge=0, le=1000)] = 1
    """Whole mailboxes that are restored, opened and counted."""
    window_days: Days = 8
    """How old the last proof may be."""


class RepositoryConfig(Section):
    """A restic repository. Jobs are backed up into it, or it gets copies of another one (copy_from). Each has a key of
    its own, and says itself what is kept in it."""

    name: Annotated[Name, Field(examples=["onsite"])]
    """Name in reports, logs and metrics: small letters, digits, - and _; 32 at most."""
    location: Annotated[Location, Field(examples=["/srv/backup/mx1"])] = ""
    """A folder, or an address as restic has it: "sftp:user@host:/path", "rest:https://host/path/", "s3:https://..."."""
    location_file: OptionalPath = None
    """In place of location: a file that holds it, readable by nobody else. For an address with a password."""
    password_file: Annotated[NeededPath, Field(examples=[Path("/etc/smartmail/backup/onsite.password")])]
    """File that holds the password of the repository, readable by nobody else. Keep copies of it elsewhere: without it
    there is no restore."""
    copy_from: OptionalName = ""
    """The repository whose snapshots are copied into this one. Empty: jobs are backed up into it."""
    offsite: Switch = False
    """Is it at another place?"""
    append_only: Switch = False
    """Its server refuses to delete, which a probe proves. What keep says is planned here, and done by whoever runs the
    server."""
    keep: Keep = KEEP_ALL
    """What is kept: "all", or a table such as { daily = 14, weekly = 8, monthly = 12 }. Rules: last, hourly, daily,
    weekly, monthly, yearly (a number or "all"), within and within_daily etc. (a duration like "1y6m10d12h"), tags."""
    floor: Annotated[WholeNumber, Field(ge=1, le=1000)] = 3
    """Snapshots of each job that stay, whatever the rules say; a plan that leaves fewer is refused."""
    most_removed: Count = 50
    """Snapshots that one removal may take; a plan that takes more is refused."""
    most_percent: Annotated[WholeNumber, Field(ge=1, le=100)] = 50
    """The same as a share of all, in per cent."""
    rpo_hours: Annotated[WholeNumber, Field(ge=1, le=8784)] = 26
    """How old the newest whole snapshot of each job may be."""
    check_parts: Annotated[WholeNumber, Field(ge=1, le=256)] = 28
    """The data is read back in so many parts, one at each check."""
    check_times: tuple[TimeOfDay, ...] = ("05:00",)
    """When it is checked, by the wall clock of backup.zone."""
    check_weekdays: tuple[Weekday, ...] = ()
    """On which days; empty: on all."""
    check_every_minutes: EveryMinutes = 0
    """In place of check_times: every so many minutes."""
    check_window_days: Days = 35
    """Within how many days all of the data must have been read."""
    max_unused: MaxUnused = "5%"
    """What a prune may leave that no snapshot uses: "5%", "10G" or "unlimited"."""
    limit_upload: Rate = 0
    """KiB a second to it at most; 0: no limit."""
    limit_download: Rate = 0
    """KiB a second from it at most; 0: no limit."""
    options: tuple[ResticOption, ...] = ()
    """restic's extended options, for example ["rest.connections=8"]."""
    variables: Variables = {}  # noqa: RUF012 - pydantic copies it
    """Variables that name files of secrets, for example { AWS_SHARED_CREDENTIALS_FILE = "/etc/smartmail/s3" }."""
    certificate_file: OptionalPath = None
    """PEM file of the authority that signed the server's certificate; empty: those of the system."""
    lock_wait: Annotated[WholeNumber, Field(ge=0, le=86_400)] = 0
    """Seconds that restic waits for somebody else's lock (from version 0.16 on)."""
    clock: Clock = ""
    """URL whose Date header the clock is compared with before anything is forgotten. Empty: the repository's own server
    for rest:, and none for a folder."""


class JobConfig(Section):
    """Something that is backed up, into one repository; the others get it by copy."""

    name: Annotated[Name, Field(examples=["mail"])]
    """Name in reports, logs, metrics and snapshots: small letters, digits, - and _; 32 at most. Never changed."""
    kind: Annotated[JobKind, Field(examples=[JobKind.MAILDIR])]
    """maildir: folders of Maildirs. files: folders and files as they are. sqlite, postgresql: a database, by its own
    backup. dovecot: mailboxes of any format, by doveadm backup. queue: the Postfix queue."""
    repository: Annotated[Name, Field(examples=["onsite"])]
    """Which repository it goes into. Keys of mailboxes belong into another one than the mail."""
    times: tuple[TimeOfDay, ...] = ("02:00",)
    """When, by the wall clock of backup.zone."""
    weekdays: tuple[Weekday, ...] = ()
    """On which days; empty: on all."""
    every_minutes: EveryMinutes = 0
    """In place of times: every so many minutes."""
    retries: Retries = 3
    """How often it is tried again after a failure, until its next time comes."""
    retry_minutes: Annotated[WholeNumber, Field(ge=1, le=1440)] = 15
    """Minutes before the first of these; each further one waits so many more."""
    order: Annotated[WholeNumber, Field(ge=0, le=1000)] = 0
    """Of jobs that are due together those with a smaller number go first: accounts before mail."""
    paths: Annotated[tuple[AbsolutePath, ...], Field(examples=[("/srv/vmail",)])] = ()
    """maildir, files: folders and files. sqlite: the file of the database. queue: its folder; empty:
    /var/spool/postfix."""
    mailboxes: Annotated[MailboxLayout, Field(examples=["/srv/vmail/{domain}/{local}/Maildir"])] = ""
    """maildir: where the Maildir of an address is, with {domain} and {local} in it."""
    excludes: tuple[Exclude, ...] = ()
    """maildir, files, queue: restic's patterns of what is left out. Maildirs are without their tmp/ and index files in
    any case."""
    database: Database = ""
    """postgresql: its name, or "service=..." of pg_service.conf. No password: it stands in ~/.pgpass."""
    users: tuple[DoveadmUser, ...] = ()
    """dovecot: patterns of doveadm user, for example ["*@example.com"]; empty: all."""
    mounted: tuple[AbsolutePath, ...] = ()
    """Paths that must be mount points: a disk that is not there is no empty mailbox."""
    least_files: Annotated[WholeNumber, Field(ge=0, le=2**40)] = 1
    """With fewer files nothing is backed up: the source is broken."""
    least_octets: Annotated[WholeNumber, Field(ge=0, le=2**50)] = 1
    """With fewer octets likewise."""
    usual_percent: Annotated[WholeNumber, Field(ge=1, le=1000)] = 50
    """How far files and octets may be from those of the last runs, in per cent. Beyond it the backup is made, told of,
    and nothing is forgotten."""
    most_partial: Annotated[WholeNumber, Field(ge=0, le=2**31 - 1)] = 100
    """With more items that cannot be read a run has failed; with fewer it is partial."""
    before: Commands = ()
    """Commands before it, each a list of words and without a shell: [["zfs", "snapshot", "tank/mail@backup"]]."""
    after: Commands = ()
    """Commands after it, whatever came of it."""
    hook_seconds: Annotated[WholeNumber, Field(ge=1, le=86_400)] = 600
    """Seconds that each of these commands may take."""
