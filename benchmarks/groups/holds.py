"""Ten thousand holds on distinct jobs on which nothing happens: what they take, and what they cost everybody else."""

import time
from collections import defaultdict
from collections.abc import Mapping

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.contenders import Contender
from benchmarks.database import at_route, hold_requests, path
from benchmarks.groups.polls import answer_of, finished_job
from benchmarks.load import Request, holding, poll, wait_registered
from benchmarks.machine import most_connections
from benchmarks.procfs import cpu_seconds, memory
from benchmarks.table import Row, Target

#: Few enough that a poll does not wait long for those before it.
_CONNECTIONS = 8


def measure(bench: Bench) -> list[Row]:
    count = min(bench.scale.holds, most_connections())
    requests = hold_requests(bench.database.add_jobs(count))
    job = finished_job(bench)
    with contenders.genstatus(bench) as contender:
        body = answer_of(contender, job)
    measured: dict[str, list[float]] = defaultdict(list)
    for _ in bench.rounds(f"{count} holds"):
        with contenders.genstatus(bench) as contender:
            for name, value in _ours(bench, contender, requests, path(job)).items():
                measured[name].append(value)
        with contenders.bare(bench, body) as contender:
            poll(contender, at_route("/", path(job)), bench.scale.poll_seconds, connections=_CONNECTIONS)
            before = memory(contender.pid)
            with holding(contender, [(at_route("/hold", each), token) for each, token in requests]) as holds:
                measured["bare registered"].append(wait_registered(contender, holds, count))
                measured["bare memory"].append((memory(contender.pid) - before) / count / 1000)
    holding_many = f"{count:,} holds"
    return [
        Row(
            "holds",
            f"memory per hold, {holding_many}",
            "kB",
            measured["memory"],
            measured["bare memory"],
            "bare",
            Target("<=", 1.25),
            key="memory",
        ),
        Row("holds", f"CPU, {holding_many}, idle", "%", measured["cpu"], target=Target("<=", 0.5), key="cpu"),
        Row(
            "holds",
            f"MongoDB operations, {holding_many}, idle",
            "/s",
            measured["operations"],
            target=Target("<=", 2),
            key="operations",
        ),
        Row(
            "holds",
            f"{holding_many} registered",
            "s",
            measured["registered"],
            measured["bare registered"],
            "bare",
            Target("<=", 1.3),
        ),
        Row(
            "holds",
            f"p99 of polls beside {holding_many}",
            "ms",
            measured["p99"],
            measured["p99 alone"],
            "without",
            Target("<=", 1.2),
        ),
        Row("holds", "CPU to register a hold", "µs", measured["register cpu"]),
    ]


def _ours(bench: Bench, contender: Contender, requests: list[Request], polled: str) -> Mapping[str, float]:
    count, seconds = len(requests), bench.scale.poll_seconds
    poll(contender, polled, 1, connections=_CONNECTIONS)
    alone = poll(contender, polled, seconds, connections=_CONNECTIONS)
    before, cpu_before = memory(contender.pid), cpu_seconds(contender.pid)
    with holding(contender, requests) as holds:
        registered = wait_registered(contender, holds, count)
        register_cpu = cpu_seconds(contender.pid) - cpu_before
        used = memory(contender.pid) - before
        cpu, operations = idle_costs(bench, contender)
        beside = poll(contender, polled, seconds, connections=_CONNECTIONS)
    return {
        "memory": used / count / 1000,
        "registered": registered,
        "register cpu": 1e6 * register_cpu / count,
        "cpu": 100 * cpu,
        "operations": operations,
        "p99 alone": alone.p99_ms,
        "p99": beside.p99_ms,
    }


def idle_costs(bench: Bench, contender: Contender) -> tuple[float, float]:
    """CPU seconds and MongoDB operations, both a second, of a contender on which nothing happens."""
    cpu, operations, began = cpu_seconds(contender.pid), bench.database.operations(), time.monotonic()
    time.sleep(bench.scale.idle_seconds)
    seconds = time.monotonic() - began
    # One of the operations is the measuring one itself.
    done = bench.database.operations() - operations - 1
    return (cpu_seconds(contender.pid) - cpu) / seconds, done / seconds
