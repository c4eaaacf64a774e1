"""The status page, as a person sees it."""

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Download, Route, expect

from genstatus_server.hold.holds import Hold
from tests.e2e.browser import Observed, StatusPage
from tests.e2e.conftest import OpenPage
from tests.support import npm
from tests.support.server import Server, seen_by, until
from tests.support.services import S3
from tests.support.world import World, upload

FILE_TYPES = ("D1", "D2", "E", "F")
LOGGED_OUT = "You are not logged in: this session token is unknown or has expired."
UMLAUTS = "t\N{LATIN SMALL LETTER O WITH DIAERESIS}k\N{LATIN SMALL LETTER E WITH ACUTE}n"
CANNOT_BE_SENT = "This is not a session token: copy it again, without any other characters."
JOBS = {file_type: 100 + number for number, file_type in enumerate(FILE_TYPES)}


async def put_all(world: World) -> None:
    """A job in `waiting` for each file type."""
    for file_type, job_id in JOBS.items():
        await world.put_job(job_id, file_type)


async def finish_all(world: World) -> None:
    for file_type, job_id in JOBS.items():
        await world.finish(job_id, f"1/{file_type}.csv")


async def content_of(download: Download) -> bytes:
    return await asyncio.to_thread(Path(await download.path()).read_bytes)


async def show_page(page: StatusPage, state: str) -> None:
    """Have the page believe that its tab is at the front, or is not."""
    await page.page.evaluate(
        "(state) => {"
        " Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });"
        " Object.defineProperty(document, 'hidden', { value: state === 'hidden', configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        state,
    )


def holds_of_d1(server: Server) -> frozenset[Hold]:
    """The requests that are held for D1 of submission 1."""
    return server.services.holds.of(("jobs", (1, "D1")))


async def test_page_shows_every_state_of_a_file(open_page: OpenPage, server: Server, world: World, s3: S3) -> None:
    upload(s3, "1/D1.csv", b"a,b\r\n1,2\r\n")
    quarter = {"start": datetime(2026, 7, 1, tzinfo=UTC), "end": datetime(2026, 9, 30, tzinfo=UTC)}
    changed = {"updated_at": datetime(2026, 10, 5, 14, 30, tzinfo=UTC)}
    uploaded = {"status": "finished", "key": "1/D1.csv"}
    await world.put_job(100, "D1", status="finished", upload=uploaded, size=10, **quarter, **changed)
    await world.put_job(101, "D2", **quarter, **changed)
    await world.put_job(102, "E", status="failed", message="The award data could not be read", **changed)
    page = await open_page()
    await page.watch()
    await page.says("D1", "Finished", "10 bytes", "07/01/2026 \N{EN DASH} 09/30/2026", "10/05/2026 14:30:00 UTC")
    await page.says("D2", "Being generated", re.compile(r"Waiting time\s*0:0"))
    await page.says("E", "Failed", "The award data could not be read")
    await page.says("F", "Never requested")
    await page.connection_is("Watching. Last check at ", "just now.")
    await expect(page.link("D1")).to_have_text("Download D1")
    for other in ("D2", "E", "F"):
        await expect(page.link(other)).to_be_hidden()
    await server.held(1)
    async with page.page.expect_download() as download:
        await page.link("D1").click()
    assert await content_of(await download.value) == b"a,b\r\n1,2\r\n"


async def test_page_shows_the_result_when_a_hold_settles(open_page: OpenPage, server: Server, world: World) -> None:
    await world.put_job()
    page = await open_page()
    await page.watch(files="D1")
    await server.held(1)
    await page.says("D1", re.compile(r"Waiting time\s*0:0[2-9]"))  # It is seen to count.
    await page.connection_is("Watching.")
    await world.finish(size=2_345_678)
    await page.says("D1", "Finished", re.compile(r"Waiting time\s*0:0\d"), "2.35 MB")
    await page.connection_is(re.compile("^Last check at .*just now.$"))
    await expect(page.page.get_by_role("status")).to_contain_text("File D1: Finished.")
    await server.held(0)


async def test_page_checks_a_failed_file_again_on_request(open_page: OpenPage, server: Server, world: World) -> None:
    await world.put_job()
    page = await open_page()
    await page.watch(files="D1")
    await server.held(1)
    await world.put_job(status="failed", message="No awards were found")
    await page.says("D1", "Failed", "No awards were found")
    await world.put_job()
    await seen_by(server, world)
    await page.page.get_by_role("button", name="Check again: file D1").click()
    await page.says("D1", "Being generated")
    await server.held(1)
    await world.finish()
    await page.says("D1", "Finished")


