"""What the admin commands have in common: the database that they work on, and the ids in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

import click
from pymongo import WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, PyMongoError

from genstatus_server.model.jobs import LARGEST_ID, whole_number
from genstatus_server.mongo.client import CODEC
from genstatus_server.mongo.errors import explain
from genstatus_server.mongo.migration import open_client
from genstatus_server.mongo.queries import USERS
from genstatus_server.settings import mongodb_settings, with_flags

Document = dict[str, Any]
Command = Callable[..., Any]

_ATTEMPTS: Final = 10
#: Milliseconds that one operation may take.
_OPERATION_MS: Final = 30_000

#: An id of a document.
ID: Final = click.IntRange(1, LARGEST_ID)


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
            yield client.get_database(name, codec_options=CODEC, write_concern=WriteConcern("majority"))
    except PyMongoError as error:
        raise click.ClickException(explain(error)) from error


def insert_with_free_id(collection: Collection[Document], document: Document, document_id: int | None) -> Document:
    """Insert `document` under `document_id`, or under the next that is free; gives it with its `_id`."""
    for _ in range(_ATTEMPTS):
        complete = {"_id": document_id or _highest_id(collection) + 1, **document}
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
