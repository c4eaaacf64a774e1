"""One job that a worker has requested or claimed. `aio` has the class for asyncio."""

import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from types import CodeType, TracebackType
from typing import Any, Self

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from genstatus_server.jobs_writer import changes
from genstatus_server.jobs_writer.changes import Change, File, Lease
from genstatus_server.jobs_writer.errors import (
    Ending,
    LeaseLost,
    NothingUploaded,
    clean_message,
    comes_of,
    ending_of,
    handler_codes,
)
from genstatus_server.jobs_writer.lease import LeaseKeeper
from genstatus_server.jobs_writer.outage import NoBucket, Outage, is_of_the_file
from genstatus_server.jobs_writer.s3 import Source, checked_place
from genstatus_server.jobs_writer.terms import JobEvent, OnEvent, Terms, is_integer, report
from genstatus_server.jobs_writer.transfer import Progress, upload
from genstatus_server.model.jobs import DEFAULT_FAILURE, FILE_TYPES, LARGEST_ID, whole_number

_log = logging.getLogger("genstatus_server.jobs_writer")


@dataclass(frozen=True)
class JobContext:
    """What a writer hands to its jobs. `s3` gives the client for uploads."""

    jobs: Collection[dict[str, Any]]
    terms: Terms
    s3: Callable[[], Any]
    outage: Outage
    on_event: OnEvent | None


class JobBase:
    """One generation of one job.

    `job_id`, `submission_id` and `file_type` say which; `start_date` and `end_date` (aware datetimes, or None) the days
    that it covers; `generation` counts the requests of this file, and `attempt` the claims of this generation, from 1.
    """

    job_id: int
    submission_id: int
    file_type: str
    start_date: datetime | None
    end_date: datetime | None
    generation: int
    attempt: int
    ending: Ending | None

    def __repr__(self) -> str:
        return f"<job {self.job_id}: {self.file_type} of submission {self.submission_id}>"


