"""The hold: every way in which it ends, what does not end it, and that it reads nothing while nothing happens."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from operator import itemgetter
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import DeleteOne, InsertOne, UpdateOne
from tornado.httpclient import HTTPResponse

from genstatus_server.model.errors import AccessDenied
from genstatus_server.mongo.client import HEARTBEAT_MS
from tests.support.loops import lateness
from tests.support.server import DEADLINE, ROUTE, Server, body, remember, seen_by, until
from tests.support.world import SUBMISSION, USERS, Document, World, token_hash

Write = Callable[[World], Awaitable[object]]

FINISHED: Document = {"status": "finished", "upload": {"status": "finished", "key": "1/D1.csv"}}
JOB: Document = {"_id": 100, "submission_id": 1, "file_type": "D1"}

#: Seconds that an answer may come after its deadline.
LATE = 0.25


def held(server: Server, token: str = "owner", **query: object) -> "asyncio.Future[HTTPResponse]":
    """A request that asks to wait, under way."""
    return asyncio.ensure_future(server.check(token, headers=None, **{"wait": "true", **query}))


def reads(server: Server) -> float:
    """How many queries the server has sent to MongoDB in all."""
    counted = server.services.metrics.mongodb_reads.collect()
    return sum(sample.value for metric in counted for sample in metric.samples if sample.name.endswith("_total"))


def sample(server: Server, name: str, **labels: str) -> float:
    """What a metric says now."""
    return server.services.metrics.registry.get_sample_value(name, labels) or 0


async def settled(answer: Awaitable[HTTPResponse]) -> Document:
    """The body of the answer to a hold that ended because the job was settled."""
    response = await answer
    assert response.code == HTTPStatus.OK
    assert response.headers["X-Wait-Result"] == "settled"
    assert "Retry-After" not in response.headers
    return body(response)


# 1. The job leaves `waiting`


async def by_update(world: World) -> None:
    await world.jobs.update_one({"_id": 100}, {"$set": FINISHED})


async def by_replace(world: World) -> None:
    await world.jobs.replace_one({"_id": 100}, JOB | FINISHED)


async def by_find_and_modify(world: World) -> None:
    await world.jobs.find_one_and_update({"submission_id": 1, "file_type": "D1"}, {"$set": FINISHED})


async def by_pipeline_update(world: World) -> None:
    await world.jobs.update_one({"_id": 100}, [{"$set": FINISHED}])


async def by_update_many(world: World) -> None:
    await world.jobs.update_many({"submission_id": 1}, {"$set": FINISHED})


async def by_bulk_write(world: World) -> None:
    other = {"_id": 500, "submission_id": 5, "file_type": "E", "status": "waiting"}
    await world.jobs.bulk_write(
        [InsertOne(other), UpdateOne({"_id": 100}, {"$set": FINISHED}), DeleteOne({"_id": 500})]
    )


async def by_transaction(world: World) -> None:
    async with world.client.start_session() as session, await session.start_transaction():
        await world.jobs.update_one({"_id": 100}, {"$set": {"status": "finished"}}, session=session)
        await world.jobs.update_one({"_id": 100}, {"$set": FINISHED}, session=session)


async def by_merge(world: World) -> None:
    await world.database["outbox"].insert_one(JOB | FINISHED)
    await (await world.database["outbox"].aggregate([{"$merge": {"into": "jobs"}}])).to_list()


async def by_upsert_after_delete(world: World) -> None:
    async with world.client.start_session() as session, await session.start_transaction():
        await world.jobs.delete_one({"_id": 100}, session=session)
        await world.jobs.insert_one(JOB | FINISHED, session=session)


@pytest.mark.parametrize(
    "write",
    [
        by_update,
        by_replace,
        by_find_and_modify,
        by_pipeline_update,
        by_update_many,
        by_bulk_write,
        by_transaction,
        by_merge,
        by_upsert_after_delete,
    ],
)
async def test_hold_ends_however_the_finish_is_written(server: Server, world: World, write: Write) -> None:
    await world.put_job()
    answer = held(server)
    await server.held()
    await write(world)
    found = await settled(answer)
    assert (found["job_id"], found["status"]) == (100, "finished")
    assert found["url"].startswith("http")


async def test_hold_ends_when_a_job_of_another_id_replaces_it(server: Server, world: World) -> None:
    await world.put_job()
    answer = held(server)
    await server.held()
    async with world.client.start_session() as session, await session.start_transaction():
        await world.jobs.delete_one({"_id": 100}, session=session)
        await world.jobs.insert_one(JOB | FINISHED | {"_id": 101}, session=session)
    found = await settled(answer)
    assert (found["job_id"], found["status"]) == (101, "finished")


async def test_hold_ends_for_a_job_whose_id_is_double(server: Server, world: World) -> None:
    await world.jobs.insert_one({"_id": 100.0, "submission_id": 1.0, "file_type": "D1", "status": "waiting"})
    answer = held(server)
    await server.held()
    await world.jobs.update_one({"_id": 100}, {"$set": FINISHED})
    assert (await settled(answer))["job_id"] == 100


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": "failed"}, "failed"),
        ({"status": "invalid"}, "failed"),
        ({"status": "ready"}, "invalid"),
        ({"upload": {"status": "failed"}}, "failed"),
        ({"status": "finished", "upload": {"status": "failed"}}, "failed"),
        ({"status": "finished", "upload": {"status": "finished"}}, "failed"),
        ({"status": "bogus"}, "failed"),
        ({"size": "wrong"}, "failed"),
    ],
)
async def test_hold_ends_at_every_settled_status(server: Server, world: World, fields: Document, status: str) -> None:
    await world.put_job()
    answer = held(server)
    await server.held()
    await world.jobs.update_one({"_id": 100}, {"$set": fields})
    found = await settled(answer)
    assert (found["job_id"], found["status"], found["url"]) == (100, status, "#")


async def test_hold_answers_at_once_if_the_job_is_not_waiting(server: Server, world: World) -> None:
    assert (await settled(held(server)))["status"] == "invalid"
    await world.put_job(file_type="E", **FINISHED)
    assert (await settled(held(server, file_type="E")))["status"] == "finished"


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "running"},
        {"status": "finished"},
        {"status": "finished", "upload": {"status": "waiting"}},
        {"status": "finished", "upload": {"status": "running"}},
        {"size": 5, "message": "Half way.", "updated_at": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
)
async def test_hold_continues_while_the_status_is_waiting(server: Server, world: World, fields: Document) -> None:
    await world.put_job()
    answer = held(server)
    await server.held()
    await world.jobs.update_one({"_id": 100}, {"$set": fields})
    await seen_by(server, world)
    await server.held()
    assert not answer.done()
    await world.finish()
    assert (await settled(answer))["status"] == "finished"


async def test_hold_is_not_woken_by_invisible_changes(server: Server, world: World) -> None:
    await world.put_job(progress={"rows": 1}, log=["begun"])
    await seen_by(server, world)
    answer = held(server)
    await server.held()
    [hold] = server.services.holds.of(("jobs", (1, "D1")))
    await world.jobs.update_one({"_id": 100}, {"$set": {"progress.rows": 2}, "$push": {"log": "half way"}})
    await world.jobs.update_one({"_id": 100}, {"$unset": {"progress": 1}, "$set": {"lease": {"owner": "a"}}})
    await world.jobs.update_one({"_id": 100}, [{"$set": {"log": []}}])
    await world.submissions.update_one({"_id": 1}, {"$set": {"title": "A submission"}})
    await seen_by(server, world)
    assert hold.woken_at is None
    await world.jobs.update_one({"_id": 100}, {"$set": {"upload.status": "running"}})
    await until(lambda: hold.woken_at is not None)
    await world.jobs.update_one({"_id": 100}, {"$unset": {"status": 1}})
    assert (await settled(answer))["status"] == "failed"


async def test_hold_is_not_woken_by_an_aborted_transaction(server: Server, world: World) -> None:
    await world.put_job()
    await seen_by(server, world)
    answer = held(server)
    await server.held()
    [hold] = server.services.holds.of(("jobs", (1, "D1")))
    async with world.client.start_session() as session:
        await session.start_transaction()
        await world.jobs.update_one({"_id": 100}, {"$set": FINISHED}, session=session)
        await session.abort_transaction()
    await seen_by(server, world)
    assert not answer.done()
    assert hold.woken_at is None
    await world.finish()
    assert (await settled(answer))["status"] == "finished"


async def test_hold_is_not_woken_by_other_jobs(server: Server, world: World) -> None:
    await world.submissions.insert_one({"_id": 2, "user_id": 11})
    await world.put_job()
    await world.put_job(101, "D2")
    await world.jobs.insert_one({"_id": 102, "submission_id": 2, "file_type": "D1", "status": "waiting"})
    await seen_by(server, world)
    answer = held(server)
    others = [held(server, file_type="D2"), held(server, submission_id=2)]
    await server.held(3)
    [hold] = server.services.holds.of(("jobs", (1, "D1")))
    await world.finish(101)
    await world.finish(102)
    assert [(await settled(other))["job_id"] for other in others] == [101, 102]
    assert hold.woken_at is None
    await world.finish()
    assert (await settled(answer))["job_id"] == 100


async def test_hold_survives_a_new_generation_right_after_a_finish(server: Server, world: World) -> None:
    await world.put_job()
    answer = held(server)
    await server.held()
    await world.jobs.bulk_write(
        [
            UpdateOne({"_id": 100}, {"$set": FINISHED}),
            UpdateOne({"_id": 100}, {"$set": {"status": "waiting", "upload": None}}),
        ]
    )
    await seen_by(server, world)
    # It may have seen the job finished, or as it is now: then it is held on, and sees the next finish.
    await world.finish(size=2)
    assert (await settled(answer))["status"] == "finished"


@pytest.mark.parametrize(
    "update",
    [
        {"$set": FINISHED | {"size": 5}},
        {"$set": FINISHED, "$unset": {"start": ""}},
        {"$set": {"status": "finished", "upload.status": "finished", "upload.key": "1/D1.csv"}},
        [{"$set": FINISHED | {"size": 5}}],
    ],
)
async def test_hold_answers_an_update_without_a_read(server: Server, world: World, update: Any) -> None:
    await world.put_job(size=5, start=datetime(2026, 7, 1, tzinfo=UTC), upload={"status": "running"})
    answers = [held(server, token) for token in ("owner", "reader")]
    await server.held(2)
    before = reads(server)
    await world.jobs.update_one({"_id": 100}, update)
    assert [(await settled(answer))["size"] for answer in answers] == [5, 5]
    assert reads(server) == before


async def test_hold_reads_after_an_update_that_cannot_be_applied(server: Server, world: World) -> None:
    await world.put_job(upload={"parts": [1, 2], "status": "running"})
    answer = held(server)
    await server.held()
    before = reads(server)
    await world.jobs.update_one({"_id": 100}, {"$set": {"upload.parts.1": 3}})
    await until(lambda: reads(server) > before, what="the job is read")
    await world.finish()
    assert (await settled(answer))["status"] == "finished"


async def test_holds_of_one_job_share_a_few_reads(server: Server, world: World) -> None:
    await world.put_job()
    answers = [held(server, token) for token in ("owner", "reader", "fabs", "admin") for _ in range(10)]
    await server.held(40)
    before = reads(server)
    await world.finish()
    found = [await settled(answer) for answer in answers]
    assert {each["status"] for each in found} == {"finished"}
    # The job, and what each may see of it, each collection in a query or two.
    assert reads(server) - before <= 8


# 2. The deadline


async def test_hold_answers_waiting_at_its_deadline_and_never_late(server: Server, world: World) -> None:
    await world.put_job()
    await remember(server, world)

    async def timed() -> float:
        began = time.monotonic()
        response = await server.check(wait="true", timeout=1)
        took = time.monotonic() - began
        assert response.code == HTTPStatus.OK
        assert (body(response)["status"], body(response)["url"]) == ("waiting", "#")
        assert response.headers["X-Wait-Result"] == "deadline"
        assert int(response.headers["Retry-After"]) > 0
        return took

    async with lateness() as machine:
        times = sorted(await asyncio.gather(*(timed() for _ in range(30))))
    assert times[0] >= 1 - 1 / 16
    assert times[-1] <= 1 + LATE + machine.seconds
    # They do not all end together, unless the machine held back all that had come due meanwhile.
    assert times[-1] - times[0] + machine.seconds > 1 / 100


async def test_hold_of_the_shortest_length_ends_at_its_deadline(server: Server, world: World) -> None:
    await world.put_job()
    await remember(server, world)
    response = await server.check(wait="true", timeout="0.001")
    assert (response.code, response.headers["X-Wait-Result"]) == (HTTPStatus.OK, "deadline")


@pytest.mark.parametrize("server_options", [{"wait_max": "0.5", "wait_default": "0.3"}])
@pytest.mark.parametrize(
    ("query", "prefer", "seconds"),
    [
        ({"wait": "true", "timeout": "100"}, None, 0.5),
        ({"wait": "true", "timeout": "9" * 400}, None, 0.5),
        ({"wait": "true"}, None, 0.3),
        ({"wait": "1", "timeout": "0.2"}, "wait=100", 0.2),
        ({}, "wait=100", 0.5),
    ],
)
async def test_hold_takes_its_length_from_timeout_preference_or_default(
    server: Server, world: World, query: dict[str, Any], prefer: str | None, seconds: float
) -> None:
    await world.put_job()
    await remember(server, world)
    async with lateness() as machine:
        began = time.monotonic()
        response = await server.check(headers={"Prefer": prefer} if prefer else None, **query)
        took = time.monotonic() - began
    assert seconds * 15 / 16 <= took <= seconds + LATE + machine.seconds
    assert response.headers["X-Wait-Result"] == "deadline"
    assert response.headers.get("Preference-Applied") == (prefer and f"wait={seconds}")


@pytest.mark.parametrize("server_options", [{"wait_max": "0.1", "wait_default": "30"}])
async def test_hold_default_is_limited_to_the_maximum(server: Server, world: World) -> None:
    await world.put_job()
    await remember(server, world)
    assert (await server.check(wait="true")).headers["X-Wait-Result"] == "deadline"


# 3. and 4. Access is lost, or the submission or the job is gone


async def log_out(world: World) -> None:
    await world.log_out("reader")


async def let_the_session_expire(world: World) -> None:
    await world.log_in("reader", 12, seconds=-1)


async def hand_the_session_to_another(world: World) -> None:
    await world.log_in("reader", 14)


async def spoil_the_session(world: World) -> None:
    await world.sessions.update_one({"_id": token_hash("reader")}, {"$unset": {"expires_at": ""}})


async def drop_the_sessions(world: World) -> None:
    await world.sessions.drop()


async def delete_the_user(world: World) -> None:
    await world.users.delete_one({"_id": 12})


async def strip_the_user(world: World) -> None:
    await world.users.update_one({"_id": 12}, {"$set": {"affiliations": []}})


async def move_the_submission(world: World) -> None:
    await world.submissions.update_one({"_id": 1}, {"$set": {"cgac_code": "020"}})


async def take_the_agency_away(world: World) -> None:
    await world.submissions.replace_one({"_id": 1}, {"_id": 1, "user_id": 11})


async def delete_the_submission(world: World) -> None:
    await world.submissions.delete_one({"_id": 1})


async def rename_the_submissions(world: World) -> None:
    await world.submissions.rename("old_submissions")


async def test_poll_is_refused_once_website_admin_is_1_instead_of_true(server: Server, world: World) -> None:
    assert (await server.check("admin")).code == HTTPStatus.OK
    await world.users.update_one({"_id": USERS["admin"]["_id"]}, {"$set": {"website_admin": 1}})
    await seen_by(server, world)
    assert (await server.check("admin")).code == HTTPStatus.FORBIDDEN


LOGIN_REQUIRED = (401, {"message": "Login Required"})
FORBIDDEN = (403, {"message": "User does not have permission to access that submission"})
NO_SUCH_SUBMISSION = (400, {"message": "No such submission"})

LOSSES: list[tuple[Write, tuple[int, Document]]] = [
    (log_out, LOGIN_REQUIRED),
    (let_the_session_expire, LOGIN_REQUIRED),
    (hand_the_session_to_another, LOGIN_REQUIRED),
    (spoil_the_session, LOGIN_REQUIRED),
    (drop_the_sessions, LOGIN_REQUIRED),
    (delete_the_user, LOGIN_REQUIRED),
    (strip_the_user, FORBIDDEN),
    (move_the_submission, FORBIDDEN),
    (take_the_agency_away, FORBIDDEN),
    (delete_the_submission, NO_SUCH_SUBMISSION),
    (rename_the_submissions, NO_SUCH_SUBMISSION),
]


@pytest.mark.parametrize(("lose", "expected"), LOSSES)
@pytest.mark.parametrize("then_finish", [False, True])
async def test_hold_answers_lost_access_without_the_job(
    server: Server, world: World, lose: Write, expected: tuple[int, Document], *, then_finish: bool
) -> None:
    await world.put_job()
    answer = held(server, "reader")
    await server.held()
    await lose(world)
    if then_finish:
        await world.finish()
    response = await answer
    assert (response.code, body(response)) == expected
    assert response.headers["X-Wait-Result"] == "error"
    assert "Retry-After" not in response.headers


@pytest.mark.parametrize(
    ("token", "user_id", "field"),
    [("admin", 14, "website_admin"), ("fabs", 13, "affiliations"), ("owner", 1, "user_id")],
)
async def test_hold_ends_when_any_ground_of_access_is_revoked(
    server: Server, world: World, token: str, user_id: int, field: str
) -> None:
    await world.put_job()
    answer = held(server, token)
    await server.held()
    collection = world.submissions if token == "owner" else world.users
    await collection.update_one({"_id": user_id}, {"$unset": {field: ""}})
    await world.finish()
    response = await answer
    assert (response.code, body(response)) == FORBIDDEN


async def test_hold_ends_when_the_session_expires(server: Server, world: World) -> None:
    await world.put_job()
    await world.log_in("reader", 12, seconds=1)
    async with lateness() as machine:
        began = time.monotonic()
        response = await server.check("reader", wait="true", timeout=50)
        took = time.monotonic() - began
    assert took < 1 + LATE + machine.seconds
    assert (response.code, body(response)) == LOGIN_REQUIRED


async def test_hold_ends_when_the_ttl_index_deletes_the_session(server: Server, world: World) -> None:
    await world.put_job()
    await world.log_in("reader", 12, seconds=1)
    await world.sessions.create_index("expires_at", expireAfterSeconds=0)
    before = await world.client.admin.command({"setParameter": 1, "ttlMonitorSleepSecs": 1})
    try:
        response = await server.check("reader", wait="true", timeout=50)
    finally:
        await world.client.admin.command({"setParameter": 1, "ttlMonitorSleepSecs": before["was"]})
    assert (response.code, body(response)) == LOGIN_REQUIRED


async def test_hold_continues_when_the_session_is_prolonged(server: Server, world: World) -> None:
    await world.put_job()
    await world.log_in("reader", 12, seconds=3)
    expires = datetime.now(UTC) + timedelta(seconds=3)
    answer = held(server, "reader")
    await server.held()
    await world.log_in("reader", 12)
    await until(lambda: datetime.now(UTC) > expires)
    await world.finish()
    assert (await settled(answer))["status"] == "finished"


async def test_hold_continues_while_access_is_kept(server: Server, world: World) -> None:
    await world.put_job()
    answer = held(server, "reader")
    await server.held()
    await world.users.update_one({"_id": 12}, {"$set": {"email": "new@example.gov"}})
    await world.submissions.update_one({"_id": 1}, {"$set": {"frec_code": None}})
    await seen_by(server, world)
    await server.held()
    assert not answer.done()
    await world.finish()
    assert (await settled(answer))["status"] == "finished"


async def delete_the_job(world: World) -> None:
    await world.jobs.delete_one({"_id": 100})


async def delete_all_jobs(world: World) -> None:
    await world.jobs.delete_many({})


async def drop_the_jobs(world: World) -> None:
    await world.jobs.drop()


async def rename_the_jobs(world: World) -> None:
    await world.jobs.rename("old_jobs")


async def give_the_job_to_another_submission(world: World) -> None:
    await world.jobs.update_one({"_id": 100}, {"$set": {"submission_id": 2}})


@pytest.mark.parametrize(
    "write", [delete_the_job, delete_all_jobs, drop_the_jobs, rename_the_jobs, give_the_job_to_another_submission]
)
async def test_hold_answers_invalid_for_a_deleted_job(server: Server, world: World, write: Write) -> None:
    await world.put_job()
    answer = held(server)
    await server.held()
    await write(world)
    found = await settled(answer)
    assert (found["job_id"], found["status"], found["url"]) == (None, "invalid", "#")


async def test_hold_answers_401_when_the_database_is_dropped(server: Server, world: World) -> None:
    await world.put_job()
    answer = held(server)
    await server.held()
    await world.client.drop_database(world.name)
    assert (await answer).code == HTTPStatus.UNAUTHORIZED


# 5. The server drains


async def test_drain_answers_every_hold_with_waiting(server: Server, world: World) -> None:
    await world.put_job()
    answers = [held(server) for _ in range(20)]
    await server.held(20)
    server.services.holds.drain()
    pauses = set()
    for answer in answers:
        response = await answer
        assert (response.code, body(response)["status"]) == (HTTPStatus.OK, "waiting")
        assert response.headers["X-Wait-Result"] == "draining"
        assert response.headers["Connection"].lower() == "close"
        pauses.add(int(response.headers["Retry-After"]))
    assert min(pauses) > 0
    assert len(pauses) > 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_drain_ends_each_connection_after_its_answer(server: Server, world: World, version: str) -> None:
    await world.put_job()
    url = urlsplit(server.base_url)
    request = f"HTTP/{version}\r\nHost: x\r\nX-Session-ID: owner\r\nConnection: keep-alive\r\n\r\n"
    connections = [await asyncio.open_connection(url.hostname, url.port) for _ in range(3)]
    (_, waiting), (_, idle), (_, new) = connections
    waiting.write(f"GET {ROUTE}?submission_id={SUBMISSION}&file_type=D1&wait=true {request}".encode())
    idle.write(f"GET /livez {request}".encode())
    await server.held()
    server.drain()
    for writer in (idle, new):
        writer.write(f"GET /livez {request}".encode())
    async with asyncio.timeout(DEADLINE):
        answers = [await reader.read() for reader, _ in connections]  # Until the server closes it.
    for answer in answers:
        assert b"connection: close" in answer.rpartition(b"HTTP/1.1 ")[2].lower()
    assert b"X-Wait-Result: draining" in answers[0]
    for _, writer in connections:
        writer.close()


async def test_drain_holds_no_further_request(server: Server, world: World) -> None:
    await world.put_job()
    server.services.holds.drain()
    response = await server.check(wait="true")
    assert (body(response)["status"], response.headers["X-Wait-Result"]) == ("waiting", "draining")


async def test_drain_answers_lost_access_without_the_job(server: Server, world: World) -> None:
    await world.put_job()
    answer = held(server, "reader")
    await server.held()
    await world.log_out("reader")
    server.services.holds.drain()
    # The session's end may not have been heard of yet: then the answer is a waiting one, which gives nothing away.
    assert "http" not in (await answer).body.decode()


# 6. The client goes away


@asynccontextmanager
async def raw_request(server: Server, token: str = "owner") -> AsyncIterator[asyncio.StreamWriter]:
    """A request that asks to wait, sent over a connection that the test can cut."""
    address = urlsplit(server.base_url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    lines = f"GET {ROUTE}?submission_id=1&file_type=D1&wait=true HTTP/1.1", "Host: x", f"X-Session-ID: {token}"
    writer.write("\r\n".join((*lines, "", "")).encode())
    try:
        yield writer
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("how", ["close", "abort", "write_eof"])
async def test_hold_is_freed_when_its_client_leaves(server: Server, world: World, how: str) -> None:
    await world.put_job()
    async with raw_request(server) as writer:
        await server.held()
        assert sample(server, "genstatus_held_requests") == 1
        getattr(writer.transport, how)()
        await until(lambda: not len(server.services.holds), seconds=0.5)
    assert sample(server, "genstatus_held_requests") == 0
    await until(lambda: sample(server, "genstatus_hold_seconds_count", result="gone") == 1, seconds=0.5)
    await until(lambda: not server.services.in_flight, seconds=0.5)


async def test_hold_does_not_begin_for_a_client_that_left(
    server: Server, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.put_job()
    asked, go_on = asyncio.Event(), asyncio.Event()
    read = server.services.documents.get

    async def read_slowly(*arguments: Any) -> Any:
        asked.set()
        await go_on.wait()
        return await read(*arguments)

    monkeypatch.setattr(server.services.documents, "get", read_slowly)
    async with raw_request(server) as writer:
        await asked.wait()
        writer.transport.abort()
        await until(lambda: server.services.in_flight == 1)
        await server.fetch("/livez")  # By now the server has been told that the connection is gone.
    go_on.set()
    await until(lambda: not server.services.in_flight, what="the request has ended")
    assert not len(server.services.holds)


async def test_hold_continues_when_another_client_leaves(server: Server, world: World) -> None:
    await world.put_job()
    answer = held(server)
    await server.held()
    async with raw_request(server):
        await server.held(2)
    await server.held(1)
    await world.finish()
    assert (await settled(answer))["status"] == "finished"


# 7. Too many


@pytest.mark.parametrize("server_options", [{"max_waits": "2"}])
async def test_shed_beyond_max_waits(server: Server, world: World) -> None:
    await world.put_job()
    await world.put_job(101, "E", **FINISHED)
    answers = [held(server, "owner"), held(server, "reader")]
    await server.held(2)
    pauses = set()
    for _ in range(20):
        response = await server.check("admin", wait="true")
        assert (response.code, body(response)["status"]) == (HTTPStatus.OK, "waiting")
        assert response.headers["X-Wait-Result"] == "shed"
        pauses.add(int(response.headers["Retry-After"]))
    assert min(pauses) > 0
    assert len(pauses) > 1
    plain = await server.check("admin")
    assert (plain.code, body(plain)["status"]) == (HTTPStatus.OK, "waiting")
    assert "X-Wait-Result" not in plain.headers
    assert (await settled(held(server, "admin", file_type="E")))["status"] == "finished"
    await world.finish()
    assert [(await settled(answer))["status"] for answer in answers] == ["finished"] * 2


@pytest.mark.parametrize("server_options", [{"max_waits_per_session": "1"}])
async def test_shed_beyond_max_waits_of_one_session(server: Server, world: World) -> None:
    await world.put_job()
    await world.log_in("second login", 11)
    answers = [held(server, "owner")]
    await server.held()
    assert (await server.check("owner", wait="true")).headers["X-Wait-Result"] == "shed"
    answers.append(held(server, "second login"))
    await server.held(2)
    await world.finish()
    assert [(await settled(answer))["status"] for answer in answers] == ["finished"] * 2


@pytest.mark.parametrize("server_options", [{"max_waits": "1"}])
async def test_shed_ends_when_a_hold_ends(server: Server, world: World) -> None:
    await world.put_job()
    async with raw_request(server):
        await server.held()
        assert (await server.check(wait="true")).headers["X-Wait-Result"] == "shed"
    await until(lambda: not len(server.services.holds))
    answer = held(server)
    await server.held()
    await world.finish()
    assert (await settled(answer))["status"] == "finished"


@pytest.mark.parametrize("server_options", [{"max_waits": "0"}])
async def test_shed_everything_where_max_waits_is_zero(server: Server, world: World) -> None:
    await world.put_job()
    assert (await server.check(wait="true")).headers["X-Wait-Result"] == "shed"
    assert (await server.check("stranger", wait="true")).code == HTTPStatus.FORBIDDEN


async def test_drain_answers_a_job_that_finishes_meanwhile(server: Server, world: World) -> None:
    await world.put_job()
    answers = [held(server) for _ in range(10)]
    await server.held(10)
    finishing = asyncio.ensure_future(world.finish())
    await until(lambda: any(hold.woken for hold in server.services.holds.of(("jobs", (1, "D1")))) or finishing.done())
    server.services.draining = True
    server.services.holds.drain()
    for answer in answers:
        response = await asyncio.wait_for(answer, DEADLINE)
        assert response.code == HTTPStatus.OK
    await finishing


@pytest.mark.parametrize("error", [KeyError("a defect"), AccessDenied()])
async def test_hold_is_released_and_answered_after_a_defect(
    server: Server, world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await world.put_job()
    answer = asyncio.ensure_future(server.check(wait="true"))
    await server.held()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(server.services.documents.cache, "lookup", fail)
    await world.finish()
    response = await answer
    expected = HTTPStatus.INTERNAL_SERVER_ERROR if isinstance(error, KeyError) else HTTPStatus.FORBIDDEN
    assert (response.code, response.headers["X-Wait-Result"]) == (expected, "error")
    assert not len(server.services.holds)
    assert sample(server, "genstatus_hold_seconds_count", result="error") == 1
    await until(lambda: not server.services.in_flight)


# What a hold costs, and what it leaves


async def change_stream_batches(world: World) -> int:
    """How many batches the newest change stream on the test's database has returned."""
    every = await world.client.admin.aggregate([{"$currentOp": {"idleCursors": True}}])
    cursors = [operation["cursor"] async for operation in every if "cursor" in operation]
    own = [cursor for cursor in cursors if cursor["originatingCommand"]["$db"] == world.name]
    batches: int = max(own, key=itemgetter("createdDate"))["nBatchesReturned"]
    return batches


