"""restic's command lines, built as plain values: a repository and a wish -> argv and environment.

No secret is ever in them: argv holds none, and the environment only names files (`RESTIC_PASSWORD_FILE`,
`RESTIC_REPOSITORY_FILE`: an address may hold a password, too). What a version has not is left out where that is
harmless, else it is a CommandError. Bare `copy`, `forget` by rules, `unlock --remove-all` and `forget --prune` cannot
be said here, on purpose (DESIGN section 5).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from smartmail.core.restic_version import Capabilities, Feature, Kind

VARIABLES: Final = frozenset(
    {
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_PROFILE",
        "AWS_DEFAULT_REGION",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "RCLONE_CONFIG",
        "SSH_AUTH_SOCK",
    }
)
"""What a repository may put into the environment of restic: places of secrets, never secrets."""
_SECRET_VARIABLES: Final = ("AWS_SHARED_CREDENTIALS_FILE", "GOOGLE_APPLICATION_CREDENTIALS", "RCLONE_CONFIG")
_ID: Final = re.compile(r"[0-9a-f]{8,64}\Z")
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}\Z")
_OPTION: Final = re.compile(r"[a-z0-9]{1,20}\.[a-z0-9-]{1,40}=[^\0\n]{0,1000}\Z")
_CREDENTIALS: Final = re.compile(r"(://[^/@\s:]*:)[^@\s]*@")
_MAGIC: Final = re.compile(r"([\\*?\[])")


class CommandError(ValueError):
    """This cannot be asked of restic: the message says why."""


class Output(StrEnum):
    """What stdout is."""

    DOCUMENT = "document"
    """One JSON value: needed whole."""
    MESSAGES = "messages"
    """Lines, JSON or plain; those of progress are for looking at only."""
    LISTING = "listing"
    """As many lines as there are files: to be taken one by one."""


@dataclass(frozen=True, slots=True)
class Repository:
    """Where a repository is and what opens it. All files are absolute paths; nothing of them is read here.

    variables: of VARIABLES; options: restic's `-o`, like "rest.connections=8"; limits in KiB/s, 0 for none;
    lock_wait_s: how long restic itself waits for a lock, from 0.16 on. Raises CommandError.
    """

    name: str
    repository_file: str
    password_file: str
    variables: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()
    limit_upload: int = 0
    limit_download: int = 0
    lock_wait_s: int = 0
    certificate_file: str = ""

    def __post_init__(self) -> None:
        for file in (self.repository_file, self.password_file, self.certificate_file or "/"):
            _absolute(file)
        for name, _ in self.variables:
            if name not in VARIABLES:
                raise CommandError(f"repository {self.name}: {name} is not a variable that may be set")
        for option in self.options:
            if not _OPTION.match(option) or _CREDENTIALS.search(option):
                raise CommandError(f"repository {self.name}: an option is not of the form backend.name=value")
        if min(self.limit_upload, self.limit_download, self.lock_wait_s) < 0:
            raise CommandError(f"repository {self.name}: a limit is negative")

    @property
    def secrets(self) -> tuple[str, ...]:
        """The files that hold secrets."""
        named = dict(self.variables)
        more = tuple(named[name] for name in _SECRET_VARIABLES if name in named)
        return (self.repository_file, self.password_file, *more)


@dataclass(frozen=True, slots=True)
class Command:
    """One run of restic. argv: without the program itself. environment: what it needs beside the runner's own.
    secrets: files that must be there. reports_progress: silence for long means that it hangs. exclusive: takes a lock
    that no other may share."""

    kind: Kind
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    secrets: tuple[str, ...] = ()
    output: Output = Output.MESSAGES
    reports_progress: bool = False
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Backup:
    """What to back up. paths: absolute; or paths_file: a file of absolute paths, each ended by a NUL octet; or
    stdin_name: the absolute name that what comes by stdin gets. parent: an id, else restic's own choice by host and
    paths. excludes: restic's patterns."""

    host: str
    tags: tuple[str, ...]
    paths: tuple[str, ...] = ()
    paths_file: str = ""
    stdin_name: str = ""
    excludes: tuple[str, ...] = ()
    exclude_files: tuple[str, ...] = ()
    parent: str = ""
    one_file_system: bool = False
    force: bool = False
    dry_run: bool = False
    compression: str = ""


@dataclass(frozen=True, slots=True)
class Restore:
    """What to bring back, and into which absolute folder. includes, excludes: restic's patterns (`literal` makes one of
    a path). subfolder: its content only, and without its path (0.16). verify: read back what was written."""

    snapshot: str
    target: str
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    subfolder: str = ""
    verify: bool = True
    if_changed: bool = False
    """Overwrite only what differs (0.17)."""


