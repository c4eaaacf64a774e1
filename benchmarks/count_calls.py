"""How many functions of ours, in how many modules, a poll of cached documents and a wake go through.

    python -m benchmarks.count_calls [--list]

It counts the starts of functions in the thread of the event loop, by `sys.setprofile`. A coroutine counts once, however
often it is resumed. A wake is counted from the batch of the change stream to the answer.
"""

import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from inspect import CO_COROUTINE, CO_GENERATOR
from pathlib import Path
from types import FrameType
from typing import Final

from tornado.netutil import bind_sockets

import genstatus_server
from benchmarks.database import Database, hold_path, path, running_database, token
from benchmarks.programs import BenchmarkFailed
from genstatus_server.server.app import make_application, open_services
from genstatus_server.settings import load_settings
from genstatus_server.telemetry import log
from genstatus_server.web.client_stream import MalformedRequests
from genstatus_server.web.listener import Listener

_PACKAGE: Final = f"{Path(genstatus_server.__file__).parent}/"

Calls = Counter[tuple[str, str]]


async def count(work: Callable[[], Awaitable[object]]) -> Calls:
    """The functions of ours that start while `work` is done: (module, name), and how often."""
    calls: Calls = Counter()
    suspended: set[FrameType] = set()

    def on_event(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(_PACKAGE):
            return
        if code.co_flags & (CO_COROUTINE | CO_GENERATOR):
            if frame in suspended:
                return
            suspended.add(frame)
        calls[code.co_filename.removeprefix(_PACKAGE), code.co_qualname] += 1

    sys.setprofile(on_event)
    try:
        await work()
    finally:
        sys.setprofile(None)
    return calls


async def measure(database: Database, *, lists: bool) -> None:
    """Print the figures of a server in this process."""
    flags = {"mongodb_uri": database.uri, "mongodb_database": "benchmark", "s3_bucket": "reports"}
    async with AsyncExitStack() as stack:
        services = await open_services(
            stack, load_settings(flags, {}), s3_keys=("an-access-key", "a-secret-key"), parent=None
        )
        sockets = bind_sockets(0, "127.0.0.1")
        listener = Listener(
            make_application(services), sockets, idle_timeout=120, malformed=MalformedRequests(services.metrics)
        )
        stack.push_async_callback(listener.close_connections)
        stack.callback(listener.stop_listening)
        await services.follower.reached.wait()
        client = await Client.connect(sockets[0].getsockname()[1])
        stack.callback(client.close)
        job_id, held_id, finished_id = database.add_jobs(3)
        await asyncio.to_thread(database.finish, finished_id)
        await asyncio.sleep(0.5)  # The events of these writes.
        await client.request(path(finished_id))  # The bucket has been signed for.
        for _ in range(3):
            await client.request(path(job_id))
        await asyncio.sleep(1)  # The heartbeat: the change stream has passed the time of the read.
        show("a poll of cached documents", await count(lambda: client.request(path(job_id))), lists=lists)
        answer = asyncio.create_task(client.request(hold_path(held_id)))
        while not services.holds.waiting():  # noqa: ASYNC110 - nothing else says so
            await asyncio.sleep(0.01)

        async def wake() -> None:
            await asyncio.to_thread(database.finish, held_id)
            await answer

        show("a wake of a hold", await count(wake), lists=lists)


class Client:
    """One kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def request(self, target: str) -> bytes:
        """The body of the answer."""
        self._writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nX-Session-ID: {token(1000)}\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        if not head.startswith("http/1.1 200"):
            raise BenchmarkFailed(head)
        return await self._reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))

    def close(self) -> None:
        self._writer.close()


def show(what: str, calls: Calls, *, lists: bool) -> None:
    """One line, and with `lists` each function."""
    modules = {module for module, _ in calls}
    sys.stdout.write(f"{what}: {calls.total()} calls of {len(calls)} functions in {len(modules)} modules\n")
    if lists:
        for (module, name), number in sorted(calls.items()):
            sys.stdout.write(f"{number:8} {module} {name}\n")


def main() -> None:
    log.set_up("json")
    with tempfile.TemporaryDirectory() as folder, running_database(Path(folder)) as database:
        asyncio.run(measure(database, lists="--list" in sys.argv))


if __name__ == "__main__":
    main()
