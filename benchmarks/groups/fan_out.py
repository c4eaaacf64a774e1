"""Many holds on one job: from the start of the write, or of the broadcast, to the last answer."""

import time
from collections import defaultdict
from collections.abc import Callable

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.contenders import Contender
from benchmarks.database import at_route, hold_requests
from benchmarks.groups.polls import answer_of, finished_job
from benchmarks.load import Request, holding, wait_registered
from benchmarks.machine import most_connections
from benchmarks.procfs import memory
from benchmarks.programs import fetch
from benchmarks.table import Row, Target

_WARM_UP = 50


def measure(bench: Bench) -> list[Row]:
    count = min(bench.scale.fan_out, most_connections())
    job = finished_job(bench)
    with contenders.genstatus(bench) as contender:
        body = answer_of(contender, job)
    measured: dict[str, list[float]] = defaultdict(list)
    for _ in bench.rounds(f"{count} holds on one job"):
        with contenders.genstatus(bench) as contender:
            wake_all(bench, contender, _WARM_UP)
            measured["ours"].append(wake_all(bench, contender, count))
        with contenders.bare(bench, body) as contender:
            seconds, _ = _broadcast(contender, body, count)
            measured["bare"].append(seconds)
        with contenders.nchan(bench) as contender:
            seconds, per_hold = _broadcast(contender, body, count)
            measured["nchan"].append(seconds)
            measured["nchan memory"].append(per_hold)
    what = f"{count:,} holds on one job"
    return [
        Row(
            "fan-out",
            f"{what}, write to last answer",
            "s",
            measured["ours"],
            measured["bare"],
            "bare broadcast",
            Target("<=", 1.0),
            key="fan_out",
        ),
        Row(
            "fan-out",
            "the same of nchan, which only passes bytes on",
            "s",
            measured["nchan"],
            measured["bare"],
            "bare broadcast",
        ),
        Row("fan-out", "memory per hold of nchan", "kB", measured["nchan memory"]),
    ]


def wake_all(bench: Bench, contender: Contender, count: int) -> float:
    [job] = bench.database.add_jobs(1)
    seconds, _ = _fan_out(contender, hold_requests([job] * count), lambda: bench.database.finish(job), signed=True)
    return seconds


def _broadcast(contender: Contender, body: bytes, count: int) -> tuple[float, float]:
    def publish() -> None:
        fetch(f"{contender.url}/broadcast", method="POST", body=body)

    def requests(count: int) -> list[Request]:
        return [(at_route("/hold", each), token) for each, token in hold_requests([0] * count)]

    _fan_out(contender, requests(_WARM_UP), publish, signed=False)
    return _fan_out(contender, requests(count), publish, signed=False)


def _fan_out(
    contender: Contender, requests: list[Request], publish: Callable[[], None], *, signed: bool
) -> tuple[float, float]:
    """Seconds to the last answer, and kB for each hold."""
    before = memory(contender.pid)
    with holding(contender, requests) as holds:
        wait_registered(contender, holds, len(requests))
        per_hold = (memory(contender.pid) - before) / len(requests) / 1000
        began = time.monotonic()
        publish()
        return max(answer.at for answer in holds.answers(signed=signed)) - began, per_hold
