"""The base of all handlers: services, headers, CORS, errors, and one log record for each request."""

import asyncio
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.client import responses
from typing import TYPE_CHECKING, Any, Final

from tornado.httputil import format_timestamp
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler

from genstatus_server.hold.holds import HoldRegistry, WaitResult
from genstatus_server.model.errors import ServiceError, ServiceUnavailable
from genstatus_server.mongo.change_stream import ChangeStreamFollower
from genstatus_server.mongo.client import Connection
from genstatus_server.mongo.documents import Documents
from genstatus_server.mongo.freshness import Freshness
from genstatus_server.mongo.queries import Key
from genstatus_server.s3.presigner import Presigner
from genstatus_server.settings import Settings
from genstatus_server.telemetry import log
from genstatus_server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from tornado.concurrent import Future

_SANE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
#: A W3C trace context's parent: version, trace id, parent id, flags. There is no version ff, 00 ends after its 55
#: characters, and no id is zero. What a later version adds is unknown, so it is not logged.
_TRACEPARENT: Final = re.compile(
    r"(?!ff|00.{54})([0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?:-.*)?"
)
#: Headers that a page of a configured origin may read, and those that it may send.
EXPOSED_HEADERS: Final = "Retry-After, Preference-Applied, X-Wait-Result, X-Request-ID, ETag"
ALLOWED_HEADERS: Final = (
    "X-Session-ID, Prefer, X-Request-ID, If-None-Match, Content-Type, X-Requested-With, "
    "traceparent, tracestate, baggage, sentry-trace"
)
_PREFLIGHT_SECONDS: Final = "7200"

#: Headers of every answer.
EVERY_ANSWER: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
#: `Retry-After` of a plain poll: as often as the existing clients poll at their quickest.
POLL_SECONDS: Final = "5"
#: The same of a hold that reached its deadline: the client requests again and is held again.
_DEADLINE_SECONDS: Final = "1"
#: The log record has at most this many characters of the path.
_LONGEST_PATH: Final = 2000
#: The status in logs and metrics of a client that left before its answer; nginx uses the same.
CLIENT_GONE: Final = 499


@dataclass
class Services:
    """The parts of one running server. `in_flight` is the number of requests whose handler has not finished."""

    settings: Settings
    metrics: Metrics
    mongodb: Connection
    freshness: Freshness
    documents: Documents
    holds: HoldRegistry[Key]
    follower: ChangeStreamFollower
    presigner: Presigner
    #: The metrics of the whole server, in Prometheus' text format. Raises `ServiceUnavailable`.
    collect_metrics: Callable[[], Awaitable[str]]
    in_flight: int = 0
    draining: bool = False


class BaseHandler(RequestHandler):
    """A handler that answers in JSON. A subclass has `get` and, where its path takes them, other methods."""

    services: Services
    #: The client was gone before all of its answer was handed to the system.
    is_client_gone = False
    #: The caller's id of the request where it sent a sane one, else a new one.
    request_id = ""
    allowed_methods: tuple[str, ...] = ("GET", "HEAD", "OPTIONS")

    def initialize(self, services: Services) -> None:
        self.services = services
        self.arrived = asyncio.get_running_loop().time()
        self.log_fields: dict[str, object] = {}
        services.in_flight += 1

    def set_default_headers(self) -> None:
        """Headers of every answer, errors included."""
        if not self.request_id:
            headers = self.request.headers
            self.request_id = sane_or_new_id(headers["X-Request-ID"] if "X-Request-ID" in headers else "")  # noqa: SIM401 - `get` is slower.
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")
        for name, value in EVERY_ANSWER.items():
            self.set_header(name, value)
        self.set_header("X-Request-ID", self.request_id)
        # Tornado calls this before it initializes the handler, too.
        origins = self.application.settings["services"].settings.cors_origins
        if origins:
            for name, value in cors_headers(self.request.headers, origins).items():
                self.set_header(name, value)

    def on_connection_close(self) -> None:
        """Tornado calls this when the client has gone away, also where it has only closed its side for writing."""
        self.is_client_gone = True

    async def get(self) -> None:
        """Answer."""
        raise NotImplementedError

    async def head(self) -> None:
        """Answer like `get`; Tornado leaves the body out."""
        await self.get()

    async def options(self) -> None:
        """Answer a preflight, or say what is allowed."""
        self.set_status(HTTPStatus.NO_CONTENT)
        self.clear_header("Content-Type")
        self.set_header("Allow", ", ".join(self.allowed_methods))
        if self.request.headers.get("Origin") in self.services.settings.cors_origins:
            self.set_header("Access-Control-Allow-Methods", ", ".join(self.allowed_methods))
            self.set_header("Access-Control-Allow-Headers", ALLOWED_HEADERS)
            self.set_header("Access-Control-Max-Age", _PREFLIGHT_SECONDS)

    def write_json(self, body: object) -> None:
        """The body of the answer."""
        self.write(json.dumps(body).encode())

    def set_etag_header(self) -> None:
        """No ETag of Tornado's making: an answer is never stored."""

    def check_etag_header(self) -> bool:
        """Never a 304: to existing clients it would be an error."""
        return False

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """The one place where an error becomes an answer."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, ServiceUnavailable):
            self.set_header("Retry-After", retry_after_unavailable())
        if status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self.allowed_methods))
        body = error.body() if isinstance(error, ServiceError) else {"message": responses.get(status_code, "Error")}
        self.finish(json.dumps(body).encode())

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer with an error; a `ServiceError` brings its own status."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        super().send_error(error.http_status if isinstance(error, ServiceError) else status_code, **kwargs)

    def log_exception(self, *exc_info: Any) -> None:
        """Keep the cause for the request's log record. Only defects are logged with their traceback."""
        error = exc_info[1]
        if isinstance(error, ServiceUnavailable):
            self.log_fields["cause"] = log.cause(error)
        elif not isinstance(error, ServiceError | HTTPError | StreamClosedError):
            log.exception("request_defect", request_id=self.request_id, path=self.request.path)

    def flush(self, include_footers: bool = False) -> "Future[None]":  # noqa: FBT001, FBT002 - Tornado's signature
        """Like Tornado's. Send `Connection: close` while the server drains. Note whether the client has left."""
        if self.services.draining:
            self.set_header("Connection", "close")
            self.request.headers.pop("Connection", None)  # Tornado would grant `keep-alive` to HTTP/1.0.
        sent = super().flush(include_footers)
        self.is_client_gone |= sent.done() and sent.exception() is not None
        return sent


