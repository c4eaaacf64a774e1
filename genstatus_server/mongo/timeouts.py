"""Ends waits that take too long, with one timer for all of them. Pure asyncio.

A timer for each costs more than the wait: thousands of reads are waited for at once, and next to none takes too long.
"""

import asyncio
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Seconds that a wait may end late.
TICK_SECONDS: Final = 0.02


class Patience:
    """The waits of one kind that are under way."""

    def __init__(self) -> None:
        self._waits: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, future: "asyncio.Future[T]", until: float) -> T | TimeoutError:
        """What `future` brings; a `TimeoutError` (as the result, not raised) where it has none by the time `until`."""
        self._waits[future] = until
        if self._timer is None:
            self._look_again()
        try:
            return await future
        finally:
            del self._waits[future]

    def _look_again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for future, until in self._waits.items():
            if until <= now and not future.done():
                future.set_result(TimeoutError())
        if self._waits:
            self._look_again()
