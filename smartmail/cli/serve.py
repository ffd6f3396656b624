"""`smartmail serve`: run the relay. The wiring list; what each part does is in the part."""

import asyncio
import gc
import os
import resource
import secrets
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop
from prometheus_client import CollectorRegistry, start_http_server

from smartmail import __version__, events
from smartmail.cli.common import CliError, ExitCode, config_path
from smartmail.cli.ports import check_free
from smartmail.config import Config, ConfigError, load
from smartmail.core.policy import Verdict
from smartmail.intake import maildrop
from smartmail.metrics import RelayMetrics
from smartmail.relay.assemble import backend_of, caps_of, listeners_of, route_of, rules_of
from smartmail.relay.connection import UpstreamError
from smartmail.relay.server import Relay
from smartmail.relay.services import Clock, Services
from smartmail.relay.tls import ServerTls, TlsError, self_made
from smartmail.relay.upstream import Pool
from smartmail.store.counters import MemoryCounters, SnapshotError, encode
from smartmail.store.directory import Directory, DirectoryWatch
from smartmail.store.events import EventRow
from smartmail.store.migrations import ensure
from smartmail.store.saved import stored_counters
from smartmail.store.writer import EventWriter

if TYPE_CHECKING:
    from smartmail.cli.guide import Showing

SNAPSHOT_SECONDS = 10
"""Between two snapshots of the counters: what a kill -9 can lose of them."""
FLUSH_SECONDS = 10
SPARE_DESCRIPTORS = 500
"""Open files besides clients and upstream: store, log, metrics, the Dovecot socket, connections in handshake."""
GREETING_SECONDS = 10
"""How long an upstream that takes connections and says nothing may keep us from opening our own doors."""

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def serve(
    ctx: typer.Context,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Make a sample account and say on the screen what to try.")
    ] = False,
    demo: Annotated[bool, typer.Option("--demo", help="As --embedded, and play a short scene.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="With --demo: stop after the scene. Without a terminal it does so anyway.")
    ] = False,
) -> None:
    """Run the relay until SIGTERM. SIGHUP reads the configuration and the certificate again."""
    path = config_path(ctx)
    config = load(path)
    showing = None
    if embedded or demo:
        from smartmail.cli.guide import Showing

        showing = Showing(demo=demo, once=once)
    elif once:
        raise CliError("--once needs --demo", code=ExitCode.USAGE)
    try:
        raise SystemExit(uvloop.run(Process(config, path).run(showing)))
    except TlsError as error:
        raise CliError(str(error), where="tls", code=ExitCode.USAGE) from None


