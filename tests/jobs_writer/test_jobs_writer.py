"""Requests, claims and every change of a job, on a real MongoDB and a real S3, by both faces of the writer."""

import asyncio
import inspect
import io
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pymongo
import pytest
from pymongo import AsyncMongoClient

from genstatus_server import jobs_writer
from genstatus_server.jobs_writer import (
    AsyncJobHandle,
    AsyncJobsWriter,
    JobHandle,
    JobsWriter,
    LeaseLost,
    NotInitialized,
    changes,
)
from genstatus_server.model.jobs import FILE_TYPES, GenerationStatus
from genstatus_server.mongo.schema import VALIDATORS
from tests.jobs_writer.conftest import LONG, Bench
from tests.support.services import S3


def test_jobs_writer_imports_nothing_of_the_server() -> None:
    code = "import sys, genstatus_server.jobs_writer; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode().split())
    assert not loaded & {"tornado", "motor", "aiobotocore", "botocore", "boto3", "marshmallow"}
    ours = {name for name in loaded if name.startswith("genstatus_server.") and "jobs_writer" not in name}
    assert ours == {"genstatus_server.model", "genstatus_server.model.jobs"}
    assert changes.JOBS in VALIDATORS


def test_jobs_writer_has_every_name_that_it_exports() -> None:
    assert all(hasattr(jobs_writer, name) for name in jobs_writer.__all__)


@pytest.mark.parametrize(("blocking", "twin"), [(JobsWriter, AsyncJobsWriter), (JobHandle, AsyncJobHandle)])
def test_blocking_and_async_writer_have_the_documented_methods(blocking: type, twin: type) -> None:
    def methods(of: type) -> dict[str, list[str]]:
        public = (name for name, value in inspect.getmembers(of, inspect.isfunction) if not name.startswith("_"))
        return {name: list(inspect.signature(getattr(of, name)).parameters) for name in public}

    assert methods(twin).items() <= methods(blocking).items()
    documented = {"request", "claim", "claims", "work"} | {"start", "upload", "finish", "fail", "invalid", "release"}
    assert methods(twin).keys() >= documented & methods(blocking).keys()
    if blocking is JobsWriter:
        assert inspect.signature(twin) == inspect.signature(blocking)


async def test_async_writer_refuses_an_async_client(mongodb_uri: str) -> None:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongodb_uri)
    with pytest.raises(TypeError, match="MongoClient"):
        AsyncJobsWriter(cast("Any", client["genstatus"]))
    await client.close()


async def async_generate(job: object) -> None:
    del job


class AsyncGenerator:
    async def __call__(self, job: object) -> None:
        del job


@pytest.mark.parametrize("generate", [async_generate, AsyncGenerator()])
def test_blocking_writer_refuses_a_coroutine_function(initialized: Any, generate: Any) -> None:
    with pytest.raises(TypeError, match="AsyncJobsWriter"):
        JobsWriter(initialized).work(generate)


async def test_request_makes_a_job_in_waiting(bench: Bench) -> None:
    job = await bench.writer.request(1, "D1", date(2026, 7, 1), date(2026, 9, 30))
    document = bench.stored(job)
    assert timedelta(0) <= document.pop("updated_at") - document.pop("requested_at") < timedelta(seconds=1)
    assert document == {
        "_id": 1,
        "submission_id": 1,
        "file_type": "D1",
        "status": "waiting",
        "generation": 1,
        "start": datetime(2026, 7, 1),  # noqa: DTZ001 - the client of the tests reads UTC without a zone
        "end": datetime(2026, 9, 30),  # noqa: DTZ001 - the same
    }
    assert (job.start_date, job.end_date) == (datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 9, 30, tzinfo=UTC))
    others = [await bench.writer.request(1, "D2"), await bench.writer.request(2**62, "E")]
    assert [other.job_id for other in others] == [2, 3]


