"""Leases: who holds a job, for how long, and how a worker knows; real mongods that answer late, wrong or not at all."""

# A block that ends in an exception is what is tested.
# ruff: noqa: PT012

import asyncio
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pymongo
import pytest
from pymongo.errors import AutoReconnect

from genstatus_server.jobs_writer import JobsWriter, LeaseLost
from genstatus_server.model.jobs import GenerationStatus
from genstatus_server.mongo.schema import initialize
from tests.jobs_writer.conftest import Bench, Database, Document, heartbeats, stop_heartbeat
from tests.support import forked_workers
from tests.support.replica_set import ReplicaSet, running_replica_set
from tests.support.server import until

pytestmark = pytest.mark.one_python  # Its waits are those of MongoDB, S3 and AWS.

FAULTS = ("--setParameter", "enableTestCommands=1")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """A mongod that fails as it is told to, with a database as init-db makes it."""
    with running_replica_set(tmp_path_factory.mktemp("faulty"), 1, arguments=FAULTS) as found:
        list(initialize(found.uri, "genstatus"))
        yield found


@pytest.fixture
def jobs(faulty: ReplicaSet) -> Iterator[Any]:
    with pymongo.MongoClient[Document](faulty.uri) as client:
        client["genstatus"]["jobs"].delete_many({})
        yield client["genstatus"]["jobs"]


@contextmanager
def failing(jobs: Any, times: int | None, *commands: str, **how: Any) -> Iterator[None]:
    """Have these commands of the worker fail, the next `times` or all."""
    point = {"configureFailPoint": "failCommand", "mode": "alwaysOn" if times is None else {"times": times}}
    data = {"failCommands": list(commands), "appName": "worker", **how}
    jobs.database.client.admin.command({**point, "data": data})
    try:
        yield
    finally:
        jobs.database.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@pytest.fixture
def worker(faulty: ReplicaSet, jobs: Any) -> Iterator[Database]:
    """The database as a worker sees it, whose client gives up after 1.5 s."""
    with pymongo.MongoClient[Document](faulty.uri, appname="worker", timeoutMS=1500) as client:
        yield client["genstatus"]


async def test_job_of_a_lapsed_lease_is_taken_over(bench: Bench) -> None:
    await bench.writer.request(1, "E")
    late = await bench.claimed()
    assert await bench.writer.claim() is None
    bench.run_out(late)
    job = await bench.claimed()
    assert (job.job_id, job.attempt) == (late.job_id, 2)
    with pytest.raises(LeaseLost):
        await late.finish()
    async with job:
        await job.upload(io.BytesIO(b"mine"))
    assert bench.status(job) is GenerationStatus.FINISHED


async def test_finished_job_without_its_upload_comes_back(bench: Bench) -> None:
    await bench.writer.request(1, "E")
    late = await bench.claimed()
    await late.finish(3)
    assert bench.stored(late)["status"] == "finished"
    assert bench.status(late) is GenerationStatus.WAITING
    bench.run_out(late)
    job = await bench.claimed()
    assert "size" not in bench.stored(job)
    with pytest.raises(LeaseLost):
        await late.upload(io.BytesIO(b"late"))
    await job.release()


async def test_lapsed_lease_still_holds_while_nobody_takes_over(bench: Bench) -> None:
    await bench.writer.request(1, "E")
    async with await bench.claimed() as job:
        bench.run_out(job)
        await job.upload(io.BytesIO(b"late but alone"))
    assert bench.status(job) is GenerationStatus.FINISHED


async def test_job_that_is_interrupted_too_often_is_given_up(bench: Bench) -> None:
    writer = bench.make(max_attempts=2)
    job = await writer.request(1, "E")
    for attempt in (1, 2):
        held = await bench.claimed(writer)
        assert held.attempt == attempt
        stop_heartbeat(held)
        bench.run_out(held)
    other = await writer.request(2, "E")
    last = await bench.claimed(writer)
    assert last.job_id == other.job_id
    await last.release()
    assert (bench.stored(job)["status"], "lease" in bench.stored(job)) == ("failed", False)
    assert "interrupted" in bench.stored(job)["message"]
    assert (await writer.request(1, "E")).generation == 2
    assert bench.stored(job)["status"] == "waiting"


async def test_heartbeat_prolongs_the_lease_and_nothing_else(bench: Bench) -> None:
    job = await bench.make(lease_seconds=4.0).request(1, "E")
    await job.start()
    before = bench.stored(job)
    await until(lambda: bench.stored(job)["lease"]["expires_at"] > before["lease"]["expires_at"])
    after = bench.stored(job)
    assert after | {"lease": None} == before | {"lease": None}
    await job.release()


