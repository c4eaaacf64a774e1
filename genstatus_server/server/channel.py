"""The line between the parent and one of its server processes: either end may ask the other for a text.

A line of JSON is a question, `{"ask": 7}`, or the answer to one, `{"answer": 7, "text": "…"}`. What is asked for needs
no saying: each end has one thing to tell.
"""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

#: Seconds that an answer may take. The other end answers out of memory, unless it hangs.
ANSWER_SECONDS: Final = 1.0
#: Bytes of the longest line.
_LIMIT: Final = 4 * 1024 * 1024


class Channel:
    """One end. `answer` makes the text that the other end asks for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[str]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self.answer: Callable[[], Awaitable[str]] = _nothing

    async def ask(self, seconds: float = ANSWER_SECONDS) -> str:
        """What the other end has to tell. Raises `ConnectionError` where it is gone, `TimeoutError` where it hangs."""
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"ask": number})
            async with asyncio.timeout(seconds):
                return await self._asked[number]
        finally:
            del self._asked[number]

    async def run(self) -> None:
        """Answer, and take answers, until the other end is gone."""
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except ConnectionError:
            pass
        finally:
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(ConnectionResetError("the other end is gone"))
            for task in self._answering:
                task.cancel()
            self._writer.close()

    def _take(self, message: dict[str, object]) -> None:
        if "ask" in message:
            # A task: to answer, the parent asks in its turn, and hears the answers on these lines.
            task = asyncio.create_task(self._reply(message["ask"]))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        future = self._asked.get(int(str(message["answer"])))
        if future is not None and not future.done():
            future.set_result(str(message["text"]))

    async def _reply(self, number: object) -> None:
        text = await self.answer()
        with contextlib.suppress(ConnectionError):
            self._send({"answer": number, "text": text})

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
