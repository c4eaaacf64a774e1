"""What a request asks: of one file or of several, what the rest has to know of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Protocol

from tornado.escape import parse_qs_bytes
from tornado.httputil import HTTPServerRequest

from genstatus_server.model.errors import InvalidRequest
from genstatus_server.web.params import asks_to_wait

#: Queries that are remembered, and the characters that are few enough for it.
_REMEMBERED: Final = 4096
_USUAL_LENGTH: Final = 96

Query = Mapping[str, Sequence[bytes]]


class Asked(Protocol):
    """What a request for one file and one for several have in common."""

    @property
    def submission_id(self) -> int: ...
    @property
    def file_type(self) -> str: ...
    @property
    def file_types(self) -> tuple[str, ...]: ...
    @property
    def any_file(self) -> bool: ...
    @property
    def wait(self) -> bool: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def preferred_wait(self) -> bool: ...


#: Says what a query and the headers `Prefer` ask, or raises `InvalidRequest`.
Understand = Callable[[Query, Sequence[str]], Asked]


def understood(understand: Understand, request: HTTPServerRequest) -> tuple[Asked | InvalidRequest, bool]:
    """What is asked, or what is wrong with it; and whether it asks to wait, wrong or not."""
    query, prefer = request.query_arguments, request.headers.get_list("Prefer")
    is_usual = not prefer and len(request.query) <= _USUAL_LENGTH
    try:
        asked = (_usual(understand, request.query) if is_usual else None) or understand(query, prefer)
    except InvalidRequest as error:
        return error, asks_to_wait(query, prefer)
    return asked, asked.wait


# Clients ask the same again and again.
@lru_cache(_REMEMBERED)
def _usual(understand: Understand, query: str) -> Asked | None:
    """What is asked with `query`; None where that is wrong, and for `understand` to say why."""
    try:
        return understand(parse_qs_bytes(query, keep_blank_values=True), ())
    except InvalidRequest:
        return None
