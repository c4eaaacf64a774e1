"""The query parameters of both routes: their types, their rules and their descriptions."""

import re
from collections.abc import Mapping
from typing import Any, Final

from marshmallow import Schema, ValidationError, fields, validate

from genstatus_server.model.jobs import FILE_TYPES, LARGEST_ID

_WRONG_FILE_TYPE: Final = "Must be either D1, D2, E or F"

_DIGITS: Final = re.compile(r"[0-9]+", re.ASCII)
_DECIMAL: Final = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+", re.ASCII)


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
