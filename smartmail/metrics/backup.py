"""What the backup has to show: the same value as `smartmail backup status`, and the catalogue's counts.

Of what never was, the time is 0, so that an alert on its age fires from the first day. Of what is not known (a
repository that could not be read) there is no sample, rather than a wrong one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity
from smartmail.core.backup_status import DrillStatus, JobStatus, RepositoryStatus, Status
from smartmail.core.points import Freshness

UNREADABLE: Final = "unreadable"
"""The state of a job in a repository that could not be read."""
STATES: Final = (*(state.value for state in Freshness), UNREADABLE)

Counts = Mapping[tuple[str, str, str], int]
"""Lines of the catalogue that have ended, by activity, state and reason."""
T = TypeVar("T")
Read = tuple[str, str, Callable[[T, int], float | None]]
"""Name, help, and what to read: of a part of the status and the time it was made at. None: no sample."""


class BackupMetrics:
    """What a status says, and how often what ended how. Put in whole: each scrape sees one status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shown: tuple[Status | None, Counts] = None, {}
        registry.register(self)

    def show(self, status: Status, counts: Counts) -> None:
        """From now on, these. counts: of the whole catalogue, which only grows."""
        self._shown = status, dict(counts)

    def collect(self) -> Iterator[Metric]:
        """All of it, for the registry."""
        status, counts = self._shown
        jobs = () if status is None else status.jobs
        own = [one for one in jobs if one.cause is not None]
        repositories = () if status is None else status.repositories
        drills = () if status is None or not status.drill.repository else (status.drill,)
        at_ms = 0 if status is None else status.at_ms
        made = GaugeMetricFamily(
            "smartmail_backup_status_timestamp_seconds", "When the repositories were last read for these figures."
        )
        if status is not None:
            made.add_metric((), at_ms / 1000)
        yield made
        yield _runs(counts)
        yield _states(jobs)
        yield from _gauges(_IN_REPOSITORIES, ("job", "repository"), _place, jobs, at_ms)
        yield from _gauges(_OF_JOBS, ("job",), lambda one: (one.job,), own, at_ms)
        yield from _gauges(_OF_REPOSITORIES, ("repository",), lambda one: (one.name,), repositories, at_ms)
        yield from _gauges(_OF_DRILLS, ("repository",), lambda one: (one.repository,), drills, at_ms)


def _runs(counts: Counts) -> Metric:
    family = CounterMetricFamily(
        "smartmail_backup_runs",
        "What the backup did and ended, by activity, state and reason; of the whole catalogue.",
        labels=("activity", "state", "reason"),
    )
    # A rate needs a beginning.
    begun = {(activity.value, RunState.OK.value, ""): 0 for activity in Activity}
    for labels, count in (begun | dict(counts)).items():
        family.add_metric(labels, count)
    return family


def _states(jobs: Iterable[JobStatus]) -> Metric:
    family = GaugeMetricFamily(
        "smartmail_backup_state",
        "1 for how a job stands in a repository, else 0.",
        labels=("job", "repository", "state"),
    )
    for one in jobs:
        now = UNREADABLE if one.state is None else one.state.value
        for state in STATES:
            family.add_metric((one.job, one.repository, state), float(state == now))
    return family


def _gauges(
    wanted: Iterable[Read[T]],
    labels: tuple[str, ...],
    name_of: Callable[[T], tuple[str, ...]],
    parts: Iterable[T],
    at_ms: int,
) -> Iterator[Metric]:
    known = tuple(parts)
    for name, text, read in wanted:
        family = GaugeMetricFamily(name, text, labels=labels)
        for one in known:
            value = read(one, at_ms)
            if value is not None:
                family.add_metric(name_of(one), value)
        yield family


def _place(one: JobStatus) -> tuple[str, str]:
    return one.job, one.repository


def _time(at_ms: int | None) -> float:
    return 0.0 if at_ms is None else at_ms / 1000


def _known(one: JobStatus, value: float | None) -> float | None:
    """Nothing is known of a repository that could not be read."""
    return None if one.state is None else value


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _lock_age(one: RepositoryStatus, at_ms: int) -> float | None:
    return (one.lock_age_ms(at_ms) or 0) / 1000 if one.readable else None


_IN_REPOSITORIES: Final[tuple[Read[JobStatus], ...]] = (
    (
        "smartmail_backup_last_success_timestamp_seconds",
        "Newest whole snapshot of a job in a repository; 0: never.",
        lambda one, _: _known(one, _time(one.whole_ms)),
    ),
    (
        "smartmail_backup_last_partial_timestamp_seconds",
        "Newest snapshot that is not whole; 0: never.",
        lambda one, _: _known(one, _time(one.partial_ms)),
    ),
    (
        "smartmail_backup_rpo_seconds",
        "How old the newest whole snapshot may be.",
        lambda one, _: one.rpo_ms / 1000,
    ),
    (
        "smartmail_backup_age_seconds",
        "How old the newest whole snapshot was when the repositories were read; absent without one.",
        lambda one, at_ms: _known(one, _seconds(one.age_ms(at_ms))),
    ),
    (
        "smartmail_backup_snapshots",
        "Snapshots of a job in a repository.",
        lambda one, _: _known(one, one.snapshots),
    ),
    (
        "smartmail_backup_future_snapshots",
        "Snapshots that are dated in the future: a clock is or was wrong.",
        lambda one, _: _known(one, one.future),
    ),
)

