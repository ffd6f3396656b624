"""What no single value of the backup can tell: repositories that are not there, two with one key, jobs that say nothing
of where or when, promises that the schedule cannot keep.

Looks at files of secrets only for who may read them. That they are there is looked at by the backup itself: they may be
credentials that no other process sees, and no other process needs them.
"""

import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final

from smartmail.config.backup_model import DrillConfig, JobConfig, RepositoryConfig
from smartmail.config.backup_values import WEEKDAYS, is_local, keep_rules, lies_in
from smartmail.config.model import Config
from smartmail.config.problems import Finding, Loc, closest
from smartmail.core.backup_plan import JobKind
from smartmail.core.mailbox_place import Layout

MINUTES_PER_DAY: Final = 1440
MINUTES_PER_WEEK: Final = 7 * MINUTES_PER_DAY
_SOURCES: Final[Mapping[JobKind, tuple[frozenset[str], frozenset[str]]]] = {
    JobKind.MAILDIR: (frozenset(("paths", "mailboxes")), frozenset(("excludes",))),
    JobKind.FILES: (frozenset(("paths",)), frozenset(("excludes",))),
    JobKind.SQLITE: (frozenset(("paths",)), frozenset()),
    JobKind.POSTGRESQL: (frozenset(("database",)), frozenset()),
    JobKind.DOVECOT: (frozenset(), frozenset(("users",))),
    JobKind.QUEUE: (frozenset(), frozenset(("paths", "excludes"))),
}
"""Which keys each kind of job needs, and which it may have besides."""
_EXAMPLES: Final = {
    "paths": 'for example paths = ["/srv/vmail"]',
    "mailboxes": 'mailboxes = "/srv/vmail/{domain}/{local}/Maildir"',
    "database": 'database = "mail"',
}


def backup_findings(config: Config) -> Iterator[Finding]:
    """Everything wrong with the backup's part of a configuration whose single values are right."""
    if config.job and not config.backup.host:
        reason = "backup.host is not given: the name that snapshots are made under, and that never changes"
        yield Finding((("job",), ("backup", "host")), reason, '[backup] host = "mx1.example.com"')
    names = [one.name for one in config.repository]
    for index, repository in enumerate(config.repository):
        yield from _repository(index, repository)
        yield from _copies(config, names, index)
        yield from _shared(config.repository, index)
    for index, job in enumerate(config.job):
        yield from _job(index, job)
        yield from _target(config, names, index)
        yield from _in_itself(config, index)
    yield from _drill(config, names)


# repositories


def _repository(index: int, one: RepositoryConfig) -> Iterator[Finding]:
    def at(key: str) -> Loc:
        return ("repository", index, key)

    if bool(one.location) == bool(one.location_file):
        reason = "location_file is set too" if one.location else "it does not say where it is"
        hint = "keep one of the two" if one.location else 'location = "/srv/backup/mx1", or location_file'
        first: Loc = at("location") if one.location else ("repository", index)
        yield Finding((first, at("location"), at("location_file")), reason, hint)
    for key in ("location_file", "password_file"):
        file = getattr(one, key)
        if file and (mode := _too_open(file)):
            yield Finding((at(key),), f"everybody may read or change {file} (mode {mode:04o})", f"chmod 600 {file}")
    yield from _when(("repository", index), one, "check_")
    read_days = one.check_parts * MINUTES_PER_WEEK // _times_a_week(one, "check_") // MINUTES_PER_DAY
    if read_days > one.check_window_days:
        reason = f"reading all {one.check_parts} parts takes {read_days} days, not {one.check_window_days}"
        locs = (at("check_window_days"), at("check_parts"), at("check_times"), at("check_weekdays"))
        yield Finding(locs, reason, "fewer parts, more checks, or a longer window")
    yield from _retention(index, one)


