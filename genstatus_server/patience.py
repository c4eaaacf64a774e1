"""Ends waits that take too long, with one timer for all of them. Pure asyncio.

A timer for each costs more than the wait: thousands of reads are waited for at once, and next to none takes too long.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

#: Seconds that a wait may end late.
TICK_SECONDS: Final = 0.02


class Patience:
    """The waits of one kind that are under way."""

    def __init__(self) -> None:
        self._waits: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def until(self, until: float, future: "asyncio.Future[Any]") -> Iterator[None]:
        """Have a `TimeoutError` as the result of `future` at the loop's time `until`, if it has none by then."""
        self._waits[future] = until
        if self._timer is None:
            self._look_again()
        try:
            yield
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
