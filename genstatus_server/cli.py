"""The commands. Exit status: 0 done, 1 cannot start, 2 bad usage or settings."""

import os
import signal
import sys
from importlib import import_module
from typing import Final

import click

from genstatus_server import __version__
from genstatus_server.model.errors import StartupError
from genstatus_server.settings import BadSettings

#: The module of each command. It is imported only when the command is used: each needs other libraries, and a server's
#: take long to import.
_COMMANDS: Final = {
    "demo": "server.demo",
    "check": "admin.check",
    "init-db": "admin.init",
    "init-roles": "admin.init",
    "job": "admin.jobs",
    "serve": "server.run",
    "session": "admin.access",
    "submission": "admin.jobs",
    "user": "admin.access",
    "wait": "client.command",
    "worker": "jobs_writer.command",
}
#: These ignore SIGUSR1 and SIGUSR2, already while their libraries are imported.
_SERVERS: Final = frozenset({"demo", "serve"})


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


class _Commands(click.Group):
    """Those of `_COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        if cmd_name in _SERVERS:
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)
            # Until the server handles them. Linux drops a signal without a handler to process 1 of a container.
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                if signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
                    signal.signal(number, lambda *_: os._exit(0))
        module = import_module(f"genstatus_server.{_COMMANDS[cmd_name]}")
        found: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def commands() -> None:
    """Say when generated files are ready, and where to download them."""
