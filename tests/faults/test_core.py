"""What MongoDB, its operators and its documents do to the cache and to the change stream that advances it."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from pymongo import WriteConcern

from tests.faults.conftest import Serve
from tests.faults.scale import FULL, Figures, scaled
from tests.faults.serving import Served
from tests.support.holds import Holds, counted, holding, poll, question
from tests.support.processes import wait_until
from tests.support.replica_set import ReplicaSet
from tests.support.scene import TOKEN, USER, Scene, finished, scene
from tests.support.secured import PASSWORD, SecuredMongoDB, secured_mongodb
from tests.support.valve import Valve, running_valve
from tests.support.world import token_hash

SEEN = "genstatus_change_stream_lag_seconds_count"
FINISHED = (200, "finished", "settled")
INVALID = (200, "invalid", "settled")


@contextmanager
def held(served: Served, numbers: Sequence[int]) -> Iterator[Holds]:
    """A hold on each of these jobs that has checked."""
    with holding(served.url, [question(number) for number in numbers], TOKEN) as holds:
        holds.wait_sent()
        served.wait_looked(numbers)
        yield holds


def wait_seen(served: Served, events: float) -> None:
    """Wait until the server has applied so many events."""
    wait_until(lambda: served.metrics()[SEEN] >= events, f"{events} events")


# The server's own user in MongoDB


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredMongoDB]:
    with secured_mongodb(tmp_path_factory.mktemp("secured")) as running:
        yield running


@pytest.mark.parametrize("seconds", [0.1, 4])
@pytest.mark.parametrize("taken", ["user", "role"])
def test_server_whose_user_is_gone_for_a_while_misses_nothing(
    secured: SecuredMongoDB, serve: Serve, figures: Figures, taken: str, seconds: float
) -> None:
    role = {"role": "read", "db": "core"}
    with secured.client("root") as root, scene(secured.uri("root"), "core") as made:
        made.prepare(range(1, 21))
        users = root["core"]
        users.command("createUser", "server", pwd=PASSWORD, roles=[role])
        try:
            with serve(secured.uri("server", "core"), "core") as served:
                served.wait_ready()
                with held(served, range(1, 21)) as holds:
                    if taken == "user":
                        users.command("dropUser", "server")
                    else:
                        users.command("revokeRolesFromUser", "server", roles=[role])
                    made.finish(range(1, 11))
                    time.sleep(seconds)  # For so long nobody may read.
                    if taken == "user":
                        users.command("createUser", "server", pwd=PASSWORD, roles=[role])
                    else:
                        users.command("grantRolesToUser", "server", roles=[role])
                    began = time.time()
                    wait_until(lambda: served.check(11)[0] == 200, "requests are answered")
                    served.wait_ready()
                    figures.within(f"from the {taken}'s return to being ready", time.time() - began, 10)
                    made.finish(range(11, 21))
                    assert counted(holds.results(), "status", "generation", "result") == {FINISHED: 20}
                assert not served.server.records("change_stream_defect")
        finally:
            users.command("dropUser", "server")


# A stream that has much to read


def test_server_that_was_stopped_while_others_wrote_is_ready_again(
    set_of_one: ReplicaSet, serve: Serve, figures: Figures
) -> None:
    with scene(set_of_one.uri, "core") as made, serve(set_of_one.uri, made.name) as served:
        made.client.admin.command("replSetResizeOplog", 1, size=2000.0)  # Megabytes: nothing of it is lost.
        made.prepare(range(1, 21))
        served.wait_ready()
        with held(served, range(1, 21)) as holds:
            served.server.process.send_signal(signal.SIGSTOP)
            made.finish(range(1, 11))
            written = write_elsewhere(made, 1_800_000 if FULL else 10_000_000, seconds=scaled(4, 600))
            made.finish(range(11, 21))
            served.server.process.send_signal(signal.SIGCONT)
            began = time.time()
            wait_until(lambda: served.readyz()[0] == 200, "ready")
            answers = holds.results()
        figures.note("documents that others wrote meanwhile", written)
        figures.within("from being continued to the last answer", max(a["at"] for a in answers) - began, 20)
        assert counted(answers, "status", "generation", "result") == {FINISHED: 20}
        wait_until(lambda: served.readyz()[0] == 200, "ready")
        figures.within("from being continued to being ready", time.time() - began, 20)


def write_elsewhere(made: Scene, count: int, seconds: float) -> int:
    """Write so many small documents into another database, or as many as fit into the time. Gives how many."""
    elsewhere = made.client.get_database("elsewhere", write_concern=WriteConcern(1))["small"]
    until, written = time.monotonic() + seconds, 0
    while written < count and time.monotonic() < until:
        elsewhere.insert_many([{} for _ in range(10_000)], ordered=False)
        written += 10_000
    return written


def test_stream_that_never_catches_up_behind_its_token_begins_anew(
    set_of_one: ReplicaSet, valve: Valve, serve: Serve, figures: Figures
) -> None:
    """Each attempt behind the token ends at the socket's time limit, as where there is too much to scan."""
    with scene(set_of_one.uri, "core") as made, serve(valve.uri, made.name) as served:
        made.prepare(range(1, 21))
        served.wait_ready()
        with held(served, range(1, 21)) as holds:
            valve.stream_mark = b"After"  # What a request to go on behind a token says, and no other.
            valve.is_shut_for_streams = True
            kill_cursors(made)
            began = time.time()
            wait_until(lambda: served.readyz()[0] == 503, "it is noticed")
            wait_until(lambda: served.readyz()[0] == 200, "ready")
            figures.within("from the end of the stream to being ready", time.time() - began, 20)
            made.finish(range(1, 21))
            assert counted(holds.results(), "status", "generation", "result") == {FINISHED: 20}
        assert not served.server.records("change_stream_open")[-1]["resumed"]


