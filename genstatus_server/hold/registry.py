"""The registry of holds: who waits for what, and telling them to look again. Pure asyncio.

A waiter is woken through a flag and not through a bare notification, so a wake that comes between a hold's read and
its sleep is not lost: the sleep that follows is over at once.
"""

import asyncio
from collections.abc import Callable, KeysView
from enum import Enum, auto
from typing import Any

#: What a hold waits for: any hashable; here `(collection, id)`.
Key = tuple[str, Any]


class Wake(Enum):
    """Why a sleep is over."""

    CHANGED = auto()
    TIME = auto()
    CLOSED = auto()
    LEFT = auto()


class Waiter:
    """One held request. `woken_at` is the loop's time of the last wake by a change, None before the first.

    It sleeps without a task and without a coroutine: ten thousand of them are held for a minute, and wake once.
    """

    __slots__ = ("_end", "_timer", "_wake_up", "_woken", "keys", "registered_at", "woken_at")

    def __init__(self, keys: tuple[Key, ...], *, end: Wake | None = None) -> None:
        self.keys = keys
        self.registered_at = asyncio.get_running_loop().time()
        self.woken_at: float | None = None
        self._woken = False
        self._end = end
        self._wake_up: Callable[[], object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_sleeping(self) -> bool:
        """Whether it sleeps just now, with nothing to look at."""
        return self._wake_up is not None

    @property
    def is_woken(self) -> bool:
        """Whether something changed since it last began to look."""
        return self._woken

    @property
    def is_ended(self) -> bool:
        """Whether its hold has to end, whatever there is to see."""
        return self._end is not None

    def sleep(self, until: float, wake_up: Callable[[], object]) -> None:
        """Have `wake_up` called, once, in the loop's turn after it is told to look again.

        That is at the loop's time `until` (seconds) at the latest. What was told before counts as told now.
        """
        self._wake_up = wake_up
        if self._end is not None or self._woken:
            self._stir()
        else:
            self._timer = asyncio.get_running_loop().call_at(until, self._stir)

    def begin_look(self) -> Wake:
        """Why the sleep is over. Whatever changes from here on is a reason for another look."""
        woken, self._woken = self._woken, False
        if self._end is not None:
            return self._end
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
        """Every sleep, this one and later ones, is over with `reason` at once."""
        if self._end is None:
            self._end = reason
            self._stir()

    def _stir(self) -> None:
        if self._wake_up is None:
            return
        wake_up, self._wake_up = self._wake_up, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Not at once: who tells it to look is in the middle of something.
        asyncio.get_running_loop().call_soon(wake_up)


class JobWaiters:
    """All holds of this process, by the keys of the documents that their answers depend on."""

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}
        self._by_key: dict[Key, set[Waiter]] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiters)

    def register(self, keys: tuple[Key, ...]) -> Waiter:
        """A new waiter for `keys`. However its hold ends, it has to be released."""
        waiter = Waiter(keys, end=Wake.CLOSED if self._closed else None)
        self._waiters[waiter] = None
        for key in keys:
            self._by_key.setdefault(key, set()).add(waiter)
        return waiter

    def release(self, waiter: Waiter) -> None:
        """The hold of `waiter` is over: the registry is as it was before it."""
        del self._waiters[waiter]
        for key in waiter.keys:
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
