"""From the file's sections of the backup to the core's plan."""

from pathlib import Path
from typing import Final

from smartmail.config.backup_model import DrillConfig, JobConfig, RepositoryConfig
from smartmail.config.backup_values import WEEKDAYS, is_local, keep_rules, time_of
from smartmail.config.model import Config
from smartmail.core.backup_due import Schedule
from smartmail.core.backup_plan import (
    MS_PER_HOUR,
    BackupPlan,
    CheckPlan,
    DrillPlan,
    Hooks,
    JobKind,
    JobPlan,
    RepositoryPlan,
    Usual,
)
from smartmail.core.mailbox_place import Layout
from smartmail.core.manifest import SamplePlan
from smartmail.core.restic import Prune, Repository
from smartmail.core.retention import Guards

MS_PER_DAY: Final = 24 * MS_PER_HOUR
QUEUE_FOLDER: Final = "/var/spool/postfix"


def backup_plan(config: Config) -> BackupPlan:
    """The plan that a checked configuration says; without jobs and repositories where it has none."""
    folder = backup_folder(config)
    return BackupPlan(
        config.backup.host,
        config.backup.zone,
        str(folder),
        config.backup.restic,
        config.backup.doveadm,
        tuple(_job(one) for one in config.job),
        tuple(_repository(one, folder) for one in config.repository),
        _drill(config.drill),
    )


def backup_folder(config: Config) -> Path:
    """Where the backup's state is."""
    return config.backup.folder or config.server.data_dir / "backup"


def locations(config: Config) -> dict[Path, str]:
    """Files that the caller writes (mode 0600, their folder 0700) before restic runs: the addresses of repositories
    that stand in the configuration itself, for restic reads them from files only."""
    folder = backup_folder(config)
    return {_location_file(one, folder): one.location for one in config.repository if one.location}


def schedule_of(
    times: tuple[str, ...], weekdays: tuple[str, ...], every_minutes: int, retries: int = 3, retry_minutes: int = 15
) -> Schedule:
    """The core's schedule; every_minutes, if it is not 0, goes before times. Raises ScheduleError for none at all."""
    if every_minutes:
        return Schedule(every_minutes=every_minutes, retries=retries, retry_minutes=retry_minutes)
    days = frozenset(WEEKDAYS.index(one) for one in weekdays or WEEKDAYS)
    return Schedule(tuple(sorted({time_of(one) for one in times})), days, 0, retries, retry_minutes)


def _location_file(one: RepositoryConfig, folder: Path) -> Path:
    return one.location_file or folder / "locations" / one.name


def _repository(one: RepositoryConfig, folder: Path) -> RepositoryPlan:
    rpo_ms = one.rpo_hours * MS_PER_HOUR
    at = Repository(
        one.name,
        str(_location_file(one, folder)),
        str(one.password_file),
        tuple(sorted(one.variables.items())),
        one.options,
        one.limit_upload,
        one.limit_download,
        one.lock_wait,
        str(one.certificate_file or ""),
    )
    check = CheckPlan(
        one.check_parts,
        schedule_of(one.check_times, one.check_weekdays, one.check_every_minutes),
        one.check_window_days * MS_PER_DAY,
    )
    guards = Guards(
        one.floor,
        one.most_removed,
        one.most_percent,
        # The clock of a folder's file system is our own.
        needs_reference=bool(one.clock) or not is_local(one.location),
    )
    return RepositoryPlan(
        one.name,
        at,
        keep_rules(one.keep),
        rpo_ms,
        check,
        guards,
        Prune(one.max_unused),
        one.copy_from,
        one.offsite,
        one.append_only,
        one.clock,
    )


def _job(one: JobConfig) -> JobPlan:
    return JobPlan(
        one.name,
        one.kind,
        one.repository,
        schedule_of(one.times, one.weekdays, one.every_minutes, one.retries, one.retry_minutes),
        one.order,
        one.paths or ((QUEUE_FOLDER,) if one.kind is JobKind.QUEUE else ()),
        Layout(one.mailboxes) if one.mailboxes else None,
        one.excludes,
        one.database,
        one.users or (("*",) if one.kind is JobKind.DOVECOT else ()),
        Usual(one.mounted, one.least_files, one.least_octets, one.usual_percent),
        Hooks(one.before, one.after, one.hook_seconds),
        one.most_partial,
    )


def _drill(one: DrillConfig) -> DrillPlan:
    return DrillPlan(
        one.repository,
        schedule_of(one.times, one.weekdays, one.every_minutes),
        SamplePlan(one.at_random, one.per_mailbox, one.per_size_class),
        one.window_days * MS_PER_DAY,
        one.mailboxes,
    )
