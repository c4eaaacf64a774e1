"""Accepts connections, in place of Tornado's HTTPServer.

It accepts a few in each turn of the loop, keeps some file descriptors in reserve, and closes idle connections.
"""

import asyncio
import math
import re
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final, cast

from tornado.http1connection import HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import Application

from genstatus_server.telemetry import log
from genstatus_server.web.client_stream import NO_HEADERS, ClientStream, MalformedRequests
from genstatus_server.web.params import parse_query

#: Connections that are accepted in one turn of the loop. The rest of a burst waits in the system's queue at no
#: cost. If all of it were accepted at once, each turn would be long, and every request takes several turns.
_AT_ONCE: Final = 16
#: File descriptors that clients cannot use: MongoDB and the log need some.
_RESERVE: Final = 64
#: Seconds for which no connection is accepted when no file descriptor is left for it.
_PAUSE_SECONDS: Final = 0.25
#: Seconds between two log records about missing file descriptors.
_LOG_SECONDS: Final = 60.0
#: Seconds until more idle connections are closed, where there are too many for one turn of the loop.
_CLOSING_PAUSE_SECONDS: Final = 0.01
#: Milliseconds after which the system ends a connection whose client does not acknowledge what was sent: it is gone
#: silently, or does not read. Nothing else shows that, and an answer that is never sent has no deadline.
_UNREAD_MS: Final = 30_000
#: Bytes of the request line and headers together, and of a body, which no route reads; and seconds for a body.
_LIMITS: Final = HTTP1ConnectionParameters(max_header_size=64 * 1024, max_body_size=16 * 1024, body_timeout=10)
#: If a connection is closed before all input was read, the system resets it, and the client may lose the answer to its
#: refused request. So the rest of the input is read and discarded. The limits: connections per second, seconds per
#: connection, and pieces of 64 KiB per connection.
_MAX_LINGERING: Final = 16
_LINGER_SECONDS: Final = 1.0
_MAX_DISCARDED: Final = 64
#: Seconds that the client of a new connection may take to send its request, when the server stops.
_NEW_SECONDS: Final = 1.0
#: Seconds between two checks whether requests are left, when the server stops.
_CHECK_SECONDS: Final = 0.02
_SCHEME_AND_HOST: Final = re.compile("https?://[^/?]*", re.IGNORECASE)


@dataclass(slots=True, eq=False)  # Slots: it stays for the length of a hold.
class _Exchange(HTTPMessageDelegate):
    """One request on a connection, passed on to its handler. It notes at the stream that the request has arrived."""

    application: Application
    server_conn: HTTP1ServerConnection
    connection: HTTPConnection
    handler: HTTPMessageDelegate | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        method, target, version = cast("RequestStartLine", start_line)
        stream = cast("ClientStream", self.server_conn.stream)
        stream.waits_since, stream.method, stream.headers = math.inf, method, headers
        url = None if target.startswith("/") else _SCHEME_AND_HOST.match(target)
        if url is not None:  # A whole URL instead of a path (RFC 9112, 3.2.2).
            target = f"/{target[url.end() :].removeprefix('/')}"
        path, _, query = target.partition("?")
        request = HTTPServerRequest(
            start_line=RequestStartLine(method, path, version),
            headers=headers,
            connection=self.connection,
            server_connection=self.server_conn,
        )
        # Tornado would parse each query anew, and copy what it finds. Here it is parsed once for many that are alike.
        request.uri, request.query, request.query_arguments = target, query, parse_query(query)
        self.handler = self.application.find_handler(request)
        return self.handler.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self.handler.data_received(chunk) if self.handler else None

    def finish(self) -> None:
        if self.handler:
            self.handler.finish()

    def on_connection_close(self) -> None:
        if self.handler:
            self.handler.on_connection_close()


