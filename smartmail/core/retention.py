"""Retention in two steps: snapshots and keep rules -> a plan that says of each why; the plan and guards -> the ids to
forget, or a refusal with its grounds.

What restic's own `forget` would decide by itself is decided here (DESIGN section 5): by the wall clock of a zone that
is named, over groups of host and identifying tags, and a run's snapshots stay or go together. Rules of time are
measured from the group's newest snapshot and never from the clock, so a clock that is wrong removes nothing. Adding a
rule never removes more. What is not ours (no `job=` tag) or dated in the future is never removed.

Times are milliseconds since the epoch.
"""

import re
from calendar import monthrange
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from difflib import get_close_matches
from enum import StrEnum
from typing import Final, NamedTuple

from smartmail.core.points import JOB, PARTIAL, RUN, Snapshot, shown

TOLERANCE_MS: Final = 300_000
"""Clocks may be this far apart."""
MOST: Final = 1_000_000
"""What "all" means as a count."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DURATION: Final = re.compile(r"(?:([0-9]{1,4})y)?(?:([0-9]{1,5})m)?(?:([0-9]{1,6})d)?(?:([0-9]{1,7})h)?\Z")


class RuleError(ValueError):
    """This is no keep rule. hint: what was probably meant."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint


class Period(StrEnum):
    """What a rule keeps one of; last: each snapshot is its own."""

    LAST = "last"
    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    """By ISO 8601 weeks."""
    MONTHLY = "monthly"
    YEARLY = "yearly"


