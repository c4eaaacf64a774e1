"""What a job document means, its public status, and when it is settled. Pure: it imports no other module of ours.

`job_from_document` accepts any document of the `jobs` collection, also a wrong one, and returns a `Job` that can be
answered. `Job.problems` lists what is wrong, for the log.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeVar

T = TypeVar("T")

FILE_TYPES: Final = ("D1", "D2", "E", "F")
#: The file types whose generation covers a range of days, `start` to `end`.
DATED_FILE_TYPES: Final = frozenset({"D1", "D2"})

#: The largest id, and the largest integer of MongoDB.
LARGEST_ID: Final = 2**63 - 1

DEFAULT_FAILURE: Final = "The file could not be generated. Please try again, or contact the service desk."

#: The buckets for which the server can sign URLs: every bucket name that S3 has ever accepted, or the ARN of an access
#: point, including those of S3 Object Lambda and S3 Outposts. It excludes directory buckets and multi-Region access
#: points (their ARN has no region), because S3 requires other kinds of signatures for them.
BUCKET: Final = re.compile(
    r"(?!.*--xa?-s3$)[a-zA-Z0-9.\-_]{3,255}"
    r"|arn:aws[a-z-]*:s3(-object-lambda)?:[a-z0-9-]+:[0-9]{12}:accesspoint[/:][a-zA-Z0-9.-]{1,63}"
    r"|arn:aws[a-z-]*:s3-outposts:[a-z0-9-]+:[0-9]{12}:outpost[/:][a-zA-Z0-9-]{1,63}[/:]accesspoint[/:][a-zA-Z0-9-]{1,63}"
)

_FAILED_JOB: Final = frozenset({"failed", "invalid"})
_RUNNING_JOB: Final = frozenset({"waiting", "running"})
_RUNNING_UPLOAD: Final = frozenset({None, "waiting", "running"})


class GenerationStatus(StrEnum):
    """The status that callers see."""

    FINISHED = "finished"
    WAITING = "waiting"
    FAILED = "failed"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Job:
    """One generation as far as callers can notice it. `size` is in bytes; times are aware, in UTC.

    `job_status` and `upload_status` are the stored ones, of which the public one is made.
    """

    job_id: int | None
    generation_status: GenerationStatus
    job_status: str | None = None
    upload_status: str | None = None
    bucket: str | None = None
    key: str | None = None
    size: int | None = None
    start: datetime | None = None
    end: datetime | None = None
    message: str = ""
    updated_at: datetime | None = None
    problems: tuple[str, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether a request for this job is answered at once."""
        return self.generation_status is not GenerationStatus.WAITING


NO_JOB: Final = Job(job_id=None, generation_status=GenerationStatus.INVALID)


def job_from_document(document: Mapping[str, Any] | None) -> Job:
    """The job in `document` (a document of `jobs`, or None where there is none). Never raises."""
    if document is None:
        return NO_JOB
    fields = _Fields(document)
    upload = _Fields(fields.take("upload", dict) or {}, "upload.", fields.problems)
    job_status, upload_status = fields.take("status", str), upload.take("status", str)
    bucket, key = upload.take("bucket", str) or None, upload.take("key", str) or None
    if bucket is not None and not BUCKET.fullmatch(bucket):
        fields.problems.append("upload.bucket is no bucket that can be signed for")
    job_id, size = fields.whole_number("_id"), fields.whole_number("size")
    if size is not None and size < 0:
        fields.problems.append("size is negative")
        size = None
    fields.whole_number("submission_id"), fields.take("file_type", str)  # Only checked: a query also matches arrays.
    start, end = fields.take("start", datetime), fields.take("end", datetime)
    updated_at = fields.take("updated_at", datetime)
    message = (fields.take("message", str) or "").strip()

    status = generation_status(job_status, upload_status, has_key=key is not None)
    if status is None:
        fields.problems.append(f"no meaning in status {job_status!r:.40}, upload.status {upload_status!r:.40}")
    if status is None or fields.problems:
        status = GenerationStatus.FAILED
    return Job(
        job_id=job_id,
        generation_status=status,
        job_status=job_status,
        upload_status=upload_status,
        bucket=bucket,
        key=key,
        size=size,
        start=start,
        end=end,
        message=(message or DEFAULT_FAILURE) if status is GenerationStatus.FAILED else "",
        updated_at=updated_at,
        problems=tuple(fields.problems),
    )


def generation_status(job_status: str | None, upload_status: str | None, *, has_key: bool) -> GenerationStatus | None:
    """The public status for a job's two stored ones; None where they make no sense together."""
    if job_status == "ready":
        return GenerationStatus.INVALID
    if job_status in _FAILED_JOB or upload_status == "failed":
        return GenerationStatus.FAILED
    if job_status in _RUNNING_JOB:
        return GenerationStatus.WAITING
    if job_status == "finished" and upload_status in _RUNNING_UPLOAD:
        return GenerationStatus.WAITING
    if job_status == "finished" and upload_status == "finished" and has_key:
        return GenerationStatus.FINISHED
    return None


def whole_number(value: object) -> int | None:
    """`value` as an integer of 64 bits, where it is one: the mongo shell writes whole numbers as doubles."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and -(2.0**63) <= value < 2.0**63 and value.is_integer():
        return int(value)
    return None


class _Fields:
    """Takes fields out of a document: null is absent, and a wrong type is absent too but leaves a problem."""

    def __init__(self, document: Mapping[str, Any], prefix: str = "", problems: list[str] | None = None) -> None:
        self._document = document
        self._prefix = prefix
        self.problems: list[str] = [] if problems is None else problems

    def take(self, name: str, kind: type[T]) -> T | None:
        value = self._document.get(name)
        if value is None or type(value) is kind:  # Not a subclass: BSON's Code is a str that cannot be hashed.
            return value
        self.problems.append(f"{self._prefix}{name} is of type {type(value).__name__}")
        return None

    def whole_number(self, name: str) -> int | None:
        value = self._document.get(name)
        number = whole_number(value)
        if value is not None and number is None:
            self.problems.append(f"{self._prefix}{name} is not a whole number")
        return number
