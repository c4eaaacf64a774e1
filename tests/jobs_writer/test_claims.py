"""What idle workers do, what they wait for, and which jobs they pass over."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
import pytest
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128

from genstatus_server.jobs_writer import GenerationInvalid, JobsWriter
from genstatus_server.jobs_writer.watch import JobWatch
from genstatus_server.mongo.schema import initialize
from tests.jobs_writer.conftest import Bench, Database, Document
from tests.support.replica_set import running_node

pytestmark = pytest.mark.one_python

DATE = datetime(2026, 7, 1, tzinfo=UTC)
INFINITY = float("inf")


async def test_work_goes_on_after_a_job_that_failed(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    stop = bench.event()
    jobs = [await bench.writer.request(submission_id, "E") for submission_id in (1, 2, 3, 4)]

    async def generate(job: Any) -> None:
        if job.submission_id == 1:
            raise ZeroDivisionError
        if job.submission_id == 2:
            bench.jobs.delete_one({"_id": job.job_id})
        if job.submission_id == 3:
            raise GenerationInvalid("No such days")
        if job.submission_id == 4:
            stop.set()
        await job.finish(5, key="E.csv")

    await bench.writer.work(generate, poll_seconds=0.01, stop=stop)
    assert [bench.stored(job).get("status") for job in jobs] == ["failed", None, "invalid", "finished"]
    assert "nothing was changed" in caplog.text
    traces = [record.exc_info for record in caplog.records if record.exc_info]
    assert [trace[0] for trace in traces] == [ZeroDivisionError]


async def test_idle_worker_is_woken_by_a_change_stream(bench: Bench) -> None:
    """Also by a job that another worker gives back; without the stream it would claim once an hour."""
    stop = bench.event()
    claimed: asyncio.Queue[int] = asyncio.Queue()

    async def generate(job: Any) -> None:
        claimed.put_nowait(job.submission_id)
        await job.finish(key="E.csv")

    working = asyncio.create_task(bench.writer.work(generate, poll_seconds=3600.0, stop=stop))
    held = bench.make()
    for submission_id in (1, 2):
        await held.request(submission_id, "E")
        assert await asyncio.wait_for(claimed.get(), 60) == submission_id
    await held.request(3, "E")
    assert await asyncio.wait_for(claimed.get(), 60) == 3
    stop.set()
    await working


def operations(jobs: Any) -> int:
    counters = jobs.database.client.admin.command("serverStatus")["opcounters"]
    return sum(counters[name] for name in ("query", "update", "getmore", "command"))


def test_idle_workers_cost_mongod_a_few_operations(tmp_path: Path) -> None:
    """Twenty of them, on a mongod of their own."""
    with running_node(tmp_path, "rs0") as node, pymongo.MongoClient[Document](node.uri) as client:
        client.admin.command("replSetInitiate")
        wait_for(lambda: client.admin.command("hello")["isWritablePrimary"])
        list(initialize(node.uri, "genstatus"))
        jobs, stop = client["genstatus"]["jobs"], threading.Event()
        workers = [threading.Thread(target=drain, args=(client["genstatus"], stop)) for _ in range(20)]
        for worker in workers:
            worker.start()
        wait_until_idle(jobs)
        began, before = time.monotonic(), operations(jobs)
        time.sleep(5)
        rate = (operations(jobs) - before) / (time.monotonic() - began)
        stop.set()
        for worker in workers:
            worker.join(60)
        assert rate < 10  # The monitoring of one client is some 0.3 of it.


def test_idle_workers_are_not_woken_by_jobs_of_other_types(tmp_path: Path) -> None:
    """Neither by new jobs, nor by those that are requested again or given back."""
    with running_node(tmp_path, "rs0") as node, pymongo.MongoClient[Document](node.uri) as client:
        client.admin.command("replSetInitiate")
        wait_for(lambda: client.admin.command("hello")["isWritablePrimary"])
        list(initialize(node.uri, "genstatus"))
        database, stop, claimed = client["genstatus"], threading.Event(), list[int]()
        writer = JobsWriter(database, lease_seconds=3600)

        def work() -> None:
            for job in JobsWriter(database).claims(["E"], stop=stop):
                claimed.append(job.submission_id)
                job.finish(key="E.csv")

        workers = [threading.Thread(target=work) for _ in range(20)]
        for worker in workers:
            worker.start()
        wait_until_idle(database["jobs"])
        before = claims_of(client)
        for submission_id in range(1, 51):
            writer.request(submission_id, "D1").start()
            writer.request(submission_id, "D1")
        writer.request(1, "E")
        wait_for(lambda: claimed == [1])
        by_others = claims_of(client) - before - 50 * 5
        writer.request(1, "E")
        wait_for(lambda: claimed == [1, 1])
        stop.set()
        for worker in workers:
            worker.join(60)
        assert by_others < 150  # Two of each worker that the job of E has woken, and of one that was idle for long.


def claims_of(client: Any) -> int:
    latencies = client.admin.command("serverStatus")["metrics"]["commands"]["findAndModify"]
    return int(latencies["total"])


def wait_until_idle(jobs: Any) -> None:
    """All have claimed once more after their streams were open."""
    deadline = time.monotonic() + 60
    while True:
        before = operations(jobs)
        time.sleep(1)
        if operations(jobs) - before < 25:
            return
        assert time.monotonic() < deadline


def drain(database: Database, stop: threading.Event) -> None:
    for job in JobsWriter(database).claims(stop=stop):
        job.finish(key="E.csv")


def test_standalone_mongod_is_polled(tmp_path: Path) -> None:
    with running_node(tmp_path) as node, pymongo.MongoClient[Document](node.uri) as client:
        list(initialize(node.uri, "genstatus"))
        writer = JobsWriter(client["genstatus"], write_concern=pymongo.WriteConcern(1))
        claims = writer.claims(poll_seconds=0.05)
        threading.Timer(0.3, writer.request, (1, "E")).start()
        next(iter(claims)).finish(key="E.csv")


def test_watch_is_opened_again_when_its_collection_is_dropped(
    sync_mongodb: "pymongo.MongoClient[Document]", database_name: str
) -> None:
    jobs = sync_mongodb[database_name]["jobs"]
    jobs.insert_one({"_id": 1})
    watch = JobWatch(jobs)
    wait_for(lambda: watch.is_live)
    count = watch.count
    jobs.drop()
    wait_for(lambda: watch.count > count)
    watch.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


#: Jobs from before the validators. A claim leaves the fields as they are that make them invalid.
OLD: dict[str, Document] = {
    "dates of a file without": {"_id": 1, "submission_id": 9, "file_type": "E", "start": DATE},
    "an id that is text": {"_id": "abc", "submission_id": 9, "file_type": "E"},
    "an id that is a document": {"_id": {"a": 1}, "submission_id": 9, "file_type": "E"},
    "an id that is a decimal": {"_id": Decimal128("1.5"), "submission_id": 9, "file_type": "E"},
    "an id that is not equal to itself": {"_id": float("nan"), "submission_id": 9, "file_type": "E"},
    "a submission that is text": {"_id": 1, "submission_id": "x", "file_type": "E"},
    "a time that is text": {"_id": 1, "submission_id": 9, "file_type": "D1", "end": "today"},
    "a time after the year 9999": {"_id": 1, "submission_id": 9, "file_type": "D1", "end": DatetimeMS(253402300800000)},
    "an infinite id": {"_id": INFINITY, "submission_id": 9, "file_type": "E"},
    "an infinite submission": {"_id": 1, "submission_id": -INFINITY, "file_type": "E"},
    "a submission of more than 64 bits": {"_id": 1, "submission_id": 1e300, "file_type": "E"},
    "an infinite generation": {"_id": 1, "submission_id": 9, "file_type": "D1", "generation": INFINITY},
    "infinite attempts": {"_id": 1, "submission_id": 9, "file_type": "D1", "attempts": INFINITY},
    "several file types": {"_id": 1, "submission_id": 9, "file_type": ["E", "F"]},
    "half a generation": {"_id": 1, "submission_id": 9, "file_type": "D1", "generation": 0.5},
}

#: Those that the validators accept nevertheless.
ACCEPTED = {"a time after the year 9999", "a submission of more than 64 bits"}


@pytest.fixture
def unvalidated(initialized: Database) -> Iterator[Database]:
    initialized.command({"collMod": "jobs", "validationLevel": "off"})
    yield initialized
    initialized["jobs"].delete_many({})
    initialized.command({"collMod": "jobs", "validationLevel": "strict"})


@pytest.mark.parametrize("old", [name for name in OLD if name not in ACCEPTED])
def test_job_that_validators_refuse_is_passed_over_and_logged_once(
    unvalidated: Database, mongodb_uri: str, caplog: pytest.LogCaptureFixture, old: str
) -> None:
    jobs = unvalidated["jobs"]
    jobs.insert_one(OLD[old] | {"status": "waiting", "requested_at": DATE})
    unvalidated.command({"collMod": "jobs", "validationLevel": "strict"})
    writer = JobsWriter(unvalidated)
    for submission_id in (1, 2, 3):
        writer.request(submission_id, "F")
    claims = writer.claims()
    for submission_id in (1, 2, 3):
        job = next(iter(claims))
        assert job.submission_id == submission_id
        job.finish(key="F.csv")
    assert writer.claim() is None
    assert caplog.text.count("is passed over") == 1
    (line,) = initialize(mongodb_uri, unvalidated.name)
    assert "jobs: the validator refuses 1 document, with _id " in line


@pytest.mark.parametrize("old", [name for name in OLD if name != "dates of a file without"])
def test_malformed_job_is_failed_without_validators(unvalidated: Database, old: str) -> None:
    jobs = unvalidated["jobs"]
    jobs.insert_one(OLD[old] | {"status": "waiting", "requested_at": DATE})
    jobs.insert_one({"_id": 7, "submission_id": 7, "file_type": "F", "status": "waiting"})
    writer = JobsWriter(unvalidated)
    claimed = []
    while (job := writer.claim()) is not None:
        claimed.append(job.job_id)
        job.finish(key="F.csv")
    assert claimed == [7]
    assert jobs.count_documents({"status": "failed"}) == 1


@pytest.mark.parametrize("largest", [INFINITY, Decimal128("1.5"), float("nan")])
def test_request_finds_a_free_id_beside_strange_ids(unvalidated: Database, largest: object) -> None:
    writer = JobsWriter(unvalidated)
    unvalidated["jobs"].insert_many([{"_id": each, "submission_id": each} for each in (1, 2.0, largest)])
    assert writer.request(5, "E").job_id == 3


def test_attempts_and_generation_that_are_no_numbers_count_from_nothing(unvalidated: Database) -> None:
    strange = {"_id": 1, "submission_id": 9, "file_type": "E", "status": "waiting", "attempts": "2", "generation": "x"}
    unvalidated["jobs"].insert_one(strange)
    writer = JobsWriter(unvalidated)
    assert writer.request(9, "E").generation == 1
    unvalidated["jobs"].update_one({"_id": 1}, {"$set": {"attempts": "2"}})
    job = writer.claim()
    assert job is not None
    assert job.attempt == 1
    job.release()


@pytest.mark.parametrize("generation", [INFINITY, -INFINITY, float("nan"), 1e300, 0.5, Decimal128("NaN"), [1]])
def test_request_starts_a_generation_whatever_the_last_one_was(unvalidated: Database, generation: object) -> None:
    unvalidated["jobs"].insert_one({"_id": 1, "submission_id": 9, "file_type": "E", "generation": generation})
    writer = JobsWriter(unvalidated)
    assert [writer.request(9, "E").generation for _ in range(2)] == [1, 2]
    assert writer.request(8, "E").generation == 1


def test_file_type_that_does_not_exist_is_logged_once(unvalidated: Database, caplog: pytest.LogCaptureFixture) -> None:
    unvalidated["jobs"].insert_one({"_id": 1, "submission_id": 9, "file_type": "A", "status": "waiting"})
    writer = JobsWriter(unvalidated)
    writer.request(1, "F")
    next(iter(writer.claims())).finish(key="F.csv")
    assert writer.claim() is None
    assert caplog.text.count("no worker claims") == 1
