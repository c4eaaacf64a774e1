"""Reads documents, and remembers them while the change stream proves that they have not changed."""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Final, TypeVar

from genstatus_server.model.jobs import NO_JOB, Job, job_after, whole_number
from genstatus_server.mongo import client as mongodb
from genstatus_server.mongo.cache import UNKNOWN, Remembered
from genstatus_server.mongo.loader import GroupedReads
from genstatus_server.mongo.queries import JOBS, SESSIONS, SUBMISSIONS, USERS, Find, JobId, Key, job_id_of, parse_job
from genstatus_server.mongo.reader import Reader
from genstatus_server.telemetry.metrics import Metrics

T = TypeVar("T")

_DOCUMENT_CHANGES: Final = frozenset({"insert", "update", "replace", "delete"})


class _NotRemembered(Exception):
    """No error, but what has to be read before all can be seen."""

    def __init__(self, key: Key) -> None:
        super().__init__()
        self.key = key


class Store:
    """The documents of one database.

    `is_fresh` says whether the change stream proves what is remembered; `wake` is told the key of every document that
    was found to differ from what was remembered. `size` bounds what is remembered of each collection; it must exceed
    the number of holds, so that what is waited for stays remembered.
    """

    def __init__(
        self,
        database: mongodb.Database,
        metrics: Metrics,
        *,
        size: int,
        is_fresh: Callable[[], bool],
        wake: Callable[[Key], None],
    ) -> None:
        self._reader = Reader(database, metrics)
        self._reads: Final[GroupedReads[Key, Any]] = GroupedReads(self._reader.read, self._keep)

        def remembered(collection: str, **options: Any) -> Remembered[Any, Any]:
            return Remembered(size=size, on_difference=lambda key: wake((collection, key)), **options)

        self._is_fresh = is_fresh
        self._wake = wake
        self._shared: dict[Hashable, Any] = {}
        self._memory: Final[Mapping[str, Remembered[Any, Any]]] = {
            # A job is kept only where a later change of it can be told by its `_id`.
            JOBS: remembered(
                JOBS,
                is_kept=lambda job: job is NO_JOB or job.job_id is not None,
                document_id=lambda job: job.job_id,
            ),
            SUBMISSIONS: remembered(SUBMISSIONS),
            USERS: remembered(USERS),
            # Absent sessions are not kept: anybody can make up any number of them.
            SESSIONS: remembered(SESSIONS, is_kept=lambda session: session is not None),
        }

    async def see(self, see: Callable[[Find], T], until: float) -> T:
        """What `see` makes of the documents that it finds.

        `see` is called with a `find` and again for each document that had to be read, so it must do nothing else; what
        is remembered it finds at once. Raises what it raises, and `ServiceUnavailable`, also where reading takes longer
        than until the loop's time `until`.
        """
        found: dict[Key, Any] = {}
        while True:
            try:
                return see(self._finder(found))
            except _NotRemembered as missing:
                found[missing.key] = await self._reads.read(missing.key, until)

    def see_at_once(self, see: Callable[[Find], T]) -> T | None:
        """The same without reading anything; None where something has to be read. Raises what `see` raises."""
        try:
            return see(self._finder({}))
        except _NotRemembered:
            return None

    def share(self, question: Hashable, see: Callable[[], T]) -> T:
        """What `see` gives, which depends on what is remembered alone: thousands may be woken to ask the same.

        All who ask an equal `question` in this turn of the loop share it, unless what is remembered changes meanwhile.
        """
        if not self._is_fresh():
            return see()
        if question not in self._shared:
            if not self._shared:
                asyncio.get_running_loop().call_soon(self._shared.clear)
            self._shared[question] = see()
        shared: T = self._shared[question]
        return shared

    async def read_anew(self, keys: Iterable[Key], until: float) -> Find:
        """The documents of `keys` by a read that begins now; any other counts as gone. Raises `ServiceUnavailable`."""
        found = await self._reads.read_anew(keys, until)
        return lambda collection, key: found.get((collection, key))

    def is_told(self, job_id: JobId, job: Job) -> bool:
        """Whether the change stream told that this is the job, and so whatever was committed before."""
        return self._memory[JOBS].is_told(job_id, job)

    def remembered_jobs(self, keys: Iterable[Key]) -> list[Job]:
        """The jobs among `keys` as they were last read, where that is remembered."""
        known = (self._memory[JOBS].peek(job_id) for collection, job_id in keys if collection == JOBS)
        return [job for job in known if job is not None]

    def hits_and_misses(self) -> Iterable[tuple[str, int, int]]:
        """Of each collection: how often a document was remembered when it was wanted, and how often not."""
        for collection, memory in self._memory.items():
            yield collection, memory.hits, memory.misses

    def forget(self, change: Mapping[str, Any]) -> Iterable[Key] | None:
        """Drop what `change` makes outdated. The keys that it concerns; None where it may concern all.

        A job that was remembered is known again by what the change brought, which saves a read.
        """
        self._shared.clear()
        if change["operationType"] not in _DOCUMENT_CHANGES:
            self.forget_all()
            return None
        keys = tuple(self._keys_of(change))
        for collection, key in keys:
            self._reads.forget((collection, key))
            known = self._memory[collection].drop(key)
            if collection == JOBS and known is not None:
                self._learn(key, known, change)
        return keys

    def forget_all(self) -> None:
        """Drop everything: changes may have been missed."""
        self._shared.clear()
        self._reads.forget_all()
        for memory in self._memory.values():
            memory.drop_all()

    async def read_again(self, keys: Iterable[Key]) -> None:
        """Read what `keys` stand for, in one query, and wake those whose document differs.

        Raises `ServiceUnavailable`.
        """
        found = await self._reader.read(tuple(keys))
        self._shared.clear()
        for (collection, key), value in found.items():
            memory = self._memory[collection]
            if not memory.knows(key):
                self._wake((collection, key))  # Its hold may have read anything.
            memory.put(key, value)

    async def close(self) -> None:
        """End the reads under way."""
        await self._reads.close()

    def _keys_of(self, change: Mapping[str, Any]) -> Iterable[Key]:
        collection, document_id = change["ns"]["coll"], change["documentKey"]["_id"]
        if collection != JOBS:
            # Only a text or a whole number is ever asked for; of the rest, some cannot even be hashed.
            key = document_id if type(document_id) is str else whole_number(document_id)
            return [] if key is None else [(collection, key)]
        # A job is known by its submission and file type: those it has now, and those it had when it was read.
        keys = {job_id_of(change.get("fullDocument")), self._memory[JOBS].key_of(whole_number(document_id))} - {None}
        # Some job was deleted, and the one that is being read just now may be it.
        if keys:
            return [(JOBS, key) for key in keys]
        return [key for key in self._reads.keys_under_way() if key[0] == JOBS]

    def _learn(self, key: JobId, known: Job, change: Mapping[str, Any]) -> None:
        document = change.get("fullDocument")
        # Only of the very document that was read: where the unique index is missing, there may be two.
        if document and job_id_of(document) == key and whole_number(document.get("_id")) == known.job_id:
            job = parse_job(key, document, known)
            self._memory[JOBS].put(key, job, is_told=_is_of_this_change(job, known, change))

    def _finder(self, found: dict[Key, Any]) -> Find:
        """Finds what is in `found`, and what is remembered and fresh; raises `_NotRemembered` for the rest."""
        is_fresh, memory = self._is_fresh(), self._memory

        def find(collection: str, document_id: Any) -> Any:
            if found and (collection, document_id) in found:
                return found[collection, document_id]
            value = memory[collection].get(document_id, is_fresh=is_fresh)
            if value is UNKNOWN:
                raise _NotRemembered((collection, document_id))
            return value

        return find

    def _keep(self, key: Key, value: Any) -> None:
        self._shared.clear()
        self._memory[key[0]].put(key[1], value)


def _is_of_this_change(job: Job, known: Job, change: Mapping[str, Any]) -> bool:
    """Whether `job` is what `change` made of `known`: MongoDB looks a document up later, when others may have come."""
    if change["operationType"] != "update":
        return True  # It has brought the document itself.
    updated = change.get("updateDescription", {}).get("updatedFields", {})
    # What is known may be newer than the change: only one that ends the waiting by itself cannot be part of it already.
    return not known.is_settled and job == job_after(known, updated)