@dataclass(frozen=True, slots=True)
class Duration:
    """A time by the calendar, written like 1y6m10d12h (months before days, as restic has it)."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    @classmethod
    def parse(cls, words: str) -> "Duration":
        """Raises RuleError."""
        found = _DURATION.match(words)
        numbers = [int(one or 0) for one in found.groups()] if found and words.isascii() else [0]
        if not any(numbers):
            raise RuleError(
                f"{words!r} is no duration", "it is written 1y6m10d12h, and any of the four may be left out"
            )
        return cls(*numbers)

    def __str__(self) -> str:
        parts = ((self.years, "y"), (self.months, "m"), (self.days, "d"), (self.hours, "h"))
        return "".join(f"{number}{unit}" for number, unit in parts if number)

    def before(self, at_ms: int, zone: tzinfo) -> int:
        """The moment this long before, by the wall clock; a day that the month lacks is its last one. Not before
        1970."""
        local = (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone)
        year, month = divmod(local.year * 12 + local.month - 1 - self.years * 12 - self.months, 12)
        if year < _EPOCH.year:
            return 0
        day = date(year, month + 1, min(local.day, monthrange(year, month + 1)[1]))
        day -= timedelta(days=min(self.days, (day - _EPOCH.date()).days))
        instant = datetime.combine(day, local.time(), zone).astimezone(UTC)
        return max((instant - _EPOCH) // timedelta(milliseconds=1) - self.hours * 3_600_000, 0)


@dataclass(frozen=True, slots=True)
class KeepRule:
    """Keep the newest of each of the last `count` periods; or, with `within`, of every period in that time before the
    group's newest; or, with `tag`, whatever carries it. While there are fewer periods than that, the oldest is kept
    too, as newer versions of restic have it: else a history could never grow long. `parse_rules` makes rules."""

    period: Period = Period.LAST
    count: int = 0
    within: Duration | None = None
    tag: str = ""

    def __str__(self) -> str:
        if self.tag:
            return f"tag {self.tag}"
        if self.within is None:
            return f"{self.period.value} {'all' if self.count >= MOST else self.count}"
        return f"within {self.within}" if self.period is Period.LAST else f"{self.period.value} within {self.within}"


_FORMATS: Final = {
    Period.HOURLY: "%Y-%m-%d %H %z",
    Period.DAILY: "%Y-%m-%d",
    Period.MONTHLY: "%Y-%m",
    Period.YEARLY: "%Y",
}
_KEYS: Final = {period.value: period for period in Period}
_WITHIN_KEYS: Final = {"within" if period is Period.LAST else f"within_{period.value}": period for period in Period}


def parse_rules(table: Mapping[str, object]) -> tuple[KeepRule, ...]:
    """From a table of the configuration: last, hourly, daily, weekly, monthly, yearly (a number from 1, or "all"),
    within, within_hourly ... within_yearly (a duration) and tags (a list). Raises RuleError for whatever else: a rule
    with a slip of the pen would remove everything that it was to keep."""
    rules: list[KeepRule] = []
    for key, value in table.items():
        if key in _KEYS:
            count = MOST if value == "all" else value
            if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST:
                raise RuleError(f"{key} = {value!r} keeps nothing that can be counted", 'a number from 1, or "all"')
            rules.append(KeepRule(_KEYS[key], count))
        elif key in _WITHIN_KEYS:
            if not isinstance(value, str):
                raise RuleError(f"{key} = {value!r} is no duration", "it is written 1y6m10d12h")
            rules.append(KeepRule(_WITHIN_KEYS[key], within=Duration.parse(value)))
        elif key == "tags":
            if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) and one.strip() for one in value):
                raise RuleError(f"tags = {value!r} is no list of tags", 'it is written ["legal", "migration"]')
            rules.extend(KeepRule(tag=one) for one in value)
        else:
            near = get_close_matches(key, [*_KEYS, *_WITHIN_KEYS, "tags"], 1, 0.5)
            raise RuleError(f'there is no keep rule "{key}"', f'did you mean "{near[0]}"?' if near else "")
    if not rules:
        raise RuleError("without a keep rule everything would go", "name at least one")
    return tuple(rules)


# first step: the plan


class Why(StrEnum):
    """Why a snapshot stays, or what each rule has against it."""

    RULE = "kept by rule"
    OLDEST = "oldest, kept while the rule has not its number"
    NEWEST = "newest"
    NEWEST_WHOLE = "newest complete one"
    VERIFIED = "last verified by a drill"
    HELD = "held"
    SET = "its run is kept"
    FOREIGN = "not made by a job"
    FUTURE = "dated in the future"
    SAME_PERIOD = "not the one of its period"
    BEYOND_COUNT = "past the rule's number"
    TOO_OLD = "before the rule's time"
    UNTAGGED = "without the rule's tag"


class Reason(NamedTuple):
    """why, and of what: the rule and the period ("daily 7: 2026-10-03"), the run, or ""."""

    why: Why
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.why.value} ({self.detail})" if self.detail else self.why.value


class Group(NamedTuple):
    """Snapshots that rules count together: one host, and the same identifying tags (key=value, but neither the run nor
    how partial it is)."""

    host: str
    tags: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.host, *self.tags))


@dataclass(frozen=True, slots=True)
class Decision:
    """reasons: why it is kept, or, if it is not, what each rule has against it."""

    snapshot: Snapshot
    group: Group
    kept: bool
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Holds:
    """What rules must not remove: ids or origins proved by a drill (the newest of each group stays), ids or origins
    under a legal hold, and runs that stay, such as those another repository keeps."""

    verified: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done, newest first. Nothing is, before `guard` approves of it."""

    decisions: tuple[Decision, ...]
    rules: tuple[KeepRule, ...]
    holds: Holds

    @property
    def kept(self) -> tuple[Snapshot, ...]:
        """What stays, newest first."""
        return tuple(one.snapshot for one in self.decisions if one.kept)

    @property
    def removed(self) -> tuple[Snapshot, ...]:
        """What would go, newest first."""
        return tuple(one.snapshot for one in self.decisions if not one.kept)


class _Unit:
    """What one run made in one group: counted by rules as one, and kept or removed as one."""

    __slots__ = ("against", "members", "name", "partial", "place", "stay", "time_ms")

    def __init__(self, name: str, members: Sequence[Snapshot]) -> None:
        self.name = name
        self.members = members
        self.place = min(_place(one) for one in members)
        self.time_ms = -self.place[0]
        self.partial = any(one.partial for one in members)
        self.stay: list[Reason] = []
        self.against: list[Reason] = []


def group_of(snapshot: Snapshot) -> Group:
    """The group that a snapshot is counted in. A bare word, such as a tag for a keep rule, makes no group of its
    own."""
    own = (RUN, PARTIAL)
    return Group(snapshot.host, tuple(tag for tag in snapshot.tags if "=" in tag and tag.split("=")[0] not in own))


