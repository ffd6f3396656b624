"""What each version of restic can do, and what its exit means: versions 0.14 to 0.19 in one table.

(command, version, exit code, stderr) -> Outcome, a closed list. restic's own rule for scripts is kept: a code that is
not known is a failure (doc/075_scripting.rst). Before 0.17 nearly every fault is exit 1, so the texts decide. Some
texts make a fault of an exit 0: a missing source path before 0.19, and ids that 0.14 ignores with a shrug.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple


class Version(NamedTuple):
    """A version of restic."""

    major: int
    minor: int
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


OLDEST: Final = Version(0, 14)
NEWEST_KNOWN: Final = Version(0, 19)
"""Newer ones are used as this one is."""

_VERSION_TEXT: Final = re.compile(r"restic v?([0-9]{1,4})\.([0-9]{1,4})(?:\.([0-9]{1,4}))?")


def parse_version(stdout: str) -> Version | None:
    """From what `restic version` prints; None if that is not restic's. Development builds ("0.18.0-dev") count as the
    release they are named after."""
    found = _VERSION_TEXT.search(stdout[:1000])
    if found is None:
        return None
    return Version(int(found[1]), int(found[2]), int(found[3] or 0))


class Feature(StrEnum):
    """Something that not every version has."""

    FULL_SNAPSHOT_ID = "full snapshot id in the summary of backup"
    INIT_JSON = "init --json"
    READ_CONCURRENCY = "backup --read-concurrency"
    NO_SCAN = "backup --no-scan"
    REWRITE = "rewrite"
    RETRY_LOCK = "--retry-lock"
    RESTORE_JSON = "restore --json, with progress"
    SUBFOLDER = "snapshot:subfolder"
    REPAIR = "repair index, repair snapshots"
    TYPED_EXITS = "exit 10 no repository, 11 locked"
    EXIT_WRONG_PASSWORD = "exit 12 wrong password"  # noqa: S105 - no password
    CLEAN_TERM = "SIGTERM removes the lock"
    STDIN_FROM_COMMAND = "backup --stdin-from-command"
    SKIP_IF_UNCHANGED = "backup --skip-if-unchanged"
    RESTORE_OVERWRITE = "restore --overwrite"
    INCLUDE_FILE = "restore --include-file"
    SNAPSHOT_SUMMARY = "summary in snapshots"
    VERSION_JSON = "version --json"
    CHECK_JSON = "check --json"
    VANISHED_UNSAID = "files that vanish during the walk are passed over without a word"
    CHECK_BY_SNAPSHOT = "check of chosen snapshots"
    MISSING_PATH_EXIT = "a missing source path is exit 3"
    FORGET_EXIT = "forget that could not remove all is exit 3"
    OWNERSHIP_BY_NAME = "restore --ownership-by-name"
    COMPRESSION_LEVELS = "--compression fastest, better"


_SINCE: Final[Mapping[Feature, Version]] = {
    Feature.FULL_SNAPSHOT_ID: Version(0, 15),
    Feature.INIT_JSON: Version(0, 15),
    Feature.READ_CONCURRENCY: Version(0, 15),
    Feature.NO_SCAN: Version(0, 15),
    Feature.REWRITE: Version(0, 15),
    Feature.RETRY_LOCK: Version(0, 16),
    Feature.RESTORE_JSON: Version(0, 16),
    Feature.SUBFOLDER: Version(0, 16),
    Feature.REPAIR: Version(0, 16),
    Feature.TYPED_EXITS: Version(0, 17),
    Feature.EXIT_WRONG_PASSWORD: Version(0, 17, 1),
    Feature.CLEAN_TERM: Version(0, 17),
    Feature.STDIN_FROM_COMMAND: Version(0, 17),
    Feature.SKIP_IF_UNCHANGED: Version(0, 17),
    Feature.RESTORE_OVERWRITE: Version(0, 17),
    Feature.INCLUDE_FILE: Version(0, 17),
    Feature.SNAPSHOT_SUMMARY: Version(0, 17),
    Feature.VERSION_JSON: Version(0, 17),
    Feature.CHECK_JSON: Version(0, 18),
    Feature.VANISHED_UNSAID: Version(0, 18),
    Feature.CHECK_BY_SNAPSHOT: Version(0, 19),
    Feature.MISSING_PATH_EXIT: Version(0, 19),
    Feature.FORGET_EXIT: Version(0, 19),
    Feature.OWNERSHIP_BY_NAME: Version(0, 19),
    Feature.COMPRESSION_LEVELS: Version(0, 19),
}
_CORRUPTING_MAX: Final = frozenset({Version(0, 16, 0), Version(0, 16, 3)})
"""`--compression max` could write damaged data."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """A version and what it has."""

    version: Version
    features: frozenset[Feature]

    def has(self, feature: Feature) -> bool:
        """Does this version have it?"""
        return feature in self.features

    @property
    def supported(self) -> bool:
        """Is it a version that may be used at all? Repository format 2 and `--from-repo` came with 0.14."""
        return self.version >= OLDEST

    @property
    def maximum_compression_is_safe(self) -> bool:
        """False for two versions whose `--compression max` could damage data."""
        return self.version not in _CORRUPTING_MAX


def capabilities(version: Version) -> Capabilities:
    """The table's row for a version."""
    return Capabilities(version, frozenset(one for one, since in _SINCE.items() if version >= since))


