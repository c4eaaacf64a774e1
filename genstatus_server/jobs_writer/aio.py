"""`JobsWriter` and `JobHandle` for asyncio: each call runs in a thread, and the calling task awaits it.

So both variants share one implementation, and the heartbeat continues even while a coroutine blocks the loop.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import date
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from pymongo import WriteConcern
from pymongo.database import Database

from genstatus_server.jobs_writer.job import JobBase, JobHandle
from genstatus_server.jobs_writer.s3 import Source
from genstatus_server.jobs_writer.terms import OnEvent
from genstatus_server.jobs_writer.transfer import STOP_SECONDS, Progress, in_daemon_thread
from genstatus_server.jobs_writer.writer import MAJORITY, Claims, JobsWriter, log_error

T = TypeVar("T")

#: Seconds for which a cancelled task waits for its thread.
_STOP_SECONDS: Final = STOP_SECONDS + 1


class _Stopped(Exception):
    """Ends the thread of an upload whose task was cancelled."""


class AsyncJobHandle(JobBase):
    """A job that was requested or claimed: see `JobHandle`. A block that is cancelled gives the job back."""

    def __init__(self, job: JobHandle) -> None:
        self._job = job

    def __getattr__(self, name: str) -> Any:
        return getattr(self._job, name)

    def check_lease(self) -> None:
        """Raise `LeaseLost` where the lease is lost, or has run out unprolonged."""
        self._job.check_lease()

    async def start(self) -> None:
        """Begin the generation that was requested: the job is `running`, and held."""
        await in_thread(self._job.start)

    async def upload(  # noqa: PLR0913 - options, by keyword
        self,
        source: Source,
        bucket: str | None = None,
        key: str | None = None,
        *,
        content_type: str = "text/csv",
        extra_args: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Send a file, by its path or as a stream of bytes, to S3; gives the number of bytes.

        See `JobHandle.upload`; `progress` is called in the loop.
        """
        loop, stopped = asyncio.get_running_loop(), threading.Event()
        args = {"ContentType": content_type} | dict(extra_args or {})
        report = None if progress is None else lambda sent: loop.call_soon_threadsafe(progress, sent)

        def check() -> None:
            if stopped.is_set():
                raise _Stopped
            self._job.check_lease()

        def send() -> int:
            return self._job.send(source, bucket, key, args, check=check, progress=report)

        return await in_thread(send, stopped)

    async def finish(self, size: int | None = None, *, bucket: str | None = None, key: str | None = None) -> None:
        """The generation is finished; `size` is in bytes. See `JobHandle.finish`."""
        await in_thread(lambda: self._job.finish(size, bucket=bucket, key=key))

    async def fail(self, message: str) -> None:
        """The generation failed; callers read `message`."""
        await in_thread(lambda: self._job.fail(message))

    async def invalid(self, message: str) -> None:
        """Mark the job invalid: the requested file cannot be generated. Callers read `message`."""
        await in_thread(lambda: self._job.invalid(message))

    async def release(self) -> None:
        """Give the job back to the queue, for another worker to claim at once."""
        await in_thread(self._job.release)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except asyncio.CancelledError as error:  # The thread may have started it nevertheless.
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _is_foreign_cancellation(error):
            error = RuntimeError("something that this task waited for was cancelled")
        await in_thread(lambda: self._job.__exit__(kind, error, trace))


class AsyncJobsWriter:
    """Writes the job documents of one database; the tasks of one loop may share it.

    See `JobsWriter`. `database` is one of a `MongoClient`, not of an `AsyncMongoClient`: that could not prolong a lease
    while the loop is blocked.
    """

    def __init__(  # noqa: PLR0913 - options, by keyword, each with a default
        self,
        database: Database[dict[str, Any]],
        *,
        bucket: str | None = None,
        s3: Any = None,
        lease_seconds: float = 60.0,
        max_attempts: int = 5,
        owner: str | None = None,
        write_concern: WriteConcern = MAJORITY,
        on_event: OnEvent | None = None,
    ) -> None:
        if not isinstance(database, Database):
            raise TypeError("AsyncJobsWriter needs a database of pymongo.MongoClient: it works in threads of its own")
        self._writer = JobsWriter(
            database,
            bucket=bucket,
            s3=s3,
            lease_seconds=lease_seconds,
            max_attempts=max_attempts,
            owner=owner,
            write_concern=write_concern,
            on_event=on_event,
        )

    async def request(
        self, submission_id: int, file_type: str, start: date | None = None, end: date | None = None
    ) -> AsyncJobHandle:
        """Request a file: see `JobsWriter.request`."""
        return AsyncJobHandle(await in_thread(lambda: self._writer.request(submission_id, file_type, start, end)))

    async def claim(self, file_types: Sequence[str] | None = None) -> AsyncJobHandle | None:
        """The oldest job that waits, or whose worker is gone; None if there is none. See `JobsWriter.claim`."""
        job = await in_thread(lambda: self._writer.claim(file_types), undo=_give_back)
        return None if job is None else AsyncJobHandle(job)

    async def claims(
        self,
        file_types: Sequence[str] | None = None,
        *,
        poll_seconds: float = 1.0,
        stop: asyncio.Event | None = None,
    ) -> AsyncGenerator[AsyncJobHandle]:
        """Claim one job after another, and wait for more where there is none, until `stop` is set.

        See `JobsWriter.claims`.
        """
        stop = stop or asyncio.Event()
        with Claims(self._writer, file_types, poll_seconds) as claims:
            while not stop.is_set():
                job = await in_thread(claims.next, undo=_give_back)
                if job is not None:
                    yield AsyncJobHandle(job)
                    del job
                    continue
                for seconds in claims.idle.slices():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), seconds)
                        break

    async def work(
        self,
        generate: Callable[[AsyncJobHandle], Awaitable[object]],
        file_types: Sequence[str] | None = None,
        *,
        poll_seconds: float = 1.0,
        stop: asyncio.Event | None = None,
    ) -> None:
        """Call `generate` with each job that is claimed, as the block of its context manager, until `stop` is set.

        What it raises is logged, with its trace, and the next job is claimed.
        """
        async with contextlib.aclosing(self.claims(file_types, poll_seconds=poll_seconds, stop=stop)) as jobs:
            async for job in jobs:
                try:
                    async with job:
                        await generate(job)
                except (Exception, asyncio.CancelledError) as error:
                    if isinstance(error, asyncio.CancelledError) and not _is_foreign_cancellation(error):
                        raise
                    log_error(job, error)
                del job


async def in_thread(
    call: Callable[[], T], stopped: threading.Event | None = None, *, undo: Callable[[T], object] = lambda _: None
) -> T:
    """Run `call` in a daemon thread.

    If the task is cancelled, this sets `stopped` and waits for `call` to end, for `_STOP_SECONDS` at most, before it
    raises. A second cancellation ends this wait. If `call` returns after the cancellation, `undo` gets its result.
    """
    is_late = stopped or threading.Event()

    def run() -> T:
        result = call()
        if is_late.is_set():
            undo(result)
        return result

    running = asyncio.wrap_future(in_daemon_thread(run))
    running.add_done_callback(
        lambda done: done.cancelled() or done.exception()
    )  # The error may come after the caller has left.
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        is_late.set()
        await asyncio.wait([running], timeout=_STOP_SECONDS)
        raise


def _give_back(job: JobHandle | None) -> None:
    if job is not None:
        job.release()


def _is_foreign_cancellation(error: BaseException | None) -> bool:
    """Whether `error` is a `CancelledError` although this task was not cancelled: something it awaited was."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling()
