"""The bytes that are kept for many are those that Tornado would have written for each."""

import asyncio
import json
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest

from genstatus_server.web.answering import AnsweringHandler
from genstatus_server.web.asked import Asked
from tests.support.server import DEADLINE, ROUTE, Server, remember, seen_by, until
from tests.support.world import World

#: A header that has Tornado write the answer.
BY_TORNADO = "X-By-Tornado: yes"
ASK = f"{ROUTE}?submission_id=1&file_type=D1"
ASK_TWO = "/v1/generation_statuses/?submission_id=1&file_type=D1,E"
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


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[AnsweringHandler]:
    """The handlers that answered with shared bytes."""
    handlers: list[AnsweringHandler] = []
    answer, is_plain = AnsweringHandler._answer_like_others, AnsweringHandler._is_plain

    def answer_and_note(self: AnsweringHandler, *about: object) -> None:
        handlers.append(self)
        answer(self, *about)  # type: ignore[arg-type]

    def is_plain_and_may_be(self: AnsweringHandler, asked: Asked) -> bool:
        return BY_TORNADO.partition(":")[0] not in self.request.headers and is_plain(self, asked)

    monkeypatch.setattr(AnsweringHandler, "_answer_like_others", answer_and_note)
    monkeypatch.setattr(AnsweringHandler, "_is_plain", is_plain_and_may_be)
    return handlers


@pytest.mark.parametrize("server_options", [{}, {"cors_origins": "https://page.example"}])
@pytest.mark.parametrize("path", [STATUS, STATUSES])
@pytest.mark.parametrize("fields", [{}, {"status": "failed", "upload": None, "message": "Größe \U0001f4be"}])
async def test_they_are_those_of_tornado(
    server: Server, world: World, shared: list[AnsweringHandler], path: str, fields: dict[str, Any]
) -> None:
    await world.put_job()
    requests = [(), ("Connection: keep-alive",), (BY_TORNADO,), ()]
    held = [await Held.send(server, path, *lines) for lines in requests]
    await server.held(len(held))
    await world.finish(**fields)
    answers = [await each.answer() for each in held]
    assert len(shared) == 3
    assert answers == [answers[0]] * 4
    for each in held:
        each.close()


@pytest.mark.parametrize("server_options", [{}, {"cors_origins": "https://page.example"}])
@pytest.mark.parametrize("path", [ASK, ASK_TWO])
@pytest.mark.parametrize(
    "fields",
    [
        {
            "status": "finished",
            "upload": {"status": "finished", "bucket": "a-bucket", "key": "ä b/D1.csv"},
            "size": 3.0,
        },
        {"status": "failed", "message": "Größe \U0001f4be"},
        {"status": "invalid"},
        {},
    ],
)
async def test_those_who_ask_again_and_again_get_what_tornado_would_write(
    server: Server, world: World, shared: list[AnsweringHandler], path: str, fields: dict[str, Any]
) -> None:
    await world.put_job(**fields)
    asking = await Held.send(server, path, BY_TORNADO)
    answers = [await asking.answer()]
    for lines in [(), ("Connection: keep-alive",), (), (BY_TORNADO,)]:
        asking.ask(path, *lines)
        answers.append(await asking.answer())
    assert len(shared) == 3
    assert answers == [answers[0]] * 5
    asking.close()


#: What makes an answer another one, or looks as if it did.
LINES = [
    (), ("Connection: close",), ("Connection: Keep-Alive",), ("Connection: keep-alive, close",), ("Prefer: wait=1",),
    ("Prefer: respond-async",), ("Origin: https://page.example",), ("Origin: https://other.example",),
    ("If-None-Match: *",), ("Content-Length: 0",),
]  # fmt: skip


