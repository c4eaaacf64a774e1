"""How much the suite does, and how much time it gives: a quick selection of it all, or with FAULTS=full the whole."""

import os
from collections.abc import Callable
from typing import Final

FULL: Final = os.environ.get("FAULTS", "").lower() == "full"
#: A machine that is busy with other things may take this many times as long as was promised. With 1 it is exact.
SLACK: Final = float(os.environ.get("FAULTS_SLACK") or 4)
#: Seconds that anything may take in a quick run, which has other tests beside it and says nothing of times. They are
#: fewer than a hold lasts, so that no answer counts that has come at the end of its hold.
BUSY_SECONDS: Final = 0 if FULL or "FAULTS_SLACK" in os.environ else 80


def allowed(seconds: float) -> float:
    """The number of seconds that may pass here for what is promised within `seconds`."""
    return max(seconds * SLACK, BUSY_SECONDS)


def scaled(quick: int, full: int) -> int:
    """A count, as it is in a quick run and as it is in a full one."""
    return full if FULL else quick


class Figures:
    """What a test has measured; it is printed when all are done."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def note(self, what: str, value: object) -> None:
        self._record(what, value)

    def within(self, what: str, seconds: float, limit: float) -> None:
        """Note the seconds that something took, and fail where they are more than is allowed for `limit`."""
        self._record(f"s, {what} (at most {limit:g})", f"{seconds:.2f}")
        assert seconds <= allowed(limit), f"{what}: {seconds:.2f} s, with {limit:g} s promised"
