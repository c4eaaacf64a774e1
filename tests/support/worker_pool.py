"""A pool of workers, each a process of its own: python worker_pool.py MONGODB_URI DATABASE LEASE_SECONDS COUNT.

Forked from one process that has everything imported, because importing it fifty times takes longer than the test.
Each worker notes in `ready` that it is there and in `done` whose job it has in hand, and finishes it; a job of file
type F kills its first worker: that one hangs, until the test does it in. All end when stdin does.
"""

import os
import signal
import sys
from typing import Any, NoReturn

from pymongo import MongoClient

from genstatus_server.jobs_writer import JobsWriter


def work(uri: str, name: str, lease_seconds: float) -> NoReturn:
    client: MongoClient[dict[str, Any]] = MongoClient(uri, maxPoolSize=2)
    database = client[name]
    database["ready"].insert_one({"worker": os.getpid()})
    for job in JobsWriter(database, lease_seconds=lease_seconds).claims(poll_seconds=0.2):
        with job:
            database["done"].insert_one({"job": job.job_id, "attempt": job.attempt, "worker": os.getpid()})
            if job.file_type == "F" and job.attempt == 1:
                signal.pause()
            job.finish(key="file.csv")
    os._exit(0)


def main() -> None:
    uri, name, lease_seconds, count = sys.argv[1:]
    workers = []
    for _ in range(int(count)):
        worker = os.fork()
        if not worker:
            work(uri, name, float(lease_seconds))
        workers.append(worker)
    sys.stdin.read()
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    for worker in workers:
        os.waitpid(worker, 0)


if __name__ == "__main__":
    main()