@dataclass(frozen=True, slots=True)
class Prune:
    """max_unused: restic's limit, like "5%" or "unlimited"; max_repack: like "10G", "" for no limit."""

    max_unused: str = "5%"
    max_repack: str = ""
    dry_run: bool = False


def literal(path: str) -> str:
    """The pattern that matches a path and nothing else."""
    return _MAGIC.sub(r"\\\1", path)


def redacted(line: str) -> str:
    """A line of restic without the passwords of addresses in it."""
    return _CREDENTIALS.sub(r"\1***@", line)


# commands


def version_command() -> Command:
    """Which restic is this?"""
    return Command(Kind.VERSION, ("version",))


def init(known: Capabilities, repository: Repository, like: Repository | None = None) -> Command:
    """Make a repository; `like`: with the chunker parameters of that one, so that copies from it share their data with
    what is backed up directly."""
    flags = ("--repository-version=2", *(("--copy-chunker-params",) if like else ()))
    return _command(Kind.INIT, known, repository, flags, source=like)


def cat_config(known: Capabilities, repository: Repository) -> Command:
    """The repository's version, id and chunker polynomial."""
    return _command(Kind.CAT_CONFIG, known, repository, ("--no-lock",))


def backup(known: Capabilities, repository: Repository, wish: Backup) -> Command:
    """Make a snapshot. Raises CommandError unless exactly one kind of source is given."""
    sources = (bool(wish.paths), bool(wish.paths_file), bool(wish.stdin_name))
    if sum(sources) != 1:
        raise CommandError("a backup is of paths, or of a file of paths, or of stdin")
    flags = [f"--host={_host(wish.host)}", *(f"--tag={_tag(tag)}" for tag in wish.tags)]
    flags += [f"--exclude={_clean(pattern)}" for pattern in wish.excludes]
    flags += [f"--exclude-file={_absolute(file)}" for file in wish.exclude_files]
    if wish.parent:
        flags.append(f"--parent={_id(wish.parent)}")
    flags += _given(
        {"--one-file-system": wish.one_file_system, "--force": wish.force, "--dry-run": wish.dry_run},
    )
    if wish.compression:
        flags.append(f"--compression={_compression(known, wish.compression)}")
    if wish.stdin_name:
        flags += ["--stdin", f"--stdin-filename={_absolute(wish.stdin_name)}"]
    if wish.paths_file:
        flags.append(f"--files-from-raw={_absolute(wish.paths_file)}")
    paths = tuple(_absolute(path) for path in wish.paths)
    return _command(Kind.BACKUP, known, repository, flags, paths)


def snapshots(known: Capabilities, repository: Repository, *, host: str = "", tags: Sequence[str] = ()) -> Command:
    """List snapshots; tags: those that have all of them. Takes no lock, so it works beside a prune and on what is only
    readable."""
    flags = ["--no-lock", *([f"--host={_host(host)}"] if host else [])]
    if tags:
        flags.append("--tag=" + ",".join(_tag(tag) for tag in tags))
    return _command(Kind.SNAPSHOTS, known, repository, flags)


def ls(known: Capabilities, repository: Repository, snapshot: str, folders: Sequence[str] = ()) -> Command:
    """List what is in a snapshot; folders: only what is below them."""
    flags = ("--no-lock", *(("--recursive",) if folders else ()))
    words = (_id(snapshot), *(_absolute(folder) for folder in folders))
    return _command(Kind.LS, known, repository, flags, words)


def find(known: Capabilities, repository: Repository, patterns: Sequence[str], snapshot_ids: Sequence[str]) -> Command:
    """Which of the snapshots have items that match one of the patterns."""
    if not patterns or not snapshot_ids:
        raise CommandError("nothing to find")
    flags = ("--no-lock", *(f"--snapshot={_id(one)}" for one in snapshot_ids))
    return _command(Kind.FIND, known, repository, flags, tuple(_clean(one) for one in patterns))


def diff(known: Capabilities, repository: Repository, old: str, new: str) -> Command:
    """What differs between two snapshots."""
    words = (_id(old), _id(new))
    return _command(Kind.DIFF, known, repository, ("--no-lock",), words)


def copy(known: Capabilities, source: Repository, target: Repository, ids: Sequence[str]) -> Command:
    """Copy these snapshots. Never all of them: that brings back what the target has forgotten on purpose."""
    return _command(Kind.COPY, known, target, (), _ids(ids), source=source)


