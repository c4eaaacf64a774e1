"""What is asked of MongoDB: the names of collections and fields, the queries, and the change stream's pipeline.

A key is `(collection, id)`, where a job's id is `(submission_id, file_type)`: it is what a hold waits for, and what a
change of the change stream is translated to.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from genstatus_server.model.documents import login_session_from_document, submission_from_document, user_from_document
from genstatus_server.model.jobs import Job, job_from_document, whole_number
from genstatus_server.telemetry import log

JOBS: Final = "jobs"
SUBMISSIONS: Final = "submissions"
USERS: Final = "users"
SESSIONS: Final = "sessions"

JobId = tuple[int, str]
Key = tuple[str, Any]
Document = Mapping[str, Any]
#: What the document of an id in a collection says; None where there is none. It may raise to have that read first.
Find = Callable[[str, Any], Any]

#: What callers can notice; the rest of a document does not travel.
FIELDS: Final[Mapping[str, Sequence[str]]] = {
    JOBS: ("submission_id", "file_type", "status", "upload", "size", "start", "end", "message", "updated_at"),
    SUBMISSIONS: ("user_id", "cgac_code", "frec_code"),
    USERS: ("website_admin", "affiliations"),
    SESSIONS: ("user_id", "expires_at"),
}

#: The top-level names of the fields that an update has changed.
_CHANGED_FIELDS: Final = {
    "$map": {
        "input": {
            "$concatArrays": [
                {"$map": {"input": {"$objectToArray": "$updateDescription.updatedFields"}, "in": "$$this.k"}},
                {"$ifNull": ["$updateDescription.removedFields", []]},
                {"$map": {"input": {"$ifNull": ["$updateDescription.truncatedArrays", []]}, "in": "$$this.field"}},
            ]
        },
        "in": {"$arrayElemAt": [{"$split": ["$$this", "."]}, 0]},
    }
}
_NOTICED_FIELDS: Final = sorted({field for fields in FIELDS.values() for field in fields})

#: What the change stream has to tell: changes of the four collections that callers can notice, and what ends or moves
#: a collection as a whole. Of the documents only a job travels, as it is now, with the fields that an update has set.
CHANGES: Final[Sequence[Mapping[str, Any]]] = (
    {
        "$match": {
            "$or": [
                {"ns.coll": {"$in": list(FIELDS)}},
                {"to.coll": {"$in": list(FIELDS)}},
                {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
            ]
        }
    },
    {
        "$match": {
            "$or": [
                {"operationType": {"$ne": "update"}},
                {"$expr": {"$gt": [{"$size": {"$setIntersection": [_CHANGED_FIELDS, _NOTICED_FIELDS]}}, 0]}},
            ]
        }
    },
    {
        "$project": {
            "operationType": 1,
            "clusterTime": 1,
            "wallTime": 1,
            "ns.coll": 1,
            "documentKey._id": 1,
            "fullDocument": {"_id": 1} | dict.fromkeys(FIELDS[JOBS], 1),
            "updateDescription.updatedFields": dict.fromkeys(FIELDS[JOBS], 1),
        }
    },
)

_PARSERS: Final[Mapping[str, Callable[[Document | None], Any]]] = {
    SUBMISSIONS: submission_from_document,
    USERS: user_from_document,
    SESSIONS: login_session_from_document,
}


def parse(collection: str, document_id: Any, document: Document | None) -> Any:
    """What `document` says; None for `document` where there is none. A job that makes no sense is warned of."""
    return parse_job(document_id, document) if collection == JOBS else _PARSERS[collection](document)


def parse_job(job_id: JobId, document: Document | None, known: Job | None = None) -> Job:
    """The job in `document`. One that makes no sense is warned of, unless it is the one that was `known`."""
    job = job_from_document(document)
    if job.problems and job != known:
        log.warning("job_malformed", submission_id=job_id[0], file_type=job_id[1], problems=job.problems)
    return job


def job_id_of(document: Document | None) -> JobId | None:
    """What a job is known by; None where the document does not say it, or is gone already."""
    submission_id = whole_number((document or {}).get("submission_id"))
    file_type = (document or {}).get("file_type")
    return (submission_id, file_type) if submission_id is not None and type(file_type) is str else None


def by_id(collection: str, documents: Iterable[Document]) -> dict[Hashable, Document]:
    """`documents` by what they are asked for with; under None are jobs that do not say it in a way that makes sense."""
    id_of = job_id_of if collection == JOBS else lambda document: cast("Hashable", document["_id"])
    found: dict[Hashable, Document] = {}
    for document in documents:
        found.setdefault(id_of(document), document)
    return found


def query_for(collection: str, ids: Sequence[Any]) -> Mapping[str, Any]:
    """The query that finds the documents of `ids`, and perhaps a few more."""
    if collection != JOBS:
        return {"_id": {"$in": list(ids)}}
    submission_ids, file_types = zip(*ids, strict=True)
    return {"submission_id": {"$in": sorted(set(submission_ids))}, "file_type": {"$in": sorted(set(file_types))}}
