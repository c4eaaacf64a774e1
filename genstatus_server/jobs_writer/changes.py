"""Every change that is made to a job document, as the filter and the update of one compare-and-set. Pure.

A change matches only the job as its writer believes it to be; where it matches nothing, nothing happens. All times
are MongoDB's: workers' clocks differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from bson.codec_options import CodecOptions, DatetimeConversion

from genstatus_server.model.jobs import LARGEST_ID

Document = dict[str, Any]

#: Where the server reads them.
JOBS: Final = "jobs"
COUNTERS: Final = "counters"

# Every document must be readable: an invalid string is decoded with replacement characters, and a date beyond Python's
# range becomes a DatetimeMS. Whoever parses the value judges it; it can stop neither a worker nor the change stream.
CODEC: Final[CodecOptions[Document]] = CodecOptions(
    tz_aware=True,
    unicode_decode_error_handler="replace",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)

#: Oldest first. A job that another program wrote without saying when comes before all.
OLDEST_FIRST: Final = [("requested_at", 1), ("_id", 1)]

#: Lets the index on leases be used, with a file type.
_LEASED: Final[Document] = {"lease.expires_at": {"$type": "date"}}

_NEW_JOB_ID: Final = {"_id": JOBS}
_EXHAUSTED: Final = "The generation was interrupted too often. Please try again, or contact the service desk."


class Change(NamedTuple):
    """What the job must be like, and what becomes of it."""

    filter: Mapping[str, Any]
    update: Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Lease:
    """What a claim writes into the job: whose it is, for how long, and how many claims one generation gets."""

    token: str
    owner: str
    milliseconds: int
    max_attempts: int


class File(NamedTuple):
    """The place of a file in S3. `bucket` is None for the one that the server is configured with."""

    bucket: str | None
    key: str


def request(submission_id: int, file_type: str, start: datetime | None, end: datetime | None) -> Change:
    """A new generation in place of the last: nothing of that one is left, its lease included.

    A job that still waits keeps its place in the queue, so that asking again does not push it to the end.
    """
    waits = {"$and": [{"$eq": ["$status", "waiting"]}, {"$eq": [{"$type": "$requested_at"}, "date"]}]}
    dates = {name: value for name, value in (("start", start), ("end", end)) if value is not None}
    return Change(
        {"submission_id": submission_id, "file_type": file_type},
        [
            {"$set": {"requested_at": {"$cond": [waits, "$requested_at", "$$NOW"]}}},
            {"$unset": ["upload", "size", "message", "lease", "ended_by", "attempts", "start", "end"]},
            {
                "$set": {
                    "status": "waiting",
                    "generation": {"$add": [_count("generation"), 1]},
                    "updated_at": "$$NOW",
                    **dates,
                }
            },
        ],
    )


def insert(job_id: int, requested: Change) -> Change:
    """`requested` as an upsert, for a file that has no job yet."""
    return Change(requested.filter, [{"$set": {"_id": {"$ifNull": ["$_id", job_id]}}}, *requested.update])


def next_job_id() -> Change:
    return Change(_NEW_JOB_ID, {"$inc": {"last": 1}})


def raise_job_id(highest: int) -> Change:
    """The counter starts behind the existing jobs."""
    return Change(_NEW_JOB_ID, {"$max": {"last": highest}})


def claim_lapsed(lease: Lease, file_types: Sequence[str], passed_over: Sequence[object] = ()) -> Change:
    """Take over a job whose worker is gone. A worker looks for such a job before it claims one that waits."""
    lapsed = _LEASED | {
        "$expr": {"$lt": ["$lease.expires_at", "$$NOW"]},
        "status": {"$in": ["running", "finished"]},
    }
    return _take(lapsed | _candidates(file_types, passed_over), lease)


def claim_waiting(lease: Lease, file_types: Sequence[str], passed_over: Sequence[object] = ()) -> Change:
    return _take({"status": "waiting"} | _candidates(file_types, passed_over), lease)


def claim_one(claim: Change, job_id: object) -> Change:
    """`claim`, of this job alone."""
    return Change({"$and": [{"_id": job_id}, claim.filter]}, claim.update)


def confirm_claim(lease: Lease, file_types: Sequence[str]) -> Change:
    """Find and prolong what was claimed by `lease`, where the answer to the claim was lost."""
    return Change(_LEASED | _candidates(file_types) | {"lease.token": lease.token}, _prolonged(lease))


def start(job_id: int, generation: int, lease: Lease) -> Change:
    """Claim one job, of one generation, that waits."""
    return _take({"_id": job_id, "generation": generation, "status": "waiting"}, lease)


def heartbeat(job_id: int, lease: Lease) -> Change:
    """Prolong the lease. `updated_at` stays: callers are shown it as the time of the generation."""
    return Change(_held(job_id, lease), _prolonged(lease))


def begin_upload(job_id: int, lease: Lease) -> Change:
    """An upload begins. The file of an earlier upload stays in the job until the new file is uploaded."""
    is_there = {"$eq": ["$upload.status", "finished"]}
    upload = {"$cond": [is_there, "$upload", {"status": "running"}]}
    return Change(_held(job_id, lease), [{"$set": {"upload": upload, "updated_at": "$$NOW"}}])


def end_upload(job_id: int, lease: Lease, file: File, size: int, *, settles: bool) -> Change:
    """The file is there. `settles` where the generation is finished too."""
    return _held_change(job_id, lease, {"upload": _finished(file), "size": size}, settles=settles)


def finish(job_id: int, lease: Lease, size: int | None, file: File | None, *, settles: bool) -> Change:
    """The generation is finished, and `file`, where given, is in S3. `settles` where the file is uploaded already."""
    fields: Document = {"status": "finished"} | _size(size) | ({"upload": _finished(file)} if file else {})
    return _held_change(job_id, lease, fields, settles=settles or file is not None)


def fail(job_id: int, lease: Lease, status: str, message: str) -> Change:
    """`status` is `failed` or `invalid`. No file is left."""
    return _held_change(job_id, lease, {"status": status, "message": message}, unset=("upload", "size"), settles=True)


def release(job_id: int, lease: Lease) -> Change:
    """Back to where it was in the queue, as if it had not been claimed."""
    return Change(_held(job_id, lease), _given_back(lease) | {"$inc": {"attempts": -1}})


def requeue(job_id: int, lease: Lease) -> Change:
    """Back to the end of the queue. The attempt counts."""
    dates = {"$currentDate": {"updated_at": True, "requested_at": True}}
    return Change(_held(job_id, lease), _given_back(lease) | dates)


def postpone(job_id: int, lease: Lease, *, counts: bool) -> Change:
    """Back to the end of the queue. `updated_at` stays: a job that no worker can store is to be found as stuck."""
    update = _given_back(lease) | {"$currentDate": {"requested_at": True}}
    return Change(_held(job_id, lease), update if counts else update | {"$inc": {"attempts": -1}})


def confirm_end(job_id: int, lease: Lease) -> Change:
    """Match the job if `lease` has ended it already. This changes no field, but confirms that a majority has it."""
    ended = {"ended_by": lease.token}
    return Change({"_id": job_id} | ended, {"$set": ended})


def _take(wanted: Document, lease: Lease) -> Change:
    attempts = _number("attempts")
    exhausted = {"$gte": [attempts, lease.max_attempts]}
    # Literal: a string that begins with a dollar sign would be looked up as a field.
    held = {
        "token": {"$literal": lease.token},
        "owner": {"$literal": lease.owner},
        "expires_at": _lease_end(lease),
    }
    return Change(
        wanted,
        [
            {
                "$set": {
                    "status": {"$cond": [exhausted, "failed", "running"]},
                    "message": {"$cond": [exhausted, _EXHAUSTED, "$$REMOVE"]},
                    "lease": {"$cond": [exhausted, "$$REMOVE", held]},
                    "attempts": {"$add": [attempts, 1]},
                    "updated_at": "$$NOW",
                }
            },
            {"$unset": ["upload", "size", "ended_by"]},
        ],
    )


def _held_change(
    job_id: int, lease: Lease, fields: Document, *, unset: Sequence[str] = (), settles: bool = False
) -> Change:
    if not settles:
        return Change(_held(job_id, lease), _update(fields, unset))
    return Change(_held(job_id, lease), _update(fields | {"ended_by": lease.token}, (*unset, "lease")))


def _given_back(lease: Lease) -> Document:
    return _update({"status": "waiting", "ended_by": lease.token}, ("upload", "size", "lease"))


def _update(fields: Document, unset: Sequence[str]) -> Document:
    removal = {"$unset": dict.fromkeys(unset, "")} if unset else {}
    return {"$set": fields, "$currentDate": {"updated_at": True}, **removal}


def _held(job_id: int, lease: Lease) -> Document:
    return {"_id": job_id, "lease.token": lease.token}


def _number(field: str) -> Document:
    """The number in `field`, or 0 if the field is missing or no number."""
    return {"$cond": [{"$isNumber": f"${field}"}, f"${field}", 0]}


def _count(field: str) -> Document:
    """The whole number in `field`, or 0 if there is none that can be counted on from."""
    value = f"${field}"
    is_count = {"$and": [{"$gte": [value, 0]}, {"$lt": [value, LARGEST_ID]}]}  # Of other types none is in between.
    return {"$cond": [is_count, {"$toLong": value}, 0]}


def _lease_end(lease: Lease) -> Document:
    return {"$add": ["$$NOW", lease.milliseconds]}


def _prolonged(lease: Lease) -> list[Document]:
    return [{"$set": {"lease.expires_at": _lease_end(lease)}}]


def _candidates(file_types: Sequence[str], passed_over: Sequence[object] = ()) -> Document:
    others = {"_id": {"$nin": list(passed_over)}} if passed_over else {}
    return {"file_type": {"$in": list(file_types)}, **others}


def _finished(file: File) -> Document:
    bucket = {} if file.bucket is None else {"bucket": file.bucket}
    return {"status": "finished", **bucket, "key": file.key}


def _size(size: int | None) -> Document:
    return {} if size is None else {"size": size}
