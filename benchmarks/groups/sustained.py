"""How many jobs a second may finish, each with a hold of its own, while answers come within 10 ms."""

from contextlib import ExitStack

from benchmarks import contenders
from benchmarks.bench import Bench, say
from benchmarks.contenders import Contender
from benchmarks.database import hold_requests
from benchmarks.groups.wakes import WARM_UP, latencies, wake
from benchmarks.load import finish_jobs, holding, p50, rate_of, wait_registered
from benchmarks.table import Row, Target

#: Of the start of the write; its commit comes a little later.
_MOST_MS = 10.0
#: Of the rate that was asked for, which the writer has to reach.
_REACHED = 0.95


def measure(bench: Bench) -> list[Row]:
    sustained = []
    for _ in bench.rounds("finished jobs a second"):
        jobs = {rate: bench.database.add_jobs(WARM_UP + rate * bench.scale.rate_seconds) for rate in bench.scale.rates}
        with ExitStack() as stack:
            contender = stack.enter_context(contenders.genstatus(bench))
            wake(bench, contender, bench.database.add_jobs(WARM_UP + 1), WARM_UP)
            best = 0
            for rate in bench.scale.rates:
                if not _keeps_up(bench, contender, jobs[rate], rate):
                    break
                best = rate
        sustained.append(best)
    return [
        Row(
            "sustained",
            "finished jobs, distinct, p50 under 10 ms",
            "/s",
            sustained,
            target=Target(">=", 800),
            note=f"tried: {', '.join(map(str, bench.scale.rates))}",
        )
    ]


def _keeps_up(bench: Bench, contender: Contender, jobs: list[int], rate: int) -> bool:
    with holding(contender, hold_requests(jobs)) as holds:
        wait_registered(contender, holds, len(jobs))
        begun = finish_jobs(bench, jobs, rate)
        answered = {jobs[answer.index]: answer.at for answer in holds.answers()}
    reached, middle = rate_of(begun), p50(latencies(jobs, begun, answered))
    say(f"  {rate}/s asked, {reached:.0f}/s written, p50 {middle:.1f} ms")
    return reached >= _REACHED * rate and middle < _MOST_MS
