"""The OpenAPI document: valid, whole, and true of the live server."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from tornado.routing import PathMatches

from genstatus_server.mongo.change_stream import StreamState
from genstatus_server.server.app import make_application
from genstatus_server.web.openapi import openapi_document
from tests.e2e.strict_document import strict_document
from tests.support.server import Server, body
from tests.support.world import World

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
DOCUMENT = strict_document()
#: Of what is served: generators of clients stumble over these, or drop what is said with them.
STUMBLING_BLOCKS = ("if", "then", "else", "const", "allOf", "propertyNames")
#: Which a 32-bit integer could not hold.
LARGE = {"submission_id", "job_id", "size"}
METHODS = ("get", "head", "options")
#: Cases that are made up for each operation at the most, and requests of one run at the least.
EXAMPLES = 40
LEAST_CASES = 400


def resolve(value: dict[str, Any]) -> dict[str, Any]:
    """What stands at a `$ref`, or the object itself."""
    if "$ref" not in value:
        return value
    found = DOCUMENT
    for name in value["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def fits(schema: dict[str, Any], example: Any) -> None:
    OAS31Validator({**schema, "components": DOCUMENT["components"]}).validate(example)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        assert tuple(item) == METHODS, path
        for method in METHODS:
            yield path, method, item[method]


def responses() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, method, operation in operations():
        for status, response in operation["responses"].items():
            yield f"{method} {path} {status}", resolve(response)


def objects(value: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the document but the examples, with the key that it stands at."""
    if isinstance(value, dict):
        yield name, value
        for key, inner in value.items():
            if key != "examples":
                yield from objects(inner, key)
    for inner in value if isinstance(value, list) else ():
        yield from objects(inner, name)


def test_openapi_document_is_valid() -> None:
    validate(openapi_document())
    validate(DOCUMENT)


def test_openapi_document_avoids_keywords_that_generators_misread() -> None:
    for name, each in objects(openapi_document()):
        assert not set(STUMBLING_BLOCKS) & set(each), name
        assert "(?" not in each.get("pattern", ""), name


def test_openapi_declares_large_integers_as_int64() -> None:
    for name, each in objects(openapi_document()):
        if "schema" in each and each.get("name") in LARGE:
            assert each["schema"]["format"] == "int64", each["name"]
        if name in LARGE:
            assert each["format"] == "int64", name


def test_openapi_describes_every_parameter_with_a_valid_example() -> None:
    for path, method, operation in operations():
        for parameter in map(resolve, operation.get("parameters", ())):
            assert parameter["description"], (path, method)
            examples = [parameter["example"]] if "example" in parameter else parameter["schema"]["examples"]
            for example in examples:
                fits(parameter["schema"], example)


def test_openapi_describes_every_header_with_a_valid_example() -> None:
    for where, response in responses():
        assert response["headers"], where
        for header in map(resolve, response["headers"].values()):
            assert header["description"]
            fits(header["schema"], header["example"])


def test_openapi_gives_every_body_a_valid_example() -> None:
    for where, response in responses():
        is_bodiless = where.startswith("head") or where.endswith("204")
        assert "content" in response or is_bodiless, where
        for content in response.get("content", {}).values():
            assert content["examples"], where
            for example in content["examples"].values():
                fits(content["schema"], example["value"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://s3/x"},
        {"status": "waiting"},
        {"start": None},
        {"message": "?"},
        {"more": 1},
        {"job_id": "1"},
        {"size": -1},
        {"generated_at": "2026-11-02"},
    ],
)
def test_openapi_schema_refuses_an_invalid_answer(wrong: dict[str, Any]) -> None:
    schema = DOCUMENT["components"]["schemas"]["GenerationStatus"]
    content = DOCUMENT["paths"]["/v1/check_generation_status/"]["get"]["responses"]["200"]["content"]
    examples = {name: example["value"] for name, example in content["application/json"]["examples"].items()}
    base = examples["waiting" if "url" in wrong or "message" in wrong else "finished"]
    validator = OAS31Validator({**schema, "components": DOCUMENT["components"]})
    assert validator.is_valid(base)
    assert not validator.is_valid(base | wrong)


async def test_openapi_lists_every_route(server: Server) -> None:
    [file_name] = DOCUMENT["paths"]["/static/{name}"]["get"]["parameters"]
    names = file_name["schema"]["enum"]
    documented = {path.replace("{name}", name) for path in DOCUMENT["paths"] for name in names}
    routes = [rule.matcher for rule in make_application(server.services).wildcard_router.rules]
    for route in routes:
        assert isinstance(route, PathMatches)
        assert [path for path in documented if route.regex.fullmatch(path)], route.regex
    for path in documented:
        assert (await server.fetch(path)).code != HTTPStatus.NOT_FOUND, path


@pytest.mark.parametrize("state", StreamState)
async def test_openapi_describes_everything_that_readyz_names(server: Server, state: StreamState) -> None:
    server.services.draining = True
    server.services.follower.state = state
    server.services.follower.views = ["jobs", "sessions", "submissions", "users"]
    fits(DOCUMENT["components"]["schemas"]["Readiness"], body(await server.fetch("/readyz")))


async def keep_generating(world: World) -> None:
    """One generation of D2 after the other: requests that are held are answered soon."""
    while True:
        await world.put_job(101, "D2")
        await asyncio.sleep(0.05)
        await world.finish(101, "1/D2.csv")
        await asyncio.sleep(0.05)


async def run_schemathesis(base_url: str, folder: Path) -> tuple[int | None, str]:
    """Its exit status, and what it says. HEAD is left out: it runs the handler of GET."""
    document = folder / "openapi.json"
    document.write_text(json.dumps(DOCUMENT))
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(FOLDER / "schemathesis.toml")),
        *("run", str(document), "--url", base_url, "--header", "X-Session-ID: owner", "--seed", "1"),
        *(
            "--max-examples",
            str(EXAMPLES),
            "--exclude-method",
            "HEAD",
            "--continue-on-failure",
            "--generation-database",
            "none",
            "--no-color",
        ),
        cwd=folder,
        env=unmeasured | {"SCHEMATHESIS_HOOKS": "tests.e2e.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.timeout(seconds=600)  # hundreds of requests, on a machine that may be busy
async def test_openapi_describes_every_answer_of_the_server(server: Server, world: World, tmp_path: Path) -> None:
    await world.put_job(100, "D1")
    await world.finish(100)
    await world.put_job(102, "E", status="failed", message="No awards were found")
    generating = asyncio.create_task(keep_generating(world))
    try:
        status, output = await run_schemathesis(server.base_url, tmp_path)
    finally:
        generating.cancel()
        await asyncio.wait([generating])
    assert status == 0, output
    [cases] = re.findall(r"(\d+) generated", output)
    assert int(cases) >= LEAST_CASES, output
