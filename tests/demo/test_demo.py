"""The demo's samples, worker and calls, on a real MongoDB and a real S3."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest

from genstatus_server.demo import worker
from genstatus_server.demo.samples import (
    DEMO_FILE_TYPE,
    DEMO_JOB_ID,
    DEMO_SUBMISSION_ID,
    DemoTokens,
    Storage,
    curl_lines,
    sample_csv,
    seed,
)
from genstatus_server.jobs_writer import JobsWriter, s3_client
from genstatus_server.model.jobs import GenerationStatus, job_from_document
from genstatus_server.mongo.schema import initialize
from genstatus_server.server.demo import worker_environment, worker_line, write_worker_file
from genstatus_server.settings import Settings
from tests.support.embedded_processes import wait_until
from tests.support.processes import DEADLINE
from tests.support.services import S3

pytestmark = pytest.mark.one_python

Client = pymongo.MongoClient[dict[str, Any]]
Jobs = pymongo.collection.Collection[dict[str, Any]]

ROOT = Path(__file__).parents[2]
#: Where a proxy is said to be, and nobody listens.
NO_PROXY_THERE = "http://127.0.0.1:1"
DEMO_JOB = {"submission_id": DEMO_SUBMISSION_ID, "file_type": DEMO_FILE_TYPE}


@pytest.fixture
def storage(s3: S3) -> Storage:
    return Storage(s3.bucket, s3.region, s3.endpoint_url, s3.access_key, s3.secret_key)


@pytest.fixture
def jobs(mongodb_uri: str, sync_mongodb: Client, database_name: str) -> Jobs:
    list(initialize(mongodb_uri, database_name))
    return sync_mongodb[database_name]["jobs"]


@pytest.fixture
def writer(jobs: Jobs, s3: S3, s3_client: Any) -> JobsWriter:
    return JobsWriter(jobs.database, bucket=s3.bucket, s3=s3_client)


def presigned(storage: Storage, key: str) -> str:
    with storage.opened() as files:
        url: str = files.client.generate_presigned_url(
            "get_object", {"Bucket": storage.bucket, "Key": key}, ExpiresIn=60
        )
        return url


def fetch(url: str) -> tuple[int, bytes]:
    try:
        with closing(urllib.request.urlopen(url)) as response:  # noqa: S310 - the S3 of the tests
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@contextmanager
def running_worker(uri: str, database: str, storage: Storage) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {
        "PATH": os.environ["PATH"],
        "http_proxy": NO_PROXY_THERE,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "GENSTATUS_MONGODB_URI": uri,
        "GENSTATUS_MONGODB_DATABASE": database,
        "GENSTATUS_S3_BUCKET": storage.bucket,
        "GENSTATUS_S3_REGION": storage.region or "",
        "GENSTATUS_S3_ENDPOINT_URL": storage.endpoint_url or "",
        "AWS_ACCESS_KEY_ID": storage.access_key or "",
        "AWS_SECRET_ACCESS_KEY": storage.secret_key or "",
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
    }
    command = [sys.executable, "-m", "genstatus_server.demo.worker"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def is_finished(jobs: Jobs) -> bool:
    return job_from_document(jobs.find_one(DEMO_JOB)).generation_status is GenerationStatus.FINISHED


def test_seeding_twice_leaves_the_same_documents(
    mongodb_uri: str, database_name: str, sync_mongodb: Client, storage: Storage
) -> None:
    list(initialize(mongodb_uri, database_name))
    database = sync_mongodb[database_name]
    counts = []
    for _ in range(2):
        assert seed(mongodb_uri, database_name, storage) == DemoTokens()
        counts.append(
            {name: database[name].count_documents({}) for name in ("users", "submissions", "jobs", "sessions")}
        )
    assert counts[0] == counts[1] == {"users": 4, "submissions": 4, "jobs": 15, "sessions": 4}


def test_storage_reaches_loopback_without_the_proxy(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", NO_PROXY_THERE)
    with storage.opened() as files:
        files.upload("1/D1.csv", b"a,b")


def test_seed_makes_login_sessions_of_30_days(
    mongodb_uri: str, database_name: str, sync_mongodb: Client, storage: Storage
) -> None:
    seed(mongodb_uri, database_name, storage)
    for login_session in sync_mongodb[database_name]["sessions"].find():
        left = login_session["expires_at"].replace(tzinfo=UTC) - datetime.now(UTC)
        assert timedelta(days=29) < left <= timedelta(days=30)


def test_demo_worker_reuses_the_seeded_job(
    mongodb_uri: str, database_name: str, jobs: Jobs, writer: JobsWriter, storage: Storage
) -> None:
    seed(mongodb_uri, database_name, storage)
    assert writer.request(DEMO_SUBMISSION_ID, DEMO_FILE_TYPE).job_id == DEMO_JOB_ID


def test_seed_uploads_the_file_of_every_finished_job(
    mongodb_uri: str, database_name: str, jobs: Jobs, storage: Storage
) -> None:
    seed(mongodb_uri, database_name, storage)
    found = [job_from_document(document) for document in jobs.find()]
    assert {job.generation_status for job in found} == set(GenerationStatus)
    finished = [job for job in found if job.generation_status is GenerationStatus.FINISHED]
    assert len(finished) == 3
    for job in finished:
        assert job.key is not None
        status, body = fetch(presigned(storage, job.key))
        assert (status, len(body)) == (200, job.size)


def test_demo_file_downloads_by_its_url_only_if_untampered(
    mongodb_uri: str, database_name: str, jobs: Jobs, storage: Storage
) -> None:
    with running_worker(mongodb_uri, database_name, storage) as process:
        wait_until(lambda: is_finished(jobs))
        wait_until(lambda: not is_finished(jobs))  # and begins again
        key = "1/D1.csv"
        url = presigned(storage, key)
        assert fetch(url) == (200, sample_csv("D1"))
        assert fetch(url[:-4] + ("0000" if url[-4:] != "0000" else "1111"))[0] == 403
        assert fetch(url.partition("?")[0])[0] in {400, 403}
        process.send_signal(signal.SIGTERM)
        assert (process.wait(DEADLINE), process.stderr and process.stderr.read()) == (0, b"")


def test_demo_worker_ends_when_its_stdin_closes(
    mongodb_uri: str, database_name: str, jobs: Jobs, storage: Storage
) -> None:
    with running_worker(mongodb_uri, database_name, storage) as process:
        wait_until(lambda: jobs.count_documents({}) == 1)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(DEADLINE) == 0


class Steps:
    """A `Stop` that lets no time pass, and ends after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.paused: list[float] = []

    def within(self, seconds: float) -> bool:
        self.paused.append(seconds)
        self.left -= 1
        return self.left == 0


