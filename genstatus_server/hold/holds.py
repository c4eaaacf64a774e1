"""Holds: one waits for keys, a change of a key wakes it, and it checks again until the jobs are settled. Pure asyncio.

A change carries no data. It only makes the hold check again: the caller's `Checker` checks and signs. A wake sets a
flag. So a wake that comes during a check is not lost: the wait that follows ends at once.
"""

import asyncio
import math
import random
from collections.abc import Hashable, Iterable, Iterator, KeysView, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Final, Generic, NamedTuple, Protocol, Self, TypeVar

K = TypeVar("K", bound=Hashable)

#: Each hold is shortened by up to this part of its length, so that holds that began together do not end together.
JITTER: Final = 1 / 16
#: Seconds that the last check, at the end of a hold, and the signature after it may take.
LAST_CHECK_SECONDS: Final = 0.15
LAST_SIGNATURE_SECONDS: Final = 0.06

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0


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


class Checked(Protocol):
    """The result of a check. After the loop's time `expires`, the hold must check again before it answers.

    `is_confirmed` is False if a later check failed. The caller may have lost access in the meantime.
    """

    @property
    def is_settled(self) -> bool: ...
    @property
    def is_confirmed(self) -> bool: ...
    @property
    def expires(self) -> float: ...
    def unconfirmed(self) -> Self: ...


C = TypeVar("C", bound=Checked)
#: One URL for each requested file. None for a file that is not finished.
Urls = Sequence[str | None]


class Outcome(NamedTuple, Generic[C]):
    """How a hold ended: the last check, the URLs for it (None where the client is gone), and why it ended."""

    checked: C
    urls: Urls | None
    result: WaitResult


class Checker(Protocol[C]):
    """Checks and signs for one request. Both `deadline`s are times of the loop."""

    async def check(self, deadline: float) -> C: ...
    async def sign(self, checked: C, deadline: float) -> Urls: ...


async def hold_until_settled(
    hold: Hold, checker: Checker[C], *, deadline: float, first_deadline: float, retry_on: type[Exception]
) -> Outcome[C]:
    """Hold until a check finds something settled, until `deadline`, or until `hold` is ended.

    The first check ends by `first_deadline`. An exception of the checker ends the hold, except `retry_on` in a later
    check: then the hold checks again after a pause.
    """
    loop, pause, retry_at = asyncio.get_running_loop(), _FIRST_PAUSE, math.inf
    checked = await checker.check(first_deadline)
    while True:
        ended = hold.ended or (WaitResult.DEADLINE if loop.time() >= deadline else None)
        if ended is WaitResult.GONE:
            return Outcome(checked, None, ended)
        if ended or (checked.is_settled and not hold.woken):
            urls = await checker.sign(checked, max(loop.time(), deadline) + LAST_SIGNATURE_SECONDS)
            # Woken while signing: the file or the access may have changed, so check again.
            has_changed = hold.woken and checked.is_confirmed
            # At its end, a hold without a URL is answered even if it was woken: the client repeats its request.
            if not has_changed or (ended and not checked.is_settled and not any(urls)):
                return Outcome(checked, urls, ended if ended and not checked.is_settled else WaitResult.SETTLED)
        else:
            await hold.wait(min(deadline, checked.expires, retry_at))
        is_last = hold.ended or loop.time() >= deadline
        hold.woken = False  # From here on, a change is a reason for another check.
        try:
            check_until = min(loop.time(), deadline) if is_last else deadline
            checked = await checker.check(check_until + LAST_CHECK_SECONDS)
            pause, retry_at = _FIRST_PAUSE, math.inf
        except retry_on:
            checked = checked.unconfirmed()
            # The wake is used up. Without another one, this timer brings the next check.
            retry_at = loop.time() + random.uniform(0.5, 1) * pause
            pause = min(2 * pause, _LONGEST_PAUSE)


def deadline_of(arrived: float, timeout: float) -> float:
    """The end of a hold of `timeout` seconds that began at `arrived`, earlier by a random part, never later."""
    return arrived + timeout * (1 - random.uniform(0, JITTER))
