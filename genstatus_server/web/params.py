"""The parameters of a request for the status of one file or of several, and how they are parsed."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Final, cast
from urllib.parse import parse_qs

from marshmallow import Schema, ValidationError, fields, validate
from tornado.httputil import HTTPServerRequest

from genstatus_server.model.errors import InvalidRequest
from genstatus_server.model.jobs import FILE_TYPES, LARGEST_ID

#: The values of each query parameter, as raw bytes.
Query = Mapping[str, Sequence[bytes]]

#: Number of parsed queries that are cached, and the length in characters up to which a query is cached.
_CACHED_QUERIES: Final = 1024
_CACHED_LENGTH: Final = 96

#: One preference with its parameters. A quoted text may contain commas. A quote that is not closed ends with the
#: header, so that each character is read once.
_PREFERENCE: Final = re.compile(r'(?:"(?:[^"\\]|\\.?)*(?:"|\Z)|[^",])+', re.DOTALL)
_WAIT_PREFERENCE: Final = re.compile(r'\s*wait\s*=\s*("?)([0-9]+)\1\s*(;.*)?', re.ASCII | re.IGNORECASE)

_NO_BRACKETS: Final = "Must be sent as file_type=D1,D2 or as file_type=D1&file_type=D2, without brackets."

_WRONG_FILE_TYPE: Final = "Must be either D1, D2, E or F"

_DIGITS: Final = re.compile(r"[0-9]+", re.ASCII)
_DECIMAL: Final = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class StatusParams:
    """The valid parameters of a request. `timeout` is in seconds, None where the server's default applies.

    With `any_file` the first of the files that leaves `waiting` ends the hold. `preferred_wait` is true where a
    `Prefer` header requested the hold; the answer to such a request has `Preference-Applied`.
    """

    submission_id: int
    file_types: tuple[str, ...]
    wait: bool
    timeout: float | None
    preferred_wait: bool
    any_file: bool = False


#: Parses a query and the values of the `Prefer` headers. Raises `InvalidRequest`.
ParseParams = Callable[[Query, Sequence[str]], StatusParams]


def parse_params_of_one(query: Query, prefer: Sequence[str]) -> StatusParams:
    """The parameters of a request for one file. Raises `InvalidRequest`."""
    loaded = _load(_QUERY, query)
    preferred = _preferred_wait(prefer)
    wait = loaded.get("wait", preferred is not None)
    return StatusParams(
        submission_id=loaded["submission_id"],
        file_types=(loaded["file_type"],),
        wait=wait,
        timeout=loaded.get("timeout", preferred),
        preferred_wait=wait and preferred is not None,
    )


def parse_params_of_several(query: Query, prefer: Sequence[str]) -> StatusParams:
    """The parameters of a request for several files; `Prefer: wait=N` waits for all. Raises `InvalidRequest`."""
    loaded = _load(_QUERY_OF_SEVERAL, query)
    preferred = _preferred_wait(prefer)
    return StatusParams(
        submission_id=loaded["submission_id"],
        file_types=loaded["file_type"],
        wait="wait" in loaded or preferred is not None,
        timeout=loaded.get("timeout", preferred),
        preferred_wait=preferred is not None,
        any_file=loaded.get("wait") == "any",
    )


def parse_query(query: str) -> dict[str, list[bytes]]:
    """The parameters in `query`. The result is shared: it must not be changed."""
    return _parse_short_query(query) if len(query) <= _CACHED_LENGTH else _parse_query(query)


def _parse_query(query: str) -> dict[str, list[bytes]]:
    # A byte that is no ASCII stands in `query` as the character of that number.
    values = parse_qs(query, True, encoding="latin-1")  # noqa: FBT003 - blanks are kept
    return {name: [value.encode("latin-1") for value in each] for name, each in values.items()}


# Clients send the same query again and again.
_parse_short_query: Final = lru_cache(_CACHED_QUERIES)(_parse_query)


def parse_request(parse: ParseParams, request: HTTPServerRequest) -> tuple[StatusParams | InvalidRequest, bool]:
    """The parameters of `request`, or the error in them; and whether it requests a hold, also with an error."""
    query, prefer = request.query_arguments, request.headers.get_list("Prefer")
    is_cacheable = not prefer and len(request.query) <= _CACHED_LENGTH
    try:
        params = (_parse_cached(parse, request.query) if is_cacheable else None) or parse(query, prefer)
    except InvalidRequest as error:
        return error, _requests_wait(query, prefer)
    return params, params.wait


@lru_cache(_CACHED_QUERIES)
def _parse_cached(parse: ParseParams, query: str) -> StatusParams | None:
    """The parameters in `query`; None where they are invalid: the caller then parses it again for the error."""
    try:
        return parse(parse_query(query), ())
    except InvalidRequest:
        return None


def _requests_wait(query: Query, prefer: Sequence[str]) -> bool:
    """Whether a request, of either route, requests a hold, whatever else is invalid in it."""
    values = {value.lower() for value in query.get("wait", ())}
    if values & {b"true", b"1", b"all", b"any"}:
        return True
    return not values & {b"false", b"0"} and _preferred_wait(prefer) is not None


def _load(schema: Schema, query: Query) -> dict[str, Any]:
    single, errors = _single_values(schema, query)
    loaded: dict[str, Any] = {}
    try:
        loaded = cast("dict[str, Any]", schema.load(single))
    except ValidationError as error:
        errors = {**cast("dict[str, list[str]]", error.messages), **errors}
    if errors:
        raise InvalidRequest(_first_message(schema, errors, missing=not query.get("submission_id")), errors)
    return loaded


def _single_values(schema: Schema, query: Query) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The parameters as text, and the errors of those that are no single text."""
    single: dict[str, str] = {}
    errors: dict[str, list[str]] = {}
    for name, field in schema.fields.items():
        values = query.get(name, ())
        if isinstance(field, FileTypes):
            values = [b",".join(values)] if values else ()
            if any(other.startswith(f"{name}[") for other in query):  # As some HTTP libraries send a list.
                errors[name] = [_NO_BRACKETS]
                continue
        try:
            if values:
                single[name] = values[0].decode("utf-8")
        except UnicodeDecodeError:
            errors[name] = ["Must be valid UTF-8."]
        if len(values) > 1:
            errors[name] = ["Must be given only once."]
    return single, errors