def plan(
    snapshots: Iterable[Snapshot], rules: Sequence[KeepRule], zone: tzinfo, now_ms: int, holds: Holds | None = None
) -> Plan:
    """Decide of every snapshot of one repository, in whatever order they come. Of one period the newest complete one is
    taken before a newer partial one. Raises ValueError if one id stands for two different snapshots."""
    holds = holds or Holds()
    by_id: dict[str, Snapshot] = {}
    for snapshot in snapshots:
        if by_id.setdefault(snapshot.id, snapshot) != snapshot:
            raise ValueError(f"the id {snapshot.id} is listed with two different snapshots")
    grouped: dict[Group, dict[str, list[Snapshot]]] = {}
    decided: dict[str, tuple[bool, tuple[Reason, ...]]] = {}
    for snapshot in by_id.values():
        if not snapshot.tag(JOB):
            decided[snapshot.id] = True, (Reason(Why.FOREIGN),)
        elif snapshot.time_ms > now_ms + TOLERANCE_MS:
            decided[snapshot.id] = True, (Reason(Why.FUTURE, shown(snapshot.time_ms, zone)),)
        else:
            run = snapshot.tag(RUN)
            grouped.setdefault(group_of(snapshot), {}).setdefault(f"{RUN}={run}" if run else snapshot.id, []).append(
                snapshot
            )
    units = [unit for runs in grouped.values() for unit in _judged(runs, rules, zone, holds)]
    staying = {unit.name for unit in units if unit.stay}
    staying |= {f"{RUN}={by_id[name].tag(RUN)}" for name in decided if by_id[name].tag(JOB)}
    for unit in units:
        if not unit.stay and unit.name in staying:
            unit.stay.append(Reason(Why.SET, unit.members[0].tag(RUN)))
        for one in unit.members:
            decided[one.id] = bool(unit.stay), tuple(unit.stay or unit.against)
    ordered = sorted(by_id.values(), key=_place)
    return Plan(tuple(Decision(one, group_of(one), *decided[one.id]) for one in ordered), tuple(rules), holds)


def _judged(
    runs: Mapping[str, Sequence[Snapshot]], rules: Sequence[KeepRule], zone: tzinfo, holds: Holds
) -> list[_Unit]:
    """The units of one group, newest first, with what speaks for and against each."""
    units = sorted((_Unit(name, members) for name, members in runs.items()), key=lambda unit: unit.place)
    units[0].stay.append(Reason(Why.NEWEST))
    whole = next((unit for unit in units if not unit.partial), units[0])
    if whole is not units[0]:
        whole.stay.append(Reason(Why.NEWEST_WHOLE))
    verified = [(_place(one), unit) for unit in units for one in unit.members if _in(one, holds.verified)]
    if verified:
        min(verified, key=lambda one: one[0])[1].stay.append(Reason(Why.VERIFIED))
    for unit in units:
        if any(_in(one, holds.ids) for one in unit.members) or unit.members[0].tag(RUN) in holds.runs:
            unit.stay.append(Reason(Why.HELD))
    for rule in rules:
        _apply(rule, units, zone)
    return units


def _apply(rule: KeepRule, units: Sequence[_Unit], zone: tzinfo) -> None:
    if rule.tag:
        for unit in units:
            tagged = any(rule.tag in one.tags for one in unit.members)
            (unit.stay if tagged else unit.against).append(Reason(Why.RULE if tagged else Why.UNTAGGED, str(rule)))
        return
    after = -1 if rule.within is None else rule.within.before(units[0].time_ms, zone)
    most = MOST if rule.within is not None else rule.count
    periods: dict[str, list[_Unit]] = {}
    for unit in units:
        if unit.time_ms > after:
            periods.setdefault(_period(rule.period, unit, zone), []).append(unit)
        else:
            unit.against.append(Reason(Why.TOO_OLD, str(rule)))
    for number, (name, those) in enumerate(periods.items()):
        chosen = next((unit for unit in those if not unit.partial), those[0])
        for unit in those:
            detail = f"{rule}: {name}"
            if number >= most:
                unit.against.append(Reason(Why.BEYOND_COUNT, detail))
            elif unit is chosen:
                unit.stay.append(Reason(Why.RULE, detail))
            elif unit is units[-1] and len(periods) < most:
                unit.stay.append(Reason(Why.OLDEST, detail))
            else:
                unit.against.append(Reason(Why.SAME_PERIOD, detail))


def _period(period: Period, unit: _Unit, zone: tzinfo) -> str:
    """The name of the period that a unit lies in. Of an hour that the clock shows twice each is its own."""
    local = (_EPOCH + timedelta(milliseconds=unit.time_ms)).astimezone(zone)
    if period is Period.LAST:
        return unit.name
    if period is Period.WEEKLY:
        year, week, _ = local.isocalendar()
        return f"{year:04}-W{week:02}"
    return local.strftime(_FORMATS[period])


# second step: the guards


