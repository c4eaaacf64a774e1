"""Whatever lies in a document: no answer is a 5xx, no defect is logged, no hold hangs, and nothing is granted by it."""

import asyncio
import itertools
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import pytest
from bson import DBRef
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from structlog.typing import EventDict
from tornado.httpclient import HTTPResponse
from tornado.ioloop import IOLoop

from tests.support.bson_values import INVALID_TEXT, any_id, any_value, is_future, is_moment, is_whole, raw
from tests.support.server import Server, body
from tests.support.world import Document, World, in_future, token_hash

pytestmark = pytest.mark.one_python

KEYS = ["job_id", "status", "file_type", "url", "size", "start", "end", "message", "generated_at"]
DEFECTS = {"request_defect", "change_stream_defect"}
#: Seconds by which a hold must have seen a change.
SOON = 40.0
#: Seconds that one example may take on a machine that is busy.
PATIENCE = 120.0

GOOD_JOB: Final[Document] = {
    "file_type": "D1",
    "status": "finished",
    "upload": {"status": "finished", "bucket": "reports", "key": "1/D1.csv"},
    "size": 10240,
    "start": datetime(2026, 7, 1, tzinfo=UTC),
    "end": datetime(2026, 9, 30, tzinfo=UTC),
    "message": "",
    "updated_at": datetime(2026, 11, 24, tzinfo=UTC),
}
JOB_FIELDS = ["status", "upload", "upload.status", "upload.bucket", "upload.key"]
JOB_FIELDS += ["size", "start", "end", "message", "updated_at"]

