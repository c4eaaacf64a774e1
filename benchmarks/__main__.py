"""`python -m benchmarks`: measures all rows of the table, prints it, and writes it as JSON and as a picture."""

import argparse
import os
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks import machine
from benchmarks.bench import FULL, QUICK, SMOKE, Bench, Scale, say
from benchmarks.database import running_database
from benchmarks.groups import (
    ablation,
    against,
    changes,
    cold,
    fan_out,
    growth,
    holds,
    peers,
    polls,
    processes,
    start,
    sustained,
    wakes,
)
from benchmarks.programs import BenchmarkFailed
from benchmarks.report import Report
from benchmarks.table import Row, markdown

_GROUPS: Final = {
    "polls": polls.measure,
    "holds": holds.measure,
    "wakes": wakes.measure,
    "sustained": sustained.measure,
    "fan-out": fan_out.measure,
    "start": start.measure,
    "peers": peers.measure,
    "processes": processes.measure,
    "cold": cold.measure,
    "changes": changes.measure,
    "growth": growth.measure,
    "ablation": ablation.measure,
    "against": against.measure,
}
#: What the quick mode leaves out.
_SLOW: Final = {"peers", "processes", "changes", "growth"}
#: What runs only where it is named.
_NAMED: Final = {"ablation", "against"}
_SCALES: Final = {scale.name: scale for scale in (SMOKE, QUICK, FULL)}
_RESULTS: Final = Path(__file__).parent / "results"


def main() -> None:
    options = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and what was started ends, too
    left_out = _NAMED | (_SLOW if options.scale == QUICK.name else set())
    usual = [name for name in _GROUPS if name not in left_out]
    named = (["ablation"] if options.ablation else []) + (["against"] if options.against else [])
    report = _run(_SCALES[options.scale], options.only or named or usual, options.against)
    say(f"\n{report.about}\n\n{markdown(report.rows)}\n")
    report.write(Path(options.output))
    say(f"written: {report.name}.json and {report.name}.svg in {options.output}")
    if report.failed:
        sys.exit("\n".join(f"benchmarks: {name} FAILED and has no rows: {why}" for name, why in report.failed.items()))
    if options.publish:
        report.publish()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run.sh bench", description=__doc__)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--full", dest="scale", action="store_const", const="full", help="more rounds, longer ones, and the peers"
    )
    modes.add_argument("--smoke", dest="scale", action="store_const", const="smoke", help="only whether it all works")
    parser.add_argument(
        "--only", action="append", choices=_GROUPS, metavar="GROUP", help=f"any of {', '.join(_GROUPS)}"
    )
    parser.add_argument("--ablation", action="store_true", help="only what each optimisation gains")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="only this server and the one of another checkout, in turns"
    )
    parser.add_argument("--output", default=str(_RESULTS), metavar="FOLDER", help="for the JSON and the picture")
    parser.add_argument("--publish", action="store_true", help="write the table into README.md and docs/performance.md")
    parser.set_defaults(scale="quick")
    return parser.parse_args()


def _run(scale: Scale, groups: list[str], checkout: Path | None) -> Report:
    cores, connections = machine.find_cores(), machine.most_connections()
    head = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["./run.sh bench", *sys.argv[1:]]),
        "cores": str(cores),
        "connections": connections,
        **machine.description(),
        "load_average_before": machine.load_average(),
    }
    began = time.monotonic()
    rows: list[Row] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="genstatus-bench-") as folder:
        os.sched_setaffinity(0, {cores.mongodb})
        with running_database(Path(folder) / "mongodb") as database:
            head["mongodb"] = database.version
            os.sched_setaffinity(0, {cores.load})
            bench = Bench(scale, cores, Path(folder), database, checkout)
            for name in groups:
                try:
                    rows += _GROUPS[name](bench)
                except BenchmarkFailed as error:
                    say(f"{name} FAILED: {error}")
                    failed[name] = str(error)
    head |= {"minutes": round((time.monotonic() - began) / 60, 1), "load_average_after": machine.load_average()}
    return Report(scale.name, head, rows, failed)


if __name__ == "__main__":
    main()