_OF_JOBS: Final[tuple[Read[JobStatus], ...]] = (
    (
        "smartmail_backup_last_run_timestamp_seconds",
        "When a job last ended, however it did; 0: never.",
        lambda one, _: _time(one.ended.ended_ms if one.ended else None),
    ),
    (
        "smartmail_backup_last_run_ok",
        "1 if the job's last run was whole, else 0; absent before the first.",
        lambda one, _: float(one.ended.state is RunState.OK) if one.ended else None,
    ),
    (
        "smartmail_backup_run_seconds",
        "How long the job's last run took.",
        lambda one, _: _seconds(one.ended.took_ms) if one.ended else None,
    ),
    (
        "smartmail_backup_next_due_timestamp_seconds",
        "When the job is due by itself the next time.",
        lambda one, _: _seconds(one.next_ms),
    ),
    (
        "smartmail_backup_source_files",
        "Files in the job's newest run that has figures.",
        lambda one, _: one.figures.files if one.figures else None,
    ),
    (
        "smartmail_backup_source_bytes",
        "Octets in them.",
        lambda one, _: one.figures.octets if one.figures else None,
    ),
    (
        "smartmail_backup_added_bytes",
        "Octets that the repository did not have, before compression.",
        lambda one, _: one.figures.added if one.figures else None,
    ),
    (
        "smartmail_backup_unreadable_items",
        "Items that could not be read.",
        lambda one, _: one.figures.unreadable if one.figures else None,
    ),
    (
        "smartmail_backup_missed_messages",
        "Messages that are in no snapshot of the run.",
        lambda one, _: one.figures.missed if one.figures else None,
    ),
    (
        "smartmail_backup_anomalies",
        "What is not as usual in the job's source; retention waits while there is any.",
        lambda one, _: len(one.anomalies),
    ),
)

_OF_REPOSITORIES: Final[tuple[Read[RepositoryStatus], ...]] = (
    (
        "smartmail_backup_repository_readable",
        "1 if the repository could be read, else 0.",
        lambda one, _: float(one.readable),
    ),
    (
        "smartmail_backup_repository_snapshots",
        "Snapshots of ours in it.",
        lambda one, _: one.snapshots,
    ),
    (
        "smartmail_backup_repository_bytes",
        "Octets that it stores; absent where nobody asked.",
        lambda one, _: one.octets,
    ),
    (
        "smartmail_backup_lock_age_seconds",
        "How long its oldest lock was not renewed; 0 without one.",
        _lock_age,
    ),
    (
        "smartmail_backup_differing_copies",
        "Copies whose tree is not that of their origin.",
        lambda one, _: len(one.differing) if one.copy_from and one.readable else None,
    ),
    (
        "smartmail_backup_last_copy_timestamp_seconds",
        "When a copy to here was last proved; 0: never. Of repositories with a copy_from.",
        lambda one, _: _time(one.copied_ms) if one.copy_from else None,
    ),
    (
        "smartmail_backup_last_retention_timestamp_seconds",
        "When retention last went well; 0: never.",
        lambda one, _: _time(one.retained_ms),
    ),
    (
        "smartmail_backup_last_prune_timestamp_seconds",
        "When it was last pruned; 0: never.",
        lambda one, _: _time(one.pruned_ms),
    ),
    (
        "smartmail_backup_last_probe_timestamp_seconds",
        "When it last refused to delete; 0: never. Of repositories with append_only.",
        lambda one, _: _time(one.probed_ms) if one.append_only else None,
    ),
    (
        "smartmail_backup_last_check_timestamp_seconds",
        "When a check last went well; 0: never.",
        lambda one, _: _time(one.check.ok_ms),
    ),
    (
        "smartmail_backup_last_full_read_timestamp_seconds",
        "All its data was read at this time or later; 0: not yet.",
        lambda one, _: _time(one.check.covered_ms),
    ),
    (
        "smartmail_backup_check_window_seconds",
        "Within this time all its data is to be read.",
        lambda one, _: one.check.window_ms / 1000,
    ),
)

_OF_DRILLS: Final[tuple[Read[DrillStatus], ...]] = (
    (
        "smartmail_backup_last_drill_timestamp_seconds",
        "When a restore drill last proved everything; 0: never.",
        lambda one, _: _time(one.proved_ms),
    ),
    (
        "smartmail_backup_drill_window_seconds",
        "How old the last proof may be.",
        lambda one, _: one.window_ms / 1000,
    ),
    (
        "smartmail_backup_drill_files",
        "Files that the last proof restored and compared.",
        lambda one, _: one.files if one.proved_ms is not None else None,
    ),
    (
        "smartmail_backup_drill_restore_seconds",
        "How long restoring them took.",
        lambda one, _: one.restore_ms / 1000 if one.proved_ms is not None else None,
    ),
)
