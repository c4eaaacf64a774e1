"""The admin commands, run as an operator runs them, against a real MongoDB; what they write, the server goes by."""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
import pymongo.uri_parser
import pytest
from click.testing import CliRunner, Result

from genstatus_server.admin import database as admin_database
from genstatus_server.admin.database import age, duration
from genstatus_server.cli import commands
from genstatus_server.model.errors import StartupError
from genstatus_server.mongo.schema import initialize
from genstatus_server.settings import BadSettings
from tests.support.server import DEADLINE, Server, body

if TYPE_CHECKING:
    from pymongo.database import Database
    from tornado.httpclient import HTTPResponse

pytestmark = pytest.mark.one_python

Run = Callable[..., Result]


@pytest.fixture
def database(
    sync_mongodb: "pymongo.MongoClient[dict[str, Any]]", mongodb_uri: str, database_name: str
) -> "Database[dict[str, Any]]":
    """The test's database as `init-db` makes it: what the commands write has to pass its validators."""
    list(initialize(mongodb_uri, database_name))
    return sync_mongodb[database_name]


@pytest.fixture
def run(mongodb_uri: str, database_name: str) -> Run:
    """Runs a command on the test's database; fails where its exit status is not the one that is expected."""

    def run_it(*arguments: str, status: int = 0) -> Result:
        where = {"GENSTATUS_MONGODB_URI": mongodb_uri, "GENSTATUS_MONGODB_DATABASE": database_name}
        result = CliRunner(env=where).invoke(commands, arguments)
        assert result.exit_code == status, result.output
        return result

    return run_it