def cors_headers(headers: Mapping[str, str], origins: Collection[str]) -> dict[str, str]:
    """The CORS headers of the answer to a request with `headers`; `origins` are the configured ones."""
    if not origins:
        return {}
    if headers.get("Origin") not in origins:
        return {"Vary": "Origin"}
    return {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": headers["Origin"],
        "Access-Control-Expose-Headers": EXPOSED_HEADERS,
    }


def retry_after(result: WaitResult) -> str:
    """The seconds after a hold without a settled job. `result` is why it ended, or did not begin."""
    if result is WaitResult.DRAINING:  # Another server, or a new process of this one, answers in a moment.
        return spread(1, 5)
    return spread(5, 15) if result is WaitResult.SHED else _DEADLINE_SECONDS


def retry_after_unavailable() -> str:
    """The seconds after an answer that MongoDB or the signer is away."""
    return spread(2, 6)


def spread(low: int, high: int) -> str:
    return str(random.randint(low, high))


def date_now() -> str:
    """The value of the header `Date`."""
    return _date(int(time.time()))


@lru_cache(1)
def _date(second: int) -> str:
    return format_timestamp(second)


def sane_or_new_id(requested: str = "") -> str:
    """The id of a request: `requested` if it is sane, else a new one."""
    return requested if _SANE_REQUEST_ID.fullmatch(requested) else f"{random.getrandbits(128):032x}"


class NotFoundHandler(BaseHandler):
    """Every path that is not there."""

    def prepare(self) -> None:
        raise HTTPError(HTTPStatus.NOT_FOUND)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:  # noqa: ARG002 - Tornado's 405 is one, too.
        """Answer 404, also for an unknown method: Tornado refuses that with a 405 before it calls `prepare`."""
        super().send_error(HTTPStatus.NOT_FOUND, **kwargs)


def log_request(handler: RequestHandler) -> None:
    """Count the request, and write its one record. Tornado calls this when the whole answer was written."""
    if not isinstance(handler, BaseHandler):
        return
    handler.services.in_flight -= 1
    # Not an `HTTPStatus`, which the log for humans would spell out.
    status = CLIENT_GONE if handler.is_client_gone else int(handler.get_status())
    handler.services.metrics.requests_of(status).inc()
    has_failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if not (has_failed or handler.services.settings.access_log):
        return
    headers = handler.request.headers
    if "traceparent" in headers and (parent := _TRACEPARENT.fullmatch(headers["traceparent"])):
        handler.log_fields["traceparent"] = parent[1]
    fields = {
        "method": handler.request.method,
        "path": handler.request.path[:_LONGEST_PATH],
        "status": status,
        "duration_ms": round(1000 * (asyncio.get_running_loop().time() - handler.arrived), 2),
        "request_id": handler.request_id,
        **handler.log_fields,
    }
    log.write("warning" if has_failed else "info", "request", fields)
