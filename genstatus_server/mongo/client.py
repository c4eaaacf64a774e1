"""The connection to MongoDB: reads and the change stream. No other module of the server imports Motor.

Moving to PyMongo's own async API means changing this module: the client, how it is closed, how a change stream is
entered, and how a batch of its events is taken. Both drivers agree on everything else.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

# Motor runs each operation in one of its threads. A blocked read occupies its thread until it times out, and opening
# the change stream needs one, too. Motor reads the number when it is imported. Its default, 5 per core, is too few
# while MongoDB is away.
os.environ.setdefault("MOTOR_MAX_WORKERS", "32")

from bson.timestamp import Timestamp
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
from pymongo import ReadPreference, monitoring
from pymongo.errors import OperationFailure, PyMongoError, ServerSelectionTimeoutError
from pymongo.read_concern import ReadConcern

from genstatus_server.jobs_writer.changes import CODEC
from genstatus_server.mongo.events import ClusterTime, Event, cluster_time

if TYPE_CHECKING:
    import pymongo.change_stream

Document = dict[str, Any]
ResumeToken = Mapping[str, Any]
Database = AsyncIOMotorDatabase[Document]

#: Milliseconds until the driver gives up looking for a primary. The driver's 30 s would outlive every caller.
SERVER_SELECTION_MS: Final = 2000
#: The same for the change stream. After a shutdown of its server, the driver looks for the same server for this time
#: before it tries another one. The follower of the stream retries for ever.
STREAM_SELECTION_MS: Final = 1000
#: Milliseconds that one read may take in all.
READ_MS: Final = 2500
#: Milliseconds after which an idle change stream sends an empty answer: the heartbeat.
HEARTBEAT_MS: Final = 700
#: Milliseconds without any byte on the change stream's connection that mean it is dead. More than a heartbeat.
SILENCE_MS: Final = 3000
#: Seconds for which the connections of a client that was replaced stay open: reads may be under way on them.
_REPLACED_SECONDS: Final = 5.0
#: The most documents in the first reply to a query. MongoDB's default is 101.
_BATCH_SIZE: Final = 10_000
#: Error codes of MongoDB for a connection that is logged out, for a user or role that is gone, and for a failed login.
_LOGGED_OUT: Final = frozenset({13, 18})
#: Error codes of a MongoDB that is no replica set, for a snapshot read and for a change stream.
_NO_REPLICA_SET: Final = frozenset({123, 40573, 20})
_NO_TIME: Final = Timestamp(0, 0)
#: What a change stream sends.
_STREAM_COMMANDS: Final = frozenset({"aggregate", "getMore"})


def is_logged_out(error: Exception | None) -> bool:
    """Whether MongoDB refuses the user of these connections. New connections may be accepted."""
    if isinstance(error, OperationFailure):
        return error.code in _LOGGED_OUT
    # After a refused login, the driver treats the server as away until its next heartbeat, up to 10 s later.
    return isinstance(error, ServerSelectionTimeoutError) and "Authentication failed" in str(error)


class Reply(NamedTuple):
    """The documents of one read. `time` is the cluster time of its snapshot, the same for all collections.

    `time` is 0 on a standalone mongod, which has no snapshot reads. `is_complete` is False if MongoDB has more
    documents than it returned.
    """

    documents: Sequence[Document]
    time: ClusterTime
    is_complete: bool


class Batch(NamedTuple):
    """The events of one answer of the change stream, in order; none after a heartbeat.

    `requested_at` is the loop's time, in seconds, at which the answer was requested. `newest_time` is MongoDB's newest
    cluster time when it answered. With `has_caught_up` there were no further events at the time of the request.
    Another stream continues after these events with `resume_token`. After a batch that `is_last`, the stream is closed.
    """

    events: Sequence[Event]
    requested_at: float
    newest_time: ClusterTime
    has_caught_up: bool
    resume_token: ResumeToken | None
    is_last: bool


#: Returns the next batch of a change stream, which is requested after so many seconds.
NextBatch = Callable[[float], Awaitable[Batch]]


class Connection:
    """A MongoDB client and its database `name`. It does no I/O until it is used.

    With `for_stream`, the client is for the change stream. A read may then last as long as no event comes, but a
    connection without any byte for `SILENCE_MS` counts as dead. These limits override those in the URI.
    """

    def __init__(self, uri: str, name: str, *, for_stream: bool = False) -> None:
        self._uri = uri
        self._name = name
        self._for_stream = for_stream
        self._replaced: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._renewed_at = float("-inf")
        self._monitor = _StreamMonitor()
        self._client = self._open()

    @property
    def database(self) -> Database:
        """The database. Reads use the primary and read concern `majority`, and see what the stream has delivered.

        Right after an election they may not: see `DocumentReader`.
        """
        return self._client.get_database(
            self._name,
            codec_options=CODEC,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
        )

    def renew(self) -> None:
        """Replace all connections, at most once a second, because MongoDB has logged them out.

        MongoDB logs connections out when their user is dropped. They stay logged out even if the user is created again.
        """
        loop = asyncio.get_running_loop()
        if loop.time() - self._renewed_at < 1:
            return
        self._renewed_at = loop.time()
        replaced, self._client = self._client, self._open()
        task = asyncio.create_task(self._close_later(replaced))
        self._replaced.add(task)
        task.add_done_callback(self._replaced.discard)

    async def close(self) -> None:
        """Close all connections."""
        self._closing.set()
        await asyncio.gather(_close(self._client), *self._replaced)

    async def ping(self) -> None:
        """Check that MongoDB answers. Raises `PyMongoError`."""
        await self.database.command("ping")

    async def snapshot_read(self, collection: str, pipeline: Sequence[Mapping[str, Any]]) -> Reply:
        """What `pipeline` finds, in one round trip. Raises `PyMongoError` and `BSONError`."""
        command = {"aggregate": collection, "pipeline": list(pipeline), "cursor": {"batchSize": _BATCH_SIZE}}
        database = self.database
        try:
            reply = await database.command(command | {"readConcern": {"level": "snapshot"}}, codec_options=CODEC)
        except OperationFailure as error:
            if error.code not in _NO_REPLICA_SET:
                raise
            reply = await database.command(command, codec_options=CODEC)
        cursor = reply["cursor"]
        if cursor["id"]:  # What does not fit into one reply is read in parts.
            with suppress(PyMongoError):
                await database.command("killCursors", collection, cursors=[cursor["id"]])
        return Reply(cursor["firstBatch"], cluster_time(cursor.get("atClusterTime", _NO_TIME)), not cursor["id"])

    async def snapshot_time(self) -> ClusterTime:
        """The time of what a read sees now; 0 on a standalone. Raises `PyMongoError`."""
        return (await self.snapshot_read("jobs", [{"$match": {"_id": None}}])).time

    async def views_among(self, collections: Sequence[str]) -> list[str]:
        """Those of `collections` that are views or time series, which send no events. Raises `PyMongoError`."""
        # In this form it needs no privilege but one on a collection of the database.
        listed = await self.database.list_collections(authorizedCollections=True, nameOnly=True)
        kinds = {each["name"]: each["type"] async for each in listed}
        return sorted([name for name in collections if kinds.get(name, "collection") != "collection"])

    @asynccontextmanager
    async def open_change_stream(
        self, pipeline: Sequence[Mapping[str, Any]], *, resume_token: ResumeToken | None, after: ClusterTime
    ) -> AsyncIterator[NextBatch]:
        """The batches of a change stream on the database; it is open when the block begins.

        It continues after `resume_token`; without one it begins after the time `after`. Raises `PyMongoError`.
        """
        # `start_after` for every token: unlike `resume_after` it also continues after an `invalidate`.
        start: dict[str, Any] = {"start_after": resume_token}
        if resume_token is None:
            # A start time is inclusive, and the event at `after` may be one that no stream can deliver.
            start = {"start_at_operation_time": Timestamp(after >> 32, (after & 0xFFFFFFFF) + 1)}
        # A separate thread: those of the loop's executor may all be busy, with name look-ups for instance.
        thread = ThreadPoolExecutor(1, "change stream")
        try:
            async with self.database.watch(list(pipeline), max_await_time_ms=HEARTBEAT_MS, **start) as stream:
                take_batch = partial(_take_batch, stream.delegate, self._monitor)
                yield partial(asyncio.get_running_loop().run_in_executor, thread, take_batch)
        finally:
            thread.shutdown(wait=False)

    async def _close_later(self, client: AsyncIOMotorClient[Document]) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), _REPLACED_SECONDS)
        await _close(client)

    def _open(self) -> AsyncIOMotorClient[Document]:
        # The follower reopens the stream itself and reads the held documents in between. A retry by the driver would
        # only delay this. `timeoutMS` None: an operation as a whole has no limit.
        stream = {"socketTimeoutMS": SILENCE_MS, "retryReads": False, "timeoutMS": None}
        limits: dict[str, Any] = stream if self._for_stream else {"timeoutMS": READ_MS}
        return AsyncIOMotorClient(
            self._uri,
            serverSelectionTimeoutMS=STREAM_SELECTION_MS if self._for_stream else SERVER_SELECTION_MS,
            connectTimeoutMS=SERVER_SELECTION_MS,
            appname="genstatus_server",
            event_listeners=[self._monitor] if self._for_stream else [],
            **limits,
        )


async def _close(client: AsyncIOMotorClient[Document]) -> None:
    # In a thread: it tells MongoDB to end its sessions, which takes up to 11 s where MongoDB is silent.
    await asyncio.to_thread(client.close)


class _StreamMonitor(monitoring.CommandListener):
    """Records each answer to the change stream: the number of events, when it was requested, and its time.

    The driver returns events one by one, and does not say which is the last of an answer. One call of a thread for
    each event would take seconds for a thousand.
    """

    def __init__(self) -> None:
        self.unread = 0
        self.requested_at = 0.0
        self.newest_time: ClusterTime = 0
        self.is_more = False
        self._started_at = 0.0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """A command is sent."""
        # A client that was replaced may end its sessions meanwhile.
        if event.command_name in _STREAM_COMMANDS:
            self._started_at = time.monotonic()  # Which is the loop's time, too; no loop runs in this thread.

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """A command was answered."""
        if event.command_name not in _STREAM_COMMANDS:
            return
        cursor = event.reply["cursor"]
        # Where the driver resumes by itself, the first batch is empty even where there is much to come.
        self.is_more = event.command_name == "getMore"
        self.unread = len(cursor["nextBatch"] if self.is_more else cursor["firstBatch"])
        self.requested_at = self._started_at
        self.newest_time = cluster_time(event.reply.get("operationTime", _NO_TIME))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """A command has failed; its error is raised by the driver."""


def _take_batch(stream: "pymongo.change_stream.ChangeStream[Document]", monitor: _StreamMonitor, rest: float) -> Batch:
    """All events of one answer, taken in a single call in the thread."""
    if rest:
        time.sleep(rest)  # In its own thread, which is cheaper than a timer of the loop.
    events: list[Document] = []
    event = stream.try_next()
    while event is not None:
        events.append(event)
        monitor.unread -= 1
        event = stream.try_next() if monitor.unread > 0 else None
    return Batch(
        events,
        monitor.requested_at,
        monitor.newest_time,
        has_caught_up=not events and monitor.is_more,
        resume_token=stream.resume_token,
        is_last=not stream.alive,
    )
