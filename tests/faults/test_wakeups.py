"""No wake-up is lost: ten thousand trials in all, each with a change at a moment of its own, chosen by its seed."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

import pytest

from genstatus_server.hold.holds import Urls
from genstatus_server.mongo.queries import SUBMISSIONS
from genstatus_server.web.check import StatusCheck, StatusChecker
from tests.faults.scale import Figures, allowed, scaled
from tests.support.loops import Lateness, lateness
from tests.support.server import Server, body
from tests.support.world import Document, World

#: A test of its own for each seed, because a test may take half a minute.
SEEDS: Final = range(scaled(2, 10))
TRIALS: Final = scaled(250, 500)
AT_ONCE: Final = 20
#: Seconds from a change to its answer; the holds' own end is far behind it, and behind what `allowed` makes of it.
SOON: Final = 1.0
HOLD_SECONDS: Final = 100

Action = Callable[[], Awaitable[None]]


class Moment(Enum):
    """When something happens to the job of a request."""

    BEFORE = auto()
    REGISTERED = auto()
    READ = auto()
    SETTLED = auto()
    POLLED = auto()
    WAITING = auto()
    SIGNED = auto()
    SOMETIME = auto()


class Plan:
    """What is to happen to which submission at which moment; each happens once."""

    def __init__(self) -> None:
        self.actions: dict[tuple[Moment, int], Action] = {}

    def at(self, moment: Moment, number: int, action: Action) -> None:
        self.actions[moment, number] = action

    async def reached(self, moment: Moment, number: int) -> None:
        action = self.actions.pop((moment, number), None)
        if action is not None:
            await action()


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plan]:
    """A plan that the server of this test follows."""
    made = Plan()
    check, sign = StatusChecker.check, StatusChecker.sign

    async def planned_check(self: StatusChecker, deadline: float) -> StatusCheck:
        (number,) = (identifier for collection, identifier in self.keys if collection == SUBMISSIONS)
        await made.reached(Moment.REGISTERED, number)
        checked = await check(self, deadline)
        await made.reached(Moment.READ, number)
        if checked.is_settled:
            await made.reached(Moment.SETTLED, number)
        return checked

    async def planned_sign(self: StatusChecker, checked: StatusCheck, deadline: float) -> Urls:
        number = checked.jobs[0].job_id or 0
        await made.reached(Moment.POLLED, number)
        urls = await sign(self, checked, deadline)
        await made.reached(Moment.SIGNED, number)
        return urls

    monkeypatch.setattr(StatusChecker, "check", planned_check)
    monkeypatch.setattr(StatusChecker, "sign", planned_sign)
    yield made
    assert not made.actions


def finished(number: int, generation: int = 1) -> Document:
    return {"status": "finished", "upload": {"status": "finished", "key": f"{number}/{generation}.csv"}}


WAITING: Final[Document] = {"status": "waiting", "upload": None}


class Trials:
    """The trials of one seed, some at a time, each with a submission of its own."""

    def __init__(self, server: Server, world: World, plan: Plan, seed: int) -> None:
        self.server, self.world, self.plan = server, world, plan
        self.numbers = range(10_000, 10_000 + TRIALS)
        self._seed = seed
        self._free = asyncio.Semaphore(AT_ONCE)
        self.longest = 0.0

    async def run(self, trial: Callable[["Trials", int, random.Random, Lateness], Awaitable[None]]) -> None:
        job = {"file_type": "D1", "status": "waiting", "size": 1}
        jobs = [{"_id": each, "submission_id": each} | job for each in self.numbers]
        await self.world.submissions.insert_many([{"_id": each, "user_id": 11} for each in self.numbers])
        await self.world.jobs.insert_many(jobs)
        await self.world.jobs.create_index([("submission_id", 1), ("file_type", 1)], unique=True)
        async with lateness() as late, asyncio.TaskGroup() as tasks:
            for number in self.numbers:
                tasks.create_task(self._one(trial, number, late))

    async def _one(
        self, trial: Callable[["Trials", int, random.Random, Lateness], Awaitable[None]], number: int, late: Lateness
    ) -> None:
        async with self._free:
            await trial(self, number, random.Random(f"{self._seed}/{number}"), late)

    async def set_job(self, number: int, fields: Document) -> None:
        await self.world.jobs.update_one({"_id": number}, {"$set": fields})

    async def set_in_one_go(self, number: int, steps: Sequence[Document]) -> None:
        async with self.world.client.start_session() as session, await session.start_transaction():
            for fields in steps:
                await self.world.jobs.update_one({"_id": number}, {"$set": fields}, session=session)

    async def is_waiting(self, number: int) -> None:
        assert body(await self.server.check(submission_id=number))["status"] == "waiting"

    async def hold(self, number: int) -> Document:
        response = await self.server.check(submission_id=number, wait="true", timeout=HOLD_SECONDS)
        while response.code == HTTPStatus.SERVICE_UNAVAILABLE:  # MongoDB has its hands full: a client asks again.
            response = await self.server.check(submission_id=number, wait="true", timeout=HOLD_SECONDS)
        assert response.code == HTTPStatus.OK
        assert response.headers["X-Wait-Result"] == "settled", number
        return body(response)

    @asynccontextmanager
    async def soon(self, late: Lateness) -> AsyncIterator[None]:
        """What is in this block is done within a second, but for what the machine takes longer."""
        loop = asyncio.get_running_loop()
        began, late_before = loop.time(), late.seconds
        yield
        took = loop.time() - began - (late.seconds - late_before)
        self.longest = max(self.longest, took)
        assert took < allowed(SOON)


@pytest.fixture
def server_options() -> dict[str, str]:
    return {"wait_max": str(HOLD_SECONDS)}


@pytest.fixture
def trials(server: Server, world: World, plan: Plan, seed: int) -> Trials:
    return Trials(server, world, plan, seed)


async def finish_at_any_moment(trials: Trials, number: int, chance: random.Random, late: Lateness) -> None:
    """The job is finished at one moment of its request, whichever it is, and perhaps a little after it."""
    moments = (Moment.BEFORE, Moment.POLLED, Moment.REGISTERED, Moment.READ, Moment.WAITING, Moment.SOMETIME)
    moment, committed = chance.choice(moments), asyncio.Event()

    async def finish() -> None:
        if chance.random() < 1 / 2:
            await asyncio.sleep(chance.uniform(0, 0.005))
        await trials.set_job(number, finished(number))
        committed.set()

    if chance.random() < 1 / 2:  # Then the server has it in its cache as waiting.
        await trials.is_waiting(number)
    if moment is Moment.BEFORE:
        await finish()
    elif moment in {Moment.POLLED, Moment.REGISTERED, Moment.READ}:
        trials.plan.at(moment, number, finish)
    if moment is Moment.POLLED:  # While an answer is being made that says that it waits.
        await trials.is_waiting(number)
    hold = asyncio.ensure_future(trials.hold(number))
    if moment in {Moment.WAITING, Moment.SOMETIME}:
        await asyncio.sleep(chance.uniform(0.02, 0.2) if moment is Moment.WAITING else chance.uniform(0, 0.02))
        await finish()
    await committed.wait()
    async with trials.soon(late):
        answer = await hold
    assert answer["status"] == "finished"
    assert f"/{number}/1.csv?" in answer["url"]


async def begin_anew_at_once(trials: Trials, number: int, chance: random.Random, late: Lateness) -> None:
    """A finish that is followed by a new generation: what is answered is the file that is there then."""
    moments = (Moment.REGISTERED, Moment.READ, Moment.SETTLED, Moment.SIGNED, Moment.WAITING)
    moment = chance.choice(moments)
    begun_anew = asyncio.Event()

    async def begin_anew() -> None:
        await trials.set_job(number, WAITING)
        # The server hears of it as of any change: until then, it cannot know.
        await asyncio.sleep(chance.uniform(0, 0.002))
        begun_anew.set()

    async def finish_and_begin_anew() -> None:
        await trials.set_in_one_go(number, [finished(number), WAITING])
        begun_anew.set()

    if moment in {Moment.REGISTERED, Moment.READ}:
        trials.plan.at(moment, number, finish_and_begin_anew)
        hold = asyncio.ensure_future(trials.hold(number))
    elif moment is Moment.WAITING:
        hold = asyncio.ensure_future(trials.hold(number))
        await asyncio.sleep(chance.uniform(0, 0.02))
        await finish_and_begin_anew()
    else:
        trials.plan.at(moment, number, lambda: heard_of(trials, number, begin_anew))
        hold = asyncio.ensure_future(trials.hold(number))
        await asyncio.sleep(chance.uniform(0, 0.02))
        await trials.set_job(number, finished(number))
    await begun_anew.wait()
    await asyncio.sleep(chance.uniform(0.02, 0.1))
    assert not hold.done(), (moment, await hold)
    await trials.set_job(number, finished(number, generation=2))
    async with trials.soon(late):
        answer = await hold
    assert f"/{number}/2.csv?" in answer["url"], moment


async def heard_of(trials: Trials, number: int, write: Action) -> None:
    """Write, and wait until the server has heard of it."""
    key, services = ("jobs", (number, "D1")), trials.server.services
    (hold,) = services.holds.of(key)
    await write()
    # By then it may have heard of the second generation's file, too.
    first = finished(number)["upload"]["key"]
    async with asyncio.timeout(allowed(SOON)):
        while hold.woken_at is None or any(job.key == first for job in services.documents.cache.jobs([key])):  # noqa: ASYNC110 - the change comes by the turns of the loop.
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("seed", SEEDS)
async def test_job_finished_at_any_moment_is_answered_at_once(trials: Trials, figures: Figures) -> None:
    await trials.run(finish_at_any_moment)
    figures.note(f"s, the longest of {TRIALS} from the finish to the answer", f"{trials.longest:.3f}")


@pytest.mark.parametrize("seed", SEEDS)
async def test_hold_waits_for_a_generation_begun_right_after_a_finish(trials: Trials, figures: Figures) -> None:
    await trials.run(begin_anew_at_once)
    figures.note(f"s, the longest of {TRIALS} from the second finish to the answer", f"{trials.longest:.3f}")
