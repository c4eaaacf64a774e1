"""Uploads that fail although the file is not to blame: which ones do, and how long a worker pauses then."""

import logging
import threading
import time
from http import HTTPStatus
from typing import Final

_log = logging.getLogger("genstatus_server.jobs_writer")

#: S3's refusals of one file or of what the program says of it, by their codes. Any other would meet other files, too.
_OF_THE_FILE: Final = frozenset(
    {
        "BadDigest",
        "EntityTooLarge",
        "EntityTooSmall",
        "InvalidArgument",
        "InvalidDigest",
        "InvalidPart",
        "InvalidPartOrder",
        "InvalidRequest",
        "InvalidStorageClass",
        "InvalidTag",
        "KeyTooLongError",
        "MalformedXML",
        "MetadataTooLarge",
        "MissingContentLength",
        "NoSuchUpload",
        "NotImplemented",
    }
)
#: Seconds until a worker claims again after an upload that failed. They double from the first to the last.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0


class NoBucket(ValueError):
    """Neither the writer nor the upload names a bucket."""


class NotFromS3(ConnectionError):
    """Something between this worker and S3 has answered, such as a portal."""


def is_of_the_file(error: Exception) -> bool:
    """Whether S3, or boto3 on its behalf, refuses this file, or what the program says of it. Others may be stored."""
    from botocore.exceptions import ClientError, FlexibleChecksumError, ParamValidationError  # noqa: PLC0415 - an extra

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        is_too_large = status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return is_too_large or error.response.get("Error", {}).get("Code") in _OF_THE_FILE
    return isinstance(error, ParamValidationError | FlexibleChecksumError)


class Outage:
    """Pauses the claims of a writer while its uploads fail. The threads of a writer share it.

    `ends` is the end of the pause, of the monotonic clock.
    """

    def __init__(self) -> None:
        self.ends = 0.0
        self._pause = 0.0
        self._has_worked = False
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        return time.monotonic() < self.ends

    def upload_failed(self, error: Exception) -> bool:
        """Begin a pause, unless one is on. Returns whether the last upload had worked: this job may be the cause."""
        with self._lock:
            has_worked, self._has_worked = self._has_worked, False
            if not self.is_on:
                self._pause = min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * self._pause))
                self.ends = time.monotonic() + self._pause
                _log.warning("a file could not be stored (%s): no claim for %g s", type(error).__name__, self._pause)
            return has_worked

    def upload_worked(self) -> None:
        with self._lock:
            self._pause, self.ends, self._has_worked = 0.0, 0.0, True
