"""The registry of holds: who waits for what, and telling them to look again. Pure asyncio.

A waiter is woken through a flag and not through a bare notification, so a wake that comes between a hold's read and
its wait is not lost: the wait that follows returns at once.
"""

import asyncio
from collections.abc import Iterator, KeysView
from contextlib import contextmanager
from enum import Enum, auto
from typing import Any

#: What a hold waits for: any hashable; here `(collection, id)`.
Key = tuple[str, Any]


class Wake(Enum):
    """Why `Waiter.wait` came back."""

    CHANGED = auto()
    TIME = auto()
    CLOSED = auto()
    LEFT = auto()


class Waiter:
    """One held request. `woken_at` is the loop's time of the last wake by a change, None before the first."""

    __slots__ = ("_end", "_future", "_woken", "keys", "registered_at", "woken_at")

    def __init__(self, keys: tuple[Key, ...], *, end: Wake | None = None) -> None:
        self.keys = keys
        self.registered_at = asyncio.get_running_loop().time()
        self.woken_at: float | None = None
        self._woken = False
        self._end = end
        self._future: asyncio.Future[None] | None = None

    @property
    def is_sleeping(self) -> bool:
        """Whether it waits just now, with nothing to look at."""
        return self._future is not None and not self._future.done()

    @property
    def is_woken(self) -> bool:
        """Whether something changed since it last began to look."""
        return self._woken

    async def wait(self, until: float) -> Wake:
        """Wait to be told to look again, at the longest until the loop's time `until` (seconds)."""
        if self._end is None and not self._woken:
            await self._sleep(until)
        if self._end is not None:
            return self._end
        woken, self._woken = self._woken, False
        return Wake.CHANGED if woken else Wake.TIME

    def wake(self) -> None:
        """Have the hold look again; `woken_at` keeps the time of the first wake not yet looked at."""
        if not self._woken:
            self._woken = True
            self.woken_at = asyncio.get_running_loop().time()
            self._stir()

    def leave(self) -> None:
        """The client has gone away: the hold ends without an answer."""
        self.end(Wake.LEFT)

    def end(self, reason: Wake) -> None:
        """Every wait, this one and later ones, comes back with `reason` at once."""
        if self._end is None:
            self._end = reason
            self._stir()

    async def _sleep(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        timer = loop.call_at(until, self._stir)
        try:
            await self._future
        finally:
            timer.cancel()
            self._future = None

    def _stir(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class JobWaiters:
    """All holds of this process, by the keys of the documents that their answers depend on."""

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}
        self._by_key: dict[Key, set[Waiter]] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiters)

    @contextmanager
    def waiting_for(self, *keys: Key) -> Iterator[Waiter]:
        """A registered waiter; however the block is left, the registry is as it was."""
        waiter = Waiter(keys, end=Wake.CLOSED if self._closed else None)
        self._waiters[waiter] = None
        for key in keys:
            self._by_key.setdefault(key, set()).add(waiter)
        try:
            yield waiter
        finally:
            del self._waiters[waiter]
            for key in keys:
                self._by_key[key].discard(waiter)
                if not self._by_key[key]:
                    del self._by_key[key]

    def count(self, key: Key) -> int:
        """How many holds wait for `key`."""
        return len(self._by_key.get(key, ()))

    def sleeping(self) -> int:
        """How many holds have looked and now wait for a wake."""
        return sum(waiter.is_sleeping for waiter in self._waiters)

    def keys(self) -> KeysView[Key]:
        """Every key that somebody waits for."""
        return self._by_key.keys()

    def oldest(self) -> Waiter | None:
        """The hold that has been registered longest."""
        return next(iter(self._waiters), None)

    def wake(self, key: Key) -> None:
        """Have every hold that waits for `key` look again."""
        for waiter in self._by_key.get(key, ()):
            waiter.wake()

    def wake_all(self) -> None:
        """Have every hold look again."""
        for waiter in self._waiters:
            waiter.wake()

    def close(self) -> None:
        """End every hold, and those still to come, with `Wake.CLOSED`."""
        self._closed = True
        for waiter in self._waiters:
            waiter.end(Wake.CLOSED)
