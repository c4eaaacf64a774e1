"""Reads of many keys in few queries. Pure asyncio.

While queries are under way, what is asked for meanwhile gathers and goes into the next one: a quiet server reads each
key by itself and at once, a busy one reads hundreds in the time of one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from genstatus_server.errors import ServiceUnavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Queries under way at the same time. A second one, so that a slow one does not hold everybody up.
_AT_ONCE: Final = 2


class GroupedReads(Generic[K, V]):
    """Reads keys through `read_all`, which gives a value for each and raises `ServiceUnavailable`."""

    def __init__(self, read_all: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._read_all = read_all
        self._asked: dict[K, asyncio.Future[V]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Counted, because a task that has ended leaves `_tasks` only a turn of the loop later.
        self._under_way = 0

    async def read(self, key: K) -> V:
        """The value of `key`, by a query that begins after this call. Raises `ServiceUnavailable`."""
        future = self._asked.get(key)
        if future is None:
            future = self._asked[key] = asyncio.get_running_loop().create_future()
            if self._under_way < _AT_ONCE:
                self._under_way += 1
                # It begins in the loop's next turn: what is asked for in this one goes along.
                task = asyncio.create_task(self._read_what_is_asked())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(future)

    async def close(self) -> None:
        """End the queries under way."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_what_is_asked(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                await self._read_group(asked)
        finally:
            self._under_way -= 1

    async def _read_group(self, asked: Mapping[K, asyncio.Future[V]]) -> None:
        try:
            values = await self._read_all(tuple(asked))
        except Exception as error:  # noqa: BLE001 - a defect, too, is told to those who asked, who write it down.
            for future in asked.values():
                _fail(future, error)
        else:
            for key, future in asked.items():
                future.set_result(values[key])
        finally:
            for future in asked.values():
                future.cancel()  # Only where this was cancelled are there any left.


def _fail(future: "asyncio.Future[V]", error: Exception) -> None:
    # An error for each: one raised in many tasks would gather the tracebacks of all.
    is_expected = isinstance(error, ServiceUnavailable)
    told = ServiceUnavailable() if is_expected else RuntimeError("a read of several documents failed")
    told.__cause__ = error.__cause__ if is_expected else error
    future.set_exception(told)
    future.exception()  # Seen, also where whoever asked has gone away.
