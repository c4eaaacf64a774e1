"""The headers that every answer has, and those that only some have."""

import asyncio
import re
from http import HTTPStatus
from typing import Any

import pytest
from tornado.httpclient import HTTPResponse

from tests.support.server import ROUTE, Server, remember
from tests.support.world import World

pytestmark = pytest.mark.one_python

FRIEND = "https://broker.example.gov"
OTHER_FRIEND = "http://localhost:3000"

QUERY = f"{ROUTE}?submission_id=1&file_type=D1"
OWNER = {"X-Session-ID": "owner"}

#: Each kind of answer: method, path, the caller's headers, status.
ANSWERS: list[tuple[str, str, dict[str, str], int]] = [
    ("GET", QUERY, OWNER, 200),
    ("HEAD", QUERY, OWNER, 200),
    ("GET", f"{QUERY}&wait=true&timeout=2", OWNER, 200),
    ("GET", ROUTE, OWNER, 400),
    ("GET", f"{QUERY}&wait=x", OWNER, 400),
    ("GET", f"{ROUTE}?submission_id=99&file_type=D1", OWNER, 400),
    ("GET", QUERY, {}, 401),
    ("GET", QUERY, {"X-Session-ID": "stranger"}, 403),
    ("GET", "/nowhere", {}, 404),
    ("HEAD", "/nowhere", {}, 404),
    ("OPTIONS", "/nowhere", {}, 404),
    ("DELETE", QUERY, OWNER, 405),
    ("FOO", "/livez", {}, 405),
    ("OPTIONS", QUERY, {}, 204),
    ("GET", "/livez", {}, 200),
    ("GET", "/readyz", {}, 200),
    ("GET", "/metrics", {}, 200),
    ("GET", "/openapi.json", {}, 200),
    ("GET", "/", {}, 200),
    ("GET", "/docs", {}, 200),
    ("GET", "/static/genstatus.js", {}, 200),
    ("HEAD", "/static/status.css", {}, 200),
    ("GET", "/static/icon.svg", {}, 200),
    ("GET", "/static/package.json", {}, 404),
    ("GET", "/static/../static_files.py", {}, 404),
    ("GET", "/static/", {}, 404),
]

PREFLIGHT = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-session-id,prefer"}


@pytest.fixture
def server_options() -> dict[str, str]:
    return {"cors_origins": f"{FRIEND}, {OTHER_FRIEND}"}


async def answers(server: Server, **more: str) -> list[HTTPResponse]:
    """One answer of every kind, to callers that send `more` headers too; no job has been seen before."""
    all_answers = []
    for method, path, headers, status in ANSWERS:
        sent = headers | {name.replace("_", "-"): value for name, value in more.items()}
        response = await server.fetch(path, method=method, headers=sent, allow_nonstandard_methods=True)
        assert response.code == status, (method, path)
        all_answers.append(response)
    return all_answers


def names(value: str) -> set[str]:
    """The names in a header that lists some."""
    return {name.strip().lower() for name in value.split(",")}


# Every answer


async def test_answer_has_the_common_headers(server: Server, world: World) -> None:
    await world.put_job()
    for response in await answers(server):
        assert response.headers.get_list("Cache-Control") == ["no-store"]
        assert response.headers.get_list("X-Content-Type-Options") == ["nosniff"]
        assert "Server" not in response.headers
        assert "Etag" not in response.headers
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", response.headers["X-Request-ID"])
        assert not [value for _, value in response.headers.get_all() if "tornado" in value.lower()]


async def test_answer_has_its_content_type(server: Server) -> None:
    types = {
        "/metrics": "text/plain; version=0.0.4; charset=utf-8",
        "/": "text/html; charset=utf-8",
        "/docs": "text/html; charset=utf-8",
        "/static/genstatus.js": "text/javascript; charset=utf-8",
        "/static/status.css": "text/css; charset=utf-8",
        "/static/icon.svg": "image/svg+xml",
    }
    for response in await answers(server):
        if response.code == HTTPStatus.NO_CONTENT:
            assert "Content-Type" not in response.headers
        else:
            path = response.request.url.removeprefix(server.base_url)
            assert response.headers["Content-Type"] == types.get(path, "application/json")


