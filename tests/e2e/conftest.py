"""A browser of each test's own, in the test's own loop."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import BrowserContext, async_playwright
from tornado.ioloop import IOLoop

from tests.e2e.browser import CHROMIUM, FLAGS, PATIENCE_MS, Observed, StatusPage, screenshot_path
from tests.support.requirements import require
from tests.support.server import Server

OpenPage = Callable[..., Awaitable[StatusPage]]


@pytest.fixture
def observed() -> Observed:
    return Observed()


@pytest.fixture
def context_options() -> dict[str, object]:
    """What the browser is told of the person; a test overrides it."""
    return {}


@pytest.fixture
def browser(
    io_loop: IOLoop,
    server: Server,
    observed: Observed,
    context_options: dict[str, object],
    request: pytest.FixtureRequest,
) -> Iterator[BrowserContext]:
    """A person's browser, with no tab open yet. What its first tab shows at the end is kept as a screenshot."""
    require(CHROMIUM.exists(), f"the browser tests need {CHROMIUM} (Debian: apt-get install chromium)")
    stack = AsyncExitStack()

    async def launch() -> BrowserContext:
        playwright = await async_playwright().start()
        stack.push_async_callback(playwright.stop)
        launched = await stack.enter_async_context(
            await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        )
        context = await launched.new_context(**context_options)  # type: ignore[arg-type] # a test's own options
        context.set_default_timeout(PATIENCE_MS)
        observed.follow(context)
        return context

    async def keep_screenshot(context: BrowserContext) -> None:
        for page in context.pages[:1]:
            await page.screenshot(path=screenshot_path(request.node.name), full_page=True)

    try:
        context = io_loop.run_sync(launch)
        yield context
        io_loop.run_sync(lambda: keep_screenshot(context))
    finally:
        io_loop.run_sync(stack.aclose)
    assert not observed.complaints
    hosts = {request.url.split("/")[2].rpartition(":")[0] for request in observed.requests}
    assert hosts <= {"127.0.0.1", "status.test"}


@pytest.fixture
def open_page(browser: BrowserContext, server: Server) -> OpenPage:
    """Opens the status page in another tab."""

    async def open_page(url: str = "") -> StatusPage:
        page = await browser.new_page()
        await page.goto(f"{url or server.base_url}/")
        return StatusPage(page)

    return open_page
