"""`genstatus check`: whether the server can work with the MongoDB, the S3 and the options that it is given.

Each check gives a finding; an error of the driver's is one, too.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from genstatus_server.admin.check_s3 import check_s3
from genstatus_server.admin.database import Finding, Result, printable, show_findings, with_json
from genstatus_server.model.errors import StartupError
from genstatus_server.mongo.errors import explain
from genstatus_server.mongo.queries import FIELDS, JOBS
from genstatus_server.mongo.schema import initialize, open_client
from genstatus_server.settings import mongodb_settings, with_flags

Document = dict[str, Any]
#: The result, what was found and what to do.
Outcome = tuple[Result, str, str]
Check = Callable[[Database[Document], Mapping[str, Any]], Outcome]

_OLDEST_VERSION: Final = 6
#: Milliseconds that one operation may take.
_OPERATION_MS: Final = 10_000
#: Seconds by which the clocks may differ.
_CLOCK_SECONDS: Final = 5
_SHORTEST_WINDOW: Final = timedelta(hours=1)
#: Below this share of its size, an oplog has not yet dropped any entry. A short window is then no problem.
_FULL: Final = 0.9
_ROLE: Final = "give the user the role genstatus_serve, which `genstatus init-roles` makes"


@click.command()
@click.option("--download", "key", type=printable, metavar="KEY", help="Fetch this file of the bucket.")
@with_json
@with_flags()
def check(config: str | None, key: str | None, *, as_json: bool, **flags: str | None) -> None:
    """Check MongoDB, S3 and the options of `serve`, which it takes. It changes nothing.

    Exit status: 0 the server can work (there may be warnings), 1 it cannot, 2 bad usage or options.
    """
    settings = mongodb_settings(flags, config)
    findings = [*check_mongodb(settings.mongodb_uri or "", settings.mongodb_database), *check_s3(settings, key)]
    show_findings(findings, as_json=as_json)
    sys.exit(any(finding.result is Result.FAILED for finding in findings))


def check_mongodb(uri: str, name: str) -> Iterator[Finding]:
    """The findings about the database `name`; where MongoDB cannot be reached, just that one."""
    try:
        with open_client(uri, timeoutMS=_OPERATION_MS) as client:
            hello = client.admin.command("hello")
            for title, check in _CHECKS.items():
                yield Finding(title, *_outcome(check, client[name], hello))
    except PyMongoError as error:
        yield Finding(
            "mongodb", Result.FAILED, explain(error), "see mongodb_uri: hosts, port, replicaSet, user, authSource, tls"
        )
        return
    yield from _schema(uri, name)


def _outcome(check: Check, database: Database[Document], hello: Mapping[str, Any]) -> Outcome:
    try:
        return check(database, hello)
    except OperationFailure as error:
        return Result.FAILED, explain(error), _ROLE


def _version(database: Database[Document], hello: Mapping[str, Any]) -> Outcome:
    version = database.client.server_info()["version"]
    where = hello.get("me") or "{}:{}".format(*(database.client.address or ("?", "?")))
    found = f"MongoDB {version} at {where}"
    if int(version.partition(".")[0]) < _OLDEST_VERSION:
        return Result.FAILED, found, f"use MongoDB {_OLDEST_VERSION}.0 or newer"
    return Result.OK, found, ""


def _replica_set(_: Database[Document], hello: Mapping[str, Any]) -> Outcome:
    if "setName" in hello:
        return Result.OK, f"replica set {hello['setName']}: {', '.join(hello.get('hosts', []))}", ""
    if hello.get("msg") == "isdbgrid":
        return Result.OK, "a sharded cluster, through mongos", ""
    advice = "start mongod with --replSet rs0 and run rs.initiate() once"
    return Result.WARNING, "a standalone mongod has no change streams: waiting jobs are read once a second", advice


def _change_stream(database: Database[Document], hello: Mapping[str, Any]) -> Outcome:
    if not _has_oplog(hello):
        return Result.SKIPPED, "needs a replica set", ""
    with database.watch(max_await_time_ms=1):
        return Result.OK, "can be opened", ""


def _snapshot_read(database: Database[Document], hello: Mapping[str, Any]) -> Outcome:
    if not _has_oplog(hello):
        return Result.SKIPPED, "needs a replica set", ""
    database.command({"find": JOBS, "filter": {"_id": None}, "limit": 1, "readConcern": {"level": "snapshot"}})
    return Result.OK, "documents can be read", ""


def _collections(database: Database[Document], _: Mapping[str, Any]) -> Outcome:
    views = sorted(each["name"] for each in database.list_collections() if each["type"] == "view")
    found = [name for name in views if name in FIELDS]
    if found:
        advice = "a view sends no change events: point the server to the database that has the collections"
        return Result.FAILED, f"{', '.join(found)}: a view", advice
    return Result.OK, "no views", ""


def _clock(_: Database[Document], hello: Mapping[str, Any]) -> Outcome:
    seconds = (datetime.now(UTC) - hello["localTime"].replace(tzinfo=UTC)).total_seconds()
    if abs(seconds) <= _CLOCK_SECONDS:
        return Result.OK, "agrees with MongoDB's", ""
    found = f"this machine's is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} MongoDB's"
    return Result.WARNING, found, "run a time service on both: sessions expire and URLs are signed by this clock"


def _oplog(database: Database[Document], hello: Mapping[str, Any]) -> Outcome:
    if "setName" not in hello:
        return Result.SKIPPED, "each shard has its own" if _has_oplog(hello) else "needs a replica set", ""
    try:
        window, full = _oplog_window(database)
    except OperationFailure as error:
        return Result.SKIPPED, explain(error), "rs.printReplicationInfo() shows the window to a user who may read local"
    found = f"reaches back {window / timedelta(hours=1):.1f} h, {full:.0%} full"
    if window >= _SHORTEST_WINDOW or full < _FULL:
        return Result.OK, found, ""
    advice = "enlarge the oplog: after an outage that is longer than this, all holds are checked anew"
    return Result.WARNING, found, advice


def _oplog_window(database: Database[Document]) -> tuple[timedelta, float]:
    """How far the oplog reaches back, and which part of its size is used."""
    oplog = database.client["local"]["oplog.rs"]
    first, last = (oplog.find_one({}, ["ts"], sort=[("$natural", order)]) for order in (1, -1))
    (stats,) = oplog.aggregate([{"$collStats": {"storageStats": {}}}])
    sizes = stats["storageStats"]
    seconds = last["ts"].time - first["ts"].time if first and last else 0
    return timedelta(seconds=seconds), sizes["size"] / sizes["maxSize"]


def _schema(uri: str, name: str) -> Iterator[Finding]:
    try:
        lines = [line.removeprefix(f"{name}: ") for line in initialize(uri, name, dry_run=True)]
    except StartupError as error:
        yield Finding("schema", Result.FAILED, str(error), _ROLE)
        return
    missing = [line.removeprefix("would ") for line in lines if line.startswith("would ")]
    if missing:
        yield Finding(
            "schema", Result.WARNING, f"to do: {_shortened(missing)}", "run `genstatus init-db`, which does it"
        )
    else:
        yield Finding("schema", Result.OK, "validators and indexes are there")
    yield from (Finding("documents", Result.WARNING, line) for line in lines if not line.startswith("would "))


def _shortened(lines: Sequence[str], most: int = 3) -> str:
    return ", ".join(lines[:most]) + (f" and {len(lines) - most} more" if len(lines) > most else "")


def _has_oplog(hello: Mapping[str, Any]) -> bool:
    return "setName" in hello or hello.get("msg") == "isdbgrid"


_CHECKS: Final[Mapping[str, Check]] = {
    "mongodb": _version,
    "replica set": _replica_set,
    "change stream": _change_stream,
    "reads": _snapshot_read,
    "collections": _collections,
    "clock": _clock,
    "oplog": _oplog,
}
