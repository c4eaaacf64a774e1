"""What an hour of each fault writes: a bounded number of lines, whatever the fault and however often it is asked."""

import asyncio
import itertools
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import structlog
from bson.errors import InvalidBSON
from pymongo.errors import AutoReconnect, NetworkTimeout, OperationFailure, ServerSelectionTimeoutError

from genstatus_server.hold.holds import HoldRegistry
from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.mongo import change_stream
from genstatus_server.mongo.change_stream import ChangeStreamFollower
from genstatus_server.mongo.freshness import Freshness
from genstatus_server.s3.credentials import URGENT_PAUSE, RefreshingCredentials
from genstatus_server.telemetry.metrics import Metrics
from tests.faults.conftest import Serve
from tests.faults.scale import Figures, scaled
from tests.faults.serving import Served
from tests.support.holds import counted, holding, poll, question
from tests.support.processes import credentials, flags_for, running_server, wait_until
from tests.support.replica_set import ReplicaSet
from tests.support.scene import TOKEN, Scene, scene
from tests.support.services import S3

HOUR: Final = 3600
#: The change stream is opened at most once a second, by and by; each attempt writes one line where it fails.
MOST_ATTEMPTS: Final = HOUR + 10
REQUESTS = scaled(200, 2000)


class Over(BaseException):
    """The hour is over."""


class Clock:
    """A loop's time that passes where somebody sleeps, and at once. It stands in for the module `asyncio`."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= 1_000_000 + HOUR:
            raise Over
        await asyncio.sleep(0)

    def get_running_loop(self) -> "Clock":
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(change_stream, "asyncio", made)
    return made


@pytest.fixture
def records() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


class NoDocuments:
    """Documents whose MongoDB is away, or there: then there is nothing to read."""

    def __init__(self, *, is_away: bool) -> None:
        self._is_away = is_away

    async def read_again(self, *_: object, **__: object) -> None:
        if self._is_away:
            raise ServiceUnavailable


class ScriptedConnection:
    """A connection whose change stream has the batches of `next_batch`, or fails to open with `error`."""

    def __init__(self, error: Exception | None = None, next_batch: Any = None) -> None:
        self._error = error
        self._next_batch = next_batch

    async def views_among(self, _: object) -> list[str]:
        return []

    async def snapshot_time(self) -> int:
        return 1

    def renew(self) -> None:
        """There is nothing to replace."""

    @asynccontextmanager
    async def open_change_stream(self, *_: object, **__: object) -> AsyncIterator[Any]:
        if self._error is not None:
            raise self._error
        yield self._next_batch


def follower(connection: Any, *, is_away: bool = False) -> ChangeStreamFollower:
    documents: Any = NoDocuments(is_away=is_away)
    return ChangeStreamFollower(connection, documents, Freshness(), HoldRegistry(), Metrics())


FAILURES = [
    ServerSelectionTimeoutError("no primary"),
    AutoReconnect("closed"),
    NetworkTimeout("silent"),
    OperationFailure("history lost", 286),
    OperationFailure("not authorized", 13),
    InvalidBSON("nonsense"),
    RuntimeError("a defect of ours"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("is_away", [True, False])
async def test_log_is_bounded_while_the_stream_cannot_be_opened(
    clock: Clock,
    records: list[Any],
    figures: Figures,
    error: Exception,
    *,
    is_away: bool,
) -> None:
    with pytest.raises(Over):
        await follower(ScriptedConnection(error), is_away=is_away).follow()
    attempts = sum(record["event"] == "change_stream_down" for record in records)
    figures.note(f"lines in an hour: {type(error).__name__}", len(records))
    assert HOUR / 2.1 < attempts <= MOST_ATTEMPTS
    # A line for each, and a traceback where it is a defect.
    assert len(records) == attempts * (2 if isinstance(error, RuntimeError) else 1)


@pytest.mark.parametrize("seconds", [0, 0.5, 3])
async def test_log_is_bounded_while_the_stream_keeps_breaking(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, records: list[Any], figures: Figures, seconds: float
) -> None:
    """The trap: each opening looked like the end of the fault, and the next attempt came at once."""

    async def break_off(_rest: float) -> list[Any]:
        await clock.sleep(seconds)
        raise AutoReconnect("closed")

    with pytest.raises(Over):
        await follower(ScriptedConnection(next_batch=break_off)).follow()
    figures.note(f"lines in an hour of a stream that breaks after {seconds} s", len(records))
    assert len(records) <= 2 * MOST_ATTEMPTS


@pytest.mark.parametrize("is_away", [True, False])
async def test_log_reports_a_standalone_once_in_an_hour(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, records: list[Any], *, is_away: bool
) -> None:
    error = OperationFailure("no replica set", 40573)
    with pytest.raises(Over):
        await follower(ScriptedConnection(error), is_away=is_away).follow()
    assert [record["event"] for record in records] == ["change_stream_unsupported"]


async def test_log_is_bounded_while_no_credentials_can_be_fetched(
    monkeypatch: pytest.MonkeyPatch, records: list[Any], figures: Figures
) -> None:
    async def fail() -> None:
        raise OSError("away")

    credentials = RefreshingCredentials(fail, needed=30)
    clock = Clock()
    monkeypatch.setattr("genstatus_server.s3.credentials.asyncio", clock)
    for second in itertools.count():
        clock.now = 1_000_000 + second / 10  # Ten requests a second.
        with pytest.raises(ServiceUnavailable):
            await credentials.get()
        if second == 10 * HOUR:
            break
    figures.note("lines in an hour without credentials", len(records))
    assert len(records) <= HOUR / URGENT_PAUSE + 1


def test_log_has_one_line_for_each_refused_request(set_of_one: ReplicaSet, serve: Serve, figures: Figures) -> None:
    (node,) = set_of_one.nodes
    with scene(set_of_one.uri, "away") as made, serve(set_of_one.uri, made.name) as served:
        made.prepare([1])
        served.wait_ready()
        node.kill()
        wait_until(lambda: served.readyz()[0] == 503, "it is noticed")
        before, began = served.server.log.count("\n"), time.monotonic()
        with holding(served.url, [question(1)] * REQUESTS, TOKEN) as holds:
            answers = holds.results_once_sent()
        # A record is written behind its answer.
        wait_until(lambda: served.server.log.count("\n") >= before + REQUESTS, "the record of each")
        lines, seconds = served.server.log.count("\n") - before, time.monotonic() - began
        node.start()
        assert counted(answers, "status") == {(503,): REQUESTS}
        figures.note(f"lines of {REQUESTS} requests refused in {seconds:.1f} s", lines)
        # One each, and what the attempts to open the change stream have to say meanwhile.
        assert lines <= REQUESTS + 20 * (seconds + 1)
        assert "Traceback" not in served.server.log


@contextmanager
def logging_to(target: str, tmp_path: Path, mongodb_uri: str, name: str, s3: S3, processes: str) -> Iterator[Served]:
    """A server whose standard error is `target`, so that nothing can be read from its log."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = flags_for(mongodb_uri, name, s3, port=str(port), processes=processes, **{"drain-timeout": "5"})
    redirect = ["bash", "-c", 'exec "$@" 2<>"$0"', target]
    with running_server(tmp_path, flags, credentials(s3), prefix=redirect) as server:
        server.url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(port), "it listens")
        served = Served(server)
        served.wait_ready()
        yield served


