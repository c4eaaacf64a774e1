"""The plainest reader of the server's change stream: a PyMongo loop that does nothing with the events.

    bare_loop.py URI DATABASE

Prints `live` when the stream stands, and runs until it is ended.
"""

import sys
from typing import Any

from pymongo import MongoClient

from genstatus_server.mongo.client import HEARTBEAT_MS
from genstatus_server.mongo.queries import CHANGE_STREAM_PIPELINE


def main() -> None:
    uri, name = sys.argv[1:]
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    with client[name].watch(list(CHANGE_STREAM_PIPELINE), max_await_time_ms=HEARTBEAT_MS) as stream:
        print("live", flush=True)  # noqa: T201 - its purpose
        for _ in stream:
            pass


if __name__ == "__main__":
    main()