def _first_message(schema: Schema, errors: Mapping[str, Sequence[str]], *, missing: bool) -> str:
    if missing:
        return "submission_id is required"
    name = next(name for name in schema.fields if name in errors)
    return f"{name}: {errors[name][0]}"


def _preferred_wait(headers: Sequence[str]) -> float | None:
    """The seconds of the first `wait` preference (RFC 7240); None where there is none that makes sense."""
    for preference in chain.from_iterable(map(_PREFERENCE.findall, headers)):
        if preference.split("=")[0].strip().lower() == "wait":
            match = _WAIT_PREFERENCE.fullmatch(preference)
            return float(match[2]) or None if match else None
    return None


class DecimalId(fields.Field[int]):
    """An id as plain ASCII decimal digits, 0 < id < 2^63."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        # The length is checked first: Python refuses to convert thousands of digits.
        digits = value.lstrip("0") if _DIGITS.fullmatch(value) else ""
        if not digits or len(digits) > len(str(LARGEST_ID)) or int(digits) > LARGEST_ID:
            raise ValidationError(f"Must be an integer from 1 to {LARGEST_ID}.")
        return int(digits)


class Flag(fields.Field[bool]):
    """`true`, `false`, `1` or `0`, in any case."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if value.lower() not in ("true", "false", "1", "0"):
            raise ValidationError("Must be true or false.")
        return value.lower() in ("true", "1")


class Seconds(fields.Field[float]):
    """A number of seconds greater than 0, as plain ASCII decimal digits with an optional fraction."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> float:
        if not _DECIMAL.fullmatch(value) or not float(value) > 0:
            raise ValidationError("Must be a number of seconds greater than 0.")
        return float(value)


class FileTypes(fields.Field[tuple[str, ...]]):
    """One or more file types, each once, separated by commas."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> tuple[str, ...]:
        file_types = tuple(value.split(","))
        if not set(file_types) <= set(FILE_TYPES):
            raise ValidationError(_WRONG_FILE_TYPE)
        if len(set(file_types)) < len(file_types):
            raise ValidationError("Must name each file only once.")
        return file_types


_MISSING_FILE_TYPE: Final[dict[str, str | list[Any] | dict[Any, Any]]] = {"required": _WRONG_FILE_TYPE}
_TIMEOUT: Final = {
    "description": "The longest hold, in seconds, without sign or exponent. It has an effect only with `wait`. "
    "The server's maximum applies where it is smaller.",
    "type": "number",
    "exclusiveMinimum": 0,
    "examples": [25],
}


class _Query(Schema):
    """The parameters of both routes."""

    submission_id = DecimalId(
        required=True,
        metadata={
            "description": "Id of the submission, in plain ASCII decimal digits.",
            "type": "integer",
            "format": "int64",
            "minimum": 1,
            "maximum": LARGEST_ID,
            "examples": [123],
        },
    )


class GenerationStatusQuery(_Query):
    """The query of `GET /v1/check_generation_status/`. Each value is the text that the caller sent."""

    file_type = fields.String(
        required=True,
        validate=validate.OneOf(FILE_TYPES, error=_WRONG_FILE_TYPE),
        error_messages=_MISSING_FILE_TYPE,
        metadata={"description": "The requested file.", "examples": ["D1"]},
    )
    wait = Flag(
        metadata={
            "description": "Hold the request while the status is `waiting`. Case does not matter. `1` means `true`, "
            "and `0` means `false`.",
            "type": "boolean",
            "examples": [True],
        }
    )
    timeout = Seconds(metadata=_TIMEOUT)


class GenerationStatusesQuery(_Query):
    """The query of `GET /v1/generation_statuses/`. Each value is the text that the caller sent."""

    file_type = FileTypes(required=True, error_messages=_MISSING_FILE_TYPE)
    wait = fields.String(
        validate=validate.OneOf(["all", "any"], error="Must be all or any"),
        metadata={
            "description": "Hold the request until none of the files is `waiting` (`all`), or until the first of those "
            "that were has left it (`any`); `any` with `If-None-Match`: until anything differs from that answer.",
            "examples": ["all"],
        },
    )
    timeout = Seconds(metadata=_TIMEOUT)


_QUERY: Final = GenerationStatusQuery(unknown="exclude")
_QUERY_OF_SEVERAL: Final = GenerationStatusesQuery(unknown="exclude")
