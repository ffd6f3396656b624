"""The one place where restic runs: a Command of the core in, a Run with its outcome out.

Both pipes are always drained, so restic never dies of a reader that went away (it then leaves an exclusive lock). It
is stopped by SIGINT first, which takes its locks away in every version; SIGTERM and SIGKILL come after a wait each. No
line of output is trusted to be short, and no number of lines to be small.
"""

import asyncio
import os
import re
import shutil
import signal
import stat
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from smartmail.backup.process import CHUNK, Patience, Pipe, Process, finish, start, unhurried
from smartmail.core.restic import Command, Output, redacted, version_command
from smartmail.core.restic_messages import ItemError, Message, Plain, Progress, read_message
from smartmail.core.restic_version import (
    OLDEST,
    Capabilities,
    Outcome,
    Version,
    capabilities,
    classify,
    parse_version,
    sign_of,
)

TAIL: Final = 25
"""The last lines of stderr that are kept."""
TELLING: Final = 25
"""The last lines of stderr that tell of a reason, kept beside the tail: a flood does not wash them away."""
MOST_ERRORS: Final = 10_000
"""Items that could not be read: named up to here, counted beyond."""
LINE: Final = 1 << 16
"""Octets of a line that are looked at."""
DOCUMENT: Final = 256 << 20
MESSAGES: Final = 1 << 20
"""Octets of stdout that are kept of a document, and of lines that are no progress."""
_TRACE: Final = re.compile(
    r"\s|goroutine [0-9]+ |panic:|created by |exit status |[a-z0-9./*()-]+\.[A-Za-z0-9.*()-]+\(.*\)$"
)
"""Lines of Go's own when restic itself falls."""
_INHERITED: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "TZ", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


class ResticError(Exception):
    """restic cannot be started: the message says why and what to do, for an operator."""


