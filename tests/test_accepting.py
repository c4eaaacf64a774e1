"""What a connection leaves when it is gone."""

import gc
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from genstatus_server.accepting import Acceptor, _Stream
from tests.support.server import until


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
    acceptor = Acceptor(server, sockets)
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
