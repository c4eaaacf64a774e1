"""Change stream events: which document an event concerns, and what an update makes of a document. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bson.timestamp import Timestamp

from genstatus_server.mongo.queries import FIELDS, JOBS, Document, Key, document_id, job_key, own_fields

Event = Mapping[str, Any]
#: A MongoDB cluster time as one number, because it is compared for every document and event.
ClusterTime = int

#: The operations that concern one document. Any other may concern all documents.
DOCUMENT_OPERATIONS: Final = frozenset({"insert", "update", "replace", "delete"})
_REMOVED: Final = object()
_KEY_FIELDS: Final = frozenset({"submission_id", "file_type"})


def cluster_time(timestamp: Timestamp) -> ClusterTime:
    """`timestamp` as a number: seconds since 1970 in the upper bits, the counter within the second in the lower 32."""
    return (timestamp.time << 32) | timestamp.inc


def changed_fields(event: Event) -> set[str]:
    """The top-level names of the fields that an update has set, removed or truncated."""
    description = event.get("updateDescription") or {}
    arrays = [each.get("field", "") for each in description.get("truncatedArrays") or ()]
    paths = (*(description.get("updatedFields") or ()), *(description.get("removedFields") or ()), *arrays)
    return {path.partition(".")[0] for path in paths}


def changes_key(event: Event) -> bool:
    """Whether an update of a job moves it to another submission or file type."""
    return event["operationType"] == "update" and not changed_fields(event).isdisjoint(_KEY_FIELDS)


def key_of(event: Event) -> Key | None:
    """The key of the changed document, if the event contains it. Most events of jobs do not: then None."""
    collection = event["ns"]["coll"]
    if collection == JOBS:
        return job_key(event.get("fullDocument"))
    identifier = document_id(event["documentKey"].get("_id"))
    return None if identifier is None else (collection, identifier)


def apply_update(collection: str, document: Document, event: Event) -> Document | None:
    """`document` as it is after the update in `event`; None where that is not certain.

    It is uncertain where an array was changed in place: a number in a path may be a position or a field's name.
    """
    description = event["updateDescription"]
    fields = FIELDS[collection]
    if {each["field"].partition(".")[0] for each in description.get("truncatedArrays") or ()}.intersection(fields):
        return None
    changes = dict.fromkeys(description.get("removedFields") or (), _REMOVED) | (description.get("updatedFields") or {})
    result: Document | None = document
    for path, value in changes.items():
        names = path.split(".")
        if result is not None and names[0] in fields:
            result = _changed(result, names, value)
    return result


def document_after(key: Key, document: Document | None, event: Event) -> Document | None:
    """`document` after `event`; None where that is not certain: without the unique index, a key may have two jobs."""
    if document is not None and document["_id"] != event["documentKey"].get("_id"):
        return None
    if event["operationType"] == "delete":
        return None
    after: Document | None
    if event["operationType"] != "update":
        after = own_fields(key[0], event["fullDocument"])
    elif document is None:
        return None
    else:
        after = apply_update(key[0], document, event)
    return after if key[0] != JOBS or job_key(after) == key else None


def is_same(one: object, other: object) -> bool:
    """Whether two values of documents are equal and of the same types: to Python, `True` equals 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return one == other


def _changed(document: Document, path: Sequence[str], value: object) -> Document | None:
    """`document` with `value` at `path`, or without what is there; None where that is not certain."""
    name, *rest = path
    if rest:
        inner = document.get(name)
        if not isinstance(inner, dict) or rest[0].isdigit():
            return None
        value = _changed(inner, rest, value)
        if value is None:
            return None
    if value is _REMOVED:
        return {other: kept for other, kept in document.items() if other != name}
    return {**document, name: value}
