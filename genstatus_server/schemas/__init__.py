"""The wire contract, in and out: the parameters of a request, the body of an answer, and how each is checked.

The schemas are also the source of the OpenAPI document, so what a field means is said here, once.
"""

from genstatus_server.schemas.answers import (
    NO_URL,
    ErrorAnswer,
    GenerationStatusAnswer,
    GenerationStatusesAnswer,
    dump_answer,
    encode_answer,
    encode_answer_about_several,
    entity_tag,
)
from genstatus_server.schemas.requests import (
    GenerationStatusesQuery,
    GenerationStatusQuery,
    StatusesRequest,
    StatusRequest,
    asks_to_wait,
    load_request,
    load_request_for_several,
)

__all__ = [
    "NO_URL",
    "ErrorAnswer",
    "GenerationStatusAnswer",
    "GenerationStatusQuery",
    "GenerationStatusesAnswer",
    "GenerationStatusesQuery",
    "StatusRequest",
    "StatusesRequest",
    "asks_to_wait",
    "dump_answer",
    "encode_answer",
    "encode_answer_about_several",
    "entity_tag",
    "load_request",
    "load_request_for_several",
]
