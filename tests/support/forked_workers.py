"""Processes that are forked at awkward moments: python forked_workers.py PROGRAM MONGODB_URI DATABASE.

Programs of their own, because a fork of pytest itself would copy the threads' locks of everything that it runs.
"""

import faulthandler
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from pymongo import MongoClient

from genstatus_server.jobs_writer import JobHandle, JobsWriter, LeaseLost

CHILDREN: Final = 4
#: How a child of a fork ended.
LEASE_LOST, EXITED, NO_ERROR = 7, 8, 9


def in_child(call: Callable[[], object]) -> Callable[[], int]:
    """Fork a child that calls it; gives what waits for its exit status."""
    child = os.fork()
    if child:
        return lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    faulthandler.dump_traceback_later(30, exit=True)
    status = NO_ERROR
    try:
        call()
    except LeaseLost:
        status = LEASE_LOST
    except SystemExit:
        status = EXITED
    os._exit(status)


def inside(writer: JobsWriter) -> None:
    """A child inside the block of its parent's job: what its steps come to."""

    def leave(job: JobHandle, error: type[BaseException] | None) -> None:
        with job:
            if error is not None:
                raise error

    with writer.request(1, "E") as job:
        ends = (lambda: leave(job, SystemExit), lambda: leave(job, None), job.check_lease, lambda: job.fail("not mine"))
        sys.stdout.write(f"{[in_child(end)() for end in ends]}\n")
        job.finish(1, key="E.csv")


def prefork(writer: JobsWriter) -> None:
    """Children that claim with the client that their parent has used."""

    def work() -> None:
        while (job := writer.claim()) is not None:
            with job:
                job.finish(job.submission_id, key=f"{os.getpid()}.csv")

    for submission_id in range(1, 41):
        writer.request(submission_id, "E")
    waits = [in_child(work) for _ in range(CHILDREN)]
    sys.stdout.write(f"{[wait() for wait in waits]}\n")


def main() -> None:
    program, uri, name = sys.argv[1:]
    client: MongoClient[dict[str, Any]] = MongoClient(uri)
    {"inside": inside, "prefork": prefork}[program](JobsWriter(client[name], lease_seconds=3600))


if __name__ == "__main__":
    main()
