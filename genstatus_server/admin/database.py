"""What the admin commands have in common: their database, the ids in it, and their output as a table or as JSON."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from functools import wraps
from typing import Any, Final, NamedTuple

import click
import pymongo
from pymongo import WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, PyMongoError

from genstatus_server.jobs_writer.changes import CODEC
from genstatus_server.model.jobs import LARGEST_ID, whole_number
from genstatus_server.mongo.errors import explain
from genstatus_server.mongo.queries import USERS
from genstatus_server.mongo.schema import CONNECT_MS, open_client
from genstatus_server.settings import mongodb_settings, with_flags

Document = dict[str, Any]
Command = Callable[..., Any]

_ATTEMPTS: Final = 10
#: Milliseconds that one operation may take.
_OPERATION_MS: Final = 30_000

#: An id of a document.
ID: Final = click.IntRange(1, LARGEST_ID)
Row = Mapping[str, Any]

_LONGEST_SECONDS: Final = 36_500 * 86_400
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def printable(value: str) -> str:
    """A text that can be stored and printed, as the type of an option."""
    if not value or not value.isprintable():
        raise click.BadParameter("must be a text of printable characters that is not empty")
    return value


def with_database(command: Command) -> Command:
    """Give `command` the database as its first argument, and the flags that say which it is."""

    @with_flags("mongodb_uri", "mongodb_database")
    @wraps(command)
    def run(
        *arguments: Any, config: str | None, mongodb_uri: str | None, mongodb_database: str | None, **options: Any
    ) -> None:
        flags = {"mongodb_uri": mongodb_uri, "mongodb_database": mongodb_database}
        settings = mongodb_settings(flags, config)
        with opened(settings.mongodb_uri or "", settings.mongodb_database) as database:
            command(database, *arguments, **options)

    return run


@contextmanager
def opened(uri: str, name: str) -> Iterator[Database[Document]]:
    """The database `name`. An error of the driver's within the block ends the command with one line."""
    try:
        with open_client(uri, timeoutMS=_OPERATION_MS) as client:
            with pymongo.timeout(CONNECT_MS / 1000):  # Or the driver looks for a primary as long as for an operation.
                client.admin.command("ping")
            yield client.get_database(name, codec_options=CODEC, write_concern=WriteConcern("majority"))
    except PyMongoError as error:
        raise click.ClickException(explain(error)) from error


def insert_with_free_id(collection: Collection[Document], document: Document, document_id: int | None) -> Document:
    """Insert `document` under `document_id`, or under the next that is free; gives it with its `_id`."""
    for _ in range(_ATTEMPTS):
        complete = {"_id": document_id or _highest_id(collection) + 1, **document}
        if complete["_id"] > LARGEST_ID:
            raise click.ClickException(f"{collection.name} has the largest id there is: choose an --id")
        try:
            collection.insert_one(complete)
        except DuplicateKeyError:
            if document_id is not None:
                raise click.ClickException(f"there is a document {document_id} in {collection.name} already") from None
        else:
            return complete
    raise click.ClickException(f"others keep inserting into {collection.name}: choose an --id")


def find_user(database: Database[Document], who: str) -> Document:
    """The user with this id or email."""
    is_id = who.isascii() and who.isdigit() and len(who) <= len(str(LARGEST_ID)) and int(who) <= LARGEST_ID
    found = list(database[USERS].find({"_id": int(who)} if is_id else {"email": who}).limit(2))
    if len(found) != 1:
        raise click.ClickException(f"there is {'more than one' if found else 'no'} user {who}")
    return found[0]


def _highest_id(collection: Collection[Document]) -> int:
    highest = collection.find_one({"_id": {"$type": "number"}}, ["_id"], sort=[("_id", -1)])
    return (whole_number(highest["_id"]) or 0) if highest else 0


class Result(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Finding(NamedTuple):
    """What a check found, and what to do about it."""

    check: str
    result: Result
    found: str
    advice: str = ""


def with_json(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` the flag `--json`, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def show_one(row: Row, *, as_json: bool) -> None:
    """One thing: a line for each of its fields, or an object."""
    if as_json:
        click.echo(_json(row))
        return
    width = max(len(name) for name in row)
    for name, value in row.items():
        click.echo(f"{name:<{width}}  {_cell(value)}".rstrip())


def show_all(rows: Sequence[Row], *, as_json: bool, nothing: str) -> None:
    """Things of one kind: a table, or an array; `nothing` says that there are none."""
    if as_json:
        click.echo(_json(rows))
    elif not rows:
        click.echo(nothing)
    else:
        lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Findings: a table with the advice below it, or an object."""
    if as_json:
        is_ok = all(finding.result is not Result.FAILED for finding in findings)
        click.echo(_json({"ok": is_ok, "findings": [finding._asdict() for finding in findings]}))
        return
    rows = [{"check": each.check, "result": each.result, "found": each.found} for each in findings]
    show_all(rows, as_json=False, nothing="nothing was checked")
    if any(finding.advice for finding in findings):
        click.echo("\n" + "\n".join(f"{each.check}: {each.advice}" for each in findings if each.advice))


def duration(text: str) -> int:
    """The seconds of a length of time such as `90s`, `30m`, `2h` or `7d`."""
    number, unit = text[:-1], text[-1:]
    if not (re.fullmatch("[0-9]{1,9}", number, re.ASCII) and int(number) and unit in _SECONDS):
        raise click.BadParameter(f"{text!r} is no length of time; one looks like 90s, 30m, 2h or 7d")
    seconds = int(number) * _SECONDS[unit]
    if seconds > _LONGEST_SECONDS:
        raise click.BadParameter(f"{text!r} is longer than 36500d")
    return seconds


def age(moment: datetime | None) -> str | None:
    """How long ago `moment` was, in its largest two units, such as `2h 5m`."""
    if moment is None:
        return None
    left, parts = max(0, int((datetime.now(UTC) - moment).total_seconds())), list[str]()
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _SECONDS[unit])
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def _shown(value: Any) -> Any:
    """`value` with whole doubles as integers, and without numbers that JSON cannot express."""
    if isinstance(value, Mapping):
        return {name: _shown(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    if not isinstance(value, float):
        return value
    return None if not math.isfinite(value) else int(value) if value.is_integer() else value


def _json(value: Any, indent: int | None = 2) -> str:
    def text(other: object) -> str:
        return other.isoformat() if isinstance(other, datetime) else str(other)

    return json.dumps(_shown(value), indent=indent, default=text)


def _cell(value: Any) -> str:
    value = _shown(value)
    if value is None:
        return "-"
    if isinstance(value, dict | list):
        text = _json(value, indent=None)
    else:
        text = f"{value:%Y-%m-%d %H:%M:%SZ}" if isinstance(value, datetime) else str(value)
    # A document may hold anything, and a terminal obeys some of it.
    return "".join(character if character.isprintable() else "?" for character in text)
