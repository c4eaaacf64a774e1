"""The OpenAPI document with all that is promised beyond it, so that a validator catches what no caller may rely on.

The served document is plain, for generators of clients. Here no body has other keys than those named, what one value
says about another is a rule, and an error says the one message that its example shows.
"""

from copy import deepcopy
from typing import Any

from genstatus_server.web.openapi import openapi_document

Object = dict[str, Any]


def _if(name: str, values: list[str], then: Object, otherwise: Object) -> Object:
    return {"if": {"properties": {name: {"enum": values}}}, "then": then, "else": otherwise}


_URL_RULE = _if(
    "status",
    ["finished"],
    {"properties": {"url": {"format": "uri", "pattern": "^https?://"}}},
    {"properties": {"url": {"const": "#"}}},
)
_DAYS_RULE = _if(
    "file_type", ["D1", "D2"], {"required": ["start", "end"]}, {"properties": {"start": False, "end": False}}
)
_MESSAGE_RULE = _if(
    "status", ["failed"], {"properties": {"message": {"minLength": 1}}}, {"properties": {"message": {"const": ""}}}
)
_PARAMETERS = ["submission_id", "file_type", "wait", "timeout"]


def strict_document() -> Object:
    document = deepcopy(openapi_document())
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        schema["additionalProperties"] = False
    schemas["GenerationStatus"]["allOf"] = [_URL_RULE, _DAYS_RULE, _MESSAGE_RULE]
    schemas["InvalidRequest"]["properties"]["errors"]["propertyNames"] = {"enum": _PARAMETERS}
    for method in ("get", "head"):
        _name_each_file_once(document["paths"]["/v1/generation_statuses/"][method])
    for item in document["paths"].values():
        for operation in item.values():
            for response in operation["responses"].values():
                for content in response.get("content", {}).values():
                    _say_one_message(content)
    return document


def _name_each_file_once(operation: Object) -> None:
    [file_type] = [each for each in operation["parameters"] if each.get("name") == "file_type"]
    file_type["schema"]["uniqueItems"] = True


def _say_one_message(content: Object) -> None:
    if content["schema"].get("$ref", "").endswith("/ErrorMessage"):
        [example] = content["examples"].values()
        content["schema"] = {
            "allOf": [content["schema"], {"properties": {"message": {"const": example["value"]["message"]}}}]
        }