@pytest.mark.parametrize(
    "nonsense",
    [
        (0, "D1"),
        (2**63, "D1"),
        (True, "D1"),
        ("1", "D1"),
        (1, "D3"),
        (1, "E", date(2026, 1, 1)),
        (1, "D1", date(2026, 1, 2), date(2026, 1, 1)),
        (1, "D1", datetime(2026, 1, 1)),  # noqa: DTZ001 - no time zone is what is wrong
    ],
)
async def test_request_refuses_what_makes_no_sense(bench: Bench, nonsense: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"submission_id|file_type|range|before|zone"):
        await bench.writer.request(*nonsense)


async def test_request_needs_the_indexes_of_init_db(
    bench: Bench, sync_mongodb: "pymongo.MongoClient[dict[str, Any]]", database_name: str
) -> None:
    with pytest.raises(NotInitialized, match="init-db"):
        await bench.make(sync_mongodb[database_name]).request(1, "D1")


async def test_request_gives_job_ids_above_the_existing_ones(bench: Bench) -> None:
    bench.jobs.insert_one({"_id": 4711.0, "submission_id": 9, "file_type": "E", "status": "ready"})
    bench.database["counters"].insert_one({"_id": "jobs", "last": 4710})
    assert (await bench.writer.request(1, "D1")).job_id == 4712
    assert (await bench.writer.request(9, "E")).job_id == 4711


async def test_request_starts_a_new_generation_in_place(bench: Bench) -> None:
    await bench.writer.request(1, "D1", date(2026, 7, 1), date(2026, 9, 30))
    async with await bench.claimed() as job:
        await job.upload(io.BytesIO(b"old"))
    assert bench.status(job) is GenerationStatus.FINISHED
    again = await bench.writer.request(1, "D1", date(2026, 10, 1))
    document = bench.stored(again)
    assert (again.job_id, again.generation, document["status"]) == (job.job_id, 2, "waiting")
    assert not document.keys() & {"upload", "size", "lease", "ended_by", "attempts", "message", "end"}
    assert bench.status(again) is GenerationStatus.WAITING


async def test_worker_of_a_replaced_generation_changes_nothing(bench: Bench) -> None:
    old = await bench.writer.request(1, "D1")
    await old.start()
    again = await bench.writer.request(1, "D1")
    before = bench.stored(again)
    for step in (
        lambda: old.finish(1),
        lambda: old.upload(io.BytesIO(b"late")),
        lambda: old.fail("late"),
        lambda: old.invalid("late"),
        old.release,
    ):
        with pytest.raises(LeaseLost, match="nothing was changed"):
            await step()
        assert bench.stored(again) == before


async def test_start_accepts_the_latest_request_only(bench: Bench) -> None:
    first, second = await bench.writer.request(1, "D1"), await bench.writer.request(1, "D1")
    with pytest.raises(LeaseLost):
        await first.start()
    await second.start()
    await second.start()  # It is held already: no change.
    assert bench.stored(second)["attempts"] == second.attempt == 1
    with pytest.raises(LeaseLost):
        await first.fail("not mine")
    await second.release()


async def test_racing_requests_count_every_generation(bench: Bench) -> None:
    jobs = await asyncio.gather(*(bench.writer.request(1 + number % 4, "D1") for number in range(64)))
    assert bench.jobs.count_documents({}) == 4
    for submission_id in range(1, 5):
        ours = [job for job in jobs if job.submission_id == submission_id]
        assert {job.job_id for job in ours} == {ours[0].job_id}
        assert sorted(job.generation for job in ours) == list(range(1, 17))


async def test_claim_takes_the_oldest_job_first(bench: Bench) -> None:
    for submission_id in (3, 1, 2, 4):
        await bench.writer.request(submission_id, "D1")
    await bench.writer.request(3, "D1")  # Asking again while it waits does not lose its place.
    claims = [await bench.claimed(), await bench.claimed()]
    await claims[0].release()  # Nor does giving back.
    claims += [await bench.claimed() for _ in range(3)]
    assert [job.submission_id for job in claims] == [3, 1, 3, 2, 4]
    assert await bench.writer.claim() is None
    for job in claims[1:]:
        await job.fail("enough")


async def test_claim_takes_the_file_types_that_are_named(bench: Bench) -> None:
    await bench.writer.request(1, "D1")
    await bench.writer.request(1, "F")
    job = await bench.writer.claim(["E", "F"])
    assert job.file_type == "F"
    assert await bench.writer.claim(["E", "F"]) is None
    await job.release()


