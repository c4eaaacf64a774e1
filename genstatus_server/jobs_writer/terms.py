"""The terms on which a writer works, the requests it accepts, and the events it reports."""

import logging
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Final

from genstatus_server.jobs_writer import changes
from genstatus_server.jobs_writer.changes import Change, Lease
from genstatus_server.jobs_writer.s3 import checked_bucket
from genstatus_server.model.jobs import DATED_FILE_TYPES, FILE_TYPES, LARGEST_ID

_log = logging.getLogger("genstatus_server.jobs_writer")

_LONGEST_LEASE: Final = 10 * 366 * 86400
_FAILED: Final = frozenset({"failed", "lost"})


@dataclass(frozen=True)
class Terms:
    """The terms on which a writer works: see `JobsWriter`."""

    lease_seconds: float
    max_attempts: int
    owner: str | None
    bucket: str | None

    def __post_init__(self) -> None:
        if not 0 < self.lease_seconds < _LONGEST_LEASE or not self.max_attempts > 0:
            raise ValueError("lease_seconds and max_attempts must be greater than 0, and a lease shorter than 10 years")
        if self.bucket is not None:
            checked_bucket(self.bucket)

    def new_lease(self) -> Lease:
        owner = self.owner or f"{socket.gethostname()}:{os.getpid()}"
        return Lease(secrets.token_hex(16), owner, max(1, round(self.lease_seconds * 1000)), self.max_attempts)


def checked_request(submission_id: int, file_type: str, start: date | None, end: date | None) -> Change:
    """The change that requests a generation. Raises ValueError where it makes no sense."""
    if not is_integer(submission_id) or not 0 < submission_id <= LARGEST_ID:
        raise ValueError(f"submission_id must be an integer between 1 and 2^63 - 1, not {submission_id!r}")
    if file_type not in FILE_TYPES:
        raise ValueError(f"file_type must be one of {', '.join(FILE_TYPES)}, not {file_type!r}")
    if file_type not in DATED_FILE_TYPES and (start or end):
        raise ValueError(f"{file_type} covers no range of days: no start, no end")
    first, last = _midnight(start), _midnight(end)
    if first and last and last < first:
        raise ValueError("end lies before start")
    return changes.request(submission_id, file_type, first, last)


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _midnight(day: date | None) -> datetime | None:
    if day is None:
        return None
    if not isinstance(day, datetime):
        return datetime.combine(day, time(), UTC)
    if day.tzinfo is None:
        raise ValueError(f"{day} says no time zone: give a date, or an aware datetime")
    return day


@dataclass(frozen=True, slots=True)
class JobEvent:
    """`kind` is claimed, finished, failed, invalid, released or lost; `seconds` are those since the claim.

    `size` is in bytes: of the file, where the job is finished and its size is known.
    """

    kind: str
    job_id: int
    submission_id: int
    file_type: str
    attempt: int
    seconds: float
    size: int | None = None


#: A worker's own hook, such as one that counts. It is called in the thread that makes the change.
OnEvent = Callable[[JobEvent], object]


def report(event: JobEvent, hook: OnEvent | None) -> None:
    """Log `event` and call `hook`. An error of the hook is logged: it must not harm the job."""
    _log.log(
        logging.WARNING if event.kind in _FAILED else logging.INFO,
        "%s: job %s, %s of submission %s, attempt %s, after %.1f s",
        event.kind,
        event.job_id,
        event.file_type,
        event.submission_id,
        event.attempt,
        event.seconds,
    )
    if hook is not None:
        try:
            hook(event)
        except Exception:  # noqa: BLE001 - whatever the hook does wrong
            _log.exception("on_event failed")
