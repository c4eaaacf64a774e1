"""Prolongs a lease in the background for as long as a worker holds its job: a thread, and its async twin."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

from pymongo.errors import PyMongoError

_log = logging.getLogger("genstatus_server.jobs_writer")


class Heartbeat:
    """Calls `beat` every so many seconds, until `stop`, or until it says that the lease is lost.

    A MongoDB that is away is asked again at the next beat. The thread keeps no program from ending.
    """

    def __init__(self, beat: Callable[[], bool], seconds: float) -> None:
        self.is_lost = False
        self._beat, self._seconds = beat, seconds
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="lease-heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                if not self._beat():
                    self.is_lost = True
                    return
            except PyMongoError as error:
                missed(error)


class AsyncHeartbeat:
    """The same as a task of the running loop."""

    def __init__(self, beat: Callable[[], Awaitable[bool]], seconds: float) -> None:
        self.is_lost = False
        self._beat, self._seconds = beat, seconds
        self._task = asyncio.create_task(self._run(), name="lease-heartbeat")

    def stop(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                if not await self._beat():
                    self.is_lost = True
                    return
            except PyMongoError as error:
                missed(error)


def missed(error: PyMongoError) -> None:
    # Its text may hold addresses and more; its name says enough.
    _log.warning("a lease was not prolonged: %s; trying again", type(error).__name__)
