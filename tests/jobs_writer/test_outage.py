"""Uploads that fail although the file is not to blame: what becomes of the job, and the pause of the worker."""

# A block that ends in an exception is what is tested.
# ruff: noqa: PT012

import asyncio
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ParamValidationError, ReadTimeoutError

from genstatus_server.jobs_writer import NothingUploaded
from genstatus_server.jobs_writer import s3_client as own_client
from genstatus_server.jobs_writer.outage import Outage, is_of_the_file
from genstatus_server.jobs_writer.watch import Idle
from genstatus_server.model.jobs import DEFAULT_FAILURE
from tests.jobs_writer.conftest import Bench, Database
from tests.support.portal import running_portal
from tests.support.services import S3

pytestmark = pytest.mark.one_python  # Its waits are those of S3.

BODY = b"to be stored elsewhere"


@pytest.fixture
def forbidding() -> Iterator[str]:
    with running_portal(403, b"<!DOCTYPE html><p>Forbidden<br>") as url:
        yield url


UNUSABLE: dict[str, Callable[[S3, str], dict[str, Any]]] = {
    "no bucket": lambda *_: {"bucket": None},
    "another bucket": lambda *_: {"bucket": "no-such-bucket"},
    "S3 away": lambda s3, _: {"s3": replace(s3, endpoint_url="http://127.0.0.1:1").client()},
    "wrong credentials": lambda s3, _: {"s3": replace(s3, secret_key="wrong").client()},
    "no credentials": lambda s3, _: {"s3": own_client(s3.region, s3.endpoint_url)},
    "a proxy": lambda s3, proxy: {"s3": replace(s3, endpoint_url=proxy).client()},
    "no boto3": lambda *_: {"s3": None},
    "a wrong endpoint": lambda *_: {"s3": None},
}


@pytest.mark.parametrize(
    ("unusable", "is_wrapped"), [*((unusable, False) for unusable in UNUSABLE), ("another bucket", True)]
)
async def test_job_of_the_queue_outlives_a_worker_that_cannot_upload(
    monkeypatch: pytest.MonkeyPatch,
    bench: Bench,
    s3: S3,
    forbidding: str,
    unusable: str,
    is_wrapped: bool,  # noqa: FBT001 - pytest's
) -> None:
    """The trap: one worker with a wrong key failed all that waited, one job after the other."""
    writer = bench.make(**UNUSABLE[unusable](s3, forbidding))
    if unusable == "no boto3":
        monkeypatch.setitem(sys.modules, "boto3", None)
    if unusable == "a wrong endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "storage.example.org")
    await bench.writer.request(1, "D1")
    await bench.writer.request(2, "D1")
    job = await writer.claim()
    claimed = bench.stored(job)
    with pytest.raises(RuntimeError if is_wrapped else Exception):
        async with job:
            try:
                await job.upload(io.BytesIO(BODY))
            except Exception as error:
                if is_wrapped:
                    raise RuntimeError("the program's own") from error
                raise
    document = bench.stored(job)
    assert (document["status"], document["attempts"]) == ("waiting", 0)
    assert not document.keys() & {"lease", "upload", "size"}
    assert document["requested_at"] > claimed["requested_at"], "it goes to the end of the queue"
    assert await writer.claim() is None, "the worker pauses"
    assert (await bench.writer.claim()).submission_id == 2


async def test_job_that_cannot_be_stored_is_still_found_as_stuck(bench: Bench) -> None:
    """The trap: each try made it look as if something had happened."""
    await bench.writer.request(1, "D1")
    job = await bench.make(bucket=None).claim()
    (before,) = bench.jobs.find()
    with pytest.raises(ValueError, match="no bucket"):
        async with job:
            await job.upload(io.BytesIO(BODY))
    assert bench.stored(job)["updated_at"] == before["updated_at"]


async def test_upload_error_that_is_caught_does_not_fail_the_job(bench: Bench) -> None:
    await bench.writer.request(1, "D1")
    job = await bench.writer.claim()
    with pytest.raises(NothingUploaded, match="given back"):
        async with job:
            with pytest.raises(ClientError):
                await job.upload(io.BytesIO(BODY), bucket="no-such-bucket")
    assert bench.stored(job)["status"] == "waiting"