async def test_page_continues_after_a_reload(
    open_page: OpenPage, server: Server, world: World, observed: Observed
) -> None:
    await put_all(world)
    page = await open_page()
    await page.watch(files="D1 E")
    await server.held(2)
    await page.page.reload()
    await server.held(2)
    await expect(page.page.get_by_label("Session token")).to_have_value("owner")
    await expect(page.page.get_by_role("listitem")).to_have_count(2)
    await page.says("E", "Being generated")
    await finish_all(world)
    await page.says("E", "Finished")
    assert not [each for each in observed.requests if "owner" in each.url]
    # Kept for this tab, and nowhere else.
    assert await page.page.evaluate("[localStorage.length, document.cookie, location.href]") == [0, "", page.page.url]
    assert await page.page.evaluate("Object.keys(sessionStorage)") == ["genstatus"]
    assert await page.page.evaluate("indexedDB.databases()") == []


async def test_page_shares_one_hold_between_two_tabs(open_page: OpenPage, server: Server, world: World) -> None:
    await world.put_job()
    first, second = await open_page(), await open_page()
    for page in (first, second):
        await page.watch(files="D1")
        await page.says("D1", "Being generated")
        await page.connection_is("Watching.")
        await server.held(1)
    leaders = holds_of_d1(server)
    await second.page.close()  # It came last, and was the leader.
    await until(lambda: not leaders & holds_of_d1(server), what="the leader has gone")
    await server.held(1)
    third = await open_page()
    await third.watch(files="D1")
    await third.says("D1", "Being generated")
    await server.held(1)
    await world.finish()
    for page in (first, third):
        await page.says("D1", "Finished")


async def test_page_shares_no_hold_between_tokens(open_page: OpenPage, server: Server, world: World) -> None:
    await world.put_job()
    owner, stranger, reader = await open_page(), await open_page(), await open_page()
    await owner.watch(files="D1")
    await server.held(1)
    await stranger.watch("stranger", files="D1")
    await stranger.tells_problem("You do not have permission to see submission 1.")
    await reader.watch("reader", files="D1")
    await server.held(2)
    await world.log_out("reader")
    await reader.tells_problem(LOGGED_OUT)
    await owner.says("D1", "Being generated")
    await server.held(1)
    await world.finish()
    await owner.says("D1", "Finished")
    await expect(reader.page.get_by_role("listitem")).to_have_count(0)


@pytest.mark.timeout(seconds=300)
async def test_page_keeps_connections_free_in_eight_tabs(
    open_page: OpenPage, server: Server, world: World, observed: Observed
) -> None:
    await put_all(world)
    pages = [await open_page() for _ in range(8)]
    for page in pages:
        await page.watch()
        await page.says("F", "Being generated")
    await server.held(4)
    metrics = (await server.fetch("/metrics")).body.decode()
    assert "\ngenstatus_held_requests 4.0\n" in metrics
    await pages[3].page.reload()  # There are connections left for it.
    await pages[3].says("D1", "Being generated")
    await server.held(4)
    await finish_all(world)
    for page in pages:
        for file_type in FILE_TYPES:
            await page.says(file_type, "Finished")
    # One look in each tab for each file, its hold, the hold that was taken over, and little else.
    assert len(list(observed.checks())) < 8 * 4 * 4


async def test_page_polls_files_beyond_its_limit_of_holds(
    open_page: OpenPage, server: Server, world: World, observed: Observed
) -> None:
    await put_all(world)
    pages = [await open_page(), await open_page()]
    for page, token in zip(pages, ("owner", "admin"), strict=True):
        await page.watch(token)
        await page.says("F", "Being generated")
    await server.held(4)
    await pages[1].connection_is(re.compile(r"Next check in [1-9]\ss\."))
    await finish_all(world)
    for page in pages:
        for file_type in FILE_TYPES:
            await page.says(file_type, "Finished")


async def test_page_moves_the_hold_to_the_visible_tab(open_page: OpenPage, server: Server, world: World) -> None:
    await world.put_job()
    back, front = await open_page(), await open_page()
    await show_page(front, "hidden")
    await back.watch(files="D1")
    await server.held(1)
    await front.watch(files="D1")
    await front.says("D1", "Being generated")
    await front.connection_is("Watching.")
    leaders = holds_of_d1(server)
    await show_page(front, "visible")
    await until(lambda: not leaders & holds_of_d1(server), what="the other has taken over")
    await server.held(1)
    await world.finish()
    for page in (back, front):
        await page.says("D1", "Finished")


