"""A program that has imported the server, and becomes a process of it for each request: see `forking`.

    python -P zygote.py DESCRIPTOR

DESCRIPTOR is one end of a Unix socket of whole messages. Each message is a JSON object with `arguments`, `environment`
and `folder`, and brings four descriptors: standard input, output and error, and a socket that is told the process id
and, when the process has ended, its exit status as `os.waitpid` gives it.
"""

import gc
import json
import os
import runpy
import signal
import socket
import sys
from typing import Any

import coverage

# What the command `serve` imports when it runs. A fork of this process has it already.
import genstatus_server.cli
import genstatus_server.server.app
import genstatus_server.server.run  # noqa: F401

LARGEST = 1_000_000


def receive(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next request and its descriptors; ends this program when nobody is left who could send one."""
    message, descriptors, _, _ = socket.recv_fds(requests, LARGEST, 4)
    if not message:
        sys.exit()
    request: dict[str, Any] = json.loads(message)
    return request, descriptors


def watch(reports: socket.socket) -> None:
    """Fork the process and report of it until it has ended. Returns in the new process only."""
    pid = os.fork()
    if not pid:
        reports.close()
        return
    # Of what was sent along the process alone keeps a copy: a pipe has ended when the process has.
    os.closerange(0, reports.fileno())
    os.closerange(reports.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    reports.send(str(pid).encode())
    _, status = os.waitpid(pid, 0)
    reports.send(str(status).encode())
    os._exit(0)


def become(request: dict[str, Any], standard: list[int]) -> None:
    """What `exec` and `subprocess` would do for a new program."""
    os.setsid()
    for descriptor, wanted in zip(standard, range(3), strict=True):
        os.dup2(descriptor, wanted)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    coverage.process_startup()  # It measures where the environment says so, as at the start of any Python.
    sys.argv[1:] = request["arguments"]


def wait_for_requests(requests: socket.socket) -> None:
    """Fork for each request. Returns in the new processes only."""
    while True:
        request, (*standard, reporting) = receive(requests)
        if os.fork():
            for descriptor in (*standard, reporting):
                os.close(descriptor)
            continue
        requests.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        watch(socket.socket(fileno=reporting))
        become(request, standard)
        return


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The processes that report need nobody to wait for them.
    gc.freeze()
    wait_for_requests(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("genstatus_server", run_name="__main__", alter_sys=True)
