"""A proxy of Debian's as a process of the test."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import DEADLINE, wait_until
from tests.support.requirements import require


def find_program(name: str) -> str:
    """Its path; the test is skipped where the program is not installed."""
    program = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    require(program, f"{name} is not installed (Debian: apt-get install {name})")
    return str(program)


@contextmanager
def running_proxy(command: Sequence[str], port: int, error_log: Path) -> Iterator[None]:
    """Run `command`, which stays in the foreground, while the block lasts; it listens on `port`."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), f"{command[0]} listens")
        assert process.poll() is None, error_log.read_text()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
