"""The picture of a job's states in docs/workers.md: every arrow is so, and there is no other."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from genstatus_server.jobs_writer import JobHandle, JobsWriter, LeaseLost
from tests.jobs_writer.conftest import stop_heartbeat
from tests.support.services import S3

if TYPE_CHECKING:
    from pymongo.database import Database

pytestmark = pytest.mark.one_python

DOCUMENT = Path(__file__).parents[2] / "docs" / "workers.md"
HELD = ("running", "uploaded", "generated")
Arrow = tuple[str, str, str]


def arrows() -> Iterator[Arrow]:
    """From where, by what, to where; what holds for `held` holds for each of its states."""
    (picture,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    before, inside, after = re.split(r"state held {\n|    }\n", picture)
    for part, outside in ((before, "nothing"), (inside, "finished"), (after, "nothing")):
        for source, target, causes in re.findall(r"(\S+) --> (\S+): (.*)\n", part):
            sources = HELD if source == "held" else (source.replace("[*]", "nothing"),)
            end = {"held": "running", "[*]": outside}.get(target, target)
            yield from ((each, cause, end) for each in sources for cause in causes.split(" or "))


class Trial:
    """One job, brought into a state, and what can be done with it."""

    def __init__(self, database: "Database[dict[str, Any]]", bucket: str, s3_client: Any) -> None:
        self.database = database
        self.writer = JobsWriter(database, bucket=bucket, s3=s3_client, lease_seconds=3600)
        self.impatient = JobsWriter(database, bucket=bucket, s3=s3_client, lease_seconds=3600, max_attempts=1)
        self.job: JobHandle | None = None

    def state(self) -> str:
        document = self.database["jobs"].find_one({}) or {"status": "nothing"}
        status, is_held = document["status"], "lease" in document
        is_uploaded = document.get("upload", {}).get("status") == "finished"
        if not is_held:
            assert is_uploaded == (status == "finished"), document
            return str(status)
        assert status == "running" or not is_uploaded, document
        return "generated" if status == "finished" else "uploaded" if is_uploaded else "running"

    def bring(self, state: str) -> None:
        """Begin anew, with the job in this state."""
        if self.job is not None:
            stop_heartbeat(self.job)
        self.database["jobs"].delete_many({})
        if state == "nothing":
            return
        job = self.job = self.writer.request(1, "E")
        if state == "ready":
            self.database["jobs"].update_one({}, {"$set": {"status": "ready"}})
        elif state != "waiting":
            job.start()
        steps: dict[str, Callable[[], object]] = {
            "uploaded": lambda: job.upload(io.BytesIO(b"a,b")),
            "generated": job.finish,
            "finished": lambda: job.finish(key="1/E.csv"),
            "failed": lambda: job.fail("No data"),
            "invalid": lambda: job.invalid("No days"),
        }
        steps.get(state, lambda: None)()
        assert self.state() == state

    def do(self, cause: str) -> None:
        """Do it; `LeaseLost` is how it says that nothing was changed."""
        if cause == "request()":
            self.writer.request(1, "E")
        elif cause == "claim()":
            self._claim(self.writer)
        elif cause.startswith("lease ran out"):
            past = {"$set": {"lease.expires_at": datetime(2026, 1, 1, tzinfo=UTC)}}
            if self.database["jobs"].update_many({"lease": {"$exists": True}}, past).matched_count:
                self._claim(self.impatient if "too often" in cause else self.writer)
        elif self.job is not None:
            with suppress(LeaseLost):
                self._call(self.job, cause)

    def _claim(self, writer: JobsWriter) -> None:
        claimed = writer.claim()
        if claimed is not None:
            stop_heartbeat(claimed)

    @staticmethod
    def _call(job: JobHandle, cause: str) -> None:
        calls: dict[str, Callable[[], object]] = {
            "start()": job.start,
            "upload()": lambda: job.upload(io.BytesIO(b"a,b")),
            "finish()": job.finish,
            "finish(key)": lambda: job.finish(key="1/E.csv"),
            "release()": job.release,
            "fail()": lambda: job.fail("No data"),
            "invalid()": lambda: job.invalid("No days"),
            "an exception": lambda: job.__exit__(ValueError, ValueError(), None),
        }
        calls[cause]()


@pytest.fixture
def trial(initialized: "Database[dict[str, Any]]", s3: S3, s3_client: Any) -> Iterator[Trial]:
    made = Trial(initialized, s3.bucket, s3_client)
    yield made
    made.bring("nothing")


def test_worker_picture_has_exactly_the_real_transitions(trial: Trial) -> None:
    drawn = set(arrows())
    states = {state for source, _, target in drawn for state in (source, target)}
    assert states == {"nothing", "ready", "waiting", *HELD, "finished", "failed", "invalid"}
    seen = set()
    for state in states:
        for cause in {cause for _, cause, _ in drawn}:
            trial.bring(state)
            trial.do(cause)
            if trial.state() != state or ("then claim()" in cause and state in HELD):
                seen.add((state, cause, trial.state()))
    assert sorted(seen - drawn) == []
    assert sorted(drawn - seen) == []