class Kind(StrEnum):
    """restic's commands, as far as they are used."""

    VERSION = "version"
    INIT = "init"
    CAT_CONFIG = "cat config"
    BACKUP = "backup"
    SNAPSHOTS = "snapshots"
    LS = "ls"
    FIND = "find"
    DIFF = "diff"
    COPY = "copy"
    FORGET = "forget"
    PRUNE = "prune"
    CHECK = "check"
    RESTORE = "restore"
    STATS = "stats"
    UNLOCK = "unlock"
    KEY_LIST = "key list"
    TAG = "tag"
    LIST_LOCKS = "list locks"
    CAT_LOCK = "cat lock"


class Outcome(StrEnum):
    """How a command ended."""

    OK = "ok"
    PARTIAL = "partial"
    """A snapshot was made, but not of everything; or not all that was to be forgotten was."""
    EMPTY_INPUT = "empty_input"
    """Nothing came by stdin. From 0.17 on there is a snapshot of nothing all the same: forget it."""
    NO_SOURCE = "no_source"
    """Not one of the source paths exists."""
    NO_REPOSITORY = "no_repository"
    EXISTS = "exists"
    """`init` where there is a repository already."""
    NOT_FOUND = "not_found"
    """No snapshot has this id."""
    LOCKED = "locked"
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - no password
    UNREACHABLE = "unreachable"
    UNTRUSTED = "untrusted"
    """The SSH host key or the TLS certificate is not the one it should be."""
    REFUSED = "refused"
    """The storage says no: wrong credentials, or an append-only server asked to delete."""
    NO_SPACE = "no_space"
    DAMAGED = "damaged"
    """Data in the repository is missing or not what was written."""
    INTERRUPTED = "interrupted"
    """By a signal that asks. Before 0.17 SIGTERM leaves the lock."""
    KILLED = "killed"
    """By a signal that does not ask (the kernel's OOM killer, too): locks stay."""
    STALLED = "stalled"
    """Stopped by us: no progress for too long."""
    TIMED_OUT = "timed_out"
    """Stopped by us: its time was over."""
    UNSUPPORTED = "unsupported"
    """This version does not know the flag or command."""
    FAILED = "failed"
    """Anything else."""

    @property
    def worth_again(self) -> bool:
        """May the same command work later without anybody doing something?"""
        return self in _PASSING


