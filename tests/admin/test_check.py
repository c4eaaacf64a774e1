"""`genstatus check`, run as an operator runs it, against a real MongoDB and a real S3."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from genstatus_server.cli import commands
from genstatus_server.mongo.schema import initialize
from tests.support import secrecy
from tests.support.processes import credentials, flags_for
from tests.support.replica_set import running_node
from tests.support.services import S3

if TYPE_CHECKING:
    import pymongo

pytestmark = pytest.mark.one_python

Findings = dict[str, dict[str, str]]
Check = Callable[..., tuple[int, Findings]]


@pytest.fixture
def invoke(mongodb_uri: str, database_name: str, s3: S3) -> Callable[..., Result]:
    """Runs the command with these flags beside those that fit the shared servers; an environment may be given."""

    def run(*flags: str, **environment: str | None) -> Result:
        given = [*flags_for(mongodb_uri, database_name, s3), *flags]
        result = CliRunner(env={**credentials(s3), **environment}).invoke(commands, ["check", *given])
        assert not secrecy.found_in(result.output)
        return result

    return run


@pytest.fixture
def check(invoke: Callable[..., Result]) -> Check:
    """Its exit status, and what it has found by the check's name."""

    def run(*flags: str, **environment: str | None) -> tuple[int, Findings]:
        result = invoke(*flags, "--json", **environment)
        content = json.loads(result.stdout)
        assert content["ok"] == (result.exit_code == 0), result.output
        return result.exit_code, {each["check"]: each for each in content["findings"]}

    return run


def results(findings: Findings) -> dict[str, str]:
    return {name: finding["result"] for name, finding in findings.items()}


def test_check_finds_nothing_wrong_where_nothing_is(
    mongodb_uri: str, database_name: str, s3: S3, s3_client: Any, check: Check
) -> None:
    list(initialize(mongodb_uri, database_name))
    s3_client.put_object(Bucket=s3.bucket, Key="1/D1.csv", Body=b"x" * 100_000, ContentType="text/csv")
    status, findings = check("--download", "1/D1.csv")
    assert (status, set(results(findings).values())) == (0, {"ok"})
    assert findings["download"]["found"] == "100000 bytes, text/csv"
    assert findings["signature"]["found"] == f"signed for {s3.endpoint_url}/{s3.bucket}/1/D1.csv"
    assert "MongoDB 6." in findings["mongodb"]["found"]


def test_check_shows_a_table_and_advice_for_people(invoke: Callable[..., Result]) -> None:
    lines = invoke().stdout.splitlines()
    assert lines[0].split() == ["check", "result", "found"]
    assert "mongodb        ok" in "\n".join(lines)
    assert "schema: run `genstatus init-db`, which does it" in lines
    assert any(line.startswith("download: --download KEY") for line in lines)


def test_check_names_what_init_db_would_make(check: Check) -> None:
    status, findings = check()
    assert status == 0
    assert findings["schema"]["result"] == "warning"
    assert "collection jobs" in findings["schema"]["found"]
    assert findings["download"]["result"] == "skipped"


def test_check_names_documents_that_the_validator_refuses(
    sync_mongodb: "pymongo.MongoClient[dict[str, Any]]", database_name: str, check: Check
) -> None:
    sync_mongodb[database_name]["jobs"].insert_one({"_id": 5, "status": "done"})
    status, findings = check()
    assert status == 0
    assert "refuses 1 document, with _id 5" in findings["documents"]["found"]


def test_check_gives_up_a_mongodb_that_says_nothing(check: Check) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        status, findings = check(f"--mongodb-uri=mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=200")
    assert status == 1
    assert findings["mongodb"]["found"] == "MongoDB cannot be reached: it does not answer in time"


def test_check_names_a_view(
    sync_mongodb: "pymongo.MongoClient[dict[str, Any]]", database_name: str, check: Check
) -> None:
    sync_mongodb[database_name].create_collection("jobs", viewOn="others", pipeline=[])
    status, findings = check()
    assert (status, findings["collections"]["found"]) == (1, "jobs: a view")


def test_check_says_what_a_standalone_lacks(tmp_path: Path, check: Check) -> None:
    with running_node(tmp_path) as node:
        status, findings = check(f"--mongodb-uri={node.uri}")
    assert status == 0
    assert results(findings) | {"replica set": "warning", "change stream": "skipped", "oplog": "skipped"} == results(
        findings
    )


def test_check_where_mongodb_is_away_still_checks_s3(check: Check) -> None:
    status, findings = check("--mongodb-uri=mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100")
    assert status == 1
    assert findings["mongodb"]["found"] == "MongoDB cannot be reached: nothing listens there"
    assert findings["signature"]["result"] == "ok"


@pytest.mark.parametrize(
    ("flags", "environment", "finding", "found"),
    [
        (
            [],
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "signature",
            "the AWS chain has no credentials",
        ),
        ([], {"AWS_PROFILE": "nobody"}, "signature", "nobody"),
        (["--download=nothing"], {}, "download", "S3 answers 404 NoSuchKey"),
        (["--download=nothing"], {"AWS_SECRET_ACCESS_KEY": "another"}, "download", "SignatureDoesNotMatch"),
        (["--download=nothing", "--s3-endpoint-url=http://127.0.0.1:1"], {}, "download", "Connection refused"),
    ],
)
def test_check_explains_what_is_wrong_with_s3(
    check: Check, flags: list[str], environment: dict[str, str | None], finding: str, found: str
) -> None:
    status, findings = check(*flags, **environment)
    assert status == 1
    assert found in findings[finding]["found"]


def test_check_gives_up_a_download_without_a_byte(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genstatus_server.admin.check_s3._SILENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        status, findings = check("--download=a", f"--s3-endpoint-url=http://127.0.0.1:{silent.getsockname()[1]}")
    assert (status, findings["download"]["found"]) == (1, "no byte for 0.2 s")


def test_check_warns_of_a_missing_bucket_and_region(mongodb_uri: str, s3: S3) -> None:
    result = CliRunner(env=credentials(s3)).invoke(commands, ["check", f"--mongodb-uri={mongodb_uri}", "--json"])
    findings = {each["check"]: each for each in json.loads(result.stdout)["findings"]}
    assert results(findings) | {"bucket": "warning", "region": "warning", "signature": "ok"} == results(findings)
    assert result.exit_code == 0


def test_check_refuses_bad_options_with_status_2() -> None:
    assert CliRunner().invoke(commands, ["check", "--url-ttl"]).exit_code == 2
