"""Each client against a network that cuts, delays, loses and closes: the right answer, and how many requests it took.

The clients' own times are made short; their rules are the same at any length.
"""

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from genstatus_server.client import GenerationRefused, rules
from genstatus_server.client.rules import Timing
from tests.support import node
from tests.support.bad_network import BadNetwork, Fault, bad_network
from tests.support.fronts import Awaited, Blocking, Front
from tests.support.loops import lateness
from tests.support.server import Server, remember, until
from tests.support.world import World

pytestmark = pytest.mark.one_python

GRACE = 1.5
CYCLE = 0.01
BACKOFF = 0.05


class Patient(ABC):
    """A client that waits for D1 of submission 1; its backoff is of length 0 but for the shortest cycle."""

    def __init__(self, folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder

    @abstractmethod
    async def wait(self, url: str, hold: float) -> str | int:
        """The status of the generation, or the HTTP status with which it was refused."""


class _Python(Patient):
    front: type[Front]

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)
        for name, seconds in {"GRACE": GRACE, "SHORTEST_CYCLE": CYCLE, "LONGEST_BACKOFF": BACKOFF}.items():
            monkeypatch.setattr(rules, name, seconds)

    async def wait(self, url: str, hold: float) -> str | int:
        async with self.front(url, "owner") as client:
            client.inner.timing = Timing(client.inner.timing.clock, lambda: 0.0)
            try:
                return (await client.wait_for_generation(1, "D1", hold=hold, timeout=node.SECONDS)).status
            except GenerationRefused as refused:
                return refused.status


class PythonBlocking(_Python):
    front = Blocking


class PythonAsyncio(_Python):
    front = Awaited


class JavaScript(Patient):
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)
        times = {"GRACE_MS": GRACE, "SHORTEST_CYCLE_MS": CYCLE, "FIRST_BACKOFF_MS": 0, "LONGEST_BACKOFF_MS": BACKOFF}
        node.prepare(folder, {name: round(1000 * seconds) for name, seconds in times.items()})

    async def wait(self, url: str, hold: float) -> str | int:
        told = await node.wait_in_node(
            self.folder, baseUrl=url, sessionToken="owner", submissionId=1, fileType="D1", wait=hold, luck=0
        )
        status: str | int = told["answer"]["status"] if "answer" in told else told["refused"]["status"]
        return status


@pytest.fixture(params=[PythonBlocking, PythonAsyncio, JavaScript], ids=lambda kind: kind.__name__)
def patient(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Patient:
    made: Patient = request.param(tmp_path, monkeypatch)
    return made


@pytest.fixture
def network(io_loop: IOLoop, server: Server) -> Iterator[BadNetwork]:
    """What is between the client and the server."""
    with bad_network(io_loop, server.base_url) as network:
        yield network


async def test_client_requests_again_after_an_answer_cut_anywhere(
    patient: Patient, network: BadNetwork, server: Server, world: World
) -> None:
    await world.put_job()
    await world.finish(size=3)
    assert await patient.wait(network.url, 5) == "finished"
    # Every byte would be a thousand requests: these are one in each stretch of seven, and all of the last ones.
    length = network.answer_length
    cuts = [*range(0, length - 10, 7), *range(length - 10, length)]
    network.worsen(Fault(cut=count) for count in cuts)
    assert await patient.wait(network.url, 5) == "finished"
    assert network.requests == 1 + len(cuts) + 1


async def test_client_requests_again_after_a_hold_is_cut(
    patient: Patient, network: BadNetwork, server: Server, world: World
) -> None:
    await world.put_job()
    network.worsen([Fault(cut=0)] * 3)
    waiting = asyncio.ensure_future(patient.wait(network.url, 20))
    await server.held()
    network.cut_all()
    await until(lambda: network.requests == 5, what="it asks again")
    await server.held()
    await world.finish()
    assert await waiting == "finished"
    assert network.requests == 5


async def test_client_requests_again_after_errors_of_a_gateway(
    patient: Patient, network: BadNetwork, server: Server, world: World
) -> None:
    await world.put_job()
    network.worsen([Fault(status=502), Fault(status=504), Fault(status=503, retry_after=1), Fault(status=502)])
    begun = asyncio.get_running_loop().time()
    waiting = asyncio.ensure_future(patient.wait(network.url, 20))
    await server.held()
    assert asyncio.get_running_loop().time() - begun >= 1
    await world.finish()
    assert await waiting == "finished"
    assert network.requests == 5


async def test_client_waits_for_a_late_answer(
    patient: Patient, network: BadNetwork, server: Server, world: World
) -> None:
    await world.put_job()
    await world.finish()
    network.worsen([Fault(delay=1.0)])
    assert await patient.wait(network.url, 20) == "finished"
    assert network.requests == 1


async def test_client_cancels_a_lost_request_after_the_grace(
    patient: Patient, network: BadNetwork, server: Server, world: World
) -> None:
    await world.put_job()
    await world.finish()
    await remember(server, world)
    network.worsen([Fault(lost=True)])
    begun = asyncio.get_running_loop().time()
    assert await patient.wait(network.url, 0.5) == "finished"
    assert asyncio.get_running_loop().time() - begun >= 0.5 + GRACE
    assert network.requests == 2


async def test_client_loses_no_hold_shorter_than_the_idle_limit(
    patient: Patient, network: BadNetwork, server: Server, world: World
) -> None:
    # 25 s and 30 s in the large: no hold is cut, but the connection that is kept for the next question may be.
    await world.put_job()
    await remember(server, world)
    network.idle = 3.0
    async with lateness() as machine:
        waiting = asyncio.ensure_future(patient.wait(network.url, 0.5))
        await until(lambda: network.requests >= 3, what="holds follow each other")
        await world.finish()
        assert await waiting == "finished"
    assert network.failed == 0
    assert network.requests <= 6
    # The server's Retry-After of a second holds at a deadline, too.
    assert min(after - before for before, after in itertools.pairwise(network.times)) >= 1 - machine.seconds


async def test_client_requests_again_after_the_idle_limit_cuts_a_hold(
    patient: Patient, network: BadNetwork, server: Server, world: World
) -> None:
    await world.put_job()
    network.idle = 0.3
    waiting = asyncio.ensure_future(patient.wait(network.url, 20))
    await until(lambda: network.idle_closed >= 3, what="three holds are cut")
    await world.finish()
    assert await waiting == "finished"
    assert network.requests <= network.idle_closed + 2


async def test_client_loses_no_request_to_a_closed_kept_connection(
    patient: Patient, network: BadNetwork, server: Server, world: World
) -> None:
    await world.put_job()
    await world.finish()
    network.idle = 2.0
    network.worsen([Fault(status=503, retry_after=4)])
    assert await patient.wait(network.url, 20) == "finished"
    assert (network.requests, network.idle_closed, network.failed) == (2, 1, 0)


async def test_client_reports_a_login_that_ended_on_a_bad_network(
    patient: Patient, network: BadNetwork, server: Server, world: World
) -> None:
    await world.put_job()
    network.worsen([Fault(status=502), Fault(cut=0)])
    waiting = asyncio.ensure_future(patient.wait(network.url, 20))
    await server.held()
    await world.log_out("owner")
    assert await waiting == 401
    assert network.requests == 3
