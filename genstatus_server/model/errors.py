"""What can go wrong, each with the HTTP status and the text that callers may see.

The cause of an error stays on the exception (``raise ... from cause``) and goes to the log; `message` is the whole
of what leaves the server.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar


class StartupError(Exception):
    """The server cannot start: one clear line for the operator; the command ends with exit status 1."""


class ServiceError(Exception):
    """A request that is answered with an error. Each child says with which."""

    http_status: ClassVar[int] = 500
    message: str = "Internal Server Error"

    def __init__(self, message: str | None = None) -> None:
        if message is not None:
            self.message = message
        super().__init__(self.message)

    def body(self) -> dict[str, object]:
        """The JSON object that the caller gets."""
        return {"message": self.message}


class LoginRequired(ServiceError):
    """No session token, or one of an unknown, ended or expired login session."""

    http_status = 401
    message = "Login Required"


class InvalidRequest(ServiceError):
    """Parameters that are missing or wrong; `errors` names each with its reasons."""

    http_status = 400

    def __init__(self, message: str, errors: Mapping[str, Sequence[str]]) -> None:
        super().__init__(message)
        self.errors = errors

    def body(self) -> dict[str, object]:
        return {"message": self.message, "errors": {name: list(reasons) for name, reasons in self.errors.items()}}


class NoSuchSubmission(ServiceError):
    """The submission does not exist (any more)."""

    http_status = 400
    message = "No such submission"


class AccessDenied(ServiceError):
    """The user is logged in but may not view the submission."""

    http_status = 403
    message = "User does not have permission to access that submission"


class ServiceUnavailable(ServiceError):
    """MongoDB or the signer could not be reached in time; the client may try again."""

    http_status = 503
    message = "Service temporarily unavailable"