_PASSING: Final = frozenset(
    {Outcome.LOCKED, Outcome.UNREACHABLE, Outcome.INTERRUPTED, Outcome.KILLED, Outcome.STALLED, Outcome.TIMED_OUT}
)
# The order is precedence within one line, and among lines where none is the last word. Damage comes first: the same
# command may have met a short network fault, too.
_SIGNS: Final[tuple[tuple[Outcome, re.Pattern[str]], ...]] = tuple(
    (outcome, re.compile(pattern, re.IGNORECASE))
    for outcome, pattern in (
        (
            Outcome.DAMAGED,
            r"pack [0-9a-f]{8,64}:? does not exist|pack id does not match"
            r"|ciphertext verification failed|invalid data returned|hash mismatch"
            r"|hash does not match|repository contains damaged pack|not found in (?:repository|index)"
            r"|<(?:data|index)/[0-9a-f]+>.*(?:no such file|does not exist|not found|\b404\b)",
        ),
        (
            Outcome.UNTRUSTED,
            r"host key verification failed|remote host identification has changed|x509: |tls: .*certificate",
        ),
        (Outcome.NO_SPACE, r"no space left on device|disk quota exceeded|\(507\)|file too large"),
        (
            Outcome.REFUSED,
            r"\((?:401|403)\)|\b(?:401 unauthorized|403 forbidden)|access ?denied|permission denied \("
            r"|signaturedoesnotmatch",
        ),
        (
            Outcome.UNREACHABLE,
            r"connection refused|no such host|network is unreachable|no route to host|i/o timeout|timed out"
            r"|connection reset|server misbehaving|tls handshake timeout|could not resolve hostname|connection closed"
            r"|\((?:429|500|502|503|504)\)|/config: (?:host is down|stale file handle|input/output error)",
        ),
        (Outcome.LOCKED, r"repository is already locked"),
        (Outcome.WRONG_PASSWORD, r"wrong password or no key found"),
        (Outcome.EMPTY_INPUT, r"snapshot is empty|: no data read"),
        (
            Outcome.NOT_FOUND,
            r"no matching id found|no snapshot found|failed to find snapshot"
            r"|<snapshot/[0-9a-f]+>.*(?:no such file|does not exist|not found|\b404\b)",
        ),
        (Outcome.NO_SOURCE, r"all (?:target|source) directories/files do not exist"),
        (
            Outcome.NO_REPOSITORY,
            r"unable to open config file: .*(?:no such file|not exist|\b404\b)|repository does not exist",
        ),
        (Outcome.EXISTS, r"config file already exists|already initialized"),
        (Outcome.UNSUPPORTED, r"unknown (?:shorthand )?flag|unknown command"),
    )
)
_HINTS: Final = (
    "pack ", "ciphertext", "invalid data", "hash ", "not found in", "<data/", "<index/", "<snapshot/", "host key",
    "host id", "x509: ", "tls: ", "no space", "quota", "(507)", "too large", "(401)", "(403)", "401 un", "403 fo",
    "access denied", "accessdenied", "denied (", "signature", "refused", "no such host", "unreachable", "no route",
    "timeout", "timed out", "connection", "misbehaving", "hostname", "(429)", "(50", "/config", "config file", "locked",
    "wrong password", "is empty", "no data read", "matching id", "snapshot found", "find snapshot", "do not exist",
    "does not exist", "initialized", "unknown", "damaged pack",
)  # fmt: skip
"""No sign is in a line without one of these: a flood of lines is passed over quickly."""
_WEAK: Final[tuple[tuple[Outcome, re.Pattern[str]], ...]] = (
    (
        Outcome.UNREACHABLE,
        re.compile(r"unable to start the sftp session|unable to open repository at (?:sftp|rest|s3)"),
    ),
    (Outcome.DAMAGED, re.compile(r"repository contains errors|the repository is damaged", re.IGNORECASE)),
    (Outcome.INTERRUPTED, re.compile(r"context canceled|interrupt received")),
)
"""What a command says that had been told the reason before."""
_MISSING_PATH: Final = re.compile(r"does not exist, skipping")
_IGNORED_ID: Final = re.compile(r'^Ignoring "([^"]*)"')
_NEEDS_ITS_IDS: Final = frozenset(
    {Kind.LS, Kind.FIND, Kind.DIFF, Kind.COPY, Kind.RESTORE, Kind.STATS, Kind.TAG, Kind.SNAPSHOTS}
)


