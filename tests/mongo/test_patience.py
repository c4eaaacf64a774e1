"""Waits that take too long end, one timer ends them all, and none is left."""

import asyncio

from genstatus_server.mongo.timeouts import TICK_SECONDS, Patience
from tests.support.loops import lateness


def now() -> float:
    return asyncio.get_running_loop().time()


async def wait(patience: Patience, until: float) -> object:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    return await patience.wait(future, until)


async def test_each_wait_ends_at_its_time_and_never_before() -> None:
    patience = Patience()
    untils = [now() + 0.01 * number for number in range(20)]

    async def ended(until: float) -> float:
        assert isinstance(await wait(patience, until), TimeoutError)
        return now() - until

    async with lateness() as machine:
        late = await asyncio.gather(*(ended(until) for until in untils))
    assert min(late) >= 0
    assert max(late) <= 2 * TICK_SECONDS + machine.seconds


async def test_what_has_come_stays() -> None:
    patience = Patience()
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    future.set_result("here")
    assert await patience.wait(future, now() - 1) == "here"


async def test_no_timer_is_left_when_nobody_waits() -> None:
    patience = Patience()
    waiting = asyncio.create_task(wait(patience, now() + 60))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(5):
        while patience._timer is not None:  # noqa: ASYNC110 - what is waited for is the absence of the timer.
            await asyncio.sleep(TICK_SECONDS)
    assert isinstance(await wait(patience, now()), TimeoutError)