def kill_cursors(made: Scene) -> None:
    """Have MongoDB forget the change streams on this database."""
    operations = {"$currentOp": {"allUsers": True, "idleCursors": True}}
    for each in made.client.admin.aggregate([operations, {"$match": {"ns": f"{made.name}.$cmd.aggregate"}}]):
        if "cursor" in each:
            made.database.command("killCursors", "$cmd.aggregate", cursors=[each["cursor"]["cursorId"]])


def test_answers_lag_a_large_update_by_two_seconds_at_most(
    set_of_one: ReplicaSet, serve: Serve, figures: Figures
) -> None:
    count = scaled(8_000, 80_000)
    with scene(set_of_one.uri, "core") as made, serve(set_of_one.uri, made.name) as served:
        made.client.admin.command("replSetResizeOplog", 1, size=2000.0)
        made.prepare([1, 2])
        made.log_in("another")
        many = [{"submission_id": Int64(number), "file_type": "E", "message": "x" * 2000} for number in range(count)]
        made.database["jobs"].insert_many(many)
        served.wait_ready()
        wait_until(lambda: served.check(1)[2].get("status") == "waiting", "it is cached")
        assert served.check(2, "another")[0] == 200
        made.database["jobs"].update_many({"file_type": "E"}, {"$set": {"message": "y" * 2000, "status": "waiting"}})
        made.set_jobs([1], status="failed")
        made.log_out("another")
        began = time.time()
        wait_until(lambda: served.check(1)[2].get("status") == "failed", "the job's state")
        figures.within("until the job's new state is answered", time.time() - began, 2)
        wait_until(lambda: served.check(2, "another")[0] == 401, "the end of the session")
        figures.within("until the session that was ended is refused", time.time() - began, 2)


def test_transaction_that_ends_access_is_answered_as_one(on_one: Scene, mongodb_uri: str, serve: Serve) -> None:
    """Its events do not fit into one answer of the change stream: the first one ends before the end of the access."""
    others = range(2, 20)
    on_one.prepare([1, *others])
    on_one.log_in("another")
    with serve(mongodb_uri, on_one.name) as served:
        served.wait_ready()
        with holding(served.url, [question(1)], "another") as holds:
            holds.wait_sent()
            served.wait_looked([1])
            with on_one.client.start_session() as session, session.start_transaction():
                jobs = on_one.database["jobs"]
                jobs.update_one({"_id": 1}, [{"$set": finished("$_id")}], session=session)
                for number in others:
                    jobs.update_one({"_id": number}, {"$set": {"message": "x" * 1_000_000}}, session=session)
                sessions = on_one.database["sessions"]
                sessions.delete_one({"_id": token_hash("another")}, session=session)
            (answer,) = holds.results()
        assert answer["status"] == 401
        wait_until(lambda: served.check(1)[2]["status"] == "finished", "its state is answered to others")