def plain(line: str) -> str:
    """A line of stderr as text: the message of a JSON line, without the terminal's control sequences."""
    line = _CONTROL.sub("", line).rstrip("\r\n")
    if not line.startswith("{"):
        return line
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(value, dict):
        return line
    error = value.get("error")
    message = error.get("message") if isinstance(error, dict) else value.get("message")
    if not isinstance(message, str):
        return line
    return f"{'Fatal: ' if value.get('message_type') == 'exit_error' else ''}{message}".rstrip("\n")


_CONTROL: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def sign_of(line: str) -> Outcome | None:
    """What a line of stderr alone tells of; None if nothing. For who must choose which lines to keep."""
    lowered = line[:4000].lower()
    if not any(hint in lowered for hint in _HINTS):
        return None
    text = plain(line)
    sign = _sign(text, _SIGNS)
    if sign is None and (_MISSING_PATH.search(text) or _IGNORED_ID.search(text)):
        return Outcome.PARTIAL
    return sign


def ignored_ids(stderr: Iterable[str]) -> tuple[str, ...]:
    """The ids that restic did not find and passed over, in order."""
    return tuple(found[1] for line in stderr if (found := _IGNORED_ID.search(plain(line))))


def classify(kind: Kind, version: Version, code: int, stderr: Iterable[str]) -> Outcome:
    """How a command ended. code: the exit code, or the negative number of the signal that ended it."""
    lines = [plain(line) for line in stderr]
    known = capabilities(version)
    if code == 0:
        return _of_zero(kind, lines)
    if code == 3:
        return _of_three(kind, known, lines)
    if code in (130, 143, -2, -15):
        return Outcome.INTERRUPTED
    if code in (137, -9):
        return Outcome.KILLED
    if code in (10, 11) and known.has(Feature.TYPED_EXITS):
        return Outcome.NO_REPOSITORY if code == 10 else Outcome.LOCKED
    if code == 12 and known.has(Feature.EXIT_WRONG_PASSWORD):
        return Outcome.WRONG_PASSWORD
    return _of_texts(lines) if code == 1 else Outcome.FAILED


def _of_zero(kind: Kind, lines: list[str]) -> Outcome:
    if kind is Kind.BACKUP and any(_MISSING_PATH.search(line) for line in lines):
        return Outcome.PARTIAL
    if kind in _NEEDS_ITS_IDS and any(_IGNORED_ID.search(line) for line in lines):
        return Outcome.NOT_FOUND
    return Outcome.OK


def _of_three(kind: Kind, known: Capabilities, lines: list[str]) -> Outcome:
    if kind is Kind.BACKUP:
        empty = any(_sign(line, _SIGNS) is Outcome.EMPTY_INPUT for line in lines)
        return Outcome.EMPTY_INPUT if empty else Outcome.PARTIAL
    if kind is Kind.FORGET and known.has(Feature.FORGET_EXIT):
        refused = any(_sign(line, _SIGNS) is Outcome.REFUSED for line in lines)
        return Outcome.REFUSED if refused else Outcome.PARTIAL
    return Outcome.FAILED


def _of_texts(lines: list[str]) -> Outcome:
    for line in reversed(lines):
        if line.startswith("Fatal:") and (sign := _sign(line, _SIGNS)) is not None:
            return sign
    found = {sign for line in lines if (sign := _sign(line, _SIGNS)) is not None}
    for outcome, _ in _SIGNS:
        if outcome in found:
            return outcome
    for line in reversed(lines):
        if (sign := _sign(line, _WEAK)) is not None:
            return sign
    return Outcome.FAILED


def _sign(line: str, signs: Iterable[tuple[Outcome, re.Pattern[str]]]) -> Outcome | None:
    return next((outcome for outcome, pattern in signs if pattern.search(line[:4000])), None)
