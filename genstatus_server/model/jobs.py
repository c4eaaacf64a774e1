"""What a job document means, its public status, and when it is settled. Pure: it imports no other module of ours.

`job_from_document` accepts any document of the `jobs` collection, also a wrong one, and returns a `Job` that can be
answered. `Job.problems` lists what is wrong, for the log.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

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
#: The same in words.
BUCKET_TEXT: Final = "a bucket's name or an access point's ARN (no directory bucket, none of several regions)"

#: The types of the fields; `int` stands for any whole number. `submission_id` and `file_type` are only checked: a query
#: for a job also finds arrays.
_TYPES: Final[Mapping[str, type]] = {
    **dict.fromkeys(("_id", "submission_id", "size"), int),
    **dict.fromkeys(("status", "file_type", "message"), str),
    **dict.fromkeys(("start", "end", "updated_at"), datetime),
    "upload": dict,
}
_UPLOAD_TYPES: Final[Mapping[str, type]] = dict.fromkeys(("status", "bucket", "key"), str)

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
    problems = ["_id is null"] if document.get("_id", 0) is None else []
    fields = _fields(document, _TYPES, problems)
    upload = _fields(fields["upload"] or {}, _UPLOAD_TYPES, problems, "upload.")
    job_status, upload_status = fields["status"], upload["status"]
    bucket, key, size = upload["bucket"] or None, upload["key"] or None, fields["size"]
    if bucket is not None and not BUCKET.fullmatch(bucket):
        problems.append("upload.bucket is no bucket that can be signed for")
    if size is not None and size < 0:
        problems.append("size is negative")
        size = None
    status = generation_status(job_status, upload_status, has_key=key is not None)
    if status is None:
        problems.append(f"no meaning in status {job_status!r:.40}, upload.status {upload_status!r:.40}")
    if status is None or problems:
        status = GenerationStatus.FAILED
    message = (fields["message"] or "").strip() or DEFAULT_FAILURE
    return Job(
        job_id=fields["_id"],
        generation_status=status,
        job_status=job_status,
        upload_status=upload_status,
        bucket=bucket,
        key=key,
        size=size,
        start=fields["start"],
        end=fields["end"],
        message=message if status is GenerationStatus.FAILED else "",
        updated_at=fields["updated_at"],
        problems=tuple(problems),
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


def _fields(
    document: Mapping[str, Any], types: Mapping[str, type], problems: list[str], prefix: str = ""
) -> dict[str, Any]:
    """The fields of `document`. A missing field is None. One of another type is None, too, and added to `problems`."""
    found: dict[str, Any] = {}
    for name, kind in types.items():
        value = found[name] = document.get(name)
        if value is None or type(value) is kind:  # Not a subclass: BSON's Code is a str that cannot be hashed.
            continue
        found[name] = whole_number(value) if kind is int else None
        if found[name] is None:
            is_what = "not a whole number" if kind is int else f"of type {type(value).__name__}"
            problems.append(f"{prefix}{name} is {is_what}")
    return found
