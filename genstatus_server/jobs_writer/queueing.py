"""What the sync and the async writer decide alike, whoever awaits. Pure."""

import random
from collections.abc import Mapping
from typing import Any, Final

from bson.codec_options import CodecOptions
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import ConnectionFailure, PyMongoError

from genstatus_server.jobs_writer.errors import NotInitialized

#: Tries of a request until racing requests, or ids that others took, no longer get into its way.
REQUEST_TRIES: Final = 20

#: What has been acknowledged is never rolled back; a claim that was would be a job done twice.
MAJORITY: Final = WriteConcern("majority")

#: How the writers see their collections, beside the write concern.
OPTIONS: Final[Mapping[str, Any]] = {
    "codec_options": CodecOptions[dict[str, Any]](tz_aware=True),
    "read_preference": ReadPreference.PRIMARY,
}


def check_indexes(indexes: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `NotInitialized` where two requests at once could make two jobs of one file."""
    wanted = [("submission_id", 1), ("file_type", 1)]
    if not any(index.get("unique") and list(index["key"]) == wanted for index in indexes.values()):
        raise NotInitialized("jobs has no unique index on (submission_id, file_type): run genstatus init-db")


def last_id(counter: Mapping[str, Any] | None) -> int:
    return int((counter or {})["last"])


def highest_id(document: Mapping[str, Any] | None) -> int:
    return int(document["_id"]) if document else 0


def is_passing(error: PyMongoError) -> bool:
    """Whether a MongoDB that is away, or slow, is all that is wrong."""
    return isinstance(error, ConnectionFailure) or error.timeout


def pause(seconds: float) -> float:
    """So long an idle worker waits: spread, so that a pool does not ask all at once."""
    return seconds * random.uniform(0.5, 1.0)