def test_demo_worker_takes_a_job_through_every_status(jobs: Jobs, writer: JobsWriter) -> None:
    seen = []
    for _ in worker.generations(writer):
        document = jobs.find_one(DEMO_JOB) or {}
        seen.append((document["status"], document.get("upload", {}).get("status")))
    assert seen == [("waiting", None), ("running", None), ("finished", "finished")]


@pytest.mark.parametrize("steps", [3, 6, 9])
def test_demo_worker_continues_after_an_error(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    stop: Any = Steps(steps)
    with closing(s3_client("us-east-1", "http://127.0.0.1:1", retries={"total_max_attempts": 1})) as away:
        worker.work(JobsWriter(jobs.database, bucket="reports", s3=away), stop)
    assert stop.paused == [1.0, 2.5, 1.0] * (steps // 3)
    assert capsys.readouterr().err == "demo worker: EndpointConnectionError; trying again\n" * (steps // 3)


def test_demo_calls_are_single_lines_of_curl_and_sed() -> None:
    text = curl_lines("http://127.0.0.1:8888/")
    calls = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert len(calls) == 6
    assert all(call.startswith("curl ") for call in calls)
    assert "jq" not in text
    for call in calls:
        assert "'http://127.0.0.1:8888/v1/check_generation_status/?submission_id=" in call
        subprocess.run(["/bin/sh", "-n"], input=call.encode(), check=True)


def test_demo_calls_bypass_a_configured_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", NO_PROXY_THERE)
    text = curl_lines("http://127.0.0.1:8888/")
    assert text.count("curl -sS --noproxy '*' ") == text.count("curl ") == 7


def test_demo_download_call_extracts_the_url_of_an_answer() -> None:
    download = next(line for line in curl_lines("http://127.0.0.1:1").splitlines() if "xargs" in line)
    sed = download.split("|")[1]
    for answer in ('{"status": "finished", "url": "http://s3/x?a=1&b=2", "size": 3}', '{"url":"http://s3/x?a=1&b=2"}'):
        result = subprocess.run(["/bin/sh", "-c", sed], input=answer.encode(), capture_output=True, check=True)
        assert result.stdout.strip() == b"http://s3/x?a=1&b=2"


def test_worker_line_runs_a_worker_on_the_demo(
    monkeypatch: pytest.MonkeyPatch,
    mongodb_uri: str,
    database_name: str,
    jobs: Jobs,
    storage: Storage,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # Nothing on this machine's loopback is reached by it.
    settings = Settings(mongodb_uri=mongodb_uri, mongodb_database=database_name)
    file = tmp_path / "it's a folder.env"
    write_worker_file(file, worker_environment(settings, storage))
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.chdir(ROOT)
    line = worker_line(file)
    assert storage.secret_key
    assert storage.secret_key not in line
    JobsWriter(jobs.database, bucket=storage.bucket).request(77, "E")
    command = ["bash", "-c", line]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True) as worker:
        try:
            wait_until(lambda: (jobs.find_one({"submission_id": 77}) or {}).get("status") == "finished")
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
    monkeypatch.delenv("http_proxy")
    assert fetch(presigned(storage, jobs.find_one({"submission_id": 77})["upload"]["key"]))[0] == 200  # type: ignore[index]  # it is there.
