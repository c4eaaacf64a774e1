"""The rules of the core, as docs/architecture.md numbers them, on a cache whose reads and events the test makes up."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from genstatus_server.model.jobs import GenerationStatus
from genstatus_server.mongo.cache import DocumentCache, PendingRead
from genstatus_server.mongo.events import Event
from genstatus_server.mongo.freshness import Freshness
from genstatus_server.mongo.queries import JOBS, Key, parse
from tests.support.scripted import (
    FINISHED,
    HASH,
    JOB,
    JOB_KEY,
    SESSION,
    SESSION_KEY,
    SUBMISSION,
    SUBMISSION_KEY,
    USER,
    USER_KEY,
    event,
    time_of,
    update,
)

pytestmark = pytest.mark.skips_time

KEYS = (SESSION_KEY, SUBMISSION_KEY, JOB_KEY)
OTHER_KEY: Key = (JOBS, (1, "D2"))


class Woken:
    """Whoever waits for documents: notes which keys were woken."""

    def __init__(self) -> None:
        self.woken: list[Key] = []

    def keys(self) -> list[Key]:
        return list(KEYS)

    def wake(self, keys: Iterable[Key] | None) -> bool:
        assert keys is not None
        self.woken += keys
        return True


class Cached:
    """A cache behind a change stream that stands at second 10, with the documents of one request."""

    def __init__(self, size: int = 100) -> None:
        self.freshness, self.holds = Freshness(), Woken()
        self.cache = DocumentCache(size, self.freshness, self.holds)
        self.advance(10)

    def advance(self, seconds: int, at: float = 0.0) -> None:
        """The change stream has caught up with a second of the cluster's time."""
        self.freshness.start(time_of(seconds), now() if at == 0.0 else at)

    def put(
        self, key: Key, document: Mapping[str, Any] | None, seconds: int = 5, read: PendingRead | None = None
    ) -> None:
        self.cache.put(read or PendingRead(), key, document, parse(key, document), time_of(seconds))

    def put_all(self, seconds: int = 5) -> "Cached":
        documents = ((SESSION_KEY, SESSION), (USER_KEY, USER), (SUBMISSION_KEY, SUBMISSION), (JOB_KEY, JOB))
        for key, document in documents:
            self.put(key, document, seconds)
        return self

    def status(self) -> str | None:
        """The status that the cache answers; None where it does not."""
        lookup = self.cache.lookup(KEYS)
        return None if lookup is None else str(lookup.job(1, "D1").generation_status)

    def apply(self, *events: Event) -> list[Key] | None:
        """What was concerned by the last of `events`."""
        concerned = [self.cache.apply(each) for each in events][-1]
        return None if concerned is None else list(concerned)


def now() -> float:
    return asyncio.get_running_loop().time()


# Rule 1: the cache is a prefix of the oplog, and a read names the time that it is of.


async def test_rule_1_event_not_after_the_read_is_skipped() -> None:
    cached = Cached().put_all(seconds=7)
    assert cached.apply(update(6, FINISHED), update(7, FINISHED)) == []
    assert cached.status() == "waiting"
    assert cached.apply(update(8, FINISHED)) == [JOB_KEY]
    assert cached.status() == "finished"


async def test_rule_1_two_events_of_one_transaction_are_both_applied() -> None:
    cached = Cached().put_all()
    cached.apply(update(8, {"status": "failed"}), update(8, FINISHED))
    assert cached.status() == "finished"


async def test_rule_1_older_read_does_not_replace_a_newer_one() -> None:
    cached = Cached().put_all(seconds=7)
    cached.put(JOB_KEY, {**JOB, **FINISHED}, seconds=6)
    assert cached.status() == "waiting"
    assert cached.holds.woken == [JOB_KEY]  # Whoever was given the older one checks again.


async def test_rule_1_a_newer_read_that_differs_replaces_and_wakes() -> None:
    cached = Cached().put_all()
    cached.put(JOB_KEY, {**JOB, **FINISHED}, seconds=9)
    assert (cached.status(), cached.holds.woken) == ("finished", [JOB_KEY])


async def test_rule_1_a_read_that_finds_the_same_changes_nothing() -> None:
    cached = Cached().put_all()
    cached.put(JOB_KEY, dict(JOB), seconds=20)
    assert (cached.status(), cached.holds.woken) == ("waiting", [])


# Rule 2: an update is applied by what it sets and removes; what is not certain is dropped.