@pytest.mark.parametrize("path", ["/", "/docs", "/static/genstatus.js"])
async def test_page_may_load_its_own_files_only(server: Server, path: str) -> None:
    headers = (await server.fetch(path)).headers
    policy = dict(each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";"))
    assert policy.pop("default-src") == "'none'"
    assert {policy.pop(name) for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert policy == dict.fromkeys(["base-uri", "form-action", "frame-ancestors"], "'none'")
    assert headers["Referrer-Policy"] == "no-referrer"


# X-Request-ID


@pytest.mark.parametrize("request_id", ["a", "0", "A-b_c.9", "x" * 128, "..", "-"])
async def test_request_id_of_the_caller_is_kept(server: Server, request_id: str) -> None:
    for response in await answers(server, X_Request_ID=request_id):
        assert response.headers.get_list("X-Request-ID") == [request_id]


async def test_request_id_that_is_not_sane_is_replaced(server: Server) -> None:
    for sent in ("", " ", "x" * 129, "a b", "a,b", "é", "a/b", "{}", "<script>", "a\tb", '"a"', "a:b"):
        response = await server.fetch("/livez", headers={"X-Request-ID": sent})
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", response.headers["X-Request-ID"])
        assert response.headers["X-Request-ID"] != sent


async def test_request_id_is_new_for_each_request(server: Server) -> None:
    all_ids = [response.headers["X-Request-ID"] for response in await answers(server)]
    assert len(set(all_ids)) == len(ANSWERS)


# Retry-After, X-Wait-Result, Preference-Applied


async def test_retry_after_is_sent_with_waiting_only(server: Server, world: World) -> None:
    for response in await answers(server):
        assert "Retry-After" not in response.headers
    await world.put_job(file_type="E")
    await remember(server, world, "E")
    for wait in ("false", "true"):
        response = await server.check(file_type="E", wait=wait, timeout=0.1)
        assert int(response.headers["Retry-After"]) > 0


async def test_wait_result_is_sent_only_with_wait(server: Server) -> None:
    assert "X-Wait-Result" not in (await server.check()).headers
    assert "X-Wait-Result" not in (await server.check(wait="false")).headers
    assert (await server.check(wait="true")).headers["X-Wait-Result"] == "settled"


@pytest.mark.parametrize(
    ("token", "query"),
    [
        (None, {}),
        ("unknown", {}),
        ("owner", {"submission_id": None}),
        ("owner", {"file_type": "x"}),
        ("owner", {"submission_id": 99}),
        ("stranger", {}),
    ],
)
async def test_wait_result_is_sent_with_errors_of_holds(
    server: Server, token: str | None, query: dict[str, Any]
) -> None:
    response = await server.check(token, wait="true", **query)
    assert response.code >= HTTPStatus.BAD_REQUEST
    assert response.headers["X-Wait-Result"] == "error"
    assert "X-Wait-Result" not in (await server.check(token, **query)).headers


@pytest.mark.parametrize(
    ("prefer", "query", "applied"),
    [
        ("wait=7", {}, "wait=7"),
        ("wait=07", {}, "wait=7"),
        ("WAIT=7", {}, "wait=7"),
        ('wait="7"', {}, "wait=7"),
        ("wait = 7", {}, "wait=7"),
        ("respond-async, wait=7; x=y", {}, "wait=7"),
        ("wait=7, wait=9", {}, "wait=7"),
        ("wait=999999", {}, "wait=55"),
        (f"wait={'9' * 5000}", {}, "wait=55"),
        ("wait=7", {"wait": "true"}, "wait=7"),
        ("wait=7", {"wait": "true", "timeout": "3"}, "wait=3"),
        ("wait=7", {"timeout": "0.5"}, "wait=0.5"),
        ("wait=7", {"timeout": "3000"}, "wait=55"),
        ("wait=7", {"wait": "false"}, None),
    ],
)
async def test_preference_applied_names_the_effective_length(
    server: Server, prefer: str, query: dict[str, str], applied: str | None
) -> None:
    response = await server.check(headers={"Prefer": prefer}, **query)
    assert response.code == HTTPStatus.OK
    assert response.headers.get("Preference-Applied") == applied
    assert ("X-Wait-Result" in response.headers) is (query.get("wait") != "false")


async def test_preference_that_is_invalid_is_ignored(server: Server, world: World) -> None:
    await world.put_job()
    senseless = (
        "",
        "wait",
        "wait=",
        "wait=0",
        "wait=-1",
        "wait=x",
        "wait=1.5",
        "wait=1e3",
        "wait=٣",
        "await=5",
        "x=wait=5",
    )
    for prefer in (*senseless, "handling=lenient", "wait=+1", "wait=1 2", ",,;;==", '"wait=5"'):
        response = await server.check(headers={"Prefer": prefer.encode().decode("latin-1")})
        assert response.code == HTTPStatus.OK, prefer
        assert "Preference-Applied" not in response.headers, prefer
        assert "X-Wait-Result" not in response.headers, prefer


async def test_preference_requests_a_hold(server: Server, world: World) -> None:
    await world.put_job()
    answer = asyncio.ensure_future(server.check(headers={"Prefer": "wait=20"}))
    await server.held()
    await world.finish()
    response = await answer
    assert (response.headers["X-Wait-Result"], response.headers["Preference-Applied"]) == ("settled", "wait=20")


# CORS


@pytest.mark.parametrize("origin", [FRIEND, OTHER_FRIEND])
async def test_cors_allows_a_configured_origin_every_answer(server: Server, world: World, origin: str) -> None:
    await world.put_job()
    for response in await answers(server, Origin=origin):
        assert response.headers.get_list("Access-Control-Allow-Origin") == [origin]
        exposed = names(response.headers["Access-Control-Expose-Headers"])
        assert exposed >= {"retry-after", "preference-applied", "x-wait-result", "x-request-id"}
        assert "origin" in names(response.headers["Vary"])


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "*", f"{FRIEND}.evil.example", f"{FRIEND}/", FRIEND.upper(), f"{FRIEND}:443"],
)
async def test_cors_headers_are_not_sent_to_another_origin(server: Server, origin: str) -> None:
    for response in await answers(server, Origin=origin, **{k.replace("-", "_"): v for k, v in PREFLIGHT.items()}):
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]


async def test_cors_headers_need_an_origin(server: Server) -> None:
    for response in await answers(server):
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]
        assert "origin" in names(response.headers["Vary"])  # The answer would differ all the same.


@pytest.mark.parametrize("path", [ROUTE, ROUTE.rstrip("/"), QUERY])
async def test_cors_answers_the_preflight_of_a_configured_origin(server: Server, path: str) -> None:
    response = await server.fetch(path, method="OPTIONS", headers=PREFLIGHT | {"Origin": FRIEND})
    assert response.code in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}
    assert response.headers["Access-Control-Allow-Origin"] == FRIEND
    assert "get" in names(response.headers["Access-Control-Allow-Methods"])
    assert names(response.headers["Access-Control-Allow-Headers"]) >= {"x-session-id", "prefer"}
    assert response.body == b""


@pytest.mark.parametrize("server_options", [{}])
async def test_cors_headers_need_a_configured_origin(server: Server) -> None:
    for response in await answers(server, Origin=FRIEND, **{k.replace("-", "_"): v for k, v in PREFLIGHT.items()}):
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]
        assert "Vary" not in response.headers