@pytest.mark.parametrize("milliseconds", [300, 900])
def test_stream_ignores_the_time_limit_of_the_uri(
    mongodb_uri: str, on_one: Scene, serve: Serve, milliseconds: int
) -> None:
    on_one.prepare([1])
    with serve(f"{mongodb_uri}&timeoutMS={milliseconds}", on_one.name) as served:
        served.wait_ready()
        with held(served, [1]) as holds:
            time.sleep(3)  # Several heartbeats, which the limit would have ended.
            on_one.finish([1])
            assert counted(holds.results(), "status", "generation", "result") == {FINISHED: 1}
        assert len(served.server.records("change_stream_open")) == 1
        assert not served.server.records("change_stream_down")


# Jobs that change while they are read


@pytest.fixture
def valve(set_of_one: ReplicaSet) -> Iterator[Valve]:
    with running_valve(set_of_one.nodes[0]) as made:
        yield made


def move(change: Any) -> Callable[[Scene], object]:
    return lambda made: made.database["jobs"].update_one({"_id": 1}, change)


def make_again(made: Scene) -> None:
    """The job is deleted and made again under another `_id`, by somebody who has finished it at once."""
    with made.client.start_session() as session, session.start_transaction():
        made.database["jobs"].delete_one({"_id": 1}, session=session)
        job = {"_id": 77, "submission_id": 1, "file_type": "D1", **finished("1"), "updated_at": None}
        job["upload"] = {"status": "finished", "key": "1/D1.csv"}
        made.database["jobs"].insert_one(job, session=session)


def rename_over(made: Scene) -> None:
    """Another collection takes the place of the jobs."""
    made.database["other"].insert_one({"submission_id": 1, "file_type": "D1", "status": "failed", "_id": 5})
    made.database["other"].rename("jobs", dropTarget=True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (move({"$set": {"submission_id": 2}}), "invalid"),
        (move({"$set": {"file_type": "E"}}), "invalid"),
        (move([{"$set": {"submission_id": {"$add": ["$submission_id", 1]}}}]), "invalid"),
        (move([{"$set": {"file_type": {"$concat": ["", "F"]}}}]), "invalid"),
        (move({"$unset": {"submission_id": 1}}), "invalid"),
        (lambda made: made.database["jobs"].delete_one({"_id": 1}), "invalid"),
        (make_again, "finished"),
        (rename_over, "failed"),
    ],
    ids=[
        "submission",
        "type",
        "submission by pipeline",
        "type by pipeline",
        "no submission",
        "gone",
        "again",
        "rename",
    ],
)
def test_job_changed_during_the_first_read_ends_the_hold(
    set_of_one: ReplicaSet,
    valve: Valve,
    serve: Serve,
    figures: Figures,
    change: Callable[[Scene], object],
    expected: str,
) -> None:
    with scene(set_of_one.uri, "core") as made, serve(valve.uri, made.name) as served:
        made.prepare([1, 3])
        made.database["submissions"].insert_one({"_id": 2, "user_id": USER})
        served.wait_ready()
        assert served.check(3)[0] == 200  # Who is logged in is cached.
        before = served.metrics()[SEEN]
        valve.keeps_back = b"file_type"
        with holding(served.url, [question(1)], TOKEN) as holds:
            wait_until(lambda: valve.kept_back, "the read is under way")
            change(made)
            is_seen = time.monotonic() + 1
            wait_until(lambda: served.metrics()[SEEN] > before or time.monotonic() > is_seen, "the event")
            valve.keeps_back = None
            began = time.time()
            (answer,) = holds.results_once_sent()
        assert (answer["status"], answer["generation"], answer["result"]) == (200, expected, "settled")
        figures.within("from the end of the read to the answer", answer["at"] - began, 1)
        assert served.check(1)[2]["status"] == expected
        assert not served.server.records("change_stream_defect")


