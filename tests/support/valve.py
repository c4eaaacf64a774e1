"""A TCP proxy that can fall silent: connections stay open and new ones are accepted, but nothing gets through.

It can also keep back answers for a while.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.replica_set import Background, Node, background

#: What the request that opens a change stream says, in plain BSON.
STREAM_MARK = b"$changeStream"


class Valve:
    """Passes bytes to a node and back, as long as it is open."""

    def __init__(self, loop: Background, node: Node) -> None:
        self._background = loop
        self._node = node
        self._server: Any = None
        self._transports: set[asyncio.StreamWriter] = set()
        #: Whether every connection is silent.
        self.is_shut = False
        #: Whether those connections are silent on which a change stream was opened, or is being opened, which a request
        #: with these bytes does.
        self.is_shut_for_streams = False
        self.stream_mark = STREAM_MARK
        #: Answers with these bytes in them are kept back, as long as this is set; `kept_back` counts them.
        self.keeps_back: bytes | None = None
        self.kept_back = 0

    @property
    def uri(self) -> str:
        port = self._server.sockets[0].getsockname()[1]
        return f"mongodb://127.0.0.1:{port}/?directConnection=true"

    def open(self) -> None:
        self._background.run(self._open())

    def close(self) -> None:
        self._background.run(self._close())

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _close(self) -> None:
        self._server.close()
        for writer in tuple(self._transports):
            writer.transport.abort()
        while self._transports:  # noqa: ASYNC110 - their tasks end in a moment.
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self._node.port)
        self._transports |= {writer, node_writer}
        streams = asyncio.Event()  # Set once this connection is known to carry a stream.
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, node_writer, streams))
                both.create_task(self._pass(node_reader, writer, streams, are_answers=True))
        except* OSError:
            pass
        finally:
            for each in (writer, node_writer):
                each.transport.abort()
                self._transports.discard(each)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        streams: asyncio.Event,
        *,
        are_answers: bool = False,
    ) -> None:
        while data := await reader.read(1 << 16):
            if self.stream_mark in data:
                streams.set()
            if are_answers and not streams.is_set():
                await self._keep_back(data)
            if not (self.is_shut or (self.is_shut_for_streams and streams.is_set())):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _keep_back(self, data: bytes) -> None:
        if self.keeps_back is not None and self.keeps_back in data:
            self.kept_back += 1
            while self.keeps_back is not None:  # noqa: ASYNC110 - the test's thread sets it.
                await asyncio.sleep(0.01)


@contextmanager
def running_valve(node: Node) -> Iterator[Valve]:
    """A valve before the node, open."""
    with background() as loop:
        valve = Valve(loop, node)
        valve.open()
        try:
            yield valve
        finally:
            valve.close()
