"""What this project asks of the MongoDB driver, on a real MongoDB: batches of events, resuming, snapshot reads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo import MongoClient

from genstatus_server.mongo import client
from genstatus_server.mongo.client import Batch, Connection, Document, NextBatch, _StreamMonitor
from genstatus_server.mongo.queries import CHANGE_STREAM_PIPELINE
from tests.support.server import DEADLINE
from tests.support.world import World

EVENTS = 500


@pytest.fixture(autouse=True)
def short_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "HEARTBEAT_MS", 100)
    monkeypatch.setattr(client, "SILENCE_MS", 60_000)


@asynccontextmanager
async def connected(uri: str, world: World, *, for_stream: bool = True) -> AsyncIterator[Connection]:
    connection = Connection(uri, world.name, for_stream=for_stream)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def streaming(
    connection: Connection, token: Mapping[str, Any] | None = None, after: int | None = None
) -> AsyncIterator[NextBatch]:
    since = await connection.snapshot_time() if after is None else after
    async with connection.open_change_stream(CHANGE_STREAM_PIPELINE, resume_token=token, after=since) as next_batch:
        yield next_batch


async def batch_with_events(next_batch: NextBatch) -> Batch:
    """The next one that has any."""
    async with asyncio.timeout(60):
        while not (batch := await next_batch(0)).events:
            pass
    return batch


async def insert(world: World, first: int = 1, count: int = EVENTS) -> None:
    await world.jobs.insert_many([{"_id": number} for number in range(first, first + count)])


def ids(batch: Batch) -> list[int]:
    return [event["documentKey"]["_id"] for event in batch.events]


async def test_connection_closes_each_replaced_client_beside_the_loop(
    mongodb_uri: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The traps: the loop stood still while a silent MongoDB was told; and clients of the same URI are equal."""
    close, is_free, closed = MongoClient.close, threading.Event(), []

    def close_once_the_loop_is_free(this: MongoClient[Document]) -> None:
        assert is_free.wait(DEADLINE)
        closed.append(id(this))
        close(this)

    monkeypatch.setattr(client, "_REPLACED_SECONDS", 0)
    async with connected(mongodb_uri, world) as connection:
        await connection.ping()
        monkeypatch.setattr(MongoClient, "close", close_once_the_loop_is_free)
        for _ in range(2):
            monkeypatch.setattr(connection, "_renewed_at", float("-inf"))
            connection.renew()
            await connection.ping()
        asyncio.get_running_loop().call_soon(is_free.set)
    assert len(set(closed)) == 3


