"""What people and their tools read: the status page and its files, and the OpenAPI document."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from genstatus_server.web.base import BaseHandler, Services
from genstatus_server.web.openapi import openapi_document
from genstatus_server.web.static_files import STATIC_FILES, StaticFile

#: Nothing but our own files, nothing inline, no frame around it; and a form without its script goes nowhere.
_CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGES: Final = {"/": "index.html", "/docs": "docs.html"}


class OpenApiHandler(BaseHandler):
    """The OpenAPI document of this server."""

    async def get(self) -> None:
        self.write(_encoded_openapi())


@cache
def _encoded_openapi() -> bytes:
    return json.dumps(openapi_document()).encode()


class StaticFileHandler(BaseHandler):
    """One file of the pages."""

    def initialize(self, services: Services, file: StaticFile) -> None:  # type: ignore[override] # a route's arguments
        super().initialize(services)
        self.file = file

    async def get(self) -> None:
        self.set_header("Content-Type", self.file.content_type)
        self.set_header("Content-Security-Policy", _CONTENT_SECURITY_POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        self.write(self.file.content)


def static_routes(arguments: Mapping[str, Any]) -> Iterator[tuple[str, type[StaticFileHandler], dict[str, Any]]]:
    """The routes of the pages, and of every file by its name."""
    names = _PAGES | {f"/static/{name}": name for name in STATIC_FILES}
    for path, name in names.items():
        yield re.escape(path), StaticFileHandler, {**arguments, "file": STATIC_FILES[name]}
