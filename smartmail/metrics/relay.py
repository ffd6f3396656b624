"""What the relay counts."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from smartmail.core.policy import Reason, Verdict
from smartmail.metrics.parts import Histogram, Read, Watching, counter, gauge, histograms

STAGES: Final = ("connect", "mail", "rcpt", "data", "content", "dot")
"""connect: until an upstream connection is at hand. mail, rcpt, data: each upstream reply. content: from 354 to the
dot. dot: from the dot to the upstream's reply."""

_SEEN_FIRST: Final = (
    (Verdict.ACCEPTED, Reason.OK),
    (Verdict.DEFERRED, Reason.LIMIT_REACHED),
    (Verdict.DEFERRED, Reason.UPSTREAM_DEFERRED),
    (Verdict.REJECTED, Reason.UPSTREAM_REFUSED),
    (Verdict.AMBIGUOUS, Reason.UPSTREAM_SILENT_AFTER_DOT),
)
"""Shown as 0 from the start, so that a rate over them has a beginning."""


class RelayMetrics(Watching):
    """What the relay counts. Only the loop's thread writes; the scrape reads copies."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.sessions_opened: Counter[str] = Counter()
        self.sessions_open: Counter[str] = Counter()
        self.sessions_refused: Counter[str] = Counter()
        self.transactions: Counter[tuple[str, str]] = Counter(dict.fromkeys(_SEEN_FIRST, 0))
        self.recipients: Counter[tuple[str, str]] = Counter(dict.fromkeys(_SEEN_FIRST, 0))
        self.logins: Counter[str] = Counter()
        self.offences: Counter[str] = Counter()
        self.limit_refusals: Counter[tuple[str, str]] = Counter()
        self.reloads: Counter[str] = Counter()
        self.content_bytes = 0
        self.internal_errors = 0
        self.directory_errors = 0
        self.reload_ok = 1
        self.stages: dict[str, Histogram] = defaultdict(Histogram, {stage: Histogram() for stage in STAGES})
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """All of it, for the registry."""
        yield counter(
            "smartmail_relay_sessions", "Client connections accepted, by listener.", ("listener",), self.sessions_opened
        )
        yield gauge("smartmail_relay_sessions_open", "Client connections open now.", ("listener",), self.sessions_open)
        yield counter(
            "smartmail_relay_sessions_refused",
            "Client connections turned away or cut by us, by reason.",
            ("reason",),
            self.sessions_refused,
        )
        yield counter(
            "smartmail_relay_transactions",
            "Mail transactions ended, by verdict and reason.",
            ("verdict", "reason"),
            self.transactions,
        )
        yield counter(
            "smartmail_relay_recipients",
            "Recipients answered, by verdict and reason.",
            ("verdict", "reason"),
            self.recipients,
        )
        yield counter("smartmail_relay_logins", "AUTH exchanges ended, by outcome.", ("outcome",), self.logins)
        yield counter(
            "smartmail_relay_protocol_errors",
            "Commands refused by the session itself, by reply code.",
            ("code",),
            self.offences,
        )
        yield counter(
            "smartmail_limit_refusals",
            "Recipients that a limit refused (mode enforce) or would have refused (mode shadow).",
            ("limit", "mode"),
            self.limit_refusals,
        )
        yield counter("smartmail_config_reloads", "Configuration reloads, by outcome.", ("outcome",), self.reloads)
        yield from self._plain()
        yield histograms(
            "smartmail_relay_stage_seconds", "Time a transaction spent in each stage.", ("stage",), self.stages
        )

    def _plain(self) -> Iterator[Metric]:
        counters: tuple[Read, ...] = (
            ("smartmail_relay_content_bytes", "Message octets that the upstream took.", lambda: self.content_bytes),
            (
                "smartmail_relay_internal_errors",
                "Faults of our own, each answered 451 4.3.0 and logged with a reference.",
                lambda: self.internal_errors,
            ),
            (
                "smartmail_directory_errors",
                "Times the account directory could not be read; the old one stays in force.",
                lambda: self.directory_errors,
            ),
        )
        gauges: tuple[Read, ...] = (
            (
                "smartmail_config_last_reload_successful",
                "1 while the configuration in force is the newest one read; 0 after a refused reload.",
                lambda: self.reload_ok,
            ),
        )
        yield from self.watched(counters, gauges)
