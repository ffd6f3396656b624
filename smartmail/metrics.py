"""Every Prometheus metric, declared once, with help and unit. No address, id or path is ever a label.

Labels come from closed lists (verdict, reason, stage) or from the configuration (listener, limit). The loop counts in
plain integers, because it counts some twenty times for each mail; they become Prometheus's when somebody asks.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector

from smartmail import __version__
from smartmail.core.live import LiveMonth
from smartmail.core.minutes import Verdict as Minute
from smartmail.core.policy import Reason, Verdict

STAGES: Final = ("connect", "mail", "rcpt", "data", "content", "dot")
"""connect: until an upstream connection is at hand. mail, rcpt, data: each upstream reply. content: from 354 to the
dot. dot: from the dot to the upstream's reply."""

BUCKETS_US: Final = (
    *(250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000, 300_000_000),
)
"""Upper bounds of the stage histogram, in microseconds."""

_SEEN_FIRST: Final = (
    (Verdict.ACCEPTED, Reason.OK),
    (Verdict.DEFERRED, Reason.LIMIT_REACHED),
    (Verdict.DEFERRED, Reason.UPSTREAM_DEFERRED),
    (Verdict.REJECTED, Reason.UPSTREAM_REFUSED),
    (Verdict.AMBIGUOUS, Reason.UPSTREAM_SILENT_AFTER_DOT),
)
"""Shown as 0 from the start, so that a rate over them has a beginning."""


class Histogram:
    """Counts of durations by bucket. Not cumulative here; Prometheus's are."""

    __slots__ = ("buckets", "total_us")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS_US) + 1)
        self.total_us = 0

    def observe(self, microseconds: int) -> None:
        """Count one duration."""
        self.buckets[bisect_left(BUCKETS_US, microseconds)] += 1
        self.total_us += microseconds

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound in seconds, how many at most that long), ends with +Inf."""
        bounds = [*(str(bound / 1e6) for bound in BUCKETS_US), "+Inf"]
        found, below = [], 0
        for bound, count in zip(bounds, tuple(self.buckets), strict=True):
            below += count
            found.append((bound, float(below)))
        return found


Read = tuple[str, str, Callable[[], float]]
"""Name, help and function of a metric that somebody else keeps."""


class Watching:
    """What every process of ours tells: its build, its Python, and what others keep and are asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._gauges: list[Read] = []
        self._counters: list[Read] = []
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        Info("smartmail_build", "Version of Smart Mail.", registry=registry).info({"version": __version__})

    def watch(self, *, gauges: Iterable[Read] = (), counters: Iterable[Read] = ()) -> None:
        """Add metrics that are read when Prometheus asks. Counters are named without their _total."""
        self._gauges += gauges
        self._counters += counters

    def watched(self, counters: Iterable[Read] = (), gauges: Iterable[Read] = ()) -> Iterator[Metric]:
        """Those, and the ones given."""
        for name, text, function in (*counters, *self._counters):
            yield CounterMetricFamily(name, text, value=function())
        for name, text, function in (*gauges, *self._gauges):
            yield GaugeMetricFamily(name, text, value=function())


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
        yield _counter(
            "smartmail_relay_sessions", "Client connections accepted, by listener.", ("listener",), self.sessions_opened
        )
        yield _gauge("smartmail_relay_sessions_open", "Client connections open now.", "listener", self.sessions_open)
        yield _counter(
            "smartmail_relay_sessions_refused",
            "Client connections turned away or cut by us, by reason.",
            ("reason",),
            self.sessions_refused,
        )
        yield _counter(
            "smartmail_relay_transactions",
            "Mail transactions ended, by verdict and reason.",
            ("verdict", "reason"),
            self.transactions,
        )
        yield _counter(
            "smartmail_relay_recipients",
            "Recipients answered, by verdict and reason.",
            ("verdict", "reason"),
            self.recipients,
        )
        yield _counter("smartmail_relay_logins", "AUTH exchanges ended, by outcome.", ("outcome",), self.logins)
        yield _counter(
            "smartmail_relay_protocol_errors",
            "Commands refused by the session itself, by reply code.",
            ("code",),
            self.offences,
        )
        yield _counter(
            "smartmail_limit_refusals",
            "Recipients that a limit refused (mode enforce) or would have refused (mode shadow).",
            ("limit", "mode"),
            self.limit_refusals,
        )
        yield _counter("smartmail_config_reloads", "Configuration reloads, by outcome.", ("outcome",), self.reloads)
        yield from self._plain()
        stages = HistogramMetricFamily(
            "smartmail_relay_stage_seconds", "Time a transaction spent in each stage.", labels=("stage",)
        )
        for stage, histogram in tuple(self.stages.items()):
            stages.add_metric((stage,), histogram.cumulative(), histogram.total_us / 1e6)
        yield stages

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