def test_two_jobs_of_one_key_are_answered_as_read(on_one: Scene, mongodb_uri: str, serve: Serve) -> None:
    """Without the unique index. Whatever happens to either, the cache answers as a read would."""
    on_one.prepare([1, 2])
    jobs = on_one.database["jobs"]
    jobs.drop_indexes()
    with serve(mongodb_uri, on_one.name) as served:
        served.wait_ready()
        with held(served, [1]) as holds:
            jobs.insert_one({"_id": 50, "submission_id": 1, "file_type": "D1", "status": "running"})
            jobs.update_one({"_id": 50}, {"$set": {"status": "failed"}})
            assert served.check(1)[2]["job_id"] == 1
            jobs.delete_one({"_id": 1})
            (answer,) = holds.results()
        assert (answer["generation"], answer["job_id"]) == ("failed", 50)
        jobs.update_one({"_id": 50}, {"$set": {"status": "waiting"}})
        wait_until(lambda: served.check(1)[2]["status"] == "waiting", "the other one's state")


# Documents that make no sense


def test_recovery_survives_malformed_documents(set_of_one: ReplicaSet, serve: Serve, figures: Figures) -> None:
    (node,) = set_of_one.nodes
    with scene(set_of_one.uri, "core") as made, running_valve(node) as valve, serve(valve.uri, made.name) as served:
        made.prepare(range(1, 11))
        served.wait_ready()
        with held(served, range(1, 11)) as holds:
            valve.is_shut = True  # So it finds these by its recovery, and not by events.
            with made.client.start_session() as session, session.start_transaction():
                submissions = made.database["submissions"]
                submissions.delete_one({"_id": 1}, session=session)
                submissions.insert_one({"_id": Decimal128("1"), "user_id": USER}, session=session)
            made.set_jobs([2], submission_id=Decimal128("2"))
            made.set_jobs([3], status={"$numberLong": "x"}, upload=[[]], size="x" * 100)
            node.kill()
            time.sleep(4)
            node.start()
            set_of_one.wait_primary()
            valve.is_shut = False
            began = time.time()
            served.wait_ready()
            figures.within("from MongoDB's return to being ready", time.time() - began, 10)
            made.finish(range(4, 11))
            answers = {int(a["path"].partition("submission_id=")[2].partition("&")[0]): a for a in holds.results()}
        assert answers[1]["status"] == 400
        assert [answers[number]["generation"] for number in (2, 3)] == ["failed"] * 2
        assert {answers[number]["generation"] for number in range(4, 11)} == {"finished"}
        assert not served.server.records("change_stream_defect")


def test_documents_without_a_plain_id_disturb_no_other_request(on_one: Scene, mongodb_uri: str, serve: Serve) -> None:
    numbers = range(1, 301)
    on_one.prepare(numbers)
    database = on_one.database
    odd = [Decimal128(str(number)) for number in (1001, 1002)]
    database["submissions"].insert_many([{"_id": each, "user_id": USER} for each in odd])
    database["submissions"].insert_one({"_id": 1003, "user_id": USER})
    database["jobs"].drop_indexes()
    database["jobs"].insert_one({"_id": 1003, "submission_id": Decimal128("1003"), "file_type": "D1"})
    database["users"].insert_one({"_id": Decimal128("9"), "website_admin": True})
    on_one.log_in("nobody", 9)
    with serve(mongodb_uri, on_one.name) as served:
        served.wait_ready()
        paths = [poll(number) for number in (1001, *numbers[:150], 1003, *numbers[150:], 1002)]
        with ThreadPoolExecutor(1) as pool:
            nobody = pool.submit(served.check, 1, "nobody")
            with holding(served.url, paths, TOKEN) as polls:
                answers = polls.results_once_sent()
            assert nobody.result()[0] == 401
        assert counted(answers, "status", "generation") == {
            (200, "waiting"): 300,
            (400, None): 2,
            (200, "failed"): 1,
        }
        assert served.server.records("document_malformed")
        assert served.server.records("job_malformed")
        assert not served.server.records("request_defect")


# Views


@pytest.mark.parametrize(
    ("collection", "options"),
    [
        *[
            (name, {"viewOn": f"{name}_stored", "pipeline": []})
            for name in ("jobs", "submissions", "users", "sessions")
        ],
        ("jobs", {"timeseries": {"timeField": "updated_at"}}),
    ],
)
def test_server_with_a_view_or_a_time_series_is_not_ready_and_names_it(
    on_one: Scene, mongodb_uri: str, serve: Serve, collection: str, options: dict[str, Any]
) -> None:
    on_one.database[collection + "_stored"].insert_one({"_id": 1})
    on_one.database.command("create", collection, **options)
    with serve(mongodb_uri, on_one.name) as served:
        wait_until(lambda: served.readyz()[1].get("views") == [collection], "it is named")
        status, parts = served.readyz()
        assert (status, parts["change_stream"]) == (503, "down")
        on_one.database.drop_collection(collection)
        served.wait_ready()
        assert "views" not in served.readyz()[1]


