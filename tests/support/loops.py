"""An event loop per test that is closed clean, or says what the test left behind."""

import asyncio
import selectors
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from tornado.ioloop import IOLoop

# What is on its way out when a test ends, such as a closed connection's task, may take its last steps. Only a test that
# leaves something behind waits for so long.
GRACE_SECONDS = 20.0
TICK_SECONDS = 0.01


class LeftBehindError(AssertionError):
    """A test ended and something of it was still there."""


class _SkippingSelector(selectors.DefaultSelector):
    """Finds what is there at the moment. Where the loop would wait for a timer, the time of this timer has come.

    Each turn of the loop takes a microsecond.
    """

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(timeout if timeout is None else 0)
        self.now += 1e-6 + (timeout or 0 if not found else 0)
        return found


class SkippingLoop(asyncio.SelectorEventLoop):
    """A loop that never waits for time: while nothing happens, its time skips to the next timer.

    How busy the machine is changes nothing in it. It cannot be used together with threads or other processes.
    """

    def __init__(self) -> None:
        self._clock = _SkippingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


@contextmanager
def clean_io_loop(loop: asyncio.AbstractEventLoop | None = None) -> Iterator[IOLoop]:
    """A Tornado loop (on `loop`, or a new one) that is the thread's current one until it is closed."""
    loop = loop or asyncio.new_event_loop()
    io_loop = IOLoop(asyncio_loop=loop, make_current=False)
    unhandled: list[str] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(describe(context)))
    asyncio.set_event_loop(loop)
    try:
        yield io_loop
        leaked = loop.run_until_complete(end_tasks())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        io_loop.close(all_fds=True)
    if leaked or unhandled:
        raise LeftBehindError("\n".join(["The test left behind:", *leaked, *unhandled]))


class Lateness:
    """How late this loop has been altogether: what a busy machine may add to anything that was timed in it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.seconds += loop.time() - due


@asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    """Watches how late the loop is while the block lasts."""
    late = Lateness()
    watching = asyncio.create_task(late.watch())
    try:
        yield late
    finally:
        watching.cancel()


async def end_tasks() -> list[str]:
    """Cancel the tasks that do not end by themselves, and name them."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if not tasks:
        return []
    _, leaked = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
    names = [f"a running task: {task!r}" for task in leaked]
    for task in leaked:
        task.cancel()
    await asyncio.gather(*leaked, return_exceptions=True)
    return names


def describe(context: dict[str, object]) -> str:
    return f"an error that nobody handled: {context['message']}: {context.get('exception')!r}"
