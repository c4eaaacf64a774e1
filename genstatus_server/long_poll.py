"""The hold: look, wait, look again, until the jobs are settled or there is no more waiting.

The loop is around a look and never around an event: a change only says "look again".
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from genstatus_server.errors import LoginRequired, ServiceUnavailable
from genstatus_server.jobs import Job
from genstatus_server.waiters import Waiter, Wake

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


@dataclass(frozen=True, slots=True)
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


async def hold(look: Callable[[], Awaitable[Look]], waiter: Waiter, deadline: float) -> tuple[Look, WaitResult]:
    """Look until what is seen settles the request, at the longest until the loop's time `deadline`.

    `waiter` must have been registered before, so that no change after the first look is missed. The first look's
    errors are the caller's; later, a MongoDB that is away does not end a hold. `look` raises when access is lost.
    """
    loop = asyncio.get_running_loop()
    seen, pause = await look(), _FIRST_PAUSE
    expires = seen.expires
    # A change that comes during a look may have undone what it saw: a new generation, a login that ended.
    while waiter.is_woken or not seen.is_settled:
        wake = await waiter.wait(min(deadline, seen.look_again))
        result = _result(wake, deadline)
        if result is WaitResult.GONE:
            return seen, result
        try:
            async with asyncio.timeout_at((min(loop.time(), deadline) if result else deadline) + LAST_LOOK_SECONDS):
                seen = await look()
            expires, pause = seen.expires, _FIRST_PAUSE
        except (ServiceUnavailable, TimeoutError):
            if loop.time() >= expires:
                raise LoginRequired from None
            # Nobody will say again what the last wake said, so this hold looks again by itself.
            seen = replace(seen, is_settled=False, expires=expires, retry=loop.time() + random.uniform(0.5, 1) * pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        if result:
            return seen, WaitResult.SETTLED if seen.is_settled else result
    return seen, WaitResult.SETTLED


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
