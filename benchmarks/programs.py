"""Starts a program on its core with its output in a file, waits until it answers, and ends it."""

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

Found = TypeVar("Found")

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 20.0
#: Of util-linux, which every distribution has.
_TASKSET: Final = "/usr/bin/taskset"
_ROOT: Final = Path(__file__).parent.parent


class BenchmarkFailed(Exception):
    """Something could not be started or did not do what is measured; no table is made."""


@dataclass
class Program:
    """A program that runs; `started` is the time on the monotonic clock, `log` the file with its output."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    started: float

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def wait_for(self, what: str, check: Callable[[], Found | None], *, pause: float = 0.01) -> Found:
        """The result of `check` once it has one; it is called again and again."""
        deadline = time.monotonic() + _START_SECONDS
        while (found := check()) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                ended = (
                    f"ended with status {self.process.returncode}" if self.process.returncode is not None else "is late"
                )
                raise BenchmarkFailed(f"{self.name} {ended}, waiting for {what}. Its output:\n{self.last_lines()}")
            time.sleep(pause)
        return found


@contextmanager
def running(
    name: str, command: Sequence[str], folder: Path, *, core: int | Sequence[int], environment: Mapping[str, str]
) -> Iterator[Program]:
    """The program with exactly this environment, while the block lasts. Raises BenchmarkFailed."""
    cores = ",".join(map(str, [core] if isinstance(core, int) else core))
    log = folder / f"{name.replace(' ', '-')}-{time.monotonic_ns()}.log"
    started = time.monotonic()
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [_TASKSET, "-c", cores, *command],
                cwd=_ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise BenchmarkFailed(f"{name} cannot be started: {error}") from error
    try:
        yield Program(name, process, log, started)
    finally:
        _stop(process)


def python(*arguments: str) -> list[str]:
    """The command of a Python program."""
    return [sys.executable, *arguments]


def fetch(
    url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", body: bytes | None = None
) -> bytes:
    """The body of an answer of any kind; an empty one where nobody answers."""
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request, timeout=_START_SECONDS) as answer:  # noqa: S310 - the same
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.read()
    except (urllib.error.URLError, ConnectionError):
        return b""


def answers(url: str, headers: Mapping[str, str] | None = None) -> bool | None:
    """True where `url` is answered with 200, else None."""
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request, timeout=_START_SECONDS) as answer:  # noqa: S310 - the same
            return True if answer.status == 200 else None  # noqa: PLR2004 - OK
    except (urllib.error.URLError, ConnectionError):
        return None


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