def test_monitor_takes_the_time_of_the_streams_own_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: a client that was replaced ends its sessions while a request of the new one is under way."""
    monitor, clock = _StreamMonitor(), iter([1.0, 2.0])
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    reply: Document = {"cursor": {"nextBatch": []}}
    for kind, command in (("started", "getMore"), ("started", "endSessions"), ("succeeded", "getMore")):
        getattr(monitor, kind)(SimpleNamespace(command_name=command, reply=reply))
    assert monitor.requested_at == 1.0


async def test_stream_gives_all_events_of_one_answer_at_once(mongodb_uri: str, world: World) -> None:
    async with connected(mongodb_uri, world) as connection, streaming(connection) as next_batch:
        assert (await next_batch(0)).has_caught_up
        await insert(world)
        turns = 0
        found: list[int] = []
        while len(found) < EVENTS:
            found += ids(await batch_with_events(next_batch))
            turns += 1
        assert found == list(range(1, EVENTS + 1))
        assert turns < 10  # One for each answer of MongoDB's, and not one for each event.


async def test_stream_collects_the_changes_made_during_its_rest(mongodb_uri: str, world: World) -> None:
    async with connected(mongodb_uri, world) as connection, streaming(connection) as next_batch:
        assert (await next_batch(0)).has_caught_up
        began = asyncio.get_running_loop().time()
        resting = asyncio.ensure_future(next_batch(0.5))
        for number in (1, 2, 3):
            await insert(world, first=number, count=1)
        batch = await resting
        assert batch.requested_at - began >= 0.5
        found = ids(batch)
        while len(found) < 3:  # A write may take longer than the rest, on a machine that is busy.
            found += ids(await batch_with_events(next_batch))
        assert found == [1, 2, 3]


async def test_stream_has_caught_up_only_where_an_answer_was_empty(mongodb_uri: str, world: World) -> None:
    async with connected(mongodb_uri, world) as connection, streaming(connection) as next_batch:
        await insert(world, count=1)
        batch = await batch_with_events(next_batch)
        asked = asyncio.get_running_loop().time()
        assert not batch.has_caught_up
        assert batch.requested_at <= asked
        heartbeat = await next_batch(0)
        assert heartbeat.has_caught_up
        assert not heartbeat.events
        assert asked <= heartbeat.requested_at <= asyncio.get_running_loop().time()
        assert heartbeat.newest_time >= batch.newest_time > 0


async def kill_cursors(world: World) -> None:
    """Have MongoDB forget the change streams on this database, as it does when it is restarted."""
    admin = world.client["admin"]
    operations = {"$currentOp": {"allUsers": True, "idleCursors": True}}
    async for each in await admin.aggregate([operations, {"$match": {"ns": f"{world.name}.$cmd.aggregate"}}]):
        if "cursor" in each:
            await world.database.command({"killCursors": "$cmd.aggregate", "cursors": [each["cursor"]["cursorId"]]})


async def test_stream_that_the_driver_resumes_has_not_caught_up(mongodb_uri: str, world: World) -> None:
    async with connected(mongodb_uri, world) as connection, streaming(connection) as next_batch:
        assert (await next_batch(0)).has_caught_up
        await kill_cursors(world)
        await insert(world)
        resumed = await next_batch(0)
        # Its first batch is empty although there is much to come: that must not count.
        assert not resumed.has_caught_up
        found = ids(resumed)
        while len(found) < EVENTS:
            batch = await next_batch(0)
            assert not batch.has_caught_up
            found += ids(batch)
        assert found == list(range(1, EVENTS + 1))
        assert (await next_batch(0)).has_caught_up


async def test_stream_goes_on_behind_its_token(mongodb_uri: str, world: World) -> None:
    async with connected(mongodb_uri, world) as connection:
        async with streaming(connection) as next_batch:
            await insert(world, count=3)
            found: list[int] = []
            token: Mapping[str, Any] | None = None
            while len(found) < 3:
                batch = await batch_with_events(next_batch)
                found, token = found + ids(batch), batch.resume_token
        await insert(world, first=10, count=2)
        async with streaming(connection, token, after=0) as next_batch:
            assert ids(await batch_with_events(next_batch))[0] == 10


async def test_stream_ends_with_its_database_and_can_be_resumed(mongodb_uri: str, world: World) -> None:
    async with connected(mongodb_uri, world) as connection:
        async with streaming(connection) as next_batch:
            await world.client.drop_database(world.name)
            kinds: list[str] = []
            token, is_last = None, False
            async with asyncio.timeout(60):
                while not is_last:
                    batch = await next_batch(0)
                    token, is_last = batch.resume_token, batch.is_last
                    kinds += [event["operationType"] for event in batch.events]
            assert kinds[-2:] == ["dropDatabase", "invalidate"]
        await insert(world, count=1)
        async with streaming(connection, token, after=0) as next_batch:
            assert ids(await batch_with_events(next_batch)) == [1]


async def test_stream_begins_behind_the_time_of_a_snapshot(mongodb_uri: str, world: World) -> None:
    async with connected(mongodb_uri, world) as connection:
        await insert(world, count=1)
        reply = await connection.snapshot_read("jobs", [{"$match": {}}])
        assert [each["_id"] for each in reply.documents] == [1]
        await insert(world, first=2, count=1)
        async with streaming(connection, after=reply.time) as next_batch:
            assert ids(await batch_with_events(next_batch)) == [2]


async def test_snapshot_read_reports_an_incomplete_reply_and_closes_its_cursor(mongodb_uri: str, world: World) -> None:
    async with connected(mongodb_uri, world, for_stream=False) as connection:
        await world.jobs.insert_many([{"_id": number, "message": "x" * 9_000_000} for number in (1, 2)])
        reply = await connection.snapshot_read("jobs", [{"$match": {}}])
        assert (len(reply.documents), reply.is_complete) == (1, False)
        operations = {"$currentOp": {"allUsers": True, "idleCursors": True}}
        of_jobs = {"$match": {"ns": f"{world.name}.jobs", "type": "idleCursor"}}
        assert not await (await world.client["admin"].aggregate([operations, of_jobs])).to_list()
        reply = await connection.snapshot_read("jobs", [{"$match": {"_id": 1}}])
        assert (len(reply.documents), reply.is_complete) == (1, True)


async def test_connection_renews_at_most_once_a_second(mongodb_uri: str, world: World) -> None:
    async with connected(mongodb_uri, world, for_stream=False) as connection:
        await connection.ping()
        before = connection.database.client
        connection.renew()
        renewed = connection.database.client
        connection.renew()
        assert before is not renewed
        assert connection.database.client is renewed
        await before.admin.command("ping")  # A read that is under way may end.
        await connection.ping()


@pytest.mark.parametrize("limit", ["timeoutMS=300", "timeoutMS=50&socketTimeoutMS=50"])
async def test_stream_ignores_the_timeouts_of_the_uri(mongodb_uri: str, world: World, limit: str) -> None:
    async with connected(f"{mongodb_uri}&{limit}", world) as connection, streaming(connection) as next_batch:
        for _ in range(5):
            assert (await next_batch(0)).has_caught_up