async def test_page_polls_without_a_secure_context(
    open_page: OpenPage, browser: BrowserContext, server: Server, world: World
) -> None:
    await world.put_job()
    page = await open_page()
    await page.page.goto(server.base_url.replace("127.0.0.1", "status.test") + "/")
    await page.watch(files="D1")
    await page.says("D1", "Being generated")
    await page.connection_is("Next check in")
    assert not len(server.services.holds)
    await world.finish()
    await page.says("D1", "Finished")


async def test_page_asks_for_a_token_when_the_session_ends(open_page: OpenPage, server: Server, world: World) -> None:
    await put_all(world)
    page = await open_page()
    await page.watch(files="D1 E")
    await server.held(2)
    await world.log_out("owner")
    await page.tells_problem(LOGGED_OUT)
    await expect(page.page.get_by_role("listitem")).to_have_count(0)
    token = page.page.get_by_label("Session token")
    await expect(token).to_be_focused()
    await expect(token).to_have_value("")
    assert await page.page.evaluate("sessionStorage.length") == 0
    await server.held(0)
    await page.watch("admin", files="D1")
    await expect(page.page.get_by_role("alert")).to_be_empty()
    await server.held(1)


async def test_page_asks_for_another_token_when_one_is_too_long(
    open_page: OpenPage, server: Server, observed: Observed
) -> None:
    page = await open_page()
    await page.watch("x" * 70_000)
    await page.tells_problem("This session token is too long.")
    await expect(page.page.get_by_role("listitem")).to_have_count(0)
    token = page.page.get_by_label("Session token")
    await expect(token).to_be_focused()
    await expect(token).to_have_value("")
    assert len(list(observed.checks())) <= 4, "no file is asked for twice"
    assert await page.page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize(
    ("host", "token"),
    [
        pytest.param("127.0.0.1", UMLAUTS, id="umlauts"),
        pytest.param("127.0.0.1", "a\N{ZERO WIDTH SPACE}b", id="zero width"),
        pytest.param("127.0.0.1", "   ", id="spaces"),
        pytest.param("status.test", UMLAUTS, id="no secure context"),
    ],
)
async def test_page_asks_for_another_token_when_one_cannot_be_sent(
    open_page: OpenPage, server: Server, observed: Observed, host: str, token: str
) -> None:
    page = await open_page(server.base_url.replace("127.0.0.1", host))
    await page.watch(token)
    await page.tells_problem(CANNOT_BE_SENT)
    await expect(page.page.get_by_role("listitem")).to_have_count(0)
    await expect(page.page.get_by_label("Session token")).to_be_focused()
    assert await page.page.evaluate("sessionStorage.length") == 0
    await page.page.reload()
    await expect(page.page.get_by_text("Enter a session token")).to_be_visible()
    assert not list(observed.checks())


async def test_page_recovers_from_a_kept_token_that_cannot_be_sent(open_page: OpenPage, server: Server) -> None:
    page = await open_page()
    kept = {"sessionToken": UMLAUTS, "submissionId": "1", "fileTypes": ["D1"], "since": 0}
    await page.page.evaluate("(kept) => sessionStorage.setItem('genstatus', JSON.stringify(kept))", kept)
    await page.page.reload()
    await page.tells_problem(CANNOT_BE_SENT)
    await page.watch()
    await page.says("D1", "Never requested")


async def open_on_a_finished_file(open_page: OpenPage, world: World, **fields: Any) -> StatusPage:
    """The page with D1 finished; its clock is the test's."""
    await world.put_job()
    await world.finish(**fields)
    page = await open_page()
    await page.page.clock.install()
    await page.watch(files="D1")
    await page.says("D1", "Finished")
    return page


async def test_page_requests_an_expired_url_again(
    open_page: OpenPage, world: World, s3: S3, observed: Observed
) -> None:
    upload(s3, "1/D1.csv", b"first")
    page = await open_on_a_finished_file(open_page, world, size=5)
    await page.connection_is("just now.")
    first = await page.link("D1").get_attribute("href")
    checks = len(list(observed.checks()))
    async with page.page.expect_download():
        await page.link("D1").click()
    assert len(list(observed.checks())) == checks
    await page.page.clock.fast_forward("00:31")  # More than half of the URL's life.
    await page.connection_is(re.compile(r"3\d s ago\."))
    async with page.page.expect_download() as download:
        await page.link("D1").click()
    assert await content_of(await download.value) == b"first"
    assert len(list(observed.checks())) == checks + 1
    await page.says("D1", "Finished")
    await page.connection_is("just now.")
    assert first
    assert first.startswith(s3.endpoint_url)


