"""The bodies of the answers."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from marshmallow import Schema, fields, validate

from genstatus_server.model.jobs import DATED_FILE_TYPES, FILE_TYPES, GenerationStatus, Job

NO_URL: Final = "#"

#: Encoded answers that are cached.
_CACHED: Final = 4096
#: For the OpenAPI document.
_DAY: Final = r"^([0-9]{2}/[0-9]{2}/[0-9]{4})?$"
_ENTITY_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')
#: What a proxy that compresses puts behind the text of a tag: apache2, Jetty, Akamai and others.
_COMPRESSION_MARK: Final = re.compile(r"(?:(?:--?|;)(?:gzip|br|deflate|zstd))+\Z")
_MOMENT: Final = r"^([0-9]{2}/[0-9]{2}/[0-9]{4}|[0-9]{4}-[0-9]{2}-[0-9]{2}) [0-9]{2}:[0-9]{2}:[0-9]{2}$"


class GenerationStatusAnswer(Schema):
    """The body of a 200, in the order of its keys. `start` and `end` are there for D1 and D2 only."""

    job_id = fields.Integer(
        allow_none=True,
        metadata={"description": "Id of the generation job; null where no job exists.", "format": "int64"},
    )
    status = fields.Enum(GenerationStatus, by_value=True, metadata={"description": "Status of the generation."})
    file_type = fields.String(validate=validate.OneOf(FILE_TYPES), metadata={"description": "As requested."})
    url = fields.String(metadata={"description": 'Presigned S3 GET URL when `finished`, otherwise `"#"`.'})
    size = fields.Integer(
        allow_none=True,
        metadata={
            "description": "Bytes of the generated file; null where not known.",
            "format": "int64",
            "minimum": 0,
        },
    )
    start = fields.String(metadata={"description": 'First day, `MM/DD/YYYY`; `""` where not known.', "pattern": _DAY})
    end = fields.String(metadata={"description": 'Last day, `MM/DD/YYYY`; `""` where not known.', "pattern": _DAY})
    message = fields.String(metadata={"description": 'A user-readable error for `failed`, otherwise `""`.'})
    generated_at = fields.String(
        allow_none=True,
        metadata={
            "description": "When the generation was last updated, UTC: `MM/DD/YYYY HH:mm:ss`, or "
            "`YYYY-MM-DD HH:mm:ss` where the server has `generated_at_format = iso`; null: not known.",
            "pattern": _MOMENT,
        },
    )


class GenerationStatusesAnswer(Schema):
    """The body of a 200 about several files."""

    submission_id = fields.Integer(metadata={"description": "As requested."})
    files = fields.List(
        fields.Nested(GenerationStatusAnswer),
        metadata={"description": "One for each file, in the requested order."},
    )


class ErrorAnswer(Schema):
    """The body of every answer that is not a 200."""

    message = fields.String(required=True, metadata={"description": "One line for the caller."})
    errors = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": "What is wrong with each parameter."},
    )


_ANSWER: Final = GenerationStatusAnswer()
_ANSWER_ABOUT_SEVERAL: Final = GenerationStatusesAnswer()


# A job's answer is the same for everybody who polls it, and for all who were held for it.
@lru_cache(_CACHED)
def encode_answer(job: Job, file_type: str, url: str | None, generated_at_format: str = "us") -> bytes:
    """The body of the 200 for `job`, as JSON; `url` is None unless it is finished."""
    return json.dumps(_ANSWER.dump(_values(job, file_type, url, generated_at_format))).encode()


def encode_answer_about_several(
    submission_id: int,
    file_types: Sequence[str],
    jobs: Sequence[Job],
    urls: Sequence[str | None],
    generated_at_format: str = "us",
) -> bytes:
    """The body of the 200 for `jobs`, as JSON; each has its file type and its URL."""
    files = [_values(*each, generated_at_format) for each in zip(jobs, file_types, urls, strict=True)]
    return json.dumps(_ANSWER_ABOUT_SEVERAL.dump({"submission_id": submission_id, "files": files})).encode()


def entity_tag(submission_id: int, file_types: Sequence[str], jobs: Sequence[Job]) -> str:
    """The `ETag` of an answer about `jobs`. It changes whenever the answer that callers see changes.

    It is weak (RFC 9110). It depends on the bucket and the key of a file, but not on its URL, whose signature changes.
    """
    places = [f"{job.bucket}/{job.key}" for job in jobs]
    visible = encode_answer_about_several(submission_id, file_types, jobs, places)
    return f'W/"{hashlib.sha256(visible).hexdigest()[:32]}"'


def opaque_tags(headers: Iterable[str]) -> frozenset[str]:
    """The tags in `ETag` or `If-None-Match` headers, without quotes.

    Neither a mark of weakness (RFC 9110, 13.1.2) nor a compressing proxy's plays a part in their comparison.
    """
    tags = _ENTITY_TAG.findall(",".join(headers))
    return frozenset(_COMPRESSION_MARK.sub("", tag) for tag in tags)


def _values(job: Job, file_type: str, url: str | None, generated_at_format: str) -> dict[str, Any]:
    values: dict[str, Any] = {
        "job_id": job.job_id,
        "status": job.generation_status,
        "file_type": file_type,
        "url": url or NO_URL,
        "size": job.size,
        "message": job.message,
        "generated_at": _generated_at(job.updated_at, generated_at_format),
    }
    if file_type in DATED_FILE_TYPES:
        values |= {"start": _day(job.start), "end": _day(job.end)}
    return values


def _generated_at(moment: datetime | None, generated_at_format: str) -> str | None:
    if moment is None:
        return None
    iso = f"{moment.year:04}-{moment.month:02}-{moment.day:02}"
    return f"{iso if generated_at_format == 'iso' else _day(moment)} {moment:%H:%M:%S}"


def _day(moment: datetime | None) -> str:
    # Not strftime: its %Y leaves out the leading zeros of years below 1000 on Linux.
    return f"{moment.month:02}/{moment.day:02}/{moment.year:04}" if moment else ""
