"""What Tornado's parser refuses is answered, counted and logged."""

import asyncio
import json
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Final
from urllib.parse import urlsplit

import pytest
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from genstatus_server.telemetry import log
from genstatus_server.telemetry.metrics import Metrics
from genstatus_server.web.client_stream import MalformedRequests
from genstatus_server.web.listener import Listener
from tests.support.server import DEADLINE, Server, until

HEAD = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n" + b"\x21\x11\0\x0c" + bytes(12)
CHUNKED = b"Transfer-Encoding: chunked\r\n"

#: What is sent; the status and the reason.
REFUSED: list[tuple[bytes, int, str]] = [
    (b"GET /livez HTTP/1.1\r\n\r\n", 400, "host"),
    (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "host"),
    (b"GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "host"),
    (b"garbage\r\n\r\n", 400, "request_line"),
    (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400, "request_line"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "request_line"),
    (HEAD + b"no colon\r\n\r\n", 400, "header"),
    (HEAD + b"X: a\r\n folded\r\n\r\n", 400, "header"),
    (HEAD + b"X-Session-ID: a\0b\r\n\r\n", 400, "header"),
    (HEAD + b"Content-Length: 1, 2\r\n\r\nab", 400, "body_length"),
    (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, "body_length"),
    (HEAD + b"Content-Length: +1\r\n\r\na", 400, "body_length"),
    (HEAD + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400, "body_length"),
    (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 400, "body_length"),
    (HEAD + CHUNKED + b"\r\nxyz\r\n", 400, "body_length"),
    (HEAD + CHUNKED + b"\r\n" + b"1" * 100, 400, "body_length"),
    (HEAD + CHUNKED + b"\r\n1\r\nabc\r\n", 400, "body_length"),
    (HEAD + b"Content-Length: 20000\r\n\r\n" + b"a" * 20_000, 413, "body_too_large"),
    (HEAD + b"Content-Length: 2000000\r\n\r\n" + b"a" * 2_000_000, 413, "body_too_large"),
    (HEAD + CHUNKED + b"\r\n4e20\r\n" + b"a" * 20_000, 413, "body_too_large"),
    (HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431, "headers_too_large"),
    (HEAD + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n", 431, "headers_too_large"),
    (HEAD + b"X: a\r\n" * 12_000 + b"\r\n", 431, "headers_too_large"),
    (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200), 400, "tls"),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + HEAD + b"\r\n", 400, "proxy_protocol"),
    (PROXY_V2 + HEAD + b"\r\n", 400, "proxy_protocol"),
]


class Answered(RequestHandler):
    async def get(self) -> None:
        self.write("now")


@dataclass
class Bare:
    """A listener in front of one handler."""

    address: tuple[str, int]
    metrics: Metrics = field(default_factory=Metrics)

    def count(self, reason: str) -> float:
        value = self.metrics.registry.get_sample_value("genstatus_malformed_requests_total", {"reason": reason})
        assert value is not None, reason
        return value


@asynccontextmanager
async def bare() -> AsyncIterator[Bare]:
    sockets = bind_sockets(0, "127.0.0.1")
    made = Bare(sockets[0].getsockname())
    application = Application([("/.*", Answered)])
    malformed = MalformedRequests(made.metrics, ["https://broker.example"])
    listener = Listener(application, sockets, idle_timeout=60, malformed=malformed)
    yield made
    listener.stop_listening()
    await listener.close_connections()


async def received(address: tuple[str, int], sent: bytes) -> bytes:
    """All that comes back, until the server closes."""
    reader, writer = await asyncio.open_connection(*address)
    async with asyncio.timeout(DEADLINE):
        writer.write(sent)
        everything = await reader.read()
    writer.close()
    return everything


