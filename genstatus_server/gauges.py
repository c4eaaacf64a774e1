"""The gauges that are asked whenever they are read, so that they can never drift."""

import asyncio
from datetime import UTC, datetime

from genstatus_server.metrics import Metrics
from genstatus_server.store import Store
from genstatus_server.waiters import JobWaiters


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
