"""All that this project asks of the MongoDB driver. No other module of the server imports Motor.

Moving to PyMongo's own async API means changing this module: the clients, how a change stream is entered and how a
cursor is drained. The two drivers agree on everything else that `reader` and `watcher` use.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

# A blocked read occupies a thread of Motor's until it times out, and the change stream needs one at any time. The
# number is read when Motor is imported; its default, 5 per core, stalls everything while MongoDB is away.
os.environ.setdefault("MOTOR_MAX_WORKERS", "32")

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.timestamp import Timestamp
from motor.frameworks.asyncio import run_on_executor
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
from pymongo import ReadPreference
from pymongo.read_concern import ReadConcern

from genstatus_server.mongo.migration import Shape

if TYPE_CHECKING:
    import pymongo.change_stream

Document = dict[str, Any]
Database = AsyncIOMotorDatabase[Document]

#: Milliseconds until the driver gives up looking for a primary. The driver's 30 s would outlive every caller.
SERVER_SELECTION_MS: Final = 2000
#: The same for the change stream. After its server was shut down, the driver looks for that very server for as long,
#: in vain, before it goes on with another; and who follows the stream tries again for ever.
STREAM_SELECTION_MS: Final = 1000
#: Milliseconds that one read may take in all.
READ_MS: Final = 2500
#: Documents that come in one answer of MongoDB's; its own default is 101.
_BATCH: Final = 10_000
#: The field that tells which collection a document was found in.
_SOURCE: Final = "_found_in"
#: Milliseconds after which an idle change stream answers all the same: the heartbeat.
HEARTBEAT_MS: Final = 1000
#: Milliseconds without any byte on the change stream's connection that mean it is dead. More than a heartbeat.
SILENCE_MS: Final = 3000

# Whatever lies in a document must be readable: an invalid string is decoded with replacement characters, a date
# beyond Python's range becomes a DatetimeMS. Either is then judged by `jobs`, and neither can stop the change stream.
CODEC: Final[CodecOptions[Document]] = CodecOptions(
    tz_aware=True,
    unicode_decode_error_handler="replace",
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)


@asynccontextmanager
async def open_database(uri: str, name: str, *, streaming: bool = False) -> AsyncIterator[Database]:
    """The database `name` through a client of its own; no I/O happens until it is used.

    Reads go to the primary and see what a majority has: what the change stream has told, a read sees too.
    `streaming` makes a client for the change stream, whose reads may idle but whose connection may not be silent.
    """
    # Who follows the stream tries again by itself, and looks at what is held in between: a driver's retry delays that.
    stream: dict[str, Any] = {"socketTimeoutMS": SILENCE_MS, "retryReads": False}
    limits = stream if streaming else {"timeoutMS": READ_MS}
    client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(
        uri,
        serverSelectionTimeoutMS=STREAM_SELECTION_MS if streaming else SERVER_SELECTION_MS,
        connectTimeoutMS=SERVER_SELECTION_MS,
        appname="genstatus_server",
        **limits,
    )
    try:
        yield client.get_database(
            name,
            codec_options=CODEC,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
        )
    finally:
        client.close()


class ChangeStream:
    """An open change stream. `resume_token` is its place behind all changes that were given out."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def alive(self) -> bool:
        """Whether more may come."""
        return bool(self._stream.alive)

    @property
    def resume_token(self) -> Mapping[str, Any] | None:
        """What to open another stream with that goes on behind this one."""
        token: Mapping[str, Any] | None = self._stream.resume_token
        return token

    async def next_changes(self) -> Sequence[Document]:
        """The changes that have come, at once and all; none after a heartbeat without one."""
        loop = asyncio.get_running_loop()
        changes: Sequence[Document] = await run_on_executor(loop, _take_all, self._stream.delegate)  # type: ignore[no-untyped-call]  # Motor's frameworks are.
        return changes


@asynccontextmanager
async def open_change_stream(
    database: Database, pipeline: Sequence[Mapping[str, Any]], resume_token: Mapping[str, Any] | None
) -> AsyncIterator[ChangeStream]:
    """A change stream on `database` that stands on MongoDB when the block begins.

    It goes on behind `resume_token`; without one it begins where a read of this moment ends. MongoDB's own beginning is
    the primary's last write, which a majority, and so a read, may not have yet: right after an election that would
    leave a gap of seconds.
    """
    # `start_after` for every token: unlike `resume_after` it also goes on behind an invalidate.
    start: dict[str, Any] = {"start_after": resume_token}
    if resume_token is None:
        start = {"start_at_operation_time": await majority_time(database)}
    async with database.watch(
        list(pipeline), full_document="updateLookup", max_await_time_ms=HEARTBEAT_MS, **start
    ) as stream:
        yield ChangeStream(stream)


def _take_all(stream: "pymongo.change_stream.ChangeStream[Document]") -> list[Document]:
    """What one `getMore` brings. In one go: a turn of a thread for each of a thousand changes takes seconds."""
    changes: list[Document] = []
    change = stream.try_next()
    while change is not None:
        changes.append(change)
        # The driver asks the same to know whether it stands at a batch's end; it has no public way to ask.
        change = stream.try_next() if stream._cursor._has_next() else None  # noqa: SLF001
    return changes


async def cluster_time(database: Database) -> Timestamp | None:
    """The time of MongoDB's newest operation; None on a standalone."""
    answer = await database.command("ping")
    return answer.get("operationTime")


async def majority_time(database: Database) -> Timestamp | None:
    """The time of the newest operation that a majority has, and so of what a read sees; None on a standalone."""
    # Of a read with this concern, MongoDB tells the time of what it was read from. Any read will do.
    nothing = {"find": "jobs", "filter": {"_id": None}, "limit": 1, "singleBatch": True}
    answer = await database.command(nothing | {"readConcern": {"level": "majority"}})
    return answer.get("operationTime")


async def ping(database: Database) -> None:
    """Ask MongoDB for a sign of life."""
    await database.command("ping")


async def describe_collection(database: Database, collection: str) -> Shape | None:
    """The shape of `collection`; None where there is no such collection."""
    found = [each async for each in await database.list_collections(filter={"name": collection})]
    if not found:
        return None
    return Shape(found[0].get("options", {}).get("validator"), await database[collection].index_information())


async def find(
    database: Database, wanted: Mapping[str, tuple[Mapping[str, Any], Sequence[str]]]
) -> Mapping[str, list[Document]]:
    """The documents that the query of each collection finds, with the fields named beside it and their `_id`.

    All of it is one round trip as a rule: each costs a driver more than it costs MongoDB.
    """
    pipelines: dict[str, list[Mapping[str, Any]]] = {
        collection: [{"$match": query}, {"$project": dict.fromkeys(fields, 1)}, {"$set": {_SOURCE: collection}}]
        for collection, (query, fields) in wanted.items()
    }
    first, *others = pipelines
    unions = [{"$unionWith": {"coll": each, "pipeline": pipelines[each]}} for each in others]
    found: dict[str, list[Document]] = {collection: [] for collection in wanted}
    for document in await database[first].aggregate([*pipelines[first], *unions], batchSize=_BATCH).to_list(None):
        found[document.pop(_SOURCE)].append(document)
    return found
