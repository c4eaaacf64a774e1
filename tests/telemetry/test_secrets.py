"""Nothing that the server writes holds a session token, a signature or a password, whatever is asked of it."""

import contextlib
import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pymongo
import pytest

from genstatus_server.telemetry import log
from tests.support.processes import ServerProcess, credentials, flags_for, running_server, wait_until
from tests.support.services import S3
from tests.support.world import in_future, token_hash

pytestmark = pytest.mark.one_python

Client = pymongo.MongoClient[dict[str, Any]]

PASSWORD = "pass-w0rd/of@mongodb"
TOKENS = {"good": "t0ken-of-the-owner", "expired": "t0ken-that-expired", "unknown": "t0ken-that-nobody-has"}
ROUTE = "/v1/check_generation_status/"
#: What makes Python say all that it can.
TALKATIVE = {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1", "PYTHONWARNINGS": "always"}


#: Every library on debug level, from before the server begins.
ON_DEBUG_LEVEL = """
import logging
for name in ("aiobotocore", "aiohttp", "asyncio", "botocore", "pymongo", "tornado"):
    logging.getLogger(name).setLevel(logging.DEBUG)
"""


@pytest.fixture
def secret_uri(mongodb_uri: str, sync_mongodb: Client, database_name: str) -> Iterator[str]:
    """The URI of MongoDB with a user of the test's own, and a password."""
    admin = sync_mongodb["admin"]
    roles = [{"role": "read", "db": database_name}]
    admin.command("createUser", database_name, pwd=PASSWORD, roles=roles)
    parts = urlsplit(mongodb_uri)
    yield f"mongodb://{database_name}:{quote(PASSWORD, safe='')}@{parts.netloc}/?{parts.query}&authSource=admin"
    admin.command("dropUser", database_name)


@pytest.fixture
def prepared(sync_mongodb: Client, database_name: str) -> str:
    """A database with a finished job, one in `waiting`, and one that makes no sense; its name."""
    database = sync_mongodb[database_name]
    database["users"].insert_one({"_id": 1})
    database["submissions"].insert_many([{"_id": 1, "user_id": 1}, {"_id": 2, "user_id": 2}])
    for name, seconds in (("good", 3600), ("expired", -60)):
        session = {"_id": token_hash(TOKENS[name]), "user_id": 1, "expires_at": in_future(seconds)}
        database["sessions"].insert_one(session)
    finished = {"status": "finished", "upload": {"status": "finished", "key": "1/D1.csv"}}
    database["jobs"].insert_many(
        [
            {"_id": 1, "submission_id": 1, "file_type": "D1", **finished},
            {"_id": 2, "submission_id": 1, "file_type": "D2", "status": "waiting"},
            {"_id": 3, "submission_id": 1, "file_type": "E", "status": {"session": TOKENS["good"]}},
        ]
    )
    return database_name


def fetch(server: ServerProcess, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()


def send_raw(server: ServerProcess, content: bytes) -> None:
    """Bytes on a connection of their own, until the server has closed it or answered."""
    parts = urlsplit(server.url)
    with contextlib.suppress(ConnectionError), socket.create_connection((parts.hostname, parts.port), 30) as connection:
        connection.sendall(content + b"\r\n\r\n")
        connection.recv(1000)


def ask_everything(server: ServerProcess) -> list[int]:
    """Every kind of request, with secrets wherever a client may put them; the statuses of the answers."""
    asked = f"{ROUTE}?submission_id=1&file_type="
    url = json.loads(fetch(server, asked + "D1", X_Session_ID=TOKENS["good"])[1]).get("url", "#")
    statuses = []
    for token in TOKENS.values():
        headers = {"X_Session_ID": token, "Cookie": f"session={token}"}
        in_query = f"&session={token}&X-Session-ID={token}&x={quote(url, safe='')}"
        for path in (
            *(asked + each for each in ("D1", "D2", "E", "F", "X", "D2&wait=true&timeout=0.01", "D1&wait=true")),
            *(f"{ROUTE}?submission_id={each}&file_type=D1" for each in ("2", "3", "", quote(url), token)),
            f"/nowhere{quote(url, safe='')}",
            "/readyz?",
        ):
            referers = (f"http://page/?session={token}", url)
            statuses += [fetch(server, path, **headers, Referer=referer)[0] for referer in referers]
            statuses += [fetch(server, path + in_query, **headers, Prefer=token, Origin=token)[0]]
        methods = ("DELETE", "POST", "OPTIONS")
        statuses += [fetch(server, asked + "D1" + in_query, method, **headers)[0] for method in methods]
        line = asked.encode() + b"D1" + in_query.encode()
        send_raw(server, b"GET " + line + b"\x00 HTTP/1.1\r\nHost: x")
        send_raw(server, b"GET " + line + b" HTTP/1.1\r\nHost: x\r\nX-Session-ID : " + token.encode())
        send_raw(server, b"X-Session-ID: " + token.encode())
        send_raw(server, b"POST " + line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: x" + token.encode())
    return statuses


def check_silence(server: ServerProcess, *more: str) -> None:
    written = server.log
    for secret in (*TOKENS.values(), *map(token_hash, TOKENS.values()), PASSWORD, quote(PASSWORD, safe=""), *more):
        assert secret not in written, secret
    assert "Traceback" not in written, written
    assert not re.search(r"x-amz-signature(=|%3d)[0-9a-f]{8}", written, re.IGNORECASE)


def test_log_of_a_serving_server_has_no_secret(tmp_path: Path, secret_uri: str, prepared: str, s3: S3) -> None:
    with running_server(tmp_path, flags_for(secret_uri, prepared, s3), credentials(s3) | TALKATIVE) as server:
        server.wait_ready()
        statuses = ask_everything(server)
        assert {200, 204, 400, 401, 403, 404, 405} <= set(statuses)
        url = json.loads(fetch(server, f"{ROUTE}?submission_id=1&file_type=D1", X_Session_ID=TOKENS["good"])[1])["url"]
        assert server.end() == 0
        assert len(server.records("request")) > len(statuses)
        assert server.records("job_malformed")
        assert "***" in server.log, "some secret came as far as the log, and was scrubbed there"
        check_silence(server, s3.secret_key, parse_qs(urlsplit(url).query)["X-Amz-Signature"][0])


@pytest.mark.parametrize("log_format", ["json", "human"])
def test_log_of_libraries_on_debug_level_has_no_secret(
    tmp_path: Path, secret_uri: str, prepared: str, s3: S3, log_format: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(ON_DEBUG_LEVEL)
    environment = credentials(s3) | TALKATIVE | {"PYTHONPATH": str(tmp_path)}
    flags = [*flags_for(secret_uri, prepared, s3), f"--log-format={log_format}"]
    with running_server(tmp_path, flags, environment) as server:
        server.wait_ready()
        assert 200 in ask_everything(server)
        assert server.end() == 0
        for library in ("Calculating signature using v4 auth", "Command started"):
            assert library in server.log, "they do say what they do"
        check_silence(server, s3.secret_key)


def test_log_of_a_server_without_credentials_has_no_secret(
    tmp_path: Path, secret_uri: str, prepared: str, s3: S3
) -> None:
    with running_server(tmp_path, flags_for(secret_uri, prepared, s3), TALKATIVE) as server:
        wait_until(lambda: server.ask("/readyz")[1]["change_stream"] == "live", "the change stream")
        assert 503 in ask_everything(server)
        server.end()
        assert [record for record in server.records("request") if "cause" in record]
        check_silence(server)


def test_log_of_a_refused_login_has_no_password(tmp_path: Path, secret_uri: str, prepared: str, s3: S3) -> None:
    wrong = secret_uri.replace(quote(PASSWORD, safe=""), quote(PASSWORD + "!", safe=""))
    with running_server(tmp_path, flags_for(wrong, prepared, s3), credentials(s3) | TALKATIVE) as server:
        wait_until(lambda: server.records("change_stream_down"), "a failed attempt")
        path = f"{ROUTE}?submission_id=1&file_type=D1"
        assert fetch(server, path, X_Session_ID=TOKENS["good"])[0] == 503
        server.end()
        check_silence(server)


@pytest.mark.parametrize(
    "text",
    [
        "https://b.s3.amazonaws.com/k?X-Amz-Expires=60&X-Amz-Signature=SECRET",
        "X-Amz-Credential=SECRET&X-Amz-Security-Token=SECRET",
        "https%3A%2F%2Fb%2Fk%3FX-Amz-Signature%3DSECRET",
        "https://b/k?AWSAccessKeyId=SECRET&Signature=SECRET&Expires=1",
        "x-session-id: SECRET",
        "{'X-Session-ID': 'SECRET'}",
        '{"record": "{\\"X-Session-ID\\": \\"SECRET\\"}"}',
        r'{"reply": "{\"job\": \"{\\\"session\\\": \\\"SECRET\\\"}\"}"}',
        "Signature:\nSECRET",
        r'{"action": "Signature:\nSECRET"}',
        "GET /?session=SECRET&a=b",
        "mongodb://user:SECRET@host/",
        "MongoDB+SRV://user:SECRET@host/?a=b",
        'Could not connect to the endpoint URL: "http://user:SECRET@127.0.0.1:9/"',
    ],
)
def test_scrub_removes_secrets(text: str) -> None:
    assert "SECRET" in text
    assert "SECRET" not in log.scrub(text)


@pytest.mark.parametrize("value", ["session=", "session:", "x signature=", "http://a"])
def test_scrub_leaves_json_that_can_be_read(value: str) -> None:
    for record in ({"problems": [value]}, {"cause": value, "more": "a@b"}, {"nested": json.dumps({"a": [value]})}):
        assert json.loads(log.scrub(json.dumps(record))) == record


@pytest.mark.parametrize("text", ["StringToSign:\nAWS4-HMAC-SHA256\n{}", r"the session\n{}\n", "'sessions', '{}'"])
def test_scrub_removes_a_digest_whatever_is_before_it(text: str) -> None:
    assert log.scrub(text.format("0123456789abcdef" * 4)) == text.format("***")
    longer = text.format("0123456789abcdef" * 5)
    assert log.scrub(longer) == longer


@pytest.mark.parametrize(
    "text", ["", "GET /v1/check_generation_status/ 200", "mongodb://host:27017/", "the session ended", "ünï © \u2028"]
)
def test_scrub_keeps_ordinary_text(text: str) -> None:
    assert log.scrub(text) == text
