"""The registry of holds: no wake is lost, every wait ends, and nothing of a hold is left."""

import asyncio
import math
from collections.abc import Callable

import pytest

from genstatus_server.waiters import JobWaiters, Key, Waiter, Wake
from tests.support.server import until

JOB: Key = ("jobs", (1, "D1"))
OTHER_JOB: Key = ("jobs", (1, "D2"))
SESSION: Key = ("sessions", "hash")


def now() -> float:
    return asyncio.get_running_loop().time()


def later() -> float:
    """Longer than any test runs."""
    return now() + 60


async def asleep(waiter: Waiter) -> "asyncio.Task[Wake]":
    """A wait that has begun."""
    task = asyncio.create_task(waiter.wait(later()))
    await until(lambda: waiter.is_sleeping)
    return task


async def test_a_wake_ends_the_wait() -> None:
    waiters = JobWaiters()
    with waiters.waiting_for(JOB) as waiter:
        waiting = await asleep(waiter)
        waiters.wake(JOB)
        assert await waiting is Wake.CHANGED
        assert not waiter.is_woken


async def test_a_wake_between_the_read_and_the_wait_is_not_lost() -> None:
    waiters = JobWaiters()
    with waiters.waiting_for(JOB) as waiter:
        waiters.wake(JOB)
        assert waiter.is_woken
        assert await waiter.wait(later()) is Wake.CHANGED


async def test_a_wake_in_the_turn_in_which_the_time_is_up_is_not_lost() -> None:
    waiters = JobWaiters()
    with waiters.waiting_for(JOB) as waiter:
        waiting = asyncio.create_task(waiter.wait(now() - 1))
        await until(lambda: not waiter.is_sleeping or waiting.done())
        waiters.wake(JOB)
        result = await waiting
        # Whichever came first: it is told now, or by the next wait.
        assert Wake.CHANGED in {result, await waiter.wait(now() - 1)}


async def test_many_wakes_before_a_look_are_one() -> None:
    waiters = JobWaiters()
    with waiters.waiting_for(JOB, SESSION) as waiter:
        for key in (JOB, SESSION, JOB):
            waiters.wake(key)
        assert await waiter.wait(later()) is Wake.CHANGED
        assert await waiter.wait(now()) is Wake.TIME


async def test_the_time_is_up() -> None:
    with JobWaiters().waiting_for(JOB) as waiter:
        for until_then in (now() + 0.01, now(), now() - 1, -math.inf):
            assert await waiter.wait(until_then) is Wake.TIME
        assert waiter.woken_at is None


async def test_only_who_waits_for_the_key_is_woken() -> None:
    waiters = JobWaiters()
    with waiters.waiting_for(JOB) as mine, waiters.waiting_for(OTHER_JOB, SESSION) as other:
        waiters.wake(JOB)
        assert (mine.is_woken, other.is_woken) == (True, False)
        waiters.wake(("users", 1))
        assert not other.is_woken
        waiters.wake_all()
        assert other.is_woken


async def test_the_moment_of_the_first_wake_that_was_not_looked_at_is_kept() -> None:
    with JobWaiters().waiting_for(JOB) as waiter:
        waiter.wake()
        first = waiter.woken_at
        assert first is not None
        await until(lambda: now() > first)
        waiter.wake()
        assert waiter.woken_at == first
        await waiter.wait(later())
        waiter.wake()
        assert waiter.woken_at > first


@pytest.mark.parametrize(
    ("end", "result"), [(Waiter.leave, Wake.LEFT), (lambda waiter: waiter.end(Wake.CLOSED), Wake.CLOSED)]
)
async def test_an_end_ends_this_wait_and_every_later_one(end: Callable[[Waiter], None], result: Wake) -> None:
    waiters = JobWaiters()
    with waiters.waiting_for(JOB) as waiter:
        waiting = await asleep(waiter)
        end(waiter)
        assert await waiting is result
        waiters.wake(JOB)
        assert await waiter.wait(later()) is result


async def test_the_first_end_stands() -> None:
    waiters = JobWaiters()
    with waiters.waiting_for(JOB) as waiter:
        waiter.leave()
        waiters.close()
        assert await waiter.wait(later()) is Wake.LEFT


async def test_closing_ends_all_holds_and_those_to_come() -> None:
    waiters = JobWaiters()
    with waiters.waiting_for(JOB) as first, waiters.waiting_for(OTHER_JOB) as second:
        waiting = [await asleep(first), await asleep(second)]
        waiters.close()
        waiters.close()
        assert await asyncio.gather(*waiting) == [Wake.CLOSED, Wake.CLOSED]
    with waiters.waiting_for(JOB) as late:
        assert await late.wait(later()) is Wake.CLOSED
    assert len(waiters) == 0


@pytest.mark.parametrize("error", [None, ValueError(), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_however_the_block_is_left_the_registry_is_as_it_was(error: BaseException | None) -> None:
    waiters = JobWaiters()
    with waiters.waiting_for(JOB, SESSION):
        try:
            with waiters.waiting_for(JOB, OTHER_JOB):
                assert (len(waiters), waiters.count(JOB), waiters.count(OTHER_JOB)) == (2, 2, 1)
                if error:
                    raise error  # noqa: TRY301 - it is the block that is left
        except BaseException as raised:  # noqa: BLE001 - any at all
            assert raised is error  # noqa: PT017 - it may be none
        assert (len(waiters), waiters.count(JOB), waiters.count(OTHER_JOB)) == (1, 1, 0)
        assert set(waiters.keys()) == {JOB, SESSION}
    assert (len(waiters), set(waiters.keys()), waiters.sleeping()) == (0, set(), 0)


async def test_a_wait_that_is_cancelled_leaves_a_waiter_that_can_wait_again() -> None:
    waiters = JobWaiters()
    with waiters.waiting_for(JOB) as waiter:
        waiting = await asleep(waiter)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not waiter.is_sleeping
        waiters.wake(JOB)
        assert await waiter.wait(later()) is Wake.CHANGED


async def test_who_is_woken_may_leave_and_others_may_come_meanwhile() -> None:
    waiters = JobWaiters()

    async def hold() -> Wake:
        with waiters.waiting_for(JOB) as waiter:
            return await waiter.wait(later())

    first = [asyncio.create_task(hold()) for _ in range(5)]
    await until(lambda: waiters.sleeping() == 5)
    waiters.wake(JOB)
    second = asyncio.create_task(hold())
    assert await asyncio.gather(*first) == [Wake.CHANGED] * 5
    await until(lambda: waiters.sleeping() == 1)
    assert waiters.count(JOB) == 1, "a wake is for those who waited then"
    waiters.wake_all()
    assert await second is Wake.CHANGED


async def test_the_oldest_is_the_one_that_has_been_there_longest() -> None:
    waiters = JobWaiters()
    assert waiters.oldest() is None
    with waiters.waiting_for(JOB) as second:
        with waiters.waiting_for(SESSION):
            assert waiters.oldest() is second
        assert second.registered_at <= now()