class JobHandle(JobBase):
    """A job that was requested or claimed. Every method that writes raises `LeaseLost` where it is not held any more.

    As a context manager it starts the job where that has not been done, and brings it to an end: a file that was
    uploaded is finished; an exception marks the job failed, with a text for callers, and goes on; a worker that is
    told to stop (KeyboardInterrupt, or `sys.exit` in a signal handler) gives the job back.
    """

    def __init__(self, document: Mapping[str, Any], tools: JobContext) -> None:
        """Raise ValueError for a document that no worker could make sense of."""
        self.job_id = _whole(document, "_id")
        self.submission_id = _whole(document, "submission_id")
        self.file_type = document["file_type"]
        if self.file_type not in FILE_TYPES:  # A query for a file type also finds arrays.
            raise ValueError("file_type is no file type")
        self.start_date, self.end_date = _time(document, "start"), _time(document, "end")
        self.generation, self.attempt = _whole(document, "generation", 0), _whole(document, "attempts", 0)
        self._tools = tools
        #: What prolongs the lease; None before the start.
        self.keeper: LeaseKeeper | None = None
        self._is_finished = self._is_uploaded = self._is_settled = False
        self._sent: int | None = None
        self._size: int | None = None
        self._lease = tools.terms.new_lease()
        self._claimed_at = 0.0
        self._handlers: frozenset[CodeType] = frozenset()
        self._is_from_queue = False
        #: The errors of the last upload for which the job is not to blame, and whether the attempt counts nevertheless.
        self._refusals: list[Exception] = []
        self._counts = False
        #: How the block has ended the job; None where it has not.
        self.ending: Ending | None = None

    def check_lease(self) -> None:
        """Raise `LeaseLost` where the lease is lost, or has run out unprolonged. For long generations, now and then."""
        if self.keeper is not None and not self._is_settled:
            self.keeper.check()

    def start(self) -> None:
        """Begin the generation that was requested: the job is `running`, and held."""
        if self.keeper is not None:
            return
        began = time.monotonic()
        change = changes.start(self.job_id, self.generation, self._lease)
        found = self._tools.jobs.find_one_and_update(*change, return_document=ReturnDocument.AFTER)
        if found is None:
            raise self._lost()
        self.attempt = int(found["attempts"])
        self.hold(self._lease, began, is_from_queue=False)

    def hold(self, lease: Lease, claimed_at: float, *, is_from_queue: bool = True) -> None:
        """Keep the job, which `lease` has claimed; `claimed_at` is of the monotonic clock, before the claim."""
        self._lease, self._claimed_at, self._is_from_queue = lease, claimed_at, is_from_queue
        self.keeper = LeaseKeeper(self._tools.jobs, self.job_id, lease, claimed_at)
        weakref.finalize(self, self.keeper.abandon).atexit = False
        # A handler may put another in its place before it raises, so that a second signal kills.
        self._handlers = handler_codes()
        self._report("claimed")

    def upload(  # noqa: PLR0913 - options, by keyword
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

        `bucket` is the writer's unless named; `key` a place of this attempt's own, ending in the file type.
        `extra_args` are boto3's ExtraArgs, such as `{"ServerSideEncryption": "aws:kms"}`. `progress` is called with the
        bytes sent so far. Raises ValueError for what S3 cannot take, and what boto3 raises. A second upload takes the
        place of the first once it is there.
        """
        args = {"ContentType": content_type} | dict(extra_args or {})
        return self.send(source, bucket, key, args, check=self.check_lease, progress=progress)

    def send(  # noqa: PLR0913 - options, by keyword
        self,
        source: Source,
        bucket: str | None,
        key: str | None,
        args: Mapping[str, Any],
        *,
        check: Callable[[], object],
        progress: Progress | None,
    ) -> int:
        """`upload`; what `check` raises ends it."""
        if self._is_settled:
            raise self._lost()
        self._refusals = []
        try:
            file, client = self._place_of(source, bucket, key), self._s3()
            self._write(changes.begin_upload(self.job_id, self._lease))
            size = upload(client, source, file, args, check=check, progress=progress, on_refused=self._note_refusal)
        except Exception as error:
            if self._is_from_queue and comes_of(error, self._refusals):
                self._counts = self._tools.outage.upload_failed(error)
            raise
        self._tools.outage.upload_worked()
        self._write(changes.end_upload(self.job_id, self._lease, file, size, settles=self._is_finished))
        self._is_uploaded, self._sent, self._size = True, size, size
        if self._is_finished:
            self._settle("finished")
        return size

    def finish(self, size: int | None = None, *, bucket: str | None = None, key: str | None = None) -> None:
        """The generation is finished; `size` is in bytes. Callers get the file once it is uploaded too.

        `key` (and `bucket`, unless it is the server's) name a file that was put into S3 by other means than `upload`.
        """
        if size is not None and not (is_integer(size) and 0 <= size <= LARGEST_ID):
            raise ValueError(f"size must be a number of bytes, not {size!r}")
        if None not in {size, self._sent} and size != self._sent:
            raise ValueError(f"size is {size}, but {self._sent} bytes were uploaded")
        file = None if key is None else checked_place(bucket, key)
        self._write(changes.finish(self.job_id, self._lease, size, file, settles=self._is_uploaded))
        self._is_finished, self._size = True, self._sent if size is None else size
        if self._is_uploaded or file is not None:
            self._settle("finished")

    def fail(self, message: str) -> None:
        """The generation failed; callers read `message`."""
        self._fail("failed", message)

    def invalid(self, message: str) -> None:
        """Mark the job invalid: the requested file cannot be generated. Callers read `message`."""
        self._fail("invalid", message)

    def release(self) -> None:
        """Give the job back to the queue, for another worker to claim at once."""
        self._write(changes.release(self.job_id, self._lease))
        self._settle("released")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_settled or self.keeper is None or not self.keeper.is_of_this_process:
            return
        try:
            refusals = self._refusals if self._is_from_queue else []
            self.ending, message = ending_of(error, self._handlers, refusals)
            if self.ending is Ending.FINISHED and refusals and not self._is_uploaded:
                self.ending = Ending.POSTPONED
            self._end(self.ending, message)
            if error is None and not self._is_uploaded:
                end = "given back" if self.ending is Ending.POSTPONED else "marked failed"
                raise NothingUploaded(f"{self!r}: its block ended without an upload; the job is {end}")
        except (PyMongoError, LeaseLost) as unwritten:
            if error is None:
                raise
            # The error of the block goes on; the lease runs out, and the job comes back.
            _log.warning("%r: its end was not written: %s", self, type(unwritten).__name__)
        finally:
            self.keeper.stop()

    def _end(self, ending: Ending, message: str) -> None:
        if ending is Ending.LOST:
            self._report("lost")
        elif ending is Ending.RELEASED:
            self.release()
        elif ending is Ending.REQUEUED:
            self._write(changes.requeue(self.job_id, self._lease))
            self._settle("released")
        elif ending is Ending.POSTPONED:
            self._write(changes.postpone(self.job_id, self._lease, counts=self._counts))
            self._settle("released")
        elif ending is not Ending.FINISHED:
            self._fail(ending.name.lower(), message)
        elif self._is_uploaded:
            self.finish()
        else:
            self._fail("failed", DEFAULT_FAILURE)

    def _fail(self, status: str, message: str) -> None:
        text = clean_message(message)
        if not text:
            raise ValueError("message must say something: callers read it")
        self._write(changes.fail(self.job_id, self._lease, status, text))
        self._settle(status)

    def _write(self, change: Change) -> None:
        if self.keeper is None:
            raise self._lost()
        self.keeper.write(change)

    def _settle(self, kind: str) -> None:
        self._is_settled = True
        if self.keeper is not None:
            self.keeper.stop()
        self._report(kind)

    def _report(self, kind: str) -> None:
        seconds = time.monotonic() - self._claimed_at
        size = self._size if kind == "finished" else None
        facts = (self.job_id, self.submission_id, self.file_type, self.attempt)
        report(JobEvent(kind, *facts, seconds, size), self._tools.on_event)

    def _place_of(self, source: object, bucket: str | None, key: str | None) -> File:
        """Where a file goes. Every attempt has its own place, so that a late worker overwrites nothing."""
        suffix = PurePath(source).suffix if isinstance(source, str | os.PathLike) else ""
        own = f"{self.submission_id}/{self._lease.token}/{self.file_type}{suffix or '.csv'}"
        bucket = bucket or self._tools.terms.bucket
        if not bucket:
            error = NoBucket("no bucket: name one, here or when the writer is made")
            self._refusals.append(error)
            raise error
        return checked_place(bucket, own if key is None else key)

    def _s3(self) -> Any:
        try:
            return self._tools.s3()
        except Exception as error:
            self._refusals.append(error)
            raise

    def _note_refusal(self, error: Exception) -> None:
        if not is_of_the_file(error):
            self._refusals.append(error)

    def _lost(self) -> LeaseLost:
        return LeaseLost(f"{self!r}: this worker does not hold it; nothing was changed")


def _whole(document: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """The integer `name` of 64 bits, which may be stored as a whole double."""
    value = document.get(name)
    number = default if value is None else whole_number(value)
    if number is None:
        raise ValueError(f"{name} is no integer")
    return number


def _time(document: Mapping[str, Any], name: str) -> datetime | None:
    value = document.get(name)
    if value is not None and not isinstance(value, datetime):
        raise ValueError(f"{name} is no date")
    return value
