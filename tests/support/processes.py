"""The real server as a process of its own, with real signals."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from tests.support import forking, secrecy
from tests.support.services import S3

#: Seconds until something counts as hung; long, because it says nothing of how fast it has to be.
DEADLINE = 120.0


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Block until the condition holds; fail when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@dataclass
class ServerProcess:
    """A running `serve`, or another command, and what it has written to standard error."""

    process: forking.Process
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def records(self, action: str) -> list[dict[str, Any]]:
        """The log's records of one action."""
        written = self.log.rpartition("\n")[0]  # The last line may be half written.
        lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("action") == action]

    @cached_property
    def url(self) -> str:
        wait_until(lambda: self._listening() or self.process.poll() is not None, "listening")
        listening = self._listening()
        assert listening, self.log
        return listening[1]

    def _listening(self) -> "re.Match[str] | None":
        """The record, in either of the log's formats."""
        return re.search(r"\blistening\b.*\burl\W+(http://[\w.:]+)\W", self.log)

    def ask(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, JSON body and headers of a GET."""
        request = urllib.request.Request(self.url + path, headers=dict(headers or {}))  # noqa: S310 - http, and ours
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as answer:  # noqa: S310
                return answer.status, json.loads(answer.read()), dict(answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read()), dict(error.headers)

    def metrics(self) -> dict[str, float]:
        """Every series of `/metrics` by its name, labels and all."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=DEADLINE) as answer:  # noqa: S310 - http, and ours
            lines = answer.read().decode().splitlines()
        series = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in series}

    def wait_ready(self) -> None:
        wait_until(lambda: self.ask("/readyz")[0] == 200, "ready")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and wait; gives the exit status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


@contextmanager
def running_server(
    folder: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    command: str = "serve",
    prefix: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
) -> Iterator[ServerProcess]:
    """The server with these flags and this environment beside the test's; killed at the end if it still runs.

    What it has written must hold no secret. `prefix` is a command that becomes the server, as `prlimit` does.
    """
    log_path = folder / f"{command}-{time.monotonic_ns()}.log"
    with log_path.open("wb") as log:
        process = start_process(
            [command, *arguments], environment, stdout=log, stderr=log, prefix=prefix, pass_fds=pass_fds
        )
    try:
        yield ServerProcess(process, log_path)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    found = secrecy.found_in(log_path.read_text())
    assert not found, "\n".join(["a secret was written:", *found])


def start_process(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    stdout: IO[bytes],
    stderr: IO[bytes],
    prefix: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
) -> forking.Process:
    """`genstatus` with these arguments, in a session of its own, without input."""
    changes = dict(environment or {})
    if forking.can_fork(changes) and not prefix and not pass_fds:
        with Path(os.devnull).open("rb") as nothing:
            return forking.fork(arguments, os.environ | changes, stdin=nothing, stdout=stdout, stderr=stderr)
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "genstatus_server", *arguments],
        env=os.environ | changes,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        pass_fds=pass_fds,
    )


def run_command(*arguments: str, environment: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """A command that ends by itself."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = start_process(arguments, environment, stdout=stdout, stderr=stderr)
        try:
            status = process.wait(DEADLINE)
        finally:
            process.kill()
        written = [file.read().decode() for file in (stdout, stderr) if not file.seek(0)]
    return subprocess.CompletedProcess(list(arguments), status, *written)


def flags_for(mongodb_uri: str, database_name: str, s3: S3, **options: str) -> list[str]:
    """The flags of a server on a free port."""
    flags = {
        "port": "0",
        "mongodb-uri": mongodb_uri,
        "mongodb-database": database_name,
        "s3-bucket": s3.bucket,
        "s3-region": s3.region,
        "s3-endpoint-url": s3.endpoint_url,
    }
    return [f"--{name}={value}" for name, value in (flags | options).items()]


def credentials(s3: S3) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
