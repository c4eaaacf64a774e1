"""Follows one change stream for ever: advances the cache, and wakes the holds of whatever has changed.

`follow` never ends. `_follow_until_failure` handles the end of one stream, `_follow_stream` opens one, `_apply_batches`
loops over its batches, and `_apply` applies one batch.
"""

import asyncio
import random
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from bson.errors import BSONError
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.mongo.cache import Holds
from genstatus_server.mongo.client import Batch, Connection, NextBatch, ResumeToken, is_logged_out
from genstatus_server.mongo.documents import Documents
from genstatus_server.mongo.events import DOCUMENT_OPERATIONS, cluster_time
from genstatus_server.mongo.freshness import Freshness
from genstatus_server.mongo.queries import CHANGE_STREAM_PIPELINE, FIELDS, Key
from genstatus_server.telemetry import log
from genstatus_server.telemetry.metrics import Metrics

#: Seconds between two reads of everything held, where MongoDB has no change streams.
POLLING_SECONDS: Final = 1.0
#: The longest pause in seconds between two attempts to open the stream.
LONGEST_PAUSE: Final = 2.0
#: Attempts to continue after a resume token. If they fail, the token is dropped and the cache is cleared.
TOKEN_ATTEMPTS: Final = 2
#: Where changes come at more than `BUSY_RATE` a second: seconds until the next request to the change stream, after
#: changes that nobody waits for. The changes of that time come with one answer, which costs hardly more than a single
#: change. Below that rate, a poll right after a write must see it, and there is little to save.
REST_SECONDS: Final = 0.005
#: The same if no request at all is held when the rest begins. Polls notice it, and a hold that begins in that time.
REST_SECONDS_WITHOUT_HOLDS: Final = 0.025
BUSY_RATE: Final = 200
#: Seconds for which changes are counted, to know their rate.
RATE_SECONDS: Final = 0.5
#: Seconds between two checks whether a collection has become a view, which sends no event; and the same for
#: `UNSETTLED_SECONDS` after a collection was dropped or renamed, because only then can a view take its place.
VIEW_CHECK_SECONDS: Final = 5.0
UNSETTLED_VIEW_CHECK_SECONDS: Final = 0.5
UNSETTLED_SECONDS: Final = 60.0

_FIRST_PAUSE: Final = 0.1
#: Seconds that a stream must have been open before its end counts as a new fault. Pauses begin short again then.
_STEADY_SECONDS: Final = 5.0
_NO_REPLICA_SET: Final = 40573


class StreamState(StrEnum):
    """How changes are found."""

    LIVE = "live"
    POLLING = "polling"
    DOWN = "down"


class ViewFound(Exception):
    """A collection is a view, which sends no events."""