def answers(port: int) -> bool:
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def poll_until_dropped(served: Served) -> float:
    """Poll until records are dropped, on one connection and so of one process; returns how many."""
    dropped, at_once = "genstatus_log_records_dropped_total", 500
    address = urlsplit(served.url)
    request = f"GET {poll(1)} HTTP/1.1\r\nHost: x\r\nX-Session-ID: {TOKEN}\r\n\r\n".encode()
    with socket.create_connection((address.hostname or "", address.port or 0), 30) as connection:
        for _ in range(100):
            connection.sendall(request * at_once)
            answered = b""
            while answered.count(b"HTTP/1.1 200 OK") < at_once or not answered.endswith(b"}"):
                answered += connection.recv(1 << 20)
            if served.metrics()[dropped]:
                break
        return served.metrics()[dropped]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_log_that_nobody_reads_stops_nothing(
    tmp_path: Path, on_one: Scene, mongodb_uri: str, s3: S3, figures: Figures, processes: str
) -> None:
    on_one.prepare([1])
    fifo = tmp_path / "stderr"
    os.mkfifo(fifo)
    with logging_to(str(fifo), tmp_path, mongodb_uri, on_one.name, s3, processes) as served:
        assert poll_until_dropped(served) > 0
        with holding(served.url, [question(1)], TOKEN) as holds:
            holds.wait_sent()
            served.wait_held(1)
            began = time.time()
            assert served.server.end() == 0
            figures.within("from SIGTERM to the exit, with a log that nobody reads", time.time() - began, 5)
            assert counted(holds.results(), "status", "result") == {(200, "draining"): 1}


def test_log_says_what_was_dropped_once_it_is_read_again(
    tmp_path: Path, on_one: Scene, mongodb_uri: str, s3: S3
) -> None:
    on_one.prepare([1])
    fifo = tmp_path / "stderr"
    os.mkfifo(fifo)
    with logging_to(str(fifo), tmp_path, mongodb_uri, on_one.name, s3, "1") as served:
        poll_until_dropped(served)
        said = 0
        with fifo.open() as log:
            for record in (json.loads(line) for line in log if "log_records_dropped" in line):
                assert record["level"] == "warning"
                said += record["records"]
                # The record of the last poll may be dropped after this: another record says so.
                if said == served.metrics()["genstatus_log_records_dropped_total"]:
                    break
        assert said > 0


def test_log_on_a_full_disk_stops_nothing(tmp_path: Path, on_one: Scene, mongodb_uri: str, s3: S3) -> None:
    on_one.prepare([1])
    with logging_to("/dev/full", tmp_path, mongodb_uri, on_one.name, s3, "1") as served:
        assert poll_until_dropped(served) > 0
        assert served.server.end() == 0
