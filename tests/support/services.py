"""The servers that the tests of one run share: a real MongoDB replica set and a real S3."""

import asyncio
import dataclasses
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import boto3
from botocore.config import Config

Started = TypeVar("Started")

ACCESS_KEY = "genstatus-tests"
SECRET_KEY = "an-open-secret"
REGION = "us-east-1"
START_SECONDS = 120
STOP_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class S3:
    """A real S3 server, and a bucket on it that exists."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str
    bucket: str

    def client(self) -> Any:
        """A client that blocks, as workers have one: for preparing, beside a loop that is not running."""
        return boto3.session.Session().client(
            "s3",
            region_name=self.region,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )


class Address(NamedTuple):
    """Where a shared server is, or why it is not there. Plain enough to be sent to a worker."""

    url: str
    error: str = ""


@contextmanager
def in_background(manager: AbstractAsyncContextManager[Started]) -> Iterator[Started]:
    """Hold an async context manager open in a thread of its own, whose loop keeps running.

    The thread lives as long as what it started, because a child process may be tied to the
    thread that made it, and one task enters and leaves, because a manager may be tied to that.
    """
    started: Future[tuple[Started, Callable[[], object]]] = Future()
    ended: Future[None] = Future()

    async def hold() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with manager as value:
            started.set_result((value, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(hold())
            ended.set_result(None)
        except BaseException as error:  # noqa: BLE001 - the other thread raises it
            (ended if started.done() else started).set_exception(error)

    threading.Thread(target=run, name="shared-server", daemon=True).start()
    value, stop = started.result(START_SECONDS)
    try:
        yield value
    finally:
        stop()
        ended.result(STOP_SECONDS)


class Services:
    """Starts each shared server when it is first asked for, once, and stops all in `close`.

    Lives in the process that runs pytest; the workers of pytest-xdist are told the addresses.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._addresses: dict[str, Address] = {}

    def address(self, name: str) -> Address:
        if name not in self._addresses:
            self._addresses[name] = self._start(name)
        return self._addresses[name]

    def _start(self, name: str) -> Address:
        prefix = f"genstatus-tests-{name}-"
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True))
        try:
            return Address(self._stack.enter_context(in_background(MANAGERS[name](Path(folder)))))
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes to the tests that need the server
            return Address("", f"{name} did not start: {error!r}")

    def close(self) -> None:
        self._stack.close()
        self._addresses.clear()


def mongodb(folder: Path) -> AbstractAsyncContextManager[str]:
    """A replica set of one node; where tests need three, another entry of MANAGERS makes them."""
    from genstatus_server.demo.embedded.mongod import running_mongod  # noqa: PLC0415 - tests without a server need none of it

    return running_mongod(folder)


def s3(folder: Path) -> AbstractAsyncContextManager[str]:
    from genstatus_server.demo.embedded.s3 import running_s3  # noqa: PLC0415 - the same

    return running_s3(folder, access_key=ACCESS_KEY, secret_key=SECRET_KEY)


MANAGERS = {"mongodb": mongodb, "s3": s3}
