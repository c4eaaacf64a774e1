"""The stream of each client's connection. It answers, counts and logs the requests that Tornado's parser refuses."""

import json
import math
import re
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from tornado.httputil import HTTPInputError
from tornado.iostream import IOStream, UnsatisfiableReadError

from genstatus_server.telemetry import log
from genstatus_server.telemetry.metrics import Metrics
from genstatus_server.web.base import EVERY_ANSWER, cors_headers, date_now, sane_or_new_id

if TYPE_CHECKING:
    from tornado.concurrent import Future

#: Bytes that a connection may buffer while a request is being answered. Tornado stops reading after the largest request
#: and one or two pieces of 64 KiB. If it buffers more than this limit, it logs an error with a traceback.
_MAX_READ_AHEAD: Final = 256 * 1024
#: Seconds between two looks at a connection on which bytes may have come after the request that is handled.
_WATCH_SECONDS: Final = 0.5
_END_OF_HEAD: Final = b"\r\n\r\n"
#: Those of a connection that waits for a request.
NO_HEADERS: Final[Mapping[str, str]] = {}
#: Seconds between two records of the same reason.
_LOG_SECONDS: Final = 1.0
#: The first bytes of connections that speak another protocol than HTTP.
_OTHER_PROTOCOLS: Final = {
    b"\x16\x03": "tls",
    b"PROXY ": "proxy_protocol",
    b"\r\n\r\n\0\r\nQUIT\n": "proxy_protocol",
}
#: The reason, by how the message of Tornado's `HTTPInputError` begins. The rest of it quotes the client: never logged.
_MESSAGES: Final = re.compile(
    "(?P<body_too_large>Content-Length too long|chunked body too large)"
    "|(?P<body_length>Multiple unequal|Only integer|Message with both|Unsupported Transfer|invalid chunk|improperly)"
    "|(?P<host>(Missing|Invalid|Multiple) host)"
    "|(?P<request_line>Malformed HTTP request line|Unexpected HTTP version)",
    re.IGNORECASE,
)
_HEADERS_TOO_LARGE: Final = "headers_too_large"
_STATUS: Final[Mapping[str, HTTPStatus]] = {
    "header": HTTPStatus.BAD_REQUEST,
    **dict.fromkeys(_MESSAGES.groupindex, HTTPStatus.BAD_REQUEST),
    **dict.fromkeys(_OTHER_PROTOCOLS.values(), HTTPStatus.BAD_REQUEST),
    "body_too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    _HEADERS_TOO_LARGE: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
}
_HINTS: Final = {
    "tls": "this port speaks plain HTTP; end TLS in the proxy in front",
    "proxy_protocol": "turn the PROXY protocol off in the load balancer for this port",
}


class MalformedRequests:
    """Counts and logs refused requests, and makes their answers."""

    def __init__(self, metrics: Metrics, cors_origins: Collection[str] = ()) -> None:
        self._cors_origins = cors_origins
        self._counters = {reason: metrics.malformed_requests.labels(reason) for reason in _STATUS}
        self._logged: dict[str, float] = {}

    def refuse(self, reason: str, method: str, headers: Mapping[str, str]) -> bytes:
        """Count and log a request that is refused for `reason`. Returns the answer: head and body.

        `method` and `headers` are those of the request; both are empty if they could not be parsed.
        """
        self._counters[reason].inc()
        status, request_id = _STATUS[reason], sane_or_new_id(headers.get("X-Request-ID", ""))
        if time.monotonic() >= self._logged.get(reason, -_LOG_SECONDS) + _LOG_SECONDS:
            self._logged[reason] = time.monotonic()
            hint = {"hint": _HINTS[reason]} if reason in _HINTS else {}
            log.warning("request_malformed", reason=reason, status=int(status), request_id=request_id, **hint)
        body = json.dumps({"message": status.phrase})
        answered = {
            "Content-Type": "application/json",
            "Date": date_now(),
            **EVERY_ANSWER,
            "X-Request-ID": request_id,
            **cors_headers(headers, self._cors_origins),
            "Connection": "close",
            "Content-Length": len(body),
        }
        head = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in answered.items())]
        return "\r\n".join([*head, "", "" if method == "HEAD" else body]).encode()


