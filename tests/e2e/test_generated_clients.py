"""Clients generated from the OpenAPI document, against the live server."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.generated.calls import EXPECTED, PROGRAMS, TSC, call_all, run, write_document
from tests.support import npm
from tests.support.server import Server
from tests.support.world import World


@pytest.mark.timeout(seconds=300)
async def test_openapi_python_client_reads_every_kind_of_answer(server: Server, world: World, tmp_path: Path) -> None:
    document = write_document(tmp_path)
    settings = tmp_path / "settings.yaml"
    settings.write_text("post_hooks: []\n")
    generate = f"-m openapi_python_client generate --meta none --config {settings} --path {document}"
    said = await run(sys.executable, *generate.split(), "--output-path", "generation_client", cwd=tmp_path)
    assert "warning" not in said.lower()
    program = str(shutil.copy(PROGRAMS / "openapi_python_client.py", tmp_path))
    assert await call_all(server, world, [sys.executable, program], tmp_path) == EXPECTED


@pytest.mark.timeout(seconds=600)
async def test_openapi_fetch_client_reads_every_kind_of_answer(server: Server, world: World, tmp_path: Path) -> None:
    modules = await asyncio.to_thread(npm.installed)
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(PROGRAMS / "openapi_fetch.ts", tmp_path)
    document = write_document(tmp_path)
    await run(str(modules / ".bin/openapi-typescript"), str(document), "--output", "schema.d.ts", cwd=tmp_path)
    await run(str(modules / ".bin/tsc"), *TSC.split(), "openapi_fetch.ts", cwd=tmp_path)
    assert await call_all(server, world, ["node", "openapi_fetch.js"], tmp_path) == EXPECTED
