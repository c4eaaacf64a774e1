"""The kinds of parameters, each with what it takes. Every value comes as the text that the caller sent."""

import re
from collections.abc import Mapping
from typing import Any, Final

from marshmallow import ValidationError, fields

from genstatus_server.model.jobs import FILE_TYPES, LARGEST_ID

WRONG_FILE_TYPE: Final = "Must be either D1, D2, E or F"

_DIGITS: Final = re.compile(r"[0-9]+", re.ASCII)
_DECIMAL: Final = re.compile(r"[0-9]+(\.[0-9]+)?|\.[0-9]+", re.ASCII)


class DecimalId(fields.Field[int]):
    """An id as plain ASCII decimal digits, 0 < id < 2^63."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        # The length is looked at first: Python refuses to convert thousands of digits, and should not have to.
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
            raise ValidationError(WRONG_FILE_TYPE)
        if len(set(file_types)) < len(file_types):
            raise ValidationError("Must name each file only once.")
        return file_types
