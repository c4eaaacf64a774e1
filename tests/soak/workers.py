"""Eight worker processes that are killed and stopped, a primary that dies every minute, an S3 that hangs now and then.

    python -m tests.soak.workers --minutes 10 --jobs 5000

Nothing may be lost: each job is finished once, and its object in S3 has exactly the bytes that were generated. Not a
part of the test suite: it takes as long as it is told. Exit status 1 where something was lost.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient

from genstatus_server.demo.embedded.s3 import bucket_folder, running_s3
from genstatus_server.jobs_writer import JobsWriter
from genstatus_server.mongo.schema import initialize
from tests.soak.generate import content_of
from tests.support.embedded_processes import processes_in
from tests.support.proc import spawned_by
from tests.support.replica_set import ReplicaSet, running_replica_set
from tests.support.services import ACCESS_KEY, REGION, SECRET_KEY, in_background

BUCKET: Final = "reports"
GROUPS, PROCESSES = 2, 4
LEASE_SECONDS: Final = 10
#: Seconds from one fault of a kind to the next.
KILL, STOP, HANG, FAILOVER = 4.0, 20.0, 30.0, 60.0
HANG_SECONDS: Final = 5.0
#: Seconds for what is left at the end, without any more faults.
REST: Final = 180.0


class Workers:
    """One `genstatus worker run` with its processes."""

    def __init__(self, uri: str, folder: Path) -> None:
        self._command = [sys.executable, "-m", "genstatus_server", "worker", "run", "tests.soak.generate:generate"]
        self._command += ["--uri", uri, "--bucket", BUCKET, f"--processes={PROCESSES}"]
        self._command += [f"--lease-seconds={LEASE_SECONDS}"]
        self._log = (folder / "workers.log").open("ab")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stderr=self._log)

    def children(self) -> list[int]:
        return spawned_by(self.process.pid)

    def restart(self) -> None:
        self.process.terminate()
        self.process.wait(120)
        self.start()

    def close(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        self.process.kill()


class Faults:
    """What goes wrong, each in a thread of its own, until `end`."""

    def __init__(self, workers: list[Workers], replica_set: ReplicaSet, s3_folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._workers, self._replica_set, self._s3_folder = workers, replica_set, s3_folder
        self._ended = threading.Event()
        kinds = ((KILL, self._kill), (STOP, self._stop), (HANG, self._hang), (FAILOVER, self._fail_over))
        self._threads = [threading.Thread(target=self._repeat, args=kind) for kind in kinds]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, seconds: float, fault: Any) -> None:
        while not self._ended.wait(random.uniform(0.5, 1.5) * seconds):
            with suppress(OSError):
                fault()
                self.counts[fault.__name__.strip("_")] += 1

    def _kill(self) -> None:
        children = random.choice(self._workers).children()
        if children:
            os.kill(random.choice(children), signal.SIGKILL)

    def _stop(self) -> None:
        random.choice(self._workers).restart()

    def _hang(self) -> None:
        (pid,) = processes_in(self._s3_folder, program="rclone")
        os.kill(pid, signal.SIGSTOP)
        time.sleep(HANG_SECONDS)
        os.kill(pid, signal.SIGCONT)

    def _fail_over(self) -> None:
        primary = self._replica_set.wait_primary()
        primary.kill()
        self._replica_set.wait_primary(other_than=primary)
        primary.start()


@contextmanager
def services(folder: Path) -> Iterator[tuple[ReplicaSet, str]]:
    with ExitStack() as stack:
        replica_set = stack.enter_context(running_replica_set(folder))
        manager = running_s3(folder / "s3", access_key=ACCESS_KEY, secret_key=SECRET_KEY)
        url = stack.enter_context(in_background(manager))
        bucket_folder(folder / "s3", BUCKET).mkdir(parents=True)
        yield replica_set, url


def soak(minutes: float, jobs: int, folder: Path) -> dict[str, Any]:
    with services(folder) as (replica_set, url), MongoClient[dict[str, Any]](replica_set.uri) as client:
        list(initialize(replica_set.uri, "genstatus"))
        os.environ |= {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL_S3": url,
            "SOAK_NOTES": str(folder / "notes"),
        }
        workers = [Workers(replica_set.uri, folder) for _ in range(GROUPS)]
        faults = Faults(workers, replica_set, folder / "s3")
        try:
            request_all(JobsWriter(client["genstatus"]), jobs, 60 * minutes)
        finally:
            faults.end()
        collection = client["genstatus"]["jobs"]
        deadline = time.monotonic() + REST
        while time.monotonic() < deadline and collection.count_documents({"status": {"$in": ["waiting", "running"]}}):
            time.sleep(1)
        for each in workers:
            each.close()
        return {"faults": dict(faults.counts)} | result(list(collection.find()), folder)


def request_all(writer: JobsWriter, jobs: int, seconds: float) -> None:
    began = time.monotonic()
    for number in range(1, jobs + 1):
        time.sleep(max(0.0, began + seconds * number / jobs - time.monotonic()))
        writer.request(number, "D1")


def result(found: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    runs = [json.loads(line) for line in (folder / "notes").read_text().splitlines()]
    ends = Counter((run["job"], run["what"]) for run in runs)
    return {
        "jobs": len(found),
        "status": dict(Counter(each["status"] for each in found)),
        "runs": dict(Counter(run["what"] for run in runs)),
        "jobs with several attempts": sum(each["attempts"] > 1 for each in found),
        "finished without its whole object": sum(not is_whole(each, folder) for each in found),
        "finished twice": sum(count > 1 for (_, what), count in ends.items() if what == "finished"),
    }


def is_whole(document: dict[str, Any], folder: Path) -> bool:
    if document["status"] != "finished":
        return True
    path = bucket_folder(folder / "s3", BUCKET) / document["upload"]["key"]
    return path.exists() and digest(path.read_bytes()) == digest(content_of(document["submission_id"]))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--jobs", type=int, default=5000)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(told.minutes, told.jobs, Path(folder))
        (Path(tempfile.gettempdir()) / "soak-workers.log").write_bytes((Path(folder) / "workers.log").read_bytes())
    sys.stdout.write(f"{json.dumps(found, indent=2)}\n")
    is_good = found["status"] == {"finished": told.jobs}
    return int(not is_good or bool(found["finished without its whole object"] or found["finished twice"]))


if __name__ == "__main__":
    sys.exit(main())
