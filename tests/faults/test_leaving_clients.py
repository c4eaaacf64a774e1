"""Clients that leave, by whatever means: what the server had for them is free again, and nothing piles up."""

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from urllib.parse import urlsplit

import pytest

from tests.faults.conftest import Serve
from tests.faults.scale import Figures, scaled
from tests.faults.serving import Served
from tests.support.holds import Holds, holding, question
from tests.support.proc import POOLED, open_files, resident_kilobytes
from tests.support.processes import wait_until
from tests.support.requirements import require
from tests.support.scene import TOKEN, Scene
from tests.support.server import Server, until
from tests.support.world import World

CLIENTS = 5000
NUMBERS = range(1, CLIENTS + 1)
GONE = 'genstatus_hold_seconds_count{result="gone"}'
DEADLINE = 'genstatus_hold_seconds_count{result="deadline"}'
#: Clients that vanish, and the seconds of their holds: long enough for all to be held together, on a busy machine too.
#: A client that vanishes between two holds leaves an idle connection, which the server keeps for two minutes.
VANISHING = scaled(1000, CLIENTS)
VANISHED_SECONDS = 20

ROUNDS = scaled(6, 100)
A_ROUND = 1000
#: Rounds after which the process has what it needs for a thousand holds.
WARM_UP = scaled(4, 20)
#: Percent that the memory may grow by in the rounds after: in a few rounds, one burst that was larger may take most.
GROWTH = scaled(15, 2)

TCP_REPAIR = 19


@pytest.fixture
def served(on_one: Scene, mongodb_uri: str, serve: Serve) -> Iterator[Served]:
    """A ready server with a job in `waiting` for each client, that has answered something already."""
    on_one.prepare(NUMBERS)
    with serve(mongodb_uri, on_one.name, access_log="false") as made:
        made.wait_ready()
        assert made.check(1)[0] == HTTPStatus.OK
        yield made


@contextmanager
def all_held(served: Served, paths: Sequence[str]) -> Iterator[Holds]:
    """Clients that are all held. On a machine that is busy some may be told 503 first, and ask again."""
    with holding(served.url, paths, TOKEN, loop=True, pause=0.1) as holds:
        holds.wait_sent()
        served.wait_held(holds.count)
        served.wait_quiet()
        yield holds


def freed_at(served: Served, files: int) -> float:
    """Wait until nothing is held and no more files are open than before; gives when."""
    allowed = files + POOLED
    wait_until(lambda: served.held() == 0 and open_files(served.pid) <= allowed, f"none held, {allowed} files", 60)
    return time.time()


def baseline(served: Served) -> int:
    """Open files of the server when nobody has asked it anything for a moment."""
    files = [0, 1]

    def is_steady() -> bool:
        served.held()
        files.append(open_files(served.pid))
        return files[-1] == files[-2] == files[-3]

    wait_until(is_steady, "the same number of files three times")
    return files[-1]


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_leaving_clients_free_holds_and_files_within_a_second(served: Served, figures: Figures, how: str) -> None:
    files = baseline(served)
    with all_held(served, [question(number) for number in NUMBERS]) as holds:
        assert open_files(served.pid) >= CLIENTS
        began = time.time()
        holds.tell(how)
        figures.within("until all is free", freed_at(served, files) - began, 1)
    assert served.metrics()[GONE] == CLIENTS
    assert "Traceback" not in served.server.log


def can_vanish() -> bool:
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except OSError:
            return False
    return True


def test_vanished_clients_free_holds_and_files_at_the_deadline(served: Served, figures: Figures) -> None:
    require(can_vanish(), "to close a connection in silence takes CAP_NET_ADMIN")
    files = baseline(served)
    paths = [question(number, timeout=VANISHED_SECONDS) for number in range(1, VANISHING + 1)]
    with all_held(served, paths) as holds:
        sent = time.time()
        holds.tell("vanish")
        assert len(holds.results()) >= VANISHING
        # Nobody has told the server. Only, whoever connects anew may get the port of one that has vanished, which ends
        # that one's connection; this test does it each time that it looks.
        assert served.metrics().get(GONE, 0) < 0.1 * VANISHING
        figures.within("from the last deadline until all is free", freed_at(served, files) - sent - VANISHED_SECONDS, 1)
    metrics = served.metrics()
    assert metrics[DEADLINE] > 0.9 * VANISHING
    assert metrics[DEADLINE] + metrics.get(GONE, 0) == VANISHING
    assert "Traceback" not in served.server.log


def test_rounds_of_holds_do_not_grow_the_memory(served: Served, figures: Figures) -> None:
    files = baseline(served)
    paths = [question(number) for number in range(1, A_ROUND + 1)]
    sizes = []
    for number in range(WARM_UP + ROUNDS):
        with all_held(served, paths) as holds:
            holds.tell(("fin", "rst")[number % 2])
            freed_at(served, files)
        sizes.append(resident_kilobytes(served.pid))
    before, after = max(sizes[:WARM_UP]), sizes[-1]
    figures.note(f"kB of memory after {WARM_UP} rounds of {A_ROUND}", before)
    figures.note(f"kB of memory after {ROUNDS} more", after)
    assert after <= before * (1 + GROWTH / 100), sizes
    assert served.metrics()[GONE] == (WARM_UP + ROUNDS) * A_ROUND


@pytest.mark.parametrize("further", [b"x", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"])
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_client_that_leaves_after_further_bytes_frees_its_hold(
    server: Server, world: World, how: str, further: bytes
) -> None:
    await world.put_job()
    address = urlsplit(server.base_url)
    writers = []
    for _ in range(2):
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"GET {question(1)} HTTP/1.1\r\nHost: a\r\nX-Session-ID: owner\r\n\r\n".encode() + further)
        writers.append(writer)
    await server.held(2)
    getattr(writers[0].transport, how)()
    await until(lambda: len(server.services.holds) == 1, what="its hold is freed")
    await asyncio.sleep(1)  # Two more looks at the other one, which stays.
    assert len(server.services.holds) == 1
    writers[1].close()


@pytest.mark.parametrize("server_options", [{"max_waits_per_session": "20000"}])
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_leaving_clients_leave_no_task_and_no_request(server: Server, world: World, how: str) -> None:
    """In this process, where its tasks can be counted."""
    await world.put_job()
    assert (await server.check()).code == HTTPStatus.OK
    tasks = len(asyncio.all_tasks())
    address = urlsplit(server.base_url)
    request = f"GET {question(1)} HTTP/1.1\r\nHost: a\r\nX-Session-ID: owner\r\n\r\n".encode()
    writers = []
    for _ in range(A_ROUND):
        writers.append((await asyncio.open_connection(address.hostname, address.port))[1])
        writers[-1].write(request)
    await server.held(A_ROUND)
    assert len(asyncio.all_tasks()) >= A_ROUND  # One for each, whether or not those from before are still there.
    for writer in writers:
        getattr(writer.transport, how)()
    services = server.services
    await until(lambda: not len(services.holds), what="no hold is left")
    await until(lambda: len(asyncio.all_tasks()) <= tasks, what="no task is left")
    await until(lambda: not services.in_flight, what="no request is left")