def test_session_create_shows_the_token_once_and_stores_its_hash(
    database: "Database[dict[str, Any]]", run: Run
) -> None:
    run("user", "create", "ada@example.gov", "--id", "7")
    made = json.loads(run("session", "create", "ada@example.gov", "--ttl", "30m", "--json").stdout)
    assert len(made["token"]) == 43
    (stored,) = database["sessions"].find()
    assert stored["_id"] == made["session"] == hashlib.sha256(made["token"].encode()).hexdigest()
    assert stored["user_id"] == 7
    left = stored["expires_at"].replace(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(minutes=29) < left <= timedelta(minutes=30)
    listed = run("session", "list").stdout
    assert made["session"][:12] in listed
    for shown in (listed, run("session", "list", "--json").stdout):
        assert made["token"] not in shown


def test_session_revoke_takes_one_or_all_of_a_user(database: "Database[dict[str, Any]]", run: Run) -> None:
    assert run("session", "list").stdout == "no login sessions\n"
    assert json.loads(run("session", "list", "--json").stdout) == []
    for name in ("ada", "bob"):
        run("user", "create", f"{name}@example.gov")
        for _ in range(2):
            run("session", "create", f"{name}@example.gov")
    listed = json.loads(run("session", "list", "--user", "2", "--json").stdout)
    assert [each["user_id"] for each in listed] == [2, 2]
    assert run("session", "revoke", listed[0]["session"][:12]).stdout == "revoked  1\n"
    run("session", "revoke", listed[0]["session"][:12], status=1)
    assert database["sessions"].count_documents({"user_id": 2}) == 1
    assert run("session", "revoke", "--user", "ada@example.gov").stdout == "revoked  2\n"
    assert database["sessions"].count_documents({}) == 1
    for nonsense in ([], ["abc"], ["not-hexadecimal"], ["abcdef123456", "--user", "1"]):
        run("session", "revoke", *nonsense, status=2)


def test_session_revoke_refuses_an_ambiguous_beginning(database: "Database[dict[str, Any]]", run: Run) -> None:
    for end in "01":
        session = {"_id": "ab" * 31 + "0" + end, "user_id": 1, "expires_at": datetime.now(UTC) + timedelta(hours=1)}
        database["sessions"].insert_one(session)
    assert "more than one" in run("session", "revoke", "abababab", status=1).output
    run("session", "revoke", "ab" * 31 + "00")
    assert database["sessions"].count_documents({}) == 1


def test_user_grant_and_revoke_change_rights(database: "Database[dict[str, Any]]", run: Run) -> None:
    run("user", "create", "ada@example.gov")
    assert "already" in run("user", "create", "ada@example.gov", status=1).output
    assert "already" in run("user", "create", "eve@example.gov", "--id", "1", status=1).output
    for _ in range(2):  # Repeating it changes nothing.
        run("user", "grant", "1", "--cgac", "097", "--frec", "1601")
    (user,) = database["users"].find()
    assert user["affiliations"] == [
        {"cgac_code": "097", "permission": "reader"},
        {"frec_code": "1601", "permission": "reader"},
    ]
    assert user["website_admin"] is False
    shown = run("user", "grant", "ada@example.gov", "--admin").stdout
    assert "097 (reader), 1601 (reader)" in shown
    assert database["users"].find_one({}, ["website_admin"]) == {"_id": 1, "website_admin": True}
    run("user", "revoke", "1", "--frec", "1601", "--admin")
    revoked = run("user", "revoke", "1", "--cgac", "020", "--frec", "1601", "--admin", "--json")
    assert revoked.stderr == "user 1 does not have cgac_code 020, frec_code 1601, website_admin\n"
    assert json.loads(revoked.stdout) == {
        "user_id": 1,
        "email": "ada@example.gov",
        "website_admin": False,
        "affiliations": "097 (reader)",
    }
    assert run("user", "revoke", "1", "--cgac", "097").stderr == ""
    run("user", "grant", "1", status=2)
    run("user", "grant", "1", "--cgac", "", status=2)
    assert "no user 99" in run("user", "grant", "99", "--admin", status=1).output


def test_submission_create_takes_the_next_free_id(database: "Database[dict[str, Any]]", run: Run) -> None:
    run("user", "create", "ada@example.gov")
    run("submission", "create", "1", "--id", "40", "--cgac", "097")
    made = json.loads(run("submission", "create", "ada@example.gov", "--json").stdout)
    assert made == {"submission_id": 41, "user_id": 1, "cgac_code": None, "frec_code": None}
    assert [each["_id"] for each in database["submissions"].find().sort("_id")] == [40, 41]


async def test_server_follows_what_the_commands_write(server: Server, mongodb_uri: str) -> None:
    """Through the running server: the commands and the route mean the same."""
    where = {
        "GENSTATUS_MONGODB_URI": mongodb_uri,
        "GENSTATUS_MONGODB_DATABASE": server.services.settings.mongodb_database,
    }

    async def run(*arguments: str) -> dict[str, Any]:
        result = CliRunner(env=where).invoke(commands, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        made: dict[str, Any] = json.loads(result.stdout)
        return made

    user = await run("user", "create", "ada@example.gov")
    submission = (await run("submission", "create", "11", "--cgac", "020"))["submission_id"]
    made = await run("session", "create", str(user["user_id"]))

    async def answered(code: int) -> "HTTPResponse":
        """The answer, once the server has heard of what was written: that may take a few milliseconds."""
        async with asyncio.timeout(DEADLINE):
            while (answer := await server.check(made["token"], submission_id=submission)).code != code:
                pass
        return answer

    await answered(403)
    await run("user", "grant", "ada@example.gov", "--cgac", "020")
    assert body(await answered(200))["status"] == "invalid"
    await run("session", "revoke", made["session"])
    await answered(401)


def put(database: "Database[dict[str, Any]]", job_id: int, hours: float | None, **fields: Any) -> None:
    updated = {} if hours is None else {"updated_at": datetime.now(UTC) - timedelta(hours=hours)}
    document = {"_id": job_id, "submission_id": job_id, "file_type": "D1", "status": "waiting", **updated, **fields}
    database["jobs"].insert_one(document)


def test_job_list_finds_stuck_jobs(
    sync_mongodb: "pymongo.MongoClient[dict[str, Any]]", database_name: str, run: Run
) -> None:
    database = sync_mongodb[database_name]  # Without validators: whatever lies there has to be listed.
    put(database, 1, 1)
    put(database, 2, 3)
    put(database, 3, 30, status="running")
    put(database, 4, None)
    put(database, 5, 9, status="finished")
    put(database, 6, 9, status="finished", upload={"status": "finished", "key": "6/D1.csv"})
    put(database, 7, 9, upload={"status": "failed"})
    put(database, 8, 9, status="failed")
    put(database, 9, 9, status="ready")
    put(database, 10, 4, status="running", upload={"status": "finished", "key": "10/D1.csv"})

    def listed(*arguments: str) -> list[int]:
        return [each["job_id"] for each in json.loads(run("job", "list", *arguments, "--json").stdout)]

    assert listed("--stuck", "2h") == [4, 3, 5, 10, 2]
    assert listed("--stuck", "1d") == [4, 3]
    assert listed("--stuck", "2h", "--limit", "2") == [4, 3]
    assert listed("--status", "failed") == [7, 8]
    assert len(listed()) == 10
    run("job", "list", "--stuck", "2h", "--status", "failed", status=2)
    database["jobs"].update_one({"_id": 10}, {"$set": {"size": float("nan")}})
    assert "NaN" not in run("job", "show", "10", "D1", "--json").stdout
    lines = run("job", "list", "--stuck", "1d").stdout.splitlines()
    assert lines[0].split()[:3] == ["job_id", "submission_id", "file_type"]
    assert lines[2].endswith("1d 6h")
    database["jobs"].delete_many({})
    assert run("job", "list", "--stuck", "2h").stdout == "no stuck jobs\n"
    assert run("job", "list").stdout == "no jobs\n"
    assert run("job", "list", "--stuck", "2h", "--json").stdout == "[]\n"


def test_job_show_shows_whole_doubles_as_integers(database: "Database[dict[str, Any]]", run: Run) -> None:
    put(database, 10, 4, status="finished", size=5.0, upload={"status": "finished", "key": "a", "parts": 2.0})
    shown = json.loads(run("job", "show", "10", "D1", "--json").stdout)
    assert (str(shown["size"]), shown["upload"]) == ("5", {"status": "finished", "key": "a", "parts": 2})
    line = next(line for line in run("job", "show", "10", "D1").stdout.splitlines() if line.startswith("upload "))
    assert line.endswith('{"status": "finished", "key": "a", "parts": 2}')


def test_job_show_shows_the_document_and_the_public_status(database: "Database[dict[str, Any]]", run: Run) -> None:
    put(database, 1, 2, status="finished", upload={"status": "finished", "key": "1/D1.csv"}, message="a\x1b[31mb")
    shown = run("job", "show", "1", "D1").stdout
    assert "generation_status     finished\n" in shown
    assert "2h 0m" in shown
    assert "\x1b" not in shown
    assert json.loads(run("job", "show", "1", "D1", "--json").stdout)["upload"]["key"] == "1/D1.csv"
    assert "invalid" in run("job", "show", "1", "D2", status=1).output
    database.command("collMod", "jobs", validator={})
    database["jobs"].update_one({"_id": 1}, {"$set": {"size": "big"}})
    assert "size is not a whole number" in run("job", "show", "1", "D1").stdout


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604800)])
def test_duration_reads_a_length_of_time(text: str, seconds: int) -> None:
    assert duration(text) == seconds
    assert age(datetime.now(UTC) - timedelta(seconds=seconds)) is not None


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "-1h", "1.5h", "2 h", "2w", "²h", "9999999999s", "3000000d"])
def test_duration_refuses_anything_else(text: str) -> None:
    with pytest.raises(click.BadParameter):
        duration(text)


