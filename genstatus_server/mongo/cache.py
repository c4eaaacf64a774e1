"""The cached documents: each is read once and then advanced by the change stream, in the order of the oplog."""

import sys
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from cachetools import LRUCache

from genstatus_server.model.access import LoginSession, Submission, User
from genstatus_server.model.jobs import FILE_TYPES, Job, whole_number
from genstatus_server.mongo.events import (
    DOCUMENT_OPERATIONS,
    ClusterTime,
    Event,
    changed_fields,
    changes_key,
    cluster_time,
    document_after,
    is_same,
    key_of,
)
from genstatus_server.mongo.freshness import Freshness
from genstatus_server.mongo.queries import (
    FIELDS,
    JOBS,
    SESSIONS,
    SUBMISSIONS,
    USERS,
    Document,
    Key,
    document_id,
    parse,
)


class Holds(Protocol):
    """What is needed of `hold.holds.HoldRegistry`."""

    def keys(self) -> Collection[Key]:
        """The keys of all holds."""

    def wake(self, keys: Iterable[Key] | None) -> bool:
        """Wake the holds of `keys`, whose documents may have changed; None: all. Returns whether there are any."""


class Lookup(NamedTuple):
    """Documents that were read or cached together; all that the answer to one request depends on."""

    values: Mapping[Key, Any]

    def session(self, token_hash: str) -> LoginSession | None:
        session: LoginSession | None = self.values[SESSIONS, token_hash]
        return session

    def user(self, user_id: int) -> User | None:
        user: User | None = self.values.get((USERS, user_id))
        return user

    def submission(self, submission_id: int) -> Submission | None:
        submission: Submission | None = self.values[SUBMISSIONS, submission_id]
        return submission

    def job(self, submission_id: int, file_type: str) -> Job:
        job: Job = self.values[JOBS, (submission_id, file_type)]
        return job


class _Entry:
    """A document (None if it does not exist), its parsed value, and the cluster time of the read that returned it.

    `transaction_at` is the cluster time of the last transaction that changed the document, 0 if there was none. More
    events of that transaction may follow until the change stream has passed this time.
    """

    __slots__ = ("document", "read_at", "transaction_at", "value")

    def __init__(self, document: Document | None, value: Any, read_at: ClusterTime) -> None:
        self.document = document
        self.value = value
        self.read_at = read_at
        self.transaction_at: ClusterTime = 0


class _Entries(LRUCache[Any, _Entry]):
    """The entries of one collection. When the cache is full, the entry that it evicts is passed to `on_evict`."""

    def __init__(self, size: int, on_evict: Callable[[Any, _Entry], None]) -> None:
        super().__init__(size)
        self._on_evict = on_evict

    def popitem(self) -> tuple[Any, _Entry]:
        key, entry = super().popitem()
        self._on_evict(key, entry)
        return key, entry


class PendingRead:
    """A read under way, and the times of the newest events that came meanwhile."""

    def __init__(self) -> None:
        self._events: dict[Hashable, ClusterTime] = {}

    def note(self, concerned: Iterable[Hashable], time: ClusterTime) -> None:
        """Note an event of `time` that concerns these keys or these `_id`s of jobs. None stands for everything."""
        self._events.update(dict.fromkeys(concerned, time))

    def is_outdated(self, key: Key, job_id: Hashable, read_at: ClusterTime) -> bool:
        """Whether an event that may concern `key` is later than the read. The change stream does not repeat it."""
        return any(self._events.get(each, 0) > read_at for each in (None, key, job_id))