class Listener(HTTPServerConnectionDelegate):
    """Serves `application` on `sockets`, from now on.

    A connection without a request for `idle_timeout` seconds is closed, at most a quarter of that time later.
    """

    def __init__(
        self,
        application: Application,
        sockets: Sequence[socket.socket],
        *,
        idle_timeout: float,
        malformed: MalformedRequests,
    ) -> None:
        self._application = application
        self._idle_timeout = idle_timeout
        self._malformed = malformed
        self._connections: set[HTTP1ServerConnection] = set()
        self._lingering: set[asyncio.Task[None]] = set()
        self._sockets = tuple(sockets)
        self._loop = asyncio.get_running_loop()
        soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._files = sys.maxsize if soft_limit == resource.RLIM_INFINITY else soft_limit
        self._resuming: asyncio.TimerHandle | None = None
        self._logged = -_LOG_SECONDS
        self._is_draining = False
        for each in sockets:
            each.setblocking(False)  # noqa: FBT003 - the standard library's
            if sys.platform == "linux" and each.family != socket.AF_UNIX:  # The connections inherit it.
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        self._resume()
        self.close_idle()

    def drain(self) -> None:
        """From now on, end each connection after its next answer, which must say `Connection: close`."""
        self._is_draining = True

    def stop_listening(self) -> None:
        """Accept no further connection, except those in the system's queue: closing the socket would reset them."""
        self._closing_idle.cancel()
        self._pause()
        for each in self._sockets:
            while self._take_some(each):
                pass
        self._pause()  # `_take_some` sets a timer to resume where no file descriptor is left.
        for each in self._sockets:
            each.close()

    async def wait_answered(self, has_requests: Callable[[], object]) -> None:
        """Wait until there are no more requests, by `has_requests`, and all answers were handed to the system.

        For a second at most, also wait for the first request of a new connection, and for the next one of a connection
        that was answered in the second before this call.
        """
        began = self._loop.time()

        def is_busy(stream: ClientStream) -> bool:
            is_new = began - _NEW_SECONDS < stream.waits_since <= began
            return stream.writing() or (is_new and self._loop.time() < began + _NEW_SECONDS)

        while has_requests() or any(map(is_busy, self._streams())):  # noqa: ASYNC110 - Tornado's streams set no event.
            await asyncio.sleep(_CHECK_SECONDS)

    async def close_connections(self) -> None:
        """Close every connection, whatever is going on there."""
        while self._connections:
            await next(iter(self._connections)).close()
        for task in self._lingering:
            task.cancel()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A connection waits for its first request, or the next."""
        connection = cast("HTTP1ServerConnection", server_conn)
        stream = cast("ClientStream", connection.stream)
        if self._is_draining and stream.waits_since == math.inf:
            stream.close()  # Its answer said `Connection: close`.
        stream.waits_since, stream.method, stream.headers = self._loop.time(), "", NO_HEADERS
        return _Exchange(self._application, connection, request_conn)

    def on_close(self, server_conn: object) -> None:
        """A connection has ended."""
        self._connections.discard(cast("HTTP1ServerConnection", server_conn))

    def _resume(self) -> None:
        for each in self._sockets:
            self._loop.add_reader(each, self._take_some, each)

    def _pause(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
        for each in self._sockets:
            self._loop.remove_reader(each)

    def _take_some(self, listening: socket.socket) -> bool:
        """Take a few connections; whether there may be more."""
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                return False
            except ConnectionAbortedError:
                continue  # It was closed again before its turn.
            except OSError as error:
                self._wait_for_files(error.strerror)
                return False
            stream = ClientStream(connection, self._malformed, self._loop.time(), self._linger)
            serving = HTTP1ServerConnection(stream, _LIMITS)
            self._connections.add(serving)
            serving.start_serving(self)
            # The system assigns the lowest free descriptor, so all lower descriptors are in use.
            if connection.fileno() >= self._files - _RESERVE:
                self._wait_for_files("only the reserve is left")
                return False
        return True

    def close_idle(self) -> None:
        """Close idle connections, a few in each turn of the loop."""
        since = self._loop.time() - self._idle_timeout
        idle = list(islice((stream for stream in self._streams() if stream.waits_since < since), _AT_ONCE))
        pause = _CLOSING_PAUSE_SECONDS if len(idle) == _AT_ONCE else self._idle_timeout / 4
        self._closing_idle = self._loop.call_later(pause, self.close_idle)
        for stream in idle:
            stream.close()

    def _streams(self) -> Iterator[ClientStream]:
        return (cast("ClientStream", each.stream) for each in self._connections)

    def _linger(self, connection: socket.socket) -> None:
        """Let a client whose request was refused read the answer."""
        if len(self._lingering) >= _MAX_LINGERING:
            connection.close()
            return
        task = self._loop.create_task(_discard(connection))
        self._lingering.add(task)
        self._loop.call_later(_LINGER_SECONDS, self._lingering.discard, task)

    def _wait_for_files(self, cause: str | None) -> None:
        self._pause()
        self._resuming = self._loop.call_later(_PAUSE_SECONDS, self._resume)
        if self._loop.time() >= self._logged + _LOG_SECONDS:
            self._logged = self._loop.time()
            hint = "connections wait until others end; lower max_waits, or raise the limit on open files"
            log.warning("files_exhausted", limit=self._files, cause=cause, hint=hint)


async def _discard(connection: socket.socket) -> None:
    """Read and discard what the client still sends, for a while; then close."""
    with closing(connection), suppress(OSError, TimeoutError):
        connection.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(_LINGER_SECONDS):
            for _ in range(_MAX_DISCARDED):
                if not await asyncio.get_running_loop().sock_recv(connection, 1 << 16):
                    return
                await asyncio.sleep(0)  # It may send faster than this is read.
