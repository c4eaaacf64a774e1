"""The server behind Debian's nginx, with the nginx.conf of conf/."""

import asyncio
import re
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from genstatus_server.server.run import warn_of_proxies
from genstatus_server.settings import load_settings
from tests.support.nginx import CONF, Nginx, running_nginx
from tests.support.server import ROUTE, Server, until
from tests.support.world import World

pytestmark = pytest.mark.one_python

QUERY = ROUTE + "?submission_id=1&file_type=D1"
TOKEN = {"X-Session-ID": "owner"}


@pytest.fixture
def nginx(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with running_nginx(tmp_path_factory.mktemp("nginx"), [server.base_url.removeprefix("http://")]) as running:
        yield running


def browser(nginx: Nginx, **options: Any) -> httpx.AsyncClient:
    """Speaks HTTP/2 on one connection, as a browser does, and checks the certificate."""
    context = ssl.create_default_context(cafile=nginx.ca_file)
    limits = httpx.Limits(max_connections=1)
    return httpx.AsyncClient(http2=True, verify=context, base_url=nginx.url, limits=limits, timeout=60, **options)


async def test_nginx_carries_many_holds_in_one_http_2_connection(server: Server, world: World, nginx: Nginx) -> None:
    await world.put_job()
    async with browser(nginx) as client:
        asking = [asyncio.create_task(client.get(QUERY + "&wait=true", headers=TOKEN)) for _ in range(30)]
        await server.held(30)
        await world.put_job(status="failed", message="no data")
        for answer in await asyncio.gather(*asking):
            assert answer.http_version == "HTTP/2"
            assert answer.json()["status"] == "failed"
            assert answer.headers["x-wait-result"] == "settled"
            assert answer.headers["x-request-id"] in nginx.log
    assert "owner" not in nginx.log


async def test_server_behind_nginx_notices_a_client_that_leaves(server: Server, world: World, nginx: Nginx) -> None:
    await world.put_job()
    async with browser(nginx) as client:
        asking = asyncio.create_task(client.get(QUERY + "&wait=true", headers=TOKEN))
        await server.held()
        asking.cancel()
    await until(lambda: not len(server.services.holds), what="the hold is freed")


async def test_nginx_hides_the_internal_routes(nginx: Nginx) -> None:
    async with browser(nginx) as client:
        for path in ("/metrics", "/readyz", "/livez"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/openapi.json")).status_code == 200
        plain = await client.get(f"http://127.0.0.1:{nginx.http_port}{QUERY}")
        assert (plain.status_code, plain.headers["location"]) == (308, f"https://127.0.0.1{QUERY}")


async def test_server_behind_nginx_ignores_forwarded_headers(
    server: Server, nginx: Nginx, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even a proxy: the server has no use for the client's address, so there is nothing to configure."""
    sent = TOKEN | {"X-Forwarded-For": "192.0.2.66", "X-Real-IP": "192.0.2.66", "X-Forwarded-Proto": "gopher"}
    async with browser(nginx) as client:
        answer = await client.get(QUERY, headers=sent)
    direct = await server.fetch(QUERY, headers=sent)
    assert answer.status_code == direct.code == 200
    assert answer.content == direct.body
    captured = capfd.readouterr()
    assert "192.0.2.66" not in captured.out + captured.err + nginx.log


def test_nginx_waits_longer_than_the_longest_hold() -> None:
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", CONF.read_text())
    assert int(seconds) > load_settings({}, {}).wait_max + 1


@pytest.mark.parametrize(("limit", "is_warned"), [("60", False), ("56", False), ("55.5", True), ("29", True)])
def test_serve_warns_of_a_proxy_with_a_shorter_timeout(limit: str, *, is_warned: bool) -> None:
    with capture_logs() as records:
        warn_of_proxies(load_settings({"proxy_idle_timeout": limit}, {}))
        warn_of_proxies(load_settings({}, {}))  # Nothing is known of any.
    assert [record["event"] for record in records] == ["wait_max_too_long"] * is_warned
