"""What grows: the cost of more holds, of more processes, and of more change streams on one mongod. For the picture."""

import time
from collections import defaultdict

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.database import hold_requests, path
from benchmarks.groups.changes import bare_loops
from benchmarks.groups.polls import finished_job
from benchmarks.load import finish_jobs, holding, p99, poll, wait_registered
from benchmarks.machine import most_connections
from benchmarks.procfs import cpu_seconds, memory
from benchmarks.table import Row

_CONNECTIONS = 32
_RATE = 200
#: Jobs that finish while so many others are held.
_FINISHED = 200
_SETTLE = 0.5


def measure(bench: Bench) -> list[Row]:
    values: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for _ in bench.rounds("growth"):
        for count in sorted({min(each, most_connections()) for each in bench.scale.growth_holds}):
            _measure_holds(bench, count, values)
        for count in (1, 2):
            cores = [bench.cores.server, bench.cores.load]
            with contenders.genstatus(bench, f"--processes={count}", core=cores) as contender:
                polled = poll(contender, path(finished_job(bench)), bench.scale.poll_seconds, connections=_CONNECTIONS)
            values["polls", "/s", count].append(polled.per_second)
        for count in bench.scale.growth_streams:
            with bare_loops(bench, count):
                values["mongod's CPU per write", "µs", count].append(_mongod_per_write(bench))
    sizes = {"polls": "processes", "mongod's CPU per write": "streams"}
    return [
        Row("growth", f"{name}, {size:,} {sizes.get(name, 'holds')}", unit, measured, curve=name, size=size)
        for (name, unit, size), measured in values.items()
    ]


def _measure_holds(bench: Bench, count: int, values: dict[tuple[str, str, int], list[float]]) -> None:
    jobs = bench.database.add_jobs(count)
    with contenders.genstatus(bench, f"--max-waits={count}") as contender:
        before = memory(contender.pid)
        with holding(contender, hold_requests(jobs)) as holds:
            wait_registered(contender, holds, count)
            values["memory", "MB", count].append((memory(contender.pid) - before) / 1e6)
            finished = jobs[:: max(2, count // _FINISHED)]
            begun = finish_jobs(bench, finished, _RATE)
            time.sleep(_SETTLE)
            answered = {jobs[answer.index]: answer.at for answer in holds.stop()}
    values["wake p99", "ms", count].append(p99([1000 * (answered[job] - begun[job]) for job in finished]))


def _mongod_per_write(bench: Bench) -> float:
    jobs = bench.database.add_jobs(_RATE * bench.scale.rate_seconds)
    time.sleep(_SETTLE)
    before = cpu_seconds(bench.database.pid)
    finish_jobs(bench, jobs, _RATE)
    time.sleep(_SETTLE)
    return 1e6 * (cpu_seconds(bench.database.pid) - before) / len(jobs)