class Process:
    """One running relay and what it stands on."""

    def __init__(self, config: Config, path: Path | None) -> None:
        self.config = config
        self.path = path
        self.url = config.database_url
        self._name = str(path or "embedded default")
        self._stop = asyncio.Event()
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._exit_code = ExitCode.OK
        self._failure: Exception | None = None
        self._cut = 0
        self.metrics_port = 0
        """Bound; 0 while metrics are off."""

    async def run(self, showing: "Showing | None" = None) -> int:
        """Start everything, wait for the signal to stop, end it all in the reverse order. Returns the exit code.

        showing: have the guide say on the screen what there is; the log then goes to a file.
        """
        config, started = self.config, time.monotonic()
        check_free(config)
        _allow_descriptors(config.server.max_sessions + config.upstream.max_connections + SPARE_DESCRIPTORS)
        config.server.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with AsyncExitStack() as parts:
            log = events.configure(style=config.log.format, level=config.log.level, stream=self._log_file(showing))
            parts.callback(log.close)
            events.started(version=__version__, config=self._name, pid=os.getpid())
            parts.callback(lambda: events.stopped(seconds=int(time.monotonic() - started), cut=self._cut))
            await self._start(parts)
            events.ready(listeners=len(self.relay.listeners))
            guide = self._spawn(self._guide(showing)) if showing is not None else None
            await self._stop.wait()
            if guide is not None:
                guide.cancel()
        if self._failure is not None:
            raise self._failure
        return self._exit_code

    async def _start(self, parts: AsyncExitStack) -> None:
        """The wiring list. Each part says to `parts` how it is ended."""
        config, loop = self.config, asyncio.get_running_loop()
        loop.set_exception_handler(events.loop_fault)
        await asyncio.to_thread(ensure, self.url)
        self.tls = ServerTls.load(*self._certificate_files())
        self.maildrop = await self._start_maildrop()
        if self.maildrop is not None:
            parts.push_async_callback(self.maildrop.close)
        writer, counters = EventWriter(self.url), self._counters()
        writer.start()
        parts.push_async_callback(_end_rows, writer, counters)
        watch = DirectoryWatch(self.url, self._directory_changed, self._directory_failed, loop)
        watch.start()
        parts.callback(watch.stop)
        metrics = RelayMetrics(CollectorRegistry())
        pool = self._pool(config, self.maildrop)
        self.services = Services(
            rules=rules_of(config),
            directory=watch.current,
            counters=counters.counters,
            known=counters.known,
            pool=pool,
            backend=backend_of(config, lambda login: self.services.directory.by_login(login)),
            metrics=metrics,
            put_row=_recorder(writer, level=config.log.level),
            secret=_secret(config.server.data_dir / "hash.key"),
        )
        self.services.backend.open()
        parts.callback(self.services.backend.close)
        self.relay = Relay(self.services, listeners_of(config, self.tls.context), caps_of(config))
        self._watch_parts(metrics, writer, counters)
        if (server := self._serve_metrics(metrics)) is not None:
            parts.callback(server.shutdown)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        await self._greet_upstream(pool)
        parts.push_async_callback(self._end_sessions)
        await self.relay.open()
        self._spawn(self._keep_counters(counters, writer))
        # What is here now stays: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)

    async def _end_sessions(self) -> None:
        seconds = self.config.server.drain_seconds
        events.draining(sessions=self.relay.sessions, transactions=self.relay.busy, seconds=seconds)
        self._cut = await self.relay.drain(seconds)
        for task in tuple(self._tasks):
            task.cancel()

    # parts

    def _log_file(self, showing: "Showing | None") -> FileIO | None:
        """None: standard error, unless somebody looks at a guide there, which log lines would tear."""
        if showing is None:
            return None
        return FileIO(self.log_path, "a", opener=lambda path, flags: os.open(path, flags, 0o600))

    @property
    def log_path(self) -> Path:
        """Where the log is while the guide has the screen."""
        return self.config.server.data_dir / "smartmail.log"

    def _certificate_files(self) -> tuple[Path, Path]:
        tls, server = self.config.tls, self.config.server
        if tls.certificate is not None and tls.key is not None:
            return tls.certificate, tls.key
        return self_made(server.data_dir, server.hostname)

    async def _start_maildrop(self) -> maildrop.MaildropServer | None:
        config = self.config
        if config.upstream.address:
            return None
        host, port = config.maildrop.endpoint
        return await maildrop.start(config.maildrop_directory, host, port, config.maildrop.max_message_size)

    def _pool(self, config: Config, drop: maildrop.MaildropServer | None) -> Pool:
        pool = Pool(route_of(config, drop.address if drop else None), asyncio.get_running_loop())
        name = pool.name

        def changed(reachable: bool, why: str) -> None:
            if reachable:
                events.upstream_up(address=name)
            else:
                events.upstream_down(address=name, reason=why)

        pool.on_change = changed
        pool.on_refused_identity = lambda answer: events.upstream_refuses_identity(address=name, reply=answer)
        return pool

    def _counters(self) -> MemoryCounters:
        counters = MemoryCounters()
        data = stored_counters(self.url)
        if data is not None:
            try:
                counters.restore(data, Clock().now_ns())
            except SnapshotError as error:
                events.store_trouble(error=str(error))
        return counters

    def _serve_metrics(self, metrics: RelayMetrics):  # type: ignore[no-untyped-def]
        endpoint = self.config.metrics.endpoint
        if endpoint is None:
            return None
        try:
            server, _ = start_http_server(endpoint.port, endpoint.host, registry=metrics.registry)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"metrics.address {endpoint}") from error
        self.metrics_port = int(server.server_port)
        return server

    async def _greet_upstream(self, pool: Pool) -> None:
        """Learn what the upstream offers; it may be away now, and is tried again with each mail."""
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                pool.give_back(await pool.connect())
        except (UpstreamError, TimeoutError):
            return
        events.upstream_capabilities(address=pool.name, capabilities=sorted(pool.capabilities.keywords))

    def _watch_parts(self, metrics: RelayMetrics, writer: EventWriter, counters: MemoryCounters) -> None:
        services = self.services
        metrics.watch(
            gauges=(
                (
                    "smartmail_upstream_connections",
                    "Connections to the upstream.",
                    lambda: services.pool.size[0],
                ),
                ("smartmail_upstream_connections_idle", "Those not in use.", lambda: services.pool.size[1]),
                (
                    "smartmail_upstream_reachable",
                    "1 if the last attempt to connect went well, else 0.",
                    lambda: 1.0 if services.pool.reachable else 0.0,
                ),
                ("smartmail_limit_keys", "Counters kept for limits.", lambda: counters.counters.keys),
                (
                    "smartmail_limit_reservations_open",
                    "Reservations not yet ended.",
                    lambda: counters.counters.open,
                ),
                ("smartmail_event_rows_waiting", "Event rows not yet committed.", lambda: writer.backlog),
                (
                    "smartmail_directory_accounts",
                    "Accounts in the directory in force.",
                    lambda: len(services.directory.accounts),
                ),
            ),
            counters=(
                ("smartmail_upstream_connections_opened", "Connections made.", lambda: services.pool.opened),
                (
                    "smartmail_upstream_connections_reused",
                    "Idle ones taken again.",
                    lambda: services.pool.reused,
                ),
                (
                    "smartmail_upstream_connections_failed",
                    "Attempts that failed.",
                    lambda: services.pool.failed,
                ),
                ("smartmail_event_rows_committed", "Event rows in the database.", lambda: writer.committed),
                (
                    "smartmail_event_rows_dropped",
                    "Event rows lost to a full backlog.",
                    lambda: writer.dropped,
                ),
                (
                    "smartmail_event_batches_failed",
                    "Commits that had to be tried again.",
                    lambda: writer.failed_batches,
                ),
            ),
        )

    # while it runs

    def _directory_changed(self, directory: Directory, changed: frozenset[int]) -> None:
        self.relay.directory_changed(directory, changed)
        self._news.set()

    async def heard_of(self, change: int) -> None:
        """Return once the accounts in force hold this change of the store."""
        while self.services.directory.version < change:
            self._news.clear()
            await self._news.wait()

    def _directory_failed(self, error: Exception) -> None:
        self.services.metrics.directory_errors += 1
        events.store_trouble(error=str(error))

    async def _keep_counters(self, counters: MemoryCounters, writer: EventWriter) -> None:
        """Snapshots of the counters; and, as the same writer takes both, word of a database that takes no rows."""
        dropped = failing = 0
        while True:
            await asyncio.sleep(SNAPSHOT_SECONDS)
            writer.store_counters(await asyncio.to_thread(encode, counters.rows()))
            if writer.last_error and not failing:
                events.store_trouble(error=writer.last_error, waiting_rows=writer.backlog)
            elif failing and not writer.last_error:
                events.store_recovered(seconds=failing)
            failing = failing + SNAPSHOT_SECONDS if writer.last_error else 0
            if writer.dropped > dropped:
                events.event_rows_dropped(count=writer.dropped - dropped, total=writer.dropped)
                dropped = writer.dropped

    def reload(self) -> None:
        """Read configuration and certificate again; what cannot be used is refused and the old stays in force."""
        metrics = self.services.metrics
        try:
            config = load(self.path)
            fixed = _needs_restart(self.config, config)
            if fixed:
                raise CliError(f"{', '.join(fixed)} cannot change while the relay runs", remedy="restart it")
            self.tls.reload(*self._certificate_files())
            events.tls_reloaded(certificate=str(self.tls.certificate))
            route = route_of(config, self.maildrop.address if self.maildrop else None)
        except (ConfigError, TlsError, CliError, OSError) as error:
            metrics.reloads["refused"] += 1
            metrics.reload_ok = 0
            events.config_refused(config=self._name, problems=str(error).splitlines())
            return
        self.config = config
        for listener in self.relay.listeners:
            if listener.tls is not None:
                listener.tls = self.tls.context
        in_force = self.services.pool.route
        # A context equals no other; whether there is one is a setting.
        if replace(route, tls=None) != replace(in_force, tls=None) or (route.tls is None) != (in_force.tls is None):
            pool = self._pool(config, self.maildrop)
            self.relay.replace_pool(pool)
            self._spawn(self._greet_upstream(pool))
        self.services.rules = rules_of(config)
        self.relay.caps = caps_of(config)
        self.relay.rules_changed()
        metrics.reloads["done"] += 1
        metrics.reload_ok = 1
        events.config_reloaded(config=self._name)

    def stop(self, code: ExitCode = ExitCode.OK) -> None:
        """As SIGTERM does; `code` is what the process ends with."""
        self._exit_code = code
        self._stop.set()

    async def _guide(self, showing: "Showing") -> None:
        from smartmail.cli.guide import show

        try:
            code = await show(self, showing)
        except Exception as error:  # raised again by `run`, once all is put in order
            self._failure = error
            code = ExitCode.FOUND_BAD
        if code is not None:
            self.stop(code)

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _end_rows(writer: EventWriter, counters: MemoryCounters) -> None:
    """Have every row and the last state of the counters written, if the database takes them."""
    writer.store_counters(counters.snapshot())
    if not await asyncio.to_thread(writer.stop, FLUSH_SECONDS):
        events.event_rows_dropped(count=writer.backlog)


