"""An answer of every kind, recorded from the real server, for others to test their clients against.

    python -m tests.record_answers

writes one file each into docs/recorded-answers. What differs from run to run is replaced by a value of the same length.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from tornado.httpclient import HTTPResponse
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from genstatus_server.web import base
from tests.support import services
from tests.support.server import ROUTE, Server, seen_by, settings_for, start
from tests.support.services import S3
from tests.support.world import Document, World

FOLDER: Final = Path(__file__).parent.parent / "docs" / "recorded-answers"
#: The request headers that matter; Tornado writes them in its own way.
OURS: Final = {"Prefer": "Prefer", "X-Session-Id": "X-Session-ID", "If-None-Match": "If-None-Match"}
SEVERAL: Final = "/v1/generation_statuses/"

#: Signatures are made here, and nothing is ever sent there.
STORAGE: Final = S3("https://s3.example.gov", "EXAMPLEKEY", "an-open-secret", "us-gov-west-1", "reports")
MOMENT: Final = datetime(2026, 10, 2, 14, 30, 5, tzinfo=UTC)
QUARTER: Final[Document] = {
    "start": datetime(2026, 7, 1, tzinfo=UTC),
    "end": datetime(2026, 9, 30, tzinfo=UTC),
    "updated_at": MOMENT,
}
FINISHED: Final[Document] = {"status": "finished", "size": 10240, "updated_at": MOMENT}

Ask = Callable[[], Awaitable[HTTPResponse]]


class Recorder:
    """Asks the server, and keeps what was asked and answered under a name."""

    def __init__(self, server: Server, world: World) -> None:
        self.server = server
        self.world = world
        self.answers: dict[str, Document] = {}

    async def ask(self, name: str, about: str, query: str, **options: Any) -> None:
        await seen_by(self.server, self.world)
        self.keep(name, about, await self.fetch(query, **options))

    async def fetch(
        self,
        query: str,
        *,
        token: str | None = "owner",
        more: Mapping[str, str] | None = None,
        method: str = "GET",
        path: str = ROUTE,
    ) -> HTTPResponse:
        # Kept alive, because the server would close the connection of a client that does not ask for it.
        headers = {"Connection": "keep-alive"} | ({"X-Session-ID": token} if token else {})
        headers |= more or {}
        body = b"" if method == "POST" else None
        address = f"{path}?{query}" if query else path
        return await self.server.fetch(address, headers=headers, method=method, body=body)

    def keep(self, name: str, about: str, response: HTTPResponse) -> None:
        request = response.request
        headers = {OURS[key]: value for key, value in request.headers.get_all() if key in OURS}
        target = request.url.removeprefix(self.server.base_url)
        self.answers[name] = {
            "about": about,
            "request": {"method": request.method, "target": target, "headers": headers},
            "response": {
                "status": response.code,
                "headers": {key: masked(key, value) for key, value in sorted(response.headers.get_all())},
                "body": json.loads(same_every_time(response.body.decode())),
            },
        }

    async def while_held(self, token: str, then: Callable[[], Awaitable[object]]) -> HTTPResponse:
        """The answer to a request for F that is held until `then` was done."""
        await seen_by(self.server, self.world)
        held = asyncio.ensure_future(self.fetch("submission_id=1&file_type=F&wait=true", token=token))
        await self.server.held()
        await then()
        return await held


def masked(header: str, value: str) -> str:
    """A header's value as it is in every recording."""
    fixed = {"Date": "Fri, 02 Oct 2026 14:30:10 GMT", "X-Request-Id": "0" * 32}
    return fixed.get(header, value)


def same_every_time(body: str) -> str:
    """A body whose presigned URL is always the same, and as long as it was."""
    body = re.sub(r"(?<=X-Amz-Signature=)[0-9a-f]{64}", "0" * 64, body)
    body = re.sub(r"(?<=X-Amz-Date=)[0-9]{8}T[0-9]{6}Z", "20261002T143010Z", body)
    return re.sub(r"(?<=X-Amz-Credential=EXAMPLEKEY%2F)[0-9]{8}", "20261002", body)


async def record_results(recorder: Recorder) -> None:
    """The four statuses."""
    world = recorder.world
    await world.put_job(100, "D1", **QUARTER)
    await world.finish(100, "1/D1.csv", **FINISHED)
    await world.put_job(101, "E")
    await world.finish(101, "1/E.csv", **FINISHED)
    await recorder.ask("finished", "The file is there.", "submission_id=1&file_type=D1")
    await recorder.ask("finished-without-dates", "E and F have no start and no end.", "submission_id=1&file_type=E")
    await world.put_job(102, "F", updated_at=MOMENT)
    await recorder.ask("waiting", "A plain poll: ask again after Retry-After.", "submission_id=1&file_type=F")
    await world.put_job(103, "D2", status="failed", message="The file is too large", **QUARTER)
    await recorder.ask("failed", "The message is for people.", "submission_id=1&file_type=D2")
    await world.jobs.delete_one({"_id": 103})
    await recorder.ask("invalid", "Nobody has asked for this file.", "submission_id=1&file_type=D2")


