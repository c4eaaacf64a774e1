"""At its limits the server answers as promised: of held requests, of one login session's, and of open files."""

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faults.conftest import Serve
from tests.faults.scale import Figures
from tests.faults.serving import Served
from tests.support.holds import Answer, counted, holding, question
from tests.support.proc import open_files, soft_limit_of_files
from tests.support.processes import credentials, flags_for, running_server, wait_until
from tests.support.requirements import require
from tests.support.scene import TOKEN, Scene
from tests.support.services import S3

BURST = 5000
LIMIT = 100
BEYOND = 50
UNAVAILABLE = 'genstatus_requests_total{status="503"}'
#: Open files that are left for MongoDB.
RESERVE = 64
HELD = (200, "finished", "settled")
JOBS_READ = 'genstatus_mongodb_reads_total{collection="jobs"}'
SHED = (200, "waiting", "shed")

#: `with limited("400:600", max_waits="2000") as served`: the limits on open files, soft and hard.
Limited = Callable[..., AbstractContextManager[Served]]


def spread(answers: list[Answer]) -> set[int]:
    """The values of Retry-After."""
    return {int(answer["retry_after"]) for answer in answers}


def test_burst_of_new_holds_is_held_with_few_503(
    on_one: Scene, mongodb_uri: str, serve: Serve, figures: Figures
) -> None:
    """The trap: taken all at once, each waited so long for the others that it gave up its reads."""
    numbers = range(1, BURST + 1)
    on_one.prepare(numbers)
    with serve(mongodb_uri, on_one.name) as served:
        served.wait_ready()
        with holding(served.url, [question(number) for number in numbers], TOKEN, loop=True, pause=0.1) as holds:
            holds.wait_sent()
            served.wait_held(BURST)
            metrics = served.metrics()
        refused = metrics.get(UNAVAILABLE, 0)
        figures.note("requests of the burst that were told 503", refused)
        assert refused < BURST / 20  # On a machine that is busy with other things; else none.
        figures.note(f"queries for jobs, for a burst of {BURST}", metrics[JOBS_READ])


def test_max_waits_sheds_holds_and_serves_plain_polls(on_one: Scene, mongodb_uri: str, serve: Serve) -> None:
    on_one.prepare(range(1, LIMIT + BEYOND + 1))
    with serve(mongodb_uri, on_one.name, max_waits=str(LIMIT)) as served:
        served.wait_ready()
        with holding(served.url, [question(number) for number in range(1, LIMIT + 1)], TOKEN) as held:
            held.wait_sent()
            served.wait_held(LIMIT)
            with holding(served.url, [question(LIMIT + 1 + number) for number in range(BEYOND)], TOKEN) as more:
                answers = more.results_once_sent()
            assert counted(answers, "status", "generation", "result") == {SHED: BEYOND}
            assert len(spread(answers)) > 1
            assert served.check(1)[0] == HTTPStatus.OK
            assert served.held() == LIMIT
            on_one.finish(range(1, LIMIT + 1))
            assert counted(held.results(), "status", "generation", "result") == {HELD: LIMIT}
        assert served.metrics()["genstatus_shed_total"] == BEYOND


def test_max_waits_per_session_sheds_holds_of_that_session_only(on_one: Scene, mongodb_uri: str, serve: Serve) -> None:
    on_one.prepare([1])
    on_one.log_in("another")
    with serve(mongodb_uri, on_one.name, max_waits_per_session=str(LIMIT)) as served:
        served.wait_ready()
        with (
            holding(served.url, [question(1)] * (LIMIT + BEYOND), TOKEN) as one,
            holding(served.url, [question(1)] * LIMIT, "another") as other,
        ):
            one.wait_sent()
            other.wait_sent()
            served.wait_held(2 * LIMIT)
            wait_until(lambda: served.metrics()["genstatus_shed_total"] == BEYOND, "the others are shed")
            on_one.finish([1])
            answers = one.results()
            assert counted(answers, "status", "generation", "result") == {HELD: LIMIT, SHED: BEYOND}
            assert len(spread([answer for answer in answers if answer["result"] == "shed"])) > 1
            assert counted(other.results(), "status", "generation", "result") == {HELD: LIMIT}


@pytest.fixture
def limited(on_one: Scene, mongodb_uri: str, tmp_path: Path, s3: S3) -> Limited:
    program = shutil.which("prlimit")
    require(program, "prlimit is not installed (Debian: util-linux)")
    on_one.prepare([1])

    @contextmanager
    def run(files: str, max_waits: int) -> Iterator[Served]:
        options = {"max-waits": str(max_waits), "max-waits-per-session": "20000"}
        flags = flags_for(mongodb_uri, on_one.name, s3, **options)
        prefix = (str(program), f"--nofile={files}")
        with running_server(tmp_path, flags, credentials(s3), prefix=prefix) as server:
            served = Served(server)
            served.wait_ready()
            yield served

    return run


def test_soft_limit_of_files_is_raised_for_max_waits(limited: Limited, on_one: Scene) -> None:
    with limited("256:4096", max_waits=1000) as served:
        assert 1000 < soft_limit_of_files(served.pid) < 4096
        assert not served.server.records("file_limit_low")
        with holding(served.url, [question(1)] * 1000, TOKEN) as holds:
            holds.wait_sent()
            served.wait_held(1000)
            on_one.finish([1])
            assert counted(holds.results(), "status", "generation", "result") == {HELD: 1000}
        assert not served.server.records("files_exhausted")


def test_low_hard_limit_is_logged_and_excess_holds_are_shed(limited: Limited, on_one: Scene) -> None:
    with limited("256:600", max_waits=2000) as served:
        assert soft_limit_of_files(served.pid) == 600
        (record,) = served.server.records("file_limit_low")
        assert (record["level"], record["limit"], record["needed"]) == ("warning", 600, 3000)
        fit = record["max_waits"]
        assert 0 < fit < 600
        with holding(served.url, [question(1)] * (fit + BEYOND), TOKEN) as holds:
            holds.wait_sent()
            wait_until(lambda: served.metrics()["genstatus_shed_total"] == BEYOND, "what does not fit is shed")
            assert served.held() == fit
            assert served.check(1)[0] == HTTPStatus.OK
            on_one.finish([1])
            assert counted(holds.results(), "status", "generation", "result") == {HELD: fit, SHED: BEYOND}


def test_connections_beyond_the_files_wait_and_mongodb_stays_reachable(limited: Limited, on_one: Scene) -> None:
    """The trap: with no file left for a connection that is there, a server turns in circles and fills its log."""
    with limited("256:400", max_waits=2000) as served:
        url = urlsplit(served.url)
        address = url.hostname or "", url.port or 0
        with ExitStack() as stack:
            for _ in range(600):
                stack.enter_context(socket.create_connection(address))
            wait_until(lambda: served.server.records("files_exhausted"), "it says so")
            assert open_files(served.pid) <= 400 - RESERVE + 16  # Of the last few that it took.
        served.wait_ready()
        assert served.check(1)[0] == HTTPStatus.OK
        assert len(served.server.records("files_exhausted")) == 1
        assert "Traceback" not in served.server.log