def _recorder(writer: EventWriter, *, level: str) -> Callable[[EventRow], None]:
    """Where a transaction's row goes: to the database, and to the log where that is listened to."""
    quiet = level in ("warning", "error")

    def record(row: EventRow) -> None:
        writer.put(row)
        if not quiet or row.verdict == Verdict.AMBIGUOUS:
            events.transaction(row.line())

    return record


def _allow_descriptors(wanted: int) -> None:
    """Raise the soft limit of open files as far as the hard one lets us: the usual 1,024 is an outage at noon."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _secret(file: Path) -> bytes:
    """The key of recipients' hashes, made at the first start. It must outlive a restart, as the hashes do."""
    if not file.exists():
        file.touch(mode=0o600)
        file.write_bytes(secrets.token_bytes(32))
    return file.read_bytes()


def _needs_restart(old: Config, new: Config) -> list[str]:
    """The sections that a running process cannot change."""
    fixed = ("listener", "auth", "maildrop", "store", "metrics", "log", "content")
    changed = [name for name in fixed if getattr(old, name) != getattr(new, name)]
    fixed_keys = ("hostname", "data_dir", "max_message_size", "max_errors", "max_noops", "greeting_delay_ms")
    changed += [f"server.{key}" for key in fixed_keys if getattr(old.server, key) != getattr(new.server, key)]
    return changed
