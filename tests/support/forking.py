"""Processes of the server, forked from one that has imported it: a start costs a tenth of an interpreter's.

It is used where nothing can tell the difference, otherwise `subprocess.Popen` is: see `can_fork`.
"""

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.support import zygote

#: Variables that the server reads when it runs. Others may matter to the interpreter before that.
READ_BY_THE_SERVER = ("AWS_", "GENSTATUS_")


class ForkedProcess:
    """The part of `subprocess.Popen` that the tests use, for a process that is not a child of this one."""

    def __init__(self, reports: socket.socket) -> None:
        self._reports = reports
        self.pid = int(reports.recv(32))
        self.returncode: int | None = None
        self._closing = weakref.finalize(self, reports.close)

    def poll(self) -> int | None:
        return self._read(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._read(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("genstatus_server", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            # It may end meanwhile, and is then reaped by the program that forks.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _read(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._reports], [], [], timeout)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._reports.recv(32)))
            self._closing()
        return self.returncode


Process = ForkedProcess | subprocess.Popen[bytes]
_lock = threading.Lock()
_programs: list[subprocess.Popen[bytes]] = []


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether a fork with these changes of the environment is the same as a new program."""
    return all(name.startswith(READ_BY_THE_SERVER) for name in environment)


def fork(
    arguments: Sequence[str], environment: Mapping[str, str], *, stdin: IO[Any], stdout: IO[Any], stderr: IO[Any]
) -> ForkedProcess:
    """`python -m genstatus_server ARGUMENTS…` with this whole environment, in a session of its own."""
    request = json.dumps({"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())})
    reports, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, _lock:
        descriptors = array.array("i", [stdin.fileno(), stdout.fileno(), stderr.fileno(), theirs.fileno()])
        _requests().sendmsg([request.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    return ForkedProcess(reports)


@cache
def _requests() -> socket.socket:
    """The socket to the program that forks; it ends when this is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, zygote.LARGEST)
    with theirs:
        command = [sys.executable, "-P", zygote.__file__, str(theirs.fileno())]
        process = subprocess.Popen(
            command,
            # Coverage measures the forks, and not this program.
            env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    _programs.append(process)
    return ours


def close() -> None:
    """End the program that forks, where there is one."""
    for process in _programs:
        _requests().close()
        process.wait()
    _programs.clear()
    _requests.cache_clear()
