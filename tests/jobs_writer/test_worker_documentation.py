"""The example of a worker, and the lines in the documents, do what they say."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY

from genstatus_server.jobs_writer import JobHandle, JobsWriter
from genstatus_server.model.jobs import GenerationStatus, job_from_document
from tests.support.embedded_processes import wait_until
from tests.support.services import S3

if TYPE_CHECKING:
    from pymongo.database import Database

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "worker.py"
DEADLINE = 60.0


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


@contextmanager
def running(program: Path, mongodb_uri: str, name: str, s3: S3) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": s3.region,
        "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
        "GENSTATUS_MONGODB_URI": mongodb_uri,
        "GENSTATUS_MONGODB_DATABASE": name,
        "GENSTATUS_S3_BUCKET": s3.bucket,
    }
    with subprocess.Popen([sys.executable, program], env=os.environ | environment, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def is_finished(database: "Database[dict[str, Any]]", job: JobHandle) -> bool:
    return job_from_document(database["jobs"].find_one(job.job_id)).generation_status is GenerationStatus.FINISHED


def content(database: "Database[dict[str, Any]]", job: JobHandle, s3_client: Any) -> bytes:
    document = database["jobs"].find_one(job.job_id) or {}
    upload = document["upload"]
    body: bytes = s3_client.get_object(Bucket=upload["bucket"], Key=upload["key"])["Body"].read()
    assert len(body) == document["size"]
    return body


def test_worker_example_makes_a_file_of_100_000_rows(
    mongodb_uri: str, initialized: "Database[dict[str, Any]]", s3: S3, s3_client: Any
) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 40
    jobs = [JobsWriter(initialized).request(1, file_type) for file_type in ("D1", "F")]
    with running(EXAMPLE, mongodb_uri, initialized.name, s3) as process:
        wait_until(lambda: all(is_finished(initialized, job) for job in jobs), seconds=DEADLINE)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert b"Traceback" not in log
    assert b"bytes sent" in log
    rows = content(initialized, jobs[1], s3_client).decode().splitlines()
    assert len(rows) == 100_001
    assert rows[-1] == "1,F,100000,1250000.00"


def blocks_with(word: str) -> list[str]:
    return [block for block in python_blocks(ROOT / "docs" / "workers.md") if word in block]


def test_worker_guide_shows_the_ten_lines_of_the_readme() -> None:
    lines = python_blocks(ROOT / "docs" / "workers.md")[0]
    assert len([line for line in lines.splitlines() if line]) <= 10
    assert lines in python_blocks(ROOT / "README.md")


@pytest.mark.parametrize("word", ["def generate(job):\n    path = make_file", "asyncio.run("])
def test_worker_guide_programs_generate_a_file(
    mongodb_uri: str, initialized: "Database[dict[str, Any]]", s3: S3, s3_client: Any, tmp_path: Path, word: str
) -> None:
    (lines,) = blocks_with(word)
    file, program = tmp_path / "E.csv", tmp_path / "worker.py"
    file.write_text("file_type\r\nE\r\n", newline="")
    lines = lines.replace("mongodb://db1,db2,db3/?replicaSet=rs0", mongodb_uri).replace('"reports"', repr(s3.bucket))
    lines = lines.replace('client["genstatus"]', f"client[{initialized.name!r}]")
    make_file = "async def make_file" if "asyncio" in lines else "def make_file"
    program.write_text(f"{make_file}(*_): return {str(file)!r}\n{lines}")
    job = JobsWriter(initialized).request(1, "E")
    with running(program, mongodb_uri, initialized.name, s3):
        wait_until(lambda: is_finished(initialized, job), seconds=DEADLINE)
    assert content(initialized, job, s3_client) == b"file_type\r\nE\r\n"


def test_worker_guide_code_blocks_run_unchanged(
    initialized: "Database[dict[str, Any]]", s3: S3, s3_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    path = tmp_path / "D1.csv"
    path.write_text("a,b")
    writer = JobsWriter(initialized, bucket=s3.bucket, s3=s3_client)
    names: dict[str, Any] = {"JobsWriter": JobsWriter, "database": initialized, "writer": writer, "path": path}
    words = (
        "from datetime import date",
        "writer.claims()",
        "writer.claim([",
        's3_client("us-east-1"',
        "on_event=count",
    )
    others = [block for word in words for block in blocks_with(word)]
    assert len(others) == len(words) == len(python_blocks(ROOT / "docs" / "workers.md")) - 3

    def stop_after(_sent: object) -> None:
        if initialized["jobs"].count_documents({"status": "finished"}) == 1:
            raise Enough

    writer.request(1, "E")
    for block in others:
        space = names | {"print": stop_after}
        with suppress(Enough):
            exec(block, space)  # noqa: S102 - ours
        if "on_event" in block:
            with space["writer"].request(5, "E") as job:
                job.finish(key="E.csv")
            assert REGISTRY.get_sample_value("worker_job_events_total", {"file_type": "E", "kind": "finished"}) == 1
    found = {(each["submission_id"], each["file_type"]): each["status"] for each in initialized["jobs"].find()}
    assert found[123, "D1"] == found[5, "E"] == "finished"


class Enough(BaseException):
    """As many changes as the test has made."""


def test_worker_guide_recipe_keeps_a_job_history(initialized: "Database[dict[str, Any]]") -> None:
    (recipe,) = (block for block in python_blocks(ROOT / "docs" / "workers.md") if "job_history" in block)
    initialized.command({"collMod": "jobs", "changeStreamPreAndPostImages": {"enabled": True}})
    initialized.create_collection("job_history", timeseries={"timeField": "at", "metaField": "job"})
    with initialized["jobs"].watch() as changes:
        token = changes.resume_token
    with JobsWriter(initialized, owner="the test").request(1, "E") as job:
        assert job.keeper is not None
        job.keeper.beat()
        job.finish(5, key="E.csv")
    initialized["jobs"].delete_one({"_id": job.job_id})
    seen = []

    def remember(token: object) -> None:
        seen.append(token)
        if len(seen) == 5:
            raise Enough

    try:
        with pytest.raises(Enough):
            exec(recipe, {"database": initialized, "last_token": lambda: token, "remember": remember})  # noqa: S102 - ours
        history = list(initialized["job_history"].find(sort=[("at", 1), ("_id", 1)]))
    finally:
        initialized.drop_collection("job_history")
    assert [entry["status"] for entry in history] == ["waiting", "running", "finished", "deleted"]
    assert [entry["owner"] for entry in history if entry.get("owner")] == ["the test"]
    assert history[-1]["job"] == {"_id": job.job_id, "submission_id": 1, "file_type": "E"}
