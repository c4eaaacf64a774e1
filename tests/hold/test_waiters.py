"""The registry of holds: no wake is lost, every wait ends, and nothing of a hold is left."""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from genstatus_server.hold.registry import JobWaiters, Key, Waiter, Wake
from tests.support.server import until

JOB: Key = ("jobs", (1, "D1"))
OTHER_JOB: Key = ("jobs", (1, "D2"))
SESSION: Key = ("sessions", "hash")


def now() -> float:
    return asyncio.get_running_loop().time()


def later() -> float:
    """Longer than any test runs."""
    return now() + 60


class Sleeper:
    """The hold of `waiter`: sleeps, and keeps why it was woken, each time."""

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self.wakes: list[Wake] = []

    def sleep(self, until_then: float | None = None) -> None:
        self.waiter.sleep(later() if until_then is None else until_then, self._wake_up)

    async def woken(self) -> Wake:
        """Why the sleep is over that begins now."""
        count = len(self.wakes)
        self.sleep()
        await until(lambda: len(self.wakes) > count)
        return self.wakes[-1]

    def _wake_up(self) -> None:
        self.wakes.append(self.waiter.begin_look())


@contextmanager
def registered(waiters: JobWaiters, *keys: Key) -> Iterator[Waiter]:
    waiter = waiters.register(keys)
    try:
        yield waiter
    finally:
        waiters.release(waiter)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_wake_ends_the_sleep() -> None:
    waiters = JobWaiters()
    with registered(waiters, JOB) as waiter:
        sleeper = Sleeper(waiter)
        sleeper.sleep()
        assert waiters.sleeping() == 1
        waiters.wake(JOB)
        assert sleeper.wakes == []  # Who tells it may be in the middle of something.
        await turns()
        assert sleeper.wakes == [Wake.CHANGED]
        assert waiters.sleeping() == 0
        assert not waiter.is_woken


async def test_a_wake_between_the_read_and_the_sleep_is_not_lost() -> None:
    waiters = JobWaiters()
    with registered(waiters, JOB) as waiter:
        waiters.wake(JOB)
        assert waiter.is_woken
        assert await Sleeper(waiter).woken() is Wake.CHANGED


async def test_a_wake_in_the_turn_in_which_the_time_is_up_is_not_lost() -> None:
    waiters = JobWaiters()
    with registered(waiters, JOB) as waiter:
        sleeper = Sleeper(waiter)
        sleeper.sleep(now() - 1)
        await until(lambda: not waiter.is_sleeping)  # It is to be called in this turn or the next.
        waiters.wake(JOB)
        await until(lambda: sleeper.wakes)
        # Whichever came first: it is told now, or by the next sleep.
        assert Wake.CHANGED in {sleeper.wakes[0], await sleeper.woken() if waiter.is_woken else sleeper.wakes[0]}


async def test_many_wakes_before_a_look_are_one() -> None:
    waiters = JobWaiters()
    with registered(waiters, JOB, SESSION) as waiter:
        sleeper = Sleeper(waiter)
        sleeper.sleep()
        for key in (JOB, SESSION, JOB):
            waiters.wake(key)
        await turns()
        assert sleeper.wakes == [Wake.CHANGED]
        sleeper.sleep(now())
        await until(lambda: sleeper.wakes[1:])
        assert sleeper.wakes[1:] == [Wake.TIME]


async def test_the_time_is_up() -> None:
    with registered(JobWaiters(), JOB) as waiter:
        for until_then in (now() + 0.01, now(), now() - 1, -math.inf):
            sleeper = Sleeper(waiter)
            sleeper.sleep(until_then)
            await until(lambda wakes=sleeper.wakes: wakes)  # type: ignore[misc]  # of a lambda with a default
            assert sleeper.wakes == [Wake.TIME]
        assert waiter.woken_at is None


async def test_a_sleep_that_is_over_leaves_no_timer() -> None:
    waiters = JobWaiters()
    with registered(waiters, JOB) as waiter:
        sleeper = Sleeper(waiter)
        sleeper.sleep(now() + 0.02)
        waiters.wake(JOB)
        await asyncio.sleep(0.04)
        assert sleeper.wakes == [Wake.CHANGED]