@pytest.mark.parametrize(
    ("before", "event_of_it", "status"),
    [
        ({}, update(8, FINISHED), "finished"),
        ({}, update(8, {"status": "finished"}), "waiting"),
        ({"upload": {}}, update(8, {"status": "finished", "upload.status": "finished", "upload.key": "a"}), "finished"),
        (FINISHED, update(8, {}, ["upload.key"]), "failed"),
        (FINISHED, update(8, {}, ["upload"]), "waiting"),
        (FINISHED, update(8, {"message": "x" * 5}), "finished"),
        ({}, update(8, {"status": 5}), "failed"),
        ({}, event("replace", JOBS, 100, 8, fullDocument={**JOB, **FINISHED, "more": 1}), "finished"),
    ],
)
async def test_rule_2_an_event_is_applied(before: Mapping[str, Any], event_of_it: Event, status: str) -> None:
    cached = Cached().put_all()
    cached.cache.invalidate(JOB_KEY)
    cached.put(JOB_KEY, {**JOB, **before})
    cached.apply(event_of_it)
    assert cached.status() == status


def truncated(field: str) -> Event:
    made = update(8, {})
    return {**made, "updateDescription": {**made["updateDescription"], "truncatedArrays": [{"field": field}]}}


@pytest.mark.parametrize(
    "event_of_it",
    [
        update(8, {"upload.0": "a"}),
        update(8, {"upload.parts.1": "a"}),
        update(8, {"upload.missing.deep": "a"}),
        update(8, {}, ["upload.0"]),
        truncated("upload"),
        truncated("upload.parts"),
        event("delete", JOBS, 100, 8),
        update(8, {"submission_id": 2}),
        update(8, {"file_type": "E"}),
        update(8, {}, ["submission_id"]),
        event("replace", JOBS, 100, 8, fullDocument={**JOB, "file_type": "E"}),
        event("insert", JOBS, 101, 8, fullDocument={**JOB, "_id": 101, **FINISHED}),
    ],
)
async def test_rule_2_uncertain_event_drops_the_job_and_wakes(event_of_it: Event) -> None:
    cached = Cached().put_all()
    cached.cache.invalidate(JOB_KEY)
    cached.put(JOB_KEY, {**JOB, "upload": {"parts": [1, 2]}})
    keys = cached.apply(event_of_it)
    assert keys is None or JOB_KEY in keys
    assert cached.cache.documents([JOB_KEY]) == {}


@pytest.mark.parametrize(
    ("key", "stored", "change"),
    [
        (USER_KEY, {**USER, "website_admin": True}, update(8, {"website_admin": 1}, collection="users", of=11)),
        (SUBMISSION_KEY, SUBMISSION, update(8, {"user_id": True}, collection="submissions", of=1)),
        (SUBMISSION_KEY, {**SUBMISSION, "user_id": [1]}, update(8, {"user_id": [1.0]}, collection="submissions", of=1)),
        (JOB_KEY, {**JOB, "upload": {"status": True}}, update(8, {"upload": {"status": 1}})),
    ],
)
async def test_rule_2_value_of_another_type_is_a_change(key: Key, stored: Mapping[str, Any], change: Event) -> None:
    cached, after = Cached(), {**stored, **change["updateDescription"]["updatedFields"]}
    cached.put(key, stored)
    assert cached.apply(change) == [key]
    cached = Cached()
    cached.put(key, stored)
    cached.put(key, after, seconds=9)
    assert repr(cached.cache.documents([key]).get(key)) in {repr(after), "None"}


@pytest.mark.parametrize("stored_id", [None, 1.5, {"a": 1}])
async def test_rule_2_event_of_a_job_that_cannot_be_cached_wakes_all_uncached_holds(stored_id: object) -> None:
    cached = Cached().put_all()
    assert cached.apply(update(8, FINISHED, of=stored_id)) == []
    cached.cache.invalidate(JOB_KEY)
    assert cached.apply(update(8, FINISHED, of=stored_id)) == [JOB_KEY]
    assert cached.apply(event("delete", JOBS, stored_id, 9)) == [JOB_KEY]


async def test_rule_3_change_within_an_array_of_submissions_concerns_everything() -> None:
    cached = Cached()
    cached.put(JOB_KEY, {**JOB, "submission_id": [1, 2]})
    cached.put((JOBS, (3, "D1")), None)
    assert cached.apply(update(8, {"submission_id.1": 3})) is None
    assert cached.cache.documents([(JOBS, (3, "D1"))]) == {}


