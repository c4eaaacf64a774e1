"""The async twins do what `JobsWriter` and `JobHandle` do."""

# A block that ends in an exception is what is tested.
# ruff: noqa: PT012

import asyncio
import inspect
import io
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import AutoReconnect, OperationFailure
from tornado.ioloop import IOLoop

from genstatus_server.jobs_writer import (
    AsyncJobHandle,
    AsyncJobsWriter,
    GenerationFailed,
    GenerationInvalid,
    JobHandle,
    JobsWriter,
    LeaseLost,
    NothingUploaded,
    NotInitialized,
)
from genstatus_server.model.jobs import DEFAULT_FAILURE, GenerationStatus, job_from_document
from tests.support.server import until
from tests.support.services import S3

if TYPE_CHECKING:
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.database import Database

Document = dict[str, Any]

LONG = 3600.0


class Held:
    """The writer of a test, and its database."""

    def __init__(self, database: "AsyncDatabase[Document]", bucket: str, s3_client: Any) -> None:
        self.database = database
        self._options: dict[str, Any] = {"bucket": bucket, "s3": s3_client}
        self.writer = self.on_terms(lease_seconds=LONG)

    def on_terms(self, **terms: Any) -> AsyncJobsWriter:
        return AsyncJobsWriter(self.database, **self._options, **terms)

    async def claimed(self) -> AsyncJobHandle:
        job = await self.writer.claim()
        assert job is not None
        return job

    async def stored(self, job: AsyncJobHandle) -> Document:
        return await self.database["jobs"].find_one(job.job_id) or {}

    async def seen(self, job: AsyncJobHandle) -> GenerationStatus:
        return job_from_document(await self.stored(job)).generation_status


@pytest.fixture
def held(
    io_loop: IOLoop, mongodb_uri: str, initialized: "Database[Document]", s3: S3, s3_client: Any
) -> Iterator[Held]:
    client: AsyncMongoClient[Document] = AsyncMongoClient(mongodb_uri)
    yield Held(client[initialized.name], s3.bucket, s3_client)
    io_loop.run_sync(client.close)


@pytest.mark.parametrize(("blocking", "twin"), [(JobsWriter, AsyncJobsWriter), (JobHandle, AsyncJobHandle)])
def test_the_twins_have_the_same_methods(blocking: type, twin: type) -> None:
    def methods(of: type) -> dict[str, list[str]]:
        public = (name for name, value in inspect.getmembers(of, inspect.isfunction) if not name.startswith("_"))
        return {name: list(inspect.signature(getattr(of, name)).parameters) for name in ("__init__", *public)}

    assert methods(blocking) == methods(twin)


async def test_a_job_from_its_request_to_its_file(held: Held, s3: S3, s3_client: Any) -> None:
    told: list[int] = []
    content = bytes(9_000_000)  # Two parts.
    async with await held.writer.request(1, "D1") as job:
        assert await job.upload(io.BytesIO(content), progress=told.append) == len(content)
        assert await held.seen(job) is GenerationStatus.WAITING
    assert await held.seen(job) is GenerationStatus.FINISHED
    document = await held.stored(job)
    assert "lease" not in document
    assert (document["size"], told[-1]) == (len(content), len(content))
    found = s3_client.head_object(Bucket=s3.bucket, Key=document["upload"]["key"])
    assert found["ContentLength"] == len(content)


async def test_every_way_to_end_a_job(held: Held) -> None:
    for submission_id in range(1, 6):
        await held.writer.request(submission_id, "E")
    jobs = [await held.claimed() for _ in range(5)]
    assert await held.writer.claim() is None
    await jobs[0].finish(3, key="E.csv")
    await jobs[1].fail("No")
    await jobs[2].invalid("Never")
    await jobs[3].finish()
    await jobs[3].upload(io.BytesIO(b"late"))
    await jobs[4].release()
    stored = [await held.stored(job) for job in jobs]
    assert [document["status"] for document in stored] == ["finished", "failed", "invalid", "finished", "waiting"]
    assert not any("lease" in document for document in stored)
    for job in jobs:
        with pytest.raises(LeaseLost):
            await job.fail("again")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ZeroDivisionError("internal"), "failed", DEFAULT_FAILURE),
        (GenerationFailed("No data"), "failed", "No data"),
        (GenerationInvalid("No such days"), "invalid", "No such days"),
    ],
)
async def test_an_exception_marks_the_job_failed_and_goes_on(
    held: Held, error: Exception, status: str, message: str
) -> None:
    with pytest.raises(type(error)):
        async with await held.writer.request(1, "D1") as job:
            raise error
    document = await held.stored(job)
    assert (document["status"], document["message"]) == (status, message)


async def test_a_block_that_uploaded_nothing_fails(held: Held) -> None:
    with pytest.raises(NothingUploaded):
        async with await held.writer.request(1, "D1") as job:
            pass
    assert await held.seen(job) is GenerationStatus.FAILED


async def test_a_cancelled_block_gives_its_job_back(held: Held) -> None:
    job = await held.writer.request(1, "D1")
    began = asyncio.Event()

    async def generate() -> None:
        async with job:
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(generate())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await held.stored(job))["status"] == "waiting"
    again = await held.claimed()
    assert again.attempt == 1
    await again.release()


