"""The lines of the backup. As in `smartmail.events`: fixed wording, one function each.

Jobs and repositories are known by their names in the configuration. Whose mail was restored or erased stands in the
catalogue, not here. words: what the catalogue has of an end, for people.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from smartmail.core.backup_due import RunState
from smartmail.events import Field, _emit
from smartmail.events.lines import fault

_LEVELS: Final[Mapping[str, int]] = {RunState.OK: logging.INFO, RunState.FAILED: logging.ERROR}


def _level(state: str) -> int:
    """Of an end: not all of it, and too old, are warnings."""
    return _LEVELS.get(state, logging.WARNING)


# A run


def backup_run_begun(*, run: str, job: str) -> None:
    """A run begins. job: its first."""
    _emit(logging.INFO, "backup_run_begun", "backup run begins", {"run": run, "job": job})


def backup_run_ended(*, run: str, done: int, bad: int, seconds: int) -> None:
    """Everything that was due is done. done: jobs and copies. bad: of these, those that did not end well."""
    fields: dict[str, Field] = {"run": run, "done": done, "bad": bad, "seconds": seconds}
    level = logging.WARNING if bad else logging.INFO
    _emit(level, "backup_run_ended", "backup run has ended", fields)


def backup_begun(*, activity: str, job: str, repository: str, run: str) -> None:
    """One thing begins: a job, a copy, a check."""
    fields: dict[str, Field] = {"activity": activity, "job": job, "repository": repository, "run": run}
    _emit(logging.INFO, "backup_begun", "backup works", fields)


def backup_job_ended(
    *,
    job: str,
    repository: str,
    run: str,
    state: str,
    reason: str,
    words: str,
    seconds: int,
    counts: Mapping[str, Field],
) -> None:
    """A job has ended. counts: files, octets, added, missed, items, as far as it came to them."""
    fields: dict[str, Field] = {
        "job": job,
        "repository": repository,
        "run": run,
        "state": state,
        "reason": reason,
        "seconds": seconds,
        "words": words,
        "files": counts.get("files"),
        "octets": counts.get("octets"),
        "added": counts.get("added"),
        "missed": counts.get("missed"),
        "unreadable": counts.get("unreadable"),
    }
    _emit(_level(state), "backup_job_ended", "backup job has ended", fields)


def source_anomaly(*, job: str, repository: str, run: str, what: Sequence[str]) -> None:
    """What was backed up is not as usual; nothing is forgotten until somebody has looked."""
    fields: dict[str, Field] = {"job": job, "repository": repository, "run": run, "what": what}
    _emit(logging.WARNING, "source_anomaly", "the source of a job is not as usual", fields)


def backup_copied(
    *, repository: str, run: str, state: str, reason: str, words: str, seconds: int, copied: int, proved: int
) -> None:
    """A copy to `repository` has ended. run: the newest. copied, proved: snapshots; proved by their trees."""
    fields: dict[str, Field] = {
        "repository": repository,
        "run": run,
        "state": state,
        "reason": reason,
        "seconds": seconds,
        "words": words,
        "copied": copied,
        "proved": proved,
    }
    _emit(_level(state), "backup_copied", "copy has ended", fields)


def backup_note(*, text: str) -> None:
    """Something to know of a run: a hook's complaint, a line given up, folders that could not be run again."""
    _emit(logging.WARNING, "backup_note", "to know of the backup", {"text": text})


def backup_fault(*, step: str, error: BaseException) -> None:
    """A step broke off by a fault of ours; the others go on."""
    _emit(logging.ERROR, "backup_fault", "a fault of ours in the backup", {"step": step, **fault(error)})


# Retention, checks, proofs


def retention_removed(*, repository: str, removed: int, kept: int, words: str, seconds: int) -> None:
    """Snapshots were forgotten by plan, and nothing else went."""
    fields: dict[str, Field] = {
        "repository": repository,
        "removed": removed,
        "kept": kept,
        "seconds": seconds,
        "words": words,
    }
    _emit(logging.INFO, "retention_removed", "snapshots forgotten", fields)


