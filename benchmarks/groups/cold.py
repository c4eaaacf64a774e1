"""Requests whose documents are not cached: alone, over one read of Motor's, and a burst of them."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.contenders import Contender
from benchmarks.database import NAME, at_route, path, token
from benchmarks.load import Request, holding, p50
from benchmarks.programs import BenchmarkFailed
from benchmarks.table import Row, Target

#: The first of the login sessions that nothing else uses.
_FIRST_SESSION = 1500
_WARM_UP = 50
_OK = 200


def measure(bench: Bench) -> list[Row]:
    count, at_once = bench.scale.cold, bench.scale.burst
    measured: dict[str, list[float]] = defaultdict(list)
    for _ in bench.rounds(f"{count} cold requests, and {at_once} at once"):
        with contenders.genstatus(bench) as contender:
            logged_in, cold = _alone(bench, contender, count)
            measured["logged in"].append(logged_in)
            measured["cold"].append(cold)
        measured["find_one"].append(_find_one(bench, count))
        with contenders.tornado_motor(bench) as contender:
            measured["plain"].append(_alone(bench, contender, count)[1])
            finds = [(at_route("/find", path(job)), "") for job in bench.database.add_jobs(count)]
            measured["find handler"].append(p50(_poll_each(contender, finds)))
        with contenders.genstatus(bench) as contender:
            measured["burst"].append(burst(bench, contender, at_once))
        with contenders.tornado_motor(bench) as contender:
            measured["plain burst"].append(burst(bench, contender, at_once))
    find_one = measured["find_one"]
    plain = "Tornado + Motor"
    return [
        Row("cold", "cold poll, login cached, p50", "ms", measured["logged in"], find_one, "one find", Target("<=", 2)),
        Row("cold", "cold poll, nothing cached, p50", "ms", measured["cold"], find_one, "one find", Target("<=", 3)),
        Row("cold", "cold poll, nothing cached, p50", "ms", measured["cold"], measured["plain"], plain),
        Row("cold", "a bare handler that does one find, p50", "ms", measured["find handler"], find_one, "one find"),
        Row(
            "cold",
            f"{at_once:,} cold polls at once, of as many sessions",
            "s",
            measured["burst"],
            measured["plain burst"],
            plain,
        ),
    ]


def _alone(bench: Bench, contender: Contender, count: int) -> tuple[float, float]:
    """The median in milliseconds with the login cached, and with nothing cached."""
    warm_up, first, second = (bench.database.add_jobs(each) for each in (_WARM_UP, count, count))
    same = token(_FIRST_SESSION)
    _poll_each(contender, [(path(job), same) for job in warm_up])
    logged_in = _poll_each(contender, [(path(job), same) for job in first])
    others = [token(_FIRST_SESSION + 1 + number) for number in range(count)]
    return p50(logged_in), p50(_poll_each(contender, list(zip(map(path, second), others, strict=True))))


def _poll_each(contender: Contender, requests: Sequence[Request]) -> list[float]:
    """Milliseconds that each takes, one after the other."""
    params = json.dumps({"port": contender.port, "requests": requests})
    times = _output([sys.executable, "-m", "benchmarks.clients.poll_each"], params)
    if any(status != _OK for status, _ in times):
        raise BenchmarkFailed(f"{contender.program.name} refused a cold poll")
    return [1000 * seconds for _, seconds in times]


def _find_one(bench: Bench, count: int) -> float:
    pinned = ["taskset", "-c", str(bench.cores.server), sys.executable, "-m", "benchmarks.clients.find_one"]
    times = _output([*pinned, bench.database.uri, NAME, str(_WARM_UP + count)], "")
    return 1000 * p50(times[_WARM_UP:])


def burst(bench: Bench, contender: Contender, count: int) -> float:
    """Seconds from the first request to the last answer."""
    warm_up, jobs = bench.database.add_jobs(_WARM_UP), bench.database.add_jobs(count)
    _poll_each(contender, [(path(job), token(_FIRST_SESSION)) for job in warm_up])
    requests = [(path(job), token(1000 + number)) for number, job in enumerate(jobs)]
    with holding(contender, requests) as sent:
        return max(answer.at for answer in sent.answers(signed=False)) - sent.began


def _output(command: list[str], stdin: str) -> list[Any]:
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, text=True, timeout=120, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"{command[-1]} has failed: its output is above")
    found: list[Any] = json.loads(done.stdout)
    return found
