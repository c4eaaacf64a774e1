"""The hold, with looks that the test makes up: what ends it, and what does not."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from genstatus_server.errors import LoginRequired, ServiceUnavailable
from genstatus_server.jobs import NO_JOB, GenerationStatus, Job
from genstatus_server.long_poll import JITTER, Look, WaitResult, deadline_of, hold
from genstatus_server.waiters import JobWaiters, Waiter

KEY = ("jobs", (1, "D1"))
WAITING = Job(job_id=1, generation_status=GenerationStatus.WAITING)
FINISHED = Job(job_id=1, generation_status=GenerationStatus.FINISHED, key="1/D1.csv")

Step = Job | Exception | Callable[[], Job]


def now() -> float:
    return asyncio.get_running_loop().time()


class Looks:
    """Gives one step after the other; the last one again and again."""

    def __init__(self, *steps: Step, expires_in: float = 60) -> None:
        self._steps = list(steps)
        self._expires = now() + expires_in
        self.count = 0

    async def __call__(self) -> Look:
        self.count += 1
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        await asyncio.sleep(0)
        if isinstance(step, Exception):
            raise step
        job = step if isinstance(step, Job) else step()
        return Look((job,), job.is_settled, self._expires)


@contextmanager
def registered() -> Iterator[tuple[JobWaiters, Waiter]]:
    waiters = JobWaiters()
    with waiters.waiting_for(KEY) as waiter:
        yield waiters, waiter
    assert not len(waiters)


async def result_of(holding: Awaitable[tuple[Look, WaitResult]]) -> tuple[Job, WaitResult]:
    seen, result = await holding
    return seen.jobs[0], result


async def sleeping(waiters: JobWaiters) -> None:
    async with asyncio.timeout(5):
        while not waiters.sleeping():  # noqa: ASYNC110 - the loop's next turn is what is waited for.
            await asyncio.sleep(0)


async def test_what_is_settled_is_answered_by_the_first_look() -> None:
    look = Looks(NO_JOB)
    with registered() as (_, waiter):
        assert await result_of(hold(look, waiter, now() + 5)) == (NO_JOB, WaitResult.SETTLED)
    assert look.count == 1


async def test_a_wake_has_it_look_again() -> None:
    look = Looks(WAITING, WAITING, FINISHED)
    with registered() as (waiters, waiter):
        holding = asyncio.ensure_future(result_of(hold(look, waiter, now() + 5)))
        for _ in range(2):
            await sleeping(waiters)
            waiters.wake(KEY)
        assert await holding == (FINISHED, WaitResult.SETTLED)
    assert look.count == 3


async def test_a_change_between_the_look_and_the_wait_is_not_lost() -> None:
    with registered() as (waiters, waiter):

        def changes_as_it_is_read() -> Job:
            waiters.wake(KEY)
            return WAITING

        look = Looks(changes_as_it_is_read, FINISHED)
        assert await result_of(hold(look, waiter, now() + 5)) == (FINISHED, WaitResult.SETTLED)


async def test_a_change_during_the_look_that_settles_has_it_look_once_more() -> None:
    with registered() as (waiters, waiter):

        def new_generation_as_it_is_read() -> Job:
            waiters.wake(KEY)
            return FINISHED

        look = Looks(new_generation_as_it_is_read, WAITING, FINISHED)
        holding = asyncio.ensure_future(result_of(hold(look, waiter, now() + 5)))
        await sleeping(waiters)
        assert look.count == 2
        waiters.wake(KEY)
        assert await holding == (FINISHED, WaitResult.SETTLED)


async def test_the_deadline_is_an_answer() -> None:
    with registered() as (_, waiter):
        assert await result_of(hold(Looks(WAITING), waiter, now() + 0.01)) == (WAITING, WaitResult.DEADLINE)


async def test_a_job_that_is_settled_at_the_deadline_is_settled() -> None:
    with registered() as (_, waiter):
        holding = hold(Looks(WAITING, FINISHED), waiter, now() + 0.01)
        assert await result_of(holding) == (FINISHED, WaitResult.SETTLED)


@pytest.mark.parametrize("error", [ServiceUnavailable(), TimeoutError()])
async def test_what_cannot_be_read_at_the_deadline_is_as_it_was(error: Exception) -> None:
    with registered() as (_, waiter):
        holding = hold(Looks(WAITING, error), waiter, now() + 0.01)
        assert await result_of(holding) == (WAITING, WaitResult.DEADLINE)


@pytest.mark.parametrize("error", [ServiceUnavailable(), TimeoutError()])
async def test_a_database_that_is_away_does_not_end_it_and_it_looks_again_by_itself(error: Exception) -> None:
    look = Looks(WAITING, error, FINISHED)
    with registered() as (waiters, waiter):
        holding = asyncio.ensure_future(result_of(hold(look, waiter, now() + 20)))
        await sleeping(waiters)
        waiters.wake(KEY)
        assert await holding == (FINISHED, WaitResult.SETTLED)
    assert look.count == 3


async def test_the_first_looks_error_is_the_callers() -> None:
    with registered() as (_, waiter), pytest.raises(ServiceUnavailable):
        await hold(Looks(ServiceUnavailable()), waiter, now() + 5)


async def test_access_that_is_lost_ends_it() -> None:
    look = Looks(WAITING, LoginRequired())
    with registered() as (waiters, waiter):
        holding = asyncio.ensure_future(hold(look, waiter, now() + 5))
        await sleeping(waiters)
        waiters.wake(KEY)
        with pytest.raises(LoginRequired):
            await holding


async def test_a_login_that_expires_is_looked_at_when_it_does() -> None:
    look = Looks(WAITING, LoginRequired(), expires_in=0.01)
    with registered() as (_, waiter), pytest.raises(LoginRequired):
        await hold(look, waiter, now() + 5)


async def test_a_login_that_expires_while_the_database_is_away_is_over() -> None:
    look = Looks(WAITING, ServiceUnavailable(), expires_in=0.01)
    with registered() as (_, waiter), pytest.raises(LoginRequired):
        await hold(look, waiter, now() + 5)


async def test_a_drain_ends_it_with_what_is_true_then() -> None:
    for steps, expected in (
        ((WAITING, WAITING), (WAITING, WaitResult.DRAINING)),
        ((WAITING, FINISHED), (FINISHED, WaitResult.SETTLED)),
        ((WAITING, ServiceUnavailable()), (WAITING, WaitResult.DRAINING)),
    ):
        with registered() as (waiters, waiter):
            holding = asyncio.ensure_future(result_of(hold(Looks(*steps), waiter, now() + 5)))
            await sleeping(waiters)
            waiters.close()
            assert await holding == expected


async def test_a_client_that_leaves_ends_it_without_another_look() -> None:
    look = Looks(WAITING)
    with registered() as (waiters, waiter):
        holding = asyncio.ensure_future(result_of(hold(look, waiter, now() + 5)))
        await sleeping(waiters)
        waiter.leave()
        assert await holding == (WAITING, WaitResult.GONE)
    assert look.count == 1


def test_the_jitter_is_taken_off_and_never_added() -> None:
    ends = [deadline_of(100, 16) for _ in range(1000)]
    assert 100 + 16 * (1 - JITTER) <= min(ends) < max(ends) <= 100 + 16
