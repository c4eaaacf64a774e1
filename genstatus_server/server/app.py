"""Composition root: opens every resource in one stack, serves until a signal, and closes in reverse.

The order of a shutdown: not ready, end the holds, wait for `shutdown_delay`, stop accepting, let the answers out, close
the connections, then the change stream, the reads, S3 and MongoDB.
"""

import asyncio
import contextlib
import gc
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from socket import AF_UNIX, socket
from typing import Any, Final

from pymongo.errors import PyMongoError
from tornado.web import Application

from genstatus_server.hold.holds import HoldRegistry
from genstatus_server.mongo.cache import DocumentCache
from genstatus_server.mongo.change_stream import ChangeStreamFollower
from genstatus_server.mongo.client import Connection
from genstatus_server.mongo.documents import DocumentReader, Documents
from genstatus_server.mongo.freshness import Freshness
from genstatus_server.mongo.queries import Key
from genstatus_server.mongo.schema import missing_schema
from genstatus_server.s3.presigner import open_presigner
from genstatus_server.server.supervisor import Channel, metrics_collector
from genstatus_server.server.system import Shutdown, notify, url_of
from genstatus_server.settings import Settings
from genstatus_server.telemetry import log
from genstatus_server.telemetry.metrics import Metrics
from genstatus_server.web.base import NotFoundHandler, Services, log_request
from genstatus_server.web.client_stream import MalformedRequests
from genstatus_server.web.health import LivezHandler, MetricsHandler, ReadyzHandler
from genstatus_server.web.listener import Listener
from genstatus_server.web.pages import OpenApiHandler, static_routes
from genstatus_server.web.status import GenerationStatusesHandler, GenerationStatusHandler

#: Of the seconds of `drain_timeout`, those that are left for closing what was opened, but at most half.
_CLOSING_SECONDS: Final = 0.5
#: Documents that are cached of each collection, at the least. Whatever is held must stay cached, up to four jobs each.
_CACHED: Final = 10_000
#: Thresholds of the garbage collector. It checks new objects after 10,000 more allocations than deallocations. With -1,
#: those still in use count as old at once. It checks the old objects after every 200 checks of new ones. Python's
#: defaults are 700 (2000 from 3.13 on), 10 and 10. Requests leave no reference cycles, so it finds almost nothing.
_GARBAGE_THRESHOLDS: Final = (10_000, -1, 200)


def make_application(services: Services) -> Application:
    """The routes."""
    arguments = {"services": services}
    return Application(
        [
            (r"/v1/check_generation_status/?", GenerationStatusHandler, arguments),
            (r"/v1/generation_statuses/?", GenerationStatusesHandler, arguments),
            (r"/livez", LivezHandler, arguments),
            (r"/readyz", ReadyzHandler, arguments),
            (r"/metrics", MetricsHandler, arguments),
            (r"/openapi\.json", OpenApiHandler, arguments),
            *static_routes(arguments),
        ],
        default_handler_class=NotFoundHandler,
        default_handler_args=arguments,
        log_function=log_request,
        services=services,
    )


async def open_services(
    stack: AsyncExitStack, settings: Settings, *, s3_keys: tuple[str, str] | None, parent: Channel | None = None
) -> Services:
    """Everything that the handlers work with, following changes already; `stack` closes it.

    `parent` is the process that runs this one beside others.
    """
    uri, name = settings.mongodb_uri or "", settings.mongodb_database
    metrics, holds, freshness = Metrics(), HoldRegistry[Key](), Freshness()
    connection = _open(stack, Connection(uri, name))
    # The change stream has its own client, so that slow reads do not delay it, and it does not delay reads.
    stream_connection = _open(stack, Connection(uri, name, for_stream=True))
    presigner = await stack.enter_async_context(
        open_presigner(
            bucket=settings.s3_bucket,
            region=settings.s3_region,
            endpoint_url=settings.s3_endpoint_url,
            addressing_style=settings.s3_addressing_style,
            url_ttl=settings.url_ttl,
            keys=s3_keys,
            time_signature=metrics.presign_seconds.time,
        )
    )
    cache = DocumentCache(max(_CACHED, 4 * settings.max_waits), freshness, holds)
    documents = Documents(DocumentReader(connection, freshness, metrics), cache, holds)
    stack.push_async_callback(documents.close)
    _set_gauges(metrics, holds, cache)
    follower = ChangeStreamFollower(stream_connection, documents, freshness, holds, metrics)
    following = asyncio.create_task(follower.follow(), name="change stream")
    stack.push_async_callback(_cancel, following)
    checking = asyncio.create_task(_log_missing_schema(follower, connection), name="database check")
    stack.push_async_callback(_cancel, checking)
    return Services(
        settings,
        metrics,
        connection,
        freshness,
        documents,
        holds,
        follower,
        presigner,
        metrics_collector(metrics, parent),
    )


