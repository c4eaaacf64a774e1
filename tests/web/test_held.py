"""What the answers to held requests have in common: headers, order, and the end of the connection."""

import asyncio
import re
import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import pytest

from tests.support.server import ROUTE, Server, seen_by, until
from tests.support.world import World

STATUS = f"{ROUTE}?submission_id=1&file_type=D1&wait=true"
STATUSES = "/v1/generation_statuses/?submission_id=1&file_type=D1&wait=all"


class Held:
    """A request that is held, as bytes on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def send(cls, server: Server, path: str, *lines: str, version: str = "1.1", method: str = "GET") -> "Held":
        address = urlsplit(server.base_url)
        held = cls(*await asyncio.open_connection(address.hostname, address.port))
        held.ask(path, *lines, version=version, method=method)
        return held

    def ask(self, path: str, *lines: str, version: str = "1.1", method: str = "GET") -> None:
        request = f"{method} {path} HTTP/{version}", "Host: x", "X-Session-ID: owner", "X-Request-ID: mine", *lines
        self._writer.write("\r\n".join((*request, "", "")).encode())

    async def answer(self, *, has_body: bool = True) -> tuple[bytes, bytes]:
        """Head and body, without what changes from second to second."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length
        body = await self._reader.readexactly(int(length[1])) if has_body else b""
        return re.sub(rb"\r\nDate: [^\r]*", b"\r\nDate: then", head), body

    async def date(self) -> str:
        """The header `Date` of the answer."""
        match = re.search(rb"\r\nDate: ([^\r]*)", await self._reader.readuntil(b"\r\n\r\n"))
        assert match
        return match[1].decode()

    async def is_closed(self) -> bool:
        return await self._reader.read() == b""

    def close(self) -> None:
        self._writer.transport.abort()


@pytest.mark.parametrize("path", [STATUS, STATUSES])
async def test_holds_of_one_job_get_the_same_answer(server: Server, world: World, path: str) -> None:
    await world.put_job()
    held = [await Held.send(server, path) for _ in range(4)]
    await server.held(len(held))
    await world.finish(status="failed", upload=None, message="Größe \U0001f4be")
    answers = [await each.answer() for each in held]
    assert answers == [answers[0]] * 4
    for each in held:
        each.close()


async def test_date_header_is_of_the_answer_time(server: Server, world: World) -> None:
    await world.put_job()
    plain, own = await Held.send(server, STATUS), await Held.send(server, STATUS, "Prefer: wait=20")
    await server.held(2)
    second = int(time.time())
    await until(lambda: int(time.time()) > second)
    await world.finish()
    for held in (plain, own):
        date = parsedate_to_datetime(await held.date())
        assert second + 1 <= date.timestamp() <= time.time()
        held.close()


async def test_hold_of_an_http_1_0_client_is_answered_and_closed(server: Server, world: World) -> None:
    await world.put_job()
    held = await Held.send(server, STATUS, version="1.0")
    await server.held()
    await world.finish()
    assert b" 200 " in (await held.answer())[0]
    assert await held.is_closed()
    held.close()


async def test_connection_serves_the_next_request_after_a_hold(server: Server, world: World) -> None:
    await world.put_job()
    held = await Held.send(server, STATUS)
    for _ in range(3):
        await server.held()
        await world.finish()
        assert b"X-Wait-Result: settled" in (await held.answer())[0]
        await world.jobs.update_one({}, {"$set": {"status": "waiting", "upload": None}})
        await seen_by(server, world)
        held.ask(STATUS)
    await server.held()
    held.close()


async def test_client_that_leaves_while_answered_leaves_nothing(server: Server, world: World) -> None:
    await world.put_job()
    held = [await Held.send(server, STATUS) for _ in range(20)]
    await server.held(20)
    finishing = asyncio.ensure_future(world.finish())
    for each in held:
        each.close()
        await asyncio.sleep(0)
    await finishing
    await until(lambda: not server.services.in_flight, what="no request is left")
    assert not len(server.services.holds)
