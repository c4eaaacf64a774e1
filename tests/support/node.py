"""The JavaScript client in Node, with its times made short."""

import asyncio
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Final

import genstatus_server
from tests.support.requirements import require

CLIENT: Final = Path(genstatus_server.__file__).parent / "web" / "static" / "genstatus.js"
SECONDS: Final = 120

DRIVER: Final = """
const { waitForGeneration } = await import("./genstatus.mjs");
const { luck, ...options } = JSON.parse(process.env.OPTIONS);
Math.random = () => luck;
const phases = [];
const onUpdate = ({ phase }) => phases.push(phase);
try {
  const answer = await waitForGeneration({ ...options, onUpdate });
  console.log(JSON.stringify({ answer, phases }));
} catch (error) {
  console.log(JSON.stringify({ refused: { status: error.status, message: error.message }, phases }));
}
"""


def prepare(folder: Path, times: dict[str, int]) -> None:
    """The client and what drives it, in `folder`; the client's constants are set to `times`."""
    require(shutil.which("node"), "node runs the JavaScript client (Debian: apt-get install nodejs)")
    source = CLIENT.read_text()
    for name, milliseconds in times.items():
        source, count = re.subn(rf"(?<=^const {name} = )[0-9_]+(?=;)", str(milliseconds), source, flags=re.MULTILINE)
        assert count == 1, f"genstatus.js has no constant {name}"
    (folder / "genstatus.mjs").write_text(source)
    (folder / "driver.mjs").write_text(DRIVER)


async def wait_in_node(folder: Path, **options: Any) -> dict[str, Any]:
    """The answer of `waitForGeneration`, or with what it was refused, and the phases that it told of."""
    process = await asyncio.create_subprocess_exec(
        *("node", "driver.mjs"),
        cwd=folder,
        env=os.environ | {"OPTIONS": json.dumps(options)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    told: dict[str, Any] = json.loads(out)
    return told