@pytest.mark.parametrize("fields", [{"lease": {"owner": "a"}}, {"attempts.0": 1}, {"status": "waiting"}])
async def test_rule_2_invisible_change_wakes_no_hold(fields: Mapping[str, Any]) -> None:
    cached = Cached().put_all()
    assert cached.apply(update(8, fields)) == []
    assert cached.apply(truncated("log")) == []
    assert cached.status() == "waiting"


async def test_rule_2_insert_replaces_an_absent_job() -> None:
    cached = Cached().put_all()
    cached.cache.invalidate(JOB_KEY)
    cached.put(JOB_KEY, None)
    assert cached.status() == "invalid"
    cached.apply(event("insert", JOBS, 100, 8, fullDocument=JOB))
    assert cached.status() == "waiting"
    cached.apply(update(9, FINISHED))
    assert cached.status() == "finished"


# Rule 3: a read is not cached where an event that may concern it is later than it.


@pytest.mark.parametrize(
    "event_meanwhile",
    [
        update(8, FINISHED),
        event("delete", JOBS, 100, 8),
        event("insert", JOBS, 101, 8, fullDocument={**JOB, "_id": 101}),
        update(8, {"submission_id": 1}, of=55),
        update(8, {"file_type": "D1"}, of=55),
        event("insert", JOBS, 101, 8, fullDocument={"_id": 101, "submission_id": "1", "file_type": "D1"}),
        event("drop", JOBS, None, 8),
    ],
)
async def test_rule_3_read_behind_an_event_is_not_cached(event_meanwhile: Event) -> None:
    cached = Cached()
    with cached.cache.reading() as read:
        cached.apply(event_meanwhile)
        cached.put(JOB_KEY, JOB, seconds=7, read=read)
        assert cached.cache.documents([JOB_KEY]) == {}
        assert cached.holds.woken == [JOB_KEY]
        cached.put(JOB_KEY, JOB, seconds=8, read=read)  # Of that time or later, the event is part of it.
    assert cached.cache.documents([JOB_KEY]) == {JOB_KEY: JOB}


async def test_rule_3_an_event_of_another_document_does_not_matter() -> None:
    cached = Cached()
    with cached.cache.reading() as read:
        cached.apply(update(8, FINISHED, of=55), event("delete", "users", 11, 8))
        cached.put(JOB_KEY, JOB, seconds=7, read=read)
    assert cached.cache.documents([JOB_KEY]) == {JOB_KEY: JOB}


@pytest.mark.parametrize("move", [{"submission_id": 2}, {"file_type": "D2"}, {"submission_id": 1, "file_type": "D2"}])
async def test_rule_3_a_job_that_moves_concerns_both_keys(move: Mapping[str, Any]) -> None:
    cached = Cached().put_all()
    after = (JOBS, (move.get("submission_id", 1), move.get("file_type", "D1")))
    cached.put(after if after != JOB_KEY else OTHER_KEY, None)
    assert set(cached.apply(update(8, move)) or ()) >= {JOB_KEY, after}
    assert cached.cache.documents([JOB_KEY, after]) == {}


async def test_rule_3_a_move_to_an_unknown_key_concerns_everything() -> None:
    cached = Cached().put_all()
    assert cached.apply(update(8, {"file_type": "D2"}, of=55)) is None
    assert cached.status() is None


async def test_rule_3_read_of_a_moved_job_drops_its_old_key() -> None:
    cached = Cached().put_all()
    cached.put(OTHER_KEY, {**JOB, "file_type": "D2"}, seconds=9)
    assert cached.cache.documents([JOB_KEY]) == {}
    assert cached.holds.woken == [JOB_KEY]
    assert cached.apply(update(10, FINISHED)) == [OTHER_KEY]


# Rule 4: nothing cached is answered from unless the stream has caught up.


async def test_rule_4_only_a_current_cache_answers() -> None:
    cached = Cached().put_all()
    assert cached.status() == "waiting"
    cached.freshness.stop()
    assert cached.status() is None


# Rule 5: revocation before settlement.


async def test_rule_5_job_read_ahead_of_its_access_is_not_answered() -> None:
    cached = Cached().put_all()
    cached.cache.invalidate(JOB_KEY)
    cached.put(JOB_KEY, {**JOB, **FINISHED}, seconds=12)
    assert cached.status() is None
    cached.advance(11)
    assert cached.status() is None
    cached.advance(12)
    assert cached.status() == "finished"