class MonitorMetrics(Watching):
    """What the monitor knows. `live` is put in whole, once a minute; its figures are the ledger's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.live: tuple[LiveMonth, ...] = ()
        self.refused: Callable[[], Mapping[str, int]] = dict
        """Of the collector, by reason."""
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """All of it, for the registry."""
        yield _counter(
            "smartmail_collector_refused", "Requests that the collector refused.", ("reason",), Counter(self.refused())
        )
        yield from self._months()
        yield from self._rates()
        yield from self._places()
        yield from self.watched()

    def _months(self) -> Iterator[Metric]:
        minutes = GaugeMetricFamily(
            "smartmail_sla_minutes",
            "Minutes of the running month so far, by what they were.",
            labels=("service", "state"),
        )
        now = GaugeMetricFamily(
            "smartmail_service_state", "1 for what the last judged minute was, else 0.", labels=("service", "state")
        )
        for one in self.live:
            judged = one.record.assessment
            for state, count in (
                (Minute.UP, judged.up_minutes),
                (Minute.DOWN, judged.down_minutes),
                (Minute.UNKNOWN, judged.unknown_minutes),
                (Minute.MAINTENANCE, judged.maintenance_minutes),
            ):
                minutes.add_metric((one.record.service, state.value), count)
                now.add_metric((one.record.service, state.value), float(one.verdict is state))
        yield minutes
        yield now
        for name, text, read in _BUDGET:
            family = GaugeMetricFamily(name, text, labels=("service",))
            for one in self.live:
                value = read(one)
                if value is not None:
                    family.add_metric((one.record.service,), value)
            yield family

    def _rates(self) -> Iterator[Metric]:
        rates = GaugeMetricFamily(
            "smartmail_sla_burn_rate",
            "Down minutes of the window against an even use of the month's budget, which is 1.",
            labels=("service", "window"),
        )
        alerts = GaugeMetricFamily(
            "smartmail_sla_alert",
            "1 while both windows of a pair burn too fast, by the longer one.",
            labels=("service", "window", "urgency"),
        )
        for one in self.live:
            service = one.record.service
            for burn in one.burns:
                rates.add_metric((service, _span(burn.window)), burn.rate / 1000)
            for alert in one.alerts:
                labels = (service, _span(alert.pair.long), alert.pair.urgency.value)
                alerts.add_metric(labels, float(alert.firing))
        yield rates
        yield alerts

    def _places(self) -> Iterator[Metric]:
        checks = GaugeMetricFamily(
            "smartmail_check_minutes",
            "Minutes of the running month so far, of a check.",
            labels=("service", "check", "state"),
        )
        places = GaugeMetricFamily(
            "smartmail_location_minutes",
            "Minutes of the running month so far, as one location saw a check.",
            labels=("service", "check", "location", "state"),
        )
        alone = GaugeMetricFamily(
            "smartmail_location_failing_alone",
            "1 while a location sees a check fail that the others see up.",
            labels=("service", "check", "location"),
        )
        for one in self.live:
            service = one.record.service
            for check in one.record.findings.checks:
                for state, count in (("up", check.up), ("down", check.down), ("unknown", check.unknown)):
                    checks.add_metric((service, check.check, state), count)
            failing = {(advisory.check, advisory.location) for advisory in one.advisories}
            for seen in one.record.findings.locations:
                for state, count in (
                    ("up", seen.up),
                    ("down", seen.down),
                    ("silent", seen.silent),
                    ("silenced", seen.silenced),
                ):
                    places.add_metric((service, seen.check, seen.location, state), count)
                here = (service, seen.check, seen.location)
                alone.add_metric(here, float((seen.check, seen.location) in failing))
        yield checks
        yield places
        yield alone


_BUDGET: Final[tuple[tuple[str, str, Callable[[LiveMonth], float | None]], ...]] = (
    (
        "smartmail_sla_eligible_minutes",
        "Minutes of the whole running month that the promise is measured on.",
        lambda one: one.budget.eligible,
    ),
    ("smartmail_sla_allowed_minutes", "Down minutes that the running month may have.", lambda one: one.budget.allowed),
    (
        "smartmail_sla_left_minutes",
        "Down minutes that are left of it; below 0 the month is breached.",
        lambda one: one.budget.left,
    ),
    (
        "smartmail_sla_breach_in_minutes",
        "Minutes to the breach at the last hour's rate; absent while none is in sight.",
        lambda one: one.breach_in,
    ),
    (
        "smartmail_incident_start_timestamp_seconds",
        "First failing minute of the open incident; absent without one.",
        lambda one: None if one.incident is None else one.incident.start * 60,
    ),
    ("smartmail_sla_judged_until_timestamp_seconds", "Up to here minutes are judged.", lambda one: one.until * 60),
)


def _span(minutes: int) -> str:
    for length, unit in ((1440, "d"), (60, "h")):
        if minutes % length == 0:
            return f"{minutes // length}{unit}"
    return f"{minutes}m"


def _counter(
    name: str, text: str, labels: tuple[str, ...], counts: Counter[str] | Counter[tuple[str, str]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in tuple(counts.items()):
        family.add_metric((values,) if isinstance(values, str) else values, count)
    return family


def _gauge(name: str, text: str, label: str, counts: Counter[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for value, count in tuple(counts.items()):
        family.add_metric((value,), count)
    return family
