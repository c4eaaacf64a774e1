"""The line between the parent and one of its server processes: either end may request a text from the other.

A message is a line of JSON: a request, `{"request": 7}`, or the reply to one, `{"reply": 7, "text": "…"}`. A request
names nothing, because each end has one thing to tell: its metrics.
"""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.telemetry.metrics import Metrics, collect, exposition

#: Seconds that a reply may take. The other end replies out of memory, unless it hangs.
REPLY_SECONDS: Final = 1.0
#: Seconds for the parent to request the metrics of every process, of which one may hang.
_ALL_METRICS_SECONDS: Final = 2 * REPLY_SECONDS
#: Bytes of the longest line.
_LIMIT: Final = 4 * 1024 * 1024


class Channel:
    """One end. `reply` makes the text that the other end requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._requests: dict[int, asyncio.Future[str]] = {}
        self._replying: set[asyncio.Task[None]] = set()
        self.reply: Callable[[], Awaitable[str]] = _nothing

    async def request(self, timeout: float = REPLY_SECONDS) -> str:  # noqa: ASYNC109 - as `asyncio.wait_for`
        """The text of the other end. Raises `ConnectionError` where that is gone, `TimeoutError` where it hangs."""
        number = next(self._numbers)
        self._requests[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"request": number})
            async with asyncio.timeout(timeout):
                return await self._requests[number]
        finally:
            del self._requests[number]

    async def run(self) -> None:
        """Reply, and take replies, until the other end is gone."""
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except ConnectionError:
            pass
        finally:
            for future in self._requests.values():
                if not future.done():
                    future.set_exception(ConnectionResetError("the other end is gone"))
            for task in self._replying:
                task.cancel()
            self._writer.close()

    def _take(self, message: dict[str, object]) -> None:
        if "request" in message:
            # A task: the parent, to reply, sends requests itself, and their replies come through `run`.
            task = asyncio.create_task(self._reply_to(message["request"]))
            self._replying.add(task)
            task.add_done_callback(self._replying.discard)
            return
        future = self._requests.get(int(str(message["reply"])))
        if future is not None and not future.done():
            future.set_result(str(message["text"]))

    async def _reply_to(self, number: object) -> None:
        text = await self.reply()
        with contextlib.suppress(ConnectionError):
            self._send({"reply": number, "text": text})

    def _send(self, message: dict[str, object]) -> None:
        if self._writer.is_closing():
            raise ConnectionResetError("the other end is gone")
        self._writer.write(json.dumps(message).encode() + b"\n")


@asynccontextmanager
async def open_channel(end: socket.socket, on_gone: Callable[[], object] = lambda: None) -> AsyncIterator[Channel]:
    """A channel on `end`, one of a pair of Unix sockets, while the block lasts; `on_gone`: the other end has gone."""
    reader, writer = await asyncio.open_unix_connection(sock=end, limit=_LIMIT)
    channel = Channel(reader, writer)
    running = asyncio.create_task(channel.run(), name="channel")
    running.add_done_callback(lambda task: None if task.cancelled() else on_gone())
    try:
        yield channel
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def _nothing() -> str:
    return "[]"


def metrics_collector(metrics: Metrics, parent: Channel | None) -> Callable[[], Awaitable[str]]:
    """A function that returns the metrics of all processes of this server, in Prometheus' text format.

    `parent` can request those of this process. The function raises `ServiceUnavailable` where those of all cannot be
    had: to Prometheus, those of one process alone would look like a server that was restarted.
    """

    async def own() -> str:
        return json.dumps(collect(metrics.registry))

    async def of_all() -> str:
        if parent is None:
            return exposition(collect(metrics.registry))
        try:
            return await parent.request(_ALL_METRICS_SECONDS)
        except (ConnectionError, TimeoutError) as cause:
            raise ServiceUnavailable from cause

    if parent is not None:
        parent.reply = own
    return of_all