@pytest.mark.parametrize("who", ["0", str(2**63), "9" * 5000, "nobody@example.gov"])
def test_user_grant_refuses_an_unknown_user_in_one_line(run: Run, who: str) -> None:
    assert len(run("user", "grant", who, "--admin", status=1).output.splitlines()) == 1


@pytest.mark.parametrize("email", ["", "a\x1b[31mb", "a\0b", "\udcff"])
def test_commands_refuse_text_that_cannot_be_printed(run: Run, email: str) -> None:
    for arguments in (("user", "create"), ("session", "create"), ("submission", "create")):
        run(*arguments, email, status=2)


COMMANDS = [["job", "list"], ["user", "create", "ada@example.gov"], ["init-roles"], ["init-db"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_need_the_name_of_a_mongodb(command: list[str]) -> None:
    with pytest.raises(BadSettings, match="--mongodb-uri"):
        CliRunner().invoke(commands, command, catch_exceptions=False)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("mongodb://127.0.0.1:1/?", "nothing listens there"),
        ("mongodb://nowhere.invalid/?", "the host name"),
        ("mongodb+srv://nowhere.invalid/?", "cannot be"),
        ("mongodb://127.0.0.1:{port}/?tls=true&", "TLS"),
        ("mongodb://127.0.0.1:{port}/?replicaSet=another&", "the replica set has another name"),
        ("mongodb://ada:hush@127.0.0.1:{port}/?", "the user name, the password or the authSource is wrong"),
    ],
)
def test_commands_explain_an_error_of_mongodb_in_one_line(
    monkeypatch: pytest.MonkeyPatch, mongodb_uri: str, command: list[str], uri: str, reason: str
) -> None:
    monkeypatch.setattr(admin_database, "CONNECT_MS", 1000)
    port = pymongo.uri_parser.parse_uri(mongodb_uri)["nodelist"][0][1]
    full = uri.format(port=port) + "serverSelectionTimeoutMS=300"
    try:
        output = CliRunner(env={"GENSTATUS_MONGODB_URI": full}).invoke(commands, command, catch_exceptions=False).output
    except StartupError as error:
        output = f"{error}\n"
    (line,) = output.splitlines()
    assert reason in line
    for driver_text in ("Topology", "clusterTime", "Errno", "Timeout:", "hush", "Error:  "):
        assert driver_text not in line


