"""Puts load on a contender, from the load's core: polls by wrk, held requests, and workers that finish jobs."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.contenders import Contender
from benchmarks.database import NAME, token
from benchmarks.programs import BenchmarkFailed

_REPORT: Final = Path(__file__).parent / "clients" / "report.lua"
_TIMEOUT_SECONDS: Final = 120.0
#: Seconds within which everything has to be held: then the first holds come to their end.
_HOLD_SECONDS: Final = 45.0
_OK: Final = 200

#: A path and a token.
Request = tuple[str, str]


@dataclass(frozen=True)
class Polled:
    """What wrk has measured."""

    requests: int
    per_second: float
    p99_ms: float


def poll(contender: Contender, path: str, seconds: int, *, connections: int) -> Polled:
    """Plain polls of `path`, each connection with the next as soon as one is answered."""
    program = shutil.which("wrk")
    if program is None:
        raise BenchmarkFailed("wrk is not installed (Debian: apt-get install wrk)")
    options = ["--threads=1", f"--connections={connections}", f"--duration={seconds}s", f"--script={_REPORT}"]
    command = [program, *options, f"--header=X-Session-ID: {token(1000)}", contender.url + path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise BenchmarkFailed(f"wrk failed: {done.stdout}{done.stderr}")
    result = json.loads(lines[-1])
    if result["failed"] or not result["requests"]:
        raise BenchmarkFailed(f"{contender.program.name}: {result['failed']} of {result['requests']} polls failed")
    return Polled(result["requests"], 1e6 * result["requests"] / result["duration"], result["p99"] / 1000)


@dataclass(frozen=True)
class Answer:
    """What came to a held request; `at` is a time of the monotonic clock."""

    index: int
    at: float
    status: int
    wait_result: str
    body: str


class Holds:
    """Held requests. `began` is when the first was sent, and `sent` when all were."""

    def __init__(self, process: "subprocess.Popen[str]", contender: Contender) -> None:
        self._process = process
        self._contender = contender
        times = self._line()
        self.began: float = times["began"]
        self.sent: float = times["sent"]

    def answers(self, *, signed: bool = True) -> list[Answer]:
        """The answers to all of them. Raises BenchmarkFailed where one is not the news that was waited for."""
        answers = [Answer(*each) for each in self._line()]
        self._raise_wrong(answers, signed=signed)
        return answers

    def stop(self) -> list[Answer]:
        """What has come so far, to those that have an answer."""
        assert self._process.stdin is not None  # noqa: S101 - it was opened with a pipe
        self._process.stdin.write("stop\n")
        self._process.stdin.flush()
        return [Answer(*each) for each in self._line() if each[1] is not None]

    def _raise_wrong(self, answers: Sequence[Answer], *, signed: bool) -> None:
        wrong = [each for each in answers if not _is_news(each, signed=signed)]
        if wrong:
            some = (
                f"{len(wrong)} of {len(answers)} held requests were not answered with news, the first with {wrong[0]}"
            )
            raise BenchmarkFailed(f"{self._contender.program.name}: {some}")

    def _line(self) -> Any:
        assert self._process.stdout is not None  # noqa: S101 - it was opened with a pipe
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkFailed(f"the client of {self._contender.program.name} has ended")
        return json.loads(line)


def _is_news(answer: Answer, *, signed: bool) -> bool:
    is_signed = not signed or "X-Amz-Signature" in answer.body
    return answer.status == _OK and answer.wait_result in {"", "settled"} and is_signed


@contextmanager
def holding(contender: Contender, requests: Sequence[Request]) -> Iterator[Holds]:
    """Clients that hold these requests, in a process of their own; all are sent when the block begins."""
    command = [sys.executable, "-m", "benchmarks.clients.hold"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None  # noqa: S101 - it was opened with a pipe
        try:
            process.stdin.write(json.dumps({"port": contender.port, "requests": requests}) + "\n")
            process.stdin.flush()
            yield Holds(process, contender)
        finally:
            process.kill()


def wait_registered(contender: Contender, holds: Holds, count: int) -> float:
    """Seconds from the first request until the contender holds all `count`."""
    deadline = holds.began + _HOLD_SECONDS
    while (held := contender.held()) < count:
        if time.monotonic() > deadline:
            early = Counter((each.status, each.wait_result) for each in holds.stop())
            name = contender.program.name
            raise BenchmarkFailed(f"{name} holds {held} of {count} requests; it has answered {dict(early)}")
        # Asking takes the server's time: as rarely as half of what is left will take, judged by what is done.
        so_far = time.monotonic() - holds.began
        time.sleep(min(0.25, max(0.02, so_far * (count - held) / max(held, 1) / 2)))
    return time.monotonic() - holds.began


def finish_jobs(bench: Bench, jobs: Sequence[int], rate: float) -> Mapping[int, float]:
    """Workers finish `jobs`, `rate` a second. When each write began. Raises BenchmarkFailed where they are too slow."""
    params = {"uri": bench.database.uri, "database": NAME, "jobs": list(jobs), "rate": rate}
    command = [sys.executable, "-m", "benchmarks.clients.writer"]
    done = subprocess.run(
        command, input=json.dumps(params), stdout=subprocess.PIPE, text=True, timeout=_TIMEOUT_SECONDS, check=False
    )
    if done.returncode:
        raise BenchmarkFailed("the writer of finished jobs has failed: its output is above")
    return {job: begun for job, begun, _ in json.loads(done.stdout)}


def rate_of(begun: Mapping[int, float]) -> float:
    """How many writes began in a second."""
    return (len(begun) - 1) / (max(begun.values()) - min(begun.values())) if len(begun) > 1 else 0.0


def p50(values: Sequence[float]) -> float:
    return median(values)


def p99(values: Sequence[float]) -> float:
    return float(quantiles(values, n=100, method="inclusive")[98])
