"""What the catalogue keeps of each thing that the backup did: kind, of what, how it ended and why.

The reasons are a closed list, of which metrics, events and runbooks speak. Times are milliseconds since the epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from smartmail.core.backup_due import RunState
from smartmail.core.restic_version import Outcome


class Activity(StrEnum):
    """What was done."""

    BACKUP = "backup"
    """A job, to the repository that it names."""
    COPY = "copy"
    """A repository's snapshots, to another one."""
    RETENTION = "retention"
    """Snapshots forgotten by plan, or a plan refused."""
    PRUNE = "prune"
    CHECK = "check"
    PROBE = "probe"
    """Is deletion refused?"""
    DRILL = "drill"
    RESTORE = "restore"
    ERASE = "erase"


class Reason(StrEnum):
    """Why something ended as it did: NONE if it went well; those from NO_REPOSITORY on are restic's outcomes."""

    NONE = ""
    SOURCE_MISSING = "source_missing"
    NOT_MOUNTED = "not_mounted"
    SOURCE_EMPTY = "source_empty"
    SOURCE_TOO_SMALL = "source_too_small"
    DUMP_FAILED = "dump_failed"
    DUMP_TRUNCATED = "dump_truncated"
    HOOK_FAILED = "hook_failed"
    ITEMS_UNREADABLE = "items_unreadable"
    MESSAGES_MISSED = "messages_missed"
    """They were there during the walk, and no snapshot of the run has them."""
    TREE_DIFFERS = "tree_differs"
    """A copy is not the tree that it was made of."""
    CHUNKER_DIFFERS = "chunker_differs"
    NOTHING_TO_COPY = "nothing_to_copy"
    """The run that was to be copied has left no snapshot."""
    GUARDED = "guarded"
    """Retention was refused: the grounds are in the facts."""
    NOT_APPEND_ONLY = "not_append_only"
    PROBE_UNCLEAR = "probe_unclear"
    NOT_PROVED = "not_proved"
    """A drill found something wrong, or nothing to prove."""
    NOT_RESTORED = "not_restored"
    """Nothing was brought back: refused, or somebody said no."""
    LEASED = "leased"
    CUT_OFF = "cut_off"
    """It never said that it ended: found by the next run."""
    INTERNAL = "internal"
    NO_REPOSITORY = Outcome.NO_REPOSITORY.value
    EXISTS = Outcome.EXISTS.value
    NOT_FOUND = Outcome.NOT_FOUND.value
    LOCKED = Outcome.LOCKED.value
    WRONG_PASSWORD = Outcome.WRONG_PASSWORD.value
    UNREACHABLE = Outcome.UNREACHABLE.value
    UNTRUSTED = Outcome.UNTRUSTED.value
    REFUSED = Outcome.REFUSED.value
    NO_SPACE = Outcome.NO_SPACE.value
    DAMAGED = Outcome.DAMAGED.value
    INTERRUPTED = Outcome.INTERRUPTED.value
    KILLED = Outcome.KILLED.value
    STALLED = Outcome.STALLED.value
    TIMED_OUT = Outcome.TIMED_OUT.value
    UNSUPPORTED = Outcome.UNSUPPORTED.value
    FAILED = Outcome.FAILED.value


def reason_of(outcome: Outcome) -> Reason:
    """What an end of restic is as a reason."""
    match outcome:
        case Outcome.OK:
            return Reason.NONE
        case Outcome.PARTIAL:
            return Reason.ITEMS_UNREADABLE
        case Outcome.EMPTY_INPUT:
            return Reason.SOURCE_EMPTY
        case Outcome.NO_SOURCE:
            return Reason.SOURCE_MISSING
        case _:
            return Reason(outcome.value)


@dataclass(frozen=True, slots=True)
class End:
    """How something ended. words: for people, "" if all is said."""

    state: RunState
    reason: Reason = Reason.NONE
    facts: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    words: str = ""

    @property
    def good(self) -> bool:
        """Is there something to build on: all of it, or most?"""
        return self.state in (RunState.OK, RunState.PARTIAL)


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the catalogue. job, repository, run: "" where it is of none. ended_ms: None as long as it has not
    said that it ended (state STARTED). facts: JSON values, by the activity: see ops/docs/backup.md."""

    id: int
    activity: Activity
    job: str
    repository: str
    run: str
    started_ms: int
    ended_ms: int | None
    state: RunState
    reason: Reason = Reason.NONE
    facts: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
