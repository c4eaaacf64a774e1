"""The schema of the collections that the service reads, and `init-db`, which makes what a database lacks of it.

A validator tells the author of a wrong document at once. It refuses what contradicts itself and what the service, or
`jobs_writer`, could not work with. Other fields belong to the writers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import CollectionInvalid, OperationFailure, PyMongoError

from genstatus_server.jobs_writer.changes import COUNTERS, OLDEST_FIRST
from genstatus_server.model.errors import StartupError
from genstatus_server.model.jobs import DATED_FILE_TYPES, FILE_TYPES
from genstatus_server.mongo import client as mongodb
from genstatus_server.mongo.errors import explain
from genstatus_server.mongo.queries import FIELDS, JOBS, SESSIONS, SUBMISSIONS, USERS

CONNECT_MS: Final = 5000
_NAMESPACE_EXISTS: Final = 48
_MOST_LISTED: Final = 20
_UNAUTHORIZED: Final = 13


class Index(NamedTuple):
    """An index that a collection must have."""

    name: str
    keys: list[tuple[str, int]]
    options: dict[str, Any]

    def is_among(self, present: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether an index with these keys and options is in `present`, under whatever name."""
        wanted = {"key": self.keys, **self.options}
        return any(all(index.get(item) == wanted[item] for item in wanted) for index in present.values())


_ID: Final = {"bsonType": ["int", "long", "double"], "minimum": 1, "multipleOf": 1}
_COUNT: Final = {"bsonType": ["int", "long", "double"], "minimum": 0, "multipleOf": 1}
_DATE: Final = {"bsonType": ["date", "null"]}
_TEXT: Final = {"bsonType": ["string", "null"]}

_UPLOAD: Final = {
    "bsonType": ["object", "null"],
    "properties": {
        "status": {"enum": [None, "waiting", "running", "finished", "failed"]},
        "bucket": _TEXT,
        "key": _TEXT,
    },
    # A finished upload has the key of its file.
    "anyOf": [
        {"properties": {"status": {"enum": [None, "waiting", "running", "failed"]}}},
        {"required": ["key"], "properties": {"key": {"bsonType": "string", "minLength": 1}}},
    ],
}

#: The lease of the worker that holds the job, as `jobs_writer` writes it.
_LEASE: Final = {
    "bsonType": "object",
    "required": ["token", "expires_at"],
    "properties": {
        "token": {"bsonType": "string", "minLength": 1},
        "owner": {"bsonType": "string"},
        "expires_at": {"bsonType": "date"},
    },
}

_HAS_LEASE: Final = {"required": ["lease"]}
_HAS_FILE: Final = {
    "required": ["upload"],
    "properties": {
        "upload": {"bsonType": "object", "required": ["status"], "properties": {"status": {"enum": ["finished"]}}}
    },
}


def _status(*statuses: str) -> Mapping[str, Any]:
    return {"properties": {"status": {"enum": list(statuses)}}}


#: Rules for jobs, each as "either the condition does not hold, or the consequence does".
_JOB_RULES: Final = [
    # Only the dated file types have a start and an end.
    {
        "anyOf": [
            {"properties": {"file_type": {"enum": sorted(DATED_FILE_TYPES)}}},
            {"properties": {"start": {"bsonType": "null"}, "end": {"bsonType": "null"}}},
        ]
    },
    # Only a job in work has a lease: on a settled job a stale lease would let a worker take it over.
    {"anyOf": [_status("running", "finished"), {"not": _HAS_LEASE}]},
    {"not": {"allOf": [_status("finished"), _HAS_FILE, _HAS_LEASE]}},
]


def _without_dotted_names(collection: str) -> Mapping[str, Any]:
    """No field such as one called `upload.key`: its change events are those of the field `key` in `upload`."""
    return {"patternProperties": {f"^({'|'.join(FIELDS[collection])})\\.": {"not": {}}}}


