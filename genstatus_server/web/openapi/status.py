"""The two status routes: their parameters, their answers, and an example of each."""

from collections.abc import Mapping
from typing import Any, Final

from genstatus_server.model.jobs import DATED_FILE_TYPES, FILE_TYPES
from genstatus_server.web.answers import NO_URL
from genstatus_server.web.openapi.answers import Object, Routes, answer, error, ref
from genstatus_server.web.params import GenerationStatusesQuery, GenerationStatusQuery

SESSION_TOKEN: Final = {
    "type": "apiKey",
    "in": "header",
    "name": "X-Session-ID",
    "description": "The caller's session token.",
}
_PREFER: Final[Object] = {
    "in": "header",
    "name": "Prefer",
    "description": "`wait=N` (RFC 7240): the same as `wait=true&timeout=N`; the query wins where both are given. One "
    "that makes no sense is ignored.",
    "schema": {"type": "string"},
    "example": "wait=25",
}
_REQUEST_ID: Final[Object] = {
    "in": "header",
    "name": "X-Request-ID",
    "description": "An id of the caller's own: at most 128 of letters, digits, `.`, `_`, `-`; any other is ignored.",
    "schema": {"type": "string"},
    "example": "my-request.1",
}
REQUEST_HEADERS: Final = (_PREFER, _REQUEST_ID)
_REQUEST: Final[Object] = {
    "summary": "The status of one file's generation, at once or when it is settled.",
    "description": "A presigned S3 URL of the generated file or, where it is not ready or failed to generate, a status "
    "that says so. The same without the trailing slash.",
    "security": [{"session_token": []}],
    "parameters": [{"in": "query", "schema": GenerationStatusQuery}, *REQUEST_HEADERS],
}

#: The keys of a 200 for every file type.
REQUIRED_KEYS: Final[Object] = {
    "required": ["job_id", "status", "file_type", "url", "size", "message", "generated_at"],
}

_URL: Final = (
    "https://reports.s3.us-east-1.amazonaws.com/123/D1.csv?response-content-disposition=attachment%3B%20filename%3D"
    "%22D1.csv%22&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAEXAMPLE%2F20261102%2Fus-east-1%2Fs3%2F"
    "aws4_request&X-Amz-Date=20261102T093001Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=0123456789"
)


def _example(job_id: int | None, status: str, file_type: str, **more: Any) -> Object:
    dated = {"start": "10/01/2026", "end": "10/31/2026"} if file_type in DATED_FILE_TYPES else {}
    made: Object = {"job_id": job_id, "status": status, "file_type": file_type, "url": NO_URL, "size": None}
    return made | dated | {"message": "", "generated_at": "11/02/2026 09:30:00"} | more


EXAMPLES: Final[Mapping[str, Object]] = {
    "finished": _example(1234, "finished", "D1", url=_URL, size=10240),
    "waiting": _example(1235, "waiting", "D2"),
    "failed": _example(1236, "failed", "E", message="The award data could not be read"),
    "invalid": _example(None, "invalid", "F", generated_at=None),
}
_FILE_TYPE: Final = "Must be either D1, D2, E or F"
_MISSING: Final = {"submission_id": ["Missing data for required field."]}
_INVALID_EXAMPLES: Final[Mapping[str, Object]] = {
    "missing": {"message": "submission_id is required", "errors": _MISSING},
    "invalid": {"message": f"file_type: {_FILE_TYPE}", "errors": {"file_type": [_FILE_TYPE]}},
    "unknown": {"message": "No such submission"},
}
_DENIED: Final = "User does not have permission to access that submission"
_WAITED: Final = ("X-Wait-Result",)

#: The answers that both routes have beside a 200.
ERROR_ANSWERS: Final[Mapping[str, Object]] = {
    "400": answer(
        "A parameter is missing or invalid, or the submission does not exist.",
        ref("InvalidRequest"),
        _INVALID_EXAMPLES,
        headers=_WAITED,
    ),
    "401": error("No, unknown or expired session.", "Login Required", headers=_WAITED),
    "403": error("The user may not view the submission.", _DENIED, headers=_WAITED),
    "503": error(
        "MongoDB or the signer cannot be reached in time.",
        "Service temporarily unavailable",
        headers=["Retry-After", "X-Wait-Result"],
    ),
}

ROUTES: Final[Routes] = {
    "/v1/check_generation_status/": (
        "check_generation_status",
        _REQUEST,
        {
            "200": answer(
                "The status. A hold that ends without a result is a 200 with `waiting`, too.",
                ref("GenerationStatus"),
                EXAMPLES,
                headers=["Retry-After", "X-Wait-Result", "Preference-Applied"],
            ),
            **ERROR_ANSWERS,
        },
    )
}

_REQUEST_OF_SEVERAL: Final[Object] = {
    "summary": "The status of several files of a submission, in one request and one hold.",
    "description": "Each as in the route for one file, in the requested order. The same without the trailing slash. "
    "`Prefer: wait=N` waits for all.",
    "security": [{"session_token": []}],
    "parameters": [
        {"in": "query", "schema": GenerationStatusesQuery(exclude=["file_type"])},
        {
            "in": "query",
            "name": "file_type",
            "required": True,
            "description": "The requested files, each once, separated by commas; or repeated; or both.",
            "style": "form",
            "explode": False,
            "schema": {
                "type": "array",
                "items": {"type": "string", "enum": list(FILE_TYPES)},
                "minItems": 1,
            },
            "example": ["D1", "D2"],
        },
        *REQUEST_HEADERS,
        {
            "in": "header",
            "name": "If-None-Match",
            "description": "With `wait=any`, the `ETag` of an earlier answer: the request is held until anything that "
            "callers can see differs from that one. There is never a 304.",
            "schema": {"type": "string"},
            "example": 'W/"0123456789abcdef0123456789abcdef"',
        },
    ],
}

ANSWER: Final[Object] = {
    "type": "object",
    "required": ["submission_id", "files"],
    "properties": {
        "submission_id": {"type": "integer", "format": "int64", "minimum": 1},
        "files": {"type": "array", "items": ref("GenerationStatus"), "minItems": 1, "maxItems": 4},
    },
}

ROUTES_OF_SEVERAL: Final[Routes] = {
    "/v1/generation_statuses/": (
        "generation_statuses",
        _REQUEST_OF_SEVERAL,
        {
            "200": answer(
                "The statuses. A hold that ends without a result is a 200 with `waiting`, too.",
                ref("GenerationStatuses"),
                {"two": {"submission_id": 123, "files": [EXAMPLES["finished"], EXAMPLES["waiting"]]}},
                headers=["Retry-After", "X-Wait-Result", "Preference-Applied", "ETag"],
            ),
            **ERROR_ANSWERS,
        },
    )
}
