"""One server process: what it needs from the machine, its signals, and the embedded default."""

import asyncio
import resource
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from socket import socket
from typing import Any, Final, TypeVar

from genstatus_server.demo.embedded import embedded_services
from genstatus_server.server.app import serve
from genstatus_server.server.shutdown import Shutdown
from genstatus_server.server.supervisor import channel_to_parent, run_processes
from genstatus_server.settings import Settings
from genstatus_server.telemetry import log

T = TypeVar("T")

#: File descriptors beside those of the held requests: MongoDB, S3, logs, plain requests.
_OTHER_FILES: Final = 1000
#: Seconds that the answer to the longest hold may take to a proxy.
_ANSWER_SECONDS: Final = 1.0


async def run_server(settings: Settings, sockets: Sequence[socket]) -> None:
    """Run the server until a signal; with no `mongodb_uri`, on the embedded MongoDB and S3."""
    settings = within_file_limit(settings)
    shutdown = Shutdown(settings.shutdown_delay)
    shutdown.listen()
    async with AsyncExitStack() as stack:
        parent = await stack.enter_async_context(channel_to_parent(shutdown))
        s3_keys = None
        if settings.mongodb_uri is None:
            started = await unless_stopped(shutdown, with_embedded(stack, settings))
            if started is None:
                return
            settings, s3_keys = started
        if parent is None:
            warn_of_proxies(settings)
        if settings.processes == 1:
            await serve(settings, sockets, shutdown, s3_keys=s3_keys, parent=parent)
        else:
            await run_processes(settings, sockets, shutdown, s3_keys)


async def with_embedded(stack: AsyncExitStack, settings: Settings) -> tuple[Settings, tuple[str, str] | None]:
    """`settings` that point at an embedded MongoDB, and S3 where none is configured, with the keys of that S3."""
    needs_s3 = not (settings.s3_bucket or settings.s3_endpoint_url or settings.s3_region)
    embedded = await stack.enter_async_context(embedded_services(Path(settings.data_dir), s3=needs_s3))
    where = {"mongodb_uri": embedded.mongodb_uri, "s3_endpoint_url": embedded.s3_endpoint_url}
    log.info("embedded", data_dir=settings.data_dir, **where)
    settings = replace(settings, mongodb_uri=embedded.mongodb_uri)
    if not needs_s3:
        return settings, None
    settings = replace(
        settings,
        s3_bucket=embedded.s3_bucket,
        s3_region=embedded.s3_region,
        s3_endpoint_url=embedded.s3_endpoint_url,
    )
    return settings, (embedded.s3_access_key, embedded.s3_secret_key)


async def unless_stopped(shutdown: asyncio.Event, starting: Coroutine[Any, Any, T]) -> T | None:
    """What `starting` gives; None where a signal came before that, which ends it at once."""
    task, stopped = asyncio.create_task(starting), asyncio.create_task(shutdown.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not shutdown.is_set():
            return await task
    finally:
        stopped.cancel()
        task.cancel()
        # What fails while a signal comes is of no interest: the terminal may have sent it to what is being started.
        await asyncio.gather(task, stopped, return_exceptions=True)
    log.info("stopped")
    return None


def warn_of_proxies(settings: Settings) -> None:
    """Say so where a proxy would cut a hold before its answer comes, which to its client is an error."""
    limit = settings.proxy_idle_timeout
    if limit is not None and limit < settings.wait_max + _ANSWER_SECONDS:
        hint = f"set wait_max to {max(1, limit - _ANSWER_SECONDS):g} or less, or the proxy's limit higher"
        log.warning("wait_max_too_long", wait_max=settings.wait_max, proxy_idle_timeout=limit, hint=hint)


def within_file_limit(settings: Settings) -> Settings:
    """`settings` with no more holds than there can be open files.

    The soft limit is raised to what `max_waits` needs. Where the hard limit forbids it that is said, and `max_waits` is
    cut, so that requests which cannot be held are still answered.
    """
    needed = settings.max_waits + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return settings
    possible = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible == needed:
        return settings
    max_waits = min(settings.max_waits, max(possible - _OTHER_FILES, possible // 2))
    hint = "set max_waits to that, or raise the hard limit on open files (ulimit -Hn)"
    log.warning("file_limit_low", limit=possible, needed=needed, max_waits=max_waits, hint=hint)
    return replace(settings, max_waits=max_waits)
