"""The plainest consumer of changes: a loop over a Motor change stream that notes when each arrives.

    raw_stream.py URI DATABASE COUNT

Prints `live` when the stream stands, and after COUNT changes a list of `[job id, time]`, in seconds of the monotonic
clock.
"""

import asyncio
import json
import sys
import time
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient


async def main() -> None:
    uri, name, count = sys.argv[1:]
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(uri)
    arrivals: list[tuple[int, float]] = []
    async with client[name]["jobs"].watch(full_document="updateLookup") as stream:
        await stream.try_next()
        print("live", flush=True)  # noqa: T201 - its purpose
        while len(arrivals) < int(count):
            change = await stream.next()
            arrivals.append((change["documentKey"]["_id"], time.monotonic()))
    print(json.dumps(arrivals), flush=True)  # noqa: T201 - the same


if __name__ == "__main__":
    asyncio.run(main())
