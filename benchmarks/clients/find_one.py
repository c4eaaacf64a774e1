"""The plainest read: Motor's `find_one`, one after the other.

    find_one.py URI DATABASE COUNT

Prints a list of the seconds that each took.
"""

import asyncio
import json
import sys
import time
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient


async def main() -> None:
    uri, name, count = sys.argv[1:]
    jobs = AsyncIOMotorClient[dict[str, Any]](uri)[name]["jobs"]
    times = []
    for number in range(int(count)):
        began = time.monotonic()
        await jobs.find_one({"submission_id": number, "file_type": "D1"})
        times.append(time.monotonic() - began)
    print(json.dumps(times))  # noqa: T201 - its purpose


if __name__ == "__main__":
    asyncio.run(main())
