"""What the catalogue's records say together: the newest that ended well, numbers among their facts, and which runs left
nothing whole."""

from collections.abc import Collection, Iterable
from typing import Final

from smartmail.core.backup_due import Run, RunState
from smartmail.core.backup_record import Activity, Reason, Record
from smartmail.core.retention import TOLERANCE_MS

ENDED: Final = frozenset(RunState) - {RunState.STARTED}
TAKEN_UP: Final = frozenset((Reason.CUT_OFF, Reason.INTERRUPTED))
"""What ended so did not fail: it goes on under its own name, at once."""


def cut_off(record: Record) -> bool:
    """Was it killed or stopped before it came to its own end?"""
    return record.ended_ms is None or record.reason in TAKEN_UP


def as_run(record: Record) -> Run:
    """A line of the catalogue as the schedule sees it."""
    state = RunState.STARTED if cut_off(record) else record.state
    return Run(record.run or str(record.id), record.started_ms, record.ended_ms, state)


def newest(records: Iterable[Record], states: Collection[RunState]) -> Record | None:
    """The one of these states that ended last."""
    return max((one for one in records if one.state in states and one.ended_ms is not None), key=_ended, default=None)


def fact(record: Record, key: str) -> int:
    """A number among its facts; 0 if there is none."""
    value = record.facts.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def words_of(record: Record, key: str) -> tuple[str, ...]:
    """A list of texts among its facts; also one text."""
    value = record.facts.get(key)
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, (list, tuple)) else ()


def incomplete_runs(records: Iterable[Record]) -> frozenset[tuple[str, str]]:
    """(job, run) of which no record says that it went well: its snapshots are there, and are not to be taken as whole.
    Runs that the catalogue does not know are not among them."""
    known: dict[tuple[str, str], bool] = {}
    for one in records:
        if one.activity is Activity.BACKUP:
            key = one.job, one.run
            known[key] = known.get(key, False) or one.state is RunState.OK
    return frozenset(key for key, good in known.items() if not good)


def past(records: Iterable[Record], now_ms: int) -> tuple[Record, ...]:
    """Without what a clock that was ahead has written: it would be the newest for years."""
    return tuple(one for one in records if max(one.started_ms, one.ended_ms or 0) <= now_ms + TOLERANCE_MS)


def _ended(record: Record) -> tuple[int, int]:
    return record.ended_ms or 0, record.id
