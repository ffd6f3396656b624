"""Child processes of a benchmark: start them pinned, read their CPU time and memory from /proc, end them
for certain."""

import ctypes
import grp
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
MANY_FILES = 20_000
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
LIBC = ctypes.CDLL(None, use_errno=True)


class StartFailed(Exception):
    """A server did not start or did not listen in time; the text is one line for people."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where what runs: CPU numbers for the server side and for the load (source, sink, clients). Empty:
    not pinned."""

    server: frozenset[int]
    load: frozenset[int]

    @staticmethod
    def plan() -> "Cores":
        """One core for the server side, one for everything that makes or swallows load; no pinning on one
        core."""
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            return Cores(frozenset(), frozenset())
        return Cores(frozenset({usable[0]}), frozenset({usable[1]}))


@dataclass(frozen=True, slots=True)
class Child:
    """A started process, the root of a tree. `log` holds what it wrote."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        """The process id of the root."""
        return self.popen.pid

    def tail(self) -> str:
        """The last line it wrote, for a message."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1][:300] if lines else "no output"


@dataclass(slots=True)
class Processes:
    """All children of one benchmark. As a context it ends every one, whatever happened inside."""

    folder: Path
    children: list[Child] = field(default_factory=list)
    guard: "subprocess.Popen[bytes] | None" = None

    def __enter__(self) -> "Processes":
        self.guard = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("guard.py"), self.folder],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        # Orphans of a server (Postfix and Dovecot fork) come to us, so that the sweep at the end finds them.
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(self.children)
        guard = self.guard
        kill_all(descendants([os.getpid()]) - {os.getpid(), 0 if guard is None else guard.pid})
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            # It removes the folder: hundreds of thousands of files, for some benchmarks.
            guard.wait(1800)
        reap()

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        cores: frozenset[int],
        *,
        environment: Mapping[str, str] | None = None,
        pipes: bool = False,
    ) -> Child:
        """Start `command` in its own session on `cores`, output to a log file (with `pipes`: stdin and
        stdout to us).

        Raises StartFailed when the program cannot be executed.
        """
        log = self.folder / f"{name}.log"

        def prepare() -> None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if cores:
                os.sched_setaffinity(0, cores)

        try:
            with log.open("ab") as out:
                popen = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if pipes else out,
                    stderr=out,
                    cwd=self.folder,
                    env={**os.environ, **(environment or {})},
                    start_new_session=True,
                    preexec_fn=prepare,
                )
        except OSError as error:
            raise StartFailed(f"{name}: {error}") from error
        if self.guard is not None and self.guard.stdin is not None:
            self.guard.stdin.write(f"{popen.pid}\n".encode())
            self.guard.stdin.flush()
        child = Child(name, popen, log)
        self.children.append(child)
        return child

    def stop(self, children: Iterable[Child]) -> None:
        """End these trees: SIGTERM to the root, SIGKILL to whatever is left after three seconds."""
        ending = [child for child in children if child in self.children]
        trees = {child.pid: descendants([child.pid]) for child in ending}
        for child in ending:
            if child.popen.poll() is None:
                child.popen.terminate()
        deadline = time.monotonic() + 3
        for child in ending:
            try:
                child.popen.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.popen.kill()
                child.popen.wait()
            kill_all(trees[child.pid] - {child.pid})
            for pipe in (child.popen.stdin, child.popen.stdout):
                if pipe is not None:
                    pipe.close()
            self.children.remove(child)


def raise_file_limit() -> None:
    """Let us and all children open enough files; as far as the hard limit goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.geteuid() == 0 and hard != resource.RLIM_INFINITY and hard < MANY_FILES:
        hard = MANY_FILES
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def kill_all(pids: Iterable[int]) -> None:
    """SIGKILL to each that still lives."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def reap() -> None:
    """Collect orphans that came to us, for at most two seconds."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.02)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (field 3 of proc(5) is index 0), None when it is
    gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def descendants(roots: Iterable[int]) -> set[int]:
    """The roots and every process below them that is alive now."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))) is not None:
            parents.setdefault(int(fields[1]), []).append(int(entry))
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(parents.get(pid, ()))
    return found


def cpu_seconds(roots: Sequence[int]) -> float:
    """User and system time of these trees, children already reaped included (proc(5): utime, stime,
    cutime, cstime)."""
    ticks = 0
    for pid in descendants(roots) if roots else ():
        if (fields := _stat(pid)) is not None:
            ticks += sum(int(value) for value in fields[11:15])
    return ticks / TICKS_PER_SECOND


def busy_seconds() -> float:
    """CPU time that all of this machine has used since it booted, time taken by the hypervisor included (proc(5))."""
    fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND


def _memory_kib(roots: Sequence[int], key: str) -> int:
    total = 0
    for pid in descendants(roots) if roots else ():
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(key))
    return total


def rss_mb(roots: Sequence[int]) -> float:
    """Resident memory of these trees now, in MB (10^6 octets), pages shared between processes counted in
    each."""
    return _memory_kib(roots, "VmRSS:") * 1024 / 1e6


def peak_rss_mb(roots: Sequence[int]) -> float:
    """Sum of the high-water marks (VmHWM) since the last `reset_peaks`, in MB (10^6 octets)."""
    return _memory_kib(roots, "VmHWM:") * 1024 / 1e6


def reset_peaks(roots: Sequence[int]) -> None:
    """Set each high-water mark back to the present size (proc(5), clear_refs 5); ignored where not
    allowed."""
    for pid in descendants(roots) if roots else ():
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError:
            continue


def free_port() -> int:
    """A TCP port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def unprivileged_user() -> str:
    """Whom a server may run as when we are root: nobody, where that exists, else ourselves."""
    try:
        return pwd.getpwnam("nobody").pw_name
    except KeyError:
        return pwd.getpwuid(os.geteuid()).pw_name


def unprivileged_group() -> str:
    """The first group of `unprivileged_user`."""
    return grp.getgrgid(pwd.getpwnam(unprivileged_user()).pw_gid).gr_name


def wait_for_greeting(child: Child, port: int, seconds: float = 20.0) -> None:
    """Return once the SMTP server on this loopback port greets with 220. Raises StartFailed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if child.popen.poll() is not None:
            raise StartFailed(f"{child.name} ended with code {child.popen.returncode}: {child.tail()}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
                if probe.recv(512).startswith(b"220"):
                    probe.sendall(b"QUIT\r\n")
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise StartFailed(f"{child.name} did not greet on port {port} within {seconds:.0f} s: {child.tail()}")
