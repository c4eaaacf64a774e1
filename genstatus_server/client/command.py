"""The command's options and exit status. Loads the client only when it runs: `genstatus serve` does not need it."""

import os
import sys
from typing import Final, NoReturn

import click

TOKEN_VARIABLE: Final = "GENSTATUS_SESSION_TOKEN"  # noqa: S105 - the name of a variable
FILE_TYPES: Final = ("D1", "D2", "E", "F")
USAGE: Final = 2


@click.command("wait")
@click.option("--url", "base_url", required=True, metavar="URL", help="The server, such as https://status.example.gov.")
@click.option("--submission", "submission_id", required=True, type=click.IntRange(1, 2**63 - 1), metavar="ID")
@click.option("--file-type", required=True, type=click.Choice(FILE_TYPES))
@click.option(
    "--download", "path", type=click.Path(), metavar="PATH", help="Save the file here; - writes it to standard output."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Give up after so long. [default: never]",
)
def wait(base_url: str, submission_id: int, file_type: str, path: str | None, timeout: float | None) -> None:
    """Wait until a file is generated, then print its presigned URL, or with --download fetch it and print its path.

    The session token is read from GENSTATUS_SESSION_TOKEN, or prompted for.

    Exit status: 0 finished, 1 failed, 2 usage, 3 invalid (the file was never requested), 4 no access,
    124 timed out, 130 interrupted.
    """
    try:
        from .wait import Wanted, run  # noqa: PLC0415 - its libraries are an extra
    except ModuleNotFoundError as error:
        fail(f"needs {(error.name or '').partition('.')[0]}: pip install '.[client]' in the source folder")
    sys.exit(run(base_url, session_token(), Wanted(submission_id, file_type, path, timeout)))


def session_token() -> str:
    """From the environment, else typed without an echo; never a flag, which every user of the machine could read."""
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None and sys.stdin is not None and sys.stdin.isatty():
        token = click.prompt("Session token", hide_input=True, err=True)
    if not token:
        fail(f"set {TOKEN_VARIABLE} to the session token")
    return token


def fail(why: str) -> NoReturn:
    click.echo(f"genstatus wait: {why}", err=True)
    sys.exit(USAGE)
