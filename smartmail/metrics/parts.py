"""What metrics are made of: counters in plain integers, which become Prometheus's when somebody asks."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector

from smartmail import __version__

BUCKETS_US: Final = (
    *(250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000, 300_000_000),
)
"""Upper bounds of the stage histogram, in microseconds."""


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


def counter(
    name: str, text: str, labels: tuple[str, ...], counts: Counter[str] | Counter[tuple[str, str]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in tuple(counts.items()):
        family.add_metric((values,) if isinstance(values, str) else values, count)
    return family


def gauge(
    name: str, text: str, labels: tuple[str, ...], counts: Counter[str] | Counter[tuple[str, str, str]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, count in tuple(counts.items()):
        family.add_metric((values,) if isinstance(values, str) else values, count)
    return family


def histograms(
    name: str,
    text: str,
    labels: tuple[str, ...],
    found: Mapping[str, Histogram] | Mapping[tuple[str, str], Histogram],
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in tuple(found.items()):
        labelled = (values,) if isinstance(values, str) else values
        family.add_metric(labelled, histogram.cumulative(), histogram.total_us / 1e6)
    return family
