"""Holds on distinct jobs, with us and with the peers: what an idle one takes, and how soon its news comes."""

import time
from collections import defaultdict

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.contenders import Contender
from benchmarks.database import hold_requests, path
from benchmarks.groups.holds import idle_costs
from benchmarks.groups.polls import wait_still
from benchmarks.groups.wakes import WARM_UP, latencies
from benchmarks.load import finish_jobs, holding, p50, p99, poll
from benchmarks.procfs import cpu_seconds, memory
from benchmarks.table import Row

_RATE = 50
_CONNECTIONS = 32
_OURS = "genstatus"
_CONTENDERS = {
    _OURS: contenders.genstatus,
    "FastAPI, a change stream each": contenders.fastapi_stream,
    "Tornado + Motor, every second": contenders.tornado_motor,
}
_MEASURED = {
    "memory": ("memory per hold", "kB"),
    "cpu": ("CPU, idle", "%"),
    "operations": ("MongoDB operations, idle", "/s"),
    "p50": ("write to answer, p50", "ms"),
    "p99": ("write to answer, p99", "ms"),
    "fan_out": ("the last of as many on one job", "s"),
    "poll": ("plain polls", "/s"),
    "reads": ("MongoDB reads per poll", ""),
}


def measure(bench: Bench) -> list[Row]:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    count = bench.scale.peer_holds + WARM_UP
    for _ in bench.rounds(f"peers, {count} holds"):
        for name, contender_of in _CONTENDERS.items():
            jobs = bench.database.add_jobs(count)
            with contender_of(bench) as contender:
                for measured, value in _measure_one(bench, contender, jobs).items():
                    values[name, measured].append(value)
    return [
        Row(
            "peers", what, unit, values[_OURS, measured], values[peer, measured], f"{peer}; {count} holds", key=measured
        )
        for measured, (what, unit) in _MEASURED.items()
        for peer in _CONTENDERS
        if peer != _OURS
    ]


def _measure_one(bench: Bench, contender: Contender, jobs: list[int]) -> dict[str, float]:
    before = memory(contender.pid)
    with holding(contender, hold_requests(jobs)) as holds:
        wait_quiet(contender)
        used = memory(contender.pid) - before
        cpu, operations = idle_costs(bench, contender)
        begun = finish_jobs(bench, jobs, _RATE)
        answered = {jobs[answer.index]: answer.at for answer in holds.answers()}
    waited = latencies(jobs, begun, answered)
    polled, finds = path(jobs[0]), bench.database.finds()
    polls = poll(contender, polled, bench.scale.poll_seconds, connections=_CONNECTIONS)
    wait_still(bench)
    return {
        "fan_out": _last_of_one_job(bench, contender, len(jobs)),
        "poll": polls.per_second,
        "reads": (bench.database.finds() - finds) / polls.requests,
        "memory": used / len(jobs) / 1000,
        "cpu": 100 * cpu,
        "operations": operations,
        "p50": p50(waited),
        "p99": p99(waited),
    }


def _last_of_one_job(bench: Bench, contender: Contender, count: int) -> float:
    """Seconds from the write to the last answer."""
    [job] = bench.database.add_jobs(1)
    with holding(contender, hold_requests([job] * count)) as holds:
        wait_quiet(contender)
        began = time.monotonic()
        bench.database.finish(job)
        return max(answer.at for answer in holds.answers()) - began


def wait_quiet(contender: Contender) -> None:
    """Come back when the contender uses less than half of its core, as it does once it holds all: peers do not tell."""
    used, since = cpu_seconds(contender.pid), time.monotonic()
    while True:
        time.sleep(0.5)
        now_used, now = cpu_seconds(contender.pid), time.monotonic()
        if now_used - used < 0.5 * (now - since):
            return
        used, since = now_used, now