async def record_several(recorder: Recorder) -> None:
    """The route for several files, after `record_results`."""
    query = "submission_id=1&file_type=D1,F"
    await recorder.ask("several", "One request for several files, in the order asked.", query, path=SEVERAL)
    known = {"If-None-Match": recorder.answers["several"]["response"]["headers"]["Etag"]}
    unchanged = "Held until its deadline, for nothing differs from the answer with this ETag."
    await recorder.ask("several-unchanged", unchanged, f"{query}&wait=any&timeout=2", path=SEVERAL, more=known)


async def record_holds(recorder: Recorder) -> None:
    """Each way in which a hold ends; draining is the last, for the server is of no use after it."""
    world, held = recorder.world, "submission_id=1&file_type=F&wait=true"
    await recorder.ask("deadline", "Ask again; this is no failure.", f"{held}&timeout=2")
    preferred = "The same, asked for by a header."
    await recorder.ask("deadline-preferred", preferred, "submission_id=1&file_type=F", more={"Prefer": "wait=1"})

    async def shed() -> None:
        await recorder.ask("shed", "Too many are held: this one was not.", held, token="admin")
        await world.finish(102, "1/F.csv", **FINISHED)

    recorder.keep("settled", "Held until the file was there.", await recorder.while_held("admin", shed))
    await world.put_job(102, "F", updated_at=MOMENT)

    logged_out = await recorder.while_held("reader", lambda: world.log_out("reader"))
    recorder.keep("401-while-held", "The session ended while the request was held.", logged_out)

    async def drain() -> None:
        recorder.server.services.draining = True
        recorder.server.services.holds.drain()

    recorder.keep("draining", "The server is being stopped.", await recorder.while_held("owner", drain))


async def record_errors(recorder: Recorder) -> None:
    """Each error that a caller can make, and those that it can meet."""
    ask = recorder.ask
    await ask("400-missing", "No submission_id.", "file_type=D1")
    await ask("400-missing-file-type", "No file_type.", "submission_id=1")
    await ask("400-invalid", "What is wrong with each parameter is in errors.", "submission_id=1&file_type=D3&wait=yes")
    await ask("400-no-such-submission", "It never was, or was deleted.", "submission_id=999&file_type=D1")
    await ask("401", "No session, or one that has ended.", "submission_id=1&file_type=D1", token=None)
    await ask("403", "Somebody else's submission.", "submission_id=1&file_type=D1", token="stranger")
    await ask("404", "There is no such path.", "", path="/v1/nothing")
    await ask("405", "Another method.", "submission_id=1&file_type=D1", method="POST")


async def record_unavailable(recorder: Recorder) -> None:
    """A server that cannot sign; one that cannot reach MongoDB answers the same."""
    await recorder.world.put_job(100, "D1", **QUARTER)
    await recorder.world.finish(100, "1/D1.csv", **FINISHED)
    await recorder.ask("503", "Ask again after Retry-After.", "submission_id=1&file_type=D1")


async def record(uri: str, world: World, client: SimpleAsyncHTTPClient) -> dict[str, Document]:
    """Every recording by its name. The database of `world` is as `World.begin` leaves it."""
    options = {"max_waits_per_session": "1"}
    settings = settings_for(uri, world.name, STORAGE, **options)
    answers: dict[str, Document] = {}
    with patch.object(base, "spread", lambda low, _high: str(low)):
        async with serving(settings, STORAGE, client) as server:
            recorder = Recorder(server, world)
            for part in (record_errors, record_results, record_several, record_holds):
                await part(recorder)
            answers |= recorder.answers
        async with serving(settings, replace(STORAGE, access_key=""), client) as server:
            recorder = Recorder(server, world)
            await record_unavailable(recorder)
            answers |= recorder.answers
    assert all(answer["response"]["status"] != HTTPStatus.INTERNAL_SERVER_ERROR for answer in answers.values())
    return answers


@asynccontextmanager
async def serving(settings: Any, storage: S3, client: SimpleAsyncHTTPClient) -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        yield await start(stack, settings, storage, client)


def as_text(answer: Document) -> str:
    """The content of a recording's file."""
    return json.dumps(answer, indent=2, ensure_ascii=False) + "\n"


async def write_all(uri: str) -> None:
    world = World(uri, "recorded_answers")
    await world.client.drop_database(world.name)
    await world.begin()
    with closing(SimpleAsyncHTTPClient(force_instance=True)) as client:
        answers = await record(uri, world, client)
    await world.close()
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for name, answer in answers.items():
        (FOLDER / f"{name}.json").write_text(as_text(answer))


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with closing(services.Services()) as shared:
        asyncio.run(write_all(shared.address("mongodb").url))


if __name__ == "__main__":
    main()