async def test_only_who_waits_for_the_key_is_woken() -> None:
    waiters = JobWaiters()
    with registered(waiters, JOB) as mine, registered(waiters, OTHER_JOB, SESSION) as other:
        waiters.wake(JOB)
        assert (mine.is_woken, other.is_woken) == (True, False)
        waiters.wake(("users", 1))
        assert not other.is_woken
        waiters.wake_all()
        assert other.is_woken


async def test_the_moment_of_the_first_wake_that_was_not_looked_at_is_kept() -> None:
    with registered(JobWaiters(), JOB) as waiter:
        waiter.wake()
        first = waiter.woken_at
        assert first is not None
        await until(lambda: now() > first)
        waiter.wake()
        assert waiter.woken_at == first
        assert waiter.begin_look() is Wake.CHANGED
        waiter.wake()
        assert waiter.woken_at > first


@pytest.mark.parametrize(
    ("end", "result"), [(Waiter.leave, Wake.LEFT), (lambda waiter: waiter.end(Wake.CLOSED), Wake.CLOSED)]
)
async def test_an_end_ends_this_sleep_and_every_later_one(end: Callable[[Waiter], None], result: Wake) -> None:
    waiters = JobWaiters()
    with registered(waiters, JOB) as waiter:
        sleeper = Sleeper(waiter)
        sleeper.sleep()
        end(waiter)
        await turns()
        assert sleeper.wakes == [result]
        assert waiter.is_ended
        waiters.wake(JOB)
        assert await sleeper.woken() is result


async def test_the_first_end_stands() -> None:
    waiters = JobWaiters()
    with registered(waiters, JOB) as waiter:
        waiter.leave()
        waiters.close()
        assert await Sleeper(waiter).woken() is Wake.LEFT


async def test_closing_ends_all_holds_and_those_to_come() -> None:
    waiters = JobWaiters()
    with registered(waiters, JOB) as first, registered(waiters, OTHER_JOB) as second:
        sleepers = [Sleeper(first), Sleeper(second)]
        for sleeper in sleepers:
            sleeper.sleep()
        waiters.close()
        waiters.close()
        await turns()
        assert [sleeper.wakes for sleeper in sleepers] == [[Wake.CLOSED], [Wake.CLOSED]]
    with registered(waiters, JOB) as late:
        assert await Sleeper(late).woken() is Wake.CLOSED
    assert len(waiters) == 0


async def test_what_is_released_leaves_the_registry_as_it_was() -> None:
    waiters = JobWaiters()
    with registered(waiters, JOB, SESSION):
        with registered(waiters, JOB, OTHER_JOB):
            assert (len(waiters), waiters.count(JOB), waiters.count(OTHER_JOB)) == (2, 2, 1)
        assert (len(waiters), waiters.count(JOB), waiters.count(OTHER_JOB)) == (1, 1, 0)
        assert set(waiters.keys()) == {JOB, SESSION}
    assert (len(waiters), set(waiters.keys()), waiters.sleeping()) == (0, set(), 0)


async def test_who_is_woken_may_be_released_and_others_may_come_meanwhile() -> None:
    waiters = JobWaiters()
    done: list[Wake] = []

    def hold() -> None:
        waiter = waiters.register((JOB,))

        def wake_up() -> None:
            waiters.release(waiter)
            done.append(waiter.begin_look())

        waiter.sleep(later(), wake_up)

    for _ in range(5):
        hold()
    waiters.wake(JOB)
    hold()
    await turns()
    assert done == [Wake.CHANGED] * 5
    assert (waiters.count(JOB), waiters.sleeping()) == (1, 1), "a wake is for those who waited then"
    waiters.wake_all()
    await turns()
    assert done == [Wake.CHANGED] * 6
    assert len(waiters) == 0


async def test_the_oldest_is_the_one_that_has_been_there_longest() -> None:
    waiters = JobWaiters()
    assert waiters.oldest() is None
    with registered(waiters, JOB) as second:
        with registered(waiters, SESSION):
            assert waiters.oldest() is second
        assert second.registered_at <= now()


async def test_a_look_takes_note_of_a_change_also_where_the_hold_has_to_end() -> None:
    """Else a hold that looks until nothing has changed would look for ever."""
    with registered(JobWaiters(), JOB) as waiter:
        waiter.wake()
        waiter.end(Wake.CLOSED)
        assert waiter.begin_look() is Wake.CLOSED
        assert not waiter.is_woken
