"""Checks of a repository: its structure each time, and of its data one part at a time, so that all of it is read.

Nothing is taken from restic's cache: what is checked is what the repository holds. Faults of the structure (a pack that
is gone, a tree that cannot be read) and of the data (a pack whose octets are not what was written) are told apart.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from smartmail.backup.process import Patience
from smartmail.backup.restic import Listener, Run
from smartmail.backup.vault import Vault
from smartmail.core import restic as ask
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import End, Reason, Record, reason_of
from smartmail.core.coverage import Coverage, Reading, coverage, readings_of
from smartmail.core.restic_messages import ExitError, ItemError, Message, Plain
from smartmail.core.restic_output import CheckReport, parse_check
from smartmail.core.restic_version import Outcome, plain

MOST_LINES: Final = 20_000
"""Of what a check says, that are looked at."""
MOST_NAMED: Final = 200
"""Packs and faults that are named in the facts; all are counted."""
_DATA: Final = re.compile(
    r"pack [0-9a-f]{8,64}:? (?:contains [0-9]+ error|failed to download|cannot be read)|pack id does not match"
    r"|download error|(?:error )?reading data",
    re.IGNORECASE,
)
_NO_FAULT: Final = re.compile(
    r"Fatal:|Load\(|List\(|Load index|The repository (?:index )?is damaged|The repository contains damaged"
    r"|Damaged pack files can|restic repair |unable to create temporary directory for cache|unable to open cache"
    r"|using temporary cache|create exclusive lock|This is non-critical|.*additional files were found in the repo"
    r"|.*not referenced in any index|signal interrupt|repo already locked",
)
_PACK: Final = re.compile(r"\bpack (?:id does not match, want )?([0-9a-f]{64})\b", re.IGNORECASE)
_BEGINS: Final = re.compile(r"error|pack |\[|Load|Fatal", re.IGNORECASE)
"""A line that does not explain the one before."""
_LONGEST: Final = 500
_DAMAGED: Final = (
    "keep the other copy as it is, and freeze retention in both; the packs that are named tell which messages are hit: "
    "see the runbook of damaged repositories"
)
_NO_INDEX: Final = re.compile(r"error loading index|LoadIndex returned errors|load index", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Faults:
    """What a check complains of, in restic's words, and the packs that it names (ids, sorted)."""

    structure: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    packs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """One check that has ended. part, parts: what was to be read. read: it was, to the end. errors: 0 if there are
    none, or if it did not come far enough to tell (state FAILED then). coverage: with this check in it. words: what
    came out, for a person; remedy: what to do next, "" if nothing. warnings: remarks that are no fault."""

    state: RunState
    reason: Reason
    part: int
    parts: int
    read: bool
    errors: int
    faults: Faults
    suggest_prune: bool
    coverage: Coverage
    elapsed_ms: int
    words: str
    remedy: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def end(self) -> End:
        """For the catalogue."""
        return End(self.state, self.reason, self.facts, f"{self.words} ({self.remedy})" if self.remedy else self.words)

    @property
    def facts(self) -> dict[str, object]:
        """For the catalogue: JSON values."""
        return {
            "part": self.part,
            "parts": self.parts,
            "read": self.read,
            "errors": self.errors,
            "structure_errors": len(self.faults.structure),
            "data_errors": len(self.faults.data),
            "packs": list(self.faults.packs[:MOST_NAMED]),
            "complaints": [*self.faults.structure[:MOST_NAMED], *self.faults.data[:MOST_NAMED]],
            "suggest_prune": self.suggest_prune,
            "covered_since_ms": self.coverage.covered_since_ms,
            "damaged_parts": list(self.coverage.damaged),
            "elapsed_ms": self.elapsed_ms,
        }


@dataclass(slots=True)
class _Said:
    """The lines that restic says, without its progress."""

    lines: list[str] = field(default_factory=list)

    def take(self, message: Message) -> None:
        if len(self.lines) >= MOST_LINES:
            return
        match message:
            case Plain(text):
                # The runner strips lines; what a fault is explained by is known by its words.
                self.lines.append(plain(text))
            case ItemError(_, _, text) | ExitError(_, text):
                self.lines.extend(text.strip("\n").splitlines())
            case _:
                pass


