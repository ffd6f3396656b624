"""What the monitor knows, and what an agent does."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from smartmail.core.live import LiveMonth
from smartmail.core.minutes import Verdict as Minute
from smartmail.core.roster import CheckSpec
from smartmail.metrics.parts import Histogram, Watching, counter, gauge, histograms

ROUND_TRIP_STAGES: Final = ("submitted", "relayed", "delivered", "seen")
"""submitted: until the first server stamped it. relayed: from server to server. delivered: to its place in the
mailbox. seen: until our look found it."""


class MonitorMetrics(Watching):
    """What the monitor knows. `live` is put in whole, once a minute; its figures are the ledger's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.live: tuple[LiveMonth, ...] = ()
        self.refused: Callable[[], Mapping[str, int]] = dict
        """Of the collector, by reason."""
        self.trust_findings: Callable[[], Mapping[tuple[str, str, str], int]] = dict
        """By domain, check and severity."""
        self.trust_checked: Callable[[], Mapping[str, int]] = dict
        """By domain, POSIX seconds."""
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """All of it, for the registry."""
        yield counter(
            "smartmail_collector_refused", "Requests that the collector refused.", ("reason",), Counter(self.refused())
        )
        yield from self._months()
        yield from self._rates()
        yield from self._places()
        yield gauge(
            "smartmail_trust_findings",
            "What the last look at a domain found, by check and severity. Advisory.",
            ("domain", "check", "severity"),
            Counter(self.trust_findings()),
        )
        yield gauge(
            "smartmail_trust_checked_timestamp_seconds",
            "When a look at a domain last came to its end.",
            ("domain",),
            Counter(self.trust_checked()),
        )
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


class AgentMetrics(Watching):
    """What an agent knows of its own work. Checks are known by their names in the configuration, and by nothing else
    of theirs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.outcomes: Callable[[], Mapping[tuple[str, str], int]] = dict
        """By kind of check and outcome."""
        self.offset_ms: Callable[[], int | None] = lambda: None
        """Of the wall clock; None before the first answer of a collector."""
        self.checks: Callable[[], Collection[str]] = tuple
        """Names of the checks that are made now: of others nothing is told."""
        self.late: Counter[str] = Counter()
        """Round trips whose message came after its deadline, by check."""
        self._phases: dict[tuple[str, str], Histogram] = defaultdict(Histogram)
        self._stages: dict[tuple[str, str], Histogram] = defaultdict(Histogram)
        self._expiries: dict[str, int] = {}
        registry.register(self)

    def saw(self, check: CheckSpec, phases: Mapping[str, int], facts: Mapping[str, str | int]) -> None:
        """Count what a probe saw. phases: ms by name, those of a message's way among them."""
        for phase, milliseconds in phases.items():
            if phase in ROUND_TRIP_STAGES:
                self._stages[check.name, phase].observe(1000 * milliseconds)
            else:
                self._phases[check.kind.value, phase].observe(1000 * milliseconds)
        if isinstance(until := facts.get("certificate_expires"), int):
            self._expiries[check.name] = until

    def collect(self) -> Iterator[Metric]:
        """All of it, for the registry."""
        known = self.checks()
        yield counter(
            "smartmail_agent_probes",
            "Probes ended, by kind of check and outcome.",
            ("kind", "outcome"),
            Counter(self.outcomes()),
        )
        yield histograms(
            "smartmail_agent_probe_phase_seconds",
            "Time that a probe spent in each phase.",
            ("kind", "phase"),
            self._phases,
        )
        yield histograms(
            "smartmail_agent_round_trip_stage_seconds",
            "Time that a round trip's message spent in each stage of its way.",
            ("check", "stage"),
            {key: one for key, one in tuple(self._stages.items()) if key[0] in known},
        )
        yield counter(
            "smartmail_agent_round_trips_late",
            "Round trips whose message came after its deadline.",
            ("check",),
            Counter({name: count for name, count in tuple(self.late.items()) if name in known}),
        )
        yield gauge(
            "smartmail_agent_certificate_expiry_timestamp_seconds",
            "When the certificate that a check was served last ends.",
            ("check",),
            Counter({name: until for name, until in tuple(self._expiries.items()) if name in known}),
        )
        offset = GaugeMetricFamily(
            "smartmail_agent_clock_offset_seconds", "How far the wall clock is behind the collector's."
        )
        if (offset_ms := self.offset_ms()) is not None:
            offset.add_metric((), offset_ms / 1000)
        yield offset
        yield from self.watched()


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
