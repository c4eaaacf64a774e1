"""A page that waits while its server is stopped, and started again."""

import asyncio
import re
from pathlib import Path

from playwright.async_api import expect

from genstatus_server.demo.embedded.process import free_port
from tests.e2e.conftest import OpenPage
from tests.support.processes import credentials, flags_for, running_server
from tests.support.services import S3
from tests.support.world import World


async def test_page_reconnects_after_a_restart_of_the_server(
    open_page: OpenPage, world: World, mongodb_uri: str, s3: S3, tmp_path: Path
) -> None:
    await world.put_job()
    flags = flags_for(mongodb_uri, world.name, s3, port=str(free_port()))
    with running_server(tmp_path, flags, credentials(s3)) as first:
        await asyncio.to_thread(first.wait_ready)
        page = await open_page(first.url)
        await page.watch(files="D1")
        await page.says("D1", "Being generated")
        await page.connection_is("Watching.")
        assert await asyncio.to_thread(first.end) == 0
        await page.connection_is("No connection to the server.", re.compile(r"Last check at .*(just now|\d+ s ago)\."))
        await expect(page.page.get_by_role("status")).to_contain_text("Connection lost.")
        await page.says("D1", "Being generated")  # What was known stays.
    with running_server(tmp_path, flags, credentials(s3)) as second:
        await asyncio.to_thread(second.wait_ready)
        await page.page.evaluate(
            "window.dispatchEvent(new Event('online'))"
        )  # The rest of the pause is not waited for.
        await page.connection_is("Watching.")
        await expect(page.page.get_by_role("status")).to_contain_text(re.compile("Connection lost.*Connected again"))
        await world.finish()
        await page.says("D1", "Finished")