# Events that are too large


def large_update(made: Scene) -> None:
    made.set_jobs([1], status="failed", message="x" * 9_000_000)


def replace_by_the_largest(made: Scene) -> None:
    """A document may have 16 MB; its event has a little more."""
    job: dict[str, Any] = {"_id": 1, "submission_id": 1, "file_type": "D1", "status": "failed"}
    made.database["jobs"].replace_one({"_id": 1}, job | {"message": "x" * (16 * 1024 * 1024 - 150)})


def insert_with_a_large_id(made: Scene) -> None:
    """An event names the `_id` three times: this one cannot be delivered."""
    made.database["jobs"].delete_one({"_id": 1})
    job: dict[str, Any] = {"_id": "x" * 4_000_000, "submission_id": 1, "file_type": "D1", "status": "failed"}
    made.database["jobs"].insert_one(job | {"message": "x" * 4_000_000})


@pytest.mark.parametrize(
    ("change", "ends_stream"), [(large_update, False), (replace_by_the_largest, False), (insert_with_a_large_id, True)]
)
def test_event_that_is_too_large_ends_its_own_hold_only(
    set_of_one: ReplicaSet, serve: Serve, figures: Figures, change: Callable[[Scene], None], *, ends_stream: bool
) -> None:
    others = range(2, 22)
    with scene(set_of_one.uri, "core") as made, serve(set_of_one.uri, made.name) as served:
        made.client.admin.command("replSetResizeOplog", 1, size=2000.0)
        # The embedded MongoDB's cache of 0.25 GB is too small for several copies of such a document at once.
        made.client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig="cache_size=1GB")
        made.prepare([1, *others])
        served.wait_ready()
        with held(served, others) as holds:
            with holding(served.url, [question(1)], TOKEN) as own:
                own.wait_sent()
                served.wait_held(len(others) + 1)
                change(made)
                committed = time.time()
                (answer,) = own.results()
            assert answer["status"] == 200
            assert answer["generation"] in {"failed", "invalid"}
            ends = served.server.records
            wait_until(lambda: ends("change_stream_down") if ends_stream else served.metrics()[SEEN], "the event")
            wait_until(lambda: served.readyz()[0] == 200, "ready")
            figures.within("from the commit to being ready again", time.time() - committed, 3)
            assert served.held() == len(others)
            made.finish(others)
            assert counted(holds.results(), "status", "generation", "result") == {FINISHED: len(others)}
        assert len(served.server.records("change_stream_down")) == ends_stream


# A primary that changes


def test_cache_matches_the_database_while_the_primary_changes(
    replica_set: ReplicaSet, on_the_set: Scene, serve: Serve
) -> None:
    numbers = range(1, scaled(100, 400))
    on_the_set.prepare(numbers)
    with serve(replica_set.uri, on_the_set.name) as served, ExitStack() as stack:
        served.wait_ready()
        pool = stack.enter_context(ThreadPoolExecutor(2))
        stopping: list[bool] = []
        asking = pool.submit(ask_until, served, numbers, stopping)
        for size in range(3):
            primary = replica_set.wait_primary()
            for number in numbers[::3]:
                on_the_set.database["jobs"].update_one({"_id": number}, {"$set": {"size": size}})
            primary.kill()
            replica_set.wait_primary(other_than=primary)
            on_the_set.database["jobs"].update_many({"_id": {"$mod": [2, 0]}}, {"$set": {"size": 10 + size}})
            replica_set.restore()
        stopping.append(True)
        assert asking.result(60) > 0
        served.wait_ready()
        stored = {each["_id"]: each.get("size") for each in on_the_set.database["jobs"].find()}
        wait_until(lambda: all(served.check(number)[2].get("size") == stored[number] for number in numbers), "the same")


def ask_until(served: Served, numbers: Sequence[int], stopping: list[bool]) -> int:
    """Poll one job after the other; gives how many answers there were."""
    answered = 0
    while not stopping:
        for number in numbers:
            answered += served.check(number)[0] == 200
    return answered