async def test_claim_takes_jobs_that_other_programs_wrote(bench: Bench) -> None:
    bench.jobs.insert_one({"_id": 70, "submission_id": 7, "file_type": "E", "status": "waiting"})
    bench.jobs.insert_one({"_id": 80, "submission_id": 8, "file_type": "E", "status": "running"})
    async with await bench.claimed() as job:
        assert (job.job_id, job.generation, job.attempt) == (70, 0, 1)
        await job.invalid("no")
    assert await bench.writer.claim() is None  # What runs without a lease is none of ours.


def test_claims_examine_one_document(initialized: "pymongo.database.Database[dict[str, Any]]") -> None:
    writer = JobsWriter(initialized)
    for submission_id in range(1, 200):
        writer.request(submission_id, "D1")
    lease = writer.terms.new_lease()
    for claim in (changes.claim_lapsed, changes.claim_waiting):
        for file_types, most in (("E",), 0), (FILE_TYPES, 1):
            wanted = claim(lease, file_types).filter
            plan = initialized["jobs"].find(wanted).sort(changes.OLDEST_FIRST).limit(1).explain()
            assert plan["executionStats"]["totalDocsExamined"] <= most
            assert plan["executionStats"]["totalKeysExamined"] <= 10


@pytest.mark.parametrize("is_upgraded", [False, True])
def test_claims_examine_no_lapsed_lease_of_another_type(
    initialized: "pymongo.database.Database[dict[str, Any]]", *, is_upgraded: bool
) -> None:
    """Also beside the index of an earlier edition, which is by the lease's end alone."""
    jobs, writer = initialized["jobs"], JobsWriter(initialized)
    lease = writer.terms.new_lease()
    held = {"status": "running", "lease": {"token": "gone", "expires_at": datetime(2026, 7, 1, tzinfo=UTC)}}
    jobs.insert_many([{"_id": number, "submission_id": number, "file_type": "D1"} | held for number in range(1, 200)])
    if is_upgraded:
        partial = {"lease.expires_at": {"$type": "date"}}
        jobs.create_index([("lease.expires_at", 1)], name="lease", partialFilterExpression=partial)
    try:
        lapsed = jobs.find(changes.claim_lapsed(lease, ["E"]).filter).sort(changes.OLDEST_FIRST).limit(1).explain()
        claimed = jobs.find(changes.confirm_claim(lease, ["E"]).filter).limit(1).explain()
    finally:
        if is_upgraded:
            jobs.drop_index("lease")
    for plan in (lapsed, claimed):
        assert plan["executionStats"]["totalDocsExamined"] == 0
        assert plan["executionStats"]["totalKeysExamined"] <= 1


async def test_claim_holds_the_job(bench: Bench) -> None:
    await bench.writer.request(1, "E")
    job = await bench.claimed()
    document = bench.stored(job)
    assert (document["status"], document["attempts"], document["lease"]["owner"]) == ("running", 1, "the test")
    assert document["lease"]["expires_at"] - document["updated_at"] == timedelta(seconds=LONG)
    assert bench.status(job) is GenerationStatus.WAITING
    await job.release()
    document = bench.stored(job)
    assert (document["status"], document["attempts"]) == ("waiting", 0)
    assert "lease" not in document


@pytest.mark.parametrize("order", ["finish, upload", "upload, finish"])
async def test_file_is_handed_out_once_generated_and_uploaded(bench: Bench, s3: S3, s3_client: Any, order: str) -> None:
    content = b"file_type,award_id\r\n"
    await bench.writer.request(1, "D1")
    job = await bench.claimed()
    steps = {"finish": lambda: job.finish(len(content)), "upload": lambda: job.upload(io.BytesIO(content))}
    first, second = order.split(", ")
    await steps[first]()
    assert bench.status(job) is GenerationStatus.WAITING
    assert "lease" in bench.stored(job)
    await steps[second]()
    assert bench.status(job) is GenerationStatus.FINISHED
    document = bench.stored(job)
    assert "lease" not in document
    assert document["upload"]["bucket"] == s3.bucket
    key = document["upload"]["key"]
    assert key.startswith("1/")
    assert key.endswith("/D1.csv")
    found = s3_client.get_object(Bucket=s3.bucket, Key=key)
    assert (found["Body"].read(), found["ContentType"], document["size"]) == (content, "text/csv", len(content))


