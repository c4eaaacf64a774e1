"""When a connection is closed, and what it leaves when it is gone."""

import asyncio
import gc
import math
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.web import Application, RequestHandler

from genstatus_server.telemetry.metrics import Metrics
from genstatus_server.web import listener as listener_module
from genstatus_server.web.client_stream import ClientStream, MalformedRequests
from genstatus_server.web.listener import _AT_ONCE, Listener
from tests.support.server import DEADLINE, until

pytestmark = pytest.mark.one_python


class Answered(RequestHandler):
    async def get(self) -> None:
        self.write("now")


class Held(RequestHandler):
    count = 0

    def initialize(self) -> None:
        self.gone = asyncio.Event()

    async def get(self) -> None:
        Held.count += 1
        await self.gone.wait()

    def on_connection_close(self) -> None:
        self.gone.set()


def listening(sockets: list[socket.socket], idle_timeout: float) -> Listener:
    application = Application([("/", Held), ("/now", Answered)])
    return Listener(application, sockets, idle_timeout=idle_timeout, malformed=MalformedRequests(Metrics()))


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def streams_from_now_on(monkeypatch: pytest.MonkeyPatch) -> "weakref.WeakSet[ClientStream]":
    """The streams of all connections that come from now on, without those that are gone."""
    streams: weakref.WeakSet[ClientStream] = weakref.WeakSet()

    def made(*arguments: Any) -> ClientStream:
        stream = ClientStream(*arguments)
        streams.add(stream)
        return stream

    monkeypatch.setattr(listener_module, "ClientStream", made)
    return streams


def unread(streams: Iterable[ClientStream]) -> int:
    """Bytes that have come and are no request yet."""
    return sum(each._read_buffer_size for each in streams)  # noqa: SLF001 - Tornado shows it nowhere else


@pytest.mark.parametrize("is_reset", [True, False])
@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_connection_that_is_cut_leaves_no_reference_cycle(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, *, is_reset: bool
) -> None:
    sockets = bind_sockets(0, "127.0.0.1")
    listener = listening(sockets, idle_timeout=60)
    Held.count = 0
    streams = streams_from_now_on(monkeypatch)
    with no_collection():
        clients = [socket.create_connection(sockets[0].getsockname()) for _ in range(10)]
        for client in clients:
            client.sendall(sent)
        await until(lambda: len(streams) == len(clients))
        is_whole = sent.endswith(b"\r\n\r\n")
        await until(
            lambda: (Held.count if is_whole else unread(streams)) == len(clients) * (1 if is_whole else len(sent))
        )
        for client in clients:
            if is_reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        await until(lambda: len(streams) == 0)
    listener.stop_listening()
    await listener.close_connections()


@asynccontextmanager
async def connections(idle_timeout: float) -> AsyncIterator[Callable[[bytes], Awaitable[socket.socket]]]:
    """Connects to a server, and sends something."""
    sockets = bind_sockets(0, "127.0.0.1")
    listener = listening(sockets, idle_timeout)

    async def connect(sent: bytes) -> socket.socket:
        client = stack.enter_context(socket.socket())
        client.settimeout(0)
        await asyncio.get_running_loop().sock_connect(client, sockets[0].getsockname())
        await asyncio.get_running_loop().sock_sendall(client, sent)
        return client

    with ExitStack() as stack:
        yield connect
        listener.stop_listening()
        await listener.close_connections()


