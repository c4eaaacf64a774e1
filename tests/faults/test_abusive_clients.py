"""Abusive clients: the memory stays bounded, nothing breaks, and the others are answered."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faults.conftest import Serve
from tests.faults.scale import FULL, Figures, scaled
from tests.faults.serving import Served
from tests.support.holds import poll, question, require_files, tell
from tests.support.proc import POOLED, open_files, resident_kilobytes
from tests.support.processes import wait_until
from tests.support.scene import TOKEN, Scene

REQUESTS = "genstatus_requests_total"
PROGRAM = Path(__file__).parent.parent / "support" / "abusive_client.py"
#: The attacks, the connections of each, and the megabytes that they may cost the server in all.
ATTACKS = {
    "slow_loris": (2000, 100),
    "oversized_headers": (100, 60),
    "many_headers": (100, 60),
    "large_queries": (50, 60),
    "pipelined_garbage": (100, 60),
    "garbage_behind_a_hold": (100, 60),
    "bodies_on_get": (100, 60),
    "slow_bodies_on_get": (500, 60),
    "stalled_readers": (scaled(50, 500), 150),
}
#: Plain polls: with 100 in a hundredth, p99 is the second-slowest of them.
POLLS = scaled(200, 1000)
#: Who has sent more behind a held request is seen to leave only when the hold ends.
HOLD_SECONDS = 2
#: Seconds until they are all answered, on the slowest machine.
POLLS_SECONDS = 120


@contextmanager
def attacked(served: Served, attack: str, count: int) -> Iterator[None]:
    """Clients that do this to the server, from when each has done its worst once until the block ends."""
    require_files(count)
    url = urlsplit(served.url)
    path = question(1, timeout=HOLD_SECONDS)
    options = {"host": url.hostname, "port": url.port, "path": path, "token": TOKEN}
    with subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            tell(process, json.dumps(options | {"attack": attack, "count": count}))
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            if attack == "stalled_readers":
                wait_until(partial(is_stuck, served), "no answer finds room any more", 60)
            yield
        finally:
            process.kill()


def is_stuck(served: Served) -> bool:
    """Whether the only requests that are answered are those that ask."""

    def answered() -> float:
        return served.metrics()[f'{REQUESTS}{{status="200"}}']

    return answered() + 1 == answered()


def p99_milliseconds(served: Served) -> float:
    """Of plain polls, one after the other on one connection. Where reads take too long, it asks again as clients do."""
    times: list[float] = []
    deadline = time.monotonic() + POLLS_SECONDS
    with closing(http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=POLLS_SECONDS)) as connection:
        while len(times) < POLLS:
            assert time.monotonic() < deadline, f"{len(times)} polls answered"
            began = time.perf_counter()
            connection.request("GET", poll(1), headers={"X-Session-ID": TOKEN})
            answer = connection.getresponse()
            answer.read()
            assert answer.status in {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}
            if answer.status == HTTPStatus.OK:
                times.append(time.perf_counter() - began)
    return 1000 * sorted(times)[-1 - POLLS // 100]


@pytest.fixture
def served(on_one: Scene, mongodb_uri: str, serve: Serve) -> Iterator[Served]:
    on_one.prepare([1])
    with serve(mongodb_uri, on_one.name) as made:
        made.wait_ready()
        yield made


@pytest.mark.parametrize("attack", ATTACKS)
def test_abusive_clients_cost_little_and_others_are_answered(served: Served, figures: Figures, attack: str) -> None:
    count, megabytes = ATTACKS[attack]
    p99_milliseconds(served)  # It is warm.
    before, files = resident_kilobytes(served.pid), open_files(served.pid)
    quiet = p99_milliseconds(served)
    with attacked(served, attack, count):
        under_attack = p99_milliseconds(served)
        most = resident_kilobytes(served.pid)
    wait_until(lambda: open_files(served.pid) <= files + POOLED, "all that was theirs is free", POLLS_SECONDS)
    figures.note(f"ms, p99 of plain polls when quiet: {attack}", f"{quiet:.1f}")
    figures.note(f"ms, p99 of plain polls under attack: {attack}", f"{under_attack:.1f}")
    figures.note(f"MB of memory more, with {count} connections: {attack}", (most - before) // 1024)
    assert most - before < megabytes * 1024
    assert "Traceback" not in served.server.log


@pytest.mark.skipif(not FULL, reason="it takes half a minute in which nothing happens: FAULTS=full")
def test_client_that_does_not_read_is_disconnected(served: Served, figures: Figures) -> None:
    """The trap: its answer is never out, so no timeout of the server's began to run, and its file was never free."""
    served.check(1)
    files = open_files(served.pid)
    with attacked(served, "stalled_readers", 50):
        began = time.time()
        assert open_files(served.pid) > files + 2 * POOLED
        wait_until(lambda: open_files(served.pid) <= files + POOLED, "they are cut", 120)
        figures.within("until clients that do not read are cut", time.time() - began, 35)
