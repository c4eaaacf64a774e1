"""The OpenAPI document, generated from the schemas.

It is plain, so that generators of clients understand all of it: no conditions, and no schema is changed where it is
used. What one value says about another is in the descriptions.
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any, Final

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from genstatus_server import __version__
from genstatus_server.web.answers import ErrorAnswer, GenerationStatusAnswer
from genstatus_server.web.openapi import pages, status
from genstatus_server.web.openapi.answers import HEADERS, PREFLIGHT, Object, Routes, answer, error

_INFO: Final[Object] = {
    "summary": "Returns the status of generated files, and presigned URLs to download them.",
    "description": "Answers at once, or holds a request until the file is generated (long polling).",
    "contact": {"name": "The genstatus_server authors"},
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
_SERVERS: Final = [{"url": "/", "description": "This server."}]
#: By tag, which names the group of operations in a generated client: what it is, and its routes.
_GROUPS: Final[Mapping[str, tuple[str, Routes]]] = {
    "status": ("The status of generated files.", status.ROUTES | status.ROUTES_OF_SEVERAL),
    "operations": ("Probes and metrics.", pages.OPERATIONS),
    "pages": ("Pages, their files, and this document.", pages.ROUTES),
}
_METHOD_NOT_ALLOWED: Final = error("Another method.", "Method Not Allowed", headers=["Allow"])


@cache
def openapi_document() -> Object:
    """The document, made once."""
    tags = [{"name": name, "description": description} for name, (description, _) in _GROUPS.items()]
    spec = APISpec(
        "genstatus_server", __version__, "3.1.0", [MarshmallowPlugin()], info=_INFO, servers=_SERVERS, tags=tags
    )
    _add_components(spec)
    for tag, (_, routes) in _GROUPS.items():
        for path, (name, request, answers) in routes.items():
            _add_path(spec, path, name, answers, {"tags": [tag], "security": [], **request})
    return dict(spec.to_dict())


def _add_components(spec: APISpec) -> None:
    for name, (description, schema, example) in HEADERS.items():
        spec.components.header(name, {"description": description, "schema": schema, "example": example})
    spec.components.schema("GenerationStatus", status.REQUIRED_KEYS, schema=GenerationStatusAnswer)
    spec.components.schema("GenerationStatuses", status.ANSWER)
    spec.components.schema("InvalidRequest", schema=ErrorAnswer)
    spec.components.schema("ErrorMessage", schema=ErrorAnswer(only=("message",)))
    spec.components.schema("Readiness", pages.READINESS)
    spec.components.schema("Liveness", pages.LIVENESS)
    spec.components.security_scheme("session_token", status.SESSION_TOKEN)


def _add_path(spec: APISpec, path: str, name: str, answers: Mapping[str, Object], request: Object) -> None:
    """GET, HEAD (the same without a body) and OPTIONS of `path`."""
    answers = {**answers, "405": _METHOD_NOT_ALLOWED}
    bodiless = {status: {k: v for k, v in answer.items() if k != "content"} for status, answer in answers.items()}
    methods = {
        "get": {"operationId": name, **request, "responses": answers},
        "head": {"operationId": f"{name}_head", **request, "responses": bodiless},
        "options": {"operationId": f"{name}_options", **_preflight(request, answers)},
    }
    # apispec changes them in place, so each is a copy.
    spec.path(path, operations={method: deepcopy(operation) for method, operation in methods.items()})


def _preflight(request: Object, answers: Mapping[str, Object]) -> dict[str, Any]:
    in_path = [parameter for parameter in request.get("parameters", ()) if parameter["in"] == "path"]
    allowed = answer("What may be sent.", headers=PREFLIGHT)
    not_there = {status: answer for status, answer in answers.items() if status == "404"}
    summary = "The methods, and what a page of another origin may send."
    common = {"summary": summary, "tags": request["tags"], "security": [], "parameters": in_path}
    return {**common, "responses": {"204": allowed, **not_there}}
