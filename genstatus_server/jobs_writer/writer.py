"""Requests, claims and works off jobs. `aio` has the asyncio face of it."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from inspect import iscoroutinefunction
from typing import Any, Final, Self

import bson
from pymongo import ReadPreference, ReturnDocument, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from genstatus_server.jobs_writer import changes
from genstatus_server.jobs_writer.changes import Change, Lease
from genstatus_server.jobs_writer.errors import Ending, NotInitialized, ending_of, is_for_callers, is_passing
from genstatus_server.jobs_writer.job import JobBase, JobContext, JobHandle
from genstatus_server.jobs_writer.outage import Outage
from genstatus_server.jobs_writer.s3 import s3_client
from genstatus_server.jobs_writer.terms import OnEvent, Terms, checked_request
from genstatus_server.jobs_writer.watch import Idle
from genstatus_server.model.jobs import DEFAULT_FAILURE, FILE_TYPES, LARGEST_ID

_log = logging.getLogger("genstatus_server.jobs_writer")

Document = dict[str, Any]

#: A write that a majority acknowledged is never rolled back. If a claim were, two workers would do the same job.
MAJORITY: Final = WriteConcern("majority")

#: Tries of a request until racing requests, or ids that others took, no longer get into its way.
_REQUEST_TRIES: Final = 20
#: How many jobs are looked at where validators refuse the claim of the first.
_CANDIDATES: Final = 100
#: Seconds for which a job that the validators refuse is skipped. It may be repaired in the meantime.
_PASS_OVER_SECONDS: Final = 600.0
_REFUSED_BY_VALIDATOR: Final = 121


class JobsWriter:
    """Writes the job documents of one database; threads may share it.

    `bucket` is where files go, through the boto3 client `s3` (`s3_client()` unless given). A claimed job is
    held for `lease_seconds` after each heartbeat, and is marked failed where `max_attempts` claims of one generation
    came to nothing. `owner` is shown in the job document: host and process id unless given. Writes are acknowledged
    by a majority, unless `write_concern` says otherwise. `on_event` is called with each `JobEvent`.
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
        write_concern: WriteConcern = MAJORITY,
        on_event: OnEvent | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "codec_options": changes.CODEC,
            "read_preference": ReadPreference.PRIMARY,
            "write_concern": write_concern,
        }
        self._jobs: Collection[Document] = database.get_collection(changes.JOBS, **options)
        self._counters: Collection[Document] = database.get_collection(changes.COUNTERS, **options)
        self._terms = Terms(lease_seconds, max_attempts, owner, bucket)
        #: Whether S3 takes none of the files at the moment.
        self.outage = Outage()
        self._tools = JobContext(self._jobs, self._terms, self._s3, self.outage, on_event)
        self._given_s3 = s3
        self._lock = threading.Lock()
        self._is_checked = False
        #: The `_id`s that validators refuse, and how long each is skipped. They may be documents, so they are keyed by
        #: their bytes.
        self._passed_over: dict[bytes, tuple[object, float]] = {}

    def request(
        self, submission_id: int, file_type: str, start: date | None = None, end: date | None = None
    ) -> JobHandle:
        """Request a file: a job in `waiting`, the file's first or a new generation in place of the last.

        The last generation's file is no longer handed out, and a worker that is at it loses its lease. `start` and
        `end` are the days that D1 and D2 cover: dates, or aware datetimes. Raises ValueError for what makes no sense,
        and `NotInitialized` where the database lacks what this relies on.
        """
        change = checked_request(submission_id, file_type, start, end)
        if not self._is_checked:
            _check_indexes(self._jobs.index_information())
            self._is_checked = True
        for _ in range(_REQUEST_TRIES):
            found = self._change(change) or self._insert(change)
            if found is not None:
                return JobHandle(found, self._tools)
        raise DuplicateKeyError(f"no free job id in {_REQUEST_TRIES} tries")

    def claim(self, file_types: Sequence[str] | None = None) -> JobHandle | None:
        """The oldest job that waits, or whose worker is gone; `running`, and held for this worker. None if none is.

        `file_types` are those that this worker can generate; all unless given. None also in the pause after an upload
        that failed although the file was not to blame.
        """
        if self.outage.is_on:
            return None
        return self.claim_by(self._terms.new_lease(), file_types)

    def claims(
        self,
        file_types: Sequence[str] | None = None,
        *,
        poll_seconds: float = 1.0,
        stop: threading.Event | None = None,
    ) -> Iterator[JobHandle]:
        """Claim one job after another, and wait for more where there is none, until `stop` is set.

        A MongoDB that is away for a while is waited for too. A change stream wakes the worker; without one it claims
        every `poll_seconds`, or a little sooner.
        """
        stop = stop or threading.Event()
        with Claims(self, file_types, poll_seconds) as claims:
            while not stop.is_set():
                job = claims.next()
                if job is not None:
                    yield job
                    del job  # One that was dropped without an end is given back now.
                    continue
                for seconds in claims.idle.slices():
                    if stop.wait(seconds):
                        break

    def work(
        self,
        generate: Callable[[JobHandle], object],
        file_types: Sequence[str] | None = None,
        *,
        poll_seconds: float = 1.0,
        stop: threading.Event | None = None,
    ) -> None:
        """Call `generate` with each job that is claimed, as the block of its context manager, until `stop` is set.

        What it raises is logged, with its trace, and the next job is claimed. A coroutine function is a TypeError.
        """
        if is_coroutine_function(generate):
            raise TypeError("generate is a coroutine function: AsyncJobsWriter awaits it")
        for job in self.claims(file_types, poll_seconds=poll_seconds, stop=stop):
            try:
                with job:
                    generate(job)
            except Exception as error:  # noqa: BLE001 - one job's error must not end the worker
                log_error(job, error)
            del job

    def claim_by(
        self, lease: Lease, file_types: Sequence[str] | None = None, *, is_repeated: bool = False
    ) -> JobHandle | None:
        """`claim` by this lease. `is_repeated` where it is not known whether it has claimed a job already."""
        types = FILE_TYPES if file_types is None else file_types
        while True:
            began = time.monotonic()
            found = (
                (self._change(changes.confirm_claim(lease, types)) if is_repeated else None)
                or self._take(changes.claim_lapsed, lease, types)
                or self._take(changes.claim_waiting, lease, types)
            )
            if found is None:
                return None
            if found["status"] == "failed":
                _log.warning("job %s is given up, after %s attempts", found["_id"], self._terms.max_attempts)
            elif (job := self._held(found, lease, began)) is not None:
                return job

    def log_unknown_file_types(self) -> None:
        """Log an error if a waiting job has a file type that does not exist. No worker can claim such a job."""
        strays = {"status": "waiting", "file_type": {"$nin": list(FILE_TYPES)}}
        stray = self._jobs.find_one(strays, ["_id"])
        if stray is not None:
            _log.error("no worker claims job %r, or others of a file type that does not exist", stray["_id"])

    @property
    def terms(self) -> Terms:
        return self._terms

    @property
    def jobs(self) -> Collection[Document]:
        return self._jobs

    def _held(self, found: Document, lease: Lease, began: float) -> JobHandle | None:
        try:
            job = JobHandle(found, self._tools)
        except ValueError as error:
            _log.error("job %r is marked failed: %s", found["_id"], error)
            self._jobs.update_one(*changes.fail(found["_id"], lease, "failed", DEFAULT_FAILURE))
            return None
        job.hold(lease, began)
        return job

    def _take(self, claim: Callable[..., Change], lease: Lease, file_types: Sequence[str]) -> Document | None:
        now = time.monotonic()
        skipped = list(self._passed_over.values())  # A copy: other threads add to it.
        passed_over = [job_id for job_id, until in skipped if until > now]
        change = claim(lease, file_types, passed_over)
        try:
            return self._change(change, sort=changes.OLDEST_FIRST)
        except OperationFailure as error:
            if error.code != _REFUSED_BY_VALIDATOR:
                raise
        return self._take_another(change)

    def _take_another(self, change: Change) -> Document | None:
        """Claim the first job that the validator accepts. It refuses jobs that were invalid before it was installed."""
        for candidate in self._jobs.find(change.filter, ["_id"], sort=changes.OLDEST_FIRST, limit=_CANDIDATES):
            job_id = candidate["_id"]
            try:
                found = self._change(changes.claim_one(change, job_id))
            except OperationFailure as error:
                if error.code != _REFUSED_BY_VALIDATOR:
                    raise
                key = bson.encode({"_id": job_id})
                if key not in self._passed_over:
                    _log.error("job %r is passed over: the validator refuses it; genstatus init-db lists such", job_id)
                self._passed_over[key] = job_id, time.monotonic() + _PASS_OVER_SECONDS
            else:
                if found is not None:
                    return found
        return None

    def _insert(self, requested: Change) -> Document | None:
        """Insert the first job of a file. None where another program has inserted it first, or has taken the id."""
        counter = self._counters.find_one_and_update(
            *changes.next_job_id(), upsert=True, return_document=ReturnDocument.AFTER
        )
        try:
            return self._change(changes.insert(int((counter or {})["last"]), requested), upsert=True)
        except DuplicateKeyError:
            numbers = {"$type": ["int", "long", "double"], "$lte": LARGEST_ID}
            highest = self._jobs.find_one({"_id": numbers}, sort=[("_id", -1)], projection=["_id"])
            self._counters.update_one(*changes.raise_job_id(int(highest["_id"]) if highest else 0))
            return None

    def _change(self, change: Change, **options: Any) -> Document | None:
        return self._jobs.find_one_and_update(*change, return_document=ReturnDocument.AFTER, **options)

    def _s3(self) -> Any:
        with self._lock:
            if self._given_s3 is None:
                self._given_s3 = s3_client()
            return self._given_s3


