"""What the server counts, for Prometheus; and how the metrics of several processes are added up.

No label has more values than the code names.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from operator import add
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from genstatus_server import __version__
from genstatus_server.telemetry import log

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

disable_created_metrics()  # type: ignore[no-untyped-call]  # They double the series and say nothing that a restart would not.

_HOLD_BUCKETS: Final = (0.01, 0.1, 1, 5, 10, 15, 20, 25, 30, 40, 55, 60, 120, 300)
_WAKE_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_PRESIGN_BUCKETS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.1, 0.5, 2.5)
_LAG_BUCKETS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

#: Every status that a handler can answer with; 499: the client was gone before the answer.
_STATUSES: Final = (200, 204, 400, 401, 403, 404, 405, 499, 500, 503)
#: How the values of several processes become one, where they are not added: the age of the oldest, a stream that is
#: live in every process.
_COMBINED: Final[Mapping[str, Callable[[float, float], float]]] = {
    "genstatus_oldest_hold_seconds": max,
    "genstatus_oldest_waited_job_seconds": max,
    "genstatus_change_stream_up": min,
    "genstatus_build_info": max,
}
#: The types that outlast their process: to Prometheus, a sum that goes down looks like a counter that was reset.
_LASTING: Final = frozenset({"counter", "histogram"})

#: Of each collection, how many documents were looked up in the cache and found, and how many were not.
HitsAndMisses = Callable[[], Iterable[tuple[str, int, int]]]
#: Metrics as plain data for JSON: of each family its name, type and help, and its samples with name, labels and value.
Collected = list[Any]


class Metrics:
    """The collectors of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.held_requests = gauge("genstatus_held_requests", "Requests held now.")
        self.oldest_hold = gauge(
            "genstatus_oldest_hold_seconds", "Age of the oldest hold in seconds; 0 without a hold."
        )
        self.oldest_job = gauge(
            "genstatus_oldest_waited_job_seconds",
            "Among the jobs that requests are held for: seconds since the oldest updated_at; 0 without any.",
        )
        self.requests = counter("genstatus_requests", "Requests answered, by HTTP status.", ["status"])
        #: The counter of one HTTP status. Kept, because to look a label up costs more than to count.
        self.requests_of: Callable[[int], Counter] = cache(lambda status: self.requests.labels(str(status)))
        for status in _STATUSES:
            self.requests_of(status)  # An alert sees the first of a burst only where a 0 was before it.
        self.malformed_requests = counter(
            "genstatus_malformed_requests", "Requests that are no valid HTTP, by what is wrong with them.", ["reason"]
        )
        self.hold_seconds = histogram(
            "genstatus_hold_seconds", "Length of holds in seconds, by wait result.", ["result"], buckets=_HOLD_BUCKETS
        )
        self.shed = counter("genstatus_shed", "Requests not held because too many were held already.")
        self.wake_seconds = histogram(
            "genstatus_wake_seconds", "Seconds from the wake of a hold to its answer.", buckets=_WAKE_BUCKETS
        )
        self.presign_seconds = histogram(
            "genstatus_presign_seconds",
            "Seconds to sign a URL; a URL that is used again is not signed.",
            buckets=_PRESIGN_BUCKETS,
        )
        self.change_stream_up = gauge("genstatus_change_stream_up", "1 while the change stream is live.")
        self.change_stream_reopens = counter(
            "genstatus_change_stream_reopens", "Times the change stream was opened again."
        )
        self.change_stream_lag = histogram(
            "genstatus_change_stream_lag_seconds",
            "Seconds from a change, by MongoDB's clock, to its event, by this machine's clock.",
            buckets=_LAG_BUCKETS,
        )
        self.mongodb_reads = counter(
            "genstatus_mongodb_reads", "Queries sent to MongoDB, by collection.", ["collection"]
        )
        gauge("genstatus_processes", "Server processes that run.").set(1)
        self.registry.register(DroppedLogRecords())
        build = Info("genstatus_build", "Version of the server and of Python.", registry=self.registry)
        build.info({"version": __version__, "python": platform.python_version()})

    def count_cache_lookups_with(self, count: HitsAndMisses) -> None:
        """Let `genstatus_cache_lookups_total` call `count` at each scrape. A Counter would slow down each lookup."""
        self.registry.register(_CacheLookups(count))


class DroppedLogRecords(Collector):
    """`genstatus_log_records_dropped_total`, of this process."""

    def collect(self) -> Iterator[Metric]:
        text = "Log records dropped because they could not be written."
        yield CounterMetricFamily("genstatus_log_records_dropped", text, value=log.dropped_records())


class _CacheLookups(Collector):
    def __init__(self, count: HitsAndMisses) -> None:
        self._count = count

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "genstatus_cache_lookups",
            "Documents looked up in the cache, by collection and by whether the cache could answer.",
            labels=["collection", "result"],
        )
        for collection, hits, misses in self._count():
            family.add_metric([collection, "hit"], hits)
            family.add_metric([collection, "miss"], misses)
        yield family


class _CollectedMetrics(Collector):
    def __init__(self, collected: Collected) -> None:
        self._collected = collected

    def collect(self) -> Iterator[Metric]:
        for name, kind, documentation, samples in self._collected:
            family = Metric(name, documentation, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            yield family


def collect(registry: CollectorRegistry) -> Collected:
    """The metrics of `registry` as they are now."""
    return [
        [family.name, family.type, family.documentation, [[s.name, s.labels, s.value] for s in family.samples]]
        for family in registry.collect()
    ]


def totals(collected: Collected) -> Collected:
    """What remains of the metrics of a process that has exited: its counters and histograms, but no gauge."""
    return [family for family in collected if family[1] in _LASTING]


def add_up(processes: Iterable[Collected]) -> Collected:
    """The metrics of all processes, as those of one."""
    families: dict[str, Any] = {}
    for name, kind, documentation, samples in (family for collected in processes for family in collected):
        values = families.setdefault(name, (kind, documentation, {}))[2]
        for sample, labels, value in samples:
            key = (sample, tuple(labels.items()))
            combine: Callable[[float, float], float] = _COMBINED.get(sample, add)
            values[key] = combine(values[key], value) if key in values else value
    return [
        [name, kind, documentation, [[sample, dict(labels), value] for (sample, labels), value in values.items()]]
        for name, (kind, documentation, values) in families.items()
    ]


def exposition(collected: Collected) -> str:
    """`collected` in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_CollectedMetrics(collected))
    return generate_latest(registry).decode()
