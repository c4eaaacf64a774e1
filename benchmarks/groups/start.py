"""From the start of the process to ready, where MongoDB runs already, and what that is made of."""

import subprocess
import time
from collections import defaultdict
from datetime import datetime

from benchmarks import contenders
from benchmarks.bench import Bench
from benchmarks.programs import python
from benchmarks.table import Row, Target


def measure(bench: Bench) -> list[Row]:
    measured: dict[str, list[float]] = defaultdict(list)
    for _ in bench.rounds("start"):
        to_wall_clock = time.time() - time.monotonic()
        with contenders.genstatus(bench) as contender:
            ready, started = time.monotonic(), contender.program.started
        logged = {  # Now that it has ended: its log is written by a thread of its own.
            str(each["action"]): datetime.fromisoformat(str(each["timestamp"])).timestamp() - to_wall_clock
            for each in contenders.records(contender.program.log)
        }
        measured["ready"].append(ready - started)
        measured["imports"].append(_seconds_to_import(bench, "genstatus_server.server.run"))
        measured["listening"].append(logged["listening"] - started)
        measured["stream"].append(logged["change_stream_open"] - started)
        with contenders.bare(bench, b"{}") as contender:
            measured["bare"].append(time.monotonic() - contender.program.started)
    return [
        Row("start", "start to ready, MongoDB running", "s", measured["ready"], target=Target("<=", 1.5)),
        Row("start", "Python and its imports, by themselves", "s", measured["imports"]),
        Row("start", "until it listens (with the S3 client)", "s", measured["listening"]),
        Row("start", "until the change stream stands", "s", measured["stream"]),
        Row("start", "bare Tornado's start", "s", measured["bare"]),
    ]


def _seconds_to_import(bench: Bench, module: str) -> float:
    began = time.monotonic()
    command = ["taskset", "-c", str(bench.cores.server), *python("-c", f"import {module}")]
    subprocess.run(command, check=True)
    return time.monotonic() - began
