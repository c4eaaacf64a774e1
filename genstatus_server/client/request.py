"""What both clients have in common: the server, the token and the file of a request."""

import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx

from .part_file import Output
from .rules import Fetch, Reply, SendRequest

T = TypeVar("T")

ROUTE: Final = "/v1/check_generation_status/"
CONNECT_SECONDS: Final = 10.0
#: Seconds without a byte after which a download is taken for dead.
STALL_SECONDS: Final = 30.0
#: No answer of the server is larger; a captive portal's page may be.
LARGEST_ANSWER: Final = 1024 * 1024

#: The errors of a request that gets no answer; `InvalidURL` is raised for a malformed presigned URL.
NO_REPLY: Final = (httpx.RequestError, TimeoutError, httpx.InvalidURL)

#: The distributions that bring this package.
_DISTRIBUTIONS: Final = {"genstatus_client": "genstatus-client", "genstatus_server": "genstatus-server"}
_VERSION: Final = version(_DISTRIBUTIONS[__name__.partition(".")[0]])
_USER_AGENT: Final = f"genstatus-client/{_VERSION} python/{platform.python_version()}"


@dataclass(frozen=True, slots=True)
class Target:
    """A server and the session token to ask it with. Raises ValueError where they cannot be used."""

    base_url: str
    session_token: str = field(repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("the server's URL must begin with http:// or https:// and a host")
        try:
            httpx.URL(self.base_url)
        except httpx.InvalidURL as error:
            raise ValueError(f"the server's URL cannot be used: {error}") from error
        token = self.session_token
        if not (token and token.isascii() and token.isprintable() and token == token.strip()):
            raise ValueError("the session token must be of printable ASCII characters, without spaces around it")

    def request(self, submission_id: int, file_type: str, step: SendRequest) -> dict[str, Any]:
        """The arguments of httpx's `stream`."""
        query = {"submission_id": str(submission_id), "file_type": file_type}
        if step.hold:
            query |= {"wait": "true", "timeout": f"{step.hold:.1f}"}
        return {
            "method": "GET",
            "url": self.base_url.rstrip("/") + ROUTE,
            "params": query,
            "headers": {"X-Session-ID": self.session_token, "Accept": "application/json"},
            "timeout": httpx.Timeout(step.limit, connect=min(step.limit, CONNECT_SECONDS)),
        }


def open_http(kind: Callable[..., T], **options: Any) -> T:
    """One of httpx's clients. No redirect is followed: the token must not reach another server. Raises ValueError."""
    try:
        return kind(follow_redirects=False, headers={"User-Agent": _USER_AGENT}, **options)
    except (httpx.InvalidURL, ImportError) as error:
        raise ValueError(f"the proxy that the environment names cannot be used: {error}") from error


def fetch_request(step: Fetch, output: Output) -> dict[str, Any]:
    """The arguments of httpx's `stream` for a file, or for what is missing of it."""
    stall = min(STALL_SECONDS, step.limit)
    return {
        "method": "GET",
        "url": step.url,
        # As it is stored, so that its size can be compared.
        "headers": {"Accept-Encoding": "identity", **output.range_headers()},
        "timeout": httpx.Timeout(stall, connect=min(stall, CONNECT_SECONDS)),
    }


def no_reply(error: Exception, received: int = 0) -> Reply:
    """A `Reply` for a request without a complete answer. Its `error` says why."""
    last_error = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Reply(error=last_error, received=received)


class _WithoutSignature(logging.Filter):
    """Keep httpx from logging URLs: a presigned URL gives access to its file."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg.copy_with(query=None) if isinstance(arg, httpx.URL) and arg.query else arg for arg in record.args
            )
        return True


logging.getLogger("httpx").addFilter(_WithoutSignature())
