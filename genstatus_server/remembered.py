"""Documents that were read once and are kept while the change stream proves them fresh. Pure asyncio.

Identical reads in flight are shared. A change drops what is kept *and* the reads in flight: a read that began before
the change may bring the document as it was, so its result is given to those who wait for it but not kept.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar, cast

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_UNKNOWN: Final = object()


class Remembered(Generic[K, V]):
    """What the documents of one collection were, by key.

    `read` fetches one, and `document_id` tells its `_id` where that is not the key; `is_kept` says which are kept at
    all, and `is_fresh` whether what is kept may be trusted now. `on_difference` is told a key when a read gives
    something else than was kept, and when a key falls out of the `size` last used: whoever waits for it should look
    again, because no change need come that says so.
    """

    def __init__(  # noqa: PLR0913 - all by name, and each is one sentence above.
        self,
        read: Callable[[K], Awaitable[V]],
        *,
        size: int,
        is_fresh: Callable[[], bool],
        on_difference: Callable[[K], None],
        is_kept: Callable[[V], bool] = lambda _: True,
        document_id: Callable[[V], Hashable] = lambda _: None,
    ) -> None:
        self._read = read
        self._size = size
        self._is_fresh = is_fresh
        self._on_difference = on_difference
        self._is_kept = is_kept
        self._document_id = document_id
        #: In the order of their last use.
        self._values: OrderedDict[K, V] = OrderedDict()
        self._key_by_document_id: dict[Hashable, K] = {}
        self._in_flight: dict[K, asyncio.Task[V]] = {}
        self._tasks: set[asyncio.Task[V]] = set()
        #: How often `get` was spared a read, and how often not.
        self.hits = 0
        self.misses = 0

    async def get(self, key: K, *, anew: bool = False) -> V:
        """The document of `key`, from memory or by a read; `anew`: by a read that begins now."""
        if not anew:
            if self._is_fresh():
                value = self._values.get(key, _UNKNOWN)
                if value is not _UNKNOWN:
                    self._values.move_to_end(key)
                    self.hits += 1
                    return cast("V", value)
            self.misses += 1
            if key in self._in_flight:
                return await asyncio.shield(self._in_flight[key])
        # A task of its own: the reader that began it may go away while others wait for the same read.
        task = asyncio.create_task(self._fetch(key))
        self._in_flight[key] = task
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def put(self, key: K, value: V) -> None:
        """Keep `value`, just read, for `key`."""
        known = self._discard(key)
        if self._is_kept(value):
            if len(self._values) >= self._size:
                self._put_out(next(iter(self._values)))
            self._values[key] = value
            self._note_document_id(key, value)
        if known is not _UNKNOWN and known != value:
            self._on_difference(key)

    def knows(self, key: K) -> bool:
        """Whether anything is kept for `key`, trusted or not."""
        return key in self._values

    def peek(self, key: K) -> V | None:
        """What is kept for `key`, trusted or not."""
        return self._values.get(key)

    def key_of(self, document_id: Hashable) -> K | None:
        """The key under which the document with this `_id` is kept; None where it is not."""
        return self._key_by_document_id.get(document_id)

    def drop(self, key: K) -> V | None:
        """`key` has changed. What was kept of it until now, None where nothing was."""
        known = self._discard(key)
        self._in_flight.pop(key, None)
        return None if known is _UNKNOWN else cast("V", known)

    def drop_all(self) -> None:
        """Anything may have changed."""
        self._values.clear()
        self._key_by_document_id.clear()
        self._in_flight.clear()

    def keys_in_flight(self) -> Iterable[K]:
        """The keys that are being read just now."""
        return tuple(self._in_flight)

    async def close(self) -> None:
        """End the reads in flight."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(self, key: K) -> V:
        try:
            value = await self._read(key)
        finally:
            is_current = self._in_flight.get(key) is asyncio.current_task()
            if is_current:
                del self._in_flight[key]
        if is_current:
            self.put(key, value)
        return value

    def _note_document_id(self, key: K, value: V) -> None:
        document_id = self._document_id(value)
        if document_id is None:
            return
        before = self._key_by_document_id.get(document_id)
        if before is not None and before != key:
            self._put_out(before)  # It has moved here. The change that says so need not name where it was.
        self._key_by_document_id[document_id] = key

    def _put_out(self, key: K) -> None:
        self._discard(key)
        self._on_difference(key)

    def _discard(self, key: K) -> object:
        value = self._values.pop(key, _UNKNOWN)
        if value is not _UNKNOWN:
            self._key_by_document_id.pop(self._document_id(cast("V", value)), None)
        return value

    def _done(self, task: asyncio.Task[V]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Seen by those who wait for it; marked as seen where nobody does any more.