def forget(known: Capabilities, repository: Repository, ids: Sequence[str], *, dry_run: bool = False) -> Command:
    """Remove these snapshots; their data stays until `prune`."""
    return _command(Kind.FORGET, known, repository, _given({"--dry-run": dry_run}), _ids(ids))


def prune(known: Capabilities, repository: Repository, wish: Prune | None = None) -> Command:
    """Remove data that no snapshot uses."""
    wish = wish or Prune()
    flags = [f"--max-unused={_clean(wish.max_unused)}", *_given({"--dry-run": wish.dry_run})]
    if wish.max_repack:
        flags.append(f"--max-repack-size={_clean(wish.max_repack)}")
    return _command(Kind.PRUNE, known, repository, flags)


def check(
    known: Capabilities, repository: Repository, part: tuple[int, int] | None = None, *, with_cache: bool = False
) -> Command:
    """Check the structure, and read the n-th of t parts of all data: (n, t) for n = 1 ... t covers everything; (1, 1)
    reads all. with_cache: do not fetch all metadata again. From 0.18 on the result is JSON and has no progress."""
    flags = _given({"--with-cache": with_cache})
    if part is not None:
        number, parts = part
        if not 1 <= number <= parts <= 256:
            raise CommandError(f"{number}/{parts} is no part of the data: 1 <= n <= t <= 256")
        flags.append(f"--read-data-subset={number}/{parts}")
    return _command(Kind.CHECK, known, repository, flags)


def restore(known: Capabilities, repository: Repository, wish: Restore) -> Command:
    """Bring files back. An include that matches nothing is no error for restic: expect a count. Raises CommandError
    for a subfolder before 0.16."""
    if wish.subfolder and not known.has(Feature.SUBFOLDER):
        raise CommandError(f"restic {known.version} cannot restore a subfolder: include its path")
    snapshot = _id(wish.snapshot) + (f":{_absolute(wish.subfolder)}" if wish.subfolder else "")
    flags = [f"--target={_absolute(wish.target)}", *_given({"--verify": wish.verify})]
    if wish.if_changed and known.has(Feature.RESTORE_OVERWRITE):
        flags.append("--overwrite=if-changed")
    flags += [f"--include={_clean(one)}" for one in wish.includes]
    flags += [f"--exclude={_clean(one)}" for one in wish.excludes]
    return _command(Kind.RESTORE, known, repository, flags, (snapshot,))


def stats(
    known: Capabilities, repository: Repository, ids: Sequence[str] = (), *, mode: str = "restore-size"
) -> Command:
    """Sizes, of all snapshots if no id is given. mode: restore-size, or raw-data (what is stored)."""
    if mode not in ("restore-size", "raw-data", "files-by-contents", "blobs-per-file"):
        raise CommandError(f'"{mode}" is no mode of stats')
    words = _ids(ids) if ids else ()
    return _command(Kind.STATS, known, repository, ("--no-lock", f"--mode={mode}"), words)


def unlock(known: Capabilities, repository: Repository) -> Command:
    """Remove stale locks: older than 30 minutes, or of a process of this host that is gone."""
    return _command(Kind.UNLOCK, known, repository)


def key_list(known: Capabilities, repository: Repository) -> Command:
    """Which keys open the repository."""
    return _command(Kind.KEY_LIST, known, repository, ("--no-lock",))


def tag(
    known: Capabilities, repository: Repository, ids: Sequence[str], add: Sequence[str] = (), remove: Sequence[str] = ()
) -> Command:
    """Add and remove tags: each snapshot is replaced by another with another id. On append-only storage the old one
    stays as well."""
    flags = [*(f"--add={_tag(one)}" for one in add), *(f"--remove={_tag(one)}" for one in remove)]
    if not flags:
        raise CommandError("no tag to add or remove")
    return _command(Kind.TAG, known, repository, flags, _ids(ids))


def list_locks(known: Capabilities, repository: Repository) -> Command:
    """The ids of all locks, one a line."""
    return _command(Kind.LIST_LOCKS, known, repository, ("--no-lock",))


def cat_lock(known: Capabilities, repository: Repository, lock: str) -> Command:
    """Who holds a lock, since when."""
    return _command(Kind.CAT_LOCK, known, repository, ("--no-lock",), (_id(lock),))


# the parts


