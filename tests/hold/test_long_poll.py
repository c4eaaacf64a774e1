"""The hold, with looks that the test makes up: what ends it, and what does not."""

import asyncio
from collections.abc import Callable

import pytest

from genstatus_server.hold.hold import JITTER, LAST_LOOK_SECONDS, Hold, Look, WaitResult, deadline_of
from genstatus_server.hold.registry import JobWaiters, Waiter, Wake
from genstatus_server.model.errors import LoginRequired, ServiceUnavailable
from genstatus_server.model.jobs import NO_JOB, GenerationStatus, Job

KEY = ("jobs", (1, "D1"))
WAITING = Job(job_id=1, generation_status=GenerationStatus.WAITING)
FINISHED = Job(job_id=1, generation_status=GenerationStatus.FINISHED, key="1/D1.csv")

Step = Job | Exception | Callable[[], Job]


def now() -> float:
    return asyncio.get_running_loop().time()


class Looks:
    """Gives one step after the other; the last one again and again. `at_hand` is what it sees without waiting."""

    def __init__(self, *steps: Step, expires_in: float = 60, at_hand: Job | None = None) -> None:
        self._steps = list(steps)
        self._expires = now() + expires_in
        self._at_hand = at_hand
        self.count = 0
        self.untils: list[float] = []

    def at_once(self) -> Look | None:
        return self._look(self._at_hand) if self._at_hand else None

    async def __call__(self, until: float) -> Look:
        self.count += 1
        self.untils.append(until)
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        await asyncio.sleep(0)
        if isinstance(step, Exception):
            raise step
        return self._look(step if isinstance(step, Job) else step())

    def _look(self, job: Job) -> Look:
        return Look((job,), job.is_settled, self._expires)


class Held:
    """A hold from its registration to its end, as a handler leads it."""

    def __init__(self, look: Looks, *, seconds: float = 5) -> None:
        self.waiters = JobWaiters()
        self.waiter = self.waiters.register((KEY,))
        self.hold = Hold(look, self.waiter, now() + seconds)

    async def result(self) -> tuple[Job, WaitResult]:
        result = await self.hold.begin(now() + 5)
        while result is None:
            woken = asyncio.Event()
            self.hold.sleep(woken.set)
            await woken.wait()
            result = await self.hold.go_on()
        return self.hold.seen.jobs[0], result

    async def sleeping(self) -> "asyncio.Task[tuple[Job, WaitResult]]":
        """The same, once it sleeps."""
        task = asyncio.create_task(self.result())
        await self.sleeps()
        return task

    async def sleeps(self) -> None:
        async with asyncio.timeout(5):
            while not self.waiter.is_sleeping:  # noqa: ASYNC110 - the loop's next turn is what is waited for.
                await asyncio.sleep(0)


async def test_what_is_settled_is_answered_by_the_first_look() -> None:
    look = Looks(NO_JOB)
    assert await Held(look).result() == (NO_JOB, WaitResult.SETTLED)
    assert look.count == 1


async def test_a_wake_has_it_look_again() -> None:
    look = Looks(WAITING, WAITING, FINISHED)
    held = Held(look)
    holding = await held.sleeping()
    for _ in range(2):
        await held.sleeps()
        held.waiters.wake(KEY)
        await asyncio.sleep(0)
    assert await holding == (FINISHED, WaitResult.SETTLED)
    assert look.count == 3


async def test_a_change_between_the_look_and_the_wait_is_not_lost() -> None:
    def changes_as_it_is_read() -> Job:
        held.waiters.wake(KEY)
        return WAITING

    held = Held(Looks(changes_as_it_is_read, FINISHED))
    assert await held.result() == (FINISHED, WaitResult.SETTLED)


async def test_a_change_during_the_look_that_settles_has_it_look_once_more() -> None:
    def new_generation_as_it_is_read() -> Job:
        held.waiters.wake(KEY)
        return FINISHED

    look = Looks(new_generation_as_it_is_read, WAITING, FINISHED)
    held = Held(look)
    holding = await held.sleeping()
    assert look.count == 2
    held.waiters.wake(KEY)
    assert await holding == (FINISHED, WaitResult.SETTLED)


