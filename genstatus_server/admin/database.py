"""What the admin commands have in common: the database that they work on, and the ids in it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

import click
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, PyMongoError

from genstatus_server.model.jobs import whole_number
from genstatus_server.mongo.schema import open_client
from genstatus_server.settings import BadSettings, load_settings
from genstatus_server.telemetry import log

Document = dict[str, Any]
Command = Callable[..., Any]

_ATTEMPTS: Final = 10
#: Whatever lies in a document can be shown.
_CODEC: Final[CodecOptions[Document]] = CodecOptions(
    tz_aware=True, unicode_decode_error_handler="replace", datetime_conversion=DatetimeConversion.DATETIME_AUTO
)


def with_database(command: Command) -> Command:
    """Give `command` the database as its first argument, and the flags that say which it is."""

    @click.option("--mongodb-uri", metavar="VALUE", help="MongoDB to work on; else GENSTATUS_MONGODB_URI.")
    @click.option("--mongodb-database", metavar="VALUE", help="Database to work on. [default: genstatus]")
    @click.option("--config", metavar="FILE", help="TOML file with options; flags and the environment win.")
    @wraps(command)
    def run(
        *arguments: Any, config: str | None, mongodb_uri: str | None, mongodb_database: str | None, **options: Any
    ) -> None:
        flags = {"mongodb_uri": mongodb_uri, "mongodb_database": mongodb_database}
        settings = load_settings(flags, os.environ, config)
        if settings.mongodb_uri is None:
            raise BadSettings(["mongodb_uri: say which MongoDB, by --mongodb-uri"])
        with _opened(settings.mongodb_uri, settings.mongodb_database) as database:
            command(database, *arguments, **options)

    return run


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
    query = {"_id": int(who)} if who.isascii() and who.isdigit() else {"email": who}
    found = list(database["users"].find(query).limit(2))
    if len(found) != 1:
        raise click.ClickException(f"there is {'more than one' if found else 'no'} user {who}")
    return found[0]


def _highest_id(collection: Collection[Document]) -> int:
    highest = collection.find_one({"_id": {"$type": "number"}}, ["_id"], sort=[("_id", -1)])
    return (whole_number(highest["_id"]) or 0) if highest else 0


@contextmanager
def _opened(uri: str, name: str) -> Iterator[Database[Document]]:
    try:
        with open_client(uri) as client:
            yield client.get_database(name, codec_options=_CODEC, write_concern=WriteConcern("majority"))
    except PyMongoError as error:
        raise click.ClickException(log.cause(error)) from error
