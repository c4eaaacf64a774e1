"""What the server counts, for Prometheus. No label has more values than the code names."""

import platform
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    disable_created_metrics,
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

#: Every status that an answer can have; 499: the client was gone before it.
_STATUSES: Final = (200, 204, 400, 401, 403, 404, 405, 499, 500, 503)

#: Of each collection, how many documents were looked up in the cache and found, and how many were not.
HitsAndMisses = Callable[[], Iterable[tuple[str, int, int]]]


class Metrics:
    """The collectors of one server, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.held_requests = Gauge("genstatus_held_requests", "Requests held now.", registry=registry)
        self.oldest_hold = Gauge(
            "genstatus_oldest_hold_seconds", "Age of the oldest hold; 0 without one.", registry=registry
        )
        self.oldest_job = Gauge(
            "genstatus_oldest_waited_job_seconds",
            "Seconds since anything happened to a job that somebody is held for, of the longest such; 0 without one.",
            registry=registry,
        )
        self.requests = Counter(
            "genstatus_requests", "Requests answered, by HTTP status.", ["status"], registry=registry
        )
        #: The counter of one HTTP status. Kept, because to look a label up costs more than to count.
        self.requests_of: Callable[[int], Counter] = cache(lambda status: self.requests.labels(str(status)))
        for status in _STATUSES:
            self.requests_of(status)  # An alert sees the first of a burst only where a 0 was before it.
        self.malformed_requests = Counter(
            "genstatus_malformed_requests",
            "Requests that are no valid HTTP, by what is wrong with them.",
            ["reason"],
            registry=registry,
        )
        self.hold_seconds = Histogram(
            "genstatus_hold_seconds",
            "Seconds that a request was held, by why the hold ended.",
            ["result"],
            buckets=_HOLD_BUCKETS,
            registry=registry,
        )
        self.shed = Counter("genstatus_shed", "Requests not held, because too many are.", registry=registry)
        self.wake_seconds = Histogram(
            "genstatus_wake_seconds",
            "Seconds from a change seen to the answer written.",
            buckets=_WAKE_BUCKETS,
            registry=registry,
        )
        self.presign_seconds = Histogram(
            "genstatus_presign_seconds",
            "Seconds that a signature took; a URL that is used again takes none.",
            buckets=_PRESIGN_BUCKETS,
            registry=registry,
        )
        self.change_stream_up = Gauge(
            "genstatus_change_stream_up", "1 while the change stream is live.", registry=registry
        )
        self.change_stream_reopens = Counter(
            "genstatus_change_stream_reopens", "Times the change stream was opened again.", registry=registry
        )
        self.change_stream_lag = Histogram(
            "genstatus_change_stream_lag_seconds",
            "Seconds from a change, by MongoDB's clock, to its being seen, by this machine's.",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        self.mongodb_reads = Counter(
            "genstatus_mongodb_reads", "Queries sent to MongoDB, by collection.", ["collection"], registry=registry
        )
        Gauge("genstatus_processes", "Server processes that run.", registry=registry).set(1)
        registry.register(DroppedLogRecords())
        build = Info("genstatus_build", "What is running.", registry=registry)
        build.info({"version": __version__, "python": platform.python_version()})

    def count_cache_lookups_with(self, count: HitsAndMisses) -> None:
        """Have `genstatus_cache_lookups_total` ask `count`: plain numbers are all that the hot path can afford."""
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