class DocumentCache:
    """The documents in use, at most `size` of each collection. `size` must exceed the documents that holds wait for.

    The cache wakes `holds` itself, beside the keys that `apply` returns, when a read returned a document that differs
    from the cached one, when an event overtook a read, when a job was found under another key, and when a document was
    evicted.
    """

    def __init__(self, size: int, freshness: Freshness, holds: Holds) -> None:
        self._freshness = freshness
        self._holds = holds
        self._entries: Final[Mapping[str, _Entries]] = {
            collection: _Entries(size, partial(self._evicted, collection)) for collection in FIELDS
        }
        #: The keys of cached jobs by their `_id`: most events of jobs name nothing else.
        self._job_keys: dict[Any, Key] = {}
        self._reads: set[PendingRead] = set()
        self._hits = dict.fromkeys(FIELDS, 0)
        self._misses = dict.fromkeys(FIELDS, 0)

    def lookup(self, keys: Collection[Key]) -> Lookup | None:
        """The documents of `keys`, and the user of a session among them; None where the cache cannot answer.

        The cache answers only while it is current. It does not answer about a job that was read ahead of the change
        stream if the session, user or submission is older: the job may have been settled after access was revoked. It
        does not answer either while the change stream may still deliver events of a transaction that changed one of
        the documents.
        """
        if not self._freshness.is_current():
            self._misses[next(iter(keys))[0]] += 1
            return None
        position, newest_job, oldest_access = self._freshness.position, 0, sys.maxsize
        found: dict[Key, Any] = {}
        pending = list(keys)
        for key in pending:
            collection, identifier = key
            try:
                entry = self._entries[collection][identifier]
            except KeyError:
                self._misses[collection] += 1
                return None
            self._hits[collection] += 1
            if entry.transaction_at > position:
                return None
            if collection == JOBS:
                newest_job = max(newest_job, entry.read_at)
            else:
                oldest_access = min(oldest_access, entry.read_at)
            if collection == SESSIONS:
                pending.append((USERS, entry.value.user_id))
            found[key] = entry.value
        return Lookup(found) if newest_job <= max(position, oldest_access) else None

    @contextmanager
    def reading(self) -> Iterator[PendingRead]:
        """A read that is under way during the block."""
        read = PendingRead()
        self._reads.add(read)
        try:
            yield read
        finally:
            self._reads.discard(read)

    def put(self, read: PendingRead, key: Key, document: Document | None, value: Any, read_at: ClusterTime) -> None:
        """Cache the `document` of `key`, which `read` returned as of the cluster time `read_at`."""
        entries, identifier = self._entries[key[0]], key[1]
        entry = entries.get(identifier)
        if entry is not None and is_same(entry.document, document):
            if key[0] != JOBS:  # A job keeps the older time: then no access document is older.
                entry.read_at = max(entry.read_at, read_at)
            return
        job_id = document_id(document["_id"]) if document is not None and key[0] == JOBS else None
        if read.is_outdated(key, ("_id", job_id), read_at):
            self._holds.wake((key,))  # The holds of this key check again, and so read it again.
            return
        if entry is not None:
            self._holds.wake((key,))
            if entry.read_at > read_at:
                return
            self.invalidate(key)
        if not _can_be_cached(key, document, value):
            return
        if job_id is not None:
            self._move_job(job_id, key)
        entries[identifier] = _Entry(document, value, read_at)

    def apply(self, event: Event) -> Iterable[Key] | None:
        """Advance the cache by `event`. Returns the keys whose holds have to check again; None: all holds."""
        time, keys = cluster_time(event["clusterTime"]), self._keys_of(event)
        if self._reads:
            job_id = document_id(event.get("documentKey", {}).get("_id"))
            for read in self._reads:
                read.note((None,) if keys is None else (*keys, ("_id", job_id)), time)
        if keys is None:
            self.clear()
            return None
        return [key for key in keys if self._advance(key, event, time)]

    def invalidate(self, key: Key) -> None:
        """Drop the document of `key`. It is read again when it is needed."""
        entry = self._entries[key[0]].pop(key[1], None)
        if entry is not None:
            self._remove_job_key(key, entry)

    def clear(self) -> None:
        """Drop all: events may have been missed."""
        for entries in self._entries.values():
            # Not `LRUCache.clear`, which would call `on_evict` for each.
            for key in tuple(entries):
                del entries[key]
        self._job_keys.clear()

    def documents(self, keys: Iterable[Key]) -> dict[Key, Document | None]:
        """The cached documents among `keys`, trusted or not."""
        found = {key: self._entries[key[0]].get(key[1]) for key in keys}
        return {key: entry.document for key, entry in found.items() if entry is not None}

    def jobs(self, keys: Iterable[Key]) -> list[Job]:
        """The cached jobs among `keys`, trusted or not."""
        found = (self._entries[JOBS].get(key[1]) for key in keys if key[0] == JOBS)
        return [entry.value for entry in found if entry is not None]

    def hits_and_misses(self) -> Iterable[tuple[str, int, int]]:
        """How many documents of each collection were wanted and cached, and how many were not."""
        return [(collection, self._hits[collection], self._misses[collection]) for collection in FIELDS]

    def _keys_of(self, event: Event) -> Collection[Key] | None:
        if event["operationType"] not in DOCUMENT_OPERATIONS:
            return None
        if event["ns"]["coll"] != JOBS:
            key = key_of(event)
            return () if key is None else (key,)
        identifier = document_id(event["documentKey"].get("_id"))
        before = self._job_keys.get(identifier)
        if changes_key(event):
            return self._keys_of_move(event, before)
        if event["operationType"] in ("insert", "replace"):
            after = key_of(event)
            # Without a plain key (an array, for instance), a query may find the job by several keys.
            return None if after is None else {after, before or after}
        if identifier is None:  # Such a job is never cached. Any hold on a job that is not cached may wait for it.
            held = self._holds.keys()
            return [key for key in held if key[0] == JOBS and key[1] not in self._entries[JOBS]]
        # Without a cached job, its key is unknown here. `apply` notes the job's `_id` in the reads under way.
        return (before,) if before is not None else ()

    def _keys_of_move(self, event: Event, before: Key | None) -> Collection[Key] | None:
        """The keys of a job that moves. It may have been read under a key that is not known here."""
        updated = event["updateDescription"].get("updatedFields") or {}
        submission_id = before[1][0] if before else None
        if "submission_id" in changed_fields(event):  # As a whole, or an element of an array: that says too little.
            submission_id = whole_number(updated.get("submission_id"))
        if submission_id is None:
            return None
        after = {(JOBS, (submission_id, file_type)) for file_type in FILE_TYPES}
        return after if before is None else {before, *after}

    def _advance(self, key: Key, event: Event, time: ClusterTime) -> bool:
        """Apply `event` to the document of `key`. Returns whether its holds have to check again."""
        entry = self._entries[key[0]].get(key[1])
        if entry is None:
            return True
        if time <= entry.read_at:
            return False  # It is part of what was read.
        document = document_after(key, entry.document, event)
        if document is not None and is_same(document, entry.document):
            return False
        # Only events of multi-document transactions have it; those of retryable writes do not.
        if "txnNumber" in event:
            entry.transaction_at = time
        value = parse(key, document)
        if document is None or not _can_be_cached(key, document, value):
            self.invalidate(key)
            return True
        if entry.document is None and key[0] == JOBS:
            self._move_job(document_id(document["_id"]), key)
        entry.document, entry.value = document, value
        return True

    def _move_job(self, job_id: Hashable, key: Key) -> None:
        """Note that the job with this `_id` has `key`. If it had another one, drop what is cached there."""
        before = self._job_keys.get(job_id)
        if before is not None and before != key:
            self.invalidate(before)
            self._holds.wake((before,))
        self._job_keys[job_id] = key

    def _remove_job_key(self, key: Key, entry: _Entry) -> None:
        if key[0] == JOBS and entry.document is not None:
            self._job_keys.pop(document_id(entry.document["_id"]), None)

    def _evicted(self, collection: str, identifier: Any, entry: _Entry) -> None:
        self._remove_job_key((collection, identifier), entry)
        self._holds.wake(((collection, identifier),))


def _can_be_cached(key: Key, document: Document | None, value: Any) -> bool:
    if key[0] == SESSIONS:
        return value is not None  # Anybody can make up any number of tokens.
    # Events name a job by its `_id` alone.
    return key[0] != JOBS or document is None or document_id(document["_id"]) is not None