class ChangeStreamFollower:
    """The follower of one database: it advances the cached `documents`, and wakes `holds`."""

    def __init__(
        self,
        connection: Connection,
        documents: Documents,
        freshness: Freshness,
        holds: Holds,
        metrics: Metrics,
    ) -> None:
        self._connection = connection
        self._documents = documents
        self._freshness = freshness
        self._metrics = metrics
        self._holds = holds
        self._resume_token: ResumeToken | None = None
        self._token_attempts = 0
        self._failures = 0
        self._opened_at = float("inf")
        self._opened_before = False
        self._said_unsupported = False
        self.state = StreamState.DOWN
        #: The collections that are views, and so keep the server from being ready.
        self.views: list[str] = []
        #: Set once MongoDB has been reached for the first time.
        self.reached = asyncio.Event()

    async def follow(self) -> None:
        """Follow the stream until cancelled. No error of MongoDB or of this code ends it."""
        task = asyncio.current_task()
        # If Motor fails to close the stream while this is cancelled, its error replaces the cancellation.
        while task is None or not task.cancelling():
            pause = LONGEST_PAUSE
            try:
                pause = await self._follow_until_failure()
            except Exception:  # noqa: BLE001 - nothing but the shutdown may end the only source of wake-ups.
                log.exception("change_stream_defect")
            await asyncio.sleep(pause)

    async def _follow_until_failure(self) -> float:
        """Follow one stream. Returns the seconds until the next attempt."""
        error: Exception | None = None
        try:
            await self._follow_stream()
        except Exception as failure:  # noqa: BLE001 - as above
            error = failure
        self._freshness.stop()
        if isinstance(error, OperationFailure) and error.code == _NO_REPLICA_SET:
            return await self._poll()
        return await self._recover(error)

    async def _follow_stream(self) -> None:
        if self._resume_token is not None:
            self._token_attempts += 1
        await self._check_views()
        requested_at = _now()
        after = await self._connection.snapshot_time() if self._resume_token is None else 0
        stream = self._connection.open_change_stream(
            CHANGE_STREAM_PIPELINE, resume_token=self._resume_token, after=after
        )
        async with stream as next_batch:
            if self._resume_token is None:
                # `read_again` drops the old cache before it first awaits: so the old cache is never trusted again.
                self._freshness.start(after, requested_at)
                await self._documents.read_again(self._holds.keys(), restart=True)
            self._set_open()
            await self._apply_batches(next_batch)

    async def _apply_batches(self, next_batch: NextBatch) -> None:
        views_checked_at, rest, is_last = _now(), 0.0, False
        counted_since, count, is_busy, unsettled_until = views_checked_at, 0, False, views_checked_at
        while not is_last:
            batch = await next_batch(rest)
            has_woken, is_last, now = self._apply(batch), batch.is_last, _now()
            # Only now: the next stream repeats the events that were not applied.
            self._resume_token, self._token_attempts = batch.resume_token, 0
            count += len(batch.events)
            if now - counted_since >= RATE_SECONDS:
                is_busy = count > BUSY_RATE * (now - counted_since)
                counted_since, count = now, 0
            rest = 0.0
            if is_busy and batch.events and not has_woken:
                rest = REST_SECONDS if self._holds.keys() else REST_SECONDS_WITHOUT_HOLDS
            if not DOCUMENT_OPERATIONS.issuperset(event["operationType"] for event in batch.events):
                unsettled_until = now + UNSETTLED_SECONDS
            if now - views_checked_at > (UNSETTLED_VIEW_CHECK_SECONDS if now < unsettled_until else VIEW_CHECK_SECONDS):
                views_checked_at = now
                await self._check_views()
            if has_woken:
                # The holds answer first: the thread of the next batch would compete for the interpreter.
                await asyncio.sleep(0)

    def _apply(self, batch: Batch) -> bool:
        """Apply the events of `batch`. Returns whether it has woken any holds."""
        keys_to_wake: set[Key] | None = set()
        for event in batch.events:
            keys = self._documents.cache.apply(event)
            if keys is None:
                keys_to_wake = None
            elif keys_to_wake is not None:
                keys_to_wake.update(keys)
        newest = cluster_time(batch.events[-1]["clusterTime"]) if batch.events else None
        if newest is not None or batch.has_caught_up:
            self._freshness.advance(newest, batch.requested_at, batch.newest_time)
        has_woken = self._holds.wake(keys_to_wake)
        for event in batch.events:
            happened = event.get("wallTime")  # The cluster time counts in whole seconds.
            if isinstance(happened, datetime):
                self._metrics.change_stream_lag.observe(max(0, (datetime.now(UTC) - happened).total_seconds()))
        return has_woken

    async def _check_views(self) -> None:
        self.views = await self._connection.views_among(list(FIELDS))
        if self.views:
            raise ViewFound(f"must be collections, but are views: {', '.join(self.views)}")

    def _set_open(self) -> None:
        log.info("change_stream_open", resumed=self._resume_token is not None)
        if self._opened_before:
            self._metrics.change_stream_reopens.inc()
        self._opened_before = True
        self._opened_at = _now()
        self._set_state(StreamState.LIVE)

    async def _recover(self, error: Exception | None) -> float:
        """After the end of a stream: log it, and read everything that is held."""
        self._set_state(StreamState.DOWN)
        if is_logged_out(error):
            self._connection.renew()
        elif error is not None and not isinstance(error, ConnectionFailure | ServiceUnavailable | ViewFound):
            self._resume_token = None  # The same error would come again after the token.
        if self._token_attempts >= TOKEN_ATTEMPTS:
            self._resume_token = None
        if self._resume_token is None:
            self._token_attempts = 0
        pause = self._next_pause()
        cause = log.cause(error) if error else "the stream has ended"
        if error is not None and not isinstance(error, PyMongoError | BSONError | ServiceUnavailable | ViewFound):
            log.warning("change_stream_defect", cause=cause, exc_info=error)
        log.warning("change_stream_down", cause=cause, next_attempt_seconds=round(pause, 2))
        await self._read_everything_held()
        return pause

    def _next_pause(self) -> float:
        """Longer each time, up to a limit; short again only after the stream has stood for a while."""
        if _now() - self._opened_at >= _STEADY_SECONDS:
            self._failures = 0
        self._opened_at = float("inf")
        longest: float = min(LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        return random.uniform(0.5, 1) * longest

    async def _poll(self) -> float:
        if not self._said_unsupported:
            self._said_unsupported = True
            log.warning("change_stream_unsupported", hint="MongoDB is no replica set: held jobs are read every second")
        self._resume_token = None
        is_read = await self._read_everything_held()
        self._set_state(StreamState.POLLING if is_read else StreamState.DOWN)
        return POLLING_SECONDS

    async def _read_everything_held(self) -> bool:
        try:
            await self._documents.read_again(self._holds.keys())
        except ServiceUnavailable:
            return False
        return True

    def _set_state(self, state: StreamState) -> None:
        self.state = state
        if state is not StreamState.DOWN:
            self.reached.set()
        self._metrics.change_stream_up.set(state is StreamState.LIVE)


def _now() -> float:
    return asyncio.get_running_loop().time()
