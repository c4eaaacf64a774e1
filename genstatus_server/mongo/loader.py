"""Reads of many keys in few queries. Pure asyncio.

While queries are under way, what is asked for meanwhile gathers and goes into the next one: a quiet server reads each
key by itself and at once, a busy one reads hundreds in the time of one. All who asked in a query share its answer.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.mongo.timeouts import Patience

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Queries under way at the same time. A second one, so that a slow one does not hold everybody up.
_AT_ONCE: Final = 2


class _Query(Generic[K, V]):
    """What is asked for, and those who wait for what it brings: the values, or the error."""

    __slots__ = ("keys", "waiting")

    def __init__(self) -> None:
        self.keys: dict[K, None] = {}
        self.waiting: list[asyncio.Future[Mapping[K, V] | Exception]] = []

    def bring(self, outcome: Mapping[K, V] | Exception) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_result(outcome)
        self.waiting.clear()  # An error leads here by its traceback: nothing may lead from here to it.

    def cancel(self) -> None:
        for future in self.waiting:
            future.cancel()
        self.waiting.clear()


class GroupedReads(Generic[K, V]):
    """Reads keys through `read_all`, which gives a value for each and raises `ServiceUnavailable`.

    `keep` is told each value that was read, unless its key was forgotten meanwhile: such a read may have brought the
    document as it was before, so it is given to those who wait for it but is nothing to keep.
    """

    def __init__(
        self, read_all: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]], keep: Callable[[K, V], None]
    ) -> None:
        self._read_all = read_all
        self._keep = keep
        self._next: _Query[K, V] | None = None
        #: The query that reads a key, the youngest if there are two, unless the key was forgotten since it began.
        self._under_way: dict[K, _Query[K, V]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._patience = Patience()
        #: Counted, because a task that has ended leaves `_tasks` only a turn of the loop later.
        self._running = 0

    async def read(self, key: K, until: float = math.inf) -> V:
        """The value of `key`, by the query that is reading it or else by a new one.

        Raises `ServiceUnavailable`, also where it takes longer than until the loop's time `until`.
        """
        return (await self._brought_by(self._under_way.get(key) or self._ask([key]), until))[key]

    async def read_anew(self, keys: Iterable[K], until: float = math.inf) -> Mapping[K, V]:
        """The values of `keys` and perhaps more, by a query that begins after this call. Raises the same."""
        return await self._brought_by(self._ask(keys), until)

    def forget(self, key: K) -> None:
        """`key` has changed: what is being read of it may be as it was before."""
        self._under_way.pop(key, None)

    def forget_all(self) -> None:
        """Anything may have changed."""
        self._under_way.clear()

    def keys_under_way(self) -> Iterable[K]:
        """The keys that are being read just now."""
        return tuple(self._under_way)

    async def close(self) -> None:
        """End the queries under way."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._next is not None:
            self._next.cancel()

    def _ask(self, keys: Iterable[K]) -> _Query[K, V]:
        if self._next is None:
            self._next = _Query()
            if self._running < _AT_ONCE:
                self._running += 1
                # It begins in the loop's next turn: what is asked for in this one goes along.
                task = asyncio.create_task(self._run())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._next.keys.update(dict.fromkeys(keys))
        return self._next

    async def _run(self) -> None:
        try:
            while self._next is not None:
                query, self._next = self._next, None
                await self._carry_out(query)
        finally:
            self._running -= 1

    async def _carry_out(self, query: _Query[K, V]) -> None:
        self._under_way.update(dict.fromkeys(query.keys, query))
        try:
            values = await self._read_all(tuple(query.keys))
            for key in self._leave(query):
                self._keep(key, values[key])
        except Exception as error:  # noqa: BLE001 - a defect, too, is told to those who asked, who write it down.
            query.bring(error)
        else:
            query.bring(values)
        finally:
            self._leave(query)
            query.cancel()  # Only where this was cancelled does anybody still wait.

    def _leave(self, query: _Query[K, V]) -> Sequence[K]:
        """The keys that were not forgotten meanwhile; they are no longer under way."""
        current = [key for key in query.keys if self._under_way.get(key) is query]
        for key in current:
            del self._under_way[key]
        return current

    async def _brought_by(self, query: _Query[K, V], until: float) -> Mapping[K, V]:
        # A future for each: one who goes away must not take the query from the others.
        future: asyncio.Future[Mapping[K, V] | Exception] = asyncio.get_running_loop().create_future()
        query.waiting.append(future)
        outcome = await self._patience.wait(future, until)
        # An error for each: one raised in many tasks would gather the tracebacks of all.
        if isinstance(outcome, TimeoutError):
            raise ServiceUnavailable from outcome
        if isinstance(outcome, ServiceUnavailable):
            raise ServiceUnavailable from outcome.__cause__
        if not isinstance(outcome, Exception):
            return outcome
        raise RuntimeError("a read of several documents failed") from outcome