async def test_rule_5_access_read_ahead_of_its_job_is_answered() -> None:
    cached = Cached().put_all()
    cached.cache.invalidate(SESSION_KEY)
    cached.put(SESSION_KEY, SESSION, seconds=12)
    assert cached.status() == "waiting"


async def test_rule_5_unchanged_access_becomes_as_new_as_its_job() -> None:
    cached = Cached().put_all()
    cached.cache.invalidate(JOB_KEY)
    cached.put_all(seconds=20)
    assert cached.status() == "waiting"
    assert cached.apply(update(12, {"user_id": 99}, collection="submissions", of=1)) == []
    assert cached.apply(update(21, {"user_id": 99}, collection="submissions", of=1)) == [SUBMISSION_KEY]


async def test_rule_5_unchanged_job_keeps_the_time_of_its_first_read() -> None:
    cached = Cached().put_all()
    cached.put(JOB_KEY, JOB, seconds=20)
    assert cached.status() == "waiting"


@pytest.mark.parametrize("key", [SESSION_KEY, USER_KEY, SUBMISSION_KEY])
async def test_rule_5_every_part_of_the_access_must_be_new(key: Key) -> None:
    cached = Cached().put_all(seconds=12)
    assert cached.status() == "waiting"  # All of one time.
    document = cached.cache.documents([key])[key]
    cached.cache.invalidate(key)
    cached.put(key, document, seconds=11)
    assert cached.status() is None


def in_transaction(told: Event) -> Event:
    return {**told, "txnNumber": 1}


#: What a transaction may do to each document that an answer depends on, each by itself harmless.
IN_TRANSACTION: dict[Key, Event] = {
    JOB_KEY: in_transaction(update(12, FINISHED)),
    SESSION_KEY: in_transaction(
        update(12, {"expires_at": datetime(2100, 1, 1, tzinfo=UTC)}, collection="sessions", of=HASH)
    ),
    SUBMISSION_KEY: in_transaction(update(12, {"cgac_code": "012"}, collection="submissions", of=1)),
    USER_KEY: in_transaction(update(12, {"website_admin": True}, collection="users", of=11)),
}


@pytest.mark.parametrize("key", IN_TRANSACTION)
async def test_rule_5_part_of_a_transaction_is_not_answered(key: Key) -> None:
    cached = Cached().put_all()
    assert cached.apply(IN_TRANSACTION[key]) == [key]
    cached.freshness.advance(time_of(12), now(), time_of(13))
    assert cached.status() is None  # More events of the same transaction may come.
    cached.freshness.advance(time_of(13), now(), time_of(13))
    assert cached.status() is not None


# Rule 6: whatever a document contains.


@pytest.mark.parametrize("document_id", [1.5, {"a": 1}, None, b"1", True])
async def test_rule_6_an_event_with_a_strange_id_concerns_nothing(document_id: object) -> None:
    cached = Cached().put_all()
    for kind in ("update", "delete"):
        cached.apply({**update(8, FINISHED, of=document_id), "operationType": kind})
    cached.apply({**update(8, {}, collection="users", of=document_id)})
    assert cached.status() == "waiting"


async def test_rule_6_job_with_a_strange_id_is_not_cached() -> None:
    cached = Cached()
    cached.put(JOB_KEY, {**JOB, "_id": 1.5})
    assert cached.cache.documents([JOB_KEY]) == {}


# What is cached, and what goes.


@pytest.mark.parametrize("kind", ["drop", "rename", "dropDatabase", "invalidate", "something new"])
async def test_cache_is_cleared_by_any_other_event(kind: str) -> None:
    cached = Cached().put_all()
    assert cached.apply({"operationType": kind, "clusterTime": update(8, {})["clusterTime"]}) is None
    assert cached.cache.documents([*KEYS, USER_KEY]) == {}
    assert cached.apply(update(9, FINISHED)) == []  # Nothing is known of job 100.


@pytest.mark.parametrize(
    ("key", "change"),
    [
        (SESSION_KEY, event("delete", "sessions", HASH, 8)),
        (USER_KEY, event("delete", "users", 11.0, 8)),
        (SUBMISSION_KEY, event("delete", "submissions", 1, 8)),
        (SESSION_KEY, update(8, {"user_id": "11"}, collection="sessions", of=HASH)),
    ],
)
async def test_cache_drops_deleted_or_invalid_access_documents(key: Key, change: Event) -> None:
    cached = Cached().put_all()
    assert cached.apply(change) == [key]
    assert cached.status() is None


