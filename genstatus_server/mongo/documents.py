"""Documents by key: from the cache if it can answer, else by one snapshot read."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from bson.errors import BSONError
from pymongo.errors import AutoReconnect, InvalidOperation, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.mongo.cache import DocumentCache, Holds, Lookup
from genstatus_server.mongo.client import READ_MS, Connection, Reply, is_logged_out
from genstatus_server.mongo.events import ClusterTime, is_same
from genstatus_server.mongo.freshness import Freshness
from genstatus_server.mongo.loader import BatchLoader
from genstatus_server.mongo.queries import (
    JOBS,
    SESSIONS,
    SUBMISSIONS,
    USERS,
    Document,
    Key,
    document_id,
    is_found_by,
    job_key,
    parse,
    snapshot_query,
    split_reply,
)
from genstatus_server.telemetry import log
from genstatus_server.telemetry.metrics import Metrics

#: The document of each key (None if there is none), and the cluster time of the read.
Found = dict[Key, tuple[Document | None, ClusterTime]]

#: Error codes for a snapshot that does not exist, right after an election or after a collection was created, and for a
#: collection that was dropped or replaced during the read.
_NO_SNAPSHOT: Final = frozenset({26, 175, 239, 246})
#: A reply that one document alone makes too large.
_TOO_LARGE: Final = frozenset({10334, 17280, 4568, 1074})
_FIRST_PAUSE: Final = 0.01
#: If a read is split, it reads jobs first. Sessions, users and submissions are then never older than the jobs.
_ORDER: Final = {JOBS: 0, SUBMISSIONS: 1, SESSIONS: 2, USERS: 3}


class DocumentReader:
    """Reads the documents of keys in one query, and retries errors that may pass."""

    def __init__(self, connection: Connection, freshness: Freshness, metrics: Metrics) -> None:
        self._connection = connection
        self._freshness = freshness
        self._metrics = metrics

    async def read(self, keys: Sequence[Key]) -> Found:
        """The documents of `keys`, and the users of the sessions among them. Raises `ServiceUnavailable`.

        They are of one time, unless one of them cannot be read together with the others.
        """
        try:
            reply = await self._snapshot(keys)
            if not reply.is_complete and len(keys) > 1:
                return await self._read_parts(keys)
        except ServiceUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a document holds, it must not fail the reads of others.
            if len(keys) > 1:
                return await self._read_parts(keys)
            log.warning("document_unreadable", collection=keys[0][0], cause=log.cause(error))
            return {keys[0]: (None, 0)}
        return _by_key(keys, reply)

    async def _read_parts(self, keys: Sequence[Key]) -> Found:
        ordered, middle = sorted(keys, key=lambda key: _ORDER[key[0]]), len(keys) // 2
        return await self.read(ordered[:middle]) | await self.read(ordered[middle:])

    async def _snapshot(self, keys: Sequence[Key]) -> Reply:
        """One query. It is retried after an error that may pass, until the deadline."""
        collection, pipeline = snapshot_query(keys)
        for each in {key[0] for key in keys}:
            self._metrics.mongodb_reads.labels(each).inc()
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        deadline, not_before = loop.time() + READ_MS / 1000, self._freshness.delivered
        while True:
            cause: Exception
            try:
                reply = await self._connection.snapshot_read(collection, pipeline)
            except (PyMongoError, BSONError) as error:
                if _is_of_documents(error):
                    raise
                cause = error
            else:
                if reply.time >= not_before or not reply.time:
                    return reply
                cause = ConnectionError("the primary has not yet what the change stream has delivered")
            if not self._may_pass(cause) or loop.time() + pause > deadline:
                raise ServiceUnavailable from cause
            await asyncio.sleep(pause)
            pause *= 2

    def _may_pass(self, error: Exception) -> bool:
        if is_logged_out(error):
            self._connection.renew()
            return True
        if isinstance(error, OperationFailure) and error.code in _NO_SNAPSHOT:
            return True
        is_connection = isinstance(error, AutoReconnect | InvalidOperation | ConnectionError)
        return is_connection and not isinstance(error, ServerSelectionTimeoutError)


class Documents:
    """The documents of one database, cached or read."""

    def __init__(self, reader: DocumentReader, cache: DocumentCache, holds: Holds) -> None:
        self._reader = reader
        self._holds = holds
        self._loader = BatchLoader(self._read)
        self.cache = cache

    async def get(self, keys: Collection[Key], deadline: float) -> Lookup:
        """The documents of `keys`, with the users of the sessions among them, as of one time.

        Raises `ServiceUnavailable`, at the loop's time `deadline` at the latest.
        """
        return self.cache.lookup(keys) or await self.load(keys, deadline)

    async def load(self, keys: Collection[Key], deadline: float) -> Lookup:
        """As `get`, but not from the cache."""
        return Lookup(await self._loader.load(keys, deadline))

    async def read_again(self, keys: Iterable[Key], *, restart: bool = False) -> None:
        """Read `keys` in one query, and wake the holds of those whose document differs from what was cached.

        `restart` drops whatever is cached first: events may have been missed. Raises `ServiceUnavailable`.
        """
        wanted = tuple(keys)
        before = self.cache.documents(wanted)
        if restart:
            self.cache.clear()
        if not wanted:
            return
        await self._read([key for key in wanted if key[0] != USERS])
        after = self.cache.documents(wanted)
        self._holds.wake(
            [key for key in wanted if key not in before or key not in after or not is_same(after[key], before[key])]
        )

    async def close(self) -> None:
        """End the reads under way."""
        await self._loader.close()

    async def _read(self, keys: Sequence[Key]) -> Mapping[Key, Any]:
        values: dict[Key, Any] = {}
        with self.cache.reading() as read:
            found = await self._reader.read(keys)
            for key, (document, time) in found.items():
                values[key] = parse(key, document)
                self.cache.put(read, key, document, values[key], time)
                if key[0] == SESSIONS and values[key] is not None:
                    user_key = (USERS, values[key].user_id)
                    if user_key not in found:  # The query joins the user of a session, so this user does not exist.
                        self.cache.put(read, user_key, None, None, time)
        return values


def _by_key(keys: Sequence[Key], reply: Reply) -> Found:
    found: Found = dict.fromkeys(keys, (None, reply.time))
    malformed: list[Document] = []
    for collection, document in split_reply(reply.documents):
        key = job_key(document) if collection == JOBS else (collection, document_id(document["_id"]))
        if key is None:
            malformed.append(document)
        elif key[1] is None:  # A query finds it by a whole number, but an event does not identify it.
            log.warning("document_malformed", collection=collection, cause="its _id is no text or whole number")
        elif key in found or collection == USERS:
            # Without the unique index, a key may have two jobs: the first stands.
            found[key] = (document, reply.time) if found.get(key, (None,))[0] is None else found[key]
    for document in malformed:
        for key in keys:
            if key[0] == JOBS and found[key][0] is None and is_found_by(document, key):
                found[key] = (document, reply.time)
    return found


def _is_of_documents(error: Exception) -> bool:
    """Whether a document caused `error`, and not MongoDB itself or the connection to it."""
    return not isinstance(error, PyMongoError) or (isinstance(error, OperationFailure) and error.code in _TOO_LARGE)
