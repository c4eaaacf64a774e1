"""The pages with their files, this document, and what operators and their machines request."""

from typing import Final

from genstatus_server.mongo.queries import FIELDS, JOBS
from genstatus_server.telemetry import metrics
from genstatus_server.web.openapi.answers import PAGE, Object, Routes, answer, error, ref
from genstatus_server.web.static_files import HTML, STATIC_FILES

_TEXT: Final = {"type": "string"}
_NAME: Final[Object] = {
    "in": "path",
    "name": "name",
    "required": True,
    "description": "Name of the file.",
    "schema": {"type": "string", "enum": sorted(STATIC_FILES)},
    "example": "genstatus.js",
}
_DOCUMENT: Final = {
    "type": "object",
    "properties": {"openapi": _TEXT, "info": {"type": "object"}, "paths": {"type": "object"}},
    "required": ["openapi", "info", "paths"],
}
_EXCERPT: Final = {"openapi": "3.1.0", "info": {"title": "genstatus_server", "version": "1.0"}, "paths": {}}
READINESS: Final[Object] = {
    "type": "object",
    "properties": {
        "mongodb": {"type": "string", "enum": ["ok", "down"]},
        "change_stream": {"type": "string", "enum": ["live", "polling", "down"]},
        "signer": {"type": "string", "enum": ["ok", "no credentials"]},
        "views": {
            "type": "array",
            "items": {"type": "string", "enum": sorted(FIELDS)},
            "description": "The collections that are views or time series; absent where there is none.",
        },
        "server": {"type": "string", "enum": ["draining"]},
    },
    "required": ["mongodb", "change_stream", "signer"],
}
LIVENESS: Final[Object] = {
    "type": "object",
    "properties": {"status": {"type": "string", "enum": ["ok"]}},
    "required": ["status"],
}
_READY: Final = {"mongodb": "ok", "change_stream": "live", "signer": "ok"}
_DOWN: Final = _READY | {"mongodb": "down", "change_stream": "down"}
_VIEW: Final = _READY | {"change_stream": "down", "views": [JOBS]}

OPERATIONS: Final[Routes] = {
    "/livez": (
        "livez",
        {"summary": "Whether the process runs."},
        {"200": answer("It runs.", ref("Liveness"), {"ok": {"status": "ok"}})},
    ),
    "/readyz": (
        "readyz",
        {"summary": "Whether requests can be answered, and if not, which part fails."},
        {
            "200": answer("They can.", ref("Readiness"), {"ready": _READY}),
            "503": answer("They cannot.", ref("Readiness"), {"down": _DOWN, "view": _VIEW}),
        },
    ),
    "/metrics": (
        "metrics",
        {"summary": "Everything that is counted, for Prometheus."},
        {
            "200": answer(
                "Prometheus' text format.",
                {"type": "string"},
                {"held": "genstatus_held_requests 3.0\n"},
                content_types=[metrics.CONTENT_TYPE],
            )
        },
    ),
}


def _page(description: str) -> Object:
    return answer(description, _TEXT, {"excerpt": "<!doctype html>"}, headers=PAGE, content_types=[HTML])


ROUTES: Final[Routes] = {
    "/openapi.json": (
        "openapi",
        {"summary": "This document."},
        {
            "200": answer(
                "OpenAPI 3.1.",
                _DOCUMENT,
                {"excerpt": _EXCERPT},
            )
        },
    ),
    "/": ("status_page", {"summary": "The status page, for people."}, {"200": _page("The page.")}),
    "/docs": ("docs_page", {"summary": "This document as a page."}, {"200": _page("The page.")}),
    "/static/{name}": (
        "static_file",
        {"summary": "A file of the pages; `genstatus.js` is the client for JavaScript.", "parameters": [_NAME]},
        {
            "200": answer(
                "The file.",
                _TEXT,
                {"excerpt": "/* … */"},
                headers=PAGE,
                content_types=sorted({file.content_type for file in STATIC_FILES.values()}),
            ),
            "404": error("There is no such file.", "Not Found"),
        },
    ),
}