@dataclass(frozen=True, slots=True)
class Settings:
    """binary: a name or a path. cache: a folder that is made. temporary: for pack files on their way; None: the
    system's. prefix: words before restic's own, like nice and ionice. progress_s: between lines of progress."""

    cache: Path
    binary: str = "restic"
    temporary: Path | None = None
    prefix: tuple[str, ...] = ()
    progress_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears while it runs. progress: each step; message: everything else that is said on stdout and stderr; line:
    each line of a listing (which is kept nowhere). They are called in the loop and must be quick; if one raises, restic
    is stopped and `run` raises it."""

    progress: Callable[[Progress], None] | None = None
    message: Callable[[Message], None] | None = None
    line: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One run that has ended. code: the exit code, or the negative number of a signal. stdout: without progress; ""
    of a listing. cut: stdout was longer than what is kept. errors: items, as far as they are named. tail: the last
    lines of stderr, without passwords. lock_may_stay: it did not end by itself."""

    command: Command
    version: Version
    code: int
    outcome: Outcome
    stdout: str
    cut: bool
    errors: tuple[ItemError, ...]
    error_count: int
    stderr: tuple[str, ...]
    tail: tuple[str, ...]
    elapsed_ms: int
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Did it do all of what was asked?"""
        return self.outcome is Outcome.OK

    @property
    def reason(self) -> str:
        """The line of stderr that tells most: restic's last word, else what tells of a cause, else the last that is no
        part of a trace; "" if there is none."""
        lines = [line for line in self.stderr if line.strip()]
        fatal = [line for line in lines if "Fatal:" in line]
        telling = [line for line in lines if sign_of(line) is not None]
        plain = [line for line in lines if not _TRACE.match(line)]
        return next((found[-1] for found in (fatal, telling, plain, lines) if found), "")

    @property
    def lock_may_stay(self) -> bool:
        """Was it ended so that its locks may still be in the repository?"""
        return self.code in (-signal.SIGKILL, 137) or (self.code in (-signal.SIGTERM, 143))


@dataclass(slots=True)
class _Heard:
    """What came out of one run so far."""

    command: Command
    listener: Listener
    stdout: list[bytes] = field(default_factory=list)
    octets: int = 0
    cut: bool = False
    errors: list[ItemError] = field(default_factory=list)
    error_count: int = 0
    telling: deque[str] = field(default_factory=lambda: deque(maxlen=TELLING))
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))
    last: Progress | None = None
    moved_at: float = 0.0
    fault: Exception | None = None
    """What a listener raised: `run` raises it again."""
    broken: asyncio.Event = field(default_factory=asyncio.Event)

    def out(self, line: bytes) -> None:
        """A line of stdout, with its end."""
        if self.command.output is Output.DOCUMENT:
            self._keep(line, DOCUMENT)
            return
        if self.command.output is Output.LISTING:
            self.moved_at = asyncio.get_running_loop().time()
            if self.listener.line is not None:
                self.listener.line(line.decode(errors="replace"))
            return
        message = read_message(self.command.kind, line[:LINE].decode(errors="replace"))
        if isinstance(message, Progress):
            # The same again is a sign of life of a clock, not of the transfer.
            if message != self.last:
                self.last = message
                self.moved_at = asyncio.get_running_loop().time()
                if self.listener.progress is not None:
                    self.listener.progress(message)
            return
        self.moved_at = asyncio.get_running_loop().time()
        self._keep(line, MESSAGES)
        self._tell(message)

    def err(self, line: bytes) -> None:
        """A line of stderr, with its end."""
        text = redacted(line[:LINE].decode(errors="replace").rstrip("\r\n"))
        message = read_message(self.command.kind, text)
        if isinstance(message, ItemError) and message.item:
            self.error_count += 1
            if len(self.errors) < MOST_ERRORS:
                self.errors.append(message)
        if sign_of(text) is not None:
            self.telling.append(text)
        self.tail.append(text)
        self._tell(message)

    async def drain(self, stream: asyncio.StreamReader, take: Callable[[bytes], None], longest: int) -> None:
        """Give each line on; what is longer than `longest` octets is cut there. Reads to the end even after a fault."""
        pending = bytearray()
        dropping = False
        while chunk := await stream.read(CHUNK):
            if self.fault is not None:
                continue
            pending += chunk
            if b"\n" in chunk:
                *lines, rest = bytes(pending).split(b"\n")
                for line in lines[dropping:]:
                    self._guard(take, line[:longest] + b"\n")
                dropping, pending = False, bytearray(rest)
            if len(pending) > longest:
                if not dropping:
                    self._guard(take, bytes(pending[:longest]) + b"\n")
                dropping, pending = True, bytearray()
        if pending and not dropping and self.fault is None:
            self._guard(take, bytes(pending[:longest]))

    def _guard(self, take: Callable[[bytes], None], line: bytes) -> None:
        if self.fault is None:
            try:
                take(line)
            except Exception as error:
                # Raised by `run` once restic has ended: reading must go on until then.
                self.fault = error
                self.broken.set()

    def _tell(self, message: Message) -> None:
        if self.listener.message is not None and message != Plain(""):
            self.listener.message(message)

    def _keep(self, line: bytes, most: int) -> None:
        if self.octets + len(line) > most:
            self.cut = True
            return
        self.octets += len(line)
        self.stdout.append(line)

    def lines_of_stderr(self) -> tuple[str, ...]:
        """What the outcome is judged by: the telling ones, then the tail."""
        known = set(self.tail)
        return (*(line for line in self.telling if line not in known), *self.tail)


class Restic:
    """restic, found once. Made by `find_restic`; may run several commands at a time."""

    def __init__(self, path: Path, version: Version, settings: Settings) -> None:
        self.path = path
        self.version = version
        self.known: Capabilities = capabilities(version)
        self._settings = settings

    async def run(
        self,
        command: Command,
        patience: Patience | None = None,
        listener: Listener | None = None,
        stdin: int | None = None,
    ) -> Run:
        """Run to the end. stdin: a file descriptor that is read from (the caller closes it); None: nothing to read.

        A cancelled task stops restic in the proper order first. From 0.17 on a restic that waits for stdin hears SIGINT
        at once but ends only when stdin does: end the producer after cancelling, not before.

        Raises ResticError if a file of secrets is not there or restic cannot be started; never for how it ended.
        """
        warnings = check_secrets(command)
        loop = asyncio.get_running_loop()
        heard = _Heard(command, listener or Listener(), moved_at=loop.time())
        started = heard.moved_at
        argv = (*self._settings.prefix, str(self.path), *command.argv)
        out, err = Pipe(), Pipe()
        try:
            await out.open()
            await err.open()
            try:
                process = await start(argv, environment(self._settings, command), stdin, out, err)
            except OSError as error:
                raise ResticError(f"{argv[0]} cannot be started: {error.strerror}") from error
            longest = DOCUMENT if command.output is Output.DOCUMENT else LINE
            readers = {
                asyncio.create_task(heard.drain(out.reader, heard.out, longest)),
                asyncio.create_task(heard.drain(err.reader, heard.err, LINE)),
            }
            stopped = await _attend(process, heard, readers, patience or Patience())
        finally:
            out.close()
            err.close()
        if heard.fault is not None:
            raise heard.fault
        code = process.returncode if process.returncode is not None else -signal.SIGKILL
        stderr = heard.lines_of_stderr()
        return Run(
            command,
            self.version,
            code,
            _outcome(command, self.version, code, stderr, stopped),
            b"".join(heard.stdout).decode(errors="replace"),
            heard.cut,
            tuple(heard.errors),
            heard.error_count,
            stderr,
            tuple(heard.tail),
            round((loop.time() - started) * 1000),
            warnings,
        )


def _outcome(
    command: Command, version: Version, code: int, stderr: tuple[str, ...], stopped: Outcome | None
) -> Outcome:
    found = classify(command.kind, version, code, stderr)
    if stopped is None or found in (Outcome.OK, Outcome.PARTIAL):
        return found
    # Why it hung is more than that it hung: restic says it with each of its attempts.
    why = classify(command.kind, version, 1, stderr)
    return stopped if why in (Outcome.FAILED, Outcome.INTERRUPTED) else why


async def find_restic(settings: Settings) -> Restic:
    """Find the binary and ask for its version. Makes the cache folder.

    Raises ResticError if there is none, it is not restic, or it is older than 0.14.
    """
    path = _located(settings)
    unknown = Restic(path, Version(0, 0), settings)
    run = await unknown.run(version_command(), Patience(limit_s=30, interrupt_s=2, terminate_s=2))
    version = parse_version(run.stdout)
    if version is None:
        raise ResticError(f"{path} is not restic: it does not tell its version ({run.outcome.value})")
    if version < OLDEST:
        raise ResticError(f"{path} is restic {version}; {OLDEST} or newer is needed")
    return Restic(path, version, settings)


def _located(settings: Settings) -> Path:
    found = shutil.which(settings.binary)
    if found is None:
        raise ResticError(f'no "{settings.binary}" to run; Debian: apt-get install restic')
    try:
        settings.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ResticError(f"the cache {settings.cache} cannot be made: {error.strerror}") from error
    return Path(found).resolve()


def check_secrets(command: Command) -> tuple[str, ...]:
    """Are the files of secrets there and only ours? Returns a warning for each that others could read.

    Raises ResticError if one is missing, empty or no file.
    """
    warnings = []
    for name in dict.fromkeys(command.secrets):
        try:
            found = Path(name).stat()
        except OSError as error:
            raise ResticError(f"{name} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            raise ResticError(f"{name} is empty or no file")
        if found.st_mode & 0o077:
            warnings.append(f"{name} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}): chmod 600 it")
        elif found.st_uid not in (0, os.geteuid()):
            warnings.append(f"{name} belongs to another user (uid {found.st_uid})")
    return tuple(warnings)


def environment(settings: Settings, command: Command) -> dict[str, str]:
    """All of restic's environment: nothing else of ours is handed on, least of all RESTIC_* and AWS_*."""
    found = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    found.setdefault("PATH", os.defpath)
    found |= {
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "RESTIC_CACHE_DIR": str(settings.cache),
        "RESTIC_PROGRESS_FPS": f"{1 / settings.progress_s:g}",
    }
    if settings.temporary is not None:
        found["TMPDIR"] = str(settings.temporary)
    return found | dict(command.environment)


async def _attend(
    process: Process, heard: _Heard, readers: set[asyncio.Task[None]], patience: Patience
) -> Outcome | None:
    """Wait for the end, or bring it about: STALLED or TIMED_OUT then, else None. Whatever happens, the process is gone
    and its pipes are read to the end when this returns or raises."""
    loop = asyncio.get_running_loop()
    ended = asyncio.create_task(process.wait())
    wake = asyncio.create_task(heard.broken.wait())
    deadline = loop.time() + patience.limit_s
    stopped: Outcome | None = None
    try:
        while not ended.done() and not wake.done():
            until = deadline
            if heard.command.reports_progress:
                until = min(until, heard.moved_at + patience.silence_s)
            left = until - loop.time()
            if left <= 0:
                stopped = Outcome.TIMED_OUT if loop.time() >= deadline else Outcome.STALLED
                break
            await asyncio.wait((ended, wake), timeout=left, return_when=asyncio.FIRST_COMPLETED)
    finally:
        wake.cancel()
        await unhurried(finish(process, ended, readers, patience))
    return stopped