def retention_refused(*, repository: str, state: str, reason: str, grounds: Sequence[str], words: str) -> None:
    """Nothing was forgotten, or not as planned: a guard objected, or it failed. grounds: of the closed list."""
    fields: dict[str, Field] = {
        "repository": repository,
        "state": state,
        "reason": reason,
        "grounds": grounds,
        "words": words,
    }
    _emit(logging.ERROR, "retention_refused", "snapshots not forgotten as planned", fields)


def repository_pruned(*, repository: str, state: str, reason: str, words: str, seconds: int, freed: int) -> None:
    """Room was made in a repository. freed: octets."""
    fields: dict[str, Field] = {
        "repository": repository,
        "state": state,
        "reason": reason,
        "seconds": seconds,
        "words": words,
        "freed": freed,
    }
    _emit(_level(state), "repository_pruned", "repository pruned", fields)


def repository_checked(
    *, repository: str, state: str, reason: str, words: str, seconds: int, part: int, parts: int, errors: int
) -> None:
    """The structure of a repository and one part of its data were read."""
    fields: dict[str, Field] = {
        "repository": repository,
        "state": state,
        "reason": reason,
        "seconds": seconds,
        "words": words,
        "part": part,
        "parts": parts,
        "errors": errors,
    }
    _emit(_level(state), "repository_checked", "repository checked", fields)


def deletion_probed(*, repository: str, state: str, reason: str, words: str) -> None:
    """An append-only repository was asked to delete what does not exist, which it must refuse."""
    fields: dict[str, Field] = {"repository": repository, "state": state, "reason": reason, "words": words}
    _emit(_level(state), "deletion_probed", "append-only repository probed", fields)


def drill_ended(*, repository: str, state: str, reason: str, words: str, seconds: int, files: int) -> None:
    """A restore drill has ended. files: restored and compared."""
    fields: dict[str, Field] = {
        "repository": repository,
        "state": state,
        "reason": reason,
        "seconds": seconds,
        "words": words,
        "files": files,
    }
    _emit(_level(state), "drill_ended", "restore drill has ended", fields)


def restore_made(*, repository: str, run: str, state: str, reason: str, seconds: int, found: int, added: int) -> None:
    """Something was brought back. found, added: messages. Whose they are stands in the catalogue."""
    fields: dict[str, Field] = {
        "repository": repository,
        "run": run,
        "state": state,
        "reason": reason,
        "seconds": seconds,
        "found": found,
        "added": added,
    }
    _emit(_level(state), "restore_made", "restore has ended", fields)


def tombstone_added(*, number: int, kind: str, by: str) -> None:
    """Somebody is not to be restored any more. number: of the tombstone. kind: "address" or "domain"."""
    fields: dict[str, Field] = {"number": number, "kind": kind, "by": by}
    _emit(logging.WARNING, "tombstone_added", "tombstone written", fields)


def erasure_ended(*, repository: str, state: str, reason: str, words: str, seconds: int) -> None:
    """What was backed up of somebody erased was taken out of a repository."""
    fields: dict[str, Field] = {
        "repository": repository,
        "state": state,
        "reason": reason,
        "seconds": seconds,
        "words": words,
    }
    _emit(_level(state), "erasure_ended", "erasure has ended", fields)


# Leases and locks


def lease_taken_over(*, repository: str, host: str, process: int) -> None:
    """Whoever held the lease is dead. host, process: of whom."""
    fields: dict[str, Field] = {"repository": repository, "host": host, "process": process}
    _emit(logging.WARNING, "lease_taken_over", "lease of a dead process taken over", fields)


def lease_lost(*, repository: str) -> None:
    """We were taken for dead: what was under way is stopped."""
    _emit(logging.ERROR, "lease_lost", "the lease was taken over by somebody else", {"repository": repository})


def lock_found(*, repository: str, holder: str, age_seconds: int, removed: bool) -> None:
    """restic's lock is in a repository while nobody of ours works there. removed: it was ours, and its process dead."""
    fields: dict[str, Field] = {
        "repository": repository,
        "holder": holder,
        "age_seconds": age_seconds,
        "removed": removed,
    }
    _emit(logging.WARNING, "lock_found", "a lock was found in a repository", fields)