async def test_heartbeat_finds_out_that_the_lease_is_lost(bench: Bench) -> None:
    job = await bench.make(lease_seconds=60.0).request(1, "E")
    await job.start()
    job.check_lease()
    bench.jobs.delete_one({"_id": job.job_id})
    await asyncio.to_thread(job.keeper.beat)
    with pytest.raises(LeaseLost):
        job.check_lease()
    stop_heartbeat(job)


STEPS: dict[str, Callable[[Any], Any]] = {
    "upload": lambda job: job.upload(io.BytesIO(b"late")),
    "finish": lambda job: job.finish(key="E.csv"),
    "fail": lambda job: job.fail("No data"),
    "invalid": lambda job: job.invalid("No such days"),
    "release": lambda job: job.release(),
}


@pytest.mark.parametrize("step", STEPS)
async def test_no_step_writes_after_the_end_of_the_lease(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Although nobody has taken the job over. A clock that is set on, as if no heartbeat had come through."""
    job = await bench.make(lease_seconds=60.0).request(1, "E")
    await job.start()
    before = bench.stored(job)
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 60, sleep=time.sleep)
    monkeypatch.setattr("genstatus_server.jobs_writer.lease.time", later)
    assert is_lost(job)
    with pytest.raises(LeaseLost, match="nothing was changed"):
        await STEPS[step](job)
    assert bench.stored(job) == before
    monkeypatch.undo()
    await job.release()


async def test_block_that_ends_after_its_lease_writes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 60, sleep=time.sleep)
    with pytest.raises(ZeroDivisionError):
        async with await bench.make(lease_seconds=60.0).request(1, "E") as job:
            before = bench.stored(job)
            monkeypatch.setattr("genstatus_server.jobs_writer.lease.time", later)
            raise ZeroDivisionError
    assert bench.stored(job) == before


def test_change_is_not_tried_again_after_the_end_of_the_lease(
    worker: Database, jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: the pause between two tries led past the end."""
    job = JobsWriter(worker, lease_seconds=3600).request(1, "E")
    job.start()
    passed = [0.0]
    clock = SimpleNamespace(
        monotonic=lambda: time.monotonic() + passed[0], sleep=lambda _: passed.__setitem__(0, 3600.0)
    )
    monkeypatch.setattr("genstatus_server.jobs_writer.lease.time", clock)
    with failing(jobs, 1, "update", errorCode=112), pytest.raises(LeaseLost, match="not known"):
        job.fail("No data")
    assert jobs.find_one({})["status"] == "running"
    stop_heartbeat(job)


@pytest.mark.parametrize("error", [AutoReconnect("secret address"), RuntimeError("secret: can't start new thread")])
async def test_heartbeat_outlives_any_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """A mock: neither error can be provoked in a heartbeat alone."""
    job = await bench.make(lease_seconds=2.0).request(1, "E")
    await job.start()

    def fail(_change: object) -> bool:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(job.keeper, "_change", fail)
        await until(lambda: type(error).__name__ in caplog.text)
        await until(lambda: is_lost(job))
    assert "secret" not in caplog.text
    await until(lambda: not is_lost(job))
    await job.release()


def is_lost(job: Any) -> bool:
    try:
        job.check_lease()
    except LeaseLost:
        return True
    return False


@pytest.mark.parametrize("bench", ["asyncio"], indirect=True)
async def test_heartbeat_goes_on_while_the_loop_is_blocked(bench: Bench) -> None:
    writer = bench.make(lease_seconds=2.0)
    await writer.request(1, "E")
    async with await bench.claimed(writer) as job:
        ends: set[object] = set()
        deadline = time.monotonic() + 30
        while len(ends) < 6 and time.monotonic() < deadline:  # Nothing else runs in this loop.
            ends.add(bench.stored(job)["lease"]["expires_at"])
            time.sleep(0.02)  # noqa: ASYNC251 - as a generation does that knows no better
        assert len(ends) == 6
        await job.finish(key="E.csv")
    assert bench.stored(job)["attempts"] == 1


async def test_job_that_is_dropped_without_its_block_is_given_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.writer.request(1, "E")
    job = await bench.claimed()
    job_id = job.job_id
    del job
    await until(lambda: bench.jobs.find_one({"_id": job_id, "status": "waiting"}))
    await until(lambda: heartbeats() == 0)
    assert "dropped without an end" in caplog.text
    assert (bench.jobs.find_one({}) or {})["attempts"] == 0


def forked(program: str, mongodb_uri: str, database: Database) -> list[int]:
    command = [sys.executable, forked_workers.__file__, program, mongodb_uri, database.name]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=120, check=True)
    statuses: list[int] = json.loads(done.stdout)
    return statuses


def test_forked_child_does_not_end_its_parents_job(mongodb_uri: str, initialized: Database) -> None:
    expected = [forked_workers.EXITED, forked_workers.NO_ERROR, forked_workers.LEASE_LOST, forked_workers.LEASE_LOST]
    assert forked("inside", mongodb_uri, initialized) == expected
    found = initialized["jobs"].find_one({}) or {}
    assert (found["status"], found["size"], found["attempts"]) == ("finished", 1, 1)


