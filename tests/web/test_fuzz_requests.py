"""Whatever bytes a client sends: no 5xx, no defect in the log, no hang, and the next request is answered."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from urllib.parse import quote_from_bytes, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tornado.ioloop import IOLoop

from tests.support.server import ROUTE, Server

pytestmark = pytest.mark.one_python

PARAMETERS = ["submission_id", "file_type", "wait", "timeout"]
#: Messages of a 400 that name no parameter's fault.
OTHER_MESSAGES = {"submission_id is required", "No such submission"}
#: Seconds by which a connection is answered and closed, and that one example may take, on a machine that is busy.
DEADLINE = 60.0
PATIENCE = 120.0

STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")
LAST = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
USUAL = ROUTE.encode() + b"?submission_id=1&file_type=D1"

fuzzed = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

#: Bytes that stay within a line of the request's head.
in_line = st.binary(max_size=40).map(lambda content: re.sub(rb"[\r\n]", b"", content))
in_target = in_line.map(lambda content: content.replace(b" ", b""))
escaped = st.binary(max_size=10).map(lambda content: quote_from_bytes(content, safe="").encode())
odd_texts = st.sampled_from(
    [
        b"%",
        b"%zz",
        b"%0",
        b"%00",
        b"%ff",
        b"%ed%a0%80",
        b"%u0031",
        b"%c0%b1",
        b"1",
        b"D1",
        b"true",
        b"0",
        b"1e3",
        b"\xff",
    ]
)
odd_values = odd_texts | escaped | in_target
names = st.sampled_from([name.encode() for name in PARAMETERS]) | odd_values
token = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12).map(str.encode)
known_headers = st.sampled_from(
    b"X-Session-ID Prefer X-Request-ID Origin Cookie Content-Type Accept-Encoding Accept-Language Range If-None-Match "
    b"Host Connection Upgrade Referer X-Forwarded-For X-Real-IP X-Scheme Content-Encoding TE Authorization".split()
)


@pytest.fixture(autouse=True)
def nothing_is_amiss(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No library has anything to complain of."""
    yield
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def request(target: bytes, *headers: bytes, method: bytes = b"GET", content: bytes = b"") -> bytes:
    """A request, as a login session's owner sends it."""
    head = (b"%s %s HTTP/1.1" % (method, target), b"Host: x", b"X-Session-ID: owner", *headers)
    return b"\r\n".join((*head, b"", content))


async def send(server: Server, *requests: bytes) -> bytes:
    """All that the server answers to these requests, and to one more that has it close the connection."""
    address = urlsplit(server.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    answer = b""
    try:
        async with asyncio.timeout(DEADLINE):
            writer.write(b"".join(requests) + LAST)
            while chunk := await reader.read(65536):
                answer += chunk
    except ConnectionError:
        pass  # It was closed with something of ours unread.
    finally:
        writer.transport.abort()
    return answer


async def check(server: Server, *requests: bytes) -> bytes:
    """`send`, and see that whatever came back is sane and that the server goes on."""
    with capture_logs() as records:
        answer = await send(server, *requests)
        assert (await server.fetch("/livez")).code == 200
    assert "request_defect" not in {record["event"] for record in records}
    assert not [status for status in statuses(answer) if status >= 500], answer
    assert b"tornado" not in answer.lower()
    assert b"\r\nserver:" not in answer.lower()
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in STATUS_LINE.findall(answer)]


def first_body(answer: bytes) -> bytes:
    head, _, rest = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: ([0-9]+)", head)
    return rest[: int(length[1])] if length else b""


@fuzzed
@given(
    st.lists(st.tuples(names, odd_values), max_size=5),
    st.sampled_from([b"=", b"==", b""]),
    st.sampled_from([b"&", b";"]),
)
@example([(b"submission_id", b"%00"), (b"file_type", b"%ed%a0%80")], b"=", b"&")
@example([(b"submission_id", b"1" * 5000), (b"file_type", b"D1")], b"=", b"&")
def test_route_answers_any_query(
    server: Server, io_loop: IOLoop, pairs: list[tuple[bytes, bytes]], between: bytes, separator: bytes
) -> None:
    query = separator.join(name + between + value for name, value in pairs)
    answer = io_loop.run_sync(lambda: check(server, request(ROUTE.encode() + b"?" + query)), timeout=PATIENCE)
    if statuses(answer) in ([400], []):
        # Not even HTTP: a raw control character in the target. The connection is closed.
        assert first_body(answer) in (b'{"message": "Bad Request"}', b"")
    else:
        told = json.loads(first_body(answer))
        assert statuses(answer) in ([400, 200], [200, 200], [403, 200])
        if statuses(answer)[0] == 400 and told["message"] not in OTHER_MESSAGES:
            assert told["errors"].keys() <= set(PARAMETERS)
            assert told["message"].split(":")[0] in told["errors"]


@fuzzed
@given(st.lists(st.tuples(known_headers | token | in_line, in_line), max_size=4))
@example([(b"X-Session-ID", b"\xff\x00")])
@example([(b"X-Session-ID", "ü\N{SNOWMAN}".encode())])
@example([(b"X-Request-ID", b"\xff")])
@example([(b"Origin", b"\xff, https://[")])
@example([(b"Cookie", b'a="\\777";\xff==')])
@example([(b" folded", b"")])
def test_route_answers_any_headers(server: Server, io_loop: IOLoop, headers: list[tuple[bytes, bytes]]) -> None:
    lines = [name + b": " + value for name, value in headers]
    io_loop.run_sync(lambda: check(server, request(USUAL, *lines)), timeout=PATIENCE)


