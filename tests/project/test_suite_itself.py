"""The suite's own promises: a leak fails the test that leaked, and the tests run on the wheel."""

import os
import re
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pymongo
import pytest
from tornado.ioloop import IOLoop
from tornado.simple_httpclient import SimpleAsyncHTTPClient

import genstatus_server
from tests.support.processes import DEADLINE, running_server
from tests.support.requirements import require
from tests.support.services import S3
from tests.support.world import token_hash

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]

INNER_CONFTEST = f"""
import sys
sys.path.append({str(ROOT)!r})
from tests.conftest import (
    io_loop, pytest_collection_modifyitems, pytest_runtest_makereport, pytest_runtest_setup
)
from tests.support import loops

loops.GRACE_SECONDS = 3.0

def pytest_configure(config):
    config.addinivalue_line("markers", "timeout(seconds): of pytest-tornasync")
"""

INNER_TESTS = """
import asyncio
import sys
import warnings
import pytest
from tests.support.world import token_hash

kept = []

async def test_clean():
    await asyncio.sleep(0)

async def test_leaked_task():
    kept.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))

async def test_task_that_ends():
    kept.append(asyncio.create_task(asyncio.sleep(0.01)))

async def test_unhandled_error():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)

@pytest.mark.timeout(seconds=0.5)
async def test_hang():
    await asyncio.Event().wait()

async def test_false():
    assert kept is None

def test_warning():
    warnings.warn("old")

def test_written_token():
    token_hash("hush")
    print("GET /?x=hush")

def test_written_signature():
    sys.stderr.write("0123456789abcdef" * 4)

def test_written_word():
    print("hush", "0123456789abcdef" * 5)
"""

INNER_UNCOLLECTABLE = """
import pytest

@pytest.mark.unheard_of
def test_marker():
    pass
"""


def inner_run(folder: Path) -> str:
    """What a pytest of its own says of tests that are clean and tests that are not, under this project's settings."""
    (folder / "conftest.py").write_text(INNER_CONFTEST)
    (folder / "test_inner.py").write_text(INNER_TESTS)
    (folder / "test_uncollectable.py").write_text(INNER_UNCOLLECTABLE)
    settings = ["-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder)]
    command = [sys.executable, "-m", "pytest", *settings, "-rA", "--continue-on-collection-errors", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False, cwd=folder)
    return run.stdout


def test_suite_reports_what_a_test_leaves_behind(tmp_path: Path) -> None:
    said = inner_run(tmp_path)
    expected = (
        "PASSED test_inner.py::test_clean",
        "PASSED test_inner.py::test_task_that_ends",
        "ERROR test_inner.py::test_leaked_task",
        "a running task: <Task pending name='forgotten'",
        "ERROR test_inner.py::test_unhandled_error",
        "an error that nobody handled: Exception in callback",
        "FAILED test_inner.py::test_hang",
        "Operation timed out after 0.5 seconds",
        "FAILED test_inner.py::test_false",
        "FAILED test_inner.py::test_warning - UserWarning: old",
        "FAILED test_inner.py::test_written_token - a secret was written:",
        "FAILED test_inner.py::test_written_signature - a secret was written:",
        "PASSED test_inner.py::test_written_word",
        "ERROR test_uncollectable.py",
        "'unheard_of' not found in `markers`",
        "= 5 failed, 5 passed, 3 errors in ",
    )
    assert not [line for line in expected if line not in said], said


def test_suite_reports_a_server_that_writes_a_token(tmp_path: Path) -> None:
    token_hash("hush")
    with pytest.raises(AssertionError, match="hush"), running_server(tmp_path, ["--address=hush.invalid"]) as server:
        assert server.process.wait(DEADLINE) == 1


@pytest.mark.parametrize("ci", ["", "0", "false"])
def test_require_skips_a_test_outside_ci(monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    monkeypatch.setenv("CI", ci)
    require(condition=True, reason="never said")
    with pytest.raises(pytest.skip.Exception, match="no moon tonight"):
        require(condition=False, reason="no moon tonight")


def test_require_fails_a_test_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    require(condition=True, reason="never said")
    with pytest.raises(pytest.fail.Exception, match="no moon tonight"):
        require(condition=False, reason="no moon tonight")


def test_suite_runs_on_the_wheel_under_tox() -> None:
    if os.environ.get("SUITE_EXPECTS_WHEEL"):
        seen = subprocess.check_output(
            [sys.executable, "-c", "import genstatus_server; print(genstatus_server.__file__)"], cwd=ROOT, text=True
        )
        assert Path(genstatus_server.__file__).is_relative_to(sys.prefix)
        assert Path(seen.strip()).is_relative_to(sys.prefix)


def test_tox_lists_the_interpreters_of_the_classifiers() -> None:
    listed = re.search(r"^promised = (.*)$", (ROOT / "tox.ini").read_text(), re.MULTILINE)
    assert listed
    versions = re.findall(r'Python :: 3\.(\d+)"', (ROOT / "setup.py").read_text())
    assert listed[1].split(", ") == [f"py3{minor}" for minor in reversed(versions)]


def test_shared_mongodb_is_a_replica_set(mongodb_uri: str) -> None:
    with pymongo.MongoClient[dict[str, Any]](mongodb_uri) as client:
        assert client.admin.command("hello")["setName"]


def test_suite_gives_each_test_a_new_database(
    database_name: str, sync_mongodb: "pymongo.MongoClient[dict[str, Any]]"
) -> None:
    assert database_name not in sync_mongodb.list_database_names()
    sync_mongodb[database_name]["jobs"].insert_one({"_id": 1})
    assert database_name in sync_mongodb.list_database_names()


async def test_shared_s3_stores_files_and_checks_signatures(
    s3: S3, s3_client: Any, http_client: SimpleAsyncHTTPClient
) -> None:
    s3_client.put_object(Bucket=s3.bucket, Key="123/D1.csv", Body=b"a,b")
    url = s3_client.generate_presigned_url("get_object", Params={"Bucket": s3.bucket, "Key": "123/D1.csv"})
    assert (await http_client.fetch(url)).body == b"a,b"
    refused = await http_client.fetch(url.replace("123", "124"), raise_error=False)
    assert refused.code in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}


async def test_io_loop_fixture_is_the_current_loop(io_loop: IOLoop) -> None:
    assert IOLoop.current() is io_loop