class Stuck(io.RawIOBase):
    """A stream that gives nothing until it is let go, and then without end."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.begun.set()
        self.let_go.wait(30)
        return len(buffer)


async def test_a_cancelled_upload_is_over_before_its_job_is_given_back(held: Held) -> None:
    job, stream = await held.writer.request(1, "D1"), Stuck()

    async def generate() -> None:
        async with job:
            await job.upload(io.BufferedReader(stream))

    task = asyncio.create_task(generate())
    await until(stream.begun.is_set)
    task.cancel()
    await asyncio.sleep(0)
    assert (await held.stored(job))["upload"] == {"status": "running"}
    stream.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    document = await held.stored(job)
    assert document["status"] == "waiting"
    assert "upload" not in document


async def test_a_lost_lease_is_told_and_nothing_is_changed(held: Held) -> None:
    late = await held.writer.request(1, "D1")
    await late.start()
    await late.start()
    again = await held.writer.request(1, "D1")
    before = await held.stored(again)
    with pytest.raises(LeaseLost):
        await late.finish(key="late")
    assert await held.stored(again) == before
    await again.start()
    with pytest.raises(LeaseLost):
        await (await held.writer.request(1, "D1")).finish()
    with pytest.raises(LeaseLost):
        await again.finish()


async def test_an_error_is_not_hidden_by_a_lost_lease(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError):
        async with await held.writer.request(1, "D1"):
            await held.writer.request(1, "D1")
            raise ZeroDivisionError
    assert "LeaseLost" in caplog.text
    with pytest.raises(LeaseLost):
        async with await held.writer.request(1, "D1") as job:
            await job.upload(io.BytesIO(b"in vain"))
            await held.writer.request(1, "D1")


async def test_a_heartbeat_prolongs_the_lease_until_it_is_lost(
    held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = await held.on_terms(lease_seconds=0.3).request(1, "E")
    await job.start()
    with monkeypatch.context() as patch:
        patch.setattr(job, "_prolonging", lambda: (_ for _ in ()).throw(AutoReconnect("secret address")))
        await until(lambda: "AutoReconnect" in caplog.text)
    assert "secret" not in caplog.text
    first = now = (await held.stored(job))["lease"]["expires_at"]
    while now == first:
        await asyncio.sleep(0.02)
        now = (await held.stored(job))["lease"]["expires_at"]
    job.check_lease()
    await held.database["jobs"].delete_one({"_id": job.job_id})
    await until(lambda: job._heartbeat is not None and job._heartbeat.is_lost)
    with pytest.raises(LeaseLost):
        job.check_lease()


async def test_racing_requests_leave_one_job_and_count_every_generation(held: Held) -> None:
    jobs = await asyncio.gather(*(held.writer.request(1, "D1") for _ in range(24)))
    assert {job.job_id for job in jobs} == {jobs[0].job_id}
    assert sorted(job.generation for job in jobs) == list(range(1, 25))
    assert await held.database["jobs"].count_documents({}) == 1


async def test_a_job_that_is_interrupted_too_often_is_given_up(held: Held) -> None:
    writer = held.on_terms(lease_seconds=0.001, max_attempts=1)
    job = await writer.request(1, "E")
    await job.start()
    job._stop()
    while (await held.stored(job))["status"] == "running":
        assert await writer.claim() is None
    assert (await held.stored(job))["status"] == "failed"


async def test_job_ids_begin_behind_the_jobs_that_are_there(held: Held) -> None:
    await held.database["jobs"].insert_one({"_id": 1, "submission_id": 9, "file_type": "E", "status": "ready"})
    assert (await held.writer.request(1, "D1")).job_id == 2


async def test_a_database_without_init_db_is_refused(held: Held, database_name: str) -> None:
    with pytest.raises(NotInitialized):
        await AsyncJobsWriter(held.database.client[database_name]).request(1, "D1")


async def test_work_goes_on_after_a_job_that_failed(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    began, stop = asyncio.Event(), asyncio.Event()
    jobs = [await held.writer.request(submission_id, "E") for submission_id in (1, 2, 3)]

    async def generate(job: AsyncJobHandle) -> None:
        if job.submission_id == 1:
            raise ZeroDivisionError
        if job.submission_id == 2:
            await held.database["jobs"].delete_one({"_id": job.job_id})
        if job.submission_id == 3:
            began.set()
        await job.finish(5, key="E.csv")

    working = asyncio.create_task(held.writer.work(generate, poll_seconds=0.01, stop=stop))
    await began.wait()
    stop.set()
    await working
    assert [(await held.stored(job)).get("status") for job in jobs] == ["failed", None, "finished"]
    assert "ZeroDivisionError" in caplog.text
    assert "nothing was changed" in caplog.text


async def test_claims_wait_for_a_job_and_for_a_mongodb_that_is_away(
    held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = held.writer.claim
    answers: list[Any] = [AutoReconnect("secret address"), None]

    async def claim(file_types: object) -> AsyncJobHandle | None:
        answer = answers.pop(0) if answers else await original()
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(held.writer, "claim", claim)
    await held.writer.request(1, "E")
    claims = held.writer.claims(poll_seconds=0.01)
    job = await anext(claims)
    assert (job.submission_id, answers) == (1, [])
    assert "AutoReconnect" in caplog.text
    await job.release()
    answers.append(OperationFailure("not authorized"))
    with pytest.raises(OperationFailure):
        await anext(claims)
