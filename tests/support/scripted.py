"""A MongoDB that a test plays: an oplog, snapshot reads of any moment, and a change stream that it feeds."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bson.timestamp import Timestamp

from genstatus_server.mongo.client import Batch, NextBatch
from genstatus_server.mongo.documents import Found
from genstatus_server.mongo.events import ClusterTime, Event, cluster_time
from genstatus_server.mongo.queries import JOBS, SESSIONS, SUBMISSIONS, USERS, Key, own_fields

HASH: Final = "a" * 64
USER: Final = {"_id": 11, "website_admin": False, "affiliations": []}
SUBMISSION: Final = {"_id": 1, "user_id": 11}
SESSION: Final = {"_id": HASH, "user_id": 11, "expires_at": datetime.now(UTC) + timedelta(days=1)}
JOB: Final = {"_id": 100, "submission_id": 1, "file_type": "D1", "status": "waiting"}
FINISHED: Final = {"status": "finished", "upload": {"status": "finished", "key": "1/D1.csv"}}
JOB_KEY: Final[Key] = (JOBS, (1, "D1"))
SESSION_KEY: Final[Key] = (SESSIONS, HASH)
SUBMISSION_KEY: Final[Key] = (SUBMISSIONS, 1)
USER_KEY: Final[Key] = (USERS, 11)


def time_of(seconds: int) -> ClusterTime:
    """The cluster time of a second."""
    return cluster_time(Timestamp(seconds, 1))


def event(kind: str, collection: str, document_id: object, seconds: int, **fields: object) -> Event:
    """A change stream event of a document, at a second of the cluster's time."""
    return {
        "operationType": kind,
        "clusterTime": Timestamp(seconds, 1),
        "ns": {"coll": collection},
        "documentKey": {"_id": document_id},
        **fields,
    }


def update(
    seconds: int, updated: Mapping[str, Any], removed: Sequence[str] = (), *, collection: str = JOBS, of: object = 100
) -> Event:
    """An update of a document, of job 100 unless it says otherwise."""
    description = {"updatedFields": dict(updated), "removedFields": list(removed), "truncatedArrays": []}
    return event("update", collection, of, seconds, updateDescription=description)


class Oplog:
    """Documents over time. Each commit is a second of the cluster's time, and one event."""

    def __init__(self, documents: Mapping[Key, Mapping[str, Any]]) -> None:
        self.now = 1
        self.events: list[Event] = []
        self._versions: dict[Key, list[tuple[int, Mapping[str, Any] | None]]] = {
            key: [(1, document)] for key, document in documents.items()
        }

    def transaction(self, *writes: Callable[[], None]) -> None:
        """Make the events of `writes` those of one transaction: all of one time."""
        before, first = self.now, len(self.events)
        for write in writes:
            self.now = before
            write()
        self.events[first:] = [{**each, "txnNumber": 1} for each in self.events[first:]]

    def set(self, key: Key, fields: Mapping[str, Any]) -> None:
        """Update the document of `key`."""
        self.now += 1
        document = self.at(key, self.now) or {}
        self._versions[key].append((self.now, {**document, **fields}))
        self.events.append(update(self.now, fields, collection=key[0], of=document["_id"]))

    def delete(self, key: Key) -> None:
        self.now += 1
        document = self.at(key, self.now) or {}
        self._versions[key].append((self.now, None))
        self.events.append(event("delete", key[0], document["_id"], self.now))

    def at(self, key: Key, seconds: int) -> Mapping[str, Any] | None:
        """The document of `key` as of a second."""
        versions = self._versions.get(key, [(0, None)])
        return [document for since, document in versions if since <= seconds][-1]


class ScriptedReader:
    """Stands for the reader: a read begins and ends when the test says so."""

    def __init__(self, oplog: Oplog) -> None:
        self._oplog = oplog
        self.waiting: list[tuple[Sequence[Key], asyncio.Future[Found]]] = []
        self.begun: list[tuple[asyncio.Future[Found], Found]] = []

    async def read(self, keys: Sequence[Key]) -> Found:
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self.waiting.append((keys, future))
        return await future

    def begin(self) -> None:
        """The oldest read is made by MongoDB now."""
        keys, future = self.waiting.pop(0)
        users = {USER_KEY} if SESSION_KEY in keys else set()
        now = self._oplog.now
        found: Found = {}
        for key in {*keys, *users}:
            document = self._oplog.at(key, now)
            found[key] = (document and own_fields(key[0], document), time_of(now))
        self.begun.append((future, found))

    def end(self) -> None:
        """The answer to the oldest read that was made arrives."""
        future, found = self.begun.pop(0)
        if not future.done():
            future.set_result(found)


class ScriptedStream:
    """A change stream whose answers the test sends. `resume_token` is the second of its last event."""

    def __init__(self) -> None:
        self.is_last = False
        self.resume_token: Any = {"after": 0}
        self._answer: asyncio.Future[Batch] | None = None
        self.rests: list[float] = []

    async def next_batch(self, rest: float) -> Batch:
        self.rests.append(rest)
        self._answer = asyncio.get_running_loop().create_future()
        return await self._answer

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for its next answer."""
        return self._answer is not None and not self._answer.done()

    def send(self, *events: Event, requested_at: float, newest_time: ClusterTime) -> None:
        """Answer with these events; with none, the stream has caught up."""
        assert self._answer is not None
        if events:
            self.resume_token = {"after": getattr(events[-1]["clusterTime"], "time", None)}
        batch = Batch(
            events,
            requested_at,
            newest_time,
            has_caught_up=not events,
            resume_token=self.resume_token,
            is_last=self.is_last,
        )
        self._answer.set_result(batch)

    def fail(self, error: Exception) -> None:
        assert self._answer is not None
        self._answer.set_exception(error)


class ScriptedConnection:
    """A connection whose change streams the test plays. What is in `errors` is raised where it is named, once each."""

    def __init__(self, now: int = 1) -> None:
        self.now = now
        self.streams: list[ScriptedStream] = []
        self.opened: list[tuple[Any, ClusterTime]] = []
        self.errors: dict[str, list[BaseException]] = {}
        self.views: list[str] = []
        self.checked: Sequence[str] = ()
        self.view_checks = 0
        self.pipelines: list[Any] = []
        self.renewed = 0

    def raise_in(self, place: str, *errors: BaseException) -> None:
        self.errors.setdefault(place, []).extend(errors)

    def _check(self, place: str) -> None:
        if self.errors.get(place):
            raise self.errors[place].pop(0)

    def renew(self) -> None:
        self.renewed += 1

    async def views_among(self, collections: Sequence[str]) -> list[str]:
        self.checked, self.view_checks = collections, self.view_checks + 1
        self._check("views_among")
        return self.views

    async def snapshot_time(self) -> ClusterTime:
        self._check("snapshot_time")
        return time_of(self.now)

    @asynccontextmanager
    async def open_change_stream(
        self, pipeline: object, *, resume_token: Any, after: ClusterTime
    ) -> AsyncIterator[NextBatch]:
        self.pipelines.append(pipeline)
        self._check("open_change_stream")
        self.opened.append((resume_token, after))
        stream = ScriptedStream()
        if resume_token is not None:
            stream.resume_token = resume_token
        self.streams.append(stream)
        try:
            yield stream.next_batch
        finally:
            self._check("close")

    @property
    def stream(self) -> ScriptedStream:
        """The newest stream."""
        return self.streams[-1]
