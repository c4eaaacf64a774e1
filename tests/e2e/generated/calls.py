"""What every generated client is made to call, against the live server, and what it must give its caller.

Each program prints one JSON object: by the call's name the HTTP status as `code` and the fields that its types have.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from genstatus_server.web.openapi import openapi_document
from tests.support.server import Server, seen_by
from tests.support.world import World

PROGRAMS: Final = Path(__file__).parent
#: A 32-bit integer cannot hold it.
SIZE: Final = 5_000_000_000

#: Modules of the platform's own, strictly typed, as a new project has it.
TSC: Final = "--strict --module nodenext --target es2022 --skipLibCheck --types node"


def _status(job_id: int | None, status: str, **more: Any) -> dict[str, Any]:
    nothing = {"code": 200, "size": None, "start": None, "message": "", "generated_at": None, "has_url": False}
    return {"job_id": job_id, "status": status} | nothing | more


_FINISHED: Final = _status(
    100, "finished", size=SIZE, start="01/02/2026", generated_at="02/03/2026 04:05:06", has_url=True
)
EXPECTED: Final = {
    "finished": _FINISHED,
    "waiting": _status(101, "waiting", start=""),
    "invalid": _status(None, "invalid"),
    "failed": _status(102, "failed", message="No awards were found"),
    "unknown": {"code": 400, "message": "No such submission"},
    "logged_out": {"code": 401, "message": "Login Required"},
    "forbidden": {"code": 403, "message": "User does not have permission to access that submission"},
    "several": {"code": 200, "statuses": ["invalid", "finished", "waiting"]},
    "held": _status(101, "finished", start="", has_url=True),
}


def write_document(folder: Path) -> Path:
    path = folder / "openapi.json"
    path.write_text(json.dumps(openapi_document()))
    return path


async def run(*command: str, cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def _is_holding(server: Server) -> bool:
    return b"\ngenstatus_held_requests 1.0\n" in (await server.fetch("/metrics")).body


async def call_all(server: Server, world: World, command: Sequence[str], folder: Path) -> dict[str, Any]:
    """What the program makes of the server's answers. It ends with a hold, which ends with the generation of D2."""
    uploaded = {"status": "finished", "key": "1/D1.csv"}
    dates = {"start": datetime(2026, 1, 2, tzinfo=UTC), "updated_at": datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)}
    await world.put_job(100, "D1", status="finished", upload=uploaded, size=SIZE, **dates)
    await world.put_job(101, "D2")
    await world.put_job(102, "E", status="failed", message="No awards were found")
    await seen_by(server, world)
    process = await asyncio.create_subprocess_exec(
        *command,
        server.base_url,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},  # PYTHONSAFEPATH may keep Python from looking there by itself.
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ended = asyncio.ensure_future(process.communicate())
    while not ended.done() and not await _is_holding(server):  # noqa: ASYNC110 - only its metrics say so
        await asyncio.sleep(0.1)
    await world.finish(101, "1/D2.csv")
    output, errors = await ended
    assert process.returncode == 0, errors.decode()
    told: dict[str, Any] = json.loads(output)
    return told