#: Every example writes documents of its own, so that all can share a server and its database.
numbers = itertools.count(1000)
fuzzed = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def nothing_is_amiss(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No library has anything to complain of."""
    yield
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def with_field(document: Document, field: str, value: Any) -> Document:
    """`document` with another value in `field`, which may be one of an embedded document."""
    outer, _, inner = field.partition(".")
    return document | {outer: document[outer] | {inner: value} if inner else value}


def is_right(field: str, value: Any) -> bool:
    """Whether a value is of the type that the field of a job has, or null."""
    if value is None:
        return True
    if field in {"start", "end", "updated_at"}:
        return is_moment(value)
    if field == "size":
        return is_whole(value) and value >= 0
    # Not a subclass: code is text to Python, and none to MongoDB.
    return type(value) is (dict if field == "upload" else str)


def no_defects(records: list[EventDict]) -> list[EventDict]:
    assert not [record for record in records if record["event"] in DEFECTS], records
    return [record for record in records if record["event"] == "job_malformed"]


def check_sane(response: HTTPResponse) -> Document:
    """It is an answer with all of its keys, or an error for the caller."""
    assert response.code < HTTPStatus.INTERNAL_SERVER_ERROR
    answer = body(response)
    if response.code == HTTPStatus.OK:
        assert list(answer) == KEYS
        assert (answer["status"] == "failed") == bool(answer["message"].strip())
        assert (answer["status"] == "finished") == (answer["url"] != "#")
    return answer


async def put_submission(world: World) -> int:
    """A submission of the owner's, and its number."""
    number = next(numbers)
    await world.submissions.insert_one({"_id": number, "user_id": 11})
    return number


async def put_login(world: World, user_id: Any, **fields: Any) -> str:
    """A login session with these fields, and its token."""
    token = f"token {next(numbers)}"
    session = {"_id": token_hash(token), "user_id": user_id, "expires_at": in_future()} | fields
    await world.sessions.insert_one(raw(session))
    return token


# Jobs


@fuzzed
@given(field=st.sampled_from(JOB_FIELDS), value=any_value)
@example("size", True)  # noqa: FBT003 - hypothesis takes its examples by position
@example("message", INVALID_TEXT)
@example("upload.key", INVALID_TEXT)
@example("upload.bucket", INVALID_TEXT)
@example("start", DatetimeMS(2**62))
def test_job_with_any_value_in_a_field_is_answered(
    server: Server, world: World, io_loop: IOLoop, field: str, value: Any
) -> None:
    async def ask() -> None:
        number = await put_submission(world)
        job = with_field({"_id": number, "submission_id": number} | GOOD_JOB, field, value)
        await world.jobs.insert_one(raw(job))
        with capture_logs() as records:
            answer = check_sane(await server.check(submission_id=number))
        warned = no_defects(records)
        if not is_right(field, value):
            assert answer["status"] == "failed"
            assert [record["submission_id"] for record in warned] == [number]

    io_loop.run_sync(ask, timeout=PATIENCE)


@fuzzed
@given(job_id=any_id)
def test_job_with_any_id_is_answered(server: Server, world: World, io_loop: IOLoop, job_id: Any) -> None:
    async def ask() -> None:
        number = await put_submission(world)
        await world.jobs.delete_one({"submission_id": number - 1})  # Another example may have had the same id.
        await world.jobs.delete_one(raw({"_id": {"$eq": job_id}}))
        await world.jobs.insert_one(raw({"_id": job_id, "submission_id": number} | GOOD_JOB))
        with capture_logs() as records:
            answer = check_sane(await server.check(submission_id=number))
        assert (answer["status"] == "finished") == is_whole(job_id)
        assert bool(no_defects(records)) == (answer["status"] == "failed")

    io_loop.run_sync(ask, timeout=PATIENCE)


@fuzzed
@given(value=any_value, in_array=st.booleans(), field=st.sampled_from(["submission_id", "file_type"]))
def test_job_with_any_value_in_its_key_is_answered(
    server: Server, world: World, io_loop: IOLoop, field: str, value: Any, *, in_array: bool
) -> None:
    async def ask() -> None:
        number = await put_submission(world)
        job = {"_id": number, "submission_id": number} | GOOD_JOB
        odd = [job[field], value] if in_array else value
        await world.jobs.insert_one(raw(job | {field: odd}))
        with capture_logs() as records:
            answer = check_sane(await server.check(submission_id=number))
        no_defects(records)
        same = type(odd) is not bool and odd == job[field]
        found = isinstance(odd, list) and job[field] in odd  # MongoDB finds an array by any of its elements.
        assert answer["status"] == ("failed" if found else "finished" if same else "invalid")

    io_loop.run_sync(ask, timeout=PATIENCE)


@fuzzed
@given(field=st.sampled_from(JOB_FIELDS), value=any_value)
@example("message", INVALID_TEXT)
@example("upload.key", INVALID_TEXT)
@example("updated_at", DatetimeMS(-(2**62)))
def test_hold_ends_whatever_its_job_becomes(
    server: Server, world: World, io_loop: IOLoop, field: str, value: Any
) -> None:
    async def hold() -> None:
        number = await put_submission(world)
        job = {"_id": number, "submission_id": number} | GOOD_JOB
        await world.jobs.insert_one(job | {"status": "waiting"})
        with capture_logs() as records:
            answer = asyncio.ensure_future(server.check(submission_id=number, wait="true", timeout=50))
            await server.held()
            await world.jobs.replace_one({"_id": number}, raw(with_field(job, field, value)))
            if is_right(field, value):
                await asyncio.wait({answer}, timeout=0.02)
                await world.jobs.delete_one({"_id": number})  # It may be waiting still.
            response = await asyncio.wait_for(answer, SOON)
        warned = no_defects(records)
        assert response.headers["X-Wait-Result"] == "settled"
        settled = check_sane(response)
        if not is_right(field, value):
            assert settled["status"] == "failed"
            assert number in {record["submission_id"] for record in warned}

    io_loop.run_sync(hold, timeout=PATIENCE)


# Who may see what


@fuzzed
@given(field=st.sampled_from(["user_id", "expires_at"]), value=any_value)
def test_login_session_with_any_value_in_a_field_grants_nothing(
    server: Server, world: World, io_loop: IOLoop, field: str, value: Any
) -> None:
    async def ask() -> None:
        token = await put_login(world, **({"user_id": 11} | {field: value}))
        with capture_logs() as records:
            response = await server.check(token)
        no_defects(records)
        check_sane(response)
        is_login = is_whole(value) and int(value) in {11, 12, 13, 14, 15} if field == "user_id" else is_future(value)
        assert (response.code != HTTPStatus.UNAUTHORIZED) == is_login

    io_loop.run_sync(ask, timeout=PATIENCE)


@fuzzed
@given(field=st.sampled_from(["website_admin", "affiliations", "cgac_code", "frec_code"]), value=any_value)
@example("cgac_code", "097")
@example("website_admin", True)  # noqa: FBT003 - by position
@example("affiliations", [{"cgac_code": ["097"]}, "097", None])
def test_user_with_any_value_in_a_field_gains_no_access(
    server: Server, world: World, io_loop: IOLoop, field: str, value: Any
) -> None:
    async def ask() -> None:
        number = next(numbers)
        in_affiliation = field.endswith("_code")
        fields = {"affiliations": [value, {field: value}]} if in_affiliation else {field: value}
        await world.users.insert_one(raw({"_id": number} | fields))
        token = await put_login(world, number)
        with capture_logs() as records:
            response = await server.check(token)
        no_defects(records)
        check_sane(response)
        granted = (field, value) == ("cgac_code", "097") or (field == "website_admin" and value is True)
        assert response.code == (HTTPStatus.OK if granted else HTTPStatus.FORBIDDEN)

    io_loop.run_sync(ask, timeout=PATIENCE)


@fuzzed
@given(field=st.sampled_from(["user_id", "cgac_code", "frec_code"]), value=any_value)
@example("cgac_code", "097")
@example("user_id", 12.0)
def test_submission_with_any_value_in_a_field_is_shown_to_no_stranger(
    server: Server, world: World, io_loop: IOLoop, field: str, value: Any
) -> None:
    async def ask() -> None:
        number = next(numbers)
        await world.submissions.insert_one(raw({"_id": number, "user_id": 11} | {field: value}))
        with capture_logs() as records:
            response = await server.check("reader", submission_id=number)
        no_defects(records)
        check_sane(response)
        owns = field == "user_id" and is_whole(value) and int(value) == 12
        granted = owns or (field == "cgac_code" and type(value) is str and value == "097")
        assert response.code == (HTTPStatus.OK if granted else HTTPStatus.FORBIDDEN)

    io_loop.run_sync(ask, timeout=PATIENCE)


WHO: Final = {
    "sessions": ["user_id", "expires_at"],
    "users": ["website_admin", "affiliations"],
    "submissions": ["user_id", "cgac_code", "frec_code"],
}


@fuzzed
@given(
    where=st.sampled_from([(collection, field) for collection, fields in WHO.items() for field in fields]),
    value=any_value,
)
def test_hold_ends_whatever_its_access_documents_become(
    server: Server, world: World, io_loop: IOLoop, where: tuple[str, str], value: Any
) -> None:
    collection, field = where

    async def hold() -> None:
        number = next(numbers)
        token = await put_login(world, number)
        documents: dict[str, Document] = {
            "sessions": {"_id": token_hash(token), "user_id": number, "expires_at": in_future()},
            "users": {"_id": number},
            "submissions": {"_id": number, "user_id": number},
        }
        await world.users.insert_one(documents["users"])
        await world.submissions.insert_one(documents["submissions"])
        await world.jobs.insert_one({"_id": number, "submission_id": number} | GOOD_JOB | {"status": "waiting"})
        changed = documents[collection] | {field: value}
        with capture_logs() as records:
            answer = asyncio.ensure_future(server.check(token, submission_id=number, wait="true", timeout=50))
            await server.held()
            await world.database[collection].replace_one({"_id": changed["_id"]}, raw(changed))
            await world.jobs.update_one({"_id": number}, {"$set": {"status": "finished"}})
            response = await asyncio.wait_for(answer, SOON)
        no_defects(records)
        check_sane(response)
        lost_by = {"user_id", "expires_at"} & {field}
        is_kept = not lost_by or (
            is_future(value) if field == "expires_at" else is_whole(value) and int(value) == number
        )
        expected = HTTPStatus.UNAUTHORIZED if collection == "sessions" else HTTPStatus.FORBIDDEN
        assert response.code == (HTTPStatus.OK if is_kept else expected)

    io_loop.run_sync(hold, timeout=PATIENCE)


# Documents that nobody asked for


@fuzzed
@given(document_id=any_id, collection=st.sampled_from(["jobs", "submissions", "users", "sessions"]), value=any_value)
@example(DBRef("a", {"b": 1}), "users", None)  # It says that it can be hashed, and cannot.
@example(DBRef("a", {"b": 1}), "jobs", None)
@example(Code("a"), "sessions", None)
@example(INVALID_TEXT, "jobs", None)
@example(INVALID_TEXT, "jobs", 1)  # It was deleted before.
def test_hold_ignores_any_document_of_others(
    server: Server, world: World, io_loop: IOLoop, document_id: Any, collection: str, value: Any
) -> None:
    async def hold() -> None:
        number = await put_submission(world)
        documents = world.database[collection]
        # Without the operator, some values would be read as a query. Raw, as it is written: else invalid text stays.
        this = raw({"_id": {"$eq": document_id}})
        assume(not await documents.count_documents(this))
        await world.jobs.insert_one({"_id": number, "submission_id": number} | GOOD_JOB | {"status": "waiting"})
        with capture_logs() as records:
            answer = asyncio.ensure_future(server.check(submission_id=number, wait="true", timeout=50))
            await server.held()
            await documents.insert_one(raw({"_id": document_id, "user_id": value, "status": value}))
            await documents.delete_one(this)
            await world.jobs.update_one({"_id": number}, {"$set": {"status": "finished"}})
            response = await asyncio.wait_for(answer, SOON)
        no_defects(records)
        assert check_sane(response)["status"] == "finished"

    io_loop.run_sync(hold, timeout=PATIENCE)
