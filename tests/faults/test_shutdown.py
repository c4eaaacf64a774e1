"""SIGTERM: every hold gets its answer, the process ends in time, and clients that ask again notice nothing."""

import asyncio
import http.client
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faults.conftest import Serve
from tests.faults.looping import Clients, all_held
from tests.faults.scale import Figures, allowed, scaled
from tests.faults.serving import Served
from tests.support.holds import counted, holding, poll, question
from tests.support.nginx import Nginx, running_nginx
from tests.support.proc import children_of, is_running
from tests.support.processes import DEADLINE, credentials, flags_for, running_server, wait_until
from tests.support.replica_set import ReplicaSet
from tests.support.scene import TOKEN, Scene, scene
from tests.support.services import S3

HOLDS = 5000
NUMBERS = range(1, HOLDS + 1)
DRAINED = (200, "waiting", "draining", "close")
#: Clients behind nginx, and how often each of the servers is restarted.
CLIENTS = scaled(80, 400)
RESTARTS = scaled(1, 3)
#: Connections that nobody has taken yet: more than are taken at once.
QUEUED = 300


def address(served: Served) -> tuple[str, int]:
    url = urlsplit(served.url)
    return url.hostname or "", url.port or 0


def test_sigterm_answers_five_thousand_holds_completely_in_time(
    on_one: Scene, mongodb_uri: str, serve: Serve, figures: Figures
) -> None:
    on_one.prepare(NUMBERS)
    with serve(mongodb_uri, on_one.name, drain_timeout=str(allowed(3))) as served:
        served.wait_ready()
        with holding(served.url, [question(number) for number in NUMBERS], TOKEN) as holds:
            holds.wait_sent()
            served.wait_held(HOLDS)
            served.wait_quiet()
            began = time.time()
            assert served.server.end() == 0
            figures.within("from SIGTERM to the exit", time.time() - began, 3)
            answers = holds.results()
        assert counted(answers, "status", "generation", "result", "connection") == {DRAINED: HOLDS}
        assert {int(answer["retry_after"]) for answer in answers} == {1, 2, 3, 4, 5}
        assert not served.server.records("drain_timeout")
        assert "Traceback" not in served.server.log


