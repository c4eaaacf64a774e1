"""Follows one change stream for ever, and tells the store what to forget and the holds when to look again.

Three functions, one inside the other: `follow` never ends, `_session` is one opened stream, `_read_changes` is one
cursor. A change is only ever a reason to look again; what is true is read from MongoDB.
"""

import asyncio
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from bson.errors import BSONError
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from genstatus_server.hold.registry import JobWaiters
from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.mongo import client as mongodb
from genstatus_server.mongo.queries import CHANGES
from genstatus_server.mongo.store import Store
from genstatus_server.telemetry import log
from genstatus_server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from bson.timestamp import Timestamp

#: Seconds for which what is remembered is trusted after the stream was last heard: two heartbeats.
TRUSTED_SECONDS: Final = 2.0
#: Seconds between two looks at all held jobs, where MongoDB has no change streams.
POLLING_SECONDS: Final = 1.0
#: The longest pause in seconds between two attempts to open the stream.
LONGEST_PAUSE: Final = 2.0

_FIRST_PAUSE: Final = 0.1
#: Seconds for which the stream must have stood for its end to be a new fault, and not the old one again.
_STEADY_SECONDS: Final = 5.0
_NO_REPLICA_SET: Final = 40573


class Watching(StrEnum):
    """How changes are found."""

    LIVE = "live"
    POLLING = "polling"
    DOWN = "down"


class JobWatcher:
    """The follower of one database. `watching` says how it finds changes at the moment."""

    def __init__(self, database: mongodb.Database, store: Store, waiters: JobWaiters, metrics: Metrics) -> None:
        self._database = database
        self._store = store
        self._waiters = waiters
        self._metrics = metrics
        self._resume_token: Mapping[str, Any] | None = None
        self._heard_at = float("-inf")
        self._catches_up_at: Timestamp | None = None
        self._failures = 0
        self._opened_at = float("inf")
        self._opened_before = False
        self._said_unsupported = False
        self.watching = Watching.DOWN
        #: Set once MongoDB has been reached for the first time.
        self.reached = asyncio.Event()

    def is_fresh(self) -> bool:
        """Whether the stream proves that nothing remembered is outdated: it was heard lately and is not behind."""
        is_heard = asyncio.get_running_loop().time() - self._heard_at < TRUSTED_SECONDS
        return is_heard and self._catches_up_at is None and self.watching is Watching.LIVE

    async def follow(self) -> None:
        """Follow the stream until cancelled, through whatever happens to MongoDB."""
        while True:
            try:
                await self._session()
            except (PyMongoError, BSONError, ServiceUnavailable) as error:
                await self._recover(error)
            except Exception as error:  # noqa: BLE001 - no defect of ours may end the only source of wake-ups.
                log.exception("change_stream_defect")
                await self._recover(error)

    async def _session(self) -> None:
        async with mongodb.open_change_stream(self._database, CHANGES, self._resume_token) as stream:
            self._catches_up_at = await mongodb.cluster_time(self._database)
            if self._resume_token is None:
                self._store.forget_all()
            # The stream stands, but nothing of it has been read: what this finds can only be dropped by it later.
            await self._store.read_again(self._waiters.keys())
            self._is_open()
            self._resume_token = stream.resume_token
            await self._read_changes(stream)

    async def _read_changes(self, stream: mongodb.ChangeStream) -> None:
        while stream.alive:
            changes = await stream.next_changes()
            for change in changes:
                self._tell(change)
                self._time(change)
            await self._heard(changes[-1] if changes else None)
            # Behind all that was told: what fails on the way here is told once more by the stream that follows.
            self._resume_token = stream.resume_token
            # Those who were woken answer first: the driver's thread would take the interpreter from them.
            await asyncio.sleep(0)

    def _tell(self, change: Mapping[str, Any]) -> None:
        keys = self._store.forget(change)
        if keys is None:
            self._waiters.wake_all()
        else:
            for key in keys:
                self._waiters.wake(key)

    def _time(self, change: Mapping[str, Any]) -> None:
        happened = change.get("wallTime")  # The cluster time counts in whole seconds.
        if isinstance(happened, datetime):
            self._metrics.change_stream_lag.observe(max(0, (datetime.now(UTC) - happened).total_seconds()))

    async def _heard(self, newest: Mapping[str, Any] | None) -> None:
        silent = asyncio.get_running_loop().time() - self._heard_at
        if silent > TRUSTED_SECONDS and self._catches_up_at is None:
            # The driver may have resumed the stream by itself, and then it is behind by the time that this took.
            log.warning("change_stream_late", silent_seconds=round(silent, 2))
            self._catches_up_at = await mongodb.cluster_time(self._database)
        if self._catches_up_at is not None and (newest is None or newest["clusterTime"] >= self._catches_up_at):
            self._catches_up_at = None
        self._heard_at = asyncio.get_running_loop().time()  # Last: until here nothing remembered was to be trusted.

    def _is_open(self) -> None:
        log.info("change_stream_open", resumed=self._resume_token is not None)
        if self._opened_before:
            self._metrics.change_stream_reopens.inc()
        self._opened_before = True
        self._heard_at = self._opened_at = asyncio.get_running_loop().time()
        self._set_watching(Watching.LIVE)

    async def _recover(self, error: Exception) -> None:
        """After a failure: say so, look at everything held all the same, and pause."""
        if isinstance(error, OperationFailure) and error.code == _NO_REPLICA_SET:
            await self._poll()
            return
        self._set_watching(Watching.DOWN)
        if not isinstance(error, ConnectionFailure | ServiceUnavailable):
            self._resume_token = None  # Whatever it was about: a lost token costs one look at everything held.
        pause = self._next_pause()
        log.warning("change_stream_down", cause=log.cause(error), next_attempt_seconds=round(pause, 2))
        await self._look_at_everything_held()
        await asyncio.sleep(pause)

    def _next_pause(self) -> float:
        """Longer each time, up to a limit; short again only after the stream has stood for a while."""
        if asyncio.get_running_loop().time() - self._opened_at >= _STEADY_SECONDS:
            self._failures = 0
        self._opened_at = float("inf")
        longest: float = min(LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        return random.uniform(0.5, 1) * longest

    async def _poll(self) -> None:
        if not self._said_unsupported:
            self._said_unsupported = True
            log.warning("change_stream_unsupported", hint="MongoDB is no replica set: held jobs are read every second")
        self._resume_token = None
        self._set_watching(Watching.POLLING)
        if not await self._look_at_everything_held():
            self._set_watching(Watching.DOWN)
        await asyncio.sleep(POLLING_SECONDS)

    async def _look_at_everything_held(self) -> bool:
        try:
            await self._store.read_again(self._waiters.keys())
        except ServiceUnavailable:
            return False
        return True

    def _set_watching(self, watching: Watching) -> None:
        self.watching = watching
        if watching is not Watching.DOWN:
            self.reached.set()
        self._metrics.change_stream_up.set(watching is Watching.LIVE)
