"""The commands. Exit status: 0 done, 1 cannot start, 2 bad usage or settings."""

import asyncio
import os
import socket
import sys
from collections.abc import Coroutine
from importlib import import_module
from typing import Any, Final

import click
from tornado.netutil import bind_sockets

from genstatus_server import __version__
from genstatus_server.model.errors import StartupError
from genstatus_server.server.demo import run_demo
from genstatus_server.server.run import run_server
from genstatus_server.server.supervisor import inherited_sockets
from genstatus_server.settings import BadSettings, Settings, load_settings, with_flags
from genstatus_server.telemetry import log

_BACKLOG: Final = 4096
#: Commands that are imported only when they are used, because the server needs neither them nor their libraries.
_LAZY_COMMANDS: Final = {
    "init-db": "admin.init_db",
    "init-roles": "admin.roles",
    "job": "admin.jobs",
    "session": "admin.sessions",
    "submission": "admin.submissions",
    "user": "admin.users",
    "wait": "client.command",
}


def main() -> None:
    """Run the command that the arguments name."""
    try:
        commands(prog_name="genstatus")
    except BadSettings as error:
        for line in error.lines:
            click.echo(f"genstatus: {line}", err=True)
        sys.exit(2)
    except StartupError as error:
        click.echo(f"genstatus: {error}", err=True)
        sys.exit(1)


def settings_of(config: str | None, flags: dict[str, str | None]) -> Settings:
    """The settings that flags, environment, file and defaults make together. Raises `BadSettings`."""
    return load_settings(flags, os.environ, config)


class _Commands(click.Group):
    """Imports the commands of `_LAZY_COMMANDS` only when one of them is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_LAZY_COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _LAZY_COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"genstatus_server.{_LAZY_COMMANDS[cmd_name]}")
        found: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def commands() -> None:
    """Tells when generated files are there, and where."""


@commands.command()
@with_flags()
def serve(config: str | None, **flags: str | None) -> None:
    """Run the server. Each option can also be set in the environment: --url-ttl as GENSTATUS_URL_TTL."""
    settings = settings_of(config, flags)
    _set_up_log(settings)
    run(run_server(settings, listen(settings)))


@commands.command()
@with_flags()
def demo(config: str | None, **flags: str | None) -> None:
    """Run the server on an embedded MongoDB and S3, with sample data and a worker that keeps finishing a job."""
    settings = settings_of(config, flags)
    _set_up_log(settings)
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


def _set_up_log(settings: Settings) -> None:
    chosen = settings.log_format
    log.set_up(("human" if sys.stderr.isatty() else "json") if chosen == "auto" else chosen)
