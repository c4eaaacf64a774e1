"""When a connection is closed, and what it leaves when it is gone."""

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress

import pytest
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from genstatus_server.web.listener import _AT_ONCE, Acceptor, _Stream
from tests.support.server import DEADLINE, until


class Answered(RequestHandler):
    async def get(self) -> None:
        self.write("now")


class Held(RequestHandler):
    count = 0

    async def get(self) -> None:
        self._auto_finish = False
        Held.count += 1

    def on_connection_close(self) -> None:
        self.finish()


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def unread() -> int:
    """Bytes that have come and are no request yet."""
    return sum(each._read_buffer_size for each in gc.get_objects() if type(each) is _Stream)


def streams() -> int:
    return sum(type(each) is _Stream for each in gc.get_objects())


@pytest.mark.parametrize("is_reset", [True, False])
@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_a_connection_that_is_cut_leaves_nothing_to_collect(sent: bytes, *, is_reset: bool) -> None:
    server, sockets = HTTPServer(Application([("/", Held)])), bind_sockets(0, "127.0.0.1")
    acceptor = Acceptor(server, sockets, idle_seconds=60)
    Held.count = 0
    with no_collection():
        clients = [socket.create_connection(sockets[0].getsockname()) for _ in range(10)]
        for client in clients:
            client.sendall(sent)
        await until(lambda: streams() == len(clients))
        is_whole = sent.endswith(b"\r\n\r\n")
        await until(lambda: (Held.count if is_whole else unread()) == len(clients) * (1 if is_whole else len(sent)))
        for client in clients:
            if is_reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        await until(lambda: streams() == 0)
    acceptor.close()
    await server.close_all_connections()


@asynccontextmanager
async def connections(idle_seconds: float) -> AsyncIterator[Callable[[bytes], Awaitable[socket.socket]]]:
    """Connects to a server, and sends something."""
    server, sockets = HTTPServer(Application([("/", Held), ("/now", Answered)])), bind_sockets(0, "127.0.0.1")
    acceptor = Acceptor(server, sockets, idle_seconds)

    async def connect(sent: bytes) -> socket.socket:
        client = stack.enter_context(socket.socket())
        client.settimeout(0)
        await asyncio.get_running_loop().sock_connect(client, sockets[0].getsockname())
        await asyncio.get_running_loop().sock_sendall(client, sent)
        return client

    with ExitStack() as stack:
        yield connect
        acceptor.close()
        await server.close_all_connections()


async def end_of(client: socket.socket) -> float:
    """The loop's time at which the server has closed this connection."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE):
        while await loop.sock_recv(client, 4096):
            pass
    return loop.time()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_a_connection_on_which_nothing_is_asked_is_closed_in_time(sent: bytes) -> None:
    async with connections(0.3) as connect:
        began = asyncio.get_running_loop().time()
        assert await end_of(await connect(sent)) - began >= 0.3


async def test_a_connection_whose_request_is_held_is_not_idle() -> None:
    async with connections(0.5) as connect:
        Held.count = 0
        held = await connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: Held.count)
        for _ in range(2):
            await end_of(await connect(b""))  # Each of them has been idle for longer than is allowed.
        with pytest.raises(BlockingIOError):
            held.recv(1)


async def test_a_connection_that_asks_now_and_then_is_not_idle() -> None:
    ours, theirs = socket.socketpair()
    clock = 0.0
    stream = _Stream(ours, set(), lambda: clock)
    with closing(stream), closing(theirs):
        for asked_at in (10.0, 20.0):
            head = stream.read_until_regex(b"\r\n\r\n")
            assert not stream.is_idle(since=clock)
            assert stream.is_idle(since=clock + 1)
            clock = asked_at
            theirs.sendall(b"GET /now HTTP/1.1\r\n\r\n")
            await head
            assert not stream.is_idle(since=clock)  # It is being answered.


async def test_a_connection_whose_body_is_read_is_not_idle() -> None:
    """It was, for long; then it sends a head, and its body has a limit of its own."""
    ours, theirs = socket.socketpair()
    clock = 0.0
    stream = _Stream(ours, set(), lambda: clock)
    with closing(stream), closing(theirs):
        head, clock = stream.read_until_regex(b"\r\n\r\n"), 100.0
        assert stream.is_idle(since=clock)
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
        await head
        reads: list[Callable[[], Awaitable[bytes]]] = [
            lambda: stream.read_bytes(5),
            lambda: stream.read_until(b"\r\n"),
        ]
        for read in reads:
            body = read()
            assert not stream.is_idle(since=clock)
            theirs.sendall(b"abc\r\n")
            await body


async def test_many_idle_connections_are_closed_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    close_idle = Acceptor._close_idle

    def close_idle_and_note(self: Acceptor) -> None:
        before = len(self._streams)
        close_idle(self)
        closed.append(before - len(self._streams))

    monkeypatch.setattr(Acceptor, "_close_idle", close_idle_and_note)
    async with connections(0.3) as connect:
        clients = [await connect(b"") for _ in range(40)]
        await asyncio.gather(*map(end_of, clients))
    assert sum(closed) == len(clients)
    assert max(closed) <= _AT_ONCE


async def test_one_that_sends_its_request_too_slowly_is_closed() -> None:
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


async def test_what_the_system_does_not_take_at_once_follows_in_its_order() -> None:
    ours, theirs = socket.socketpair()
    stream = _Stream(ours, set(), asyncio.get_running_loop().time)
    parts: list[bytes | memoryview] = [b"a", b"b" * 3_000_000, b"c", b"", memoryview(b"d" * 3_000_000), b"e"]
    whole, received = b"".join(parts), bytearray()
    theirs.settimeout(0)
    with closing(stream), closing(theirs):
        written = [stream.write(part) for part in parts]
        assert [each.done() for each in written] == [True, False, False, False, False, False]
        async with asyncio.timeout(DEADLINE):
            while len(received) < len(whole):
                received += await asyncio.get_running_loop().sock_recv(theirs, 1 << 20)
            for each in written:
                await each
    assert received == whole


async def test_what_nobody_takes_any_more_fails_as_tornado_would_have_it() -> None:
    ours, theirs = socket.socketpair()
    stream = _Stream(ours, set(), asyncio.get_running_loop().time)
    with closing(stream):
        theirs.close()
        with pytest.raises(StreamClosedError):
            await stream.write(b"a")
        assert stream.closed()
        with pytest.raises(StreamClosedError):
            await stream.write(b"b")
