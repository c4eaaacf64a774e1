"""What `init-db` does: it compares the database with the schema, and makes what is missing."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import CollectionInvalid, OperationFailure, PyMongoError

from genstatus_server.model.errors import StartupError
from genstatus_server.mongo import client as mongodb
from genstatus_server.mongo.errors import explain
from genstatus_server.mongo.queries import SESSIONS
from genstatus_server.mongo.schema import INDEXES, VALIDATORS, Index

_CONNECT_MS: Final = 5000
_MOST_LISTED: Final = 20
_UNAUTHORIZED: Final = 13


@dataclass(frozen=True)
class CollectionSchema:
    """The schema that a collection has: its validator, and its indexes by name as from `index_information()`."""

    validator: Mapping[str, Any] | None
    indexes: Mapping[str, Mapping[str, Any]]


class Kind(StrEnum):
    """What a migration does."""

    COLLECTION = "make"
    VALIDATOR = "set"
    INDEX = "build"


@dataclass(frozen=True)
class Migration:
    """One change of the schema of `collection`. `text` names what is made or changed."""

    kind: Kind
    collection: str
    text: str
    index: Index | None = None


def plan_migrations(collection: str, present: CollectionSchema | None) -> Iterator[Migration]:
    """The migrations that `collection` needs, in order. `present` is None where there is no such collection."""
    if present is None:
        yield Migration(Kind.COLLECTION, collection, f"collection {collection}")
    elif present.validator != {"$jsonSchema": VALIDATORS[collection]}:
        yield Migration(Kind.VALIDATOR, collection, f"validator of {collection}")
    indexes = present.indexes if present is not None else {}
    for index in INDEXES[collection]:
        if not index.is_among(indexes):
            clash = " (another index has this name: drop it first)" if index.name in indexes else ""
            yield Migration(Kind.INDEX, collection, f"index {index.name} of {collection}{clash}", index)


async def missing_schema(database: mongodb.Database) -> list[str]:
    """What `init-db` would make or change in `database`, in words. Empty where nothing is missing."""
    return [
        migration.text
        for collection in VALIDATORS
        for migration in plan_migrations(collection, await _read_schema_async(database, collection))
    ]


def initialize(uri: str, name: str, *, dry_run: bool = False) -> Iterator[str]:
    """Apply the schema to the database `name`. Yields a line for each change; with `dry_run` changes nothing.

    Raises `StartupError`.
    """
    try:
        with open_client(uri) as client:
            for collection in VALIDATORS:
                for migration in plan_migrations(collection, _read_schema(client[name], collection)):
                    if not dry_run:
                        _apply(client[name], migration)
                    yield f"{name}: {'would ' if dry_run else ''}{migration.kind} {migration.text}"
                yield from (f"{name}: {line}" for line in _refused(client[name], collection))
    except PyMongoError as error:
        raise StartupError(f"init-db: {explain(error)}") from error


def _refused(database: Database[dict[str, Any]], collection: str) -> Iterator[str]:
    """A line where the collection has documents, older than the validator, that it would refuse."""
    wanted = {"$nor": [{"$jsonSchema": VALIDATORS[collection]}]}
    try:
        found = [each["_id"] for each in database[collection].find(wanted, ["_id"], limit=_MOST_LISTED + 1)]
    except OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise
        yield f"{collection}: not checked for documents that the validator refuses: this user may not read it"
        return
    if found:
        # The id of a session that was written wrong may be its token.
        listed, more = found[:_MOST_LISTED], " and more" if len(found) > _MOST_LISTED else ""
        ids = "" if collection == SESSIONS else f", with _id {', '.join(map(repr, listed))}"
        yield f"{collection}: the validator refuses {len(listed)} documents{ids}{more}; repair or remove them"


def open_client(uri: str, **limits: int) -> MongoClient[dict[str, Any]]:
    """A blocking client for commands. `limits` are in milliseconds and apply where `uri` sets none.

    It waits five seconds for a primary by default.
    """
    limits = {"serverSelectionTimeoutMS": _CONNECT_MS} | limits
    missing: dict[str, Any] = {name: value for name, value in limits.items() if name.lower() not in uri.lower()}
    return MongoClient(uri, appname="genstatus", **missing)


def _read_schema(database: Database[dict[str, Any]], collection: str) -> CollectionSchema | None:
    found = list(database.list_collections(filter={"name": collection}))
    if not found:
        return None
    return CollectionSchema(found[0].get("options", {}).get("validator"), database[collection].index_information())


async def _read_schema_async(database: mongodb.Database, collection: str) -> CollectionSchema | None:
    found = [each async for each in await database.list_collections(filter={"name": collection})]
    if not found:
        return None
    indexes = await database[collection].index_information()
    return CollectionSchema(found[0].get("options", {}).get("validator"), indexes)


def _apply(database: Database[dict[str, Any]], migration: Migration) -> None:
    validator = {"$jsonSchema": VALIDATORS[migration.collection]}
    if migration.kind is Kind.COLLECTION:
        with contextlib.suppress(CollectionInvalid):  # Another process has just made it.
            database.create_collection(migration.collection, validator=validator)
    elif migration.kind is Kind.VALIDATOR:
        database.command("collMod", migration.collection, validator=validator)
    elif migration.index is not None:
        index = migration.index
        database[migration.collection].create_index(index.keys, name=index.name, **index.options)
