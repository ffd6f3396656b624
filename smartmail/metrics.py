"""Every Prometheus metric, declared once, with help and unit. No address, id or path is ever a label.

Labels come from closed lists (verdict, reason, stage) or from the configuration (listener, limit).
"""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from smartmail import __version__
from smartmail.core.policy import Reason, Verdict

STAGES: Final = ("connect", "mail", "rcpt", "data", "content", "dot")
"""connect: until an upstream connection is at hand. mail, rcpt, data: each upstream reply. content: from 354 to the
dot. dot: from the dot to the upstream's reply."""

_BUCKETS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
)


class RelayMetrics:
    """What the relay counts. Children are looked up once, so that the hot path only adds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        Info("smartmail_build", "Version of Smart Mail.", registry=registry).info({"version": __version__})
        self.sessions_opened = Counter(
            "smartmail_relay_sessions",
            "Client connections accepted, by listener.",
            ["listener"],
            registry=registry,
        )
        self.sessions_open = Gauge(
            "smartmail_relay_sessions_open", "Client connections open now.", ["listener"], registry=registry
        )
        self.sessions_refused = Counter(
            "smartmail_relay_sessions_refused",
            "Client connections turned away or cut by us, by reason.",
            ["reason"],
            registry=registry,
        )
        self._transactions = Counter(
            "smartmail_relay_transactions",
            "Mail transactions ended, by verdict and reason.",
            ["verdict", "reason"],
            registry=registry,
        )
        self._recipients = Counter(
            "smartmail_relay_recipients",
            "Recipients answered, by verdict and reason.",
            ["verdict", "reason"],
            registry=registry,
        )
        self.logins = Counter(
            "smartmail_relay_logins",
            "AUTH exchanges ended, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.offences = Counter(
            "smartmail_relay_protocol_errors",
            "Commands refused by the session itself, by reply code.",
            ["code"],
            registry=registry,
        )
        self.content_bytes = Counter(
            "smartmail_relay_content_bytes", "Message octets passed to the upstream.", registry=registry
        )
        stages = Histogram(
            "smartmail_relay_stage_seconds",
            "Time a transaction spent in each stage.",
            ["stage"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.stage = {stage: stages.labels(stage) for stage in STAGES}
        self.limit_refusals = Counter(
            "smartmail_limit_refusals",
            "Recipients that a limit refused (mode enforce) or would have refused (mode shadow).",
            ["limit", "mode"],
            registry=registry,
        )
        self.reloads = Counter(
            "smartmail_config_reloads", "Configuration reloads, by outcome.", ["outcome"], registry=registry
        )
        self.reload_ok = Gauge(
            "smartmail_config_last_reload_successful",
            "1 while the configuration in force is the newest one read; 0 after a refused reload.",
            registry=registry,
        )
        self.internal_errors = Counter(
            "smartmail_relay_internal_errors",
            "Faults of our own, each answered 451 4.3.0 and logged with a reference.",
            registry=registry,
        )
        self.directory_errors = Counter(
            "smartmail_directory_errors",
            "Times the account directory could not be read; the old one stays in force.",
            registry=registry,
        )
        self._transaction = {
            (verdict, reason): self._transactions.labels(verdict.value, reason.value)
            for verdict, reason in _SEEN_FIRST
        }
        self._recipient = {
            (verdict, reason): self._recipients.labels(verdict.value, reason.value)
            for verdict, reason in _SEEN_FIRST
        }

    def transaction(self, verdict: Verdict, reason: Reason) -> None:
        """Count a transaction that has ended."""
        child = self._transaction.get((verdict, reason))
        if child is None:
            child = self._transaction[verdict, reason] = self._transactions.labels(
                verdict.value, reason.value
            )
        child.inc()

    def recipient(self, verdict: Verdict, reason: Reason) -> None:
        """Count a recipient that has been answered."""
        child = self._recipient.get((verdict, reason))
        if child is None:
            child = self._recipient[verdict, reason] = self._recipients.labels(verdict.value, reason.value)
        child.inc()

    def watch(self, gauges: Iterable[tuple[str, str, Callable[[], float]]]) -> None:
        """Add gauges (name, help, function) that are read when Prometheus asks."""
        for name, text, function in gauges:
            Gauge(name, text, registry=self.registry).set_function(function)

    def watch_counters(self, counters: Iterable[tuple[str, str, Callable[[], float]]]) -> None:
        """Add counters (name without _total, help, function) that somebody else counts."""
        for name, text, function in counters:
            self.registry.register(_Read(name, text, function))


class _Read:
    """A counter whose value is read when Prometheus asks."""

    def __init__(self, name: str, text: str, function: Callable[[], float]) -> None:
        self._parts = (name, text, function)

    def collect(self) -> Iterable[CounterMetricFamily]:
        name, text, function = self._parts
        yield CounterMetricFamily(name, text, value=function())


_SEEN_FIRST: Final = (
    (Verdict.ACCEPTED, Reason.OK),
    (Verdict.DEFERRED, Reason.LIMIT_REACHED),
    (Verdict.DEFERRED, Reason.UPSTREAM_DEFERRED),
    (Verdict.REJECTED, Reason.UPSTREAM_REFUSED),
    (Verdict.AMBIGUOUS, Reason.UPSTREAM_SILENT_AFTER_DOT),
)
"""Shown as 0 from the start, so that a rate over them has a beginning."""
