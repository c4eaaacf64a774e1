"""One process and two, on both cores together with the load: the costs with which docs/scaling.md reckons."""

from collections import defaultdict

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.contenders import Contender
from benchmarks.database import path
from benchmarks.groups.holds import idle_costs
from benchmarks.groups.polls import finished_job
from benchmarks.load import poll
from benchmarks.procfs import cpu_seconds, memory
from benchmarks.table import Row

_CONNECTIONS = 32


def measure(bench: Bench) -> list[Row]:
    job = finished_job(bench)
    one: dict[str, list[float]] = defaultdict(list)
    two: dict[str, list[float]] = defaultdict(list)
    for _ in bench.rounds("processes"):
        for count, measured in ((1, one), (2, two)):
            cores = [bench.cores.server, bench.cores.load]
            with contenders.genstatus(bench, f"--processes={count}", core=cores) as contender:
                for name, value in _measure_one(bench, contender, path(job)).items():
                    measured[name].append(value)
    return [
        Row("processes", name, unit, two[name], one[name], "1 process")
        for name, unit in (
            ("plain polls, 2 processes", "/s"),
            ("CPU per poll, 2 processes", "µs"),
            ("memory, 2 processes", "MB"),
            ("MongoDB operations, 2 processes, idle", "/s"),
        )
    ]


def _measure_one(bench: Bench, contender: Contender, polled: str) -> dict[str, float]:
    poll(contender, polled, 1, connections=_CONNECTIONS)
    cpu = cpu_seconds(contender.pid)
    measured = poll(contender, polled, bench.scale.poll_seconds, connections=_CONNECTIONS)
    cpu_of_polls = cpu_seconds(contender.pid) - cpu
    _, operations = idle_costs(bench, contender)
    return {
        "plain polls, 2 processes": measured.per_second,
        "CPU per poll, 2 processes": 1e6 * cpu_of_polls / measured.requests,
        "memory, 2 processes": memory(contender.pid) / 1e6,
        "MongoDB operations, 2 processes, idle": operations,
    }
