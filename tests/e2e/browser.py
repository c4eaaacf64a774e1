"""Debian's Chromium, and what a person does on the status page."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page, Request, expect

CHROMIUM: Final = Path("/usr/bin/chromium")
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A name that is not the loopback's: what comes from it over plain HTTP is no secure context.
    "--host-resolver-rules=MAP status.test 127.0.0.1",
)
#: A page is left alone for so long before a test calls it late; the machine may be busy.
PATIENCE_MS: Final = 60_000
SCREENSHOTS: Final = Path(__file__).parent.parent.parent / "screenshots"

expect.set_options(timeout=PATIENCE_MS)


@dataclass
class Observed:
    """What a browser's pages complained of, and everything that they asked for."""

    complaints: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def follow(self, context: BrowserContext) -> None:
        context.on("console", self._note)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108 - a builtin is refused

    def _note(self, message: ConsoleMessage) -> None:
        # The browser itself says that an answer was no 200, or that there was none: tests do that on purpose.
        if message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def checks(self) -> Iterator[str]:
        """The requests for a status, as their queries."""
        return (urlsplit(each.url).query for each in self.requests if "/check_generation_status/" in each.url)


class StatusPage:
    """One tab with the status page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def watch(self, token: str = "owner", submission: str = "1", files: str = "D1 D2 E F") -> None:
        """Fill in the form, and begin."""
        await self.page.bring_to_front()  # A tab at the back draws nothing, and is slow to click in.
        await self.page.get_by_label("Session token").fill(token)
        await self.page.get_by_role("textbox", name="Submission ID").fill(submission)
        for name in ("D1", "D2", "E", "F"):
            await self.page.get_by_role("checkbox", name=name).set_checked(name in files.split())
        await self.page.get_by_role("button", name="Watch").click()

    def file(self, file_type: str) -> Locator:
        heading = self.page.get_by_role("heading", name=f"File {file_type}", exact=True)
        return self.page.get_by_role("listitem").filter(has=heading)

    def link(self, file_type: str) -> Locator:
        return self.page.get_by_role("link", name=re.compile(f"^Download {file_type}"))

    async def says(self, file_type: str, *texts: str | re.Pattern[str]) -> None:
        """Wait until the file's row says all of this."""
        for text in texts:
            await expect(self.file(file_type)).to_contain_text(text)

    async def connection_is(self, *texts: str | re.Pattern[str]) -> None:
        """Wait until the line about the connection, which is for all files, says all of this."""
        for text in texts:
            await expect(self.page.locator("#connection")).to_contain_text(text)

    async def tells_problem(self, text: str) -> None:
        await expect(self.page.get_by_role("alert")).to_have_text(text)


def screenshot_path(test_name: str) -> Path:
    name = re.sub("[^A-Za-z0-9]+", "-", test_name.removeprefix("test_")).strip("-")
    return SCREENSHOTS / f"{name}.png"
