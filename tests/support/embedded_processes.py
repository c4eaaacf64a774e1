"""The processes that work in a folder, as the tests of the embedded services and of the demo see them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import DEADLINE

#: Runs the embedded services of the folder argv[1], prints where they are, and takes no notice of Ctrl-C.
_HOLDER = """
import asyncio, json, signal, sys
from pathlib import Path
from genstatus_server.demo.embedded import embedded_services

async def hold():
    async with embedded_services(Path(sys.argv[1])) as services:
        print(json.dumps([services.mongodb_uri, services.s3_endpoint_url]), flush=True)
        await asyncio.Event().wait()

signal.signal(signal.SIGINT, signal.SIG_IGN)
asyncio.run(hold())
"""


def wait_until(condition: Callable[[], bool], *, seconds: float = DEADLINE) -> None:
    """Come back once `condition()` is true; fail where it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def processes_in(folder: Path, *, program: str = "") -> list[int]:
    """The ids of all processes that name `folder`, or a place in it, on their command line; the newest last."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # not a process, or one that has just ended
            continue
        if any(argument.startswith(str(folder)) for argument in arguments) and program in arguments[0]:
            found.append(int(entry.name))
    return sorted(found)


@contextmanager
def another_server(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """Another process, in a session of its own, that runs the embedded services; yields it, MongoDB's URI and S3's URL.

    Whatever is left of it in the end is gone, or the test fails.
    """
    command = [sys.executable, "-c", _HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            mongodb_uri, s3_url = json.loads(process.stdout.readline())
            yield process, mongodb_uri, s3_url
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not processes_in(folder))