async def test_upload_sends_a_large_file_in_parts(bench: Bench, s3: S3, s3_client: Any, tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(bytes(range(256)) * (20 * 4096))  # 20 MiB, more than one part
    sent: list[int] = []
    parts: list[object] = []

    def count(params: object, **_: Any) -> None:
        parts.append(params)

    await bench.writer.request(1, "D1")
    async with await bench.claimed() as job:
        s3_client.meta.events.register("before-call.s3.UploadPart", count)
        size = await job.upload(path, key="own/D1.txt", content_type="text/plain", progress=sent.append)
        s3_client.meta.events.unregister("before-call.s3.UploadPart", count)
        assert bench.stored(job)["upload"] == {"status": "finished", "bucket": s3.bucket, "key": "own/D1.txt"}
        with pytest.raises(ValueError, match="bytes were uploaded"):
            await job.finish(size - 1)
    await asyncio.sleep(0)
    assert size == sent[-1] == bench.stored(job)["size"] == 20 * 2**20
    assert sent == sorted(sent)
    assert len(sent) > 2
    assert s3_client.head_object(Bucket=s3.bucket, Key="own/D1.txt")["ContentLength"] == size
    assert len(parts) == 3


class Pipe(io.RawIOBase):
    """A stream that can neither seek nor tell its length, such as another program's output."""

    def __init__(self, count: int) -> None:
        self._left = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(self._left, len(buffer))
        self._left -= count
        buffer[:count] = bytes(count)
        return count


async def test_upload_counts_a_stream_of_unknown_length(bench: Bench) -> None:
    await bench.writer.request(1, "D1")
    async with await bench.claimed() as job:
        assert await job.upload(io.BufferedReader(Pipe(10_000_001))) == 10_000_001
    assert bench.stored(job)["size"] == 10_000_001


async def test_finish_names_a_file_that_others_uploaded(bench: Bench) -> None:
    await bench.writer.request(1, "D1")
    async with await bench.claimed() as job:
        await job.finish(12, key="spark/D1.csv")
    document = bench.stored(job)
    assert (document["upload"], document["size"]) == ({"status": "finished", "key": "spark/D1.csv"}, 12)
    assert bench.status(job) is GenerationStatus.FINISHED


@pytest.mark.parametrize(
    "misuse",
    [
        lambda job: job.fail("  "),
        lambda job: job.finish(-1),
        lambda job: job.finish(1.5),
        lambda job: job.finish(2**63),
        lambda job: job.finish(key=""),
        lambda job: job.upload(io.BytesIO(b""), key=""),
    ],
)
async def test_job_handle_refuses_invalid_arguments_before_any_write(bench: Bench, misuse: Any) -> None:
    await bench.writer.request(1, "D1")
    job = await bench.claimed()
    before = bench.stored(job)
    with pytest.raises(ValueError, match=r"message|size|key"):
        await misuse(job)
    assert bench.stored(job) == before
    await job.release()


async def test_upload_needs_a_bucket(bench: Bench) -> None:
    with pytest.raises(ValueError, match="bucket"):
        async with await bench.make(bucket=None).request(1, "D1") as job:
            await job.upload(io.BytesIO(b""))


def test_writes_are_acknowledged_by_a_majority(initialized: "pymongo.database.Database[dict[str, Any]]") -> None:
    assert JobsWriter(initialized).jobs.write_concern.document == {"w": "majority"}
    assert JobsWriter(initialized, write_concern=pymongo.WriteConcern(1)).jobs.write_concern.document == {"w": 1}


def test_writer_refuses_invalid_lease_terms(initialized: "pymongo.database.Database[dict[str, Any]]") -> None:
    for terms in ({"lease_seconds": 0}, {"max_attempts": 0}):
        with pytest.raises(ValueError, match="greater than 0"):
            JobsWriter(initialized, **cast("Any", terms))
