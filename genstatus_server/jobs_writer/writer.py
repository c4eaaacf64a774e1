"""Requests, claims and works off jobs, for ordinary programs. `aio_writer` is its async twin."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from pymongo import ReturnDocument, WriteConcern
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, PyMongoError

from genstatus_server.jobs_writer import changes, queueing
from genstatus_server.jobs_writer.changes import Change
from genstatus_server.jobs_writer.errors import LeaseLost
from genstatus_server.jobs_writer.job import JobHandle
from genstatus_server.jobs_writer.s3 import s3_client
from genstatus_server.jobs_writer.terms import Terms, checked_request

if TYPE_CHECKING:
    from pymongo.collection import Collection

_log = logging.getLogger("genstatus_server.jobs_writer")

Document = dict[str, Any]


class JobsWriter:
    """Writes the job documents of one database; threads may share it.

    `bucket` is where files go, through the boto3 client `s3` (`s3_client()` unless given). A claimed job is
    held for `lease_seconds` after each heartbeat, and is marked failed where `max_attempts` claims of one generation
    came to nothing. `owner` is shown in the job document: host and process id unless given. Writes are acknowledged
    by a majority, unless `write_concern` says otherwise.
    """

    def __init__(  # noqa: PLR0913 - options, by keyword, each with a default
        self,
        database: Database[Document],
        *,
        bucket: str | None = None,
        s3: Any = None,
        lease_seconds: float = 60.0,
        max_attempts: int = 5,
        owner: str | None = None,
        write_concern: WriteConcern = queueing.MAJORITY,
    ) -> None:
        options = {**queueing.OPTIONS, "write_concern": write_concern}
        self._jobs: Collection[Document] = database.get_collection(changes.JOBS, **options)
        self._counters: Collection[Document] = database.get_collection(changes.COUNTERS, **options)
        self._terms = Terms(lease_seconds, max_attempts, owner, bucket)
        self._given_s3 = s3
        self._lock = threading.Lock()
        self._is_checked = False

    def request(
        self, submission_id: int, file_type: str, start: date | None = None, end: date | None = None
    ) -> JobHandle:
        """Ask for a file: a job in `waiting`, the file's first or a new generation in place of the last.

        The last generation's file is no longer handed out, and a worker that is at it loses its lease. `start` and
        `end` are the days that D1 and D2 cover: dates, or aware datetimes. Raises ValueError for what makes no sense,
        and `NotInitialized` where the database lacks what this relies on.
        """
        change = checked_request(submission_id, file_type, start, end)
        if not self._is_checked:
            queueing.check_indexes(self._jobs.index_information())
            self._is_checked = True
        for _ in range(queueing.REQUEST_TRIES):
            found = self._change(change) or self._insert(change)
            if found is not None:
                return JobHandle(found, self._terms, None, self._jobs, self._s3)
        raise DuplicateKeyError(f"no free job id in {queueing.REQUEST_TRIES} tries")

    def claim(self, file_types: Sequence[str] | None = None) -> JobHandle | None:
        """The oldest job that waits, or whose worker is gone; `running`, and held for this worker. None if none is.

        `file_types` are those that this worker can generate; all unless given.
        """
        lease = self._terms.new_lease()
        while True:
            lapsed, waiting = (change(lease, file_types) for change in (changes.claim_lapsed, changes.claim_waiting))
            found = self._change(lapsed, sort=changes.OLDEST_FIRST) or self._change(waiting, sort=changes.OLDEST_FIRST)
            if found is None:
                return None
            if found["status"] == "running":
                return JobHandle(found, self._terms, lease, self._jobs, self._s3)
            _log.warning("job %s is given up, after %s attempts", found["_id"], self._terms.max_attempts)

    def claims(
        self,
        file_types: Sequence[str] | None = None,
        *,
        poll_seconds: float = 1.0,
        stop: threading.Event | None = None,
    ) -> Iterator[JobHandle]:
        """Claim one job after another, and wait for more where there is none, until `stop` is set.

        A MongoDB that is away for a while is waited for too.
        """
        stop = stop or threading.Event()
        while not stop.is_set():
            job = self._claim_patiently(file_types)
            if job is not None:
                yield job
            else:
                stop.wait(queueing.pause(poll_seconds))

    def work(
        self,
        generate: Callable[[JobHandle], object],
        file_types: Sequence[str] | None = None,
        *,
        poll_seconds: float = 1.0,
        stop: threading.Event | None = None,
    ) -> None:
        """Call `generate` with each job that is claimed, as the block of its context manager, until `stop` is set.

        What it raises is logged, with its trace, and the next job is claimed.
        """
        for job in self.claims(file_types, poll_seconds=poll_seconds, stop=stop):
            try:
                with job:
                    generate(job)
            except LeaseLost as error:
                _log.warning("%s", error)
            except Exception:  # noqa: BLE001 - one job's trouble must not end the worker
                _log.exception("%r failed", job)

    def _claim_patiently(self, file_types: Sequence[str] | None) -> JobHandle | None:
        try:
            return self.claim(file_types)
        except PyMongoError as error:
            if not queueing.is_passing(error):
                raise
            _log.warning("no job could be claimed: %s; trying again", type(error).__name__)
            return None

    def _insert(self, requested: Change) -> Document | None:
        """The first job of a file; None where somebody else was quicker, or took the id."""
        counter = self._counters.find_one_and_update(
            *changes.next_job_id(), upsert=True, return_document=ReturnDocument.AFTER
        )
        try:
            return self._change(changes.insert(queueing.last_id(counter), requested), upsert=True)
        except DuplicateKeyError:
            highest = queueing.highest_id(self._jobs.find_one(sort=[("_id", -1)], projection=["_id"]))
            self._counters.update_one(*changes.raise_job_id(highest))
            return None

    def _change(self, change: Change, **options: Any) -> Document | None:
        return self._jobs.find_one_and_update(*change, return_document=ReturnDocument.AFTER, **options)

    def _s3(self) -> Any:
        with self._lock:
            if self._given_s3 is None:
                self._given_s3 = s3_client()
            return self._given_s3
