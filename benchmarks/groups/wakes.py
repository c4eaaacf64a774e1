"""Jobs that finish while they are waited for: from the start of a worker's write to the answer."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.contenders import Contender
from benchmarks.database import NAME, hold_requests
from benchmarks.load import finish_jobs, holding, p50, p99, wait_registered
from benchmarks.procfs import cpu_seconds
from benchmarks.programs import BenchmarkFailed
from benchmarks.table import Row, Target

#: Jobs that finish first and are not counted, while what there is gets read and compiled.
WARM_UP = 50


def measure(bench: Bench) -> list[Row]:
    count, rate = bench.scale.wake_holds, bench.scale.wake_rate
    measured: dict[str, list[float]] = defaultdict(list)
    for _ in bench.rounds(f"{count} holds, {rate} finished a second"):
        jobs = bench.database.add_jobs(count + WARM_UP)
        with contenders.genstatus(bench) as contender:
            cpu = cpu_seconds(contender.pid)
            ours = wake(bench, contender, jobs, rate)
            measured["cpu"].append(1e6 * (cpu_seconds(contender.pid) - cpu) / len(jobs))
        raw = raw_stream(bench, bench.database.add_jobs(count + WARM_UP), rate)
        for name, latencies in (("ours", ours), ("raw", raw)):
            measured[f"{name} p50"].append(p50(latencies))
            measured[f"{name} p99"].append(p99(latencies))
    what = f"{count:,} holds, {rate} finished/s"
    return [
        Row(
            "wakes",
            f"write to answer, p50; {what}",
            "ms",
            measured["ours p50"],
            measured["raw p50"],
            "raw stream",
            Target("<=", 1.4),
            key="p50",
        ),
        Row(
            "wakes",
            f"write to answer, p99; {what}",
            "ms",
            measured["ours p99"],
            measured["raw p99"],
            "raw stream",
            Target("<=", 1.8),
            key="p99",
        ),
        Row("wakes", "CPU per hold and its wake", "µs", measured["cpu"]),
    ]


def wake(bench: Bench, contender: Contender, jobs: Sequence[int], rate: float) -> list[float]:
    """Milliseconds from the start of each write to its answer, without those of the warm-up."""
    with holding(contender, hold_requests(jobs)) as holds:
        wait_registered(contender, holds, len(jobs))
        begun = finish_jobs(bench, jobs, rate)
        answered = {jobs[answer.index]: answer.at for answer in holds.answers()}
    return latencies(jobs, begun, answered)


def raw_stream(bench: Bench, jobs: Sequence[int], rate: float) -> list[float]:
    """The same of a loop over a change stream, from the start of each write to the arrival of its change."""
    command = ["taskset", "-c", str(bench.cores.server), sys.executable, "-m", "benchmarks.clients.raw_stream"]
    command += [bench.database.uri, NAME, str(len(jobs))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - it was opened with a pipe
        try:
            if process.stdout.readline().strip() != "live":
                raise BenchmarkFailed("the raw change stream could not be started: its output is above")
            begun = finish_jobs(bench, jobs, rate)
            arrived = dict(json.loads(process.stdout.readline()))
        finally:
            process.kill()
    return latencies(jobs, begun, arrived)


def latencies(jobs: Sequence[int], begun: Mapping[int, float], ended: Mapping[int, float]) -> list[float]:
    """In milliseconds, without the warm-up."""
    return [1000 * (ended[job] - begun[job]) for job in jobs[WARM_UP:]]