class Claims:
    """The claims of one worker. Call `next`. If it returns None, sleep as `idle.slices()` says and call it again."""

    def __init__(self, writer: JobsWriter, file_types: Sequence[str] | None, poll_seconds: float) -> None:
        self.idle = Idle(writer.jobs, poll_seconds, writer.terms.lease_seconds, file_types)
        self._writer, self._file_types = writer, file_types
        self._lease = writer.terms.new_lease()
        self._has_worked = self._is_repeated = False

    def next(self) -> JobHandle | None:
        """A claimed job; None where there is none, MongoDB is away, or S3 took none of the last files."""
        self.idle.before_claim()
        if self._writer.outage.is_on:
            self.idle.not_before = self._writer.outage.ends
            return None
        try:
            job = self._writer.claim_by(self._lease, self._file_types, is_repeated=self._is_repeated)
        except PyMongoError as error:
            if not is_passing(error, has_worked=self._has_worked):
                raise
            _log.warning("no job could be claimed: %s; trying again", type(error).__name__)
            self._is_repeated = True
            self.idle.is_away = True
            return None
        if not self._has_worked:
            self._writer.log_unknown_file_types()
        self._has_worked, self._is_repeated = True, False
        if job is not None:
            self._lease = self._writer.terms.new_lease()
        return job

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.idle.close()


def is_coroutine_function(generate: Callable[..., object]) -> bool:
    """Whether `generate` is one, or an object that is called like one."""
    return iscoroutinefunction(generate) or iscoroutinefunction(type(generate).__call__)


def log_error(job: JobBase, error: BaseException) -> None:
    """Log what left the block of `job`, with its trace unless it was meant for callers. The job has been ended."""
    if ending_of(error)[0] is Ending.LOST:
        _log.warning("%s", error)
    elif job.ending is Ending.POSTPONED:
        _log.warning("%r is given back: %s: %s", job, type(error).__name__, error)
    elif not is_for_callers(error):
        _log.error("%r failed", job, exc_info=error)


def _check_indexes(indexes: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `NotInitialized` where two requests at once could make two jobs of one file."""
    wanted = [("submission_id", 1), ("file_type", 1)]
    if not any(index.get("unique") and list(index["key"]) == wanted for index in indexes.values()):
        raise NotInitialized("jobs has no unique index on (submission_id, file_type): run genstatus init-db")