def test_forked_children_claim_with_their_parents_client(mongodb_uri: str, initialized: Database) -> None:
    assert forked("prefork", mongodb_uri, initialized) == [forked_workers.NO_ERROR] * forked_workers.CHILDREN
    found = list(initialized["jobs"].find())
    assert len(found) == 40
    assert all(each["status"] == "finished" and each["size"] == each["submission_id"] for each in found)
    assert {each["attempts"] for each in found} == {1}


#: What an answer that never comes is like for the client, and what MongoDB says of a majority that is away.
UNKNOWN: dict[str, Document] = {
    "connection closed": {"closeConnection": True},
    "slow": {"blockConnection": True, "blockTimeMS": 4000},
    "no majority": {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    "overloaded": {"errorCode": 462},
    "election": {"errorCode": 189},
    "limit exceeded": {"errorCode": 262},
    "write conflict": {"errorCode": 112},
}


@pytest.mark.parametrize("fault", UNKNOWN)
@pytest.mark.parametrize("end", ["finish", "fail", "release"])
def test_end_without_acknowledgement_is_checked_again(worker: Database, jobs: Any, fault: str, end: str) -> None:
    writer = JobsWriter(worker, lease_seconds=60)
    job = writer.request(1, "E")
    job.start()
    ends: dict[str, Callable[[], None]] = {
        "finish": lambda: job.finish(key="E.csv"),
        "fail": lambda: job.fail("No data"),
        "release": job.release,
    }
    with failing(jobs, 2, "update", **UNKNOWN[fault]):
        ends[end]()
    expected = {"finish": "finished", "fail": "failed", "release": "waiting"}[end]
    found = jobs.find_one({})
    assert (found["status"], "lease" in found) == (expected, False)


def test_end_that_stays_unknown_does_not_fail_the_job(worker: Database, jobs: Any) -> None:
    writer = JobsWriter(worker, lease_seconds=2)
    failures = failing(jobs, None, "update", errorCode=189)
    with pytest.raises(LeaseLost, match="not known"), writer.request(1, "E") as job, failures:
        job.finish(key="E.csv")
    assert jobs.find_one({})["status"] in {"running", "finished"}
    again, deadline = None, time.monotonic() + 30
    while again is None:
        assert time.monotonic() < deadline
        again = writer.claim()
        time.sleep(0.02)
    with again:
        assert again.attempt == 2
        again.finish(key="E.csv")


def test_worker_knows_when_its_lease_has_ended(faulty: ReplicaSet, worker: Database) -> None:
    job = JobsWriter(worker, lease_seconds=2).request(1, "E")
    job.start()
    (node,) = faulty.nodes
    node.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        while not is_lost(job):
            assert time.monotonic() - began < 30
            time.sleep(0.02)
        with pytest.raises(LeaseLost):
            job.finish(key="E.csv")
    finally:
        node.signal(signal.SIGCONT)
    stop_heartbeat(job)


@pytest.mark.parametrize("code", [6, 112, 189, 262, 462, 11602])
def test_claims_wait_for_a_mongodb_that_is_electing(worker: Database, jobs: Any, code: int) -> None:
    writer = JobsWriter(worker, lease_seconds=3600)
    writer.request(1, "E")
    with failing(jobs, 3, "findAndModify", errorCode=code):
        job = next(iter(writer.claims(poll_seconds=0.01)))
    assert job.attempt == 1
    job.finish(key="E.csv")


def test_claim_that_is_not_acknowledged_is_found_again(worker: Database, jobs: Any) -> None:
    """Written, as an error of the write concern says, and so `running`: it is the same worker's all the same."""
    writer = JobsWriter(worker, lease_seconds=3600)
    writer.request(1, "E")
    concern = {"code": 64, "errmsg": "waiting for replication timed out"}
    # The first search is for a lapsed lease, and finds nothing.
    with failing(jobs, 2, "findAndModify", writeConcernError=concern):
        job = next(iter(writer.claims(poll_seconds=0.01)))
    assert job.attempt == 1
    assert jobs.count_documents({"status": "running"}) == 1
    job.finish(key="E.csv")


def test_claims_do_not_wait_for_a_wrong_password(worker: Database, jobs: Any) -> None:
    writer = JobsWriter(worker)
    with failing(jobs, 1, "findAndModify", errorCode=18), pytest.raises(pymongo.errors.OperationFailure):
        next(iter(writer.claims(poll_seconds=0.01)))
    writer.request(1, "E")
    claims = iter(writer.claims(poll_seconds=0.01))
    next(claims).finish(key="E.csv")
    writer.request(2, "E")
    with failing(jobs, 1, "findAndModify", errorCode=18):
        next(claims).finish(key="E.csv")
