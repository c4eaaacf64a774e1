"""What ends the block of a job, and what becomes of the job."""

# A block that ends in an exception is what is tested.
# ruff: noqa: PT012

import asyncio
import functools
import io
import signal
import sys
import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError

from genstatus_server.jobs_writer import GenerationFailed, GenerationInvalid, JobEvent, LeaseLost, NothingUploaded
from genstatus_server.model.jobs import DEFAULT_FAILURE, GenerationStatus
from tests.jobs_writer.conftest import Bench
from tests.support.server import until


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ZeroDivisionError("internal: password"), "failed", DEFAULT_FAILURE),
        (GenerationFailed("$award could not be read"), "failed", "$award could not be read"),
        (GenerationFailed(""), "failed", DEFAULT_FAILURE),
        (GenerationInvalid("There are no awards in these days"), "invalid", "There are no awards in these days"),
        (GenerationInvalid("lone \ud800 surrogate"), "invalid", "lone ? surrogate"),
        (GenerationFailed("x" * 17_000_000), "failed", "x" * 4000),
        (ExceptionGroup("of a task group", [GenerationInvalid("No days")]), "invalid", "No days"),
        (ExceptionGroup("", [GenerationInvalid("A"), ExceptionGroup("", [GenerationInvalid("B")])]), "invalid", "A B"),
        (ExceptionGroup("", [GenerationInvalid("A"), GenerationFailed("B")]), "failed", "A B"),
        (ExceptionGroup("", [GenerationInvalid("A"), ValueError("internal")]), "failed", DEFAULT_FAILURE),
    ],
)
async def test_exception_fails_the_job_and_goes_on(bench: Bench, error: Exception, status: str, message: str) -> None:
    with pytest.raises(type(error)) as raised:
        async with await bench.writer.request(1, "D1") as job:
            await job.upload(io.BytesIO(b"of no use"))
            raise error
    assert raised.value is error
    document = bench.stored(job)
    assert (document["status"], document["message"]) == (status, message)
    assert not document.keys() & {"lease", "upload", "size"}
    assert bench.status(job) is GenerationStatus.FAILED


async def test_messages_are_cleaned_and_cut(bench: Bench) -> None:
    job = await bench.writer.request(1, "E")
    await job.start()
    await job.fail("\udfff" + "y" * 17_000_000)
    assert bench.stored(job)["message"] == "?" + "y" * 3999


class Stopper:
    def __call__(self, *_: object) -> None:
        sys.exit()


def stop_once(*_: object) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    sys.exit()


@pytest.mark.parametrize("handler", [stop_once, functools.partial(stop_once), Stopper(), Stopper().__call__])
async def test_worker_stopped_by_any_kind_of_handler_gives_its_job_back(bench: Bench, handler: Any) -> None:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(SystemExit):
            async with await bench.writer.request(1, "D1") as job:
                signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    document = bench.stored(job)
    assert (document["status"], document["attempts"]) == ("waiting", 0)


@pytest.mark.parametrize("is_signal", [False, True])
async def test_worker_told_to_stop_gives_its_job_back(bench: Bench, is_signal: bool) -> None:  # noqa: FBT001
    before = signal.signal(signal.SIGUSR1, lambda *_: sys.exit())
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            async with await bench.writer.request(1, "D1") as job:
                if not is_signal:
                    raise KeyboardInterrupt
                signal.raise_signal(signal.SIGUSR1)
        document = bench.stored(job)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (document["status"], document["attempts"]) == ("waiting", 0)
    again = await bench.claimed()
    assert (again.job_id, again.attempt) == (job.job_id, 1)
    await again.release()


@pytest.mark.parametrize("code", [0, 1, None])
async def test_exit_of_the_generation_itself_is_an_attempt(bench: Bench, code: int | None) -> None:
    writer = bench.make(max_attempts=2)
    bad = await writer.request(1, "E")
    good = await writer.request(2, "E")
    for expected in (bad, good, bad):
        job = await bench.claimed(writer)
        assert job.job_id == expected.job_id
        with pytest.raises(SystemExit):
            async with job:
                sys.exit(code)
    other = await bench.claimed(writer)
    assert other.job_id == good.job_id
    await other.release()
    bench.jobs.delete_one({"_id": good.job_id})
    assert await writer.claim() is None
    assert bench.stored(bad)["status"] == "failed"


@pytest.mark.parametrize("size", [None, 3])
async def test_block_that_uploaded_nothing_fails(bench: Bench, size: int | None) -> None:
    with pytest.raises(NothingUploaded):
        async with await bench.writer.request(1, "D1") as job:
            if size is not None:
                await job.finish(size)
    assert bench.status(job) is GenerationStatus.FAILED


