"""The JavaScript client as `npm pack` makes it, installed in an empty project: in Node, under vite, and its types."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, expect
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, StaticFileHandler

import genstatus_server
from tests.e2e.generated.calls import TSC, run
from tests.support import npm
from tests.support.server import Server
from tests.support.world import World

ROOT = Path(__file__).parents[2]
PACKAGE = Path(genstatus_server.__file__).parent / "web" / "static"
GUIDE = (ROOT / "docs" / "clients.md").read_text()

IN_NODE = """
import { checkGeneration, GenerationError, waitForGeneration } from "genstatus";
const asked = { baseUrl: process.argv[2], sessionToken: "owner", submissionId: 1, fileType: "D1" };
const refused = await checkGeneration({ ...asked, sessionToken: "nobody" }).catch((error) => error);
const told = [refused instanceof GenerationError, refused.status, refused.message];
const { status } = await checkGeneration(asked);
const answer = await waitForGeneration(asked);
console.log(JSON.stringify([...told, status, answer.status]));
"""
TYPED = """
import { GenerationError, waitForGeneration, type GenerationStatus, type Update } from "genstatus";
export async function name(options: { baseUrl: string; sessionToken: string }): Promise<number | null> {
  const onUpdate = (update: Update) => console.log(update.phase === "waiting" ? update.retryAt : update.phase);
  const answer: GenerationStatus = await waitForGeneration({ ...options, submissionId: 1n, fileType: "D1", onUpdate });
  return answer.status === "finished" ? answer.size : null;
}
export const isLoggedOut = (error: unknown) => error instanceof GenerationError && error.status === 401;
// @ts-expect-error there is no such file
void waitForGeneration({ baseUrl: "", sessionToken: "", submissionId: 1, fileType: "X" });
"""
PAGE = """<!doctype html><html lang="en"><title>App</title>
<p id="app"></p><p id="files"></p><script type="module" src="/main.jsx"></script>"""
MAIN = """
import { createRoot } from "react-dom/client";
import { useGeneration } from "./useGeneration.jsx";
import { watchFiles } from "./watchFiles.js";

const asked = { baseUrl: SERVER, sessionToken: "owner", submissionId: 1 };
function File({ fileType }) {
  const { answer, error } = useGeneration({ ...asked, fileType });
  return error ? error.message : (answer?.status ?? "checking");
}
createRoot(document.getElementById("app")).render(<File fileType="D1" />);
const onFiles = (files) => {
  const told = files.map(({ file_type, status }) => `${file_type} ${status}`);
  document.getElementById("files").textContent = told.join(", ");
};
await watchFiles({ ...asked, fileTypes: ["D1", "D2"], onFiles });
"""


def from_guide(language: str, name: str) -> str:
    [code] = [each for each in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL) if f"function {name}(" in each]
    return str(code)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project with the package installed."""
    npm.installed()
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    [packed] = json.loads(npm.call("pack", "--json", "--pack-destination", str(tmp_path), str(PACKAGE)))
    assert {each["path"] for each in packed["files"]} == {"genstatus.js", "genstatus.d.ts", "package.json"}
    npm.call("install", "--offline", "--no-audit", "--no-fund", f"./{packed['filename']}", cwd=tmp_path)
    return tmp_path


async def test_javascript_package_runs_in_node(server: Server, world: World, project: Path) -> None:
    await world.put_job()
    (project / "main.js").write_text(IN_NODE)
    process = await asyncio.create_subprocess_exec(
        "node", "main.js", server.base_url, cwd=project, stdout=asyncio.subprocess.PIPE
    )
    await server.held(1)
    await world.finish()
    output, _ = await process.communicate()
    assert json.loads(output) == [True, 401, "Login Required", "waiting", "finished"]


async def test_guide_code_rejects_for_a_token_that_cannot_be_sent(tmp_path: Path) -> None:
    (tmp_path / "watchFiles.mjs").write_text(from_guide("js", "watchFiles"))
    program = """
    import { watchFiles } from "./watchFiles.mjs";
    await watchFiles({ baseUrl: "http://127.0.0.1:1", sessionToken: "a\u200bb", submissionId: 1, fileTypes: ["D1"] });
    """
    (tmp_path / "main.mjs").write_text(program)
    process = await asyncio.create_subprocess_exec("node", "main.mjs", cwd=tmp_path, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert b"TypeError" in errors


@pytest.mark.parametrize("resolution", ["--module nodenext", "--module esnext --moduleResolution bundler"])
async def test_javascript_package_types_compile(project: Path, resolution: str) -> None:
    (project / "main.ts").write_text(TYPED)
    options = TSC.replace("--module nodenext", resolution).replace(" --types node", "")
    await run(
        str(npm.installed() / ".bin/tsc"), *options.split(), "--lib", "es2022,dom", "--noEmit", "main.ts", cwd=project
    )


@pytest.fixture
def sockets() -> Iterator[list[Any]]:
    """Where the page of another origin is served."""
    bound = bind_sockets(0, "127.0.0.1")
    with closing(bound[0]):
        yield bound


@pytest.fixture
def origin(sockets: list[Any]) -> str:
    return f"http://127.0.0.1:{sockets[0].getsockname()[1]}"


@pytest.fixture
def server_options(origin: str) -> dict[str, str]:
    return {"cors_origins": origin}


async def test_javascript_package_runs_the_guide_code_bundled_by_vite(
    server: Server, world: World, project: Path, sockets: list[Any], origin: str, browser: BrowserContext
) -> None:
    await world.put_job()
    await world.put_job(101, "D2")
    for name in ("react", "react-dom", "scheduler"):
        (project / "node_modules" / name).symlink_to(npm.installed() / name)
    (project / "index.html").write_text(PAGE)
    (project / "main.jsx").write_text(MAIN.replace("SERVER", json.dumps(server.base_url)))
    (project / "useGeneration.jsx").write_text(from_guide("jsx", "useGeneration"))
    (project / "watchFiles.js").write_text(from_guide("js", "watchFiles"))
    await run(str(npm.installed() / ".bin/vite"), "build", cwd=project)
    files = HTTPServer(
        Application([("/(.*)", StaticFileHandler, {"path": project / "dist", "default_filename": "index.html"})])
    )
    files.add_sockets(sockets)
    page = await browser.new_page()
    await page.goto(f"{origin}/")
    await expect(page.locator("#files")).to_have_text("D1 waiting, D2 waiting")
    await server.held(2)  # The hook's, and the one for both files.
    await world.finish()
    await expect(page.locator("#app")).to_have_text("finished")
    await expect(page.locator("#files")).to_have_text("D1 finished, D2 waiting")
    await world.finish(101, "1/D2.csv")
    await expect(page.locator("#files")).to_have_text("D1 finished, D2 finished")
    files.stop()
    await files.close_all_connections()
