"""3-2-1-1-0: three copies, on two kinds of storage, one offsite, one that cannot be deleted, no errors.

A digit is met only by facts that were verified within their windows; what was merely configured counts for nothing.
Each fact tells when it was seen and which command sees it again, so whoever reads the card can look for himself. Times
are milliseconds since the epoch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

from smartmail.core.backup_due import RunState
from smartmail.core.backup_plan import BackupPlan
from smartmail.core.backup_status import JobStatus, RepositoryStatus, Status
from smartmail.core.points import Freshness
from smartmail.core.restic_location import Backend, Location

FORMAT: Final = 1
_STATUS: Final = "smartmail backup status"
_RUN: Final = "smartmail backup run"
_CHECK: Final = "smartmail backup check"
_DRILL: Final = "smartmail backup drill"
_PROBE: Final = "smartmail backup probe"


class Mark(StrEnum):
    """What is said of a digit or a fact."""

    MET = "met"
    NOT_MET = "not_met"
    NOT_PROVED = "not_proved"
    """Nobody has looked within the window, or could not."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that was looked at. seen_ms: when, None: never. window_ms: how old that may be, None: it was seen just
    now. command: what looks again."""

    mark: Mark
    text: str
    seen_ms: int | None
    window_ms: int | None
    command: str


@dataclass(frozen=True, slots=True)
class Digit:
    """One digit of the rule. title: what it asks for; text: how it stands, in a sentence."""

    digit: str
    title: str
    mark: Mark
    text: str
    facts: tuple[Fact, ...]

    def oldest_ms(self) -> int | None:
        """When its oldest fact was seen; None if one never was."""
        seen = [one.seen_ms for one in self.facts]
        known = [one for one in seen if one is not None]
        return min(known) if known and len(known) == len(seen) else None


@dataclass(frozen=True, slots=True)
class Scorecard:
    """All five, in order."""

    at_ms: int
    host: str
    digits: tuple[Digit, ...]

    @property
    def met(self) -> bool:
        """Are all of them?"""
        return all(one.mark is Mark.MET for one in self.digits)

    @property
    def count(self) -> int:
        """How many are."""
        return sum(one.mark is Mark.MET for one in self.digits)

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {"format": FORMAT, "met": self.met, **asdict(self)}


def medium(location: Location) -> str:
    """What a repository is kept on, so that two on one count as one: the kind of storage, and its host where there is
    one. Nothing secret is in it."""
    host = location.url.partition("://")[2].partition("/")[0]
    if location.backend is Backend.LOCAL:
        return "this machine's own storage"
    return f"{location.backend.value} at {host}" if host else location.backend.value


def scorecard(status: Status, plan: BackupPlan, media: Mapping[str, str]) -> Scorecard:
    """Judge a status. media: of each repository, as `medium` says; two that are missing count as the same."""
    view = _View(status, plan, media)
    return Scorecard(
        status.at_ms, status.host, (view.copies(), view.kinds(), view.offsite(), view.undeletable(), view.errors())
    )


@dataclass(frozen=True, slots=True)
class _View:
    status: Status
    plan: BackupPlan
    media: Mapping[str, str]

    def good(self, repository: RepositoryStatus) -> bool:
        """Does it hold a whole and new enough copy of every job that is to be in it, as was read just now?"""
        jobs = self.jobs_in(repository)
        return bool(jobs) and not repository.differing and all(one.state is Freshness.OK for one in jobs)

    def jobs_in(self, repository: RepositoryStatus) -> tuple[JobStatus, ...]:
        return tuple(one for one in self.status.jobs if one.repository == repository.name)

    def holders(self, job: str) -> list[RepositoryStatus]:
        """The repositories that have it, whole and new."""
        names = {one.repository for one in self.status.jobs if one.job == job and one.state is Freshness.OK}
        return [one for one in self.status.repositories if one.name in names and not one.differing]

    def read(self, repository: RepositoryStatus) -> Fact:
        """That a repository was read, and what of it is good."""
        jobs = self.jobs_in(repository)
        late = [f"{one.job} {_state(one)}" for one in jobs if one.state is not Freshness.OK]
        if not repository.readable:
            return self.now(Mark.NOT_PROVED, f"{repository.name} could not be read: {repository.fault}")
        if repository.differing:
            return self.now(
                Mark.NOT_MET, f"{repository.name}: {len(repository.differing)} copies differ from their origin"
            )
        if late or not jobs:
            return self.now(Mark.NOT_MET, f"{repository.name}: {', '.join(late) or 'no job is backed up to it'}")
        oldest = max(one.age_ms(self.status.at_ms) or 0 for one in jobs)
        count = "its job" if len(jobs) == 1 else f"all {len(jobs)} jobs"
        return self.now(Mark.MET, f"{repository.name}: {count} whole, at most {_length(oldest)} old")

    def now(self, mark: Mark, text: str) -> Fact:
        return Fact(mark, text, self.status.at_ms, None, _STATUS)

    # the digits

    def copies(self) -> Digit:
        """The live data and two more, of every job."""
        facts = tuple(map(self.read, self.status.repositories))
        counts = {one.name: 1 + len(self.holders(one.name)) for one in self.plan.jobs}
        least = min(counts.values(), default=0)
        few = sorted(name for name, count in counts.items() if count < 3)
        if not few and counts:
            text = f"Every job has {least} copies or more, the live data counted."
        else:
            text = f"Fewer than three copies of {', '.join(few)}." if few else "There is no job."
        return _digit("3", "Three copies of all data", bool(counts) and not few, facts, text)

    def kinds(self) -> Digit:
        """Two kinds of storage hold every job."""
        kinds = {
            one.name: {self.media.get(holder.name, "") for holder in self.holders(one.name)} for one in self.plan.jobs
        }
        few = sorted(name for name, found in kinds.items() if len(found - {""}) < 2)
        facts = tuple(
            self.now(
                Mark.MET if self.good(one) else Mark.NOT_PROVED if not one.readable else Mark.NOT_MET,
                f"{one.name} is on {self.media.get(one.name) or 'storage of an unknown kind'}",
            )
            for one in self.status.repositories
        )
        text = (
            f"Not on two kinds of storage: {', '.join(few) or 'there is no job'}."
            if few or not kinds
            else "Every job is on two kinds of storage or more."
        )
        return _digit("2", "Two kinds of storage", bool(kinds) and not few, facts, text)

    def offsite(self) -> Digit:
        """One copy of every job at another place."""
        away = [one for one in self.status.repositories if one.offsite]
        lacking = sorted(
            one.name for one in self.plan.jobs if not any(holder.offsite for holder in self.holders(one.name))
        )
        facts = [self.read(one) for one in away]
        facts += [self._copied(one) for one in away if one.copy_from]
        if not away:
            text = "No repository is at another place."
        else:
            text = f"Not offsite: {', '.join(lacking)}." if lacking else "Every job has a whole, recent copy offsite."
        return _digit("1", "One copy offsite", bool(away and self.plan.jobs) and not lacking, facts, text)

    def _copied(self, one: RepositoryStatus) -> Fact:
        window = self.plan.repository(one.name).rpo_ms
        if one.copied_ms is None:
            return Fact(Mark.NOT_PROVED, f"no copy to {one.name} was ever proved", None, window, _RUN)
        fresh = _fresh(one.copied_ms, window, self.status.at_ms)
        mark = Mark.NOT_MET if one.differing else Mark.MET if fresh else Mark.NOT_PROVED
        return Fact(mark, f"the copy to {one.name} was proved by tree ids", one.copied_ms, window, _RUN)

    def undeletable(self) -> Digit:
        """One repository with every job's copy was seen to refuse a deletion."""
        wanted = [one for one in self.status.repositories if one.append_only]
        facts = [self._probe(one) for one in wanted]
        proved = {one.name for one, fact in zip(wanted, facts, strict=True) if fact.mark is Mark.MET}
        lacking = sorted(
            one.name for one in self.plan.jobs if not any(holder.name in proved for holder in self.holders(one.name))
        )
        if not wanted:
            text = "No repository is said to refuse deletion."
        elif lacking:
            text = f"Not in a repository that was seen to refuse deletion: {', '.join(lacking)}."
        else:
            text = "Every job is in a repository that was seen to refuse deletion."
        return _digit(
            "1", "One copy that cannot be deleted", bool(wanted and self.plan.jobs) and not lacking, facts, text
        )

    def _probe(self, one: RepositoryStatus) -> Fact:
        window = self.plan.repository(one.name).check.window_ms
        ended = one.probe_ended
        if ended is not None and ended.state is not RunState.OK:
            mark = Mark.NOT_MET if ended.reason.value == "not_append_only" else Mark.NOT_PROVED
            words = ended.words or ended.reason.value.replace("_", " ")
            return Fact(mark, f"{one.name}: {words}", ended.ended_ms, window, _PROBE)
        fresh = _fresh(one.probed_ms, window, self.status.at_ms)
        text = f"{one.name} refused a deletion" if one.probed_ms else f"{one.name} was never asked to delete anything"
        return Fact(Mark.MET if fresh else Mark.NOT_PROVED, text, one.probed_ms, window, _PROBE)

    def errors(self) -> Digit:
        """All data of each repository was read without an error, and a restore was proved."""
        facts = [self._checked(one) for one in self.status.repositories]
        facts.append(self._drilled())
        bad = sum(one.mark is not Mark.MET for one in facts)
        if not bad:
            text = "All stored data was read and found whole, and a restore was proved by its hashes."
        else:
            text = f"Of {len(facts)} proofs {bad} failed or {'is' if bad == 1 else 'are'} missing."
        return _digit(
            "0", "No errors when reading and restoring", bool(self.plan.repositories) and not bad, facts, text
        )

    def _checked(self, one: RepositoryStatus) -> Fact:
        check, now = one.check, self.status.at_ms
        if check.ended is not None and check.ended.state is RunState.FAILED:
            words = check.ended.words or check.ended.reason.value.replace("_", " ")
            mark = Mark.NOT_MET if check.ended.reason.value == "damaged" else Mark.NOT_PROVED
            return Fact(
                mark, f"{one.name}: the last check failed: {words}", check.ended.ended_ms, check.window_ms, _CHECK
            )
        if check.damaged:
            text = f"{one.name}: {len(check.damaged)} of {check.parts} parts were found damaged"
            return Fact(Mark.NOT_MET, text, check.ok_ms, check.window_ms, _CHECK)
        if check.covered(now):
            text = f"{one.name}: all {check.parts} parts of its data were read, and are whole"
            return Fact(Mark.MET, text, check.covered_ms, check.window_ms, _CHECK)
        if check.covered_ms is not None:
            text = f"{one.name}: all of its data was read, but not within the window"
        else:
            text = f"{one.name}: {check.parts_read} of {check.parts} parts of its data were read"
        return Fact(Mark.NOT_PROVED, text, check.covered_ms, check.window_ms, _CHECK)

    def _drilled(self) -> Fact:
        drill = self.status.drill
        if not drill.repository:
            return Fact(Mark.NOT_PROVED, "no drill is configured", None, drill.window_ms, _DRILL)
        if drill.ended is not None and drill.ended.state is not RunState.OK:
            words = drill.ended.words or drill.ended.reason.value.replace("_", " ")
            text = f"the last drill from {drill.repository} failed: {words}"
            mark = Mark.NOT_MET if drill.ended.reason.value == "not_proved" else Mark.NOT_PROVED
            return Fact(mark, text, drill.ended.ended_ms, drill.window_ms, _DRILL)
        if drill.proved_ms is None:
            return Fact(
                Mark.NOT_PROVED, f"nothing was ever restored from {drill.repository}", None, drill.window_ms, _DRILL
            )
        text = f"{drill.files:,} files from {drill.repository} were proved by their hashes"
        return Fact(
            Mark.MET if drill.proved(self.status.at_ms) else Mark.NOT_PROVED,
            text,
            drill.proved_ms,
            drill.window_ms,
            _DRILL,
        )


def _digit(digit: str, title: str, met: bool, facts: Iterable[Fact], text: str) -> Digit:
    found = tuple(facts)
    if met:
        return Digit(digit, title, Mark.MET, text, found)
    # A fact that contradicts weighs more than one that nobody has.
    wrong = not found or any(one.mark is Mark.NOT_MET for one in found) or all(one.mark is Mark.MET for one in found)
    return Digit(digit, title, Mark.NOT_MET if wrong else Mark.NOT_PROVED, text, found)


def _fresh(at_ms: int | None, window_ms: int, now_ms: int) -> bool:
    return at_ms is not None and now_ms - at_ms <= window_ms


def _state(job: JobStatus) -> str:
    return "could not be read" if job.state is None else f"is {job.state.value}"


def _length(ms: int) -> str:
    """ "26 h", "3 d", "12 min"."""
    minutes = ms // 60_000
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 72 * 60 else f"{minutes // 1440} d"
