"""The requests of `hold_client`, as a test sees them: sent, told to leave, and what became of them."""

import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.requirements import require
from tests.support.server import ROUTE

PROGRAM = Path(__file__).with_name("hold_client.py")
#: File descriptors of a process beside its connections.
OTHER_FILES = 200

Answer = dict[str, Any]


def question(submission_id: int, timeout: float = 100) -> str:
    """The path of a request that asks to wait, `timeout` seconds at the longest."""
    return f"{poll(submission_id)}&wait=true&timeout={timeout}"


def poll(submission_id: int) -> str:
    """The path of a request that does not."""
    return f"{ROUTE}?submission_id={submission_id}&file_type=D1"


class Holds:
    """Clients in a process of their own, each with one request that asks to wait."""

    def __init__(self, process: "subprocess.Popen[str]", count: int) -> None:
        self.process = process
        self.count = count

    def wait_sent(self) -> None:
        assert self._next_line() == "sent"

    def tell(self, order: str) -> None:
        """`fin`, `rst`, `vanish` or `stop`."""
        tell(self.process, order)

    def results(self) -> list[Answer]:
        """What became of each request, once that is known of all."""
        answers: list[Answer] = json.loads(self._next_line())
        return answers

    def results_once_sent(self) -> list[Answer]:
        self.wait_sent()
        return self.results()

    def _next_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def holding(url: str, paths: Sequence[str], token: str, *, loop: bool = False, pause: float = 1.0) -> Iterator[Holds]:
    """Clients of the server at `url` that ask for `paths`.

    With `loop`, one that is told to wait asks again, after `pause` times the `Retry-After` that it was told.
    """
    require_files(len(paths))
    parts = urlsplit(url)
    options = {"host": parts.hostname, "port": parts.port, "requests": paths, "token": token}
    command = [sys.executable, str(PROGRAM)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            tell(process, json.dumps(options | {"loop": loop, "pause": pause}))  # Too long for an argument.
            yield Holds(process, len(paths))
        finally:
            process.kill()


def tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def require_files(connections: int) -> None:
    """Go on only where a process may have this many connections."""
    needed, hard = connections + OTHER_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    is_enough = hard == resource.RLIM_INFINITY or hard >= needed
    require(is_enough, f"{needed} open files for a process: the hard limit is {hard} (ulimit -Hn)")


def counted(answers: Sequence[Answer], *fields: str) -> dict[Any, int]:
    """How many answers there are of each kind; an error counts as such."""
    of = Counter(answer.get("error") or tuple(answer[field] for field in fields) for answer in answers)
    return dict(of)
