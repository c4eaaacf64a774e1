"""The gauges that are computed whenever they are read, and the metrics of all processes of one server."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from genstatus_server.hold.registry import JobWaiters
from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.mongo.store import Store
from genstatus_server.server.channel import ANSWER_SECONDS, Channel
from genstatus_server.telemetry import snapshots
from genstatus_server.telemetry.metrics import Metrics

#: Seconds for the parent to ask every process, of which one may hang.
_ALL_METRICS_SECONDS: Final = 2 * ANSWER_SECONDS


def set_gauges(metrics: Metrics, waiters: JobWaiters, store: Store) -> None:
    """Have the gauges about holds ask `waiters` and `store`."""
    metrics.held_requests.set_function(lambda: len(waiters))
    metrics.oldest_hold.set_function(lambda: _oldest_hold(waiters))
    metrics.oldest_job.set_function(lambda: _oldest_waited_job(waiters, store))
    metrics.count_remembered_with(store.hits_and_misses)


def _oldest_hold(waiters: JobWaiters) -> float:
    oldest = waiters.oldest()
    return asyncio.get_running_loop().time() - oldest.registered_at if oldest else 0


def _oldest_waited_job(waiters: JobWaiters, store: Store) -> float:
    """By `updated_at`, which a worker that is alive writes; a job without one is not counted.

    The clock is this machine's and `updated_at` a worker's: exact enough for a job that is stuck for an hour.
    """
    jobs = store.remembered_jobs(waiters.keys())
    times = [job.updated_at for job in jobs if job.updated_at and not job.is_settled]
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
