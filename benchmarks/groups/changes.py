"""What a change that nobody waits for costs the server and mongod.

Measured with no server process, one, two, and one that holds a request for another job.
"""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.database import NAME, hold_requests
from benchmarks.load import finish_jobs, holding, wait_registered
from benchmarks.procfs import cpu_seconds
from benchmarks.programs import BenchmarkFailed
from benchmarks.table import Row, Target

#: Seconds after the last write until its change has been told.
_SETTLE = 0.5


def measure(bench: Bench) -> list[Row]:
    measured: dict[tuple[int, str], list[float]] = defaultdict(list)
    for _ in bench.rounds("changes that nobody waits for"):
        for rate in bench.scale.change_rates:
            measured[rate, "none"].append(_costs(bench, rate, None)[1])
            with bare_loops(bench, 1) as [loop]:
                measured[rate, "loop"].append(_costs(bench, rate, loop)[0])
            for count in (1, 2):
                with contenders.genstatus(bench, f"--processes={count}") as contender:
                    server, mongod = _costs(bench, rate, contender.pid)
                measured[rate, f"server {count}"].append(server / count)
                measured[rate, f"mongod {count}"].append(mongod)
            with contenders.genstatus(bench) as contender:
                held = hold_requests(bench.database.add_jobs(1))
                with holding(contender, held) as holds:
                    wait_registered(contender, holds, len(held))
                    measured[rate, "server held"].append(_costs(bench, rate, contender.pid)[0])
    return [row for rate in bench.scale.change_rates for row in _rows(rate, measured)]


def _rows(rate: int, measured: dict[tuple[int, str], list[float]]) -> Iterator[Row]:
    loop, none, one, two = (measured[rate, name] for name in ("loop", "none", "mongod 1", "mongod 2"))
    what = f"at {rate:,} writes/s"
    server = measured[rate, "server 1"]
    yield Row(
        "changes", f"CPU per change nobody waits for, {what}", "µs", server, loop, "PyMongo loop", Target("<=", 1.5)
    )
    yield Row(
        "changes", f"the same of each of 2 processes, {what}", "µs", measured[rate, "server 2"], loop, "PyMongo loop"
    )
    yield Row(
        "changes",
        f"CPU per change while another job is held, {what}",
        "µs",
        measured[rate, "server held"],
        loop,
        "PyMongo loop",
        Target("<=", 1.5),
    )
    yield Row("changes", f"mongod's CPU per write, 1 process, {what}", "µs", one, none, "no process")
    added = [with_two - with_one for with_one, with_two in zip(one, two, strict=True)]
    yield Row("changes", f"mongod's CPU per write for the 2nd process, {what}", "µs", added, target=Target("<=", 300))


def _costs(bench: Bench, rate: int, pid: int | None) -> tuple[float, float]:
    """Microseconds of CPU of `pid` and of mongod for each finished job."""
    jobs = bench.database.add_jobs(max(50, rate * bench.scale.rate_seconds))
    time.sleep(_SETTLE)  # until the changes of these inserts were told: they end with no event of ours
    ours, mongod = cpu_seconds(pid) if pid else 0.0, cpu_seconds(bench.database.pid)
    finish_jobs(bench, jobs, rate)
    time.sleep(_SETTLE)
    used = cpu_seconds(pid) - ours if pid else 0.0
    return 1e6 * used / len(jobs), 1e6 * (cpu_seconds(bench.database.pid) - mongod) / len(jobs)


@contextmanager
def bare_loops(bench: Bench, count: int) -> Iterator[list[int]]:
    """The process ids of so many plain readers of the server's change stream."""
    command = ["taskset", "-c", str(bench.cores.server), sys.executable, "-m", "benchmarks.clients.bare_loop"]
    processes = [
        subprocess.Popen([*command, bench.database.uri, NAME], stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for process in processes:
            if process.stdout is None or process.stdout.readline().strip() != "live":
                raise BenchmarkFailed("a bare loop over the change stream could not be started: its output is above")
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
