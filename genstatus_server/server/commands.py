"""`genstatus serve` and `genstatus demo`. Apart from `cli`, because all that a server needs takes long to import."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

import click

from genstatus_server.server.demo import run_demo
from genstatus_server.server.run import run_server
from genstatus_server.server.sockets import open_sockets
from genstatus_server.settings import Settings, load_settings, unknown_variables, with_flags
from genstatus_server.telemetry import log


@click.command()
@with_flags()
def serve(config: str | None, **flags: str | None) -> None:
    """Run the server. Each option can also be set in the environment: --url-ttl as GENSTATUS_URL_TTL."""
    settings = _begin(config, flags)
    run(run_server(settings, open_sockets(settings)))


@click.command()
@with_flags()
def demo(config: str | None, **flags: str | None) -> None:
    """Run the server on an embedded MongoDB and S3, with sample data and a worker that keeps finishing a job."""
    settings = _begin(config, flags)
    run(run_demo(settings, open_sockets(settings)))


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end, or until a second signal."""
    asyncio.run(main)


def _begin(config: str | None, flags: dict[str, str | None]) -> Settings:
    """The settings, with the log set up as they say. Raises `BadSettings`."""
    settings = load_settings(flags, os.environ, config)
    log.set_up(settings.log_format)
    for name, hint in unknown_variables(os.environ).items():
        log.warning("unknown_variable", variable=name, hint=hint)
    return settings
