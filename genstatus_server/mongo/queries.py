"""The names of collections and fields, the snapshot query, and the change stream's pipeline.

A key is `(collection, id)`, where the id of a job is `(submission_id, file_type)`. Holds wait for keys, and events of
the change stream are translated to keys.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final

from bson.decimal128 import Decimal128
from bson.int64 import Int64

from genstatus_server.model.access import login_session_from_document, submission_from_document, user_from_document
from genstatus_server.model.jobs import Job, job_from_document, whole_number
from genstatus_server.telemetry import log

JOBS: Final = "jobs"
SUBMISSIONS: Final = "submissions"
USERS: Final = "users"
SESSIONS: Final = "sessions"

Key = tuple[str, Any]
Document = Mapping[str, Any]

#: The fields that an answer can depend on. No others are read, and changes of others are ignored.
FIELDS: Final[Mapping[str, Sequence[str]]] = {
    JOBS: ("submission_id", "file_type", "status", "upload", "size", "start", "end", "message", "updated_at"),
    SUBMISSIONS: ("user_id", "cgac_code", "frec_code"),
    USERS: ("website_admin", "affiliations"),
    SESSIONS: ("user_id", "expires_at"),
}

#: Events of the four collections, and those that end, rename or replace a collection as a whole.
CHANGE_STREAM_PIPELINE: Final[Sequence[Mapping[str, Any]]] = (
    {
        "$match": {
            "$or": [
                {"ns.coll": {"$in": list(FIELDS)}},
                {"to.coll": {"$in": list(FIELDS)}},
                {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
            ]
        }
    },
)

#: The field of a document in a reply that tells its collection, and the one of a session that holds its user.
_COLLECTION: Final = "_collection"
_USER: Final = "_user"

_PARSERS: Final[Mapping[str, Callable[[Document | None], Any]]] = {
    JOBS: job_from_document,
    SUBMISSIONS: submission_from_document,
    USERS: user_from_document,
    SESSIONS: login_session_from_document,
}


def job_key(document: Document | None) -> Key | None:
    """The key of the job in `document`; None where that is no valid key."""
    submission_id = whole_number((document or {}).get("submission_id"))
    file_type = (document or {}).get("file_type")
    return (JOBS, (submission_id, file_type)) if submission_id is not None and type(file_type) is str else None


def is_found_by(document: Document, key: Key) -> bool:
    """Whether a query for the job of `key` finds `document`, which need not name a valid key itself."""
    submission_id, file_type = key[1]
    return _equals(document.get("submission_id"), submission_id) and _equals(document.get("file_type"), file_type)


def _equals(value: object, wanted: object) -> bool:
    """Compare like MongoDB: an array matches if one of its elements does; numbers match across numeric types."""
    if isinstance(value, list):
        return any(not isinstance(each, list) and _equals(each, wanted) for each in value)
    if isinstance(value, Decimal128):
        number = value.to_decimal()
        return number.is_finite() and number == wanted
    # Neither a subclass of text, such as code, nor a boolean.
    return type(value) in {str, int, float, Int64} and value == wanted


def document_id(value: object) -> Hashable | None:
    """The `_id` by which a document can be cached; None where it is of no type that this service uses."""
    return value if type(value) is str else whole_number(value)


def own_fields(collection: str, document: Document) -> Document:
    """`document` with its `_id` and the fields that an answer can depend on, as a read brings it."""
    return {name: document[name] for name in ("_id", *FIELDS[collection]) if name in document}


def parse(key: Key, document: Document | None) -> Any:
    """What `document` means; None for `document` where there is none. Never raises: what cannot be parsed is absent.

    A job that makes no sense, and a document that could not be parsed, is warned of.
    """
    try:
        value = _PARSERS[key[0]](document)
    except Exception as error:  # noqa: BLE001 - one strange document must not fail the reads of others.
        log.warning("document_malformed", collection=key[0], cause=log.cause(error))
        return _PARSERS[key[0]](None)
    if value is None and document is not None:
        log.warning("document_malformed", collection=key[0], cause="a field that is needed makes no sense")
    if isinstance(value, Job) and value.problems:
        log.warning("job_malformed", submission_id=key[1][0], file_type=key[1][1], problems=value.problems)
    return value


def snapshot_query(keys: Iterable[Key]) -> tuple[str, list[Mapping[str, Any]]]:
    """The collection and the pipeline of one aggregation that finds the documents of `keys`, each with its collection.

    A session brings its user along. A few more documents than the requested ones may be found.
    """
    identifiers: dict[str, list[Any]] = {}
    for collection, identifier in keys:
        identifiers.setdefault(collection, []).append(identifier)
    parts = [(collection, _pipeline(collection, each)) for collection, each in identifiers.items()]
    (first, pipeline), *others = parts
    return first, [*pipeline, *({"$unionWith": {"coll": coll, "pipeline": each}} for coll, each in others)]


def split_reply(documents: Iterable[Document]) -> list[tuple[str, Document]]:
    """The documents of a reply to `snapshot_query`, each with its collection."""
    found: list[tuple[str, Document]] = []
    for document in documents:
        collection = document[_COLLECTION]
        found.append((collection, own_fields(collection, document)))
        found += [(USERS, user) for user in document.get(_USER, ())]
    return found


def _pipeline(collection: str, identifiers: Sequence[Any]) -> list[Mapping[str, Any]]:
    project = {"$project": dict.fromkeys(FIELDS[collection], 1) | {_COLLECTION: {"$literal": collection}}}
    if collection == JOBS:
        submission_ids, file_types = ({each[place] for each in identifiers} for place in (0, 1))
        match = {"submission_id": {"$in": sorted(submission_ids)}, "file_type": {"$in": sorted(file_types)}}
        return [{"$match": match}, project]
    match = {"_id": {"$in": list(identifiers)}}
    if collection != SESSIONS:
        return [{"$match": match}, project]
    user = {
        "from": USERS,
        "localField": "user_id",
        "foreignField": "_id",
        "pipeline": [{"$project": dict.fromkeys(FIELDS[USERS], 1)}],
        "as": _USER,
    }
    return [{"$match": match}, project, {"$lookup": user}]
