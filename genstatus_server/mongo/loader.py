"""Batches loads: what is requested while queries are under way goes into the next one. Pure asyncio.

A server with little load sends each query at once. A busy server loads hundreds of keys with one query.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from genstatus_server.model.errors import ServiceUnavailable

K = TypeVar("K", bound=Hashable)

#: Queries under way at the same time. With two, a slow query does not delay all other loads.
_CONCURRENCY: Final = 2


class _Batch(Generic[K]):
    __slots__ = ("keys", "outcome")

    def __init__(self) -> None:
        self.keys: dict[K, None] = {}
        #: The values, or what went wrong: an exception as a result, because all callers may have left.
        self.outcome: asyncio.Future[Mapping[K, Any] | Exception] = asyncio.get_running_loop().create_future()


class BatchLoader(Generic[K]):
    """Loads values through `read`, which takes all keys of a batch and returns at least their values.

    All keys of one `load` are in one batch, and the batch begins after that call: its values are as of one time, and
    never older than the call.
    """

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Mapping[K, Any]]]) -> None:
        self._read = read
        self._next: _Batch[K] | None = None
        #: Counted, because a task that has ended leaves `_tasks` only a turn of the loop later.
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self, keys: Iterable[K], deadline: float) -> Mapping[K, Any]:
        """The values of `keys` and perhaps of others.

        Raises `ServiceUnavailable`, at the loop's time `deadline` at the latest.
        """
        batch = self._join(keys)
        # At its time-out, `asyncio.wait` does not cancel the future, which other callers wait for.
        await asyncio.wait((batch.outcome,), timeout=deadline - asyncio.get_running_loop().time())
        outcome = batch.outcome.result() if batch.outcome.done() else TimeoutError("no answer in time")
        if not isinstance(outcome, Exception):
            return outcome
        # An exception for each caller: a shared one would gather all their tracebacks.
        if isinstance(outcome, ServiceUnavailable | TimeoutError | ConnectionError):
            raise ServiceUnavailable from outcome.__cause__ or outcome
        raise RuntimeError("documents could not be loaded") from outcome

    async def close(self) -> None:
        """End the queries under way. Their callers get `ServiceUnavailable`."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._next is not None:
            _settle(self._next, ConnectionAbortedError("the server stops"))

    def _join(self, keys: Iterable[K]) -> _Batch[K]:
        if self._next is None:
            self._next = _Batch()
            if self._running < _CONCURRENCY:
                self._running += 1
                # It begins in the loop's next turn: whatever is requested in this one is part of it.
                task = asyncio.create_task(self._run())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._next.keys.update(dict.fromkeys(keys))
        return self._next

    async def _run(self) -> None:
        try:
            while self._next is not None:
                batch, self._next = self._next, None
                await self._read_batch(batch)
        finally:
            self._running -= 1

    async def _read_batch(self, batch: _Batch[K]) -> None:
        try:
            _settle(batch, await self._read(tuple(batch.keys)))
        except Exception as error:  # noqa: BLE001 - every error goes to those who wait for the batch.
            _settle(batch, error)
        finally:
            _settle(batch, ConnectionAbortedError("the server stops"))  # Only where this task was cancelled.


def _settle(batch: _Batch[K], outcome: Mapping[K, Any] | Exception) -> None:
    if not batch.outcome.done():
        batch.outcome.set_result(outcome)
