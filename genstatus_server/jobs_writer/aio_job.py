"""`job`, for asyncio."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pymongo import ReturnDocument
from pymongo.errors import PyMongoError

from genstatus_server.jobs_writer.changes import Change, Lease
from genstatus_server.jobs_writer.errors import LeaseLost
from genstatus_server.jobs_writer.heartbeat import AsyncHeartbeat
from genstatus_server.jobs_writer.parts import Source
from genstatus_server.jobs_writer.state import JobState
from genstatus_server.jobs_writer.terms import Terms
from genstatus_server.jobs_writer.transfer import Progress, upload_in_thread

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection


class AsyncJobHandle(JobState):
    """A job that was requested or claimed: see `JobHandle`. A block that is cancelled gives the job back."""

    def __init__(
        self,
        document: Mapping[str, Any],
        terms: Terms,
        lease: Lease | None,
        jobs: "AsyncCollection[dict[str, Any]]",
        s3: Callable[[], Any],
    ) -> None:
        super().__init__(document, terms, lease)
        self._jobs, self._s3 = jobs, s3
        if self._is_held:
            self._keep()

    async def start(self) -> None:
        """Begin the generation that was requested: the job is `running`, and held."""
        if self._is_held:
            return
        self._started(await self._jobs.find_one_and_update(*self._starting(), return_document=ReturnDocument.AFTER))
        self._keep()

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

        See `JobHandle.upload`. Runs in a thread; `progress` is called in the loop.
        """
        file = self._place_of(source, bucket, key)
        await self._write(self._begin_upload())
        args = {"ContentType": content_type} | dict(extra_args or {})
        size = await upload_in_thread(self._s3, source, file, args, check=self.check_lease, progress=progress)
        await self._write(self._end_upload(file, size))
        self._is_uploaded, self._sent = True, size
        self._settle(settles=self._is_finished)
        return size

    async def finish(self, size: int | None = None, *, bucket: str | None = None, key: str | None = None) -> None:
        """The generation is finished; `size` is in bytes. See `JobHandle.finish`."""
        await self._write(self._finishing(size, bucket, key))
        self._is_finished = True
        self._settle(settles=self._is_uploaded or key is not None)

    async def fail(self, message: str) -> None:
        """The generation failed; callers read `message`."""
        await self._write(self._failing("failed", message))
        self._settle()

    async def invalid(self, message: str) -> None:
        """What was asked for cannot be generated; callers read `message`."""
        await self._write(self._failing("invalid", message))
        self._settle()

    async def release(self) -> None:
        """Give the job back to the queue, for another worker to claim at once."""
        await self._write(self._releasing())
        self._settle()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        missing = self._check_result(error)
        try:
            change = self._closing(error)
            if change is not None:
                await self._write(change)
        except (PyMongoError, LeaseLost) as trouble:
            if error is None:
                raise
            self._unwritten(trouble)
        finally:
            self._settle()
        if missing is not None:
            raise missing

    async def _write(self, change: Change) -> None:
        self._written((await self._jobs.update_one(*change)).matched_count)

    def _keep(self) -> None:
        self._heartbeat = AsyncHeartbeat(self._beat, self._terms.heartbeat_seconds)

    async def _beat(self) -> bool:
        return bool((await self._jobs.update_one(*self._prolonging())).matched_count)
