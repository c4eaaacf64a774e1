"""Starts what is measured: the server as users get it, Tornado's bare handlers, and the peers."""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.bench import Bench
from benchmarks.database import NAME
from benchmarks.machine import most_connections
from benchmarks.programs import BenchmarkFailed, Program, answers, fetch, python, running

_HERE: Final = Path(__file__).parent
#: Credentials that open nothing: to sign a URL, S3 is not asked.
_ENVIRONMENT: Final = {
    "PATH": os.environ["PATH"],
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_REGION": "us-gov-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@dataclass
class Contender:
    """One that is measured. `held` tells how many requests it holds, where it can tell."""

    program: Program
    port: int
    held: Callable[[], int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.program.pid


@contextmanager
def genstatus(
    bench: Bench,
    *flags: str,
    core: int | Sequence[int] | None = None,
    without: str | None = None,
    checkout: Path | None = None,
) -> Iterator[Contender]:
    """The server, ready, with the options that users get by default but for `flags`, and its log in a file.

    `without` names an optimisation that is switched off. `checkout` is a folder whose server is taken instead.
    """
    options = (f"--mongodb-uri={bench.database.uri}", f"--mongodb-database={NAME}", "--port=0")
    s3 = ("--s3-bucket=reports", "--s3-region=us-gov-west-1")
    program_name = ("benchmarks.servers.ablated", without) if without else ("genstatus_server",)
    # Without `-P`, the server of this folder would be found first.
    command = python("-P", "-m", *program_name, "serve", *options, *s3, *flags)
    where = bench.cores.server if core is None else core
    environment = _ENVIRONMENT | {"PYTHONPATH": str(checkout or Path(__file__).parents[1])}
    with running("genstatus", command, bench.folder, core=where, environment=environment) as program:
        port = program.wait_for("listening", lambda: _port_in(program.log))
        url = f"http://127.0.0.1:{port}"
        program.wait_for("ready", lambda: answers(f"{url}/readyz"))
        yield Contender(program, port, lambda: _number(rb"\ngenstatus_held_requests ([0-9]+)", fetch(f"{url}/metrics")))
        _check_log(program)


@contextmanager
def bare(bench: Bench, body: bytes) -> Iterator[Contender]:
    """Tornado's bare handlers, which answer with `body`."""
    file = bench.folder / "body.json"
    file.write_bytes(body)
    with _server(bench, "bare Tornado", "benchmarks.servers.bare", str(file), path="/") as contender:
        contender.held = lambda: int(fetch(f"{contender.url}/held"))
        yield contender


@contextmanager
def tornado_motor(bench: Bench) -> Iterator[Contender]:
    """The straightforward handler, which reads again every second."""
    arguments = ("benchmarks.servers.tornado_motor", bench.database.uri, NAME)
    with _server(bench, "Tornado + Motor", *arguments, path="/livez") as contender:
        yield contender


@contextmanager
def fastapi_stream(bench: Bench) -> Iterator[Contender]:
    """FastAPI with a change stream for each held request."""
    arguments = ("benchmarks.servers.fastapi_stream", bench.database.uri, NAME)
    with _server(bench, "FastAPI + PyMongo", *arguments, path="/docs") as contender:
        yield contender


@contextmanager
def nchan(bench: Bench) -> Iterator[Contender]:
    """nchan, in one worker of nginx."""
    program_file = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program_file is None:
        raise BenchmarkFailed("nginx is not installed (Debian: apt-get install nginx libnginx-mod-nchan)")
    port, folder = _free_port(), bench.folder / "nchan"
    folder.mkdir(exist_ok=True)
    file = folder / "nginx.conf"
    filled_in = {"@FOLDER@": str(folder), "@PORT@": str(port), "@FILES@": str(most_connections())}
    text = (_HERE / "servers" / "nchan.conf").read_text()
    file.write_text(re.sub("@[A-Z]+@", lambda found: filled_in[found[0]], text))
    command = [program_file, "-c", str(file), "-p", str(folder), "-e", "stderr"]
    with running("nchan", command, bench.folder, core=bench.cores.server, environment=_ENVIRONMENT) as program:
        held = f"http://127.0.0.1:{port}/held"
        program.wait_for("an answer", lambda: answers(held))
        yield Contender(program, port, lambda: _number(rb"subscribers: ([0-9]+)", fetch(held)))


@contextmanager
def _server(bench: Bench, name: str, module: str, *arguments: str, path: str) -> Iterator[Contender]:
    port = _free_port()
    command = python("-m", module, str(port), *arguments)
    with running(name, command, bench.folder, core=bench.cores.server, environment=_ENVIRONMENT) as program:
        program.wait_for("an answer", lambda: fetch(f"http://127.0.0.1:{port}{path}") or None)
        yield Contender(program, port, _unknown_count)


def _unknown_count() -> int:
    raise NotImplementedError


def _number(pattern: bytes, text: bytes) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def records(log: Path) -> Iterator[dict[str, object]]:
    """The log's records but for those of requests; a line that is being written is left out."""
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{") and '"action": "request"' not in line and line.endswith("}"):
            yield json.loads(line)


def _port_in(log: Path) -> int | None:
    return next((int(str(each["port"])) for each in records(log) if each["action"] == "listening"), None)


def _check_log(program: Program) -> None:
    """A server that had an error was not measured at what it is for."""
    errors = [each for each in records(program.log) if each["level"] in {"error", "critical"} and not _is_gone(each)]
    if errors:
        raise BenchmarkFailed(f"{program.name} has logged errors, the first of which is {errors[0]}")


def _is_gone(record: Mapping[str, object]) -> bool:
    # wrk leaves in the middle of its last answers.
    return "StreamClosedError" in str(record.get("exception"))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
