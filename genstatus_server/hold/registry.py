"""The registry of holds: who waits for which keys, and waking them. Pure asyncio.

A wake sets a flag. So a wake that comes during a check is not lost: the wait that follows ends at once.
"""

import asyncio
from collections.abc import Hashable, Iterable, Iterator, KeysView
from contextlib import contextmanager
from enum import StrEnum
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WaitResult(StrEnum):
    """Why a wait ended, or did not begin."""

    SETTLED = "settled"
    DEADLINE = "deadline"
    DRAINING = "draining"
    SHED = "shed"
    #: The caller has no access (any more), or MongoDB could not be read.
    ERROR = "error"
    #: The client left; there is no answer.
    GONE = "gone"


class Hold:
    """One held request. Times are the loop's, in seconds.

    `held_seconds` is its length, set when it is over. `woken` is True when something has changed since it was last set
    to False. `woken_at` is the time of that change, None before the first. `ended` is the reason why the hold has to
    end, None while it may go on.
    """

    __slots__ = ("_future", "ended", "held_seconds", "held_since", "woken", "woken_at")

    def __init__(self) -> None:
        self.held_since = asyncio.get_running_loop().time()
        self.held_seconds = 0.0
        self.woken = False
        self.woken_at: float | None = None
        self.ended: WaitResult | None = None
        self._future: asyncio.Future[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a wake at this moment."""
        return self._future is not None and not self._future.done()

    async def wait(self, until: float) -> None:
        """Wait until it is woken or ended, or until the time `until`. A wake that came before counts."""
        if self.woken or self.ended is not None:
            return
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        timer = loop.call_at(until, self._resume)
        try:
            await self._future
        finally:
            timer.cancel()
            self._future = None

    def wake(self) -> None:
        """Let the hold check again."""
        if not self.woken:
            self.woken = True
            self.woken_at = asyncio.get_running_loop().time()
            self._resume()

    def end(self, reason: WaitResult) -> None:
        """End the hold. Only the first reason counts."""
        if self.ended is None:
            self.ended = reason
            self._resume()

    def _resume(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class HoldRegistry(Generic[K]):
    """All holds of this process, by the keys of what their answers depend on."""

    def __init__(self) -> None:
        self._holds: dict[Hold, None] = {}
        self._by_key: dict[K, set[Hold]] = {}
        self._draining = False

    def __len__(self) -> int:
        return len(self._holds)

    @contextmanager
    def hold(self, keys: tuple[K, ...]) -> Iterator[Hold]:
        """Register a hold that any of `keys` wakes, for the duration of the block."""
        hold = Hold()
        if self._draining:
            hold.end(WaitResult.DRAINING)
        self._holds[hold] = None
        for key in keys:
            self._by_key.setdefault(key, set()).add(hold)
        try:
            yield hold
        finally:
            hold.held_seconds = asyncio.get_running_loop().time() - hold.held_since
            del self._holds[hold]
            for key in keys:
                self._by_key[key].discard(hold)
                if not self._by_key[key]:
                    del self._by_key[key]

    def of(self, key: K) -> frozenset[Hold]:
        """The holds that wait for `key`."""
        return frozenset(self._by_key.get(key, ()))

    def waiting(self) -> int:
        """How many holds have checked and now wait for a wake."""
        return sum(hold.is_waiting for hold in self._holds)

    def keys(self) -> KeysView[K]:
        """The keys of all holds."""
        return self._by_key.keys()

    def oldest(self) -> Hold | None:
        """The hold that was registered first."""
        return next(iter(self._holds), None)

    def wake(self, keys: Iterable[K] | None) -> bool:
        """Wake the holds that wait for one of `keys`; None wakes all. Returns whether there are any."""
        found = [self._holds] if keys is None else [self._by_key[key] for key in keys if key in self._by_key]
        for holds in found:
            for hold in holds:
                hold.wake()
        return any(found)

    def drain(self) -> None:
        """End all present and future holds with `WaitResult.DRAINING`."""
        self._draining = True
        for hold in self._holds:
            hold.end(WaitResult.DRAINING)
