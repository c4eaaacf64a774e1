"""Fifty workers on one queue, and what becomes of the jobs of those that are killed: real processes, real signals."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from genstatus_server.jobs_writer import JobHandle, JobsWriter
from tests.support import worker_pool
from tests.support.embedded_processes import wait_until

if TYPE_CHECKING:
    from pymongo.database import Database

pytestmark = pytest.mark.one_python

WORKERS = 50
JOBS = 250
#: Of the jobs, those whose first worker is killed.
DEADLY = 6
DEADLINE = 90.0


@contextmanager
def running_workers(uri: str, name: str, *, lease_seconds: float, count: int) -> Iterator[None]:
    command = [sys.executable, worker_pool.__file__, uri, name, str(lease_seconds), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.close()
        assert (process.wait(DEADLINE), process.stderr.read()) == (0, b"")


def kill_those_that_hang(initialized: "Database[dict[str, Any]]") -> list[int]:
    killed = [note["worker"] for note in initialized["done"].find({"job": {"$in": hanging(initialized)}})]
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    return killed


def hanging(initialized: "Database[dict[str, Any]]") -> list[int]:
    return [job["_id"] for job in initialized["jobs"].find({"file_type": "F", "status": "running"})]


def finished(initialized: "Database[dict[str, Any]]") -> int:
    return initialized["jobs"].count_documents({"status": "finished"})


def claim_into(claims: list[JobHandle], writer: JobsWriter) -> bool:
    job = writer.claim()
    claims.extend([job] if job else [])
    return bool(claims)


def test_fifty_workers_do_each_job_once_though_some_are_killed(
    mongodb_uri: str, initialized: "Database[dict[str, Any]]"
) -> None:
    for notes in ("ready", "done"):
        initialized[notes].delete_many({})
    writer = JobsWriter(initialized)
    # A lease of an hour: none runs out by itself, however busy the machine is.
    with running_workers(mongodb_uri, initialized.name, lease_seconds=3600, count=WORKERS):
        wait_until(lambda: initialized["ready"].count_documents({}) == WORKERS, seconds=DEADLINE)
        for submission_id in range(1, JOBS + 1):
            writer.request(submission_id, "F" if submission_id % (JOBS // DEADLY) == 1 else "E")
        deadly = initialized["jobs"].count_documents({"file_type": "F"})
        wait_until(lambda: finished(initialized) == JOBS - deadly, seconds=DEADLINE)
        assert initialized["done"].count_documents({}) == JOBS == len(initialized["done"].distinct("job"))
        killed = kill_those_that_hang(initialized)
        assert len(set(killed)) == deadly >= DEADLY
        # As if the hour had passed.
        initialized["jobs"].update_many({"status": "running"}, {"$set": {"lease.expires_at": datetime.now(UTC)}})
        wait_until(lambda: finished(initialized) == JOBS, seconds=DEADLINE)
    second = list(initialized["done"].find({"attempt": 2}))
    assert len(second) == deadly
    assert not {note["worker"] for note in second} & set(killed)
    assert initialized["done"].count_documents({}) == JOBS + deadly
    assert not initialized["jobs"].count_documents({"lease": {"$exists": True}})


def test_lease_of_a_killed_worker_runs_out(mongodb_uri: str, initialized: "Database[dict[str, Any]]") -> None:
    initialized["done"].delete_many({})
    writer = JobsWriter(initialized)
    job = writer.request(1, "F")
    ends = set()

    def prolonged() -> int:
        found = initialized["jobs"].find_one({"lease": {"$exists": True}})
        ends.update([found["lease"]["expires_at"]] if found else [])
        return len(ends)

    with running_workers(mongodb_uri, initialized.name, lease_seconds=2, count=1):
        wait_until(lambda: prolonged() == 4, seconds=DEADLINE)
        kill_those_that_hang(initialized)
        claims: list[JobHandle] = []
        wait_until(lambda: claim_into(claims, writer), seconds=DEADLINE)
    (again,) = claims
    assert (again.job_id, again.attempt) == (job.job_id, 2)
    again.finish(key="file.csv")
