"""What each optimisation gains: the server beside itself with that one switched off, in turns."""

from collections import defaultdict
from collections.abc import Callable
from typing import Final

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.contenders import Contender
from benchmarks.database import hold_requests, path
from benchmarks.groups.cold import burst
from benchmarks.groups.fan_out import wake_all
from benchmarks.groups.polls import finished_job
from benchmarks.groups.wakes import WARM_UP, wake
from benchmarks.load import holding, p50, poll, wait_registered
from benchmarks.procfs import cpu_seconds
from benchmarks.table import Row

_CONNECTIONS: Final = 32


def poll_microseconds(bench: Bench, contender: Contender) -> float:
    target = path(finished_job(bench))
    poll(contender, target, 1, connections=_CONNECTIONS)
    return 1e6 / poll(contender, target, bench.scale.poll_seconds, connections=_CONNECTIONS).per_second


def wake_milliseconds(bench: Bench, contender: Contender) -> float:
    return p50(wake(bench, contender, _jobs_of_wakes(bench), bench.scale.wake_rate))


def wake_cpu_microseconds(bench: Bench, contender: Contender) -> float:
    jobs, before = _jobs_of_wakes(bench), cpu_seconds(contender.pid)
    wake(bench, contender, jobs, bench.scale.wake_rate)
    return 1e6 * (cpu_seconds(contender.pid) - before) / len(jobs)


def _jobs_of_wakes(bench: Bench) -> list[int]:
    return bench.database.add_jobs(bench.scale.wake_holds + WARM_UP)


def fan_out_seconds(bench: Bench, contender: Contender) -> float:
    return wake_all(bench, contender, bench.scale.fan_out)


def burst_seconds(bench: Bench, contender: Contender) -> float:
    return burst(bench, contender, bench.scale.burst)


def registering_seconds(bench: Bench, contender: Contender) -> float:
    count = bench.scale.fan_out
    with holding(contender, hold_requests(bench.database.add_jobs(count))) as holds:
        return wait_registered(contender, holds, count)


#: What users feel of each optimisation: less is better.
_MEASURED: Final[dict[str, tuple[str, str, Callable[[Bench, Contender], float]]]] = {
    "cached_documents": ("a poll", "µs", poll_microseconds),
    "applied_updates": ("a wake, p50", "ms", wake_milliseconds),
    "batched_reads": ("the last of many cold polls at once", "s", burst_seconds),
    "cached_urls": ("a poll", "µs", poll_microseconds),
    "direct_signature": ("CPU per hold and its wake", "µs", wake_cpu_microseconds),
    "encoded_answers": ("a poll", "µs", poll_microseconds),
    "parsed_queries": ("a poll", "µs", poll_microseconds),
    "answers_first": ("the last of many holds on one job", "s", fan_out_seconds),
    "log_thread": ("a poll", "µs", poll_microseconds),
    "garbage_collector": ("many holds registered", "s", registering_seconds),
}


def measure(bench: Bench) -> list[Row]:
    values: dict[str, list[float]] = defaultdict(list)
    shipped: dict[str, list[float]] = defaultdict(list)
    for _ in bench.rounds("ablation"):
        for name, (_, _, measured) in _MEASURED.items():
            with contenders.genstatus(bench) as contender:
                shipped[name].append(measured(bench, contender))
            with contenders.genstatus(bench, without=name) as contender:
                values[name].append(measured(bench, contender))
    return [
        Row("ablation", f"without {name}: {what}", unit, values[name], shipped[name], "as shipped")
        for name, (what, unit, _) in _MEASURED.items()
    ]
