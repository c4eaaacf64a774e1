"""The hold: check, wait, check again, until the jobs are settled or something ends the wait.

A change carries no data. It only makes the hold check again. Pure asyncio: the caller's `Checker` checks and signs.
"""

import asyncio
import math
import random
from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, Protocol, Self, TypeVar

from genstatus_server.hold.registry import Hold, WaitResult

#: Each hold is shortened by up to this part of its length, so that holds that began together do not end together.
JITTER: Final = 1 / 16
#: Seconds that the last check, at the end of a hold, and the signature after it may take.
LAST_CHECK_SECONDS: Final = 0.15
LAST_SIGNATURE_SECONDS: Final = 0.06

_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 4.0


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
