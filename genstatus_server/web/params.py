"""The parameters of a request: what each means, and how they are checked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, cast

from marshmallow import Schema, ValidationError, fields, validate

from genstatus_server.model.errors import InvalidRequest
from genstatus_server.model.jobs import FILE_TYPES, LARGEST_ID
from genstatus_server.web.fields import WRONG_FILE_TYPE, DecimalId, FileTypes, Flag, Seconds

#: One preference with its parameters. A quoted text may have commas in it; one that is not closed ends with its header,
#: so that whatever is sent is read once.
_PREFERENCE: Final = re.compile(r'(?:"(?:[^"\\]|\\.?)*(?:"|\Z)|[^",])+', re.DOTALL)
_WAIT_PREFERENCE: Final = re.compile(r'\s*wait\s*=\s*("?)([0-9]+)\1\s*(;.*)?', re.ASCII | re.IGNORECASE)

_MISSING_FILE_TYPE: Final[dict[str, str | list[Any] | dict[Any, Any]]] = {"required": WRONG_FILE_TYPE}

_NO_BRACKETS: Final = "Must be sent as file_type=D1,D2 or as file_type=D1&file_type=D2, without brackets."


class _Query(Schema):
    """What both routes take."""

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
        validate=validate.OneOf(FILE_TYPES, error=WRONG_FILE_TYPE),
        error_messages=_MISSING_FILE_TYPE,
        metadata={"description": "The file that is asked for.", "examples": ["D1"]},
    )
    wait = Flag(
        metadata={
            "description": "Hold the request while the status is `waiting`. `1` and `0` mean the same, in any case.",
            "type": "boolean",
            "examples": [True],
        }
    )
    timeout = Seconds(
        metadata={
            "description": "The longest hold, in seconds, without sign or exponent; only matters with `wait`. "
            "More than the server's maximum is cut to that maximum.",
            "type": "number",
            "exclusiveMinimum": 0,
            "examples": [25],
        }
    )


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
    timeout = Seconds(
        metadata={
            "description": "The longest hold, in seconds, without sign or exponent; only matters with `wait`. "
            "More than the server's maximum is cut to that maximum.",
            "type": "number",
            "exclusiveMinimum": 0,
            "examples": [25],
        }
    )


_QUERY: Final = GenerationStatusQuery(unknown="exclude")
_QUERY_OF_SEVERAL: Final = GenerationStatusesQuery(unknown="exclude")


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """A valid request for one file. `timeout` is in seconds, None where the caller left it to the server.

    `preferred_wait` says that a `Prefer` header asked for the hold too, and is told the length in force.
    """

    submission_id: int
    file_type: str
    wait: bool
    timeout: float | None
    preferred_wait: bool

    @property
    def file_types(self) -> tuple[str, ...]:
        """As a request for several files has them."""
        return (self.file_type,)

    @property
    def any_file(self) -> bool:
        """As a request for several files has it."""
        return False


@dataclass(frozen=True, slots=True)
class StatusesRequest:
    """A valid request for several files. `any_file`: the first of them that leaves `waiting` ends the hold."""

    submission_id: int
    file_types: tuple[str, ...]
    wait: bool
    any_file: bool
    timeout: float | None
    preferred_wait: bool

    @property
    def file_type(self) -> str:
        """As the log has it."""
        return ",".join(self.file_types)


def load_request(query: Mapping[str, Sequence[bytes]], prefer: Sequence[str]) -> StatusRequest:
    """The request in `query` (the values of each parameter as raw bytes) and the values of its `Prefer` headers.

    Raises `InvalidRequest`.
    """
    loaded = _load(_QUERY, query)
    preferred = _preferred_wait(prefer)
    wait = loaded.get("wait", preferred is not None)
    return StatusRequest(
        submission_id=loaded["submission_id"],
        file_type=loaded["file_type"],
        wait=wait,
        timeout=loaded.get("timeout", preferred),
        preferred_wait=wait and preferred is not None,
    )


def load_request_for_several(query: Mapping[str, Sequence[bytes]], prefer: Sequence[str]) -> StatusesRequest:
    """The same for several files; `Prefer: wait=N` asks for all of them. Raises `InvalidRequest`."""
    loaded = _load(_QUERY_OF_SEVERAL, query)
    preferred = _preferred_wait(prefer)
    return StatusesRequest(
        submission_id=loaded["submission_id"],
        file_types=loaded["file_type"],
        wait="wait" in loaded or preferred is not None,
        any_file=loaded.get("wait") == "any",
        timeout=loaded.get("timeout", preferred),
        preferred_wait=preferred is not None,
    )


def asks_to_wait(query: Mapping[str, Sequence[bytes]], prefer: Sequence[str]) -> bool:
    """Whether a request, of either route, asks to be held, whatever else is wrong with it."""
    if "wait" in query:
        return [value.lower() for value in query["wait"]] in ([b"true"], [b"1"], [b"all"], [b"any"])
    return _preferred_wait(prefer) is not None


def _load(schema: Schema, query: Mapping[str, Sequence[bytes]]) -> dict[str, Any]:
    single, errors = _single_values(schema, query)
    loaded: dict[str, Any] = {}
    try:
        loaded = cast("dict[str, Any]", schema.load(single))
    except ValidationError as error:
        errors = {**cast("dict[str, list[str]]", error.messages), **errors}
    if errors:
        raise InvalidRequest(_first_message(schema, errors, missing=not query.get("submission_id")), errors)
    return loaded


def _single_values(schema: Schema, query: Mapping[str, Sequence[bytes]]) -> tuple[dict[str, str], dict[str, list[str]]]:
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
