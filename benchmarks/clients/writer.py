"""Workers that finish jobs, so many a second: one process, one write of `w: majority` a job, as workers should write.

Stdin has, in JSON, `uri`, `database`, `jobs` (a list of ids) and `rate`. Prints a list of `[id, begun, acknowledged]`
with times of the monotonic clock in seconds. The writes begin on time, whether those before are acknowledged or not.
"""

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

from pymongo import AsyncMongoClient, WriteConcern

#: Connections that are made before the first job, because to make one takes longer than to write.
_CONNECTIONS = 20


def finished(job_id: int) -> dict[str, Any]:
    """What a worker writes when the file is there."""
    now = datetime.now(UTC)
    upload = {"status": "finished", "bucket": "reports", "key": f"{job_id}/D1_{job_id}.csv"}
    return {"status": "finished", "upload": upload, "size": 10240, "message": "", "updated_at": now}


async def main() -> None:
    params = json.loads(sys.stdin.read())
    async with AsyncMongoClient[dict[str, Any]](params["uri"], minPoolSize=_CONNECTIONS) as client:
        jobs = client.get_database(params["database"], write_concern=WriteConcern("majority"))["jobs"]
        await asyncio.gather(*(client.admin.command("ping") for _ in range(_CONNECTIONS)))
        first = time.monotonic() + 0.2
        times = []

        async def finish(number: int, job_id: int) -> None:
            await asyncio.sleep(first + number / params["rate"] - time.monotonic())
            begun = time.monotonic()
            await jobs.update_one({"_id": job_id}, {"$set": finished(job_id)})
            times.append((job_id, begun, time.monotonic()))

        await asyncio.gather(*(finish(number, job_id) for number, job_id in enumerate(params["jobs"])))
    print(json.dumps(times), flush=True)  # noqa: T201 - its purpose


if __name__ == "__main__":
    asyncio.run(main())
