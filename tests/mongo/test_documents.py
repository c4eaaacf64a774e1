"""Documents by key, from a MongoDB whose replies the test makes up: splitting, trying again, strange documents."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import structlog
from bson.code import Code
from bson.decimal128 import Decimal128
from bson.errors import InvalidBSON
from bson.int64 import Int64
from pymongo.errors import AutoReconnect, OperationFailure, ServerSelectionTimeoutError

from genstatus_server.hold.holds import HoldRegistry
from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.model.jobs import GenerationStatus
from genstatus_server.mongo import documents
from genstatus_server.mongo.cache import DocumentCache
from genstatus_server.mongo.client import READ_MS, Reply
from genstatus_server.mongo.documents import DocumentReader, Documents
from genstatus_server.mongo.freshness import Freshness
from genstatus_server.mongo.queries import FIELDS, JOBS, SESSIONS, SUBMISSIONS, USERS, Key, is_found_by
from genstatus_server.telemetry import log
from genstatus_server.telemetry.metrics import Metrics
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
    time_of,
    update,
)

pytestmark = pytest.mark.skips_time

Document = Mapping[str, Any]
ALL = (SESSION_KEY, SUBMISSION_KEY, JOB_KEY)
TOO_LARGE = OperationFailure("BSONObj size is invalid", 10334)


class MongoDB:
    """Stands for the connection: finds what lies in `stored`, at second `now`, after raising what is in `errors`.

    `unreadable` says of a document whether it alone makes a reply fail; one reply holds `room` documents.
    """

    def __init__(self, *stored: tuple[str, Document]) -> None:
        self.stored = list(stored)
        self.now = 10
        self.errors: list[Exception] = []
        self.reads: list[int] = []
        self.renewed = 0
        self.room = 1000
        self.unreadable: Callable[[Document], bool] = lambda _: False
        self.error_of_document: Exception = InvalidBSON("a string that is none")
        self.before_answering: Callable[[], object] = lambda: None

    def renew(self) -> None:
        self.renewed += 1

    async def snapshot_read(self, collection: str, pipeline: Sequence[Document]) -> Reply:
        if self.errors:
            raise self.errors.pop(0)
        parts = [(collection, pipeline[0]["$match"])]
        parts += [
            (each["$unionWith"]["coll"], each["$unionWith"]["pipeline"][0]["$match"])
            for each in pipeline
            if "$unionWith" in each
        ]
        found = [self._with_user(coll, document) for coll, match in parts for document in self._matching(coll, match)]
        self.reads.append(len(found))
        if any(map(self.unreadable, found)):
            raise self.error_of_document
        reply = Reply([dict(each) for each in found[: self.room]], time_of(self.now), len(found) <= self.room)
        self.before_answering()
        return reply

    def _matching(self, collection: str, match: Document) -> list[Document]:
        def is_in(value: object, wanted: Sequence[object]) -> bool:
            values = value if isinstance(value, list) else [value]
            return any(int(str(v)) in wanted if isinstance(v, Decimal128) else v in wanted for v in values)

        return [
            document
            for coll, document in self.stored
            if coll == collection and all(is_in(document.get(name), value["$in"]) for name, value in match.items())
        ]

    def _with_user(self, collection: str, document: Document) -> Document:
        users = [user for coll, user in self.stored if coll == USERS and user["_id"] == document.get("user_id")]
        return {**document, "_collection": collection} | ({"_user": users} if collection == SESSIONS else {})


class Reading:
    """The documents of that MongoDB, behind a change stream that stands at second 10."""

    def __init__(self, *stored: tuple[str, Document]) -> None:
        self.mongodb, self.freshness, self.holds = MongoDB(*stored), Freshness(), HoldRegistry[Key]()
        connection: Any = self.mongodb
        self.metrics = Metrics()
        self.reader = DocumentReader(connection, self.freshness, self.metrics)
        self.documents = Documents(self.reader, DocumentCache(100, self.freshness, self.holds), self.holds)
        self.freshness.start(time_of(10), now())

    async def read(self, *keys: Key, seconds: float = 60) -> Any:
        return await self.documents.get(keys, now() + seconds)


def now() -> float:
    return asyncio.get_running_loop().time()


def everything() -> Reading:
    return Reading((SESSIONS, SESSION), (USERS, USER), (SUBMISSIONS, SUBMISSION), (JOBS, JOB))


def jobs(count: int, **fields: Any) -> list[tuple[str, Document]]:
    return [(JOBS, {**JOB, "_id": number, "submission_id": number, **fields}) for number in range(1, count + 1)]


def keys_of(count: int) -> list[Key]:
    return [(JOBS, (number, "D1")) for number in range(1, count + 1)]


@pytest.fixture(autouse=True)
def records() -> Any:
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_FIRST_PAUSE", 0.0001)


async def test_documents_reads_a_request_in_one_query_and_caches_it() -> None:
    reading = everything()
    for _ in range(2):
        lookup = await reading.read(*ALL)
        assert lookup.session(HASH).user_id == lookup.user(11).user_id == lookup.submission(1).user_id == 11
        assert lookup.job(1, "D1").generation_status is GenerationStatus.WAITING
    assert len(reading.mongodb.reads) == 1


async def test_documents_that_do_not_exist_are_absent() -> None:
    reading = Reading((SESSIONS, SESSION))
    lookup = await reading.read(*ALL)
    assert (lookup.user(11), lookup.submission(1)) == (None, None)
    assert lookup.job(1, "D1").job_id is None


async def test_documents_are_read_while_the_stream_is_behind() -> None:
    reading = everything()
    reading.freshness.stop()
    for _ in range(2):
        await reading.read(*ALL)
    assert len(reading.mongodb.reads) == 2


async def test_documents_of_a_whole_double_are_those_of_the_integer() -> None:
    job = {**JOB, "_id": 100.0, "submission_id": 1.0}
    reading = Reading((SESSIONS, {**SESSION, "user_id": 11.0}), (USERS, {"_id": 11.0}), (JOBS, job))
    lookup = await reading.read(SESSION_KEY, JOB_KEY)
    assert lookup.user(11).user_id == 11
    assert lookup.job(1, "D1").job_id == 100


@pytest.mark.parametrize("room", [1, 3, 8])
async def test_reader_splits_what_does_not_fit_into_one_reply(room: int) -> None:
    reading = Reading(*jobs(20))
    reading.mongodb.room = room
    lookup = await reading.read(*keys_of(20))
    assert [lookup.job(number, "D1").job_id for number in range(1, 21)] == list(range(1, 21))


@pytest.mark.parametrize("error", [InvalidBSON("no string"), TOO_LARGE, KeyError("a defect"), ValueError()])
async def test_reader_reads_the_others_when_one_document_is_unreadable(error: Exception, records: list[Any]) -> None:
    reading = Reading(*jobs(20))
    reading.mongodb.unreadable = lambda document: document["_id"] == 7
    reading.mongodb.error_of_document = error
    lookup = await reading.read(*keys_of(20))
    found = [lookup.job(number, "D1").job_id for number in range(1, 21)]
    assert found == [None if number == 7 else number for number in range(1, 21)]
    warning = {"event": "document_unreadable", "log_level": "warning", "collection": JOBS}
    assert records == [{**warning, "cause": log.cause(reading.mongodb.error_of_document)}]


async def test_reader_reads_jobs_before_their_access() -> None:
    reading = everything()
    times = iter((11, 12, 13, 14, 15, 16, 17))

    def advance() -> None:
        reading.mongodb.now = next(times)

    reading.mongodb.room, reading.mongodb.before_answering = 1, advance
    found = await reading.reader.read(ALL)
    assert found[JOB_KEY][1] < found[SUBMISSION_KEY][1] < found[SESSION_KEY][1]
    assert found[SESSION_KEY][1] == found[USER_KEY][1]


@pytest.mark.parametrize(
    "error",
    [
        OperationFailure("no snapshot yet", 246),
        OperationFailure("no snapshot any more", 239),
        OperationFailure("the collection was dropped", 26),
        OperationFailure("the collection was dropped during the query", 175),
        OperationFailure("logged out", 13),
        OperationFailure("no such user", 18),
        ServerSelectionTimeoutError("127.0.0.1:1: Authentication failed., Timeout: 2.0s"),
        AutoReconnect("the primary has stepped down"),
    ],
)
async def test_reader_retries_temporary_errors(error: Exception) -> None:
    reading = everything()
    reading.mongodb.errors = [error] * 3
    assert (await reading.read(*ALL)).submission(1)
    is_logged_out = getattr(error, "code", 0) in {13, 18} or "Authentication" in str(error)
    assert reading.mongodb.renewed == (3 if is_logged_out else 0)


@pytest.mark.parametrize("error", [OperationFailure("no", 1), ServerSelectionTimeoutError("nobody there")])
async def test_reader_does_not_retry_other_errors(error: Exception) -> None:
    reading = everything()
    reading.mongodb.errors = [error]
    with pytest.raises(ServiceUnavailable) as raised:
        await reading.read(*ALL)
    assert raised.value.__cause__ is error


async def test_reader_gives_up_on_a_lasting_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "READ_MS", 50)
    reading = everything()
    reading.mongodb.errors = [OperationFailure("no snapshot yet", 246)] * 1000
    with pytest.raises(ServiceUnavailable):
        await reading.read(*ALL)
    assert len(reading.mongodb.errors) > 900


async def test_reader_doubles_its_pause_and_ends_within_the_time_of_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_FIRST_PAUSE", 0.01)
    pauses: list[float] = []
    reading, loop = everything(), asyncio.get_running_loop()
    sleep, began = asyncio.sleep, loop.time()

    async def pass_time(seconds: float) -> None:
        pauses.append(seconds)
        monkeypatch.setattr(loop, "time", lambda: began + sum(pauses))
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pass_time)
    reading.mongodb.errors = [OperationFailure("no snapshot yet", 246)] * 1000
    with pytest.raises(ServiceUnavailable):
        await reading.reader.read(ALL)
    assert pauses == pytest.approx([0.01 * 2**number for number in range(7)])
    assert sum(pauses) + pauses[-1] * 2 > READ_MS / 1000 > sum(pauses)


async def test_reader_says_that_a_primary_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "READ_MS", 0)
    reading = everything()
    reading.mongodb.now = 9
    with pytest.raises(ServiceUnavailable) as raised:
        await reading.reader.read(ALL)
    assert log.cause(raised.value) == "ConnectionError: the primary has not yet what the change stream has delivered"


async def test_reader_counts_the_queries_of_each_collection() -> None:
    reading = everything()
    await reading.read(*ALL, (JOBS, (1, "E")))
    reading.documents.cache.clear()
    await reading.read(JOB_KEY)
    reads = {
        name: reading.metrics.registry.get_sample_value("genstatus_mongodb_reads_total", {"collection": name})
        for name in FIELDS
    }
    assert reads == {JOBS: 2, SUBMISSIONS: 1, SESSIONS: 1, USERS: None}


async def test_reader_retries_a_read_older_than_the_change_stream() -> None:
    reading = everything()
    reading.mongodb.now = 9

    def catch_up() -> None:
        reading.mongodb.now += len(reading.mongodb.reads) // 3
        reading.mongodb.stored = [(JOBS, {**JOB, **FINISHED}) if coll == JOBS else (coll, d) for coll, d in stored]

    stored, reading.mongodb.before_answering = reading.mongodb.stored, catch_up
    assert (await reading.read(*ALL)).job(1, "D1").generation_status is GenerationStatus.FINISHED
    assert len(reading.mongodb.reads) == 4


async def test_reader_accepts_a_standalone_without_cluster_time() -> None:
    reading = Reading((JOBS, JOB))
    reading.freshness.stop()
    reading.mongodb.now = 0
    assert time_of(0) == 1  # Not yet 0, which is no time.
    reading.mongodb.before_answering = lambda: None
    original = reading.mongodb.snapshot_read

    async def without_time(collection: str, pipeline: Sequence[Document]) -> Reply:
        return (await original(collection, pipeline))._replace(time=0)

    reading.mongodb.snapshot_read = without_time  # type: ignore[method-assign]
    assert (await reading.read(JOB_KEY)).job(1, "D1").job_id == 100


@pytest.mark.parametrize(
    "strange",
    [{"submission_id": Decimal128("1")}, {"submission_id": [1, 2]}, {"file_type": ["D1"]}],
    ids=["decimal", "array", "types"],
)
async def test_reader_matches_a_job_without_a_plain_key(strange: Document) -> None:
    reading = Reading((JOBS, {**JOB, **strange}), *jobs(5)[1:])
    lookup = await reading.read(*keys_of(5), (JOBS, (9, "D1")))
    assert lookup.job(1, "D1").generation_status is GenerationStatus.FAILED
    assert [lookup.job(number, "D1").job_id for number in range(2, 6)] == [2, 3, 4, 5]
    assert lookup.job(9, "D1").job_id is None
    assert len(reading.mongodb.reads) == 1


@pytest.mark.parametrize(
    ("submission_id", "is_found"),
    [
        (1, True),
        (1.0, True),
        (Int64(1), True),
        (Decimal128("1.0"), True),
        ([2, 1], True),
        ([[1]], False),
        (Decimal128("sNaN"), False),
        (True, False),
        ("1", False),
        ({"a": 1}, False),
        (None, False),
    ],
)
def test_is_found_by_compares_as_mongodb_does(submission_id: object, *, is_found: bool) -> None:
    assert is_found_by({"submission_id": submission_id, "file_type": "D1"}, JOB_KEY) is is_found
    assert not is_found_by({"submission_id": submission_id, "file_type": Code("D1")}, JOB_KEY)


@pytest.mark.parametrize("document_id", [Decimal128("1"), [1], {"a": 1}])
async def test_reader_takes_a_document_with_a_strange_id_for_absent(document_id: object, records: list[Any]) -> None:
    stored = [(SUBMISSIONS, {**SUBMISSION, "_id": document_id}), (SESSIONS, SESSION)]
    reading = Reading(*stored)
    assert (await reading.read(SESSION_KEY, SUBMISSION_KEY)).submission(1) is None
    warning = {"event": "document_malformed", "log_level": "warning", "collection": SUBMISSIONS}
    expected = [] if document_id == {"a": 1} else [{**warning, "cause": "its _id is no text or whole number"}]
    assert records == expected


async def test_reader_takes_a_user_with_a_strange_id_for_absent(records: list[Any]) -> None:
    session = {**SESSION, "user_id": Decimal128("11")}
    reading = Reading((SESSIONS, session), (USERS, {**USER, "_id": Decimal128("11")}))
    assert (await reading.read(SESSION_KEY)).session(HASH) is None
    assert "document_malformed" in [each["event"] for each in records]


async def test_reader_keeps_the_first_of_two_jobs_with_one_key() -> None:
    reading = Reading((JOBS, JOB), (JOBS, {**JOB, **FINISHED, "_id": 101}))
    assert (await reading.read(JOB_KEY)).job(1, "D1").job_id == 100


async def test_documents_read_again_wakes_the_holds_of_changed_documents() -> None:
    reading = everything()
    await reading.read(*ALL)
    reading.mongodb.stored[-1] = (JOBS, {**JOB, **FINISHED})
    reading.mongodb.now = 11
    with reading.holds.hold((JOB_KEY,)) as waiting, reading.holds.hold((SUBMISSION_KEY, USER_KEY)) as other:
        await reading.documents.read_again([*ALL, USER_KEY])
    assert (waiting.woken, other.woken) == (True, False)


async def test_documents_read_again_wakes_where_the_user_of_a_session_is_gone() -> None:
    reading = everything()
    await reading.read(*ALL)
    reading.mongodb.stored.remove((USERS, USER))
    with reading.holds.hold((*ALL, USER_KEY)) as waiting:
        await reading.documents.read_again([*ALL, USER_KEY])
    assert waiting.woken
    cached = reading.documents.cache.lookup(ALL)
    assert cached is not None
    assert cached.user(USER_KEY[1]) is None


async def test_documents_never_cached_wake_when_read_again() -> None:
    reading = everything()
    with reading.holds.hold((JOB_KEY,)) as waiting:
        await reading.documents.read_again([JOB_KEY])
    assert waiting.woken


@pytest.mark.parametrize("restart", [False, True])
async def test_documents_restart_drops_documents_without_holds(*, restart: bool) -> None:
    reading = everything()
    await reading.read(*ALL)
    await reading.documents.read_again([JOB_KEY], restart=restart)
    assert (reading.documents.cache.lookup(ALL) is None) is restart


async def test_documents_read_again_reads_nothing_without_holds() -> None:
    reading = everything()
    await reading.documents.read_again([], restart=True)
    assert not reading.mongodb.reads


async def test_documents_changed_while_read_are_returned_but_not_cached() -> None:
    reading = everything()
    reading.mongodb.before_answering = lambda: reading.documents.cache.apply(update(11, FINISHED))
    with reading.holds.hold((JOB_KEY,)) as waiting:
        assert (await reading.read(*ALL)).job(1, "D1").generation_status is GenerationStatus.WAITING
    assert waiting.woken
    assert reading.documents.cache.lookup(ALL) is None


async def test_documents_close_ends_the_reads_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_FIRST_PAUSE", 1)
    reading = everything()
    reading.mongodb.errors = [OperationFailure("no snapshot yet", 246)] * 10
    load = asyncio.ensure_future(reading.read(*ALL))
    while len(reading.mongodb.errors) == 10:  # noqa: ASYNC110 - the loop's turns are what is waited for.
        await asyncio.sleep(0)
    await reading.documents.close()
    with pytest.raises(ServiceUnavailable):
        await load


async def test_documents_read_again_wakes_for_what_was_missed_before_a_restart() -> None:
    reading = everything()
    await reading.read(*ALL)
    reading.mongodb.stored[-1] = (JOBS, {**JOB, **FINISHED})
    with reading.holds.hold((JOB_KEY,)) as waiting, reading.holds.hold((SUBMISSION_KEY,)) as other:
        await reading.documents.read_again([*ALL, USER_KEY], restart=True)
    assert (waiting.woken, other.woken) == (True, False)


async def test_documents_read_again_keeps_the_cache_unless_it_restarts() -> None:
    reading = everything()
    await reading.read(*ALL)
    await reading.documents.read_again([JOB_KEY])
    assert reading.documents.cache.lookup(ALL) is not None
    reads = len(reading.mongodb.reads)
    await reading.documents.read_again([SESSION_KEY, USER_KEY], restart=True)
    assert reading.documents.cache.lookup(ALL) is None
    assert reading.documents.cache.lookup([SESSION_KEY]) is not None
    assert reading.mongodb.reads[reads:] == [1]  # The user comes with its session.