@contextmanager
def stalled_reader(served: Served) -> Iterator[None]:
    """A client that asks for more than fits into the network, and reads none of it, so that no drain ends."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address(served))
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
        counts: list[float] = []

        def is_stuck() -> bool:
            metrics = served.metrics()
            counts.append(metrics['genstatus_requests_total{status="200"}'] - len(counts))
            return len(counts) > 10 and counts[-1] == counts[-10]

        wait_until(is_stuck, "its answers have no room any more")
        yield


@contextmanager
def connected(served: Served) -> Iterator[http.client.HTTPConnection]:
    """A connection on which something was answered already."""
    with closing(http.client.HTTPConnection(*address(served), timeout=DEADLINE)) as connection:
        assert asked(connection, "/livez")[0] == HTTPStatus.OK
        yield connection


def asked(connection: http.client.HTTPConnection, path: str) -> tuple[int, str | None, bytes]:
    connection.request("GET", path, headers={"X-Session-ID": TOKEN})
    answer = connection.getresponse()
    return answer.status, answer.getheader("Connection"), answer.read()


def test_readyz_fails_at_once_and_connections_are_still_answered(on_one: Scene, mongodb_uri: str, serve: Serve) -> None:
    on_one.prepare([1])
    with serve(mongodb_uri, on_one.name, drain_timeout="20") as served:
        served.wait_ready()
        with stalled_reader(served), connected(served) as first, connected(served) as second:
            os.kill(served.pid, signal.SIGTERM)
            wait_until(lambda: served.server.records("draining"), "draining")
            status, connection, body = asked(first, "/readyz")
            assert (status, connection) == (HTTPStatus.SERVICE_UNAVAILABLE, "close")
            assert b'"server": "draining"' in body
            assert asked(second, poll(1))[:2] == (HTTPStatus.OK, "close")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address(served))


def test_request_that_has_arrived_is_answered_at_shutdown(on_one: Scene, mongodb_uri: str, serve: Serve) -> None:
    """The trap: closing a socket resets all who wait in its queue."""
    on_one.prepare([1])
    request = f"GET {poll(1)} HTTP/1.1\r\nHost: a\r\nX-Session-ID: {TOKEN}\r\n\r\n".encode()
    with serve(mongodb_uri, on_one.name) as served, ExitStack() as stack:
        served.wait_ready()
        known = [stack.enter_context(connected(served)) for _ in range(10)]
        os.kill(served.pid, signal.SIGSTOP)  # What happens until it goes on has happened at the same time.
        queued = [stack.enter_context(socket.create_connection(address(served))) for _ in range(QUEUED)]
        sockets = [*(each.sock for each in known), *queued]
        for each in sockets:
            each.sendall(request)
        os.kill(served.pid, signal.SIGTERM)
        os.kill(served.pid, signal.SIGCONT)
        for each in sockets:
            each.settimeout(DEADLINE)
            assert each.recv(12) == b"HTTP/1.1 200"
        assert served.server.process.wait(DEADLINE) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_server_at_once(
    on_one: Scene, mongodb_uri: str, serve: Serve, figures: Figures, second: signal.Signals
) -> None:
    with serve(mongodb_uri, on_one.name, drain_timeout="600") as served:
        served.wait_ready()
        with stalled_reader(served), connected(served) as connection:
            os.kill(served.pid, signal.SIGTERM)
            wait_until(lambda: served.server.records("draining"), "draining")
            assert asked(connection, "/livez")[0] == HTTPStatus.OK
            assert served.server.process.poll() is None
            began = time.time()
            assert served.server.end(second) == 128 + second
            figures.within("from the second signal to the exit", time.time() - began, 0.5)


def test_client_that_does_not_read_delays_exit_until_drain_timeout(
    on_one: Scene, mongodb_uri: str, serve: Serve, figures: Figures
) -> None:
    with serve(mongodb_uri, on_one.name, drain_timeout="1") as served:
        served.wait_ready()
        with stalled_reader(served):
            began = time.time()
            assert served.server.end() == 0
            figures.within("from SIGTERM to the exit, with 1 s of drain_timeout", time.time() - began, 1.5)
        assert served.server.records("drain_timeout")


def test_shutdown_delay_serves_everything_that_arrives(on_one: Scene, mongodb_uri: str, serve: Serve) -> None:
    on_one.prepare([1])
    with serve(mongodb_uri, on_one.name, shutdown_delay="600") as served, ExitStack() as stack:
        served.wait_ready()
        pooled = [stack.enter_context(connected(served)) for _ in range(20)]
        holds = stack.enter_context(holding(served.url, [question(1)], TOKEN))
        holds.wait_sent()
        served.wait_held(1)
        os.kill(served.pid, signal.SIGTERM)
        assert counted(holds.results(), "status", "generation", "result", "connection") == {DRAINED: 1}
        new = [http.client.HTTPConnection(*address(served), timeout=DEADLINE) for _ in range(20)]
        for connection in [*pooled, *new]:  # Each is closed by its answer, so it is made anew for the next one.
            stack.callback(connection.close)
            assert asked(connection, poll(1))[:2] == (HTTPStatus.OK, "close")
            assert asked(connection, "/readyz")[:2] == (HTTPStatus.SERVICE_UNAVAILABLE, "close")
            connection.request("GET", question(1), headers={"X-Session-ID": TOKEN})
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("X-Wait-Result")) == (HTTPStatus.OK, "draining")
            assert answer.getheader("Connection") == "close"
            answer.read()
        assert served.server.process.poll() is None
        assert served.server.records("draining")[0]["signal"] == "SIGTERM"
        assert served.server.end(signal.SIGINT) == 128 + signal.SIGINT


def test_drain_timeout_counts_from_the_end_of_shutdown_delay(
    on_one: Scene, mongodb_uri: str, serve: Serve, figures: Figures
) -> None:
    with serve(mongodb_uri, on_one.name, shutdown_delay="2", drain_timeout="2") as served:
        served.wait_ready()
        with stalled_reader(served):
            began = time.time()
            assert served.server.end() == 0
            assert time.time() - began > 2 + 2 - 0.5, "some of it is for closing"
            figures.within("from SIGTERM to the exit, 2 s of delay and 2 s of drain", time.time() - began, 4.2)


def test_frozen_mongodb_does_not_delay_the_exit(set_of_one: ReplicaSet, serve: Serve, figures: Figures) -> None:
    """The trap: the driver waited for it, after all answers, for eleven seconds."""
    (node,) = set_of_one.nodes
    with scene(set_of_one.uri, "frozen") as made, serve(set_of_one.uri, made.name, drain_timeout="1") as served:
        made.prepare([1])
        served.wait_ready()
        with holding(served.url, [question(1)], TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked([1])
            node.signal(signal.SIGSTOP)
            try:
                began = time.time()
                assert served.server.end() == 0
                took = time.time() - began
            finally:
                node.signal(signal.SIGCONT)
            assert counted(holds.results(), "status", "generation", "result", "connection") == {DRAINED: 1}
        figures.within("from SIGTERM to the exit, with a frozen MongoDB and 1 s of drain", took, 1.3)
        assert took < 9


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigint_skips_shutdown_delay(on_one: Scene, mongodb_uri: str, serve: Serve, processes: str) -> None:
    with serve(mongodb_uri, on_one.name, shutdown_delay="600", processes=processes) as served:
        served.wait_ready()
        assert served.server.end(signal.SIGINT) == 0
        assert {record["signal"] for record in served.server.records("draining")} == {"SIGINT"}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sighup_drains_and_user_signals_are_ignored(
    on_one: Scene, mongodb_uri: str, serve: Serve, processes: str
) -> None:
    on_one.prepare([1])
    with serve(mongodb_uri, on_one.name, processes=processes) as served:
        served.wait_ready()
        with holding(served.url, [question(1)], TOKEN) as holds:
            holds.wait_sent()
            served.wait_held(1)
            for pid in (served.pid, *children_of(served.pid)):
                for ignored in (signal.SIGUSR1, signal.SIGUSR2):
                    os.kill(pid, ignored)
            assert served.held() == 1
            assert served.server.end(signal.SIGHUP) == 0
            assert counted(holds.results(), "status", "generation", "result", "connection") == {DRAINED: 1}


def test_nohup_keeps_sighup_ignored(tmp_path: Path, on_one: Scene, mongodb_uri: str, s3: S3) -> None:
    flags = flags_for(mongodb_uri, on_one.name, s3)
    with running_server(tmp_path, flags, credentials(s3), prefix=["nohup"]) as server:
        server.wait_ready()
        server.process.send_signal(signal.SIGHUP)
        server.wait_ready()
        assert server.end() == 0
        assert server.records("draining")[0]["signal"] == "SIGTERM"


def test_second_signal_ends_every_process_at_once(on_one: Scene, mongodb_uri: str, serve: Serve) -> None:
    with serve(mongodb_uri, on_one.name, shutdown_delay="600", processes="2") as served:
        wait_until(lambda: len(served.server.records("listening")) == 2, "both listen")
        children = children_of(served.pid)
        os.kill(served.pid, signal.SIGTERM)
        wait_until(lambda: len(served.server.records("draining")) == 2, "both are draining")
        assert served.server.end() == 128 + signal.SIGTERM
        wait_until(lambda: not any(is_running(child) for child in children), "the processes' end")


def test_rolling_restart_of_two_servers_loses_no_request(
    on_one: Scene, mongodb_uri: str, serve: Serve, figures: Figures, tmp_path: Path
) -> None:
    """Behind Debian's nginx; its clients ask again when they are told to wait."""
    numbers = range(1, CLIENTS + 1)
    on_one.prepare(numbers)
    with ExitStack() as stack:
        servers = [Restarted(serve, stack, mongodb_uri, on_one.name) for _ in range(2)]
        nginx = stack.enter_context(running_nginx(tmp_path, [each.netloc for each in servers]))
        # A loop of its own: it takes longer than an async test may.
        answers = asyncio.run(restart_one_after_the_other(nginx, servers, on_one, numbers))
    for answer, count in answers.items():
        figures.note(f"answers: {answer}", count)
    assert answers.keys() == {HTTPStatus.OK}


class Restarted:
    """A server that can be ended and started again at the same place."""

    def __init__(self, serve: Serve, stack: ExitStack, uri: str, database_name: str) -> None:
        self._serve: Callable[[str], AbstractContextManager[Served]] = lambda port: serve(uri, database_name, port=port)
        self._stack = stack
        self.served = self._start("0")
        self.netloc = urlsplit(self.served.url).netloc

    def restart(self) -> None:
        assert self.served.server.end() == 0
        self.served = self._start(self.netloc.rpartition(":")[2])

    def _start(self, port: str) -> Served:
        served = self._stack.enter_context(self._serve(port))
        served.wait_ready()
        return served


async def restart_one_after_the_other(
    nginx: Nginx, servers: Sequence[Restarted], scene: Scene, numbers: Sequence[int]
) -> Counter[object]:
    clients = Clients(nginx, numbers)
    try:
        await all_held(len(numbers), *(each.served.held for each in servers))
        for server in [*servers] * RESTARTS:
            await asyncio.to_thread(server.restart)
            # Only once nginx asks it again may the other one go.
            await all_held(1, server.served.held)
        await asyncio.to_thread(scene.finish, numbers)
        await clients.told(numbers)
    finally:
        await clients.close()
    return clients.answers
