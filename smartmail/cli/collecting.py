"""The monitor's own process: collector, sealing, live figures, trust checks, metrics. This file is its wiring list."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server

from smartmail import __version__, events
from smartmail.cli.common import CliError, ExitCode
from smartmail.config import Config, TcpAddress
from smartmail.core.live import LiveMonth
from smartmail.events import monitor as lines
from smartmail.metrics import MonitorMetrics
from smartmail.monitor.live import look
from smartmail.monitor.months import Months
from smartmail.monitor.rosters import put_in_force, roster_of
from smartmail.monitor.trust_runner import TrustRunner, looker
from smartmail.store import sla
from smartmail.store.database import Database
from smartmail.store.errors import StoreError
from smartmail.store.records import Act
from smartmail.store.samples import SampleStore
from smartmail.web.app import CollectorCounts
from smartmail.web.certificate import KeyPair, self_made, server_context
from smartmail.web.collector import CollectorState, collector_app
from smartmail.web.serving import WebServer

LOOK_SECONDS: Final = 20
"""Between two looks at the running months: a minute is judged soon after its samples are in."""
LOOK_SHARE: Final = 5
"""The pause after a look is at least so many times as long as the look."""
PRUNE_FIRST_SECONDS: Final = 3_600
PRUNE_SECONDS: Final = 86_400
"""Samples of closed months go an hour after the start, then daily."""
AGAIN_SECONDS: Final = 30
"""Before work that broke off by a fault of ours is begun again."""


def system_ms() -> int:
    """The system's clock, in milliseconds."""
    return time.time_ns() // 10**6