@pytest.mark.parametrize("server_options", [{"max_waits_per_session": "1000"}])
async def test_hold_reads_nothing_while_nothing_changes(server: Server, world: World) -> None:
    await world.put_job()
    answers = [held(server, token, timeout=50) for token in ("owner", "reader", "fabs", "admin") for _ in range(50)]
    await server.held(200)
    before = reads(server)
    # MongoDB's own counts: of all that is asked about this database, and of the answers to a `getMore`.
    await world.database.command({"profile": 2})
    began, batches = time.monotonic(), await change_stream_batches(world)
    await until(lambda: time.monotonic() - began > 4)
    batches_later = await change_stream_batches(world)
    seconds = time.monotonic() - began
    await world.database.command({"profile": 0})
    assert reads(server) == before
    assert await world.database["system.profile"].count_documents({"appName": "genstatus_server"}) == 0
    assert 1 <= batches_later - batches <= 1000 * seconds / HEARTBEAT_MS + 1
    await world.finish()
    for answer in answers:
        assert (await settled(answer))["status"] == "finished"


async def test_hold_leaves_nothing_behind(server: Server, world: World) -> None:
    await world.put_job()
    tasks = len(asyncio.all_tasks())
    answers = [held(server, token) for token in ("owner", "reader", "fabs", "admin")]
    await server.held(4)
    await world.log_out("reader")
    assert (await answers[1]).code == HTTPStatus.UNAUTHORIZED
    await world.finish()
    await asyncio.gather(*answers)
    holds = server.services.holds
    assert (len(holds), set(holds.keys()), holds.waiting()) == (0, set(), 0)
    assert sample(server, "genstatus_held_requests") == 0
    await until(lambda: len(asyncio.all_tasks()) <= tasks, what="no task is left")
    await until(lambda: not server.services.in_flight, what="no request is left")


async def test_metrics_count_how_holds_ended(server: Server, world: World) -> None:
    await world.put_job()
    await server.check(wait="true", timeout="2")
    answer = held(server)
    await server.held()
    await world.finish()
    await settled(answer)
    assert sample(server, "genstatus_hold_seconds_count", result="deadline") == 1
    assert sample(server, "genstatus_hold_seconds_count", result="settled") == 1
    await until(lambda: sample(server, "genstatus_wake_seconds_count") == 1)