async def end_of(client: socket.socket) -> float:
    """The loop's time at which the server has closed this connection."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE):
        while await loop.sock_recv(client, 4096):
            pass
    return loop.time()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_listener_closes_an_idle_connection_in_time(sent: bytes) -> None:
    async with connections(0.3) as connect:
        began = asyncio.get_running_loop().time()
        assert await end_of(await connect(sent)) - began >= 0.3


async def test_connection_of_a_hold_is_not_idle() -> None:
    async with connections(0.5) as connect:
        Held.count = 0
        held = await connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: Held.count)
        for _ in range(2):
            await end_of(await connect(b""))  # Each of them has been idle for longer than is allowed.
        with pytest.raises(BlockingIOError):
            held.recv(1)


async def test_connection_is_idle_only_between_requests() -> None:
    """Asked again and again, it stays open for longer than one that is idle."""
    async with connections(0.6) as connect:
        loop = asyncio.get_running_loop()
        while True:
            busy, idle = await connect(b""), asyncio.create_task(end_of(await connect(b"")))
            last, longest_pause, answered = loop.time(), 0.0, b"200"
            while answered and not idle.done():
                await loop.sock_sendall(busy, b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n")
                answered = await loop.sock_recv(busy, 4096)
                longest_pause, last = max(longest_pause, loop.time() - last), loop.time()
                await asyncio.sleep(0.05)
            await idle
            if longest_pause < 0.5:
                break
            # The machine stood still in between: again.
        assert answered
        assert await end_of(busy) - last >= 0.5


async def test_connection_whose_body_is_read_is_not_idle() -> None:
    """The body has a limit of its own."""
    async with connections(0.3) as connect:
        slow = await connect(b"GET /now HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        await end_of(await connect(b""))  # It has been idle for longer than is allowed.
        await asyncio.get_running_loop().sock_sendall(slow, b"abc")
        async with asyncio.timeout(DEADLINE):
            assert (await asyncio.get_running_loop().sock_recv(slow, 4096)).startswith(b"HTTP/1.1 200")


async def test_listener_closes_many_idle_connections_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    close_idle = Listener.close_idle

    def close_idle_and_note(self: Listener) -> None:
        close_idle(self)
        closed.append(sum(each.stream.closed() for each in self._connections))

    monkeypatch.setattr(Listener, "close_idle", close_idle_and_note)
    async with connections(0.3) as connect:
        clients = [await connect(b"") for _ in range(40)]
        await asyncio.gather(*map(end_of, clients))
    assert sum(closed) == len(clients)
    assert max(closed) <= _AT_ONCE


async def test_listener_closes_a_connection_that_sends_too_slowly() -> None:
    """Whatever it sends meanwhile: it is the whole head that has its time."""
    async with connections(0.3) as connect:
        slow, loop = await connect(b"GET /now HTTP/1.1\r\n"), asyncio.get_running_loop()
        ended = asyncio.ensure_future(end_of(slow))
        while not ended.done():
            with suppress(ConnectionError):
                await loop.sock_sendall(slow, b"X: y\r\n")
            await asyncio.sleep(0.02)
        with suppress(ConnectionError):
            await ended


async def test_listener_serves_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = listening([bind_unix_socket(str(path))], idle_timeout=60)
    reader, writer = await asyncio.open_unix_connection(path)
    for _ in range(2):
        writer.write(b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(3) == b"now"
    writer.close()
    listener.stop_listening()
    await listener.close_connections()


async def test_listener_takes_over_blocking_sockets() -> None:
    """As systemd passes them."""
    sockets = bind_sockets(0, "127.0.0.1")
    sockets[0].settimeout(None)
    listener = listening(sockets, idle_timeout=60)
    reader, writer = await asyncio.open_connection(*sockets[0].getsockname())
    writer.write(b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(DEADLINE):
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    writer.close()
    listener.stop_listening()
    await listener.close_connections()


async def test_listener_does_not_wait_for_clients_that_are_answered_while_it_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener_module, "_NEW_SECONDS", 10 * DEADLINE)
    sockets = bind_sockets(0, "127.0.0.1")
    streams, listener, requests = streams_from_now_on(monkeypatch), listening(sockets, idle_timeout=60), [1]
    reader, writer = await asyncio.open_connection(*sockets[0].getsockname())
    writer.write(b"GET /now HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
    await until(lambda: math.inf in [stream.waits_since for stream in streams], what="its head has come")
    listener.stop_listening()
    stopping = asyncio.create_task(listener.wait_answered(lambda: requests))
    await asyncio.sleep(0)
    writer.write(b"abc")
    async with asyncio.timeout(DEADLINE):
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        requests.clear()
        await stopping  # The client keeps its connection.
    writer.close()
    await listener.close_connections()
