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


def _polls(bench: Bench, contender: Contender) -> float:
    target = path(finished_job(bench))
    poll(contender, target, 1, connections=_CONNECTIONS)
    return 1e6 / poll(contender, target, bench.scale.poll_seconds, connections=_CONNECTIONS).per_second


def _wakes(bench: Bench, contender: Contender) -> float:
    return p50(wake(bench, contender, _jobs_of_wakes(bench), bench.scale.wake_rate))


def _cpu_of_wakes(bench: Bench, contender: Contender) -> float:
    jobs, before = _jobs_of_wakes(bench), cpu_seconds(contender.pid)
    wake(bench, contender, jobs, bench.scale.wake_rate)
    return 1e6 * (cpu_seconds(contender.pid) - before) / len(jobs)


def _jobs_of_wakes(bench: Bench) -> list[int]:
    return bench.database.add_jobs(bench.scale.wake_holds + WARM_UP)


def _fan_out(bench: Bench, contender: Contender) -> float:
    return wake_all(bench, contender, bench.scale.fan_out)


def _burst(bench: Bench, contender: Contender) -> float:
    return burst(bench, contender, bench.scale.burst)


def _registered(bench: Bench, contender: Contender) -> float:
    count = bench.scale.fan_out
    with holding(contender, hold_requests(bench.database.add_jobs(count))) as holds:
        return wait_registered(contender, holds, count)


#: What users feel of each optimisation: less is better.
_MEASURED: Final[dict[str, tuple[str, str, Callable[[Bench, Contender], float]]]] = {
    "cached_documents": ("a poll", "µs", _polls),
    "applied_updates": ("a wake, p50", "ms", _wakes),
    "batched_reads": ("the last of many cold polls at once", "s", _burst),
    "cached_urls": ("a poll", "µs", _polls),
    "direct_signature": ("CPU per hold and its wake", "µs", _cpu_of_wakes),
    "encoded_answers": ("a poll", "µs", _polls),
    "parsed_queries": ("a poll", "µs", _polls),
    "answers_first": ("the last of many holds on one job", "s", _fan_out),
    "log_thread": ("a poll", "µs", _polls),
    "garbage_collector": ("many holds registered", "s", _registered),
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
