"""`writer`, for asyncio."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from pymongo import ReturnDocument, WriteConcern
from pymongo.errors import DuplicateKeyError, PyMongoError

from genstatus_server.jobs_writer import changes, queueing
from genstatus_server.jobs_writer.aio_job import AsyncJobHandle
from genstatus_server.jobs_writer.changes import Change
from genstatus_server.jobs_writer.errors import LeaseLost
from genstatus_server.jobs_writer.s3 import s3_client
from genstatus_server.jobs_writer.terms import Terms, checked_request

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

_log = logging.getLogger("genstatus_server.jobs_writer")

Document = dict[str, Any]


class AsyncJobsWriter:
    """Writes the job documents of one database; the tasks of one loop may share it.

    `bucket` is where files go, through the boto3 client `s3` (`s3_client()` unless given). A claimed job is
    held for `lease_seconds` after each heartbeat, and is marked failed where `max_attempts` claims of one generation
    came to nothing. `owner` is shown in the job document: host and process id unless given. Writes are acknowledged
    by a majority, unless `write_concern` says otherwise.
    """

    def __init__(  # noqa: PLR0913 - options, by keyword, each with a default
        self,
        database: "AsyncDatabase[Document]",
        *,
        bucket: str | None = None,
        s3: Any = None,
        lease_seconds: float = 60.0,
        max_attempts: int = 5,
        owner: str | None = None,
        write_concern: WriteConcern = queueing.MAJORITY,
    ) -> None:
        options = {**queueing.OPTIONS, "write_concern": write_concern}
        self._jobs: AsyncCollection[Document] = database.get_collection(changes.JOBS, **options)
        self._counters: AsyncCollection[Document] = database.get_collection(changes.COUNTERS, **options)
        self._terms = Terms(lease_seconds, max_attempts, owner, bucket)
        self._given_s3 = s3
        self._is_checked = False

    async def request(
        self, submission_id: int, file_type: str, start: date | None = None, end: date | None = None
    ) -> AsyncJobHandle:
        """Ask for a file: a job in `waiting`, the file's first or a new generation in place of the last.

        The last generation's file is no longer handed out, and a worker that is at it loses its lease. `start` and
        `end` are the days that D1 and D2 cover: dates, or aware datetimes. Raises ValueError for what makes no sense,
        and `NotInitialized` where the database lacks what this relies on.
        """
        change = checked_request(submission_id, file_type, start, end)
        if not self._is_checked:
            queueing.check_indexes(await self._jobs.index_information())
            self._is_checked = True
        for _ in range(queueing.REQUEST_TRIES):
            found = await self._change(change) or await self._insert(change)
            if found is not None:
                return AsyncJobHandle(found, self._terms, None, self._jobs, self._s3)
        raise DuplicateKeyError(f"no free job id in {queueing.REQUEST_TRIES} tries")

    async def claim(self, file_types: Sequence[str] | None = None) -> AsyncJobHandle | None:
        """The oldest job that waits, or whose worker is gone; `running`, and held for this worker. None if none is.

        `file_types` are those that this worker can generate; all unless given.
        """
        lease = self._terms.new_lease()
        while True:
            lapsed, waiting = (change(lease, file_types) for change in (changes.claim_lapsed, changes.claim_waiting))
            found = await self._change(lapsed, sort=changes.OLDEST_FIRST)
            found = found or await self._change(waiting, sort=changes.OLDEST_FIRST)
            if found is None:
                return None
            if found["status"] == "running":
                return AsyncJobHandle(found, self._terms, lease, self._jobs, self._s3)
            _log.warning("job %s is given up, after %s attempts", found["_id"], self._terms.max_attempts)

    async def claims(
        self,
        file_types: Sequence[str] | None = None,
        *,
        poll_seconds: float = 1.0,
        stop: asyncio.Event | None = None,
    ) -> AsyncIterator[AsyncJobHandle]:
        """Claim one job after another, and wait for more where there is none, until `stop` is set.

        A MongoDB that is away for a while is waited for too.
        """
        stop = stop or asyncio.Event()
        while not stop.is_set():
            job = await self._claim_patiently(file_types)
            if job is not None:
                yield job
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), queueing.pause(poll_seconds))

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
        async for job in self.claims(file_types, poll_seconds=poll_seconds, stop=stop):
            try:
                async with job:
                    await generate(job)
            except LeaseLost as error:
                _log.warning("%s", error)
            except Exception:  # noqa: BLE001 - one job's trouble must not end the worker
                _log.exception("%r failed", job)

    async def _claim_patiently(self, file_types: Sequence[str] | None) -> AsyncJobHandle | None:
        try:
            return await self.claim(file_types)
        except PyMongoError as error:
            if not queueing.is_passing(error):
                raise
            _log.warning("no job could be claimed: %s; trying again", type(error).__name__)
            return None

    async def _insert(self, requested: Change) -> Document | None:
        """The first job of a file; None where somebody else was quicker, or took the id."""
        counter = await self._counters.find_one_and_update(
            *changes.next_job_id(), upsert=True, return_document=ReturnDocument.AFTER
        )
        try:
            return await self._change(changes.insert(queueing.last_id(counter), requested), upsert=True)
        except DuplicateKeyError:
            highest = queueing.highest_id(await self._jobs.find_one(sort=[("_id", -1)], projection=["_id"]))
            await self._counters.update_one(*changes.raise_job_id(highest))
            return None

    async def _change(self, change: Change, **options: Any) -> Document | None:
        return await self._jobs.find_one_and_update(*change, return_document=ReturnDocument.AFTER, **options)

    def _s3(self) -> Any:
        """Called in the threads of uploads: two at once make a client too many, and one of them is kept."""
        if self._given_s3 is None:
            self._given_s3 = s3_client()
        return self._given_s3
