"""What operators and their machines ask: is it alive, is it ready, and how is it doing."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tornado.ioloop import IOLoop
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from genstatus_server.mongo.change_stream import StreamState
from genstatus_server.server.app import open_services
from tests.support.server import DEADLINE, ROUTE, Server, body, remember, seen_by, serve, settings_for, start, until
from tests.support.services import S3
from tests.support.world import USERS, World

if TYPE_CHECKING:
    from tornado.httpclient import HTTPResponse

pytestmark = pytest.mark.one_python  # Its waits are those of MongoDB, S3 and AWS.

READY = {"mongodb": "ok", "change_stream": "live", "signer": "ok"}
#: Seconds by which an answer must be there although MongoDB is not: most of it is for a busy machine; a hold takes 25.
SOON = 20.0


async def ready(server: Server) -> tuple[int, dict[str, object]]:
    response = await server.fetch("/readyz")
    return response.code, body(response)


async def metric(server: Server, name: str, **labels: str) -> float:
    """One sample of `/metrics`; 0 where it is not there."""
    text = (await server.fetch("/metrics")).body.decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return next((sample.value for sample in samples if (sample.name, sample.labels) == (name, labels)), 0.0)


@pytest.fixture
def lost(s3: S3, http_client: SimpleAsyncHTTPClient, io_loop: IOLoop) -> Iterator[Server]:
    """A server whose MongoDB is on a port where nobody listens."""
    stack = AsyncExitStack()

    async def begin() -> Server:
        settings = settings_for("mongodb://127.0.0.1:1/?replicaSet=rs0", "genstatus", s3)
        services = await open_services(stack, settings, s3_keys=(s3.access_key, s3.secret_key))
        return serve(stack, services, http_client)

    yield io_loop.run_sync(begin)
    io_loop.run_sync(stack.aclose)


# Alive, and ready


async def test_readyz_and_livez_answer_200_while_serving(server: Server) -> None:
    alive = await server.fetch("/livez")
    assert (alive.code, body(alive)) == (HTTPStatus.OK, {"status": "ok"})
    assert await ready(server) == (HTTPStatus.OK, READY)


async def test_readyz_names_a_collection_that_becomes_a_view(server: Server, world: World) -> None:
    await world.users.rename("users_stored")
    await world.database.command("create", "users", viewOn="users_stored", pipeline=[])
    await until_ready(server, HTTPStatus.SERVICE_UNAVAILABLE)
    assert (await ready(server))[1]["views"] == ["users"]
    await world.database.drop_collection("users")
    await until_ready(server, HTTPStatus.OK)


async def until_ready(server: Server, status: int) -> None:
    """Wait until `/readyz` answers so."""
    async with asyncio.timeout(DEADLINE):
        while (await ready(server))[0] != status:  # noqa: ASYNC110 - another process would ask as often.
            await asyncio.sleep(0.05)


async def test_readyz_fails_soon_without_mongodb_and_livez_does_not(lost: Server) -> None:
    began = time.monotonic()
    assert (await lost.fetch("/livez")).code == HTTPStatus.OK
    expected = {"mongodb": "down", "change_stream": "down", "signer": "ok"}
    assert await ready(lost) == (HTTPStatus.SERVICE_UNAVAILABLE, expected)
    assert time.monotonic() - began < SOON
    assert await metric(lost, "genstatus_change_stream_up") == 0


async def test_route_answers_503_with_retry_after_without_mongodb(lost: Server) -> None:
    for wait in ("false", "true"):
        began = time.monotonic()
        response = await lost.check(wait=wait)
        assert time.monotonic() - began < SOON
        assert (response.code, body(response)) == (503, {"message": "Service temporarily unavailable"})
        assert int(response.headers["Retry-After"]) > 0
    assert await metric(lost, "genstatus_requests_total", status="503") == 2


async def test_readyz_is_503_without_credentials(
    world: World, mongodb_uri: str, s3: S3, http_client: SimpleAsyncHTTPClient
) -> None:
    nobody = replace(s3, access_key="", secret_key="")
    async with AsyncExitStack() as stack:
        server = await start(stack, settings_for(mongodb_uri, world.name, s3), nobody, http_client)
        assert await ready(server) == (HTTPStatus.SERVICE_UNAVAILABLE, READY | {"signer": "no credentials"})


async def test_readyz_is_503_and_livez_200_while_draining(server: Server) -> None:
    server.services.draining = True
    assert await ready(server) == (HTTPStatus.SERVICE_UNAVAILABLE, READY | {"server": "draining"})
    alive = await server.fetch("/livez")
    assert (alive.code, alive.headers["Connection"].lower()) == (HTTPStatus.OK, "close")


async def test_readyz_is_200_while_polling(server: Server) -> None:
    server.services.follower.state = StreamState.POLLING
    assert await ready(server) == (HTTPStatus.OK, READY | {"change_stream": "polling"})


# Counted


#: Every metric of the contract: its type, and its labels.
METRICS = {
    "genstatus_held_requests": ("gauge", set()),
    "genstatus_requests": ("counter", {"status"}),
    "genstatus_hold_seconds": ("histogram", {"result"}),
    "genstatus_wake_seconds": ("histogram", set()),
    "genstatus_change_stream_up": ("gauge", set()),
    "genstatus_change_stream_reopens": ("counter", set()),
    "genstatus_mongodb_reads": ("counter", {"collection"}),
}


async def test_metrics_have_the_documented_types_and_labels(server: Server, world: World) -> None:
    await world.put_job()
    await remember(server, world)
    await server.check(wait="true", timeout="0.01")
    response = await server.fetch("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(response.body.decode())}
    for name, (kind, labels) in METRICS.items():
        family = families[name]
        assert family.type == kind, name
        assert family.documentation
        assert family.samples, name
        suffix = {"gauge": "", "counter": "_total", "histogram": "_count"}[kind]
        for sample in family.samples:
            if sample.name == name + suffix:
                assert set(sample.labels) == labels, name


async def test_metrics_count_requests_by_status(server: Server, world: World) -> None:
    asked: dict[str, Callable[[], Awaitable[HTTPResponse]]] = {
        "200": server.check,
        "400": lambda: server.check(file_type="X"),
        "401": lambda: server.check("nobody"),
        "403": lambda: server.check("stranger"),
        "404": lambda: server.fetch("/nowhere"),
        "405": lambda: server.fetch("/livez", method="DELETE"),
    }
    for number, (status, ask) in enumerate(asked.items(), 1):
        before = await metric(server, "genstatus_requests_total", status=status)
        answers = [(await ask()).code for _ in range(number)]
        assert answers == [int(status)] * number
        # The requests for the metrics are counted, too, once they are answered.
        own = 1 if status == "200" else 0
        assert await metric(server, "genstatus_requests_total", status=status) == before + number + own


async def test_metrics_count_holds_while_held_and_when_they_end(server: Server, world: World) -> None:
    async def ended(result: str) -> float:
        return await metric(server, "genstatus_hold_seconds_count", result=result)

    await world.put_job()
    assert await metric(server, "genstatus_held_requests") == 0
    answers = [asyncio.ensure_future(server.check(wait="true")) for _ in range(3)]
    await server.held(3)
    assert await metric(server, "genstatus_held_requests") == 3
    assert await ended("settled") == 0
    await world.finish()
    await asyncio.gather(*answers)
    await until(lambda: not len(server.services.holds))
    assert await metric(server, "genstatus_held_requests") == 0
    assert await ended("settled") == 3
    value = server.services.metrics.registry.get_sample_value
    await until(lambda: value("genstatus_wake_seconds_count") == 3)
    assert 0 < await metric(server, "genstatus_wake_seconds_sum") < 3 * DEADLINE

    await world.put_job(101, "E")
    assert (await server.check(wait="true", timeout="2", file_type="E")).headers["X-Wait-Result"] == "deadline"
    assert await ended("deadline") == 1
    answer = asyncio.ensure_future(server.check("reader", wait="true", file_type="E"))
    await server.held()
    await world.log_out("reader")
    assert (await answer).code == HTTPStatus.UNAUTHORIZED
    assert await ended("error") == 1
    answer = asyncio.ensure_future(server.check(wait="true", file_type="E"))
    await server.held()
    server.services.holds.drain()
    assert (await answer).headers["X-Wait-Result"] == "draining"
    assert await ended("draining") == 1
    assert await metric(server, "genstatus_wake_seconds_count") == 3, "only an answer that was waited for"


async def leave_soon(server: Server) -> asyncio.StreamWriter:
    """A request that asks to wait for D1, on a connection of its own."""
    _, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.base_url).port)
    path = f"{ROUTE}?submission_id=1&file_type=D1&wait=true"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Session-ID: owner\r\n\r\n".encode())
    return writer


async def test_metrics_count_holds_exactly_after_any_churn(server: Server, world: World) -> None:
    def ask(token: str, file_type: str, timeout: float = 25) -> "asyncio.Future[HTTPResponse]":
        return asyncio.ensure_future(server.check(token, file_type=file_type, wait="true", timeout=timeout))

    gauge = server.services.metrics.registry.get_sample_value
    for number, file_type in enumerate(("D1", "D2", "E")):
        await world.put_job(100 + number, file_type)
    staying = [ask("admin", "E") for _ in range(5)]
    for _ in range(3):
        await world.put_job(101, "D2")
        await seen_by(server, world)
        leaving = [await leave_soon(server) for _ in range(30)]
        settled = [ask("reader", "D2") for _ in range(30)]
        refused = [ask("fabs", "E") for _ in range(10)]
        late = [ask("admin", "E", timeout=0.3) for _ in range(20)]
        await asyncio.gather(*late)
        await server.held(75)
        for number, writer in enumerate(leaving):
            (writer.close if number % 2 else writer.transport.abort)()
        await world.finish(101)
        await world.log_out("fabs")
        await asyncio.gather(*settled, *refused)
        await until(lambda: gauge("genstatus_held_requests") == 5, what="those that stay")
        assert await metric(server, "genstatus_held_requests") == 5
        await world.log_in("fabs", USERS["fabs"]["_id"])
    await world.finish(102)
    await asyncio.gather(*staying)
    await until(lambda: not len(server.services.holds))
    assert await metric(server, "genstatus_held_requests") == 0


async def test_metrics_count_reads_by_collection(server: Server, world: World) -> None:
    async def reads() -> dict[str, float]:
        names = ("sessions", "users", "submissions", "jobs")
        return {name: await metric(server, "genstatus_mongodb_reads_total", collection=name) for name in names}

    await until(server.services.freshness.is_current)
    await server.check("nobody")
    before = await reads()
    await server.check("admin")
    first = await reads()
    # The login session alone, then all that the answer depends on in one query; users come with their sessions.
    added = {name: first[name] - before[name] for name in before}
    assert added == {"sessions": 2, "users": 0, "submissions": 1, "jobs": 1}
    await server.check("admin")
    assert await reads() == first, "it is cached"


async def test_metrics_show_the_change_stream_up_and_never_reopened(server: Server) -> None:
    assert await metric(server, "genstatus_change_stream_up") == 1
    assert await metric(server, "genstatus_change_stream_reopens_total") == 0