def _too_open(file: Path) -> int:
    """The mode of a file that everybody may read or change; 0 of any other, and where that cannot be told."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return 0
    return mode if mode & stat.S_IRWXO else 0


def _retention(index: int, one: RepositoryConfig) -> Iterator[Finding]:
    rules = keep_rules(one.keep)
    if rules is None:
        return

    def at(key: str) -> Loc:
        return ("repository", index, key)

    clockless = bool(one.location) and not is_local(one.location) and not one.location.startswith("rest:")
    if clockless and not one.clock and not one.append_only:
        reason = "nothing may be forgotten without another clock to compare with, and this repository has none"
        yield Finding((at("clock"), at("keep"), at("location")), reason, 'for example clock = "https://example.net/"')
    if all(rule.within is None and not rule.tag for rule in rules) and sum(rule.count for rule in rules) < one.floor:
        reason = f"the rules keep fewer snapshots than floor = {one.floor}: every removal would be refused"
        yield Finding((at("keep"), at("floor")), reason, "keep more, or a lower floor")


def _copies(config: Config, names: Sequence[str], index: int) -> Iterator[Finding]:
    one = config.repository[index]
    loc: Loc = ("repository", index, "copy_from")
    if not one.copy_from:
        return
    if one.copy_from == one.name:
        yield Finding((loc,), "a repository is no copy of itself", "name the one that jobs are backed up into")
        return
    if one.copy_from not in names:
        yield _unknown(loc, one.copy_from, names)
        return
    number = names.index(one.copy_from)
    source = config.repository[number]
    if source.copy_from:
        reason = f'"{source.name}" is a copy itself: copies are made of what jobs were backed up into'
        hint = f'copy_from = "{source.copy_from}"' if source.copy_from in names else ""
        yield Finding((loc, ("repository", number, "copy_from")), reason, hint)
    for name, value in one.variables.items():
        if source.variables.get(name, value) != value:
            reason = f'{name} differs from that of "{source.name}", and one restic serves both in a copy'
            locs: tuple[Loc, ...] = (("repository", index, "variables"), ("repository", number, "variables"), loc)
            yield Finding(locs, reason, "use one file with two profiles, or another backend")


def _shared(all_of_them: Sequence[RepositoryConfig], index: int) -> Iterator[Finding]:
    one = all_of_them[index]
    why: Mapping[str, tuple[str, Callable[[RepositoryConfig], object]]] = {
        "location": ("a copy in the same place is no copy", lambda other: other.location.rstrip("/")),
        "location_file": ("a copy in the same place is no copy", lambda other: other.location_file),
        "password_file": ("each repository has a key of its own", lambda other: other.password_file),
    }
    for key, (hint, value) in why.items():
        first = next((number for number, other in enumerate(all_of_them) if value(other) == value(one)), index)
        if value(one) and first < index:
            locs: tuple[Loc, ...] = (("repository", index, key), ("repository", first, key))
            yield Finding(locs, f"repository[{first}] has the same", hint)


# jobs


def _job(index: int, job: JobConfig) -> Iterator[Finding]:
    def at(key: str) -> Loc:
        return ("job", index, key)

    needed, allowed = _SOURCES[job.kind]
    for key in ("paths", "mailboxes", "excludes", "database", "users"):
        given = bool(getattr(job, key))
        if key in needed and not given:
            yield Finding((("job", index), at(key), at("kind")), f"{job.kind} needs {key}", _EXAMPLES[key])
        elif given and key not in needed | allowed:
            yield Finding((at(key), at("kind")), f"means nothing for a job of the kind {job.kind}", "leave it out")
    if job.kind is JobKind.SQLITE and len(job.paths) > 1:
        yield Finding((at("paths"), at("kind")), "a job of the kind sqlite is of one database", "a job for each")
    if job.kind is JobKind.MAILDIR and job.paths and job.mailboxes:
        top = "/" + "/".join(str(part) for part in takewhile(lambda part: part, Layout(job.mailboxes).parts()))
        if not any(lies_in(top, path) for path in job.paths):
            hint = f'paths = ["{top}"]'
            yield Finding((at("mailboxes"), at("paths"), at("kind")), f"the mailboxes in {top} are in no path", hint)
    for number, path in enumerate(job.paths):
        pattern = next((one for one in job.excludes if one.startswith("/") and lies_in(path, one)), "")
        if pattern:
            yield Finding((at("excludes"), ("job", index, "paths", number)), f"{pattern} leaves out all of {path}")
    yield from _when(("job", index), job)


def _target(config: Config, names: Sequence[str], index: int) -> Iterator[Finding]:
    job = config.job[index]
    loc: Loc = ("job", index, "repository")
    if job.repository not in names:
        yield _unknown(loc, job.repository, names)
        return
    number = names.index(job.repository)
    target = config.repository[number]
    if target.copy_from:
        reason = f'"{target.name}" gets copies only: it has copy_from'
        hint = f'repository = "{target.copy_from}"' if target.copy_from in names else ""
        yield Finding((loc, ("repository", number, "copy_from")), reason, hint)
        return
    for place, one in enumerate(config.repository):
        if (one is target or one.copy_from == target.name) and _longest_gap(job) > one.rpo_hours * 60:
            reason = f"it runs every {_longest_gap(job) // 60} hours, and {one.name} promises {one.rpo_hours}"
            keys: Sequence[Loc] = [("job", index, key) for key in ("times", "weekdays", "every_minutes")]
            hint = f"run it more often, or a larger rpo_hours for {one.name}"
            yield Finding((("job", index), *keys, ("repository", place, "rpo_hours")), reason, hint)
            return


def _in_itself(config: Config, index: int) -> Iterator[Finding]:
    """Repositories within what a job backs up: each run would hold the runs before it."""
    job = config.job[index]
    if job.kind not in (JobKind.MAILDIR, JobKind.FILES):
        return
    loc: Loc = ("job", index, "paths")
    for number, folder in enumerate(one.location for one in config.repository):
        if not is_local(folder):
            continue
        place = ("repository", number, "location")
        if any(lies_in(folder, path) for path in job.paths) and not any(lies_in(folder, one) for one in job.excludes):
            reason = f"the repository {folder} lies within it"
            yield Finding((loc, ("job", index, "excludes"), place), reason, f'excludes = ["{folder}"]')


# the drill, and what all share


def _drill(config: Config, names: Sequence[str]) -> Iterator[Finding]:
    drill, loc = config.drill, ("drill", "repository")
    yield from _when(("drill",), drill)
    if not drill.repository:
        return
    if drill.repository not in names:
        yield _unknown(loc, drill.repository, names)
        return
    number = names.index(drill.repository)
    source = config.repository[number].copy_from or drill.repository
    if config.job and all(job.repository != source for job in config.job):
        yield Finding((loc, ("job",), ("repository", number)), f'no job comes to "{drill.repository}"')


def _unknown(loc: Loc, name: str, names: Sequence[str]) -> Finding:
    near = closest(name, names)
    hint = f'did you mean "{near}"?' if near else "known: " + (", ".join(names) or "none")
    return Finding((loc, ("repository",)), f'there is no repository "{name}"', hint)


def _when(loc: Loc, one: RepositoryConfig | JobConfig | DrillConfig, prefix: str = "") -> Iterator[Finding]:
    """times and weekdays against every_minutes."""
    every = getattr(one, f"{prefix}every_minutes")
    if not every and not getattr(one, f"{prefix}times"):
        hint = f'{prefix}times = ["02:00"], or {prefix}every_minutes = 60'
        yield Finding(((*loc, f"{prefix}times"), (*loc, f"{prefix}every_minutes")), "never comes", hint)
    for key in (f"{prefix}times", f"{prefix}weekdays"):
        if every and key in one.model_fields_set and getattr(one, key):
            reason = f"means nothing beside {prefix}every_minutes"
            yield Finding(((*loc, key), (*loc, f"{prefix}every_minutes")), reason, "keep one of the two")


def _minutes_of_week(one: RepositoryConfig | JobConfig, prefix: str = "") -> list[int]:
    """When it comes, in minutes since Monday, sorted; empty for never."""
    days = [WEEKDAYS.index(day) for day in getattr(one, f"{prefix}weekdays") or WEEKDAYS]
    clock = [int(text[:2]) * 60 + int(text[3:]) for text in getattr(one, f"{prefix}times")]
    return sorted({day * MINUTES_PER_DAY + minute for day in days for minute in clock})


def _times_a_week(one: RepositoryConfig, prefix: str) -> int:
    every: int = getattr(one, f"{prefix}every_minutes")
    return max(MINUTES_PER_WEEK // every, 1) if every else len(_minutes_of_week(one, prefix)) or 1


def _longest_gap(job: JobConfig) -> int:
    """Minutes between two runs at most; 0 if it never runs."""
    if job.every_minutes:
        return job.every_minutes
    minutes = _minutes_of_week(job)
    following = [*minutes[1:], *(minute + MINUTES_PER_WEEK for minute in minutes[:1])]
    return max((after - before for before, after in zip(minutes, following, strict=True)), default=0)
