"""The commands as an operator runs them: real processes, real signals."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymongo
import pytest
from click.testing import CliRunner, Result
from pymongo.errors import DuplicateKeyError, WriteError
from structlog.testing import capture_logs
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from genstatus_server import __version__
from genstatus_server.cli import commands
from genstatus_server.model.errors import StartupError
from genstatus_server.server.run import with_embedded
from genstatus_server.settings import OPTIONS, BadSettings, Settings
from tests.support.embedded_processes import processes_in
from tests.support.proc import children_of, is_running
from tests.support.processes import (
    DEADLINE,
    ServerProcess,
    credentials,
    flags_for,
    run_command,
    running_server,
    wait_until,
)
from tests.support.server import settings_for, start, until
from tests.support.services import S3
from tests.support.world import World, in_future, token_hash

Client = pymongo.MongoClient[dict[str, Any]]
Database = pymongo.database.Database[dict[str, Any]]

#: Seconds; an end that comes much sooner waited for nobody.
DRAIN_TIMEOUT = 60
HELD = "/v1/check_generation_status/?submission_id=1&file_type=D1&wait=true&timeout=55"


@pytest.fixture
def served(tmp_path: Path, mongodb_uri: str, initialized: Database, s3: S3) -> Iterator[ServerProcess]:
    """A server after `init-db` with one job in `waiting`, that the token `owner` may see."""
    database = initialized
    database["users"].insert_one({"_id": 1})
    database["submissions"].insert_one({"_id": 1, "user_id": 1})
    database["sessions"].insert_one({"_id": token_hash("owner"), "user_id": 1, "expires_at": in_future()})
    database["jobs"].insert_one({"_id": 1, "submission_id": 1, "file_type": "D1", "status": "waiting"})
    flags = flags_for(mongodb_uri, database.name, s3, **{"drain-timeout": str(DRAIN_TIMEOUT)})
    with running_server(tmp_path, flags, credentials(s3)) as server:
        server.wait_ready()
        yield server


class Held:
    """Requests that are held, each on a connection of its own, answered in threads."""

    def __init__(self, server: ServerProcess, count: int) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self._threads = [threading.Thread(target=self._ask, args=(server.url,)) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        wait_until(lambda: f"genstatus_held_requests {count}.0" in metrics(server), f"{count} held")

    def _ask(self, url: str) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=DEADLINE)
        connection.request("GET", HELD, headers={"X-Session-ID": "owner"})
        answer = connection.getresponse()
        self.answers.append((answer.status, dict(answer.getheaders()), answer.read()))
        connection.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(DEADLINE)


def metrics(server: ServerProcess) -> str:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=DEADLINE)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def invoke(*arguments: str) -> Result:
    """A command in this process: what only `main` does is tested in processes of their own."""
    return CliRunner().invoke(commands, arguments)


def test_help_explains_every_option() -> None:
    shown = " ".join(invoke("serve", "--help").stdout.split())
    for option in OPTIONS:
        assert option.flag in shown
        assert option.help in shown


def test_main_reports_all_bad_values_together_with_status_2() -> None:
    ended = run_command("serve", "--port=x", "--url-ttl=0", environment={"GENSTATUS_MAX_WAITS": "-1"})
    assert ended.returncode == 2
    assert [line.split(":")[1].strip() for line in ended.stderr.splitlines()] == [
        "--port",
        "--url-ttl",
        "GENSTATUS_MAX_WAITS",
    ]


def test_main_refuses_an_unknown_flag_with_status_2() -> None:
    assert invoke("serve", "--prot=1").exit_code == 2


def test_main_reports_a_port_in_use_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run_command("serve", f"--port={taken.getsockname()[1]}", "--mongodb-uri=mongodb://127.0.0.1:1/")
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "in use" in ended.stderr


def test_init_db_runs_several_times_at_once(mongodb_uri: str, database_name: str) -> None:
    flags = (f"--mongodb-uri={mongodb_uri}", f"--mongodb-database={database_name}")
    with ThreadPoolExecutor(4) as threads:
        ended = list(threads.map(lambda _: run_command("init-db", *flags), range(4)))
    assert [(each.returncode, each.stderr) for each in ended] == [(0, "")] * 4


@pytest.mark.parametrize("processes", [1, 2])
def test_server_refuses_an_unusable_aws_configuration_in_one_line(
    monkeypatch: pytest.MonkeyPatch, mongodb_uri: str, processes: int
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nope")
    ended = run_command("serve", "--port=0", f"--mongodb-uri={mongodb_uri}", f"--processes={processes}")
    assert ended.returncode == 1
    # A thread writes the log, so its records may come before or after the line.
    (line,) = [each for each in ended.stderr.splitlines() if not each.startswith("{")]
    assert line == "genstatus: AWS configuration: The config profile (nope) could not be found"
    assert "process_died" not in ended.stderr


def test_init_db_checks_only_its_own_options(
    monkeypatch: pytest.MonkeyPatch, mongodb_uri: str, database_name: str
) -> None:
    monkeypatch.setenv("GENSTATUS_PORT", "tcp://10.0.0.1:8888")
    flags = (f"--mongodb-uri={mongodb_uri}", f"--mongodb-database={database_name}")
    assert invoke("init-db", "--dry-run", *flags).exit_code == 0


def test_init_db_makes_validators_and_can_be_repeated(
    mongodb_uri: str, sync_mongodb: Client, database_name: str
) -> None:
    flags = (f"--mongodb-uri={mongodb_uri}", f"--mongodb-database={database_name}")
    for _ in range(2):
        assert invoke("init-db", *flags).exit_code == 0
    database = sync_mongodb[database_name]
    good = {"_id": 1, "submission_id": 1, "file_type": "D1", "status": "waiting"}
    database["jobs"].insert_one(good)
    with pytest.raises(DuplicateKeyError):
        database["jobs"].insert_one(good | {"_id": 2})
    for nonsense in (
        {"status": "done"},
        {"file_type": "D3"},
        {"submission_id": "2"},
        {"submission_id": 1.5},
        {"size": -1},
        {"size": "1"},
        {"upload": {"status": "finished"}},
        {"upload": {"status": "finished", "key": ""}},
        {"upload": "finished"},
        {"start": "2026-01-01"},
        {"message": 7},
    ):
        with pytest.raises(WriteError):
            database["jobs"].insert_one(good | {"_id": 3, "submission_id": 3} | nonsense)
    ttl = database["sessions"].index_information()["expires_at_ttl"]
    assert ttl["expireAfterSeconds"] == 0
    with pytest.raises(WriteError):
        database["sessions"].insert_one({"_id": "a token", "user_id": 1, "expires_at": in_future()})


def test_init_db_dry_run_changes_nothing(mongodb_uri: str, sync_mongodb: Client, database_name: str) -> None:
    def init_db(*flags: str) -> Result:
        where = (f"--mongodb-uri={mongodb_uri}", f"--mongodb-database={database_name}")
        return invoke("init-db", *where, *flags)

    would = init_db("--dry-run").stdout.splitlines()
    assert f"{database_name}: would make collection jobs" in would
    assert f"{database_name}: would build index expires_at_ttl of sessions" in would
    database = sync_mongodb[database_name]
    assert not database.list_collection_names()
    done = init_db().stdout.splitlines()
    assert done == [line.replace("would ", "") for line in would]
    assert init_db("--dry-run").stdout == f"{database_name}: nothing to do\n"
    # What an older release has left behind.
    database.command("collMod", "users", validator={"$jsonSchema": {"bsonType": "object"}})
    database["sessions"].drop_indexes()
    database["sessions"].create_index("expires_at", name="expires_at_ttl")
    assert init_db("--dry-run").stdout.splitlines() == [
        f"{database_name}: would set validator of users",
        f"{database_name}: would build index expires_at_ttl of sessions (another index has this name: drop it first)",
    ]
    assert isinstance(init_db().exception, StartupError)
    database["sessions"].drop_indexes()
    assert init_db().exit_code == 0
    assert init_db("--dry-run").stdout == f"{database_name}: nothing to do\n"


def test_init_db_reports_an_unreachable_mongodb_in_one_line() -> None:
    error = invoke("init-db", "--mongodb-uri=mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100").exception
    assert isinstance(error, StartupError)
    assert len(str(error).splitlines()) == 1
    assert isinstance(invoke("init-db").exception, BadSettings)


async def test_server_warns_of_missing_validators_and_indexes(
    unhurried: None, world: World, mongodb_uri: str, s3: S3, http_client: SimpleAsyncHTTPClient
) -> None:
    await world.put_job()
    async with AsyncExitStack() as stack:
        with capture_logs() as records:
            server = await start(stack, settings_for(mongodb_uri, world.name, s3), s3, http_client)
            await until(lambda: any(record["event"] == "database_incomplete" for record in records))
        assert (await server.check()).code == HTTPStatus.OK
    (missing,) = [record["missing"] for record in records if record["event"] == "database_incomplete"]
    assert "validator of jobs" in missing
    assert "index submission_id_file_type of jobs" in missing
    assert "index expires_at_ttl of sessions" in missing


def test_serve_answers_every_hold_at_sigterm(served: ServerProcess) -> None:
    held = Held(served, 20)
    begin = time.monotonic()
    assert served.end() == 0
    assert time.monotonic() - begin < DRAIN_TIMEOUT / 2
    held.join()
    assert len(held.answers) == 20
    for status, headers, content in held.answers:
        assert status == HTTPStatus.OK
        assert b'"waiting"' in content
        assert headers["X-Wait-Result"] == "draining"
        assert headers["Connection"] == "close"
        assert int(headers["Retry-After"]) > 0
    assert not served.records("database_incomplete")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_at_once_at_a_second_signal(tmp_path: Path, s3: S3, second: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # Takes connections, and never answers: nobody can drain.
        flags = flags_for(f"mongodb://127.0.0.1:{silent.getsockname()[1]}/", "genstatus", s3)
        with (
            running_server(tmp_path, flags, credentials(s3)) as server,
            socket.create_connection(address(server)) as client,
        ):
            client.sendall(f"GET {HELD} HTTP/1.1\r\nHost: a\r\nX-Session-ID: owner\r\n\r\n".encode())
            assert server.ask("/livez")[0] == HTTPStatus.OK  # It came later, so the other has been read.
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.records("draining"), "draining")
            server.process.send_signal(second)
            assert server.process.wait(DEADLINE) == 128 + second


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_serve_ends_by_a_signal_during_its_imports(number: signal.Signals) -> None:
    """The trap: process 1 of a container gets no signal that it does not handle, and would go on."""
    # Where its coverage is measured, coverage handles SIGTERM.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-m", "genstatus_server", "serve", "--port=0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        proc = Path(f"/proc/{process.pid}/status")

        def is_handled() -> int:
            return int(proc.read_text().split("SigCgt:")[1].split()[0], 16) & 1 << (signal.SIGTERM - 1)

        wait_until(is_handled, "signals are handled")
        process.send_signal(number)
        assert (process.wait(DEADLINE), process.communicate()[1]) == (0, "")


def address(server: ServerProcess) -> tuple[str, int]:
    url = urlsplit(server.url)
    return url.hostname or "", url.port or 0


@contextmanager
def importing(folder: Path, module: str) -> Iterator[ServerProcess]:
    """A server that is in the midst of importing `module`, which takes a minute."""
    reached = folder / "reached"
    (folder / f"{module}.py").write_text(
        f"import pathlib, time\npathlib.Path({str(reached)!r}).touch()\ntime.sleep(60)\n"
    )
    with running_server(folder, [], {"PYTHONPATH": str(folder)}) as server:
        wait_until(reached.exists, "in the midst of an import")
        yield server


def test_main_ends_at_ctrl_c_while_it_imports(tmp_path: Path) -> None:
    with importing(tmp_path, "click") as server:
        assert server.end(signal.SIGINT) == -signal.SIGINT
        assert not server.log


def test_serve_ignores_user_signals_while_it_imports(tmp_path: Path) -> None:
    with importing(tmp_path, "prometheus_client") as server:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        ignored = int(status.partition("SigIgn:\t")[2].split()[0], 16)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            assert ignored & 1 << (number - 1)
        server.process.kill()


async def test_embedded_services_need_a_folder() -> None:
    with pytest.raises(StartupError, match=r"no home folder .* set --data-dir"):
        await with_embedded(AsyncExitStack(), Settings(data_dir=""))


@pytest.mark.one_python
def test_serve_without_a_mongodb_uri_runs_an_embedded_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    misspelt = {"GENSTATUS_MONGDB_URI": "mongodb://db1/", "GENSTATUS_SERVICE_HOST": "10.0.0.1"}
    for number in (signal.SIGKILL, signal.SIGTERM):
        with running_server(tmp_path, ["--port=0", f"--data-dir={data}"], misspelt) as server:
            server.wait_ready()
            (warning,) = server.records("unknown_variable")
            assert warning["variable"] == "GENSTATUS_MONGDB_URI"
            assert "GENSTATUS_MONGODB_URI" in warning["hint"]
            assert server.records("mongodb_uri_missing")[0]["level"] == "warning"
            assert processes_in(data, program="mongod")
            assert processes_in(data, program="rclone")
            assert server.end(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        wait_until(lambda: not processes_in(data), "no process is left")


def test_serve_starts_while_mongodb_is_away(tmp_path: Path, s3: S3) -> None:
    flags = flags_for("mongodb://127.0.0.1:1/?replicaSet=rs0", "genstatus", s3)
    with running_server(tmp_path, flags, credentials(s3)) as server:
        assert server.ask("/livez")[0] == HTTPStatus.OK
        status, parts, _ = server.ask("/readyz")
        assert status == HTTPStatus.SERVICE_UNAVAILABLE
        assert parts == {"mongodb": "down", "change_stream": "down", "signer": "ok"}
        begin = time.monotonic()
        status, content, headers = server.ask(HELD, {"X-Session-ID": "owner"})
        assert time.monotonic() - begin < 45  # A hold takes more than 50.
        assert (status, content) == (503, {"message": "Service temporarily unavailable"})
        assert int(headers["Retry-After"]) > 0
        assert server.end() == 0


def test_processes_end_with_their_killed_parent(tmp_path: Path, mongodb_uri: str, database_name: str, s3: S3) -> None:
    flags = flags_for(mongodb_uri, database_name, s3, processes="2")
    with running_server(tmp_path, flags, credentials(s3)) as server:
        wait_until(lambda: len(server.records("change_stream_open")) == 2, "both processes")
        children = children_of(server.process.pid)
        server.end(signal.SIGKILL)
        wait_until(lambda: not any(is_running(child) for child in children), "the children's end")


def test_genstatus_prints_its_version() -> None:
    genstatus = Path(sysconfig.get_path("scripts"), "genstatus")
    shown = subprocess.run([genstatus, "--version"], capture_output=True, text=True, check=True, timeout=DEADLINE)
    assert __version__ in shown.stdout
