"""The recorded answers are those that the server gives, and the Python client understands each of them."""

import json
from pathlib import Path

import pytest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from genstatus_server.client import GenerationRefused, ServerUnavailable
from genstatus_server.client.rules import Reply, read
from tests.record_answers import FOLDER, as_text, record
from tests.support.world import World

pytestmark = pytest.mark.one_python

RECORDINGS = sorted(FOLDER.glob("*.json"))


async def test_recorded_answers_are_what_the_server_answers(
    world: World, mongodb_uri: str, http_client: SimpleAsyncHTTPClient
) -> None:
    answers = await record(mongodb_uri, world, http_client)
    again = "if that is meant: python -m tests.record_answers"
    assert sorted(f"{name}.json" for name in answers) == [path.name for path in RECORDINGS], again
    for name, answer in answers.items():
        assert as_text(answer) == (FOLDER / f"{name}.json").read_text(), again


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_answers_are_complete(path: Path) -> None:
    response = json.loads(path.read_text())["response"]
    assert int(response["headers"]["Content-Length"]) == len(json.dumps(response["body"]))
    assert response["headers"]["Cache-Control"] == "no-store"


def test_recorded_answers_with_equal_content_have_equal_tags() -> None:
    first, second = (
        json.loads((FOLDER / f"{name}.json").read_text())["response"] for name in ("several", "several-unchanged")
    )
    assert first["headers"]["Etag"] == second["headers"]["Etag"]
    assert first["body"] == second["body"]
    assert second["headers"]["X-Wait-Result"] == "deadline"


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_answers_are_understood_by_the_python_client(path: Path) -> None:
    response = json.loads(path.read_text())["response"]
    headers = {name.lower(): value for name, value in response["headers"].items()}
    reply = Reply(response["status"], headers, json.dumps(response["body"]).encode())
    match response["status"]:
        case 200 if "files" in response["body"]:
            with pytest.raises(ServerUnavailable):  # It asks for one file at a time.
                read(reply)
        case 200:
            assert {name: getattr(read(reply), name) for name in response["body"]} == response["body"]
        case 400 | 401 | 403 as status:
            with pytest.raises(GenerationRefused) as refused:
                read(reply)
            assert (refused.value.status, refused.value.message) == (status, response["body"]["message"])
            assert refused.value.errors == response["body"].get("errors", {})
        case status:
            with pytest.raises(ServerUnavailable) as unavailable:
                read(reply)
            assert unavailable.value.status == status
            assert unavailable.value.retry_after == float(headers.get("retry-after", 0))