async def test_page_keeps_what_it_shows_when_a_gateway_answers_a_download(open_page: OpenPage, world: World) -> None:
    page = await open_on_a_finished_file(open_page, world)
    await page.page.clock.fast_forward("00:31")
    await page.page.route("**/v1/**", lambda route: route.fulfill(status=404, body="<html>no such upstream"))
    await page.link("D1").click()
    await page.tells_problem("The download could not begin, because the server could not be reached. Try again.")
    await page.says("D1", "Finished")


async def test_page_link_to_an_old_generation_shows_the_new_one(
    open_page: OpenPage, server: Server, world: World
) -> None:
    page = await open_on_a_finished_file(open_page, world)
    await world.put_job()
    await seen_by(server, world)
    await page.page.clock.fast_forward("00:31")
    await page.link("D1").click()
    await page.says("D1", "Being generated")
    await expect(page.link("D1")).to_be_hidden()
    await server.held(1)


async def test_page_works_by_keyboard_alone(open_page: OpenPage, server: Server, world: World, s3: S3) -> None:
    upload(s3, "1/D2.csv", b"x")
    await world.put_job(101, "D2")
    await world.finish(101, "1/D2.csv")
    await world.put_job(102, "E")
    page = await open_page()
    keys = page.page.keyboard
    await keys.press("Tab")  # to the API
    await keys.press("Tab")
    await keys.type("owner")
    await keys.press("Tab")
    await keys.type("1")
    await keys.press("Tab")
    await keys.press("Space")  # not D1
    for _ in range(3):
        await keys.press("Tab")
    await keys.press("Space")  # not F
    await keys.press("Tab")
    await keys.press("Enter")
    await page.says("D2", "Finished")
    await expect(page.page.get_by_role("listitem")).to_have_count(2)
    await keys.press("Tab")  # past "forget"
    await keys.press("Tab")
    await expect(page.link("D2")).to_be_focused()
    async with page.page.expect_download():
        await keys.press("Enter")
    await server.held(1)
    await keys.press("Shift+Tab")
    await keys.press("Enter")  # forget
    await expect(page.page.get_by_role("listitem")).to_have_count(0)
    await expect(page.page.get_by_label("Session token")).to_be_focused()
    await server.held(0)


@pytest.mark.parametrize("path", ["", "docs"])
@pytest.mark.parametrize("context_options", [{"viewport": {"width": 320, "height": 640}, "color_scheme": "dark"}])
async def test_page_fits_a_phone_in_dark_mode(open_page: OpenPage, world: World, path: str) -> None:
    await world.put_job()
    await world.put_job(101, "D2", status="failed", message="x" * 200)
    await world.put_job(102, "E", status="finished", upload={"status": "finished", "key": "1/E.csv"}, size=10**9)
    page = await open_page()
    if path:
        await page.page.get_by_role("link", name="API").click()
        await expect(page.page.get_by_role("heading", name="GET /readyz", exact=True)).to_be_visible()
    else:
        await page.watch()
        await page.says("E", "Finished", "1 GB")
    colour = "getComputedStyle(document.body).backgroundColor"
    assert await page.page.evaluate(colour) == "rgb(20, 22, 27)"
    assert await page.page.evaluate("document.documentElement.scrollWidth") == 320


async def test_page_requires_a_choice_before_a_request(open_page: OpenPage, observed: Observed) -> None:
    page = await open_page()
    await page.watch(files="")
    await page.watch(submission="1e3")
    await page.watch(token="")
    await expect(page.page.get_by_role("listitem")).to_have_count(0)
    assert not list(observed.checks())
    await page.watch(submission="99")
    await page.tells_problem("Submission 99 does not exist.")
    assert len(list(observed.checks())) <= 4, "no file is asked for twice"


@pytest.mark.parametrize("submission", ["00", "9223372036854775808"])
async def test_page_says_that_a_submission_with_an_impossible_id_does_not_exist(
    open_page: OpenPage, server: Server, submission: str
) -> None:
    page = await open_page()
    await page.watch(submission=submission)
    await page.tells_problem(f"Submission {submission} does not exist.")
    await expect(page.page.get_by_role("textbox", name="Submission ID")).to_be_focused()
    await expect(page.page.get_by_label("Session token")).to_have_value("owner")


async def test_page_says_which_numbers_a_submission_may_have(open_page: OpenPage, observed: Observed) -> None:
    page = await open_page()
    await page.watch(submission="9" * 20)
    field = page.page.get_by_role("textbox", name="Submission ID")
    await expect(field).to_have_attribute("title", "A number of at most 19 digits")
    assert await field.evaluate("(field) => field.validity.patternMismatch")
    assert not list(observed.checks())


