"""No wake-up is lost, and who lost access before gets no status: many seeded trials at random moments.

`tests/faults/test_wakeups.py` has more, at chosen moments of a request.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import pytest

from tests.support.server import Server, body
from tests.support.world import Document, World, token_hash

pytestmark = pytest.mark.one_python

TRIALS = 150
REVOCATIONS = 60
AT_ONCE = 15
#: Seconds after a change by which its answer must be there: long for a busy machine, short of the holds' deadline.
SOON = 40.0

FINISHED: Document = {"status": "finished", "upload": {"status": "finished", "key": "1/D1.csv"}}
FAILED: Document = {"status": "failed", "message": "Not for everybody."}


async def all_of(trial: Callable[[int, random.Random], Awaitable[None]], count: int, seed: int) -> None:
    """Run the trials, some at a time; what each does when is drawn from its own number and the seed."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with free:
            await trial(number, random.Random(f"{seed}/{number}"))

    async with asyncio.TaskGroup() as trials:
        for number in range(count):
            trials.create_task(one(number))


async def prepare(world: World, number: int) -> None:
    """A submission with a waiting job, and a session of its owner, all with this number."""
    await world.submissions.insert_one({"_id": number, "user_id": 11})
    await world.jobs.insert_one({"_id": number, "submission_id": number, "file_type": "D1", "status": "waiting"})
    await world.log_in(f"session {number}", 11)


async def test_job_that_advances_in_steps_settles_the_hold(server: Server, world: World) -> None:
    steps: list[Document] = [
        {"status": "running"},
        {"status": "finished"},
        {"upload": {"status": "running"}},
        {"upload": {"status": "finished", "key": "1/D1.csv"}},
    ]

    async def trial(number: int, chance: random.Random) -> None:
        number += 1000
        await prepare(world, number)
        answer = asyncio.ensure_future(server.check(submission_id=number, wait="true", timeout=50))
        for step in steps:
            await asyncio.sleep(chance.uniform(0, 0.01))
            await world.jobs.update_one({"_id": number}, {"$set": step})
        response = await asyncio.wait_for(answer, SOON)
        assert (response.headers["X-Wait-Result"], body(response)["status"]) == ("settled", "finished")

    await all_of(trial, TRIALS // 3, seed=3)


async def test_job_deleted_at_any_moment_settles_the_hold(server: Server, world: World) -> None:
    async def trial(number: int, chance: random.Random) -> None:
        number += 1000
        await prepare(world, number)
        answer = asyncio.ensure_future(server.check(submission_id=number, wait="true", timeout=50))
        if chance.random() < 1 / 2:
            await world.jobs.update_one({"_id": number}, {"$set": {"status": "running"}})
        await asyncio.sleep(chance.uniform(0, 0.01))
        await world.jobs.delete_one({"_id": number})
        response = await asyncio.wait_for(answer, SOON)
        assert (response.headers["X-Wait-Result"], body(response)["status"]) == ("settled", "invalid")

    await all_of(trial, TRIALS // 3, seed=4)


@pytest.mark.parametrize("revoke", ["session", "user", "submission"])
async def test_caller_without_access_gets_no_settled_status(server: Server, world: World, revoke: str) -> None:
    async def take_away(number: int) -> None:
        if revoke == "session":
            await world.sessions.delete_one({"_id": token_hash(f"session {number}")})
        elif revoke == "user":
            await world.users.delete_one({"_id": number})
        else:
            await world.submissions.update_one({"_id": number}, {"$set": {"user_id": 14}})

    async def trial(number: int, chance: random.Random) -> None:
        number += 1000
        await prepare(world, number)
        await world.users.insert_one({"_id": number})
        await world.log_in(f"session {number}", number)
        await world.submissions.update_one({"_id": number}, {"$set": {"user_id": number}})
        if chance.random() < 1 / 2:  # Then the server remembers that this user may view the submission.
            assert (await server.check(f"session {number}", submission_id=number, file_type="E")).code == HTTPStatus.OK
        asked = server.check(f"session {number}", submission_id=number, wait="true", timeout=50)
        answer = asyncio.ensure_future(asked)
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.002, 0.005, 0.02]) * chance.random())
        await take_away(number)
        await world.jobs.update_one({"_id": number}, {"$set": chance.choice([FINISHED, FAILED])})
        response = await asyncio.wait_for(answer, SOON)
        assert response.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        assert list(body(response)) == ["message"]

    await all_of(trial, REVOCATIONS, seed=5)
