"""`genstatus serve`: one server process or several, on the MongoDB of its settings or on an embedded one."""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from socket import socket
from typing import Any, Final, TypeVar

import click

from genstatus_server.demo.embedded import embedded_services
from genstatus_server.model.errors import StartupError
from genstatus_server.server.app import run_app
from genstatus_server.server.supervisor import channel_to_parent, run_processes
from genstatus_server.server.system import Shutdown, open_sockets, within_file_limit
from genstatus_server.settings import Settings, load_settings, unknown_variables, with_flags
from genstatus_server.telemetry import log

T = TypeVar("T")

#: Seconds that the answer to the longest hold may take to a proxy.
_ANSWER_SECONDS: Final = 1.0


@click.command()
@with_flags()
def serve(config: str | None, **flags: str | None) -> None:
    """Run the server. Each option can also be set in the environment: --url-ttl as GENSTATUS_URL_TTL."""
    settings = begin(config, flags)
    asyncio.run(run_server(settings, open_sockets(settings)))


def begin(config: str | None, flags: dict[str, str | None]) -> Settings:
    """The settings, with the log set up as they say. Raises `BadSettings`."""
    settings = load_settings(flags, os.environ, config)
    log.set_up(settings.log_format)
    for name, hint in unknown_variables(os.environ).items():
        log.warning("unknown_variable", variable=name, hint=hint)
    return settings


async def run_server(settings: Settings, sockets: Sequence[socket]) -> None:
    """Run the server until a signal; with no `mongodb_uri`, on the embedded MongoDB and S3."""
    settings = within_file_limit(settings)
    shutdown = Shutdown(settings.shutdown_delay)
    shutdown.handle_signals()
    async with AsyncExitStack() as stack:
        parent = await stack.enter_async_context(channel_to_parent(shutdown))
        s3_keys = None
        if settings.mongodb_uri is None:
            hint = "an embedded MongoDB is started, for trying only; set mongodb_uri to use yours"
            log.warning("mongodb_uri_missing", hint=hint)
            started = await unless_stopped(shutdown, with_embedded(stack, settings))
            if started is None:
                return
            settings, s3_keys = started
        if parent is None:
            warn_of_proxies(settings)
        if settings.processes == 1:
            await run_app(settings, sockets, shutdown, s3_keys=s3_keys, parent=parent)
        else:
            await run_processes(settings, sockets, shutdown, s3_keys)


async def with_embedded(stack: AsyncExitStack, settings: Settings) -> tuple[Settings, tuple[str, str] | None]:
    """`settings` that point at an embedded MongoDB, and S3 where none is configured, with the keys of that S3."""
    if not settings.data_dir:
        raise StartupError("data_dir: there is no home folder to put the embedded MongoDB in: set --data-dir")
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
    """Await `starting` and return its result. If a signal comes first, cancel it and return None."""
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
