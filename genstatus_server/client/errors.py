"""What goes wrong for a client. No text of these holds a session token or a presigned URL."""

from collections.abc import Mapping, Sequence

from .answers import Generation


class GenerationError(Exception):
    """Anything that kept a client from its result."""


class GenerationRefused(GenerationError):
    """The server refused the request, with HTTP status 400, 401 or 403: asking the same again makes no sense.

    `errors` has the messages for each invalid parameter.
    """

    def __init__(self, status: int, message: str, errors: Mapping[str, Sequence[str]], request_id: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = errors
        self.request_id = request_id


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