@pytest.mark.parametrize("server_options", [{"wait_max": "1", "cors_origins": "https://page.example"}])
@pytest.mark.parametrize("path", [ASK, ASK_TWO, f"{ASK}&wait=false", f"{STATUS}&timeout=0.05"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_whatever_is_asked_for_the_answer_is_that_of_tornado(
    server: Server, world: World, shared: list[AnsweringHandler], method: str, version: str, path: str
) -> None:
    await world.put_job()
    await remember(server, world, "D1", "E")
    shared.clear()

    async def answer_to(*lines: str) -> tuple[bytes, bytes]:
        asking = await Held.send(server, path, *lines, method=method, version=version)
        try:
            return await asking.answer(has_body=method == "GET")
        finally:
            asking.close()

    ours = [answer_to(*lines) for lines in LINES]
    theirs = [answer_to(*lines, BY_TORNADO) for lines in LINES]
    answers = await asyncio.gather(*ours, *theirs)
    assert answers[: len(LINES)] == answers[len(LINES) :]
    assert bool(shared) == (method == "GET" and version == "1.1")


async def test_what_is_kept_is_told_to_nobody_once_it_is_no_longer_so(
    server: Server, world: World, shared: list[AnsweringHandler]
) -> None:
    """Job, URL and access are looked at for every request; only the bytes are kept."""
    await world.put_job()
    asking = await Held.send(server, ASK)
    statuses = [json.loads((await asking.answer())[1])["status"]]
    for change in ({"status": "failed"}, {"status": "waiting"}, {"status": "invalid"}):
        await world.jobs.update_one({}, {"$set": change})
        await seen_by(server, world)
        for _ in range(2):
            asking.ask(ASK)
            statuses.append(json.loads((await asking.answer())[1])["status"])
    assert statuses == ["waiting", "failed", "failed", "waiting", "waiting", "failed", "failed"]
    assert len(shared) == len(statuses)
    await world.log_out("owner")
    head = b""
    async with asyncio.timeout(DEADLINE):
        while b" 401 " not in head:
            asking.ask(ASK)
            head, _ = await asking.answer()
    asking.close()


@pytest.mark.parametrize("lines", [("Connection: close",), ("Prefer: wait=20",), ("Origin: https://page.example",)])
@pytest.mark.parametrize("server_options", [{"cors_origins": "https://page.example"}])
async def test_who_asks_for_something_of_his_own_gets_an_answer_of_his_own(
    server: Server, world: World, shared: list[AnsweringHandler], lines: tuple[str, ...]
) -> None:
    await world.put_job()
    plain, own = await Held.send(server, STATUS), await Held.send(server, STATUS, *lines)
    await server.held(2)
    await world.finish()
    (plain_head, plain_body), (own_head, own_body) = await plain.answer(), await own.answer()
    assert len(shared) == 1
    assert plain_body == own_body
    assert plain_head != own_head
    if lines == ("Connection: close",):
        assert await own.is_closed()
    plain.close()
    own.close()


async def test_the_date_is_that_of_the_answer_and_not_of_the_request(
    server: Server, world: World, shared: list[AnsweringHandler]
) -> None:
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
    assert len(shared) == 1


@pytest.mark.parametrize("server_options", [{"max_waits": "0"}])
async def test_what_is_settled_is_told_once_where_there_is_no_room_to_hold(
    server: Server, world: World, shared: list[AnsweringHandler]
) -> None:
    await world.put_job()
    await world.finish()
    held = await Held.send(server, STATUS)
    for _ in range(3):
        assert b"X-Wait-Result: settled" in (await held.answer())[0]
        held.ask(STATUS)
    await held.answer()
    await until(lambda: not server.services.in_flight._count)
    assert len(shared) == 4
    held.close()


async def test_an_old_client_is_answered_and_its_connection_closed(server: Server, world: World) -> None:
    await world.put_job()
    held = await Held.send(server, STATUS, version="1.0")
    await server.held()
    await world.finish()
    assert b" 200 " in (await held.answer())[0]
    assert await held.is_closed()
    held.close()


async def test_the_connection_goes_on_with_the_next_request(
    server: Server, world: World, shared: list[AnsweringHandler]
) -> None:
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
    assert [handler.request.path for handler in shared].count(ROUTE) >= 3
    held.close()


async def test_a_client_that_leaves_as_it_is_answered_leaves_nothing(server: Server, world: World) -> None:
    await world.put_job()
    held = [await Held.send(server, STATUS) for _ in range(20)]
    await server.held(20)
    finishing = asyncio.ensure_future(world.finish())
    for each in held:
        each._writer.transport.abort()
        await asyncio.sleep(0)
    await finishing
    await until(lambda: not server.services.in_flight._count, what="no request is left")
    assert not len(server.services.waiters)
