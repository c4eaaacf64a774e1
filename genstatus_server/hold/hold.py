"""The hold: look, wait, look again, until the jobs are settled or there is no more waiting.

The loop is around a look and never around an event: a change only says "look again".
"""

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Protocol

from genstatus_server.hold.registry import Waiter, Wake
from genstatus_server.model.errors import LoginRequired, ServiceUnavailable
from genstatus_server.model.jobs import Job

#: The largest part of a hold's length that is taken off it, so that holds begun together do not end together.
JITTER: Final = 1 / 16
#: Seconds that the last look, at the end of a hold, may take.
LAST_LOOK_SECONDS: Final = 0.15

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0


class WaitResult(StrEnum):
    """Why a request that asked to wait was answered."""

    SETTLED = "settled"
    DEADLINE = "deadline"
    DRAINING = "draining"
    SHED = "shed"
    #: The caller may not (or no longer) know, or MongoDB could not be read at all.
    ERROR = "error"
    #: The client went away; nobody is answered.
    GONE = "gone"


@dataclass(slots=True)
class Look:
    """What one look found, and whether it settles the request.

    The login session that it was allowed by ends at the loop's time `expires`. `retry` is when to look again because
    this look failed and only repeats what an earlier one had found.
    """

    jobs: tuple[Job, ...]
    is_settled: bool
    expires: float
    retry: float = math.inf

    @property
    def look_again(self) -> float:
        """The loop's time at which to look again even if nothing changes."""
        return min(self.expires, self.retry)


class Looks(Protocol):
    """How a hold looks."""

    def at_once(self) -> Look | None:
        """What is seen, where that is known without waiting; else None."""

    async def __call__(self, until: float) -> Look:
        """What is seen, by the loop's time `until`.

        Raises `ServiceUnavailable` where it cannot be seen by then, and what it likes when access is lost.
        """


class Hold:
    """One held request: look, sleep, look again, until something ends it.

    `waiter` was registered before, so that no change after the first look is missed.
    """

    __slots__ = ("_look", "_pause", "_seen", "deadline", "waiter")

    def __init__(self, look: Looks, waiter: Waiter, deadline: float) -> None:
        self._look = look
        self.deadline = deadline
        self._pause = _FIRST_PAUSE
        self._seen: Look | None = None
        self.waiter = waiter

    @property
    def seen(self) -> Look:
        """What the last look saw."""
        assert self._seen is not None  # noqa: S101 - it has looked at least once.
        return self._seen

    async def begin(self, until: float) -> WaitResult | None:
        """The first look, done by the loop's time `until`: its errors are the caller's. Returns as `go_on` does."""
        self._seen = await self._look(until)
        return await self._look_until_quiet(None)

    async def go_on(self) -> WaitResult | None:
        """Look once more, and again where something changes meanwhile. What ends the hold; None to sleep on."""
        return await self._look_until_quiet(await self._look_again())

    def settles_at_once(self) -> bool:
        """Look without waiting for anything; whether it is over by that, and there is no need to go on.

        Where it is not, nothing has been seen.
        """
        seen = None if self.waiter.is_ended else self._look.at_once()
        if seen is None or not seen.is_settled:
            return False
        self._seen = seen
        return True

    def sleep(self, wake_up: Callable[[], object]) -> None:
        """Have `wake_up` called once there is a reason to go on."""
        self.waiter.sleep(min(self.deadline, self.seen.look_again), wake_up)

    async def _look_until_quiet(self, result: WaitResult | None) -> WaitResult | None:
        # A change that comes during a look may have undone what it saw: a new generation, a login that ended.
        while result is None and self.waiter.is_woken:
            result = await self._look_again()
        is_settled = result is not WaitResult.GONE and self.seen.is_settled
        return WaitResult.SETTLED if is_settled else result

    async def _look_again(self) -> WaitResult | None:
        result = _result(self.waiter.begin_look(), self.deadline)
        if result is WaitResult.GONE:
            return result
        loop, expires = asyncio.get_running_loop(), self.seen.expires
        ends = min(loop.time(), self.deadline) if result else self.deadline
        try:
            self._seen = await self._look(ends + LAST_LOOK_SECONDS)
            self._pause = _FIRST_PAUSE
        except ServiceUnavailable:
            # A MongoDB that has gone away meanwhile does not end a hold.
            if loop.time() >= expires:
                raise LoginRequired from None
            # Nobody will say again what the last wake said, so this hold looks again by itself.
            retry = loop.time() + random.uniform(0.5, 1) * self._pause
            self._seen = replace(self.seen, is_settled=False, retry=retry)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return result


def deadline_of(arrived: float, timeout: float) -> float:
    """When a hold of `timeout` seconds ends that began at `arrived`: earlier by a random part, never later."""
    return arrived + timeout * (1 - random.uniform(0, JITTER))


def _result(wake: Wake, deadline: float) -> WaitResult | None:
    """What this wake ends the hold with; None where it goes on."""
    if wake is Wake.LEFT:
        return WaitResult.GONE
    if wake is Wake.CLOSED:
        return WaitResult.DRAINING
    return WaitResult.DEADLINE if asyncio.get_running_loop().time() >= deadline else None
