"""The night as lines of the log: for a timer and for the built-in loop, where a terminal shows bars."""

import time
from collections.abc import Callable, Iterable
from typing import Final

from smartmail.backup.locks import LockAge
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity, End
from smartmail.core.erasure import Tombstone
from smartmail.core.restic_messages import Progress
from smartmail.events import Field
from smartmail.events import backup as events

COUNTED: Final = ("files", "octets", "added", "missed", "unreadable")
"""Facts of a job that its line tells."""
_MS: Final = 1000


class Teller:
    """A `night.Watcher`. monotonic: seconds, of a clock that cannot be set."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._begun: dict[tuple[Activity, str, str], float] = {}
        self._run = ""
        self._run_begun = 0.0

    def began(self, activity: Activity, job: str, repository: str, run: str) -> None:
        """Something begins; with its first job, a run."""
        if activity is Activity.BACKUP and run != self._run:
            self._run, self._run_begun = run, self._monotonic()
            events.backup_run_begun(run=run, job=job)
        self._begun[activity, job, repository] = self._monotonic()
        events.backup_begun(activity=activity.value, job=job, repository=repository, run=run)

    def progress(self, activity: Activity, job: str, repository: str, step: str, progress: Progress) -> None:
        """Nothing: a log has no bars."""

    def ended(self, activity: Activity, job: str, repository: str, run: str, end: End) -> None:
        """It has ended."""
        begun = self._begun.pop((activity, job, repository), None)
        seconds = 0 if begun is None else int(self._monotonic() - begun)
        _TOLD[activity](job, repository, run, end, seconds)

    def log(self, text: str) -> None:
        """Something to know, in words."""
        events.backup_note(text=text)

    def over(self, ends: Iterable[End]) -> None:
        """All that was due is done. ends: of everything; nothing is said where there was nothing to do."""
        states = [end.state for end in ends]
        if states:
            seconds = int(self._monotonic() - self._run_begun) if self._run else 0
            bad = sum(state is not RunState.OK for state in states)
            events.backup_run_ended(run=self._run, done=len(states), bad=bad, seconds=seconds)
        self._run = ""

    # what no activity tells

    def fault(self, step: str, error: Exception) -> None:
        """A fault of ours: for `Catalogue`."""
        events.backup_fault(step=step, error=error)

    def locks(self, repository: str, found: LockAge, *, removed: bool = False) -> None:
        """Locks that nobody of ours needs. removed: they are gone now."""
        for held in found.locks:
            lock = held.lock
            holder = "unreadable" if lock is None else f"process {lock.pid} of {lock.host}"
            age = (found.age_ms or 0) // _MS
            events.lock_found(repository=repository, holder=holder, age_seconds=age, removed=removed)

    def tombstone(self, stone: Tombstone) -> None:
        """Somebody is not to be restored any more."""
        kind = "domain" if stone.subject.startswith("@") else "address"
        events.tombstone_added(number=stone.id, kind=kind, by=stone.by)


def _job(job: str, repository: str, run: str, end: End, seconds: int) -> None:
    counts: dict[str, Field] = {name: _number(end, name) for name in COUNTED if name in end.facts}
    events.backup_job_ended(
        job=job,
        repository=repository,
        run=run,
        state=end.state.value,
        reason=end.reason.value,
        words=end.words,
        seconds=seconds,
        counts=counts,
    )
    strange = _texts(end, "anomalies")
    if strange:
        events.source_anomaly(job=job, repository=repository, run=run, what=strange)


def _copy(_job: str, repository: str, run: str, end: End, seconds: int) -> None:
    events.backup_copied(
        repository=repository,
        run=run,
        state=end.state.value,
        reason=end.reason.value,
        words=end.words,
        seconds=seconds,
        copied=_number(end, "copied"),
        proved=_number(end, "proved"),
    )


def _retention(_job: str, repository: str, _run: str, end: End, seconds: int) -> None:
    if end.state is RunState.OK:
        removed, kept = len(_texts(end, "removed")), _number(end, "kept")
        words = _words(end)
        events.retention_removed(repository=repository, removed=removed, kept=kept, words=words, seconds=seconds)
        return
    events.retention_refused(
        repository=repository,
        state=end.state.value,
        reason=end.reason.value,
        grounds=_texts(end, "grounds"),
        words=_words(end),
    )


def _prune(_job: str, repository: str, _run: str, end: End, seconds: int) -> None:
    events.repository_pruned(
        repository=repository,
        state=end.state.value,
        reason=end.reason.value,
        words=_words(end),
        seconds=seconds,
        freed=_number(end, "freed"),
    )


def _check(_job: str, repository: str, _run: str, end: End, seconds: int) -> None:
    events.repository_checked(
        repository=repository,
        state=end.state.value,
        reason=end.reason.value,
        words=_words(end),
        seconds=seconds,
        part=_number(end, "part"),
        parts=_number(end, "parts"),
        errors=_number(end, "errors"),
    )


def _probe(_job: str, repository: str, _run: str, end: End, _seconds: int) -> None:
    events.deletion_probed(repository=repository, state=end.state.value, reason=end.reason.value, words=_words(end))


def _drill(_job: str, repository: str, _run: str, end: End, seconds: int) -> None:
    events.drill_ended(
        repository=repository,
        state=end.state.value,
        reason=end.reason.value,
        words=end.words,
        seconds=seconds,
        files=_number(end, "files"),
    )


def _restore(_job: str, repository: str, run: str, end: End, seconds: int) -> None:
    events.restore_made(
        repository=repository,
        run=run,
        state=end.state.value,
        reason=end.reason.value,
        seconds=seconds,
        found=_number(end, "found"),
        added=_number(end, "added"),
    )


def _erase(_job: str, repository: str, _run: str, end: End, seconds: int) -> None:
    events.erasure_ended(
        repository=repository, state=end.state.value, reason=end.reason.value, words=end.words, seconds=seconds
    )


_TOLD: Final[dict[Activity, Callable[[str, str, str, End, int], None]]] = {
    Activity.BACKUP: _job,
    Activity.COPY: _copy,
    Activity.RETENTION: _retention,
    Activity.PRUNE: _prune,
    Activity.CHECK: _check,
    Activity.PROBE: _probe,
    Activity.DRILL: _drill,
    Activity.RESTORE: _restore,
    Activity.ERASE: _erase,
}


def _number(end: End, name: str) -> int:
    value = end.facts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _texts(end: End, name: str) -> tuple[str, ...]:
    value = end.facts.get(name)
    return tuple(str(one) for one in value) if isinstance(value, (list, tuple)) else ()


def _words(end: End) -> str:
    """Some say it in their facts."""
    return end.words or str(end.facts.get("words", ""))
