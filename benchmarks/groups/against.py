"""The server beside the server of another checkout, in turns: what users feel of a change."""

from collections import defaultdict
from typing import Final

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.contenders import Contender
from benchmarks.database import hold_requests
from benchmarks.groups.ablation import fan_out_seconds, poll_microseconds
from benchmarks.groups.wakes import WARM_UP, wake
from benchmarks.load import holding, p50, p99, wait_registered
from benchmarks.machine import most_connections
from benchmarks.procfs import memory
from benchmarks.programs import BenchmarkFailed
from benchmarks.table import Row, Target

#: Worse than this is a loss.
_MOST: Final = Target("<=", 1.15)


def measure(bench: Bench) -> list[Row]:
    if bench.against is None:
        raise BenchmarkFailed("--against names the checkout")
    ours: dict[tuple[str, str], list[float]] = defaultdict(list)
    theirs: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in bench.rounds(f"against {bench.against}"):
        for measured, checkout in ((theirs, bench.against), (ours, None)):
            with contenders.genstatus(bench, checkout=checkout) as contender:
                for what, value in _felt(bench, contender).items():
                    measured[what].append(value)
            with contenders.genstatus(bench, checkout=checkout) as contender:
                measured["memory per hold", "kB"].append(_memory_of_hold(bench, contender))
    return [Row("against", what, unit, ours[what, unit], theirs[what, unit], "before", _MOST) for what, unit in ours]


def _felt(bench: Bench, contender: Contender) -> dict[tuple[str, str], float]:
    jobs = bench.database.add_jobs(bench.scale.wake_holds + WARM_UP)
    many = bench.database.add_jobs(WARM_UP + bench.scale.rates[-1] * bench.scale.rate_seconds)
    usual = wake(bench, contender, jobs, bench.scale.wake_rate)
    quick = wake(bench, contender, many, bench.scale.rates[-1])
    return {
        ("a poll", "µs"): poll_microseconds(bench, contender),
        (f"a wake, p50, {bench.scale.wake_rate} finished/s", "ms"): p50(usual),
        (f"a wake, p99, {bench.scale.wake_rate} finished/s", "ms"): p99(usual),
        (f"a wake, p50, {bench.scale.rates[-1]} finished/s", "ms"): p50(quick),
        ("the last of many holds on one job", "s"): fan_out_seconds(bench, contender),
    }


def _memory_of_hold(bench: Bench, contender: Contender) -> float:
    count = min(bench.scale.holds, most_connections())
    requests = hold_requests(bench.database.add_jobs(count))
    poll_microseconds(bench, contender)  # What is loaded only once is not counted.
    before = memory(contender.pid)
    with holding(contender, requests) as holds:
        wait_registered(contender, holds, count)
        return (memory(contender.pid) - before) / count / 1000