async def test_block_that_ended_its_job_itself_is_left_alone(bench: Bench) -> None:
    async with await bench.writer.request(1, "D1") as job:
        await job.invalid("The days are not over yet")
    with pytest.raises(ZeroDivisionError):
        async with await bench.writer.request(2, "D1") as other:
            await other.fail("mine")
            raise ZeroDivisionError
    assert [bench.stored(each)["message"] for each in (job, other)] == ["The days are not over yet", "mine"]


async def test_lost_lease_does_not_hide_an_error(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError):
        async with await bench.writer.request(1, "D1"):
            await bench.writer.request(1, "D1")
            raise ZeroDivisionError
    assert "LeaseLost" in caplog.text
    with pytest.raises(LeaseLost):
        async with await bench.writer.request(1, "D1") as job:
            await job.upload(io.BytesIO(b"in vain"))
            await bench.writer.request(1, "D1")
    assert bench.stored(job)["status"] == "waiting"


@pytest.mark.parametrize("is_finished_first", [False, True])
async def test_first_file_stands_when_a_second_upload_fails(bench: Bench, is_finished_first: bool) -> None:  # noqa: FBT001
    async with await bench.writer.request(1, "D1") as job:
        await job.upload(io.BytesIO(b"first"))
        with pytest.raises(ClientError):
            await job.upload(io.BytesIO(b"second"), bucket="no-such-bucket")
        if is_finished_first:
            await job.finish()
    assert bench.status(job) is GenerationStatus.FINISHED
    assert bench.stored(job)["size"] == 5
    with pytest.raises(LeaseLost):
        await job.upload(io.BytesIO(b"too late"))
    assert bench.status(job) is GenerationStatus.FINISHED


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


@pytest.mark.parametrize("bench", ["asyncio"], indirect=True)
async def test_cancelled_upload_is_over_before_its_job_is_given_back(bench: Bench) -> None:
    job, stream = await bench.writer.request(1, "D1"), Stuck()

    async def generate() -> None:
        async with job:
            await job.upload(io.BufferedReader(stream))

    task = asyncio.create_task(generate())
    await until(stream.begun.is_set)
    task.cancel()
    await asyncio.sleep(0)
    assert bench.stored(job)["upload"] == {"status": "running"}
    stream.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    document = bench.stored(job)
    assert (document["status"], document["attempts"]) == ("waiting", 0)
    assert "upload" not in document


@pytest.mark.parametrize("bench", ["asyncio"], indirect=True)
async def test_cancellation_of_something_else_fails_the_job(bench: Bench) -> None:
    stop = asyncio.Event()
    jobs = [await bench.writer.request(submission_id, "E") for submission_id in (1, 2)]

    async def generate(job: Any) -> None:
        if job.submission_id == 2:
            stop.set()
            await job.finish(key="E.csv")
        other = asyncio.ensure_future(asyncio.Event().wait())
        other.cancel()
        await other

    await bench.writer.work(generate, stop=stop)
    assert [bench.stored(job)["status"] for job in jobs] == ["failed", "finished"]


@pytest.mark.parametrize("bench", ["asyncio"], indirect=True)
async def test_cancelled_claim_or_start_leaves_no_job_held(bench: Bench) -> None:
    job = await bench.writer.request(1, "E")
    for call in (job.__aenter__, bench.writer.claim):
        task = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        await until(lambda: bench.stored(job)["status"] == "waiting")


async def test_writer_logs_each_event_and_calls_the_hook(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    events: list[JobEvent] = []

    def hook(event: JobEvent) -> None:
        events.append(event)
        raise ZeroDivisionError

    caplog.set_level("INFO")
    writer = bench.make(on_event=hook)
    for submission_id in range(1, 6):
        await writer.request(submission_id, "E")
    jobs = [await bench.claimed(writer) for _ in range(5)]
    await jobs[0].upload(io.BytesIO(b"12345"))
    await jobs[0].finish()
    await jobs[1].fail("No")
    await jobs[2].invalid("Never")
    await jobs[3].release()
    with pytest.raises(LeaseLost):
        async with jobs[4]:
            bench.jobs.delete_one({"_id": jobs[4].job_id})
            await jobs[4].finish()
    assert [event.kind for event in events] == ["claimed"] * 5 + ["finished", "failed", "invalid", "released", "lost"]
    assert (events[5].job_id, events[5].submission_id, events[5].file_type, events[5].size) == (1, 1, "E", 5)
    lines = [record.getMessage() for record in caplog.records if ", attempt " in record.getMessage()]
    assert len(lines) == len(events)
    assert lines[5].startswith("finished: job 1, E of submission 1, attempt 1, after ")
    assert "on_event failed" in caplog.text
