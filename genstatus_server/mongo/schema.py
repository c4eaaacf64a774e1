"""The collections that the service reads: their validators and indexes, for `init-db`.

A validator tells a worker that writes nonsense so, at once. It refuses what contradicts itself and what the service,
or `jobs_writer`, could not work with; other fields are the writers' own.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import CollectionInvalid, OperationFailure, PyMongoError

from genstatus_server.jobs_writer.changes import COUNTERS, OLDEST_FIRST
from genstatus_server.model.errors import StartupError
from genstatus_server.model.jobs import DATED_FILE_TYPES, FILE_TYPES
from genstatus_server.mongo import client as mongodb
from genstatus_server.mongo.errors import explain
from genstatus_server.mongo.migration import Index, Kind, Shape, Step, steps
from genstatus_server.mongo.queries import JOBS, SESSIONS, SUBMISSIONS, USERS

_CONNECT_MS: Final = 5000
_MOST_LISTED: Final = 20
_UNAUTHORIZED: Final = 13

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
    # An upload that is finished says where its file is.
    "anyOf": [
        {"properties": {"status": {"enum": [None, "waiting", "running", "failed"]}}},
        {"required": ["key"], "properties": {"key": {"bsonType": "string", "minLength": 1}}},
    ],
}

#: Who holds the job, as `jobs_writer` writes it.
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


#: What a job must be, as "either this is not so, or that is".
_JOB_RULES: Final = [
    # Days are for the file types that cover some.
    {
        "anyOf": [
            {"properties": {"file_type": {"enum": sorted(DATED_FILE_TYPES)}}},
            {"properties": {"start": {"bsonType": "null"}, "end": {"bsonType": "null"}}},
        ]
    },
    # Only a job that is worked on is held: a lease left behind would bring a settled job back to life.
    {"anyOf": [_status("running", "finished"), {"not": _HAS_LEASE}]},
    {"not": {"allOf": [_status("finished"), _HAS_FILE, _HAS_LEASE]}},
]

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
    },
    SUBMISSIONS: {
        "bsonType": "object",
        "required": ["_id", "user_id"],
        "properties": {"_id": _ID, "user_id": _ID, "cgac_code": _TEXT, "frec_code": _TEXT},
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
    },
    SESSIONS: {
        "bsonType": "object",
        "required": ["_id", "user_id", "expires_at"],
        "properties": {
            "_id": {"bsonType": "string", "pattern": "^[0-9a-f]{64}$"},
            "user_id": _ID,
            "expires_at": {"bsonType": "date"},
        },
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
        # What `claim` looks for. They hold the jobs that wait and those that are held, and so stay small.
        Index(
            "waiting_of_type",
            [("file_type", 1), ("status", 1), *OLDEST_FIRST],
            {"partialFilterExpression": {"status": "waiting"}},
        ),
        Index("lease", [("lease.expires_at", 1)], {"partialFilterExpression": {"lease.expires_at": {"$type": "date"}}}),
    ),
    COUNTERS: (),
    SUBMISSIONS: (),
    USERS: (),
    SESSIONS: (Index("expires_at_ttl", [("expires_at", 1)], {"expireAfterSeconds": 0}),),
}


async def find_missing(database: mongodb.Database) -> list[str]:
    """What `init-db` would make or change in `database`, in words; empty where nothing is missing."""
    found = [
        step
        for collection, schema in VALIDATORS.items()
        for step in steps(
            collection, schema, INDEXES[collection], await mongodb.describe_collection(database, collection)
        )
    ]
    return [step.text for step in found]


def initialize(uri: str, name: str, *, dry_run: bool = False) -> Iterator[str]:
    """Bring the database `name` into shape, and say what was done, a line each; `dry_run`: what would be done.

    Raises `StartupError`.
    """
    try:
        with open_client(uri) as client:
            for collection in VALIDATORS:
                for step in steps(
                    collection, VALIDATORS[collection], INDEXES[collection], _shape(client[name], collection)
                ):
                    if not dry_run:
                        _take(client[name], step)
                    yield f"{name}: {'would ' if dry_run else ''}{step.kind} {step.text}"
                yield from (f"{name}: {line}" for line in _refused(client[name], collection))
    except PyMongoError as error:
        raise StartupError(f"init-db: {explain(error)}") from error


def _refused(database: Database[dict[str, Any]], collection: str) -> Iterator[str]:
    """A line where there are documents, older than the validator, that it would refuse."""
    wanted = {"$nor": [{"$jsonSchema": VALIDATORS[collection]}]}
    try:
        found = [each["_id"] for each in database[collection].find(wanted, ["_id"], limit=_MOST_LISTED + 1)]
    except OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise
        yield f"{collection}: not checked for documents that the validator refuses: this user may not read it"
        return
    if found:
        # The id of a session that somebody wrote wrong may be its token.
        listed, more = found[:_MOST_LISTED], " and more" if len(found) > _MOST_LISTED else ""
        ids = "" if collection == SESSIONS else f", with _id {', '.join(map(repr, listed))}"
        yield f"{collection}: the validator refuses {len(listed)} documents{ids}{more}; repair or remove them"


def open_client(uri: str, **limits: int) -> MongoClient[dict[str, Any]]:
    """A client that blocks, for commands. `limits` are milliseconds, for what `uri` itself does not limit.

    It waits five seconds for a primary, unless it is told otherwise.
    """
    limits = {"serverSelectionTimeoutMS": _CONNECT_MS} | limits
    missing: dict[str, Any] = {name: value for name, value in limits.items() if name.lower() not in uri.lower()}
    return MongoClient(uri, appname="genstatus", **missing)


def _shape(database: Database[dict[str, Any]], collection: str) -> Shape | None:
    found = list(database.list_collections(filter={"name": collection}))
    if not found:
        return None
    return Shape(found[0].get("options", {}).get("validator"), database[collection].index_information())


def _take(database: Database[dict[str, Any]], step: Step) -> None:
    validator = {"$jsonSchema": VALIDATORS[step.collection]}
    if step.kind is Kind.COLLECTION:
        with contextlib.suppress(CollectionInvalid):  # Somebody else has just made it.
            database.create_collection(step.collection, validator=validator)
    elif step.kind is Kind.VALIDATOR:
        database.command("collMod", step.collection, validator=validator)
    elif step.builds is not None:
        database[step.collection].create_index(step.builds.keys, name=step.builds.name, **step.builds.options)