VALIDATORS: Final[Mapping[str, Mapping[str, Any]]] = {
    JOBS: {
        "bsonType": "object",
        "required": ["_id", "submission_id", "file_type", "status"],
        "properties": {
            "_id": _ID,
            "submission_id": _ID,
            "file_type": {"enum": list(FILE_TYPES)},
            "status": {"enum": ["ready", "waiting", "running", "finished", "invalid", "failed"]},
            "upload": _UPLOAD,
            "size": {"bsonType": ["int", "long", "double", "null"], "minimum": 0, "multipleOf": 1},
            "start": _DATE,
            "end": _DATE,
            "message": _TEXT,
            "updated_at": _DATE,
            "generation": _COUNT | {"minimum": 1},
            "attempts": _COUNT,
            "requested_at": _DATE,
            "lease": _LEASE,
            "ended_by": {"bsonType": "string"},
        },
        "allOf": _JOB_RULES,
        **_without_dotted_names(JOBS),
    },
    SUBMISSIONS: {
        "bsonType": "object",
        "required": ["_id", "user_id"],
        "properties": {"_id": _ID, "user_id": _ID, "cgac_code": _TEXT, "frec_code": _TEXT},
        **_without_dotted_names(SUBMISSIONS),
    },
    USERS: {
        "bsonType": "object",
        "required": ["_id"],
        "properties": {
            "_id": _ID,
            "website_admin": {"bsonType": ["bool", "null"]},
            "affiliations": {
                "bsonType": ["array", "null"],
                "items": {"bsonType": "object", "properties": {"cgac_code": _TEXT, "frec_code": _TEXT}},
            },
        },
        **_without_dotted_names(USERS),
    },
    SESSIONS: {
        "bsonType": "object",
        "required": ["_id", "user_id", "expires_at"],
        "properties": {
            "_id": {"bsonType": "string", "pattern": "^[0-9a-f]{64}$"},
            "user_id": _ID,
            "expires_at": {"bsonType": "date"},
        },
        **_without_dotted_names(SESSIONS),
    },
    COUNTERS: {
        "bsonType": "object",
        "required": ["_id", "last"],
        "properties": {"_id": {"bsonType": "string"}, "last": _COUNT},
    },
}

#: The indexes of each collection.
INDEXES: Final[Mapping[str, tuple[Index, ...]]] = {
    JOBS: (
        Index("submission_id_file_type", [("submission_id", 1), ("file_type", 1)], {"unique": True}),
        # For the queries of `claim`. Both indexes contain only jobs that wait or that are held, and so stay small.
        Index(
            "waiting_of_type",
            [("file_type", 1), ("status", 1), *OLDEST_FIRST],
            {"partialFilterExpression": {"status": "waiting"}},
        ),
        Index(
            "lease_of_type",
            [("file_type", 1), ("lease.expires_at", 1)],
            {"partialFilterExpression": {"lease.expires_at": {"$type": "date"}}},
        ),
    ),
    COUNTERS: (),
    SUBMISSIONS: (),
    USERS: (),
    SESSIONS: (Index("expires_at_ttl", [("expires_at", 1)], {"expireAfterSeconds": 0}),),
}


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
    """A line if the collection has documents that its validator refuses. They are older than the validator."""
    wanted = {"$nor": [{"$jsonSchema": VALIDATORS[collection]}]}
    try:
        found = [each["_id"] for each in database[collection].find(wanted, ["_id"], limit=_MOST_LISTED + 1)]
    except OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise
        yield f"{collection}: not checked for documents that the validator refuses: this user may not read it"
        return
    if found:
        # A wrong writer may have stored the session token itself as the `_id`, so ids of sessions are not shown.
        listed, more = found[:_MOST_LISTED], " and more" if len(found) > _MOST_LISTED else ""
        ids = "" if collection == SESSIONS else f", with _id {', '.join(map(repr, listed))}"
        count = f"{len(listed)} document{'s' * (len(listed) > 1)}"
        yield f"{collection}: the validator refuses {count}{ids}{more}; repair or remove what is wrong"


def open_client(uri: str, **limits: int) -> MongoClient[dict[str, Any]]:
    """A blocking client for commands. `limits` are in milliseconds and apply where `uri` sets none.

    It waits five seconds for a primary by default.
    """
    limits = {"serverSelectionTimeoutMS": CONNECT_MS} | limits
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
        try:
            database.create_collection(migration.collection, validator=validator)
        except (CollectionInvalid, OperationFailure) as error:
            if isinstance(error, OperationFailure) and error.code != _NAMESPACE_EXISTS:
                raise
            # Another process has just made it.
    elif migration.kind is Kind.VALIDATOR:
        database.command("collMod", migration.collection, validator=validator)
    elif migration.index is not None:
        index = migration.index
        database[migration.collection].create_index(index.keys, name=index.name, **index.options)