async def refused(address: tuple[str, int], sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer."""
    head, _, body = (await received(address, sent)).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize(("sent", "status", "reason"), REFUSED)
async def test_malformed_request_is_answered_and_counted(sent: bytes, status: int, reason: str) -> None:
    async with bare() as server:
        answered, headers, body = await refused(server.address, sent)
        assert answered == status
        assert headers["Connection"] == "close"
        assert headers["Content-Type"] == "application/json"
        assert headers["Cache-Control"] == "no-store"
        assert "Server" not in headers
        assert int(headers["Content-Length"]) == len(body)
        assert list(json.loads(body)) == ["message"]
        assert server.count(reason) == 1


#: Requests that are refused although their headers could be read.
READABLE: Final = [
    "",
    "Host: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
    "Host: x\r\nContent-Length: 99999999\r\n",
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("lines", READABLE)
async def test_malformed_request_whose_headers_were_read_is_answered_like_others(method: str, lines: str) -> None:
    more = "Origin: https://broker.example\r\nX-Request-ID: mine\r\n\r\n"
    async with bare() as server:
        _, headers, body = await refused(server.address, f"{method} / HTTP/1.1\r\n{lines}{more}".encode())
        assert headers["X-Request-ID"] == "mine"
        assert headers["Access-Control-Allow-Origin"] == "https://broker.example"
        assert "X-Request-ID" in headers["Access-Control-Expose-Headers"]
        assert headers["Vary"] == "Origin"
        assert bool(body) is (method == "GET")


async def test_malformed_request_is_not_answered_with_the_headers_of_the_last() -> None:
    async with bare() as server:
        first = b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-ID: first\r\n\r\n"
        everything = await received(server.address, first + b"garbage\r\n\r\n")
    assert b"400 Bad Request" in everything
    assert b"first" not in everything


async def test_tls_client_is_refused_at_once() -> None:
    async with bare() as server, asyncio.timeout(DEADLINE):
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection(*server.address, ssl=ssl.create_default_context())
        assert server.count("tls") == 1


async def test_malformed_request_is_logged_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, records = 1000.0, list[dict[str, object]]()
    monkeypatch.setattr("genstatus_server.web.client_stream.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(log, "warning", lambda action, **fields: records.append({"action": action, **fields}))
    async with bare() as server:
        for _ in range(3):
            await refused(server.address, HEAD + b"X-Session-ID: a-secret-token\0\r\n\r\n")
            await refused(server.address, b"PROXY TCP4\r\n\r\n")
        assert [each["reason"] for each in records] == ["header", "proxy_protocol"]
        now += 1.0
        await refused(server.address, b"PROXY TCP4\r\n\r\n")
    assert [each["reason"] for each in records] == ["header", "proxy_protocol", "proxy_protocol"]
    assert {each["action"] for each in records} == {"request_malformed"}
    assert "a-secret-token" not in repr(records)


async def test_listener_answers_requests_before_a_malformed_one() -> None:
    async with bare() as server:
        everything = await received(server.address, (HEAD + b"\r\n") * 3 + b"garbage\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", everything) == [b"200", b"200", b"200", b"400"]


async def test_client_that_sends_on_after_a_refusal_is_cut() -> None:
    """It may read its answer meanwhile; it does not stay for ever."""
    loop = asyncio.get_running_loop()

    async def go_on() -> None:
        await loop.sock_sendall(client, b"garbage\r\n\r\n")
        while True:
            await loop.sock_sendall(client, b"a" * 1000)
            await asyncio.sleep(0.01)

    async with bare() as server:
        with closing(socket.socket()) as client:
            client.settimeout(0)
            await loop.sock_connect(client, server.address)
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(go_on(), DEADLINE)


async def test_server_serves_an_absolute_url_by_its_path(server: Server) -> None:
    url = urlsplit(server.base_url)
    for target, status in [
        (f"{server.base_url}/livez", 200),
        (f"HTTP://{url.netloc}/livez?a=http://b/c", 200),
        ("https://elsewhere.example/livez", 200),
        (f"{server.base_url}/v1/check_generation_status/?submission_id=1&file_type=D1", 401),
        (f"{server.base_url}", 200),
        (f"{server.base_url}?a=b", 200),
        (f"{server.base_url}/nowhere", 404),
        ("ftp://elsewhere.example/livez", 404),
    ]:
        request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answered, _, _ = await refused((url.hostname or "", url.port or 0), request.encode())
        assert answered == status, target


@pytest.mark.parametrize("is_reset", [True, False])
async def test_client_that_left_is_counted_as_499(server: Server, *, is_reset: bool) -> None:
    """Also one that has only closed its side for writing: Tornado takes it for gone."""

    def requests(status: str) -> float:
        value = server.services.metrics.registry.get_sample_value("genstatus_requests_total", {"status": status})
        assert value is not None
        return value

    url = urlsplit(server.base_url)
    with closing(socket.socket()) as client:
        client.settimeout(0)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (url.hostname, url.port))
        path = "/v1/check_generation_status/?submission_id=1&file_type=D1"
        await loop.sock_sendall(client, f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Session-ID: owner\r\n\r\n".encode())
        if is_reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        else:
            client.shutdown(socket.SHUT_WR)
        await until(lambda: requests("200") + requests("499") == 1)
        if is_reset or not await loop.sock_recv(client, 4096):
            assert requests("499") == 1


async def test_metrics_count_every_status_from_the_start(server: Server) -> None:
    for status in (200, 204, 400, 401, 403, 404, 405, 499, 500, 503):
        labels = {"status": str(status)}
        assert server.services.metrics.registry.get_sample_value("genstatus_requests_total", labels) == 0