@fuzzed
@given(
    st.binary(max_size=200) | st.lists(in_line | token, max_size=6).map(b" ".join), st.sampled_from([b"\n", b"\r\n"])
)
def test_server_survives_any_bytes(server: Server, io_loop: IOLoop, content: bytes, newline: bytes) -> None:
    io_loop.run_sync(lambda: check(server, content + 2 * newline), timeout=PATIENCE)


CONTENT_TYPES = [
    b"application/x-www-form-urlencoded", b"multipart/form-data", b"multipart/form-data; boundary=x", b"text/\xff",
    b"application/json; charset=utf-99", b"multipart/form-data; boundary=",
]  # fmt: skip


@fuzzed
@given(
    st.binary(max_size=60),
    st.sampled_from(CONTENT_TYPES),
    st.sampled_from([b"", b"gzip", b"br", b"\xff"]),
    st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS", b"PUT"]),
    st.sampled_from([USUAL, b"/livez", b"/nowhere"]),
)
@example(b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--", CONTENT_TYPES[2], b"", b"POST", b"/livez")
def test_route_answers_a_request_with_any_body(
    server: Server, io_loop: IOLoop, content: bytes, content_type: bytes, encoding: bytes, method: bytes, target: bytes
) -> None:
    headers = [b"Content-Type: " + content_type, b"Content-Length: %d" % len(content)]
    headers += [b"Content-Encoding: " + encoding] if encoding else []
    sent = request(target, *headers, method=method, content=content)
    io_loop.run_sync(lambda: check(server, sent), timeout=PATIENCE)


# What has to be right rather than only not wrong


async def test_route_ignores_a_body_on_a_get(server: Server) -> None:
    content = b"submission_id=7&file_type=E&wait=perhaps"
    form = b"Content-Type: application/x-www-form-urlencoded"
    whole = request(USUAL, form, b"Content-Length: %d" % len(content), content=content)
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
    for sent in (whole, request(USUAL, form, b"Transfer-Encoding: chunked", content=chunks)):
        answer = await check(server, sent)
        assert statuses(answer) == [200, 200]
        assert json.loads(first_body(answer))["file_type"] == "D1"


async def test_server_answers_pipelined_requests_in_order(server: Server) -> None:
    sent = [request(ROUTE.encode() + b"?submission_id=1&file_type=" + name) for name in (b"D1", b"X", b"D2", b"E")]
    answer = await check(server, *sent)
    assert statuses(answer) == [200, 400, 200, 200, 200]
    assert re.findall(rb'"file_type": "(..?)"', answer) == [b"D1", b"D2", b"E"]


async def test_server_answers_http_1_0_and_closes(server: Server) -> None:
    sent = b"GET %s HTTP/1.0\r\nX-Session-ID: owner\r\n\r\n" % USUAL
    assert statuses(await check(server, sent)) == [200]


async def test_server_answers_a_query_of_many_kilobytes(server: Server) -> None:
    for filler in (b"&x=" + b"y" * 30_000, b"&x" * 15_000, b"&x=%20" * 5000):
        answer = await check(server, request(USUAL + filler))
        assert statuses(answer) in ([200, 200], [400]), filler[:10]
    assert statuses(await check(server, request(USUAL + b"&x=" + b"y" * 30_000))) == [200, 200]


MALFORMED = {
    "no request line": b"GARBAGE\r\n\r\n",
    "no version": b"GET /livez\r\n\r\n",
    "a version of the future": b"GET /livez HTTP/9.9\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "a host that is none": b"GET /livez HTTP/1.1\r\nHost: a@b/c\r\n\r\n",
    "a header without a colon": request(USUAL, b"nonsense"),
    "NUL in the target": request(USUAL + b"&x=\x00"),
    "NUL in a header": request(USUAL, b"X: \x00"),
    "a negative length": request(USUAL, b"Content-Length: -1"),
    "two lengths": request(USUAL, b"Content-Length: 1", b"Content-Length: 2"),
    "a length and chunks": request(USUAL, b"Content-Length: 1", b"Transfer-Encoding: chunked"),
    "more than any body may be": request(USUAL, b"Content-Length: 99999999999"),
    "a chunk of no length": request(USUAL, b"Transfer-Encoding: chunked", content=b"zz\r\n"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
async def test_server_refuses_what_is_no_http_and_closes(server: Server, sent: bytes) -> None:
    assert statuses(await check(server, sent)) in ([400], [413], [])


TARGETS = [
    b"http://h" + USUAL,
    b"http://[" + USUAL,
    b"*",
    b"//[",
    b"/%2e%2e/%2e%2e/etc/passwd",
    b"/../livez",
    b"a:1",
    b"?",
]


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS", b"CONNECT"])
async def test_server_answers_unusual_targets(server: Server, method: bytes) -> None:
    for target in TARGETS:
        answer = await check(server, request(target, method=method))
        # A whole URL is served by its path.
        served = {200} if target.startswith(b"http://") else set()
        assert statuses(answer)[0] in {204, 404, 405} | served, target


async def test_server_closes_half_a_request_without_an_answer(server: Server) -> None:
    address = urlsplit(server.base_url)
    for part in (b"", b"GET /li", request(USUAL)[:-2], request(USUAL, b"Content-Length: 9", content=b"1")):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(part)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
        writer.close()
    assert (await server.check()).code == 200