@pytest.mark.parametrize("content", ["<html>400 Request Header Or Cookie Too Large", '{"message": "bad frobnicator"}'])
async def test_page_says_nothing_technical_of_an_unknown_refusal(
    open_page: OpenPage, server: Server, content: str
) -> None:
    page = await open_page()
    await page.page.route("**/v1/**", lambda route: route.fulfill(status=400, body=content))
    await page.watch()
    await page.tells_problem("The server refused this. Check the session token and the submission ID.")
    await expect(page.page.get_by_role("listitem")).to_have_count(0)


async def test_page_reports_a_lost_connection_once(open_page: OpenPage, server: Server, world: World) -> None:
    await put_all(world)
    page = await open_page()
    await page.watch()
    await server.held(4)
    is_answering = False

    async def fail(route: Route) -> None:
        await (route.fulfill(status=503, json={"message": "Service down"}) if is_answering else route.abort())

    await page.page.route("**/v1/**", fail)
    await page.page.reload()
    await page.connection_is("No connection to the server.")
    is_answering = True
    await page.connection_is("The server cannot answer now.")
    await expect(page.page.locator("body")).not_to_contain_text("Service down")
    for file_type in FILE_TYPES:
        await page.says(file_type, "Not known yet")
    await page.page.unroute_all()
    await page.says("D1", "Being generated")
    await page.connection_is("Watching. Last check at")


async def test_page_title_names_files_that_ended_in_the_background(
    open_page: OpenPage, server: Server, world: World
) -> None:
    await put_all(world)
    page = await open_page()
    await page.watch(files="D1 E")
    await server.held(2)
    await show_page(page, "hidden")
    await world.finish()
    await expect(page.page).to_have_title("D1 finished \N{EN DASH} Generation status")
    await world.put_job(JOBS["E"], "E", status="failed", message="No awards were found")
    await expect(page.page).to_have_title("D1 finished, E failed \N{EN DASH} Generation status")
    await show_page(page, "visible")
    await expect(page.page).to_have_title("Generation status")


@pytest.mark.timeout(seconds=300)  # It looks at every element, on a machine that may be busy.
@pytest.mark.parametrize(
    "context_options", [{"color_scheme": "light"}, {"color_scheme": "dark"}], ids=["light", "dark"]
)
async def test_page_passes_the_accessibility_checks_of_axe(open_page: OpenPage, server: Server, world: World) -> None:
    modules = await asyncio.to_thread(npm.installed)
    axe = (modules / "axe-core/axe.min.js").read_text()
    await world.put_job(100, "D1", status="finished", upload={"status": "finished", "key": "1/D1.csv"}, size=10)
    await world.put_job(101, "D2")
    await world.put_job(102, "E", status="failed", message="The award data could not be read")
    page = await open_page()

    async def violations(*within: str) -> list[str]:
        await page.page.evaluate(axe)
        found = await page.page.evaluate("(within) => axe.run(within).then(({ violations }) => violations)", within)
        return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found]

    assert not await violations("html")
    await page.watch()
    await page.says("F", "Never requested")
    await server.held(1)
    assert not await violations("html")
    await page.watch(submission="99")
    await page.tells_problem("Submission 99 does not exist.")
    assert not await violations("html")
    await page.page.get_by_role("link", name="API").click()
    await expect(page.page.get_by_role("heading", name="GET /readyz", exact=True)).to_be_visible()
    for details in await page.page.locator("#check_generation_status > div > details").all():
        await details.evaluate("(element) => (element.open = true)")
    assert not await violations("header", ".contents", "#check_generation_status", "#static_file")


async def test_page_renders_the_openapi_document(open_page: OpenPage) -> None:
    page = (await open_page()).page
    await page.get_by_role("link", name="API").click()
    document = await (await page.request.get("/openapi.json".join([page.url.rpartition("/")[0], ""]))).json()
    for path in document["paths"]:
        await expect(page.get_by_role("heading", name=f"GET {path}", exact=True)).to_be_visible()
    await expect(page.get_by_text("HEAD and OPTIONS")).to_have_count(len(document["paths"]))
    await expect(page.get_by_text("HEAD answers like GET").first).to_be_hidden()
    await expect(page.get_by_text("≤ 9223372036854775807").first).to_be_visible()
    await page.get_by_text("401 No, unknown or expired session.").first.click()
    await expect(page.get_by_text('"message": "Login Required"').first).to_be_visible()
    await expect(page.get_by_role("row", name="submission_id query, required").first).to_be_visible()
