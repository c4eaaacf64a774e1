"""The two faces of the writer behind one interface, so that each test is written once and run for both."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import pymongo
import pytest

from genstatus_server.jobs_writer import AsyncJobsWriter, JobHandle, JobsWriter
from genstatus_server.model.jobs import GenerationStatus, job_from_document
from tests.support.embedded_processes import wait_until
from tests.support.services import S3

Document = dict[str, Any]
Database = pymongo.database.Database[Document]

#: No lease runs out by itself in these tests, however busy the machine is.
LONG = 3600.0


class Blocking:
    """A `JobsWriter` or a `JobHandle`, called as their asyncio twins are: each call runs in a thread."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.wrapped, name)
        if name.startswith("_") or name == "check_lease" or not callable(value):
            return value

        async def call(*args: Any, **options: Any) -> Any:
            result = await asyncio.to_thread(value, *args, **options)
            return Blocking(result) if isinstance(result, JobHandle) else result

        return call

    async def claims(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        jobs = self.wrapped.claims(*args, **options)
        while (job := await asyncio.to_thread(next, jobs, None)) is not None:
            yield Blocking(job)
            del job
        jobs.close()

    async def work(self, generate: Callable[[Any], Awaitable[object]], **options: Any) -> None:
        loop = asyncio.get_running_loop()

        def block(job: JobHandle) -> None:
            asyncio.run_coroutine_threadsafe(generate(Blocking(job)), loop).result()  # type: ignore[arg-type]

        await asyncio.to_thread(self.wrapped.work, block, **options)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.wrapped.__enter__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.wrapped.__exit__, kind, error, trace)


class Bench:
    """A database and a bucket, and writers for them of one of the faces."""

    def __init__(self, face: str, database: Database, s3: S3, s3_client: Any) -> None:
        self.face, self.database, self.jobs, self.bucket = face, database, database["jobs"], s3.bucket
        self._s3_client = s3_client
        self.writer = self.make()

    def make(self, database: Database | None = None, **options: Any) -> Any:
        """A writer on other terms, or of another database."""
        options = {"bucket": self.bucket, "s3": self._s3_client, "lease_seconds": LONG, "owner": "the test"} | options
        database = self.database if database is None else database
        if self.face == "asyncio":
            return AsyncJobsWriter(database, **options)
        return Blocking(JobsWriter(database, **options))

    def event(self) -> Any:
        """What stops a writer of this face."""
        return asyncio.Event() if self.face == "asyncio" else threading.Event()

    async def claimed(self, writer: Any = None) -> Any:
        job = await (writer or self.writer).claim()
        assert job is not None
        return job

    def stored(self, job: Any) -> Document:
        return self.jobs.find_one(job.job_id) or {}

    def status(self, job: Any) -> GenerationStatus:
        """What callers of the server see; never a document that the server complains of."""
        found = job_from_document(self.stored(job))
        assert not found.problems
        return found.generation_status

    def run_out(self, job: Any) -> None:
        """As if the lease's time had passed."""
        past = datetime.now(UTC) - timedelta(seconds=1)
        self.jobs.update_one({"_id": job.job_id}, {"$set": {"lease.expires_at": past}})


def heartbeats() -> int:
    return sum(thread.name == "lease-heartbeat" for thread in threading.enumerate())


def stop_heartbeat(job: Any) -> None:
    """As if the worker of `job` had died."""
    if job.keeper is not None:
        job.keeper.stop()


@pytest.fixture(params=["blocking", "asyncio"])
def bench(request: pytest.FixtureRequest, initialized: Database, s3: S3, s3_client: Any) -> Iterator[Bench]:
    yield Bench(request.param, initialized, s3, s3_client)
    wait_until(lambda: heartbeats() == 0)