def _command(
    kind: Kind,
    known: Capabilities,
    repository: Repository,
    flags: Sequence[str] = (),
    arguments: Sequence[str] = (),
    source: Repository | None = None,
) -> Command:
    if not known.supported:
        raise CommandError(f"restic {known.version} is too old: 0.14 or newer is needed")
    common = ["--json"]
    if repository.lock_wait_s and known.has(Feature.RETRY_LOCK):
        common.append(f"--retry-lock={repository.lock_wait_s}s")
    for name, limit in (("upload", repository.limit_upload), ("download", repository.limit_download)):
        if limit:
            common.append(f"--limit-{name}={limit}")
    for option in _joined(repository.options, source.options if source else ()):
        common += ["-o", option]
    if repository.certificate_file:
        common.append(f"--cacert={repository.certificate_file}")
    # Everything after "--" is an argument, whatever it begins with.
    tail = ("--", *arguments) if arguments else ()
    return Command(
        kind,
        (*kind.value.split(), *common, *flags, *tail),
        MappingProxyType(_environment(repository, source)),
        (*repository.secrets, *(source.secrets if source else ())),
        _OUTPUTS.get(kind, Output.MESSAGES),
        _reports_progress(kind, known),
        kind in _EXCLUSIVE,
    )


_OUTPUTS: Final[Mapping[Kind, Output]] = {
    Kind.CAT_CONFIG: Output.DOCUMENT,
    Kind.CAT_LOCK: Output.DOCUMENT,
    Kind.SNAPSHOTS: Output.DOCUMENT,
    Kind.FIND: Output.DOCUMENT,
    Kind.STATS: Output.DOCUMENT,
    Kind.KEY_LIST: Output.DOCUMENT,
    Kind.LS: Output.LISTING,
    Kind.DIFF: Output.LISTING,
}
_EXCLUSIVE: Final = frozenset({Kind.FORGET, Kind.PRUNE, Kind.CHECK, Kind.TAG})


def _reports_progress(kind: Kind, known: Capabilities) -> bool:
    if kind is Kind.CHECK:
        return not known.has(Feature.CHECK_JSON)
    if kind is Kind.RESTORE:
        return known.has(Feature.RESTORE_JSON)
    return kind in (Kind.BACKUP, Kind.COPY, Kind.PRUNE, Kind.LS)


def _environment(repository: Repository, source: Repository | None) -> dict[str, str]:
    found = dict(repository.variables)
    if source is not None:
        for name, value in source.variables:
            if found.setdefault(name, value) != value:
                raise CommandError(
                    f"{repository.name} and {source.name} both need {name}, with different values: restic takes one"
                )
        found["RESTIC_FROM_REPOSITORY_FILE"] = source.repository_file
        found["RESTIC_FROM_PASSWORD_FILE"] = source.password_file
    found["RESTIC_REPOSITORY_FILE"] = repository.repository_file
    found["RESTIC_PASSWORD_FILE"] = repository.password_file
    return found


def _joined(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """The options of both; where both set the same, those of the first."""
    names = {one.partition("=")[0] for one in first}
    return [*first, *(one for one in second if one.partition("=")[0] not in names)]


def _given(flags: Mapping[str, bool]) -> list[str]:
    return [flag for flag, wanted in flags.items() if wanted]


def _id(value: str) -> str:
    if not _ID.match(value):
        raise CommandError(f'"{value[:80]}" is no id')
    return value


def _ids(values: Sequence[str]) -> tuple[str, ...]:
    if not values:
        raise CommandError("no snapshot is named")
    return tuple(_id(value) for value in values)


def _host(value: str) -> str:
    if not _HOST.match(value):
        raise CommandError(f'"{value[:80]}" is no host name')
    return value


def _tag(value: str) -> str:
    # restic splits at commas.
    if not value or "," in value or not value.isprintable() or " " in value:
        raise CommandError(f'"{value[:80]}" is no tag: it has a comma, a space or a control character, or is empty')
    return value


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise CommandError(f'"{path[:200]}" is not an absolute path')
    return _clean(path)


def _clean(value: str) -> str:
    if not value or "\0" in value:
        raise CommandError("an argument is empty or has a NUL")
    return value


def _compression(known: Capabilities, value: str) -> str:
    levels = {"auto", "off", "max"} | ({"fastest", "better"} if known.has(Feature.COMPRESSION_LEVELS) else set())
    if value not in levels:
        raise CommandError(f'restic {known.version} has no compression "{value}"')
    if value == "max" and not known.maximum_compression_is_safe:
        raise CommandError(f"restic {known.version} can damage data with compression max")
    return value
