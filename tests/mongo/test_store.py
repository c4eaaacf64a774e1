"""What the change stream proves of a job, by the changes that it tells."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import pytest
from structlog.testing import capture_logs

from genstatus_server.model.jobs import GenerationStatus
from genstatus_server.mongo import client as mongodb
from genstatus_server.mongo.queries import JOBS, SESSIONS, USERS, JobId, Key, parse_job
from genstatus_server.mongo.store import Store
from genstatus_server.telemetry.metrics import Metrics

JOB_ID: JobId = (1, "D1")
WAITING: dict[str, Any] = {"_id": 100, "submission_id": 1, "file_type": "D1", "status": "waiting"}
FINISHED: dict[str, Any] = {"status": "finished", "upload": {"status": "finished", "key": "1/D1.csv"}}


async def remembering_store() -> Store:
    """A store that remembers the job as waiting; MongoDB is not asked for anything."""
    async with mongodb.open_database("mongodb://127.0.0.1:1", "unused") as database:
        store = Store(database, Metrics(), size=10, is_fresh=lambda: True, wake=lambda _: None)
    store._memory[JOBS].put(JOB_ID, parse_job(JOB_ID, WAITING))
    return store


def is_told(store: Store) -> bool:
    (job,) = store.remembered_jobs([(JOBS, JOB_ID)])
    return job.is_settled and store.is_told(JOB_ID, job)


def change(updated: dict[str, Any], looked_up: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationType": "update",
        "ns": {"coll": JOBS},
        "documentKey": {"_id": 100},
        "fullDocument": looked_up,
        "updateDescription": {"updatedFields": updated},
    }


async def test_a_change_that_ends_the_waiting_by_itself_tells_the_job() -> None:
    store = await remembering_store()
    store.forget(change(FINISHED, WAITING | FINISHED))
    assert is_told(store)


async def test_a_change_whose_job_was_looked_up_later_tells_nothing() -> None:
    """Nor does the next one, though it fits what is remembered: that is newer than it, and than what it was told of."""
    store = await remembering_store()
    later = WAITING | FINISHED | {"size": 5}
    store.forget(change({"status": "running"}, later))
    assert not is_told(store)
    store.forget(change({"size": 5}, later))  # A revocation may have been committed between this and the finish.
    assert not is_told(store)


async def test_what_is_remembered_is_seen_at_once_and_nothing_else_is() -> None:
    store = await remembering_store()
    seen = store.see_at_once(lambda find: find(JOBS, JOB_ID))
    assert seen is not None
    assert seen.generation_status is GenerationStatus.WAITING
    assert store.see_at_once(lambda find: find(JOBS, (2, "D1"))) is None
    store._is_fresh = lambda: False
    assert store.see_at_once(lambda find: find(JOBS, JOB_ID)) is None


async def test_a_job_that_makes_no_sense_is_warned_of_once_and_not_for_its_read_and_its_change() -> None:
    store = await remembering_store()
    odd = WAITING | {"size": "large"}
    with capture_logs() as records:
        store._memory[JOBS].put(JOB_ID, parse_job(JOB_ID, odd))  # as a read does
        store.forget(change({"size": "large"}, odd))
    assert [record["event"] for record in records] == ["job_malformed"]


async def test_what_is_shared_is_so_for_one_turn_of_the_loop_and_leaves_nothing() -> None:
    store = await remembering_store()
    assert [store.share("a", lambda: 1), store.share("b", lambda: 2), store.share("a", lambda: 3)] == [1, 2, 1]
    await asyncio.sleep(0)
    assert not store._shared
    assert store.share("a", lambda: 4) == 4


async def test_those_who_ask_the_same_share_what_is_seen_until_anything_changes() -> None:
    store = await remembering_store()
    numbers = count(1)

    def shared(question: str) -> int:
        return store.share(question, lambda: next(numbers))

    assert [shared("a"), shared("b"), shared("a"), shared("b")] == [1, 2, 1, 2]
    login_session = {"operationType": "delete", "ns": {"coll": SESSIONS}, "documentKey": {"_id": "some hash"}}
    changes: list[Callable[[], object]] = [
        lambda: store.forget(login_session),
        lambda: store.forget(change(FINISHED, WAITING | FINISHED)),
        store.forget_all,
        lambda: store._keep((USERS, 11), None),
    ]
    for changed in changes:
        before = shared("a")
        changed()
        assert shared("a") != before


async def test_what_is_seen_again_of_all_that_is_held_is_shared_with_nobody_who_saw_it_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = await remembering_store()
    assert store.share("a", lambda: 1) == 1

    async def read(keys: Sequence[Key]) -> Mapping[Key, Any]:
        return dict.fromkeys(keys)

    monkeypatch.setattr(store._reader, "read", read)
    await store.read_again([(SESSIONS, "some hash")])
    assert store.share("a", lambda: 2) == 2


async def test_what_is_not_fresh_is_shared_with_nobody() -> None:
    store = await remembering_store()
    assert store.share("a", lambda: 1) == 1
    store._is_fresh = lambda: False
    assert [store.share("a", lambda: 2), store.share("a", lambda: 3)] == [2, 3]
