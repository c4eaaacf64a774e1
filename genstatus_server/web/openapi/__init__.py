"""The OpenAPI document, generated from the schemas.

It is strict: bodies have no other keys than those named here, and what one value says about another is written down,
so that a validator catches an answer that the document does not promise.
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any, Final

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from genstatus_server import __version__
from genstatus_server.web.answers import ErrorAnswer, GenerationStatusAnswer
from genstatus_server.web.openapi import operations, pages, status, statuses
from genstatus_server.web.openapi.answers import Object, answer, error
from genstatus_server.web.openapi.headers import HEADERS, PREFLIGHT

_INFO: Final[Object] = {
    "summary": "Tells when generated files are there, and where.",
    "description": "Answers at once, or holds a request until the file is generated (long polling).",
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
_METHOD_NOT_ALLOWED: Final = error("Another method.", "Method Not Allowed", headers=["Allow"])


@cache
def openapi_document() -> Object:
    """The document, made once."""
    spec = APISpec("genstatus_server", __version__, "3.1.0", info=_INFO, plugins=[MarshmallowPlugin()])
    for name, (description, schema, example) in HEADERS.items():
        spec.components.header(name, {"description": description, "schema": schema, "example": example})
    spec.components.schema("GenerationStatus", status.ANSWER_RULES, schema=GenerationStatusAnswer)
    spec.components.schema("GenerationStatuses", {"type": "object", **statuses.ANSWER_RULES})
    spec.components.schema("InvalidRequest", status.INVALID_RULES, schema=ErrorAnswer)
    spec.components.schema("Error", {"additionalProperties": False}, schema=ErrorAnswer(only=("message",)))
    spec.components.schema("Readiness", operations.READINESS)
    spec.components.security_scheme("session_token", status.SESSION_TOKEN)
    for path, (name, request, answers) in (status.ROUTES | statuses.ROUTES | operations.ROUTES | pages.ROUTES).items():
        _add(spec, path, name, answers, request)
    return dict(spec.to_dict())


def _add(spec: APISpec, path: str, name: str, answers: Mapping[str, Object], request: Object) -> None:
    """GET, HEAD (the same without a body) and OPTIONS of `path`."""
    answers = {**answers, "405": _METHOD_NOT_ALLOWED}
    bodiless = {status: {k: v for k, v in answer.items() if k != "content"} for status, answer in answers.items()}
    methods = {
        "get": {"operationId": name, **request, "responses": answers},
        "head": {"operationId": f"{name}_head", **request, "responses": bodiless},
        "options": {"operationId": f"{name}_options", **_preflight(request, answers)},
    }
    # apispec resolves what is in them in place, so each is a copy of its own.
    spec.path(path, operations={method: deepcopy(operation) for method, operation in methods.items()})


def _preflight(request: Object, answers: Mapping[str, Object]) -> dict[str, Any]:
    in_path = [parameter for parameter in request.get("parameters", ()) if parameter["in"] == "path"]
    allowed = answer("The methods, and what a page of another origin may send.", headers=PREFLIGHT)
    not_there = {status: answer for status, answer in answers.items() if status == "404"}
    return {"summary": "What may be asked here.", "parameters": in_path, "responses": {"204": allowed, **not_there}}
