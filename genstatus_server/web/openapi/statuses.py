"""`GET /v1/generation_statuses/`: what may be asked, what is answered, and an example."""

from typing import Final

from genstatus_server.model.jobs import FILE_TYPES
from genstatus_server.web.openapi.answers import Object, Routes, answer, ref
from genstatus_server.web.openapi.status import EXAMPLES, REFUSALS, REQUEST_HEADERS
from genstatus_server.web.query import GenerationStatusesQuery

_REQUEST: Final[Object] = {
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

ROUTES: Final[Routes] = {
    "/v1/generation_statuses/": (
        "generation_statuses",
        _REQUEST,
        {
            "200": answer(
                "The statuses. A hold that ends without a result is a 200 with `waiting`, too.",
                ref("GenerationStatuses"),
                {"two": {"submission_id": 123, "files": [EXAMPLES["finished"], EXAMPLES["waiting"]]}},
                headers=["Retry-After", "X-Wait-Result", "Preference-Applied", "ETag"],
            ),
            **REFUSALS,
        },
    )
}