class Ground(StrEnum):
    """Why a plan is refused; a closed list, of which metrics and runbooks speak."""

    NO_RULES = "no_rules"
    TAG_UNMATCHED = "tag_unmatched"
    """A rule keeps a tag that no snapshot carries: most likely a slip of the pen."""
    NO_SNAPSHOTS = "no_snapshots"
    CLOCK_UNPROVED = "clock_unproved"
    CLOCK_WRONG = "clock_wrong"
    FUTURE_SNAPSHOT = "future_snapshot"
    NEWEST_TOO_OLD = "newest_too_old"
    ANOMALY = "anomaly"
    COUNT_FELL = "count_fell"
    COUNT_ROSE = "count_rose"
    TOO_MANY = "too_many"
    TOO_LARGE_A_SHARE = "too_large_a_share"
    BELOW_FLOOR = "below_floor"
    NEWEST_REMOVED = "newest_removed"
    VERIFIED_REMOVED = "verified_removed"
    NOTHING_VERIFIED = "nothing_verified"
    HELD_REMOVED = "held_removed"
    SET_SPLIT = "set_split"
    CHANGED = "changed"
    """The repository is not what the plan was made of."""


class Objection(NamedTuple):
    """One ground, and what was found."""

    ground: Ground
    text: str


@dataclass(frozen=True, slots=True)
class Guards:
    """Bounds of one removal. floor: snapshots that each group keeps at least. most_new: by how many a group may have
    grown since the last time. newest_within_ms: how old a group's newest may be; 0: not looked at."""

    floor: int = 3
    most_removed: int = 50
    most_percent: int = 50
    most_new: int = 50
    newest_within_ms: int = 0
    tolerance_ms: int = TOLERANCE_MS
    needs_reference: bool = True
    needs_verified: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the guards are told. reference_ms: the time by another clock (the repository server's Date header), read at
    `now_ms`; None if there was none. left: how many snapshots each group had after the last time; empty for the first.
    anomalies: what the newest runs look wrong by, in words; any freezes retention."""

    now_ms: int
    reference_ms: int | None
    left: Mapping[Group, int]
    anomalies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Approval:
    """ids: what may be forgotten, by id and by nothing else, oldest first. left: to be told the next time."""

    ids: tuple[str, ...]
    left: Mapping[Group, int]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing may be forgotten. All objections, not the first alone."""

    objections: tuple[Objection, ...]

    @property
    def grounds(self) -> frozenset[Ground]:
        """Their grounds."""
        return frozenset(one.ground for one in self.objections)


def guard(planned: Plan, guards: Guards, facts: Facts) -> Approval | Refusal:
    """May the plan be carried out? A plan that removes nothing is judged too: a wrong clock should be heard of early.

    The guards look at what the plan does, not at how it was made, so they hold against an error in `plan` as well.
    """
    groups: dict[Group, list[Decision]] = {}
    for one in planned.decisions:
        if one.snapshot.tag(JOB):
            groups.setdefault(one.group, []).append(one)
    objections = [*_of_rules(planned), *_of_clock(planned, guards, facts)]
    objections += [Objection(Ground.ANOMALY, text) for text in facts.anomalies]
    objections += _of_counts(groups, guards, facts)
    objections += _of_amount(planned, guards)
    for group, decisions in groups.items():
        objections += _of_group(group, decisions, guards, facts)
        proved = next((one for one in decisions if _in(one.snapshot, planned.holds.verified)), None)
        if proved and not proved.kept:
            objections.append(Objection(Ground.VERIFIED_REMOVED, f"{group}: the last one proved by a drill would go"))
    if guards.needs_verified and not any(_in(one.snapshot, planned.holds.verified) for one in planned.decisions):
        objections.append(Objection(Ground.NOTHING_VERIFIED, "no snapshot here was ever proved by a drill"))
    kept_runs = {one.snapshot.tag(RUN) for one in planned.decisions if one.kept and one.snapshot.tag(JOB)} - {""}
    for one in planned.decisions:
        if not one.kept and one.snapshot.tag(RUN) in kept_runs:
            objections.append(Objection(Ground.SET_SPLIT, f"{one.snapshot.id[:8]} belongs to a run that is kept"))
        if not one.kept and (_in(one.snapshot, planned.holds.ids) or one.snapshot.tag(RUN) in planned.holds.runs):
            objections.append(Objection(Ground.HELD_REMOVED, f"{one.snapshot.id[:8]} is held"))
        if not one.kept and not one.snapshot.tag(JOB):
            objections.append(Objection(Ground.HELD_REMOVED, f"{one.snapshot.id[:8]} was not made by a job"))
    if objections:
        return Refusal(tuple(dict.fromkeys(objections)))
    left = {group: sum(one.kept for one in decisions) for group, decisions in groups.items()}
    return Approval(tuple(one.id for one in reversed(planned.removed)), left)


def recheck(planned: Plan, listing: Iterable[Snapshot]) -> Refusal | None:
    """Just before forgetting: is all that the plan counted on still there? New snapshots are no objection."""
    there = {one.id: one for one in listing}
    gone = [one.snapshot.id[:8] for one in planned.decisions if there.get(one.snapshot.id) != one.snapshot]
    if not gone:
        return None
    return Refusal((Objection(Ground.CHANGED, f"no longer there as planned: {', '.join(sorted(gone)[:10])}"),))


def _of_rules(planned: Plan) -> list[Objection]:
    found = []
    if not any(rule.count > 0 or rule.within or rule.tag for rule in planned.rules):
        found.append(Objection(Ground.NO_RULES, "no rule keeps anything"))
    if not planned.decisions:
        found.append(Objection(Ground.NO_SNAPSHOTS, "the repository lists no snapshot at all"))
    carried = {tag for one in planned.decisions for tag in one.snapshot.tags}
    found += [
        Objection(Ground.TAG_UNMATCHED, f'no snapshot carries the tag "{rule.tag}"')
        for rule in planned.rules
        if rule.tag and rule.tag not in carried
    ]
    return found


def _of_clock(planned: Plan, guards: Guards, facts: Facts) -> list[Objection]:
    found = []
    if facts.reference_ms is None:
        if guards.needs_reference:
            found.append(Objection(Ground.CLOCK_UNPROVED, "there is no other clock to compare with"))
    elif abs(facts.now_ms - facts.reference_ms) > guards.tolerance_ms:
        seconds = (facts.now_ms - facts.reference_ms) // 1000
        text = f"this clock is {abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'} the other"
        found.append(Objection(Ground.CLOCK_WRONG, text))
    for one in planned.decisions:
        ahead = one.snapshot.time_ms - facts.now_ms
        if ahead > guards.tolerance_ms:
            text = f"{one.snapshot.id[:8]} of {one.group} is dated {ahead // 1000} s in the future"
            found.append(Objection(Ground.FUTURE_SNAPSHOT, text))
    return found


def _of_counts(groups: Mapping[Group, Sequence[Decision]], guards: Guards, facts: Facts) -> list[Objection]:
    found = []
    for group in sorted({*groups, *facts.left}):
        now = len(groups.get(group, ()))
        before = facts.left.get(group)
        if before is not None and now < before:
            found.append(Objection(Ground.COUNT_FELL, f"{group}: {now} snapshots, where {before} were left"))
        # A job's first snapshots are no growth; a repository that was never seen has nothing to compare with.
        if before is not None and now > before + guards.most_new:
            found.append(Objection(Ground.COUNT_ROSE, f"{group}: {now} snapshots, where {before} were left"))
    return found


def _of_amount(planned: Plan, guards: Guards) -> list[Objection]:
    found = []
    removed, total = len(planned.removed), len(planned.decisions)
    if removed > guards.most_removed:
        found.append(Objection(Ground.TOO_MANY, f"{removed} would go, where {guards.most_removed} may at once"))
    if removed * 100 > total * guards.most_percent:
        text = f"{removed} of {total} would go, where {guards.most_percent} per cent may at once"
        found.append(Objection(Ground.TOO_LARGE_A_SHARE, text))
    return found


def _of_group(group: Group, decisions: Sequence[Decision], guards: Guards, facts: Facts) -> list[Objection]:
    """decisions: newest first."""
    found = []
    past = [one for one in decisions if one.snapshot.time_ms <= facts.now_ms + guards.tolerance_ms]
    kept = sum(one.kept for one in past)
    if kept < len(past) and kept < guards.floor:
        text = f"{group}: {kept} would be left, where {guards.floor} must be"
        found.append(Objection(Ground.BELOW_FLOOR, text))
    if past and not past[0].kept:
        found.append(Objection(Ground.NEWEST_REMOVED, f"{group}: the newest would go"))
    if past and 0 < guards.newest_within_ms < facts.now_ms - past[0].snapshot.time_ms:
        hours = (facts.now_ms - past[0].snapshot.time_ms) // 3_600_000
        found.append(Objection(Ground.NEWEST_TOO_OLD, f"{group}: the newest is {hours} hours old"))
    return found


def _place(snapshot: Snapshot) -> tuple[int, str]:
    """Sorts newest first, and two of one time always in the same way."""
    return -snapshot.time_ms, snapshot.id


def _in(snapshot: Snapshot, names: frozenset[str]) -> bool:
    return snapshot.id in names or snapshot.origin in names
