"""What people and their tools read: the pages, their files, and this document."""

from typing import Final

from genstatus_server.web.openapi.answers import Object, Routes, answer, error
from genstatus_server.web.openapi.headers import PAGE
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
