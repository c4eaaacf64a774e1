"""`GET /v1/generation_statuses/`: several files of a submission in one request, and in one hold."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import pytest
from tornado.httpclient import HTTPResponse

from genstatus_server.model.jobs import job_from_document
from genstatus_server.web.status import first_leaves_waiting
from tests.support.server import Server, body, remember, seen_by, settings_for, start, until
from tests.support.services import S3
from tests.support.world import Document, World

pytestmark = pytest.mark.one_python

STATUSES = "/v1/generation_statuses/"


def ask(server: Server, token: str = "owner", headers: dict[str, str] | None = None, **query: object) -> Any:
    parameters = {"submission_id": 1, "file_type": "D1,D2", **query}
    path = f"{STATUSES}?" + "&".join(f"{name}={value}" for name, value in parameters.items() if value is not None)
    return asyncio.ensure_future(server.fetch(path, headers={"X-Session-ID": token, **(headers or {})}))


def files(response: HTTPResponse) -> list[tuple[Any, Any]]:
    assert response.code == HTTPStatus.OK, response.body
    return [(file["file_type"], file["status"]) for file in body(response)["files"]]


async def put_jobs(world: World, *file_types: str) -> None:
    for number, file_type in enumerate(file_types):
        await world.put_job(100 + number, file_type)


async def test_statuses_match_the_single_route_in_request_order(server: Server, world: World) -> None:
    await put_jobs(world, "D1", "D2", "E")
    await world.finish(101, size=5)
    response = await ask(server, file_type="F,D2,E,D1")
    assert list(body(response)) == ["submission_id", "files"]
    assert body(response)["submission_id"] == 1
    singles = [body(await server.check(file_type=file_type)) for file_type in ("F", "D2", "E", "D1")]
    for one, single in zip(body(response)["files"], singles, strict=True):
        assert list(one) == list(single)
        assert {**one, "url": None} == {**single, "url": None}
    assert int(response.headers["Retry-After"]) > 0
    assert "X-Wait-Result" not in response.headers


async def test_statuses_accept_one_file_and_no_slash(server: Server) -> None:
    response = await server.fetch(f"{STATUSES[:-1]}?submission_id=1&file_type=E", headers={"X-Session-ID": "owner"})
    assert files(response) == [("E", "invalid")]
    assert "Retry-After" not in response.headers


async def test_statuses_accept_repeated_and_comma_separated_files(server: Server) -> None:
    for query in ("F,D1,E", "F&file_type=D1&file_type=E", "F,D1&file_type=E"):
        assert [file_type for file_type, _ in files(await ask(server, file_type=query))] == ["F", "D1", "E"]


FILE_TYPE = "file_type: Must be either D1, D2, E or F"
BRACKETS = "file_type: Must be sent as file_type=D1,D2 or as file_type=D1&file_type=D2, without brackets."


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ({"file_type": ""}, 400, FILE_TYPE),
        ({"file_type": "D1,"}, 400, FILE_TYPE),
        ({"file_type": "D1,%20D2"}, 400, FILE_TYPE),
        ({"file_type": "D1,A"}, 400, FILE_TYPE),
        ({"file_type": "D1,D1"}, 400, "file_type: Must name each file only once."),
        ({"file_type": "D1&file_type="}, 400, FILE_TYPE),
        ({"file_type": "D1,E&file_type=D1"}, 400, "file_type: Must name each file only once."),
        ({"file_type": "D1&file_type=%ff"}, 400, "file_type: Must be valid UTF-8."),
        ({"file_type": None, "file_type[]": "D1"}, 400, BRACKETS),
        ({"file_type": None, "file_type[0]": "D1"}, 400, BRACKETS),
        ({"file_type": "E", "file_type%5B%5D": "D1"}, 400, BRACKETS),
        ({"wait": "true"}, 400, "wait: Must be all or any"),
        ({"wait": "all&wait=any"}, 400, "wait: Must be given only once."),
        ({"timeout": "0"}, 400, "timeout: Must be a number of seconds greater than 0."),
        ({"submission_id": "x"}, 400, "submission_id: Must be an integer from 1 to 9223372036854775807."),
        ({"submission_id": "99"}, 400, "No such submission"),
    ],
)
async def test_statuses_name_invalid_parameters(server: Server, query: Document, status: int, message: str) -> None:
    response = await ask(server, **query)
    assert (response.code, body(response)["message"]) == (status, message)


async def test_statuses_check_access_first(server: Server) -> None:
    assert (await ask(server, "nobody", submission_id="x")).code == HTTPStatus.UNAUTHORIZED
    assert (await ask(server, "stranger", wait="all")).code == HTTPStatus.FORBIDDEN


async def test_wait_any_ends_with_the_first_file_that_leaves_waiting(server: Server, world: World) -> None:
    await put_jobs(world, "D1", "D2", "E")
    await world.finish(102)  # It was there before: it ends nothing.
    answer = ask(server, file_type="D1,D2,E", wait="any")
    await server.held()
    await world.finish(101)
    response = await answer
    assert files(response) == [("D1", "waiting"), ("D2", "finished"), ("E", "finished")]
    assert response.headers["X-Wait-Result"] == "settled"
    assert int(response.headers["Retry-After"]) > 0


async def test_wait_all_ends_when_no_file_is_waiting(server: Server, world: World) -> None:
    await put_jobs(world, "D1", "D2")
    answer = ask(server, wait="all")
    await server.held()
    [hold] = server.services.holds.of(("submissions", 1))
    await world.finish(101)
    await until(lambda: hold.woken_at is not None)
    await server.held()
    await world.finish(100)
    response = await answer
    assert files(response) == [("D1", "finished"), ("D2", "finished")]
    assert response.headers["X-Wait-Result"] == "settled"
    assert "Retry-After" not in response.headers


def test_wait_any_ends_for_a_file_that_was_waiting() -> None:
    """A job that was cached as finished may be generated once more."""
    waiting, finished = (job_from_document({"status": status}) for status in ("waiting", "failed"))
    is_settled = first_leaves_waiting()
    assert is_settled([finished, finished])
    assert not is_settled([waiting, finished])
    assert not is_settled([waiting, finished])
    assert is_settled([finished, finished])


@pytest.mark.parametrize("wait", ["all", "any"])
async def test_wait_answers_at_once_if_no_file_is_waiting(server: Server, world: World, wait: str) -> None:
    await world.put_job(100, "D1", status="failed")
    response = await ask(server, wait=wait)
    assert files(response) == [("D1", "failed"), ("D2", "invalid")]
    assert response.headers["X-Wait-Result"] == "settled"


@pytest.mark.parametrize("wait", ["all", "any"])
async def test_wait_ends_at_the_deadline_with_a_200(server: Server, world: World, wait: str) -> None:
    await put_jobs(world, "D1", "D2")
    await remember(server, world, "D1", "D2")
    response = await ask(server, wait=wait, timeout=0.2)
    assert files(response) == [("D1", "waiting"), ("D2", "waiting")]
    assert response.headers["X-Wait-Result"] == "deadline"


async def test_statuses_read_a_preference_as_wait_all(server: Server, world: World) -> None:
    await put_jobs(world, "D1", "D2")
    answer = ask(server, headers={"Prefer": "wait=20"})
    await server.held()
    await world.finish(100)
    await world.finish(101)
    response = await answer
    assert files(response) == [("D1", "finished"), ("D2", "finished")]
    assert response.headers["Preference-Applied"] == "wait=20"


async def test_wait_for_several_files_is_one_hold_and_leaves_nothing(server: Server, world: World) -> None:
    await put_jobs(world, "D1", "D2", "E", "F")
    answer = ask(server, file_type="D1,D2,E,F", wait="all")
    await server.held()
    assert server.services.metrics.registry.get_sample_value("genstatus_held_requests") == 1
    await world.log_out("owner")
    assert (await answer).code == HTTPStatus.UNAUTHORIZED
    assert not list(server.services.holds.keys())


async def test_wait_for_several_files_ends_at_a_drain(server: Server, world: World) -> None:
    await put_jobs(world, "D1")
    answer = ask(server, wait="any")
    await server.held()
    server.services.holds.drain()
    response = await answer
    assert response.headers["X-Wait-Result"] == "draining"
    assert response.headers["Connection"] == "close"


class TestEntityTag:
    """The `ETag`, and `If-None-Match` with `wait=any`."""

    async def test_etag_stays_while_only_the_signature_differs(
        self, server: Server, world: World, mongodb_uri: str, s3: S3
    ) -> None:
        await put_jobs(world, "D1", "D2")
        await world.finish(100)
        first = await ask(server)
        async with AsyncExitStack() as stack:
            settings = settings_for(mongodb_uri, world.name, s3, url_ttl="61")
            second = await ask(await start(stack, settings, s3, server.client))
        assert first.headers["ETag"] == second.headers["ETag"]
        assert body(first) != body(second)
        assert first.headers["ETag"].startswith('W/"')
        assert (await ask(server, file_type="D2,D1")).headers["ETag"] != first.headers["ETag"]

    @pytest.mark.parametrize(
        "fields",
        [
            {"size": 7},
            {"status": "failed", "message": "Out of rows."},
            {"upload.key": "another.csv"},
            {"upload.bucket": "another-bucket"},
        ],
    )
    async def test_entity_tag_changes_with_every_visible_field(
        self, server: Server, world: World, fields: Document
    ) -> None:
        await put_jobs(world, "D1", "D2")
        await world.finish(100)
        known = (await ask(server)).headers["ETag"]
        answer = ask(server, wait="any", headers={"If-None-Match": known})
        await server.held()
        await world.jobs.update_one({"_id": 100}, {"$set": fields})
        response = await answer
        assert response.headers["ETag"] != known
        assert response.headers["X-Wait-Result"] == "settled"

    async def test_if_none_match_notices_a_change_between_two_requests(self, server: Server, world: World) -> None:
        await put_jobs(world, "D1", "D2")
        known = (await ask(server)).headers["ETag"]
        await world.finish(100)
        await world.put_job(100, "D1")  # A new generation, which looks like the old one: nothing differs.
        await world.finish(101)
        await seen_by(server, world)
        response = await ask(server, wait="any", headers={"If-None-Match": known})
        assert files(response) == [("D1", "waiting"), ("D2", "finished")]

    async def test_if_none_match_holds_although_a_file_is_finished(self, server: Server, world: World) -> None:
        await put_jobs(world, "D1", "D2")
        await world.finish(100)
        known = (await ask(server)).headers["ETag"]
        answer = ask(server, wait="any", headers={"If-None-Match": f'"other", {known.removeprefix("W/")}'})
        await server.held()
        await world.finish(101)
        assert files(await answer) == [("D1", "finished"), ("D2", "finished")]

    async def test_if_none_match_ends_at_the_deadline_with_the_same_tag(self, server: Server, world: World) -> None:
        await put_jobs(world, "D1", "D2")
        await remember(server, world, "D1", "D2")
        known = (await ask(server)).headers["ETag"]
        response = await ask(server, wait="any", timeout=0.2, headers={"If-None-Match": known})
        assert (response.code, response.headers["ETag"]) == (HTTPStatus.OK, known)
        assert response.headers["X-Wait-Result"] == "deadline"

    @pytest.mark.parametrize(("max_waits", "result"), [(0, "shed"), (1, "deadline")])
    async def test_statuses_have_retry_after_though_nothing_waits(
        self, server: Server, world: World, max_waits: int, result: str
    ) -> None:
        await remember(server, world, "D1", "D2")
        server.services.settings = replace(server.services.settings, max_waits=max_waits)
        known = (await ask(server)).headers["ETag"]
        response = await ask(server, wait="any", timeout=0.2, headers={"If-None-Match": known})
        assert files(response) == [("D1", "invalid"), ("D2", "invalid")]
        assert response.headers["X-Wait-Result"] == result
        assert int(response.headers["Retry-After"]) > 0

    async def test_if_none_match_is_never_answered_with_304(self, server: Server, world: World) -> None:
        await remember(server, world, "D1", "D2")
        known = (await ask(server)).headers["ETag"]
        for wait in ({}, {"wait": "all"}):
            assert (await ask(server, headers={"If-None-Match": known}, **wait)).code == HTTPStatus.OK
        answer = await ask(server, wait="any", timeout=0.2, headers={"If-None-Match": "*"})
        assert answer.code == HTTPStatus.OK


@pytest.mark.parametrize("server_options", [{"generated_at_format": "iso"}])
async def test_generated_at_has_the_configured_format_on_both_routes(server: Server, world: World) -> None:
    await world.put_job(updated_at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC))
    [several, _] = body(await ask(server))["files"]
    assert several["generated_at"] == body(await server.check())["generated_at"] == "2026-03-04 05:06:07"