async def test_cache_applies_updates_to_access_documents() -> None:
    cached = Cached().put_all()
    cached.apply(update(8, {"website_admin": True}, collection="users", of=11))
    lookup = cached.cache.lookup(KEYS)
    assert lookup is not None
    user = lookup.user(11)
    assert user is not None
    assert user.website_admin


async def test_cache_keeps_no_session_that_does_not_exist() -> None:
    cached = Cached()
    cached.put(SESSION_KEY, None)
    assert cached.cache.documents([SESSION_KEY]) == {}


async def test_cache_wakes_the_holds_of_an_evicted_document() -> None:
    cached = Cached(size=2)
    for number in (1, 2, 3):
        cached.put((JOBS, (number, "D1")), {**JOB, "_id": number, "submission_id": number})
    assert cached.holds.woken == [(JOBS, (1, "D1"))]
    assert cached.apply(update(8, FINISHED, of=1)) == []
    assert cached.apply(update(8, FINISHED, of=3)) == [(JOBS, (3, "D1"))]


async def test_cache_counts_hits_and_misses() -> None:
    cached = Cached().put_all()
    cached.status()
    cached.cache.invalidate(SUBMISSION_KEY)
    cached.status()
    counted = {collection: (hits, misses) for collection, hits, misses in cached.cache.hits_and_misses()}
    assert counted["submissions"] == (1, 1)
    assert counted["users"] == (1, 0)
    cached.status()
    cached.freshness.stop()
    cached.status()
    cached.status()
    counted = {collection: (hits, misses) for collection, hits, misses in cached.cache.hits_and_misses()}
    assert counted == {"sessions": (3, 2), "submissions": (1, 2), "users": (1, 0), "jobs": (1, 0)}


async def test_cache_that_drops_a_job_forgets_its_id() -> None:
    cached = Cached().put_all()
    cached.cache.invalidate(OTHER_KEY)  # There is nothing.
    cached.cache.invalidate(JOB_KEY)
    assert cached.apply(update(8, FINISHED)) == []


async def test_cache_wakes_for_a_change_to_an_uncached_document() -> None:
    assert Cached().apply(update(8, {"user_id": 12}, collection="submissions", of=1)) == [SUBMISSION_KEY]


async def test_cache_keeps_a_session_that_is_prolonged() -> None:
    cached = Cached().put_all()
    moment = datetime(2100, 1, 1, tzinfo=UTC)
    assert cached.apply(update(8, {"expires_at": moment}, collection="sessions", of=HASH)) == [SESSION_KEY]
    session = cached.cache.documents([SESSION_KEY])[SESSION_KEY]
    assert session is not None
    assert session["expires_at"] == moment


async def test_cache_reports_both_keys_of_a_replaced_job() -> None:
    cached = Cached().put_all()
    moved = event("replace", "jobs", 100, 8, fullDocument={**JOB, "file_type": "D2"})
    assert set(cached.apply(moved) or ()) == {JOB_KEY, OTHER_KEY}
    assert cached.cache.documents([JOB_KEY]) == {}


async def test_cache_keeps_no_job_that_is_inserted_with_a_strange_id() -> None:
    cached = Cached()
    cached.put(JOB_KEY, None)
    inserted = event("insert", "jobs", 1.5, 8, fullDocument={**JOB, "_id": 1.5})
    assert cached.apply(inserted) == [JOB_KEY]
    assert cached.cache.documents([JOB_KEY]) == {}


async def test_cache_keeps_no_read_that_a_drop_event_overtook() -> None:
    cached = Cached()
    with cached.cache.reading() as read:
        assert cached.apply({"operationType": "drop", "clusterTime": update(8, {})["clusterTime"]}) is None
    cached.put(JOB_KEY, JOB, seconds=7, read=read)
    assert cached.cache.documents([JOB_KEY]) == {}


async def test_cache_gives_the_jobs_among_keys() -> None:
    cached = Cached().put_all()
    [job] = cached.cache.jobs([JOB_KEY, SESSION_KEY, OTHER_KEY])
    assert job.generation_status is GenerationStatus.WAITING