def _set_gauges(metrics: Metrics, holds: HoldRegistry[Key], cache: DocumentCache) -> None:
    """Let the gauges and counters read their values from `holds` and `cache`."""
    metrics.held_requests.set_function(lambda: len(holds))
    metrics.oldest_hold.set_function(lambda: _oldest_hold(holds))
    metrics.oldest_job.set_function(lambda: _oldest_waited_job(holds, cache))
    metrics.count_cache_lookups_with(cache.hits_and_misses)


def _oldest_hold(holds: HoldRegistry[Key]) -> float:
    oldest = holds.oldest()
    return asyncio.get_running_loop().time() - oldest.held_since if oldest else 0


def _oldest_waited_job(holds: HoldRegistry[Key], cache: DocumentCache) -> float:
    """By `updated_at`, which each change of a job sets, but no heartbeat. A job without it is not counted.

    This compares this machine's clock with MongoDB's (`jobs_writer`) or a worker's: enough to find a job that is stuck
    for an hour.
    """
    times = [job.updated_at for job in cache.jobs(holds.keys()) if job.updated_at and not job.is_settled]
    return max(0, (datetime.now(UTC) - min(times)).total_seconds()) if times else 0


def _open(stack: AsyncExitStack, connection: Connection) -> Connection:
    stack.push_async_callback(connection.close)
    return connection


async def run_app(
    settings: Settings,
    sockets: Sequence[socket],
    shutdown: Shutdown,
    *,
    s3_keys: tuple[str, str] | None = None,
    parent: Channel | None = None,
) -> None:
    """Serve on `sockets` until `shutdown` is set, then end the holds and return.

    The answers get `shutdown.delay` seconds, and most of the `drain_timeout` seconds until the exit. `parent` is the
    process that runs this one beside others: it adds up their metrics.
    """
    async with AsyncExitStack() as stack:
        services = await open_services(stack, settings, s3_keys=s3_keys, parent=parent)
        listener = Listener(
            make_application(services),
            sockets,
            idle_timeout=settings.idle_timeout,
            malformed=MalformedRequests(services.metrics, settings.cors_origins),
        )
        for each in sockets:
            is_unix = each.family == AF_UNIX
            log.info("listening", url=url_of(each), **({} if is_unix else {"port": each.getsockname()[1]}))
        notify("READY=1")
        if parent is not None:
            parent.tell_start()
        _tune_garbage_collector()
        await shutdown.wait()
        notify("STOPPING=1")
        await _drain(listener, services, shutdown)
    log.info("stopped")


def _tune_garbage_collector() -> None:
    """Exclude the objects that exist now from garbage collection, and collect the others rarely.

    Thousands of holds come and go without reference cycles. Checking all of them takes longer than answering them.
    """
    gc.freeze()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)


async def _drain(listener: Listener, services: Services, shutdown: Shutdown) -> None:
    log.info("draining", signal=shutdown.signal, held=len(services.holds), shutdown_delay=shutdown.delay)
    services.draining = True
    listener.drain()
    services.holds.drain()
    await asyncio.sleep(shutdown.delay)  # Meanwhile load balancers see that /readyz fails, and send no more requests.
    listener.stop_listening()
    seconds = services.settings.drain_timeout
    shutdown.exit_within(seconds)
    try:
        async with asyncio.timeout(max(seconds - _CLOSING_SECONDS, seconds / 2)):
            await listener.wait_answered(lambda: services.in_flight)
    except TimeoutError:
        log.warning("drain_timeout", hint="some clients did not take their answer in time")
    await listener.close_connections()


async def _log_missing_schema(follower: ChangeStreamFollower, connection: Connection) -> None:
    await follower.reached.wait()
    try:
        missing = await missing_schema(connection.database)
    except PyMongoError as error:
        log.warning("database_not_checked", cause=log.cause(error))
        return
    if missing:
        log.warning(
            "database_incomplete",
            missing=missing,
            hint="genstatus init-db, with the mongodb_uri and mongodb_database of this server, makes it",
        )


async def _cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
