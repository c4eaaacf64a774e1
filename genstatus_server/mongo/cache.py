"""Documents that were read once and are kept while the change stream proves them fresh. Pure."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar, cast

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Stands for a document of which nothing is known; None is one that is known not to exist.
UNKNOWN: Final = object()


class Remembered(Generic[K, V]):
    """What the documents of one collection were, by key.

    `document_id` tells a document's `_id` where that is not the key, and `is_kept` says which are kept at all.
    `on_difference` is told a key when a read gives something else than was kept, and when a key falls out of the `size`
    last used: whoever waits for it should look again, because no change need come that says so.
    """

    def __init__(
        self,
        *,
        size: int,
        on_difference: Callable[[K], None],
        is_kept: Callable[[V], bool] = lambda _: True,
        document_id: Callable[[V], Hashable] = lambda _: None,
    ) -> None:
        self._size = size
        self._on_difference = on_difference
        self._is_kept = is_kept
        self._document_id = document_id
        #: In the order of their last use.
        self._values: OrderedDict[K, V] = OrderedDict()
        self._key_by_document_id: dict[Hashable, K] = {}
        self._told: set[K] = set()
        #: How often `get` was spared a read, and how often not.
        self.hits = 0
        self.misses = 0

    def get(self, key: K, *, is_fresh: bool = True) -> V | object:
        """What is kept for `key`; `UNKNOWN` where it has to be read, as all have to be that are not `is_fresh`."""
        value = self._values.get(key, UNKNOWN) if is_fresh else UNKNOWN
        if value is UNKNOWN:
            self.misses += 1
        else:
            self._values.move_to_end(key)
            self.hits += 1
        return value

    def put(self, key: K, value: V, *, is_told: bool = False) -> None:
        """Keep `value`, just read, or told by the change stream, for `key`."""
        known = self._discard(key)
        if self._is_kept(value):
            if len(self._values) >= self._size:
                self._put_out(next(iter(self._values)))
            self._values[key] = value
            if is_told:
                self._told.add(key)
            self._note_document_id(key, value)
        if known is not UNKNOWN and known != value:
            self._on_difference(key)

    def knows(self, key: K) -> bool:
        """Whether anything is kept for `key`, trusted or not."""
        return key in self._values

    def is_told(self, key: K, value: V) -> bool:
        """Whether `value` is what is kept for `key`, and was told by the change stream."""
        return key in self._told and self._values.get(key) is value

    def peek(self, key: K) -> V | None:
        """What is kept for `key`, trusted or not."""
        return self._values.get(key)

    def key_of(self, document_id: Hashable) -> K | None:
        """The key under which the document with this `_id` is kept; None where it is not."""
        return self._key_by_document_id.get(document_id)

    def drop(self, key: K) -> V | None:
        """`key` has changed. What was kept of it until now, None where nothing was."""
        known = self._discard(key)
        return None if known is UNKNOWN else cast("V", known)

    def drop_all(self) -> None:
        """Anything may have changed."""
        self._values.clear()
        self._told.clear()
        self._key_by_document_id.clear()

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
        value = self._values.pop(key, UNKNOWN)
        self._told.discard(key)
        if value is not UNKNOWN:
            self._key_by_document_id.pop(self._document_id(cast("V", value)), None)
        return value