async def test_what_settles_it_and_is_at_hand_needs_no_look() -> None:
    look = Looks(WAITING)
    held = Held(look)
    holding = await held.sleeping()
    assert not held.hold.settles_at_once()
    look._at_hand = WAITING
    assert not held.hold.settles_at_once()
    look._at_hand = FINISHED
    assert held.hold.settles_at_once()
    assert (held.hold.seen.jobs, look.count) == ((FINISHED,), 1)
    holding.cancel()


@pytest.mark.parametrize("end", [Waiter.leave, lambda waiter: waiter.end(Wake.CLOSED)])
async def test_a_hold_that_has_to_end_does_not_settle_at_once(end: Callable[[Waiter], None]) -> None:
    held = Held(Looks(WAITING, at_hand=FINISHED))
    end(held.waiter)
    assert not held.hold.settles_at_once()


async def test_the_deadline_is_an_answer() -> None:
    assert await Held(Looks(WAITING), seconds=0.01).result() == (WAITING, WaitResult.DEADLINE)


async def test_a_job_that_is_settled_at_the_deadline_is_settled() -> None:
    assert await Held(Looks(WAITING, FINISHED), seconds=0.01).result() == (FINISHED, WaitResult.SETTLED)


async def test_what_cannot_be_read_at_the_deadline_is_as_it_was() -> None:
    held = Held(Looks(WAITING, ServiceUnavailable()), seconds=0.01)
    assert await held.result() == (WAITING, WaitResult.DEADLINE)


async def test_a_look_is_done_soon_after_the_deadline_at_the_latest() -> None:
    look = Looks(WAITING, WAITING, WAITING)
    held = Held(look, seconds=0.2)
    holding = await held.sleeping()
    held.waiters.wake(KEY)
    assert await holding == (WAITING, WaitResult.DEADLINE)
    assert max(look.untils[1:]) <= held.hold.deadline + LAST_LOOK_SECONDS


async def test_a_database_that_is_away_does_not_end_it_and_it_looks_again_by_itself() -> None:
    look = Looks(WAITING, ServiceUnavailable(), FINISHED)
    held = Held(look, seconds=20)
    holding = await held.sleeping()
    held.waiters.wake(KEY)
    assert await holding == (FINISHED, WaitResult.SETTLED)
    assert look.count == 3


async def test_the_first_looks_error_is_the_callers() -> None:
    with pytest.raises(ServiceUnavailable):
        await Held(Looks(ServiceUnavailable())).result()


async def test_access_that_is_lost_ends_it() -> None:
    held = Held(Looks(WAITING, LoginRequired()))
    holding = await held.sleeping()
    held.waiters.wake(KEY)
    with pytest.raises(LoginRequired):
        await holding


@pytest.mark.parametrize("error", [LoginRequired(), ServiceUnavailable()])
async def test_a_login_that_expires_is_looked_at_when_it_does(error: Exception) -> None:
    """Also while the database is away."""
    with pytest.raises(LoginRequired):
        await Held(Looks(WAITING, error, expires_in=0.01)).result()


async def test_a_drain_ends_it_with_what_is_true_then() -> None:
    for steps, expected in (
        ((WAITING, WAITING), (WAITING, WaitResult.DRAINING)),
        ((WAITING, FINISHED), (FINISHED, WaitResult.SETTLED)),
        ((WAITING, ServiceUnavailable()), (WAITING, WaitResult.DRAINING)),
    ):
        held = Held(Looks(*steps))
        holding = await held.sleeping()
        held.waiters.close()
        assert await holding == expected


async def test_a_client_that_leaves_ends_it_without_another_look() -> None:
    look = Looks(WAITING)
    held = Held(look)
    holding = await held.sleeping()
    held.waiter.leave()
    assert await holding == (WAITING, WaitResult.GONE)
    assert look.count == 1


def test_the_jitter_is_taken_off_and_never_added() -> None:
    ends = [deadline_of(100, 16) for _ in range(1000)]
    assert 100 + 16 * (1 - JITTER) <= min(ends) < max(ends) <= 100 + 16
