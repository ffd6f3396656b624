"""The monitor's own process: collector, sealing, live figures, trust checks, metrics. This file is its wiring list."""

import asyncio
import contextlib
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
PRUNE_EVERY: Final = 288
"""Sealings between two looks whether samples may go: once a day."""


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
        self._spawn(self._seal_often())
        self._spawn(self._look_often())
        self._spawn(self.trust.run(self.pace))

    def apply(self, config: Config) -> None:
        """Have the configuration's roster, terms and trust checks in force. Raises StoreError where terms in force were
        changed."""
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
        self.trust.watch(config.trust)
        self.config = config
        self.months = Months(self.database, self.samples, config.sla_terms)

    async def look(self) -> tuple[LiveMonth, ...]:
        """Judge the running months now; metrics show it from now on."""
        self.live = await asyncio.to_thread(look, self.months, self.now_ms())
        self.metrics.live = self.live
        return self.live

    async def _serve_agents(self, endpoint: TcpAddress) -> None:
        config = self.config
        if config.monitor.certificate is not None and config.monitor.key is not None:
            pair = KeyPair(config.monitor.certificate, config.monitor.key)
        else:
            pair = self_made(config.server.data_dir, config.server.hostname)
        self.authority = pair.certificate
        state = CollectorState(self.database, self.samples, self.now_ms, lines, self.counts)
        server = WebServer(collector_app(state), server_context(pair))
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
                ("smartmail_collector_quarantined", "Samples dated in the future.", lambda: counts.quarantined),
                ("smartmail_collector_conflicts", "Samples that contradict what is known.", lambda: counts.conflicts),
                ("smartmail_collector_enrolments", "Agents enrolled.", lambda: counts.enrolled),
            )
        )

    async def _seal_often(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(self.config.monitor.seal_seconds)
            rounds += 1
            try:
                await asyncio.to_thread(self.samples.seal)
                if rounds % PRUNE_EVERY == 0:
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

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def started(config_name: str, pid: int) -> None:
    """Say that the process is up."""
    events.started(version=__version__, pid=pid, config=config_name)