class Monitor:
    """One collector over one database. `now_ms` and `pace` may be another clock, which runs `pace` times as fast."""

    def __init__(self, config: Config, *, now_ms: Callable[[], int] = system_ms, pace: int = 1) -> None:
        self.config = config
        self.now_ms = now_ms
        self.pace = pace
        self.port = 0
        """Of the collector, as bound."""
        self.authority = Path()
        """PEM file that an agent trusts the collector by."""
        self.live: tuple[LiveMonth, ...] = ()
        self.database = Database(config.database_url)
        self.samples = SampleStore(config.database_url)
        self.months = Months(self.database, self.samples, config.sla_terms)
        self.counts = CollectorCounts()
        self.metrics = MonitorMetrics(CollectorRegistry())
        self.trust = TrustRunner(looker(config.server.hostname), now_ms, lines)
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._tls: ssl.SSLContext | None = None
        self._faults = 0

    async def __aenter__(self) -> "Monitor":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        stack, config = self._stack, self.config
        stack.callback(self.database.close)
        self.database.upgrade()
        self.apply(config)
        self.samples.start()
        stack.push_async_callback(asyncio.to_thread, self.samples.stop)
        self._watch()
        if config.monitor.metrics_endpoint is not None:
            self._serve_metrics(config.monitor.metrics_endpoint)
        if config.monitor.endpoint is not None:
            await self._serve_agents(config.monitor.endpoint)
        stack.push_async_callback(self._end_tasks)
        self._spawn(self._seal_often)
        self._spawn(self._look_often)
        self._spawn(lambda: self.trust.run(self.pace))

    def apply(self, config: Config) -> None:
        """Have the configuration's roster, terms and trust checks in force. Raises StoreError where terms in force were
        changed."""
        self._write_down(config)
        self._take(config)

    async def reload(self, config: Config) -> list[str]:
        """The same while running, and the certificate read again. Returns the keys that only a restart changes. Raises
        StoreError and OSError; then the old configuration stays."""
        await asyncio.to_thread(self._write_down, config)
        if self._tls is not None:
            pair = key_pair(config)
            self._tls.load_cert_chain(pair.certificate, pair.key)
        fixed = needs_restart(self.config, config)
        self._take(config)
        return fixed

    def _write_down(self, config: Config) -> None:
        now = self.now_ms()
        with self.database.write() as connection:
            sla.record_terms(connection, config.sla_terms, Act("configuration", "", now * 10**6))
        if (roster := put_in_force(self.database, roster_of(config), now)) is not None:
            lines.roster_in_force(
                version=roster.version,
                checks=len(roster.checks),
                locations=roster.locations,
                from_minute=roster.from_minute,
            )

    def _take(self, config: Config) -> None:
        self.trust.watch(config.trust)
        self.config = config
        self.months = Months(self.database, self.samples, config.sla_terms)

    async def look(self) -> tuple[LiveMonth, ...]:
        """Judge the running months now; metrics show it from now on."""
        self.live = await asyncio.to_thread(look, self.months, self.now_ms())
        self.metrics.live = self.live
        return self.live

    async def _serve_agents(self, endpoint: TcpAddress) -> None:
        pair = key_pair(self.config)
        self.authority = pair.certificate
        self._tls = server_context(pair)
        state = CollectorState(self.database, self.samples, self.now_ms, lines, self.counts)
        server = WebServer(collector_app(state), self._tls)
        try:
            await server.start(endpoint.host, endpoint.port)
        except OSError as error:
            raise CliError(
                error.strerror or str(error), where=f"monitor.address {endpoint}", code=ExitCode.UNREACHABLE
            ) from error
        self._stack.push_async_callback(server.stop)
        self.port = server.port
        events.listening(name="collector", role="collector", address=f"{endpoint.host}:{server.port}", tls="implicit")

    def _serve_metrics(self, endpoint: TcpAddress) -> None:
        try:
            server, thread = start_http_server(endpoint.port, endpoint.host, registry=self.metrics.registry)
        except OSError as error:
            raise CliError(
                error.strerror or str(error), where=f"monitor.metrics_address {endpoint}", code=ExitCode.UNREACHABLE
            ) from error
        self._stack.callback(thread.join)
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)
        events.listening(name="metrics", role="metrics", address=f"{endpoint.host}:{server.server_port}")

    def _watch(self) -> None:
        counts = self.counts
        self.metrics.refused = lambda: {reason.value: count for reason, count in counts.refused.items()}
        self.metrics.trust_findings = self.trust.counts
        self.metrics.trust_checked = self.trust.checked_seconds
        self.metrics.watch(
            counters=(
                ("smartmail_collector_batches", "Batches taken.", lambda: counts.batches),
                ("smartmail_collector_samples", "Samples taken.", lambda: counts.samples),
                ("smartmail_collector_duplicates", "Samples that were here already.", lambda: counts.duplicates),
                (
                    "smartmail_collector_quarantined",
                    "Samples put aside: dated in the future, or too far back.",
                    lambda: counts.quarantined,
                ),
                ("smartmail_collector_conflicts", "Samples that contradict what is known.", lambda: counts.conflicts),
                ("smartmail_collector_enrolments", "Agents enrolled.", lambda: counts.enrolled),
                (
                    "smartmail_monitor_faults",
                    "Times that sealing, judging or the trust checks broke off by a fault of ours.",
                    lambda: self._faults,
                ),
            )
        )

    async def _seal_often(self) -> None:
        loop = asyncio.get_running_loop()
        prune_at = loop.time() + PRUNE_FIRST_SECONDS
        while True:
            await asyncio.sleep(self.config.monitor.seal_seconds)
            try:
                await asyncio.to_thread(self.samples.seal)
                if loop.time() >= prune_at:
                    prune_at = loop.time() + PRUNE_SECONDS
                    until = await asyncio.to_thread(self.months.prunable_until, self.now_ms())
                    await asyncio.to_thread(self.samples.prune, until)
            except StoreError as error:
                events.store_trouble(error=str(error))

    async def _look_often(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self.look()
            except StoreError as error:
                events.store_trouble(error=str(error))
            # Thousands of checks take seconds to judge: that must not become all the process does.
            await asyncio.sleep(max(LOOK_SECONDS / self.pace, LOOK_SHARE * (loop.time() - began)))

    def _spawn(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(self._keep_up(work)))

    async def _keep_up(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Minutes must be judged, samples sealed and domains looked at, whatever went wrong once."""
        while True:
            try:
                await work()
            except Exception as error:  # counted and in the log, then begun again
                self._faults += 1
                events.loop_fault(asyncio.get_running_loop(), {"exception": error})
            await asyncio.sleep(AGAIN_SECONDS / self.pace)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def key_pair(config: Config) -> KeyPair:
    """The collector's certificate and key: the configured ones, or the self-made. Raises OSError."""
    if config.monitor.certificate is not None and config.monitor.key is not None:
        return KeyPair(config.monitor.certificate, config.monitor.key)
    return self_made(config.server.data_dir, config.server.hostname)


def needs_restart(old: Config, new: Config) -> list[str]:
    """The keys that differ and that a running collector cannot change."""
    before, after = old.monitor, new.monitor
    found = [f"monitor.{key}" for key in ("address", "metrics_address") if getattr(before, key) != getattr(after, key)]
    found += [name for name in ("store", "log") if getattr(old, name) != getattr(new, name)]
    return found + (["server.data_dir"] if old.server.data_dir != new.server.data_dir else [])


def started(config_name: str, pid: int) -> None:
    """Say that the process is up."""
    events.started(version=__version__, pid=pid, config=config_name)
