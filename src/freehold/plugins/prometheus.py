"""What the heaps hold, for Prometheus: read when it asks, and at no other time.

>>> from freehold.plugins import prometheus
>>> prometheus.register()
>>> prometheus_client.start_http_server(8000)

Needs `pip install freehold[prometheus]`. Thread-safety: any thread, any time.
Does not: serve anything, or work in prometheus_client's multiprocess mode, which has no place for collectors.
Metrics are named as Prometheus asks: the unit last, and `_total` behind what only grows.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.core import REGISTRY, CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

import freehold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from freehold.heap_stats import HeapStats

__all__ = ["HeapCollector", "register"]

# What the label says of each figure's name.
STATES = {"current": "live"} | {name: name for name in ("active", "dirty", "muzzy", "retained", "metadata")}
COUNTS = {
    "freehold_allocations": ("total_count", "Blocks handed out so far."),
    "freehold_frees": ("freed_count", "Blocks given back so far."),
    "freehold_refused": ("refused_count", "How often something was over a heap's limit so far."),
}


class HeapCollector(Collector):
    """Tell of every heap. Heaps of one name are told of together.

    Metrics:
        freehold_bytes{heap,state}: live (what callers hold), active, dirty, muzzy, retained, metadata.
        freehold_limit_bytes{heap}: of heaps that have a limit.
        freehold_allocations_total{heap}, freehold_frees_total{heap}: blocks so far.
        freehold_refused_total{heap}: how often something was over the limit.
        freehold_purged_bytes_total: given back to the operating system, all heaps.
    """

    def describe(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield every family, empty: a registry learns the names without the heap being opened."""
        yield GaugeMetricFamily("freehold_bytes", "Memory of a heap by state, in bytes.", labels=("heap", "state"))
        yield GaugeMetricFamily("freehold_limit_bytes", "What a heap may hold, in bytes.", labels=("heap",))
        for metric, (_, text) in COUNTS.items():
            yield CounterMetricFamily(metric, text, labels=("heap",))
        yield CounterMetricFamily("freehold_purged_bytes", "Given back to the operating system so far, in bytes.")

    def collect(self) -> Iterator[Metric]:
        """Yield every family with its figures now."""
        now = freehold.stats()
        families = {family.name: family for family in self.describe()}
        for state, word in STATES.items():
            for name, value in _by_name(now.heaps, f"{state}_bytes").items():
                families["freehold_bytes"].add_metric((name, word), value)
        for name, value in _by_name(now.heaps, "limit_bytes").items():
            families["freehold_limit_bytes"].add_metric((name,), value)
        for metric, (attribute, _) in COUNTS.items():
            for name, value in _by_name(now.heaps, attribute).items():
                families[metric].add_metric((name,), value)
        families["freehold_purged_bytes"].add_metric((), now.purged_bytes)
        yield from families.values()


def _by_name(heaps: Iterable[HeapStats], attribute: str) -> Counter[str]:
    """Return the sums over heaps of one name; what is None is left out."""
    sums: Counter[str] = Counter()
    for heap in heaps:
        value = getattr(heap, attribute)
        if value is not None:
            sums[heap.name] += value
    return sums


def register(registry: CollectorRegistry = REGISTRY) -> HeapCollector:
    """Have *registry* tell of the heaps from now on; return what `registry.unregister` takes.

    Raises:
        ValueError: it does so already.
    """
    collector = HeapCollector()
    registry.register(collector)
    return collector
