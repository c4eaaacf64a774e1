"""The server behind Debian's apache2, whose mod_deflate marks the ETag of what it compresses."""

import asyncio

import httpx
import pytest

from tests.support.apache import running_apache
from tests.support.server import Server
from tests.support.world import World

pytestmark = pytest.mark.one_python

QUERY = "/v1/generation_statuses/?submission_id=1&file_type=D1,D2"
TOKEN = {"X-Session-ID": "owner"}


async def test_statuses_are_held_for_a_tag_that_apache_marked(
    server: Server, world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await world.put_job()
    with running_apache(tmp_path_factory.mktemp("apache"), server.base_url.removeprefix("http://")) as url:
        async with httpx.AsyncClient(base_url=url, headers=TOKEN, timeout=60) as client:
            first = await client.get(QUERY)
            assert first.headers["content-encoding"] == "gzip"
            assert first.headers["etag"].endswith('-gzip"')
            marked = {"If-None-Match": first.headers["etag"]}
            answer = asyncio.create_task(client.get(QUERY + "&wait=any&timeout=30", headers=marked))
            await server.held()
            await world.put_job(status="failed", message="no data")
            assert (await answer).headers["x-wait-result"] == "settled"
            assert (await answer).json()["files"][0]["status"] == "failed"
