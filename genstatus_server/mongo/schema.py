"""The schema of the collections that the service reads: their validators and indexes.

A validator tells the author of a wrong document at once. It refuses what contradicts itself and what the service, or
`jobs_writer`, could not work with. Other fields belong to the writers.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from genstatus_server.jobs_writer.changes import COUNTERS, OLDEST_FIRST
from genstatus_server.model.jobs import DATED_FILE_TYPES, FILE_TYPES
from genstatus_server.mongo.queries import JOBS, SESSIONS, SUBMISSIONS, USERS


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
        # For the queries of `claim`. Both indexes contain only jobs that wait or that are held, and so stay small.
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
