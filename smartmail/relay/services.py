"""What every session of a relay shares: settings in force, directory, counters, pool, rows, metrics, clock."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from smartmail.core.known import KnownRecipients
from smartmail.core.limits import Counters, Limit
from smartmail.core.policy import Destination
from smartmail.metrics import RelayMetrics
from smartmail.relay.auth import Backend
from smartmail.relay.connection import Tick
from smartmail.relay.outbox import Outbox
from smartmail.relay.upstream import Pool
from smartmail.store.directory import Directory
from smartmail.store.events import EventRow

RESERVATION_TTL_NS = 3600 * 10**9
"""A reservation still open after this long is counted as spent: longer than any transaction may take."""


class Clock:
    """Wall time that never steps: read once at the start, then carried on by the monotonic clock."""

    __slots__ = ("_offset",)

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return time.monotonic_ns() + self._offset


@dataclass(frozen=True, slots=True)
class Rules:
    """The part of the configuration that a reload swaps as a whole; a session keeps what it began with until RSET."""

    limits: tuple[Limit, ...] = ()
    max_recipients: int = 1000
    must_own_sender: bool = True
    allow_null_sender: bool = True
    command_seconds: int = 300
    block_seconds: int = 180
    min_data_rate: int = 100


@dataclass(slots=True)
class Services:
    """The shared parts. `directory` and `rules` are replaced, never changed."""

    rules: Rules
    directory: Directory
    counters: Counters
    known: KnownRecipients
    pool: Pool
    backend: Backend
    metrics: RelayMetrics
    put_row: Callable[[EventRow], None]
    secret: bytes = b""
    """Keys the hashes of recipients: who reads the counters cannot try addresses on them."""
    clock: Clock = field(default_factory=Clock)
    tick: Tick = field(default_factory=lambda: Tick(asyncio.get_running_loop().time()))
    outbox: Outbox = field(default_factory=lambda: Outbox(asyncio.get_running_loop()))
    """To clients; the pool has one of its own."""

    def destination(self, address: str, domain: str) -> Destination:
        """What the directory knows of a recipient (normal form)."""
        account = self.directory.by_address(address)
        # "postmaster" without a domain is ours, whoever we are (RFC 5321 section 4.5.1).
        local = account is not None or "@" not in address or self.directory.is_local_domain(domain)
        return Destination(account, local)
