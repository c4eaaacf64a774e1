"""A proxy that stands for the network between a client and a server, and is as bad as a test wants it."""

import asyncio
import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tornado.ioloop import IOLoop

from tests.support.server import until

GATEWAY_PAGE = b"<html><h1>Bad Gateway</h1></html>"


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    After `delay` seconds it is answered with `status`, as a gateway would, or its answer is cut off after `cut` bytes
    (0: nothing of it comes), or it is lost: nobody answers, and the connection stays open.
    """

    delay: float = 0.0
    status: int | None = None
    retry_after: int | None = None
    cut: int | None = None
    lost: bool = False


@dataclass
class BadNetwork:
    """Passes HTTP/1.1 requests without a body to `upstream` and their answers back.

    The first requests meet `faults`, one each; those after them none. `idle` is the number of seconds after which a
    connection is closed on which nothing moves, whether an answer is being waited for or the next request.
    `heads` are the requests that came, up to their empty line.
    """

    upstream: str
    faults: deque[Fault] = field(default_factory=deque)
    idle: float | None = None
    heads: list[str] = field(default_factory=list)
    #: When they came, in seconds of the loop's time.
    times: list[float] = field(default_factory=list)
    #: The bytes of the latest answer that the upstream gave, head and body.
    answer_length: int = 0
    #: Connections that were closed for being idle, and those of them on which an answer was being waited for.
    idle_closed: int = 0
    failed: int = 0
    _server: Any = None
    _tasks: set["asyncio.Task[Any]"] = field(default_factory=set)

    @property
    def url(self) -> str:
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    @property
    def requests(self) -> int:
        return len(self.heads)

    def worsen(self, faults: Iterable[Fault]) -> None:
        """The next requests meet these faults."""
        self.faults.extend(faults)

    def cut_all(self) -> None:
        """Cut every connection, now."""
        for task in self._tasks:
            task.cancel()

    async def open(self, stack: AsyncExitStack) -> "BadNetwork":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        stack.push_async_callback(self._close)
        return self

    async def _close(self) -> None:
        self._server.close()
        self.cut_all()
        await until(lambda: not self._tasks, what="no connection is left")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        parts = urlsplit(self.upstream)
        up_reader, up_writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            while await self._pass_one(reader, writer, up_reader, up_writer):
                pass
        except TimeoutError:
            self.idle_closed += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # One side closed.
        except asyncio.CancelledError:
            pass  # The test is over; a cancelled handler would be reported as an error by asyncio's streams.
        finally:
            up_writer.transport.abort()
            writer.transport.abort()

    async def _pass_one(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> bool:
        """Pass one request and its answer; whether the connection is still good."""
        async with asyncio.timeout(self.idle):
            head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode("latin-1"))
        self.times.append(asyncio.get_running_loop().time())
        fault = self.faults.popleft() if self.faults else Fault()
        answering = asyncio.ensure_future(self._answer(fault, head, up_reader, up_writer))
        leaving = asyncio.ensure_future(reader.read(1))  # A client that waits says nothing, until it leaves.
        try:
            async with asyncio.timeout(self.idle):
                await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                return False
            answer = await answering
        except TimeoutError:
            self.failed += 1
            raise
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
        writer.write(answer if fault.cut is None else answer[: fault.cut])
        await writer.drain()
        if fault.cut is not None:
            writer.close()  # What was written before still arrives, then the end: a reset could overtake it.
            await writer.wait_closed()
        return fault.cut is None

    async def _answer(
        self, fault: Fault, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        await asyncio.sleep(fault.delay)
        if fault.lost:
            await asyncio.Event().wait()
        if fault.status is not None:
            floor = "" if fault.retry_after is None else f"Retry-After: {fault.retry_after}\r\n"
            length = f"Content-Length: {len(GATEWAY_PAGE)}"
            return f"HTTP/1.1 {fault.status} Bad\r\n{floor}{length}\r\n\r\n".encode() + GATEWAY_PAGE
        if fault.cut == 0:
            return b""
        writer.write(head)
        answer = await whole_answer(reader)
        self.answer_length = len(answer)
        return answer


@contextmanager
def bad_network(io_loop: IOLoop, upstream: str) -> Iterator[BadNetwork]:
    """A `BadNetwork` in the test's own loop, without a fault so far."""
    stack = AsyncExitStack()
    yield io_loop.run_sync(lambda: BadNetwork(upstream).open(stack))
    io_loop.run_sync(stack.aclose)


async def whole_answer(reader: asyncio.StreamReader) -> bytes:
    """An answer that says how long it is."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *([0-9]+)", head, re.IGNORECASE)
    assert length, head
    return head + await reader.readexactly(int(length[1]))
