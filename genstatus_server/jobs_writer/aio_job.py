"""`job`, for asyncio."""

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pymongo import ReturnDocument
from pymongo.errors import PyMongoError

from genstatus_server.jobs_writer.changes import Change, File, Lease
from genstatus_server.jobs_writer.errors import LeaseLost
from genstatus_server.jobs_writer.heartbeat import AsyncHeartbeat
from genstatus_server.jobs_writer.state import JobState
from genstatus_server.jobs_writer.terms import Terms
from genstatus_server.jobs_writer.transfer import Progress, Sent, Source, send

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection


class _Cancelled(Exception):
    """Ends the thread of an upload whose task was cancelled."""


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

    async def upload(
        self,
        source: Source,
        bucket: str | None = None,
        key: str | None = None,
        *,
        content_type: str = "text/csv",
        progress: Progress | None = None,
    ) -> int:
        """Send a file, by its path or as a stream of bytes, to S3; gives the number of bytes.

        Runs in a thread; `progress` is called in the loop.
        """
        file = self._place_of(source, bucket, key)
        await self._write(self._begin_upload())
        size = await self._send(source, file, content_type, progress)
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

    async def _send(self, source: Source, file: File, content_type: str, progress: Progress | None) -> int:
        """Wait for the thread in any case: a cancelled upload is over before anybody goes on."""
        loop, cancelled = asyncio.get_running_loop(), False

        def check() -> None:
            if cancelled:
                raise _Cancelled
            self.check_lease()

        def told(sent: int) -> None:
            if progress is not None:
                loop.call_soon_threadsafe(progress, sent)

        sending = loop.run_in_executor(None, lambda: send(self._s3(), source, file, content_type, Sent(told, check)))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            cancelled = True
            await asyncio.wait([sending])
            if not sending.cancelled():
                sending.exception()  # Has been seen: it is `_Cancelled`, or came just before.
            raise

    async def _write(self, change: Change) -> None:
        self._written((await self._jobs.update_one(*change)).matched_count)

    def _keep(self) -> None:
        self._heartbeat = AsyncHeartbeat(self._beat, self._terms.heartbeat_seconds)

    async def _beat(self) -> bool:
        return bool((await self._jobs.update_one(*self._prolonging())).matched_count)
