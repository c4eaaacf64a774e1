"""Plain polls of a finished job by users who may see it, each with its presigned URL."""

import time
from contextlib import ExitStack

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.contenders import Contender
from benchmarks.database import at_route, path, token
from benchmarks.load import poll
from benchmarks.procfs import cpu_seconds
from benchmarks.programs import fetch
from benchmarks.table import Row, Target

_CONNECTIONS = 32


def measure(bench: Bench) -> list[Row]:
    job = finished_job(bench)
    with ExitStack() as stack:
        shipped = stack.enter_context(contenders.genstatus(bench))
        body = answer_of(shipped, job)
        each = {
            "shipped": (shipped, path(job)),
            "quiet": (stack.enter_context(contenders.genstatus(bench, "--access-log=false")), path(job)),
            "bare": (stack.enter_context(contenders.bare(bench, body)), at_route("/", path(job))),
            "plain": (stack.enter_context(contenders.tornado_motor(bench)), path(job)),
        }
        for contender, request_path in each.values():
            wait_still(bench)
            poll(contender, request_path, 1, connections=_CONNECTIONS)  # to read and compile what there is
        per_second: dict[str, list[float]] = {name: [] for name in each}
        finds, cpu = [], []
        for _ in bench.rounds("polls"):
            for name, (contender, request_path) in each.items():
                wait_still(bench)
                finds_before, cpu_before = bench.database.finds(), cpu_seconds(contender.pid)
                polled = poll(contender, request_path, bench.scale.poll_seconds, connections=_CONNECTIONS)
                per_second[name].append(polled.per_second)
                if name == "shipped":
                    finds.append((bench.database.finds() - finds_before) / polled.requests)
                    cpu.append(1e6 * (cpu_seconds(contender.pid) - cpu_before) / polled.requests)
    shipped_rates, quiet, bare, plain = (per_second[name] for name in ("shipped", "quiet", "bare", "plain"))
    return [
        Row("polls", "plain polls, access log off", "/s", quiet, bare, "bare", Target(">=", 0.75)),
        Row("polls", "plain polls, as shipped", "/s", shipped_rates, bare, "bare", Target(">=", 0.75)),
        Row(
            "polls",
            "plain polls, as shipped",
            "/s",
            shipped_rates,
            plain,
            "Tornado + Motor",
            Target(">=", 7),
            key="poll",
        ),
        Row("polls", "MongoDB reads per poll", "", finds, target=Target("<=", 0), key="reads"),
        Row("polls", "CPU per poll, as shipped", "µs", cpu),
    ]


def wait_still(bench: Bench) -> None:
    """Return when MongoDB gets no more reads: wrk leaves with requests that are still being worked on."""
    before, finds = -1, bench.database.finds()
    while finds != before:
        time.sleep(0.1)
        before, finds = finds, bench.database.finds()


def finished_job(bench: Bench) -> int:
    """A new job, finished."""
    [job] = bench.database.add_jobs(1)
    bench.database.finish(job)
    return job


def answer_of(contender: Contender, job: int) -> bytes:
    """The body of a plain poll."""
    return fetch(contender.url + path(job), {"X-Session-ID": token(1000)})
