"""The server inside the test's own loop, and a client that speaks to it."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from tornado.httpclient import HTTPResponse
from tornado.netutil import Resolver, bind_sockets
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from genstatus_server.mongo.change_stream import StreamState
from genstatus_server.server.app import make_application, open_services
from genstatus_server.settings import Settings, load_settings
from genstatus_server.web.base import Services
from genstatus_server.web.client_stream import MalformedRequests
from genstatus_server.web.listener import Listener
from tests.support.services import S3
from tests.support.world import SUBMISSION, World

ROUTE: Final = "/v1/check_generation_status/"
#: Seconds until something counts as hung; long, because it says nothing of how fast it has to be.
DEADLINE: Final = 60.0


def settings_for(mongodb_uri: str, database_name: str, s3: S3, **options: str) -> Settings:
    """Settings as if given by flags."""
    flags = {
        "mongodb_uri": mongodb_uri,
        "mongodb_database": database_name,
        "s3_bucket": s3.bucket,
        "s3_region": s3.region,
        "s3_endpoint_url": s3.endpoint_url,
    }
    return load_settings(flags | options, {})


async def until(condition: Callable[[], object], *, seconds: float = DEADLINE, what: str = "") -> None:
    """Wait until the condition holds; fail when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        await asyncio.sleep(0.005)


class AddressResolver(Resolver):
    """Takes each host for an IPv4 address: a busy machine is late to start the thread that looks a name up."""

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        del family
        return [(socket.AF_INET, (host, port))]


@dataclass
class Server:
    """A running server, in this loop. `services` lets a test look inside."""

    services: Services
    base_url: str
    client: SimpleAsyncHTTPClient
    listener: Listener

    def drain(self) -> None:
        """Begin to drain, as `server/app` does it."""
        self.services.draining = True
        self.listener.drain()
        self.services.holds.drain()

    async def fetch(self, path: str, **options: Any) -> HTTPResponse:
        """Any request; the answer whatever its status."""
        options.setdefault("request_timeout", 2 * DEADLINE)
        response: HTTPResponse = await self.client.fetch(self.base_url + path, raise_error=False, **options)
        return response

    async def check(
        self, token: str | None = "owner", *, headers: dict[str, str] | None = None, **query: object
    ) -> HTTPResponse:
        """The status of a file, D1 of submission 1 unless `query` says otherwise (None leaves a parameter out)."""
        parameters = {"submission_id": SUBMISSION, "file_type": "D1"} | query
        path = ROUTE + "?" + urlencode({name: value for name, value in parameters.items() if value is not None})
        sent = ({"X-Session-ID": token} if token is not None else {}) | (headers or {})
        return await self.fetch(path, headers=sent)

    async def held(self, count: int = 1) -> None:
        """Wait until this many requests have looked once and are waiting."""
        holds = self.services.holds
        await until(lambda: holds.waiting() == count, what=f"{count} held, but {holds.waiting()}")


async def seen_by(server: Server, world: World) -> None:
    """Wait until the server has seen everything that was written until now.

    The answer to a poll right after a write may be of before it: the event is on its way for some milliseconds.
    """
    witness = 999
    with server.services.holds.hold((("jobs", (witness, "F")),)) as hold:
        await world.put_job(witness, "F", submission_id=witness)
        await until(lambda: hold.woken, what="the witness is seen")
    await world.jobs.delete_one({"_id": witness})


async def remember(server: Server, world: World, *file_types: str) -> None:
    """Have the server remember what a request of the owner takes, for D1 or for these files.

    A hold that is shorter than its reads is answered 503, as it must be; a machine that is held back makes reads slow.
    """
    await seen_by(server, world)
    for file_type in file_types or ("D1",):
        assert (await server.check(file_type=file_type)).code == HTTPStatus.OK


def body(response: HTTPResponse) -> dict[str, Any]:
    """The JSON object of an answer."""
    content: dict[str, Any] = json.loads(response.body)
    return content


async def start(stack: AsyncExitStack, settings: Settings, s3: S3, client: SimpleAsyncHTTPClient) -> Server:
    """A server on a free port that follows changes; `stack` stops it."""
    services = await open_services(stack, settings, s3_keys=(s3.access_key, s3.secret_key) if s3.access_key else None)
    server = serve(stack, services, client)
    await until(lambda: services.follower.state is not StreamState.DOWN, what="watching")
    # Its first connection for reads stands by now: to make one may take a busy machine longer than a short hold may.
    await services.mongodb.ping()
    return server


def serve(stack: AsyncExitStack, services: Services, client: SimpleAsyncHTTPClient) -> Server:
    """A server on a free port; `stack` stops it."""
    sockets = bind_sockets(0, "127.0.0.1")
    malformed = MalformedRequests(services.metrics)
    listener = Listener(make_application(services), sockets, idle_timeout=120, malformed=malformed)
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    stack.push_async_callback(stop, listener, services)
    return Server(services, url, client, listener)


async def stop(listener: Listener, services: Services) -> None:
    """Stop it, and see that nothing of a request is left."""
    listener.stop_listening()
    await listener.close_connections()
    await until(lambda: not len(services.holds), what="no hold is left")
    assert not services.holds.keys()
