"""The gauges that are computed whenever they are read, and the metrics of all processes of one server."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from genstatus_server.hold.registry import HoldRegistry
from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.mongo.cache import DocumentCache
from genstatus_server.mongo.queries import Key
from genstatus_server.server.channel import ANSWER_SECONDS, Channel
from genstatus_server.telemetry import snapshots
from genstatus_server.telemetry.metrics import Metrics

#: Seconds for the parent to ask every process, of which one may hang.
_ALL_METRICS_SECONDS: Final = 2 * ANSWER_SECONDS


def set_gauges(metrics: Metrics, holds: HoldRegistry[Key], cache: DocumentCache) -> None:
    """Have the gauges about holds and the counters of the cache ask `holds` and `cache`."""
    metrics.held_requests.set_function(lambda: len(holds))
    metrics.oldest_hold.set_function(lambda: _oldest_hold(holds))
    metrics.oldest_job.set_function(lambda: _oldest_waited_job(holds, cache))
    metrics.count_cache_lookups_with(cache.hits_and_misses)


def _oldest_hold(holds: HoldRegistry[Key]) -> float:
    oldest = holds.oldest()
    return asyncio.get_running_loop().time() - oldest.held_since if oldest else 0


def _oldest_waited_job(holds: HoldRegistry[Key], cache: DocumentCache) -> float:
    """By `updated_at`, which a worker that is alive writes; a job without one is not counted.

    The clock is this machine's and `updated_at` a worker's: exact enough for a job that is stuck for an hour.
    """
    times = [job.updated_at for job in cache.jobs(holds.keys()) if job.updated_at and not job.is_settled]
    return max(0, (datetime.now(UTC) - min(times)).total_seconds()) if times else 0


def metrics_collector(metrics: Metrics, parent: Channel | None) -> Callable[[], Awaitable[str]]:
    """What returns the metrics of all processes of this server, in Prometheus' text format.

    `parent` can ask this process for its own. What is returned raises `ServiceUnavailable` where the metrics of all
    cannot be had: to Prometheus, those of one process alone would look like a server that began anew.
    """

    async def own() -> str:
        return json.dumps(snapshots.take(metrics.registry))

    async def collect() -> str:
        if parent is None:
            return snapshots.exposition(snapshots.take(metrics.registry))
        try:
            return await parent.ask(_ALL_METRICS_SECONDS)
        except (ConnectionError, TimeoutError) as cause:
            raise ServiceUnavailable from cause

    if parent is not None:
        parent.answer = own
    return collect
