"""`smartmail backup loop`: the built-in loop, for where no systemd timer ticks. Metrics over HTTP."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from smartmail import __version__, events
from smartmail.backup.night import Done, Night
from smartmail.backup.telling import Teller
from smartmail.cli.backing import Backing, run, working
from smartmail.cli.backup_look import read
from smartmail.cli.common import CliError, ExitCode, load_config
from smartmail.config.values import TcpAddress
from smartmail.store import backups

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from smartmail.metrics import BackupMetrics

TICK_S = 60
LOOK_TICKS = 15
"""Repositories are read for the metrics after each night, and every so many ticks."""


def loop(ctx: typer.Context) -> None:
    """Do what is due, again and again, and tell Prometheus. A signal ends it, and what is under way, in order."""
    config = load_config(ctx)
    sink = events.configure(style=config.log.format, level=config.log.level)
    try:
        run(_serve(ctx))
    finally:
        sink.close()


async def _serve(ctx: typer.Context) -> None:
    from prometheus_client import CollectorRegistry

    from smartmail.metrics import BackupMetrics

    running, stop = asyncio.get_running_loop(), asyncio.Event()
    running.set_exception_handler(events.loop_fault)
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, stop.set)
    began = running.time()
    async with working(ctx) as work:
        metrics = BackupMetrics(registry := CollectorRegistry())
        with _metrics_server(work.config.backup.metrics_endpoint, registry):
            events.started(version=__version__, pid=os.getpid(), config="backup loop")
            ticking = asyncio.create_task(_tick(work, metrics))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait((ticking, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking
    events.stopped(seconds=int(running.time() - began))


async def _tick(work: Backing, metrics: "BackupMetrics") -> None:
    ticks = 0
    while True:
        teller = Teller()
        done = await once(work, teller)
        teller.over(one.end for one in done)
        if done or ticks % LOOK_TICKS == 0:
            await show(work, metrics)
        ticks += 1
        await asyncio.sleep(TICK_S)


async def once(work: Backing, teller: Teller) -> list[Done]:
    """Whatever is due now."""
    from smartmail.backup.upkeep import Upkeep

    night = Night(work.plan, work.vaults, work.catalogue, work.leases, teller)
    return await night.run() + await Upkeep(night).run()


async def show(work: Backing, metrics: "BackupMetrics") -> None:
    """Let the metrics say what `backup status` says."""
    found = await read(work)

    def counted() -> dict[tuple[str, str, str], int]:
        with work.database.read() as connection:
            return backups.counts(connection)

    metrics.show(found, await asyncio.to_thread(counted))


@contextlib.contextmanager
def _metrics_server(endpoint: TcpAddress | None, registry: "CollectorRegistry") -> Iterator[None]:
    if endpoint is None:
        yield
        return
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(endpoint.port, endpoint.host, registry=registry)
    except OSError as error:
        where = f"backup.metrics_address {endpoint}"
        raise CliError(error.strerror or str(error), where=where, code=ExitCode.UNREACHABLE) from error
    events.listening(name="metrics", role="metrics", address=f"{endpoint.host}:{server.server_port}")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