class Unreadable(io.RawIOBase):
    """A source that fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: Any) -> int:
        raise self._error


OF_THE_JOB: dict[str, Callable[[], dict[str, Any]]] = {
    "argument": lambda: {"source": io.BytesIO(BODY), "extra_args": {"Metadata": "no mapping"}},
    "key": lambda: {"source": io.BytesIO(BODY), "key": "a/../b"},
    "source in S3": lambda: {"source": Unreadable(ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject"))},
    "source of boto3's": lambda: {"source": Unreadable(ReadTimeoutError(endpoint_url="http://source"))},
    "module": lambda: {"source": Unreadable(ModuleNotFoundError("openpyxl"))},
}


@pytest.mark.parametrize("fault", OF_THE_JOB)
async def test_job_of_the_queue_fails_by_its_own_faults(bench: Bench, fault: str) -> None:
    await bench.writer.request(1, "D1")
    job = await bench.writer.claim()
    with pytest.raises((ClientError, ParamValidationError, ReadTimeoutError, ModuleNotFoundError, ValueError)):
        async with job:
            await job.upload(**OF_THE_JOB[fault]())
    assert bench.stored(job)["message"] == DEFAULT_FAILURE


async def test_bug_after_a_failed_upload_fails_the_job(bench: Bench) -> None:
    await bench.writer.request(1, "D1")
    job = await bench.writer.claim()
    with pytest.raises(ZeroDivisionError):
        async with job:
            with pytest.raises(ClientError):
                await job.upload(io.BytesIO(BODY), bucket="no-such-bucket")
            raise ZeroDivisionError
    assert bench.stored(job)["status"] == "failed"


async def test_job_that_is_requested_in_place_fails(bench: Bench) -> None:
    """Nobody may be there to claim it from the queue."""
    with pytest.raises(ClientError):
        async with await bench.writer.request(1, "D1") as job:
            await job.upload(io.BytesIO(BODY), bucket="no-such-bucket")
    assert bench.stored(job)["message"] == DEFAULT_FAILURE


async def test_work_claims_again_after_a_pause(bench: Bench) -> None:
    await bench.writer.request(1, "D1")
    times, stop = [], asyncio.Event() if bench.face == "asyncio" else threading.Event()

    async def generate(job: Any) -> None:
        times.append(time.monotonic())
        await job.upload(io.BytesIO(BODY), bucket=bench.bucket if len(times) > 2 else "no-such-bucket")
        stop.set()

    await bench.writer.work(generate, stop=stop, poll_seconds=0.01)
    (job,) = bench.jobs.find()
    assert (job["status"], job["attempts"], len(times)) == ("finished", 1, 3)
    assert times[1] - times[0] >= 1
    assert times[2] - times[1] >= 2


async def test_attempt_counts_where_other_files_are_stored(bench: Bench) -> None:
    """Else a job that alone cannot be stored would be tried for ever."""
    await bench.writer.request(1, "D1")
    stored = await bench.writer.claim()
    async with stored:
        await stored.upload(io.BytesIO(BODY))
    await bench.writer.request(2, "D1")
    job = await bench.writer.claim()
    with pytest.raises(ClientError):
        async with job:
            await job.upload(io.BytesIO(BODY), bucket="no-such-bucket")
    assert (bench.stored(job)["status"], bench.stored(job)["attempts"]) == ("waiting", 1)


def test_outage_is_one_however_many_uploads_fail() -> None:
    outage = Outage()
    outage.upload_worked()
    assert outage.upload_failed(OSError()), "the job may be the cause"
    ends = outage.ends
    assert not any(outage.upload_failed(OSError()) for _ in range(8))
    assert outage.ends == ends
    outage.upload_worked()
    assert not outage.is_on


def test_idle_worker_sleeps_until_the_end_of_a_pause(initialized: Database) -> None:
    """The trap: with a short interval, a worker that must not claim went round and round."""
    idle = Idle(initialized["jobs"], 0.0, 60.0)
    idle.not_before = time.monotonic() + 0.35
    for rounds, seconds in enumerate(idle.slices(), 1):  # noqa: B007 - the last is of interest
        time.sleep(seconds)
    assert time.monotonic() >= idle.not_before
    assert rounds < 20
    idle.close()


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "InvalidArgument", True),
        (413, "", True),
        (501, "NotImplemented", True),
        (403, "AccessDenied", False),
        (403, "403", False),
        (400, "InvalidIdentityToken", False),
        (400, "KMS.DisabledException", False),
        (429, "TooManyRequests", False),
        (503, "SlowDown", False),
    ],
)
def test_refusal_of_a_file_is_known_by_its_code(status: int, code: str, *, expected: bool) -> None:
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = ClientError(response, "PutObject")
    assert is_of_the_file(error) is expected
