"""The server and the commands on a MongoDB with TLS and roles: what each may do, and what it may not."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import trustme
from bson import ObjectId
from click.testing import CliRunner, Result
from pymongo.errors import OperationFailure

from genstatus_server.admin.init import ROLES
from genstatus_server.cli import commands
from genstatus_server.jobs_writer import JobsWriter
from tests.support.processes import ServerProcess, credentials, flags_for, running_server, wait_until
from tests.support.secured import PASSWORD, Client, SecuredMongoDB, secured_mongodb
from tests.support.services import S3

pytestmark = pytest.mark.one_python

NAME = "genstatus"
HELD = "/v1/check_generation_status/?submission_id=1&file_type=E&wait=true"
NOT_ALLOWED = 13


@pytest.fixture(scope="module")
def mongodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredMongoDB]:
    """With the roles that the command makes, and for each a user of its name."""
    with secured_mongodb(tmp_path_factory.mktemp("secured")) as running:
        invoke(running.uri("root"), "init-roles")
        # Again: it brings up to date what is there.
        made = invoke(running.uri("root"), "init-roles").stdout
        assert "genstatus_serve: changeStream, find, listCollections, listIndexes on genstatus.*\n" in made
        with running.client("root") as client:
            for role in ROLES:
                client[NAME].command("createUser", role, pwd=PASSWORD, roles=[role])
        yield running


def invoke(uri: str, *arguments: str, status: int = 0) -> Result:
    result = CliRunner(env={"GENSTATUS_MONGODB_URI": uri}).invoke(commands, arguments)
    assert result.exit_code == status, result.output
    return result


def check(uri: str) -> dict[str, str]:
    result = CliRunner(env={"GENSTATUS_MONGODB_URI": uri}).invoke(commands, ["check", "--json"])
    return {each["check"]: each["result"] for each in json.loads(result.stdout)["findings"]}


def test_check_reports_missing_privileges(mongodb: SecuredMongoDB) -> None:
    enough = check(mongodb.uri("genstatus_serve", NAME))
    parts = ("mongodb", "replica set", "change stream", "reads", "collections")
    assert {enough[name] for name in parts} == {"ok"}
    assert enough["oplog"] == "skipped"
    assert check(mongodb.uri("genstatus_worker", NAME))["change stream"] == "failed"
    assert check(mongodb.uri("root"))["oplog"] == "ok"


def test_roles_have_enough_privileges_for_their_part(tmp_path: Path, mongodb: SecuredMongoDB, s3: S3) -> None:
    assert "make collection jobs" in invoke(mongodb.uri("genstatus_init", NAME), "init-db").stdout
    admin = mongodb.uri("genstatus_admin", NAME)
    invoke(admin, "user", "create", "ada@example.gov")
    invoke(admin, "user", "grant", "1", "--cgac", "097")
    invoke(admin, "submission", "create", "1")
    token = json.loads(invoke(admin, "session", "create", "1", "--json").stdout)["token"]
    with mongodb.client("genstatus_worker", NAME) as client:
        writer = JobsWriter(client[NAME])
        writer.request(1, "E")
    assert "waiting" in invoke(admin, "job", "list").stdout
    flags = flags_for(mongodb.uri("genstatus_serve", NAME), NAME, s3)
    with running_server(tmp_path, flags, credentials(s3)) as server:
        server.wait_ready()
        status, answer, headers = hold_until_failed(server, mongodb, token)
        assert (status, answer["status"], headers["X-Wait-Result"]) == (200, "failed", "settled")
        assert server.end() == 0
        # It may see that nothing is missing.
        assert not server.records("database_incomplete")
        assert not server.records("database_not_checked")
    invoke(admin, "session", "revoke", "--user", "1")


def hold_until_failed(
    server: ServerProcess, mongodb: SecuredMongoDB, token: str
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """The answer to a request that is held while the job fails."""
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(server.ask, HELD, {"X-Session-ID": token})
        wait_until(lambda: server.metrics()["genstatus_held_requests"] == 1, "held")
        with mongodb.client("genstatus_worker", NAME) as client:
            client[NAME]["jobs"].update_one({"file_type": "E"}, {"$set": {"status": "failed", "message": "no data"}})
        return asking.result(30)


@pytest.mark.parametrize("collection", ["jobs", "submissions", "users", "sessions", "anything"])
def test_role_of_the_server_cannot_write(mongodb: SecuredMongoDB, collection: str) -> None:
    with mongodb.client("genstatus_serve", NAME) as client:
        documents = client[NAME][collection]
        for attempt in (
            lambda: documents.insert_one({"_id": ObjectId()}),
            lambda: documents.update_many({}, {"$set": {"status": "failed"}}),
            lambda: documents.delete_many({}),
            documents.drop,
            lambda: documents.create_index("x"),
        ):
            with pytest.raises(OperationFailure) as refused:
                attempt()
            assert refused.value.code == NOT_ALLOWED
        with pytest.raises(OperationFailure):
            client["another"][collection].find_one()


@pytest.mark.parametrize(
    ("role", "collection"), [("worker", "sessions"), ("worker", "users"), ("init", "jobs"), ("admin", "jobs")]
)
def test_roles_write_only_their_own_collections(mongodb: SecuredMongoDB, role: str, collection: str) -> None:
    with mongodb.client(f"genstatus_{role}", NAME) as client, pytest.raises(OperationFailure) as refused:
        client[NAME][collection].insert_one({"_id": 1})
    assert refused.value.code == NOT_ALLOWED


def test_certificate_of_another_authority_is_refused_and_logged(
    tmp_path: Path, mongodb: SecuredMongoDB, s3: S3
) -> None:
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    uri = mongodb.uri("genstatus_serve", NAME, tlsCAFile=str(stranger))
    with running_server(tmp_path, flags_for(uri, NAME, s3), credentials(s3)) as server:
        wait_until(lambda: server.records("change_stream_down"), "the failure")
        assert "certificate verify failed" in server.records("change_stream_down")[0]["cause"]
        assert server.ask("/readyz")[0] == HTTPStatus.SERVICE_UNAVAILABLE
        assert PASSWORD not in server.log


def test_server_trusts_a_ca_of_the_environment(
    tmp_path: Path, mongodb: SecuredMongoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE instead of tlsCAFile, as docs/deployment.md says."""
    uri = mongodb.uri("genstatus_serve", NAME, tlsCAFile="")
    monkeypatch.setenv("SSL_CERT_FILE", str(mongodb.ca_file))
    with Client(uri, serverSelectionTimeoutMS=5000) as client:
        client.admin.command("ping")
