"""Requests, leases and every change of a job, on a real MongoDB and a real S3."""

# A block that ends in an exception is what is tested.
# ruff: noqa: PT012

import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pymongo
import pytest
from botocore.exceptions import ClientError
from pymongo.errors import AutoReconnect, OperationFailure

from genstatus_server import jobs_writer
from genstatus_server.jobs_writer import (
    GenerationFailed,
    GenerationInvalid,
    JobHandle,
    JobsWriter,
    LeaseLost,
    NothingUploaded,
    NotInitialized,
    changes,
)
from genstatus_server.model.jobs import DEFAULT_FAILURE, GenerationStatus, job_from_document
from genstatus_server.mongo.schema import VALIDATORS
from tests.support.embedded_processes import wait_until
from tests.support.services import S3

Document = dict[str, Any]
Database = pymongo.database.Database[Document]

#: No lease runs out by itself in these tests, however busy the machine is.
LONG = 3600.0


@pytest.fixture
def writer(initialized: Database, s3: S3, s3_client: Any) -> JobsWriter:
    return JobsWriter(initialized, bucket=s3.bucket, s3=s3_client, lease_seconds=LONG, owner="the test")


def claimed(writer: JobsWriter) -> JobHandle:
    job = writer.claim()
    assert job is not None
    return job


def stored(database: Database, job: JobHandle) -> Document:
    return database["jobs"].find_one(job.job_id) or {}


def seen(database: Database, job: JobHandle) -> GenerationStatus:
    """What callers of the server see; never a document that the server complains of."""
    found = job_from_document(stored(database, job))
    assert not found.problems
    return found.generation_status


