"""What a look sees that waits for nothing: it is shared with all who are woken to ask the same."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from genstatus_server.model.access import Login
from genstatus_server.model.documents import LoginSession, Submission, User
from genstatus_server.model.jobs import Job
from genstatus_server.mongo.queries import JOBS, SESSIONS, SUBMISSIONS, USERS
from genstatus_server.mongo.store import Store
from genstatus_server.web.look import Looker
from tests.mongo.test_store import FINISHED, JOB_ID, WAITING, change, remembering_store

ASKED: Any = SimpleNamespace(submission_id=1, file_types=("D1",))
USER = User(11, website_admin=False, cgac_codes=frozenset(), frec_codes=frozenset())


def is_settled(jobs: Sequence[Job]) -> bool:
    return jobs[0].is_settled


async def store_with(*token_hashes: str, seconds: float = 60) -> Store:
    """A store that remembers these as logged in, and was told that the job is finished."""
    store = await remembering_store()
    for token_hash in token_hashes:
        session = LoginSession(11, datetime.now(UTC) + timedelta(seconds=seconds))
        store._memory[SESSIONS].put(token_hash, session)
    store._memory[USERS].put(11, USER)
    store._memory[SUBMISSIONS].put(1, Submission(11, None, None))
    store.forget(change(FINISHED, WAITING | FINISHED))
    return store


def looker(store: Store, token_hash: str, settles: Any = is_settled) -> Looker:
    return Looker(store, Login(token_hash, USER, datetime.now(UTC)), ASKED, settles)


async def test_those_with_the_same_login_share_it_and_no_others() -> None:
    store = await store_with("a", "b")
    look = looker(store, "a").at_once()
    assert look is not None
    assert look.is_settled
    assert looker(store, "a").at_once() is look
    others = looker(store, "b").at_once(), looker(store, "a", lambda _: True).at_once()
    assert all(other is not None and other is not look for other in others)
    assert looker(store, "c").at_once() is None


@pytest.mark.parametrize("lost", [SESSIONS, USERS, SUBMISSIONS, JOBS])
async def test_it_is_shared_no_longer_once_something_has_changed(lost: str) -> None:
    store = await store_with("a")
    assert looker(store, "a").at_once() is not None
    keys = {SESSIONS: "a", USERS: 11, SUBMISSIONS: 1, JOBS: 100}
    store.forget({"operationType": "delete", "ns": {"coll": lost}, "documentKey": {"_id": keys[lost]}})
    assert looker(store, "a").at_once() is None


async def test_a_login_that_ends_by_the_clock_is_shared_no_longer_than_it_lasts() -> None:
    """Thousands of answers take a while, in one turn of the loop."""
    store, loop = await store_with("a", seconds=0.5), asyncio.get_running_loop()
    look = looker(store, "a").at_once()
    assert look is not None
    while loop.time() <= look.expires:
        pass
    assert looker(store, "a").at_once() is None


async def test_a_job_that_was_read_and_not_told_settles_nothing_at_once() -> None:
    store = await store_with("a")
    (job,) = store.remembered_jobs([(JOBS, JOB_ID)])
    store.forget_all()
    store._memory[JOBS].put(JOB_ID, job)
    assert looker(store, "a").at_once() is None
