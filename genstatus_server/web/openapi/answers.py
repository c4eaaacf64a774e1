"""What the answers of all routes are built from."""

from collections.abc import Iterable, Mapping
from typing import Any

from genstatus_server.web.openapi.headers import EVERY_ANSWER

Object = dict[str, Any]
#: Of each path: the name of its operation, what is asked, and what is answered, by HTTP status.
Routes = dict[str, tuple[str, Object, Mapping[str, Object]]]


def answer(
    description: str,
    schema: object = None,
    examples: Mapping[str, object] | None = None,
    *,
    headers: Iterable[str] = (),
    content_types: Iterable[str] = ("application/json",),
) -> Object:
    """One answer; without a schema, it has no body."""
    made: Object = {"description": description, "headers": {name: name for name in (*EVERY_ANSWER, *headers)}}
    if schema is not None:
        shown = {name: {"value": value} for name, value in (examples or {}).items()}
        made["content"] = {each: {"schema": schema, "examples": shown} for each in content_types}
    return made


def error(description: str, message: str, *, headers: Iterable[str] = ()) -> Object:
    """An answer that always says the same."""
    return answer(description, ref("ErrorMessage"), {"error": {"message": message}}, headers=headers)


def ref(name: str) -> Object:
    """The schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}
