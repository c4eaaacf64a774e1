"""What a client gives its caller: answers of the server, updates while it waits, and errors.

No text of an error holds a session token or a presigned URL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The status of a generation. Any but `waiting` is settled."""

    FINISHED = "finished"
    WAITING = "waiting"
    FAILED = "failed"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Generation:
    """The server's answer about one file: the fields are those of its JSON.

    `url` is a presigned URL, good for about a minute, or "#". It gives access to the file, so `repr` leaves it
    out. `size` is in bytes. `start` and `end` are `MM/DD/YYYY`, None for the file types E and F; `generated_at` is
    `MM/DD/YYYY HH:mm:ss` in UTC, or `YYYY-MM-DD HH:mm:ss` where the server has `generated_at_format = iso`.
    """

    status: Status
    file_type: str
    message: str = ""
    url: str = field(default="#", repr=False)
    size: int | None = None
    job_id: int | None = None
    start: str | None = None
    end: str | None = None
    generated_at: str | None = None

    @property
    def is_settled(self) -> bool:
        return self.status is not Status.WAITING


class Phase(StrEnum):
    """What a client that waits is doing."""

    ASKING = "asking"
    #: The file is being generated; the client pauses before its next request.
    WAITING = "waiting"
    #: There was no answer, or no useful one.
    RECONNECTING = "reconnecting"
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class Update:
    """The argument of `on_update`. `generation` is the newest answer; `pause` the seconds until the next request."""

    phase: Phase
    generation: Generation | None = None
    pause: float = 0.0
    error: str = ""


def generation_from(body: Any) -> Generation | None:
    """The answer in a JSON body, None where it is none. Keys of a newer server are ignored."""
    if not isinstance(body, Mapping) or body.get("status") not in list(Status):
        return None
    values = {name: body[name] for name in _TYPES if name in body}
    if not all(isinstance(value, _TYPES[name]) for name, value in values.items()) or "file_type" not in values:
        return None
    return Generation(status=Status(body["status"]), **values)


_TYPES: dict[str, tuple[type, ...]] = {
    "file_type": (str,),
    "message": (str,),
    "url": (str,),
    "size": (int, type(None)),
    "job_id": (int, type(None)),
    "start": (str,),
    "end": (str,),
    "generated_at": (str, type(None)),
}


class GenerationError(Exception):
    """Anything that kept a client from its result."""


class GenerationRefused(GenerationError):
    """The server refused the request: asking the same again makes no sense.

    `status` is the HTTP status: 400, 401 or 403, or 413, 414 or 431 for a request that is too large.
    `errors` has the messages for each invalid parameter.
    """

    def __init__(self, status: int, message: str, errors: Mapping[str, Sequence[str]], request_id: str) -> None:
        super().__init__(status, message, errors, request_id)  # All of them, so that it can be pickled.
        self.status = status
        self.message = message
        self.errors = errors
        self.request_id = request_id

    def __str__(self) -> str:
        return self.message


class ServerUnavailable(GenerationError):
    """No answer, or one that says nothing of the file; asking again may help, after `retry_after` seconds.

    `status` is the HTTP status, 0 where no whole answer came.
    """

    def __init__(self, message: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after = retry_after


class WaitTimedOut(GenerationError, TimeoutError):
    """The time was over before there was a result. `last` is the newest answer, None where there was none."""

    def __init__(self, message: str, last: Generation | None = None) -> None:
        super().__init__(message)
        self.last = last


class DownloadFailed(GenerationError):
    """The file is not to be had, or did not come whole; nothing was put at its path."""
