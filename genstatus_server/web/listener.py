"""Takes connections off the sockets that are listened on: a few at a time, and never the last open files.

Those on which nothing is asked are closed after a while.
"""

import asyncio
import math
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

from tornado.concurrent import Future
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from genstatus_server.telemetry import log

#: Connections that are taken in one turn of the loop. A burst waits in the system's queue, where it costs nothing: all
#: of it in here at once would make each turn long, and so each request, of many turns, late.
_AT_ONCE: Final = 16
#: Open files that are left for what is not a connection of a client: MongoDB, the log.
_RESERVE: Final = 64
#: Seconds for which no connection is taken when there are no files left for it.
_PAUSE_SECONDS: Final = 0.25
#: Seconds between two records of that.
_LOG_SECONDS: Final = 60.0
#: Seconds until more connections are closed that are idle, where there were too many for one turn of the loop.
_CLOSING_PAUSE_SECONDS: Final = 0.01
#: Milliseconds after which the system ends a connection whose client does not take what was sent to it: it is gone
#: without a word, or does not read. Neither is told otherwise, and an answer that is never out has no deadline.
_UNREAD_MS: Final = 30_000
#: Bytes that may be read ahead of a request that is being answered. Tornado stops of itself after the largest request
#: and a piece or two of 64 KiB; only beyond this, it takes that for a defect and logs it with a traceback.
_MAX_READ_AHEAD: Final = 256 * 1024


class _Stream(IOStream):
    """A connection that knows since when it waits for a request, and is in `streams` until it is closed.

    It leaves no work for the garbage collector when its client resets it.
    """

    def __init__(self, connection: socket.socket, streams: "set[_Stream]", now: Callable[[], float]) -> None:
        super().__init__(connection, max_buffer_size=_MAX_READ_AHEAD)
        self._streams = streams
        self._now = now
        self._waits_since = now()
        streams.add(self)

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """As Tornado's, which asks for the head of a request with it, and for nothing else."""
        self._waits_since = self._now()
        return super().read_until_regex(regex, max_bytes)

    def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """As Tornado's, which reads bodies with it and with `read_bytes`; they have a limit of their own."""
        self._waits_since = math.inf
        return super().read_until(delimiter, max_bytes)

    def read_bytes(self, num_bytes: int, partial: bool = False) -> Awaitable[bytes]:  # noqa: FBT001, FBT002 - Tornado's
        self._waits_since = math.inf
        return super().read_bytes(num_bytes, partial)

    def write(self, data: bytes | memoryview) -> "Future[None]":
        """As Tornado's, but past its buffers where the system takes everything at once, as it does as a rule."""
        if not (self.closed() or self.writing()):
            with suppress(OSError):  # Tornado's meets it again, and knows what to do.
                data = data[self.socket.send(data) :]
                if not data:
                    sent: Future[None] = Future()
                    sent.set_result(None)
                    return sent
        return super().write(data)

    def is_idle(self, since: float) -> bool:
        """Whether it has waited for a request, or for the rest of its head, since before this time of the loop."""
        return self.reading() and self._waits_since < since

    def close_fd(self) -> None:
        super().close_fd()
        self._streams.discard(self)
        if self.error is not None:
            # It leads to the frames that saw it, and so back to here and to all that was read.
            self.error = self.error.with_traceback(None)


class Acceptor:
    """Hands the connections that come in on `sockets` to `server`, from now on.

    One on which nothing is asked for `idle_seconds` is closed, at most a quarter of that late.
    """

    def __init__(self, server: HTTPServer, sockets: Sequence[socket.socket], idle_seconds: float) -> None:
        server.conn_params.header_timeout = None  # Tornado's own limit: a timer for each request.
        self._server = server
        self._streams: set[_Stream] = set()
        self._idle_seconds = idle_seconds
        self._sockets = tuple(sockets)
        self._loop = asyncio.get_running_loop()
        soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._files = sys.maxsize if soft_limit == resource.RLIM_INFINITY else soft_limit
        self._resuming: asyncio.TimerHandle | None = None
        self._logged = -_LOG_SECONDS
        if sys.platform == "linux":  # No other system has it.
            for each in sockets:  # The connections inherit it.
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        self._resume()
        self._close_idle()

    def close(self) -> None:
        """Listen no more. Who is in the system's queue already is taken: closing the socket would reset them."""
        self._closing_idle.cancel()
        self._pause()
        for each in self._sockets:
            while self._take_some(each):
                pass
        self._pause()
        for each in self._sockets:
            each.close()

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
                connection, address = listening.accept()
            except BlockingIOError:
                return False
            except ConnectionAbortedError:
                continue  # It was closed again before its turn.
            except OSError as error:
                self._wait_for_files(error.strerror)
                return False
            stream = _Stream(connection, self._streams, self._loop.time)
            self._server.handle_stream(stream, address)
            # The system gives the lowest number that is free, so all below are in use.
            if connection.fileno() >= self._files - _RESERVE:
                self._wait_for_files("only the reserve is left")
                return False
        return True

    def _close_idle(self) -> None:
        """Close those that are idle, a few at a time as they are taken."""
        since = self._loop.time() - self._idle_seconds
        idle = list(islice((each for each in self._streams if each.is_idle(since)), _AT_ONCE))
        pause = _CLOSING_PAUSE_SECONDS if len(idle) == _AT_ONCE else self._idle_seconds / 4
        self._closing_idle = self._loop.call_later(pause, self._close_idle)
        for stream in idle:
            stream.close()

    def _wait_for_files(self, cause: str | None) -> None:
        self._pause()
        self._resuming = self._loop.call_later(_PAUSE_SECONDS, self._resume)
        if self._loop.time() >= self._logged + _LOG_SECONDS:
            self._logged = self._loop.time()
            hint = "connections wait until others end; lower max_waits, or raise the limit on open files"
            log.warning("files_exhausted", limit=self._files, cause=cause, hint=hint)