def options_of(command: click.Command, path: str) -> Iterator[tuple[str, click.Parameter]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from options_of(found, f"{path} {name}")
    for parameter in command.params:
        yield path, parameter


def test_metavar_of_every_option_names_its_kind() -> None:
    for path, parameter in options_of(commands, "genstatus"):
        context = click.Context(click.Command(path))
        if not (isinstance(parameter, click.Option) and parameter.is_flag):
            shown = parameter.make_metavar(context)
            assert shown not in {"VALUE", "TEXT", "INTEGER", "FLOAT"}, f"{path} {parameter.name}"
            assert "RANGE" not in shown, f"{path} {parameter.name}"


def test_init_db_shows_only_its_own_options() -> None:
    shown = CliRunner().invoke(commands, ["init-db", "--help"]).stdout
    assert set(re.findall("--[a-z-]+", shown)) == {
        "--config",
        "--dry-run",
        "--help",
        "--mongodb-database",
        "--mongodb-uri",
    }


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(commands, ["--help"]).stdout
    for name in ("serve", "init-db", "session", "user", "submission", "job"):
        assert f"  {name} " in shown
    assert CliRunner().invoke(commands, ["sessions"]).exit_code == 2


def test_opened_gives_up_soon_where_mongodb_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_database, "CONNECT_MS", 100)
    began = time.monotonic()
    with (
        pytest.raises(click.ClickException, match="cannot be reached"),
        admin_database.opened("mongodb://127.0.0.1:1/", "a"),
    ):
        pass
    assert time.monotonic() - began < 25  # An operation may take 30 s.
