"""What JSON Schema cannot say of a request, for the generator: which submissions exist, and how numbers are written."""

import contextlib
import re
from typing import Any

import schemathesis

_LARGEST_ID = 2**63 - 1
_DIGITS = re.compile("[0-9]{1,19}", re.ASCII)


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """Every id that could exist becomes one that does, and seconds are plain digits, without an exponent.

    They are one at the least: within less, a busy machine may not have read the job, and answers 503 as it should.
    """
    query = case.query or {}
    submission_id = str(query.get("submission_id"))
    if _DIGITS.fullmatch(submission_id) and 0 < int(submission_id) <= _LARGEST_ID:
        query["submission_id"] = 1
    timeout = str(query.get("timeout"))
    with contextlib.suppress(ValueError):
        if repr(float(timeout)) == timeout and float(timeout) > 0:
            query["timeout"] = f"{max(float(timeout), 1.0):f}"