async def check(
    vault: Vault,
    records: Sequence[Record],
    now_ms: int,
    *,
    part: int | None = None,
    whole: bool = False,
    patience: Patience | None = None,
    listener: Listener | None = None,
) -> Checked:
    """Check the repository's structure, and read the part of its data that is longest unread, or `part`, or with
    `whole` everything. records: those of its checks, as the catalogue has them. A repository that is locked, or cannot
    be reached, is a result and no exception. Raises ResticError if restic cannot be started."""
    plan = vault.plan.check
    known = readings_of(records, vault.name)
    before = coverage(known, plan.parts, now_ms)
    number, parts = (1, 1) if whole else (part or before.next, plan.parts)
    said = _Said()
    run = await vault.run(
        ask.check(vault.known, vault.at, (number, parts)),
        patience,
        Listener(listener.progress if listener else None, said.take, None),
    )
    spoken = {line.strip() for line in run.stdout.splitlines()}
    faults = faults_of([line for line in said.lines if line.strip() not in spoken])
    state, reason, read, report = judged(run, faults)
    here = (Reading(number, parts, now_ms, state is RunState.OK),) if read else ()
    errors, remarks = 0, run.warnings
    if reason is Reason.DAMAGED:
        errors = max(len(faults.structure) + len(faults.data), 1)
    else:
        # What ssh or rclone has to remark on stderr is no fault of the repository.
        faults, remarks = Faults(), (*remarks, *faults.structure[:MOST_NAMED])
    words, remedy = _words(vault, run, reason, faults, (number, parts))
    return Checked(
        state,
        reason,
        number,
        parts,
        read,
        errors,
        faults,
        report is not None and report.suggest_prune,
        coverage((*known, *here), plan.parts, now_ms),
        run.elapsed_ms,
        words,
        remedy,
        remarks,
    )


def faults_of(lines: Sequence[str]) -> Faults:
    """Sort what a check said on stderr, line by line. What explains a fault is put behind it."""
    structure: list[str] = []
    data: list[str] = []
    packs: set[str] = set()
    explained: list[str] | None = None
    for line in lines:
        text = line.strip()
        if not text or _NO_FAULT.match(text):
            continue
        packs.update(one.lower() for one in _PACK.findall(text))
        if explained is not None and not _BEGINS.match(text):
            explained[-1] = f"{explained[-1]} {text}"[:_LONGEST]
            continue
        here = data if _DATA.search(text) else structure
        here.append(text[:_LONGEST])
        explained = here if text.endswith(":") else None
    return Faults(tuple(structure), tuple(data), tuple(sorted(packs)))


def judged(run: Run, faults: Faults) -> tuple[RunState, Reason, bool, CheckReport | None]:
    """How a check ended, why, whether its part of the data was read to the end, and what restic summed up."""
    found = parse_check(run.stdout, run.stderr)
    report = found if isinstance(found, CheckReport) else None
    if run.ok:
        if report is None:
            # It did not say that there are no errors: silence proves nothing.
            return RunState.FAILED, Reason.FAILED, False, None
        damaged = report.errors > 0
        reason = Reason.DAMAGED if damaged else Reason.NONE
        return RunState.FAILED if damaged else RunState.OK, reason, True, report
    if run.outcome is Outcome.DAMAGED or (run.outcome is Outcome.FAILED and report is not None and report.errors):
        read = report is not None and not any(_NO_INDEX.search(one) for one in (*faults.structure, *run.stderr))
        return RunState.FAILED, Reason.DAMAGED, read, report
    return RunState.FAILED, reason_of(run.outcome), False, report


def _words(vault: Vault, run: Run, reason: Reason, faults: Faults, part: tuple[int, int]) -> tuple[str, str]:
    what = f"repository {vault.name}: part {part[0]} of {part[1]}"
    if reason is Reason.NONE:
        return f"{what} was read, and no fault was found", ""
    if reason is not Reason.DAMAGED:
        error = vault.failure(run)
        how = error.outcome.value.replace("_", " ")
        return f"{what} was not checked: {how}: {error.reason}".rstrip(": "), error.remedy
    numbers = f"{len(faults.structure)} faults of its structure, {len(faults.data)} of its data"
    named = ", ".join(one[:12] for one in faults.packs[:5])
    more = f" and {len(faults.packs) - 5} more" if len(faults.packs) > 5 else ""
    packs = f"; packs {named}{more}" if named else ""
    return f"{what}: {numbers}{packs}", _DAMAGED
