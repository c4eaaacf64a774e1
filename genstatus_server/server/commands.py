"""`genstatus serve` and `genstatus demo`. Apart from `cli`, because all that a server needs takes long to import."""

import asyncio
import os
import socket
from collections.abc import Coroutine
from typing import Any, Final

import click
from tornado.netutil import bind_sockets

from genstatus_server.model.errors import StartupError
from genstatus_server.server.demo import run_demo
from genstatus_server.server.run import run_server
from genstatus_server.server.supervisor import inherited_sockets
from genstatus_server.settings import Settings, load_settings, with_flags
from genstatus_server.telemetry import log

_BACKLOG: Final = 4096


@click.command()
@with_flags()
def serve(config: str | None, **flags: str | None) -> None:
    """Run the server. Each option can also be set in the environment: --url-ttl as GENSTATUS_URL_TTL."""
    settings = _begin(config, flags)
    run(run_server(settings, listen(settings)))


@click.command()
@with_flags()
def demo(config: str | None, **flags: str | None) -> None:
    """Run the server on an embedded MongoDB and S3, with sample data and a worker that keeps finishing a job."""
    settings = _begin(config, flags)
    run(run_demo(settings, listen(settings)))


def listen(settings: Settings) -> list[socket.socket]:
    """The bound sockets, or those that the parent process has bound. Raises `StartupError`."""
    try:
        return inherited_sockets() or bind_sockets(settings.port, settings.address, backlog=_BACKLOG)
    except OSError as error:
        where = f"port {settings.port} of {settings.address}"
        raise StartupError(f"cannot listen on {where}: {error.strerror or error}") from error


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end, or until a second signal."""
    asyncio.run(main)


def _begin(config: str | None, flags: dict[str, str | None]) -> Settings:
    """The settings, with the log set up as they say. Raises `BadSettings`."""
    settings = load_settings(flags, os.environ, config)
    log.set_up(settings.log_format)
    return settings