def run_out(database: Database, job: JobHandle) -> None:
    """As if the lease's time had passed."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    database["jobs"].update_one({"_id": job.job_id}, {"$set": {"lease.expires_at": past}})


def heartbeats() -> int:
    return sum(thread.name == "lease-heartbeat" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def no_heartbeat_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: heartbeats() == 0)


def test_it_imports_nothing_of_the_server() -> None:
    code = "import sys, genstatus_server.jobs_writer; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode().split())
    assert not loaded & {"tornado", "motor", "aiobotocore", "botocore", "boto3", "marshmallow"}
    ours = {name for name in loaded if name.startswith("genstatus_server.") and "jobs_writer" not in name}
    assert ours == {"genstatus_server.model", "genstatus_server.model.jobs"}
    assert changes.JOBS in VALIDATORS


def test_a_request_makes_a_job_in_waiting(initialized: Database, writer: JobsWriter) -> None:
    job = writer.request(1, "D1", date(2026, 7, 1), date(2026, 9, 30))
    document = stored(initialized, job)
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
    assert [writer.request(1, "D2").job_id, writer.request(2**62, "E").job_id] == [2, 3]


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
def test_a_request_that_makes_no_sense_is_refused(writer: JobsWriter, nonsense: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"submission_id|file_type|range|before|zone"):
        writer.request(*nonsense)


def test_a_database_without_init_db_is_refused(
    sync_mongodb: "pymongo.MongoClient[Document]", database_name: str
) -> None:
    with pytest.raises(NotInitialized, match="init-db"):
        JobsWriter(sync_mongodb[database_name]).request(1, "D1")


def test_job_ids_begin_behind_the_jobs_that_are_there(initialized: Database, writer: JobsWriter) -> None:
    initialized["jobs"].insert_one({"_id": 4711.0, "submission_id": 9, "file_type": "E", "status": "ready"})
    initialized["counters"].insert_one({"_id": "jobs", "last": 4710})
    assert writer.request(1, "D1").job_id == 4712
    assert writer.request(9, "E").job_id == 4711


def test_asking_again_starts_a_new_generation_in_place(initialized: Database, writer: JobsWriter) -> None:
    writer.request(1, "D1", date(2026, 7, 1), date(2026, 9, 30))
    with claimed(writer) as job:
        job.upload(io.BytesIO(b"old"))
    assert seen(initialized, job) is GenerationStatus.FINISHED
    again = writer.request(1, "D1", date(2026, 10, 1))
    document = stored(initialized, again)
    assert (again.job_id, again.generation, document["status"]) == (job.job_id, 2, "waiting")
    assert not document.keys() & {"upload", "size", "lease", "attempts", "message", "end"}
    assert seen(initialized, again) is GenerationStatus.WAITING


def test_a_worker_of_the_last_generation_is_told_and_changes_nothing(initialized: Database, writer: JobsWriter) -> None:
    old = writer.request(1, "D1")
    old.start()
    again = writer.request(1, "D1")
    steps: tuple[Callable[[], object], ...] = (
        lambda: old.finish(1),
        lambda: old.upload(io.BytesIO(b"late")),
        lambda: old.fail("late"),
        lambda: old.invalid("late"),
        old.release,
    )
    for step in steps:
        before = stored(initialized, again)
        with pytest.raises(LeaseLost, match="nothing was changed"):
            step()
        assert stored(initialized, again) == before


def test_only_the_latest_request_can_be_started(initialized: Database, writer: JobsWriter) -> None:
    first, second = writer.request(1, "D1"), writer.request(1, "D1")
    with pytest.raises(LeaseLost):
        first.start()
    second.start()
    second.start()  # It is held already: no change.
    assert stored(initialized, second)["attempts"] == second.attempt == 1
    with pytest.raises(LeaseLost):
        first.fail("not mine")
    second.release()


def test_racing_requests_leave_one_job_and_count_every_generation(initialized: Database, writer: JobsWriter) -> None:
    with ThreadPoolExecutor(16) as pool:
        jobs = list(pool.map(lambda number: writer.request(1 + number % 4, "D1"), range(64)))
    assert initialized["jobs"].count_documents({}) == 4
    for submission_id in range(1, 5):
        ours = [job for job in jobs if job.submission_id == submission_id]
        assert {job.job_id for job in ours} == {ours[0].job_id}
        assert sorted(job.generation for job in ours) == list(range(1, 17))


def test_the_oldest_waiting_job_is_claimed_first(writer: JobsWriter) -> None:
    for submission_id in (3, 1, 2, 4):
        writer.request(submission_id, "D1")
    writer.request(3, "D1")  # Asking again while it waits does not lose its place.
    claims = [claimed(writer), claimed(writer)]
    claims[0].release()  # Nor does giving back.
    claims += [claimed(writer), claimed(writer), claimed(writer)]
    assert [job.submission_id for job in claims] == [3, 1, 3, 2, 4]
    assert writer.claim() is None
    for job in claims[1:]:
        job.fail("enough")


def test_a_worker_claims_the_file_types_that_it_can_generate(writer: JobsWriter) -> None:
    writer.request(1, "D1")
    writer.request(1, "F")
    job = writer.claim(["E", "F"])
    assert job is not None
    assert job.file_type == "F"
    assert writer.claim(["E", "F"]) is None
    job.release()


def test_a_job_that_another_program_wrote_is_claimed_too(initialized: Database, writer: JobsWriter) -> None:
    initialized["jobs"].insert_one({"_id": 70, "submission_id": 7, "file_type": "E", "status": "waiting"})
    initialized["jobs"].insert_one({"_id": 80, "submission_id": 8, "file_type": "E", "status": "running"})
    with claimed(writer) as job:
        assert (job.job_id, job.generation, job.attempt) == (70, 0, 1)
        job.invalid("no")
    assert writer.claim() is None  # What runs without a lease is none of ours.


def test_claims_use_the_indexes(initialized: Database, writer: JobsWriter) -> None:
    for submission_id in range(1, 10):
        writer.request(submission_id, "E")
        if submission_id > 4:
            claimed(writer).fail("no")
    claimed(writer).release()
    for change in (changes.claim_lapsed, changes.claim_waiting):
        wanted = change(writer._terms.new_lease(), None).filter
        plan = initialized["jobs"].find(wanted).sort(changes.OLDEST_FIRST).limit(1).explain()
        assert plan["executionStats"]["totalDocsExamined"] <= 1


def test_a_claim_holds_the_job(initialized: Database, writer: JobsWriter) -> None:
    writer.request(1, "E")
    job = claimed(writer)
    document = stored(initialized, job)
    assert (document["status"], document["attempts"], document["lease"]["owner"]) == ("running", 1, "the test")
    left = document["lease"]["expires_at"] - document["updated_at"]
    assert left == timedelta(seconds=LONG)
    assert seen(initialized, job) is GenerationStatus.WAITING
    job.release()
    document = stored(initialized, job)
    assert (document["status"], document["attempts"]) == ("waiting", 0)
    assert "lease" not in document


def test_when_a_lease_runs_out_another_worker_takes_over(initialized: Database, writer: JobsWriter) -> None:
    writer.request(1, "E")
    late = claimed(writer)
    assert writer.claim() is None
    run_out(initialized, late)
    job = claimed(writer)
    assert (job.job_id, job.attempt) == (late.job_id, 2)
    with pytest.raises(LeaseLost):
        late.finish()
    with job:
        job.upload(io.BytesIO(b"mine"))
    assert seen(initialized, job) is GenerationStatus.FINISHED


def test_a_job_comes_back_also_while_its_upload_is_missing(initialized: Database, writer: JobsWriter) -> None:
    writer.request(1, "E")
    late = claimed(writer)
    late.finish(3)
    assert stored(initialized, late)["status"] == "finished"
    assert seen(initialized, late) is GenerationStatus.WAITING
    run_out(initialized, late)
    job = claimed(writer)
    assert "size" not in stored(initialized, job)
    with pytest.raises(LeaseLost):
        late.upload(io.BytesIO(b"late"))
    job.release()


def test_a_lease_that_ran_out_with_nobody_there_to_take_over_still_holds(
    initialized: Database, writer: JobsWriter
) -> None:
    writer.request(1, "E")
    with claimed(writer) as job:
        run_out(initialized, job)
        job.upload(io.BytesIO(b"late but alone"))
    assert seen(initialized, job) is GenerationStatus.FINISHED


def test_a_job_that_is_interrupted_too_often_is_given_up(initialized: Database, s3: S3) -> None:
    writer = JobsWriter(initialized, bucket=s3.bucket, lease_seconds=LONG, max_attempts=2)
    job = writer.request(1, "E")
    for attempt in (1, 2):
        held = claimed(writer)
        assert held.attempt == attempt
        held._stop()
        run_out(initialized, held)
    other = writer.request(2, "E")
    last = claimed(writer)
    assert last.job_id == other.job_id
    last.release()
    assert (stored(initialized, job)["status"], "lease" in stored(initialized, job)) == ("failed", False)
    assert "interrupted" in stored(initialized, job)["message"]
    assert writer.request(1, "E").generation == 2
    assert stored(initialized, job)["status"] == "waiting"


def test_a_heartbeat_prolongs_the_lease_and_nothing_else(initialized: Database) -> None:
    writer = JobsWriter(initialized, lease_seconds=0.3)
    writer.request(1, "E")
    job = claimed(writer)
    before = stored(initialized, job)
    wait_until(lambda: stored(initialized, job)["lease"]["expires_at"] > before["lease"]["expires_at"])
    after = stored(initialized, job)
    assert after | {"lease": None} == before | {"lease": None}
    job.release()


def test_a_heartbeat_finds_out_that_the_lease_is_lost(initialized: Database) -> None:
    writer = JobsWriter(initialized, lease_seconds=0.3)
    writer.request(1, "E")
    job = claimed(writer)
    job.check_lease()
    initialized["jobs"].delete_one({"_id": job.job_id})
    wait_until(lambda: heartbeats() == 0)
    with pytest.raises(LeaseLost):
        job.check_lease()


def test_a_heartbeat_outlives_a_mongodb_that_is_away(
    initialized: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = JobsWriter(initialized, lease_seconds=0.3)
    writer.request(1, "E")
    job = claimed(writer)
    with monkeypatch.context() as patch:
        patch.setattr(job, "_prolonging", lambda: (_ for _ in ()).throw(AutoReconnect("secret address")))
        wait_until(lambda: "AutoReconnect" in caplog.text)
    assert "secret" not in caplog.text
    before = stored(initialized, job)["lease"]["expires_at"]
    wait_until(lambda: stored(initialized, job)["lease"]["expires_at"] > before)
    job.release()


@pytest.mark.parametrize("order", ["finish, upload", "upload, finish"])
def test_the_file_is_handed_out_once_it_is_generated_and_uploaded(
    initialized: Database, writer: JobsWriter, s3: S3, s3_client: Any, order: str
) -> None:
    content = b"file_type,award_id\r\n"
    writer.request(1, "D1")
    job = claimed(writer)
    steps: dict[str, Callable[[], object]] = {
        "finish": lambda: job.finish(len(content)),
        "upload": lambda: job.upload(io.BytesIO(content)),
    }
    first, second = order.split(", ")
    steps[first]()
    assert seen(initialized, job) is GenerationStatus.WAITING
    assert "lease" in stored(initialized, job)
    steps[second]()
    assert seen(initialized, job) is GenerationStatus.FINISHED
    document = stored(initialized, job)
    assert "lease" not in document
    assert document["upload"]["bucket"] == s3.bucket
    key = document["upload"]["key"]
    assert key.startswith("1/")
    assert key.endswith("/D1.csv")
    found = s3_client.get_object(Bucket=s3.bucket, Key=key)
    assert (found["Body"].read(), found["ContentType"], document["size"]) == (content, "text/csv", len(content))


def test_a_large_file_goes_up_in_parts_and_says_how_far_it_is(
    initialized: Database, writer: JobsWriter, s3: S3, s3_client: Any, tmp_path: Path
) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(bytes(range(256)) * (20 * 4096))  # 20 MiB, more than one part
    told: list[int] = []
    parts: list[object] = []

    def count(params: object, **_: Any) -> None:
        parts.append(params)

    writer.request(1, "D1")
    with claimed(writer) as job:
        s3_client.meta.events.register("before-call.s3.UploadPart", count)
        sent = job.upload(path, key="own/D1.txt", content_type="text/plain", progress=told.append)
        assert stored(initialized, job)["upload"] == {"status": "finished", "bucket": s3.bucket, "key": "own/D1.txt"}
        with pytest.raises(ValueError, match="bytes were uploaded"):
            job.finish(sent - 1)
    assert sent == told[-1] == stored(initialized, job)["size"] == 20 * 2**20
    assert told == sorted(told)
    assert len(told) > 2
    assert s3_client.head_object(Bucket=s3.bucket, Key="own/D1.txt")["ContentLength"] == sent
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


def test_a_stream_of_unknown_length_is_counted(initialized: Database, writer: JobsWriter) -> None:
    writer.request(1, "D1")
    with claimed(writer) as job:
        assert job.upload(cast("Any", io.BufferedReader(Pipe(10_000_001)))) == 10_000_001
    assert stored(initialized, job)["size"] == 10_000_001


def test_an_upload_ends_when_the_lease_is_lost(initialized: Database, writer: JobsWriter, monkeypatch: Any) -> None:
    writer.request(1, "D1")
    with pytest.raises(LeaseLost), claimed(writer) as job:
        assert job._heartbeat is not None
        monkeypatch.setattr(job._heartbeat, "is_lost", True)
        job.upload(io.BytesIO(b"late"))
    assert stored(initialized, job)["upload"] == {"status": "running"}


def test_a_file_that_others_uploaded_is_named(initialized: Database, writer: JobsWriter) -> None:
    writer.request(1, "D1")
    with claimed(writer) as job:
        job.finish(12, key="spark/D1.csv")
    document = stored(initialized, job)
    assert (document["upload"], document["size"]) == ({"status": "finished", "key": "spark/D1.csv"}, 12)
    assert seen(initialized, job) is GenerationStatus.FINISHED


@pytest.mark.parametrize(
    "misuse",
    [
        lambda job: job.fail("  "),
        lambda job: job.finish(-1),
        lambda job: job.finish(1.5),
        lambda job: job.finish(key=""),
        lambda job: job.upload(io.BytesIO(b""), key=""),
    ],
)
def test_misuse_is_refused_before_anything_is_written(initialized: Database, writer: JobsWriter, misuse: Any) -> None:
    writer.request(1, "D1")
    job = claimed(writer)
    before = stored(initialized, job)
    with pytest.raises(ValueError, match=r"message|size|key"):
        misuse(job)
    assert stored(initialized, job) == before
    job.release()


def test_an_upload_needs_a_bucket(initialized: Database) -> None:
    with pytest.raises(ValueError, match="bucket"), JobsWriter(initialized).request(1, "D1") as job:
        job.upload(io.BytesIO(b""))


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ZeroDivisionError("internal: password"), "failed", DEFAULT_FAILURE),
        (GenerationFailed("$award could not be read"), "failed", "$award could not be read"),
        (GenerationFailed(""), "failed", DEFAULT_FAILURE),
        (GenerationInvalid("There are no awards in these days"), "invalid", "There are no awards in these days"),
    ],
)
def test_an_exception_marks_the_job_failed_and_goes_on(
    initialized: Database, writer: JobsWriter, error: Exception, status: str, message: str
) -> None:
    with pytest.raises(type(error)) as raised, writer.request(1, "D1") as job:
        job.upload(io.BytesIO(b"of no use"))
        raise error
    assert raised.value is error
    document = stored(initialized, job)
    assert (document["status"], document["message"]) == (status, message)
    assert not document.keys() & {"lease", "upload", "size"}
    assert seen(initialized, job) is GenerationStatus.FAILED


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_worker_that_is_told_to_stop_gives_its_job_back(
    initialized: Database, writer: JobsWriter, stop: type[BaseException]
) -> None:
    with pytest.raises(stop), writer.request(1, "D1") as job:
        raise stop
    assert stored(initialized, job)["status"] == "waiting"
    again = claimed(writer)
    assert (again.job_id, again.attempt) == (job.job_id, 1)
    again.release()


@pytest.mark.parametrize("forgotten", [lambda _: None, lambda job: job.finish(3)])
def test_a_block_that_uploaded_nothing_fails(initialized: Database, writer: JobsWriter, forgotten: Any) -> None:
    with pytest.raises(NothingUploaded), writer.request(1, "D1") as job:
        forgotten(job)
    assert seen(initialized, job) is GenerationStatus.FAILED


def test_a_block_that_ends_its_job_itself_is_left_alone(initialized: Database, writer: JobsWriter) -> None:
    with writer.request(1, "D1") as job:
        job.invalid("The days are not over yet")
    with pytest.raises(ZeroDivisionError), writer.request(2, "D1") as other:
        other.fail("mine")
        raise ZeroDivisionError
    assert [stored(initialized, each)["message"] for each in (job, other)] == ["The days are not over yet", "mine"]


def test_an_error_is_not_hidden_by_a_lost_lease(
    initialized: Database, writer: JobsWriter, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ZeroDivisionError), writer.request(1, "D1"):
        writer.request(1, "D1")
        raise ZeroDivisionError
    assert "LeaseLost" in caplog.text
    with pytest.raises(LeaseLost), writer.request(1, "D1") as job:
        job.upload(io.BytesIO(b"in vain"))
        writer.request(1, "D1")
    assert stored(initialized, job)["status"] == "waiting"


def test_a_bucket_that_is_not_there_fails_the_job(initialized: Database, writer: JobsWriter) -> None:
    with pytest.raises(ClientError), writer.request(1, "D1") as job:
        job.upload(io.BytesIO(b"lost"), bucket="no-such-bucket")
    assert stored(initialized, job)["message"] == DEFAULT_FAILURE


def test_work_goes_on_after_a_job_that_failed(
    initialized: Database, writer: JobsWriter, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    jobs = [writer.request(submission_id, "E") for submission_id in (1, 2, 3)]

    def generate(job: JobHandle) -> None:
        if job.submission_id == 1:
            raise ZeroDivisionError
        if job.submission_id == 2:
            writer.request(2, "E")
            job.finish()
        job.finish(5, key="E.csv")
        stop.set()

    writer.work(generate, stop=stop)
    assert [seen(initialized, job).value for job in jobs] == ["failed", "waiting", "finished"]
    assert "ZeroDivisionError" in caplog.text


def test_claims_wait_for_a_job_and_for_a_mongodb_that_is_away(
    writer: JobsWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = [None, AutoReconnect("secret address"), None]

    def claim(file_types: object) -> JobHandle | None:
        if not answers:
            return original(None)
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return None

    original = writer.claim
    monkeypatch.setattr(writer, "claim", claim)
    writer.request(1, "E")
    job = next(iter(writer.claims(poll_seconds=0.01)))
    assert (job.submission_id, answers) == (1, [])
    assert "AutoReconnect" in caplog.text
    assert "secret" not in caplog.text
    job.release()
    answers.append(OperationFailure("not authorized"))
    with pytest.raises(OperationFailure):
        next(iter(writer.claims(poll_seconds=0.01)))


def test_writes_are_acknowledged_by_a_majority(writer: JobsWriter, initialized: Database) -> None:
    assert writer._jobs.write_concern.document == writer._counters.write_concern.document == {"w": "majority"}
    other = JobsWriter(initialized, write_concern=pymongo.WriteConcern(1))
    assert other._jobs.write_concern.document == {"w": 1}


def test_terms_that_make_no_sense_are_refused(initialized: Database) -> None:
    for terms in ({"lease_seconds": 0}, {"max_attempts": 0}):
        with pytest.raises(ValueError, match="greater than 0"):
            JobsWriter(initialized, **cast("Any", terms))


def test_everything_public_is_exported() -> None:
    assert all(hasattr(jobs_writer, name) for name in jobs_writer.__all__)