class ClientStream(IOStream):
    """A client's connection. Requests that Tornado's parser refuses get an answer with our headers and body.

    `waits_since` is the loop's time at which the connection began to wait for a request. It is infinite while a request
    is being handled, whose `method` and `headers` are kept here. After the answer to a refused request, `on_refused` is
    called with a duplicate of the socket.
    """

    # Python shares the keys of up to 30 attributes among instances. Beyond that, each `__dict__` takes 1 KiB more.
    __slots__ = (
        "_has_read",
        "_is_refused",
        "_is_watched",
        "_malformed",
        "_on_refused",
        "_protocol",
        "headers",
        "method",
        "waits_since",
    )

    def __init__(
        self,
        connection: socket.socket,
        malformed: MalformedRequests,
        now: float,
        on_refused: Callable[[socket.socket], None],
    ) -> None:
        super().__init__(connection, max_buffer_size=_MAX_READ_AHEAD)
        self.waits_since = now
        self.method = ""
        self.headers: Mapping[str, str] = NO_HEADERS
        self._malformed = malformed
        self._on_refused = on_refused
        self._has_read = self._is_refused = self._is_watched = False
        self._protocol: str | None = None

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """As Tornado's. The first bytes show whether the client speaks another protocol."""
        count = super().read_from_fd(buf)
        if not count:
            return count
        # Tornado passes a bytearray. If its end is not the first end of a head, more than a request has come, or less.
        if not self._is_watched and cast("bytearray", buf).find(_END_OF_HEAD, 0, count) != count - len(_END_OF_HEAD):
            self._watch()
        if self._has_read:
            return count
        self._has_read = True
        self._protocol = _protocol_of(bytes(buf[:16]))
        if self._protocol is None:
            return count
        # The parser would wait for an empty line that such a client never sends.
        buf[:5] = b"\0\r\n\r\n"
        return 5

    def write(self, data: bytes | memoryview) -> "Future[None]":
        """As Tornado's. The bare 400 that its parser writes while it handles an error is replaced."""
        error = sys.exception()
        if isinstance(error, HTTPInputError):
            data = self._refuse(self._protocol or _reason_of(error))
        return super().write(data)

    def close(self, exc_info: Any = False) -> None:  # noqa: FBT002 - Tornado's signature
        """As Tornado's, which closes without an answer where the headers are too large."""
        if isinstance(exc_info, UnsatisfiableReadError) and not (self.closed() or self.writing()):
            has_head = self.waits_since == math.inf
            with suppress(OSError):
                self.socket.send(self._refuse("body_length" if has_head else _HEADERS_TOO_LARGE))
        super().close(exc_info)

    def close_fd(self) -> None:
        """As Tornado's. A connection that its client has reset leaves no reference cycle."""
        if self._is_refused:
            self._on_refused(self.socket.dup())
        super().close_fd()
        if self.error is not None:
            # Its traceback refers to frames, and these to this stream and to what was read.
            self.error = self.error.with_traceback(None)

    def _watch(self) -> None:
        self._is_watched = True
        self.io_loop.call_later(_WATCH_SECONDS, self._close_if_client_is_gone)

    def _close_if_client_is_gone(self) -> None:
        """Look at the connection while a request is handled, and close it if the client has.

        Tornado does not see that: it reads nothing while bytes that came after the request are in its buffer.
        """
        self._is_watched = False
        if self.closed() or self.waits_since != math.inf:
            return
        try:
            is_gone = not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            is_gone = False
        except OSError:
            is_gone = True
        if is_gone:
            self.close()
        else:
            self._watch()

    def _refuse(self, reason: str) -> bytes:
        self._is_refused = True
        return self._malformed.refuse(reason, self.method, self.headers)


def _protocol_of(first_bytes: bytes) -> str | None:
    return next((name for start, name in _OTHER_PROTOCOLS.items() if first_bytes.startswith(start)), None)


def _reason_of(error: HTTPInputError) -> str:
    match = _MESSAGES.match(str(error))
    return (match and match.lastgroup) or "header"
