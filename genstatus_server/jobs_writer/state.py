"""What a job handle knows and decides, whoever awaits: the part that sync and async share. Pure."""

import logging
import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Protocol

from genstatus_server.jobs_writer import changes
from genstatus_server.jobs_writer.changes import Change, File, Lease
from genstatus_server.jobs_writer.errors import GenerationFailed, GenerationInvalid, LeaseLost, NothingUploaded
from genstatus_server.jobs_writer.s3 import checked_file
from genstatus_server.jobs_writer.terms import Terms, is_integer
from genstatus_server.model.jobs import DEFAULT_FAILURE

if TYPE_CHECKING:
    from datetime import datetime

_log = logging.getLogger("genstatus_server.jobs_writer")


class Beating(Protocol):
    """A heartbeat, of either kind."""

    is_lost: bool

    def stop(self) -> None: ...


class JobState:
    """One generation of one job, as its worker knows it.

    `job_id`, `submission_id` and `file_type` say which; `start_date` and `end_date` (aware datetimes, or None) the days
    that it covers; `generation` counts the requests of this file, and `attempt` the claims of this generation, from 1.
    """

    def __init__(self, document: Mapping[str, Any], terms: Terms, lease: Lease | None) -> None:
        self.job_id = int(document["_id"])
        self.submission_id = int(document["submission_id"])
        self.file_type: str = document["file_type"]
        self.start_date: datetime | None = document.get("start")
        self.end_date: datetime | None = document.get("end")
        self.generation = int(document.get("generation") or 0)
        self.attempt = int(document.get("attempts") or 0)
        self._terms = terms
        self._lease = lease or terms.new_lease()
        self._is_held = lease is not None
        self._is_finished = self._is_uploaded = self._is_settled = False
        self._sent: int | None = None
        self._heartbeat: Beating | None = None

    def __repr__(self) -> str:
        return f"<job {self.job_id}: {self.file_type} of submission {self.submission_id}>"

    def check_lease(self) -> None:
        """Raise `LeaseLost` where the last heartbeat has found it lost. For long generations, now and then."""
        if self._heartbeat is not None and self._heartbeat.is_lost:
            raise self._lost()

    def _place_of(self, source: object, bucket: str | None, key: str | None) -> File:
        """Where a file goes. Every attempt has a place of its own: a worker that comes late overwrites nothing."""
        suffix = PurePath(source).suffix if isinstance(source, str | os.PathLike) else ""
        own = f"{self.submission_id}/{self._lease.token}/{self.file_type}{suffix or '.csv'}"
        bucket = bucket or self._terms.bucket
        if not bucket:
            raise ValueError("no bucket: name one, here or when the writer is made")
        return checked_file(bucket, own if key is None else key)

    def _starting(self) -> Change:
        return changes.start(self.job_id, self.generation, self._lease)

    def _prolonging(self) -> Change:
        return changes.heartbeat(self.job_id, self._lease)

    def _begin_upload(self) -> Change:
        return changes.begin_upload(self.job_id, self._lease)

    def _end_upload(self, file: File, size: int) -> Change:
        return changes.end_upload(self.job_id, self._lease, file, size, settles=self._is_finished)

    def _finishing(self, size: int | None, bucket: str | None = None, key: str | None = None) -> Change:
        if size is not None and (not is_integer(size) or size < 0):
            raise ValueError(f"size must be a number of bytes, not {size!r}")
        if None not in {size, self._sent} and size != self._sent:
            raise ValueError(f"size is {size}, but {self._sent} bytes were uploaded")
        file = None if key is None else checked_file(bucket, key)
        return changes.finish(self.job_id, self._lease, size, file, settles=self._is_uploaded)

    def _failing(self, status: str, message: str) -> Change:
        if not message.strip():
            raise ValueError("message must say something: callers read it")
        return changes.fail(self.job_id, self._lease, status, message)

    def _releasing(self) -> Change:
        return changes.release(self.job_id, self._lease)

    def _closing(self, error: BaseException | None) -> Change | None:
        """How the block of a job ends; None where nothing is left to do."""
        if self._is_settled or not self._is_held or isinstance(error, LeaseLost):
            return None
        if error is None and self._is_uploaded:
            return self._finishing(None)
        if isinstance(error, GenerationFailed):
            status = "invalid" if isinstance(error, GenerationInvalid) else "failed"
            return self._failing(status, str(error).strip() or DEFAULT_FAILURE)
        if error is None or isinstance(error, Exception):
            return self._failing("failed", DEFAULT_FAILURE)
        return self._releasing()  # The worker is told to stop, and the job is not to blame.

    def _check_result(self, error: BaseException | None) -> Exception | None:
        """What a block that ended without an error, and without a result, is told."""
        if error is not None or self._is_settled or self._is_uploaded:
            return None
        return NothingUploaded(f"{self!r}: its block ended without an upload; the job is marked failed")

    def _started(self, found: Mapping[str, Any] | None) -> None:
        if found is None:
            raise self._lost()
        self._is_held, self.attempt = True, int(found["attempts"])

    def _written(self, matched: int) -> None:
        """A change came back; it `matched` one document or none."""
        if not matched:
            self._stop()
            raise self._lost()

    def _settle(self, *, settles: bool = True) -> None:
        if settles:
            self._is_settled = True
            self._stop()

    def _stop(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def _unwritten(self, trouble: Exception) -> None:
        """The block is left by an error of its own, which goes on; the lease runs out, and the job comes back."""
        _log.warning("%r: its end was not written: %s", self, type(trouble).__name__)

    def _lost(self) -> LeaseLost:
        return LeaseLost(f"{self!r}: this worker does not hold its lease (any more); nothing was changed")
